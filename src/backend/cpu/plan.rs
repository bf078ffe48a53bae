//! A pass as the CPU wants it: the schedule, who reads what, and where each matrix lies in the workspace.

use half::bf16;

use super::cell::At;
use super::memory::{Index, Matrix};
use super::sequential::ChainMemory;
use super::stored::Stored;
use super::{BLOCK, CpuPath, blocks};
use crate::backend::check::ScheduleCheck;
use crate::backend::{Dtype, Pass};
use crate::error::{Error, Result};
use crate::model::{Cell, Config, Recurrence};
use crate::tree::{Readers, Schedule};

/// Rows of merges, or of leaves, that a pass backward brings all the way to the gradient of their weights before it
/// goes on: so many that reading and writing that gradient costs little beside its products.
const CHUNK: usize = 1920;

/// A schedule with what the pass backward needs beside it.
#[derive(Debug)]
pub struct CpuPlan {
    pub(super) config: Config,
    pub(super) pass: Pass,
    pub(super) path: CpuPath,
    pub(super) dtype: Dtype,
    pub(super) schedule: Schedule,
    /// Empty without a pass backward, and of a sequential model.
    pub(super) readers: Readers,
    /// Output of each slot plus one, 0 where it is none; empty without a pass backward.
    pub(super) output_of: Vec<u32>,
    check: ScheduleCheck,
}

impl CpuPlan {
    pub(super) fn new(
        config: &Config,
        pass: Pass,
        dtype: Dtype,
        path: CpuPath,
        schedule: &Schedule,
    ) -> Result<Self> {
        if config.recurrence == Recurrence::Sequential && !matches!(pass, Pass::Infer | Pass::Train) {
            return Err(Error::Unavailable {
                what: format!("a {pass:?} pass of a sequential model"),
                why: "it runs whole sequences, and training keeps every z: train without recomputation"
                    .into(),
            });
        }
        let mut plan = CpuPlan {
            config: config.clone(),
            pass,
            path,
            dtype,
            schedule: Schedule::default(),
            readers: Readers::default(),
            output_of: Vec::new(),
            check: ScheduleCheck::default(),
        };
        plan.fill(schedule)?;
        plan.floats().checked_mul(size_of::<f32>()).map(|_| plan).ok_or_else(|| {
            Error::argument(
                "workspace",
                "fewer than 2^63 bytes",
                "a pass larger than that: use smaller batches",
            )
        })
    }

    pub(super) fn fill(&mut self, schedule: &Schedule) -> Result<()> {
        self.check.check(&self.config, schedule, self.pass)?;
        self.schedule.copy_from(schedule)?;
        if self.pass.trains() {
            if self.config.recurrence == Recurrence::Tree {
                self.readers.fill(schedule);
            }
            self.output_of.clear();
            self.output_of.resize(schedule.slots(), 0);
            for (output, &slot) in (1..).zip(schedule.outputs()) {
                self.output_of[slot as usize] = output;
            }
        }
        Ok(())
    }

    /// Rows of all merges, of all leaves.
    pub(super) fn merge_rows(&self) -> usize {
        self.schedule.merges() * self.schedule.width()
    }

    pub(super) fn leaf_rows(&self) -> usize {
        self.schedule.leaves().len() * self.schedule.width()
    }

    /// A state's row with its padding: whole blocks, so that kernels have no tails. Padding stays 0.
    pub(super) fn padded(&self) -> usize {
        blocks(self.config.hidden) * BLOCK
    }

    /// Slots of a chunk: the last may be shorter.
    pub(super) fn chunk_slots(&self) -> usize {
        (CHUNK / self.schedule.width()).max(1)
    }

    /// The most rows that a chunk of `rows` in all has.
    fn chunk_rows(&self, rows: usize) -> usize {
        rows.min(CHUNK.max(self.schedule.width()))
    }

    /// Rows for which there is `z` of merges, and of leaves: all, or a chunk's where it is recomputed.
    pub(super) fn z_rows(&self) -> [usize; 2] {
        let all = [self.merge_rows(), self.leaf_rows()];
        if self.pass == Pass::TrainRecompute { all.map(|rows| self.chunk_rows(rows)) } else { all }
    }

