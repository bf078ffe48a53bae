//! The pass backward: chunks of merges in reverse, then chunks of leaves, each all the way to the gradient of its
//! weights.
//!
//! A chunk is a fixed number of merges counted from the end of the pass: whole steps, and parts of steps. Sums of the
//! weights' gradient run over the rows of a chunk in order and over the chunks in theirs, whoever works and whether `z`
//! was kept or is computed anew: both training passes give the same bits.
//!
//! A merge writes the gradient of each of its states into its own place; a state sums its readers' places in their
//! fixed order. Nothing is added into memory that another row owns. The places are the memory of states that were read
//! for the last time, which is why a chunk's inputs are copied before its steps run.

use std::ops::Range;

use super::cell::{At, Kept};
use super::cell_backward::{
    CellBackward, GatherKernel, InputGradient, IntoGates, IntoInput, IntoPlaces, StateGradient,
};
use super::forward::for_columns;
use super::memory::{Index, Matrix};
use super::pack::{CpuWeights, PackedLinear};
use super::plan::{CpuPlan, Places, States, Training};
use super::product::{Blocked, Operand, Rows, Segments, Tokens};
use super::recompute::Preactivation;
use super::weight_gradient::{Inputs, PackedGradient, SideBySide, TokenGradient, WeightGradient};
use super::{BLOCK, CpuInput, CpuPath, blocks, parallel};
use crate::backend::Pass;
use crate::tree::Step;

/// Rows of a tile of work: it reads each panel once.
const TILE: usize = 120;
/// Blocks of inputs of one task of a weight's gradient.
const INPUT_BLOCKS: usize = 8;
/// Floats that one task sets to 0.
const ZEROED: usize = 1 << 16;

/// Rows of a tile.
fn tile_rows(tile: usize, rows: usize) -> Range<usize> {
    tile * TILE..rows.min((tile + 1) * TILE)
}

/// A pass backward at work.
pub(super) struct Backward<'a> {
    path: CpuPath,
    weights: &'a CpuWeights,
    plan: &'a CpuPlan,
    states: States<'a>,
    training: Training<'a>,
    places: Places<'a>,
    d_hidden: &'a [f32],
}

impl<'a> Backward<'a> {
    pub(super) fn new(
        path: CpuPath,
        weights: &'a CpuWeights,
        plan: &'a CpuPlan,
        states: States<'a>,
        training: Training<'a>,
        d_hidden: &'a [f32],
    ) -> Self {
        let places = Places::new(plan, states, &training);
        Backward { path, weights, plan, states, training, places, d_hidden }
    }

    pub(super) fn run(&self, input: CpuInput<'_>, gradient: &mut [f32], d_input: Option<&mut [f32]>) {
        let Training { d_leaf, d_merge, d_unary, .. } = self.training;
        [d_leaf, d_merge, d_unary].into_iter().for_each(zero);
        let (merges, leaves) = (self.plan.schedule.merges(), self.plan.schedule.leaves().len());
        let most = self.plan.chunk_slots();
        let mut end = merges;
        while end > 0 {
            let merges = end.saturating_sub(most)..end;
            end = merges.start;
            self.merges(merges);
        }
        let columns = self.plan.config.input;
        let d_input = d_input.map(|d_input| Matrix::new(d_input, columns));
        for first in (0..leaves).step_by(most) {
            self.leaves(first..leaves.min(first + most), input, d_input);
        }
        let layout = &self.weights.layout;
        self.weights.leaf.unpack_add(&layout.leaf, self.leaf_gradient(), gradient);
        for (stage, linear) in self.weights.stages.iter().enumerate() {
            linear.unpack_add(self.weights.stage_range(stage), self.stage_gradient(stage), gradient);
        }
    }

    /// A chunk of merges.
    fn merges(&self, merges: Range<usize>) {
        let width = self.plan.schedule.width();
        let chunk = Chunk { first: merges.start * width, rows: merges.len() * width };
        self.lay_out_inputs(&merges, &chunk);
        if self.plan.pass == Pass::TrainRecompute {
            self.recompute(&merges, &chunk);
        }
        for step in self.plan.schedule.steps().rev() {
            let (first, end) = (step.first.max(merges.start), (step.first + step.out.len()).min(merges.end));
            if first < end {
                let part = first - step.first..end - step.first;
                let Step { left, right, out, .. } = step;
                let [left, right, out] = [left, right, out].map(|slots| &slots[part.clone()]);
                self.step(&Step { first, left, right, out }, &chunk);
            }
        }
        for (stage, linear) in self.weights.stages.iter().enumerate() {
            let rows = self.plan.input_rows();
            let inputs =
                SideBySide { x: self.training.inputs, first: self.inputs_before(stage) * rows, rows };
            let dz = self.dz(chunk.first, stage, &chunk);
            weight_gradient(self.path, linear, inputs, dz, chunk.rows, self.stage_gradient(stage));
        }
    }

