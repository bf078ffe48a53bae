//! The training step as one graph a length, from the copy of the batch out of pinned memory to the packed weights. Knows
//! batches of equal lengths, and no task.
//!
//! What changes from step to step lives in device memory: tokens and targets, the step number with the sticky word beside
//! it, the step size, bias corrections, the scale of clipping, loss and counts. A graph keeps the addresses of parameters,
//! weights and the optimiser's memory; where one of them is another than it was, all graphs are recorded anew.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaView, DeviceSlice, DriverError};

use super::capture::record;
use super::driver::tracked;
use super::kept::Kept;
use super::launch::{self, Recorded, Span};
use super::pinned::Pinned;
use super::storage::ALIGNMENT;
use super::{Cuda, CudaPlan};
use crate::backend::steps::{LengthBatch, Sealed};
use crate::backend::{Backend as _, Input, Labelled, Pass};
use crate::error::{Error, Result};
use crate::model::{Config, Parameters};
use crate::optim::{Adam, Optimizer};
use crate::tree::{Outputs, Planner, Rows, Schedule};

/// Training steps of one model.
#[derive(Debug)]
pub struct Steps {
    cuda: Cuda,
    config: Config,
    /// With `z` kept or computed anew.
    pass: Pass,
    planner: Planner,
    schedule: Schedule,
    memory: Memory,
    staged: [Staged; 2],
    /// Which of the two is written next.
    next: usize,
    /// What the recordings were made for.
    fixed: Option<Fixed>,
}

/// Where the host writes a batch while the device is at the one before.
#[derive(Debug)]
struct Staged {
    /// Tokens, targets, then the mask a byte each.
    words: Pinned,
    /// Of the steps that copy them.
    recordings: Kept<Recording>,
}

/// Device memory that every recording uses, whatever its length.
#[derive(Debug)]
struct Memory {
    workspace: CudaSlice<u8>,
    /// Tokens, targets, then the mask a byte each.
    batch: CudaSlice<u32>,
    /// `[outputs, H]`.
    hidden: CudaSlice<f32>,
    /// `[outputs, O]`.
    logits: CudaSlice<f32>,
    /// `[loss, right, counted]`.
    metrics: CudaSlice<f32>,
    /// The gradient of the loss: 1.
    one: CudaSlice<f32>,
    /// What a step begins with zeros in: the flat gradient, then those of `hidden` and of the logits.
    gradients: CudaSlice<f32>,
    /// Where the second begins.
    d_hidden: usize,
}

/// A step of one length.
#[derive(Debug)]
struct Recording {
    shape: Shape,
    graph: Recorded,
    /// Its lists are read by the graph.
    _plan: CudaPlan,
}

/// The sizes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    batch: usize,
    time: usize,
    /// Of a sequence.
    outputs: usize,
}

impl Shape {
    fn tokens(self) -> usize {
        self.batch * self.time
    }

    fn rows(self) -> usize {
        self.batch * self.outputs
    }

    fn words(self) -> usize {
        self.tokens() + self.rows() + self.rows().div_ceil(4)
    }
}

/// What the launches of a recording were told for good.
#[derive(Clone, Debug, PartialEq)]
struct Fixed {
    addresses: Vec<u64>,
    adam: Adam,
}

impl Fixed {
    fn of(parameters: &Parameters<Cuda>, optimizer: &Optimizer<Cuda>) -> Self {
        let stream = parameters.backend().stream();
        let (floats, steps) = optimizer.memory();
        let mut addresses = vec![Span::of(steps, stream).0.address()];
        let floats = floats.into_iter().chain([&parameters.flat]);
        addresses.extend(floats.map(|memory| Span::of(memory, stream).0.address()));
        addresses.extend(parameters.weights().addresses(stream));
        // The step size is read where it lies.
        Fixed { addresses, adam: Adam { learning_rate: 0.0, ..*optimizer.config() } }
    }
}

