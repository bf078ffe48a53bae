//! The tree of merges as a schedule of steps: whole, pruned, ragged, or growing. Knows nothing of devices.
//!
//! The prefix at `t` folds, from the left, the aligned blocks whose sizes are the powers of two in `t + 1`,
//! largest first; an aligned block merges its two halves. A merge runs in the step after its later child. Beside the
//! tree stands the chain of a sequential model, a step a position.

mod chain;
mod counter;
mod outputs;
mod planner;
mod schedule;
mod sequence;

pub use counter::{Counter, Slots};
pub use outputs::Outputs;
pub use planner::{Planner, Rows};
pub use schedule::{Readers, Schedule, Step};
