//! From lengths and wanted outputs to a schedule. Every sequence is a number that counts from `start` to `end`;
//! a whole pass counts from 0. Nodes are numbered, marked from the outputs down, sorted by step, given slots.

use super::counter::{LEVELS, levels, top};
use super::{Counter, Outputs, Schedule, Slots};
use crate::error::{Error, Result};

/// Whether a slot is used again once no merge reads it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Yes: inference.
    Reuse,
    /// No: training. Leaf `i` lies in slot `i`, merge `m` in slot `leaves + m`.
    Keep,
}

/// Most rows of a pass: indices of rows are 32 bits on every device.
const MOST_ROWS: usize = 1 << 31;
/// Steps that a tree of [`LEVELS`] levels can have.
const MOST_STEPS: usize = 2 * LEVELS + 2;
/// In `last_read`: an output, read after the pass.
const KEPT: u32 = u32::MAX;

/// Makes schedules; its own memory is used again.
#[derive(Debug, Default)]
pub struct Planner {
    /// For each node, the last step that reads it: 0 if it is not wanted, [`KEPT`] for an output.
    last_read: Vec<u32>,
    /// For each node, its slot.
    slots: Vec<u32>,
    free: Vec<u32>,
    sequences: Vec<Sequence>,
}

/// A sequence that grows from `start` tokens to `end`, and how its nodes are numbered: leaves, blocks level by
/// level, prefixes, then what was there before.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    start: u64,
    end: u64,
    /// Number of its first node.
    base: usize,
    /// Number of the first block of each level, relative to `base`, less the blocks before `start`.
    level_base: [u64; LEVELS + 1],
    prefix_base: u64,
    before_base: u64,
}

impl Sequence {
    fn new(start: u64, end: u64, base: usize) -> Self {
        let mut level_base = [0; LEVELS + 1];
        let mut next = 0;
        for (level, base) in level_base.iter_mut().enumerate() {
            *base = next;
            next += (end >> level) - (start >> level);
        }
        let before_base = next + (end - start);
        Sequence { start, end, base, level_base, prefix_base: next, before_base }
    }

    /// Nodes, with two for each level that may have been there before.
    fn nodes(&self) -> usize {
        self.before_base as usize + if self.start == 0 { 0 } else { 2 * LEVELS }
    }

    fn leaves(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// The block of `2^level` tokens that ends at `end`.
    fn block(&self, level: usize, end: u64) -> usize {
        let offset = if end <= self.start {
            self.before_base + level as u64
        } else {
            self.level_base[level] + (end >> level) - 1 - (self.start >> level)
        };
        self.base + offset as usize
    }

    /// The prefix of `end` tokens.
    fn prefix(&self, end: u64) -> usize {
        if end.is_power_of_two() {
            return self.block(top(end), end);
        }
        let offset = if end <= self.start {
            self.before_base + LEVELS as u64 + u64::from(end.trailing_zeros())
        } else {
            self.prefix_base + end - 1 - self.start
        };
        self.base + offset as usize
    }

    /// The two parts of the prefix of `end` tokens, which is not a power of two: node numbers, earlier first.
    fn prefix_parts(&self, end: u64) -> [usize; 2] {
        let level = end.trailing_zeros() as usize;
        [self.prefix(end - (1 << level)), self.block(level, end)]
    }

    /// The two halves of a block.
    fn block_parts(&self, level: usize, end: u64) -> [usize; 2] {
        let half = level - 1;
        [self.block(half, end - (1 << half)), self.block(half, end)]
    }

    /// The step after which the prefix of `end` tokens is there.
    fn prefix_step(&self, end: u64) -> usize {
        if end <= self.start {
            return 0;
        }
        // A block of `2^k` new tokens is there after step `k`; each fold adds a step to the later of its parts.
        let mut known = 0;
        let mut step = 0;
        for level in levels(end) {
            known += 1 << level;
            if known <= self.start {
                continue;
            }
            step = if known == 1 << level { level } else { step.max(level) + 1 };
        }
        step
    }

    /// Every merge that could be wanted, in a fixed order: blocks level by level, then prefixes.
    fn for_each_merge(&self, mut f: impl FnMut(usize, usize, [usize; 2])) {
        for level in 1..LEVELS {
            for block in (self.start >> level) + 1..=self.end >> level {
                let end = block << level;
                f(self.block(level, end), level, self.block_parts(level, end));
            }
            if self.end >> level == 0 {
                break;
            }
        }
        for end in self.start + 1..=self.end {
            if !end.is_power_of_two() {
                let node = self.prefix(end);
                f(node, self.prefix_step(end), self.prefix_parts(end));
            }
        }
    }
}

impl Planner {
    /// A planner without memory yet.
    pub fn new() -> Self {
        Planner::default()
    }

