//! The kernels and the CUDA backend, one suite for the virtual GPU and for a card (`PR_LSTM_TEST_GPU=real`).
#![cfg(all(feature = "cuda", feature = "tasks"))]

#[path = "../common/mod.rs"]
mod common;

mod bits;
mod counters;
mod golden;
mod gradients;
mod integers;
mod memory;
mod modelled;
mod order;
mod planned;
mod recompute;
mod stationary;
mod steps;
mod streams;
mod tokens;
mod training;
mod tree;
mod values;
