//! Parameters on a device: one flat f32 buffer, and the packed weights derived from it.

use std::path::Path;
use std::sync::Arc;

use super::checkpoint::Checkpoint;
use super::{Config, Layout, Model};
use crate::backend::{Backend, Pass};
use crate::error::{Error, Result};
use crate::random::{Purpose, Random};

/// The trainable parameters of a model on a device.
#[derive(Debug)]
pub struct Parameters<B: Backend> {
    config: Config,
    layout: Layout,
    backend: B,
    pub(crate) flat: B::Buffer<f32>,
    /// Shared with models and with what a tape has recorded: an update never changes weights under them.
    weights: Arc<B::Weights>,
}

impl<B: Backend> Parameters<B> {
    /// Weights as haiku's `Linear` has them: normal, truncated at two standard deviations, σ = 1/√fan_in;
    /// biases 0. A function of the configuration and the seed.
    ///
    /// # Errors
    /// Those of [`Config::layout`] and of the device's allocator.
    pub fn init(config: &Config, backend: B, seed: u64) -> Result<Self> {
        Self::new(config, backend, &initial(config, seed)?)
    }

    /// Parameters from a flat buffer laid out as [`Config::layout`] says.
    ///
    /// # Errors
    /// [`Error::Argument`] if the length is another, [`Error::NotFinite`] if one is NaN or infinite.
    pub fn new(config: &Config, backend: B, flat: &[f32]) -> Result<Self> {
        let layout = config.layout()?;
        if flat.len() != layout.len() {
            return Err(Error::argument("flat", format!("{} parameters", layout.len()), flat.len()));
        }
        check_finite(&layout, flat)?;
        check_range(&layout, flat, &backend)?;
        // First, since a device that cannot train refuses it.
        let mut weights = backend.weights(config, Pass::Train)?;
        let mut buffer = backend.alloc(flat.len())?;
        backend.upload(flat, backend.view_mut(&mut buffer, 0, flat.len()))?;
        backend.pack(backend.view(&buffer, 0, flat.len()), &mut weights)?;
        Ok(Parameters { config: config.clone(), layout, backend, flat: buffer, weights: Arc::new(weights) })
    }

    /// The parameters of a checkpoint.
    ///
    /// # Errors
    /// Those of [`Checkpoint::read`].
    pub fn load(path: impl AsRef<Path>, backend: B) -> Result<Self> {
        let checkpoint = Checkpoint::read(path)?;
        Self::new(&checkpoint.config, backend, &checkpoint.parameters)
    }

    /// Writes a checkpoint with nothing but the parameters: atomic, step 0, no task.
    ///
    /// # Errors
    /// Those of [`Checkpoint::write`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        Checkpoint::new(self.config.clone(), self.to_vec()?).write(path)
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where each parameter lies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The device.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// All parameters, flat.
    ///
    /// # Errors
    /// The device's.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        let mut flat = vec![0.0; self.layout.len()];
        self.backend.download(self.backend.view(&self.flat, 0, flat.len()), &mut flat)?;
        Ok(flat)
    }

    /// A model of the present weights, which later updates leave alone. Copies nothing.
    pub fn model(&self) -> Model<B> {
        Model::from_weights(self.config.clone(), self.backend.clone(), Arc::clone(&self.weights))
    }

    pub(crate) fn weights(&self) -> &Arc<B::Weights> {
        &self.weights
    }

    /// Sees to it that nobody else holds the packed weights, so that they can be packed in place.
    #[cfg(feature = "cuda")]
    pub(crate) fn own_weights(&mut self) -> Result<()> {
        match Arc::get_mut(&mut self.weights) {
            Some(_) => Ok(()),
            None => self.repack(&self.backend.clone()),
        }
    }

    /// Derives the packed weights anew, in place if nobody else holds them.
    pub(crate) fn repack(&mut self, backend: &B) -> Result<()> {
        if Arc::get_mut(&mut self.weights).is_none() {
            self.weights = Arc::new(backend.weights(&self.config, Pass::Train)?);
        }
        let flat = backend.view(&self.flat, 0, self.layout.len());
        match Arc::get_mut(&mut self.weights) {
            Some(weights) => backend.pack(flat, weights),
            None => Ok(()), // not reached: the only holder was made above
        }
    }
}

/// The initial parameters of a configuration and seed, flat.
///
/// # Errors
/// Those of [`Config::layout`]; [`Error::Unavailable`] if there is not so much memory.
pub fn initial(config: &Config, seed: u64) -> Result<Vec<f32>> {
    let layout = config.layout()?;
    let mut flat = Vec::new();
    if flat.try_reserve_exact(layout.len()).is_err() {
        return Err(Error::Unavailable {
            what: format!("memory for {} parameters", layout.len()),
            why: "the system has not as much; take a smaller model".into(),
        });
    }
    flat.resize(layout.len(), 0.0);
    for (index, parameter) in (0..).zip(&layout.names) {
        if let [fan_in, _] = parameter.shape[..] {
            let mut random = Random::new(seed, Purpose::Weights, 0, index);
            let deviation = 1.0 / (fan_in as f64).sqrt();
            flat[parameter.range.clone()].fill_with(|| (random.truncated_normal() * deviation) as f32);
        }
    }
    Ok(flat)
}

/// Refuses what the device's dtype would round to infinity, naming the tensor.
pub(crate) fn check_range<B: Backend>(layout: &Layout, flat: &[f32], backend: &B) -> Result<()> {
    for parameter in &layout.names {
        let values = &flat[parameter.range.clone()];
        if let Some(index) = values.iter().position(|value| value.abs() > backend.largest()) {
            let argument = format!("{}, element {index}", parameter.name);
            return Err(too_large(argument, values[index], backend));
        }
    }
    Ok(())
}

/// A number that the device's dtype would round to infinity.
pub(crate) fn too_large<B: Backend>(argument: String, value: f32, backend: &B) -> Error {
    let expected =
        format!("at most {:e} in size for {} on {}", backend.largest(), backend.dtype(), backend.name());
    Error::argument(argument, expected, format!("{value:e}"))
}

/// Refuses NaN and infinity, naming the tensor.
pub(crate) fn check_finite(layout: &Layout, flat: &[f32]) -> Result<()> {
    for parameter in &layout.names {
        let values = &flat[parameter.range.clone()];
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let value = f64::from(values[index]);
            return Err(Error::NotFinite { tensor: parameter.name.clone(), index, value });
        }
    }
    Ok(())
}
