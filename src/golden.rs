//! Golden data, made with the paper's own code: reading it, and how far a result is from it. Knows no model; a
//! damaged file is refused with the name of the tensor.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};
use crate::model::{Cell, Config, Recurrence};

/// What a golden file holds, told by the names of its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A model, a pass and its gradients: `param.leaf.w`.
    Cell,
    /// Training step by step: `step0.bits`.
    Trace,
    /// Samples of a task: `length1.input`.
    Task,
    /// A sequential baseline, a pass and its gradients: `param.lstm/linear.w` or `param.vanilla_rnn/linear.w`.
    Sequential,
    /// The input and output of a checkpoint that lies beside it, and nothing else.
    Checkpoint,
}

/// Any golden file: its metadata and its tensors.
#[derive(Clone, Debug)]
pub struct TensorFile {
    path: PathBuf,
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Clone, Debug)]
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl TensorFile {
    /// Reads a safetensors file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::File`] if it is truncated or no safetensors file.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let bytes = std::fs::read(&path).map_err(|source| Error::Io {
            action: "read",
            path: path.clone(),
            source,
        })?;
        let foreign = |error| Error::File {
            path: path.clone(),
            problem: format!("not a whole safetensors file ({error}); copy it again from where it was made"),
        };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(foreign)?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(foreign)?;
        let tensors = tensors.iter().map(|(name, view)| {
            let (dtype, shape, bytes) = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            (name.to_owned(), Tensor { dtype, shape, bytes })
        });
        let metadata = header.metadata().clone().unwrap_or_default();
        Ok(TensorFile { tensors: tensors.collect(), metadata: metadata.into_iter().collect(), path })
    }

    /// What the file holds; `None` if its names are those of no golden file.
    pub fn kind(&self) -> Option<Kind> {
        let has = |name: &str| self.tensors.contains_key(name);
        let kinds = [
            (Kind::Cell, has("param.leaf.w")),
            (Kind::Trace, has("step0.bits")),
            (Kind::Task, has("length1.input")),
            (Kind::Sequential, has("param.lstm/linear.w") || has("param.vanilla_rnn/linear.w")),
            (Kind::Checkpoint, self.tensors.len() == 2 && has("input") && has("output")),
        ];
        kinds.into_iter().find(|(_, is)| *is).map(|(kind, _)| kind)
    }

    /// The path it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor.
    ///
    /// # Errors
    /// [`Error::File`] if there is none of that name.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.tensor(name)?.shape)
    }

    /// An F64 tensor of that shape, row-major.
    ///
    /// # Errors
    /// [`Error::File`] that names the tensor if it is missing, has another type or shape, or holds a value that is
    /// not finite.
    pub fn f64(&self, name: &str, shape: &[usize]) -> Result<Vec<f64>> {
        let bytes = self.bytes(name, Dtype::F64, shape)?;
        let values: Vec<f64> = bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(self.problem(format!("{name}, element {at}: {} is not finite", values[at]))),
            None => Ok(values),
        }
    }

    /// An I32 tensor of that shape, row-major.
    ///
    /// # Errors
    /// [`Error::File`] that names the tensor if it is missing or has another type or shape.
    pub fn i32(&self, name: &str, shape: &[usize]) -> Result<Vec<i32>> {
        let bytes = self.bytes(name, Dtype::I32, shape)?;
        Ok(bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect())
    }

    /// The metadata of that name.
    ///
    /// # Errors
    /// [`Error::File`] if there is none.
    pub fn metadata(&self, key: &str) -> Result<&str> {
        let value = self.metadata.get(key);
        value.map(String::as_str).ok_or_else(|| self.problem(format!("metadata {key:?} is missing")))
    }

    /// The model that the metadata describes: `cell`, `hidden_size`, `input_size`, `output_size`, `recursive_layers`.
    ///
    /// # Errors
    /// [`Error::File`] if one is missing, no number, or out of range.
    pub fn config(&self) -> Result<Config> {
        let name = self.metadata("cell")?;
        let cell = Cell::from_name(name)
            .ok_or_else(|| self.problem(format!("metadata \"cell\": expected lstm or rnn, got {name:?}")))?;
        let config = Config {
            cell,
            recurrence: Recurrence::Tree,
            input: self.number("input_size")?,
            hidden: self.number("hidden_size")?,
            unary_layers: self.number("recursive_layers")?,
            output: self.number("output_size")?,
        };
        config.layout().map_err(|error| self.problem(format!("metadata: {error}")))?;
        Ok(config)
    }

    fn number(&self, key: &str) -> Result<usize> {
        let value = self.metadata(key)?;
        value
            .parse()
            .map_err(|_| self.problem(format!("metadata {key:?}: expected a whole number, got {value:?}")))
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| self.problem(format!("tensor {name} is missing")))
    }

    fn bytes(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&[u8]> {
        let tensor = self.tensor(name)?;
        if (tensor.dtype, &tensor.shape[..]) != (dtype, shape) {
            let found = format!("{:?} {:?}", tensor.dtype, tensor.shape);
            return Err(self.problem(format!("{name}: expected {dtype:?} {shape:?}, got {found}")));
        }
        Ok(&tensor.bytes)
    }

    fn problem(&self, problem: String) -> Error {
        Error::File { path: self.path.clone(), problem }
    }
}

