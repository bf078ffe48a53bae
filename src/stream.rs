//! Streams of tokens, each at its own position: a binary counter of states a stream, `O(log T)` memory, and bit for
//! bit the tree of the parallel scan.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

use crate::backend::{Backend, Input, Pass};
use crate::error::{Error, Result};
use crate::identity;
use crate::model::{Config, Model};
use crate::session::check_tokens;
use crate::tree::{Counter, Planner, Schedule, Slots};

/// Tokens of a prompt that are scanned at once; a longer one goes piece by piece, with the same bits.
const PIECE: usize = 1024;
/// The format of saved streams that this version writes and reads.
const FORMAT: u64 = 1;
/// The metadata key of a saved stream.
const KEY: &str = "pr_lstm_stream";

/// A stream of [`Streams`], good until it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId {
    index: usize,
    generation: u64,
}

/// Room for many streams, all allocated beforehand.
#[derive(Debug)]
pub struct Streams<B: Backend> {
    model: Model<B>,
    max_time: u64,
    arena: B::Buffer<u8>,
    arena_bytes: usize,
    bytes: usize,
    slots: Slots,
    /// None where no stream is open; the generation, given out once, tells an id from an old or a foreign one.
    counters: Vec<(u64, Option<Counter>)>,
    planner: Planner,
    schedule: Schedule,
    plan: B::Plan,
    workspace: B::Buffer<u8>,
    tokens: B::Buffer<u32>,
    hidden: B::Buffer<f32>,
    logits: B::Buffer<f32>,
    y: Vec<f32>,
}

impl<B: Backend> Streams<B> {
    /// Room for `capacity` streams of up to `max_time` tokens each.
    ///
    /// # Errors
    /// [`Error::Argument`] if a limit is 0 or too large, [`Error::Unavailable`] for a sequential model; the device's if it
    /// is out of memory.
    pub fn new(model: &Model<B>, capacity: usize, max_time: u64) -> Result<Self> {
        if capacity == 0 || capacity > 1 << 20 {
            return Err(Error::argument("capacity", "1 to 2^20 streams", capacity));
        }
        if max_time == 0 || max_time >= 1 << 48 {
            return Err(Error::argument("max_time", "1 to 2^48 - 1 tokens", max_time));
        }
        let (backend, config) = (model.backend(), model.config());
        let piece = PIECE.min(max_time as usize);
        let scratch = Counter::append_slots(piece).max(capacity * Counter::append_slots(1));
        let slots = capacity * Counter::most_held(max_time) + scratch;
        let arena_bytes = backend.arena_bytes(config, slots);
        // The widest passes: a whole piece of one prompt, and a token for every stream.
        let (mut planner, mut schedule) = (Planner::of(config.recurrence), Schedule::default());
        let mut arena = Slots::new(slots);
        planner.append(&mut schedule, &mut arena, &mut [(&mut Counter::new(), piece)])?;
        let mut plan = backend.plan(config, &schedule, Pass::Stream)?;
        let mut workspace_bytes = backend.workspace_bytes(&plan);
        let mut full: Vec<Counter> = (0..capacity).map(|_| Counter::new()).collect();
        for _ in 0..2 {
            let mut streams: Vec<_> = full.iter_mut().map(|counter| (counter, 1)).collect();
            planner.append(&mut schedule, &mut Slots::new(slots), &mut streams)?;
            backend.replan(&mut plan, &schedule)?;
            workspace_bytes = workspace_bytes.max(backend.workspace_bytes(&plan));
        }
        let floats = piece.max(capacity) + capacity * (config.hidden + config.output);
        Ok(Streams {
            arena: backend.alloc(arena_bytes)?,
            arena_bytes,
            bytes: arena_bytes + workspace_bytes + 4 * floats,
            slots: Slots::new(slots),
            counters: vec![(0, None); capacity],
            workspace: backend.alloc(workspace_bytes)?,
            tokens: backend.alloc(piece.max(capacity))?,
            hidden: backend.alloc(capacity * config.hidden)?,
            logits: backend.alloc(capacity * config.output)?,
            y: vec![0.0; capacity * config.output],
            model: model.clone(),
            max_time,
            planner,
            schedule,
            plan,
        })
    }

