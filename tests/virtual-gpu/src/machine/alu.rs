//! Arithmetic and logic on planes of 32 lanes.

use super::number::{self as n, APPROXIMATE, TANH};
use crate::ptx::ir::{Cmp, HalfOp, HalfType, K32, K64, Num, Round, Slot};

/// 32 lanes of 32 bits.
pub type L32 = [u32; 32];
/// 32 lanes of 64 bits.
pub type L64 = [u64; 32];

/// A warp's registers.
#[derive(Default)]
pub struct Planes {
    /// 32-bit planes.
    pub r32: Vec<L32>,
    /// 64-bit planes.
    pub r64: Vec<L64>,
    /// Predicates, a bit a lane.
    pub pred: Vec<u32>,
}

/// `new` where `mask` has a bit, `old` elsewhere.
#[inline(always)]
pub fn blend32(old: &mut L32, new: &L32, mask: u32) {
    if mask == u32::MAX {
        *old = *new;
    } else {
        for lane in 0..32 {
            let keep = (mask >> lane & 1).wrapping_sub(1);
            old[lane] = (old[lane] & keep) | (new[lane] & !keep);
        }
    }
}

/// `new` where `mask` has a bit, `old` elsewhere.
#[inline(always)]
pub fn blend64(old: &mut L64, new: &L64, mask: u32) {
    if mask == u32::MAX {
        *old = *new;
    } else {
        for lane in 0..32 {
            let keep = u64::from(mask >> lane & 1).wrapping_sub(1);
            old[lane] = (old[lane] & keep) | (new[lane] & !keep);
        }
    }
}

impl Planes {
    #[inline(always)]
    fn map(&mut self, d: Slot, s: [Slot; 3], mask: u32, f: impl Fn(u32, u32, u32) -> u32) {
        let (a, b, c) = (&self.r32[s[0] as usize], &self.r32[s[1] as usize], &self.r32[s[2] as usize]);
        let mut out = [0; 32];
        for lane in 0..32 {
            out[lane] = f(a[lane], b[lane], c[lane]);
        }
        blend32(&mut self.r32[d as usize], &out, mask);
    }

    #[inline(always)]
    fn map64(&mut self, d: Slot, s: [Slot; 3], mask: u32, f: impl Fn(u64, u64, u64) -> u64) {
        let (a, b, c) = (&self.r64[s[0] as usize], &self.r64[s[1] as usize], &self.r64[s[2] as usize]);
        let mut out = [0; 32];
        for lane in 0..32 {
            out[lane] = f(a[lane], b[lane], c[lane]);
        }
        blend64(&mut self.r64[d as usize], &out, mask);
    }

    /// A float operation, with flushing of subnormals and saturation where asked for.
    #[inline(always)]
    fn float(
        &mut self,
        d: Slot,
        s: [Slot; 3],
        mask: u32,
        ftz: bool,
        sat: bool,
        f: impl Fn(f32, f32, f32) -> f32,
    ) {
        let v = f32::from_bits;
        if !ftz && !sat {
            return self.map(d, s, mask, |a, b, c| n::canonical(f(v(a), v(b), v(c))).to_bits());
        }
        let before = |x: u32| if ftz { n::flush(v(x)) } else { v(x) };
        self.map(d, s, mask, |a, b, c| {
            let mut r = n::canonical(f(before(a), before(b), before(c)));
            if ftz {
                r = n::flush(r);
            }
            if sat {
                r = n::saturate(r);
            }
            r.to_bits()
        });
    }

