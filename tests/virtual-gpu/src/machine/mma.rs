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
fn step_of<const FUSED: bool>(sum: [f64; 8], left: f64, right: &[f64; 8]) -> [f64; 8] {
    std::array::from_fn(|column| {
        if FUSED { left.mul_add(right[column], sum[column]) } else { sum[column] + left * right[column] }
    })
}

/// Cut off to the mantissa of an f32, which has 29 bits less.
#[inline(always)]
fn cut(sum: [f64; 8]) -> [f64; 8] {
    std::array::from_fn(|i| f64::from_bits(sum[i].to_bits() & !0x1fff_ffff))
}

/// `FUSED`: the processor multiplies and adds in one step. As products are exact, it changes no bit.
#[inline(always)]
fn product<const HALF: bool, const FUSED: bool>(a: &[&L32], b: &[&L32], c: [&L32; 4]) -> [L32; 4] {
    // The halves of A's registers as they lie; row and column become register, half and lane below.
    let mut left = [[[0f64; 32]; 2]; 4];
    for (i, register) in a.iter().enumerate() {
        for lane in 0..32 {
            let [lower, upper] = pair::<HALF>(register[lane]);
            (left[i][0][lane], left[i][1][lane]) = (f64::from(lower), f64::from(upper));
        }
    }
    // Even columns, then odd ones: so lie those of C, four lanes of one register and four of the next.
    let mut across = [[0f64; 8]; 16];
    for (i, register) in b.iter().enumerate() {
        for quad in 0..4 {
            let mut words = [0; 8];
            for n in 0..8 {
                words[n] = register[4 * (2 * (n % 4) + n / 4) + quad];
            }
            for n in 0..8 {
                let [lower, upper] = pair::<HALF>(words[n]);
                across[8 * i + 2 * quad][n] = f64::from(lower);
                across[8 * i + 2 * quad + 1][n] = f64::from(upper);
            }
        }
    }
    let mut out = [[0; 32]; 4];
    // Four rows side by side, so that one addition need not wait for the one before; each in its own variable,
    // which keeps them in registers.
    for start in (0..16).step_by(4) {
        let at = |n: usize| ((start + n) % 8, 2 * ((start + n) / 8));
        let begin = |n: usize| -> [f64; 8] {
            let (group, upper) = at(n);
            std::array::from_fn(|i| f64::from(f32::from_bits(c[upper + i / 4][4 * group + i % 4])))
        };
        let (mut w, mut x, mut y, mut z) = (begin(0), begin(1), begin(2), begin(3));
        for step in (0..8 * b.len()).step_by(8) {
            for k in step..step + 8 {
                let four = &left[start / 8 + 2 * (k / 8)][k % 2][4 * (start % 8) + k % 8 / 2..][..13];
                w = step_of::<FUSED>(w, four[0], &across[k]);
                x = step_of::<FUSED>(x, four[4], &across[k]);
                y = step_of::<FUSED>(y, four[8], &across[k]);
                z = step_of::<FUSED>(z, four[12], &across[k]);
            }
            (w, x, y, z) = (cut(w), cut(x), cut(y), cut(z));
        }
        for (n, sum) in [w, x, y, z].iter().enumerate() {
            let (group, upper) = at(n);
            let mut bits = [0; 8];
            for i in 0..8 {
                bits[i] = canonical(sum[i] as f32).to_bits();
            }
            out[upper][4 * group..][..4].copy_from_slice(&bits[..4]);
            out[upper + 1][4 * group..][..4].copy_from_slice(&bits[4..]);
        }
    }
    out
}

#[inline(always)]
fn either<const FUSED: bool>(half: bool, a: &[&L32], b: &[&L32], c: [&L32; 4]) -> [L32; 4] {
    if half { product::<true, FUSED>(a, b, c) } else { product::<false, FUSED>(a, b, c) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,fma")]
fn either_512(half: bool, a: &[&L32], b: &[&L32], c: [&L32; 4]) -> [L32; 4] {
    either::<true>(half, a, b, c)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn either_256(half: bool, a: &[&L32], b: &[&L32], c: [&L32; 4]) -> [L32; 4] {
    either::<true>(half, a, b, c)
}

/// `D = A·B + C` of one warp; `a` has two registers for k = 8, four for k = 16, `b` one or two. The result
/// does not depend on the instructions that this machine has: products are exact, and so is their order.
pub fn mma(half: bool, a: &[&L32], b: &[&L32], c: [&L32; 4]) -> [L32; 4] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("fma") {
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
    either::<false>(half, a, b, c)
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