impl Steps {
    /// Steps of `batch` sequences of at most `time` tokens, of which the last `outputs` at most are read. Allocates what the
    /// longest use; a length that takes more finds room when it is recorded.
    pub(super) fn new(
        parameters: &Parameters<Cuda>,
        pass: Pass,
        batch: usize,
        time: usize,
        outputs: usize,
    ) -> Result<Self> {
        let (cuda, config) = (parameters.backend().clone(), parameters.config().clone());
        if cuda.stream().context().is_event_tracking() {
            return Err(tracked());
        }
        let mut planner = Planner::new();
        let mut schedule = Schedule::default();
        planner.padded(&mut schedule, batch, time, &Outputs::LastN(outputs), Rows::Keep)?;
        let plan = cuda.plan(&config, &schedule, pass)?;
        let shape = Shape { batch, time, outputs };
        let [hidden_len, logits_len] = [config.hidden, config.output].map(|row| shape.rows() * row);
        let d_hidden = parameters.layout().len().next_multiple_of(ALIGNMENT / size_of::<f32>());
        let mut one = cuda.alloc(1)?;
        cuda.upload(&[1.0], one.as_view_mut())?;
        let memory = Memory {
            workspace: cuda.alloc(cuda.workspace_bytes(&plan))?,
            batch: cuda.alloc(shape.words())?,
            hidden: cuda.alloc(hidden_len)?,
            logits: cuda.alloc(logits_len)?,
            metrics: cuda.alloc(3)?,
            one,
            gradients: cuda.alloc(d_hidden + hidden_len + logits_len)?,
            d_hidden,
        };
        let staged = || {
            let words = Pinned::new(cuda.stream(), shape.words());
            let words = words.map_err(|error| cuda.failed("allocate pinned memory", error))?;
            Ok(Staged { words, recordings: Kept::default() })
        };
        let staged = [staged()?, staged()?];
        Ok(Steps { cuda, config, pass, planner, schedule, memory, staged, next: 0, fixed: None })
    }

    /// Enqueues a step, without waiting unless the host is two steps ahead of the device; records it first where it is the
    /// first of its length that copies these words.
    pub(super) fn step(
        &mut self,
        batch: &LengthBatch<'_>,
        parameters: &mut Parameters<Cuda>,
        optimizer: &mut Optimizer<Cuda>,
    ) -> Result<()> {
        let LengthBatch { length, time, outputs, .. } = *batch;
        let shape = Shape { batch: batch.tokens.len() / time, time, outputs };
        self.check(batch, shape, parameters)?;
        // Makes the context this thread's, too.
        self.cuda.outside_capture("take a training step")?;
        parameters.own_weights()?;
        let fixed = Fixed::of(parameters, optimizer);
        if self.fixed.as_ref() != Some(&fixed) {
            self.staged.iter_mut().for_each(|staged| staged.recordings.clear());
            self.fixed = Some(fixed);
        }
        let recorded = self.staged[self.next].recordings.get(length);
        if recorded.is_none_or(|recording| recording.shape != shape) {
            let recording = self.record(shape, parameters, optimizer)?;
            self.staged[self.next].recordings.insert(length, recording);
        }
        let Staged { words, recordings } = &mut self.staged[self.next];
        stage(batch, shape, words).map_err(|error| self.cuda.failed("wait for a batch", error))?;
        let Some(Recording { graph, .. }) = recordings.get(length) else { return Ok(()) };
        let launched = launch::replay(self.cuda.stream(), graph).and_then(|()| words.hand_over());
        launched.map_err(|error| self.cuda.failed("launch a step", error))?;
        self.next = 1 - self.next;
        Ok(())
    }

    /// Loss, right and counted of the last step. Waits for the device.
    pub(super) fn metrics(&self) -> Result<[f32; 3]> {
        let mut metrics = [f32::NAN; 3];
        self.cuda.download(self.memory.metrics.as_view(), &mut metrics)?;
        Ok(metrics)
    }

    /// Refuses a batch that the memory was not made for.
    fn check(&self, batch: &LengthBatch<'_>, shape: Shape, parameters: &Parameters<Cuda>) -> Result<()> {
        let room = self.memory.batch.len();
        if shape.words() > room || shape.rows() * self.config.output > self.memory.logits.len() {
            return Err(Error::argument("batch", format!("at most {room} words"), format!("{shape:?}")));
        }
        for (name, len, expected) in [
            ("tokens", batch.tokens.len(), shape.tokens()),
            ("targets", batch.targets.len(), shape.rows()),
            ("mask", batch.mask.len(), shape.rows()),
        ] {
            if len != expected {
                return Err(Error::argument(name, format!("{expected} elements"), len));
            }
        }
        if *parameters.config() != self.config {
            let (expected, found) = (&self.config, parameters.config());
            return Err(Error::argument(
                "parameters",
                format!("those of {expected:?}"),
                format!("{found:?}"),
            ));
        }
        Ok(())
    }

