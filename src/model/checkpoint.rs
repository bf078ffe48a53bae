//! Checkpoints: safetensors with one metadata key, written whole or not at all.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

use super::parameters::check_finite;
use super::{Config, Layout};
use crate::error::{Error, Result};

/// The format that this version writes and reads.
const FORMAT: u64 = 1;
/// The metadata key that holds everything but tensors.
const KEY: &str = "pr_lstm";

/// A model at a point of its training, on the host.
///
/// On disk: safetensors, one F32 tensor a parameter (`leaf.w`, `merge.b`, `unary.0.w` …), the optimiser's moments
/// as `adam.m.*` and `adam.v.*`, and one metadata key `pr_lstm` with JSON
/// `{format: 1, config: {cell, recurrence, input, hidden, unary_layers, output}, dtype, task, seed, step}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The model's shape.
    pub config: Config,
    /// The task it was trained on, if it was one of the fifteen.
    pub task: Option<String>,
    /// The run's seed.
    pub seed: u64,
    /// Steps taken.
    pub step: u64,
    /// The parameters, flat, laid out as [`Config::layout`] says.
    pub parameters: Vec<f32>,
    /// Adam's first and second moments, laid out alike.
    pub moments: Option<[Vec<f32>; 2]>,
}

impl Checkpoint {
    /// A checkpoint of parameters alone.
    pub fn new(config: Config, parameters: Vec<f32>) -> Self {
        Checkpoint { config, task: None, seed: 0, step: 0, parameters, moments: None }
    }

    /// Reads a checkpoint.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::File`] if it is not a checkpoint, is cut short, or a tensor is
    /// missing, unknown or has another shape than its configuration says; [`Error::Format`] if a newer version wrote it;
    /// [`Error::NotFinite`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes =
            std::fs::read(path).map_err(|source| Error::Io { action: "read", path: path.into(), source })?;
        let file = |problem: String| Error::File { path: path.into(), problem };
        let (header, tensors) = SafeTensors::read_metadata(&bytes)
            .and_then(|(_, header)| Ok((header, SafeTensors::deserialize(&bytes)?)))
            .map_err(|error| match cut_tensor(&bytes) {
                Some(name) => file(format!("cut short: tensor `{name}` is not whole; copy the file again")),
                None => file(format!("not a whole safetensors file ({error})")),
            })?;
        let text = header.metadata().as_ref().and_then(|metadata| metadata.get(KEY)).ok_or_else(|| {
            file(format!("not a checkpoint of this crate: its metadata has no key `{KEY}`"))
        })?;
        let json: Value =
            serde_json::from_str(text).map_err(|error| file(format!("metadata `{KEY}`: {error}")))?;
        let number = |value: &Value, name: &str| {
            value[name].as_u64().ok_or_else(|| file(format!("metadata `{KEY}`: no whole number `{name}`")))
        };
        let found = number(&json, "format")?;
        if found != FORMAT {
            return Err(Error::Format { origin: path.display().to_string(), found, supported: FORMAT });
        }
        let config = Config::from_json(&json["config"]).ok_or_else(|| {
            let wanted = "config with cell (`lstm` or `rnn`), recurrence (`tree`, if it is there, or `sequential`), \
                          input, hidden, unary_layers and output";
            file(format!("metadata `{KEY}`: no {wanted}"))
        })?;
        if json["dtype"] != "f32" {
            return Err(file(format!("metadata `{KEY}`: dtype {}, this version reads f32", json["dtype"])));
        }
        let layout = config.layout().map_err(|error| file(error.to_string()))?;
        // Before the buffers are made: a hostile configuration must not ask for more than the file holds.
        if layout.len().saturating_mul(4) > bytes.len() {
            let wanted = layout.len();
            return Err(file(format!(
                "its configuration wants {wanted} parameters, more than the file holds"
            )));
        }
        let read = |prefix: &str| {
            let flat = read_tensors(&tensors, &layout, prefix).map_err(file)?;
            let origin = format!("{}: tensor {prefix}", path.display());
            check_finite(&layout, &flat).map_err(|error| in_tensors_of(&origin, error))?;
            Ok(flat)
        };
        let known = |name: &str| {
            let moments = name.strip_prefix("adam.m.").or_else(|| name.strip_prefix("adam.v."));
            layout.get(moments.unwrap_or(name)).is_some()
        };
        if let Some(name) = tensors.names().into_iter().find(|name| !known(name)) {
            return Err(file(format!("tensor `{name}` is none that its configuration has")));
        }
        let parameters = read("")?;
        let has_moments = tensors.names().iter().any(|name| name.starts_with("adam."));
        let moments = if has_moments { Some([read("adam.m.")?, read("adam.v.")?]) } else { None };
        Ok(Checkpoint {
            task: json["task"].as_str().map(str::to_owned),
            seed: number(&json, "seed")?,
            step: number(&json, "step")?,
            config,
            parameters,
            moments,
        })
    }

    /// Writes the checkpoint to a temporary file beside `path`, syncs it and renames it: a crash leaves the old one.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Argument`] if a buffer's length is not the configuration's; [`Error::NotFinite`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let layout = self.config.layout()?;
        let mut groups = vec![("", &self.parameters)];
        if let Some([m, v]) = &self.moments {
            groups.extend([("adam.m.", m), ("adam.v.", v)]);
        }
        let mut tensors = Vec::new();
        for (prefix, flat) in groups {
            if flat.len() != layout.len() {
                let name = format!("checkpoint.{prefix}*");
                return Err(Error::argument(name, format!("{} elements", layout.len()), flat.len()));
            }
            check_finite(&layout, flat).map_err(|error| in_tensors_of(prefix, error))?;
            for parameter in &layout.names {
                let bytes = bytemuck::cast_slice(&flat[parameter.range.clone()]);
                let view = TensorView::new(Dtype::F32, parameter.shape.clone(), bytes)
                    .map_err(|error| Error::argument(&parameter.name, "a tensor", error))?;
                tensors.push((format!("{prefix}{}", parameter.name), view));
            }
        }
        let json = json!({
            "format": FORMAT,
            "config": self.config.to_json(),
            "dtype": "f32",
            "task": self.task,
            "seed": self.seed,
            "step": self.step,
        });
        let metadata = HashMap::from([(KEY.to_owned(), json.to_string())]);
        let bytes = safetensors::serialize(tensors, Some(metadata))
            .map_err(|error| Error::argument("checkpoint", "tensors that safetensors takes", error))?;
        write_atomically(path, &bytes)
    }
}

