//! The gradient of a linear layer's weights: sums over rows of inputs times `dz`. A sum runs over the rows in order,
//! on top of what is there already. Knows nothing of steps and gates.

use std::ops::Range;

use super::BLOCK;
use super::lanes::Lanes;
use super::memory::{Index, Matrix};
use super::pack::PackedLinear;
use super::path::Kernel;
use super::product::{Blocked, Operand, Rows, accumulate, most_rows};

/// Rows whose inputs and `dz` stay in a core's first cache while all tiles of a block of inputs pass over them.
const ROW_BLOCK: usize = 96;

/// A packed gradient: of each block of units `[fan_in, gates · BLOCK]` and the bias as one more row.
#[derive(Clone, Copy)]
pub(super) struct PackedGradient<'a> {
    pub matrix: Matrix<'a>,
    /// The first block's row in the matrix.
    pub first: usize,
    pub fan_in: usize,
}

impl PackedGradient<'_> {
    /// The gradient of `W`'s row `input`, or of the bias if that is `fan_in`.
    #[inline(always)]
    pub(super) fn row(&self, block: usize, input: usize) -> *mut f32 {
        self.matrix.row(self.first + block * (self.fan_in + 1) + input)
    }
}

/// Room for a block of inputs of some rows.
pub(super) type Room = [[f32; BLOCK]; ROW_BLOCK];

/// Inputs by blocks: of a block `BLOCK` elements a row, rows side by side.
pub(super) trait Inputs: Copy + Send + Sync {
    /// A block of inputs of at most [`ROW_BLOCK`] rows, `[rows, BLOCK]`, in `room` if nowhere else.
    fn block(&self, block: usize, rows: Range<usize>, room: &mut Room) -> *const f32;
}

/// They lie so already, `[blocks · rows, BLOCK]` from row `first`.
#[derive(Clone, Copy)]
pub(super) struct SideBySide<'a> {
    pub x: Matrix<'a>,
    pub first: usize,
    /// Rows of a block.
    pub rows: usize,
}

impl Inputs for SideBySide<'_> {
    #[inline(always)]
    fn block(&self, block: usize, rows: Range<usize>, _: &mut Room) -> *const f32 {
        self.x.row(self.first + block * self.rows + rows.start)
    }
}

impl Inputs for Rows<'_> {
    #[inline(always)]
    fn block(&self, block: usize, rows: Range<usize>, room: &mut Room) -> *const f32 {
        let live = BLOCK.min(self.len - block * BLOCK);
        for (row, to) in rows.zip(room.iter_mut()) {
            let from = self.segment(0, row).wrapping_add(block * BLOCK);
            // SAFETY: a row has `len` elements, of which `live` are left.
            to[..live].copy_from_slice(unsafe { std::slice::from_raw_parts(from, live) });
        }
        room.as_ptr().cast()
    }
}

/// `dW += inputᵀ · dz` and `db += Σ dz` of one block of units, for a range of input blocks, over all rows in order.
pub(super) struct WeightGradient<'a, I: Inputs> {
    pub linear: &'a PackedLinear,
    pub inputs: I,
    pub dz: Blocked<'a>,
    pub rows: usize,
    pub to: PackedGradient<'a>,
    pub block: usize,
    pub input_blocks: Range<usize>,
}

impl<I: Inputs> Kernel for WeightGradient<'_, I> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        // SAFETY: whoever makes the kernel vouches that the blocks are its own (see `backward.rs`).
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