/// A cell file: a model, its pass over a batch, and the gradients of
/// `loss = Σ(cotangent ⊙ output) / (B·T)`. Every value is finite and every shape is as written here.
#[derive(Clone, Debug)]
pub struct CellFile {
    /// The model's configuration.
    pub config: Config,
    /// `B`.
    pub batch: usize,
    /// `T`.
    pub time: usize,
    /// `[B, T, D]`.
    pub input: Vec<f64>,
    /// `h` of all prefixes, `[B, T, H]`.
    pub hidden: Vec<f64>,
    /// `relu(hidden) · W + b`, `[B, T, O]`.
    pub output: Vec<f64>,
    /// `[B, T, O]`.
    pub cotangent: Vec<f64>,
    /// The loss.
    pub loss: f64,
    /// `param.*`, flat as [`Config::layout`] says.
    pub parameters: Vec<f64>,
    /// `grad.*` of the parameters, flat as [`Config::layout`] says.
    pub gradients: Vec<f64>,
    /// `grad.input`, `[B, T, D]`.
    pub grad_input: Vec<f64>,
}

/// The largest model read from a file, in parameters: one gibibyte of f64.
const LARGEST: usize = 1 << 27;

impl CellFile {
    /// Reads a cell file. One of a single position (`T = 1`, no merge) may leave out `merge` and `unary`: they are
    /// zero then, and so are their gradients.
    ///
    /// # Errors
    /// As [`TensorFile::read`]; [`Error::File`] that names the tensor or the metadata if the file is not a cell file,
    /// lacks a tensor or has one too many, or if a shape, a type or the metadata do not fit or a value is not finite.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_file(&TensorFile::read(path)?)
    }

    /// The same of a file that was read already.
    ///
    /// # Errors
    /// As [`CellFile::read`].
    pub fn from_file(file: &TensorFile) -> Result<Self> {
        match file.kind() {
            Some(Kind::Cell) => (),
            Some(kind) => return Err(file.problem(format!("expected a cell file, this holds a {kind:?}"))),
            None => return Err(file.problem("expected a cell file, but param.leaf.w is missing".to_owned())),
        }
        let config = file.config()?;
        let (batch, time) = (file.number("batch")?, file.number("length")?);
        if batch == 0 || time == 0 {
            return Err(file.problem(format!("metadata: batch {batch} and length {time} must be 1 or more")));
        }
        let layout = config.layout()?;
        if layout.len() > LARGEST {
            let found = layout.len();
            return Err(file.problem(format!("metadata: {found} parameters, expected {LARGEST} at most")));
        }
        let flat = |prefix: &str| -> Result<Vec<f64>> {
            let mut flat = vec![0.0; layout.len()];
            for parameter in &layout.names {
                let name = format!("{prefix}.{}", parameter.name);
                let unused = time == 1 && (name.contains(".merge.") || name.contains(".unary."));
                if unused && !file.tensors.contains_key(&name) {
                    continue;
                }
                flat[parameter.range.clone()].copy_from_slice(&file.f64(&name, &parameter.shape)?);
            }
            Ok(flat)
        };
        let known = |name: &str| match name.split_once('.') {
            None => ["input", "hidden", "output", "cotangent", "loss"].contains(&name),
            Some(("grad", "input")) => true,
            Some((prefix, name)) => ["param", "grad"].contains(&prefix) && layout.get(name).is_some(),
        };
        if let Some(name) = file.names().find(|name| !known(name)) {
            return Err(
                file.problem(format!("tensor {name} is not one of the model that the metadata describes"))
            );
        }
        let rows = |name: &str, width: usize| file.f64(name, &[batch, time, width]);
        Ok(CellFile {
            batch,
            time,
            input: rows("input", config.input)?,
            hidden: rows("hidden", config.hidden)?,
            output: rows("output", config.output)?,
            cotangent: rows("cotangent", config.output)?,
            loss: file.f64("loss", &[1])?[0],
            parameters: flat("param")?,
            gradients: flat("grad")?,
            grad_input: rows("grad.input", config.input)?,
            config,
        })
    }
}

