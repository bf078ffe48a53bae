//! `mma.sync` and `ldmatrix` fragments.
//!
//! Layouts, from the PTX manual ("Matrix Fragments for mma.m16n8k16 with floating point type"), with
//! `group = lane / 4` and `quad = lane % 4`, two 16-bit values a register, the lower half first:
//!
//! | fragment | register i, half j | row | column |
//! |---|---|---|---|
//! | A, 16×16 | 0 … 3 | `group + 8·(i % 2)` | `2·quad + j + 8·(i / 2)` |
//! | B, 16×8 | 0 … 1 | `2·quad + j + 8·i` | `group` |
//! | C, D, 16×8 | 0 … 3 (f32) | `group + 8·(i / 2)` | `2·quad + i % 2` |
//!
//! The arithmetic is that of an H200 (sm_90), bit for bit (`tests/card.rs`), for every chip. Products are exact. The
//! largest exponent among them and the accumulator's sets a unit, 2^-25 of it. A product's exponent is the sum of its
//! factors', whatever their mantissas; a subnormal's is the least normal one; zeros have no say. Each summand is cut off
//! towards zero to whole units, the sum is exact, and is cut off towards zero to an f32, which may be subnormal. A sum of
//! zero is +0, beyond the largest f32 lies infinity. Not measured: products of k = 8, sums of nothing but zeros, and the
//! exponents of subnormal factors.

use super::alu::L32;
use super::number::{bf16, canonical, f16};

/// Bits below the largest exponent that a summand keeps.
const KEPT: i32 = 25;
/// The exponent of a zero: no sum's largest, with whatever it is multiplied.
const ZERO: i16 = -4000;
/// The exponent of infinities and NaN: a sum's largest, with whatever they are multiplied.
const SPECIAL: i16 = 12000;
/// The bits of an f64 that an f32 has too.
const MANTISSA: u64 = !0x1fff_ffff;

/// The exponent of a 16-bit number.
#[inline(always)]
fn exponent<const HALF: bool>(bits: u16) -> i16 {
    let (mantissa, bias) = if HALF { (10, 15) } else { (7, 127) };
    let magnitude = (bits & 0x7fff) as i16;
    let field = magnitude >> mantissa;
    let finite = if field > 2 * bias { SPECIAL } else { field.max(1) - bias };
    if magnitude == 0 { ZERO } else { finite }
}

/// The exponent of an f32.
#[inline(always)]
fn exponent_of_f32(bits: u32) -> i32 {
    let magnitude = bits & 0x7fff_ffff;
    let field = (magnitude >> 23) as i32;
    let finite = if field == 255 { i32::from(SPECIAL) } else { field.max(1) - 127 };
    if magnitude == 0 { i32::from(ZERO) } else { finite }
}

/// The lower halves of a register, and the upper ones.
#[inline(always)]
fn values<const HALF: bool>(register: &L32) -> [[f32; 32]; 2] {
    let mut out = [[0.0; 32]; 2];
    for half in 0..2 {
        for lane in 0..32 {
            let bits = register[lane] >> (16 * half) & 0xffff;
            out[half][lane] = if HALF { f16(bits) } else { bf16(bits) };
        }
    }
    out
}

/// Their exponents, lower and upper in turn.
#[inline(always)]
fn exponents<const HALF: bool>(register: &L32) -> [i16; 64] {
    // SAFETY: as many bits, all of which mean something in either.
    let halves: [u16; 64] = unsafe { std::mem::transmute(register.map(u32::to_le)) };
    let mut out = [0; 64];
    for i in 0..64 {
        out[i] = exponent::<HALF>(u16::from_le(halves[i]));
    }
    out
}

