//! Training on the fifteen tasks, as the paper does it: a length drawn for each step, one batch, cross entropy at
//! the output positions, the norm clipped, Adam. A run is a function of its settings and its seed.

use crate::backend::steps::LengthBatch;
use crate::backend::{Backend, Pass};
use crate::error::{Error, Result};
use crate::model::{Cell, Checkpoint, Config, Parameters, Recurrence};
use crate::optim::{Adam, Optimizer};
use crate::random::{Purpose, Random};
use crate::tape::{Metrics, Tape};
use crate::tasks::{Batch, Task};
use crate::tree::Outputs;

/// What a training run is.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The task.
    pub task: Task,
    /// The cell.
    pub cell: Cell,
    /// The tree of the paper, or one of its sequential baselines.
    pub recurrence: Recurrence,
    /// `H`.
    pub hidden: usize,
    /// `R`; 0 for a sequential model.
    pub unary_layers: usize,
    /// Steps of the whole run.
    pub steps: u64,
    /// Sequences of a batch.
    pub batch: usize,
    /// Lengths are uniform in 1 to this.
    pub max_length: usize,
    /// Whether the walk back computes the gates' inputs anew: less memory, more work, the same bits. See
    /// [`Tape::recompute`].
    pub recompute: bool,
    /// The optimiser.
    pub adam: Adam,
    /// The seed of weights, lengths and samples.
    pub seed: u64,
}

impl Settings {
    /// The paper's protocol: `H = 256`, one unary layer, a million steps of 128 sequences of 1 to 40 symbols.
    pub fn paper(task: Task) -> Self {
        Settings {
            task,
            cell: Cell::Lstm,
            recurrence: Recurrence::Tree,
            hidden: 256,
            unary_layers: 1,
            steps: 1_000_000,
            batch: 128,
            max_length: 40,
            recompute: false,
            adam: Adam::paper(),
            seed: 0,
        }
    }

    /// The model of this run: the task's symbols and the empty one in, the task's symbols out.
    pub fn config(&self) -> Config {
        Config::new(self.task.input_size() + 1, self.hidden, self.task.output_size())
            .cell(self.cell)
            .recurrence(self.recurrence)
            .unary_layers(self.unary_layers)
    }
}

/// What a step measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepMetrics {
    /// The step, counted from 1.
    pub step: u64,
    /// Length of its samples.
    pub length: usize,
    /// Cross entropy in nats, mean over batch and output positions.
    pub loss: f32,
    /// Share of the positions that count whose arg-max is right.
    pub accuracy: f64,
    /// Global norm of the gradient before clipping.
    pub gradient_norm: f32,
}

/// How the device takes steps.
#[derive(Debug)]
enum Work<B: Backend> {
    /// Call by call.
    Taped(Box<Tape<B>>),
    /// One call each.
    Recorded(B::Steps),
}

/// A training run at work.
#[derive(Debug)]
pub struct Trainer<B: Backend> {
    settings: Settings,
    parameters: Parameters<B>,
    optimizer: Optimizer<B>,
    work: Work<B>,
    batch: Batch,
    step: u64,
}

impl<B: Backend> Trainer<B> {
    /// A run from its first step.
    ///
    /// # Errors
    /// [`Error::Argument`] if a setting is 0 or out of range; the device's if it is out of memory.
    pub fn new(settings: Settings, backend: B) -> Result<Self> {
        let parameters = Parameters::init(&settings.config(), backend, settings.seed)?;
        Self::at(settings, parameters, 0)
    }

    /// A run that goes on from a checkpoint, bit for bit as if it had never stopped.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::Argument`] if the checkpoint is of another configuration, task or seed, or
    /// has no moments.
    pub fn resume(settings: Settings, checkpoint: &Checkpoint, backend: B) -> Result<Self> {
        let differs = |what: &str, expected: String, found: String| {
            Err(Error::argument(
                format!("checkpoint, {what}"),
                format!("{expected}, as the run's settings"),
                found,
            ))
        };
        if checkpoint.config != settings.config() {
            return differs("model", format!("{:?}", settings.config()), format!("{:?}", checkpoint.config));
        }
        if checkpoint.task.as_deref() != Some(settings.task.name()) {
            let found = checkpoint.task.clone().unwrap_or_else(|| "none".into());
            return differs("task", settings.task.name().into(), found);
        }
        if checkpoint.seed != settings.seed {
            return differs("seed", settings.seed.to_string(), checkpoint.seed.to_string());
        }
        let Some(moments) = &checkpoint.moments else {
            return Err(Error::argument("checkpoint", "one with Adam's moments", "one of a model alone"));
        };
        let parameters = Parameters::new(&checkpoint.config, backend, &checkpoint.parameters)?;
        let mut trainer = Self::at(settings, parameters, checkpoint.step)?;
        trainer.optimizer.restore(moments, checkpoint.step)?;
        Ok(trainer)
    }

