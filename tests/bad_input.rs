//! Bad input to sessions, streams, parameters and optimisers: an error that names the argument, what was expected
//! and what came; no panic, nothing changed, and the same bits as a fresh object afterwards. (The tape's and the
//! checkpoints' lie beside their other tests.)

mod common;

use common::{bits, draw_tokens, narrow, normals, parameters, random, refused};
use pr_lstm::backend::{Backend, Pass};
use pr_lstm::model::initial;
use pr_lstm::session::SessionBuilder;
use pr_lstm::tree::{Counter, Planner, Rows, Schedule, Slots};
use pr_lstm::{
    Adam, Cell, Checkpoint, Config, Cpu, Model, Optimizer, Outputs, Parameters, Session, StreamId, Streams,
    Tape,
};
use proptest::prelude::*;

#[test]
fn what_threads_may_share_and_send() {
    fn send<T: Send>() {}
    fn share<T: Send + Sync>() {}
    share::<Model<Cpu>>();
    share::<Parameters<Cpu>>();
    share::<Checkpoint>();
    send::<Session<Cpu>>();
    send::<Tape<Cpu>>();
    send::<Streams<Cpu>>();
    send::<Optimizer<Cpu>>();
    send::<SessionBuilder<Cpu>>();
    share::<pr_lstm::Error>();
}

/// A model of `D = 3`, `O = 2`.
fn model(cell: Cell) -> Model<Cpu> {
    let config = Config::new(3, 5, 2).cell(cell);
    let flat = narrow(&parameters(&config, &mut random(1), 2.0));
    Parameters::new(&config, Cpu::new(), &flat).unwrap().model()
}

#[test]
fn configurations_and_parameters_out_of_range() {
    let good = Config::new(3, 5, 2);
    let most = usize::MAX;
    for size in [0, (1 << 20) + 1, most] {
        let found = &format!("got {size}");
        for (config, name) in [
            (Config::new(size, 5, 2), "config.input"),
            (Config::new(3, size, 2), "config.hidden"),
            (Config::new(3, 5, size), "config.output"),
        ] {
            let parts = &[name, "expected 1 to 1048576", found];
            refused(config.layout(), parts);
            refused(initial(&config, 0), parts);
            refused(Parameters::init(&config, Cpu::new(), 0), parts);
            refused(Parameters::new(&config, Cpu::new(), &[]), parts);
            refused(Model::new(&Checkpoint::new(config, vec![]), Cpu::new()), parts);
        }
    }
    refused(good.clone().unary_layers(17).layout(), &["config.unary_layers", "0 to 16", "got 17"]);
    for config in [Config::new(1 << 20, 1 << 20, 1 << 20), Config::new(1, 1 << 16, 1)] {
        refused(Parameters::init(&config, Cpu::new(), 0), &["config", "2^32 parameters", "smaller `hidden`"]);
    }

    let flat = initial(&good, 1).unwrap();
    let new = |flat: &[f32]| Parameters::new(&good, Cpu::new(), flat);
    refused(
        new(&flat[1..]),
        &["flat", &format!("{} parameters", flat.len()), &format!("got {}", flat.len() - 1)],
    );
    refused(new(&[]), &["flat", "got 0"]);
    let layout = good.layout().unwrap();
    for parameter in &layout.names {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut flat = flat.clone();
            flat[parameter.range.end - 1] = value;
            let index = format!("element {}", parameter.range.len() - 1);
            let parts = &[&parameter.name[..], &index, &value.to_string(), "not finite"];
            refused(new(&flat), parts);
            refused(Model::new(&Checkpoint::new(good.clone(), flat), Cpu::new()), parts);
        }
    }
    refused(
        Model::new(&Checkpoint::new(good.clone(), flat[1..].to_vec()), Cpu::new()),
        &["checkpoint.parameters", &format!("{} elements", flat.len())],
    );
}

