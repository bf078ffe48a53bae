//! Bits; whether the ones are odd in number.

use super::{Level, Rules, one, same, uniform};

pub(super) static RULES: Rules = Rules {
    level: Level::Regular,
    input_size: 2,
    output_size: 2,
    input_length: same,
    output_length: one,
    terminated: false,
    draw: uniform::<2>,
    answer,
};

fn answer(input: &[u32], target: &mut Vec<u32>) {
    target.push(input.iter().fold(0, |parity, bit| parity ^ bit & 1));
}
