//! Which registers an operation reads and writes.

use super::ir::{AtomicOp, BarKind, Bool, Class, K32, K64, Op, Slot, VoteMode};

/// How an instruction touches a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// It reads it.
    Use,
    /// It moves it, so that an undefined source makes an undefined destination.
    Move,
    /// It writes it.
    Def,
    /// It reads and writes it.
    Update,
}

impl Op {
    /// Calls `f` with every register that the operation touches, sources first.
    pub fn touches(&self, f: &mut dyn FnMut(Class, Slot, Touch)) {
        self.clone().visit(&mut |class, slot, touch| f(class, *slot, touch));
    }

    /// The same, with slots that may be renamed.
    pub fn visit(&mut self, f: &mut dyn FnMut(Class, &mut Slot, Touch)) {
        use Class::{Pred, R32, R64};
        use Touch::{Def, Move, Update, Use};
        let class = |wide: bool| if wide { R64 } else { R32 };
        match self {
            Op::A32 { k, d, s, .. } => {
                let touch = if *k == K32::Mov { Move } else { Use };
                s.iter_mut().for_each(|s| f(R32, s, touch));
                f(R32, d, Def);
            }
            Op::A64 { k, d, s } => {
                let touch = if *k == K64::Mov { Move } else { Use };
                s.iter_mut().for_each(|s| f(R64, s, touch));
                f(R64, d, Def);
            }
            Op::Wide { d, a, b, c, .. } => {
                f(R32, a, Use);
                f(R32, b, Use);
                f(R64, c, Use);
                f(R64, d, Def);
            }
            Op::Shift64 { d, a, b, .. } => {
                f(R64, a, Use);
                f(R32, b, Use);
                f(R64, d, Def);
            }
            Op::Bits64 { d, a, .. } => {
                f(R64, a, Use);
                f(R32, d, Def);
            }
            Op::Bfe64 { d, a, b, c, .. } => {
                f(R64, a, Use);
                f(R32, b, Use);
                f(R32, c, Use);
                f(R64, d, Def);
            }
            Op::Bfi32 { d, a, b, c, e } => {
                [a, b, c, e].into_iter().for_each(|s| f(R32, s, Use));
                f(R32, d, Def);
            }
            Op::Bfi64 { d, a, b, c, e } => {
                [a, b].into_iter().for_each(|s| f(R64, s, Use));
                [c, e].into_iter().for_each(|s| f(R32, s, Use));
                f(R64, d, Def);
            }
            Op::Cvt { d, a, to, from, .. } => {
                f(from.class(), a, Use);
                f(to.class(), d, Def);
            }
            Op::CvtPack { d, hi, lo, .. } => {
                f(R32, hi, Use);
                f(R32, lo, Use);
                f(R32, d, Def);
            }
            Op::Pack16 { d, lo, hi } => {
                f(R32, lo, Use);
                f(R32, hi, Use);
                f(R32, d, Def);
            }
            Op::Split16 { lo, hi, a } => {
                f(R32, a, Use);
                f(R32, lo, Def);
                f(R32, hi, Def);
            }
            Op::Pack32 { d, lo, hi } => {
                f(R32, lo, Use);
                f(R32, hi, Use);
                f(R64, d, Def);
            }
            Op::Split32 { lo, hi, a } => {
                f(R64, a, Use);
                f(R32, lo, Def);
                f(R32, hi, Def);
            }
            Op::Setp { num, d, other, a, b, join, .. } => {
                f(num.class(), a, Use);
                f(num.class(), b, Use);
                if let Some((_, p, _)) = join {
                    f(Pred, p, Use);
                }
                f(Pred, d, Def);
                if let Some(other) = other {
                    f(Pred, other, Def);
                }
            }
            Op::Select { class, d, a, b, p } => {
                f(Pred, p, Use);
                f(*class, a, Use);
                f(*class, b, Use);
                f(*class, d, Def);
            }
            Op::Pred { k, d, a, b, .. } => {
                let touch = if *k == Bool::Mov { Move } else { Use };
                f(Pred, a, touch);
                f(Pred, b, touch);
                f(Pred, d, Def);
            }
            Op::PredConst { d, .. } => f(Pred, d, Def),
            Op::Param { num, d, .. } => f(num.class(), d, Def),
            Op::Load { num, lanes, d, address, .. } => {
                f(class(address.wide), &mut address.base, Use);
                d[..*lanes as usize].iter_mut().for_each(|d| f(num.class(), d, Def));
            }
            Op::Store { num, lanes, s, address, .. } => {
                f(class(address.wide), &mut address.base, Use);
                s[..*lanes as usize].iter_mut().for_each(|s| f(num.class(), s, Use));
            }
            Op::Atomic { num, d, address, b, c, op, .. } => {
                f(class(address.wide), &mut address.base, Use);
                f(num.class(), b, Use);
                if *op == AtomicOp::Cas {
                    f(num.class(), c, Use);
                }
                if let Some(d) = d {
                    f(num.class(), d, Def);
                }
            }
            Op::CpAsync { to, from, source, skip, .. } => {
                f(class(to.wide), &mut to.base, Use);
                f(class(from.wide), &mut from.base, Use);
                if let Some(source) = source {
                    f(R32, source, Use);
                }
                if let Some((p, _)) = skip {
                    f(Pred, p, Use);
                }
            }
            Op::LdMatrix { d, count, address, .. } => {
                f(class(address.wide), &mut address.base, Use);
                d[..*count as usize].iter_mut().for_each(|d| f(R32, d, Def));
            }
            Op::Mma { k16, d, a, b, c, .. } => {
                a[..if *k16 { 4 } else { 2 }].iter_mut().for_each(|s| f(R32, s, Use));
                b[..if *k16 { 2 } else { 1 }].iter_mut().for_each(|s| f(R32, s, Use));
                c.iter_mut().for_each(|s| f(R32, s, Use));
                d.iter_mut().for_each(|d| f(R32, d, Def));
            }
            Op::Wgmma { d, a, b, adds, .. } => {
                f(R64, a, Use);
                f(R64, b, Use);
                f(Pred, &mut adds.0, Use);
                d.iter_mut().for_each(|d| f(R32, d, Update));
            }
            Op::Shfl { d, p, a, b, c, members, .. } => {
                [a, b, c, members].into_iter().for_each(|s| f(R32, s, Use));
                f(R32, d, Def);
                if let Some(p) = p {
                    f(Pred, p, Def);
                }
            }
            Op::Vote { mode, d, p, members, .. } => {
                f(R32, members, Use);
                f(Pred, p, Use);
                f(if *mode == VoteMode::Ballot { R32 } else { Pred }, d, Def);
            }
            Op::Match { wide, d, p, a, members, .. } => {
                f(class(*wide), a, Use);
                f(R32, members, Use);
                f(R32, d, Def);
                if let Some(p) = p {
                    f(Pred, p, Def);
                }
            }
            Op::Redux { d, a, members, .. } => {
                f(R32, a, Use);
                f(R32, members, Use);
                f(R32, d, Def);
            }
            Op::ActiveMask { d } => f(R32, d, Def),
            Op::Clock { d, wide } => f(class(*wide), d, Def),
            Op::WarpBarrier { members } => f(R32, members, Use),
            Op::Barrier { kind, id, count, d, p, .. } => {
                f(R32, id, Use);
                if let Some(count) = count {
                    f(R32, count, Use);
                }
                match kind {
                    BarKind::Sync | BarKind::Arrive => {}
                    BarKind::Popc => {
                        f(Pred, p, Use);
                        f(R32, d, Def);
                    }
                    BarKind::And | BarKind::Or => {
                        f(Pred, p, Use);
                        f(Pred, d, Def);
                    }
                }
            }
            Op::JumpTable { index, .. } => f(R32, index, Use),
            Op::CpAsyncCommit
            | Op::CpAsyncWait { .. }
            | Op::WgmmaFence
            | Op::WgmmaCommit
            | Op::WgmmaWait { .. }
            | Op::ProxyFence
            | Op::Fence
            | Op::Yield
            | Op::Depend
            | Op::Nop
            | Op::Jump { .. }
            | Op::Exit
            | Op::Trap { .. } => {}
        }
    }
}
