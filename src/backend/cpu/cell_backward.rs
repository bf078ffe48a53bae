//! The cell backward: from the gradient of a state to `dz`, in the place of `z`, and to the gradients of the
//! states it was made from; `z` is kept rather than the gates, so that a saturated gate keeps its derivative.

use std::ops::Range;

use super::BLOCK;
use super::cell::{At, Kept};
use super::gates::{sigmoid_with_derivative, tanh_with_derivative};
use super::lanes::Lanes;
use super::pack::{GROUP, PackedLinear};
use super::path::Kernel;
use super::plan::Places;
use super::product::{Blocked, Operand, Tile, accumulate, for_each_tile};
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
    /// Where the gradient of each input state's `c` goes; it may be where `c` is.
    pub d_previous: [Option<At<'a>>; 2],
}

impl CellBackward<'_> {
    /// One vector of one row: `dh` and `dc` are the gradient of the state.
    ///
    /// # Safety
    /// Row and block lie in the matrices and belong to the calling task.
    #[inline(always)]
    pub(super) unsafe fn apply<L: Lanes>(&self, dh: L, dc: L, block: usize, half: usize, row: usize) {
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
                if let (Some(previous), Some(to)) = (self.previous[n], self.d_previous[n]) {
                    let z = z.add((3 + n) * BLOCK);
                    let (f, df) = sigmoid_with_derivative(L::load(z));
                    dc.mul(L::load(previous.row(row).add(unit))).mul(df).store(z);
                    dc.mul(f).store(to.row(row).add(unit));
                }
            }
        }
    }
}

/// The gradient of states: what their readers left, in the readers' order, then what came from outside.
#[derive(Clone, Copy)]
pub(super) struct StateGradient<'a> {
    pub places: Places<'a>,
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
            // SAFETY: a place has whole padded rows, and its merge ran in a later step.
            unsafe {
                dh = dh.add(L::load(self.places.h(place)[side].row(0).add(unit)));
                if let Some(of_c) = self.places.c(place)[side] {
                    dc = dc.add(L::load(of_c.row(0).add(unit)));
                }
            }
        }
        if let Some(output) = self.output_of[slot].checked_sub(1) {
            let from = &self.d_hidden[(lane * self.outputs + output as usize) * self.hidden..][..self.hidden];
            dh = dh.add(load_part(from, unit));
        }
        (dh, dc)
    }
}

/// A vector of a row from an element on; zeros after the row's end.
#[inline(always)]
pub(super) fn load_part<L: Lanes>(row: &[f32], first: usize) -> L {
    let mut vector = [0.0; BLOCK];
    let end = row.len().min(first + L::WIDTH);
    if first < end {
        vector[..end - first].copy_from_slice(&row[first..end]);
    }
    // SAFETY: `vector` has at least `WIDTH` floats.
    unsafe { L::load(vector.as_ptr()) }
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

/// It is stored: a merge's own places for the gradients of its two states, `blocks` of inputs each.
#[derive(Clone, Copy)]
pub(super) struct IntoPlaces<'a> {
    pub places: [At<'a>; 2],
    pub blocks: usize,
}

impl Sink for IntoPlaces<'_> {
    #[inline(always)]
    unsafe fn take<L: Lanes>(&self, value: L, row: usize, block: usize, half: usize) {
        let (side, block) = (block / self.blocks, block % self.blocks);
        // SAFETY: passed on.
        unsafe { value.store(self.places[side].row(row).add(block * BLOCK + half)) }
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

/// Rows whose sums wait in memory while one piece of a panel after another passes over them.
const SUMMED: usize = 120;
/// Rows of a piece of a transposed panel, about: it stays in a core's first cache.
const PIECE: usize = 80;

/// Sums of a group's columns.
type Sums = [[f32; GROUP * BLOCK]; SUMMED];

impl<S: Sink> Kernel for InputGradient<'_, S> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let mut sums: Sums = [[0.0; GROUP * BLOCK]; SUMMED];
        for first in self.rows.clone().step_by(SUMMED) {
            let rows = first..self.rows.end.min(first + SUMMED);
            for group in self.groups.clone() {
                for half in (0..BLOCK).step_by(L::WIDTH) {
                    let at = (rows.clone(), group, half);
                    // SAFETY: whoever makes the kernel vouches for its rows and groups (see `backward.rs`).
                    unsafe {
                        match self.linear.group_blocks(group) {
                            1 => self.sum::<L, 1>(at, &mut sums),
                            2 => self.sum::<L, 2>(at, &mut sums),
                            3 => self.sum::<L, 3>(at, &mut sums),
                            _ => self.sum::<L, GROUP>(at, &mut sums),
                        }
                        for (row, sums) in rows.clone().zip(&sums) {
                            for block in 0..self.linear.group_blocks(group) {
                                let value = L::load(sums[block * BLOCK..][..L::WIDTH].as_ptr());
                                self.sink.take(value, row, group * GROUP + block, half);
                            }
                        }
                    }
                }
            }
        }
    }
}

