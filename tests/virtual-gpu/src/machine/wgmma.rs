//! Products of warpgroups, `wgmma.mma_async`: where their matrices lie in shared memory, and what may be done while
//! they are in flight.
//!
//! Layouts, from CUTLASS (`make_gmma_desc`), in chunks of sixteen bytes: eight numbers along k where the matrix is K-major,
//! eight rows (of M or N) where it is MN-major. W is 1, 2, 4, 8 without a swizzle and with one of 32, 64, 128 bytes.
//!
//! Eight such chunks are a core matrix of eight rows and eight k; chunk j of the core matrix of rows 8 g … and k 8 h … lies at
//!
//! | order | offset |
//! |---|---|
//! | either, W = 1 | `16 j + g · SBO + h · LBO` |
//! | K-major | `16 W j + g · SBO + 16 h` |
//! | MN-major | `16 W j + g % W · 16 + g / W · LBO + h · SBO` |
//!
//! from the start. Then bits 4 … of the address change where bits 7 … are set: none, one, two or three of them by W.
//!
//! A warp computes its sixteen rows when it comes to the instruction: no one may change what it reads, and no one may use
//! what it writes, before its wait. The arithmetic is taken to be that of `mma.sync`: no card has been asked. The accumulators of
//! sixteen rows and eight columns are its fragments, side by side.

use super::Step;
use super::block::Block;
use super::mma::mma;
use super::shared::{WHOLE, Who};
use super::warp::Warp;
use crate::ptx::ir::{Class, Code, Kernel, Op, Slot};
use crate::ptx::lower::SHARED_BASE;

/// The depth of a product.
const DEPTH: usize = 16;

/// A matrix in shared memory.
#[derive(Clone, Copy, Debug)]
struct Matrix {
    start: u64,
    leading: u64,
    stride: u64,
    /// Chunks of a row of the swizzle; 1 for none.
    width: u64,
    /// Whether neighbours in memory are neighbours along M or N.
    trans: bool,
}

impl Matrix {
    /// Reads a descriptor of a matrix of so many rows; what is wrong with it otherwise.
    fn new(descriptor: u64, trans: bool, rows: usize) -> Result<Matrix, String> {
        let field = |first: u32| (descriptor >> first & 0x3fff) << 4;
        if descriptor & 0x3ff1_c000_c000_c000 != 0 {
            return Err("has bits that mean nothing".to_owned());
        }
        if descriptor >> 49 & 7 != 0 {
            return Err(format!("has the base offset {}, which is not supported", descriptor >> 49 & 7));
        }
        let width = [1, 8, 4, 2][(descriptor >> 62) as usize];
        let matrix = Matrix { start: field(0), leading: field(16), stride: field(32), width, trans };
        let (row, atom) = (16 * width, 128 * width);
        if width > 1 {
            let within = matrix.start % atom;
            if within >= row {
                return Err(format!(
                    "starts at {:#x}, not in the first {row} bytes of {atom}: its atom is not aligned",
                    matrix.start
                ));
            }
            let chunks = if trans { (rows as u64 / 8).min(width) } else { 2 };
            if within + 16 * chunks > row {
                return Err(format!(
                    "starts at {:#x}, too late for {} bytes in a row of {row}",
                    matrix.start,
                    16 * chunks
                ));
            }
        }
        Ok(matrix)
    }

    /// The shared address of a chunk: of the core matrix of eight rows `group` and eight k `half`, the one numbered `j`,
    /// by row if K-major, by k if MN-major.
    fn chunk(&self, group: u64, half: u64, j: u64) -> u64 {
        let (leading, stride, width) = (self.leading, self.stride, self.width);
        let of_core = match (self.trans, width) {
            (_, 1) => group * stride + half * leading,
            (false, _) => group * stride + half * 16,
            (true, _) => group % width * 16 + group / width * leading + half * stride,
        };
        let address = self.start + of_core + j * 16 * width;
        address ^ (address >> 7 & (width - 1)) << 4
    }
}