    /// Bytes on the device, all allocated beforehand: the states, `O(log max_time)` a stream, and what a pass wants.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Opens an empty stream.
    ///
    /// # Errors
    /// [`Error::Argument`] if all are open.
    pub fn open(&mut self) -> Result<StreamId> {
        self.place(Counter::new())
    }

    /// Closes a stream and frees its states.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is not open.
    pub fn close(&mut self, stream: StreamId) -> Result<()> {
        let counter = self.counter(stream)?.clone();
        counter.slots().for_each(|slot| self.slots.give(slot));
        self.counters[stream.index] = (0, None);
        Ok(())
    }

    /// Tokens of a stream so far.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is not open.
    pub fn position(&self, stream: StreamId) -> Result<u64> {
        Ok(self.counter(stream)?.position())
    }

    /// States that a stream holds now.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is not open.
    pub fn states(&self, stream: StreamId) -> Result<usize> {
        Ok(self.counter(stream)?.held())
    }

    /// Appends one token to each of some streams, in one batched step: the logits of each, `[n, O]`. At most two
    /// merges a token, amortised; at most `log2 T + 1` one after another.
    ///
    /// # Errors
    /// [`Error::Argument`] if none is given, a stream is not open, comes twice or is at `max_time`;
    /// [`Error::Token`]. Nothing was changed then. The device's: the streams concerned are closed then, what they held
    /// may be lost.
    pub fn append(&mut self, tokens: &[(StreamId, u32)]) -> Result<&[f32]> {
        if tokens.is_empty() || tokens.len() > self.counters.len() {
            let expected = format!("1 to {} streams (capacity), each once", self.counters.len());
            return Err(Error::argument("tokens", expected, tokens.len()));
        }
        for (index, &(stream, token)) in tokens.iter().enumerate() {
            self.check_room(stream, 1)?;
            check_tokens(self.model.config(), &[[token]]).map_err(|error| match error {
                Error::Token { token, vocabulary, .. } => {
                    Error::Token { sequence: index, position: 0, token, vocabulary }
                }
                other => other,
            })?;
        }
        // Once planned, the streams have moved on.
        self.model.backend().ready()?;
        // Each stream's counter is borrowed once: in the order of the streams, results in the order asked for.
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_unstable_by_key(|&i| tokens[i].0.index);
        if let Some(pair) = order.windows(2).find(|pair| tokens[pair[0]].0 == tokens[pair[1]].0) {
            let found = format!("the stream of entry {} again", pair[0]);
            return Err(Error::argument(format!("tokens, entry {}", pair[1]), "each stream once", found));
        }
        let mut grown = Vec::with_capacity(tokens.len());
        let mut wanted = order.iter().map(|&i| tokens[i].0.index).peekable();
        for (index, (_, counter)) in self.counters.iter_mut().enumerate() {
            if wanted.next_if_eq(&index).is_some() {
                grown.extend(counter.as_mut().map(|counter| (counter, 1)));
            }
        }
        self.planner.append(&mut self.schedule, &mut self.slots, &mut grown)?;
        let sorted: Vec<u32> = order.iter().map(|&i| tokens[i].1).collect();
        if let Err(error) = self.run(&sorted, tokens.len()) {
            tokens.iter().try_for_each(|&(stream, _)| self.close(stream))?;
            return Err(error);
        }
        // Rows were computed in the order of the streams.
        let width = self.model.config().output;
        let sorted = self.y[..tokens.len() * width].to_vec();
        for (row, i) in sorted.chunks_exact(width).zip(order) {
            self.y[i * width..][..width].copy_from_slice(row);
        }
        Ok(&self.y[..tokens.len() * width])
    }

