//! Recording: each function runs what it records at once, and notes how the value was made.

use std::sync::Arc;

use super::memory::{Labels, labelled};
use super::{CustomBackward, Kind, Node, Tape, Value};
use crate::backend::{Backend, Input};
use crate::error::{Error, Result};
use crate::model::{Config, Parameters};
use crate::session::{check_dense, check_tokens};
use crate::tree::Outputs;

impl<B: Backend> Tape<B> {
    /// Records a scan over a batch of token sequences, ragged or not: `h` of the outputs, `[outputs, H]`, those of
    /// the first sequence first.
    ///
    /// # Errors
    /// [`Error::Argument`] if the batch or the parameters do not fit the tape, [`Error::Token`]; the device's.
    pub fn scan<S: AsRef<[u32]>>(
        &mut self,
        parameters: &Parameters<B>,
        batch: &[S],
        outputs: Outputs,
    ) -> Result<Value> {
        check_tokens(&self.config, batch)?;
        self.take_lengths(batch.iter().map(|sequence| sequence.as_ref().len()))?;
        self.check_parameters(parameters)?;
        let pass = self.passes_used;
        self.plan(pass, &outputs)?;
        let (memory, backend) = (&mut self.passes[pass], &self.backend);
        let mut start = 0;
        for sequence in batch {
            let tokens = sequence.as_ref();
            backend.upload(tokens, backend.view_mut(&mut memory.tokens, start, tokens.len()))?;
            start += tokens.len();
        }
        memory.input = (start, false);
        self.record_scan(parameters, pass)
    }

    /// Records a scan over dense sequences, each `[T, D]` row-major; [`d_input`](Self::d_input) has their gradient.
    ///
    /// # Errors
    /// As [`scan`](Self::scan); [`Error::NotFinite`].
    pub fn scan_dense<S: AsRef<[f32]>>(
        &mut self,
        parameters: &Parameters<B>,
        batch: &[S],
        outputs: Outputs,
    ) -> Result<Value> {
        check_dense(&self.config, &self.backend, batch)?;
        let width = self.config.input;
        self.take_lengths(batch.iter().map(|sequence| sequence.as_ref().len() / width))?;
        self.check_parameters(parameters)?;
        let pass = self.passes_used;
        self.plan(pass, &outputs)?;
        let (memory, backend) = (&mut self.passes[pass], &self.backend);
        if memory.dense_bytes == 0 {
            let floats = self.max_batch * self.max_time * width;
            memory.dense = backend.alloc(floats)?;
            memory.d_input = backend.alloc(floats)?;
            memory.dense_bytes = 2 * floats * 4;
        }
        let mut start = 0;
        for sequence in batch {
            let x = sequence.as_ref();
            backend.upload(x, backend.view_mut(&mut memory.dense, start, x.len()))?;
            start += x.len();
        }
        backend.zero(backend.view_mut(&mut memory.d_input, 0, start))?;
        memory.input = (start / width, true);
        self.record_scan(parameters, pass)
    }

    /// Records the read-out `relu(h) · W_out + b_out`: `[n, H]` to `[n, O]`.
    ///
    /// # Errors
    /// [`Error::Argument`] if `hidden` is of another recording or not rows of `H`; the device's.
    pub fn readout(&mut self, parameters: &Parameters<B>, hidden: Value) -> Result<Value> {
        self.check_parameters(parameters)?;
        let from = self.index(hidden)?;
        let len = self.storage[from].len;
        let Config { hidden: h, output, .. } = self.config;
        if !len.is_multiple_of(h) {
            return Err(Error::argument("hidden", format!("rows of H = {h}"), format!("{len} elements")));
        }
        let rows = len / h;
        let weights = Arc::clone(parameters.weights());
        let to = self.allocate(rows * output)?;
        let (before, after) = self.storage.split_at_mut(to);
        let hidden = self.backend.view(&before[from].value, 0, len);
        let y = self.backend.view_mut(&mut after[0].value, 0, rows * output);
        self.backend.readout(&weights, hidden, y)?;
        Ok(self.push(Node::Readout { hidden: from, weights }))
    }

    /// Records the cross entropy of logits `[n, O]` with `n` targets, mean over the rows: one number.
    ///
    /// # Errors
    /// [`Error::Argument`] if the shapes do not fit or a target is not below `O`; the device's.
    pub fn cross_entropy(&mut self, logits: Value, targets: &[u32]) -> Result<Value> {
        let mut ones = std::mem::take(&mut self.ones);
        ones.resize(targets.len(), 1);
        let recorded = self.cross_entropy_masked(logits, targets, &ones);
        self.ones = ones;
        recorded
    }

