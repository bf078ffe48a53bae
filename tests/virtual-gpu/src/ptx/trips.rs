//! Finds the loads with which a warp's wait for device memory begins: what a launch is timed by where too few warps hide it.
//!
//! A compiler issues the loads of a block of code before it uses what they bring, so they share a trip. It cannot where an
//! address or a branch comes from an earlier load, past a store that waited and may write what is read, past a barrier, nor
//! from one turn of a loop into another.

use super::ir::{Class, Code, Op, Slot};
use super::parse::Space;
use super::touch::Touch;
use std::collections::HashSet;

/// Instructions that a compiler rather guards than jumps over.
const GUARDED: usize = 12;

/// Marks them in code that is arranged: jumps back are those of loops.
pub fn mark(code: &mut [Code]) {
    // Where a block of code begins, and where a turn of a loop does or the code after it.
    let (mut begins, mut turns) = (vec![false; code.len() + 1], vec![false; code.len() + 1]);
    for (at, instruction) in code.iter().enumerate() {
        let to: &[u32] = match &instruction.op {
            Op::Jump { to } => &[*to],
            Op::JumpTable { to, .. } => to,
            _ => &[],
        };
        for to in to.iter().map(|to| *to as usize) {
            let (back, far) = (to <= at, !(at..=at + GUARDED).contains(&to));
            for place in [to, at + 1] {
                begins[place] |= far;
                turns[place] |= back;
            }
        }
    }
    // Whether a trip is under way, the registers that what it brings went into, whether any of it was used, and stored.
    let (mut under_way, mut used, mut stored) = (false, false, false);
    let mut brought = HashSet::<(Class, Slot)>::new();
    for (at, code) in code.iter_mut().enumerate() {
        let (mut waits, mut written) = (false, Vec::new());
        let mut see = |class, slot, touch| match touch {
            Touch::Def => written.push((class, slot)),
            _ => waits |= brought.contains(&(class, slot)),
        };
        if let Some((guard, _)) = code.guard {
            see(Class::Pred, guard, Touch::Use);
        }
        code.op.touches(&mut see);
        let far = |space: Space| matches!(space, Space::Global | Space::Generic);
        let (loads, ends) = match code.op {
            Op::Load { space, .. } => (far(space), far(space) && waits),
            Op::Atomic { space, d, .. } => (far(space) && d.is_some(), far(space) && waits),
            Op::Store { space, .. } => (false, far(space) && waits),
            Op::CpAsync { .. } | Op::Jump { .. } | Op::JumpTable { .. } | Op::Exit => (false, waits),
            Op::Barrier { .. } | Op::Fence => (false, waits || stored),
            _ => (false, false),
        };
        stored |= waits && matches!(code.op, Op::Store { .. });
        used |= waits;
        if ends || turns[at] || begins[at] && used {
            (under_way, used, stored) = (false, false, false);
            brought.clear();
        }
        code.trip = loads && !under_way;
        under_way |= loads;
        for register in written {
            if loads || waits && under_way {
                brought.insert(register);
            } else if code.guard.is_none() {
                brought.remove(&register);
            }
        }
    }
}
