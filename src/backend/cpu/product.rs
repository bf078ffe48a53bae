//! The product of rows with a packed panel of weights, in registers: the inner loop of every pass.
//!
//! In f32 the arithmetic is defined: an output is one accumulator, `acc = fma(x_k, w_k, acc)`, `k` ascending. Lanes run
//! over outputs, so each row's bits depend neither on the tile it falls in nor on the instruction set.

use super::BLOCK;
use super::lanes::Lanes;
use super::memory::{Index, Matrix, prefetch};
use super::pack::PackedLinear;
use super::stored::Stored;

/// Rows of a panel that are fetched ahead of the product, from the second level of the cache.
const ROWS_AHEAD: usize = 8;

/// The panel that a task takes up next, fetched line by line while this one is at work: the weights of a model do
/// not fit a core's cache, and nothing else would have the next panel there in time.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    line: *const f32,
    step: usize,
}

impl Ahead {
    /// The `tile`-th of the lines that a tile of rows can fetch, `fan_in` each; no more once all are fetched.
    pub(super) fn of(panel: &[f32], tile: usize, fan_in: usize) -> Self {
        let start = tile * fan_in * LINE;
        let step = if start < panel.len() { LINE } else { 0 };
        Ahead { line: panel.as_ptr().wrapping_add(start.min(panel.len())), step }
    }

    /// Nothing but what is at work.
    pub(super) fn none(panel: *const f32) -> Self {
        Ahead { line: panel, step: 0 }
    }
}

/// Floats of a cache line.
const LINE: usize = 16;

/// `acc[m][g] = fma(x(m), w[g], acc[m][g])`: the step of every product.
#[inline(always)]
pub(super) fn accumulate<L: Lanes, const M: usize, const G: usize>(
    acc: &mut [[L; G]; M],
    x: impl Fn(usize) -> f32,
    w: [L; G],
) {
    for (m, acc) in acc.iter_mut().enumerate() {
        let x = L::splat(x(m));
        for (acc, w) in acc.iter_mut().zip(w) {
            *acc = x.fma(w, *acc);
        }
    }
}

/// What rows times a packed panel of weights is.
pub(super) trait Product: Copy + Send + Sync {
    /// Whether it multiplies pairs of bf16, for which some paths have an instruction.
    const PAIRS: bool = false;

    /// `M` rows from `first` times a panel `[fan_in, G, BLOCK]`, `L::WIDTH` lanes of each of its `G` blocks.
    ///
    /// # Safety
    /// The rows are readable and no task writes them; the panel holds all of the fan-in.
    unsafe fn multiply<L: Lanes, const M: usize, const G: usize>(
        &self,
        first: usize,
        panel: *const f32,
        ahead: Ahead,
    ) -> [[L; G]; M];

    /// What is added to the product of a row, from column `at` of a panel's row on: the bias.
    ///
    /// # Safety
    /// `linear` has the block, and `L::WIDTH` columns from there.
    #[inline(always)]
    unsafe fn shift<L: Lanes>(&self, linear: &PackedLinear, block: usize, at: usize, _row: usize) -> L {
        // SAFETY: passed on.
        unsafe { L::load(linear.bias(block).as_ptr().add(at)) }
    }
}

/// A panel on its way through a product.
pub(super) struct Walk {
    weights: *const f32,
    next: *const f32,
    step: usize,
}

impl Walk {
    #[inline(always)]
    fn new(panel: *const f32, ahead: Ahead) -> Self {
        Walk { weights: panel, next: ahead.line, step: ahead.step }
    }

    /// The next row of the panel, `L::WIDTH` lanes of each of its blocks.
    ///
    /// # Safety
    /// There is one.
    #[inline(always)]
    unsafe fn row<L: Lanes, const G: usize>(&mut self) -> [L; G] {
        // SAFETY: passed on.
        let row = std::array::from_fn(|g| unsafe { L::load(self.weights.add(g * BLOCK)) });
        for g in 0..G {
            prefetch::<_, true>(self.weights.wrapping_add((ROWS_AHEAD * G + g) * BLOCK));
        }
        prefetch::<_, false>(self.next);
        self.next = self.next.wrapping_add(self.step);
        self.weights = self.weights.wrapping_add(G * BLOCK);
        row
    }