    /// The same, where only rows with a mask of 1 count for the accuracy that [`metrics`](Self::metrics) tells.
    /// The loss counts every row.
    ///
    /// # Errors
    /// As [`cross_entropy`](Self::cross_entropy).
    pub fn cross_entropy_masked(&mut self, logits: Value, targets: &[u32], mask: &[u8]) -> Result<Value> {
        let from = self.index(logits)?;
        let (len, classes) = (self.storage[from].len, self.config.output);
        if targets.len() * classes != len || targets.is_empty() {
            let expected = format!("one for each row of the logits, {}", len / classes);
            return Err(Error::argument("targets", expected, targets.len()));
        }
        if mask.len() != targets.len() {
            return Err(Error::argument("mask", format!("{} rows", targets.len()), mask.len()));
        }
        if let Some(target) = targets.iter().find(|&&target| target as usize >= classes) {
            return Err(Error::argument("targets", format!("classes below O = {classes}"), target));
        }
        let slot = self.labels_used;
        let backend = &self.backend;
        let count = targets.len();
        if self.labels.get(slot).is_none_or(|labels| labels.capacity < count) {
            self.labels.truncate(slot);
            let (targets, mask) = (backend.alloc(count)?, backend.alloc(count)?);
            self.labels.push(Labels { targets, mask, capacity: count, len: count });
        }
        let labels = &mut self.labels[slot];
        labels.len = count;
        backend.upload(targets, backend.view_mut(&mut labels.targets, 0, count))?;
        backend.upload(mask, backend.view_mut(&mut labels.mask, 0, count))?;
        self.labels_used += 1;
        // `[loss, right, counted]`, of which the value is the first.
        let to = self.allocate(3)?;
        self.storage[to].len = 1;
        let (before, after) = self.storage.split_at_mut(to);
        let logits = self.backend.view(&before[from].value, 0, len);
        let labelled = labelled(&self.backend, logits, &self.labels[slot]);
        self.backend.cross_entropy(labelled, self.backend.view_mut(&mut after[0].value, 0, 3))?;
        Ok(self.push(Node::CrossEntropy { logits: from, labels: slot }))
    }

    /// Records a function of one's own. `forward` gets the inputs' values and gives the result's; `backward` gets
    /// the inputs' values and the gradient of the result, and gives the gradient of each input. Both run on the
    /// host.
    ///
    /// # Errors
    /// [`Error::Argument`] if an input is of another recording or the result is empty; the device's.
    pub fn custom<const N: usize>(
        &mut self,
        inputs: [Value; N],
        forward: impl FnOnce([&[f32]; N]) -> Vec<f32>,
        backward: impl FnOnce([&[f32]; N], &[f32]) -> [Vec<f32>; N] + Send + 'static,
    ) -> Result<Value> {
        let mut indices = [0; N];
        for (index, input) in indices.iter_mut().zip(inputs) {
            *index = self.index(input)?;
        }
        let mut values = Vec::with_capacity(N);
        for &index in &indices {
            values.push(self.download(index)?);
        }
        let result = forward(std::array::from_fn(|n| values[n].as_slice()));
        if result.is_empty() {
            return Err(Error::argument("forward", "at least one element", "an empty result"));
        }
        let to = self.allocate(result.len())?;
        self.backend.upload(&result, self.backend.view_mut(&mut self.storage[to].value, 0, result.len()))?;
        let backward: CustomBackward =
            Box::new(move |values, d_result| backward(std::array::from_fn(|n| values[n]), d_result).into());
        Ok(self.push(Node::Custom { inputs: indices.into(), backward }))
    }

    /// Records the sum of two values of equal length: two losses, say.
    ///
    /// # Errors
    /// [`Error::Argument`] if the lengths differ or a value is of another recording; the device's.
    pub fn add(&mut self, a: Value, b: Value) -> Result<Value> {
        let inputs = [self.index(a)?, self.index(b)?];
        let [len, other] = inputs.map(|index| self.storage[index].len);
        if len != other {
            return Err(Error::argument("b", format!("{len} elements, as `a` has"), other));
        }
        let to = self.allocate(len)?;
        let (before, after) = self.storage.split_at_mut(to);
        let backend = &self.backend;
        backend.zero(backend.view_mut(&mut after[0].value, 0, len))?;
        for from in inputs {
            let from = backend.view(&before[from].value, 0, len);
            backend.add(from, backend.view_mut(&mut after[0].value, 0, len))?;
        }
        Ok(self.push(Node::Add { inputs }))
    }

    fn record_scan(&mut self, parameters: &Parameters<B>, pass: usize) -> Result<Value> {
        let weights = Arc::clone(parameters.weights());
        let rows = self.passes[pass].outputs;
        let to = self.allocate(rows * self.config.hidden)?;
        let (memory, backend) = (&mut self.passes[pass], &self.backend);
        let (rows_in, dense) = memory.input;
        let input = if dense {
            Input::Dense(backend.view(&memory.dense, 0, rows_in * self.config.input))
        } else {
            Input::Tokens(backend.view(&memory.tokens, 0, rows_in))
        };
        let workspace = backend.view_mut(&mut memory.workspace, 0, backend.workspace_bytes(&memory.plan));
        let hidden = backend.view_mut(&mut self.storage[to].value, 0, rows * self.config.hidden);
        backend.scan(&weights, &memory.plan, input, workspace, hidden)?;
        self.passes_used += 1;
        Ok(self.push(Node::Scan { pass, weights }))
    }

    fn push(&mut self, node: Node<B>) -> Value {
        self.kinds.push(match &node {
            Node::Scan { pass, .. } => Kind::Scan { pass: *pass },
            Node::CrossEntropy { .. } => Kind::CrossEntropy,
            _ => Kind::Other,
        });
        self.nodes.push(node);
        Value { index: self.nodes.len() - 1, recording: self.recording }
    }
}
