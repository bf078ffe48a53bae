//! The Parallel Recursive LSTM (Gaudreault & Mao, 2026, arXiv 2605.17108).

pub mod error;
#[cfg(feature = "tasks")]
pub mod golden;
pub mod model;
pub mod random;
pub mod reference;

pub use error::{Error, Result};
pub use model::{Cell, Config};