    /// One operation on 32-bit planes.
    pub fn a32(&mut self, k: K32, ftz: bool, sat: bool, d: Slot, s: [Slot; 3], mask: u32) {
        let i = |x: u32| x as i32;
        // A register of 16 bits may have come from a load that extended its sign.
        let (h, w) = (|x: u32| x as u16 as i16, |x: u32| x & 0xffff);
        let narrow = |x: i32| x as u32 & 0xffff;
        match k {
            K32::Mov => self.map(d, s, mask, |a, _, _| a),
            K32::Add => self.map(d, s, mask, |a, b, _| a.wrapping_add(b)),
            K32::Sub => self.map(d, s, mask, |a, b, _| a.wrapping_sub(b)),
            K32::MulLo => self.map(d, s, mask, |a, b, _| a.wrapping_mul(b)),
            K32::MulHiS => self.map(d, s, mask, |a, b, _| (i64::from(i(a)) * i64::from(i(b)) >> 32) as u32),
            K32::MulHiU => self.map(d, s, mask, |a, b, _| (u64::from(a) * u64::from(b) >> 32) as u32),
            K32::Mul24S => {
                self.map(d, s, mask, |a, b, _| (i(a << 8) >> 8).wrapping_mul(i(b << 8) >> 8) as u32)
            }
            K32::Mul24U => self.map(d, s, mask, |a, b, _| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff)),
            K32::Mad24S => self.map(d, s, mask, |a, b, c| {
                ((i(a << 8) >> 8).wrapping_mul(i(b << 8) >> 8) as u32).wrapping_add(c)
            }),
            K32::Mad24U => {
                self.map(d, s, mask, |a, b, c| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff).wrapping_add(c));
            }
            K32::MadLo => self.map(d, s, mask, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            K32::MadHiS => self.map(d, s, mask, |a, b, c| {
                ((i64::from(i(a)) * i64::from(i(b)) >> 32) as u32).wrapping_add(c)
            }),
            K32::MadHiU => {
                self.map(d, s, mask, |a, b, c| ((u64::from(a) * u64::from(b) >> 32) as u32).wrapping_add(c));
            }
            K32::SadS => self.map(d, s, mask, |a, b, c| i(a).abs_diff(i(b)).wrapping_add(c)),
            K32::SadU => self.map(d, s, mask, |a, b, c| a.abs_diff(b).wrapping_add(c)),
            K32::DivS => {
                self.map(d, s, mask, |a, b, _| if b == 0 { u32::MAX } else { i(a).wrapping_div(i(b)) as u32 })
            }
            K32::DivU => self.map(d, s, mask, |a, b, _| a.checked_div(b).unwrap_or(u32::MAX)),
            K32::RemS => {
                self.map(d, s, mask, |a, b, _| if b == 0 { a } else { i(a).wrapping_rem(i(b)) as u32 })
            }
            K32::RemU => self.map(d, s, mask, |a, b, _| a.checked_rem(b).unwrap_or(a)),
            K32::MinS => self.map(d, s, mask, |a, b, _| i(a).min(i(b)) as u32),
            K32::MinU => self.map(d, s, mask, |a, b, _| a.min(b)),
            K32::MaxS => self.map(d, s, mask, |a, b, _| i(a).max(i(b)) as u32),
            K32::MaxU => self.map(d, s, mask, |a, b, _| a.max(b)),
            K32::AbsS => self.map(d, s, mask, |a, _, _| i(a).wrapping_abs() as u32),
            K32::Neg => self.map(d, s, mask, |a, _, _| a.wrapping_neg()),
            K32::Not => self.map(d, s, mask, |a, _, _| !a),
            K32::Cnot => self.map(d, s, mask, |a, _, _| u32::from(a == 0)),
            K32::And => self.map(d, s, mask, |a, b, _| a & b),
            K32::Or => self.map(d, s, mask, |a, b, _| a | b),
            K32::Xor => self.map(d, s, mask, |a, b, _| a ^ b),
            K32::Shl => self.map(d, s, mask, |a, b, _| if b > 31 { 0 } else { a << b }),
            K32::ShrU => self.map(d, s, mask, |a, b, _| if b > 31 { 0 } else { a >> b }),
            K32::ShrS => self.map(d, s, mask, |a, b, _| (i(a) >> b.min(31)) as u32),
            K32::Lop3(lut) => self.map(d, s, mask, |a, b, c| {
                let mut out = 0;
                for case in 0..8u32 {
                    if lut >> case & 1 == 1 {
                        let pick = |x: u32, bit: u32| if case >> bit & 1 == 1 { x } else { !x };
                        out |= pick(a, 2) & pick(b, 1) & pick(c, 0);
                    }
                }
                out
            }),
            K32::ShfLWrap => self.map(d, s, mask, |a, b, c| shf_left(a, b, c & 31)),
            K32::ShfLClamp => self.map(d, s, mask, |a, b, c| shf_left(a, b, c.min(32))),
            K32::ShfRWrap => self.map(d, s, mask, |a, b, c| shf_right(a, b, c & 31)),
            K32::ShfRClamp => self.map(d, s, mask, |a, b, c| shf_right(a, b, c.min(32))),
            K32::Prmt => self.map(d, s, mask, prmt),
            K32::PrmtMode(mode) => self.map(d, s, mask, |a, b, c| prmt(a, b, prmt_mode(mode, c & 3))),
            K32::Popc => self.map(d, s, mask, |a, _, _| a.count_ones()),
            K32::Clz => self.map(d, s, mask, |a, _, _| a.leading_zeros()),
            K32::Brev => self.map(d, s, mask, |a, _, _| a.reverse_bits()),
            K32::BfindU => self.map(d, s, mask, |a, _, _| find(u64::from(a), false)),
            K32::BfindS => self.map(d, s, mask, |a, _, _| find(u64::from(a ^ (i(a) >> 31) as u32), false)),
            K32::BfindShiftU => self.map(d, s, mask, |a, _, _| find(u64::from(a), true)),
            K32::BfindShiftS => {
                self.map(d, s, mask, |a, _, _| find(u64::from(a ^ (i(a) >> 31) as u32), true))
            }
            K32::BfeU => self.map(d, s, mask, |a, b, c| bfe(u64::from(a), b, c, false, 32) as u32),
            K32::BfeS => self.map(d, s, mask, |a, b, c| bfe(u64::from(a), b, c, true, 32) as u32),
            K32::Add16 => self.map(d, s, mask, |a, b, _| a.wrapping_add(b) & 0xffff),
            K32::Sub16 => self.map(d, s, mask, |a, b, _| a.wrapping_sub(b) & 0xffff),
            K32::MulLo16 => self.map(d, s, mask, |a, b, _| a.wrapping_mul(b) & 0xffff),
            K32::MadLo16 => self.map(d, s, mask, |a, b, c| a.wrapping_mul(b).wrapping_add(c) & 0xffff),
            K32::MulHiS16 => self.map(d, s, mask, |a, b, _| narrow(i32::from(h(a)) * i32::from(h(b)) >> 16)),
            K32::MulHiU16 => self.map(d, s, mask, |a, b, _| (a & 0xffff).wrapping_mul(b & 0xffff) >> 16),
            K32::MulWideS16 => self.map(d, s, mask, |a, b, _| (i32::from(h(a)) * i32::from(h(b))) as u32),
            K32::MulWideU16 => self.map(d, s, mask, |a, b, _| (a & 0xffff).wrapping_mul(b & 0xffff)),
            K32::MadWideS16 => {
                self.map(d, s, mask, |a, b, c| ((i32::from(h(a)) * i32::from(h(b))) as u32).wrapping_add(c));
            }
            K32::MadWideU16 => {
                self.map(d, s, mask, |a, b, c| (a & 0xffff).wrapping_mul(b & 0xffff).wrapping_add(c))
            }
            K32::DivS16 => self.map(d, s, mask, |a, b, _| {
                if h(b) == 0 { 0xffff } else { narrow(i32::from(h(a).wrapping_div(h(b)))) }
            }),
            K32::DivU16 => self.map(d, s, mask, |a, b, _| w(a).checked_div(w(b)).unwrap_or(0xffff)),
            K32::RemS16 => self.map(d, s, mask, |a, b, _| {
                if h(b) == 0 { w(a) } else { narrow(i32::from(h(a).wrapping_rem(h(b)))) }
            }),
            K32::RemU16 => self.map(d, s, mask, |a, b, _| w(a).checked_rem(w(b)).unwrap_or(w(a))),
            K32::MinS16 => self.map(d, s, mask, |a, b, _| narrow(i32::from(h(a).min(h(b))))),
            K32::MinU16 => self.map(d, s, mask, |a, b, _| w(a).min(w(b))),
            K32::MaxS16 => self.map(d, s, mask, |a, b, _| narrow(i32::from(h(a).max(h(b))))),
            K32::MaxU16 => self.map(d, s, mask, |a, b, _| w(a).max(w(b))),
            K32::Shl16 => self.map(d, s, mask, |a, b, _| if b > 15 { 0 } else { a << b & 0xffff }),
            K32::ShrU16 => self.map(d, s, mask, |a, b, _| if b > 15 { 0 } else { w(a) >> b }),
            K32::ShrS16 => self.map(d, s, mask, |a, b, _| narrow(i32::from(h(a)) >> b.min(15))),
            K32::Neg16 => self.map(d, s, mask, |a, _, _| a.wrapping_neg() & 0xffff),
            K32::Not16 => self.map(d, s, mask, |a, _, _| !a & 0xffff),
            K32::AbsS16 => self.map(d, s, mask, |a, _, _| narrow(i32::from(h(a).wrapping_abs()))),
            K32::Dp4aS => self.map(d, s, mask, |a, b, c| {
                (0..4).fold(c, |sum, x| {
                    let byte = |v: u32| i32::from((v >> (8 * x)) as u8 as i8);
                    sum.wrapping_add((byte(a) * byte(b)) as u32)
                })
            }),
            K32::Dp4aU => self.map(d, s, mask, |a, b, c| {
                (0..4).fold(c, |sum, x| sum.wrapping_add((a >> (8 * x) & 255) * (b >> (8 * x) & 255)))
            }),
            K32::FAdd(Round::Nearest) => self.float(d, s, mask, ftz, sat, |a, b, _| a + b),
            K32::FSub(Round::Nearest) => self.float(d, s, mask, ftz, sat, |a, b, _| a - b),
            K32::FMul(Round::Nearest) => self.float(d, s, mask, ftz, sat, |a, b, _| a * b),
            K32::FFma(Round::Nearest) => {
                self.float(d, s, mask, ftz, sat, |a, b, c| n::fma(a, b, c, Round::Nearest));
            }
            K32::FAdd(r) => self.float(d, s, mask, ftz, sat, |a, b, _| n::add(a, b, r)),
            K32::FSub(r) => self.float(d, s, mask, ftz, sat, |a, b, _| n::add(a, -b, r)),
            K32::FMul(r) => self.float(d, s, mask, ftz, sat, |a, b, _| n::mul(a, b, r)),
            K32::FFma(r) => self.float(d, s, mask, ftz, sat, |a, b, c| n::fma(a, b, c, r)),
            K32::FDiv(Round::Nearest) => self.float(d, s, mask, ftz, sat, |a, b, _| a / b),
            K32::FDiv(r) => self.float(d, s, mask, ftz, sat, |a, b, _| {
                let q = f64::from(a) / f64::from(b);
                n::to_f32(q, -(q.mul_add(f64::from(b), -f64::from(a))) * f64::from(b.signum()), r)
            }),
            K32::FDivApprox => self.float(d, s, mask, ftz, sat, |a, b, _| n::divide(a, b)),
            K32::FDivFull => self.float(d, s, mask, ftz, sat, |a, b, _| n::coarse(a / b, APPROXIMATE)),
            K32::FMin => self.float(d, s, mask, ftz, sat, |a, b, _| minimum(a, b)),
            K32::FMax => self.float(d, s, mask, ftz, sat, |a, b, _| -minimum(-a, -b)),
            K32::FMinNan => self.float(d, s, mask, ftz, sat, |a, b, _| {
                if a.is_nan() || b.is_nan() { f32::NAN } else { minimum(a, b) }
            }),
            K32::FMaxNan => self.float(d, s, mask, ftz, sat, |a, b, _| {
                if a.is_nan() || b.is_nan() { f32::NAN } else { -minimum(-a, -b) }
            }),
            K32::FAbs => self.map(d, s, mask, |a, _, _| {
                let a = if ftz { n::flush(f32::from_bits(a)).to_bits() } else { a };
                a & 0x7fff_ffff
            }),
            K32::FNeg => self.map(d, s, mask, |a, _, _| {
                let a = if ftz { n::flush(f32::from_bits(a)).to_bits() } else { a };
                a ^ 0x8000_0000
            }),
            K32::FCopysign => self.map(d, s, mask, |a, b, _| a & 0x7fff_ffff | b & 0x8000_0000),
            K32::FRcp(r) => self.float(d, s, mask, ftz, sat, |a, _, _| {
                if r == Round::Nearest { 1.0 / a } else { n::to_f32(1.0 / f64::from(a), 0.0, r) }
            }),
            K32::FRcpApprox => self.float(d, s, mask, ftz, sat, |a, _, _| n::coarse(1.0 / a, APPROXIMATE)),
            K32::FSqrt(r) => self.float(d, s, mask, ftz, sat, |a, _, _| {
                if r == Round::Nearest { a.sqrt() } else { n::to_f32(f64::from(a).sqrt(), 0.0, r) }
            }),
            K32::FSqrtApprox => self.float(d, s, mask, ftz, sat, |a, _, _| n::coarse(a.sqrt(), APPROXIMATE)),
            K32::FRsqrtApprox => self.float(d, s, mask, ftz, sat, |a, _, _| {
                n::coarse((1.0 / f64::from(a).sqrt()) as f32, APPROXIMATE)
            }),
            K32::FSin => self.float(d, s, mask, ftz, sat, |a, _, _| n::coarse(a.sin(), 20)),
            K32::FCos => self.float(d, s, mask, ftz, sat, |a, _, _| n::coarse(a.cos(), 20)),
            K32::FLg2 => self.float(d, s, mask, ftz, sat, |a, _, _| n::coarse(a.log2(), APPROXIMATE)),
            K32::FEx2 => self.float(d, s, mask, ftz, sat, |a, _, _| n::coarse(a.exp2(), APPROXIMATE)),
            K32::FTanh => self.float(d, s, mask, ftz, sat, |a, _, _| n::coarse(a.tanh(), TANH)),
            K32::FTestp(what) => self.map(d, s, mask, |a, _, _| {
                let v = f32::from_bits(a);
                u32::from(match what {
                    0 => v.is_finite(),
                    1 => v.is_infinite(),
                    2 => !v.is_nan(),
                    3 => v.is_nan(),
                    4 => v.is_normal(),
                    _ => v.is_subnormal(),
                })
            }),
            K32::Half(op, ty) => self.map(d, s, mask, |a, b, c| half(op, ty, a, b, c)),
            K32::HalfTanh(ty) => {
                self.map(d, s, mask, |a, _, _| {
                    halves(ty, [a, 0, 0], |v| f64::from(n::coarse((v[0] as f32).tanh(), 9)))
                });
            }
            K32::HalfEx2(ty) => {
                // That of bf16 flushes subnormals, whose power is 1 anyway, and results below 2^-126.
                let least =
                    if matches!(ty, HalfType::BF16 | HalfType::BF16x2) { 2f64.powi(-126) } else { 0.0 };
                self.map(d, s, mask, |a, _, _| {
                    halves(ty, [a, 0, 0], |v| {
                        let power = f64::from(n::coarse(v[0].exp2() as f32, 9));
                        if power < least { 0.0 } else { power }
                    })
                });
            }
        }
    }

    /// One operation on 64-bit planes.
    pub fn a64(&mut self, k: K64, d: Slot, s: [Slot; 3], mask: u32) {
        let i = |x: u64| x as i64;
        let v = f64::from_bits;
        match k {
            K64::Mov => self.map64(d, s, mask, |a, _, _| a),
            K64::Add => self.map64(d, s, mask, |a, b, _| a.wrapping_add(b)),
            K64::Sub => self.map64(d, s, mask, |a, b, _| a.wrapping_sub(b)),
            K64::MulLo => self.map64(d, s, mask, |a, b, _| a.wrapping_mul(b)),
            K64::MulHiS => {
                self.map64(d, s, mask, |a, b, _| (i128::from(i(a)) * i128::from(i(b)) >> 64) as u64)
            }
            K64::MulHiU => self.map64(d, s, mask, |a, b, _| (u128::from(a) * u128::from(b) >> 64) as u64),
            K64::MadLo => self.map64(d, s, mask, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            K64::DivS => self
                .map64(d, s, mask, |a, b, _| if b == 0 { u64::MAX } else { i(a).wrapping_div(i(b)) as u64 }),
            K64::DivU => self.map64(d, s, mask, |a, b, _| a.checked_div(b).unwrap_or(u64::MAX)),
            K64::RemS => {
                self.map64(d, s, mask, |a, b, _| if b == 0 { a } else { i(a).wrapping_rem(i(b)) as u64 })
            }
            K64::RemU => self.map64(d, s, mask, |a, b, _| a.checked_rem(b).unwrap_or(a)),
            K64::MinS => self.map64(d, s, mask, |a, b, _| i(a).min(i(b)) as u64),
            K64::MinU => self.map64(d, s, mask, |a, b, _| a.min(b)),
            K64::MaxS => self.map64(d, s, mask, |a, b, _| i(a).max(i(b)) as u64),
            K64::MaxU => self.map64(d, s, mask, |a, b, _| a.max(b)),
            K64::AbsS => self.map64(d, s, mask, |a, _, _| i(a).wrapping_abs() as u64),
            K64::Neg => self.map64(d, s, mask, |a, _, _| a.wrapping_neg()),
            K64::Not => self.map64(d, s, mask, |a, _, _| !a),
            K64::And => self.map64(d, s, mask, |a, b, _| a & b),
            K64::Or => self.map64(d, s, mask, |a, b, _| a | b),
            K64::Xor => self.map64(d, s, mask, |a, b, _| a ^ b),
            K64::Brev => self.map64(d, s, mask, |a, _, _| a.reverse_bits()),
            K64::DAdd => self.map64(d, s, mask, |a, b, _| (v(a) + v(b)).to_bits()),
            K64::DSub => self.map64(d, s, mask, |a, b, _| (v(a) - v(b)).to_bits()),
            K64::DMul => self.map64(d, s, mask, |a, b, _| (v(a) * v(b)).to_bits()),
            K64::DFma => self.map64(d, s, mask, |a, b, c| v(a).mul_add(v(b), v(c)).to_bits()),
            K64::DDiv => self.map64(d, s, mask, |a, b, _| (v(a) / v(b)).to_bits()),
            K64::DMin => self.map64(d, s, mask, |a, b, _| v(a).min(v(b)).to_bits()),
            K64::DMax => self.map64(d, s, mask, |a, b, _| v(a).max(v(b)).to_bits()),
            K64::DAbs => self.map64(d, s, mask, |a, _, _| a & !(1 << 63)),
            K64::DNeg => self.map64(d, s, mask, |a, _, _| a ^ 1 << 63),
            K64::DRcp => self.map64(d, s, mask, |a, _, _| (1.0 / v(a)).to_bits()),
            K64::DSqrt => self.map64(d, s, mask, |a, _, _| v(a).sqrt().to_bits()),
            K64::DCopysign => self.map64(d, s, mask, |a, b, _| a & !(1 << 63) | b & 1 << 63),
        }
    }

    /// A comparison of two planes, a bit a lane.
    pub fn compare(&self, cmp: Cmp, num: Num, ftz: bool, a: Slot, b: Slot) -> u32 {
        let (a, b) = (a as usize, b as usize);
        match num {
            Num::U32 | Num::U8 | Num::F16x2 | Num::BF16x2 => {
                lanes(cmp, |l| self.r32[a][l], |l| self.r32[b][l])
            }
            Num::U16 => lanes(cmp, |l| self.r32[a][l] as u16, |l| self.r32[b][l] as u16),
            Num::S32 => lanes(cmp, |l| self.r32[a][l] as i32, |l| self.r32[b][l] as i32),
            Num::S16 | Num::S8 => lanes(cmp, |l| self.r32[a][l] as i16, |l| self.r32[b][l] as i16),
            Num::U64 => lanes(cmp, |l| self.r64[a][l], |l| self.r64[b][l]),
            Num::S64 => lanes(cmp, |l| self.r64[a][l] as i64, |l| self.r64[b][l] as i64),
            Num::F64 => lanes(cmp, |l| f64::from_bits(self.r64[a][l]), |l| f64::from_bits(self.r64[b][l])),
            Num::F16 => lanes(cmp, |l| n::f16(self.r32[a][l]), |l| n::f16(self.r32[b][l])),
            Num::BF16 => lanes(cmp, |l| n::bf16(self.r32[a][l]), |l| n::bf16(self.r32[b][l])),
            Num::F32 => {
                let v = |x: u32| if ftz { n::flush(f32::from_bits(x)) } else { f32::from_bits(x) };
                lanes(cmp, |l| v(self.r32[a][l]), |l| v(self.r32[b][l]))
            }
        }
    }
}