/// A register that products accumulate in.
#[derive(Clone, Copy, Debug, Default)]
struct Accumulator {
    /// The group of the last product that is in flight to it; 0 for none.
    group: u32,
    /// Its place among the accumulators of that product or the last one, and their number.
    place: (u16, u16),
    /// Fences before the last product began.
    fences: u32,
    /// Fences before another instruction last touched it.
    touched: u32,
}

/// The products of a warp.
#[derive(Debug, Default)]
pub struct Products {
    accumulators: Vec<Accumulator>,
    /// Groups of products in flight, with the chunks of shared memory that they read.
    reads: Vec<(u32, Vec<u32>)>,
    /// The group that the next product belongs to, from 1.
    group: u32,
    /// Fences of registers so far.
    fences: u32,
    /// Products so far.
    begun: usize,
}

impl Products {
    /// Makes it ready for a block.
    pub fn begin(&mut self, kernel: &Kernel) {
        self.accumulators.clear();
        if kernel.products {
            self.accumulators.resize(kernel.planes[Class::R32 as usize] as usize, Accumulator::default());
        }
        self.reads.clear();
        (self.group, self.fences, self.begun) = (1, 0, 0);
    }

    /// `wgmma.fence`.
    pub fn fence(&mut self) {
        self.fences += 1;
    }

    /// `wgmma.commit_group`.
    pub fn commit(&mut self) {
        self.group += 1;
    }
}

/// A product that a warp of a warpgroup began, which the others must begin, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    line: u32,
    descriptors: [u64; 2],
    adds: bool,
}

impl std::fmt::Display for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Begun { line, descriptors: [a, b], adds } = self;
        write!(f, "line {line} of {a:#x} and {b:#x} with scale-d {adds}")
    }
}

impl Warp {
    /// Whether the operation is a product that is added to nothing.
    #[inline(always)]
    pub fn overwrites(&self, op: &Op) -> bool {
        matches!(op, Op::Wgmma { adds: (p, negated), .. } if (self.planes.pred[*p as usize] == 0) != *negated)
    }
}

