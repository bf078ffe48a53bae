//! `z` of a cell anew, for a pass backward that did not keep it: the same product and bias as the pass forward's, so the
//! same bits. Knows nothing of steps and gates.

use std::ops::Range;

use super::BLOCK;
use super::cell::Kept;
use super::lanes::Lanes;
use super::pack::PackedLinear;
use super::path::Kernel;
use super::product::{Ahead, Product, Tile, for_each_tile};

/// `z = input · W + b` of rows, for blocks of units.
pub(super) struct Preactivation<'a, I: Product> {
    pub linear: &'a PackedLinear,
    pub input: I,
    pub to: Kept<'a>,
    pub rows: Range<usize>,
    pub blocks: Range<usize>,
}

impl<I: Product> Kernel for Preactivation<'_, I> {
    const PAIRS: bool = I::PAIRS;

    #[inline(always)]
    fn run<L: Lanes>(self) {
        match self.linear.gates {
            1 => self.tiles::<L, 1>(),
            3 => self.tiles::<L, 3>(),
            4 => self.tiles::<L, 4>(),
            _ => self.tiles::<L, 5>(),
        }
    }
}

impl<I: Product> Preactivation<'_, I> {
    #[inline(always)]
    fn tiles<L: Lanes, const G: usize>(&self) {
        for block in self.blocks.clone() {
            for half in (0..BLOCK).step_by(L::WIDTH) {
                let tile = ZTile::<I, G> { job: self, block, half };
                // SAFETY: whoever makes the kernel vouches for its rows and blocks (see `backward.rs`).
                unsafe { for_each_tile::<L, G>(self.rows.clone(), &tile) }
            }
        }
    }
}

struct ZTile<'a, 'b, I: Product, const G: usize> {
    job: &'a Preactivation<'b, I>,
    block: usize,
    half: usize,
}

impl<I: Product, const G: usize> Tile for ZTile<'_, '_, I, G> {
    #[inline(always)]
    unsafe fn tile<L: Lanes, const M: usize>(&self, first: usize) {
        let &ZTile { job, block, half } = self;
        // SAFETY: the panel and the bias are the block's; a row of `z` has `G · BLOCK` floats and is the task's own.
        unsafe {
            let panel = job.linear.panel(block).as_ptr().add(half);
            let acc = job.input.multiply::<L, M, G>(first, panel, Ahead::none(panel));
            let bias = job.linear.bias(block).as_ptr().add(half);
            for (m, acc) in acc.into_iter().enumerate() {
                let to = job.to.row(block, first + m).add(half);
                for (g, acc) in acc.into_iter().enumerate() {
                    acc.add(L::load(bias.add(g * BLOCK))).store(to.add(g * BLOCK));
                }
            }
        }
    }
}
