//! A model at work on batches: everything is allocated when the session is built, nothing after.

use std::ops::Range;

use crate::backend::{Backend, Input, Pass};
use crate::error::{Error, Result};
use crate::model::{Config, Model, too_large};
use crate::room;
use crate::tree::{Outputs, Planner, Rows, Schedule};

/// Limits of a [`Session`].
#[derive(Clone, Debug)]
pub struct SessionBuilder<B: Backend> {
    model: Model<B>,
    max_batch: usize,
    max_time: usize,
    outputs: Outputs,
    dense: bool,
}

impl<B: Backend> SessionBuilder<B> {
    pub(crate) fn new(model: Model<B>) -> Self {
        SessionBuilder { model, max_batch: 1, max_time: 512, outputs: Outputs::All, dense: false }
    }

    /// Most sequences of a batch; 1 by default.
    pub fn max_batch(self, max_batch: usize) -> Self {
        SessionBuilder { max_batch, ..self }
    }

    /// Most time steps of a sequence; 512 by default.
    pub fn max_time(self, max_time: usize) -> Self {
        SessionBuilder { max_time, ..self }
    }

    /// Which prefixes are wanted; all by default. What none of them needs is not computed.
    pub fn outputs(self, outputs: Outputs) -> Self {
        SessionBuilder { outputs, ..self }
    }

    /// For dense input, [`Session::forward_dense`], rather than tokens.
    pub fn dense(self) -> Self {
        SessionBuilder { dense: true, ..self }
    }

    /// Allocates everything that a batch within the limits will want.
    ///
    /// # Errors
    /// [`Error::Argument`] if a limit is 0 or the batch too large to index; the device's if it is out of memory.
    pub fn build(self) -> Result<Session<B>> {
        let SessionBuilder { model, max_batch, max_time, outputs, dense } = self;
        for (name, limit) in [("max_batch", max_batch), ("max_time", max_time)] {
            if limit == 0 {
                return Err(Error::argument(name, "at least 1", 0));
            }
        }
        let (config, backend) = (model.config().clone(), model.backend().clone());
        let mut planner = Planner::of(config.recurrence);
        let mut schedule = Schedule::default();
        // The largest ragged batch has the longest lists, the largest padded one the same rows.
        planner.padded(&mut schedule, max_batch, max_time, &outputs, Rows::Reuse)?;
        let rows = schedule.outputs().len() * max_batch;
        let mut plan = backend.plan(&config, &schedule, Pass::Infer)?;
        let padded_bytes = backend.workspace_bytes(&plan);
        let mut lengths = room::list(max_batch)?;
        lengths.resize(max_batch, max_time);
        planner.ragged(&mut schedule, &lengths, &outputs, Rows::Reuse)?;
        backend.replan(&mut plan, &schedule)?;
        let workspace_bytes = padded_bytes.max(backend.workspace_bytes(&plan));
        let inputs = max_batch * max_time;
        Ok(Session {
            workspace: backend.alloc(workspace_bytes)?,
            workspace_bytes,
            tokens: backend.alloc(if dense { 0 } else { inputs })?,
            dense: backend.alloc(if dense { inputs * config.input } else { 0 })?,
            hidden: backend.alloc(rows * config.hidden)?,
            logits: backend.alloc(rows * config.output)?,
            host_tokens: room::list(if dense { 0 } else { inputs })?,
            host_dense: room::list(if dense { inputs * config.input } else { 0 })?,
            y: room::zeros(rows * config.output)?,
            ends: room::list(max_batch)?,
            lengths,
            planned_padded: false,
            limits: (max_batch, max_time),
            takes_dense: dense,
            planner,
            schedule,
            plan,
            outputs,
            config,
            backend,
            model,
        })
    }
}

/// A model at work on batches of up to `max_batch` sequences of up to `max_time` steps.
#[derive(Debug)]
pub struct Session<B: Backend> {
    model: Model<B>,
    backend: B,
    config: Config,
    outputs: Outputs,
    limits: (usize, usize),
    takes_dense: bool,
    planner: Planner,
    schedule: Schedule,
    plan: B::Plan,
    /// What the plan is for: lengths of the sequences, and whether it is a padded one.
    lengths: Vec<usize>,
    planned_padded: bool,
    workspace: B::Buffer<u8>,
    workspace_bytes: usize,
    tokens: B::Buffer<u32>,
    dense: B::Buffer<f32>,
    hidden: B::Buffer<f32>,
    logits: B::Buffer<f32>,
    host_tokens: Vec<u32>,
    host_dense: Vec<f32>,
    y: Vec<f32>,
    ends: Vec<usize>,
}

