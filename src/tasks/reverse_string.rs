//! Bits; the same from the last to the first.

use super::{Level, Rules, same, uniform};

pub(super) static RULES: Rules = Rules {
    level: Level::DeterministicContextFree,
    input_size: 2,
    output_size: 2,
    input_length: same,
    output_length: same,
    terminated: false,
    draw: uniform::<2>,
    answer,
};

fn answer(input: &[u32], target: &mut Vec<u32>) {
    target.extend(input.iter().rev());
}
