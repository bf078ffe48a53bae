//! How an `h` is kept between cells: as f32, or as bf16 in half the memory. Sums, gates and `c` are f32 with both.

use half::bf16;

use super::CpuPath;
use super::cell::CellKernel;
use super::forward::TILE;
use super::lanes::Lanes;
use super::product::{Segments, Walk};
use super::{gates, gates_bf16};

/// A number that a state's `h` is made of.
pub(super) trait Stored: Copy + Send + Sync + 'static {
    /// Elements that a row of `h` is a multiple of: whole blocks of units, and the 64 bytes of a tile's row.
    const ROW: usize;
    /// Rows of a tile of work: their inputs and outputs of a stage stay in a core's cache.
    const TILE: usize;
    /// Whether products take two numbers at once.
    const PAIRS: bool;

    /// # Safety
    /// `to` is valid for writing `L::WIDTH` elements.
    unsafe fn store<L: Lanes>(vector: L, to: *mut Self);
    /// `σ`, as exact as what is kept deserves.
    fn sigmoid<L: Lanes>(x: L) -> L;
    /// `tanh`, likewise.
    fn tanh<L: Lanes>(x: L) -> L;
    /// Adds to sums what `M` rows of `len` elements give, times their rows of a panel.
    ///
    /// # Safety
    /// The rows of `h` are whole, and the panel has rows for them.
    unsafe fn accumulate<L: Lanes, const M: usize, const G: usize>(
        walk: &mut Walk,
        acc: &mut [[L; G]; M],
        x: [*const Self; M],
        len: usize,
    );
    /// Runs a cell over states.
    fn run<const S: usize, const N: usize>(
        path: CpuPath,
        kernel: CellKernel<'_, '_, Segments<'_, Self, S>, N, Self>,
    ) {
        path.run(kernel);
    }
    fn from_f32(x: f32) -> Self;
    fn to_f32(self) -> f32;

    /// Elements of a row of `h`. Those past `H` stay 0.
    fn row_of(hidden: usize) -> usize {
        hidden.next_multiple_of(Self::ROW)
    }

    /// What a row of `h` takes of a workspace, which is counted in f32.
    fn floats_of(hidden: usize) -> usize {
        Self::row_of(hidden) * size_of::<Self>() / size_of::<f32>()
    }
}

impl Stored for f32 {
    const ROW: usize = 16;
    const TILE: usize = TILE;
    const PAIRS: bool = false;

    #[inline(always)]
    unsafe fn store<L: Lanes>(vector: L, to: *mut f32) {
        // SAFETY: passed on.
        unsafe { vector.store(to) }
    }
    #[inline(always)]
    fn sigmoid<L: Lanes>(x: L) -> L {
        gates::sigmoid(x)
    }
    #[inline(always)]
    fn tanh<L: Lanes>(x: L) -> L {
        gates::tanh(x)
    }
    #[inline(always)]
    unsafe fn accumulate<L: Lanes, const M: usize, const G: usize>(
        walk: &mut Walk,
        acc: &mut [[L; G]; M],
        x: [*const f32; M],
        len: usize,
    ) {
        // SAFETY: passed on.
        unsafe { walk.elements(acc, x, len, |x| x) }
    }
    fn from_f32(x: f32) -> f32 {
        x
    }
    fn to_f32(self) -> f32 {
        self
    }
}

impl Stored for bf16 {
    const ROW: usize = 32;
    // The weights are read more often than products take.
    const TILE: usize = 128;
    const PAIRS: bool = true;

    #[inline(always)]
    unsafe fn store<L: Lanes>(vector: L, to: *mut bf16) {
        // SAFETY: passed on.
        unsafe { vector.store_bf16(to) }
    }
    #[inline(always)]
    fn sigmoid<L: Lanes>(x: L) -> L {
        gates_bf16::sigmoid(x)
    }
    #[inline(always)]
    fn tanh<L: Lanes>(x: L) -> L {
        gates_bf16::tanh(x)
    }
    #[inline(always)]
    unsafe fn accumulate<L: Lanes, const M: usize, const G: usize>(
        walk: &mut Walk,
        acc: &mut [[L; G]; M],
        x: [*const bf16; M],
        len: usize,
    ) {
        // SAFETY: passed on; rows of bf16 begin on a multiple of 64 bytes and are padded, with zeros.
        unsafe { walk.pairs(acc, x.map(|x| x.cast()), Self::row_of(len) / 2) }
    }
    fn run<const S: usize, const N: usize>(
        path: CpuPath,
        kernel: CellKernel<'_, '_, Segments<'_, Self, S>, N, Self>,
    ) {
        match path {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            // SAFETY: the path is a `Cpu`'s.
            CpuPath::Amx => unsafe { CpuPath::run_with_tiles(super::amx::AmxKernel(kernel)) },
            _ => path.run(kernel),
        }
    }
    fn from_f32(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::path::Kernel;
    use super::*;

    /// Rounds numbers, sixteen at a time, and takes pairs apart.
    struct Round<'a>(&'a [f32], &'a mut Vec<(u16, u32, u32)>);

    impl Kernel for Round<'_> {
        fn run<L: Lanes>(self) {
            for x in self.0.chunks_exact(L::WIDTH) {
                let mut rounded = [bf16::NAN; 16];
                let mut halves = [[f32::NAN; 16]; 2];
                // SAFETY: the arrays hold the widest vector.
                unsafe {
                    let vector = L::load(x.as_ptr());
                    bf16::store(vector, rounded.as_mut_ptr());
                    vector.even().store(halves[0].as_mut_ptr());
                    vector.odd().store(halves[1].as_mut_ptr());
                }
                let bits = |i: usize| (rounded[i].to_bits(), halves[0][i].to_bits(), halves[1][i].to_bits());
                self.1.extend((0..L::WIDTH).map(bits));
            }
        }
    }

    #[test]
    fn every_path_rounds_as_bf16_does_and_takes_pairs_apart() {
        // Every exponent and sign, with mantissas around ties, and all NaN and infinities among them.
        let x: Vec<f32> = (0..1u32 << 20)
            .map(|n| f32::from_bits(n << 12 | [0, 1, 0x7ff, 0x800, 0xfff][n as usize % 5]))
            .chain((0..1u32 << 18).map(|n| f32::from_bits(n << 14 | 0x2000)))
            .collect();
        let mut nans = 0;
        for path in CpuPath::ALL.into_iter().filter(|path| path.is_available()) {
            let mut found = Vec::new();
            path.run(Round(&x, &mut found));
            assert_eq!(found.len(), x.len());
            for (x, (rounded, even, odd)) in x.iter().zip(found) {
                let bits = x.to_bits();
                assert_eq!(rounded, bf16::from_f32(*x).to_bits(), "{path:?}: {x:e}, {bits:x}");
                assert_eq!((even, odd), (bits << 16, bits & 0xffff_0000), "{path:?}: {bits:x}");
                nans += usize::from(x.is_nan());
            }
        }
        assert!(nans > 1000);
    }
}
