//! A positive number, highest bit first; the floor of its square root.

use super::{Level, Rules, binary, same};

pub(super) static RULES: Rules = Rules {
    level: Level::ContextSensitive,
    input_size: 2,
    output_size: 2,
    input_length: same,
    output_length: |length| length.div_ceil(2),
    terminated: false,
    draw: binary::draw_positive,
    answer: binary::sqrt,
};