    fn record(
        &mut self,
        shape: Shape,
        parameters: &mut Parameters<Cuda>,
        optimizer: &mut Optimizer<Cuda>,
    ) -> Result<Recording> {
        let Shape { batch, time, outputs } = shape;
        self.planner.padded(&mut self.schedule, batch, time, &Outputs::LastN(outputs), Rows::Keep)?;
        let plan = self.cuda.plan(&self.config, &self.schedule, self.pass)?;
        let bytes = self.cuda.workspace_bytes(&plan);
        if bytes > self.memory.workspace.len() {
            // Pruned, a shorter batch may have more merges than the longest. What was recorded knows the old memory.
            self.staged.iter_mut().for_each(|staged| staged.recordings.clear());
            self.memory.workspace = self.cuda.alloc(0)?;
            self.memory.workspace = self.cuda.alloc(bytes)?;
        }
        let (memory, config, words) = (&mut self.memory, &self.config, &self.staged[self.next].words);
        let graph = record(&self.cuda, |cuda| {
            let copied = words.copy(cuda.target(), shape.words(), &mut memory.batch);
            copied.map_err(|error| cuda.failed("copy a batch", error))?;
            memory.enqueue(cuda, config, &plan, shape, parameters, optimizer)
        })?;
        Ok(Recording { shape, graph, _plan: plan })
    }
}

/// Writes a batch, once the device has read the last one there.
fn stage(batch: &LengthBatch<'_>, shape: Shape, words: &mut Pinned) -> std::result::Result<(), DriverError> {
    let (tokens, rest) = words.write(shape.words())?.split_at_mut(shape.tokens());
    let (targets, mask) = rest.split_at_mut(shape.rows());
    tokens.copy_from_slice(batch.tokens);
    targets.copy_from_slice(batch.targets);
    bytemuck::cast_slice_mut(mask)[..shape.rows()].copy_from_slice(batch.mask);
    Ok(())
}

impl Sealed for Cuda {
    type Steps = Steps;

    fn steps(
        parameters: &Parameters<Self>,
        pass: Pass,
        batch: usize,
        time: usize,
        outputs: usize,
    ) -> Result<Option<Steps>> {
        match parameters.backend().graphs {
            true => Steps::new(parameters, pass, batch, time, outputs).map(Some),
            false => Ok(None),
        }
    }

    fn take(
        steps: &mut Steps,
        batch: &LengthBatch<'_>,
        parameters: &mut Parameters<Self>,
        optimizer: &mut Optimizer<Self>,
    ) -> Result<()> {
        steps.step(batch, parameters, optimizer)
    }

    fn steps_bytes(steps: &Steps) -> usize {
        steps.memory.bytes()
    }

    fn measured(steps: &Steps) -> Result<[f32; 3]> {
        steps.metrics()
    }
}

impl Memory {
    fn bytes(&self) -> usize {
        let Memory { workspace, batch, hidden, logits, metrics, one, gradients, .. } = self;
        let floats = [hidden, logits, metrics, one, gradients];
        workspace.num_bytes() + batch.num_bytes() + floats.map(DeviceSlice::num_bytes).iter().sum::<usize>()
    }

