//! The minimal autograd tape: scans, read-outs, losses and functions of one's own, recorded in order and walked
//! back. It is a graph: values may be used several times, and gradients add. Knows nothing of tasks.
//!
//! `record` runs what is recorded, `memory` holds it on the device, `backward` walks it back.

mod backward;
mod memory;
mod record;

use std::fmt;
use std::sync::Arc;

use memory::{Labels, PassMemory, Storage, download};

use crate::backend::{Backend, Pass};
use crate::error::{Error, Result};
use crate::identity;
use crate::model::{Config, Layout, Parameters};
use crate::tree::{Planner, Schedule};

/// A value on a tape, good until the tape is cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    index: usize,
    recording: u64,
}

/// The gradient of all parameters, flat, laid out as they are.
#[derive(Debug)]
pub struct Gradients<B: Backend> {
    backend: B,
    config: Config,
    layout: Layout,
    pub(crate) flat: B::Buffer<f32>,
}

impl<B: Backend> Gradients<B> {
    /// All of it, flat.
    ///
    /// # Errors
    /// The device's.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        let mut flat = vec![0.0; self.layout.len()];
        self.backend.download(self.backend.view(&self.flat, 0, flat.len()), &mut flat)?;
        Ok(flat)
    }

    /// The configuration of the parameters that these belong to.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

/// What a cross entropy measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metrics {
    /// Mean over all rows, in nats.
    pub loss: f32,
    /// Counted rows whose arg-max is the target.
    pub right: usize,
    /// Rows that count for accuracy.
    pub counted: usize,
}

impl From<[f32; 3]> for Metrics {
    /// What a device writes: `[loss, right, counted]`.
    fn from([loss, right, counted]: [f32; 3]) -> Self {
        Metrics { loss, right: right as usize, counted: counted as usize }
    }
}

/// Gradients of a custom function: from the inputs' values, and the gradient of its result, to those of its inputs.
type CustomBackward = Box<dyn FnOnce(&[&[f32]], &[f32]) -> Vec<Vec<f32>> + Send>;

/// How a value was made.
enum Node<B: Backend> {
    Scan {
        pass: usize,
        weights: Arc<B::Weights>,
    },
    Readout {
        hidden: usize,
        weights: Arc<B::Weights>,
    },
    CrossEntropy {
        logits: usize,
        labels: usize,
    },
    Custom {
        inputs: Vec<usize>,
        backward: CustomBackward,
    },
    Add {
        inputs: [usize; 2],
    },
    /// Walked back already: what it held is gone.
    Spent,
}

/// What may be asked of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Scan { pass: usize },
    CrossEntropy,
    Other,
}

/// The tape. Memory grows as more is recorded than ever before, and is kept by [`clear`](Self::clear).
pub struct Tape<B: Backend> {
    backend: B,
    config: Config,
    max_batch: usize,
    max_time: usize,
    /// Whether its scans keep `z`.
    pass: Pass,
    planner: Planner,
    schedule: Schedule,
    nodes: Vec<Node<B>>,
    /// Empty but while the tape is walked back; kept for its memory, as `lengths`, of the batch that is recorded, and
    /// `ones`, the mask that counts every row.
    walked: Vec<Node<B>>,
    lengths: Vec<usize>,
    ones: Vec<u8>,
    storage: Vec<Storage<B>>,
    passes: Vec<PassMemory<B>>,
    passes_used: usize,
    /// What each value is, also once it was walked back.
    kinds: Vec<Kind>,
    labels: Vec<Labels<B>>,
    labels_used: usize,
    gradients: Gradients<B>,
    recording: u64,
}

impl<B: Backend> fmt::Debug for Tape<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tape").field("values", &self.nodes.len()).field("bytes", &self.bytes()).finish()
    }
}

impl<B: Backend> Tape<B> {
    /// A tape for scans of at most `max_batch` sequences of at most `max_time` steps with these parameters.
    ///
    /// # Errors
    /// [`Error::Argument`] if a limit is 0; the device's if it is out of memory.
    pub fn new(parameters: &Parameters<B>, max_batch: usize, max_time: usize) -> Result<Self> {
        Self::with_pass(parameters, max_batch, max_time, Pass::Train)
    }