#[inline(always)]
fn lanes<T: PartialOrd>(cmp: Cmp, a: impl Fn(usize) -> T, b: impl Fn(usize) -> T) -> u32 {
    let each = |f: &dyn Fn(&T, &T) -> bool| {
        (0..32).fold(0, |mask, lane| mask | u32::from(f(&a(lane), &b(lane))) << lane)
    };
    match cmp {
        Cmp::Eq => (0..32).fold(0, |mask, lane| mask | u32::from(a(lane) == b(lane)) << lane),
        Cmp::Ne => each(&|a, b| a != b && a.partial_cmp(b).is_some()),
        Cmp::Lt => (0..32).fold(0, |mask, lane| mask | u32::from(a(lane) < b(lane)) << lane),
        Cmp::Le => each(&|a, b| a <= b),
        Cmp::Gt => each(&|a, b| a > b),
        Cmp::Ge => (0..32).fold(0, |mask, lane| mask | u32::from(a(lane) >= b(lane)) << lane),
        Cmp::Equ => each(&|a, b| a == b || a.partial_cmp(b).is_none()),
        Cmp::Neu => each(&|a, b| a != b),
        Cmp::Ltu => each(&|a, b| a < b || a.partial_cmp(b).is_none()),
        Cmp::Leu => each(&|a, b| a <= b || a.partial_cmp(b).is_none()),
        Cmp::Gtu => each(&|a, b| a > b || a.partial_cmp(b).is_none()),
        Cmp::Geu => each(&|a, b| a >= b || a.partial_cmp(b).is_none()),
        Cmp::Num => each(&|a, b| a.partial_cmp(b).is_some()),
        Cmp::Nan => each(&|a, b| a.partial_cmp(b).is_none()),
    }
}

