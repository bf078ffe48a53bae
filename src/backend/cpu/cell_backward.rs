//! The cell backward: from the gradient of a state to `dz`, in the place of `z`, and to the gradients of the
//! states it was made from; `z` is kept rather than the gates, so that a saturated gate keeps its derivative.

use std::ops::Range;

use super::BLOCK;
use super::cell::{At, Kept};
use super::gates::{sigmoid_with_derivative, tanh_with_derivative};
use super::lanes::Lanes;
use super::memory::{Index, Matrix};
use super::pack::{GROUP, PackedLinear};
use super::path::Kernel;
use super::product::{Ahead, Blocked, Operand, Tile, accumulate, for_each_tile};
use crate::model::Cell;
use crate::tree::Readers;

/// A cell over `states` states whose gates are turned into gradients.
#[derive(Clone, Copy)]
pub(super) struct CellBackward<'a> {
    pub cell: Cell,
    pub states: usize,
    /// `z`, overwritten with `dz`.
    pub z: Kept<'a>,
    /// `c` of each input state.
    pub previous: [Option<At<'a>>; 2],
    /// `c` that the cell made; None for the RNN.
    pub c: Option<At<'a>>,
    /// Where the gradient of each input state's `c` goes, and at which column.
    pub d_previous: [Option<(At<'a>, usize)>; 2],
}

impl CellBackward<'_> {
    /// One vector of one row: `dh` and `dc` are the gradient of the state.
    ///
    /// # Safety
    /// Row and block lie in the matrices and belong to the calling task.
    #[inline(always)]
    unsafe fn apply<L: Lanes>(&self, dh: L, dc: L, block: usize, half: usize, row: usize) {
        let unit = block * BLOCK + half;
        // SAFETY: passed on; a row of `z` has `gates · BLOCK` floats, rows of states whole blocks.
        unsafe {
            let z = self.z.row(block, row).add(half);
            let (Cell::Lstm, Some(c)) = (self.cell, self.c) else {
                // relu'(0) = 0; the RNN's leaf is linear
                let positive = L::splat(0.0).sub(L::load(z));
                let dz = if self.states == 0 { dh } else { positive.if_negative(dh, L::splat(0.0)) };
                return dz.store(z);
            };
            let (i, di) = sigmoid_with_derivative(L::load(z));
            let (g, dg) = tanh_with_derivative(L::load(z.add(BLOCK)));
            let (o, d_o) = sigmoid_with_derivative(L::load(z.add(2 * BLOCK)));
            let (tanh_c, d_tanh) = tanh_with_derivative(L::load(c.row(row).add(unit)));
            let dc = dh.mul(o).fma(d_tanh, dc);
            dc.mul(g).mul(di).store(z);
            dc.mul(i).mul(dg).store(z.add(BLOCK));
            dh.mul(tanh_c).mul(d_o).store(z.add(2 * BLOCK));
            for n in 0..self.states {
                if let (Some(previous), Some((to, column))) = (self.previous[n], self.d_previous[n]) {
                    let z = z.add((3 + n) * BLOCK);
                    let (f, df) = sigmoid_with_derivative(L::load(z));
                    dc.mul(L::load(previous.row(row).add(unit))).mul(df).store(z);
                    dc.mul(f).store(to.row(row).add(column + unit));
                }
            }
        }
    }
}

/// The gradient of states: what their readers left, in the readers' order, then what came from outside.
#[derive(Clone, Copy)]
pub(super) struct StateGradient<'a> {
    /// `[merge rows, 2 · padded H]`: a merge's gradient of its left and right `h`.
    pub dh: Matrix<'a>,
    /// The same of `c`; None for the RNN.
    pub dc: Option<Matrix<'a>>,
    pub readers: &'a Readers,
    /// The slot of row `i`.
    pub slots: &'a [u32],
    pub width: usize,
    /// Output of a slot plus one, 0 where it is none.
    pub output_of: &'a [u32],
    pub outputs: usize,
    /// `[lanes · outputs, H]`.
    pub d_hidden: &'a [f32],
    pub hidden: usize,
    pub padded: usize,
}