impl<B: Backend> Session<B> {
    /// Runs a batch of token sequences, ragged or not: a sequence has the same bits in any batch.
    ///
    /// # Errors
    /// [`Error::Argument`] if the batch is empty or over the session's limits, or a sequence too short for the
    /// wanted outputs; [`Error::Token`] if a token is not below `D`. Nothing was run then.
    pub fn forward<S: AsRef<[u32]>>(&mut self, batch: &[S]) -> Result<Output<'_>> {
        if self.takes_dense {
            return Err(Error::argument(
                "batch",
                "dense rows: the session was built with `dense()`",
                "tokens",
            ));
        }
        check_tokens(&self.config, batch)?;
        self.plan_for(batch.iter().map(|sequence| sequence.as_ref().len()))?;
        self.host_tokens.clear();
        batch.iter().for_each(|sequence| self.host_tokens.extend_from_slice(sequence.as_ref()));
        let count = self.host_tokens.len();
        self.backend.upload(&self.host_tokens, self.backend.view_mut(&mut self.tokens, 0, count))?;
        self.run(count)
    }

    /// Runs a batch of dense sequences, each `[T, D]` row-major.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); [`Error::Argument`] if a sequence is not whole rows of `D`,
    /// [`Error::NotFinite`] if an element is NaN or infinite.
    pub fn forward_dense<S: AsRef<[f32]>>(&mut self, batch: &[S]) -> Result<Output<'_>> {
        if !self.takes_dense {
            return Err(Error::argument(
                "batch",
                "tokens: `SessionBuilder::dense` was not called",
                "dense rows",
            ));
        }
        check_dense(&self.config, &self.backend, batch)?;
        let width = self.config.input;
        self.plan_for(batch.iter().map(|sequence| sequence.as_ref().len() / width))?;
        self.host_dense.clear();
        batch.iter().for_each(|sequence| self.host_dense.extend_from_slice(sequence.as_ref()));
        let count = self.host_dense.len();
        self.backend.upload(&self.host_dense, self.backend.view_mut(&mut self.dense, 0, count))?;
        self.run(count)
    }

    /// Bytes of workspace on the device, allocated when the session was built.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }

    /// The path that a pass takes on this machine, as `avx512`.
    pub fn path(&self) -> &'static str {
        self.backend.path(&self.plan)
    }

    /// `h` of every output of the last batch, `[outputs, H]` in the order of [`Output`]; a copy.
    ///
    /// # Errors
    /// The device's.
    pub fn hidden(&self) -> Result<Vec<f32>> {
        let rows = self.schedule.outputs().len() * self.schedule.width();
        let mut hidden = room::zeros(rows * self.config.hidden)?;
        self.backend.download(self.backend.view(&self.hidden, 0, hidden.len()), &mut hidden)?;
        Ok(hidden)
    }

    /// Plans for sequences of these lengths, unless that is what is planned already.
    fn plan_for(&mut self, lengths: impl ExactSizeIterator<Item = usize> + Clone) -> Result<()> {
        let (max_batch, max_time) = self.limits;
        let batch = lengths.len();
        if batch == 0 || batch > max_batch {
            return Err(Error::argument("batch", format!("1 to {max_batch} sequences (max_batch)"), batch));
        }
        for (index, length) in lengths.clone().enumerate() {
            if length == 0 || length > max_time {
                let expected = format!("1 to {max_time} steps (max_time)");
                return Err(Error::argument(format!("sequence {index}"), expected, length));
            }
        }
        let first = lengths.clone().next().unwrap_or(0);
        let padded = lengths.clone().all(|length| length == first);
        if padded == self.planned_padded && lengths.clone().eq(self.lengths.iter().copied()) {
            return Ok(());
        }
        self.lengths.clear();
        self.planned_padded = padded;
        let (schedule, outputs) = (&mut self.schedule, &self.outputs);
        // On an error the list of lengths stays empty, so that nothing stale is ever run.
        if padded {
            self.planner.padded(schedule, batch, first, outputs, Rows::Reuse)?;
            self.lengths.extend(lengths);
        } else {
            let lengths_of_batch = &mut self.lengths;
            lengths_of_batch.extend(lengths);
            if let Err(error) = self.planner.ragged(schedule, lengths_of_batch, outputs, Rows::Reuse) {
                lengths_of_batch.clear();
                return Err(error);
            }
        }
        let planned = self.backend.replan(&mut self.plan, &self.schedule);
        if planned.is_err() {
            self.lengths.clear();
        }
        planned
    }

    fn run(&mut self, count: usize) -> Result<Output<'_>> {
        let Session { backend, config, schedule, model, .. } = self;
        let rows = schedule.outputs().len() * schedule.width();
        let bytes = backend.workspace_bytes(&self.plan);
        let input = if self.takes_dense {
            Input::Dense(backend.view(&self.dense, 0, count))
        } else {
            Input::Tokens(backend.view(&self.tokens, 0, count))
        };
        let workspace = backend.view_mut(&mut self.workspace, 0, bytes);
        let hidden = backend.view_mut(&mut self.hidden, 0, rows * config.hidden);
        backend.scan(model.weights(), &self.plan, input, workspace, hidden)?;
        let hidden = backend.view(&self.hidden, 0, rows * config.hidden);
        let len = rows * config.output;
        backend.readout(model.weights(), hidden, backend.view_mut(&mut self.logits, 0, len))?;
        backend.download(backend.view(&self.logits, 0, len), &mut self.y[..len])?;
        self.ends.clear();
        let mut end = 0;
        for &length in &self.lengths {
            end += self.outputs.count(length);
            self.ends.push(end);
        }
        Ok(Output { y: &self.y[..len], ends: &self.ends, width: config.output })
    }
}