    /// A batch of `batch` sequences of `time` steps each.
    ///
    /// # Errors
    /// [`Error::Argument`] if a size is 0, the sequence has no such outputs, or the pass has more than 2^31 rows.
    pub fn padded(
        &mut self,
        schedule: &mut Schedule,
        batch: usize,
        time: usize,
        outputs: &Outputs,
        rows: Rows,
    ) -> Result<()> {
        for (name, size) in [("batch", batch), ("time", time)] {
            if size == 0 {
                return Err(Error::argument(name, "at least 1", 0));
            }
        }
        check_rows(batch, std::iter::once(time))?;
        self.whole(schedule, batch, &[time], outputs, rows)
    }

    /// A batch of sequences of these lengths, none padded: width 1.
    ///
    /// # Errors
    /// As [`padded`](Self::padded).
    pub fn ragged(
        &mut self,
        schedule: &mut Schedule,
        lengths: &[usize],
        outputs: &Outputs,
        rows: Rows,
    ) -> Result<()> {
        if lengths.is_empty() {
            return Err(Error::argument("lengths", "at least one sequence", "none"));
        }
        if let Some(index) = lengths.iter().position(|&length| length == 0) {
            return Err(Error::argument(format!("length of sequence {index}"), "at least 1", 0));
        }
        check_rows(1, lengths.iter().copied())?;
        self.whole(schedule, 1, lengths, outputs, rows)
    }

    fn whole(
        &mut self,
        schedule: &mut Schedule,
        width: usize,
        lengths: &[usize],
        outputs: &Outputs,
        rows: Rows,
    ) -> Result<()> {
        for (sequence, &length) in lengths.iter().enumerate() {
            outputs.check(sequence, length)?;
        }
        self.number(lengths.iter().map(|&length| (0, length as u64)));
        schedule.outputs.clear();
        for (sequence, &length) in self.sequences.iter().zip(lengths) {
            for j in 0..outputs.count(length) {
                let node = sequence.prefix(outputs.position(length, j) as u64 + 1);
                self.last_read[node] = KEPT;
                schedule.outputs.push(node as u32);
            }
        }
        self.sort(schedule);
        schedule.width = width;
        match rows {
            Rows::Keep => {
                let leaves = schedule.leaves.len();
                for (slot, &node) in schedule.leaves.iter().chain(&schedule.out).enumerate() {
                    self.slots[node as usize] = slot as u32;
                }
                schedule.slots = leaves + schedule.out.len();
            }
            Rows::Reuse => {
                let mut next = 0;
                self.free.clear();
                let mut free = std::mem::take(&mut self.free);
                self.assign(schedule, &mut free, |free| {
                    free.pop().unwrap_or_else(|| {
                        next += 1;
                        next - 1
                    })
                });
                self.free = free;
                schedule.slots = next as usize;
            }
        }
        self.translate(schedule);
        Ok(())
    }

