//! The loop that runs a warp.

use super::Step;
use super::alu::{bfe, bfi, blend32, blend64, find};
use super::block::{Block, Pause};
use super::mma::mma;
use super::number::{self as n, Conversion};
use super::warp::{Group, State, Warp};
use crate::ptx::ir::{Bool, Class, Code, K32, Kernel, Num, Op, Round};

fn special(k: K32) -> bool {
    matches!(
        k,
        K32::FRcpApprox
            | K32::FSqrtApprox
            | K32::FRsqrtApprox
            | K32::FSin
            | K32::FCos
            | K32::FLg2
            | K32::FEx2
            | K32::FTanh
            | K32::FDivApprox
            | K32::FDivFull
            | K32::HalfTanh(_)
            | K32::HalfEx2(_)
    )
}

/// Marks the registers that an instruction defines, and those that it moves what is undefined into.
#[inline(always)]
fn mark(kernel: &Kernel, code: &Code, warp: &mut Warp, mask: u32) {
    for pair in kernel.checks[code.marks.0 as usize..][..code.marks.1 as usize].chunks(2) {
        let from = if pair[1] == u32::MAX { u32::MAX } else { warp.defined[pair[1] as usize] };
        let to = &mut warp.defined[pair[0] as usize];
        *to = *to & !mask | from & mask;
    }
}