    /// Appends a prompt by the parallel scan, with the same bits as token by token: the last logits, `[O]`.
    ///
    /// # Errors
    /// As [`append`](Self::append); [`Error::Argument`] if the prompt is empty.
    pub fn prefill(&mut self, stream: StreamId, prompt: &[u32]) -> Result<&[f32]> {
        if prompt.is_empty() {
            return Err(Error::argument("prompt", "at least one token", "none"));
        }
        self.check_room(stream, prompt.len())?;
        check_tokens(self.model.config(), &[prompt])?;
        // As in `append`.
        self.model.backend().ready()?;
        for piece in prompt.chunks(PIECE) {
            let Some(counter) = &mut self.counters[stream.index].1 else { continue };
            self.planner.append(&mut self.schedule, &mut self.slots, &mut [(counter, piece.len())])?;
            if let Err(error) = self.run(piece, 1) {
                self.close(stream)?;
                return Err(error);
            }
        }
        Ok(&self.y[..self.model.config().output])
    }

    /// A new stream with the same past: beam search, speculation.
    ///
    /// # Errors
    /// [`Error::Argument`] if the stream is not open or all are; the device's.
    pub fn fork(&mut self, stream: StreamId) -> Result<StreamId> {
        let counter = self.counter(stream)?.clone();
        let from: Vec<u32> = counter.slots().collect();
        let (fork, slots) = self.take(counter.position())?;
        let pairs: Vec<(u32, u32)> = from.into_iter().zip(slots).collect();
        let arena = self.model.backend().view_mut(&mut self.arena, 0, self.arena_bytes);
        let copied = self.model.backend().copy_states(self.model.config(), arena, &pairs);
        self.filled(fork, copied)
    }