    /// Streams that grow, each by at least one token, over the slots of an arena: width 1. The outputs are the last
    /// prefix of each stream. Slots that no stream holds any more are free again.
    ///
    /// # Errors
    /// [`Error::Argument`] if nothing is appended, a stream would pass 2^48 tokens, or the arena has not
    /// [`Counter::append_slots`] free slots for each stream. Nothing was changed then.
    pub fn append(
        &mut self,
        schedule: &mut Schedule,
        arena: &mut Slots,
        streams: &mut [(&mut Counter, usize)],
    ) -> Result<()> {
        if streams.is_empty() || streams.iter().any(|(_, tokens)| *tokens == 0) {
            return Err(Error::argument("streams", "at least one, each with a token", "none"));
        }
        check_rows(1, streams.iter().map(|(_, tokens)| *tokens))?;
        if let Some((counter, tokens)) =
            streams.iter().find(|(counter, tokens)| counter.position + *tokens as u64 >= 1 << LEVELS)
        {
            let found = format!("{} and {tokens} more", counter.position);
            return Err(Error::argument("position", format!("below 2^{LEVELS}"), found));
        }
        let wanted: usize = streams.iter().map(|(_, tokens)| Counter::append_slots(*tokens)).sum();
        if wanted > arena.free() {
            return Err(Error::argument("arena", format!("{wanted} free slots"), arena.free()));
        }
        let grown =
            |(counter, tokens): &(&mut Counter, usize)| (counter.position, counter.position + *tokens as u64);
        self.number(streams.iter().map(grown));
        schedule.outputs.clear();
        for (sequence, (counter, _)) in self.sequences.iter().zip(streams.iter()) {
            // What the counter held lies in its slots, what it will hold is kept.
            for (slot, node) in counter.slots().zip(held(sequence, sequence.start)) {
                self.slots[node] = slot;
            }
            for node in held(sequence, sequence.end) {
                self.last_read[node] = KEPT;
            }
            schedule.outputs.push(sequence.prefix(sequence.end) as u32);
        }
        self.sort(schedule);
        for sequence in &self.sequences {
            for node in held(sequence, sequence.start) {
                if self.last_read[node] == 0 {
                    arena.give(self.slots[node]);
                }
            }
        }
        schedule.width = 1;
        schedule.slots = arena.capacity();
        // Enough were free: `append_slots` bounds what is taken at any time.
        self.assign(schedule, &mut arena.free, |free| free.pop().unwrap_or(0));
        for (sequence, (counter, _)) in self.sequences.iter().zip(streams) {
            counter.position = sequence.end;
            let mut known = 0;
            for level in levels(sequence.end) {
                known += 1 << level;
                counter.blocks[level] = self.slots[sequence.block(level, known)];
                counter.prefixes[level] = self.slots[sequence.prefix(known)];
            }
        }
        self.translate(schedule);
        Ok(())
    }

    /// Numbers the nodes of all sequences.
    fn number(&mut self, sequences: impl Iterator<Item = (u64, u64)>) {
        self.sequences.clear();
        let mut nodes = 0;
        for (start, end) in sequences {
            let sequence = Sequence::new(start, end, nodes);
            nodes += sequence.nodes();
            self.sequences.push(sequence);
        }
        self.last_read.clear();
        self.last_read.resize(nodes, 0);
        self.slots.clear();
        self.slots.resize(nodes, 0);
    }