/// The lesser number; the other where one is NaN; -0 below +0.
fn minimum(a: f32, b: f32) -> f32 {
    if a.is_nan() {
        b
    } else if b.is_nan() || a < b {
        a
    } else if a == b {
        f32::from_bits(if a == 0.0 { a.to_bits() | b.to_bits() } else { a.to_bits() })
    } else {
        b
    }
}

fn shf_left(lo: u32, hi: u32, by: u32) -> u32 {
    if by == 0 {
        hi
    } else if by > 31 {
        lo
    } else {
        hi << by | lo >> (32 - by)
    }
}

fn shf_right(lo: u32, hi: u32, by: u32) -> u32 {
    if by == 0 {
        lo
    } else if by > 31 {
        hi
    } else {
        hi << (32 - by) | lo >> by
    }
}

fn prmt(a: u32, b: u32, selector: u32) -> u32 {
    let both = u64::from(b) << 32 | u64::from(a);
    (0..4).fold(0, |out, place| {
        let pick = selector >> (4 * place) & 15;
        let byte = (both >> (8 * (pick & 7))) as u8;
        let byte = if pick & 8 != 0 { (byte as i8 >> 7) as u8 } else { byte };
        out | u32::from(byte) << (8 * place)
    })
}

/// The selector that a mode of `prmt` stands for.
fn prmt_mode(mode: u8, c: u32) -> u32 {
    match mode {
        0 => [0x3210, 0x4321, 0x5432, 0x6543][c as usize],
        1 => [0x5670, 0x6701, 0x7012, 0x0123][c as usize],
        2 => 0x1111 * c,
        3 => [0x3210, 0x3211, 0x3222, 0x3333][c as usize],
        4 => [0x0000, 0x1110, 0x2210, 0x3210][c as usize],
        _ => [0x1010, 0x3232, 0x1010, 0x3232][c as usize],
    }
}