    /// A stream as bytes: safetensors with one tensor `states [n, 2, H]` in F32, and a metadata key
    /// `pr_lstm_stream` with JSON `{format: 1, config, position}`. It does not hold the model's weights.
    ///
    /// # Errors
    /// [`Error::Argument`] if the stream is not open; the device's.
    pub fn save(&self, stream: StreamId) -> Result<Vec<u8>> {
        let counter = self.counter(stream)?;
        let slots: Vec<u32> = counter.slots().collect();
        let (backend, config) = (self.model.backend(), self.model.config());
        let mut states = vec![0.0f32; slots.len() * 2 * config.hidden];
        backend.read_states(config, backend.view(&self.arena, 0, self.arena_bytes), &slots, &mut states)?;
        let json = json!({ "format": FORMAT, "config": config.to_json(), "position": counter.position() });
        let shape = vec![slots.len(), 2, config.hidden];
        TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(&states))
            .and_then(|view| {
                let metadata = HashMap::from([(KEY.to_owned(), json.to_string())]);
                safetensors::serialize([("states", view)], Some(metadata))
            })
            .map_err(|error| Error::argument("states", "a tensor that safetensors takes", error))
    }

    /// Opens a stream with the past that [`save`](Self::save) wrote, under the same configuration.
    ///
    /// # Errors
    /// [`Error::Argument`] if the bytes are no saved stream, or one of another configuration, or all streams are
    /// open; [`Error::Format`] if a newer version wrote them; [`Error::NotFinite`].
    pub fn restore(&mut self, bytes: &[u8]) -> Result<StreamId> {
        let wrong = |found: String| Error::argument("bytes", "a stream as `save` writes it, whole", found);
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| wrong(error.to_string()))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| wrong(error.to_string()))?;
        let text = header.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
        let text = text.ok_or_else(|| wrong(format!("no metadata key `{KEY}`")))?;
        let json: Value = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let found = json["format"].as_u64().ok_or_else(|| wrong("no format number".into()))?;
        if found != FORMAT {
            return Err(Error::Format { origin: "saved stream".into(), found, supported: FORMAT });
        }
        let config = self.model.config().clone();
        if Config::from_json(&json["config"]).as_ref() != Some(&config) {
            let expected = format!("a stream of {config:?}");
            return Err(Error::argument("bytes", expected, json["config"].to_string()));
        }
        let position = json["position"].as_u64().ok_or_else(|| wrong("no position".into()))?;
        if position > self.max_time {
            return Err(Error::argument(
                "bytes",
                format!("at most {} tokens (max_time): make `Streams` with a larger one", self.max_time),
                position,
            ));
        }
        let held = (2 * position.count_ones() as usize).saturating_sub(1);
        let view = tensors.tensor("states").map_err(|error| wrong(error.to_string()))?;
        let shape = [held, 2, config.hidden];
        if view.dtype() != Dtype::F32 || view.shape() != shape {
            return Err(wrong(format!(
                "states {:?} {:?}, expected F32 {shape:?}",
                view.dtype(),
                view.shape()
            )));
        }
        let states: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
        if let Some(index) = states.iter().position(|x| !x.is_finite()) {
            let value = f64::from(states[index]);
            return Err(Error::NotFinite { tensor: "states".into(), index, value });
        }
        let (stream, slots) = self.take(position)?;
        let arena = self.model.backend().view_mut(&mut self.arena, 0, self.arena_bytes);
        let written = self.model.backend().write_states(&config, arena, &slots, &states);
        self.filled(stream, written)
    }

    /// The new stream, whose states were to be written; closed again where that failed.
    fn filled(&mut self, stream: StreamId, written: Result<()>) -> Result<StreamId> {
        if written.is_err() {
            self.close(stream)?;
        }
        written.map(|()| stream)
    }

    /// A new stream of `position` tokens whose states are yet to be written.
    fn take(&mut self, position: u64) -> Result<(StreamId, Vec<u32>)> {
        let held = (2 * position.count_ones() as usize).saturating_sub(1);
        if self.counters.iter().all(|(_, counter)| counter.is_some()) {
            return self.place(Counter::new()).map(|stream| (stream, Vec::new()));
        }
        // There is room for the most that every stream can hold.
        let slots: Vec<u32> = (0..held).filter_map(|_| self.slots.take()).collect();
        let counter = Counter::from_slots(position, &slots)?;
        Ok((self.place(counter)?, slots))
    }

    fn place(&mut self, counter: Counter) -> Result<StreamId> {
        let capacity = self.counters.len();
        let Some(index) = self.counters.iter().position(|(_, counter)| counter.is_none()) else {
            let expected = format!("at most {capacity} open streams (capacity): close one");
            return Err(Error::argument("streams", expected, capacity + 1));
        };
        let generation = identity::next();
        self.counters[index] = (generation, Some(counter));
        Ok(StreamId { index, generation })
    }

    fn counter(&self, stream: StreamId) -> Result<&Counter> {
        match self.counters.get(stream.index) {
            Some((generation, Some(counter))) if *generation == stream.generation => Ok(counter),
            _ => {
                let found = format!("{stream:?}, which was closed or is of other streams");
                Err(Error::argument("stream", "an open stream, as `open` gives it", found))
            }
        }
    }

    fn check_room(&self, stream: StreamId, tokens: usize) -> Result<()> {
        let position = self.counter(stream)?.position();
        if tokens as u64 > self.max_time - position {
            let most = self.max_time;
            let expected =
                format!("at most {most} tokens in all (max_time): make `Streams` with a larger one");
            return Err(Error::argument("stream", expected, format!("{tokens} more at position {position}")));
        }
        Ok(())
    }

    /// Runs what was planned; leaves `count` rows of logits in `y`.
    fn run(&mut self, tokens: &[u32], count: usize) -> Result<()> {
        let (backend, config, weights) = (self.model.backend(), self.model.config(), self.model.weights());
        backend.replan(&mut self.plan, &self.schedule)?;
        backend.upload(tokens, backend.view_mut(&mut self.tokens, 0, tokens.len()))?;
        let input = Input::Tokens(backend.view(&self.tokens, 0, tokens.len()));
        let arena = backend.view_mut(&mut self.arena, 0, self.arena_bytes);
        let workspace = backend.view_mut(&mut self.workspace, 0, backend.workspace_bytes(&self.plan));
        let hidden = backend.view_mut(&mut self.hidden, 0, count * config.hidden);
        backend.append(weights, &self.plan, input, arena, workspace, hidden)?;
        let hidden = backend.view(&self.hidden, 0, count * config.hidden);
        let len = count * config.output;
        backend.readout(weights, hidden, backend.view_mut(&mut self.logits, 0, len))?;
        backend.download(backend.view(&self.logits, 0, len), &mut self.y[..len])
    }
}
