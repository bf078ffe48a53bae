//! The pass forward of a sequential model: step after step, each from the prefix before it. Knows nothing of trees.
//!
//! A step is the cell of one state, as a unary layer is, but that what is added to the product is the input's part:
//! `z = h_{t-1}·W_h + (x_t·W_x + b)`, each product one accumulator, `k` ascending. The input's part of many steps is
//! one product, made beforehand; that of a token is a row of `W_x` and the bias, and is looked up. `b` has the 1 of the
//! LSTM's forget gate in it, and both biases of the RNN.

use std::ops::Range;

use super::cell::{At, CellForward, CellKernel, Kept};
use super::forward::{TILE, collect, for_columns, tile_rows};
use super::lanes::Lanes;
use super::memory::{Index, Matrix};
use super::pack::{CpuWeights, PackedLinear};
use super::plan::{CpuPlan, States};
use super::product::{Operand, Rows};
use super::recompute::Preactivation;
use super::{BLOCK, Counters, CpuInput, CpuPath, blocks, parallel};
use crate::backend::Pass;
use crate::model::Cell;
use crate::tree::Step;

/// Rows whose input products are made at once, unless one step has more: they stay in the second-level cache.
const PIECE: usize = 256;

/// The matrices of a pass.
pub(super) struct ChainMemory<'a> {
    pub states: States<'a>,
    /// The input's part of `z`, then `z`, then `dz`, `[blocks · rows, gates · BLOCK]`: of all rows in training, else of
    /// one piece after another.
    pub z: Matrix<'a>,
    /// Rows of a block of `z`.
    pub rows: usize,
    /// What only training has.
    pub backward: Option<ChainGradients<'a>>,
}

/// Memory of the pass backward.
pub(super) struct ChainGradients<'a> {
    /// Gradient of the `h` and the `c` of a step, `[rows of the widest step, padded H]`; the RNN has no `c`.
    pub dh: Matrix<'a>,
    pub dc: Option<Matrix<'a>>,
    /// Packed gradients: of each block of units `[fan_in, gates · BLOCK]` and the bias as one more row.
    pub d_input: Matrix<'a>,
    pub d_recurrent: Matrix<'a>,
}

impl<'a> ChainMemory<'a> {
    pub(super) fn lay_out(plan: &CpuPlan, take: &mut impl FnMut(usize, usize) -> Matrix<'a>) -> Self {
        let CpuPlan { config, schedule, pass, .. } = plan;
        let (padded, units) = (plan.padded(), blocks(config.hidden));
        let lstm = config.cell == Cell::Lstm;
        let widest = schedule.steps().next().map_or(0, |step| step.out.len()) * schedule.width();
        let state_rows = schedule.slots() * schedule.width();
        let states = States { h: take(state_rows, padded), c: lstm.then(|| take(state_rows, padded)) };
        let training = *pass == Pass::Train;
        let rows = if training { plan.merge_rows() } else { plan.merge_rows().min(widest.max(PIECE)) };
        let width = config.cell.gates(1) * BLOCK;
        let z = take(units * rows, width);
        let backward = training.then(|| ChainGradients {
            dh: take(widest, padded),
            dc: lstm.then(|| take(widest, padded)),
            d_input: take(units * (config.input + 1), width),
            d_recurrent: take(units * (config.hidden + 1), width),
        });
        ChainMemory { states, z, rows, backward }
    }
}

impl CpuPlan {
    /// The input row of each row of these merges of a sequential model, in the order of the steps.
    pub(super) fn chain_inputs(&self, merges: Range<usize>) -> Index<'_> {
        let (schedule, width) = (&self.schedule, self.schedule.width());
        match width {
            1 => Index::Slots { slots: &schedule.right()[merges], width },
            // One sequence for all lanes: its leaves are in the order of time.
            _ => Index::Input { width, time: schedule.leaves().len(), first: merges.start },
        }
    }
}

/// A pass forward at work.
pub(super) struct Chains<'a> {
    pub path: CpuPath,
    pub weights: &'a CpuWeights,
    pub plan: &'a CpuPlan,
    pub memory: ChainMemory<'a>,
    pub counters: &'a Counters,
}

