//! Vectors of f32 in one vocabulary: every kernel is written once over [`Lanes`] and compiled for each
//! instruction set. Each operation has the same bits in every implementation: fused multiply-adds are fused,
//! nothing is reassociated, and `max` treats NaN as x86 does.

/// A vector of [`Lanes::WIDTH`] f32.
///
/// Values of a type exist only where its instruction set was detected (see `path.rs`), which is what the
/// `unsafe` blocks of the implementations rely on.
pub(super) trait Lanes: Copy {
    /// Lanes in a vector; divides [`BLOCK`](super::BLOCK).
    const WIDTH: usize;
    /// Vector registers, which bound a tile.
    const REGISTERS: usize;

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
    /// `if self > other { self } else { other }`: NaN in `other` stays.
    fn max(self, other: Self) -> Self;
    /// `-|self|`.
    fn neg_abs(self) -> Self;
    /// The magnitude of `self` with the sign of `sign`.
    fn copysign(self, sign: Self) -> Self;
    /// `if self < 0 { negative } else { other }`, lane by lane.
    fn if_negative(self, negative: Self, other: Self) -> Self;
    /// `2^n`, where `self` is `n + 1.5·2^23` for an integer `n` in -126 … 127.
    fn exp2_of_shifted(self) -> Self;
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
    fn exp2_of_shifted(self) -> Self {
        self.map(|x| f32::from_bits((x.to_bits() << 23).wrapping_add(0x3f80_0000)))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// AVX-512F: sixteen lanes, 32 registers.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(__m512);

    /// AVX2 with FMA: eight lanes, 16 registers.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(__m256);

    /// The operations that are one intrinsic each.
    macro_rules! intrinsics {
        ($vector:ident, $load:ident, $store:ident, $splat:ident, $add:ident, $sub:ident, $mul:ident, $fma:ident, $max:ident) => {
            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: the caller vouches for the memory, the type for the instruction set.
                $vector(unsafe { $load(from) })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: the caller vouches for the memory, the type for the instruction set.
                unsafe { $store(to, self.0) }
            }
            #[inline(always)]
            fn splat(x: f32) -> Self {
                // SAFETY: the type vouches for the instruction set.
                $vector(unsafe { $splat(x) })
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                // SAFETY: the type vouches for the instruction set.
                $vector(unsafe { $add(self.0, other.0) })
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                // SAFETY: the type vouches for the instruction set.
                $vector(unsafe { $sub(self.0, other.0) })
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                // SAFETY: the type vouches for the instruction set.
                $vector(unsafe { $mul(self.0, other.0) })
            }
            #[inline(always)]
            fn fma(self, factor: Self, term: Self) -> Self {
                // SAFETY: the type vouches for the instruction set.
                $vector(unsafe { $fma(self.0, factor.0, term.0) })
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                // SAFETY: the type vouches for the instruction set.
                $vector(unsafe { $max(self.0, other.0) })
            }
        };
    }

    impl Lanes for Avx512 {
        const WIDTH: usize = 16;
        const REGISTERS: usize = 32;

        intrinsics!(
            Avx512,
            _mm512_loadu_ps,
            _mm512_storeu_ps,
            _mm512_set1_ps,
            _mm512_add_ps,
            _mm512_sub_ps,
            _mm512_mul_ps,
            _mm512_fmadd_ps,
            _mm512_max_ps
        );

        #[inline(always)]
        fn neg_abs(self) -> Self {
            // SAFETY: the type vouches for the instruction set.
            Avx512(unsafe {
                _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(self.0), _mm512_set1_epi32(i32::MIN)))
            })
        }
        #[inline(always)]
        fn copysign(self, sign: Self) -> Self {
            // SAFETY: the type vouches for the instruction set. 0xCA is `mask ? a : b`.
            Avx512(unsafe {
                _mm512_castsi512_ps(_mm512_ternarylogic_epi32::<0xCA>(
                    _mm512_set1_epi32(i32::MIN),
                    _mm512_castps_si512(sign.0),
                    _mm512_castps_si512(self.0),
                ))
            })
        }
        #[inline(always)]
        fn if_negative(self, negative: Self, other: Self) -> Self {
            // SAFETY: the type vouches for the instruction set.
            Avx512(unsafe {
                let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, _mm512_setzero_ps());
                _mm512_mask_blend_ps(below, other.0, negative.0)
            })
        }
        #[inline(always)]
        fn exp2_of_shifted(self) -> Self {
            // SAFETY: the type vouches for the instruction set.
            Avx512(unsafe {
                let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(self.0));
                _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(0x3f80_0000)))
            })
        }
    }

    impl Lanes for Avx2 {
        const WIDTH: usize = 8;
        const REGISTERS: usize = 16;

        intrinsics!(
            Avx2,
            _mm256_loadu_ps,
            _mm256_storeu_ps,
            _mm256_set1_ps,
            _mm256_add_ps,
            _mm256_sub_ps,
            _mm256_mul_ps,
            _mm256_fmadd_ps,
            _mm256_max_ps
        );

        #[inline(always)]
        fn neg_abs(self) -> Self {
            // SAFETY: the type vouches for the instruction set.
            Avx2(unsafe { _mm256_or_ps(self.0, _mm256_set1_ps(-0.0)) })
        }
        #[inline(always)]
        fn copysign(self, sign: Self) -> Self {
            // SAFETY: the type vouches for the instruction set.
            Avx2(unsafe {
                let mask = _mm256_set1_ps(-0.0);
                _mm256_or_ps(_mm256_and_ps(mask, sign.0), _mm256_andnot_ps(mask, self.0))
            })
        }
        #[inline(always)]
        fn if_negative(self, negative: Self, other: Self) -> Self {
            // SAFETY: the type vouches for the instruction set.
            Avx2(unsafe {
                let below = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, _mm256_setzero_ps());
                _mm256_blendv_ps(other.0, negative.0, below)
            })
        }
        #[inline(always)]
        fn exp2_of_shifted(self) -> Self {
            // SAFETY: the type vouches for the instruction set.
            Avx2(unsafe {
                let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(self.0));
                _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(0x3f80_0000)))
            })
        }
    }
}
