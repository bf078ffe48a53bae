//! Bits; whether the pairs `01` and `10` are odd in number.

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
    // Every such pair changes the bit, so only the two ends matter.
    target.push(u32::from(input.first() != input.last()));
}