/// 2 to a power, a normal number.
fn power(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// A sum of summands, of whose exponents `largest` is the largest.
fn sum(summands: &[f64], largest: i32) -> f32 {
    if largest > i32::from(SPECIAL) / 2 {
        return canonical(summands.iter().sum::<f64>() as f32);
    }
    let kept = KEPT - largest.max(-300); // nothing but zeros is below
    let units: i64 = summands.iter().map(|summand| (summand * power(kept)) as i64).sum();
    let sum = units as f64 * power(-kept);
    if sum.abs() < power(-126) {
        return ((sum * power(149)) as i64 as f64 * power(-149)) as f32;
    }
    f64::from_bits(sum.to_bits() & MANTISSA) as f32
}

/// Any product, number by number.
#[cold]
fn product<const HALF: bool>(a: &[&L32], b: &[&L32], c: [&L32; 4]) -> [L32; 4] {
    let numbers = |registers: &[&L32]| -> Vec<_> {
        registers.iter().map(|register| (values::<HALF>(register), exponents::<HALF>(register))).collect()
    };
    let (left, right) = (numbers(a), numbers(b));
    let mut out = [[0; 32]; 4];
    for i in 0..4 {
        for lane in 0..32 {
            let (group, column) = (lane / 4, lane % 4 * 2 + i % 2);
            let (mut summands, mut largest) = ([0.0; 17], exponent_of_f32(c[i][lane]));
            summands[16] = f64::from(f32::from_bits(c[i][lane]));
            for k in 0..8 * b.len() {
                let (register, half, quad) = (k / 8, k % 2, k % 8 / 2);
                let ((a, a_exponents), (b, b_exponents)) = (&left[2 * register + i / 2], &right[register]);
                let (row, column) = (4 * group + quad, 4 * column + quad);
                summands[k] = f64::from(a[half][row]) * f64::from(b[half][column]);
                largest =
                    largest.max(i32::from(a_exponents[2 * row + half] + b_exponents[2 * column + half]));
            }
            out[i][lane] = sum(&summands, largest).to_bits();
        }
    }
    out
}

/// The same, eight lanes at once, unless numbers are extreme.
#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{KEPT, L32, MANTISSA, ZERO, exponent_of_f32, exponents, product, values};
    use std::arch::x86_64::*;

    /// Below, an f32 may not hold what a product has of a unit; nothing but zeros is below `ZEROS`.
    const LEAST: i32 = -100;
    const ZEROS: i32 = -3000;
    /// Above, products may not be f32.
    const MOST: i32 = 126;

    /// A register of B with lanes in the order of C's columns: by quad, the even columns and the odd ones.
    fn by_quads(register: &L32) -> L32 {
        std::array::from_fn(|lane| register[lane % 4 * 8 + lane / 4 % 2 * 4 + lane / 8])
    }

    /// Eight words.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn load<T, const N: usize>(of: &[T; N], first: usize) -> __m256i {
        assert!(4 * (first + 8) <= size_of_val(of));
        // SAFETY: they are the array's.
        unsafe { _mm256_loadu_si256(of.as_ptr().cast::<u32>().add(first).cast()) }
    }

    /// Four words, twice.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn twice<T, const N: usize>(of: &[T; N], first: usize) -> __m256i {
        assert!(4 * (first + 4) <= size_of_val(of));
        // SAFETY: they are the array's.
        _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(of.as_ptr().cast::<u32>().add(first).cast()) })
    }

    /// Each of four neighbours, for all four.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn spread(x: __m256i) -> [__m256i; 4] {
        [
            _mm256_shuffle_epi32::<0x00>(x),
            _mm256_shuffle_epi32::<0x55>(x),
            _mm256_shuffle_epi32::<0xaa>(x),
            _mm256_shuffle_epi32::<0xff>(x),
        ]
    }

    /// 2 to eight powers, each a normal number.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn power(exponents: __m256i) -> __m256 {
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(exponents, _mm256_set1_epi32(127))))
    }

    /// Four whole numbers of units, cut off to f32.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn cut(units: __m256d, unit: __m128) -> __m128i {
        let sum = _mm256_mul_pd(units, _mm256_cvtps_pd(unit));
        let mantissa = _mm256_castsi256_pd(_mm256_set1_epi64x(MANTISSA as i64));
        _mm_castps_si128(_mm256_cvtpd_ps(_mm256_and_pd(sum, mantissa)))
    }

    #[target_feature(enable = "avx2")]
    pub fn multiply<const HALF: bool>(a: &[&L32], b: &[&L32], c: [&L32; 4]) -> [L32; 4] {
        let (mut left, mut left_exponents) = ([[[0.0; 32]; 2]; 4], [[0; 64]; 4]);
        for (i, register) in a.iter().enumerate() {
            (left[i], left_exponents[i]) = (values::<HALF>(register), exponents::<HALF>(register));
        }
        let (mut right, mut right_exponents) = ([[[0.0; 32]; 2]; 2], [[0; 64]; 2]);
        for (i, register) in b.iter().enumerate() {
            let register = by_quads(register);
            (right[i], right_exponents[i]) = (values::<HALF>(&register), exponents::<HALF>(&register));
        }
        let mut of_c = [[0; 32]; 4];
        for i in 0..4 {
            for lane in 0..32 {
                of_c[i][lane] = exponent_of_f32(c[i][lane]);
            }
        }
        let mut out = [[0; 32]; 4];
        for upper in 0..2 {
            for first in (0..32).step_by(8) {
                // Of even columns and of odd ones, two registers of C and D; of even k and of odd ones, halves of a word.
                let mut pairs = [_mm256_set1_epi16(2 * ZERO); 2];
                for i in 0..b.len() {
                    let rows = spread(load(&left_exponents[2 * i + upper], first));
                    for quad in 0..4 {
                        for odd in 0..2 {
                            let columns = twice(&right_exponents[i], 8 * quad + 4 * odd);
                            pairs[odd] = _mm256_max_epi16(pairs[odd], _mm256_add_epi16(rows[quad], columns));
                        }
                    }
                }
                let mut largest = [_mm256_setzero_si256(); 2];
                for odd in 0..2 {
                    let even_k = _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(pairs[odd]));
                    let of_products = _mm256_max_epi32(even_k, _mm256_srai_epi32::<16>(pairs[odd]));
                    let all = _mm256_max_epi32(of_products, load(&of_c[2 * upper + odd], first));
                    largest[odd] = _mm256_max_epi32(all, _mm256_set1_epi32(LEAST));
                    let small = _mm256_and_si256(
                        _mm256_cmpgt_epi32(largest[odd], all),
                        _mm256_cmpgt_epi32(all, _mm256_set1_epi32(ZEROS)),
                    );
                    let large = _mm256_cmpgt_epi32(all, _mm256_set1_epi32(MOST));
                    if _mm256_movemask_epi8(_mm256_or_si256(small, large)) != 0 {
                        return product::<HALF>(a, b, c);
                    }
                }
                let kept = _mm256_set1_epi32(KEPT);
                let scale = largest.map(|largest| power(_mm256_sub_epi32(kept, largest)));
                // C and eight products are less than 2^31 units.
                let mut units = [_mm256_setzero_si256(); 2];
                for odd in 0..2 {
                    let c = _mm256_castsi256_ps(load(c[2 * upper + odd], first));
                    units[odd] = _mm256_cvttps_epi32(_mm256_mul_ps(c, scale[odd]));
                }
                let mut sums = [[_mm256_setzero_pd(); 2]; 2];
                for i in 0..b.len() {
                    for half in 0..2 {
                        let rows = spread(load(&left[2 * i + upper][half], first));
                        for quad in 0..4 {
                            for odd in 0..2 {
                                let columns = twice(&right[i][half], 8 * quad + 4 * odd);
                                let [row, column] = [rows[quad], columns].map(|x| _mm256_castsi256_ps(x));
                                let scaled = _mm256_mul_ps(_mm256_mul_ps(row, column), scale[odd]);
                                units[odd] = _mm256_add_epi32(units[odd], _mm256_cvttps_epi32(scaled));
                            }
                        }
                    }
                    for odd in 0..2 {
                        let [low, high] =
                            [_mm256_castsi256_si128(units[odd]), _mm256_extracti128_si256::<1>(units[odd])];
                        sums[odd][0] = _mm256_add_pd(sums[odd][0], _mm256_cvtepi32_pd(low));
                        sums[odd][1] = _mm256_add_pd(sums[odd][1], _mm256_cvtepi32_pd(high));
                        units[odd] = _mm256_setzero_si256();
                    }
                }
                for odd in 0..2 {
                    let unit = power(_mm256_sub_epi32(largest[odd], kept));
                    let low = cut(sums[odd][0], _mm256_castps256_ps128(unit));
                    let high = cut(sums[odd][1], _mm256_extractf128_ps::<1>(unit));
                    let to = &mut out[2 * upper + odd][first..][..8];
                    // SAFETY: eight words of the array.
                    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm256_set_m128i(high, low)) };
                }
            }
        }
        out
    }
}

