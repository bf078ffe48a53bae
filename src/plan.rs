//! A pass over memory of the caller's: planned once, then run as often as wanted without allocating or waiting. Knows
//! no device; [`Session`](crate::Session) is the easy way.

use std::sync::Arc;

use crate::backend::{Backend, Input, Pass};
use crate::error::{Error, Result};
use crate::model::{Config, Model};
use crate::tree::{Outputs, Planner, Rows, Schedule};

/// Where the parts of a workspace begin: whole lines of every device.
const ALIGNMENT: usize = 256;

/// A pass of a padded batch, ready to run: the tree as the device wants it. Cheap to clone.
#[derive(Debug)]
pub struct Plan<B: Backend> {
    shared: Arc<Planned<B>>,
}

#[derive(Debug)]
struct Planned<B: Backend> {
    config: Config,
    backend: B,
    plan: B::Plan,
    inputs: usize,
    outputs: usize,
    /// Byte of the workspace at which `hidden` begins.
    hidden_at: usize,
    workspace_bytes: usize,
}

impl<B: Backend> Clone for Plan<B> {
    fn clone(&self) -> Self {
        Plan { shared: Arc::clone(&self.shared) }
    }
}

impl<B: Backend> Plan<B> {
    fn new(model: &Model<B>, batch: usize, time: usize, outputs: &Outputs) -> Result<Self> {
        let (config, backend) = (model.config().clone(), model.backend().clone());
        let mut schedule = Schedule::default();
        Planner::of(config.recurrence).padded(&mut schedule, batch, time, outputs, Rows::Reuse)?;
        let plan = backend.plan(&config, &schedule, Pass::Infer)?;
        let [inputs, outputs] =
            [schedule.leaves().len(), schedule.outputs().len()].map(|rows| rows * schedule.width());
        let hidden_at = backend.workspace_bytes(&plan).checked_next_multiple_of(ALIGNMENT);
        let hidden = outputs.checked_mul(config.hidden * size_of::<f32>());
        let sizes = hidden_at.zip(hidden).and_then(|(at, hidden)| Some((at, at.checked_add(hidden)?)));
        let (hidden_at, workspace_bytes) = sizes.ok_or_else(|| {
            let found = "a pass larger than that: use smaller batches";
            Error::argument("batch, time", "a workspace of fewer than 2^64 bytes", found)
        })?;
        let planned = Planned { config, backend, plan, inputs, outputs, hidden_at, workspace_bytes };
        Ok(Plan { shared: Arc::new(planned) })
    }

    /// Bytes of workspace that a pass wants, `h` of the outputs included; aligned as the device's allocations are.
    pub fn workspace_bytes(&self) -> usize {
        self.shared.workspace_bytes
    }

    /// Rows of the input, `B · T`: sequence after sequence.
    pub fn inputs(&self) -> usize {
        self.shared.inputs
    }

    /// Rows of `y`: sequence after sequence, the wanted outputs of each in order.
    pub fn outputs(&self) -> usize {
        self.shared.outputs
    }

    /// The path that the pass takes, as `avx512` or `cuda bf16 wide`.
    pub fn path(&self) -> &'static str {
        self.shared.backend.path(&self.shared.plan)
    }

    /// Waits for the device, and says whether a pass over this plan met a token that the model does not have; asking
    /// clears it. Tokens that live on a device are seen by nobody else.
    ///
    /// # Errors
    /// [`Error::DeviceToken`] with the place of the first one; the device's.
    pub fn check(&self) -> Result<()> {
        self.shared.backend.check(&self.shared.plan)
    }
}

impl<B: Backend> Model<B> {
    /// Plans passes of `batch` sequences of `time` steps each over memory of the caller's; uploads the tree. Sequences
    /// that are shorter may be padded at their ends: what follows a position changes nothing at it.
    ///
    /// # Errors
    /// [`Error::Argument`] if a size is 0 or the pass too large, or a sequence has not such outputs; the device's.
    pub fn plan(&self, batch: usize, time: usize, outputs: Outputs) -> Result<Plan<B>> {
        Plan::new(self, batch, time, &outputs)
    }

    /// Runs a planned pass: logits of the wanted outputs into `y`, `[plan.outputs(), O]`. The input is `[B, T]` tokens,
    /// or `[B, T, D]` dense. Allocates nothing, waits for nothing and copies nothing to the host: on CUDA it only
    /// launches, and may be captured into a graph.
    ///
    /// Whether tokens are below `D` is known at once on the CPU, later on CUDA: [`Plan::check`].
    ///
    /// # Errors
    /// [`Error::Argument`] if a length is another, the workspace too short or misaligned, memory is another device's,
    /// or the plan another model's; [`Error::Token`] on the CPU. `y` is as it was then.
    pub fn forward_into(
        &self,
        plan: &Plan<B>,
        input: Input<'_, B>,
        mut workspace: B::ViewMut<'_, u8>,
        y: B::ViewMut<'_, f32>,
    ) -> Result<()> {
        let Planned { config: planned, plan, outputs, hidden_at, .. } = &*plan.shared;
        let (backend, config) = (self.backend(), self.config());
        if planned != config {
            return Err(Error::argument("plan", format!("one of {config:?}"), format!("{planned:?}")));
        }
        let wanted = outputs * config.output;
        let found = backend.len(&y);
        if found != wanted {
            let expected = format!("{wanted} elements: {outputs} outputs of {}", config.output);
            return Err(Error::argument("y", expected, found));
        }
        // What else is wrong is found before the first launch.
        backend.own_memory("y", &y)?;
        let floats = outputs * config.hidden;
        let (scratch, hidden) = backend.cut(&mut workspace, *hidden_at, floats)?;
        backend.scan(self.weights(), plan, input, scratch, hidden)?;
        let (_, hidden) = backend.cut(&mut workspace, *hidden_at, floats)?;
        backend.readout(self.weights(), backend.freeze(&hidden), y)
    }
}
