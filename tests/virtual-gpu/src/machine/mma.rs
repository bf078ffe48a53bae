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
//! The sum is a card's in spirit: exact products, eight of them added to the accumulator at once, the
//! result cut off towards zero and not rounded. Small integers are exact.

use super::alu::L32;
use super::number::{canonical, f16};

/// Two values of a register, as f32.
#[inline(always)]
fn pair<const HALF: bool>(register: u32) -> [f32; 2] {
    if HALF {
        [f16(register & 0xffff), f16(register >> 16)]
    } else {
        [f32::from_bits(register << 16), f32::from_bits(register & 0xffff_0000)]
    }
}

#[inline(always)]
fn product<const HALF: bool>(a: &[&L32], b: &[&L32], c: [&L32; 4]) -> [L32; 4] {
    // Lanes 4g … 4g + 3 hold eight neighbours: of a row of A, of a column of B.
    let mut rows = [[0f32; 16]; 16];
    for (i, register) in a.iter().enumerate() {
        for (group, four) in register.chunks_exact(4).enumerate() {
            let row = &mut rows[group + 8 * (i % 2)][8 * (i / 2)..][..8];
            for quad in 0..4 {
                row[2 * quad..2 * quad + 2].copy_from_slice(&pair::<HALF>(four[quad]));
            }
        }
    }
    let mut columns = [[0f32; 16]; 8];
    for (i, register) in b.iter().enumerate() {
        for (column, four) in register.chunks_exact(4).enumerate() {
            for quad in 0..4 {
                columns[column][8 * i + 2 * quad..][..2].copy_from_slice(&pair::<HALF>(four[quad]));
            }
        }
    }
    let mut across = [[0f64; 8]; 16];
    for k in 0..16 {
        for column in 0..8 {
            across[k][column] = f64::from(columns[column][k]);
        }
    }
    let mut out = [[0; 32]; 4];
    for row in 0..16 {
        let (group, upper) = (row % 8, 2 * (row / 8));
        let mut sum = [0f64; 8];
        for quad in 0..4 {
            sum[2 * quad] = f64::from(f32::from_bits(c[upper][4 * group + quad]));
            sum[2 * quad + 1] = f64::from(f32::from_bits(c[upper + 1][4 * group + quad]));
        }
        for step in (0..8 * b.len()).step_by(8) {
            for k in step..step + 8 {
                let left = f64::from(rows[row][k]);
                for column in 0..8 {
                    sum[column] += left * across[k][column];
                }
            }
            for value in &mut sum {
                // An f32 has 29 bits of mantissa less than an f64.
                *value = f64::from_bits(value.to_bits() & !0x1fff_ffff);
            }
        }
        for quad in 0..4 {
            out[upper][4 * group + quad] = canonical(sum[2 * quad] as f32).to_bits();
            out[upper + 1][4 * group + quad] = canonical(sum[2 * quad + 1] as f32).to_bits();
        }
    }
    out
}

#[inline(always)]
fn either(half: bool, a: &[&L32], b: &[&L32], c: [&L32; 4]) -> [L32; 4] {
    if half { product::<true>(a, b, c) } else { product::<false>(a, b, c) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
fn either_512(half: bool, a: &[&L32], b: &[&L32], c: [&L32; 4]) -> [L32; 4] {
    either(half, a, b, c)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn either_256(half: bool, a: &[&L32], b: &[&L32], c: [&L32; 4]) -> [L32; 4] {
    either(half, a, b, c)
}

/// `D = A·B + C` of one warp; `a` has two registers for k = 8, four for k = 16, `b` one or two. The result
/// does not depend on the instructions that this machine has: products are exact, and so is their order.
pub fn mma(half: bool, a: &[&L32], b: &[&L32], c: [&L32; 4]) -> [L32; 4] {
    #[cfg(target_arch = "x86_64")]
    {
        let wide = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw");
        if wide {
            // SAFETY: the processor has the instructions.
            return unsafe { either_512(half, a, b, c) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the instructions.
            return unsafe { either_256(half, a, b, c) };
        }
    }
    either(half, a, b, c)
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
