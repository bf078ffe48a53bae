//! From lengths and wanted outputs to a schedule: nodes are numbered ([`sequence`](super::sequence)), marked from the
//! outputs down, sorted by step, given slots. Lists hold node numbers until, last, they become slots.

use super::chain::Chain;
use super::counter::{LEVELS, check_position};
use super::sequence::Sequence;
use super::{Counter, Outputs, Schedule, Slots};
use crate::error::{Error, Result};
use crate::model::Recurrence;
use crate::room::reserve;

/// Whether a slot is used again once no merge reads it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Yes: inference.
    Reuse,
    /// No: training. Leaf `i` lies in slot `i`, merge `m` in slot `leaves + m`; of a sequential model in `1 + m`.
    Keep,
}

/// Most rows of a pass: indices of rows are 32 bits on every device.
const MOST_ROWS: usize = 1 << 31;
/// More than any step: the prefix of 2^48 - 1 tokens folds 48 blocks, the largest there after step 47.
const MOST_STEPS: usize = 2 * LEVELS;
/// What a stream may have beside three nodes a token: a block and a prefix that it held for each level, and a node for
/// each level that was not full yet.
const SPARE: usize = 3 * LEVELS;
/// In `last_read`: nobody wants it.
const UNWANTED: u32 = 0;
/// In `last_read`: read after the pass.
const KEPT: u32 = u32::MAX;

/// Makes schedules. It reuses its memory, and that of the schedule it fills: after the largest call, none that is
/// smaller allocates.
#[derive(Debug, Default)]
pub struct Planner {
    /// For each node, the last step that reads it, [`UNWANTED`] or [`KEPT`].
    last_read: Vec<u32>,
    /// For each node, its slot.
    slots: Vec<u32>,
    pub(super) free: Vec<u32>,
    sequences: Vec<Sequence>,
    recurrence: Recurrence,
    /// The sequences of a sequential model.
    pub(super) chains: Vec<Chain>,
}

impl Planner {
    /// A planner of trees, without memory yet.
    pub fn new() -> Self {
        Planner::default()
    }

    /// A planner for models of that recurrence, without memory yet.
    pub fn of(recurrence: Recurrence) -> Self {
        Planner { recurrence, ..Planner::default() }
    }

