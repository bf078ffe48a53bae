//! Copies from pinned memory of the host. On a card they run some time later, and copy what the memory holds then; here they
//! run at once, so it is remembered what was copied, and a host that writes the memory before it knows that the copy has
//! ended is told so.

use super::errors::*;
use super::{Answer, Driver, Handle, State};
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

const WRITTEN: &str = "pinned memory was written before the copy from it had ended";

/// A copy of which the host does not know yet that it has ended.
pub struct Copy {
    stream: Handle,
    from: u64,
    size: u64,
    hash: u64,
    /// Recorded behind it.
    events: HashSet<Handle>,
}

/// What the host waited for.
#[derive(Clone, Copy)]
pub enum Waited {
    /// A stream.
    Stream(Handle),
    /// All of them.
    Whole,
    /// An event.
    Event(Handle),
}

/// # Safety
/// The memory must be readable.
unsafe fn hash(from: u64, size: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(from as *const u8, size as usize) }.hash(&mut hasher);
    hasher.finish()
}

/// A copy that begins. Nothing happens if the memory is not pinned: such a copy ends before its call.
///
/// # Safety
/// The memory must be readable for `size` bytes.
pub unsafe fn begin(driver: &Driver, context: Handle, stream: Handle, from: u64, size: u64) -> Answer {
    let mut state = driver.state();
    let pinned = |(&start, &len): (&u64, &usize)| start <= from && from + size <= start + len as u64;
    if !state.pinned.iter().any(pinned) {
        return Ok(());
    }
    let overlaps = |copy: &Copy| copy.from < from + size && from < copy.from + copy.size;
    if settle(&mut state, overlaps) {
        drop(state);
        return fail(driver, context, WRITTEN);
    }
    // SAFETY: the caller's promise.
    let hash = unsafe { hash(from, size) };
    state.copies.push(Copy { stream, from, size, hash, events: HashSet::new() });
    Ok(())
}

/// An event is recorded in a stream: behind all copies there.
pub fn record(state: &mut State, stream: Handle, event: Handle) {
    for copy in state.copies.iter_mut().filter(|copy| copy.stream == stream) {
        copy.events.insert(event);
    }
}

/// The host knows that this has ended.
pub fn waited(driver: &Driver, context: Handle, what: Waited) -> Answer {
    let covered = |copy: &Copy| match what {
        Waited::Whole => true,
        Waited::Stream(stream) => copy.stream == stream,
        Waited::Event(event) => copy.events.contains(&event),
    };
    let changed = settle(&mut driver.state(), covered);
    match changed {
        true => fail(driver, context, WRITTEN),
        false => Ok(()),
    }
}

/// Pinned memory is given back, which waits for nothing: no copy from it may be under way.
pub fn free(driver: &Driver, context: Handle, from: u64, size: u64) -> Answer {
    let mut state = driver.state();
    let before = state.copies.len();
    state.copies.retain(|copy| copy.from + copy.size <= from || from + size <= copy.from);
    let under_way = state.copies.len() < before;
    drop(state);
    match under_way {
        true => fail(driver, context, "pinned memory was given back while it was copied"),
        false => Ok(()),
    }
}

/// Forgets these copies; whether the memory of one is another than was copied.
fn settle(state: &mut State, mut ended: impl FnMut(&Copy) -> bool) -> bool {
    let mut changed = false;
    state.copies.retain(|copy| {
        let ended = ended(copy);
        // SAFETY: pinned memory with a copy under way is not given back.
        changed |= ended && unsafe { hash(copy.from, copy.size) } != copy.hash;
        !ended
    });
    changed
}

fn fail(driver: &Driver, context: Handle, text: &str) -> Answer {
    driver.complain(text);
    if let Some(context) = driver.state().contexts.get_mut(&context) {
        context.sticky = ERROR_LAUNCH_FAILED;
    }
    Err(ERROR_LAUNCH_FAILED)
}
