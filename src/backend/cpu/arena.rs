//! States in an arena of their own, which outlive a pass: copied, read and written one by one, between passes.

use super::check::check_slots;
use super::plan::States;
use super::stored::Stored;
use crate::error::{Error, Result};
use crate::model::Config;

/// Copies states, `(from, to)` each; no `to` is another's `from`.
pub(super) fn copy<H: Stored>(config: &Config, arena: &mut [f32], pairs: &[(u32, u32)]) -> Result<()> {
    let States { h, c } = States::<H>::of_arena(config, arena);
    check_slots(&States { h, c }, pairs.iter().flat_map(|&(from, to)| [from, to]))?;
    if let Some((slot, _)) = pairs.iter().find(|(from, to)| from == to) {
        return Err(Error::argument("pairs", "a slot other than the one copied from", slot));
    }
    for &(from, to) in pairs {
        let (from, to) = (from as usize, to as usize);
        // SAFETY: rows within the arena, and `from` is not `to`.
        unsafe {
            h.row(from).copy_to_nonoverlapping(h.row(to), h.stride());
            c.inspect(|c| c.row(from).copy_to_nonoverlapping(c.row(to), c.stride()));
        }
    }
    Ok(())
}

/// Reads states as f32: `h` then `c` of each slot, `[slots, 2, H]`.
pub(super) fn read<H: Stored>(
    config: &Config,
    arena: &[f32],
    slots: &[u32],
    states: &mut [f32],
) -> Result<()> {
    // SAFETY: nothing is written through these.
    let arena = unsafe { States::<H>::of_shared_arena(config, arena) };
    check_slots(&arena, slots.iter().copied())?;
    let hidden = config.hidden;
    for (&slot, state) in slots.iter().zip(states.chunks_exact_mut(2 * hidden)) {
        let (h, c) = state.split_at_mut(hidden);
        // SAFETY: rows within the arena, of at least `hidden` elements.
        unsafe {
            let from = std::slice::from_raw_parts(arena.h.row(slot as usize), hidden);
            h.iter_mut().zip(from).for_each(|(to, from)| *to = from.to_f32());
            match arena.c {
                Some(from) => c.copy_from_slice(std::slice::from_raw_parts(from.row(slot as usize), hidden)),
                None => c.fill(0.0), // the RNN has no `c`
            }
        }
    }
    Ok(())
}

/// Writes what [`read`] read, and zeros beside it.
pub(super) fn write<H: Stored>(
    config: &Config,
    arena: &mut [f32],
    slots: &[u32],
    states: &[f32],
) -> Result<()> {
    let arena = States::<H>::of_arena(config, arena);
    check_slots(&arena, slots.iter().copied())?;
    let hidden = config.hidden;
    for (&slot, state) in slots.iter().zip(states.chunks_exact(2 * hidden)) {
        let (h, c) = state.split_at(hidden);
        // SAFETY: rows within the arena, of at least `hidden` elements, and nothing else runs on it.
        unsafe {
            let to = std::slice::from_raw_parts_mut(arena.h.row(slot as usize), arena.h.stride());
            to.fill(H::from_f32(0.0));
            to.iter_mut().zip(h).for_each(|(to, &from)| *to = H::from_f32(from));
            if let Some(to) = arena.c {
                to.row(slot as usize).write_bytes(0, to.stride());
                c.as_ptr().copy_to_nonoverlapping(to.row(slot as usize), hidden);
            }
        }
    }
    Ok(())
}
