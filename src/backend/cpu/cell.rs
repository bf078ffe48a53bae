//! The cell forward over rows and blocks of units: product, bias, gates, in one go (DESIGN section 1's equations).

use std::ops::Range;

use super::BLOCK;
use super::gates::{relu, sigmoid, tanh};
use super::lanes::Lanes;
use super::memory::{Index, Matrix, prefetch};
use super::pack::PackedLinear;
use super::path::Kernel;
use super::product::{Ahead, Operand, Tile, for_each_tile};
use crate::model::Cell;

/// Rows of one matrix.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub matrix: Matrix<'a>,
    pub index: Index<'a>,
}

impl At<'_> {
    #[inline(always)]
    pub(super) fn row(&self, i: usize) -> *mut f32 {
        self.matrix.row(self.index.row(i))
    }
}

/// Where `z` is kept for the pass backward: `[blocks, rows, gates · BLOCK]`.
#[derive(Clone, Copy)]
pub(super) struct Kept<'a> {
    pub z: Matrix<'a>,
    /// Rows of a block.
    pub rows: usize,
    /// First row of this job.
    pub first: usize,
}

impl Kept<'_> {
    #[inline(always)]
    pub(super) fn row(&self, block: usize, i: usize) -> *mut f32 {
        self.z.row(block * self.rows + self.first + i)
    }
}

/// A cell applied to `N` states. The LSTM has `3 + N` gates, the RNN one and no `c`.
#[derive(Clone, Copy)]
pub(super) struct CellForward<'a, I: Operand, const N: usize> {
    pub linear: &'a PackedLinear,
    pub input: I,
    /// `c` of each input state; None for the RNN.
    pub previous: [Option<At<'a>>; N],
    pub h: At<'a>,
    /// None for the RNN.
    pub c: Option<At<'a>>,
    pub kept: Option<Kept<'a>>,
    /// The panel that is taken up after the last block.
    pub after: &'a [f32],
}

impl<I: Operand, const N: usize> CellForward<'_, I, N> {
    /// Computes `rows` of `blocks`.
    ///
    /// # Safety
    /// Every row and block lies in the matrices, and no other task writes what this one reads or writes: `h`, `c`
    /// and `z` of these rows and blocks are its own, its inputs belong to no running task.
    #[inline(always)]
    pub(super) unsafe fn run<L: Lanes>(&self, cell: Cell, rows: Range<usize>, blocks: Range<usize>) {
        // SAFETY: passed on. Only the number of gates that `N` states have is compiled.
        unsafe {
            match cell {
                Cell::Rnn => self.rnn::<L>(rows, blocks),
                Cell::Lstm if const { N == 0 } => self.lstm::<L, 3>(rows, blocks),
                Cell::Lstm if const { N == 1 } => self.lstm::<L, 4>(rows, blocks),
                Cell::Lstm => self.lstm::<L, 5>(rows, blocks),
            }
        }
    }

    #[inline(always)]
    unsafe fn lstm<L: Lanes, const G: usize>(&self, rows: Range<usize>, blocks: Range<usize>) {
        for block in blocks {
            // Tasks of a block each are mostly taken in order.
            let next = if block + 1 < self.linear.blocks { self.linear.panel(block + 1) } else { self.after };
            for half in (0..BLOCK).step_by(L::WIDTH) {
                let tile = LstmTile::<I, N, G> { job: self, block, half, start: rows.start, next };
                // SAFETY: passed on.
                unsafe { for_each_tile::<L, G>(rows.clone(), &tile) }
            }
        }
    }

    #[inline(always)]
    unsafe fn rnn<L: Lanes>(&self, rows: Range<usize>, blocks: Range<usize>) {
        for block in blocks {
            for half in (0..BLOCK).step_by(L::WIDTH) {
                // SAFETY: passed on.
                unsafe { for_each_tile::<L, 1>(rows.clone(), &RnnTile::<I, N> { job: self, block, half }) }
            }
        }
    }

    /// `z = acc + shift` of one row, kept if a pass backward follows.
    #[inline(always)]
    unsafe fn z<L: Lanes, const G: usize>(
        &self,
        acc: [L; G],
        block: usize,
        half: usize,
        row: usize,
    ) -> [L; G] {
        // SAFETY: a row of a panel has `G · BLOCK` floats, and so has a row of `z`.
        unsafe {
            let z: [L; G] = std::array::from_fn(|g| {
                acc[g].add(self.input.shift(self.linear, block, g * BLOCK + half, row))
            });
            if let Some(kept) = self.kept {
                let to = kept.row(block, row);
                for (g, z) in z.into_iter().enumerate() {
                    z.store(to.add(g * BLOCK + half));
                }
            }
            z
        }
    }
}