    /// `len` elements of `M` rows of f32: a row of the panel each.
    ///
    /// # Safety
    /// The rows have as many, and so has the panel.
    #[inline(always)]
    pub(super) unsafe fn elements<L: Lanes, const M: usize, const G: usize>(
        &mut self,
        acc: &mut [[L; G]; M],
        x: [*const f32; M],
        len: usize,
        element: impl Fn(f32) -> f32,
    ) {
        for k in 0..len {
            // SAFETY: passed on.
            unsafe {
                let w = self.row::<L, G>();
                accumulate(acc, |m| element(*x[m].add(k)), w);
            }
        }
    }

    /// `len` pairs of `M` rows of bf16: a row of the panel each, of pairs too.
    ///
    /// # Safety
    /// As [`elements`](Self::elements).
    #[inline(always)]
    pub(super) unsafe fn pairs<L: Lanes, const M: usize, const G: usize>(
        &mut self,
        acc: &mut [[L; G]; M],
        x: [*const f32; M],
        len: usize,
    ) {
        for k in 0..len {
            // SAFETY: passed on.
            unsafe {
                let w = self.row::<L, G>();
                if const { L::DOTS } {
                    for (m, acc) in acc.iter_mut().enumerate() {
                        let x = L::splat(*x[m].add(k));
                        for (acc, w) in acc.iter_mut().zip(w) {
                            *acc = acc.dot(x, w);
                        }
                    }
                } else {
                    let pair = |m: usize| (*x[m].add(k)).to_bits();
                    accumulate(acc, |m| f32::from_bits(pair(m) << 16), w.map(L::even));
                    accumulate(acc, |m| f32::from_bits(pair(m) & 0xffff_0000), w.map(L::odd));
                }
            }
        }
    }
}

/// `h` of states side by side, gathered by slot: `[h_left ; h_right]` of a merge, `[h]` of a unary layer.
#[derive(Clone, Copy)]
pub(super) struct Segments<'a, H: Stored, const S: usize> {
    pub h: Matrix<'a, H>,
    pub index: [Index<'a>; S],
    /// `H`.
    pub len: usize,
}

impl<H: Stored, const S: usize> Operand for Segments<'_, H, S> {
    type Element = H;

    fn segments(&self) -> usize {
        S
    }
    fn segment_len(&self) -> usize {
        self.len
    }
    #[inline(always)]
    fn segment(&self, segment: usize, row: usize) -> *const H {
        self.h.row(self.index[segment].row(row))
    }
}

/// The left operand of a product: row `i`, or `M` rows from it, of inputs cut into segments of equal length.
pub(super) trait Operand: Copy + Send + Sync {
    /// What rows are made of.
    type Element: Stored;

    /// How many segments a row has.
    fn segments(&self) -> usize;
    /// Elements of a segment.
    fn segment_len(&self) -> usize;
    /// The start of a segment of a row.
    fn segment(&self, segment: usize, row: usize) -> *const Self::Element;

    /// What is added to the product of a row, from column `at` of a panel's row on: the bias.
    ///
    /// # Safety
    /// `linear` has the block, and `L::WIDTH` columns from there.
    #[inline(always)]
    unsafe fn shift<L: Lanes>(&self, linear: &PackedLinear, block: usize, at: usize, _row: usize) -> L {
        // SAFETY: passed on.
        unsafe { L::load(linear.bias(block).as_ptr().add(at)) }
    }
}

impl<I: Operand> Product for I {
    const PAIRS: bool = I::Element::PAIRS;

    #[inline(always)]
    unsafe fn multiply<L: Lanes, const M: usize, const G: usize>(
        &self,
        first: usize,
        panel: *const f32,
        ahead: Ahead,
    ) -> [[L; G]; M] {
        let mut acc = [[L::splat(0.0); G]; M];
        let mut walk = Walk::new(panel, ahead);
        for segment in 0..self.segments() {
            let x = std::array::from_fn(|m| self.segment(segment, first + m));
            // SAFETY: passed on.
            unsafe { I::Element::accumulate(&mut walk, &mut acc, x, self.segment_len()) };
        }
        acc
    }

    #[inline(always)]
    unsafe fn shift<L: Lanes>(&self, linear: &PackedLinear, block: usize, at: usize, row: usize) -> L {
        // SAFETY: passed on.
        unsafe { Operand::shift(self, linear, block, at, row) }
    }
}

