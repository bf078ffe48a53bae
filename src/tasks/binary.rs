//! Whole numbers of any size, written one bit a symbol. Lowest bit first, but in [`sqrt`].

use crate::random::Random;

/// Stands between two numbers.
pub(super) const SEPARATOR: u32 = 2;

/// Draws bits of which at least one is set: a number uniform in `1..2^length`.
pub(super) fn draw_positive(number: &mut [u32], random: &mut Random) {
    loop {
        super::bits(number, random);
        if number.is_empty() || number.contains(&1) {
            return;
        }
    }
}

/// Draws `n 2 m`, the length of `n` uniform; where there is no room for two, one number but the largest.
pub(super) fn draw_pair(input: &mut [u32], random: &mut Random) {
    let length = input.len() as u32;
    if length < 3 {
        let number = random.below((1 << length) - 1);
        input.iter_mut().enumerate().for_each(|(i, bit)| *bit = number >> i & 1);
        return;
    }
    let (n, m) = input.split_at_mut(1 + random.below(length - 2) as usize);
    m[0] = SEPARATOR;
    draw_positive(n, random);
    draw_positive(&mut m[1..], random);
}

/// The `n` and `m` of `n 2 m`, or `None` if there is no separator.
pub(super) fn split(input: &[u32]) -> Option<(&[u32], &[u32])> {
    let at = input.iter().position(|&symbol| symbol == SEPARATOR)?;
    Some((&input[..at], &input[at + 1..]))
}

/// Appends `n + m`, without zeros at its high end; zero is one 0.
pub(super) fn add(n: &[u32], m: &[u32], sum: &mut Vec<u32>) {
    let bit = |number: &[u32], i: usize| number.get(i).map_or(0, |bit| bit & 1);
    let mut carry = 0;
    for i in 0..=n.len().max(m.len()) {
        let digit = bit(n, i) + bit(m, i) + carry;
        sum.push(digit & 1);
        carry = digit >> 1;
    }
    trim(sum);
}

/// Appends `n · m`, without zeros at its high end; zero is one 0. By 64-bit limbs, each with each.
pub(super) fn multiply(n: &[u32], m: &[u32], product: &mut Vec<u32>) {
    let limbs = |number: &[u32]| -> Vec<u64> {
        let limb = |bits: &[u32]| bits.iter().rev().fold(0, |limb, &bit| limb << 1 | u64::from(bit & 1));
        number.chunks(64).map(limb).collect()
    };
    let (n, m) = (limbs(n), limbs(m));
    let mut limbs = vec![0u64; n.len() + m.len()];
    for (i, &x) in n.iter().enumerate() {
        let mut carry = 0;
        for (j, &y) in m.iter().enumerate() {
            // At most 2^128 - 1.
            let sum = u128::from(x) * u128::from(y) + u128::from(limbs[i + j]) + u128::from(carry);
            (limbs[i + j], carry) = (sum as u64, (sum >> 64) as u64);
        }
        limbs[i + m.len()] = carry;
    }
    product.extend(limbs.iter().flat_map(|limb| (0..64).map(move |i| (limb >> i) as u32 & 1)));
    trim(product);
}

/// Appends the floor of the square root of `number`, highest bits first: one bit for two.
///
/// As on paper: bring two bits down to the remainder, and the root's next bit is whether `4 · root + 1` can be
/// taken from it.
pub(super) fn sqrt(number: &[u32], root: &mut Vec<u32>) {
    let limbs = (number.len().div_ceil(2) + 2).div_ceil(64);
    // Lowest limb first.
    let (mut found, mut remainder, mut less) = (vec![0u64; limbs], vec![0u64; limbs], vec![0u64; limbs]);
    for (done, pair) in number.rchunks(2).rev().enumerate() {
        let mut down = pair.iter().fold(0, |bits, &bit| bits << 1 | u64::from(bit & 1));
        let (mut one, mut borrow) = (1, false);
        // `found` has `done` bits and `remainder` at most one more.
        let used = (done + 3).div_ceil(64);
        for i in 0..used {
            let trial = found[i] << 2 | one;
            one = found[i] >> 62;
            let whole = remainder[i] << 2 | down;
            down = remainder[i] >> 62;
            remainder[i] = whole;
            let (difference, low) = whole.overflowing_sub(trial);
            let (difference, high) = difference.overflowing_sub(u64::from(borrow));
            (less[i], borrow) = (difference, low || high);
        }
        if !borrow {
            std::mem::swap(&mut remainder, &mut less);
        }
        let mut next = u64::from(!borrow);
        root.push(u32::from(!borrow));
        for limb in &mut found[..used] {
            (*limb, next) = (*limb << 1 | next, *limb >> 63);
        }
    }
}

/// Drops the zeros at the high end, up to the last bit.
fn trim(number: &mut Vec<u32>) {
    let top = number.iter().rposition(|&bit| bit == 1).unwrap_or(0);
    number.truncate(top + 1);
}
