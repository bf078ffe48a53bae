//! What a model is: its configuration, its parameters, its checkpoints. Knows nothing of how a device computes.

mod checkpoint;
mod config;
mod parameters;

use std::path::Path;
use std::sync::Arc;

pub use checkpoint::{Checkpoint, write_atomically};
pub use config::{Cell, Config, Layout, LinearRange, ParameterRange, Recurrence};
pub(crate) use parameters::too_large;
pub use parameters::{Parameters, initial};

use crate::backend::{Backend, Dtype, Pass};
use crate::error::Result;
use crate::session::SessionBuilder;
use crate::stream::Streams;

/// A model ready to run on a device: `Send + Sync`, cheap to clone.
#[derive(Debug)]
pub struct Model<B: Backend> {
    shared: Arc<Shared<B>>,
}

#[derive(Debug)]
struct Shared<B: Backend> {
    config: Config,
    backend: B,
    weights: Arc<B::Weights>,
}

impl<B: Backend> Clone for Model<B> {
    fn clone(&self) -> Self {
        Model { shared: Arc::clone(&self.shared) }
    }
}

impl<B: Backend> Model<B> {
    /// The model of a checkpoint, packed for inference.
    ///
    /// # Errors
    /// Those of [`Checkpoint::read`] and of the device's allocator.
    pub fn load(path: impl AsRef<Path>, backend: B) -> Result<Self> {
        Self::new(&Checkpoint::read(path)?, backend)
    }

    /// The same with weights and `h` kept as `dtype`.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`Error::Unavailable`](crate::Error::Unavailable) if the device lacks that type.
    pub fn load_as(path: impl AsRef<Path>, backend: B, dtype: Dtype) -> Result<Self> {
        Self::load(path, backend.with_dtype(dtype)?)
    }

    /// The model of a checkpoint in memory, packed for inference.
    ///
    /// # Errors
    /// Those of [`Parameters::new`] and of the device's allocator.
    pub fn new(checkpoint: &Checkpoint, backend: B) -> Result<Self> {
        let layout = checkpoint.config.layout()?;
        let flat = &checkpoint.parameters;
        if flat.len() != layout.len() {
            let expected = format!("{} elements", layout.len());
            return Err(crate::Error::argument("checkpoint.parameters", expected, flat.len()));
        }
        parameters::check_finite(&layout, flat)?;
        parameters::check_range(&layout, flat, &backend)?;
        let mut buffer = backend.alloc(flat.len())?;
        backend.upload(flat, backend.view_mut(&mut buffer, 0, flat.len()))?;
        let mut weights = backend.weights(&checkpoint.config, Pass::Infer)?;
        backend.pack(backend.view(&buffer, 0, flat.len()), &mut weights)?;
        Ok(Self::from_weights(checkpoint.config.clone(), backend, Arc::new(weights)))
    }

    pub(crate) fn from_weights(config: Config, backend: B, weights: Arc<B::Weights>) -> Self {
        Model { shared: Arc::new(Shared { config, backend, weights }) }
    }

    /// The same weights with what they run on told another way.
    #[cfg(feature = "cuda")]
    pub(crate) fn on(&self, backend: B) -> Self {
        Self::from_weights(self.config().clone(), backend, Arc::clone(&self.shared.weights))
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// The device.
    pub fn backend(&self) -> &B {
        &self.shared.backend
    }

    pub(crate) fn weights(&self) -> &B::Weights {
        &self.shared.weights
    }

    /// Bytes of packed weights on the device.
    pub fn weights_bytes(&self) -> usize {
        self.backend().weights_bytes(self.weights())
    }

    /// A session for batches: set its limits, then [`build`](SessionBuilder::build) it.
    pub fn session(&self) -> SessionBuilder<B> {
        SessionBuilder::new(self.clone())
    }

    /// Room for `capacity` streams of up to 2^20 tokens each, see [`Streams::new`].
    ///
    /// # Errors
    /// Those of [`Streams::new`].
    pub fn streams(&self, capacity: usize) -> Result<Streams<B>> {
        Streams::new(self, capacity, 1 << 20)
    }
}
