//! A stack of bits, its top last, and what to do with it; the final stack, its top first.

use super::{Level, Rules, same};
use crate::random::Random;

/// Takes the top.
const POP: u32 = 2;
/// Puts a 0 on top; the next symbol puts a 1.
const PUSH: u32 = 3;

pub(super) static RULES: Rules = Rules {
    level: Level::DeterministicContextFree,
    input_size: 5,
    output_size: 3,
    input_length: same,
    output_length: |length| length + 1,
    terminated: true,
    draw,
    answer,
};

/// At least one bit and one action, as far as there is room for both.
fn draw(input: &mut [u32], random: &mut Random) {
    let depth = match input.len() {
        0 | 1 => input.len(),
        length => 1 + random.below(length as u32 - 1) as usize,
    };
    let (stack, actions) = input.split_at_mut(depth);
    super::bits(stack, random);
    actions.fill_with(|| POP + random.below(3));
}

fn answer(input: &[u32], target: &mut Vec<u32>) {
    for &symbol in input {
        if symbol == POP {
            // Nothing happens to an empty stack.
            target.pop();
        } else {
            target.push(symbol.checked_sub(PUSH).unwrap_or(symbol) & 1);
        }
    }
    target.reverse();
}
