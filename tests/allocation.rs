//! What is warm allocates nothing, on any thread of a pool: sessions, training steps; an append of streams no more than
//! its lists on the host.
//!
//! One test, since the allocator counts for the whole process.

mod common;

use std::sync::atomic::Ordering;

use common::allocator::{CALLS, Counting, DEVICE};
use common::{Batch, between, device_parameters, lengths, narrow, random};
use pr_lstm::backend::Backend as _;
use pr_lstm::model::Cell;
use pr_lstm::{Adam, Checkpoint, Config, Cpu, Dtype, Model, Outputs, Parameters, Session, Tape};

#[global_allocator]
static COUNTING: Counting = Counting;

/// Both cells with 0, 1 and 2 unary layers.
fn configs(hidden: usize) -> impl Iterator<Item = Config> {
    let shapes =
        [Cell::Lstm, Cell::Rnn].into_iter().flat_map(|cell| (0..3).map(move |layers| (cell, layers)));
    shapes.map(move |(cell, layers)| Config::new(5, hidden, 3).cell(cell).unary_layers(layers))
}

/// Calls of the allocator while `f` runs.
fn calls(f: impl FnOnce()) -> usize {
    let before = CALLS.load(Ordering::Relaxed);
    f();
    CALLS.load(Ordering::Relaxed) - before
}

fn run(session: &mut Session<Cpu>, batch: &Batch) {
    let Batch::Tokens(sequences) = batch else { panic!("dense") };
    assert!(session.forward(sequences).unwrap().iter().all(|y| y.is_finite()));
}

/// Padded and ragged, up to the session's limits, in any order.
fn a_session_at_work_allocates_nothing(threads: usize) {
    let mut random = random(60);
    let mut batches: Vec<Batch> = Vec::new();
    for n in 0..20 {
        let size = if n < 2 { 32 } else { between(&mut random, 1, 32) };
        let lengths = match n % 2 {
            0 => vec![if n == 0 { 50 } else { between(&mut random, 5, 50) }; size],
            _ => lengths(&mut random, size, 46).into_iter().map(|length| length + 4).collect(),
        };
        batches.push(Batch::tokens(&mut random, &lengths, 5));
    }
    let mut session_of = |cpu: &Cpu, config: &Config, outputs: &Outputs| {
        let flat = narrow(&common::parameters(config, &mut random, 1.0));
        let model = Model::new(&Checkpoint::new(config.clone(), flat), cpu.clone()).unwrap();
        model.session().max_batch(32).max_time(50).outputs(outputs.clone()).build().unwrap()
    };
    let work = |session: &mut Session<Cpu>| calls(|| batches.iter().for_each(|batch| run(session, batch)));
    // What a thread keeps for itself it gets at its first work.
    let mut first = session_of(&Cpu::new(), &Config::new(5, 40, 3), &Outputs::All);
    let by_pool = work(&mut first);
    println!("{threads} threads: {by_pool} calls by the first session of the pool");
    for dtype in [Dtype::F32, Dtype::Bf16] {
        // A machine that is busy may let one thread do all of a small session's work.
        let mut shared = 0;
        for config in configs(40) {
            for outputs in [Outputs::All, Outputs::Last, Outputs::LastN(5)] {
                let cpu = Cpu::new().with_dtype(dtype).unwrap();
                let mut session = session_of(&cpu, &config, &outputs);
                // A second thread's first work may come late, and the test harness may speak meanwhile, once.
                for attempt in 0.. {
                    let calls = work(&mut session);
                    let workers = cpu.work().by_worker.iter().filter(|&&rows| rows > 0).count();
                    if calls == 0 && (workers == threads || attempt >= 5) {
                        shared += usize::from(workers == threads);
                        break;
                    }
                    let found = format!(
                        "{config:?} in {dtype}, {outputs:?}: {calls} calls, {workers} workers of {threads}"
                    );
                    assert!(attempt < 50, "{found}");
                    println!("{found}");
                }
            }
        }
        println!("{dtype}: in {shared} of 18 sessions all threads worked");
        assert!(shared > 0, "{dtype}: one thread did everything");
    }
}

/// Pruned, a shorter sequence can have more merges and more steps than the longest that a session takes.
fn a_session_has_room_for_every_length() {
    let config = Config::new(5, 2, 1);
    let checkpoint = pr_lstm::Checkpoint::new(config.clone(), vec![0.0; config.layout().unwrap().len()]);
    let model = Model::new(&checkpoint, Cpu::new()).unwrap();
    for outputs in [Outputs::All, Outputs::Last, Outputs::LastN(2), Outputs::LastN(5)] {
        for limit in 5..=70 {
            let builder = model.session().max_batch(2).max_time(limit).outputs(outputs.clone());
            let mut session = builder.build().unwrap();
            for shorter in 5..=limit {
                for sequences in [vec![vec![1; shorter]; 2], vec![vec![1; shorter], vec![1; limit]]] {
                    let batch = Batch::Tokens(sequences);
                    let calls = calls(|| run(&mut session, &batch));
                    assert_eq!(calls, 0, "{outputs:?}: {shorter} steps of at most {limit}");
                }
            }
        }
    }
}

