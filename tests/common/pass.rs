//! One pass through the backend's own line: a schedule made by hand, memory that was poisoned before.

use pr_lstm::backend::{Backend, Input, Pass};
use pr_lstm::tree::{Planner, Rows, Schedule};
use pr_lstm::{Config, Error, Outputs};

use super::{Batch, Trained};

/// Every byte of poisoned memory: a NaN in f32, in bf16 and in f16, a token and a slot that no model has.
pub const POISON: u8 = 0xff;

/// A schedule for sequences of these lengths: padded where they are equal, else ragged.
pub fn schedule(lengths: &[usize], outputs: &Outputs) -> Schedule {
    schedule_of(lengths, outputs, Rows::Reuse)
}

/// The same for a pass with a way back.
pub fn kept(lengths: &[usize], outputs: &Outputs) -> Schedule {
    schedule_of(lengths, outputs, Rows::Keep)
}

fn schedule_of(lengths: &[usize], outputs: &Outputs, rows: Rows) -> Schedule {
    let mut schedule = Schedule::default();
    match lengths.iter().all(|&length| length == lengths[0]) {
        true => Planner::new().padded(&mut schedule, lengths.len(), lengths[0], outputs, rows),
        false => Planner::new().ragged(&mut schedule, lengths, outputs, rows),
    }
    .expect("a schedule");
    schedule
}

/// A schedule for sequences of these lengths, one row a slot even where they are equal.
pub fn ragged(lengths: &[usize], outputs: &Outputs) -> Schedule {
    let mut schedule = Schedule::default();
    Planner::new().ragged(&mut schedule, lengths, outputs, Rows::Reuse).expect("a schedule");
    schedule
}

/// What a pass gives.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// `[outputs, H]`.
    pub hidden: Vec<f32>,
    /// `[outputs, O]`.
    pub logits: Vec<f32>,
}

impl Scanned {
    /// Demands the same bits of both, all of them finite.
    #[track_caller]
    pub fn assert_same_bits(&self, other: &Scanned, what: &str) {
        super::assert_same_bits(&self.hidden, &other.hidden, &format!("{what}: hidden"));
        super::assert_same_bits(&self.logits, &other.logits, &format!("{what}: logits"));
    }

    /// Some of the outputs, in that order.
    pub fn rows(&self, config: &Config, rows: impl IntoIterator<Item = usize> + Clone) -> Scanned {
        let pick = |values: &[f32], width: usize| -> Vec<f32> {
            rows.clone().into_iter().flat_map(|row| values[row * width..][..width].to_vec()).collect()
        };
        Scanned { hidden: pick(&self.hidden, config.hidden), logits: pick(&self.logits, config.output) }
    }
}

/// A model's weights on a device, and passes over them.
#[derive(Debug)]
pub struct Runner<B: Backend> {
    pub backend: B,
    pub config: Config,
    weights: B::Weights,
}

impl<B: Backend> Runner<B> {
    /// Packs the parameters, flat.
    pub fn new(backend: &B, config: &Config, flat: &[f32]) -> Self {
        Runner::of(backend, config, flat, Pass::Infer)
    }

    /// The same for passes with a way back.
    pub fn training(backend: &B, config: &Config, flat: &[f32]) -> Self {
        Runner::of(backend, config, flat, Pass::Train)
    }

    fn of(backend: &B, config: &Config, flat: &[f32], pass: Pass) -> Self {
        let mut weights = backend.weights(config, pass).expect("weights");
        let parameters = on_device(backend, flat);
        backend.pack(backend.view(&parameters, 0, flat.len()), &mut weights).expect("packed weights");
        backend.wait().expect("packed weights");
        Runner { backend: backend.clone(), config: config.clone(), weights }
    }

