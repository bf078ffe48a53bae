//! A bracketed expression in `+`, `-` and `*` modulo 5; its value.

use super::{Level, Rules, expression, one, same};

/// `(`, above `+ - *`. The symbol 10 is counted in the input size, but never drawn.
const OPEN: u32 = 8;

pub(super) static RULES: Rules = Rules {
    level: Level::DeterministicContextFree,
    input_size: 11,
    output_size: 5,
    input_length: same,
    output_length: one,
    terminated: false,
    draw: |input, random| expression::draw(input, OPEN, random),
    answer: |input, target| target.push(expression::value(input.iter().copied(), OPEN)),
};