impl Block<'_> {
    /// Another instruction touches accumulators.
    #[cold]
    pub fn held(&self, warp: &mut Warp, code: &Code, mask: u32) -> Step {
        let touched = &self.launch.kernel.checks[code.held.0 as usize..][..code.held.1 as usize];
        for pair in touched.chunks(2) {
            let accumulator = &mut warp.products.accumulators[pair[0] as usize];
            accumulator.touched = warp.products.fences;
            if accumulator.group != 0 {
                let does = if pair[1] == 1 { "writes" } else { "reads" };
                let text = format!("{does} an accumulator of a wgmma that was not waited for");
                return Err(self.fault(719, warp, mask.trailing_zeros() as usize, text));
            }
        }
        Ok(())
    }

    /// Lanes end.
    #[inline(always)]
    pub fn nothing_in_flight(&self, warp: &Warp, mask: u32) -> Step {
        if mask == 0 || warp.products.reads.is_empty() {
            return Ok(());
        }
        let text = "ends before a wgmma that was not waited for".to_owned();
        Err(self.fault(719, warp, mask.trailing_zeros() as usize, text))
    }

    /// All warps have ended: those of a warpgroup must have begun as many products.
    pub fn products_of_all(&self) -> Step {
        for (group, begun) in self.begun.iter().enumerate() {
            for warp in &self.warps[4 * group..][..4] {
                if let Some(missing) = begun.get(warp.products.begun) {
                    let text = format!("warp {} has ended without this wgmma of its warpgroup", warp.index);
                    return Err(self.fault_at(719, missing.line, Some(warp.index as u32 * 32), text));
                }
            }
        }
        Ok(())
    }

    /// `wgmma.mma_async`: a warp's sixteen rows.
    pub fn begin_product(
        &mut self,
        warp: &mut Warp,
        half: bool,
        d: &[Slot],
        descriptors: [Slot; 2],
        adds: (Slot, bool),
        trans: [bool; 2],
    ) -> Step {
        let n = d.len() * 2;
        let group = warp.index / 4;
        if group >= self.begun.len() {
            let text = format!("warp {} is in no whole warpgroup of four", warp.index);
            return Err(self.fault(719, warp, 0, text));
        }
        // Descriptors and scale-d are the same for all lanes and for all warps of the group.
        let given = descriptors.map(|slot| warp.planes.r64[slot as usize]);
        let differs = given.iter().find_map(|all| (1..32).find(|&lane| all[lane] != all[0]));
        let p = warp.planes.pred[adds.0 as usize];
        if let Some(lane) = differs {
            return Err(self.fault(719, warp, lane, "lanes give different descriptors".to_owned()));
        }
        if p != 0 && p != u32::MAX {
            let lane = if p & 1 == 0 { p.trailing_zeros() } else { p.trailing_ones() };
            return Err(self.fault(719, warp, lane as usize, "lanes differ in scale-d".to_owned()));
        }
        let adds = (p != 0) != adds.1;
        let line = self.launch.kernel.code[warp.pc as usize].line;
        let this = Begun { line, descriptors: given.map(|all| all[0]), adds };
        match self.begun[group].get(warp.products.begun) {
            None => self.begun[group].push(this),
            Some(other) if *other == this => {}
            Some(other) => {
                let text = format!(
                    "the warps of a warpgroup begin different products: {this} here, {other} elsewhere"
                );
                return Err(self.fault(719, warp, 0, text));
            }
        }
        warp.products.begun += 1;
        let matrix = |i: usize, name: &str, rows: usize| {
            let descriptor = this.descriptors[i];
            Matrix::new(descriptor, trans[i], rows).map_err(|wrong| {
                self.fault(719, warp, 0, format!("the descriptor of {name}, {descriptor:#x}, {wrong}"))
            })
        };
        let (of_a, of_b) = (matrix(0, "A", 64)?, matrix(1, "B", n)?);
        self.take_accumulators(warp, d)?;
        let first = warp.index % 4 * 16;
        let mut chunks = Vec::with_capacity(2 * (DEPTH + n));
        let a = self.read_matrix(warp, &of_a, first..first + 16, None, &mut chunks)?;
        let b = self.read_matrix(warp, &of_b, 0..n, Some(warp.index % 4), &mut chunks)?;
        let pair = |row: &[u16; DEPTH], k: usize| u32::from(row[k]) | u32::from(row[k + 1]) << 16;
        let of_a: [[u32; 32]; 4] = std::array::from_fn(|i| {
            std::array::from_fn(|l| pair(&a[l / 4 + 8 * (i % 2)], l % 4 * 2 + 8 * (i / 2)))
        });
        for (columns, d) in b.chunks(8).zip(d.chunks(4)) {
            let of_b: [[u32; 32]; 2] =
                std::array::from_fn(|i| std::array::from_fn(|l| pair(&columns[l / 4], l % 4 * 2 + 8 * i)));
            let zero = [0; 32];
            let c: [_; 4] =
                std::array::from_fn(|i| if adds { &warp.planes.r32[d[i] as usize] } else { &zero });
            let out = mma(half, &[&of_a[0], &of_a[1], &of_a[2], &of_a[3]], &[&of_b[0], &of_b[1]], c);
            for (d, out) in d.iter().zip(out) {
                warp.planes.r32[*d as usize] = out;
            }
        }
        warp.products.reads.push((warp.products.group, chunks));
        self.counters.wgmma += n as u64 / 8;
        Ok(())
    }

    /// Puts a product in flight to its accumulators.
    fn take_accumulators(&self, warp: &mut Warp, d: &[Slot]) -> Step {
        for (i, &slot) in d.iter().enumerate() {
            let (group, fences) = (warp.products.group, warp.products.fences);
            let accumulator = &mut warp.products.accumulators[slot as usize];
            let place = (i as u16, d.len() as u16);
            let other = accumulator.place != (0, 0) && accumulator.place != place;
            if accumulator.group != 0 && other {
                let text = "accumulates where a wgmma of other accumulators was not waited for".to_owned();
                return Err(self.fault(719, warp, 0, text));
            }
            if accumulator.touched == fences || (other && accumulator.fences == fences) {
                let text = "accumulates in registers that were touched since the last wgmma.fence".to_owned();
                return Err(self.fault(719, warp, 0, text));
            }
            (accumulator.group, accumulator.fences, accumulator.place) = (group, fences, place);
        }
        Ok(())
    }

    /// Reads rows of a matrix, notes their chunks, and counts its core matrices: all, or every fourth, from the
    /// `quarter`-th on. One takes all banks once, wherever it lies.
    fn read_matrix(
        &mut self,
        warp: &Warp,
        matrix: &Matrix,
        rows: std::ops::Range<usize>,
        quarter: Option<usize>,
        chunks: &mut Vec<u32>,
    ) -> Step<Vec<[u16; DEPTH]>> {
        let mut out = vec![[0; DEPTH]; rows.len()];
        let (end, who) = (self.shared.data.len(), whole(warp));
        for core in 0..rows.len() / 4 {
            let (group, half) = (core / 2, core % 2);
            for j in 0..8 {
                let address = matrix.chunk((rows.start / 8 + group) as u64, half as u64, j as u64);
                let at = address.wrapping_sub(u64::from(SHARED_BASE)) as usize;
                if at >= end || at + 16 > end {
                    let there = at as i64;
                    return Err(self.fault(700, warp, 0, format!("out of bounds: reads 16 bytes at shared address {address:#x} (offset {there} of {end} bytes)")));
                }
                if let Err(trouble) = self.shared.begin_product(at, &who) {
                    return Err(self.trouble(warp, 0, at, 16, trouble, "reads"));
                }
                chunks.push(at as u32);
                for (i, pair) in self.shared.data[at..at + 16].chunks(2).enumerate() {
                    let (row, k) = if matrix.trans { (i, j) } else { (j, i) };
                    out[8 * group + row][8 * half + k] = u16::from_le_bytes([pair[0], pair[1]]);
                }
            }
            if quarter.is_none_or(|quarter| core % 4 == quarter) {
                self.counters.wavefronts += 1;
                self.counters.wavefronts_ideal += 1;
            }
        }
        Ok(out)
    }

    /// `wgmma.wait_group`: ends the products of all groups but the `keep` newest.
    pub fn wait_products(&mut self, warp: &mut Warp, keep: u32) -> Step {
        self.counters.wgmma_waits += 1;
        let ended = warp.products.group.saturating_sub(keep);
        let done: Vec<_> = warp.products.reads.extract_if(.., |read| read.0 < ended).collect();
        for accumulator in &mut warp.products.accumulators {
            if accumulator.group < ended {
                accumulator.group = 0;
            }
        }
        let who = whole(warp);
        for at in done.into_iter().flat_map(|(_, chunks)| chunks) {
            if let Err(trouble) = self.shared.end_product(at as usize, &who) {
                return Err(self.trouble(warp, 0, at as usize, 16, trouble, "has read"));
            }
        }
        Ok(())
    }
}

/// A warp as one.
fn whole(warp: &Warp) -> Who<'_> {
    let clocks = warp.clocks.as_ref().expect("a warp at work has clocks");
    Who { warp: warp.index, lane: WHOLE, clocks }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A core matrix has no conflicts: its eight chunks lie in eight different parts of a line of the banks.
    #[test]
    fn a_core_matrix_takes_all_banks_once() {
        let mut seen = 0;
        for layout in 0..4u64 {
            for start in (1024u64..2048).step_by(16) {
                for (trans, offsets) in
                    [(false, 1u64 << 38), (true, 1 << 38 | 1 << 22), (true, 3 << 36 | 5 << 20)]
                {
                    let descriptor = layout << 62 | offsets | start >> 4;
                    let Ok(matrix) = Matrix::new(descriptor, trans, 8) else { continue };
                    for (group, half) in [(0, 0), (0, 1), (1, 0), (3, 1), (7, 1)] {
                        let parts =
                            (0..8).fold(0, |set, j| set | 1 << (matrix.chunk(group, half, j) / 16 % 8));
                        assert_eq!(parts, 0xff, "{matrix:?}, {group}, {half}");
                        seen += 1;
                    }
                }
            }
        }
        assert!(seen > 1000, "{seen}");
    }
}
