//! The pass forward: leaves, then step after step of merges and their unary layers, then the wanted `h`.

use std::ops::Range;

use super::cell::{At, CellForward, CellKernel, Kept};
use super::memory::{Index, Matrix};
use super::pack::{CpuWeights, PackedLinear};
use super::plan::{CpuPlan, Memory, States, Training};
use super::product::{Product, Rows, Segments, Tokens};
use super::stored::Stored;
use super::{Counters, CpuPath, blocks, parallel};
use crate::backend::Pass;
use crate::backend::cpu::CpuInput;
use crate::tree::{Schedule, Step};

/// Rows of a tile of work, about: their inputs and outputs of a stage stay in a core's cache.
pub(super) const TILE: usize = 60;
/// Steps of at least this many rows are cut into tiles that run all stages; narrower ones by units, stage by stage,
/// so that the weights stay in the caches of the cores.
const WIDE: usize = 480;
/// Multiply-adds that are worth a task of their own.
const WORTH_A_TASK: usize = 250_000;
/// As many rows as whose products take the time in which their weights come from the cache.
const ROWS_OF_WEIGHTS: usize = 8;

/// How a stage of a step is divided: by its shape only, never by the number of threads.
pub(super) enum Division {
    /// Tiles of rows, each through all stages.
    Tiles(usize),
    /// Stage by stage, each cut into groups of columns for all rows.
    Columns,
}

impl Division {
    fn of(rows: usize, tile: usize) -> Self {
        if rows >= WIDE { Division::Tiles(rows.div_ceil(tile)) } else { Division::Columns }
    }
}

/// Rows of the `index`-th tile of `rows`.
fn tile(index: usize, size: usize, rows: usize) -> Range<usize> {
    index * size..rows.min((index + 1) * size)
}

/// The same of tiles of [`TILE`] rows.
pub(super) fn tile_rows(index: usize, rows: usize) -> Range<usize> {
    tile(index, TILE, rows)
}

/// Multiply-adds that a block of units takes of some rows' time.
pub(super) fn block_cost(rows: usize, linear: &PackedLinear) -> usize {
    rows.max(ROWS_OF_WEIGHTS) * linear.panel_rows() * linear.panel_width()
}

/// Calls `task(range)` for ranges of `0..columns`, each worth a task at `cost` multiply-adds a column.
pub(super) fn for_columns(columns: usize, cost: usize, task: impl Fn(Range<usize>) + Sync + Send) {
    let size = WORTH_A_TASK.div_ceil(cost.max(1)).min(columns).max(1);
    parallel::for_each(columns.div_ceil(size), |i| task(i * size..columns.min((i + 1) * size)));
}

/// A pass forward at work.
pub(super) struct Forward<'a, H: Stored = f32> {
    pub path: CpuPath,
    pub weights: &'a CpuWeights,
    pub plan: &'a CpuPlan,
    pub states: States<'a, H>,
    pub between: [Matrix<'a, H>; 2],
    pub training: Option<Training<'a, H>>,
    pub counters: &'a Counters,
}

impl<'a, H: Stored> Forward<'a, H> {
    pub(super) fn new(
        path: CpuPath,
        weights: &'a CpuWeights,
        plan: &'a CpuPlan,
        memory: &Memory<'a, H>,
        states: States<'a, H>,
        counters: &'a Counters,
    ) -> Self {
        let Memory { between, training, .. } = *memory;
        Forward { path, weights, plan, states, between, training, counters }
    }

    pub(super) fn run(&self, input: CpuInput<'_>, hidden: &mut [f32]) {
        parallel::inside(|| self.steps(input));
        collect(&self.plan.schedule, self.states.h, self.plan.config.hidden, hidden);
    }

    fn steps(&self, input: CpuInput<'_>) {
        self.leaves(input);
        let width = self.plan.schedule.width();
        for step in self.plan.schedule.steps() {
            let rows = step.out.len() * width;
            let units = blocks(self.plan.config.hidden);
            match Division::of(rows, H::TILE) {
                Division::Tiles(tiles) => parallel::for_each(tiles, |index| {
                    for stage in 0..self.weights.stages.len() {
                        self.stage(&step, stage, tile(index, H::TILE, rows), 0..units);
                    }
                }),
                Division::Columns => {
                    for (stage, linear) in self.weights.stages.iter().enumerate() {
                        for_columns(units, block_cost(rows, linear), |units| {
                            self.stage(&step, stage, 0..rows, units)
                        });
                    }
                }
            }
        }
    }

