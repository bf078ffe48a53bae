//! A schedule as the kernels want it: one buffer of slot lists on the device, a list of steps on the host, and where each
//! matrix lies in a workspace. Launches nothing.

use cudarc::driver::CudaSlice;

use super::Cuda;
use super::storage::{ALIGNMENT, Sizes};
use crate::backend::check::ScheduleCheck;
use crate::backend::{Backend as _, Pass};
use crate::error::{Error, Result};
use crate::model::Config;
use crate::tree::Schedule;

/// Most rows of a launch of a step: what goes from the merge to a unary layer stays in the second-level cache.
pub(super) const MOST_ROWS: usize = 16384;
/// Bytes of dense input that are brought into the storage at a time.
const MOST_INPUT: usize = 16 << 20;
/// In the word for bad tokens: none was met.
pub(super) const NO_TOKEN: u32 = u32::MAX;

/// A pass, planned.
#[derive(Debug)]
pub struct CudaPlan {
    pub(super) config: Config,
    pub(super) pass: Pass,
    pub(super) sizes: Sizes,
    /// Rows of a slot.
    pub(super) width: usize,
    pub(super) slots: usize,
    pub(super) leaves: usize,
    pub(super) merges: usize,
    pub(super) outputs: usize,
    /// The end of each step among the merges.
    pub(super) step_ends: Vec<usize>,
    /// On the device: the word for bad tokens, then `left`, `right`, `out`, `leaves`, `outputs`.
    pub(super) lists: CudaSlice<u32>,
    /// The same on its way there.
    host: Vec<u32>,
    check: ScheduleCheck,
}

/// Where each matrix begins in a workspace, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Regions {
    pub h: usize,
    pub c: usize,
    /// `h` between two stages of a step.
    pub between: [usize; 2],
    /// Dense input in the storage; before the first step, so it lies where `between` will.
    pub input: usize,
    pub end: usize,
}

impl CudaPlan {
    pub(super) fn new(cuda: &Cuda, config: &Config, pass: Pass, schedule: &Schedule) -> Result<Self> {
        config.layout()?;
        let mut plan = CudaPlan {
            config: config.clone(),
            pass,
            sizes: Sizes::new(config, cuda.storage()),
            width: 0,
            slots: 0,
            leaves: 0,
            merges: 0,
            outputs: 0,
            step_ends: Vec::new(),
            lists: cuda.alloc(room(schedule))?,
            host: Vec::new(),
            check: ScheduleCheck::default(),
        };
        plan.fill(cuda, schedule)?;
        match plan.regions().end {
            usize::MAX => {
                let found = "a pass larger than that: use smaller batches";
                Err(Error::argument("workspace", "fewer than 2^63 bytes", found))
            }
            _ => Ok(plan),
        }
    }

    /// Takes another schedule over. On an error the plan is the one it was.
    pub(super) fn fill(&mut self, cuda: &Cuda, schedule: &Schedule) -> Result<()> {
        cuda.outside_capture("plan a pass")?;
        self.check.check(schedule, self.pass)?;
        let rows = schedule.slots().max(schedule.leaves().len()).max(schedule.merges());
        let rows = rows.max(schedule.outputs().len()).checked_mul(schedule.width());
        if rows.is_none_or(|rows| rows > 1 << 31) {
            let expected = "at most 2^31 rows: use a smaller batch or shorter sequences";
            return Err(Error::argument("schedule", expected, format!("slots of {} rows", schedule.width())));
        }
        let CudaPlan { host, lists, step_ends, .. } = self;
        if lists.len() < room(schedule) {
            *lists = cuda.alloc(room(schedule))?;
        }
        host.clear();
        host.reserve(room(schedule));
        host.push(NO_TOKEN);
        for list in [schedule.left(), schedule.right(), schedule.out(), schedule.leaves(), schedule.outputs()]
        {
            host.extend_from_slice(list);
        }
        cuda.upload(host, lists.slice_mut(..host.len()))?;
        step_ends.clear();
        step_ends.extend(schedule.step_ends().iter().map(|&end| end as usize));
        self.width = schedule.width();
        self.slots = schedule.slots();
        self.leaves = schedule.leaves().len();
        self.merges = schedule.merges();
        self.outputs = schedule.outputs().len();
        Ok(())
    }

    pub(super) fn leaf_rows(&self) -> usize {
        self.leaves * self.width
    }

    pub(super) fn output_rows(&self) -> usize {
        self.outputs * self.width
    }

    /// The steps: the first merge of each, and how many there are.
    pub(super) fn steps(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let starts = std::iter::once(0).chain(self.step_ends.iter().copied());
        starts.zip(&self.step_ends).map(|(start, &end)| (start, end - start))
    }

    /// Leaves, all lanes of each, whose dense input is brought into the storage at a time.
    pub(super) fn leaves_at_once(&self) -> usize {
        (self.input_rows_at_once() / self.width.max(1)).clamp(1, self.leaves.max(1))
    }

