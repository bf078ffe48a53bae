//! Adam as the paper uses it: the global norm clipped, then Kingma & Ba's update with ε outside the root.

use crate::backend::{AdamBuffers, Backend};
use crate::error::{Error, Result};
use crate::model::Parameters;
use crate::tape::Gradients;

/// Adam's hyperparameters; [`build`](Self::build) makes the [`Optimizer`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Step size. Paper: 1e-3.
    pub learning_rate: f64,
    /// Decay of the first moment. Paper: 0.9.
    pub beta1: f64,
    /// Decay of the second moment. Paper: 0.999.
    pub beta2: f64,
    /// Added outside the root. Paper: 1e-8.
    pub epsilon: f64,
    /// The gradient's global norm is scaled down to this; None leaves it. Paper: 1.
    pub clip: Option<f64>,
}

impl Default for Adam {
    fn default() -> Self {
        Adam { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, clip: Some(1.0) }
    }
}

impl Adam {
    /// The paper's.
    pub fn paper() -> Self {
        Adam::default()
    }

    /// Allocates the optimiser's memory for these parameters.
    ///
    /// # Errors
    /// [`Error::Argument`] if a hyperparameter is out of its range; the device's if it is out of memory.
    pub fn build<B: Backend>(self, parameters: &Parameters<B>) -> Result<Optimizer<B>> {
        self.check()?;
        let backend = parameters.backend().clone();
        let len = parameters.layout().len();
        let mut rate = backend.alloc(1)?;
        backend.upload(&[self.learning_rate as f32], backend.view_mut(&mut rate, 0, 1))?;
        Ok(Optimizer {
            config: self,
            rate,
            m: backend.alloc(len)?,
            v: backend.alloc(len)?,
            state: backend.alloc(2)?,
            norm: backend.alloc(1)?,
            len,
            backend,
        })
    }

    fn check(&self) -> Result<()> {
        let in_unit = |name: &str, value: f64| match value {
            0.0..1.0 => Ok(()),
            _ => Err(Error::argument(name, "at least 0 and below 1", value)),
        };
        in_unit("beta1", self.beta1)?;
        in_unit("beta2", self.beta2)?;
        let clip = self.clip.unwrap_or(1.0);
        for (name, value) in
            [("learning_rate", self.learning_rate), ("epsilon", self.epsilon), ("clip", clip)]
        {
            // The device computes in f32.
            if !((value as f32).is_normal() && value > 0.0) {
                return Err(Error::argument(name, "a positive number within the range of f32", value));
            }
        }
        Ok(())
    }
}

/// Adam and its moments, on the parameters' device.
#[derive(Debug)]
pub struct Optimizer<B: Backend> {
    config: Adam,
    backend: B,
    len: usize,
    rate: B::Buffer<f32>,
    m: B::Buffer<f32>,
    v: B::Buffer<f32>,
    state: B::Buffer<u64>,
    norm: B::Buffer<f32>,
}

impl<B: Backend> Optimizer<B> {
    /// Clips the gradient, updates the parameters, packs the weights anew. From the first gradient whose norm is
    /// not finite on, nothing is written any more: [`status`](Self::status) tells.
    ///
    /// # Errors
    /// [`Error::Argument`] if parameters and gradient are of different configurations; the device's.
    pub fn step(&mut self, parameters: &mut Parameters<B>, gradients: &Gradients<B>) -> Result<()> {
        if parameters.config() != gradients.config() {
            let (expected, found) = (parameters.config(), gradients.config());
            return Err(Error::argument("gradients", format!("those of {expected:?}"), format!("{found:?}")));
        }
        if parameters.layout().len() != self.len {
            let (expected, found) = (self.len, parameters.layout().len());
            return Err(Error::argument(
                "parameters",
                format!("the {expected} that Adam was built for"),
                found,
            ));
        }
        let backend = self.backend.clone();
        self.enqueue(&backend, parameters, &gradients.flat)
    }

