//! A schedule: which slots are merged into which, step by step, and who reads a slot.

use crate::error::Result;
use crate::model::Recurrence;
use crate::room::reserve;

/// Steps of merges over slots. A slot is `width` consecutive rows of `h` and of `c`: row = slot · width + lane.
///
/// That of a sequential model has a merge a time step: on the left the slot of the prefix before, slot 0 for the zeros
/// that a sequence starts from, on the right the leaf, which is an input row and no slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    pub(super) recurrence: Recurrence,
    pub(super) width: usize,
    pub(super) slots: usize,
    pub(super) leaves: Vec<u32>,
    pub(super) left: Vec<u32>,
    pub(super) right: Vec<u32>,
    pub(super) out: Vec<u32>,
    pub(super) step_ends: Vec<u32>,
    pub(super) outputs: Vec<u32>,
}

/// One step: merges that do not depend on each other. No `out` is a slot that the step reads.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Index, in the pass, of the step's first merge.
    pub first: usize,
    /// Slots of the earlier neighbours.
    pub left: &'a [u32],
    /// Slots of the later neighbours; of a sequential model leaves.
    pub right: &'a [u32],
    /// Slots that are written.
    pub out: &'a [u32],
}

impl Schedule {
    /// One merge of `width` rows and nothing else, slots 0 and 1 into 2: what a benchmark times.
    #[cfg(feature = "tasks")]
    pub(crate) fn one_step(width: usize) -> Self {
        let (left, right, out) = (vec![0], vec![1], vec![2]);
        Schedule { width, slots: 3, left, right, out, step_ends: vec![1], ..Schedule::default() }
    }

    /// Of which models this is a schedule.
    pub fn recurrence(&self) -> Recurrence {
        self.recurrence
    }

    /// Rows of a slot: `B` for a padded batch, 1 for ragged batches and streams.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Slots that the pass needs; those of the arena for streams.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The slot of each leaf, those included that no wanted output needs: leaves are the rows of the input. That of
    /// leaf `i`, lane `b` is `b · leaves + i`: `[B, T]`, batch first, or sequences one after another. Leaves run
    /// before the first step, all at once. Those of a sequential model are numbers of input rows, from 0, not slots.
    pub fn leaves(&self) -> &[u32] {
        &self.leaves
    }

    /// Merges of slots; each is `width` merges of rows.
    pub fn merges(&self) -> usize {
        self.out.len()
    }

    /// The slot of each output. The row of `hidden` of output `j`, lane `b` is `b · outputs + j`.
    pub fn outputs(&self) -> &[u32] {
        &self.outputs
    }

    /// The earlier neighbour of each merge, in the order of the steps.
    pub fn left(&self) -> &[u32] {
        &self.left
    }

    /// The later neighbour of each merge; of a sequential model its leaf.
    pub fn right(&self) -> &[u32] {
        &self.right
    }

    /// The slot that each merge writes.
    pub fn out(&self) -> &[u32] {
        &self.out
    }

    /// The end of each step in the lists of merges.
    pub fn step_ends(&self) -> &[u32] {
        &self.step_ends
    }

    /// Entries that all lists have room for: a list made for so many is never too small for a schedule that
    /// fits the memory of this one.
    #[cfg(feature = "cuda")]
    pub(crate) fn room(&self) -> usize {
        let Schedule { leaves, left, right, out, step_ends, outputs, .. } = self;
        [leaves, left, right, out, step_ends, outputs].map(Vec::capacity).iter().sum()
    }

    /// The steps, first to last. In one, merges are sorted by sequence, then by the position they end at.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = Step<'_>> + ExactSizeIterator {
        (0..self.step_ends.len()).map(|step| {
            let first = if step == 0 { 0 } else { self.step_ends[step - 1] as usize };
            let merges = first..self.step_ends[step] as usize;
            Step {
                first,
                left: &self.left[merges.clone()],
                right: &self.right[merges.clone()],
                out: &self.out[merges],
            }
        })
    }
}

impl Schedule {
    /// Copies into the memory that the lists have; makes room for as much as the other's have room for.
    pub(crate) fn copy_from(&mut self, other: &Self) -> Result<()> {
        let Schedule { recurrence, width, slots, leaves, left, right, out, step_ends, outputs } = self;
        (*recurrence, *width, *slots) = (other.recurrence, other.width, other.slots);
        for (to, from) in [
            (leaves, &other.leaves),
            (left, &other.left),
            (right, &other.right),
            (out, &other.out),
            (step_ends, &other.step_ends),
            (outputs, &other.outputs),
        ] {
            to.clear();
            reserve(to, from.capacity())?;
            to.extend_from_slice(from);
        }
        Ok(())
    }
}

/// Who reads each slot of a tree's schedule whose slots are written once ([`Rows::Keep`](super::Rows::Keep)).
#[derive(Debug, Default)]
pub struct Readers {
    starts: Vec<u32>,
    readers: Vec<u32>,
}

impl Readers {
    /// Fills this with the readers of a schedule; allocates only if it was never as large.
    pub fn fill(&mut self, schedule: &Schedule) {
        let Readers { starts, readers } = self;
        starts.clear();
        starts.resize(schedule.slots + 1, 0);
        let reads = || schedule.left.iter().zip(&schedule.right).flat_map(|(&left, &right)| [left, right]);
        reads().for_each(|slot| starts[slot as usize + 1] += 1);
        for slot in 0..schedule.slots {
            starts[slot + 1] += starts[slot];
        }
        readers.clear();
        readers.resize(2 * schedule.merges(), 0);
        // Each start moves to its end while its readers are placed, and is moved back.
        for (reader, slot) in (0..).zip(reads()) {
            readers[starts[slot as usize] as usize] = reader;
            starts[slot as usize] += 1;
        }
        starts.rotate_right(1);
        starts[0] = 0;
    }

    /// Where the readers of each slot begin among [`all`](Self::all), and at last where they end.
    #[cfg(feature = "cuda")]
    pub(crate) fn starts(&self) -> &[u32] {
        &self.starts
    }

    /// The readers of all slots, one slot's after another's.
    #[cfg(feature = "cuda")]
    pub(crate) fn all(&self) -> &[u32] {
        &self.readers
    }

    /// The readers of a slot, in the order of the pass: `2 · merge + side`, where side 0 is left and 1 right.
    pub fn of_slot(&self, slot: usize) -> &[u32] {
        &self.readers[self.starts[slot] as usize..self.starts[slot + 1] as usize]
    }
}
