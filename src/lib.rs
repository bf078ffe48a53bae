//! The Parallel Recursive LSTM (Gaudreault & Mao, 2026, arXiv 2605.17108).

pub mod backend;
pub mod error;
#[cfg(feature = "tasks")]
pub mod evaluate;
#[cfg(feature = "tasks")]
pub mod golden;
pub mod model;
pub mod optim;
pub mod random;
pub mod reference;
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

pub use backend::cpu::{Cpu, CpuPath};
pub use error::{Error, Result};
pub use model::{Cell, Checkpoint, Config, Model, Parameters};
pub use optim::{Adam, Optimizer};
pub use session::{Output, Session};
pub use stream::{StreamId, Streams};
pub use tape::Tape;
pub use tree::Outputs;