/// The error with the place of its tensor before its name.
fn in_tensors_of(prefix: &str, error: Error) -> Error {
    match error {
        Error::NotFinite { tensor, index, value } => {
            Error::NotFinite { tensor: format!("{prefix}{tensor}"), index, value }
        }
        other => other,
    }
}

/// The first tensor, in the order of the file, that ends beyond the file's end; None if even the header does.
fn cut_tensor(bytes: &[u8]) -> Option<String> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (header, data) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let header: Value = serde_json::from_slice(header).ok()?;
    let end = |tensor: &Value| tensor["data_offsets"][1].as_u64().filter(|&end| end > data.len() as u64);
    let cut = header.as_object()?.iter().filter_map(|(name, tensor)| Some((end(tensor)?, name)));
    cut.min().map(|(_, name)| name.clone())
}

fn read_tensors(tensors: &SafeTensors<'_>, layout: &Layout, prefix: &str) -> Result<Vec<f32>, String> {
    let mut flat = vec![0.0; layout.len()];
    for parameter in &layout.names {
        let name = format!("{prefix}{}", parameter.name);
        let tensor = tensors.tensor(&name).map_err(|_| format!("tensor `{name}` is missing"))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != parameter.shape {
            return Err(format!(
                "tensor `{name}`: expected F32 {:?} by its configuration, got {:?} {:?}",
                parameter.shape,
                tensor.dtype(),
                tensor.shape()
            ));
        }
        for (to, from) in flat[parameter.range.clone()].iter_mut().zip(tensor.data().chunks_exact(4)) {
            *to = f32::from_le_bytes([from[0], from[1], from[2], from[3]]);
        }
    }
    Ok(flat)
}

/// Writes a file whole or not at all.
///
/// # Errors
/// [`Error::Io`].
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let io = |action| move |source| Error::Io { action, path: path.into(), source };
    let mut builder = tempfile::Builder::new();
    // As any new file, less what the umask takes away.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(io("create a file beside"))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(io("write"))?;
    file.persist(path).map_err(|error| io("replace")(error.error))?;
    // The rename itself is on disk once the folder is; not every system lets a folder be opened.
    if let Ok(folder) = std::fs::File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}