/// Steps of training, `z` kept and computed anew: padded and ragged batches, read-out, loss, the way back, Adam.
fn a_training_step_allocates_nothing(threads: usize) {
    let mut random = random(61);
    let (size, time) = (40, 60);
    let mut shared = 0;
    for config in configs(18) {
        for (what, make) in
            [("kept", Tape::new as fn(&Parameters<Cpu>, usize, usize) -> _), ("anew", Tape::recompute)]
        {
            for outputs in [Outputs::Last, Outputs::LastN(3)] {
                let cpu = Cpu::new();
                let flat = narrow(&common::parameters(&config, &mut random, 1.0));
                let mut parameters = Parameters::new(&config, cpu.clone(), &flat).unwrap();
                let mut adam = Adam::paper().build(&parameters).unwrap();
                let mut tape: Tape<Cpu> = make(&parameters, size, time).unwrap();
                // The longest first, padded and ragged, then others: pruned, they may have more merges.
                let shorter = vec![between(&mut random, 3, 40); 7];
                let ragged = lengths(&mut random, size - 1, time - 4).into_iter().map(|length| length + 3);
                let ragged: Vec<usize> = ragged.chain([time]).collect();
                let batches: Vec<(Vec<Vec<u32>>, Vec<u32>)> = [vec![time; size], ragged, shorter]
                    .into_iter()
                    .map(|lengths| {
                        let Batch::Tokens(tokens) = Batch::tokens(&mut random, &lengths, 5) else {
                            unreachable!()
                        };
                        let rows = lengths.len() * outputs.count(time);
                        (tokens, (0..rows).map(|_| random.below(3)).collect())
                    })
                    .collect();
                let mut step = |tokens: &[Vec<u32>], targets: &[u32]| {
                    tape.clear();
                    let hidden = tape.scan(&parameters, tokens, outputs.clone()).unwrap();
                    let logits = tape.readout(&parameters, hidden).unwrap();
                    let loss = tape.cross_entropy(logits, targets).unwrap();
                    adam.step(&mut parameters, tape.backward(loss).unwrap()).unwrap();
                };
                // As above.
                for attempt in 0.. {
                    let calls = calls(|| batches.iter().for_each(|(tokens, targets)| step(tokens, targets)));
                    let workers = cpu.work().by_worker.iter().filter(|&&rows| rows > 0).count();
                    if calls == 0 && (workers == threads || attempt >= 5) {
                        assert!(attempt > 0, "the first step found all memory there");
                        shared += usize::from(workers == threads);
                        break;
                    }
                    let found = format!("{config:?}, {what}, {outputs:?}: {calls} calls, {workers} workers");
                    assert!(attempt < 50, "{found}");
                    println!("{found}");
                }
                assert_ne!(parameters.to_vec().unwrap(), flat, "no step was taken");
            }
        }
    }
    println!("training: in {shared} of 24 runs all threads worked");
    assert!(shared > 0, "one thread did everything");
}

/// Appends of one stream and of several at different positions: lists of the streams on the host, nothing that grows with
/// what they hold, nothing on the device.
fn an_append_allocates_its_lists_alone() {
    let mut random = random(62);
    for config in configs(18) {
        let model = device_parameters(&config, &Cpu::new(), &mut random, 1.0).model();
        let mut streams = model.streams(4).unwrap();
        let open: Vec<_> = (0..4).map(|_| streams.open().unwrap()).collect();
        let device = DEVICE.load(Ordering::Relaxed);
        let mut most = 0;
        for position in 0..3000usize {
            let count = 1 + position % 4;
            let tokens: Vec<_> = open[..count].iter().map(|&stream| (stream, random.below(5))).collect();
            let calls = calls(|| assert!(streams.append(&tokens).unwrap().iter().all(|y| y.is_finite())));
            // The first ones warm up.
            if position > 1500 {
                most = most.max(calls);
            }
        }
        println!("{config:?}: at most {most} calls an append");
        assert!(most <= 4, "{config:?}: {most} calls an append");
        assert_eq!(DEVICE.load(Ordering::Relaxed), device, "{config:?}: device memory");
    }
}

#[test]
fn what_is_warm_allocates_nothing() {
    #[cfg(feature = "rayon")]
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            a_session_at_work_allocates_nothing(threads);
            a_session_has_room_for_every_length();
            a_training_step_allocates_nothing(threads);
            an_append_allocates_its_lists_alone();
        });
    }
    #[cfg(not(feature = "rayon"))]
    {
        a_session_at_work_allocates_nothing(1);
        a_session_has_room_for_every_length();
        a_training_step_allocates_nothing(1);
        an_append_allocates_its_lists_alone();
    }
}
