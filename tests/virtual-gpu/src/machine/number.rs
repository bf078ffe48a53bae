//! Numbers as a card rounds them: 16-bit floats, directed rounding, approximate functions, conversions.

use crate::ptx::ir::{Num, Round};

/// The value of a bfloat16.
#[inline(always)]
pub fn bf16(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

/// The value of a half.
#[inline(always)]
pub fn f16(bits: u32) -> f32 {
    let (sign, exponent, mantissa) = ((bits & 0x8000) << 16, bits >> 10 & 0x1f, bits & 0x3ff);
    let magnitude = match exponent {
        0 => mantissa as f32 * f32::from_bits(0x3380_0000),
        31 => f32::from_bits(0x7f80_0000 | mantissa << 13),
        _ => f32::from_bits((exponent + 112) << 23 | mantissa << 13),
    };
    f32::from_bits(magnitude.to_bits() | sign)
}

/// A bfloat16 of an f32, to nearest even.
#[inline(always)]
pub fn to_bf16(value: f32) -> u32 {
    let bits = value.to_bits();
    if value.is_nan() { 0x7fff } else { (bits + 0x7fff + (bits >> 16 & 1)) >> 16 }
}

/// Rounds an f64 to a float with `mantissa` stored bits, least exponent `lowest` and largest finite `most`.
fn to_small(value: f64, round: Round, mantissa: i32, lowest: i32, most: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let exponent = ((value.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(lowest);
    let unit = f64::from_bits(((exponent - mantissa + 1023) as u64) << 52);
    let scaled = value / unit;
    let rounded = match round {
        Round::Nearest => scaled.round_ties_even(),
        Round::Zero => scaled.trunc(),
        Round::Down => scaled.floor(),
        Round::Up => scaled.ceil(),
    } * unit;
    if rounded.abs() > most {
        let infinite = match round {
            Round::Nearest => true,
            Round::Zero => false,
            Round::Down => value < 0.0,
            Round::Up => value > 0.0,
        };
        return if infinite { f64::INFINITY.copysign(value) } else { most.copysign(value) };
    }
    if rounded == 0.0 { 0f64.copysign(value) } else { rounded }
}

/// A half of an f64.
pub fn to_f16(value: f64, round: Round) -> u32 {
    if value.is_nan() {
        return 0x7fff;
    }
    let v = to_small(value, round, 10, -14, 65504.0);
    let sign = ((v.to_bits() >> 48) & 0x8000) as u32;
    let v = v.abs();
    if v.is_infinite() {
        return sign | 0x7c00;
    }
    if v < 2f64.powi(-14) {
        return sign | (v * 2f64.powi(24)) as u32;
    }
    let bits = v.to_bits();
    sign | ((bits >> 52) as u32 + 15 - 1023) << 10 | (bits >> 42 & 0x3ff) as u32
}

/// A bfloat16 of an f64, in any rounding.
pub fn to_bf16_rounded(value: f64, round: Round) -> u32 {
    if value.is_nan() {
        return 0x7fff;
    }
    let v = to_small(value, round, 7, -126, f64::from(f32::from_bits(0x7f7f_0000)));
    (v as f32).to_bits() >> 16
}

/// An f32 of the exact value `sum + rest`, where `rest` is below the last place of `sum`.
pub fn to_f32(sum: f64, rest: f64, round: Round) -> f32 {
    let nearest = sum as f32;
    if !sum.is_finite() || sum.is_nan() {
        return nearest;
    }
    let back = f64::from(nearest);
    // The exact value against the nearest float.
    let above = sum > back || (sum == back && rest > 0.0);
    let below = sum < back || (sum == back && rest < 0.0);
    match round {
        Round::Nearest => {
            // A tie in f64 may hide which side the exact value is on.
            nearest
        }
        Round::Zero if nearest.is_infinite() => f32::MAX.copysign(nearest),
        Round::Zero if nearest > 0.0 && below => next_down(nearest),
        Round::Zero if nearest < 0.0 && above => -next_down(-nearest),
        Round::Down if below => next_down_any(nearest),
        Round::Up if above => -next_down_any(-nearest),
        _ => nearest,
    }
}

fn next_down(value: f32) -> f32 {
    f32::from_bits(value.to_bits() - 1)
}

fn next_down_any(value: f32) -> f32 {
    if value == 0.0 {
        -f32::from_bits(1)
    } else if value > 0.0 {
        next_down(value)
    } else {
        f32::from_bits(value.to_bits() + 1)
    }
}

/// The exact sum of two f64 as a float and what it misses.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let t = s - a;
    (s, (a - (s - t)) + (b - t))
}

/// `a + b`, rounded.
pub fn add(a: f32, b: f32, round: Round) -> f32 {
    if round == Round::Nearest {
        return a + b;
    }
    let (s, r) = two_sum(f64::from(a), f64::from(b));
    to_f32(s, r, round)
}

/// `a * b`, rounded.
pub fn mul(a: f32, b: f32, round: Round) -> f32 {
    if round == Round::Nearest {
        return a * b;
    }
    to_f32(f64::from(a) * f64::from(b), 0.0, round)
}

/// `a + b` rounded to odd, which makes a second rounding to fewer bits right.
#[inline(always)]
pub fn sum_to_odd(a: f64, b: f64) -> f64 {
    let (s, r) = two_sum(a, b);
    let bits = s.to_bits();
    if r != 0.0 && bits & 1 == 0 && s.is_finite() {
        let away = (r > 0.0) == (s > 0.0);
        return f64::from_bits(if away { bits | 1 } else { bits.wrapping_sub(1) });
    }
    s
}

/// `a * b + c`, rounded once.
#[inline]
pub fn fma(a: f32, b: f32, c: f32, round: Round) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    if round != Round::Nearest {
        let (s, r) = two_sum(product, c);
        return to_f32(s, r, round);
    }
    sum_to_odd(product, c) as f32
}

/// Keeps `stored` bits of the mantissa, to nearest: what an approximate instruction is good for. Subnormals have no such
/// bits and stay.
#[inline(always)]
pub fn coarse(value: f32, stored: u32) -> f32 {
    let drop = 23 - stored;
    let bits = value.to_bits();
    if matches!(bits & 0x7f80_0000, 0 | 0x7f80_0000) {
        return value;
    }
    let half = (1u32 << (drop - 1)) - 1 + (bits >> drop & 1);
    f32::from_bits((bits + half) >> drop << drop)
}

/// `div.approx`: a product with the divisor's reciprocal, which is zero above 2^126.
#[inline(always)]
pub fn divide(a: f32, b: f32) -> f32 {
    if b.is_finite() && b.abs() > 2f32.powi(126) {
        return coarse(a * 0f32.copysign(b), APPROXIMATE);
    }
    coarse(a / b, APPROXIMATE)
}

/// Bits that `ex2`, `rcp`, `lg2` and their like keep: errors up to 2^-22.
pub const APPROXIMATE: u32 = 21;
/// Bits that `tanh.approx` keeps: errors up to 2^-11, as the manual allows. Of an H200's, over every f32, the largest is
/// 7.98e-6, or 1.11e-5 of the result; they are odd, not monotonic, and subnormals stay.
pub const TANH: u32 = 10;

/// A subnormal becomes zero of its sign.
#[inline(always)]
pub fn flush(value: f32) -> f32 {
    let bits = value.to_bits();
    if bits & 0x7f80_0000 == 0 { f32::from_bits(bits & 0x8000_0000) } else { value }
}

/// To the range 0 … 1, NaN to 0.
#[inline(always)]
pub fn saturate(value: f32) -> f32 {
    if value > 0.0 { value.min(1.0) } else { 0.0 }
}

/// A NaN as the instruction set writes it.
#[inline(always)]
pub fn canonical(value: f32) -> f32 {
    if value.is_nan() { f32::from_bits(0x7fff_ffff) } else { value }
}

/// What `cvt` does beyond choosing types.
#[derive(Clone, Copy)]
pub struct Conversion {
    /// Destination type.
    pub to: Num,
    /// Source type.
    pub from: Num,
    /// Rounding.
    pub round: Round,
    /// Whether a float becomes a float of an integral value.
    pub integral: bool,
    /// Whether subnormals become zero.
    pub ftz: bool,
    /// Whether the result is clamped.
    pub sat: bool,
    /// Whether negative results become zero.
    pub relu: bool,
}

/// `cvt` of one value; bits in, bits out.
pub fn convert(bits: u64, c: Conversion) -> u64 {
    let integer = |v: i128| -> u64 {
        if !c.to.float() {
            let width = c.to.size() as u32 * 8;
            let v = if c.sat { clamp(v, c.to) } else { v };
            let v = v as u64;
            // Narrow results live in 32-bit registers, sign or zero extended.
            return match (width, c.to.signed()) {
                (8, true) => v as i8 as i32 as u32 as u64,
                (8, false) => u64::from(v as u8),
                (16, _) => u64::from(v as u16),
                (32, _) => u64::from(v as u32),
                _ => v,
            };
        }
        let v = if c.sat { v.clamp(0, 1) } else { v };
        match c.to {
            Num::F64 => (v as f64).to_bits(),
            Num::F32 => {
                let nearest = v as f32;
                let exact = v;
                let value = match c.round {
                    Round::Nearest => nearest,
                    r => {
                        let back = nearest as i128;
                        let rest = (exact - back) as f64;
                        if rest == 0.0 { nearest } else { to_f32(f64::from(nearest), rest, r) }
                    }
                };
                u64::from(value.to_bits())
            }
            Num::F16 => u64::from(to_f16(v as f64, c.round)),
            _ => u64::from(to_bf16_rounded(v as f64, c.round)),
        }
    };
    match c.from {
        Num::U8 => integer(i128::from(bits as u8)),
        Num::S8 => integer(i128::from(bits as i8)),
        Num::U16 => integer(i128::from(bits as u16)),
        Num::S16 => integer(i128::from(bits as i16)),
        Num::U32 => integer(i128::from(bits as u32)),
        Num::S32 => integer(i128::from(bits as i32)),
        Num::U64 => integer(i128::from(bits)),
        Num::S64 => integer(i128::from(bits as i64)),
        from => {
            let mut v = match from {
                Num::F16 => f64::from(f16(bits as u32 & 0xffff)),
                Num::BF16 => f64::from(bf16(bits as u32 & 0xffff)),
                Num::F32 => {
                    let v = f32::from_bits(bits as u32);
                    f64::from(if c.ftz { flush(v) } else { v })
                }
                _ => f64::from_bits(bits),
            };
            if c.integral || !c.to.float() {
                v = match c.round {
                    Round::Nearest => v.round_ties_even(),
                    Round::Zero => v.trunc(),
                    Round::Down => v.floor(),
                    Round::Up => v.ceil(),
                };
            }
            if !c.to.float() {
                // Out of range is clamped, NaN is zero.
                let v = if v.is_nan() { 0 } else { clamp(v.clamp(-1e30, 1e30) as i128, c.to) };
                return integer(v);
            }
            if c.sat {
                v = if v > 0.0 { v.min(1.0) } else { 0.0 };
            }
            if c.relu && (v < 0.0 || v.is_nan()) {
                v = if v.is_nan() { v } else { 0.0 };
            }
            match c.to {
                Num::F64 => v.to_bits(),
                Num::F32 => {
                    let r = to_f32(v, 0.0, c.round);
                    let r = if c.ftz { flush(r) } else { r };
                    u64::from(canonical(r).to_bits())
                }
                Num::F16 => u64::from(to_f16(v, c.round)),
                _ => u64::from(to_bf16_rounded(v, c.round)),
            }
        }
    }
}

fn clamp(v: i128, to: Num) -> i128 {
    let bits = to.size() as u32 * 8;
    if to.signed() {
        v.clamp(-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
    } else {
        v.clamp(0, (1i128 << bits) - 1)
    }
}