impl StateGradient<'_> {
    /// # Safety
    /// No running task writes the places of this state's readers.
    #[inline(always)]
    unsafe fn sum<L: Lanes>(&self, row: usize, unit: usize) -> (L, L) {
        let (slot, lane) = (self.slots[row / self.width] as usize, row % self.width);
        let (mut dh, mut dc) = (L::splat(0.0), L::splat(0.0));
        for &reader in self.readers.of_slot(slot) {
            let (merge, side) = (reader as usize / 2, reader as usize % 2);
            let place = merge * self.width + lane;
            let column = side * self.padded + unit;
            // SAFETY: a place has two padded rows, and its merge ran in a later step.
            unsafe {
                dh = dh.add(L::load(self.dh.row(place).add(column)));
                if let Some(of_c) = self.dc {
                    dc = dc.add(L::load(of_c.row(place).add(column)));
                }
            }
        }
        if let Some(output) = self.output_of[slot].checked_sub(1) {
            let from = &self.d_hidden[(lane * self.outputs + output as usize) * self.hidden..][..self.hidden];
            let mut vector = [0.0; BLOCK];
            let end = self.hidden.min(unit + L::WIDTH);
            if unit < end {
                vector[..end - unit].copy_from_slice(&from[unit..end]);
            }
            // SAFETY: `vector` has at least `WIDTH` floats.
            dh = dh.add(unsafe { L::load(vector.as_ptr()) });
        }
        (dh, dc)
    }
}

/// The gates of a cell backward, for states whose gradient is summed from their readers.
pub(super) struct GatherKernel<'a, 'b> {
    pub gradient: &'a StateGradient<'b>,
    pub cell: &'a CellBackward<'b>,
    pub rows: Range<usize>,
    pub blocks: Range<usize>,
}

impl Kernel for GatherKernel<'_, '_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        for row in self.rows.clone() {
            for block in self.blocks.clone() {
                for half in (0..BLOCK).step_by(L::WIDTH) {
                    // SAFETY: whoever makes the kernel vouches for its rows and blocks (see `backward.rs`).
                    unsafe {
                        let (dh, dc) = self.gradient.sum::<L>(row, block * BLOCK + half);
                        self.cell.apply(dh, dc, block, half, row);
                    }
                }
            }
        }
    }
}

/// What becomes of `dz · Wᵀ`, a vector at a time.
pub(super) trait Sink: Copy + Send + Sync {
    /// # Safety
    /// The row and block belong to the calling task.
    unsafe fn take<L: Lanes>(&self, value: L, row: usize, block: usize, half: usize);
}

/// It is the gradient of `h` of the stage below, whose gates follow at once; that of `c` was left by the stage above.
#[derive(Clone, Copy)]
pub(super) struct IntoGates<'a> {
    pub below: CellBackward<'a>,
    pub dc: Option<At<'a>>,
}

impl Sink for IntoGates<'_> {
    #[inline(always)]
    unsafe fn take<L: Lanes>(&self, dh: L, row: usize, block: usize, half: usize) {
        // SAFETY: passed on.
        unsafe {
            let dc = match self.dc {
                Some(dc) => L::load(dc.row(row).add(block * BLOCK + half)),
                None => L::splat(0.0),
            };
            self.below.apply(dh, dc, block, half, row);
        }
    }
}

/// It is stored: a merge's own places for the gradients of its two states.
#[derive(Clone, Copy)]
pub(super) struct IntoPlaces<'a>(pub At<'a>);

impl Sink for IntoPlaces<'_> {
    #[inline(always)]
    unsafe fn take<L: Lanes>(&self, value: L, row: usize, block: usize, half: usize) {
        // SAFETY: passed on.
        unsafe { value.store(self.0.row(row).add(block * BLOCK + half)) }
    }
}

/// It is added to rows of `columns` elements: the gradient of dense input.
#[derive(Clone, Copy)]
pub(super) struct IntoInput<'a> {
    pub rows: At<'a>,
    pub columns: usize,
}

