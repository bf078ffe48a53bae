//! The cell forward over rows and blocks of units: product, bias, gates, in one go (DESIGN section 1's equations).

use std::ops::Range;

use super::BLOCK;
use super::gates::{relu, sigmoid, tanh};
use super::lanes::Lanes;
use super::memory::{Index, Matrix};
use super::pack::PackedLinear;
use super::path::Kernel;
use super::product::{Operand, Tile, for_each_tile};
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

/// A cell applied to `N` states, `G` gates a unit. The RNN has one gate and no `c`.
#[derive(Clone, Copy)]
pub(super) struct CellForward<'a, I: Operand> {
    pub linear: &'a PackedLinear,
    pub input: I,
    /// `c` of each input state.
    pub previous: [Option<At<'a>>; 2],
    pub h: At<'a>,
    /// None for the RNN.
    pub c: Option<At<'a>>,
    pub kept: Option<Kept<'a>>,
}

impl<I: Operand> CellForward<'_, I> {
    /// Computes `rows` of `blocks`.
    ///
    /// # Safety
    /// Every row and block lies in the matrices, and no other task writes what this one reads or writes: `h`, `c`
    /// and `z` of these rows and blocks are its own, its inputs belong to no running task.
    #[inline(always)]
    pub(super) unsafe fn run<L: Lanes>(
        &self,
        cell: Cell,
        states: usize,
        rows: Range<usize>,
        blocks: Range<usize>,
    ) {
        // SAFETY: passed on.
        unsafe {
            match (cell, states) {
                (Cell::Lstm, 0) => self.lstm::<L, 3, 0>(rows, blocks),
                (Cell::Lstm, 1) => self.lstm::<L, 4, 1>(rows, blocks),
                (Cell::Lstm, _) => self.lstm::<L, 5, 2>(rows, blocks),
                (Cell::Rnn, 0) => self.rnn::<L, false>(rows, blocks),
                (Cell::Rnn, _) => self.rnn::<L, true>(rows, blocks),
            }
        }
    }

    #[inline(always)]
    unsafe fn lstm<L: Lanes, const G: usize, const N: usize>(
        &self,
        rows: Range<usize>,
        blocks: Range<usize>,
    ) {
        for block in blocks {
            for half in (0..BLOCK).step_by(L::WIDTH) {
                // SAFETY: passed on.
                unsafe {
                    for_each_tile::<L, G>(rows.clone(), &LstmTile::<I, G, N> { job: self, block, half })
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn rnn<L: Lanes, const RELU: bool>(&self, rows: Range<usize>, blocks: Range<usize>) {
        for block in blocks {
            for half in (0..BLOCK).step_by(L::WIDTH) {
                // SAFETY: passed on.
                unsafe { for_each_tile::<L, 1>(rows.clone(), &RnnTile::<I, RELU> { job: self, block, half }) }
            }
        }
    }

    /// `z = acc + bias` of one row, kept if a pass backward follows.
    #[inline(always)]
    unsafe fn z<L: Lanes, const G: usize>(
        &self,
        acc: [L; G],
        block: usize,
        half: usize,
        row: usize,
    ) -> [L; G] {
        let bias = self.linear.bias(block).as_ptr();
        // SAFETY: the bias has `G · BLOCK` floats, and so has a row of `z`.
        unsafe {
            let z: [L; G] = std::array::from_fn(|g| acc[g].add(L::load(bias.add(g * BLOCK + half))));
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

struct LstmTile<'a, 'b, I: Operand, const G: usize, const N: usize> {
    job: &'a CellForward<'b, I>,
    block: usize,
    half: usize,
}

impl<I: Operand, const G: usize, const N: usize> Tile for LstmTile<'_, '_, I, G, N> {
    #[inline(always)]
    unsafe fn tile<L: Lanes, const M: usize>(&self, first: usize) {
        let &LstmTile { job, block, half } = self;
        let unit = block * BLOCK + half;
        // SAFETY: as `CellForward::run` says; rows of states have whole blocks.
        unsafe {
            let acc = job.input.multiply::<L, M, G>(first, job.linear.panel(block).as_ptr().add(half));
            for (m, acc) in acc.into_iter().enumerate() {
                let row = first + m;
                let z = job.z(acc, block, half, row);
                let mut c = sigmoid(z[0]).mul(tanh(z[1]));
                for n in 0..N {
                    if let Some(previous) = job.previous[n] {
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

struct RnnTile<'a, 'b, I: Operand, const RELU: bool> {
    job: &'a CellForward<'b, I>,
    block: usize,
    half: usize,
}

impl<I: Operand, const RELU: bool> Tile for RnnTile<'_, '_, I, RELU> {
    #[inline(always)]
    unsafe fn tile<L: Lanes, const M: usize>(&self, first: usize) {
        let &RnnTile { job, block, half } = self;
        // SAFETY: as `CellForward::run` says; rows of states have whole blocks.
        unsafe {
            let acc = job.input.multiply::<L, M, 1>(first, job.linear.panel(block).as_ptr().add(half));
            for (m, acc) in acc.into_iter().enumerate() {
                let [z] = job.z(acc, block, half, first + m);
                let h = if RELU { relu(z) } else { z };
                h.store(job.h.row(first + m).add(block * BLOCK + half));
            }
        }
    }
}

/// One cell over rows and blocks, as a kernel.
pub(super) struct CellKernel<'a, 'b, I: Operand> {
    pub job: &'a CellForward<'b, I>,
    pub cell: Cell,
    pub states: usize,
    pub rows: Range<usize>,
    pub blocks: Range<usize>,
}

impl<I: Operand> Kernel for CellKernel<'_, '_, I> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        // SAFETY: whoever makes a kernel vouches for its job (see `scan.rs`).
        unsafe { self.job.run::<L>(self.cell, self.states, self.rows, self.blocks) }
    }
}