    /// Rows for which there is room in [`Training::inputs`].
    pub(super) fn input_rows(&self) -> usize {
        self.chunk_rows(self.merge_rows())
    }

    /// Floats of workspace; saturated where they overflow.
    pub(super) fn floats(&self) -> usize {
        let mut floats = 0usize;
        let mut take = |rows: usize, stride: usize| {
            floats = floats.saturating_add(rows.saturating_mul(stride));
            Matrix::new(&mut [], stride)
        };
        match (self.config.recurrence, self.dtype) {
            (Recurrence::Sequential, _) => drop(ChainMemory::lay_out(self, &mut take)),
            (Recurrence::Tree, Dtype::Bf16) => drop(Memory::<bf16>::lay_out(self, &mut take)),
            (Recurrence::Tree, _) => drop(Memory::<f32>::lay_out(self, &mut take)),
        }
        floats
    }

    /// Cuts the workspace of a tree.
    pub(super) fn memory<'a, H: Stored>(&self, workspace: &'a mut [f32]) -> Memory<'a, H> {
        Memory::lay_out(self, &mut cut(workspace))
    }

    /// Cuts the workspace of a sequential model.
    pub(super) fn chain_memory<'a>(&self, workspace: &'a mut [f32]) -> ChainMemory<'a> {
        ChainMemory::lay_out(self, &mut cut(workspace))
    }
}

/// Cuts memory into matrices, one after another.
fn cut<'a>(workspace: &'a mut [f32]) -> impl FnMut(usize, usize) -> Matrix<'a> {
    let mut rest = workspace;
    move |rows, stride| {
        let (taken, left) = std::mem::take(&mut rest).split_at_mut(rows * stride);
        rest = left;
        Matrix::new(taken, stride)
    }
}

/// States: `h`, and `c` unless the cell is the RNN, each `[rows, padded H]`.
#[derive(Clone, Copy)]
pub(super) struct States<'a, H: Stored = f32> {
    pub h: Matrix<'a, H>,
    pub c: Option<Matrix<'a>>,
}

impl<'a, H: Stored> States<'a, H> {
    /// What `h` and `c` of a state take of an arena, in f32.
    pub(super) fn floats(config: &Config) -> [usize; 2] {
        let c = if config.cell == Cell::Lstm { blocks(config.hidden) * BLOCK } else { 0 };
        [H::floats_of(config.hidden), c]
    }

    /// Cuts an arena of states.
    pub(super) fn of_arena(config: &Config, arena: &'a mut [f32]) -> Self {
        let [of_h, of_c] = Self::floats(config);
        let slots = arena.len() / (of_h + of_c);
        let (h, c) = arena[..slots * (of_h + of_c)].split_at_mut(slots * of_h);
        States { h: Matrix::new(h, of_h).of(), c: (of_c > 0).then(|| Matrix::new(c, of_c)) }
    }

    /// The same of an arena that is only read.
    ///
    /// # Safety
    /// Nothing is written through the states.
    pub(super) unsafe fn of_shared_arena(config: &Config, arena: &'a [f32]) -> Self {
        let [of_h, of_c] = Self::floats(config);
        let slots = arena.len() / (of_h + of_c);
        let (h, c) = arena[..slots * (of_h + of_c)].split_at(slots * of_h);
        // SAFETY: passed on.
        unsafe {
            States { h: Matrix::read_only(h, of_h).of(), c: (of_c > 0).then(|| Matrix::read_only(c, of_c)) }
        }
    }
}

/// Where a merge leaves the gradients of its two states: that of the left over its own state, that of the right over
/// the one after its first stage. Both were read for the last time when it does.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    left: States<'a>,
    right: States<'a>,
    /// Rows of leaves, before those of merges.
    leaf_rows: usize,
}

impl<'a> Places<'a> {
    pub(super) fn new(plan: &CpuPlan, states: States<'a>, training: &Training<'a>) -> Self {
        Places { left: states, right: training.stages, leaf_rows: plan.leaf_rows() }
    }