    /// The step, launch by launch, in the order of the tape.
    fn enqueue(
        &mut self,
        cuda: &Cuda,
        config: &Config,
        plan: &CudaPlan,
        shape: Shape,
        parameters: &mut Parameters<Cuda>,
        optimizer: &mut Optimizer<Cuda>,
    ) -> Result<()> {
        let Memory { workspace, batch, hidden, logits, metrics, one, gradients, d_hidden } = self;
        let (hidden_len, logits_len) = (shape.rows() * config.hidden, shape.rows() * config.output);
        let tokens = || Input::Tokens(batch.slice(..shape.tokens()));
        let labels = batch.slice(shape.tokens()..shape.words());
        let weights = Arc::clone(parameters.weights());
        let bytes = cuda.workspace_bytes(plan);

        cuda.scan(&weights, plan, tokens(), workspace.slice_mut(..bytes), hidden.slice_mut(..hidden_len))?;
        cuda.readout(&weights, hidden.slice(..hidden_len), logits.slice_mut(..logits_len))?;
        let mut zeros = gradients.slice_mut(..*d_hidden + hidden_len + logits_len);
        cuda.zero(zeros.slice_mut(..))?;
        let (mut gradient, mut rest) = zeros.split_at_mut(*d_hidden);
        let mut gradient = gradient.slice_mut(..parameters.layout().len());
        let (mut d_hidden, mut d_logits) = rest.split_at_mut(hidden_len);
        cuda.loss_and_gradient(
            &labelled(logits.slice(..logits_len), &labels, shape.rows())?,
            &mut metrics.as_view_mut(),
            &one.as_view(),
            &mut d_logits,
        )?;
        cuda.readout_backward(
            &weights,
            hidden.slice(..hidden_len),
            d_logits.as_view(),
            d_hidden.slice_mut(..),
            gradient.slice_mut(..),
        )?;
        cuda.scan_backward(
            &weights,
            plan,
            tokens(),
            workspace.slice_mut(..bytes),
            d_hidden.as_view(),
            gradient.slice_mut(..),
            None,
        )?;
        // The weights are packed in place: nobody else may hold them.
        drop(weights);
        optimizer.enqueue(cuda, parameters, gradients)
    }
}

