//! Training with `z` computed anew: the bits of training that keeps it, over passes of one chunk and of many; the oracle's
//! gradients, whole and pruned; less memory, as much less as is said.

mod common;

use common::{
    Batch, Runner, Trained, available_paths, kept, lengths, narrow, normals, widen, worst_parameter,
};
use pr_lstm::backend::{Backend, Pass};
use pr_lstm::model::Cell;
use pr_lstm::random::Random;
use pr_lstm::{Config, Cpu, Outputs, Parameters, Tape, reference};

/// Rows of merges or leaves that the CPU's pass backward takes at a time.
const CHUNK: usize = 1920;

/// Both cells with 0, 1 and 2 unary layers.
fn configs(input: usize, hidden: usize) -> impl Iterator<Item = Config> {
    let shapes =
        [Cell::Lstm, Cell::Rnn].into_iter().flat_map(|cell| (0..3).map(move |layers| (cell, layers)));
    shapes.map(move |(cell, layers)| Config::new(input, hidden, 2).cell(cell).unary_layers(layers))
}

fn random(seed: u64) -> Random {
    println!("seed {seed}");
    common::random(seed)
}

/// A gradient for every wanted logit of a batch.
fn cotangent(random: &mut Random, batch: &Batch, outputs: &Outputs, config: &Config) -> Vec<f32> {
    let rows: usize = batch.lengths().into_iter().map(|length| outputs.count(length)).sum();
    narrow(&normals(random, rows * config.output, 1.0))
}

/// Batches of one chunk, of many, of sequences more than a chunk has rows, padded and ragged; short ones are a part of
/// a tile.
fn shapes(random: &mut Random) -> [Vec<usize>; 5] {
    let ragged = lengths(random, 60, 90);
    [vec![9; 3], vec![60; 40], vec![3; CHUNK + 7], ragged, vec![1; 5]]
}

#[test]
fn the_gradient_has_the_bits_of_training_that_keeps_z() {
    for (seed, config) in (100..).zip(configs(3, 18)) {
        let mut random = random(seed);
        let flat = narrow(&common::parameters(&config, &mut random, 1.0));
        let runner = Runner::training(&Cpu::new(), &config, &flat);
        let mut many = 0;
        for lengths in shapes(&mut random) {
            for outputs in [Outputs::All, Outputs::Last] {
                let schedule = kept(&lengths, &outputs);
                many += usize::from(schedule.merges() * schedule.width() > 2 * CHUNK);
                let tokens = Batch::tokens(&mut random, &lengths, 3);
                for batch in [tokens.one_hot(3), tokens] {
                    let d_logits = cotangent(&mut random, &batch, &outputs, &config);
                    let run = |pass| runner.train_as(pass, &schedule, &batch, &d_logits, 2);
                    let [kept, anew] = [Pass::Train, Pass::TrainRecompute].map(run);
                    assert!(kept.gradients.iter().any(|&d| d != 0.0), "no gradient");
                    let what = format!("{config:?}, {outputs:?}, {} sequences", lengths.len());
                    anew.assert_same_bits(&kept, &what);
                }
            }
        }
        assert!(many >= 2, "no pass was of many chunks");
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    for (seed, config) in (200..).zip(configs(3, 33)) {
        let mut random = random(seed);
        let flat = narrow(&common::parameters(&config, &mut random, 1.0));
        let batch = Batch::dense(&mut random, &[25; 50], 3);
        let d_logits = cotangent(&mut random, &batch, &Outputs::All, &config);
        let schedule = kept(&batch.lengths(), &Outputs::All);
        let mut plain: Option<Trained> = None;
        for path in available_paths() {
            let runner = Runner::training(&Cpu::with_path(path).unwrap(), &config, &flat);
            let found = runner.train_as(Pass::TrainRecompute, &schedule, &batch, &d_logits, 1);
            found.assert_same_bits(
                plain.get_or_insert_with(|| found.clone()),
                &format!("{config:?}, {path:?}"),
            );
        }
    }
}

/// What a tape gives: gradients after a scan of tokens, a read-out and a gradient of the logits.
fn walked(tape: &mut Tape<Cpu>, parameters: &Parameters<Cpu>, batch: &Batch, d_logits: &[f32]) -> Vec<f32> {
    let Batch::Tokens(sequences) = batch else { panic!("dense") };
    tape.clear();
    let hidden = tape.scan(parameters, sequences, Outputs::All).unwrap();
    let logits = tape.readout(parameters, hidden).unwrap();
    tape.backward_from(logits, d_logits).unwrap().to_vec().unwrap()
}

#[cfg(feature = "rayon")]
#[test]
fn the_number_of_threads_changes_no_bit() {
    for (seed, config) in (300..).zip(configs(5, 20)) {
        let mut random = random(seed);
        let flat = narrow(&common::parameters(&config, &mut random, 1.0));
        let batch = Batch::tokens(&mut random, &[30; 70], 5);
        let d_logits = cotangent(&mut random, &batch, &Outputs::All, &config);
        let mut expected = None;
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let cpu = Cpu::new();
            let parameters = Parameters::new(&config, cpu.clone(), &flat).unwrap();
            let [mut anew, mut kept] =
                [Tape::recompute(&parameters, 70, 30), Tape::new(&parameters, 70, 30)].map(Result::unwrap);
            // Which thread gets what is chance: until another one got something.
            for attempt in 0..100 {
                for tape in [&mut anew, &mut kept] {
                    let found = pool.install(|| walked(tape, &parameters, &batch, &d_logits));
                    let expected = expected.get_or_insert_with(|| found.clone());
                    common::assert_same_bits(&found, expected, &format!("{config:?}, {threads} threads"));
                }
                let workers = cpu.work().by_worker.iter().filter(|&&rows| rows > 0).count();
                if workers >= threads.min(2) {
                    break;
                }
                assert!(attempt < 99, "no second worker of {threads} ever did a row");
            }
        }
    }
}

