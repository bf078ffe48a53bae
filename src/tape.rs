//! The minimal autograd tape: scans, read-outs, losses and functions of one's own, recorded in order and walked
//! back. It is a graph: values may be used several times, and gradients add. Knows nothing of tasks.

use std::fmt;
use std::sync::Arc;

use crate::backend::{Backend, Input, Labelled, Pass};
use crate::error::{Error, Result};
use crate::identity;
use crate::model::{Config, Layout, Parameters};
use crate::session::{check_dense, check_tokens};
use crate::tree::{Outputs, Planner, Rows, Schedule};

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

/// A value and its gradient on the device; kept over [`Tape::clear`] and used again.
#[derive(Debug)]
struct Storage<B: Backend> {
    value: B::Buffer<f32>,
    gradient: B::Buffer<f32>,
    capacity: usize,
    len: usize,
}

/// The memory of one recorded scan; kept and used again likewise.
#[derive(Debug)]
struct PassMemory<B: Backend> {
    plan: B::Plan,
    planned: Option<(Shape, Outputs)>,
    workspace: B::Buffer<u8>,
    workspace_bytes: usize,
    tokens: B::Buffer<u32>,
    dense: B::Buffer<f32>,
    d_input: B::Buffer<f32>,
    /// Input rows, and whether they are dense.
    input: (usize, bool),
    /// Rows of `hidden`.
    outputs: usize,
    /// Bytes of `dense` and `d_input` together; 0 until dense input came.
    dense_bytes: usize,
}

/// Lengths of the sequences of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shape {
    Padded { batch: usize, time: usize },
    Ragged(Vec<usize>),
}

/// Targets and mask of a cross entropy on the device; kept and used again likewise.
#[derive(Debug)]
struct Labels<B: Backend> {
    targets: B::Buffer<u32>,
    mask: B::Buffer<u8>,
    capacity: usize,
    len: usize,
}

/// The tape. Memory grows as more is recorded than ever before, and is kept by [`clear`](Self::clear).
pub struct Tape<B: Backend> {
    backend: B,
    config: Config,
    max_batch: usize,
    max_time: usize,
    planner: Planner,
    schedule: Schedule,
    nodes: Vec<Node<B>>,
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
            planner: Planner::new(),
            schedule: Schedule::default(),
            nodes: Vec::new(),
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

    /// Allocates now what recording one more scan of the largest batch with these outputs would, so that
    /// [`bytes`](Self::bytes) tells before anything runs.
    ///
    /// # Errors
    /// Those of [`scan`](Self::scan).
    pub fn reserve(&mut self, outputs: &Outputs) -> Result<()> {
        let shape = Shape::Padded { batch: self.max_batch, time: self.max_time };
        let pass = self.passes_used;
        self.plan(pass, &shape, outputs)?;
        self.allocate(self.passes[pass].outputs * self.config.hidden).map(|_| ())
    }

    /// Bytes on the device that the tape holds.
    pub fn bytes(&self) -> usize {
        let mut bytes = self.gradients.layout.len() * 4;
        for storage in &self.storage {
            bytes += storage.capacity * 8;
        }
        for pass in &self.passes {
            bytes += pass.workspace_bytes + self.max_batch * self.max_time * 4;
            bytes += pass.dense_bytes;
        }
        bytes + self.labels.iter().map(|labels| labels.capacity * 5).sum::<usize>()
    }

    /// Forgets all values; keeps the memory.
    pub fn clear(&mut self) {
        self.nodes.clear();
        self.kinds.clear();
        self.passes_used = 0;
        self.labels_used = 0;
        self.recording = identity::next();
    }

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
        let shape = self.shape(batch.iter().map(|sequence| sequence.as_ref().len()))?;
        self.check_parameters(parameters)?;
        let pass = self.passes_used;
        self.plan(pass, &shape, &outputs)?;
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
        let shape = self.shape(batch.iter().map(|sequence| sequence.as_ref().len() / width))?;
        self.check_parameters(parameters)?;
        let pass = self.passes_used;
        self.plan(pass, &shape, &outputs)?;
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
        self.cross_entropy_masked(logits, targets, &vec![1; targets.len()])
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
        Ok(Metrics { loss: metrics[0], right: metrics[1] as usize, counted: metrics[2] as usize })
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

