//! A pass as the CPU wants it: the schedule, who reads what, and where each matrix lies in the workspace.

use super::memory::Matrix;
use super::{BLOCK, CpuPath, blocks};
use crate::backend::Pass;
use crate::backend::check::ScheduleCheck;
use crate::error::{Error, Result};
use crate::model::{Cell, Config};
use crate::tree::{Readers, Schedule};

/// A schedule with what the pass backward needs beside it.
#[derive(Debug)]
pub struct CpuPlan {
    pub(super) config: Config,
    pub(super) pass: Pass,
    pub(super) path: CpuPath,
    pub(super) schedule: Schedule,
    /// Empty without a pass backward.
    pub(super) readers: Readers,
    /// Output of each slot plus one, 0 where it is none; empty without a pass backward.
    pub(super) output_of: Vec<u32>,
    check: ScheduleCheck,
}

impl CpuPlan {
    pub(super) fn new(config: &Config, pass: Pass, path: CpuPath, schedule: &Schedule) -> Result<Self> {
        let mut plan = CpuPlan {
            config: config.clone(),
            pass,
            path,
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
        self.check.check(schedule, self.pass)?;
        self.schedule.clone_from(schedule);
        if self.pass == Pass::Train {
            self.readers.fill(schedule);
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

    /// Floats of workspace; saturated where they overflow.
    pub(super) fn floats(&self) -> usize {
        let mut floats = 0usize;
        Memory::lay_out(self, &mut |rows, stride| {
            floats = floats.saturating_add(rows.saturating_mul(stride));
            Matrix::new(&mut [], stride)
        });
        floats
    }

    /// Cuts a workspace.
    pub(super) fn memory<'a>(&self, workspace: &'a mut [f32]) -> Memory<'a> {
        let mut rest = workspace;
        Memory::lay_out(self, &mut |rows, stride| {
            let (taken, left) = std::mem::take(&mut rest).split_at_mut(rows * stride);
            rest = left;
            Matrix::new(taken, stride)
        })
    }
}

/// States: `h`, and `c` unless the cell is the RNN, each `[rows, padded H]`.
#[derive(Clone, Copy)]
pub(super) struct States<'a> {
    pub h: Matrix<'a>,
    pub c: Option<Matrix<'a>>,
}

impl<'a> States<'a> {
    /// Cuts an arena of states.
    pub(super) fn of_arena(config: &Config, arena: &'a mut [f32]) -> Self {
        let padded = blocks(config.hidden) * BLOCK;
        match config.cell {
            Cell::Rnn => States { h: Matrix::new(arena, padded), c: None },
            Cell::Lstm => {
                let (h, c) = arena.split_at_mut(arena.len() / 2);
                States { h: Matrix::new(h, padded), c: Some(Matrix::new(c, padded)) }
            }
        }
    }
}

/// What only a pass with a backward has.
#[derive(Clone, Copy)]
pub(super) struct Training<'a> {
    /// States after each stage but the last, `[R · merge rows, padded H]`.
    pub stages: States<'a>,
    /// `z`, then `dz`, of the leaves, the merges, the unary layers: `[blocks · rows, gates · BLOCK]` each, the
    /// unary layers one after another.
    pub z_leaf: Matrix<'a>,
    pub z_merge: Matrix<'a>,
    pub z_unary: Matrix<'a>,
    /// Each merge's gradient of its two states, `[merge rows, 2 · padded H]`.
    pub places: States<'a>,
    /// Gradient of `c` between two stages of a step, `[rows of the widest step, padded H]`.
    pub dc: Matrix<'a>,
    /// Gradient of one linear layer, packed: the largest of them.
    pub dw: Matrix<'a>,
    pub db: Matrix<'a>,
}

/// The matrices of a pass.
pub(super) struct Memory<'a> {
    /// None where the states lie in an arena.
    pub states: Option<States<'a>>,
    /// `h` between two stages of a step, when it is not kept: `[rows of the widest step, padded H]` twice.
    pub between: [Matrix<'a>; 2],
    pub training: Option<Training<'a>>,
}

impl<'a> Memory<'a> {
    fn lay_out(plan: &CpuPlan, take: &mut impl FnMut(usize, usize) -> Matrix<'a>) -> Self {
        let CpuPlan { config, schedule, pass, .. } = plan;
        let (padded, unit_blocks) = (plan.padded(), blocks(config.hidden));
        let (merge_rows, leaf_rows) = (plan.merge_rows(), plan.leaf_rows());
        let unary = config.unary_layers;
        let lstm = config.cell == Cell::Lstm;
        let widest = schedule.steps().map(|step| step.out.len()).max().unwrap_or(0) * schedule.width();

        let states = |rows: usize, stride: usize, take: &mut dyn FnMut(usize, usize) -> Matrix<'a>| States {
            h: take(rows, stride),
            c: lstm.then(|| take(rows, stride)),
        };
        let slots =
            (*pass != Pass::Stream).then(|| states(schedule.slots() * schedule.width(), padded, take));
        if *pass != Pass::Train {
            let between = [1, 2].map(|layers| take(if unary >= layers { widest } else { 0 }, padded));
            return Memory { states: slots, between, training: None };
        }
        let width = |states| config.cell.gates(states) * BLOCK;
        let largest = |columns: &dyn Fn(usize, usize) -> usize| {
            let leaf = columns(config.input, width(0));
            let stages = columns(2 * config.hidden, width(2));
            leaf.max(stages).max(if unary > 0 { columns(config.hidden, width(1)) } else { 0 })
        };
        let training = Training {
            stages: states(unary * merge_rows, padded, take),
            z_leaf: take(unit_blocks * leaf_rows, width(0)),
            z_merge: take(unit_blocks * merge_rows, width(2)),
            z_unary: take(unary * unit_blocks * merge_rows, width(1)),
            places: states(merge_rows, 2 * padded, take),
            dc: take(if lstm { widest } else { 0 }, padded),
            dw: take(unit_blocks, largest(&|fan_in, width| fan_in * width)),
            db: take(unit_blocks, largest(&|_, width| width)),
        };
        let between = [take(0, padded), take(0, padded)];
        Memory { states: slots, between, training: Some(training) }
    }
}