/// Logits with the targets and the mask that lie behind each other in `labels`.
fn labelled<'a>(
    logits: CudaView<'a, f32>,
    labels: &CudaView<'a, u32>,
    rows: usize,
) -> Result<Labelled<'a, Cuda>> {
    let (targets, mask) = labels.split_at(rows);
    let mask = launch::bytes(&mask, rows);
    let mask = mask.ok_or_else(|| Error::argument("mask", format!("{rows} bytes"), labels.len()))?;
    Ok(Labelled { logits, targets, mask })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::test_device;
    use crate::random::{Purpose, Random};
    use crate::tape::Tape;

    const BATCH: usize = 3;
    const TIME: usize = 5;
    const OUTPUTS: usize = 2;

    fn config() -> Config {
        Config::new(4, 10, 3)
    }

    /// Tokens, targets and mask.
    fn draw(seed: u64, batch: usize) -> (Vec<u32>, Vec<u32>, Vec<u8>) {
        println!("seed {seed}");
        let mut random = Random::new(seed, Purpose::Show, 0, 0);
        let mut below = |len: usize, most: u32| (0..len).map(|_| random.below(most)).collect::<Vec<_>>();
        let (tokens, targets) = (below(batch * TIME, 4), below(batch * OUTPUTS, 3));
        (tokens, targets, below(batch * OUTPUTS, 2).into_iter().map(|bit| bit as u8).collect())
    }

    fn begin(cuda: &Cuda, seed: u64, adam: Adam) -> (Parameters<Cuda>, Optimizer<Cuda>) {
        let parameters = Parameters::init(&config(), cuda.clone(), seed).expect("parameters");
        let optimizer = adam.build(&parameters).expect("an optimiser");
        (parameters, optimizer)
    }

    /// Takes a step, whose length is 7.
    fn take(steps: &mut Steps, seed: u64, trained: &mut (Parameters<Cuda>, Optimizer<Cuda>)) {
        take_batch(steps, seed, BATCH, trained);
    }

    fn take_batch(
        steps: &mut Steps,
        seed: u64,
        batch: usize,
        (parameters, optimizer): &mut (Parameters<Cuda>, Optimizer<Cuda>),
    ) {
        let (tokens, targets, mask) = draw(seed, batch);
        let (tokens, targets, mask) = (&tokens[..], &targets[..], &mask[..]);
        let batch = LengthBatch { length: 7, time: TIME, outputs: OUTPUTS, tokens, targets, mask };
        steps.step(&batch, parameters, optimizer).expect("a step");
    }

    /// The same on a tape.
    fn take_on_tape(seed: u64, trained: &mut (Parameters<Cuda>, Optimizer<Cuda>)) {
        take_batch_on_tape(seed, BATCH, trained);
    }

    fn take_batch_on_tape(
        seed: u64,
        batch: usize,
        (parameters, optimizer): &mut (Parameters<Cuda>, Optimizer<Cuda>),
    ) {
        let (tokens, targets, mask) = draw(seed, batch);
        let sequences: Vec<&[u32]> = tokens.chunks_exact(TIME).collect();
        let mut tape = Tape::new(parameters, BATCH, TIME).expect("a tape");
        let hidden = tape.scan(parameters, &sequences, Outputs::LastN(OUTPUTS)).expect("a scan");
        let logits = tape.readout(parameters, hidden).expect("a read-out");
        let loss = tape.cross_entropy_masked(logits, &targets, &mask).expect("a loss");
        optimizer.step(parameters, tape.backward(loss).expect("gradients")).expect("an update");
    }

    fn bits((parameters, optimizer): &(Parameters<Cuda>, Optimizer<Cuda>)) -> Vec<u32> {
        let [m, v] = optimizer.moments().expect("moments");
        let flat = parameters.to_vec().expect("parameters");
        flat.iter().chain(&m).chain(&v).map(|x| x.to_bits()).collect()
    }

    #[test]
    fn the_step_size_is_read_where_it_lies() {
        let cuda = test_device();
        let [mut recorded, mut taped] = [(); 2].map(|()| begin(&cuda, 1, Adam::paper()));
        let mut steps = Steps::new(&recorded.0, Pass::Train, BATCH, TIME, OUTPUTS).expect("memory");
        for seed in [2, 20] {
            take(&mut steps, seed, &mut recorded);
            take_on_tape(seed, &mut taped);
        }
        let graph = |steps: &mut Steps| {
            let recording = steps.staged[0].recordings.get(7);
            recording.map(|one| one.graph.0.cu_graph_exec() as usize)
        };
        let first = graph(&mut steps);
        for (_, optimizer) in [&mut recorded, &mut taped] {
            optimizer.set(Adam { learning_rate: 3e-2, ..*optimizer.config() }).expect("a step size");
        }
        for seed in [3, 30] {
            take(&mut steps, seed, &mut recorded);
            take_on_tape(seed, &mut taped);
        }
        assert!(first.is_some() && first == graph(&mut steps), "it was recorded anew");
        assert_eq!(bits(&recorded), bits(&taped));
    }

    /// A recording never touches the memory of others, nor goes by their hyperparameters.
    #[test]
    fn other_memory_and_other_hyperparameters_are_recorded_anew() {
        let cuda = test_device();
        let mut first = begin(&cuda, 4, Adam::paper());
        let mut steps = Steps::new(&first.0, Pass::Train, BATCH, TIME, OUTPUTS).expect("memory");
        take(&mut steps, 5, &mut first);
        let before = bits(&first);
        for adam in [Adam::paper(), Adam { beta1: 0.5, clip: None, ..Adam::paper() }] {
            let [mut second, mut taped] = [(); 2].map(|()| begin(&cuda, 4, adam));
            take(&mut steps, 5, &mut second);
            take_on_tape(5, &mut taped);
            assert_eq!(bits(&second), bits(&taped), "{adam:?}");
            // The same memory.
            for (_, optimizer) in [&mut second, &mut taped] {
                optimizer.set(Adam { beta2: 0.9, ..adam }).expect("hyperparameters");
            }
            take(&mut steps, 6, &mut second);
            take_on_tape(6, &mut taped);
            assert_eq!(bits(&second), bits(&taped), "{adam:?}");
        }
        assert_eq!(bits(&first), before);
        take(&mut steps, 8, &mut first);
        assert_ne!(bits(&first), before);
    }

    /// A length whose batch is another than it was.
    #[test]
    fn another_shape_of_a_length_is_recorded_anew() {
        let cuda = test_device();
        let [mut recorded, mut taped] = [(); 2].map(|()| begin(&cuda, 10, Adam::paper()));
        let mut steps = Steps::new(&recorded.0, Pass::Train, BATCH, TIME, OUTPUTS).expect("memory");
        for (seed, batch) in
            [(11, BATCH), (12, BATCH), (13, BATCH - 1), (14, BATCH - 1), (15, BATCH), (16, BATCH - 1)]
        {
            take_batch(&mut steps, seed, batch, &mut recorded);
            take_batch_on_tape(seed, batch, &mut taped);
            assert_eq!(bits(&recorded), bits(&taped), "{batch} sequences");
        }
    }

    /// 30 outputs of 60 tokens take a merge more than 31 of 62.
    #[test]
    fn a_shorter_batch_that_takes_more_finds_room() {
        const BATCH: usize = 8;
        let cuda = test_device();
        let [mut recorded, mut taped] = [(); 2].map(|()| begin(&cuda, 16, Adam::paper()));
        let mut steps = Steps::new(&recorded.0, Pass::Train, BATCH, 62, 31).expect("memory");
        let before = steps.memory.workspace.len();
        let mut random = Random::new(17, Purpose::Show, 0, 0);
        for (time, outputs) in [(62, 31), (60, 30), (62, 31), (60, 30)] {
            let mut draw = |len: usize, most: u32| (0..len).map(|_| random.below(most)).collect::<Vec<_>>();
            let (tokens, targets, mask) =
                (draw(BATCH * time, 4), draw(BATCH * outputs, 3), vec![1; BATCH * outputs]);
            let (parameters, optimizer) = &mut recorded;
            let (tokens, targets, mask) = (&tokens[..], &targets[..], &mask[..]);
            let batch = LengthBatch { length: outputs, time, outputs, tokens, targets, mask };
            steps.step(&batch, parameters, optimizer).expect("a step");
            let (parameters, optimizer) = &mut taped;
            let sequences: Vec<&[u32]> = tokens.chunks_exact(time).collect();
            let mut tape = Tape::new(parameters, BATCH, time).expect("a tape");
            let hidden = tape.scan(parameters, &sequences, Outputs::LastN(outputs)).expect("a scan");
            let logits = tape.readout(parameters, hidden).expect("a read-out");
            let loss = tape.cross_entropy_masked(logits, targets, mask).expect("a loss");
            optimizer.step(parameters, tape.backward(loss).expect("gradients")).expect("an update");
            assert_eq!(bits(&recorded), bits(&taped), "{outputs} outputs");
        }
        assert!(steps.memory.workspace.len() > before, "nothing took more than the longest");
    }

    #[test]
    fn batches_that_do_not_fit_are_refused() {
        let cuda = test_device();
        let (mut parameters, mut optimizer) = begin(&cuda, 9, Adam::paper());
        let mut steps = Steps::new(&parameters, Pass::Train, BATCH, TIME, OUTPUTS).expect("memory");
        let mut refused = |words: &str, time: usize, outputs: usize, [tokens, targets, mask]: [usize; 3]| {
            let (tokens, targets, mask) = (vec![0; tokens], vec![0; targets], vec![1; mask]);
            let (tokens, targets, mask) = (&tokens[..], &targets[..], &mask[..]);
            let batch = LengthBatch { length: 7, time, outputs, tokens, targets, mask };
            let error =
                steps.step(&batch, &mut parameters, &mut optimizer).expect_err("a batch of another size");
            assert!(error.to_string().contains(words), "{words}: {error}");
        };
        refused("batch", TIME, OUTPUTS, [(BATCH + 1) * TIME, (BATCH + 1) * OUTPUTS, (BATCH + 1) * OUTPUTS]);
        refused("batch", TIME + 1, OUTPUTS, [BATCH * (TIME + 1), BATCH * OUTPUTS, BATCH * OUTPUTS]);
        refused("tokens", TIME, OUTPUTS, [BATCH * TIME - 1, (BATCH - 1) * OUTPUTS, (BATCH - 1) * OUTPUTS]);
        refused("targets", TIME, OUTPUTS, [BATCH * TIME, BATCH * OUTPUTS - 1, BATCH * OUTPUTS]);
        refused("mask", TIME, OUTPUTS, [BATCH * TIME, BATCH * OUTPUTS, BATCH * OUTPUTS + 1]);
        // Fewer words, but more outputs or another tree than there is memory for.
        refused(
            "batch",
            TIME - 2,
            OUTPUTS + 1,
            [(TIME - 2) * BATCH, BATCH * (OUTPUTS + 1), BATCH * (OUTPUTS + 1)],
        );
        assert!(
            bytemuck::cast_slice::<f32, u8>(&optimizer.moments().expect("moments")[0])
                .iter()
                .all(|&b| b == 0)
        );
    }
}