impl<S: Sink> InputGradient<'_, S> {
    /// `L::WIDTH` lanes of each block of a group, piece after piece of its panel.
    #[inline(always)]
    unsafe fn sum<L: Lanes, const G: usize>(
        &self,
        (rows, group, half): (Range<usize>, usize, usize),
        sums: &mut Sums,
    ) {
        let (dz, all) = (self.dz, self.dz.blocks);
        let panel = self.linear.transposed(group).as_ptr().wrapping_add(half);
        let piece = (PIECE / dz.len).max(1);
        let sums = sums.as_mut_ptr().cast();
        for first in (0..all).step_by(piece) {
            let blocks = first..all.min(first + piece);
            let panel = panel.wrapping_add(first * dz.len * G * BLOCK);
            let tile = GradientTile::<G> { dz, first: rows.start, blocks, panel, sums };
            // SAFETY: passed on; there are sums for the rows.
            unsafe { for_each_tile::<L, G>(0..rows.len(), &tile) }
        }
    }
}

/// Blocks of `dz` of some rows times their piece of a panel.
struct GradientTile<'a, const G: usize> {
    dz: Blocked<'a>,
    first: usize,
    blocks: Range<usize>,
    /// `[elements of dz, G · BLOCK]`.
    panel: *const f32,
    /// Of each row a vector a block: what was summed before; the first piece begins at 0.
    sums: *mut f32,
}

impl<const G: usize> Tile for GradientTile<'_, G> {
    #[inline(always)]
    unsafe fn tile<L: Lanes, const M: usize>(&self, row: usize) {
        let dz = self.dz;
        let sum = |m: usize, g: usize| self.sums.wrapping_add(((row + m) * GROUP + g) * BLOCK);
        let mut acc = [[L::splat(0.0); G]; M];
        // SAFETY: as the kernel says; the piece has a row for every element of a row's blocks of `dz`.
        unsafe {
            if self.blocks.start > 0 {
                for (m, acc) in acc.iter_mut().enumerate() {
                    for (g, acc) in acc.iter_mut().enumerate() {
                        *acc = L::load(sum(m, g));
                    }
                }
            }
            let mut weights = self.panel;
            for block in self.blocks.clone() {
                let rows: [*const f32; M] = std::array::from_fn(|m| dz.segment(block, self.first + row + m));
                for k in 0..dz.len {
                    let w: [L; G] = std::array::from_fn(|g| L::load(weights.add(g * BLOCK)));
                    accumulate(&mut acc, |m| *rows[m].add(k), w);
                    weights = weights.add(G * BLOCK);
                }
            }
            for (m, acc) in acc.iter().enumerate() {
                for (g, acc) in acc.iter().enumerate() {
                    acc.store(sum(m, g));
                }
            }
        }
    }
}
