//! Golden files through the oracle and a device: the relative error of every tensor beside its tolerance.
//! A user's check of a new machine, and ours.

mod sequential;

use std::path::{Path, PathBuf};

use crate::backend::{Backend, Dtype};
use crate::error::{Error, Result};
use crate::golden::{CellFile, relative_error, worst_position};
use crate::model::{Checkpoint, Model, Parameters};
use crate::reference;
use crate::tape::Tape;
use crate::tree::Outputs;

pub use sequential::sequential;

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

    /// Of the CPU, by the type in which it keeps weights and `h`; in bf16 it has no gradients.
    pub fn cpu(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::CPU_F32,
            _ => Self::cuda(dtype),
        }
    }

    /// Of the CUDA kernels, by the type in which they keep weights and `h`.
    pub fn cuda(dtype: Dtype) -> Self {
        let [values, gradients] = match dtype {
            Dtype::F32 => [1e-4, 1e-4],
            // A gradient also went through a z and a dz of 8 bits a layer, and a bias's is a sum of both signs.
            Dtype::Bf16 => [2e-2, 5e-2],
            // It has no gradients.
            Dtype::F16 => [5e-3, 5e-3],
        };
        Tolerances { values, gradients }
    }
}

/// Values of a pass, `[B, T, ·]`: `hidden` and `output`.
struct Values {
    hidden: Vec<f64>,
    output: Vec<f64>,
}

/// Gradients: of the parameters, flat, and of the input.
struct Gradients {
    parameters: Vec<f64>,
    input: Vec<f64>,
}

/// What a device should give.
struct Expected {
    values: Values,
    gradients: Gradients,
    loss: f64,
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
    let values = Values { hidden: pass.hidden().to_vec(), output: pass.output().to_vec() };
    let gradients =
        Gradients { parameters: gradients.parameters.to_flat(), input: gradients.input.unwrap_or_default() };
    let comparison = Comparison { file, device: "reference", tolerances: Tolerances::REFERENCE };
    let Expected { values: expected, gradients: expected_gradients, loss } = of_file(file);
    let mut checks = comparison.values(&values, &expected, loss);
    checks.extend(comparison.gradients(&gradients, &expected_gradients, true)?);
    Ok(checks)
}

/// A device's checks of a cell file: a scan over dense input, the read-out, and the way back; of a type that cannot be
/// trained in the values only. In 16 bits against the oracle with weights, input and `h` rounded to the device's type.
///
/// # Errors
/// The device's.
pub fn device<B: Backend>(file: &CellFile, backend: &B, tolerances: Tolerances) -> Result<Vec<Check>> {
    let name = backend.name();
    let comparison = Comparison { file, device: &name, tolerances };
    let Expected { values: expected, gradients: expected_gradients, loss } = match backend.dtype() {
        Dtype::F32 => of_file(file),
        dtype => rounded(file, dtype)?,
    };
    if !backend.can_train() {
        return Ok(comparison.values(&session(file, backend)?, &expected, loss));
    }
    let parameters = Parameters::new(&file.config, backend.clone(), &narrow(&file.parameters))?;
    let input = narrow(&file.input);
    let sequences: Vec<&[f32]> = input.chunks_exact(file.time * file.config.input).collect();
    let mut tape = Tape::new(&parameters, file.batch, file.time)?;
    let hidden = tape.scan_dense(&parameters, &sequences, Outputs::All)?;
    let output = tape.readout(&parameters, hidden)?;
    let gradients = tape.backward_from(output, &narrow(&d_output(file)))?.to_vec()?;
    let values = Values { hidden: widen(&tape.value(hidden)?), output: widen(&tape.value(output)?) };
    let gradients = Gradients { parameters: widen(&gradients), input: widen(&tape.d_input(hidden)?) };
    let mut checks = comparison.values(&values, &expected, loss);
    checks.extend(comparison.gradients(&gradients, &expected_gradients, backend.dtype() == Dtype::F32)?);
    Ok(checks)
}

/// The values by a session over dense input.
fn session<B: Backend>(file: &CellFile, backend: &B) -> Result<Values> {
    let checkpoint = Checkpoint::new(file.config.clone(), narrow(&file.parameters));
    let model = Model::new(&checkpoint, backend.clone())?;
    let mut session = model.session().max_batch(file.batch).max_time(file.time).dense().build()?;
    let input = narrow(&file.input);
    let sequences: Vec<&[f32]> = input.chunks_exact(file.time * file.config.input).collect();
    let output = widen(&session.forward_dense(&sequences)?);
    Ok(Values { hidden: widen(&session.hidden()?), output })
}