#[test]
fn gradients_over_many_chunks_follow_the_oracle_whole_and_pruned() {
    let (batch_size, time) = (90, 40);
    let config = Config::new(3, 20, 2).unary_layers(1);
    let mut random = random(400);
    let flat = narrow(&common::parameters(&config, &mut random, 1.0));
    let weights = reference::Parameters::from_flat(&config, &flat).unwrap();
    let model = reference::Model::new(&config, weights).unwrap();
    let batch = Batch::dense(&mut random, &vec![time; batch_size], 3);
    let Batch::Dense(sequences, _) = &batch else { unreachable!() };
    let rows = sequences.iter().map(|rows| widen(rows)).collect();
    let pass = model.forward(&reference::Input::Dense(rows)).unwrap();
    let runner = Runner::training(&Cpu::new(), &config, &flat);
    for outputs in [Outputs::All, Outputs::LastN(2)] {
        let schedule = kept(&batch.lengths(), &outputs);
        assert!(schedule.merges() * schedule.width() > CHUNK, "one chunk");
        let d_logits = cotangent(&mut random, &batch, &outputs, &config);
        // The oracle has every prefix: those that are not wanted get no gradient.
        let mut of_all = vec![0.0; batch_size * time * config.output];
        let wanted = outputs.count(time) * config.output;
        for (to, from) in of_all.chunks_mut(time * config.output).zip(d_logits.chunks(wanted)) {
            to[time * config.output - wanted..].copy_from_slice(&widen(from));
        }
        let expected = model.backward(&pass, &of_all).unwrap();
        for pass in [Pass::Train, Pass::TrainRecompute] {
            let found = runner.train_as(pass, &schedule, &batch, &d_logits, 1);
            let (error, name) =
                worst_parameter(&config, &widen(&found.gradients), &expected.parameters.to_flat());
            println!("{outputs:?}, {pass:?}: {error:.1e} at {name}");
            assert!(error <= 1e-4, "{outputs:?}, {pass:?}: {error:e} at {name}");
        }
    }
}

#[test]
fn a_merge_takes_what_is_said() {
    let cpu = Cpu::new();
    for layers in 0..3 {
        let config = Config::new(3, 32, 2).unary_layers(layers);
        let bytes = |pass, lengths: &[usize], outputs: &Outputs| {
            let schedule = kept(lengths, outputs);
            let plan = cpu.plan(&config, &schedule, pass).unwrap();
            (cpu.workspace_bytes(&plan), schedule.merges() * schedule.width(), lengths.iter().sum::<usize>())
        };
        // Numbers of size H: the state, the states between stages, and where it is kept `z`. Both of more than a chunk, so that what a chunk takes is the same.
        let (short, long) = (vec![40; 100], vec![80; 100]);
        for (pass, a_merge, a_leaf) in [
            (Pass::Train, 2 + 2 * layers.max(1) + 5 + 4 * layers, 5),
            (Pass::TrainRecompute, 2 + 2 * layers.max(1), 2),
        ] {
            let [(before, merges, leaves), (after, more_merges, more_leaves)] =
                [&short, &long].map(|lengths| bytes(pass, lengths, &Outputs::All));
            let floats = (more_merges - merges) * a_merge * 32 + (more_leaves - leaves) * a_leaf * 32;
            assert_eq!(after - before, 4 * floats, "{pass:?}, {layers} unary layers");
            let (last, fewer, _) = bytes(pass, &long, &Outputs::Last);
            assert!(fewer < more_merges && last < after, "{pass:?}: pruning saved nothing");
        }
    }
}
