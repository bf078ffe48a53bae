//! `expression = value` in `+` and `-` modulo 5 with one digit hidden; the digit.

use super::expression::{MINUS, MODULUS, TIMES};
use super::{Level, Rules, expression, one, same};
use crate::random::Random;

/// `(`, above `+ -`.
const OPEN: u32 = 7;
/// `x`.
const HIDDEN: u32 = 9;
/// `=`.
const EQUALS: u32 = 10;

pub(super) static RULES: Rules = Rules {
    level: Level::DeterministicContextFree,
    input_size: 11,
    output_size: 5,
    input_length: same,
    output_length: one,
    terminated: false,
    draw,
    answer,
};

fn draw(input: &mut [u32], random: &mut Random) {
    // Shorter ones have no room for an equation and stay zeros.
    let [expression @ .., equals, value] = input else { return };
    if expression.is_empty() {
        return;
    }
    expression::draw(expression, OPEN, random);
    (*equals, *value) = (EQUALS, expression::value(expression.iter().copied(), OPEN));
    // The first digit from a uniform place on, and round again from the start.
    let (before, after) = expression.split_at_mut(random.below(expression.len() as u32) as usize);
    let hidden = after.iter_mut().chain(before).find(|symbol| **symbol < MODULUS);
    hidden.into_iter().for_each(|digit| *digit = HIDDEN);
}

fn answer(input: &[u32], target: &mut Vec<u32>) {
    target.push(match input {
        [expression @ .., EQUALS, value] => {
            let with = |digit| {
                let symbols = expression.iter().map(|&symbol| if symbol == HIDDEN { digit } else { symbol });
                expression::value(symbols, OPEN)
            };
            // The expression's value is that with a 0 there, plus or minus the digit.
            let (zero, one) = (with(0), with(1));
            let sign = expression::apply(one, MINUS, zero);
            expression::apply(sign, TIMES, expression::apply(value % MODULUS, MINUS, zero))
        }
        _ => 0,
    });
}