impl Sink for IntoInput<'_> {
    #[inline(always)]
    unsafe fn take<L: Lanes>(&self, value: L, row: usize, block: usize, half: usize) {
        let mut vector = [0.0f32; BLOCK];
        let column = block * BLOCK + half;
        // SAFETY: `vector` holds a vector; the row has `columns` elements and belongs to the task.
        unsafe {
            value.store(vector.as_mut_ptr());
            let to = self.rows.row(row);
            for (lane, value) in
                vector[..L::WIDTH.min(self.columns.saturating_sub(column))].iter().enumerate()
            {
                *to.add(column + lane) += value;
            }
        }
    }
}

/// `dz · Wᵀ` of rows, for groups of input blocks.
pub(super) struct InputGradient<'a, S: Sink> {
    pub linear: &'a PackedLinear,
    pub dz: Blocked<'a>,
    pub sink: S,
    pub rows: Range<usize>,
    pub groups: Range<usize>,
}

impl<S: Sink> Kernel for InputGradient<'_, S> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        for group in self.groups.clone() {
            for half in (0..BLOCK).step_by(L::WIDTH) {
                let rows = self.rows.clone();
                let at = (group, half);
                // SAFETY: whoever makes the kernel vouches for its rows and groups (see `backward.rs`).
                unsafe {
                    match self.linear.group_blocks(group) {
                        1 => for_each_tile::<L, 1>(rows, &GradientTile::<S, 1> { job: &self, at }),
                        2 => for_each_tile::<L, 2>(rows, &GradientTile::<S, 2> { job: &self, at }),
                        3 => for_each_tile::<L, 3>(rows, &GradientTile::<S, 3> { job: &self, at }),
                        _ => for_each_tile::<L, GROUP>(rows, &GradientTile::<S, GROUP> { job: &self, at }),
                    }
                }
            }
        }
    }
}

struct GradientTile<'a, 'b, S: Sink, const G: usize> {
    job: &'a InputGradient<'b, S>,
    at: (usize, usize),
}

impl<S: Sink, const G: usize> Tile for GradientTile<'_, '_, S, G> {
    #[inline(always)]
    unsafe fn tile<L: Lanes, const M: usize>(&self, first: usize) {
        let (group, half) = self.at;
        let panel = self.job.linear.transposed(group).as_ptr().wrapping_add(half);
        // SAFETY: as the kernel says; the panel has a row for every element of a row of `dz`.
        unsafe {
            let acc = self.job.dz.multiply::<L, M, G>(first, panel, Ahead::none(panel));
            for (m, acc) in acc.into_iter().enumerate() {
                for (g, value) in acc.into_iter().enumerate() {
                    self.job.sink.take(value, first + m, group * GROUP + g, half);
                }
            }
        }
    }
}

/// `dW += inputᵀ · dz` and `db += Σ dz` of one block of units, for a range of inputs, over all rows in order.
pub(super) struct WeightGradient<'a, I: Operand> {
    pub linear: &'a PackedLinear,
    pub input: I,
    pub dz: Blocked<'a>,
    pub rows: usize,
    /// `[blocks · fan_in, gates · BLOCK]`.
    pub dw: Matrix<'a>,
    /// `[blocks, gates · BLOCK]`.
    pub db: Matrix<'a>,
    pub block: usize,
    /// Range of a segment's elements, and the segment.
    pub segment: usize,
    pub elements: Range<usize>,
}

/// Rows whose inputs and `dz` stay in a core's cache while all tiles of a block pass over them.
const ROW_BLOCK: usize = 128;

impl<I: Operand> Kernel for WeightGradient<'_, I> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        // SAFETY: whoever makes the kernel vouches that the block and elements are its own (see `backward.rs`).
        unsafe {
            match self.linear.gates {
                1 => self.accumulate::<L, 1>(),
                3 => self.accumulate::<L, 3>(),
                4 => self.accumulate::<L, 4>(),
                _ => self.accumulate::<L, 5>(),
            }
        }
    }
}

