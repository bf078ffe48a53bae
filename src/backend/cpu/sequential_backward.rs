//! The pass backward of a sequential model: the steps in reverse, then the gradients of the weights.
//!
//! A state has one reader, the step after it, whose row is the same. So what a step leaves for the one before it needs
//! the rows of one step only: the gradient of `h`, `dz_{t+1} · W_hᵀ`, and that of `c`.

use std::ops::Range;

use super::backward::{operand, weight_gradient, zero};
use super::cell::{At, Kept};
use super::cell_backward::{CellBackward, InputGradient, IntoInput, IntoPlaces, load_part};
use super::forward::{TILE, for_columns, tile_rows};
use super::lanes::Lanes;
use super::memory::{Index, Matrix};
use super::pack::{CpuWeights, GROUP, PackedLinear};
use super::path::Kernel;
use super::plan::{CpuPlan, States};
use super::product::{Blocked, Rows};
use super::sequential::ChainGradients;
use super::weight_gradient::{PackedGradient, TokenGradient};
use super::{BLOCK, CpuInput, CpuPath, parallel};
use crate::tree::Step;

/// A pass backward at work.
pub(super) struct ChainsBackward<'a> {
    pub path: CpuPath,
    pub weights: &'a CpuWeights,
    pub plan: &'a CpuPlan,
    pub states: States<'a>,
    /// `z`, overwritten with `dz`.
    pub z: Matrix<'a>,
    pub gradients: ChainGradients<'a>,
    pub d_hidden: &'a [f32],
}

impl ChainsBackward<'_> {
    pub(super) fn run(&self, input: CpuInput<'_>, gradient: &mut [f32], d_input: Option<&mut [f32]>) {
        parallel::inside(|| {
            let mut next = None;
            for step in self.plan.schedule.steps().rev() {
                self.step(&step, next.as_ref());
                next = Some(step);
            }
            if let (CpuInput::Dense(_), Some(d_input)) = (input, d_input) {
                self.input_gradient(d_input);
            }
            self.weight_gradients(input, gradient);
        });
    }

    /// `dz` from row `first` on.
    fn dz(&self, first: usize) -> Blocked<'_> {
        operand(Kept { z: self.z, rows: self.plan.merge_rows(), first }, &self.weights.stages[0])
    }

    /// `dz` of a step, whose first rows are read by those of the next.
    fn step(&self, step: &Step<'_>, next: Option<&Step<'_>>) {
        let width = self.plan.schedule.width();
        let linear = &self.weights.stages[0];
        let [rows, read] = [Some(step), next].map(|step| step.map_or(0, |step| step.out.len() * width));
        let at = |matrix, index| At { matrix, index };
        let dh = at(self.gradients.dh, Index::From(0));
        let dc = self.gradients.dc.map(|dc| at(dc, Index::From(0)));
        let c = |slots| self.states.c.map(|c| at(c, Index::Slots { slots, width }));
        let gates = CellBackward {
            cell: self.plan.config.cell,
            states: 1,
            z: Kept { z: self.z, rows: self.plan.merge_rows(), first: step.first * width },
            previous: [c(step.left), None],
            c: c(step.out),
            d_previous: [dc, None],
        };
        let outside = Outside {
            slots: step.out,
            width,
            output_of: &self.plan.output_of,
            outputs: self.plan.schedule.outputs().len(),
            d_hidden: self.d_hidden,
            hidden: self.plan.config.hidden,
        };
        let cost = rows * linear.fan_in * linear.panel_width() * linear.blocks / linear.groups();
        for_columns(linear.groups(), cost, |groups| {
            // `dz` of the next step is whole; the units of a task's groups are its own, in every matrix.
            let blocks = groups.start * GROUP..linear.input_blocks().min(groups.end * GROUP);
            if let Some(next) = next {
                let (dz, sink) =
                    (self.dz(next.first * width), IntoPlaces { places: [dh, dh], blocks: linear.blocks });
                self.path.run(InputGradient { linear, dz, sink, rows: 0..read, groups });
            }
            self.path.run(StepGates { gates: &gates, dh, dc, outside: &outside, rows, read, blocks });
        });
    }

    /// `dz · W_xᵀ`, the gradient of dense input.
    fn input_gradient(&self, d_input: &mut [f32]) {
        let (linear, dz) = (&self.weights.leaf, self.dz(0));
        let columns = linear.fan_in;
        let index = self.plan.chain_inputs(0..self.plan.schedule.merges());
        let sink = IntoInput { rows: At { matrix: Matrix::new(d_input, columns), index }, columns };
        let count = self.plan.merge_rows();
        parallel::for_each(count.div_ceil(TILE), |tile| {
            let rows = tile_rows(tile, count);
            // Each row of the input belongs to one row of the pass, and that to one task.
            self.path.run(InputGradient { linear, dz, sink, rows, groups: 0..linear.groups() });
        });
    }

    /// The gradients of both weights and biases, over all rows in order.
    fn weight_gradients(&self, input: CpuInput<'_>, gradient: &mut [f32]) {
        let CpuPlan { config, schedule, .. } = self.plan;
        let (leaf, recurrent) = (&self.weights.leaf, &self.weights.stages[0]);
        let (dz, rows) = (self.dz(0), self.plan.merge_rows());
        let ChainGradients { d_input, d_recurrent, .. } = self.gradients;
        [d_input, d_recurrent].into_iter().for_each(zero);
        let packed =
            |matrix, linear: &PackedLinear| PackedGradient { matrix, first: 0, fan_in: linear.fan_in };
        let index = self.plan.chain_inputs(0..schedule.merges());
        let to = packed(d_input, leaf);
        match input {
            CpuInput::Tokens(tokens) => parallel::for_each(leaf.blocks, |block| {
                // The block is the task's own.
                self.path.run(TokenGradient { tokens, index, linear: leaf, dz, rows, to, block })
            }),
            CpuInput::Dense(x) => {
                // SAFETY: the input is only read.
                let x = unsafe { Matrix::read_only(x, leaf.fan_in) };
                weight_gradient(self.path, leaf, Rows { x, index, len: leaf.fan_in }, dz, rows, to);
            }
        }
        leaf.unpack_add(&self.weights.layout.leaf, to, gradient);
        let index = Index::Slots { slots: schedule.left(), width: schedule.width() };
        let to = packed(d_recurrent, recurrent);
        let before = Rows { x: self.states.h, index, len: config.hidden };
        weight_gradient(self.path, recurrent, before, dz, rows, to);
        recurrent.unpack_add(&self.weights.layout.merge, to, gradient);
    }
}

