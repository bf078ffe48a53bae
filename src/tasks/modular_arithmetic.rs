//! Numbers modulo 5 joined by `+`, `-` and `*`, which goes first; their value.

use super::expression::{MODULUS, PLUS, TIMES, apply};
use super::{Level, Rules, one};
use crate::random::Random;

pub(super) static RULES: Rules = Rules {
    level: Level::Regular,
    input_size: 9,
    output_size: 5,
    // A number more than there are operators.
    input_length: |length| length - (length + 1) % 2,
    output_length: one,
    terminated: false,
    draw,
    answer,
};

fn draw(input: &mut [u32], random: &mut Random) {
    for (i, symbol) in input.iter_mut().enumerate() {
        *symbol = if i % 2 == 0 { random.below(MODULUS) } else { PLUS + random.below(3) };
    }
}

fn answer(input: &[u32], target: &mut Vec<u32>) {
    // The terms so far, and the operator before the product that is still growing.
    let (mut sum, mut operator) = (0, PLUS);
    let mut product = input.first().map_or(0, |digit| digit % MODULUS);
    for pair in input[input.len().min(1)..].chunks_exact(2) {
        let digit = pair[1] % MODULUS;
        if pair[0] == TIMES {
            product = apply(product, TIMES, digit);
        } else {
            sum = apply(sum, operator, product);
            (operator, product) = (pair[0], digit);
        }
    }
    target.push(apply(sum, operator, product));
}