    /// Marks what the kept nodes are made of, and lists leaves and merges, by step, as node numbers.
    fn sort(&mut self, schedule: &mut Schedule) {
        let Planner { last_read, sequences, .. } = self;
        let mut counts = [0u32; MOST_STEPS];
        let mut read = |last_read: &mut Vec<u32>, node: usize, step: usize, parts: [usize; 2]| {
            if last_read[node] != 0 {
                counts[step] += 1;
                for part in parts {
                    last_read[part] = last_read[part].max(step as u32);
                }
            }
        };
        // Readers before what they read: prefixes from the last, then blocks from the largest.
        for sequence in sequences.iter() {
            for end in (sequence.start + 1..=sequence.end).rev() {
                if !end.is_power_of_two() {
                    let step = sequence.prefix_step(end);
                    read(last_read, sequence.prefix(end), step, sequence.prefix_parts(end));
                }
            }
            for level in (1..LEVELS).rev() {
                for block in (sequence.start >> level) + 1..=sequence.end >> level {
                    let end = block << level;
                    read(last_read, sequence.block(level, end), level, sequence.block_parts(level, end));
                }
            }
        }
        let steps = counts.iter().rposition(|&count| count > 0).unwrap_or(0);
        let Schedule { leaves, left, right, out, step_ends, .. } = schedule;
        step_ends.clear();
        step_ends.extend(counts[1..=steps].iter().scan(0, |end, count| {
            *end += count;
            Some(*end)
        }));
        let merges = step_ends.last().copied().unwrap_or(0) as usize;
        for list in [&mut *left, &mut *right, &mut *out] {
            list.clear();
            list.resize(merges, 0);
        }
        let mut cursors = [0u32; MOST_STEPS];
        cursors[2..].iter_mut().zip(&*step_ends).for_each(|(cursor, &end)| *cursor = end);
        leaves.clear();
        for sequence in sequences.iter() {
            leaves
                .extend((1..=sequence.leaves() as u64).map(|i| sequence.block(0, sequence.start + i) as u32));
            sequence.for_each_merge(|node, step, parts| {
                if last_read[node] != 0 {
                    let merge = cursors[step] as usize;
                    cursors[step] += 1;
                    [left[merge], right[merge], out[merge]] = [parts[0] as u32, parts[1] as u32, node as u32];
                }
            });
        }
    }

    /// Gives every node a slot, and slots back once nothing reads them.
    fn assign(
        &mut self,
        schedule: &Schedule,
        free: &mut Vec<u32>,
        mut take: impl FnMut(&mut Vec<u32>) -> u32,
    ) {
        let Planner { last_read, slots, .. } = self;
        for &leaf in &schedule.leaves {
            slots[leaf as usize] = take(free);
        }
        for &leaf in &schedule.leaves {
            if last_read[leaf as usize] == 0 {
                free.push(slots[leaf as usize]);
            }
        }
        for (number, step) in (1..).zip(schedule.steps()) {
            for &node in step.out {
                slots[node as usize] = take(free);
            }
            for &node in step.left.iter().chain(step.right) {
                if last_read[node as usize] == number {
                    last_read[node as usize] = 0;
                    free.push(slots[node as usize]);
                }
            }
        }
    }

    /// Node numbers become slots.
    fn translate(&self, schedule: &mut Schedule) {
        let Schedule { leaves, left, right, out, outputs, .. } = schedule;
        for list in [leaves, left, right, out, outputs] {
            list.iter_mut().for_each(|node| *node = self.slots[*node as usize]);
        }
    }
}

/// The nodes that a counter of `position` tokens holds, in the order of [`Counter::slots`].
fn held(sequence: &Sequence, position: u64) -> impl Iterator<Item = usize> + use<> {
    let sequence = *sequence;
    levels(position).flat_map(move |level| {
        let known = position >> level << level;
        let prefix = (level != top(position)).then(|| sequence.prefix(known));
        std::iter::once(sequence.block(level, known)).chain(prefix)
    })
}

/// Refuses passes whose rows 32 bits cannot number.
fn check_rows(width: usize, mut lengths: impl Iterator<Item = usize>) -> Result<()> {
    let rows = lengths
        .try_fold(0usize, |sum, length| sum.checked_add(length))
        // leaves, blocks and prefixes: three nodes a token at most, and what streams held before
        .and_then(|tokens| tokens.checked_mul(3)?.checked_mul(width));
    match rows {
        Some(rows) if rows <= MOST_ROWS => Ok(()),
        _ => {
            let expected = "at most 2^31 / 3 tokens in one pass: take smaller batches or shorter sequences";
            Err(Error::argument("batch · time", expected, "more"))
        }
    }
}
