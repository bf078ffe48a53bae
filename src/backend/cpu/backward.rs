//! The pass backward: the steps in reverse, then the leaves, then the gradients of the weights.
//!
//! A merge writes the gradient of each of its states into its own place; a state sums its readers' places in
//! their fixed order. Nothing is added into memory that another row owns.

use std::ops::Range;

use super::cell::{At, Kept};
use super::cell_backward::{
    CellBackward, GatherKernel, InputGradient, IntoGates, IntoInput, IntoPlaces, StateGradient,
    TokenGradient, WeightGradient,
};
use super::forward::{Division, TILE, for_columns, tile_rows};
use super::memory::{Index, Matrix};
use super::pack::{CpuWeights, PackedLinear};
use super::plan::{CpuPlan, States, Training};
use super::product::{Blocked, Operand, Pairs, Rows};
use super::{CpuInput, CpuPath, blocks, parallel};
use crate::model::LinearRange;
use crate::tree::Step;

/// Inputs of one task of a weight's gradient.
const ELEMENTS: usize = 128;

/// A pass backward at work.
pub(super) struct Backward<'a> {
    pub path: CpuPath,
    pub weights: &'a CpuWeights,
    pub plan: &'a CpuPlan,
    pub states: States<'a>,
    pub training: Training<'a>,
    pub d_hidden: &'a [f32],
}

