//! Two numbers, lowest bits first; their sum.

use super::{Level, Rules, binary, same};

pub(super) static RULES: Rules = Rules {
    level: Level::ContextSensitive,
    input_size: 3,
    output_size: 3,
    input_length: same,
    // Room for the carry and the end.
    output_length: |length| length + 1,
    terminated: true,
    draw: binary::draw_pair,
    answer,
};

fn answer(input: &[u32], target: &mut Vec<u32>) {
    // One number alone is its own sum.
    let (n, m) = binary::split(input).unwrap_or((input, &[]));
    binary::add(n, m, target);
}
