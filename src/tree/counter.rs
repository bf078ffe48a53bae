//! The binary counter of a stream: a block of states for each bit of its position, and the prefix through it.

use crate::error::{Error, Result};

/// Bits of a position.
pub(super) const LEVELS: usize = 48;

/// The states of a stream of `position` tokens: for each set bit the slot of its block, and of the prefix folded
/// through that block. The prefix through the largest block is that block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    pub(super) position: u64,
    pub(super) blocks: [u32; LEVELS],
    pub(super) prefixes: [u32; LEVELS],
}

impl Counter {
    /// An empty stream.
    pub fn new() -> Self {
        Counter { position: 0, blocks: [0; LEVELS], prefixes: [0; LEVELS] }
    }

    /// The counter of `position` tokens whose states lie in these slots, in the order of [`slots`](Self::slots).
    ///
    /// # Errors
    /// [`Error::Argument`] if there are more or fewer slots than such a stream has.
    pub fn from_slots(position: u64, slots: &[u32]) -> Result<Self> {
        let mut counter = Counter { position, ..Counter::new() };
        if position >= 1 << LEVELS {
            return Err(Error::argument("position", format!("below 2^{LEVELS}"), position));
        }
        if slots.len() != counter.held() {
            return Err(Error::argument(
                "slots",
                format!("{} for {position} tokens", counter.held()),
                slots.len(),
            ));
        }
        let mut slots = slots.iter().copied();
        for level in levels(position) {
            counter.blocks[level] = slots.next().unwrap_or(0);
            counter.prefixes[level] =
                if level == top(position) { counter.blocks[level] } else { slots.next().unwrap_or(0) };
        }
        Ok(counter)
    }

    /// Tokens so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How many states it holds: one less than twice the set bits of its position.
    pub fn held(&self) -> usize {
        (2 * self.position.count_ones() as usize).saturating_sub(1)
    }

    /// The slots that it holds: level by level from the largest, the block, then its prefix.
    pub fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        levels(self.position).flat_map(move |level| {
            let prefix = (level != top(self.position)).then_some(self.prefixes[level]);
            std::iter::once(self.blocks[level]).chain(prefix)
        })
    }

    /// Most states that a stream of up to `max_time` tokens holds.
    pub fn most_held(max_time: u64) -> usize {
        // The most set bits are those of 2^k - 1.
        2 * (max_time.saturating_add(1).ilog2() as usize).max(1) - 1
    }

    /// Slots that appending `tokens` tokens wants beside those that the stream holds before.
    pub fn append_slots(tokens: usize) -> usize {
        let levels = tokens.checked_ilog2().unwrap_or(0) as usize;
        tokens + tokens.div_ceil(2) + 1 + 2 * (levels + 2)
    }
}

impl Default for Counter {
    fn default() -> Self {
        Counter::new()
    }
}

/// The set bits, largest first.
pub(super) fn levels(position: u64) -> impl Iterator<Item = usize> {
    (0..LEVELS).rev().filter(move |level| position >> level & 1 == 1)
}

/// The largest set bit of a position that is not 0.
pub(super) fn top(position: u64) -> usize {
    position.checked_ilog2().unwrap_or(0) as usize
}

/// The slots of an arena that are free.
#[derive(Clone, Debug)]
pub struct Slots {
    pub(super) free: Vec<u32>,
    capacity: usize,
}

impl Slots {
    /// An arena of `capacity` free slots.
    pub fn new(capacity: usize) -> Self {
        // The lowest is taken first.
        Slots { free: (0..capacity as u32).rev().collect(), capacity }
    }

    /// Slots of the arena.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Slots that are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes a free slot.
    pub fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Gives a slot back.
    pub fn give(&mut self, slot: u32) {
        debug_assert!(!self.free.contains(&slot), "slot {slot} given back twice");
        self.free.push(slot);
    }
}