    fn at(settings: Settings, parameters: Parameters<B>, step: u64) -> Result<Self> {
        let Settings { task, batch, max_length, recompute, .. } = settings;
        if batch == 0 {
            return Err(Error::argument("batch", "at least 1", 0));
        }
        if max_length == 0 || max_length > 1 << 20 {
            return Err(Error::argument("max_length", "1 to 2^20", max_length));
        }
        // Input and output grow with the length, but modular arithmetic shortens the even ones.
        let time = |length| task.input_length(length) + task.output_length(length);
        let max_time = time(max_length).max(time(max_length.saturating_sub(1).max(1)));
        let outputs = task.output_length(max_length);
        let pass = if recompute { Pass::TrainRecompute } else { Pass::Train };
        let work = match B::steps(&parameters, pass, batch, max_time, outputs)? {
            Some(steps) => Work::Recorded(steps),
            None => {
                let mut tape = match recompute {
                    true => Tape::recompute(&parameters, batch, max_time),
                    false => Tape::new(&parameters, batch, max_time),
                }?;
                tape.reserve(&Outputs::LastN(outputs))?;
                Work::Taped(Box::new(tape))
            }
        };
        let optimizer = settings.adam.build(&parameters)?;
        Ok(Trainer { settings, parameters, optimizer, work, batch: Batch::default(), step })
    }

    /// Takes a step; reads its loss if `measure`, which waits for the device.
    ///
    /// # Errors
    /// [`Error::Diverged`], once a step is measured, if the gradient's norm was not finite; the device's.
    pub fn step(&mut self, measure: bool) -> Result<Option<StepMetrics>> {
        let Settings { task, batch, max_length, seed, .. } = self.settings;
        let step = self.step + 1;
        let length = 1 + Random::new(seed, Purpose::Length, step, 0).below(max_length as u32) as usize;
        self.batch.fill(task, length, batch, seed, Purpose::Train, step)?;
        let Batch { tokens, targets, mask, time, outputs, .. } = &self.batch;
        let (time, outputs) = (*time, *outputs);
        let measured = match &mut self.work {
            Work::Taped(tape) => {
                let sequences: Vec<&[u32]> = tokens.chunks_exact(time).collect();
                tape.clear();
                let hidden = tape.scan(&self.parameters, &sequences, Outputs::LastN(outputs))?;
                let logits = tape.readout(&self.parameters, hidden)?;
                let loss = tape.cross_entropy_masked(logits, targets, mask)?;
                let gradients = tape.backward(loss)?;
                self.optimizer.step(&mut self.parameters, gradients)?;
                measure.then(|| tape.metrics(loss)).transpose()?
            }
            Work::Recorded(steps) => {
                let batch = LengthBatch { length, time, outputs, tokens, targets, mask };
                B::take(steps, &batch, &mut self.parameters, &mut self.optimizer)?;
                measure.then(|| B::measured(steps)).transpose()?.map(Metrics::from)
            }
        };
        self.step = step;
        let Some(Metrics { loss, right, counted }) = measured else { return Ok(None) };
        let gradient_norm = self.optimizer.status()?.gradient_norm;
        let accuracy = right as f64 / counted.max(1) as f64;
        Ok(Some(StepMetrics { step, length, loss, accuracy, gradient_norm }))
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The run's settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Bytes on the device that the run holds: the tape or recorded steps, known before the first, the parameters, what is packed
    /// of them, and Adam's moments.
    pub fn bytes(&self) -> usize {
        let floats = self.parameters.layout().len();
        let work = match &self.work {
            Work::Taped(tape) => tape.bytes(),
            Work::Recorded(steps) => B::steps_bytes(steps),
        };
        work + self.parameters.model().weights_bytes() + 3 * floats * size_of::<f32>()
    }

    /// The parameters.
    pub fn parameters(&self) -> &Parameters<B> {
        &self.parameters
    }

    /// Everything that [`resume`](Self::resume) needs.
    ///
    /// # Errors
    /// [`Error::Diverged`]; the device's.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        self.optimizer.status()?;
        Ok(Checkpoint {
            config: self.parameters.config().clone(),
            task: Some(self.settings.task.name().to_owned()),
            seed: self.settings.seed,
            step: self.step,
            parameters: self.parameters.to_vec()?,
            moments: Some(self.optimizer.moments()?),
        })
    }
}