    /// A batch of `batch` sequences of `time` steps each.
    ///
    /// # Errors
    /// [`Error::Argument`] if a size is 0, the sequence has not such outputs, or the pass could have more than 2^31
    /// rows, of which a token has up to three. The schedule is as it was then.
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
        check_rows("batch, time", batch, std::iter::once(time))?;
        self.whole(schedule, batch, &[time], outputs, rows)
    }

    /// A batch of sequences of these lengths, none padded: width 1. Leaves and outputs are those of the first
    /// sequence, then those of the second, and so on.
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
        if let Some(sequence) = lengths.iter().position(|&length| length == 0) {
            return Err(Error::argument("lengths", "at least 1 step", format!("0 for sequence {sequence}")));
        }
        check_rows("lengths", 1, lengths.iter().copied())?;
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
        schedule.recurrence = self.recurrence;
        if self.recurrence == Recurrence::Sequential {
            return self.chains(schedule, width, lengths, outputs, rows);
        }
        let most = self.number(lengths.iter().map(|&length| (0, length as u64)), 0)?;
        schedule.outputs.clear();
        for (sequence, &length) in self.sequences.iter().zip(lengths) {
            for j in 0..outputs.count(length) {
                let node = sequence.prefix(outputs.position(length, j) as u64 + 1);
                self.last_read[node] = KEPT;
                schedule.outputs.push(node as u32);
            }
        }
        self.sort(schedule, most)?;
        schedule.width = width;
        match rows {
            Rows::Keep => {
                for (slot, &node) in (0..).zip(schedule.leaves.iter().chain(&schedule.out)) {
                    self.slots[node as usize] = slot;
                }
                schedule.slots = schedule.leaves.len() + schedule.out.len();
            }
            Rows::Reuse => {
                let mut next = 0;
                let mut free = std::mem::take(&mut self.free);
                free.clear();
                reserve(&mut free, most)?;
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

    /// Streams that grow, each by at least one token, over the slots of an arena: width 1. Leaves are the new tokens
    /// of the first stream, then those of the second, and so on; the outputs are the last prefix of each. What a
    /// stream holds is read where it lies; slots that none holds any more are free again. A token costs at most two
    /// merges amortised; alone it takes at most `log2 T + 1` steps, `T` its stream's tokens.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no stream or one gets no token or would have 2^48 tokens, or the arena has not
    /// [`Counter::append_slots`] free slots for each stream; [`Error::Unavailable`] for a planner of sequential models.
    /// Nothing was changed then.
    pub fn append(
        &mut self,
        schedule: &mut Schedule,
        arena: &mut Slots,
        streams: &mut [(&mut Counter, usize)],
    ) -> Result<()> {
        if self.recurrence != Recurrence::Tree {
            return Err(Error::Unavailable {
                what: "a stream of a sequential model".into(),
                why: "streams are of trees; run whole sequences in a session".into(),
            });
        }
        if streams.is_empty() {
            return Err(Error::argument("streams", "at least one", "none"));
        }
        if let Some(stream) = streams.iter().position(|(_, tokens)| *tokens == 0) {
            return Err(Error::argument("streams", "at least 1 token", format!("0 for stream {stream}")));
        }
        check_rows("streams", 1, streams.iter().map(|(_, tokens)| tokens.saturating_add(SPARE / 3)))?;
        for (counter, tokens) in streams.iter() {
            check_position(counter.position() + *tokens as u64)?;
        }
        let wanted: usize = streams.iter().map(|(_, tokens)| Counter::append_slots(*tokens)).sum();
        if wanted > arena.free() {
            let found = format!("{} of {}", arena.free(), arena.capacity());
            return Err(Error::argument("arena", format!("{wanted} free slots"), found));
        }

        let grown = streams.iter().map(|(counter, tokens)| {
            let start = counter.position();
            (start, start + *tokens as u64)
        });
        let most = self.number(grown, SPARE)?;
        schedule.outputs.clear();
        for (sequence, (counter, _)) in self.sequences.iter().zip(streams.iter()) {
            for (level, nodes) in sequence.held(sequence.start) {
                for (node, slot) in nodes.into_iter().zip(counter.at(level)) {
                    self.slots[node] = slot;
                }
            }
            for node in sequence.held(sequence.end).flat_map(|(_, nodes)| nodes) {
                self.last_read[node] = KEPT;
            }
            schedule.outputs.push(sequence.prefix(sequence.end) as u32);
        }
        self.sort(schedule, most)?;
        // What was held and nothing reads is free from the start.
        for sequence in &self.sequences {
            for node in sequence.held(sequence.start).flat_map(|(_, [block, prefix])| {
                std::iter::once(block).chain((prefix != block).then_some(prefix))
            }) {
                if self.last_read[node] == UNWANTED {
                    arena.give(self.slots[node]);
                }
            }
        }
        schedule.recurrence = self.recurrence;
        schedule.width = 1;
        schedule.slots = arena.capacity();
        self.assign(schedule, &mut arena.free, |free| {
            free.pop().expect("`append_slots` bounds what is taken at a time")
        });
        for (sequence, (counter, _)) in self.sequences.iter().zip(streams) {
            let slots = &self.slots;
            let held =
                sequence.held(sequence.end).map(|(level, nodes)| (level, nodes.map(|node| slots[node])));
            counter.set(sequence.end, held);
        }
        self.translate(schedule);
        Ok(())
    }

    /// Numbers the nodes of all sequences; none is wanted yet. Returns the most nodes that as many tokens of as many
    /// sequences can have, `spare` and three a token: for so many memory is taken, whatever is planned now.
    fn number(&mut self, sequences: impl Iterator<Item = (u64, u64)>, spare: usize) -> Result<usize> {
        self.sequences.clear();
        let (mut nodes, mut most) = (0, 0);
        for (start, end) in sequences {
            let sequence = Sequence::new(start, end, nodes);
            nodes += sequence.nodes();
            most += 3 * (end - start) as usize + spare;
            self.sequences.push(sequence);
        }
        for (list, value) in [(&mut self.last_read, UNWANTED), (&mut self.slots, 0)] {
            list.clear();
            reserve(list, most)?;
            list.resize(nodes, value);
        }
        Ok(most)
    }

    /// Marks what the kept nodes are made of, and lists leaves and merges: by step, then by sequence, then by the
    /// position they end at. Takes memory for the merges of `most` nodes.
    fn sort(&mut self, schedule: &mut Schedule, most: usize) -> Result<()> {
        let Planner { last_read, sequences, .. } = self;
        let mut counts = [0u32; MOST_STEPS];
        // Readers before what they read.
        for sequence in sequences.iter() {
            sequence.merges().rev().for_each(|merge| {
                if last_read[merge.node] != UNWANTED {
                    counts[merge.step] += 1;
                    for part in merge.parts {
                        last_read[part] = last_read[part].max(merge.step as u32);
                    }
                }
            });
        }
        let Schedule { leaves, left, right, out, step_ends, .. } = schedule;
        leaves.clear();
        leaves.extend(sequences.iter().flat_map(|sequence| sequence.leaves()).map(|node| node as u32));
        let mut cursors = [0u32; MOST_STEPS];
        let mut end = 0;
        step_ends.clear();
        reserve(step_ends, MOST_STEPS)?;
        // No step is empty before the last one: a merge runs right after one of its parts.
        for (cursor, &count) in cursors.iter_mut().zip(&counts).skip(1).take_while(|(_, count)| **count > 0) {
            *cursor = end;
            end += count;
            step_ends.push(end);
        }
        for list in [&mut *left, &mut *right, &mut *out] {
            list.clear();
            // Pruned, a shorter sequence may have more merges than a longer one.
            reserve(list, most - leaves.len())?;
            list.resize(end as usize, 0);
        }
        for sequence in sequences.iter() {
            sequence.merges().for_each(|merge| {
                if last_read[merge.node] != UNWANTED {
                    let place = cursors[merge.step] as usize;
                    cursors[merge.step] += 1;
                    left[place] = merge.parts[0] as u32;
                    right[place] = merge.parts[1] as u32;
                    out[place] = merge.node as u32;
                }
            });
        }
        Ok(())
    }

    /// Gives every node a slot, and slots back after the last step that reads them.
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
            if last_read[leaf as usize] == UNWANTED {
                free.push(slots[leaf as usize]);
            }
        }
        for (number, step) in (1..).zip(schedule.steps()) {
            // All that the step writes is taken before anything that it reads is given back.
            for &node in step.out {
                slots[node as usize] = take(free);
            }
            for &node in step.left.iter().chain(step.right) {
                let last_read = &mut last_read[node as usize];
                if *last_read == number {
                    // Given back once, though the step may read it often.
                    *last_read = UNWANTED;
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

/// Refuses passes whose nodes or rows 32 bits cannot number.
fn check_rows(argument: &str, width: usize, mut lengths: impl Iterator<Item = usize>) -> Result<()> {
    let tokens = lengths
        .try_fold(0usize, |sum, length| sum.checked_add(length))
        .and_then(|tokens| tokens.checked_mul(width));
    match tokens {
        // Leaves, blocks and prefixes: fewer than three nodes a token.
        Some(tokens) if tokens <= MOST_ROWS / 3 => Ok(()),
        _ => {
            let found = tokens.map_or("more than a machine can count".into(), |tokens| tokens.to_string());
            let most = MOST_ROWS / 3;
            let expected =
                format!("at most {most} tokens in a pass: take a smaller batch or shorter sequences");
            Err(Error::argument(argument, expected, found))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacities(planner: &Planner, schedule: &Schedule) -> Vec<usize> {
        let Planner { last_read, slots, free, sequences, chains, recurrence: _ } = planner;
        let Schedule { leaves, left, right, out, step_ends, outputs, .. } = schedule;
        let lists = [last_read, slots, free, leaves, left, right, out, step_ends, outputs].map(Vec::capacity);
        [&lists[..], &[sequences.capacity(), chains.capacity()]].concat()
    }

    #[test]
    fn smaller_passes_allocate_nothing_after_the_largest() {
        for outputs in [Outputs::All, Outputs::Last, Outputs::LastN(2), Outputs::At(vec![0, 2])] {
            for (rows, recurrence) in [
                (Rows::Reuse, Recurrence::Tree),
                (Rows::Keep, Recurrence::Tree),
                (Rows::Reuse, Recurrence::Sequential),
                (Rows::Keep, Recurrence::Sequential),
            ] {
                let (mut planner, mut schedule) = (Planner::of(recurrence), Schedule::default());
                planner.ragged(&mut schedule, &[300; 5], &outputs, rows).expect("a pass");
                let most = capacities(&planner, &schedule);
                for time in 3..=300 {
                    planner.padded(&mut schedule, 5, time, &outputs, rows).expect("a pass");
                    planner
                        .ragged(&mut schedule, &[time, 300, 3, 301 - time.min(298), 255], &outputs, rows)
                        .expect("a pass");
                    assert_eq!(capacities(&planner, &schedule), most, "{outputs:?} at {time}");
                }
            }
        }
    }

    #[test]
    fn streams_allocate_nothing_after_the_largest_call() {
        let (mut planner, mut schedule, mut arena) = (Planner::new(), Schedule::default(), Slots::new(500));
        let mut counters = [(); 7].map(|()| Counter::new());
        let room = arena.free.capacity();
        let mut most = None;
        // The first call is of empty streams; they get up to 9 levels.
        for tokens in [1; 512] {
            let mut streams = counters.each_mut().map(|counter| (counter, tokens));
            planner.append(&mut schedule, &mut arena, &mut streams).expect("free slots");
            let now = capacities(&planner, &schedule);
            assert_eq!(*most.get_or_insert(now.clone()), now);
        }
        assert_eq!(arena.free.capacity(), room);
    }
}
