//! The nodes of one sequence: how they are numbered, which two a merge reads, in which step it runs.
//!
//! A sequence grows from `start` tokens to `end`; a whole pass starts at 0. A node is known by the token it ends
//! with, counted from 1. Token `e` ends a block for each of the levels `0..=trailing_zeros(e)` and a prefix, so that
//! `3 n − ones(n)` nodes end with the first `n` tokens: node numbers need no table, and neighbours in time are
//! neighbours in memory.

use super::counter::{levels, top};

/// A merge that could be wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Merge {
    pub node: usize,
    /// From 1: one more than the later of its parts, whose own step is 0 if they are leaves or older than `start`.
    pub step: usize,
    /// The two that it merges, the earlier first.
    pub parts: [usize; 2],
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Sequence {
    pub start: u64,
    pub end: u64,
    /// Number of its first node: those held at `start` come first, two for each bit, then the new ones.
    base: usize,
    held: u64,
    /// Nodes that end with the first `start` tokens.
    before: u64,
}

/// Nodes that end with the first `tokens` tokens; the prefix is counted apart even where it is a block.
fn nodes_through(tokens: u64) -> u64 {
    3 * tokens - u64::from(tokens.count_ones())
}

impl Sequence {
    pub fn new(start: u64, end: u64, base: usize) -> Self {
        let held = 2 * u64::from(start.count_ones());
        Sequence { start, end, base, held, before: nodes_through(start) }
    }

    /// How many numbers its nodes have.
    pub fn nodes(&self) -> usize {
        (self.held + nodes_through(self.end) - self.before) as usize
    }

    /// The new leaves.
    pub fn leaves(&self) -> impl Iterator<Item = usize> + '_ {
        (self.start + 1..=self.end).map(|end| self.block(0, end))
    }

    /// The block of `2^level` tokens that ends with token `end`.
    fn block(&self, level: usize, end: u64) -> usize {
        if end <= self.start { self.old(level) } else { self.new_node(end, level as u64) }
    }

    /// The prefix of `end` tokens. That of a power of two is the block.
    pub fn prefix(&self, end: u64) -> usize {
        if end.is_power_of_two() {
            self.block(top(end), end)
        } else if end <= self.start {
            self.old(end.trailing_zeros() as usize) + 1
        } else {
            self.new_node(end, u64::from(end.trailing_zeros()) + 1)
        }
    }

    /// The block of the bit `level` of `start`; its prefix has the next number.
    fn old(&self, level: usize) -> usize {
        self.base + 2 * (self.start >> level >> 1).count_ones() as usize
    }

    fn new_node(&self, end: u64, place: u64) -> usize {
        self.base + (self.held + nodes_through(end - 1) - self.before + place) as usize
    }

    /// The step of the prefix of `end` tokens, more than `start` and no power of two.
    fn prefix_step(&self, end: u64) -> usize {
        // From the highest bit where `end` and `start` differ, the blocks are new; what is above is an old prefix.
        // The new block of level `l` is there after step `l`. Levels descend, so only the first fold can wait for
        // its block, and each of the others adds a step.
        let first = top(end ^ self.start);
        let above = end >> first >> 1;
        let folded = (end ^ (above << first << 1)).count_ones() as usize;
        if above == 0 { first + folded - 1 } else { first + folded }
    }

    /// Every merge that could be wanted, in the order of the tokens they end with; each after those it reads.
    pub fn merges(&self) -> impl DoubleEndedIterator<Item = Merge> + '_ {
        (self.start + 1..=self.end).flat_map(move |end| {
            let lowest = end.trailing_zeros() as usize;
            let blocks = (1..=lowest).map(move |level| {
                let half = level - 1;
                let parts = [self.block(half, end - (1 << half)), self.block(half, end)];
                Merge { node: self.block(level, end), step: level, parts }
            });
            let prefix = (!end.is_power_of_two()).then(|| {
                let parts = [self.prefix(end - (1 << lowest)), self.block(lowest, end)];
                Merge { node: self.prefix(end), step: self.prefix_step(end), parts }
            });
            blocks.chain(prefix)
        })
    }

    /// What a counter of `position` tokens, `start` or `end`, holds: for each level from the largest its block, and
    /// the prefix through it. These two are one node for the largest.
    pub fn held(&self, position: u64) -> impl Iterator<Item = (usize, [usize; 2])> + '_ {
        levels(position).map(move |level| {
            let end = position >> level << level;
            (level, [self.block(level, end), self.prefix(end)])
        })
    }
}