#[test]
fn optimisers_of_other_parameters() {
    let of = |config: &Config| Parameters::init(config, Cpu::new(), 1).unwrap();
    let (mut a, mut b) = (of(&Config::new(3, 5, 2)), of(&Config::new(3, 6, 2)));
    let [mut adam, mut other] = [&a, &b].map(|parameters| Adam::paper().build(parameters).unwrap());
    let mut tape = Tape::new(&a, 1, 4).unwrap();
    let h = tape.scan(&a, &[[0u32, 1]], Outputs::Last).unwrap();
    let gradients = tape.backward_from(h, &[1.0; 5]).unwrap();
    let before = [bits(&a.to_vec().unwrap()), bits(&b.to_vec().unwrap())];
    refused(adam.step(&mut b, gradients), &["gradients", "hidden: 6", "hidden: 5"]);
    refused(other.step(&mut a, gradients), &["parameters", "Adam was built for"]);
    refused(adam.restore(&[vec![0.0; 3], vec![0.0; 3]], 1), &["m", "elements", "got 3"]);
    assert_eq!([bits(&a.to_vec().unwrap()), bits(&b.to_vec().unwrap())], before);
    assert_eq!(adam.status().unwrap().steps, 0);
    adam.step(&mut a, gradients).unwrap();
    assert_ne!(bits(&a.to_vec().unwrap()), before[0]);
}

#[test]
fn sessions_out_of_range() {
    let model = model(Cell::Lstm);
    let build = |batch, time, outputs| {
        model.session().max_batch(batch).max_time(time).outputs(outputs).build().map(drop)
    };
    build(2, 3, Outputs::All).unwrap();
    refused(build(0, 3, Outputs::All), &["max_batch", "at least 1", "got 0"]);
    refused(build(2, 0, Outputs::All), &["max_time", "at least 1", "got 0"]);
    let too_large = &["batch, time", "tokens in a pass", "smaller batch"];
    refused(build(usize::MAX, 3, Outputs::All), too_large);
    refused(build(2, usize::MAX, Outputs::Last), too_large);
    refused(build(1 << 16, 1 << 15, Outputs::Last), too_large);
    refused(build(1, 3, Outputs::LastN(0)), &["outputs", "1 to 3", "LastN(0)"]);
    refused(build(1, 3, Outputs::LastN(4)), &["outputs", "1 to 3", "LastN(4)"]);
    refused(build(1, 3, Outputs::LastN(usize::MAX)), &["outputs", "1 to 3"]);
    refused(build(1, 3, Outputs::At(vec![])), &["outputs", "at least one position", "none"]);
    refused(build(1, 3, Outputs::At(vec![3])), &["outputs", "below 3", "position 3"]);
    refused(build(1, 3, Outputs::At(vec![2, 1])), &["outputs", "strictly ascending", "1 after 2"]);
    refused(build(1, 3, Outputs::At(vec![1, 1])), &["outputs", "strictly ascending", "1 after 1"]);
}

#[test]
fn memory_that_there_is_not() {
    // 2^42 bytes of dense input: more than a machine can promise.
    let config = Config::new(1 << 20, 1, 1).unary_layers(0);
    let parameters =
        Parameters::new(&config, Cpu::new(), &vec![0.5; config.layout().unwrap().len()]).unwrap();
    let built = parameters.model().session().dense().max_time(1 << 20).outputs(Outputs::Last).build();
    refused(built, &["memory for", "not available", "smaller batch"]);
    let mut tape = Tape::new(&parameters, 1, 1 << 20).unwrap();
    let row = vec![0.5f32; 1 << 20];
    refused(
        tape.scan_dense(&parameters, &[&row], Outputs::Last),
        &["memory for", "not available", "smaller batch"],
    );
    // What fits is done.
    assert!(tape.scan(&parameters, &[[1u32]], Outputs::Last).is_ok());
}