    /// A step, or the part of it that lies in a chunk.
    fn step(&self, step: &Step<'_>, chunk: &Chunk) {
        let rows = step.out.len() * self.plan.schedule.width();
        let units = blocks(self.plan.config.hidden);
        self.divide(
            rows,
            |rows| {
                self.gather(step, rows.clone(), 0..units, chunk);
                for (stage, linear) in self.weights.stages.iter().enumerate().rev() {
                    self.input_gradient(step, stage, rows.clone(), 0..linear.groups(), chunk);
                }
            },
            || {
                // A unit's gates cost about as much as 64 multiply-adds a lane.
                for_columns(units, rows * 1024, |units| self.gather(step, 0..rows, units, chunk));
                for (stage, linear) in self.weights.stages.iter().enumerate().rev() {
                    let cost = rows * linear.fan_in * linear.panel_width() * linear.blocks / linear.groups();
                    for_columns(linear.groups(), cost, |groups| {
                        self.input_gradient(step, stage, 0..rows, groups, chunk)
                    });
                }
            },
        );
    }

    /// Rows in tiles, or, of too few for that, by columns: by their number only, never by the number of threads.
    fn divide(&self, rows: usize, tile: impl Fn(Range<usize>) + Sync + Send, by_columns: impl FnOnce()) {
        if rows > TILE {
            parallel::for_each(rows.div_ceil(TILE), |index| tile(tile_rows(index, rows)));
        } else {
            by_columns();
        }
    }

    /// Copies a chunk's inputs of its products, block by block.
    fn lay_out_inputs(&self, merges: &Range<usize>, chunk: &Chunk) {
        let units = blocks(self.plan.config.hidden);
        parallel::for_each(chunk.rows.div_ceil(TILE), |tile| {
            for row in tile_rows(tile, chunk.rows) {
                let pairs = self.pairs(merges);
                for (n, from) in (0..2).map(|side| (side, pairs.segment(side, row))).chain(
                    (1..self.weights.stages.len())
                        .map(|stage| (stage + 1, self.stage_input(stage, chunk).segment(0, row))),
                ) {
                    for block in 0..units {
                        let to = self.training.inputs.row((n * units + block) * self.plan.input_rows() + row);
                        // SAFETY: rows of states have whole blocks; this row of the inputs is the task's own.
                        unsafe { from.add(block * BLOCK).copy_to_nonoverlapping(to, BLOCK) };
                    }
                }
            }
        });
    }

    /// Blocks of inputs before those of a stage.
    fn inputs_before(&self, stage: usize) -> usize {
        self.weights.stages[..stage].iter().map(PackedLinear::input_blocks).sum()
    }

