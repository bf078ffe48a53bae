//! The Parallel Recursive LSTM (Gaudreault & Mao, 2026, arXiv 2605.17108): a learned, gated, non-associative merge of
//! neighbouring states over the tree of a parallel scan.
//!
//! [`Model`], [`Session`] and [`Streams`] are a model at work, [`Parameters`], [`Tape`] and [`Adam`] train one. The
//! data's road is tokens → leaf → steps of merges ([`tree`] plans them, a [`backend`] runs them) → read-out → loss, and
//! the tape walks it back. [`mod@reference`] is the slow version that can be checked by eye; everything is compared with it.
//!
//! The library prints nothing, catches no signal, sets no global and builds no thread pool: passes run on the rayon
//! pool of the caller.

pub mod backend;
#[cfg(feature = "tasks")]
pub mod bench;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod error;
#[cfg(feature = "tasks")]
pub mod evaluate;
#[cfg(feature = "tasks")]
pub mod golden;
mod identity;
pub mod model;
pub mod optim;
pub mod plan;
pub mod random;
pub mod reference;
mod room;
pub mod session;
pub mod stream;
pub mod tape;
#[cfg(feature = "tasks")]
pub mod tasks;
#[cfg(feature = "tasks")]
pub mod train;
pub mod tree;
#[cfg(feature = "tasks")]
pub mod verify;

pub use backend::Dtype;
pub use backend::cpu::{Cpu, CpuPath};
#[cfg(feature = "cuda")]
pub use backend::cuda::Cuda;
pub use error::{Error, Result};
pub use model::{Cell, Checkpoint, Config, Model, Parameters, Recurrence};
pub use optim::{Adam, Optimizer};
pub use plan::Plan;
pub use session::{Output, Session};
pub use stream::{StreamId, Streams};
pub use tape::Tape;
pub use tree::Outputs;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
