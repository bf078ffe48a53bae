//! What several test files need: where golden data lies, numbers drawn from a seed; batches and their passes
//! (`batch`), one pass at the backend's own line (`pass`), the oracle and how far one result is from another (`measure`).
//! The device of the CUDA suite: `device`.
#![allow(dead_code, unused_imports)] // each test file uses its own part

pub mod allocator;
mod batch;
#[cfg(feature = "cuda")]
pub mod device;
mod measure;
mod pass;
#[cfg(feature = "cuda")]
pub mod ptxas;

pub use batch::*;
pub use measure::*;
pub use pass::*;

use std::path::{Path, PathBuf};

use pr_lstm::Config;
use pr_lstm::random::{Purpose, Random};

/// A file of `tests/golden`: of the folder that cargo names as the test runs, or that the test was built in.
pub fn golden(name: &str) -> PathBuf {
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&folder).join("tests/golden").join(name)
}

/// Every golden cell file, in alphabetical order.
pub fn cell_files() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(golden("cell")).expect("tests/golden/cell");
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert_eq!(files.len(), 16, "golden cell files");
    files
}

/// Random numbers of that seed.
pub fn random(seed: u64) -> Random {
    Random::new(seed, Purpose::Show, 0, 0)
}

/// Normal numbers, truncated at two standard deviations.
pub fn normals(random: &mut Random, count: usize, scale: f64) -> Vec<f64> {
    (0..count).map(|_| scale * random.truncated_normal()).collect()
}

/// Random parameters, flat: weights of deviation `scale / √fan_in`, biases of deviation `scale / 4`.
pub fn parameters(config: &Config, random: &mut Random, scale: f64) -> Vec<f64> {
    let layout = config.layout().expect("a layout");
    let draw = |parameter: &pr_lstm::model::ParameterRange| {
        let deviation = match parameter.shape[..] {
            [fan_in, _] => scale / (fan_in as f64).sqrt(),
            _ => scale / 4.0,
        };
        normals(random, parameter.range.len(), deviation)
    };
    layout.names.iter().flat_map(draw).collect()
}
