//! The cell forward over rows and blocks of units: product, bias, gates, in one go (DESIGN section 1's equations).

use std::ops::Range;

use super::BLOCK;
use super::gates::relu;
use super::lanes::Lanes;
use super::memory::{Index, Matrix, prefetch};
use super::pack::PackedLinear;
use super::path::Kernel;
use super::product::{Ahead, Product, Tile, for_each_tile};
use super::stored::Stored;
use crate::model::Cell;

/// Rows of one matrix.
#[derive(Clone, Copy)]
pub(super) struct At<'a, T: Stored = f32> {
    pub matrix: Matrix<'a, T>,
    pub index: Index<'a>,
}

impl<T: Stored> At<'_, T> {
    #[inline(always)]
    pub(super) fn row(&self, i: usize) -> *mut T {
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

/// Where the states of a row lie: those it is made of, and the one that is made. The RNN has no `c`.
#[derive(Clone, Copy)]
pub(super) struct StatePlaces<const N: usize, H: Stored> {
    row: usize,
    previous: [*const f32; N],
    c: *mut f32,
    h: *mut H,
}

impl<const N: usize, H: Stored> StatePlaces<N, H> {
    /// Of no row.
    pub(super) const NONE: Self = StatePlaces {
        row: 0,
        previous: [std::ptr::null(); N],
        c: std::ptr::null_mut(),
        h: std::ptr::null_mut(),
    };

    /// Asks for the lines that the gates of a block will want: nothing else would have them there in time.
    #[inline(always)]
    pub(super) fn fetch(&self, block: usize) {
        for previous in self.previous {
            prefetch::<_, true>(previous.wrapping_add(block * BLOCK));
        }
        prefetch::<_, true>(self.c.wrapping_add(block * BLOCK));
        prefetch::<_, true>(self.h.wrapping_add(block * BLOCK));
    }
}

/// A cell applied to `N` states. The LSTM has `3 + N` gates, the RNN one and no `c`.
#[derive(Clone, Copy)]
pub(super) struct CellForward<'a, I: Product, const N: usize, H: Stored = f32> {
    pub linear: &'a PackedLinear,
    pub input: I,
    /// `c` of each input state; None for the RNN.
    pub previous: [Option<At<'a>>; N],
    pub h: At<'a, H>,
    /// None for the RNN.
    pub c: Option<At<'a>>,
    pub kept: Option<Kept<'a>>,
    /// The panel that is taken up after the last block.
    pub after: &'a [f32],
}

impl<I: Product, const N: usize, H: Stored> CellForward<'_, I, N, H> {
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
                let tile = LstmTile::<I, N, G, H> { job: self, block, half, start: rows.start, next };
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
                unsafe { for_each_tile::<L, 1>(rows.clone(), &RnnTile::<I, N, H> { job: self, block, half }) }
            }
        }
    }

    /// Where the states of a row lie.
    #[inline(always)]
    pub(super) fn places(&self, row: usize) -> StatePlaces<N, H> {
        let mut places = StatePlaces { row, h: self.h.row(row), ..StatePlaces::NONE };
        for (place, at) in places.previous.iter_mut().zip(&self.previous) {
            if let Some(at) = at {
                *place = at.row(row);
            }
        }
        if let Some(at) = &self.c {
            places.c = at.row(row);
        }
        places
    }

    /// From a row's sums to `c`, stored, and `σ(o)`: `L::WIDTH` lanes of the units of a block. The state of many rows
    /// is made in two rounds, since what is left for [`lstm_h`](Self::lstm_h) waits for all of this.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    #[inline(always)]
    pub(super) unsafe fn lstm_c<L: Lanes, const G: usize>(
        &self,
        acc: [L; G],
        block: usize,
        half: usize,
        places: &StatePlaces<N, H>,
    ) -> [L; 2] {
        let unit = block * BLOCK + half;
        // SAFETY: passed on; rows of states have whole blocks.
        unsafe {
            let z = self.z(acc, block, half, places.row);
            let mut c = H::sigmoid(z[0]).mul(H::tanh(z[1]));
            for n in 0..N {
                c = H::sigmoid(z[3 + n]).fma(L::load(places.previous[n].add(unit)), c);
            }
            c.store(places.c.add(unit));
            [c, H::sigmoid(z[2])]
        }
    }

    /// `h = σ(o) ⊙ tanh(c)`.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    #[inline(always)]
    pub(super) unsafe fn lstm_h<L: Lanes>(
        &self,
        [c, o]: [L; 2],
        block: usize,
        half: usize,
        places: &StatePlaces<N, H>,
    ) {
        // SAFETY: passed on.
        unsafe { self.store(o.mul(H::tanh(c)), block, half, places) }
    }

    /// From a row's sums to `h` of the RNN.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    #[inline(always)]
    pub(super) unsafe fn rnn_state<L: Lanes>(
        &self,
        acc: [L; 1],
        block: usize,
        half: usize,
        places: &StatePlaces<N, H>,
    ) {
        // SAFETY: passed on.
        unsafe {
            let [z] = self.z(acc, block, half, places.row);
            // The leaf is linear.
            let h = if const { N > 0 } { relu(z) } else { z };
            self.store(h, block, half, places);
        }
    }

    /// Stores `h`, and zeros from `H` to the end of the row after its last block: a product of pairs reads so far, and
    /// what it finds there is multiplied by 0, which only a number survives.
    #[inline(always)]
    unsafe fn store<L: Lanes>(&self, h: L, block: usize, half: usize, places: &StatePlaces<N, H>) {
        let unit = block * BLOCK + half;
        // SAFETY: passed on; rows of `h` are whole multiples of `H::ROW`, and so of a vector.
        unsafe {
            H::store(h, places.h.add(unit));
            if const { H::ROW > BLOCK } && block + 1 == self.linear.blocks {
                for unit in self.linear.units..self.h.matrix.stride() {
                    places.h.add(unit).write(H::from_f32(0.0));
                }
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

struct LstmTile<'a, 'b, I: Product, const N: usize, const G: usize, H: Stored> {
    job: &'a CellForward<'b, I, N, H>,
    block: usize,
    half: usize,
    /// The first row of all.
    start: usize,
    /// The panel of the next block.
    next: &'a [f32],
}

impl<I: Product, const N: usize, const G: usize, H: Stored> Tile for LstmTile<'_, '_, I, N, G, H> {
    #[inline(always)]
    unsafe fn tile<L: Lanes, const M: usize>(&self, first: usize) {
        let &LstmTile { job, block, half, start, next } = self;
        // SAFETY: as `CellForward::run` says.
        unsafe {
            let mut places = [StatePlaces::NONE; M];
            for (places, row) in places.iter_mut().zip(first..) {
                *places = job.places(row);
                places.fetch(block);
            }
            let ahead = Ahead::of(next, (first - start) / M, job.linear.panel_rows());
            let panel = job.linear.panel(block).as_ptr().add(half);
            let acc = job.input.multiply::<L, M, G>(first, panel, ahead);
            // No closure here: it would not be compiled for the path.
            let mut made = [[L::splat(0.0); 2]; M];
            for ((made, acc), places) in made.iter_mut().zip(acc).zip(&places) {
                *made = job.lstm_c(acc, block, half, places);
            }
            for (made, places) in made.into_iter().zip(&places) {
                job.lstm_h(made, block, half, places);
            }
        }
    }
}

struct RnnTile<'a, 'b, I: Product, const N: usize, H: Stored> {
    job: &'a CellForward<'b, I, N, H>,
    block: usize,
    half: usize,
}

impl<I: Product, const N: usize, H: Stored> Tile for RnnTile<'_, '_, I, N, H> {
    #[inline(always)]
    unsafe fn tile<L: Lanes, const M: usize>(&self, first: usize) {
        let &RnnTile { job, block, half } = self;
        // SAFETY: as `CellForward::run` says.
        unsafe {
            let panel = job.linear.panel(block).as_ptr().add(half);
            let acc = job.input.multiply::<L, M, 1>(first, panel, Ahead::none(panel));
            for (m, acc) in acc.into_iter().enumerate() {
                job.rnn_state(acc, block, half, &job.places(first + m));
            }
        }
    }
}

/// One cell over rows and blocks, as a kernel.
pub(super) struct CellKernel<'a, 'b, I: Product, const N: usize, H: Stored = f32> {
    pub job: &'a CellForward<'b, I, N, H>,
    pub cell: Cell,
    pub rows: Range<usize>,
    pub blocks: Range<usize>,
}

impl<I: Product, const N: usize, H: Stored> Kernel for CellKernel<'_, '_, I, N, H> {
    const PAIRS: bool = I::PAIRS;

    #[inline(always)]
    fn run<L: Lanes>(self) {
        // SAFETY: whoever makes a kernel vouches for its job (see `forward.rs`).
        unsafe { self.job.run::<L>(self.cell, self.rows, self.blocks) }
    }
}