#[test]
fn batches_that_do_not_fit_a_session() {
    for (cell, outputs) in [(Cell::Lstm, Outputs::LastN(2)), (Cell::Rnn, Outputs::At(vec![0, 1]))] {
        let model = model(cell);
        let session = || model.session().max_batch(3).max_time(8).outputs(outputs.clone()).build().unwrap();
        let batch = draw_tokens(&mut random(2), 3, &[8, 2, 5]);
        let expected = {
            let mut fresh = session();
            let y = bits(&fresh.forward(&batch).unwrap());
            (y, bits(&fresh.hidden().unwrap()))
        };
        let mut used = session();
        let bad: [(&[&[u32]], &[&str]); 9] = [
            (&[], &["batch", "1 to 3", "max_batch", "got 0"]),
            (&[&[0, 1][..]; 4], &["batch", "1 to 3", "max_batch", "got 4"]),
            (&[&[0, 1], &[]], &["sequence 1", "1 to 8", "max_time", "got 0"]),
            (&[&[0, 1], &[0; 9]], &["sequence 1", "1 to 8", "max_time", "got 9"]),
            (&[&[0, 1], &[0, 3]], &["sequence 1, position 1", "token 3", "below 3"]),
            (&[&[u32::MAX, 0]], &["sequence 0, position 0", &u32::MAX.to_string(), "below 3"]),
            (&[&[0]], &["outputs", "1 steps of sequence 0"]),
            (&[&[0, 1], &[0, 1, 2], &[0]], &["outputs", "1 steps of sequence 2"]),
            (&[&[0], &[0, 1]], &["outputs", "1 steps of sequence 0"]),
        ];
        for (batch_of_bad, parts) in bad {
            refused(used.forward(batch_of_bad).map(drop), parts);
            refused(used.forward(batch_of_bad).map(drop), parts);
            assert_eq!(bits(&used.forward(&batch).unwrap()), expected.0, "after {batch_of_bad:?}");
            refused(used.forward(batch_of_bad).map(drop), parts);
            if !batch_of_bad.is_empty() {
                assert_eq!(bits(&used.hidden().unwrap()), expected.1, "hidden after {batch_of_bad:?}");
            }
        }
        refused(used.forward_dense(&[[0.0f32; 3]]).map(drop), &["batch", "tokens", "dense"]);
        assert_eq!(bits(&used.forward(&batch).unwrap()), expected.0);
    }
}

#[test]
fn dense_batches_that_do_not_fit_a_session() {
    let model = model(Cell::Lstm);
    let session = || model.session().dense().max_batch(2).max_time(4).build().unwrap();
    let batch = [3 * 4, 3].map(|len| narrow(&normals(&mut random(3), len, 1.0)));
    let expected = bits(&session().forward_dense(&batch).unwrap());
    let mut used = session();
    let bad: [(&[&[f32]], &[&str]); 8] = [
        (&[], &["batch", "1 to 2", "max_batch", "got 0"]),
        (&[&[0.0; 3][..]; 3], &["batch", "1 to 2", "max_batch", "got 3"]),
        (&[&[0.0; 3], &[]], &["sequence 1", "1 to 4", "max_time", "got 0"]),
        (&[&[0.0; 15]], &["sequence 0", "1 to 4", "max_time", "got 5"]),
        (&[&[0.0; 3], &[0.0; 4]], &["sequence 1", "D = 3", "4 elements"]),
        (&[&[0.0, f32::NAN, 0.0]], &["sequence 0", "element 1", "NaN", "not finite"]),
        (&[&[0.0; 3], &[0.0, 0.0, f32::INFINITY]], &["sequence 1", "element 2", "inf", "not finite"]),
        (&[&[f32::NEG_INFINITY, 0.0, 0.0]], &["sequence 0", "element 0", "-inf", "not finite"]),
    ];
    for (batch_of_bad, parts) in bad {
        refused(used.forward_dense(batch_of_bad).map(drop), parts);
        assert_eq!(bits(&used.forward_dense(&batch).unwrap()), expected, "after {batch_of_bad:?}");
    }
    refused(used.forward(&[[0u32]]).map(drop), &["batch", "dense", "tokens"]);
    assert_eq!(bits(&used.forward_dense(&batch).unwrap()), expected);
}

#[test]
fn streams_out_of_range() {
    let model = model(Cell::Lstm);
    let new = |capacity, max_time| Streams::new(&model, capacity, max_time).map(drop);
    new(1, 1).unwrap();
    new(1, (1 << 48) - 1).unwrap();
    for capacity in [0, (1 << 20) + 1, usize::MAX] {
        refused(new(capacity, 4), &["capacity", "1 to 2^20", &format!("got {capacity}")]);
        refused(model.streams(capacity).map(drop), &["capacity", "1 to 2^20"]);
    }
    for max_time in [0, 1 << 48, u64::MAX] {
        refused(new(2, max_time), &["max_time", "2^48", &format!("got {max_time}")]);
    }
}

/// What `append` takes.
type Entry = (StreamId, u32);

/// Three places of up to 12 tokens, two of them taken: at 5 tokens and at 12.
fn two_streams(model: &Model<Cpu>) -> (Streams<Cpu>, StreamId, StreamId) {
    let mut streams = Streams::new(model, 3, 12).unwrap();
    let (a, full) = (streams.open().unwrap(), streams.open().unwrap());
    let prompts = draw_tokens(&mut random(4), 3, &[5, 12]);
    streams.prefill(a, &prompts[0]).unwrap();
    streams.prefill(full, &prompts[1]).unwrap();
    (streams, a, full)
}