impl Chains<'_> {
    pub(super) fn run(&self, input: CpuInput<'_>, hidden: &mut [f32]) {
        let schedule = &self.plan.schedule;
        let States { h, c } = self.memory.states;
        for zeros in std::iter::once(h).chain(c) {
            for row in 0..schedule.width() {
                // SAFETY: slot 0 has `width` rows of whole blocks, and nothing runs yet.
                unsafe { zeros.row(row).write_bytes(0, self.plan.padded()) };
            }
        }
        parallel::inside(|| match input {
            CpuInput::Tokens(tokens) => {
                for step in schedule.steps() {
                    let index = self.plan.chain_inputs(step.first..step.first + step.out.len());
                    let part = TokenPart { linear: &self.weights.leaf, tokens, index };
                    self.step(&step, part, self.kept(step.first * schedule.width()));
                }
            }
            CpuInput::Dense(x) => self.dense(x),
        });
        collect(schedule, h, self.plan.config.hidden, hidden);
    }

    /// Where `z` of rows from `first` is kept in training.
    fn kept(&self, first: usize) -> Option<Kept<'_>> {
        let ChainMemory { z, rows, ref backward, .. } = self.memory;
        backward.as_ref().map(|_| Kept { z, rows, first })
    }

    /// Piece after piece: the input's part, then the steps.
    fn dense(&self, x: &[f32]) {
        let ChainMemory { z, rows: room, .. } = self.memory;
        let schedule = &self.plan.schedule;
        let width = schedule.width();
        let mut made = 0..0;
        for step in schedule.steps() {
            if step.first + step.out.len() > made.end {
                made = step.first..schedule.merges().min(step.first + room / width);
                self.input_part(x, made.clone());
            }
            let part = InputPart(Kept { z, rows: room, first: (step.first - made.start) * width });
            self.step(&step, part, self.kept(step.first * width));
        }
    }

    /// `x · W_x + b` of merges, into `z` from its first row on.
    fn input_part(&self, x: &[f32], merges: Range<usize>) {
        let ChainMemory { z, rows: room, .. } = self.memory;
        let linear = &self.weights.leaf;
        // SAFETY: the input is only read.
        let x = unsafe { Matrix::read_only(x, linear.fan_in) };
        let rows = merges.len() * self.plan.schedule.width();
        let input = Rows { x, index: self.plan.chain_inputs(merges), len: linear.fan_in };
        let to = Kept { z, rows: room, first: 0 };
        parallel::for_each(rows.div_ceil(TILE), |tile| {
            let (rows, blocks) = (tile_rows(tile, rows), 0..linear.blocks);
            // Each task writes rows of its own, which no step reads yet.
            self.path.run(Preactivation { linear, input, to, rows, blocks });
        });
    }

    /// A step of all rows; what it reads was written by the steps before.
    fn step<'s>(&'s self, step: &Step<'s>, part: impl Part, kept: Option<Kept<'s>>) {
        let width = self.plan.schedule.width();
        let States { h, c } = self.memory.states;
        let [from, to] = [step.left, step.out].map(|slots| Index::Slots { slots, width });
        let at = |matrix: Option<Matrix<'s>>, index| matrix.map(|matrix| At { matrix, index });
        let linear = &self.weights.stages[0];
        let job = CellForward {
            linear,
            input: After { h: Rows { x: h, index: from, len: linear.fan_in }, part },
            previous: [at(c, from)],
            h: At { matrix: h, index: to },
            c: at(c, to),
            kept,
            // The next step begins with the first.
            after: linear.panel(0),
        };
        let (cell, rows) = (self.plan.config.cell, step.out.len() * width);
        for_columns(linear.blocks, rows * linear.fan_in * linear.panel_width(), |units| {
            if units.start == 0 {
                self.counters.count(rows);
            }
            // Each task has units of its own, and no slot that a step writes is one that it reads.
            self.path.run(CellKernel { job: &job, cell, rows: 0..rows, blocks: units });
        });
    }
}

/// The input's part of `z`.
trait Part: Copy + Send + Sync {
    /// `x · W_x + b` of a row of the step, from column `at` of a block on.
    ///
    /// # Safety
    /// The row and the block are there, and `L::WIDTH` columns from `at`.
    unsafe fn load<L: Lanes>(&self, block: usize, at: usize, row: usize) -> L;
}

/// It was made beforehand.
#[derive(Clone, Copy)]
struct InputPart<'a>(Kept<'a>);

impl Part for InputPart<'_> {
    #[inline(always)]
    unsafe fn load<L: Lanes>(&self, block: usize, at: usize, row: usize) -> L {
        // SAFETY: passed on. In training this is where `z` goes: the task that reads a place is the one that writes it.
        unsafe { L::load(self.0.row(block, row).add(at)) }
    }
}

/// It is a row of `W_x` and the bias.
#[derive(Clone, Copy)]
struct TokenPart<'a> {
    linear: &'a PackedLinear,
    tokens: &'a [u32],
    /// Of the rows of the step.
    index: Index<'a>,
}

impl Part for TokenPart<'_> {
    #[inline(always)]
    unsafe fn load<L: Lanes>(&self, block: usize, at: usize, row: usize) -> L {
        let token = self.tokens[self.index.row(row)] as usize;
        let weights = self.linear.panel(block).as_ptr();
        // SAFETY: tokens are below the vocabulary, whose rows the panel holds; the rest is passed on.
        unsafe {
            let weights = L::load(weights.add(token * self.linear.panel_width() + at));
            weights.add(L::load(self.linear.bias(block).as_ptr().add(at)))
        }
    }
}

/// `h_{t-1}`, to whose product the input's part is added.
#[derive(Clone, Copy)]
struct After<'a, P: Part> {
    h: Rows<'a>,
    part: P,
}

impl<P: Part> Operand for After<'_, P> {
    type Element = f32;

    fn segments(&self) -> usize {
        1
    }
    fn segment_len(&self) -> usize {
        self.h.len
    }
    #[inline(always)]
    fn segment(&self, segment: usize, row: usize) -> *const f32 {
        self.h.segment(segment, row)
    }
    #[inline(always)]
    unsafe fn shift<L: Lanes>(&self, _: &PackedLinear, block: usize, at: usize, row: usize) -> L {
        // SAFETY: passed on.
        unsafe { self.part.load(block, at, row) }
    }
}
