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
use super::number::{bf16, f16};

type Rows = [[f64; 8]; 16];

#[inline(always)]
fn multiply(a: &[[f64; 16]; 16], b: &Rows, c: &mut Rows, depth: usize) {
    for row in 0..16 {
        let mut sum = c[row];
        for step in (0..depth).step_by(8) {
            for k in step..step + 8 {
                for column in 0..8 {
                    sum[column] += a[row][k] * b[k][column];
                }
            }
            for value in &mut sum {
                // An f32 has 29 bits of mantissa less than an f64.
                *value = f64::from_bits(value.to_bits() & !0x1fff_ffff);
            }
        }
        c[row] = sum;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn multiply_512(a: &[[f64; 16]; 16], b: &Rows, c: &mut Rows, depth: usize) {
    multiply(a, b, c, depth);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn multiply_256(a: &[[f64; 16]; 16], b: &Rows, c: &mut Rows, depth: usize) {
    multiply(a, b, c, depth);
}

/// `D = A·B + C` of one warp; `a` has two registers for k = 8, four for k = 16, `b` one or two.
pub fn mma(half: bool, a: &[&L32], b: &[&L32], c: [&L32; 4]) -> [L32; 4] {
    let number = |bits: u32| f64::from(if half { f16(bits) } else { bf16(bits) });
    let mut ma = [[0.0; 16]; 16];
    let mut mb = [[0.0; 8]; 16];
    let mut mc = [[0.0; 8]; 16];
    for lane in 0..32 {
        let (group, quad) = (lane / 4, lane % 4);
        for (i, register) in a.iter().enumerate() {
            let (row, column) = (group + 8 * (i % 2), 2 * quad + 8 * (i / 2));
            ma[row][column] = number(register[lane] & 0xffff);
            ma[row][column + 1] = number(register[lane] >> 16);
        }
        for (i, register) in b.iter().enumerate() {
            mb[2 * quad + 8 * i][group] = number(register[lane] & 0xffff);
            mb[2 * quad + 8 * i + 1][group] = number(register[lane] >> 16);
        }
        for (i, register) in c.iter().enumerate() {
            mc[group + 8 * (i / 2)][2 * quad + i % 2] = f64::from(f32::from_bits(register[lane]));
        }
    }
    let depth = 8 * b.len();
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the instructions.
        unsafe { multiply_512(&ma, &mb, &mut mc, depth) };
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the instructions.
        unsafe { multiply_256(&ma, &mb, &mut mc, depth) };
    } else {
        multiply(&ma, &mb, &mut mc, depth);
    }
    #[cfg(not(target_arch = "x86_64"))]
    multiply(&ma, &mb, &mut mc, depth);
    let mut out = [[0; 32]; 4];
    for lane in 0..32 {
        let (group, quad) = (lane / 4, lane % 4);
        for (i, register) in out.iter_mut().enumerate() {
            let value = mc[group + 8 * (i / 2)][2 * quad + i % 2] as f32;
            register[lane] = super::number::canonical(value).to_bits();
        }
    }
    out
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