#[test]
fn a_refused_append_changes_nothing() {
    for cell in [Cell::Lstm, Cell::Rnn] {
        let model = model(cell);
        let (mut fresh, fresh_a, _) = two_streams(&model);
        let expected: Vec<_> = [0, 2, 1, 1, 0]
            .map(|token| bits(fresh.append(&[(fresh_a, token)]).unwrap()))
            .into_iter()
            .collect();

        let (mut streams, a, full) = two_streams(&model);
        let closed = streams.open().unwrap();
        streams.prefill(closed, &[1, 2, 0]).unwrap();
        streams.close(closed).unwrap();
        // The place is taken again, under another id.
        let b = streams.open().unwrap();
        let (others, foreign, _) = two_streams(&model);
        drop(others);
        let not_open = &["stream", "an open stream", "closed"];
        let bad: [(&[Entry], &[&str]); 10] = [
            (&[], &["tokens", "1 to 3 streams", "got 0"]),
            (&[(a, 0); 4], &["tokens", "1 to 3 streams", "got 4"]),
            (&[(a, 0), (a, 1)], &["tokens, entry 1", "each stream once", "entry 0"]),
            (&[(a, 0), (b, 0), (a, 0)], &["tokens, entry", "each stream once"]),
            (&[(a, 0), (closed, 0)], not_open),
            (&[(a, 0), (foreign, 0)], not_open),
            (&[(a, 3)], &["sequence 0", "token 3", "below 3"]),
            (&[(a, 0), (b, u32::MAX)], &["sequence 1", &u32::MAX.to_string(), "below 3"]),
            (&[(a, 0), (full, 0)], &["stream", "12 tokens", "max_time", "1 more at position 12"]),
            (&[(full, 0), (a, 7)], &["stream", "max_time"]),
        ];
        let prompts: [(StreamId, &[u32], &[&str]); 6] = [
            (a, &[], &["prompt", "at least one token", "none"]),
            (a, &[0; 8], &["stream", "12 tokens", "max_time", "8 more at position 5"]),
            (a, &[0, 1, 3], &["position 2", "token 3", "below 3"]),
            (full, &[0], &["stream", "max_time"]),
            (closed, &[0], not_open),
            (foreign, &[0], not_open),
        ];
        let saved = [a, b, full].map(|stream| streams.save(stream).unwrap());
        let unchanged = |streams: &Streams<Cpu>| {
            assert_eq!([a, b, full].map(|stream| streams.position(stream).unwrap()), [5, 0, 12]);
            assert!([a, b, full].map(|stream| streams.save(stream).unwrap()) == saved);
        };
        for (tokens, parts) in bad {
            refused(streams.append(tokens).map(drop), parts);
            unchanged(&streams);
        }
        for (stream, prompt, parts) in prompts {
            refused(streams.prefill(stream, prompt).map(drop), parts);
            unchanged(&streams);
        }
        for stream in [closed, foreign] {
            refused(streams.close(stream), not_open);
            refused(streams.position(stream), not_open);
            refused(streams.states(stream), not_open);
            refused(streams.fork(stream), not_open);
            refused(streams.save(stream), not_open);
        }
        let full_house = &["streams", "at most 3 open", "close one", "got 4"];
        refused(streams.open(), full_house);
        refused(streams.fork(a), full_house);
        refused(streams.restore(&saved[0]), full_house);
        unchanged(&streams);
        for (token, expected) in [0, 2, 1, 1, 0].into_iter().zip(expected) {
            assert_eq!(bits(streams.append(&[(a, token)]).unwrap()), expected);
        }
    }
}

/// What is done to a session.
#[derive(Clone, Debug)]
enum Call {
    Tokens(Vec<Vec<u32>>),
    Dense(Vec<Vec<f32>>),
}

fn calls() -> impl Strategy<Value = Call> {
    // Mostly what fits `D = 3`, 3 sequences, 8 steps; sometimes not.
    let token = prop_oneof![30 => 0u32..3, 1 => 3u32..6, 1 => Just(u32::MAX)];
    let tokens = prop::collection::vec(prop::collection::vec(token, 0..10), 0..5);
    let equal = (1usize..4, 1usize..9).prop_map(|(batch, time)| vec![vec![1; time]; batch]);
    let element = prop_oneof![40 => -2.0f32..2.0, 1 => Just(f32::NAN)];
    let dense = prop::collection::vec(prop::collection::vec(element, 0..9), 0..4);
    prop_oneof![4 => tokens.prop_map(Call::Tokens), 2 => equal.prop_map(Call::Tokens), 1 => dense.prop_map(Call::Dense)]
}

