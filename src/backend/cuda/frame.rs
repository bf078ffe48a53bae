//! A pass at work: the memory that the call borrows, and the address of everything in it. Launches nothing but the
//! conversion of dense input, which both ways want.

use super::Cuda;
use super::arguments::InputArguments;
use super::launch::Span;
use super::plan::{CudaPlan, List};
use super::regions::{Kept, Regions};
use super::storage::{Layer, Sizes};
use super::weights::CudaWeights;
use crate::error::Result;

/// A pass at work.
pub(super) struct Frame<'a> {
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

impl Frame<'_> {
    pub(super) fn sizes(&self) -> &Sizes {
        &self.plan.sizes
    }

    /// The address of a list from entry `entry` on.
    pub(super) fn list(&self, list: List, entry: usize) -> u64 {
        let entries = self.plan.entries()[list as usize];
        self.lists.at(self.plan.list(list, entry), 4 * (entries - entry))
    }

    /// A layer's packed weights and bias.
    pub(super) fn packed(&self, layer: &Layer) -> (u64, u64) {
        let weights = self.packed.at(layer.weights, self.sizes().storage.row_bytes(layer.elements));
        (weights, self.packed.at(layer.bias, 4 * layer.bias_elements))
    }

    /// Rows of a matrix that begins at byte `start`.
    pub(super) fn rows(&self, start: usize, row: usize, first: usize, rows: usize) -> u64 {
        self.workspace.at(start + first * row, rows * row)
    }

    /// `h` and `c` that a stage but the last left of some of the merges' rows, of one window, where they are kept.
    pub(super) fn stage(&self, kept: &Kept, stage: usize, first: usize, rows: usize) -> [u64; 2] {
        let first = stage * kept.window + first % kept.window;
        let Sizes { h_row, c_row, .. } = *self.sizes();
        [(kept.stage_h, h_row), (kept.stage_c, c_row)].map(|(start, row)| self.rows(start, row, first, rows))
    }

    /// `z` of a stage of some of the merges' rows, of one window.
    pub(super) fn z(&self, kept: &Kept, stage: usize, first: usize, rows: usize) -> u64 {
        let (row, first) = (self.weights.stages[stage].z_row, first % kept.window);
        match stage {
            0 => self.rows(kept.z_merge, row, first, rows),
            _ => self.rows(kept.z_unary, row, (stage - 1) * kept.window + first, rows),
        }
    }

    /// `z` of the leaves from row `first` on.
    pub(super) fn z_leaf(&self, kept: &Kept, first: usize) -> u64 {
        self.rows(kept.z_leaf, self.weights.leaf.z_row, first, self.plan.leaf_rows() - first)
    }

    /// Brings the dense input of `count` leaves from `first` on into the storage, `[lanes * count, D]`; its address.
    pub(super) fn store_input(&self, x: Span, first: usize, count: usize) -> Result<u64> {
        let (plan, cuda) = (self.plan, self.cuda);
        let Sizes { input: d, padded_input: padded, input_row, .. } = *self.sizes();
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
        Ok(buffer)
    }

    /// Chunks of the leaves whose dense input is stored at a time: the first, and how many.
    pub(super) fn input_chunks(&self) -> impl Iterator<Item = (usize, usize)> {
        let (leaves, at_once) = (self.plan.leaves, self.plan.leaves_at_once());
        (0..leaves).step_by(at_once).map(move |first| (first, at_once.min(leaves - first)))
    }
}