    /// The same with less memory and more work: of a scan only the states are kept, and the walk back computes the
    /// gates' inputs `z` anew, a part of the scan at a time. With one unary layer a merge takes `4·H` numbers rather
    /// than `13·H` on the CPU, `5.5·H` rather than `11.5·H` on CUDA in bf16, and a step a third more multiplications. The
    /// gradients have the same bits.
    ///
    /// # Errors
    /// As [`new`](Self::new). A sequential model keeps every `z`: there, what records or reserves a scan is
    /// [`Error::Unavailable`].
    pub fn recompute(parameters: &Parameters<B>, max_batch: usize, max_time: usize) -> Result<Self> {
        Self::with_pass(parameters, max_batch, max_time, Pass::TrainRecompute)
    }

    fn with_pass(parameters: &Parameters<B>, max_batch: usize, max_time: usize, pass: Pass) -> Result<Self> {
        for (name, limit) in [("max_batch", max_batch), ("max_time", max_time)] {
            if limit == 0 {
                return Err(Error::argument(name, "at least 1", 0));
            }
        }
        let backend = parameters.backend().clone();
        let gradients = Gradients {
            flat: backend.alloc(parameters.layout().len())?,
            backend: backend.clone(),
            config: parameters.config().clone(),
            layout: parameters.layout().clone(),
        };
        Ok(Tape {
            config: parameters.config().clone(),
            max_batch,
            max_time,
            pass,
            planner: Planner::of(parameters.config().recurrence),
            schedule: Schedule::default(),
            nodes: Vec::new(),
            walked: Vec::new(),
            lengths: Vec::new(),
            ones: Vec::new(),
            storage: Vec::new(),
            passes: Vec::new(),
            passes_used: 0,
            kinds: Vec::new(),
            labels: Vec::new(),
            labels_used: 0,
            gradients,
            recording: identity::next(),
            backend,
        })
    }

    /// Forgets all values; keeps the memory.
    pub fn clear(&mut self) {
        self.nodes.clear();
        self.kinds.clear();
        self.passes_used = 0;
        self.labels_used = 0;
        self.recording = identity::next();
    }

    /// A value, flat. Waits for the device.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is of another recording; the device's.
    pub fn value(&self, value: Value) -> Result<Vec<f32>> {
        self.download(self.index(value)?)
    }

    /// What a cross entropy measured. Waits for the device.
    ///
    /// # Errors
    /// [`Error::Argument`] if `loss` is no cross entropy of this recording; the device's.
    pub fn metrics(&self, loss: Value) -> Result<Metrics> {
        let index = self.index(loss)?;
        let storage = &self.storage[index];
        if self.kinds[index] != Kind::CrossEntropy {
            return Err(Error::argument("loss", "the value of a cross entropy", "another value"));
        }
        let mut metrics = [0.0; 3];
        self.backend.download(self.backend.view(&storage.value, 0, 3), &mut metrics)?;
        Ok(metrics.into())
    }

    /// The gradient of the dense input of a scan, `[input rows, D]`, once the tape was walked back.
    ///
    /// # Errors
    /// [`Error::Argument`] if `scan` is not a dense scan of this recording; the device's.
    pub fn d_input(&self, scan: Value) -> Result<Vec<f32>> {
        let index = self.index(scan)?;
        let pass = match self.kinds[index] {
            Kind::Scan { pass } => Some(&self.passes[pass]),
            _ => None,
        };
        match pass {
            Some(PassMemory { d_input, input: (rows, true), .. }) => {
                let mut host = vec![0.0; rows * self.config.input];
                self.backend.download(self.backend.view(d_input, 0, host.len()), &mut host)?;
                Ok(host)
            }
            _ => Err(Error::argument("scan", "the value of a `scan_dense`", "another value")),
        }
    }

    fn index(&self, value: Value) -> Result<usize> {
        if value.recording != self.recording || value.index >= self.nodes.len() {
            let found = "one from before `clear`, or of another tape";
            return Err(Error::argument("value", "one of the present recording", found));
        }
        Ok(value.index)
    }

    fn download(&self, index: usize) -> Result<Vec<f32>> {
        download(&self.backend, &self.storage[index])
    }

    fn check_parameters(&self, parameters: &Parameters<B>) -> Result<()> {
        if *parameters.config() != self.config {
            let (expected, found) = (&self.config, parameters.config());
            return Err(Error::argument(
                "parameters",
                format!("{expected:?}, as the tape"),
                format!("{found:?}"),
            ));
        }
        Ok(())
    }
}
