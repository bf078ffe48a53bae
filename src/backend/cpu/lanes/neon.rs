//! The lanes of AArch64.

use std::arch::aarch64::*;

use half::bf16;

use super::Lanes;

/// NEON: four lanes, 32 registers.
#[derive(Clone, Copy)]
pub(in super::super) struct Neon(float32x4_t);

impl Neon {
    #[inline(always)]
    fn bits(self) -> uint32x4_t {
        // SAFETY: every AArch64 processor that Rust runs on has NEON.
        unsafe { vreinterpretq_u32_f32(self.0) }
    }

    #[inline(always)]
    fn from_bits(bits: uint32x4_t) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vreinterpretq_f32_u32(bits) })
    }
}

impl Lanes for Neon {
    const WIDTH: usize = 4;
    const REGISTERS: usize = 32;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for the memory.
        Neon(unsafe { vld1q_f32(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for the memory.
        unsafe { vst1q_f32(to, self.0) }
    }
    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: NEON is there.
        Neon(unsafe { vdupq_n_f32(x) })
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: NEON is there.
        Neon(unsafe { vaddq_f32(self.0, other.0) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: NEON is there.
        Neon(unsafe { vsubq_f32(self.0, other.0) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: NEON is there.
        Neon(unsafe { vmulq_f32(self.0, other.0) })
    }
    #[inline(always)]
    fn fma(self, factor: Self, term: Self) -> Self {
        // SAFETY: NEON is there.
        Neon(unsafe { vfmaq_f32(term.0, self.0, factor.0) })
    }
    #[inline(always)]
    fn fnma(self, factor: Self, term: Self) -> Self {
        // SAFETY: NEON is there.
        Neon(unsafe { vfmsq_f32(term.0, self.0, factor.0) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: NEON is there. Its own maximum treats NaN otherwise.
        Neon(unsafe { vbslq_f32(vcgtq_f32(self.0, other.0), self.0, other.0) })
    }
    #[inline(always)]
    fn neg_abs(self) -> Self {
        // SAFETY: NEON is there.
        Neon::from_bits(unsafe { vorrq_u32(self.bits(), vdupq_n_u32(1 << 31)) })
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        // SAFETY: NEON is there.
        Neon(unsafe { vbslq_f32(vdupq_n_u32(1 << 31), sign.0, self.0) })
    }
    #[inline(always)]
    fn if_negative(self, negative: Self, other: Self) -> Self {
        // SAFETY: NEON is there.
        Neon(unsafe { vbslq_f32(vcltq_f32(self.0, vdupq_n_f32(0.0)), negative.0, other.0) })
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: the caller vouches for the memory; NEON is there.
        unsafe {
            let bits = self.bits();
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
            let quiet = vorrq_u32(bits, vdupq_n_u32(0x0040_0000));
            let number = vceqq_f32(self.0, self.0);
            vst1_u16(to.cast(), vshrn_n_u32::<16>(vbslq_u32(number, rounded, quiet)));
        }
    }
    #[inline(always)]
    fn even(self) -> Self {
        // SAFETY: NEON is there.
        Neon::from_bits(unsafe { vshlq_n_u32::<16>(self.bits()) })
    }
    #[inline(always)]
    fn odd(self) -> Self {
        // SAFETY: NEON is there.
        Neon::from_bits(unsafe { vandq_u32(self.bits(), vdupq_n_u32(0xffff_0000)) })
    }
    #[inline(always)]
    fn exp2_of_shifted(self) -> Self {
        // SAFETY: NEON is there.
        Neon::from_bits(unsafe { vaddq_u32(vshlq_n_u32::<23>(self.bits()), vdupq_n_u32(0x3f80_0000)) })
    }
}
