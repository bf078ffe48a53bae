//! A CUDA driver without a GPU.
//!
//! The package builds `libcuda.so`: the driver calls that `cudarc` makes, over a machine that interprets the
//! very PTX that nvcc produced, a warp at a time, and is strict where a card is silent. An error names the
//! kernel, the line of the PTX, the block, the thread and the address; it is printed on standard error, kept
//! for [`last_error`], and the launch fails as it would on a card: the next call that waits says so.
//!
//! A test loads it before `cudarc` makes its first call:
//!
//! ```no_run
//! virtual_gpu::load().expect("the virtual GPU was built with the tests");
//! // cudarc::driver::CudaContext::new(0) …
//! ```
//!
//! A program that a test starts finds it through `LD_LIBRARY_PATH` set to [`directory`].
//!
//! | variable | meaning, default |
//! |---|---|
//! | `PR_LSTM_VIRTUAL_GPU_CHIP` | the chip, `sm_80` |
//! | `PR_LSTM_VIRTUAL_GPU_SMS` | multiprocessors, the chip's |
//! | `PR_LSTM_VIRTUAL_GPU_MEMORY` | bytes of memory (`K`, `M`, `G` after the number), `4G` |
//! | `PR_LSTM_VIRTUAL_GPU_COUNT` | devices, 1 |
//! | `PR_LSTM_VIRTUAL_GPU_DRIVER` | the driver's version, `13000` |
//! | `PR_LSTM_VIRTUAL_GPU_SEED` | shuffles warps and blocks, 0: no shuffle |
//! | `PR_LSTM_VIRTUAL_GPU_STRICT_FLOAT` | refuses kernels with a bare `mul.f32`, `add.f32`, `sub.f32` |
//! | `PR_LSTM_VIRTUAL_GPU_REPORT` | a file that gets a row of counts a launch |
//! | `PR_LSTM_VIRTUAL_GPU_THREADS` | threads to run blocks on, all cores |
//! | `PR_LSTM_VIRTUAL_GPU_TIMEOUT` | seconds a launch may take, 120 |

#![allow(non_snake_case)]

pub mod config;
pub mod counters;
pub mod driver;
pub mod host;
pub mod machine;
pub mod model;
pub mod ptx;

pub use host::{Launched, allocations, calls, counts, directory, last_error, launches, load, set};