    /// Rows that a chunk of dense input may have: those of one leaf at least.
    fn input_rows_at_once(&self) -> usize {
        (MOST_INPUT / self.sizes.input_row).clamp(1, MOST_ROWS).max(self.width)
    }

    /// Where the matrices lie; every end is saturated where it overflows, and grows with every size of the schedule.
    pub(super) fn regions(&self) -> Regions {
        let Sizes { h_row, c_row, input_row, .. } = self.sizes;
        let bytes = |rows: usize, row: usize| {
            rows.saturating_mul(row).checked_next_multiple_of(ALIGNMENT).unwrap_or(usize::MAX)
        };
        // Streams keep their states in an arena.
        let rows = if self.pass == Pass::Stream { 0 } else { self.slots * self.width };
        let widest = self.steps().map(|(_, merges)| merges).max().unwrap_or(0) * self.width;
        let between = |stage: usize| {
            let rows = if self.config.unary_layers > stage { widest.min(MOST_ROWS) } else { 0 };
            bytes(rows, h_row)
        };
        let input = bytes(self.leaf_rows().min(self.input_rows_at_once()), input_row);
        let c = bytes(rows, h_row);
        let first = c.saturating_add(bytes(rows, c_row));
        let second = first.saturating_add(between(0));
        let end = second.saturating_add(between(1)).max(first.saturating_add(input));
        Regions { h: 0, c, between: [first, second], input: first, end }
    }

    /// Byte of `lists` at which entry `entry` of a list begins.
    pub(super) fn list(&self, list: List, entry: usize) -> usize {
        let before = match list {
            List::Left => 0,
            List::Right => self.merges,
            List::Out => 2 * self.merges,
            List::Leaves => 3 * self.merges,
            List::Outputs => 3 * self.merges + self.leaves,
        };
        4 * (1 + before + entry)
    }

    /// Entries of a list.
    pub(super) fn entries(&self, list: List) -> usize {
        match list {
            List::Left | List::Right | List::Out => self.merges,
            List::Leaves => self.leaves,
            List::Outputs => self.outputs,
        }
    }
}

/// A list of slots on the device.
#[derive(Clone, Copy, Debug)]
pub(super) enum List {
    Left,
    Right,
    Out,
    Leaves,
    Outputs,
}

/// Words that the lists of a schedule take, and those of any that needs no more memory than this one has.
fn room(schedule: &Schedule) -> usize {
    1 + schedule.room()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Random};
    use crate::tree::{Outputs, Planner, Rows};

    #[test]
    fn what_is_made_for_the_largest_batch_does_for_all() {
        if !std::env::var("PR_LSTM_TEST_GPU").is_ok_and(|value| value == "real") {
            virtual_gpu::load().expect("the virtual GPU was built with the tests");
        }
        let cuda = Cuda::new(0).expect("a device");
        let (most_batch, most_time) = (9, 40);
        for (input, unary, outputs) in [
            (3, 0, Outputs::Last),
            (3, 1, Outputs::All),
            (1 << 20, 2, Outputs::LastN(2)),
            (1, 2, Outputs::At(vec![0])),
        ] {
            let config = Config::new(input, 20, 2).unary_layers(unary);
            let (mut planner, mut schedule) = (Planner::new(), Schedule::default());
            let mut padded = |schedule: &mut Schedule, batch, time| {
                planner.padded(schedule, batch, time, &outputs, Rows::Reuse).expect("a schedule");
            };
            padded(&mut schedule, most_batch, most_time);
            let mut plan = CudaPlan::new(&cuda, &config, Pass::Infer, &schedule).expect("a plan");
            let mut most = plan.regions().end;
            let mut ragged = Planner::new();
            ragged
                .ragged(&mut schedule, &vec![most_time; most_batch], &outputs, Rows::Reuse)
                .expect("a schedule");
            plan.fill(&cuda, &schedule).expect("a plan");
            most = most.max(plan.regions().end);
            let words = plan.lists.len();
            let mut random = Random::new(3, Purpose::Show, input as u64, unary as u32);
            for _ in 0..200 {
                let lengths: Vec<usize> = (0..=random.below(most_batch as u32))
                    .take(most_batch)
                    .map(|_| 2 + random.below(most_time as u32 - 1) as usize)
                    .collect();
                if random.below(2) == 0 {
                    padded(&mut schedule, lengths.len(), lengths[0]);
                } else {
                    ragged.ragged(&mut schedule, &lengths, &outputs, Rows::Reuse).expect("a schedule");
                }
                plan.fill(&cuda, &schedule).expect("a plan");
                let bytes = plan.regions().end;
                assert!(bytes <= most, "{bytes} bytes for {lengths:?}, {most} for the largest");
                assert_eq!(plan.lists.len(), words, "lists grew for {lengths:?}");
                // No chunk of dense input is larger than its place.
                let chunk = plan.leaves_at_once() * plan.width * plan.sizes.input_row;
                assert!(plan.regions().input + chunk <= bytes);
            }
        }
    }
}
