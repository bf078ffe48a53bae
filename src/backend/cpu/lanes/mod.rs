//! Vectors of f32 in one vocabulary: every kernel is written once over [`Lanes`] and compiled for each
//! instruction set. Each operation but `dot` has the same bits in every implementation: fused multiply-adds are fused,
//! nothing is reassociated, and `max` treats NaN as x86 does.

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use half::bf16;
#[cfg(target_arch = "aarch64")]
pub(super) use neon::Neon;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

/// Entries of a table that lanes are looked up in.
pub(super) const ENTRIES: usize = 32;

/// A vector of [`Lanes::WIDTH`] f32.
///
/// Values of a type exist only where its instruction set was detected (see `path.rs`), which is what the
/// `unsafe` blocks of the implementations rely on.
pub(super) trait Lanes: Copy {
    /// Lanes in a vector; divides [`BLOCK`](super::BLOCK).
    const WIDTH: usize;
    /// Vector registers, which bound a tile.
    const REGISTERS: usize;
    /// Most rows of a tile, if the registers allow them.
    const MOST_ROWS: usize = 8;
    /// Whether [`Lanes::dot`] is one instruction, with a rounding of its own.
    const DOTS: bool = false;

    /// # Safety
    /// `from` is valid for reading `WIDTH` f32; no alignment is needed.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// `to` is valid for writing `WIDTH` f32; no alignment is needed.
    unsafe fn store(self, to: *mut f32);
    fn splat(x: f32) -> Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// `self * factor + term`, rounded once.
    fn fma(self, factor: Self, term: Self) -> Self;
    /// `term - self * factor`, rounded once.
    fn fnma(self, factor: Self, term: Self) -> Self;
    /// `if self > other { self } else { other }`: NaN in `other` stays.
    fn max(self, other: Self) -> Self;
    /// `-|self|`.
    fn neg_abs(self) -> Self;
    /// The magnitude of `self` with the sign of `sign`.
    fn copysign(self, sign: Self) -> Self;
    /// `if self < 0 { negative } else { other }`, lane by lane.
    fn if_negative(self, negative: Self, other: Self) -> Self;
    /// Rounds each lane to bf16, ties to even; NaN stays.
    ///
    /// # Safety
    /// `to` is valid for writing `WIDTH` bf16.
    unsafe fn store_bf16(self, to: *mut bf16);
    /// Where lanes hold pairs of bf16, the first of each pair, the lower half.
    fn even(self) -> Self;
    /// The second of each pair.
    fn odd(self) -> Self;
    /// `self + x_even·w_even + x_odd·w_odd` of pairs of bf16: as two `fma` in this order, or as the processor does it
    /// if it has [`Lanes::DOTS`].
    #[inline(always)]
    fn dot(self, x: Self, w: Self) -> Self {
        x.odd().fma(w.odd(), x.even().fma(w.even(), self))
    }
    /// `2^n`, where `self` is `n + 1.5·2^23` for an integer `n` in -126 … 127.
    fn exp2_of_shifted(self) -> Self;
    /// For each lane the entry that the lowest five of its bits name.
    #[inline(always)]
    fn lookup(self, table: &[f32; ENTRIES]) -> Self {
        let mut lanes = [0.0; 16];
        // SAFETY: the array holds the widest vector.
        unsafe { self.store(lanes.as_mut_ptr()) };
        for lane in &mut lanes {
            *lane = table[lane.to_bits() as usize % ENTRIES];
        }
        // SAFETY: as above.
        unsafe { Self::load(lanes.as_ptr()) }
    }
}

/// The definition that the others must equal: an array and scalar arithmetic.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; 8]);

impl Plain {
    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        Plain(self.0.map(f))
    }

    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Plain(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Plain {
    const WIDTH: usize = 8;
    const REGISTERS: usize = 16;
    // The definition is small rather than fast: taller tiles would take longer to compile than all other paths.
    const MOST_ROWS: usize = 1;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for eight f32; an f32 array has their alignment.
        Plain(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as in `load`.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Plain([x; 8])
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    fn fma(self, factor: Self, term: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i].mul_add(factor.0[i], term.0[i])))
    }
    #[inline(always)]
    fn fnma(self, factor: Self, term: Self) -> Self {
        Plain(std::array::from_fn(|i| (-self.0[i]).mul_add(factor.0[i], term.0[i])))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn neg_abs(self) -> Self {
        self.map(|x| -x.abs())
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        self.zip(sign, f32::copysign)
    }
    #[inline(always)]
    fn if_negative(self, negative: Self, other: Self) -> Self {
        Plain(std::array::from_fn(|i| if self.0[i] < 0.0 { negative.0[i] } else { other.0[i] }))
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: the caller vouches for eight bf16.
        unsafe { to.cast::<[bf16; 8]>().write_unaligned(self.0.map(bf16::from_f32)) }
    }
    #[inline(always)]
    fn even(self) -> Self {
        self.map(|x| f32::from_bits(x.to_bits() << 16))
    }
    #[inline(always)]
    fn odd(self) -> Self {
        self.map(|x| f32::from_bits(x.to_bits() & 0xffff_0000))
    }
    #[inline(always)]
    fn exp2_of_shifted(self) -> Self {
        self.map(|x| f32::from_bits((x.to_bits() << 23).wrapping_add(0x3f80_0000)))
    }
}