fn call(session: &mut Session<Cpu>, call: &Call) -> Result<Vec<u32>, String> {
    let y = match call {
        Call::Tokens(batch) => session.forward(batch),
        Call::Dense(batch) => session.forward_dense(batch),
    };
    y.map(|y| bits(&y)).map_err(|error| error.to_string())
}

/// What is done to streams; a stream is the n-th before the last that was opened, closed or not.
#[derive(Clone, Debug)]
enum Act {
    Open,
    Close(usize),
    Fork(usize),
    Move(usize),
    Append(Vec<(usize, u32)>),
    Prefill(usize, Vec<u32>),
}

fn acts() -> impl Strategy<Value = Act> {
    let token = || prop_oneof![40 => 0u32..3, 1 => 3u32..5];
    let stream = || 0usize..8;
    prop_oneof![
        3 => Just(Act::Open),
        3 => stream().prop_map(Act::Close),
        1 => stream().prop_map(Act::Fork),
        1 => stream().prop_map(Act::Move),
        8 => prop::collection::vec((stream(), token()), 0..4).prop_map(Act::Append),
        3 => (stream(), prop::collection::vec(token(), 0..9)).prop_map(|(stream, prompt)| Act::Prefill(stream, prompt)),
    ]
}

/// Streams with the whole past of each: what the n-th has read, None once it was closed.
struct Soup {
    streams: Streams<Cpu>,
    ids: Vec<StreamId>,
    pasts: Vec<Option<Vec<u32>>>,
    session: Session<Cpu>,
}

/// Places and tokens of a [`Soup`].
const CAPACITY: usize = 4;
const MOST: usize = 20;

impl Soup {
    fn new(model: &Model<Cpu>) -> Self {
        let mut streams = Streams::new(model, CAPACITY, MOST as u64).unwrap();
        let ids = vec![streams.open().unwrap()];
        let session = model.session().max_time(MOST).outputs(Outputs::Last).build().unwrap();
        Soup { streams, ids, pasts: vec![Some(vec![])], session }
    }

    /// The n-th of the streams there were, counted from the last opened, round and round.
    fn nth(&self, n: usize) -> usize {
        self.ids.len() - 1 - n % self.ids.len()
    }

    /// Whether these tokens can be added to this stream.
    fn takes(&self, n: usize, tokens: &[u32]) -> bool {
        let past = &self.pasts[n];
        past.as_ref().is_some_and(|past| past.len() + tokens.len() <= MOST)
            && tokens.iter().all(|&token| token < 3)
    }

    fn has_room(&self) -> bool {
        self.pasts.iter().flatten().count() < CAPACITY
    }

    fn opened(&mut self, id: Result<StreamId, pr_lstm::Error>, past: Option<Vec<u32>>) {
        let fits = self.has_room() && past.is_some();
        assert_eq!(id.is_ok(), fits, "{id:?}");
        if let Ok(id) = id {
            self.ids.push(id);
            self.pasts.push(past);
        }
    }

