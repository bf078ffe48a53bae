//! Symbols of an alphabet of five; the same, sorted.

use super::{Level, Rules, same, uniform};

pub(super) static RULES: Rules = Rules {
    level: Level::ContextSensitive,
    input_size: 5,
    output_size: 5,
    input_length: same,
    output_length: same,
    terminated: false,
    draw: uniform::<5>,
    answer,
};

fn answer(input: &[u32], target: &mut Vec<u32>) {
    target.extend(input);
    target.sort_unstable();
}