/// A file of a sequential baseline: its weights, a pass over a batch, and the gradients of
/// `loss = Σ(cotangent ⊙ hidden) / (B·T)`. Every value is finite and every shape is as written here.
#[derive(Clone, Debug)]
pub struct SequentialFile {
    /// The model's configuration; the file has no read-out, here it is one column of zeros.
    pub config: Config,
    /// `B`.
    pub batch: usize,
    /// `T`.
    pub time: usize,
    /// `[B, T, D]`.
    pub input: Vec<f64>,
    /// `h` of all positions, `[B, T, H]`.
    pub hidden: Vec<f64>,
    /// `[B, T, H]`.
    pub cotangent: Vec<f64>,
    /// The loss.
    pub loss: f64,
    /// `param.*`, flat as [`Config::layout`] says.
    pub parameters: Vec<f64>,
    /// `grad.*` of the parameters, flat as [`Config::layout`] says.
    pub gradients: Vec<f64>,
    /// `grad.input`, `[B, T, D]`.
    pub grad_input: Vec<f64>,
}

impl SequentialFile {
    /// Reads the file of a baseline from the tensors of one that was read already.
    ///
    /// # Errors
    /// [`Error::File`] that names the tensor if the file is not one of a sequential baseline, lacks a tensor or has one
    /// too many, or if a shape or a type does not fit or a value is not finite.
    pub fn from_file(file: &TensorFile) -> Result<Self> {
        if file.kind() != Some(Kind::Sequential) {
            return Err(file.problem(format!("expected a sequential file, this holds {:?}", file.kind())));
        }
        let (cell, layers): (_, &[_]) = match file.tensors.contains_key("param.lstm/linear.w") {
            true => (Cell::Lstm, &[("recurrent", "lstm/linear")]),
            false => (Cell::Rnn, &[("input", "vanilla_rnn/linear"), ("recurrent", "vanilla_rnn/linear_1")]),
        };
        let sizes = |name: &str| match *file.shape(name)? {
            [batch, time, width] if batch > 0 && time > 0 => Ok([batch, time, width]),
            ref found => Err(file.problem(format!("{name}: expected [B, T, width], got {found:?}"))),
        };
        let ([batch, time, input], [.., hidden]) = (sizes("input")?, sizes("hidden")?);
        let config = Config::new(input, hidden, 1).cell(cell).recurrence(Recurrence::Sequential);
        let layout = config.layout().map_err(|error| file.problem(error.to_string()))?;
        // The read-out is not in the file.
        let in_file = |name: &str| {
            let (ours, part) = name.split_once('.')?;
            let (_, theirs) = layers.iter().find(|(layer, _)| *layer == ours)?;
            Some(format!("{theirs}.{part}"))
        };
        let mut known: Vec<String> =
            ["input", "hidden", "cotangent", "loss", "grad.input"].map(str::to_owned).into();
        let mut flat = |prefix: &str| -> Result<Vec<f64>> {
            let mut flat = vec![0.0; layout.len()];
            for parameter in &layout.names {
                let Some(name) = in_file(&parameter.name) else { continue };
                let name = format!("{prefix}.{name}");
                flat[parameter.range.clone()].copy_from_slice(&file.f64(&name, &parameter.shape)?);
                known.push(name);
            }
            Ok(flat)
        };
        let (parameters, gradients) = (flat("param")?, flat("grad")?);
        if let Some(name) = file.names().find(|name| !known.iter().any(|known| known == name)) {
            return Err(file.problem(format!("tensor {name} is none of a sequential baseline")));
        }
        let rows = |name: &str, width: usize| file.f64(name, &[batch, time, width]);
        Ok(SequentialFile {
            batch,
            time,
            input: rows("input", input)?,
            hidden: rows("hidden", hidden)?,
            cotangent: rows("cotangent", hidden)?,
            loss: file.f64("loss", &[1])?[0],
            parameters,
            gradients,
            grad_input: rows("grad.input", input)?,
            config,
        })
    }
}

