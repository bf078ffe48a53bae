//! Lowers what touches memory, other lanes or other threads.

use super::ir::{Address, AtomicOp, BarKind, Class, K32, K64, Num, Op, Order, ShflMode, Slot, VoteMode};
use super::lower::{Lower, Result, Symbol};
use super::parse::{Arg, Instruction, Space};

/// Modifiers of loads, stores and copies that change speed only.
fn hint(part: &str) -> bool {
    part.starts_with("L1::")
        || part.starts_with("L2::")
        || matches!(part, "ca" | "cg" | "cs" | "cv" | "lu" | "wb" | "wt")
}

/// Whether a scope reaches other blocks; `None` if it is no scope.
fn scope(part: &str) -> Option<bool> {
    match part {
        "cta" => Some(false),
        "gpu" | "sys" | "cluster" => Some(true),
        _ => None,
    }
}

fn space(part: &str) -> Option<Space> {
    Some(match part {
        "global" | "const" => Space::Global,
        "shared" | "shared::cta" => Space::Shared,
        "local" => Space::Local,
        "param" | "param::entry" | "param::func" => Space::Param,
        _ => return None,
    })
}

fn order(part: &str) -> Option<Order> {
    Some(match part {
        "volatile" | "relaxed" | "mmio" => Order::Relaxed,
        "acquire" => Order::Acquire,
        "release" => Order::Release,
        "acq_rel" => Order::AcquireRelease,
        "weak" => Order::Weak,
        "nc" => Order::Constant,
        _ => return None,
    })
}

/// What an order with a scope is worth to other blocks: within the own block only, it tells them nothing.
fn reach(order: Order, far: bool) -> Order {
    if far || matches!(order, Order::Weak | Order::Constant) { order } else { Order::Relaxed }
}

fn atomic_op(part: &str) -> Option<AtomicOp> {
    Some(match part {
        "add" => AtomicOp::Add,
        "and" => AtomicOp::And,
        "or" => AtomicOp::Or,
        "xor" => AtomicOp::Xor,
        "min" => AtomicOp::Min,
        "max" => AtomicOp::Max,
        "inc" => AtomicOp::Inc,
        "dec" => AtomicOp::Dec,
        "exch" => AtomicOp::Exch,
        "cas" => AtomicOp::Cas,
        _ => return None,
    })
}

/// The operands of a `{a, b}` or of a single one.
pub(super) fn items(arg: &Arg) -> &[Arg] {
    match arg {
        Arg::Vector(items) => items,
        one => std::slice::from_ref(one),
    }
}

struct Access {
    space: Space,
    order: Order,
    num: Num,
    lanes: usize,
}

fn access(parts: &[&str]) -> Result<Access> {
    let [front @ .., ty] = parts else { return Err("no type".into()) };
    let num = Num::parse(ty).ok_or_else(|| format!("type '{ty}' is not supported"))?;
    let (mut at, mut order_, mut lanes, mut far) = (None, None, None, None);
    for part in front {
        // Each may be said once.
        let again = if let Some(space) = space(part) {
            at.replace(space).is_some()
        } else if let Some(order) = order(part) {
            order_.replace(order).is_some()
        } else if let Some(reach) = scope(part) {
            far.replace(reach).is_some()
        } else if let Some(count) = [("v2", 2), ("v4", 4)].iter().find(|(name, _)| name == part) {
            lanes.replace(count.1).is_some()
        } else {
            !hint(part)
        };
        if again {
            return Err(format!("modifier '.{part}' is not supported"));
        }
    }
    let order = reach(order_.unwrap_or(Order::Weak), far.unwrap_or(true));
    let constant = front.contains(&"const") || at == Some(Space::Param);
    let ordered = constant && order != Order::Weak;
    if ordered || (order == Order::Constant && at != Some(Space::Global)) {
        return Err("such an order of this memory is not supported".into());
    }
    Ok(Access { space: at.unwrap_or(Space::Generic), order, num, lanes: lanes.unwrap_or(1) })
}