impl Backward<'_> {
    pub(super) fn run(&self, input: CpuInput<'_>, gradient: &mut [f32], d_input: Option<&mut [f32]>) {
        let width = self.plan.schedule.width();
        for step in self.plan.schedule.steps().rev() {
            let rows = step.out.len() * width;
            match Division::of(rows) {
                Division::Tiles(tiles) => parallel::for_each(tiles, |tile| {
                    let rows = tile_rows(tile, rows);
                    self.gather(&step, rows.clone(), 0..blocks(self.plan.config.hidden));
                    for stage in (0..self.weights.stages.len()).rev() {
                        self.input_gradient(
                            &step,
                            stage,
                            rows.clone(),
                            0..self.weights.stages[stage].groups(),
                        );
                    }
                }),
                Division::Columns => {
                    let units = blocks(self.plan.config.hidden);
                    // A unit's gates cost about as much as 64 multiply-adds a lane.
                    for_columns(units, rows * 1024, |units| self.gather(&step, 0..rows, units));
                    for (stage, linear) in self.weights.stages.iter().enumerate().rev() {
                        let cost =
                            rows * linear.fan_in * linear.panel_width() * linear.blocks / linear.groups();
                        for_columns(linear.groups(), cost, |groups| {
                            self.input_gradient(&step, stage, 0..rows, groups)
                        });
                    }
                }
            }
        }
        self.leaves(input, d_input);
        self.leaf_weights(input, gradient);
        for stage in 0..self.weights.stages.len() {
            self.stage_weights(stage, gradient);
        }
    }

    fn state_gradient<'s>(&'s self, slots: &'s [u32]) -> StateGradient<'s> {
        let CpuPlan { config, schedule, readers, output_of, .. } = self.plan;
        StateGradient {
            dh: self.training.places.h,
            dc: self.training.places.c,
            readers,
            slots,
            width: schedule.width(),
            output_of,
            outputs: schedule.outputs().len(),
            d_hidden: self.d_hidden,
            hidden: config.hidden,
            padded: self.plan.padded(),
        }
    }

    /// Where `z` and `dz` of a stage of a step lie.
    fn kept(&self, step_first: usize, stage: usize) -> Kept<'_> {
        let rows = self.plan.merge_rows();
        match stage {
            0 => Kept { z: self.training.z_merge, rows, first: step_first },
            _ => {
                let before = (stage - 1) * blocks(self.plan.config.hidden) * rows;
                Kept { z: self.training.z_unary, rows, first: before + step_first }
            }
        }
    }

    /// `dz` of a stage as the operand of a product, from row `first`.
    fn dz(&self, first: usize, stage: usize) -> Blocked<'_> {
        let linear = &self.weights.stages[stage];
        let Kept { z, rows, first } = self.kept(first, stage);
        Blocked { z, rows, blocks: linear.blocks, len: linear.panel_width(), first }
    }

    /// The gates of a stage of a step, backward.
    fn cell<'s>(&'s self, step: &Step<'s>, stage: usize) -> CellBackward<'s> {
        let (schedule, merge_rows) = (&self.plan.schedule, self.plan.merge_rows());
        let width = schedule.width();
        let first = step.first * width;
        let at = |matrix: Option<Matrix<'s>>, index| matrix.map(|matrix| At { matrix, index });
        let kept_c = |stage: usize| at(self.training.stages.c, Index::From(stage * merge_rows + first));
        let slots = |slots| at(self.states.c, Index::Slots { slots, width });
        let last = stage + 1 == self.weights.stages.len();
        let places = at(self.training.places.c, Index::From(first));
        let (previous, d_previous) = match stage {
            0 => (
                [slots(step.left), slots(step.right)],
                [places.map(|to| (to, 0)), places.map(|to| (to, self.plan.padded()))],
            ),
            _ => {
                let dc = self.dc().map(|to| (to, 0));
                ([kept_c(stage - 1), None], [dc, None])
            }
        };
        CellBackward {
            cell: self.plan.config.cell,
            states: if stage == 0 { 2 } else { 1 },
            z: self.kept(first, stage),
            previous,
            c: if last { slots(step.out) } else { kept_c(stage) },
            d_previous,
        }
    }

    /// The gradient of `c` between two stages of a step.
    fn dc(&self) -> Option<At<'_>> {
        self.states.c.map(|_| At { matrix: self.training.dc, index: Index::From(0) })
    }

    /// The last stage's gates: their gradient comes from the readers of the state.
    fn gather(&self, step: &Step<'_>, rows: Range<usize>, blocks: Range<usize>) {
        let cell = self.cell(step, self.weights.stages.len() - 1);
        let gradient = self.state_gradient(step.out);
        // Every reader ran in a later step, and has written its place; rows and blocks are the task's own.
        self.path.run(GatherKernel { gradient: &gradient, cell: &cell, rows, blocks });
    }

    /// `dz · Wᵀ` of a stage, into the gates of the stage below, or into the merge's places.
    fn input_gradient(&self, step: &Step<'_>, stage: usize, rows: Range<usize>, groups: Range<usize>) {
        let first = step.first * self.plan.schedule.width();
        let (linear, dz) = (&self.weights.stages[stage], self.dz(first, stage));
        // `dz` of all units was written before, by this task or before it began; rows and groups are its own.
        if stage == 0 {
            let sink = IntoPlaces(At { matrix: self.training.places.h, index: Index::From(first) });
            self.path.run(InputGradient { linear, dz, sink, rows, groups });
        } else {
            let sink = IntoGates { below: self.cell(step, stage - 1), dc: self.dc() };
            self.path.run(InputGradient { linear, dz, sink, rows, groups });
        }
    }

    fn leaf_operand(&self) -> (Kept<'_>, Blocked<'_>) {
        let (linear, rows) = (&self.weights.leaf, self.plan.leaf_rows());
        let z = self.training.z_leaf;
        (
            Kept { z, rows, first: 0 },
            Blocked { z, rows, blocks: linear.blocks, len: linear.panel_width(), first: 0 },
        )
    }

    fn leaves(&self, input: CpuInput<'_>, d_input: Option<&mut [f32]>) {
        let schedule = &self.plan.schedule;
        let (width, rows) = (schedule.width(), self.plan.leaf_rows());
        let linear = &self.weights.leaf;
        let gradient = self.state_gradient(schedule.leaves());
        let (z, dz) = self.leaf_operand();
        let index = Index::Slots { slots: schedule.leaves(), width };
        let cell = CellBackward {
            cell: self.plan.config.cell,
            states: 0,
            z,
            previous: [None; 2],
            c: self.states.c.map(|matrix| At { matrix, index }),
            d_previous: [None; 2],
        };
        let index = Index::Input { width, time: schedule.leaves().len() };
        let columns = linear.fan_in;
        let d_input = match input {
            CpuInput::Dense(_) => d_input.map(|d_input| At { matrix: Matrix::new(d_input, columns), index }),
            CpuInput::Tokens(_) => None,
        };
        parallel::for_each(rows.div_ceil(TILE), |tile| {
            let rows = tile_rows(tile, rows);
            self.path.run(GatherKernel {
                gradient: &gradient,
                cell: &cell,
                rows: rows.clone(),
                blocks: 0..linear.blocks,
            });
            if let Some(rows_of_input) = d_input {
                let sink = IntoInput { rows: rows_of_input, columns };
                self.path.run(InputGradient { linear, dz, sink, rows, groups: 0..linear.groups() });
            }
        });
    }

    fn leaf_weights(&self, input: CpuInput<'_>, gradient: &mut [f32]) {
        let schedule = &self.plan.schedule;
        let (linear, rows) = (&self.weights.leaf, self.plan.leaf_rows());
        let index = Index::Input { width: schedule.width(), time: schedule.leaves().len() };
        let (_, dz) = self.leaf_operand();
        let range = &self.weights.layout.leaf;
        match input {
            CpuInput::Tokens(tokens) => self.with_gradient(linear, range, gradient, |dw, db| {
                parallel::for_each(linear.blocks, |block| {
                    self.path.run(TokenGradient { tokens, index, linear, dz, rows, dw, db, block })
                });
            }),
            CpuInput::Dense(x) => {
                // SAFETY: the input is only read.
                let x = unsafe { Matrix::read_only(x, linear.fan_in) };
                let operand = Rows { x, index, len: linear.fan_in };
                self.weight_gradient(linear, range, operand, dz, rows, gradient);
            }
        }
    }

    fn stage_weights(&self, stage: usize, gradient: &mut [f32]) {
        let CpuPlan { config, schedule, .. } = self.plan;
        let (linear, rows) = (&self.weights.stages[stage], self.plan.merge_rows());
        let (range, dz) = (self.weights.stage_range(stage), self.dz(0, stage));
        let (len, width) = (config.hidden, schedule.width());
        if stage == 0 {
            let [left, right] =
                [schedule.left(), schedule.right()].map(|slots| Index::Slots { slots, width });
            let input = Pairs { h: self.states.h, left, right, len };
            self.weight_gradient(linear, range, input, dz, rows, gradient);
        } else {
            let input = Rows { x: self.training.stages.h, index: Index::From((stage - 1) * rows), len };
            self.weight_gradient(linear, range, input, dz, rows, gradient);
        }
    }

    fn weight_gradient<I: Operand>(
        &self,
        linear: &PackedLinear,
        range: &LinearRange,
        input: I,
        dz: Blocked<'_>,
        rows: usize,
        gradient: &mut [f32],
    ) {
        let pieces = input.segment_len().div_ceil(ELEMENTS);
        self.with_gradient(linear, range, gradient, |dw, db| {
            parallel::for_each(linear.blocks * input.segments() * pieces, |task| {
                let (block, rest) = (task / (input.segments() * pieces), task % (input.segments() * pieces));
                let (segment, first) = (rest / pieces, rest % pieces * ELEMENTS);
                let elements = first..input.segment_len().min(first + ELEMENTS);
                // Block, segment and elements are the task's own; the states and `dz` are only read now.
                self.path.run(WeightGradient { linear, input, dz, rows, dw, db, block, segment, elements });
            });
        });
    }

    /// Lets `fill` accumulate a packed gradient from zero, then adds it to the flat one.
    fn with_gradient(
        &self,
        linear: &PackedLinear,
        range: &LinearRange,
        gradient: &mut [f32],
        fill: impl for<'m> FnOnce(Matrix<'m>, Matrix<'m>),
    ) {
        let (dw_len, db_len) = linear.gradient_len();
        let (dw, db) = (self.training.dw.row(0), self.training.db.row(0));
        let width = linear.panel_width();
        // SAFETY: the workspace holds the largest gradient, and nothing else uses it while this runs.
        let (dw, db) = unsafe {
            (std::slice::from_raw_parts_mut(dw, dw_len), std::slice::from_raw_parts_mut(db, db_len))
        };
        dw.fill(0.0);
        db.fill(0.0);
        fill(Matrix::new(&mut *dw, width), Matrix::new(&mut *db, width));
        linear.unpack_add(range, dw, db, gradient);
    }
}
