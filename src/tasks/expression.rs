//! Bracketed expressions modulo 5: `d`, `-d`, `(d)`, `(-d)`, and `(left operator right)`.
//!
//! Digits are 0 to 4, operators from 5 on. The tasks differ in whether there is a `*`, so a bracket's symbol
//! is an argument: the operators are those below `open`, and the closing bracket is the next one.

use crate::random::Random;

/// What everything is computed modulo.
pub(super) const MODULUS: u32 = 5;
/// `+`.
pub(super) const PLUS: u32 = 5;
/// `-`, of two numbers or of one.
pub(super) const MINUS: u32 = 6;
/// `*`, in the tasks that have it.
pub(super) const TIMES: u32 = 7;

/// Draws an expression as long as the slice: the shortest four as above, and from 5 on two of them, the left
/// one's length uniform, about a uniform operator.
pub(super) fn draw(expression: &mut [u32], open: u32, random: &mut Random) {
    let mut pending = vec![expression];
    while let Some(part) = pending.pop() {
        match part {
            [] => {}
            [digit] => *digit = random.below(MODULUS),
            [minus, digit] => (*minus, *digit) = (MINUS, random.below(MODULUS)),
            [left, inner @ .., right] => {
                (*left, *right) = (open, open + 1);
                // One symbol is a digit and two are its negative: an expression each, but not to be drawn so.
                if inner.len() > 2 {
                    let (first, rest) = inner.split_at_mut(1 + random.below(inner.len() as u32 - 2) as usize);
                    let (operator, second) = rest.split_at_mut(1);
                    operator[0] = PLUS + random.below(open - PLUS);
                    pending.extend([second, first]);
                } else {
                    pending.push(inner);
                }
            }
        }
    }
}

/// The expression's value modulo 5.
pub(super) fn value(expression: impl IntoIterator<Item = u32>, open: u32) -> u32 {
    /// What stands to the left in a bracket: a value, the operator that waits for the next one, its sign.
    struct Open {
        value: u32,
        operator: Option<u32>,
        negative: bool,
    }
    const NEW: Open = Open { value: 0, operator: Some(PLUS), negative: false };
    let (mut outer, mut bracket) = (Vec::new(), NEW);
    for symbol in expression {
        let operand = if symbol < MODULUS {
            symbol
        } else if symbol < open {
            // Where a value is due, a minus is a sign.
            bracket.negative = bracket.operator.is_some() && symbol == MINUS;
            bracket.operator = bracket.operator.or(Some(symbol));
            continue;
        } else if symbol == open {
            outer.push(std::mem::replace(&mut bracket, NEW));
            continue;
        } else {
            std::mem::replace(&mut bracket, outer.pop().unwrap_or(NEW)).value
        };
        let signed = if bracket.negative { MODULUS - operand } else { operand };
        bracket.value = apply(bracket.value, bracket.operator.take().unwrap_or(PLUS), signed);
        bracket.negative = false;
    }
    bracket.value
}

/// `left operator right` modulo 5; `right` may be 5.
pub(super) fn apply(left: u32, operator: u32, right: u32) -> u32 {
    (match operator {
        MINUS => left + MODULUS - right,
        TIMES => left * right,
        _ => left + right,
    }) % MODULUS
}