impl<I: Operand> WeightGradient<'_, I> {
    #[inline(always)]
    unsafe fn accumulate<L: Lanes, const G: usize>(&self) {
        let mut inputs = [std::ptr::null(); ROW_BLOCK];
        for first in (0..self.rows).step_by(ROW_BLOCK) {
            let rows = ROW_BLOCK.min(self.rows - first);
            for (r, input) in inputs[..rows].iter_mut().enumerate() {
                *input = self.input.segment(self.segment, first + r);
            }
            let dz = self.dz.segment(self.block, first);
            for half in (0..BLOCK).step_by(L::WIDTH) {
                let tile = WeightTile::<G> {
                    inputs: &inputs[..rows],
                    dz: dz.wrapping_add(half),
                    dw: self.dw,
                    row: self.block * self.linear.fan_in + self.segment * self.input.segment_len(),
                    half,
                };
                // SAFETY: passed on.
                unsafe {
                    for_each_tile::<L, G>(self.elements.clone(), &tile);
                    if self.segment == 0 && self.elements.start == 0 {
                        let db = self.db.row(self.block).add(half);
                        for g in 0..G {
                            let mut sum = L::load(db.add(g * BLOCK));
                            for r in 0..rows {
                                sum = sum.add(L::load(tile.dz.add((r * G + g) * BLOCK)));
                            }
                            sum.store(db.add(g * BLOCK));
                        }
                    }
                }
            }
        }
    }
}

struct WeightTile<'a, const G: usize> {
    inputs: &'a [*const f32],
    dz: *const f32,
    dw: Matrix<'a>,
    row: usize,
    half: usize,
}

impl<const G: usize> Tile for WeightTile<'_, G> {
    #[inline(always)]
    unsafe fn tile<L: Lanes, const M: usize>(&self, element: usize) {
        // SAFETY: inputs have the elements, rows of `dz` and `dw` have `G · BLOCK` floats.
        unsafe {
            let to: [*mut f32; M] =
                std::array::from_fn(|m| self.dw.row(self.row + element + m).add(self.half));
            let mut acc: [[L; G]; M] =
                std::array::from_fn(|m| std::array::from_fn(|g| L::load(to[m].add(g * BLOCK))));
            let mut dz = self.dz;
            for &input in self.inputs {
                let dz_row: [L; G] = std::array::from_fn(|g| L::load(dz.add(g * BLOCK)));
                accumulate(&mut acc, |m| *input.add(element + m), dz_row);
                dz = dz.wrapping_add(G * BLOCK);
            }
            for (to, acc) in to.into_iter().zip(acc) {
                for (g, acc) in acc.into_iter().enumerate() {
                    acc.store(to.add(g * BLOCK));
                }
            }
        }
    }
}

/// `dW` of a token leaf: each row of `dz` is added to the row of its token, rows in order; and `db`.
pub(super) struct TokenGradient<'a> {
    pub tokens: &'a [u32],
    pub index: Index<'a>,
    pub linear: &'a PackedLinear,
    pub dz: Blocked<'a>,
    pub rows: usize,
    pub dw: Matrix<'a>,
    pub db: Matrix<'a>,
    pub block: usize,
}

impl Kernel for TokenGradient<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.linear.panel_width();
        for row in 0..self.rows {
            let token = self.tokens[self.index.row(row)] as usize;
            let dz = self.dz.segment(self.block, row);
            let dw = self.dw.row(self.block * self.linear.fan_in + token);
            let db = self.db.row(self.block);
            for column in (0..width).step_by(L::WIDTH) {
                // SAFETY: rows of `dz`, `dw` and `db` have `gates · BLOCK` floats, and the block is this task's own.
                unsafe {
                    let dz = L::load(dz.add(column));
                    L::load(dw.add(column)).add(dz).store(dw.add(column));
                    L::load(db.add(column)).add(dz).store(db.add(column));
                }
            }
        }
    }
}