impl<I: Inputs> WeightGradient<'_, I> {
    #[inline(always)]
    unsafe fn accumulate<L: Lanes, const G: usize>(&self) {
        let mut room = [[0.0; BLOCK]; ROW_BLOCK];
        for first in (0..self.rows).step_by(ROW_BLOCK) {
            let rows = first..self.rows.min(first + ROW_BLOCK);
            let dz = self.dz.segment(self.block, first);
            for input_block in self.input_blocks.clone() {
                let x = self.inputs.block(input_block, rows.clone(), &mut room);
                for half in (0..BLOCK).step_by(L::WIDTH) {
                    let tile = WeightTile::<G> { x, dz: dz.wrapping_add(half), rows: rows.len() };
                    let inputs = self.linear.input_rows(input_block);
                    let mut input = inputs.start;
                    while input < inputs.end {
                        let to = self.to.row(self.block, input).wrapping_add(half);
                        let element = input - inputs.start;
                        // As many rows of `W` as their sums fit the registers, powers of two: they divide a block.
                        let most = const { most_rows::<L, G>() }.min(inputs.end - input);
                        // SAFETY: the rows of `W` are among the block's, and the task's own.
                        input += unsafe {
                            match most {
                                8.. if const { most_rows::<L, G>() >= 8 } => tile.add::<L, 8>(element, to),
                                4.. if const { most_rows::<L, G>() >= 4 } => tile.add::<L, 4>(element, to),
                                2.. if const { most_rows::<L, G>() >= 2 } => tile.add::<L, 2>(element, to),
                                _ => tile.add::<L, 1>(element, to),
                            }
                        };
                    }
                }
            }
            if self.input_blocks.start == 0 {
                let to = self.to.row(self.block, self.linear.fan_in);
                // SAFETY: the bias of a block is its first task's, a row of it as long as one of `dz`.
                unsafe { add_rows::<L>(dz, rows.len(), G * BLOCK, to) };
            }
        }
    }
}

/// Adds rows of `len` floats that follow each other to one, in order.
///
/// # Safety
/// `from` holds the rows, and `to`, the caller's own, one more; `len` is whole vectors.
#[inline(always)]
unsafe fn add_rows<L: Lanes>(from: *const f32, rows: usize, len: usize, to: *mut f32) {
    for column in (0..len).step_by(L::WIDTH) {
        // SAFETY: passed on.
        unsafe {
            let mut sum = L::load(to.add(column));
            for row in 0..rows {
                sum = sum.add(L::load(from.add(row * len + column)));
            }
            sum.store(to.add(column));
        }
    }
}

/// Inputs and `dz` of some rows.
struct WeightTile<const G: usize> {
    /// `[rows, BLOCK]`.
    x: *const f32,
    /// `[rows, G · BLOCK]`.
    dz: *const f32,
    rows: usize,
}

impl<const G: usize> WeightTile<G> {
    /// Adds the products of `M` inputs to as many rows of `to`; gives `M`.
    ///
    /// # Safety
    /// The rows of inputs and of `dz` are there to read, those of `to` are the caller's own.
    #[inline(always)]
    unsafe fn add<L: Lanes, const M: usize>(&self, element: usize, to: *mut f32) -> usize {
        // SAFETY: passed on.
        unsafe {
            let at = |m: usize, g: usize| to.add((m * G + g) * BLOCK);
            let mut acc: [[L; G]; M] = std::array::from_fn(|m| std::array::from_fn(|g| L::load(at(m, g))));
            let (mut x, mut dz) = (self.x.add(element), self.dz);
            for _ in 0..self.rows {
                let dz_row: [L; G] = std::array::from_fn(|g| L::load(dz.add(g * BLOCK)));
                accumulate(&mut acc, |m| *x.add(m), dz_row);
                (x, dz) = (x.wrapping_add(BLOCK), dz.wrapping_add(G * BLOCK));
            }
            for (m, acc) in acc.iter().enumerate() {
                for (g, acc) in acc.iter().enumerate() {
                    acc.store(at(m, g));
                }
            }
        }
        M
    }
}

/// `dW` of a token leaf: each row of `dz` is added to the row of its token, rows in order; and `db`.
pub(super) struct TokenGradient<'a> {
    pub tokens: &'a [u32],
    pub index: Index<'a>,
    pub linear: &'a PackedLinear,
    pub dz: Blocked<'a>,
    pub rows: usize,
    pub to: PackedGradient<'a>,
    pub block: usize,
}

impl Kernel for TokenGradient<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.linear.panel_width();
        for row in 0..self.rows {
            let token = self.tokens[self.index.row(row)] as usize;
            let dz = self.dz.segment(self.block, row);
            let to = self.to.row(self.block, token);
            for column in (0..width).step_by(L::WIDTH) {
                // SAFETY: rows of `dz` and of the gradient have `gates · BLOCK` floats; the block is this task's own.
                unsafe { L::load(to.add(column)).add(L::load(dz.add(column))).store(to.add(column)) }
            }
        }
        let (dz, to) = (self.dz.segment(self.block, 0), self.to.row(self.block, self.linear.fan_in));
        // SAFETY: as above; a block's rows of `dz` follow each other.
        unsafe { add_rows::<L>(dz, self.rows, width, to) }
    }
}
