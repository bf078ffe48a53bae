//! A word of bits twice with one symbol hidden; the symbol.

use super::{Level, Rules, one, same};
use crate::random::Random;

/// Stands for the hidden symbol.
const HIDDEN: u32 = 2;
/// Fills up an odd length.
const PADDING: u32 = 3;

pub(super) static RULES: Rules = Rules {
    level: Level::ContextSensitive,
    input_size: 4,
    output_size: 2,
    input_length: same,
    output_length: one,
    terminated: false,
    draw,
    answer,
};

fn draw(input: &mut [u32], random: &mut Random) {
    let half = input.len() / 2;
    if half == 0 {
        return input.fill(1);
    }
    let (word, rest) = input.split_at_mut(half);
    super::bits(word, random);
    rest[..half].copy_from_slice(word);
    rest[half..].fill(PADDING);
    input[random.below(2 * half as u32) as usize] = HIDDEN;
}

fn answer(input: &[u32], target: &mut Vec<u32>) {
    let (word, rest) = input.split_at(input.len() / 2);
    let hidden = |(&a, &b): (&u32, &u32)| match (a, b) {
        (HIDDEN, symbol) | (symbol, HIDDEN) => Some(symbol & 1),
        _ => None,
    };
    // A single symbol hides nothing and has the answer 1.
    target.push(word.iter().zip(rest).find_map(hidden).unwrap_or(1));
}