    /// The inputs of a chunk's merges, as the pass forward reads them.
    fn pairs<'s>(&'s self, merges: &Range<usize>) -> Segments<'s, f32, 2> {
        let CpuPlan { config, schedule, .. } = self.plan;
        let index = [schedule.left(), schedule.right()]
            .map(|slots| Index::Slots { slots: &slots[merges.clone()], width: schedule.width() });
        Segments { h: self.states.h, index, len: config.hidden }
    }

    /// The inputs of a chunk's unary layer.
    fn stage_input(&self, stage: usize, chunk: &Chunk) -> Rows<'_> {
        let index = Index::From((stage - 1) * self.plan.merge_rows() + chunk.first);
        Rows { x: self.training.stages.h, index, len: self.plan.config.hidden }
    }

    /// `z` of a chunk.
    fn recompute(&self, merges: &Range<usize>, chunk: &Chunk) {
        for (stage, linear) in self.weights.stages.iter().enumerate() {
            let to = self.kept(chunk.first, stage, chunk);
            let run = |rows: Range<usize>, blocks: Range<usize>| {
                if stage == 0 {
                    self.path.run(Preactivation { linear, input: self.pairs(merges), to, rows, blocks });
                } else {
                    let input = self.stage_input(stage, chunk);
                    self.path.run(Preactivation { linear, input, to, rows, blocks });
                }
            };
            let cost = chunk.rows * linear.fan_in * linear.panel_width();
            self.divide(
                chunk.rows,
                |rows| run(rows, 0..linear.blocks),
                || for_columns(linear.blocks, cost, |blocks| run(0..chunk.rows, blocks)),
            );
        }
    }

    fn state_gradient<'s>(&'s self, slots: &'s [u32]) -> StateGradient<'s> {
        let CpuPlan { config, schedule, readers, output_of, .. } = self.plan;
        StateGradient {
            places: self.places,
            readers,
            slots,
            width: schedule.width(),
            output_of,
            outputs: schedule.outputs().len(),
            d_hidden: self.d_hidden,
            hidden: config.hidden,
        }
    }

    /// Where `z` and `dz` of a stage lie, from merge row `first` of a chunk.
    fn kept(&self, first: usize, stage: usize, chunk: &Chunk) -> Kept<'_> {
        let [rows, _] = self.plan.z_rows();
        let first = if self.plan.pass == Pass::TrainRecompute { first - chunk.first } else { first };
        match stage {
            0 => Kept { z: self.training.z_merge, rows, first },
            _ => {
                let before = (stage - 1) * blocks(self.plan.config.hidden) * rows;
                Kept { z: self.training.z_unary, rows, first: before + first }
            }
        }
    }

    /// `dz` of a stage as the operand of a product, from merge row `first` of a chunk.
    fn dz(&self, first: usize, stage: usize, chunk: &Chunk) -> Blocked<'_> {
        operand(self.kept(first, stage, chunk), &self.weights.stages[stage])
    }

    /// The gates of a stage of a step, backward.
    fn cell<'s>(&'s self, step: &Step<'s>, stage: usize, chunk: &Chunk) -> CellBackward<'s> {
        let (schedule, merge_rows) = (&self.plan.schedule, self.plan.merge_rows());
        let width = schedule.width();
        let first = step.first * width;
        let at = |matrix: Option<Matrix<'s>>, index| matrix.map(|matrix| At { matrix, index });
        let kept_c = |stage: usize| at(self.training.stages.c, Index::From(stage * merge_rows + first));
        let slots = |slots| at(self.states.c, Index::Slots { slots, width });
        let last = stage + 1 == self.weights.stages.len();
        let (previous, d_previous) = match stage {
            0 => ([slots(step.left), slots(step.right)], self.places.c(first)),
            _ => ([kept_c(stage - 1), None], [self.dc(first), None]),
        };
        CellBackward {
            cell: self.plan.config.cell,
            states: if stage == 0 { 2 } else { 1 },
            z: self.kept(first, stage, chunk),
            previous,
            c: if last { slots(step.out) } else { kept_c(stage) },
            d_previous,
        }
    }

    /// The gradient of `c` between two stages, from merge row `first`: over the merge's own `c`, which its last stage
    /// read for the last time.
    fn dc(&self, first: usize) -> Option<At<'_>> {
        let [left, _] = self.places.c(first);
        left
    }

    /// The last stage's gates: their gradient comes from the readers of the state.
    fn gather(&self, step: &Step<'_>, rows: Range<usize>, blocks: Range<usize>, chunk: &Chunk) {
        let cell = self.cell(step, self.weights.stages.len() - 1, chunk);
        let gradient = self.state_gradient(step.out);
        // Every reader ran in a later step, and has written its place; rows and blocks are the task's own.
        self.path.run(GatherKernel { gradient: &gradient, cell: &cell, rows, blocks });
    }

    /// `dz · Wᵀ` of a stage, into the gates of the stage below, or into the merge's places.
    fn input_gradient(
        &self,
        step: &Step<'_>,
        stage: usize,
        rows: Range<usize>,
        groups: Range<usize>,
        chunk: &Chunk,
    ) {
        let first = step.first * self.plan.schedule.width();
        let (linear, dz) = (&self.weights.stages[stage], self.dz(first, stage, chunk));
        // `dz` of all units was written before, by this task or before it began; rows and groups are its own.
        if stage == 0 {
            let blocks = blocks(self.plan.config.hidden);
            let sink = IntoPlaces { places: self.places.h(first), blocks };
            self.path.run(InputGradient { linear, dz, sink, rows, groups });
        } else {
            let sink = IntoGates { below: self.cell(step, stage - 1, chunk), dc: self.dc(first) };
            self.path.run(InputGradient { linear, dz, sink, rows, groups });
        }
    }

    /// A chunk of leaves.
    fn leaves(&self, leaves: Range<usize>, input: CpuInput<'_>, d_input: Option<Matrix<'_>>) {
        let schedule = &self.plan.schedule;
        let (width, time) = (schedule.width(), schedule.leaves().len());
        let (linear, rows) = (&self.weights.leaf, leaves.len() * width);
        let recompute = self.plan.pass == Pass::TrainRecompute;
        let [_, z_rows] = self.plan.z_rows();
        let z = self.training.z_leaf;
        let kept = Kept { z, rows: z_rows, first: if recompute { 0 } else { leaves.start * width } };
        let dz = operand(kept, linear);
        let slots = &schedule.leaves()[leaves.clone()];
        let gradient = self.state_gradient(slots);
        let at_input = Index::Input { width, time, first: leaves.start };
        let cell = CellBackward {
            cell: self.plan.config.cell,
            states: 0,
            z: kept,
            previous: [None; 2],
            c: self.states.c.map(|matrix| At { matrix, index: Index::Slots { slots, width } }),
            d_previous: [None; 2],
        };
        let columns = linear.fan_in;
        // SAFETY: the input is only read.
        let dense = |x| Rows { x: unsafe { Matrix::read_only(x, columns) }, index: at_input, len: columns };
        parallel::for_each(rows.div_ceil(TILE), |tile| {
            let (rows, blocks) = (tile_rows(tile, rows), 0..linear.blocks);
            if recompute {
                let (to, rows, blocks) = (kept, rows.clone(), blocks.clone());
                match input {
                    CpuInput::Tokens(tokens) => {
                        let input = Tokens { tokens, index: at_input };
                        self.path.run(Preactivation { linear, input, to, rows, blocks });
                    }
                    CpuInput::Dense(x) => {
                        self.path.run(Preactivation { linear, input: dense(x), to, rows, blocks });
                    }
                }
            }
            self.path.run(GatherKernel { gradient: &gradient, cell: &cell, rows: rows.clone(), blocks });
            if let (CpuInput::Dense(_), Some(matrix)) = (input, d_input) {
                let sink = IntoInput { rows: At { matrix, index: at_input }, columns };
                self.path.run(InputGradient { linear, dz, sink, rows, groups: 0..linear.groups() });
            }
        });
        let to = self.leaf_gradient();
        match input {
            CpuInput::Tokens(tokens) => parallel::for_each(linear.blocks, |block| {
                self.path.run(TokenGradient { tokens, index: at_input, linear, dz, rows, to, block })
            }),
            CpuInput::Dense(x) => weight_gradient(self.path, linear, dense(x), dz, rows, to),
        }
    }

    fn leaf_gradient(&self) -> PackedGradient<'_> {
        PackedGradient { matrix: self.training.d_leaf, first: 0, fan_in: self.weights.leaf.fan_in }
    }

    fn stage_gradient(&self, stage: usize) -> PackedGradient<'_> {
        let linear = &self.weights.stages[stage];
        let (matrix, before) = match stage {
            0 => (self.training.d_merge, 0),
            _ => (self.training.d_unary, stage - 1),
        };
        PackedGradient { matrix, first: before * linear.blocks * (linear.fan_in + 1), fan_in: linear.fan_in }
    }
}