    /// The gradients of `h` of the left and the right state of merge row `row` and of those that follow.
    pub(super) fn h(&self, row: usize) -> [At<'a>; 2] {
        let at = |matrix, row| At { matrix, index: Index::From(row) };
        [at(self.left.h, self.leaf_rows + row), at(self.right.h, row)]
    }

    /// The same of `c`; None for the RNN.
    pub(super) fn c(&self, row: usize) -> [Option<At<'a>>; 2] {
        let at = |matrix: Option<_>, row| matrix.map(|matrix| At { matrix, index: Index::From(row) });
        [at(self.left.c, self.leaf_rows + row), at(self.right.c, row)]
    }
}

/// What only a pass with a backward has.
#[derive(Clone, Copy)]
pub(super) struct Training<'a, H: Stored = f32> {
    /// States after each stage but the last, `[R · merge rows, padded H]`; room for one stage where there is none.
    pub stages: States<'a, H>,
    /// `z`, then `dz`, of the leaves, the merges, the unary layers: `[blocks · rows, gates · BLOCK]` each, the
    /// unary layers one after another. The rows are [`CpuPlan::z_rows`].
    pub z_leaf: Matrix<'a>,
    pub z_merge: Matrix<'a>,
    pub z_unary: Matrix<'a>,
    /// A chunk's inputs of its products, stage after stage: `[input blocks · rows, BLOCK]`.
    pub inputs: Matrix<'a>,
    /// Packed gradients: of each block of units `[fan_in, gates · BLOCK]` and the bias as one more row.
    pub d_leaf: Matrix<'a>,
    pub d_merge: Matrix<'a>,
    pub d_unary: Matrix<'a>,
}

/// The matrices of a pass.
pub(super) struct Memory<'a, H: Stored = f32> {
    /// None where the states lie in an arena.
    pub states: Option<States<'a, H>>,
    /// `h` between two stages of a step, when it is not kept: `[rows of the widest step, padded H]` twice.
    pub between: [Matrix<'a, H>; 2],
    pub training: Option<Training<'a, H>>,
}

impl<'a, H: Stored> Memory<'a, H> {
    fn lay_out(plan: &CpuPlan, take: &mut impl FnMut(usize, usize) -> Matrix<'a>) -> Self {
        let CpuPlan { config, schedule, pass, .. } = plan;
        let (padded, unit_blocks) = (plan.padded(), blocks(config.hidden));
        let of_h = H::floats_of(config.hidden);
        let merge_rows = plan.merge_rows();
        let unary = config.unary_layers;
        let lstm = config.cell == Cell::Lstm;
        let widest = schedule.steps().map(|step| step.out.len()).max().unwrap_or(0) * schedule.width();

        let states = |rows: usize, take: &mut dyn FnMut(usize, usize) -> Matrix<'a>| States {
            h: take(rows, of_h).of(),
            c: lstm.then(|| take(rows, padded)),
        };
        let slots = (*pass != Pass::Stream).then(|| states(schedule.slots() * schedule.width(), take));
        if !pass.trains() {
            let between = [1, 2].map(|layers| take(if unary >= layers { widest } else { 0 }, of_h).of());
            return Memory { states: slots, between, training: None };
        }
        let width = |states| config.cell.gates(states) * BLOCK;
        let [z_merge, z_leaf] = plan.z_rows();
        // A row of `W` for every input of every block of units, and one for the bias.
        let gradient = |inputs: usize| unit_blocks * (inputs + 1);
        let training = Training {
            stages: states(unary.max(1) * merge_rows, take),
            z_leaf: take(unit_blocks * z_leaf, width(0)),
            z_merge: take(unit_blocks * z_merge, width(2)),
            z_unary: take(unary * unit_blocks * z_merge, width(1)),
            inputs: take((2 + unary) * unit_blocks * plan.input_rows(), BLOCK),
            d_leaf: take(gradient(config.input), width(0)),
            d_merge: take(gradient(2 * config.hidden), width(2)),
            d_unary: take(unary * gradient(config.hidden), width(1)),
        };
        let between = [take(0, of_h).of(), take(0, of_h).of()];
        Memory { states: slots, between, training: Some(training) }
    }
}