struct LstmTile<'a, 'b, I: Operand, const N: usize, const G: usize> {
    job: &'a CellForward<'b, I, N>,
    block: usize,
    half: usize,
    /// The first row of all.
    start: usize,
    /// The panel of the next block.
    next: &'a [f32],
}

impl<I: Operand, const N: usize, const G: usize> Tile for LstmTile<'_, '_, I, N, G> {
    #[inline(always)]
    unsafe fn tile<L: Lanes, const M: usize>(&self, first: usize) {
        let &LstmTile { job, block, half, start, next } = self;
        let unit = block * BLOCK + half;
        // SAFETY: as `CellForward::run` says; rows of states have whole blocks.
        unsafe {
            for row in first..first + M {
                // A line of each row, which the gates will want: nothing else would fetch it in time.
                let states = job.previous.iter().flatten().chain(&job.c).chain([&job.h]);
                states.for_each(|at| prefetch::<_, true>(at.row(row).wrapping_add(unit)));
            }
            let ahead = Ahead::of(next, (first - start) / M, job.linear.fan_in);
            let acc = job.input.multiply::<L, M, G>(first, job.linear.panel(block).as_ptr().add(half), ahead);
            for (m, acc) in acc.into_iter().enumerate() {
                let row = first + m;
                let z = job.z(acc, block, half, row);
                let mut c = sigmoid(z[0]).mul(tanh(z[1]));
                for (n, previous) in job.previous.into_iter().enumerate() {
                    if let Some(previous) = previous {
                        c = sigmoid(z[3 + n]).fma(L::load(previous.row(row).add(unit)), c);
                    }
                }
                if let Some(to) = job.c {
                    c.store(to.row(row).add(unit));
                }
                sigmoid(z[2]).mul(tanh(c)).store(job.h.row(row).add(unit));
            }
        }
    }
}

struct RnnTile<'a, 'b, I: Operand, const N: usize> {
    job: &'a CellForward<'b, I, N>,
    block: usize,
    half: usize,
}

impl<I: Operand, const N: usize> Tile for RnnTile<'_, '_, I, N> {
    #[inline(always)]
    unsafe fn tile<L: Lanes, const M: usize>(&self, first: usize) {
        let &RnnTile { job, block, half } = self;
        // SAFETY: as `CellForward::run` says; rows of states have whole blocks.
        unsafe {
            let panel = job.linear.panel(block).as_ptr().add(half);
            let acc = job.input.multiply::<L, M, 1>(first, panel, Ahead::none(panel));
            for (m, acc) in acc.into_iter().enumerate() {
                let [z] = job.z(acc, block, half, first + m);
                // The leaf is linear.
                let h = if const { N > 0 } { relu(z) } else { z };
                h.store(job.h.row(first + m).add(block * BLOCK + half));
            }
        }
    }
}

/// One cell over rows and blocks, as a kernel.
pub(super) struct CellKernel<'a, 'b, I: Operand, const N: usize> {
    pub job: &'a CellForward<'b, I, N>,
    pub cell: Cell,
    pub rows: Range<usize>,
    pub blocks: Range<usize>,
}

impl<I: Operand, const N: usize> Kernel for CellKernel<'_, '_, I, N> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        // SAFETY: whoever makes a kernel vouches for its job (see `forward.rs`).
        unsafe { self.job.run::<L>(self.cell, self.rows, self.blocks) }
    }
}