    /// Where `z` is kept, if it is.
    fn keeping(&self) -> Option<Training<'a, H>> {
        self.training.filter(|_| self.plan.pass == Pass::Train)
    }

    fn leaves(&self, input: CpuInput<'_>) {
        let schedule = &self.plan.schedule;
        let (width, rows) = (schedule.width(), self.plan.leaf_rows());
        let index = Index::Input { width, time: schedule.leaves().len(), first: 0 };
        let out = Index::Slots { slots: schedule.leaves(), width };
        let h = At { matrix: self.states.h, index: out };
        let c = self.states.c.map(|matrix| At { matrix, index: out });
        let kept = self.keeping().map(|training| Kept { z: training.z_leaf, rows, first: 0 });
        let linear = &self.weights.leaf;
        parallel::for_each(rows.div_ceil(TILE), |tile| {
            let rows = tile_rows(tile, rows);
            match input {
                CpuInput::Tokens(tokens) => {
                    let input = Tokens { tokens, index };
                    self.leaf(CellForward { linear, input, previous: [], h, c, kept, after: &[] }, rows);
                }
                CpuInput::Dense(x) => {
                    // SAFETY: the input is only read.
                    let x = unsafe { Matrix::read_only(x, linear.fan_in) };
                    let input = Rows { x, index, len: linear.fan_in };
                    self.leaf(CellForward { linear, input, previous: [], h, c, kept, after: &[] }, rows);
                }
            }
        });
    }

    /// A stage of a step: 0 merges, stage `s` applies unary layer `s - 1`.
    fn stage(&self, step: &Step<'_>, stage: usize, rows: Range<usize>, units: Range<usize>) {
        let width = self.plan.schedule.width();
        let [left, right, out] = [step.left, step.right, step.out].map(|slots| Index::Slots { slots, width });
        let linear = &self.weights.stages[stage];
        let last = stage + 1 == self.weights.stages.len();
        let first = step.first * width;
        let merge_rows = self.plan.merge_rows();
        let kept = self.keeping().map(|training| match stage {
            0 => Kept { z: training.z_merge, rows: merge_rows, first },
            _ => {
                let before = (stage - 1) * linear.blocks * merge_rows;
                Kept { z: training.z_unary, rows: merge_rows, first: before + first }
            }
        });
        // Where a stage's state lies: the last one's in the slots, the others' kept, or passed on.
        let state = |stage: usize| match self.training {
            Some(training) => (training.stages, Index::From(stage * merge_rows + first)),
            None => (States { h: self.between[stage % 2], c: self.states.c }, Index::From(0)),
        };
        let at_c = |states: States<'a, H>, index| states.c.map(|matrix| At { matrix, index });
        let (to, to_index) = if last { (self.states, out) } else { state(stage) };
        // Without a pass backward `c` passes through the slot itself, unit by unit.
        let c_index = if self.training.is_some() { to_index } else { out };
        let (h, c) = (At { matrix: to.h, index: to_index }, at_c(to, c_index));
        let len = self.plan.config.hidden;
        let after = self.weights.stages[(stage + 1) % self.weights.stages.len()].panel(0);
        if stage == 0 {
            if units.start == 0 {
                self.counters.count(rows.len());
            }
            let input = Segments { h: self.states.h, index: [left, right], len };
            let previous = [left, right].map(|index| at_c(self.states, index));
            self.cell(CellForward { linear, input, previous, h, c, kept, after }, rows, units);
        } else {
            let (from, index) = state(stage - 1);
            let input = Segments { h: from.h, index: [index], len };
            let c_index = if self.training.is_some() { index } else { out };
            let previous = [at_c(from, c_index)];
            self.cell(CellForward { linear, input, previous, h, c, kept, after }, rows, units);
        }
    }

    fn cell<const S: usize, const N: usize>(
        &self,
        job: CellForward<'_, Segments<'_, H, S>, N, H>,
        rows: Range<usize>,
        blocks: Range<usize>,
    ) {
        // The tasks of a stage have rows or blocks of their own; what they read was written by an earlier step,
        // or, within a tile, by the same task: a step's `out` is none of the slots that it reads.
        H::run(self.path, CellKernel { job: &job, cell: self.plan.config.cell, rows, blocks });
    }

    /// A leaf's cell; its input is f32 or tokens, however `h` is kept.
    fn leaf<I: Product>(&self, job: CellForward<'_, I, 0, H>, rows: Range<usize>) {
        // The rows are the task's own.
        let blocks = 0..job.linear.blocks;
        self.path.run(CellKernel { job: &job, cell: self.plan.config.cell, rows, blocks });
    }
}

/// Copies the wanted `h` out of the slots, once the pass is over.
pub(super) fn collect<H: Stored>(schedule: &Schedule, h: Matrix<'_, H>, units: usize, hidden: &mut [f32]) {
    let (width, outputs) = (schedule.width(), schedule.outputs());
    for (row, to) in hidden.chunks_exact_mut(units).enumerate() {
        let (lane, output) = (row / outputs.len(), row % outputs.len());
        let from = h.row(outputs[output] as usize * width + lane);
        // SAFETY: nothing writes the slots any more; a row has at least `units` elements.
        let from = unsafe { std::slice::from_raw_parts(from, units) };
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from.to_f32());
    }
}
