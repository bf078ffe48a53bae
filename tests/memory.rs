//! What the crate says of its memory against an allocator that counts.
//!
//! One test, since the allocator counts for the whole process.

mod common;

use std::sync::atomic::Ordering;

use common::allocator::{Counting, DEVICE, LIVE};
use pr_lstm::model::Cell;
use pr_lstm::{Config, Cpu, Model, Outputs, Parameters, Streams, Tape};

#[global_allocator]
static COUNTING: Counting = Counting;

fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// By how many bytes more are held.
#[derive(Clone, Copy, Debug)]
struct Held {
    device: usize,
    all: usize,
}

/// What `f` gives, and by how many bytes more are held after it.
fn held_by<T>(f: impl FnOnce() -> T) -> (T, Held) {
    let now = || [&DEVICE, &LIVE].map(|bytes| bytes.load(Ordering::Relaxed));
    let before = now();
    let value = f();
    let after = now();
    let more = |i: usize| after[i].checked_sub(before[i]).expect("more is held than before");
    (value, Held { device: more(0), all: more(1) })
}

/// Demands that `said` is what the device holds, but for the ends of a few cache lines.
fn assert_device(what: &str, said: usize, seen: Held) {
    println!("{what}: said {said}, seen {seen:?}, {:+.3} %", 100.0 * (seen.all as f64 / said as f64 - 1.0));
    assert!(
        (said..said + 2000).contains(&seen.device),
        "{what}: said {said} bytes, the allocator saw {seen:?}"
    );
}

/// The same, and that all that is held is within 1 % of it.
fn assert_told(what: &str, said: usize, seen: Held) {
    assert_device(what, said, seen);
    assert!(
        seen.all.abs_diff(said) * 100 <= seen.all,
        "{what}: said {said} bytes, the allocator saw {seen:?}"
    );
}

/// Both cells with 0, 1 and 2 unary layers.
fn configs(hidden: usize) -> impl Iterator<Item = Config> {
    let shapes =
        [Cell::Lstm, Cell::Rnn].into_iter().flat_map(|cell| (0..3).map(move |layers| (cell, layers)));
    shapes.map(move |(cell, layers)| Config::new(5, hidden, 3).cell(cell).unary_layers(layers))
}

fn zeros(config: &Config) -> Parameters<Cpu> {
    Parameters::new(config, Cpu::new(), &vec![0.0; config.layout().unwrap().len()]).unwrap()
}

fn models_tell_their_weights() {
    for config in configs(300) {
        let what = format!("weights of {config:?}");
        let floats = config.layout().unwrap().len();
        let checkpoint = pr_lstm::Checkpoint::new(config.clone(), vec![0.0; floats]);
        let (model, seen) = held_by(|| Model::new(&checkpoint, Cpu::new()).unwrap());
        assert_told(&format!("{what}, inference"), model.weights_bytes(), seen);
        let (parameters, seen) = held_by(|| zeros(&config));
        // The flat parameters lie beside what is packed.
        assert_told(&what, parameters.model().weights_bytes() + 4 * floats, seen);
    }
}

fn sessions_tell_their_workspace() {
    for config in configs(256) {
        let model = zeros(&config).model();
        for outputs in [Outputs::Last, Outputs::All, Outputs::LastN(20)] {
            let (batch, time) = (32, 200);
            let build =
                || model.session().max_batch(batch).max_time(time).outputs(outputs.clone()).build().unwrap();
            let (session, seen) = held_by(build);
            // Beside the workspace: tokens, `h` and logits; on the host tokens, logits, and lists of indices.
            let (inputs, rows) = (batch * time, batch * outputs.count(time));
            let beside = 4 * (inputs + rows * (config.hidden + config.output));
            let what = format!("session of {config:?}, {outputs:?}");
            assert_device(&what, session.workspace_bytes() + beside, seen);
            let host = seen.all - seen.device;
            let least = 4 * (inputs + rows * config.output);
            assert!((least..least + 128 * inputs).contains(&host), "{what}: {host} bytes on the host");
        }
    }
}

fn tapes_tell_their_bytes() {
    for config in configs(256) {
        let parameters = zeros(&config);
        let makers = [Tape::new, Tape::recompute];
        for (make, outputs) in
            makers.into_iter().flat_map(|make| [(make, Outputs::Last), (make, Outputs::All)])
        {
            let (mut tape, empty) = held_by(|| make(&parameters, 8, 60).unwrap());
            let ((), reserved) = held_by(|| tape.reserve(&outputs).unwrap());
            let said = tape.bytes();
            assert_told(
                &format!("tape of {config:?}, {outputs:?}"),
                said,
                Held { device: empty.device + reserved.device, all: empty.all + reserved.all },
            );

            // It was told before anything ran: recording that scan and walking back wants no more.
            let before = live();
            let tokens = vec![vec![1u32; 60]; 8];
            for _ in 0..2 {
                let hidden = tape.scan(&parameters, &tokens, outputs.clone()).unwrap();
                let ones = vec![1.0; 8 * outputs.count(60) * config.hidden];
                tape.backward_from(hidden, &ones).unwrap();
                tape.clear();
            }
            drop(tokens);
            assert_eq!(tape.bytes(), said, "{config:?}, {outputs:?}");
            assert!(live().abs_diff(before) * 100 <= said, "{config:?}: {} bytes grew", live() - before);
        }
        // With dense input, read-out and loss the bytes still tell.
        let x = vec![vec![0.5f32; 60 * config.input]; 8];
        let (tape, seen) = held_by(|| {
            let mut tape = Tape::new(&parameters, 8, 60).unwrap();
            let hidden = tape.scan_dense(&parameters, &x, Outputs::All).unwrap();
            let logits = tape.readout(&parameters, hidden).unwrap();
            let loss = tape.cross_entropy(logits, &[1; 480]).unwrap();
            tape.backward(loss).unwrap();
            tape
        });
        assert_told(&format!("dense tape of {config:?}"), tape.bytes(), seen);
    }
}

fn streams_tell_their_bytes() {
    for config in configs(256) {
        let model = zeros(&config).model();
        let (streams, seen) = held_by(|| Streams::new(&model, 200, 1 << 20).unwrap());
        let what = format!("streams of {config:?}");
        assert_device(&what, streams.bytes(), seen);
        // Counters, and lists of indices with room for a stream's largest position.
        let host = seen.all - seen.device;
        assert!(host < 200 * 8192, "{what}: {host} bytes on the host");
    }
}

fn a_stream_of_100_000_tokens_holds_no_more_than_one_of_a_thousand() {
    let config = Config::new(2, 4, 1);
    let model = zeros(&config).model();
    let mut streams = model.streams(1).unwrap();
    let stream = streams.open().unwrap();
    let mut after_a_thousand = 0;
    for position in 1..=100_000u64 {
        streams.append(&[(stream, 1)]).unwrap();
        assert!(streams.states(stream).unwrap() < 2 * position.count_ones() as usize);
        if position == 1000 {
            after_a_thousand = live();
        }
    }
    assert!(after_a_thousand > 0);
    // A token can want a few merges more than any did before: longer lists, by some words.
    let grown = live().saturating_sub(after_a_thousand);
    println!("a stream of 100 000 tokens: {grown} bytes more than after 1000");
    assert!(grown < 512, "{grown} bytes more after 100 000 tokens than after 1000");
}

#[test]
fn memory_is_as_it_is_told() {
    models_tell_their_weights();
    sessions_tell_their_workspace();
    tapes_tell_their_bytes();
    streams_tell_their_bytes();
    a_stream_of_100_000_tokens_holds_no_more_than_one_of_a_thousand();
}