/// Logits of a batch, `[outputs of the first sequence, O]`, then those of the second, and so on: `[B, n, O]`
/// where every sequence has `n` outputs. Dereferences to the flat slice.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    y: &'a [f32],
    ends: &'a [usize],
    width: usize,
}

impl<'a> Output<'a> {
    /// The logits of one sequence, `[n, O]`.
    ///
    /// # Panics
    /// If the batch had no such sequence.
    pub fn sequence(&self, index: usize) -> &'a [f32] {
        let range = self.range(index);
        &self.y[range.start * self.width..range.end * self.width]
    }

    fn range(&self, index: usize) -> Range<usize> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        start..self.ends[index]
    }
}

impl std::ops::Deref for Output<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.y
    }
}

/// Refuses tokens that the model does not have.
pub(crate) fn check_tokens<S: AsRef<[u32]>>(config: &Config, batch: &[S]) -> Result<()> {
    for (sequence, tokens) in batch.iter().enumerate() {
        let out_of_range = |&token: &u32| token as usize >= config.input;
        if let Some(position) = tokens.as_ref().iter().position(out_of_range) {
            let token = tokens.as_ref()[position];
            return Err(Error::Token { sequence, position, token, vocabulary: config.input });
        }
    }
    Ok(())
}

/// Refuses rows that are not whole or not finite, or would not be so in the device's dtype.
pub(crate) fn check_dense<B: Backend, S: AsRef<[f32]>>(
    config: &Config,
    backend: &B,
    batch: &[S],
) -> Result<()> {
    for (index, rows) in batch.iter().enumerate() {
        let rows = rows.as_ref();
        if !rows.len().is_multiple_of(config.input) {
            let expected = format!("whole rows of D = {} elements", config.input);
            return Err(Error::argument(
                format!("sequence {index}"),
                expected,
                format!("{} elements", rows.len()),
            ));
        }
        if let Some(element) = rows.iter().position(|x| !x.is_finite()) {
            let value = f64::from(rows[element]);
            return Err(Error::NotFinite { tensor: format!("sequence {index}"), index: element, value });
        }
        if let Some(element) = rows.iter().position(|x| x.abs() > backend.largest()) {
            return Err(too_large(format!("sequence {index}, element {element}"), rows[element], backend));
        }
    }
    Ok(())
}
