//! Bits; the same twice.

use super::{Level, Rules, same, uniform};

pub(super) static RULES: Rules = Rules {
    level: Level::ContextSensitive,
    input_size: 2,
    output_size: 2,
    input_length: same,
    output_length: |length| 2 * length,
    terminated: false,
    draw: uniform::<2>,
    answer,
};

fn answer(input: &[u32], target: &mut Vec<u32>) {
    target.extend(input.iter().chain(input));
}