/// `D = A·B + C` of one warp; `a` has two registers for k = 8, four for k = 16, `b` one or two. The result
/// does not depend on the instructions that this machine has: every step is exact.
pub fn mma(half: bool, a: &[&L32], b: &[&L32], c: [&L32; 4]) -> [L32; 4] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the instructions.
        return unsafe {
            if half { wide::multiply::<true>(a, b, c) } else { wide::multiply::<false>(a, b, c) }
        };
    }
    if half { product::<true>(a, b, c) } else { product::<false>(a, b, c) }
}

/// What `ldmatrix` hands each lane of one 8×8 matrix whose rows are the sixteen bytes in `rows`.
pub fn fragment(rows: &[[u8; 16]; 8], trans: bool) -> L32 {
    let item = |row: usize, column: usize| {
        u32::from(u16::from_le_bytes([rows[row][2 * column], rows[row][2 * column + 1]]))
    };
    std::array::from_fn(|lane| {
        let (group, pair) = (lane / 4, 2 * (lane % 4));
        if trans {
            item(pair, group) | item(pair + 1, group) << 16
        } else {
            item(group, pair) | item(group, pair + 1) << 16
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Eight lanes at once compute what number by number does: at every depth, with zeros, and around the exponents
    /// where the one gives way to the other.
    #[test]
    fn both_ways_are_the_same() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u32
        };
        let mut beyond = 0;
        for trial in 0..2000 {
            let (half, depth) = (trial % 2 == 1, if trial % 4 < 2 { 16 } else { 8 });
            // Exponents of factors, as stored, lie from this one on, those of C like the products'.
            let (bias, from) =
                if half { (15, 12) } else { (127, [40, 76, 78, 120, 126, 150, 183, 184][trial / 2 % 8]) };
            let mut word = |of_c: bool| {
                let zero = random() % 4 == 0;
                let from = if of_c { 127 + 2 * (from - bias) } else { from };
                let mut number = |mantissa: u32, sign: u32| {
                    let exponent = (from + (random() % 8) as i32).clamp(1, 254) as u32;
                    let bits =
                        (random() & 1) << sign | exponent << mantissa | random() & ((1 << mantissa) - 1);
                    if zero { 0 } else { bits }
                };
                match (of_c, half) {
                    (true, _) => number(23, 31),
                    (_, true) => number(10, 15) | number(10, 15) << 16,
                    (_, false) => number(7, 15) | number(7, 15) << 16,
                }
            };
            let mut registers = |count: usize, of_c: bool| -> Vec<L32> {
                (0..count).map(|_| std::array::from_fn(|_| word(of_c))).collect()
            };
            let (a, b, c) = (registers(depth / 4, false), registers(depth / 8, false), registers(4, true));
            let (a, b): (Vec<_>, Vec<_>) = (a.iter().collect(), b.iter().collect());
            let c = std::array::from_fn(|i| &c[i]);
            let found = mma(half, &a, &b, c);
            let expected = if half { product::<true>(&a, &b, c) } else { product::<false>(&a, &b, c) };
            assert_eq!(found, expected, "trial {trial}");
            beyond += found.iter().flatten().filter(|bits| **bits & 0x7f80_0000 == 0x7f80_0000).count();
        }
        assert!(beyond > 100, "{beyond} infinities");
    }
}
