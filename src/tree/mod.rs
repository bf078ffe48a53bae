//! The tree of merges as a schedule of steps: whole, pruned, ragged, or growing. Knows nothing of devices.
//!
//! The prefix at `t` folds, from the left, the aligned blocks whose sizes are the powers of two in `t + 1`,
//! largest first; an aligned block merges its two halves. A merge runs in the step after its later child.

mod counter;
mod planner;
mod schedule;

pub use counter::{Counter, Slots};
pub use planner::{Planner, Rows};
pub use schedule::{Readers, Schedule, Step};

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
    pub fn position(&self, time: usize, j: usize) -> usize {
        match self {
            Outputs::All => j,
            Outputs::Last => time - 1,
            Outputs::LastN(n) => time - n + j,
            Outputs::At(positions) => positions[j],
        }
    }

    /// Whether a sequence of `time` steps has these outputs.
    fn check(&self, sequence: usize, time: usize) -> Result<()> {
        let of = |expected: String, found: String| {
            Err(Error::argument(format!("outputs of sequence {sequence}, {time} steps"), expected, found))
        };
        match self {
            Outputs::LastN(n) if *n == 0 || *n > time => of(format!("1 to {time}"), format!("LastN({n})")),
            Outputs::At(positions) => match positions.last() {
                None => of("at least one position".into(), "none".into()),
                Some(&last) if last >= time => {
                    of(format!("positions below {time}"), format!("position {last}"))
                }
                _ if !positions.is_sorted_by(|a, b| a < b) => {
                    of("strictly ascending positions".into(), format!("{positions:?}"))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