    /// The same on a handle of the same device that records, say; parameters and gradient are known to fit.
    pub(crate) fn enqueue(
        &mut self,
        backend: &B,
        parameters: &mut Parameters<B>,
        gradient: &B::Buffer<f32>,
    ) -> Result<()> {
        let len = self.len;
        let buffers = AdamBuffers {
            parameters: backend.view_mut(&mut parameters.flat, 0, len),
            gradient: backend.view(gradient, 0, len),
            rate: backend.view(&self.rate, 0, 1),
            m: backend.view_mut(&mut self.m, 0, len),
            v: backend.view_mut(&mut self.v, 0, len),
            state: backend.view_mut(&mut self.state, 0, 2),
            norm: backend.view_mut(&mut self.norm, 0, 1),
        };
        backend.adam(&self.config, buffers)?;
        parameters.repack(backend)
    }

    /// The hyperparameters.
    pub fn config(&self) -> &Adam {
        &self.config
    }

    /// All memory that an update reads or writes: step size, moments and norm; steps.
    #[cfg(feature = "cuda")]
    pub(crate) fn memory(&self) -> ([&B::Buffer<f32>; 4], &B::Buffer<u64>) {
        ([&self.rate, &self.m, &self.v, &self.norm], &self.state)
    }

    /// Sets the hyperparameters of the steps that follow, in the order of the device's work; moments stay. To change the step
    /// size alone: `adam.set(Adam { learning_rate, ..*adam.config() })`.
    ///
    /// # Errors
    /// [`Error::Argument`] if one is out of its range; the device's.
    pub fn set(&mut self, config: Adam) -> Result<()> {
        config.check()?;
        self.backend.upload(&[config.learning_rate as f32], self.backend.view_mut(&mut self.rate, 0, 1))?;
        self.config = config;
        Ok(())
    }

    /// Steps taken, and the last gradient's norm before clipping. Waits for the device.
    ///
    /// # Errors
    /// [`Error::Diverged`] if a norm was not finite: it names the step, from which on nothing was written.
    pub fn status(&self) -> Result<Status> {
        let (mut state, mut norm) = ([0; 2], [0.0]);
        self.backend.download(self.backend.view(&self.state, 0, 2), &mut state)?;
        self.backend.download(self.backend.view(&self.norm, 0, 1), &mut norm)?;
        match state {
            [steps, 0] => Ok(Status { steps, gradient_norm: norm[0] }),
            [_, step] => Err(Error::Diverged { step }),
        }
    }

    /// The first and second moments, flat, laid out as the parameters.
    ///
    /// # Errors
    /// The device's.
    pub fn moments(&self) -> Result<[Vec<f32>; 2]> {
        let mut moments = [vec![0.0; self.len], vec![0.0; self.len]];
        for (host, device) in moments.iter_mut().zip([&self.m, &self.v]) {
            self.backend.download(self.backend.view(device, 0, self.len), host)?;
        }
        Ok(moments)
    }

    /// Continues from the moments of a checkpoint that was `steps` steps in.
    ///
    /// # Errors
    /// [`Error::Argument`] if their lengths are not the parameters', one is not finite or a second moment is
    /// negative; the device's.
    pub fn restore(&mut self, moments: &[Vec<f32>; 2], steps: u64) -> Result<()> {
        for (name, moments) in ["m", "v"].into_iter().zip(moments) {
            if moments.len() != self.len {
                return Err(Error::argument(name, format!("{} elements", self.len), moments.len()));
            }
            let wrong = |x: f32| !x.is_finite() || (name == "v" && x < 0.0);
            if let Some(index) = moments.iter().position(|&x| wrong(x)) {
                let expected = "finite moments, the second not negative";
                let found = format!("{} at element {index}", moments[index]);
                return Err(Error::argument(name, expected, found));
            }
        }
        if steps >= 1 << 63 {
            return Err(Error::argument("steps", "below 2^63", steps));
        }
        let (backend, len) = (&self.backend, self.len);
        backend.upload(&moments[0], backend.view_mut(&mut self.m, 0, len))?;
        backend.upload(&moments[1], backend.view_mut(&mut self.v, 0, len))?;
        backend.upload(&[steps, 0], backend.view_mut(&mut self.state, 0, 2))
    }
}

/// Where an optimiser stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Status {
    /// Steps taken.
    pub steps: u64,
    /// Global norm of the last gradient, before clipping.
    pub gradient_norm: f32,
}