/// Adds `inputᵀ · dz` of rows, and the sum of `dz`, to the gradient of a linear layer.
pub(super) fn weight_gradient(
    path: CpuPath,
    linear: &PackedLinear,
    inputs: impl Inputs,
    dz: Blocked<'_>,
    rows: usize,
    to: PackedGradient<'_>,
) {
    let input_blocks = linear.input_blocks();
    let pieces = input_blocks.div_ceil(INPUT_BLOCKS);
    parallel::for_each(linear.blocks * pieces, |task| {
        let (block, first) = (task / pieces, task % pieces * INPUT_BLOCKS);
        let input_blocks = first..input_blocks.min(first + INPUT_BLOCKS);
        // Both blocks are the task's own; inputs and `dz` are only read now.
        path.run(WeightGradient { linear, inputs, dz, rows, to, block, input_blocks });
    });
}

/// Rows of merges that are brought to the gradient of their weights together.
struct Chunk {
    /// The first of them in the pass.
    first: usize,
    rows: usize,
}

/// `z` or `dz` as the operand of a product.
pub(super) fn operand<'a>(kept: Kept<'a>, linear: &PackedLinear) -> Blocked<'a> {
    let Kept { z, rows, first } = kept;
    Blocked { z, rows, blocks: linear.blocks, len: linear.panel_width(), first }
}

/// Sets a matrix that nothing else uses to 0.
pub(super) fn zero(matrix: Matrix<'_>) {
    let len = matrix.rows() * matrix.stride();
    parallel::for_each(len.div_ceil(ZEROED), |task| {
        let first = task * ZEROED;
        // SAFETY: within the matrix, whose rows follow each other; these floats are the task's own.
        unsafe { matrix.row(0).add(first).write_bytes(0, ZEROED.min(len - first)) }
    });
}