/// The gradient of the states of a step that comes from outside.
struct Outside<'a> {
    /// The slot of each row's state.
    slots: &'a [u32],
    width: usize,
    /// Output of a slot plus one, 0 where it is none.
    output_of: &'a [u32],
    outputs: usize,
    /// `[lanes · outputs, H]`.
    d_hidden: &'a [f32],
    hidden: usize,
}

impl Outside<'_> {
    #[inline(always)]
    fn load<L: Lanes>(&self, row: usize, unit: usize) -> L {
        let (slot, lane) = (self.slots[row / self.width] as usize, row % self.width);
        match self.output_of[slot].checked_sub(1) {
            Some(output) => {
                let output = lane * self.outputs + output as usize;
                load_part(&self.d_hidden[output * self.hidden..][..self.hidden], unit)
            }
            None => L::splat(0.0),
        }
    }
}

/// The gates of a step backward.
struct StepGates<'a, 'b> {
    gates: &'a CellBackward<'b>,
    /// What the next step left for the rows that it reads, the first `read`.
    dh: At<'b>,
    dc: Option<At<'b>>,
    outside: &'a Outside<'b>,
    rows: usize,
    read: usize,
    blocks: Range<usize>,
}

impl Kernel for StepGates<'_, '_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        for row in 0..self.rows {
            for block in self.blocks.clone() {
                for half in (0..BLOCK).step_by(L::WIDTH) {
                    let unit = block * BLOCK + half;
                    let outside = self.outside.load(row, unit);
                    let zero = L::splat(0.0);
                    // SAFETY: whoever makes the kernel vouches for its rows and blocks; the gates read `dc` before they
                    // write theirs to the same place.
                    unsafe {
                        let (dh, dc) = match row < self.read {
                            true => (
                                L::load(self.dh.row(row).add(unit)).add(outside),
                                self.dc.map_or(zero, |dc| L::load(dc.row(row).add(unit))),
                            ),
                            false => (outside, zero),
                        };
                        self.gates.apply(dh, dc, block, half, row);
                    }
                }
            }
        }
    }
}
