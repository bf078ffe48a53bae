//! Bits; those at odd indices from 0, then those at even ones.

use super::{Level, Rules, same, uniform};

pub(super) static RULES: Rules = Rules {
    level: Level::ContextSensitive,
    input_size: 2,
    output_size: 2,
    input_length: same,
    output_length: same,
    terminated: false,
    draw: uniform::<2>,
    answer,
};

fn answer(input: &[u32], target: &mut Vec<u32>) {
    target.extend(input.iter().skip(1).step_by(2).chain(input.iter().step_by(2)));
}
