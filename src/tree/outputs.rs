//! Which prefixes of a sequence are wanted, and whether it has them.

use crate::error::{Error, Result};

/// Which prefixes of a sequence are wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outputs {
    /// Every one: `T` outputs.
    All,
    /// That of the whole sequence.
    Last,
    /// The last `n`.
    LastN(usize),
    /// Those at these positions, strictly ascending.
    At(Vec<usize>),
}

impl Outputs {
    /// How many outputs a sequence of `time` steps has.
    pub fn count(&self, time: usize) -> usize {
        match self {
            Outputs::All => time,
            Outputs::Last => 1,
            Outputs::LastN(n) => *n,
            Outputs::At(positions) => positions.len(),
        }
    }

    /// The position of output `j` of a sequence of `time` steps.
    ///
    /// # Panics
    /// If such a sequence has no output `j`.
    pub fn position(&self, time: usize, j: usize) -> usize {
        match self {
            Outputs::All => j,
            Outputs::Last => time - 1,
            Outputs::LastN(n) => time - n + j,
            Outputs::At(positions) => positions[j],
        }
    }

    /// Refuses a sequence of `time` steps, at least one, that has not these outputs.
    pub(super) fn check(&self, sequence: usize, time: usize) -> Result<()> {
        let refuse = |expected: &str, found: String| {
            let expected = format!("{expected}, for the {time} steps of sequence {sequence}");
            Err(Error::argument("outputs", expected, found))
        };
        match self {
            Outputs::LastN(n) if *n == 0 || *n > time => {
                refuse(&format!("the last 1 to {time}"), format!("LastN({n})"))
            }
            Outputs::At(positions) => {
                // Checked in this order, the last position is the largest.
                if let Some(pair) = positions.windows(2).find(|pair| pair[0] >= pair[1]) {
                    return refuse("strictly ascending positions", format!("{} after {}", pair[1], pair[0]));
                }
                match positions.last() {
                    None => refuse("at least one position", "none".into()),
                    Some(last) if *last >= time => {
                        refuse(&format!("positions below {time}"), format!("position {last}"))
                    }
                    Some(_) => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