    /// The read-out of rows of `hidden` alone, `[rows, O]`, over memory that was poisoned before.
    pub fn readout(&self, hidden: &[f32]) -> Vec<f32> {
        let backend = &self.backend;
        let mut y = vec![f32::NAN; hidden.len() / self.config.hidden * self.config.output];
        let (on_hidden, mut on_y) = (on_device(backend, hidden), on_device(backend, &y));
        let from = backend.view(&on_hidden, 0, hidden.len());
        let len = y.len();
        backend.readout(&self.weights, from, backend.view_mut(&mut on_y, 0, len)).expect("a read-out");
        backend.download(backend.view(&on_y, 0, len), &mut y).expect("a download");
        y
    }

    /// All outputs of a batch, padded or ragged as its lengths are.
    pub fn all(&self, batch: &Batch) -> Scanned {
        self.run(&schedule(&batch.lengths(), &Outputs::All), batch)
    }

    /// A pass over memory that was poisoned before.
    pub fn run(&self, schedule: &Schedule, batch: &Batch) -> Scanned {
        self.try_run(schedule, batch, POISON).0.unwrap_or_else(|error| panic!("{:?}: {error}", self.config))
    }

    /// A pass over memory that was filled with a byte before: what it says, and the plan that ran.
    pub fn try_run(
        &self,
        schedule: &Schedule,
        batch: &Batch,
        fill: u8,
    ) -> (Result<Scanned, Error>, Option<B::Plan>) {
        match self.backend.plan(&self.config, schedule, Pass::Infer) {
            Ok(plan) => (self.over(&plan, schedule, batch, fill), Some(plan)),
            Err(error) => (Err(error), None),
        }
    }

    /// A pass over a plan of that schedule.
    pub fn over(
        &self,
        plan: &B::Plan,
        schedule: &Schedule,
        batch: &Batch,
        fill: u8,
    ) -> Result<Scanned, Error> {
        let backend = &self.backend;
        let rows = schedule.outputs().len() * schedule.width();
        let bytes = backend.workspace_bytes(plan);
        let mut workspace = on_device(backend, &vec![fill; bytes]);
        let filled = f32::from_bits(u32::from_ne_bytes([fill; 4]));
        let mut hidden = on_device(backend, &vec![filled; rows * self.config.hidden]);
        let mut logits = on_device(backend, &vec![filled; rows * self.config.output]);
        let buffer = InputBuffer::new(backend, batch);
        let input = buffer.input(backend);
        let (hidden_len, logits_len) = (rows * self.config.hidden, rows * self.config.output);
        let workspace = backend.view_mut(&mut workspace, 0, bytes);
        backend.scan(&self.weights, plan, input, workspace, backend.view_mut(&mut hidden, 0, hidden_len))?;
        let to = backend.view_mut(&mut logits, 0, logits_len);
        backend.readout(&self.weights, backend.view(&hidden, 0, hidden_len), to)?;
        let mut scanned = Scanned { hidden: vec![0.0; hidden_len], logits: vec![0.0; logits_len] };
        backend.download(backend.view(&hidden, 0, hidden_len), &mut scanned.hidden)?;
        backend.download(backend.view(&logits, 0, logits_len), &mut scanned.logits)?;
        Ok(scanned)
    }

    /// A pass forward and back over memory that was poisoned before, `times` times into the same gradients.
    pub fn train(&self, schedule: &Schedule, batch: &Batch, d_logits: &[f32], times: usize) -> Trained {
        self.train_as(Pass::Train, schedule, batch, d_logits, times)
    }