/// Rows of one matrix.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub x: Matrix<'a>,
    pub index: Index<'a>,
    pub len: usize,
}

impl Operand for Rows<'_> {
    type Element = f32;

    fn segments(&self) -> usize {
        1
    }
    fn segment_len(&self) -> usize {
        self.len
    }
    #[inline(always)]
    fn segment(&self, _: usize, row: usize) -> *const f32 {
        self.x.row(self.index.row(row))
    }
}

/// `relu` of the rows of one matrix: the read-out's input.
#[derive(Clone, Copy)]
pub(super) struct ReluRows<'a>(pub Rows<'a>);

impl Product for ReluRows<'_> {
    #[inline(always)]
    unsafe fn multiply<L: Lanes, const M: usize, const G: usize>(
        &self,
        first: usize,
        panel: *const f32,
        ahead: Ahead,
    ) -> [[L; G]; M] {
        let mut acc = [[L::splat(0.0); G]; M];
        let x = std::array::from_fn(|m| self.0.segment(0, first + m));
        // SAFETY: passed on.
        unsafe {
            Walk::new(panel, ahead).elements(&mut acc, x, self.0.len, |x| if 0.0 > x { 0.0 } else { x })
        };
        acc
    }
}

/// Rows of `z` or `dz`, stored block by block, `[blocks, rows, gates · BLOCK]`.
#[derive(Clone, Copy)]
pub(super) struct Blocked<'a> {
    /// Rows of one block after those of another.
    pub z: Matrix<'a>,
    /// Rows of a block.
    pub rows: usize,
    pub blocks: usize,
    /// `gates · BLOCK`.
    pub len: usize,
    /// First row.
    pub first: usize,
}

impl Operand for Blocked<'_> {
    type Element = f32;

    fn segments(&self) -> usize {
        self.blocks
    }
    fn segment_len(&self) -> usize {
        self.len
    }
    #[inline(always)]
    fn segment(&self, segment: usize, row: usize) -> *const f32 {
        self.z.row(segment * self.rows + self.first + row)
    }
}

/// Rows of tokens: the product with a one-hot row is the row of the panel that the token names.
#[derive(Clone, Copy)]
pub(super) struct Tokens<'a> {
    pub tokens: &'a [u32],
    pub index: Index<'a>,
}

impl Product for Tokens<'_> {
    #[inline(always)]
    unsafe fn multiply<L: Lanes, const M: usize, const G: usize>(
        &self,
        first: usize,
        panel: *const f32,
        _: Ahead,
    ) -> [[L; G]; M] {
        std::array::from_fn(|m| {
            let token = self.tokens[self.index.row(first + m)] as usize;
            // SAFETY: tokens are below the vocabulary, whose rows the panel holds.
            std::array::from_fn(|g| unsafe { L::load(panel.add((token * G + g) * BLOCK)) })
        })
    }
}

/// What is done with tiles of `M` rows.
pub(super) trait Tile {
    /// # Safety
    /// As the implementation says.
    unsafe fn tile<L: Lanes, const M: usize>(&self, first: usize);
}

/// Rows of the tallest tile of `G` columns: its accumulators, a row of weights and an input in registers.
pub(super) const fn most_rows<L: Lanes, const G: usize>() -> usize {
    match (L::REGISTERS - 1 - G) / G {
        0 => 1,
        rows if rows > L::MOST_ROWS => L::MOST_ROWS,
        rows => rows,
    }
}

/// Cuts rows into the tallest tiles whose `M · G` accumulators fit the registers of the path.
///
/// # Safety
/// As [`Tile::tile`] for every row of the range.
#[inline(always)]
pub(super) unsafe fn for_each_tile<L: Lanes, const G: usize>(rows: std::ops::Range<usize>, body: &impl Tile) {
    let most = const { most_rows::<L, G>() };
    let mut first = rows.start;
    while first < rows.end {
        let m = most.min(rows.end - first);
        // Only the heights that this path can have are compiled.
        macro_rules! tile_of {
            ($($rows:literal)*) => {
                $(if const { $rows <= most_rows::<L, G>() } && m == $rows {
                    // SAFETY: the tile lies within the range.
                    unsafe { body.tile::<L, $rows>(first) }
                })*
            };
        }
        tile_of!(1 2 3 4 5 6 7 8);
        first += m;
    }
}