/// The place of the highest set bit, or how far it is from the top.
pub fn find(a: u64, shift: bool) -> u32 {
    match (a, shift) {
        (0, _) => u32::MAX,
        (a, false) => 63 - a.leading_zeros(),
        (a, true) => (a as u32).leading_zeros(),
    }
}

/// A bit field.
pub fn bfe(a: u64, pos: u32, len: u32, signed: bool, width: u32) -> u64 {
    let (pos, len) = (pos & 255, len & 255);
    if len == 0 {
        return 0;
    }
    let sign_at = (pos + len - 1).min(width - 1);
    let sign = signed && a >> sign_at & 1 == 1;
    let field = if pos >= 64 { 0 } else { a >> pos };
    let kept = if pos >= width { 0 } else { len.min(width - pos) };
    let mask = if kept >= 64 { u64::MAX } else { (1 << kept) - 1 };
    let out = field & mask;
    if sign { out | !mask } else { out }
}

/// `b` with a field of `a` put in.
pub fn bfi(a: u64, b: u64, pos: u32, len: u32, width: u32) -> u64 {
    let (pos, len) = (pos & 255, len & 255);
    if pos >= width || len == 0 {
        return b;
    }
    let kept = len.min(width - pos);
    let mask = (if kept >= 64 { u64::MAX } else { (1 << kept) - 1 }) << pos;
    b & !mask | a << pos & mask
}

