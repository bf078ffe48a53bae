//! The lanes of x86-64.

use std::arch::x86_64::*;

use half::bf16;

use super::{ENTRIES, Lanes};

/// AVX-512F: sixteen lanes, 32 registers. With `DOTS`, AVX-512-BF16 too.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx512<const DOTS: bool>(__m512);

/// AVX2 with FMA: eight lanes, 16 registers.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx2(__m256);

/// The operations that are one intrinsic each.
macro_rules! intrinsics {
    ($vector:ident, $load:ident, $store:ident, $splat:ident, $add:ident, $sub:ident, $mul:ident, $fma:ident, $fnma:ident, $max:ident) => {
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
        fn fnma(self, factor: Self, term: Self) -> Self {
            // SAFETY: the type vouches for the instruction set.
            $vector(unsafe { $fnma(self.0, factor.0, term.0) })
        }
        #[inline(always)]
        fn max(self, other: Self) -> Self {
            // SAFETY: the type vouches for the instruction set.
            $vector(unsafe { $max(self.0, other.0) })
        }
    };
}

impl<const DOTS: bool> Lanes for Avx512<DOTS> {
    const WIDTH: usize = 16;
    const REGISTERS: usize = 32;
    const DOTS: bool = DOTS;

    intrinsics!(
        Avx512,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        _mm512_fmadd_ps,
        _mm512_fnmadd_ps,
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
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: the caller vouches for the memory, the type for the instruction set.
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            let high = _mm512_srli_epi32::<16>(_mm512_mask_blend_epi32(nan, rounded, quiet));
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(high));
        }
    }
    #[inline(always)]
    fn even(self) -> Self {
        // SAFETY: the type vouches for the instruction set.
        Avx512(unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(self.0))) })
    }
    #[inline(always)]
    fn odd(self) -> Self {
        // SAFETY: the type vouches for the instruction set.
        Avx512(unsafe {
            let mask = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(self.0), mask))
        })
    }
    #[inline(always)]
    fn lookup(self, table: &[f32; ENTRIES]) -> Self {
        // SAFETY: the type vouches for the instruction set; each half of the table is a vector.
        Avx512(unsafe {
            let (low, high) =
                (_mm512_loadu_ps(table.as_ptr()), _mm512_loadu_ps(table.as_ptr().add(Self::WIDTH)));
            _mm512_permutex2var_ps(low, _mm512_castps_si512(self.0), high)
        })
    }
    #[inline(always)]
    fn dot(self, x: Self, w: Self) -> Self {
        if const { DOTS } {
            let pairs = |x: Self| -> __m512bh {
                // SAFETY: both are 64 bytes of which every pattern is a value.
                unsafe { std::mem::transmute::<__m512, __m512bh>(x.0) }
            };
            // SAFETY: the type vouches for the instruction set.
            return Avx512(unsafe { _mm512_dpbf16_ps(self.0, pairs(x), pairs(w)) });
        }
        x.odd().fma(w.odd(), x.even().fma(w.even(), self))
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
        _mm256_fnmadd_ps,
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
    #[inline(always)]
    fn lookup(self, table: &[f32; ENTRIES]) -> Self {
        // SAFETY: the type vouches for the instruction set; an index is below the table's 32 entries.
        Avx2(unsafe {
            let index = _mm256_and_si256(_mm256_castps_si256(self.0), _mm256_set1_epi32(ENTRIES as i32 - 1));
            _mm256_i32gather_ps::<4>(table.as_ptr(), index)
        })
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: the caller vouches for the memory, the type for the instruction set.
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0));
            let high = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
            // Packed within each half, then the halves' lower quarters side by side.
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(high, high));
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
        }
    }
    #[inline(always)]
    fn even(self) -> Self {
        // SAFETY: the type vouches for the instruction set.
        Avx2(unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(self.0))) })
    }
    #[inline(always)]
    fn odd(self) -> Self {
        // SAFETY: the type vouches for the instruction set.
        Avx2(unsafe { _mm256_and_ps(self.0, _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32 as i32))) })
    }
}
