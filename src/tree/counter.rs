//! The binary counter of a stream: a block of states for each bit of its position, and the prefix through it. And the
//! free slots of the arena in which streams keep their states.

use crate::error::{Error, Result};

/// Bits of a position.
pub(super) const LEVELS: usize = 48;

/// The states of a stream of `position` tokens: for each set bit the slot of its block, and of the prefix folded
/// through that block. The prefix through the largest block is that block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    position: u64,
    /// For each level whose bit is set, its block and prefix; 0 elsewhere.
    blocks: [u32; LEVELS],
    prefixes: [u32; LEVELS],
}

impl Counter {
    /// An empty stream.
    pub fn new() -> Self {
        Counter { position: 0, blocks: [0; LEVELS], prefixes: [0; LEVELS] }
    }

    /// The counter of `position` tokens whose states lie in these slots, in the order of [`slots`](Self::slots): a
    /// restored stream, or a fork whose states were copied there.
    ///
    /// # Errors
    /// [`Error::Argument`] if `position` is 2^48 or more, or there are more or fewer slots than such a stream has.
    pub fn from_slots(position: u64, slots: &[u32]) -> Result<Self> {
        check_position(position)?;
        let mut counter = Counter { position, ..Counter::new() };
        if slots.len() != counter.held() {
            let expected = format!("{} for {position} tokens", counter.held());
            return Err(Error::argument("slots", expected, slots.len()));
        }
        let mut slots = slots.iter().copied();
        for level in levels(position) {
            let block = slots.next().unwrap_or(0);
            let prefix = if level == top(position) { block } else { slots.next().unwrap_or(0) };
            (counter.blocks[level], counter.prefixes[level]) = (block, prefix);
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

    /// The slots that it holds: level by level from the largest, the block, then its prefix. The last is that of all
    /// tokens so far.
    pub fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        levels(self.position).flat_map(move |level| {
            let prefix = (level != top(self.position)).then_some(self.prefixes[level]);
            std::iter::once(self.blocks[level]).chain(prefix)
        })
    }

    /// The slots of the block of a level and of the prefix through it.
    pub(super) fn at(&self, level: usize) -> [u32; 2] {
        [self.blocks[level], self.prefixes[level]]
    }

    /// Moves to another position, which these levels, blocks and prefixes make.
    pub(super) fn set(&mut self, position: u64, held: impl Iterator<Item = (usize, [u32; 2])>) {
        *self = Counter { position, ..Counter::new() };
        for (level, [block, prefix]) in held {
            (self.blocks[level], self.prefixes[level]) = (block, prefix);
        }
    }

    /// Most states that a stream of up to `max_time` tokens holds.
    pub fn most_held(max_time: u64) -> usize {
        // The most set bits are those of 2^k - 1.
        (2 * max_time.saturating_add(1).ilog2() as usize).saturating_sub(1)
    }

    /// Slots that must be free to append `tokens` tokens to a stream, beside those that it holds: for the leaves, and
    /// for what their first step writes. No later step needs as many, nor does what the stream holds afterwards.
    pub fn append_slots(tokens: usize) -> usize {
        tokens.saturating_add(tokens / 2).saturating_add(1)
    }
}

impl Default for Counter {
    fn default() -> Self {
        Counter::new()
    }
}

/// Refuses a position that a counter cannot have.
pub(super) fn check_position(position: u64) -> Result<()> {
    if position >> LEVELS == 0 {
        return Ok(());
    }
    Err(Error::argument("position", format!("below 2^{LEVELS}"), position))
}

/// The set bits, largest first.
pub(super) fn levels(mut position: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let level = position.checked_ilog2()?;
        position ^= 1 << level;
        Some(level as usize)
    })
}

/// The largest set bit of a position that is not 0.
pub(super) fn top(position: u64) -> usize {
    position.checked_ilog2().unwrap_or(0) as usize
}

/// The slots of an arena that are free.
#[derive(Clone, Debug)]
pub struct Slots {
    /// The last is taken first.
    pub(super) free: Vec<u32>,
    capacity: usize,
}

impl Slots {
    /// An arena of `capacity` free slots; no more than 32 bits can number.
    pub fn new(capacity: usize) -> Self {
        let capacity = u32::try_from(capacity).unwrap_or(u32::MAX);
        // The lowest is taken first.
        Slots { free: (0..capacity).rev().collect(), capacity: capacity as usize }
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