fn halves(ty: HalfType, s: [u32; 3], f: impl Fn([f64; 3]) -> f64) -> u32 {
    let one = |x: [u32; 3]| match ty {
        HalfType::F16 | HalfType::F16x2 => {
            n::to_f16(f(x.map(|v| f64::from(n::f16(v & 0xffff)))), Round::Nearest)
        }
        _ => n::to_bf16_rounded(f(x.map(|v| f64::from(n::bf16(v & 0xffff)))), Round::Nearest),
    };
    match ty {
        HalfType::F16 | HalfType::BF16 => one(s),
        _ => one(s) | one(s.map(|v| v >> 16)) << 16,
    }
}

fn half(op: HalfOp, ty: HalfType, a: u32, b: u32, c: u32) -> u32 {
    match op {
        HalfOp::Neg => {
            return a ^ if matches!(ty, HalfType::F16 | HalfType::BF16) { 0x8000 } else { 0x8000_8000 };
        }
        HalfOp::Abs => {
            return a & if matches!(ty, HalfType::F16 | HalfType::BF16) { 0x7fff } else { 0x7fff_7fff };
        }
        _ => {}
    }
    halves(ty, [a, b, c], |[a, b, c]| match op {
        HalfOp::Add => n::sum_to_odd(a, b),
        HalfOp::Sub => n::sum_to_odd(a, -b),
        HalfOp::Mul => a * b,
        HalfOp::Fma => n::sum_to_odd(a * b, c),
        HalfOp::FmaRelu => {
            let r = n::sum_to_odd(a * b, c);
            if r < 0.0 { 0.0 } else { r }
        }
        HalfOp::Min => f64::from(minimum(a as f32, b as f32)),
        HalfOp::Max => -f64::from(minimum(-a as f32, -b as f32)),
        HalfOp::MinNan => {
            if a.is_nan() || b.is_nan() {
                f64::NAN
            } else {
                f64::from(minimum(a as f32, b as f32))
            }
        }
        HalfOp::MaxNan => {
            if a.is_nan() || b.is_nan() {
                f64::NAN
            } else {
                -f64::from(minimum(-a as f32, -b as f32))
            }
        }
        HalfOp::Neg | HalfOp::Abs => a,
    })
}
