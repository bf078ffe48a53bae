//! Warp-wide operations, barriers, and the end of asynchronous copies.

use super::Step;
use super::access::lanes;
use super::alu::blend32;
use super::block::{Block, Pause};
use super::shared::{Act, Who};
use super::warp::{State, Warp};
use crate::ptx::ir::{AtomicOp, BarKind, Op, ShflMode, Slot, VoteMode};

/// The register in which a lane names those that must be there with it.
fn member_slot(op: &Op) -> Option<Slot> {
    match op {
        Op::Shfl { members, .. }
        | Op::Vote { members, .. }
        | Op::Match { members, .. }
        | Op::Redux { members, .. }
        | Op::WarpBarrier { members } => Some(*members),
        _ => None,
    }
}

impl Block<'_> {
    /// The lanes that must be at an operation together, if it is such a one: those that the lanes of `mask` name,
    /// each its own set where they name several.
    pub fn members(&self, warp: &Warp, op: &Op, mask: u32) -> Option<u32> {
        match op {
            Op::Mma { .. }
            | Op::LdMatrix { .. }
            | Op::Wgmma { .. }
            | Op::WgmmaFence
            | Op::WgmmaCommit
            | Op::WgmmaWait { .. } => Some(u32::MAX),
            Op::Barrier { .. } => Some(warp.lanes & !warp.exited),
            op => {
                let named = &warp.planes.r32[member_slot(op)? as usize];
                Some(lanes(mask).fold(0, |all, lane| all | named[lane]) & warp.lanes)
            }
        }
    }

    /// An operation whose lanes are all there: once for every set of lanes that was named.
    pub fn warp_wide(&mut self, warp: &mut Warp, op: &Op, mask: u32) -> Step {
        let named = warp.planes.r32[member_slot(op).unwrap_or(0) as usize];
        let mut left = mask;
        while left != 0 {
            let lane = left.trailing_zeros() as usize;
            let set = named[lane] & warp.lanes;
            if let Some(other) = lanes(set & mask).find(|&l| named[l] & warp.lanes != set) {
                let text = format!("names the lanes {set:#010x}, lane {other} names {:#010x}", named[other]);
                return Err(self.fault(719, warp, lane, text));
            }
            if set >> lane & 1 == 0 {
                let text = format!("names the lanes {set:#010x}, and is none of them");
                return Err(self.fault(719, warp, lane, text));
            }
            self.of_lanes(warp, op, set)?;
            left &= !set;
        }
        Ok(())
    }

    /// The same for one set of lanes.
    fn of_lanes(&mut self, warp: &mut Warp, op: &Op, mask: u32) -> Step {
        let planes = &mut warp.planes;
        match op {
            Op::Shfl { mode, d, p, a, b, c, .. } => {
                let source = planes.r32[*a as usize];
                let (bs, cs) = (planes.r32[*b as usize], planes.r32[*c as usize]);
                let (mut out, mut inside) = ([0; 32], 0u32);
                let mut bad = None;
                for lane in 0..32u32 {
                    if mask >> lane & 1 == 0 {
                        continue;
                    }
                    let (b, c) = (bs[lane as usize] & 31, cs[lane as usize]);
                    let (clamp, segment) = (c & 31, c >> 8 & 31);
                    let most = (lane & segment) | (clamp & !segment);
                    let least = lane & segment;
                    let (from, valid) = match mode {
                        ShflMode::Up => {
                            let j = lane as i32 - b as i32;
                            (j, j >= most as i32)
                        }
                        ShflMode::Down => {
                            let j = (lane + b) as i32;
                            (j, j <= most as i32)
                        }
                        ShflMode::Bfly => {
                            let j = (lane ^ b) as i32;
                            (j, j <= most as i32)
                        }
                        ShflMode::Idx => {
                            let j = (least | (b & !segment)) as i32;
                            (j, j <= most as i32)
                        }
                    };
                    let from = if valid { from as usize & 31 } else { lane as usize };
                    if mask >> from & 1 == 0 {
                        bad = Some((lane as usize, from));
                    }
                    inside |= u32::from(valid) << lane;
                    out[lane as usize] = source[from];
                }
                if let Some((lane, from)) = bad {
                    return Err(self.fault(
                        719,
                        warp,
                        lane,
                        format!("reads lane {from}, which takes no part in the shuffle"),
                    ));
                }
                blend32(&mut planes.r32[*d as usize], &out, mask);
                if let Some(p) = p {
                    let old = planes.pred[*p as usize];
                    planes.pred[*p as usize] = old & !mask | inside & mask;
                }
            }
            Op::Vote { mode, d, p, negated, .. } => {
                let votes =
                    (if *negated { !planes.pred[*p as usize] } else { planes.pred[*p as usize] }) & mask;
                let yes = match mode {
                    VoteMode::All => votes == mask,
                    VoteMode::Any => votes != 0,
                    VoteMode::Uni => votes == 0 || votes == mask,
                    VoteMode::Ballot => {
                        blend32(&mut planes.r32[*d as usize], &[votes; 32], mask);
                        return Ok(());
                    }
                };
                let old = planes.pred[*d as usize];
                planes.pred[*d as usize] = old & !mask | if yes { mask } else { 0 };
            }
            Op::Match { all, wide, d, p, a, .. } => {
                let value = |lane: usize| {
                    if *wide {
                        planes.r64[*a as usize][lane]
                    } else {
                        u64::from(planes.r32[*a as usize][lane])
                    }
                };
                let present = |lane: &usize| mask >> lane & 1 == 1;
                let mut out = [0; 32];
                for lane in (0..32).filter(present) {
                    out[lane] = (0..32)
                        .filter(present)
                        .fold(0, |m, other| m | u32::from(value(other) == value(lane)) << other);
                    if *all && out[lane] != mask {
                        out[lane] = 0;
                    }
                }
                let same = *all && out[mask.trailing_zeros() as usize] == mask;
                blend32(&mut planes.r32[*d as usize], &out, mask);
                if let Some(p) = p {
                    let old = planes.pred[*p as usize];
                    planes.pred[*p as usize] = old & !mask | if same { mask } else { 0 };
                }
            }
            Op::Redux { op, signed, d, a, .. } => {
                let values = planes.r32[*a as usize];
                let mut each = lanes(mask).map(|l| values[l]);
                let first = each.next().unwrap_or(0);
                let result = each.fold(first, |x, y| match (op, signed) {
                    (AtomicOp::Add, _) => x.wrapping_add(y),
                    (AtomicOp::Min, true) => (x as i32).min(y as i32) as u32,
                    (AtomicOp::Max, true) => (x as i32).max(y as i32) as u32,
                    (AtomicOp::Min, false) => x.min(y),
                    (AtomicOp::Max, false) => x.max(y),
                    (AtomicOp::And, _) => x & y,
                    (AtomicOp::Or, _) => x | y,
                    _ => x ^ y,
                });
                blend32(&mut planes.r32[*d as usize], &[result; 32], mask);
            }
            Op::WarpBarrier { .. } => {
                let index = warp.index;
                let clocks = warp.clocks.as_mut().expect("a warp at work has clocks");
                clocks.seen[index] += 1;
                clocks.settle(index);
            }
            _ => {}
        }
        Ok(())
    }

    /// A warp arrives at a barrier. `None`: it goes on.
    pub fn arrive(&mut self, warp: &mut Warp, op: &Op, mask: u32) -> Step<Option<Pause>> {
        let Op::Barrier { kind, id, count, p, negated, .. } = op else { return Ok(None) };
        let lane = mask.trailing_zeros() as usize;
        let id = warp.planes.r32[*id as usize][lane];
        if id > 15 {
            return Err(self.fault(719, warp, lane, format!("barrier {id}: there are 16")));
        }
        let threads = self.launch.threads();
        let (expected, own) = match count {
            Some(count) => {
                let count = warp.planes.r32[*count as usize][lane];
                if count == 0 || !count.is_multiple_of(32) || count > threads.next_multiple_of(32) {
                    return Err(self.fault(719, warp, lane, format!("a barrier of {count} threads")));
                }
                (count, 32)
            }
            None => (threads, mask.count_ones()),
        };
        self.counters.barriers += 1;
        let barrier = &mut self.barriers[id as usize];
        if barrier.threads == 0 {
            (barrier.expected, barrier.all) = (expected, true);
        } else if barrier.expected != expected {
            let before = barrier.expected;
            return Err(self.fault(
                719,
                warp,
                lane,
                format!("barrier {id} expects {before} threads here and {expected} there"),
            ));
        }
        if barrier.warps >> warp.index & 1 == 1 {
            return Err(self.fault(
                719,
                warp,
                lane,
                format!("arrives at barrier {id} a second time before it ends"),
            ));
        }
        barrier.warps |= 1 << warp.index;
        barrier.threads += own;
        if matches!(kind, BarKind::Popc | BarKind::And | BarKind::Or) {
            let yes = (if *negated { !warp.planes.pred[*p as usize] } else { warp.planes.pred[*p as usize] })
                & mask;
            barrier.count += yes.count_ones();
            barrier.all &= yes == mask;
        }
        if *kind == BarKind::Arrive {
            let full = barrier.threads >= barrier.expected;
            warp.pc += 1;
            // Whoever waits learns what was before, not what comes now.
            let clocks = warp.clocks.as_mut().expect("a warp at work has clocks");
            self.arrivals.push((id, clocks.seen.clone()));
            clocks.seen[warp.index] += 1;
            clocks.settle(warp.index);
            // The warp is out of the list while it runs: put off what needs it.
            if full {
                self.arrived_last = Some(id);
                return Ok(Some(Pause::Turn));
            }
            return Ok(None);
        }
        warp.state = State::Waiting(id);
        Ok(Some(Pause::Barrier))
    }

    /// Ends a thread's groups of copies but the `keep` newest; all copies, committed or not, if `all`.
    pub fn wait_copies(&mut self, warp: &mut Warp, mask: u32, keep: u32, all: bool) -> Step {
        self.counters.copy_waits += 1;
        let mut copies = std::mem::take(&mut warp.copies);
        let mut result = Ok(());
        for copy in &mut copies {
            let lanes = copy.mask & mask;
            for lane in 0..32 {
                if lanes >> lane & 1 == 0 {
                    continue;
                }
                let limit = if all { u32::MAX } else { warp.groups[lane].saturating_sub(keep) };
                if copy.group[lane] >= limit {
                    continue;
                }
                let at = copy.to[lane] as usize;
                self.shared.data[at..at + copy.size].copy_from_slice(&copy.data[lane][..copy.size]);
                let who = Who {
                    warp: warp.index,
                    lane,
                    clocks: warp.clocks.as_ref().expect("a warp at work has clocks"),
                };
                if let Err(trouble) = self.shared.note(at, copy.size, Act::End, &who) {
                    result = Err(self.trouble(warp, lane, at, copy.size, trouble, "writes"));
                }
                copy.mask &= !(1 << lane);
            }
        }
        let mut kept = Vec::with_capacity(copies.len());
        for copy in copies {
            if copy.mask == 0 {
                warp.spare.push(copy);
            } else {
                kept.push(copy);
            }
        }
        warp.copies = kept;
        result
    }
}