/// What the oracle gives where it rounds as a device of that type does; its gradients pass through the rounding. The
/// read-out is f32 in all.
fn rounded(file: &CellFile, dtype: Dtype) -> Result<Expected> {
    let round = match dtype {
        Dtype::F32 => reference::round_f32,
        Dtype::Bf16 => reference::round_bf16,
        Dtype::F16 => reference::round_f16,
    };
    // A device is given f32.
    let weights = reference::Parameters::from_flat(&file.config, &widen(&narrow(&file.parameters)))?;
    let readout = weights.readout.clone();
    let mut weights = weights.round_weights(round);
    weights.readout = readout;
    let model = reference::Model::new(&file.config, weights)?.round_hidden(round);
    let input: Vec<f64> = widen(&narrow(&file.input)).into_iter().map(round).collect();
    let pass = model.forward(&reference::Input::dense(&input, file.batch)?)?;
    let loss = d_output(file).iter().zip(pass.output()).map(|(d, y)| d * y).sum();
    let gradients = model.backward(&pass, &d_output(file))?;
    Ok(Expected {
        values: Values { hidden: pass.hidden().to_vec(), output: pass.output().to_vec() },
        gradients: Gradients {
            parameters: gradients.parameters.to_flat(),
            input: gradients.input.unwrap_or_default(),
        },
        loss,
    })
}

/// What the file holds.
fn of_file(file: &CellFile) -> Expected {
    Expected {
        values: Values { hidden: file.hidden.clone(), output: file.output.clone() },
        gradients: Gradients { parameters: file.gradients.clone(), input: file.grad_input.clone() },
        loss: file.loss,
    }
}

/// The golden files that a path names: itself, or every `.safetensors` file of a folder, sorted.
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

/// How what a device computed of a file is judged.
struct Comparison<'a> {
    file: &'a CellFile,
    device: &'a str,
    tolerances: Tolerances,
}

impl Comparison<'_> {
    fn check(&self, tensor: &str, error: f64, tolerance: f64) -> Check {
        Check { tensor: tensor.to_owned(), device: self.device.to_owned(), error, tolerance }
    }

    /// Relative error at the worst position of time.
    fn over_time(&self, found: &[f64], expected: &[f64]) -> f64 {
        worst_position(found, expected, self.file.batch, self.file.time).0
    }

    fn values(&self, found: &Values, expected: &Values, expected_loss: f64) -> Vec<Check> {
        let error = loss_error(&d_output(self.file), &found.output, expected_loss);
        let most = self.tolerances.values;
        vec![
            self.check("hidden", self.over_time(&found.hidden, &expected.hidden), most),
            self.check("output", self.over_time(&found.output, &expected.output), most),
            self.check("loss", error, most),
        ]
    }

    /// The input's gradient at the worst position, or in norm: at one with next to no gradient 16 bits see next to none.
    fn gradients(&self, found: &Gradients, expected: &Gradients, worst: bool) -> Result<Vec<Check>> {
        let Comparison { file, tolerances: Tolerances { gradients: most, .. }, .. } = *self;
        let mut checks = Vec::new();
        for parameter in &file.config.layout()?.names {
            let range = parameter.range.clone();
            let error = relative_error(&found.parameters[range.clone()], &expected.parameters[range]);
            checks.push(self.check(&format!("grad.{}", parameter.name), error, most));
        }
        let error = match worst {
            true => self.over_time(&found.input, &expected.input),
            false => relative_error(&found.input, &expected.input),
        };
        checks.push(self.check("grad.input", error, most));
        Ok(checks)
    }
}

/// The error of `Σ(d ⊙ y)`, a sum of terms of both signs: relative to what was summed, not to what was left of it.
fn loss_error(d: &[f64], y: &[f64], expected: f64) -> f64 {
    let terms = d.iter().zip(y).map(|(d, y)| d * y);
    let (loss, size) = terms.fold((0.0, 0.0), |(sum, size), term: f64| (sum + term, size + term.abs()));
    let error = (loss - expected).abs() / f64::max(size, f64::MIN_POSITIVE);
    if error.is_finite() { error } else { f64::INFINITY }
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}