/// The norm of `found - expected` over the norm of `expected`. It is infinite if the lengths differ, if any value is
/// NaN or infinite, or if `expected` is zero and `found` is not; 0 if both are zero or empty.
pub fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    ratio(distance(found, expected), norm(expected))
}

/// The relative error at the worst position of time, and that position, for tensors `[batch, time, width]`: one
/// wrong node among a thousand hides in the norm of a whole tensor.
///
/// The error at `t` is the norm of `found - expected` over the batch and the width at `t`, over that of `expected`
/// there, or over a thousandth of the largest such norm if that is more: a gradient that has almost died away is
/// often a difference of larger ones, of which no arithmetic has all the digits. Against a tolerance `ε` a wrong
/// node then hides only where the expected norm is below `ε/1000` of the largest. (In the golden cell files the
/// smallest is 9e-6 of the largest, so a wrong node there is an error of 9e-3 or more.)
///
/// Infinite, at position 0, if the lengths differ or are not `batch · time · width`; infinite if any value is NaN or
/// infinite, or if `expected` is zero everywhere and `found` is not.
pub fn worst_position(found: &[f64], expected: &[f64], batch: usize, time: usize) -> (f64, usize) {
    let rows = batch.saturating_mul(time);
    if found.len() != expected.len()
        || rows == 0
        || expected.is_empty()
        || !expected.len().is_multiple_of(rows)
    {
        return (f64::INFINITY, 0);
    }
    let width = expected.len() / rows;
    let at = |values: &[f64], t: usize| -> Vec<f64> {
        (0..batch).flat_map(|b| values[(b * time + t) * width..][..width].to_vec()).collect()
    };
    let norms: Vec<f64> = (0..time).map(|t| norm(&at(expected, t))).collect();
    let floor = norms.iter().copied().fold(0.0, f64::max) * 1e-3;
    let errors = (0..time).map(|t| ratio(distance(&at(found, t), &at(expected, t)), norms[t].max(floor)));
    errors.zip(0..).fold((0.0, 0), |worst, (error, t)| if error > worst.0 { (error, t) } else { worst })
}

/// By the largest element, so that no square overflows or vanishes.
fn norm(values: &[f64]) -> f64 {
    let largest = values.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    if largest == 0.0 {
        return 0.0;
    }
    largest * values.iter().map(|x| (x / largest) * (x / largest)).sum::<f64>().sqrt()
}

fn distance(found: &[f64], expected: &[f64]) -> f64 {
    if found.len() != expected.len() || found.iter().chain(expected).any(|value| !value.is_finite()) {
        return f64::INFINITY;
    }
    norm(&found.iter().zip(expected).map(|(found, expected)| found - expected).collect::<Vec<_>>())
}

/// `distance / norm`, never NaN: no distance is no error, whatever the norm; else a norm of infinity measures nothing.
fn ratio(distance: f64, norm: f64) -> f64 {
    match distance {
        0.0 => 0.0,
        _ if norm.is_finite() => distance / norm,
        _ => f64::INFINITY,
    }
}
