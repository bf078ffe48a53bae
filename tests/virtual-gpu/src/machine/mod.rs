//! The machine: memory, warps, blocks, and launches over the cores.

pub mod access;
pub mod alu;
pub mod block;
pub mod exec;
pub mod global;
pub mod history;
pub mod launch;
pub mod load_store;
pub mod mma;
pub mod number;
pub mod order;
pub mod shared;
pub mod sync;
pub mod transfer;
pub mod warp;
pub mod wgmma;

/// Why a launch failed.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The driver's error code.
    pub code: u32,
    /// Kernel, line, block, thread, address and what is wrong.
    pub text: String,
}

/// The result of a step of the machine.
pub type Step<T = ()> = Result<T, Box<Fault>>;