    /// The same, `z` kept or computed anew.
    pub fn train_as(
        &self,
        pass: Pass,
        schedule: &Schedule,
        batch: &Batch,
        d_logits: &[f32],
        times: usize,
    ) -> Trained {
        let Runner { backend, config, weights } = self;
        let plan = backend.plan(config, schedule, pass).expect("a plan");
        let rows = schedule.outputs().len() * schedule.width();
        let (hidden_len, logits_len) = (rows * config.hidden, rows * config.output);
        assert_eq!(d_logits.len(), logits_len);
        let bytes = backend.workspace_bytes(&plan);
        let buffer = InputBuffer::new(backend, batch);
        let d_logits = on_device(backend, d_logits);
        let parameters = config.layout().expect("a layout").len();
        let mut gradient = backend.alloc(parameters).expect("device memory");
        let inputs = match buffer {
            InputBuffer::Tokens(..) => 0,
            InputBuffer::Dense(_, len) => len,
        };
        let mut d_input = backend.alloc(inputs).expect("device memory");
        let mut hidden = on_device(backend, &vec![f32::NAN; hidden_len]);
        let mut logits = on_device(backend, &vec![f32::NAN; logits_len]);
        for _ in 0..times {
            let mut workspace = on_device(backend, &vec![POISON; bytes]);
            let mut d_hidden = backend.alloc(hidden_len).expect("device memory");
            let to = backend.view_mut(&mut hidden, 0, hidden_len);
            let workspace_view = backend.view_mut(&mut workspace, 0, bytes);
            let input = buffer.input(backend);
            backend.scan(weights, &plan, input, workspace_view, to).expect("a pass forward");
            let to = backend.view_mut(&mut logits, 0, logits_len);
            backend.readout(weights, backend.view(&hidden, 0, hidden_len), to).expect("a read-out");
            backend
                .readout_backward(
                    weights,
                    backend.view(&hidden, 0, hidden_len),
                    backend.view(&d_logits, 0, logits_len),
                    backend.view_mut(&mut d_hidden, 0, hidden_len),
                    backend.view_mut(&mut gradient, 0, parameters),
                )
                .expect("a read-out backward");
            let d_hidden = backend.view(&d_hidden, 0, hidden_len);
            let to = backend.view_mut(&mut gradient, 0, parameters);
            let d_input = (inputs > 0).then(|| backend.view_mut(&mut d_input, 0, inputs));
            let workspace_view = backend.view_mut(&mut workspace, 0, bytes);
            let input = buffer.input(backend);
            backend
                .scan_backward(weights, &plan, input, workspace_view, d_hidden, to, d_input)
                .expect("a pass backward");
            backend.wait().expect("a pass forward and back");
        }
        let read = |buffer: &B::Buffer<f32>, len: usize| {
            let mut host = vec![0.0; len];
            backend.download(backend.view(buffer, 0, len), &mut host).expect("a download");
            host
        };
        Trained {
            hidden: read(&hidden, hidden_len),
            logits: read(&logits, logits_len),
            gradients: read(&gradient, parameters),
            d_input: read(&d_input, inputs),
        }
    }
}

/// A batch's input in device memory.
enum InputBuffer<B: Backend> {
    Tokens(B::Buffer<u32>, usize),
    Dense(B::Buffer<f32>, usize),
}

impl<B: Backend> InputBuffer<B> {
    fn new(backend: &B, batch: &Batch) -> Self {
        match batch {
            Batch::Tokens(sequences) => {
                let host = sequences.concat();
                InputBuffer::Tokens(on_device(backend, &host), host.len())
            }
            Batch::Dense(sequences, _) => {
                let host = sequences.concat();
                InputBuffer::Dense(on_device(backend, &host), host.len())
            }
        }
    }

    fn input(&self, backend: &B) -> Input<'_, B> {
        match self {
            InputBuffer::Tokens(buffer, len) => Input::Tokens(backend.view(buffer, 0, *len)),
            InputBuffer::Dense(buffer, len) => Input::Dense(backend.view(buffer, 0, *len)),
        }
    }
}

/// A copy in device memory.
pub fn on_device<B: Backend, T: pr_lstm::backend::Element>(backend: &B, host: &[T]) -> B::Buffer<T> {
    let mut buffer = backend.alloc(host.len()).expect("device memory");
    backend.upload(host, backend.view_mut(&mut buffer, 0, host.len())).expect("an upload");
    buffer
}
