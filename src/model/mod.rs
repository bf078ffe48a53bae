//! What a model is: its configuration and its parameters. Knows nothing of how a device computes.

mod config;

pub use config::{Cell, Config, Layout, LinearRange, ParameterRange};
