//! What the benchmarks time: one list of cases for Criterion, the command line and the peers of `benches/peers`. Knows
//! no peer, and not how results are shown.
//!
//! A [`Case`] says a shape and what computing it costs, [`Work`] does it, [`contest()`] times several works in turn, a
//! [`Record`] is what comes of it, one JSON object a line.

mod case;
mod contest;
mod record;
mod time;
mod work;

pub use case::{Algorithm, Case, Group, Product};
pub use contest::{Entrant, contest, peer};
pub use record::{Line, Note, Record};
pub use time::{Effort, Timing, measure, threads};
pub use work::{Contender, Work};
