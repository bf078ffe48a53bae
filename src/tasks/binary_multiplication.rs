//! Two numbers, lowest bits first; their product.

use super::{Level, Rules, binary, same};

pub(super) static RULES: Rules = Rules {
    level: Level::ContextSensitive,
    input_size: 3,
    output_size: 3,
    input_length: same,
    output_length: same,
    terminated: true,
    draw: binary::draw_pair,
    answer,
};

fn answer(input: &[u32], target: &mut Vec<u32>) {
    match binary::split(input) {
        Some((n, m)) => binary::multiply(n, m, target),
        // One number alone has no product: the zeros that leave room for the end.
        None => target.resize(input.len().saturating_sub(1), 0),
    }
}