impl Block<'_> {
    /// Runs a warp until it waits, ends, or has run `turn` instructions.
    pub fn run(&mut self, warp: &mut Warp, turn: u64) -> Step<Pause> {
        let launch = self.launch;
        let kernel = launch.kernel;
        let mut left = turn;
        let (mut count, mut lanes) = (0u64, 0u64);
        let result = loop {
            if warp.mask == 0 || !warp.rest.is_empty() {
                match self.select(warp) {
                    Ok(true) => {}
                    Ok(false) => break Ok(Pause::Done),
                    Err(fault) => break Err(fault),
                }
            }
            if left == 0 {
                break Ok(Pause::Turn);
            }
            left -= 1;
            let code: &Code = &kernel.code[warp.pc as usize];
            let mask = match code.guard {
                None => warp.mask,
                Some((p, negated)) => {
                    let p = warp.planes.pred[p as usize];
                    warp.mask & if negated { !p } else { p }
                }
            };
            if code.counted {
                count += 1;
                lanes += u64::from(mask.count_ones());
            }
            if code.guard_check != u32::MAX {
                self.defined(warp, code.guard_check, warp.mask)?;
            }
            // A product that is added to nothing does not read its accumulators.
            let fresh = code.checks.1 != 0 && warp.overwrites(&code.op);
            if fresh {
                mark(kernel, code, warp, mask);
            }
            for &tracked in &kernel.checks[code.checks.0 as usize..][..code.checks.1 as usize] {
                self.defined(warp, tracked, mask)?;
            }
            if code.marks.1 != 0 && !fresh {
                mark(kernel, code, warp, mask);
            }
            if code.held.1 != 0 && mask != 0 {
                self.held(warp, code, mask)?;
            }
            // Control flow, and what needs all its lanes at one place.
            match &code.op {
                Op::Jump { to } => {
                    self.branch(warp, mask, *to);
                    continue;
                }
                Op::JumpTable { index, to } => {
                    let index = warp.planes.r32[*index as usize];
                    let others = warp.mask & !mask;
                    let pc = warp.pc;
                    for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
                        let Some(&to) = to.get(index[lane] as usize) else {
                            return Err(self.fault(
                                719,
                                warp,
                                lane,
                                format!("branch {} of a table of {}", index[lane], to.len()),
                            ));
                        };
                        warp.rest.push(Group { pc: to, mask: 1 << lane, parked: false });
                    }
                    (warp.mask, warp.pc) = (others, pc + 1);
                    continue;
                }
                Op::Exit => {
                    self.nothing_in_flight(warp, mask)?;
                    warp.exited |= mask;
                    warp.mask &= !mask;
                    warp.pc += 1;
                    continue;
                }
                Op::Trap { what } if mask != 0 => {
                    break Err(self.fault(719, warp, mask.trailing_zeros() as usize, what.clone()));
                }
                _ => {}
            }
            if mask == 0 {
                warp.pc += 1;
                continue;
            }
            if let Some(members) = self.members(warp, &code.op, mask) {
                if members & !mask != 0 {
                    // Wait for the rest; whoever's predicate is false goes on.
                    let others = warp.mask & !mask;
                    warp.rest.push(Group { pc: warp.pc, mask, parked: true });
                    (warp.mask, warp.pc) = (others, warp.pc + 1);
                    continue;
                }
                if let Op::Barrier { .. } = &code.op {
                    match self.arrive(warp, &code.op, mask) {
                        Ok(None) => continue,
                        Ok(Some(pause)) => break Ok(pause),
                        Err(fault) => break Err(fault),
                    }
                }
            }
            if let Err(fault) = self.execute(warp, code, mask) {
                break Err(fault);
            }
            warp.pc += 1;
            if std::mem::take(&mut self.yields) {
                break Ok(Pause::Turn);
            }
        };
        self.counters.instructions += count;
        self.counters.lane_instructions += lanes;
        warp.instructions += count;
        if matches!(result, Ok(Pause::Done)) {
            warp.state = State::Done;
            let most = &mut self.counters;
            most.most_instructions = most.most_instructions.max(warp.instructions);
            most.most_trips = most.most_trips.max(warp.trips);
        }
        result
    }

    #[inline(always)]
    fn defined(&self, warp: &Warp, tracked: u32, mask: u32) -> Step {
        let missing = mask & !warp.defined[tracked as usize];
        if missing == 0 {
            return Ok(());
        }
        let lane = missing.trailing_zeros() as usize;
        Err(self.fault(719, warp, lane, "reads a register that was never written (uninitialised)".to_owned()))
    }

    fn branch(&mut self, warp: &mut Warp, taken: u32, to: u32) {
        if taken == warp.mask {
            warp.pc = to;
        } else if taken == 0 {
            warp.pc += 1;
        } else {
            warp.rest.push(Group { pc: to, mask: taken, parked: false });
            warp.mask &= !taken;
            warp.pc += 1;
        }
    }

    /// Chooses the lanes that run next: the lowest program counter first, joined with all that are there.
    fn select(&mut self, warp: &mut Warp) -> Step<bool> {
        if warp.mask != 0 {
            let (pc, mask) = (warp.pc, warp.mask);
            warp.rest.push(Group { pc, mask, parked: false });
            warp.mask = 0;
        }
        if warp.rest.is_empty() {
            return Ok(false);
        }
        // Join those at the same place; who waits there tries again.
        let mut at = 0;
        while at < warp.rest.len() {
            let mut other = at + 1;
            while other < warp.rest.len() {
                if warp.rest[other].pc == warp.rest[at].pc {
                    let joined = warp.rest.swap_remove(other);
                    warp.rest[at].mask |= joined.mask;
                    warp.rest[at].parked = false;
                } else {
                    other += 1;
                }
            }
            at += 1;
        }
        let best = (0..warp.rest.len()).filter(|&g| !warp.rest[g].parked).min_by_key(|&g| warp.rest[g].pc);
        let Some(best) = best else {
            // Lanes may have ended since: a barrier asks only for those that are left.
            let again = warp.rest.iter().position(|g| {
                let op = &self.launch.kernel.code[g.pc as usize].op;
                self.members(warp, op, g.mask).is_some_and(|m| m & !g.mask == 0)
            });
            if let Some(best) = again {
                let group = warp.rest.swap_remove(best);
                (warp.pc, warp.mask) = (group.pc, group.mask);
                return Ok(true);
            }
            let group = warp.rest[0];
            warp.pc = group.pc;
            let op = &self.launch.kernel.code[group.pc as usize].op;
            let members = self.members(warp, op, group.mask).unwrap_or(0);
            let missing = members & !group.mask;
            let elsewhere = match warp.rest.iter().find(|g| g.mask & missing != 0) {
                Some(g) => format!("wait at line {}", self.launch.kernel.code[g.pc as usize].line),
                None => "have ended".to_owned(),
            };
            let barrier = if matches!(op, Op::Barrier { .. }) {
                "barrier not reached by all threads of a warp"
            } else {
                "deadlock in a warp"
            };
            return Err(self.fault(
                719,
                warp,
                group.mask.trailing_zeros() as usize,
                format!(
                    "{barrier}: lanes {:#010x} wait here for lanes {missing:#010x}, which {elsewhere}",
                    group.mask
                ),
            ));
        };
        let group = warp.rest.swap_remove(best);
        (warp.pc, warp.mask) = (group.pc, group.mask);
        Ok(true)
    }

    #[inline(always)]
    fn execute(&mut self, warp: &mut Warp, code: &Code, mask: u32) -> Step {
        warp.trips += u64::from(code.trip);
        let planes = &mut warp.planes;
        match &code.op {
            Op::A32 { k, ftz, sat, d, s } => {
                planes.a32(*k, *ftz, *sat, *d, *s, mask);
                if special(*k) {
                    self.counters.special += u64::from(mask.count_ones());
                }
            }
            Op::A64 { k, d, s } => planes.a64(*k, *d, *s, mask),
            Op::Wide { signed, d, a, b, c } => {
                let (a, b, c) =
                    (&planes.r32[*a as usize], &planes.r32[*b as usize], &planes.r64[*c as usize]);
                let mut out = [0; 32];
                for lane in 0..32 {
                    let product = if *signed {
                        (i64::from(a[lane] as i32) * i64::from(b[lane] as i32)) as u64
                    } else {
                        u64::from(a[lane]) * u64::from(b[lane])
                    };
                    out[lane] = product.wrapping_add(c[lane]);
                }
                blend64(&mut planes.r64[*d as usize], &out, mask);
            }
            Op::Shift64 { left, signed, d, a, b } => {
                let (a, b) = (&planes.r64[*a as usize], &planes.r32[*b as usize]);
                let mut out = [0; 32];
                for lane in 0..32 {
                    let (v, by) = (a[lane], b[lane]);
                    out[lane] = match (*left, *signed) {
                        (true, _) if by > 63 => 0,
                        (true, _) => v << by,
                        (false, true) => (v as i64 >> by.min(63)) as u64,
                        (false, false) if by > 63 => 0,
                        (false, false) => v >> by,
                    };
                }
                blend64(&mut planes.r64[*d as usize], &out, mask);
            }
            Op::Bits64 { k, d, a } => {
                let a = &planes.r64[*a as usize];
                let out = std::array::from_fn(|lane| match k {
                    K32::Popc => a[lane].count_ones(),
                    K32::Clz => a[lane].leading_zeros(),
                    K32::BfindU => find(a[lane], false),
                    K32::BfindS => find(a[lane] ^ (a[lane] as i64 >> 63) as u64, false),
                    K32::BfindShiftS if a[lane] as i64 == -1 => u32::MAX,
                    K32::BfindShiftS => (a[lane] ^ (a[lane] as i64 >> 63) as u64).leading_zeros(),
                    _ if a[lane] == 0 => u32::MAX,
                    _ => a[lane].leading_zeros(),
                });
                blend32(&mut planes.r32[*d as usize], &out, mask);
            }
            Op::Bfe64 { signed, d, a, b, c } => {
                let out = std::array::from_fn(|lane| {
                    bfe(
                        planes.r64[*a as usize][lane],
                        planes.r32[*b as usize][lane],
                        planes.r32[*c as usize][lane],
                        *signed,
                        64,
                    )
                });
                blend64(&mut planes.r64[*d as usize], &out, mask);
            }
            Op::Bfi32 { d, a, b, c, e } => {
                let r = |slot: &u32, lane: usize| planes.r32[*slot as usize][lane];
                let out = std::array::from_fn(|lane| {
                    bfi(u64::from(r(a, lane)), u64::from(r(b, lane)), r(c, lane), r(e, lane), 32) as u32
                });
                blend32(&mut planes.r32[*d as usize], &out, mask);
            }
            Op::Bfi64 { d, a, b, c, e } => {
                let out = std::array::from_fn(|lane| {
                    bfi(
                        planes.r64[*a as usize][lane],
                        planes.r64[*b as usize][lane],
                        planes.r32[*c as usize][lane],
                        planes.r32[*e as usize][lane],
                        64,
                    )
                });
                blend64(&mut planes.r64[*d as usize], &out, mask);
            }
            Op::Cvt { d, a, to, from, round, to_integer, ftz, sat, relu } => {
                let c = Conversion {
                    to: *to,
                    from: *from,
                    round: *round,
                    integral: *to_integer,
                    ftz: *ftz,
                    sat: *sat,
                    relu: *relu,
                };
                self.cvt(warp, *d, *a, c, mask);
            }
            Op::CvtPack { d, hi, lo, to, round, relu } => {
                let (hi, lo) = (&planes.r32[*hi as usize], &planes.r32[*lo as usize]);
                let fix = |x: u32| if *relu && f32::from_bits(x) < 0.0 { 0.0 } else { f32::from_bits(x) };
                let out = if *to == Num::BF16x2 && *round == Round::Nearest {
                    std::array::from_fn(|l| n::to_bf16(fix(lo[l])) | n::to_bf16(fix(hi[l])) << 16)
                } else if *to == Num::BF16x2 {
                    std::array::from_fn(|l| {
                        let one = |x: u32| n::to_bf16_rounded(f64::from(fix(x)), *round);
                        one(lo[l]) | one(hi[l]) << 16
                    })
                } else {
                    std::array::from_fn(|l| {
                        let one = |x: u32| n::to_f16(f64::from(fix(x)), *round);
                        one(lo[l]) | one(hi[l]) << 16
                    })
                };
                blend32(&mut planes.r32[*d as usize], &out, mask);
            }
            Op::Pack16 { d, lo, hi } => {
                let (lo, hi) = (&planes.r32[*lo as usize], &planes.r32[*hi as usize]);
                let out = std::array::from_fn(|l| lo[l] & 0xffff | hi[l] << 16);
                blend32(&mut planes.r32[*d as usize], &out, mask);
            }
            Op::Split16 { lo, hi, a } => {
                let a = planes.r32[*a as usize];
                blend32(&mut planes.r32[*lo as usize], &a.map(|v| v & 0xffff), mask);
                blend32(&mut planes.r32[*hi as usize], &a.map(|v| v >> 16), mask);
            }
            Op::Pack32 { d, lo, hi } => {
                let (lo, hi) = (&planes.r32[*lo as usize], &planes.r32[*hi as usize]);
                let out = std::array::from_fn(|l| u64::from(lo[l]) | u64::from(hi[l]) << 32);
                blend64(&mut planes.r64[*d as usize], &out, mask);
            }
            Op::Split32 { lo, hi, a } => {
                let a = planes.r64[*a as usize];
                blend32(&mut planes.r32[*lo as usize], &a.map(|v| v as u32), mask);
                blend32(&mut planes.r32[*hi as usize], &a.map(|v| (v >> 32) as u32), mask);
            }
            Op::Setp { cmp, num, ftz, d, other, a, b, join } => {
                let plain = planes.compare(*cmp, *num, *ftz, *a, *b);
                let (mut yes, mut no) = (plain, !plain);
                if let Some((kind, p, negated)) = join {
                    let p = planes.pred[*p as usize] ^ if *negated { u32::MAX } else { 0 };
                    let join = |x: u32| match kind {
                        Bool::And => x & p,
                        Bool::Or => x | p,
                        _ => x ^ p,
                    };
                    (yes, no) = (join(yes), join(no));
                }
                let old = planes.pred[*d as usize];
                planes.pred[*d as usize] = old & !mask | yes & mask;
                if let Some(other) = other {
                    let old = planes.pred[*other as usize];
                    planes.pred[*other as usize] = old & !mask | no & mask;
                }
            }
            Op::Select { class, d, a, b, p } => {
                let p = planes.pred[*p as usize];
                if *class == Class::R64 {
                    let mut out = planes.r64[*b as usize];
                    let a = planes.r64[*a as usize];
                    blend64(&mut out, &a, p);
                    blend64(&mut planes.r64[*d as usize], &out, mask);
                } else {
                    let mut out = planes.r32[*b as usize];
                    let a = planes.r32[*a as usize];
                    blend32(&mut out, &a, p);
                    blend32(&mut planes.r32[*d as usize], &out, mask);
                }
            }
            Op::Pred { k, d, a, b, not_a, not_b } => {
                let flip = |v: u32, not: bool| if not { !v } else { v };
                let a = flip(planes.pred[*a as usize], *not_a);
                let b = flip(planes.pred[*b as usize], *not_b);
                let out = match k {
                    Bool::And => a & b,
                    Bool::Or => a | b,
                    Bool::Xor => a ^ b,
                    Bool::Not => !a,
                    Bool::Mov => a,
                };
                let old = planes.pred[*d as usize];
                planes.pred[*d as usize] = old & !mask | out & mask;
            }
            Op::PredConst { d, value } => {
                let old = planes.pred[*d as usize];
                planes.pred[*d as usize] = old & !mask | if *value { mask } else { 0 };
            }
            Op::Param { num, d, offset } => {
                let params = &self.launch.params;
                let at = *offset as usize;
                let mut bytes = [0; 8];
                bytes[..num.size()].copy_from_slice(&params[at..at + num.size()]);
                let value = u64::from_le_bytes(bytes);
                match num.size() {
                    8 => blend64(&mut planes.r64[*d as usize], &[value; 32], mask),
                    size => {
                        let value = match (size, num.signed()) {
                            (1, true) => value as i8 as i32 as u32,
                            (2, true) => value as i16 as i32 as u32,
                            _ => value as u32,
                        };
                        blend32(&mut planes.r32[*d as usize], &[value; 32], mask);
                    }
                }
            }
            Op::Load { space, num, lanes, d, address, order } => {
                return self.load(warp, mask, *space, *num, *lanes as usize, *d, *address, *order);
            }
            Op::Store { space, num, lanes, s, address, order } => {
                return self.store(warp, mask, *space, *num, *lanes as usize, *s, *address, *order);
            }
            Op::Atomic { space, op, num, d, address, b, c, order } => {
                return self.atomic(warp, mask, *space, *op, *num, *d, *address, *b, *c, *order);
            }
            Op::CpAsync { to, from, size, source, skip } => {
                return self.copy_async(warp, mask, *to, *from, *size as usize, *source, *skip);
            }
            Op::CpAsyncCommit => {
                for lane in 0..32 {
                    warp.groups[lane] += mask >> lane & 1;
                }
            }
            Op::CpAsyncWait { keep, all } => return self.wait_copies(warp, mask, *keep, *all),
            Op::LdMatrix { d, count, trans, address } => {
                return self.load_matrix(warp, *d, *count as usize, *trans, *address);
            }
            Op::Mma { half, k16, d, a, b, c } => {
                let r = |slot: u32| &planes.r32[slot as usize];
                let a = [r(a[0]), r(a[1]), r(a[2]), r(a[3])];
                let b = [r(b[0]), r(b[1])];
                let (a, b) = if *k16 { (&a[..], &b[..]) } else { (&a[..2], &b[..1]) };
                let out = mma(*half, a, b, [r(c[0]), r(c[1]), r(c[2]), r(c[3])]);
                for (d, out) in d.iter().zip(out) {
                    planes.r32[*d as usize] = out;
                }
                self.counters.mma_halves += if *k16 { 2 } else { 1 };
            }
            Op::Wgmma { half, d, a, b, adds, trans } => {
                return self.begin_product(warp, *half, d, [*a, *b], *adds, *trans);
            }
            Op::WgmmaFence => warp.products.fence(),
            Op::WgmmaCommit => warp.products.commit(),
            Op::WgmmaWait { keep } => return self.wait_products(warp, *keep),
            Op::ProxyFence => {
                let clocks = warp.clocks.as_ref().expect("a warp at work has clocks");
                self.shared.fence(warp.index, clocks.seen[warp.index], mask);
            }
            Op::ActiveMask { d } => blend32(&mut planes.r32[*d as usize], &[mask; 32], mask),
            Op::Clock { d, wide } => {
                let now = self.counters.instructions;
                if *wide {
                    blend64(&mut planes.r64[*d as usize], &[now; 32], mask);
                } else {
                    blend32(&mut planes.r32[*d as usize], &[now as u32; 32], mask);
                }
            }
            Op::Fence => self.fence(warp),
            op @ (Op::Shfl { .. }
            | Op::Vote { .. }
            | Op::Match { .. }
            | Op::Redux { .. }
            | Op::WarpBarrier { .. }) => {
                return self.warp_wide(warp, op, mask);
            }
            Op::Yield => self.yields = true,
            Op::Depend => warp.early = None,
            Op::Nop
            | Op::Barrier { .. }
            | Op::Jump { .. }
            | Op::JumpTable { .. }
            | Op::Exit
            | Op::Trap { .. } => {}
        }
        Ok(())
    }

    fn cvt(&mut self, warp: &mut Warp, d: u32, a: u32, c: Conversion, mask: u32) {
        let planes = &mut warp.planes;
        let plain = !c.sat && !c.ftz && !c.relu;
        match (c.to, c.from) {
            (Num::S64 | Num::U64, Num::S32) if plain => {
                let out = planes.r32[a as usize].map(|v| v as i32 as i64 as u64);
                blend64(&mut planes.r64[d as usize], &out, mask);
            }
            (Num::S64 | Num::U64, Num::U32) if plain => {
                let out = planes.r32[a as usize].map(u64::from);
                blend64(&mut planes.r64[d as usize], &out, mask);
            }
            (Num::S32 | Num::U32, Num::S64 | Num::U64) if plain => {
                let out = planes.r64[a as usize].map(|v| v as u32);
                blend32(&mut planes.r32[d as usize], &out, mask);
            }
            (Num::S16 | Num::U16, Num::S32 | Num::U32) if plain => {
                let out = planes.r32[a as usize].map(|v| v & 0xffff);
                blend32(&mut planes.r32[d as usize], &out, mask);
            }
            (Num::S32 | Num::U32, Num::U16) if plain => {
                let out = planes.r32[a as usize].map(|v| v & 0xffff);
                blend32(&mut planes.r32[d as usize], &out, mask);
            }
            (Num::F32, Num::BF16) if plain => {
                let out = planes.r32[a as usize].map(|v| n::bf16(v).to_bits());
                blend32(&mut planes.r32[d as usize], &out, mask);
            }
            (Num::F32, Num::F16) if plain => {
                let out = planes.r32[a as usize].map(|v| n::canonical(n::f16(v & 0xffff)).to_bits());
                blend32(&mut planes.r32[d as usize], &out, mask);
            }
            (Num::BF16, Num::F32) if plain && c.round == Round::Nearest => {
                let out = planes.r32[a as usize].map(|v| n::to_bf16(f32::from_bits(v)));
                blend32(&mut planes.r32[d as usize], &out, mask);
            }
            (Num::F32, Num::S32) if plain && c.round == Round::Nearest => {
                let out = planes.r32[a as usize].map(|v| (v as i32 as f32).to_bits());
                blend32(&mut planes.r32[d as usize], &out, mask);
            }
            (Num::F32, Num::U32) if plain && c.round == Round::Nearest => {
                let out = planes.r32[a as usize].map(|v| (v as f32).to_bits());
                blend32(&mut planes.r32[d as usize], &out, mask);
            }
            _ => {
                let value = |lane: usize| {
                    let bits = match c.from.class() {
                        Class::R64 => planes.r64[a as usize][lane],
                        _ => u64::from(planes.r32[a as usize][lane]),
                    };
                    n::convert(bits, c)
                };
                if c.to.class() == Class::R64 {
                    let out = std::array::from_fn(value);
                    blend64(&mut planes.r64[d as usize], &out, mask);
                } else {
                    let out = std::array::from_fn(|l| value(l) as u32);
                    blend32(&mut planes.r32[d as usize], &out, mask);
                }
            }
        }
    }
}
