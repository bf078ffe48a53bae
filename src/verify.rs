//! Golden cell files through the oracle and a device: the relative error of every tensor beside its tolerance.
//! A user's check of a new machine, and ours.

use std::path::{Path, PathBuf};

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::golden::{CellFile, relative_error, worst_position};
use crate::model::Parameters;
use crate::reference;
use crate::tape::Tape;
use crate::tree::Outputs;

/// One tensor of one file, as a device computed it.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// The tensor's name in the file: `hidden`, `output`, `loss`, `grad.merge.w`, `grad.input`.
    pub tensor: String,
    /// `reference` or the device's name.
    pub device: String,
    /// Relative error in norm; at the worst position of time where the tensor has a time.
    pub error: f64,
    /// What it may be.
    pub tolerance: f64,
}

impl Check {
    /// Whether the error is within the tolerance. NaN is not.
    pub fn ok(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// Tolerances of values and of gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    /// Of `hidden`, `output` and `loss`.
    pub values: f64,
    /// Of `grad.*`.
    pub gradients: f64,
}

impl Tolerances {
    /// Of the oracle, in f64.
    pub const REFERENCE: Self = Tolerances { values: 1e-10, gradients: 1e-10 };
    /// Of the CPU, in f32.
    pub const CPU_F32: Self = Tolerances { values: 1e-5, gradients: 1e-4 };
}

/// What a device computed of a cell file.
struct Computed {
    hidden: Vec<f64>,
    output: Vec<f64>,
    gradients: Vec<f64>,
    grad_input: Vec<f64>,
}

/// The oracle's checks of a cell file.
///
/// # Errors
/// Those of the oracle if the file does not hold a model.
pub fn reference(file: &CellFile) -> Result<Vec<Check>> {
    let weights = reference::Parameters::from_flat(&file.config, &file.parameters)?;
    let model = reference::Model::new(&file.config, weights)?;
    let pass = model.forward(&reference::Input::dense(&file.input, file.batch)?)?;
    let gradients = model.backward(&pass, &d_output(file))?;
    let computed = Computed {
        hidden: pass.hidden().to_vec(),
        output: pass.output().to_vec(),
        gradients: gradients.parameters.to_flat(),
        grad_input: gradients.input.unwrap_or_default(),
    };
    compare(file, &computed, "reference", Tolerances::REFERENCE)
}

/// A device's checks of a cell file: a scan over dense input, the read-out, and the way back.
///
/// # Errors
/// The device's.
pub fn device<B: Backend>(file: &CellFile, backend: &B, tolerances: Tolerances) -> Result<Vec<Check>> {
    let parameters = Parameters::new(&file.config, backend.clone(), &narrow(&file.parameters))?;
    let input = narrow(&file.input);
    let sequences: Vec<&[f32]> = input.chunks_exact(file.time * file.config.input).collect();
    let mut tape = Tape::new(&parameters, file.batch, file.time)?;
    let hidden = tape.scan_dense(&parameters, &sequences, Outputs::All)?;
    let output = tape.readout(&parameters, hidden)?;
    let gradients = tape.backward_from(output, &narrow(&d_output(file)))?.to_vec()?;
    let computed = Computed {
        hidden: widen(&tape.value(hidden)?),
        output: widen(&tape.value(output)?),
        gradients: widen(&gradients),
        grad_input: widen(&tape.d_input(hidden)?),
    };
    compare(file, &computed, &backend.name(), tolerances)
}

/// The cell files that a path names: itself, or every `.safetensors` file of a folder, sorted.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be read, [`Error::File`] if it holds no such file.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let io = |source| Error::Io { action: "read", path: path.into(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let file = entry.map_err(io)?.path();
        if file.extension().is_some_and(|extension| extension == "safetensors") {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        let problem = "no .safetensors file in this folder; give one of golden cell files".into();
        return Err(Error::File { path: path.into(), problem });
    }
    Ok(files)
}

/// The gradient of `loss = Σ(cotangent ⊙ output) / (B·T)`.
fn d_output(file: &CellFile) -> Vec<f64> {
    let rows = (file.batch * file.time) as f64;
    file.cotangent.iter().map(|cotangent| cotangent / rows).collect()
}

fn compare(file: &CellFile, computed: &Computed, device: &str, tolerances: Tolerances) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let mut check = |tensor: String, error: f64, tolerance: f64| {
        checks.push(Check { tensor, device: device.to_owned(), error, tolerance });
    };
    let over_time =
        |found: &[f64], expected: &[f64]| worst_position(found, expected, file.batch, file.time).0;
    check("hidden".into(), over_time(&computed.hidden, &file.hidden), tolerances.values);
    check("output".into(), over_time(&computed.output, &file.output), tolerances.values);
    // A sum of terms of both signs: its error is relative to what was summed, not to what was left of it.
    let terms: Vec<f64> = d_output(file).iter().zip(&computed.output).map(|(d, y)| d * y).collect();
    let (loss, size) = terms.iter().fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
    let error = (loss - file.loss).abs() / f64::max(size, f64::MIN_POSITIVE);
    check("loss".into(), if error.is_finite() { error } else { f64::INFINITY }, tolerances.values);
    for parameter in &file.config.layout()?.names {
        let range = parameter.range.clone();
        let error = relative_error(&computed.gradients[range.clone()], &file.gradients[range]);
        check(format!("grad.{}", parameter.name), error, tolerances.gradients);
    }
    check("grad.input".into(), over_time(&computed.grad_input, &file.grad_input), tolerances.gradients);
    Ok(checks)
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}
