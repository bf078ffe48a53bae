//! Moves on a cycle of five places from place 0; where they lead.

use super::{Level, Rules, one, same, uniform};

pub(super) static RULES: Rules = Rules {
    level: Level::Regular,
    input_size: 3,
    output_size: 5,
    input_length: same,
    output_length: one,
    terminated: false,
    draw: uniform::<3>,
    answer,
};

fn answer(input: &[u32], target: &mut Vec<u32>) {
    // Left, stay, right = 0, 1, 2: a step of 4, 0, 1 places to the right.
    target.push(input.iter().fold(0, |place, step| (place + step % 3 + 4) % 5));
}
