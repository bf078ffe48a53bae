//! The pass forward as launches: leaves, then step after step the merge and its unary layers, then the wanted `h`. A step
//! runs in chunks of at most 16384 rows, each through all stages.

use cudarc::driver::CudaView;

use super::Cuda;
use super::arguments::{CellArguments, CollectArguments, InputArguments, TokensArguments};
use super::backend::CudaInput;
use super::kernels::{Kind, Tile};
use super::launch::Span;
use super::plan::{CudaPlan, List, MOST_ROWS, Regions};
use super::storage::{Layer, Sizes};
use super::weights::CudaWeights;
use crate::error::Result;

/// Steps of at least this many rows run in tiles of 128.
const WIDE: usize = 2048;

/// A pass forward at work: addresses of memory that the call borrows.
pub(super) struct Forward<'a> {
    pub cuda: &'a Cuda,
    pub weights: &'a CudaWeights,
    pub plan: &'a CudaPlan,
    /// The packed weights.
    pub packed: Span,
    pub lists: Span,
    pub workspace: Span,
    pub regions: Regions,
    /// The states' `h`, and their `c`, 0 for the RNN.
    pub h: u64,
    pub c: u64,
}

impl Forward<'_> {
    pub(super) fn run(&self, input: &CudaInput<'_>, hidden: Span) -> Result<()> {
        match input {
            CudaInput::Tokens(tokens) => self.tokens(tokens)?,
            CudaInput::Dense(x) => self.dense(x)?,
        }
        for (first, merges) in self.plan.steps() {
            let (first, rows) = (first * self.plan.width, merges * self.plan.width);
            for start in (0..rows).step_by(MOST_ROWS) {
                self.step(first + start, MOST_ROWS.min(rows - start))?;
            }
        }
        self.collect(hidden)
    }

    /// The address of a list from entry `entry` on.
    fn list(&self, list: List, entry: usize) -> u64 {
        self.lists.at(self.plan.list(list, entry), 4 * (self.plan.entries(list) - entry))
    }

    fn packed(&self, layer: &Layer) -> (u64, u64) {
        let weights = self.packed.at(layer.weights, self.sizes().storage.row_bytes(layer.elements));
        (weights, self.packed.at(layer.bias, 4 * layer.bias_elements))
    }

    fn sizes(&self) -> &Sizes {
        &self.plan.sizes
    }

    fn tokens(&self, tokens: &CudaView<'_, u32>) -> Result<()> {
        let (plan, cuda) = (self.plan, self.cuda);
        let rows = plan.leaf_rows();
        let (tokens, _tokens) = Span::of(tokens, cuda.stream());
        let (weights, bias) = self.packed(&self.weights.leaf);
        let arguments = TokensArguments {
            tokens: tokens.at(0, 4 * rows),
            h_out: self.h,
            c_out: self.c,
            weights,
            bias,
            out: self.list(List::Leaves, 0),
            bad: self.lists.at(0, 4),
            width: plan.width as u32,
            count: plan.leaves as u32,
            rows: rows as u32,
            units: self.sizes().units as u32,
            vocabulary: self.sizes().input as u32,
        };
        let kernel = cuda.kernels().tokens(plan.config.cell);
        cuda.threads("run the leaves", kernel, &arguments, rows * (self.sizes().units / 4), 128)
    }

    fn dense(&self, x: &CudaView<'_, f32>) -> Result<()> {
        let (plan, cuda) = (self.plan, self.cuda);
        let Sizes { input: d, padded_input: padded, input_row, .. } = *self.sizes();
        let (x, _x) = Span::of(x, cuda.stream());
        let at_once = plan.leaves_at_once();
        for first in (0..plan.leaves).step_by(at_once) {
            let count = at_once.min(plan.leaves - first);
            let rows = count * plan.width;
            let buffer = self.workspace.at(self.regions.input, rows * input_row);
            let arguments = InputArguments {
                x: x.at(0, 4 * plan.leaf_rows() * d),
                out: buffer,
                rows: rows as u32,
                d: d as u32,
                padded: padded as u32,
                count: plan.leaves as u32,
                first: first as u32,
                chunk: count as u32,
            };
            cuda.elementwise("store the input", &cuda.kernels().input, &arguments, rows * padded)?;
            let (weights, bias) = self.packed(&self.weights.leaf);
            let leaf = |start: usize| CellArguments {
                input: buffer,
                c_in: 0,
                h_out: self.h,
                c_out: self.c,
                weights,
                bias,
                left: 0,
                right: 0,
                out: self.list(List::Leaves, first),
                width: plan.width as u32,
                first: start as u32,
                rows: MOST_ROWS.min(rows - start) as u32,
                count: count as u32,
                units: self.sizes().units as u32,
                segment: padded as u32,
                h_local: 0,
            };
            for start in (0..rows).step_by(MOST_ROWS) {
                self.layer(Kind::Leaf, &leaf(start))?;
            }
        }
        Ok(())
    }

    /// Launch rows `first .. first + rows` of the pass's merges, through all stages.
    fn step(&self, first: usize, rows: usize) -> Result<()> {
        let plan = self.plan;
        let Sizes { units, h_row, .. } = *self.sizes();
        let Regions { between, .. } = self.regions;
        let last = self.weights.stages.len() - 1;
        for (stage, layer) in self.weights.stages.iter().enumerate() {
            let local = |stage: usize| self.workspace.at(between[stage % 2], rows * h_row);
            let (weights, bias) = self.packed(layer);
            let arguments = CellArguments {
                input: if stage == 0 { self.h } else { local(stage - 1) },
                c_in: self.c,
                h_out: if stage == last { self.h } else { local(stage) },
                c_out: self.c,
                weights,
                bias,
                left: self.list(List::Left, 0),
                right: self.list(List::Right, 0),
                out: self.list(List::Out, 0),
                width: plan.width as u32,
                first: first as u32,
                rows: rows as u32,
                count: 0,
                units: units as u32,
                segment: units as u32,
                h_local: u32::from(stage != last),
            };
            self.layer(if stage == 0 { Kind::Merge } else { Kind::Unary }, &arguments)?;
        }
        Ok(())
    }

    fn layer(&self, kind: Kind, arguments: &CellArguments) -> Result<()> {
        let rows = arguments.rows as usize;
        let tile = self.cuda.tile().unwrap_or(if rows >= WIDE { Tile::Rows128 } else { Tile::Rows64 });
        self.cuda.layer(self.plan.config.cell, kind, tile, arguments, self.sizes().unit_blocks())
    }

    fn collect(&self, hidden: Span) -> Result<()> {
        let (plan, rows) = (self.plan, self.plan.output_rows());
        let Sizes { hidden: hidden_size, units, .. } = *self.sizes();
        let arguments = CollectArguments {
            h: self.h,
            outputs: self.list(List::Outputs, 0),
            hidden: hidden.at(0, 4 * rows * hidden_size),
            width: plan.width as u32,
            count: plan.outputs as u32,
            rows: rows as u32,
            units: units as u32,
            hidden_size: hidden_size as u32,
        };
        let collect = &self.cuda.kernels().collect;
        self.cuda.elementwise("collect the outputs", collect, &arguments, rows * hidden_size)
    }
}