impl Lower<'_> {
    /// Lowers `i` if it is one of this file's; `false` if not.
    pub(super) fn memory(&mut self, i: &Instruction, parts: &[&str]) -> Result<bool> {
        let rest = &parts[1..];
        match parts[0] {
            "ld" => self.load(i, rest)?,
            "st" => self.store(i, rest)?,
            "atom" | "red" => self.atomic(i, rest, parts[0] == "atom")?,
            "cp" => self.copy(i, rest)?,
            "ldmatrix" => self.ldmatrix(i, rest)?,
            "mma" => self.mma(i, rest)?,
            "wgmma" => self.wgmma(i, rest)?,
            "fence" if rest.first() == Some(&"proxy") => self.proxy_fence(rest)?,
            "shfl" => self.shfl(i, rest)?,
            "vote" => self.vote(i, rest)?,
            "match" => self.matching(i, rest)?,
            "redux" => self.redux(i, rest)?,
            "activemask" if rest == ["b32"] => {
                let d = self.write(Class::R32, &i.args[0])?;
                self.emit(Op::ActiveMask { d });
            }
            "bar" | "barrier" => self.barrier(i, rest, parts[0] == "bar")?,
            "membar" | "fence" => {
                let far = match (parts[0], rest) {
                    ("membar", [scope @ ("cta" | "gl" | "sys")]) => *scope != "cta",
                    ("fence", [reach]) if scope(reach).is_some() => scope(reach) == Some(true),
                    ("fence", ["sc" | "acq_rel", reach]) if scope(reach).is_some() => {
                        scope(reach) == Some(true)
                    }
                    _ => return Err("instruction not supported".into()),
                };
                self.emit(if far { Op::Fence } else { Op::Nop });
            }
            "griddepcontrol" if rest == ["wait"] => self.emit(Op::Depend),
            // What comes after it is not told apart from what comes before: the next launch has to wait anyway.
            "griddepcontrol" if rest == ["launch_dependents"] => self.emit(Op::Nop),
            "nanosleep" if rest == ["u32"] => self.emit(Op::Yield),
            "prefetch" | "prefetchu" | "pmevent" | "applypriority" => self.emit(Op::Nop),
            "cvta" => self.cvta(i, rest)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn address(&mut self, arg: &Arg) -> Result<Address> {
        let Arg::Memory(base, offset) = arg else { return Err("an address was expected".into()) };
        let wide = match self.class_of(base) {
            Some(class) => class == Class::R64,
            None => {
                !matches!(&**base, Arg::Name(name) if matches!(self.symbol(name), Some(Symbol::KernelParam(_))))
            }
        };
        let base = if wide { self.read64(base)? } else { self.read32(base)? };
        Ok(Address { base, wide, offset: *offset })
    }

    fn load(&mut self, i: &Instruction, parts: &[&str]) -> Result<()> {
        let a = access(parts)?;
        if matches!(a.order, Order::Release | Order::AcquireRelease) {
            return Err("a load does not release".into());
        }
        let (Some(to), Some(from)) = (i.args.first(), i.args.get(1)) else { return Err("operands".into()) };
        let to = items(to);
        if to.len() != a.lanes {
            return Err("the vector has another length than the opcode says".into());
        }
        if a.space == Space::Param
            && let Arg::Memory(base, offset) = from
            && let Arg::Name(name) = &**base
            && self.class_of(base).is_none()
        {
            for (lane, to) in to.iter().enumerate() {
                let at = offset + (lane * a.num.size()) as i64;
                if let Some(s) = self.field(name, at, a.num.class())? {
                    let d = self.write(a.num.class(), to)?;
                    match a.num.class() {
                        Class::R64 => self.a64(K64::Mov, d, [s, 0, 0]),
                        _ => self.a32(K32::Mov, d, [s, 0, 0]),
                    }
                } else if let Some(Symbol::KernelParam(param)) = self.symbol(name) {
                    let (d, narrow) = self.destination(a.num, to)?;
                    let at = i64::from(param) + at;
                    if at < 0 || at as usize + a.num.size() > self.kernel.param_size {
                        return Err(format!("{} bytes at offset {at} of the arguments", a.num.size()));
                    }
                    self.emit(Op::Param { num: a.num, d, offset: at as u32 });
                    self.widen(a.num, d, narrow);
                } else {
                    return Err(format!("no parameter '{name}'"));
                }
            }
            return Ok(());
        }
        let address = self.address(from)?;
        let mut d = [0; 4];
        let mut narrow = [None; 4];
        for (lane, to) in to.iter().enumerate() {
            (d[lane], narrow[lane]) = self.destination(a.num, to)?;
        }
        self.emit(Op::Load { space: a.space, num: a.num, lanes: a.lanes as u8, d, address, order: a.order });
        for lane in 0..a.lanes {
            self.widen(a.num, d[lane], narrow[lane]);
        }
        Ok(())
    }

    /// The slot to load into; a register wider than the type gets its value by a widening move afterwards.
    fn destination(&mut self, num: Num, to: &Arg) -> Result<(Slot, Option<Slot>)> {
        match self.class_of(to) {
            Some(Class::R64) if num.class() == Class::R32 => {
                let wide = self.write(Class::R64, to)?;
                Ok((self.fresh(Class::R32), Some(wide)))
            }
            _ => Ok((self.write(num.class(), to)?, None)),
        }
    }

    fn widen(&mut self, num: Num, from: Slot, to: Option<Slot>) {
        if let Some(d) = to {
            let from_num = if num.signed() { Num::S32 } else { Num::U32 };
            let to_num = if num.signed() { Num::S64 } else { Num::U64 };
            self.emit_silent(Op::Cvt {
                d,
                a: from,
                to: to_num,
                from: from_num,
                round: super::ir::Round::Zero,
                to_integer: false,
                ftz: false,
                sat: false,
                relu: false,
            });
        }
    }

    fn store(&mut self, i: &Instruction, parts: &[&str]) -> Result<()> {
        let a = access(parts)?;
        if matches!(a.order, Order::Acquire | Order::AcquireRelease | Order::Constant) {
            return Err("a store does not acquire".into());
        }
        let (Some(to), Some(from)) = (i.args.first(), i.args.get(1)) else { return Err("operands".into()) };
        let from = items(from);
        if from.len() != a.lanes {
            return Err("the vector has another length than the opcode says".into());
        }
        let mut s = [0; 4];
        for (lane, from) in from.iter().enumerate() {
            s[lane] = match self.class_of(from) {
                Some(Class::R64) if a.num.class() == Class::R32 => {
                    let wide = self.read64(from)?;
                    let (lo, hi) = (self.fresh(Class::R32), self.fresh(Class::R32));
                    self.emit_silent(Op::Split32 { lo, hi, a: wide });
                    lo
                }
                _ => self.read(a.num.class(), from)?,
            };
        }
        if a.space == Space::Param {
            let Arg::Memory(base, offset) = to else { return Err("an address was expected".into()) };
            let Arg::Name(name) = &**base else { return Err("a parameter was expected".into()) };
            for lane in 0..a.lanes {
                let at = offset + (lane * a.num.size()) as i64;
                let class = a.num.class();
                let Some(d) = self.field(name, at, class)? else {
                    return Err(format!("no parameter '{name}'"));
                };
                match class {
                    Class::R64 => self.a64(K64::Mov, d, [s[lane], 0, 0]),
                    _ => self.a32(K32::Mov, d, [s[lane], 0, 0]),
                }
            }
            return Ok(());
        }
        let address = self.address(to)?;
        self.emit(Op::Store { space: a.space, num: a.num, lanes: a.lanes as u8, s, address, order: a.order });
        Ok(())
    }

    fn atomic(&mut self, i: &Instruction, parts: &[&str], returns: bool) -> Result<()> {
        let [front @ .., ty] = parts else { return Err("no type".into()) };
        let num = Num::parse(ty).ok_or_else(|| format!("type '{ty}' is not supported"))?;
        let (mut at, mut order_, mut op, mut far) = (None, None, None, None);
        for part in front {
            let again = if let Some(space) = space(part) {
                at.replace(space).is_some()
            } else if let Some(order) = order(part) {
                order_.replace(order).is_some() || matches!(order, Order::Weak | Order::Constant)
            } else if let Some(reach) = scope(part) {
                far.replace(reach).is_some()
            } else if let Some(this) = atomic_op(part) {
                op.replace(this).is_some()
            } else {
                !part.starts_with("L2::")
            };
            if again {
                return Err(format!("modifier '.{part}' is not supported"));
            }
        }
        let order = reach(order_.unwrap_or(Order::Relaxed), far.unwrap_or(true));
        let at = at.unwrap_or(Space::Generic);
        if matches!(at, Space::Local | Space::Param) {
            return Err("an atomic operation on this memory is not supported".into());
        }
        let op = op.ok_or("no operation")?;
        let fits = match op {
            AtomicOp::Add => matches!(num, Num::U32 | Num::S32 | Num::U64 | Num::S64 | Num::F32 | Num::F64),
            AtomicOp::Min | AtomicOp::Max => matches!(num, Num::U32 | Num::S32 | Num::U64 | Num::S64),
            AtomicOp::Inc | AtomicOp::Dec => num == Num::U32,
            AtomicOp::Cas => matches!(num, Num::U16 | Num::U32 | Num::U64),
            _ => matches!(num, Num::U32 | Num::U64),
        };
        if !fits {
            return Err("an atomic operation of this type is not supported".into());
        }
        let skip = usize::from(returns);
        let d = if returns && !matches!(&i.args[0], Arg::Name(n) if n == "_") {
            Some(self.write(num.class(), &i.args[0])?)
        } else {
            None
        };
        let address = self.address(&i.args[skip])?;
        let b = self.read(num.class(), &i.args[skip + 1])?;
        let c = if op == AtomicOp::Cas { self.read(num.class(), &i.args[skip + 2])? } else { 0 };
        if at != Space::Shared {
            self.kernel.ordered |= d.is_some() || num.float();
        }
        self.emit(Op::Atomic { space: at, op, num, d, address, b, c, order });
        Ok(())
    }

    fn copy(&mut self, i: &Instruction, parts: &[&str]) -> Result<()> {
        match parts {
            ["async", "commit_group"] => self.emit(Op::CpAsyncCommit),
            ["async", "wait_all"] => self.emit(Op::CpAsyncWait { keep: 0, all: true }),
            ["async", "wait_group"] => {
                let Some(Arg::Int(keep)) = i.args.first() else { return Err("a number was expected".into()) };
                self.emit(Op::CpAsyncWait { keep: *keep as u32, all: false });
            }
            ["async", "ca" | "cg", "shared" | "shared::cta", "global", rest @ ..]
                if rest.iter().all(|p| p.starts_with("L2::")) =>
            {
                let to = self.address(&i.args[0])?;
                let from = self.address(&i.args[1])?;
                let Some(Arg::Int(size)) = i.args.get(2) else { return Err("a size was expected".into()) };
                let size = *size as u8;
                if !matches!(size, 4 | 8 | 16) || (parts[1] == "cg" && size != 16) {
                    return Err(format!("a copy of {size} bytes"));
                }
                let (mut source, mut skip) = (None, None);
                if let Some(arg) = i.args.get(3) {
                    let predicate = matches!(arg, Arg::Not(_)) || self.class_of(arg) == Some(Class::Pred);
                    if predicate {
                        skip = Some(self.pred(arg)?);
                    } else if !rest.iter().any(|p| p.contains("cache_hint")) || i.args.len() > 4 {
                        source = Some(self.read32(arg)?);
                    }
                }
                self.emit(Op::CpAsync { to, from, size, source, skip });
            }
            _ => return Err("instruction not supported".into()),
        }
        Ok(())
    }

    fn ldmatrix(&mut self, i: &Instruction, parts: &[&str]) -> Result<()> {
        let ["sync", "aligned", "m8n8", count, middle @ .., "b16"] = parts else {
            return Err("instruction not supported".into());
        };
        let count = match *count {
            "x1" => 1,
            "x2" => 2,
            "x4" => 4,
            part => return Err(format!("modifier '.{part}' is not supported")),
        };
        let trans = match middle {
            ["shared" | "shared::cta"] => false,
            ["trans", "shared" | "shared::cta"] => true,
            _ => return Err("instruction not supported".into()),
        };
        let to = items(&i.args[0]);
        if to.len() != count {
            return Err("the vector has another length than the opcode says".into());
        }
        let mut d = [0; 4];
        for (lane, to) in to.iter().enumerate() {
            d[lane] = self.write(Class::R32, to)?;
        }
        let address = self.address(&i.args[1])?;
        self.emit(Op::LdMatrix { d, count: count as u8, trans, address });
        Ok(())
    }

    fn mma(&mut self, i: &Instruction, parts: &[&str]) -> Result<()> {
        let (k16, half) = match parts {
            ["sync", "aligned", shape, "row", "col", "f32", a, b, "f32"] if a == b => {
                let k16 = match *shape {
                    "m16n8k16" => true,
                    "m16n8k8" => false,
                    _ => return Err("shape not supported".into()),
                };
                match *a {
                    "bf16" => (k16, false),
                    "f16" => (k16, true),
                    _ => return Err("type not supported".into()),
                }
            }
            _ => return Err("instruction not supported".into()),
        };
        let [d, a, b, c] = &i.args[..] else { return Err("four operands were expected".into()) };
        let (na, nb) = if k16 { (4, 2) } else { (2, 1) };
        if items(d).len() != 4 || items(a).len() != na || items(b).len() != nb || items(c).len() != 4 {
            return Err("a fragment has another length than the shape says".into());
        }
        let mut out = ([0; 4], [0; 4], [0; 2], [0; 4]);
        for (n, arg) in items(d).iter().enumerate() {
            out.0[n] = self.write(Class::R32, arg)?;
        }
        for (n, arg) in items(a).iter().enumerate() {
            out.1[n] = self.read32(arg)?;
        }
        for (n, arg) in items(b).iter().enumerate() {
            out.2[n] = self.read32(arg)?;
        }
        for (n, arg) in items(c).iter().enumerate() {
            out.3[n] = self.read32(arg)?;
        }
        self.emit(Op::Mma { half, k16, d: out.0, a: out.1, b: out.2, c: out.3 });
        Ok(())
    }

    /// A destination `d|p`, where the predicate may be missing.
    fn pair(&mut self, class: Class, arg: &Arg) -> Result<(Slot, Option<Slot>)> {
        match arg {
            Arg::Pair(d, p) => {
                let p = match &**p {
                    Arg::Name(name) if name == "_" => None,
                    p => Some(self.write(Class::Pred, p)?),
                };
                Ok((self.write(class, d)?, p))
            }
            d => Ok((self.write(class, d)?, None)),
        }
    }

    fn shfl(&mut self, i: &Instruction, parts: &[&str]) -> Result<()> {
        let mode = match parts {
            ["sync", "up", "b32"] => ShflMode::Up,
            ["sync", "down", "b32"] => ShflMode::Down,
            ["sync", "bfly", "b32"] => ShflMode::Bfly,
            ["sync", "idx", "b32"] => ShflMode::Idx,
            _ => return Err("instruction not supported".into()),
        };
        let [d, a, b, c, members] = &i.args[..] else { return Err("five operands were expected".into()) };
        let (d, p) = self.pair(Class::R32, d)?;
        let (a, b, c) = (self.read32(a)?, self.read32(b)?, self.read32(c)?);
        let members = self.read32(members)?;
        self.emit(Op::Shfl { mode, d, p, a, b, c, members });
        Ok(())
    }

    fn vote(&mut self, i: &Instruction, parts: &[&str]) -> Result<()> {
        let mode = match parts {
            ["sync", "all", "pred"] => VoteMode::All,
            ["sync", "any", "pred"] => VoteMode::Any,
            ["sync", "uni", "pred"] => VoteMode::Uni,
            ["sync", "ballot", "b32"] => VoteMode::Ballot,
            _ => return Err("instruction not supported".into()),
        };
        let class = if mode == VoteMode::Ballot { Class::R32 } else { Class::Pred };
        let d = self.write(class, &i.args[0])?;
        let (p, negated) = self.pred(&i.args[1])?;
        let members = self.read32(&i.args[2])?;
        self.emit(Op::Vote { mode, d, p, negated, members });
        Ok(())
    }

    fn matching(&mut self, i: &Instruction, parts: &[&str]) -> Result<()> {
        let (all, wide) = match parts {
            ["any", "sync", "b32"] => (false, false),
            ["any", "sync", "b64"] => (false, true),
            ["all", "sync", "b32"] => (true, false),
            ["all", "sync", "b64"] => (true, true),
            _ => return Err("instruction not supported".into()),
        };
        let (d, p) = self.pair(Class::R32, &i.args[0])?;
        let a = self.read(if wide { Class::R64 } else { Class::R32 }, &i.args[1])?;
        let members = self.read32(&i.args[2])?;
        self.emit(Op::Match { all, wide, d, p, a, members });
        Ok(())
    }

    fn redux(&mut self, i: &Instruction, parts: &[&str]) -> Result<()> {
        let ["sync", op, ty] = parts else { return Err("instruction not supported".into()) };
        let op = match (*op, *ty) {
            ("add" | "min" | "max", "u32" | "s32") | ("and" | "or" | "xor", "b32") => atomic_op(op),
            _ => None,
        };
        let op = op.ok_or("instruction not supported")?;
        let signed = match *ty {
            "s32" => true,
            "u32" | "b32" => false,
            _ => return Err("instruction not supported".into()),
        };
        let d = self.write(Class::R32, &i.args[0])?;
        let a = self.read32(&i.args[1])?;
        let members = self.read32(&i.args[2])?;
        self.emit(Op::Redux { op, signed, d, a, members });
        Ok(())
    }

    fn barrier(&mut self, i: &Instruction, parts: &[&str], bar: bool) -> Result<()> {
        if bar && parts == ["warp", "sync"] {
            let members = self.read32(&i.args[0])?;
            self.emit(Op::WarpBarrier { members });
            return Ok(());
        }
        // Whether the warp must come as one makes no difference: it has to come whole anyway.
        let plain: Vec<&str> = parts.iter().copied().filter(|p| !matches!(*p, "cta" | "aligned")).collect();
        let kind = match plain[..] {
            ["sync"] => BarKind::Sync,
            ["arrive"] => BarKind::Arrive,
            ["red", "popc", "u32"] => BarKind::Popc,
            ["red", "and", "pred"] => BarKind::And,
            ["red", "or", "pred"] => BarKind::Or,
            _ => return Err("instruction not supported".into()),
        };
        let (mut d, mut p, mut negated) = (0, 0, false);
        let mut args = &i.args[..];
        if matches!(kind, BarKind::Popc | BarKind::And | BarKind::Or) {
            let class = if kind == BarKind::Popc { Class::R32 } else { Class::Pred };
            d = self.write(class, &args[0])?;
            (p, negated) = self.pred(&args[args.len() - 1])?;
            args = &args[1..args.len() - 1];
        }
        let id = self.read32(&args[0])?;
        let count = match args.get(1) {
            Some(arg) => Some(self.read32(arg)?),
            None => None,
        };
        self.emit(Op::Barrier { kind, id, count, d, p, negated });
        Ok(())
    }

    /// `cvta`: global addresses are generic ones already, local ones too; shared ones get their window.
    fn cvta(&mut self, i: &Instruction, parts: &[&str]) -> Result<()> {
        let (to, space) = match parts {
            ["to", space, "u64"] => (true, *space),
            [space, "u64"] => (false, *space),
            _ => return Err("instruction not supported".into()),
        };
        let shared = match space {
            "shared" | "shared::cta" => true,
            "global" | "local" | "const" => false,
            _ => return Err(format!("generic addresses of '.{space}' are not supported")),
        };
        let d = self.write(Class::R64, &i.args[0])?;
        let a = self.read64(&i.args[1])?;
        if !shared {
            self.a64(K64::Mov, d, [a, 0, 0]);
        } else {
            let window = self.constant64(super::lower::SHARED_WINDOW);
            self.a64(if to { K64::Sub } else { K64::Add }, d, [a, window, 0]);
        }
        Ok(())
    }
}