    /// A value, flat. Waits for the device.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is of another recording; the device's.
    pub fn value(&self, value: Value) -> Result<Vec<f32>> {
        self.download(self.index(value)?)
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

    /// Walks the tape back from a loss of one element. A recording can be walked back once.
    ///
    /// # Errors
    /// [`Error::Argument`] if the loss is not one element or the recording was walked back already; the device's.
    pub fn backward(&mut self, loss: Value) -> Result<&Gradients<B>> {
        let index = self.index(loss)?;
        if self.storage[index].len != 1 {
            let found = format!("{} elements", self.storage[index].len);
            return Err(Error::argument("loss", "one element; `backward_from` takes a gradient", found));
        }
        self.backward_from(loss, &[1.0])
    }

    /// Walks the tape back from a value, whose gradient is given.
    ///
    /// # Errors
    /// As [`backward`](Self::backward); [`Error::Argument`] if the lengths differ.
    pub fn backward_from(&mut self, value: Value, gradient: &[f32]) -> Result<&Gradients<B>> {
        let last = self.index(value)?;
        if gradient.len() != self.storage[last].len {
            let expected = format!("{} elements, as the value has", self.storage[last].len);
            return Err(Error::argument("gradient", expected, gradient.len()));
        }
        if self.nodes.iter().any(|node| matches!(node, Node::Spent)) {
            return Err(Error::argument(
                "value",
                "one of a recording not yet walked back: `clear`, and record anew",
                "one that was",
            ));
        }
        let backend = &self.backend;
        for storage in &mut self.storage[..self.nodes.len()] {
            let len = storage.len;
            backend.zero(backend.view_mut(&mut storage.gradient, 0, len))?;
        }
        backend.zero(backend.view_mut(&mut self.gradients.flat, 0, self.gradients.layout.len()))?;
        backend.upload(gradient, backend.view_mut(&mut self.storage[last].gradient, 0, gradient.len()))?;
        // Spent before anything is walked: a panic in a function of the user's leaves no half of a recording.
        let spent = self.nodes.iter().map(|_| Node::Spent).collect();
        let nodes = std::mem::replace(&mut self.nodes, spent);
        let mut result = Ok(());
        for (index, node) in nodes.into_iter().enumerate().rev() {
            if index <= last && result.is_ok() {
                result = self.backward_node(index, node);
            }
        }
        result.map(|()| &self.gradients)
    }

    fn backward_node(&mut self, index: usize, node: Node<B>) -> Result<()> {
        let backend = &self.backend;
        let (before, after) = self.storage.split_at_mut(index);
        let Storage { gradient, len, .. } = &after[0];
        let (layout_len, flat) = (self.gradients.layout.len(), &mut self.gradients.flat);
        match node {
            Node::Scan { pass, weights } => {
                let memory = &mut self.passes[pass];
                let (rows, dense) = memory.input;
                let elements = rows * self.config.input;
                let input = if dense {
                    Input::Dense(backend.view(&memory.dense, 0, elements))
                } else {
                    Input::Tokens(backend.view(&memory.tokens, 0, rows))
                };
                let workspace =
                    backend.view_mut(&mut memory.workspace, 0, backend.workspace_bytes(&memory.plan));
                let d_input = dense.then(|| backend.view_mut(&mut memory.d_input, 0, elements));
                let d_hidden = backend.view(gradient, 0, *len);
                let flat = backend.view_mut(flat, 0, layout_len);
                backend.scan_backward(&weights, &memory.plan, input, workspace, d_hidden, flat, d_input)
            }
            Node::Readout { hidden, weights } => {
                let Storage { value, gradient: d_hidden, len: hidden_len, .. } = &mut before[hidden];
                backend.readout_backward(
                    &weights,
                    backend.view(value, 0, *hidden_len),
                    backend.view(gradient, 0, *len),
                    backend.view_mut(d_hidden, 0, *hidden_len),
                    backend.view_mut(flat, 0, layout_len),
                )
            }
            Node::CrossEntropy { logits, labels } => {
                let d_loss = backend.view(gradient, 0, 1);
                let Storage { value, gradient: d_logits, len, .. } = &mut before[logits];
                let labelled = labelled(backend, backend.view(value, 0, *len), &self.labels[labels]);
                backend.cross_entropy_backward(labelled, d_loss, backend.view_mut(d_logits, 0, *len))
            }
            Node::Custom { inputs, backward } => {
                let mut d_result = vec![0.0; *len];
                backend.download(backend.view(gradient, 0, *len), &mut d_result)?;
                let mut values = Vec::with_capacity(inputs.len());
                for &input in &inputs {
                    values.push(download(backend, &before[input])?);
                }
                let values: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
                let gradients = backward(&values, &d_result);
                for (n, (input, from)) in inputs.into_iter().zip(gradients).enumerate() {
                    let to = &mut before[input];
                    if from.len() != to.len {
                        let name = format!("gradient {n} of the custom function");
                        return Err(Error::argument(name, format!("{} elements", to.len), from.len()));
                    }
                    let mut staged = backend.alloc(from.len())?;
                    backend.upload(&from, backend.view_mut(&mut staged, 0, from.len()))?;
                    let staged = backend.view(&staged, 0, from.len());
                    backend.add(staged, backend.view_mut(&mut to.gradient, 0, to.len))?;
                }
                Ok(())
            }
            Node::Add { inputs } => {
                for input in inputs {
                    let to = backend.view_mut(&mut before[input].gradient, 0, *len);
                    backend.add(backend.view(gradient, 0, *len), to)?;
                }
                Ok(())
            }
            Node::Spent => Ok(()),
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

    /// The shape of a batch within the tape's limits.
    fn shape(&self, lengths: impl ExactSizeIterator<Item = usize> + Clone) -> Result<Shape> {
        let (batch, max_batch, max_time) = (lengths.len(), self.max_batch, self.max_time);
        if batch == 0 || batch > max_batch {
            let expected = format!("1 to {max_batch} sequences (max_batch of `Tape::new`)");
            return Err(Error::argument("batch", expected, batch));
        }
        for (index, length) in lengths.clone().enumerate() {
            if length == 0 || length > max_time {
                let name = format!("sequence {index}");
                let expected = format!("1 to {max_time} steps (max_time of `Tape::new`)");
                return Err(Error::argument(name, expected, length));
            }
        }
        let time = lengths.clone().next().unwrap_or(0);
        if lengths.clone().all(|length| length == time) {
            return Ok(Shape::Padded { batch, time });
        }
        Ok(Shape::Ragged(lengths.collect()))
    }

    /// Makes the memory of pass `index` ready for a shape.
    fn plan(&mut self, index: usize, shape: &Shape, outputs: &Outputs) -> Result<()> {
        let (backend, schedule) = (&self.backend, &mut self.schedule);
        let wanted = Some((shape.clone(), outputs.clone()));
        if self.passes.get(index).is_some_and(|pass| pass.planned == wanted) {
            return Ok(());
        }
        let mut schedule_for = |shape: &Shape| match shape {
            Shape::Padded { batch, time } => {
                self.planner.padded(schedule, *batch, *time, outputs, Rows::Keep)
            }
            Shape::Ragged(lengths) => self.planner.ragged(schedule, lengths, outputs, Rows::Keep),
        };
        if index == self.passes.len() {
            // The largest batch first, so that memory does not grow with each longer one.
            schedule_for(&Shape::Padded { batch: self.max_batch, time: self.max_time })?;
            let plan = backend.plan(&self.config, &self.schedule, Pass::Train)?;
            let workspace_bytes = backend.workspace_bytes(&plan);
            self.passes.push(PassMemory {
                plan,
                planned: None,
                workspace: backend.alloc(workspace_bytes)?,
                workspace_bytes,
                tokens: backend.alloc(self.max_batch * self.max_time)?,
                dense: backend.alloc(0)?,
                d_input: backend.alloc(0)?,
                input: (0, false),
                outputs: 0,
                dense_bytes: 0,
            });
            return self.plan(index, shape, outputs);
        }
        schedule_for(shape)?;
        let pass = &mut self.passes[index];
        pass.planned = None;
        backend.replan(&mut pass.plan, &self.schedule)?;
        let bytes = backend.workspace_bytes(&pass.plan);
        if bytes > pass.workspace_bytes {
            pass.workspace = backend.alloc(bytes)?;
            pass.workspace_bytes = bytes;
        }
        pass.outputs = self.schedule.outputs().len() * self.schedule.width();
        pass.planned = wanted;
        Ok(())
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

    /// Storage for the value that is recorded next.
    fn allocate(&mut self, len: usize) -> Result<usize> {
        let index = self.nodes.len();
        if self.storage.get(index).is_none_or(|storage| storage.capacity < len) {
            let storage = Storage {
                value: self.backend.alloc(len)?,
                gradient: self.backend.alloc(len)?,
                capacity: len,
                len,
            };
            if index < self.storage.len() {
                self.storage[index] = storage;
            } else {
                self.storage.push(storage);
            }
        }
        self.storage[index].len = len;
        Ok(index)
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

fn download<B: Backend>(backend: &B, storage: &Storage<B>) -> Result<Vec<f32>> {
    let mut host = vec![0.0; storage.len];
    backend.download(backend.view(&storage.value, 0, storage.len), &mut host)?;
    Ok(host)
}

/// Logits with their labels, as a backend takes them.
fn labelled<'a, B: Backend>(backend: &B, logits: B::View<'a, f32>, labels: &'a Labels<B>) -> Labelled<'a, B> {
    Labelled {
        logits,
        targets: backend.view(&labels.targets, 0, labels.len),
        mask: backend.view(&labels.mask, 0, labels.len),
    }
}