    /// Extends the past; the logits that a session gives for all of it.
    fn grow(&mut self, n: usize, tokens: &[u32]) -> Vec<u32> {
        let past = self.pasts[n].as_mut().unwrap();
        past.extend_from_slice(tokens);
        bits(&self.session.forward(&[past]).unwrap())
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Open => {
                let id = self.streams.open();
                self.opened(id, Some(vec![]));
            }
            Act::Close(n) => {
                let n = self.nth(*n);
                assert_eq!(self.streams.close(self.ids[n]).is_ok(), self.pasts[n].is_some());
                self.pasts[n] = None;
            }
            Act::Fork(n) => {
                let n = self.nth(*n);
                let id = self.streams.fork(self.ids[n]);
                self.opened(id, self.pasts[n].clone());
            }
            Act::Move(n) => {
                let n = self.nth(*n);
                let saved = self.streams.save(self.ids[n]);
                assert_eq!(saved.is_ok(), self.pasts[n].is_some());
                if let Ok(saved) = saved {
                    let id = self.streams.restore(&saved);
                    self.opened(id, self.pasts[n].clone());
                }
            }
            Act::Append(tokens) => {
                let tokens: Vec<_> = tokens.iter().map(|&(n, token)| (self.nth(n), token)).collect();
                let streams = tokens.iter().map(|(n, _)| n).collect::<std::collections::HashSet<_>>();
                let fits = !tokens.is_empty()
                    && streams.len() == tokens.len()
                    && tokens.iter().all(|&(n, token)| self.takes(n, &[token]));
                let by_id: Vec<_> = tokens.iter().map(|&(n, token)| (self.ids[n], token)).collect();
                let y = self.streams.append(&by_id).map(bits);
                assert_eq!(y.is_ok(), fits, "{tokens:?}: {y:?}");
                if let Ok(y) = y {
                    let expected: Vec<u32> =
                        tokens.iter().flat_map(|&(n, token)| self.grow(n, &[token])).collect();
                    assert_eq!(y, expected);
                }
            }
            Act::Prefill(n, prompt) => {
                let n = self.nth(*n);
                let fits = !prompt.is_empty() && self.takes(n, prompt);
                let y = self.streams.prefill(self.ids[n], prompt).map(bits);
                assert_eq!(y.is_ok(), fits, "{prompt:?}: {y:?}");
                if let Ok(y) = y {
                    assert_eq!(y, self.grow(n, prompt));
                }
            }
        }
        for (id, past) in self.ids.iter().zip(&self.pasts) {
            assert_eq!(self.streams.position(*id).ok(), past.as_ref().map(|past| past.len() as u64));
        }
    }
}

proptest! {
    // The smallest input that fails is printed; no file of them is kept.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn any_calls_of_a_session_give_what_a_fresh_one_gives(
        rnn in any::<bool>(),
        last in any::<bool>(),
        dense in any::<bool>(),
        calls in prop::collection::vec(calls(), 1..24),
    ) {
        let model = model(if rnn { Cell::Rnn } else { Cell::Lstm });
        let fresh = || {
            let builder = model.session().max_batch(3).max_time(8);
            let builder = builder.outputs(if last { Outputs::LastN(2) } else { Outputs::All });
            if dense { builder.dense() } else { builder }.build().unwrap()
        };
        let mut session = fresh();
        for one in &calls {
            prop_assert_eq!(call(&mut session, one), call(&mut fresh(), one));
        }
    }

    #[test]
    fn any_acts_on_streams_give_what_a_session_gives(
        rnn in any::<bool>(),
        acts in prop::collection::vec(acts(), 1..60),
    ) {
        let mut soup = Soup::new(&model(if rnn { Cell::Rnn } else { Cell::Lstm }));
        acts.iter().for_each(|act| soup.act(act));
    }
}

/// The soups above are of both kinds: much of them is accepted, much refused.
#[test]
fn soups_are_mixed() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let model = model(Cell::Lstm);
    let mut session = model.session().max_batch(3).max_time(8).build().unwrap();
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..300 {
        let one = calls().new_tree(&mut runner).unwrap().current();
        *(if call(&mut session, &one).is_ok() { &mut accepted } else { &mut refused }) += 1;
    }
    assert!(accepted > 60 && refused > 60, "{accepted} accepted, {refused} refused");

    let mut soup = Soup::new(&model);
    let mut longest = 0;
    for _ in 0..1000 {
        soup.act(&acts().new_tree(&mut runner).unwrap().current());
        longest = longest.max(soup.pasts.iter().flatten().map(Vec::len).max().unwrap_or(0));
    }
    assert!(soup.ids.len() > 20 && longest == MOST, "{} streams, {longest} tokens", soup.ids.len());
}

/// Counters and arenas can be made by hand, and so schedules that no kernel may run.
#[test]
fn schedules_out_of_an_arena_are_refused() {
    let config = Config::new(2, 4, 2);
    let cpu = Cpu::new();
    let mut schedule = Schedule::default();
    let mut counter = Counter::from_slots(1, &[1000]).expect("a counter");
    Planner::new().append(&mut schedule, &mut Slots::new(10), &mut [(&mut counter, 1)]).expect("a schedule");
    refused(cpu.plan(&config, &schedule, Pass::Stream), &["schedule", "slots below 10", "1000"]);

    Planner::new().padded(&mut schedule, 1, 9, &Outputs::Last, Rows::Reuse).expect("a schedule");
    refused(cpu.plan(&config, &schedule, Pass::Train), &["schedule", "Rows::Keep"]);
}
