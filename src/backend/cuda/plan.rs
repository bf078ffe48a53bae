//! A schedule as the kernels want it: one buffer of lists on the device, and a list of steps on the host. Launches nothing.

use cudarc::driver::CudaSlice;

use super::Cuda;
use super::storage::Sizes;
use super::walk::Walk;
use crate::backend::check::ScheduleCheck;
use crate::backend::{Backend as _, Pass};
use crate::error::{Error, Result};
use crate::model::Config;
use crate::tree::{Readers, Schedule};

/// Most rows of a launch of a step: what goes from the merge to a unary layer stays in the second-level cache.
pub(super) const MOST_ROWS: usize = 16384;
/// In the word for bad tokens: none was met.
pub(super) const NO_TOKEN: u32 = u32::MAX;
/// Words before the lists: the first is the one for bad tokens. The leaves write it, and launches that begin before they have
/// ended read lists: these share no 256 bytes with it.
const HEAD: usize = 64;

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
    /// How the steps run in one launch, if they do.
    pub(super) walk: Option<Walk>,
    /// On the device: the word for bad tokens, then each [`List`].
    pub(super) lists: CudaSlice<u32>,
    /// The same on its way there.
    host: Vec<u32>,
    readers: Readers,
    check: ScheduleCheck,
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
            walk: None,
            lists: cuda.alloc(room(schedule, pass))?,
            host: Vec::new(),
            readers: Readers::default(),
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
        self.check.check(&self.config, schedule, self.pass)?;
        let rows = schedule.slots().max(schedule.leaves().len()).max(schedule.merges());
        let rows = rows.max(schedule.outputs().len()).checked_mul(schedule.width());
        if rows.is_none_or(|rows| rows > 1 << 31) {
            let expected = "at most 2^31 rows: use a smaller batch or shorter sequences";
            return Err(Error::argument("schedule", expected, format!("slots of {} rows", schedule.width())));
        }
        let walk = Walk::choose(cuda, &self.config, &self.sizes, self.pass, schedule)?;
        let CudaPlan { pass, host, lists, readers, step_ends, .. } = self;
        let room = room(schedule, *pass);
        if lists.len() < room {
            *lists = cuda.alloc(room)?;
        }
        host.clear();
        host.reserve(room);
        host.resize(HEAD, NO_TOKEN);
        let merges = [schedule.left(), schedule.right(), schedule.out()];
        let rest = [schedule.leaves(), schedule.outputs(), schedule.step_ends()];
        for list in merges.into_iter().chain(rest) {
            host.extend_from_slice(list);
        }
        if pass.trains() {
            readers.fill(schedule);
            host.extend_from_slice(readers.starts());
            host.extend_from_slice(readers.all());
            let output_of = host.len();
            host.resize(output_of + schedule.slots(), 0);
            for (output, &slot) in (1..).zip(schedule.outputs()) {
                host[output_of + slot as usize] = output;
            }
        }
        cuda.upload(host, lists.slice_mut(..host.len()))?;
        step_ends.clear();
        step_ends.extend(schedule.step_ends().iter().map(|&end| end as usize));
        self.walk = walk;
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

    /// Rows of all merges.
    pub(super) fn merge_rows(&self) -> usize {
        self.merges * self.width
    }

    /// Byte of `lists` at which entry `entry` of a list begins.
    pub(super) fn list(&self, list: List, entry: usize) -> usize {
        let before: usize = self.entries()[..list as usize].iter().sum();
        4 * (HEAD + before + entry)
    }

    /// Entries of each list.
    pub(super) fn entries(&self) -> [usize; 9] {
        let CudaPlan { merges, leaves, outputs, .. } = *self;
        let [starts, readers, output_of] = match self.pass.trains() {
            true => [self.slots + 1, 2 * merges, self.slots],
            false => [0; 3],
        };
        let steps = self.step_ends.len();
        [merges, merges, merges, leaves, outputs, steps, starts, readers, output_of]
    }
}

/// A list on the device, in their order there.
#[derive(Clone, Copy, Debug)]
pub(super) enum List {
    Left,
    Right,
    Out,
    Leaves,
    Outputs,
    /// The end of each step among the merges.
    StepEnds,
    /// Where the readers of each slot begin; this and what follows only of a pass with a way back.
    ReaderStarts,
    Readers,
    /// Of each slot its output plus one, 0 where it is none.
    OutputOf,
}

/// Words that the lists of a schedule take, and those of any that needs no more memory than this one has.
fn room(schedule: &Schedule, pass: Pass) -> usize {
    let entries = schedule.room();
    match pass.trains() {
        // Two words a slot, and two a merge.
        true => HEAD + 1 + 2 * entries + 2 * entries.max(schedule.slots()),
        false => HEAD + entries,
    }
}
