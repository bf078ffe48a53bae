//! The CPU against itself, equal bits: threads, instruction sets, batches, pruning, tokens and one-hot rows, what a
//! workspace held before, run after run.

mod common;

use common::{
    Batch, assert_same_bits, available_paths, between, device_parameters, lengths, narrow, normals,
};
#[cfg(feature = "rayon")]
use pr_lstm::Adam;
use pr_lstm::backend::{Backend, Input, Pass};
use pr_lstm::model::Cell;
use pr_lstm::random::Random;
use pr_lstm::tree::{Planner, Rows, Schedule};
use pr_lstm::{Config, Cpu, Outputs, Parameters, Tape};

/// Both cells with 0, 1 and 2 unary layers.
fn shapes() -> impl Iterator<Item = (Cell, usize)> {
    [Cell::Lstm, Cell::Rnn].into_iter().flat_map(|cell| (0..3).map(move |layers| (cell, layers)))
}

fn config(cell: Cell, layers: usize, input: usize, hidden: usize, output: usize) -> Config {
    Config::new(input, hidden, output).cell(cell).unary_layers(layers)
}

fn random(seed: u64) -> Random {
    println!("seed {seed}");
    common::random(seed)
}

/// A gradient for the logits of every position of a batch.
fn cotangent(random: &mut Random, batch: &Batch, config: &Config) -> Vec<f32> {
    narrow(&normals(random, batch.lengths().iter().sum::<usize>() * config.output, 1.0))
}

#[cfg(feature = "rayon")]
mod threads {
    use super::*;

    /// Parameters after three steps on tokens, flat.
    fn steps(config: &Config, cpu: &Cpu, flat: &[f32], batches: &[(Batch, Vec<u32>)]) -> Vec<f32> {
        let mut parameters = Parameters::new(config, cpu.clone(), flat).unwrap();
        let mut adam = Adam { learning_rate: 1e-2, ..Adam::paper() }.build(&parameters).unwrap();
        let mut tape = Tape::new(&parameters, 40, 30).unwrap();
        for (batch, targets) in batches {
            let Batch::Tokens(sequences) = batch else { panic!("dense") };
            tape.clear();
            let hidden = tape.scan(&parameters, sequences, Outputs::Last).unwrap();
            let logits = tape.readout(&parameters, hidden).unwrap();
            let loss = tape.cross_entropy(logits, targets).unwrap();
            adam.step(&mut parameters, tape.backward(loss).unwrap()).unwrap();
        }
        parameters.to_vec().unwrap()
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        for (seed, (cell, layers)) in (100..).zip(shapes()) {
            let mut random = random(seed);
            let config = config(cell, layers, 5, 70, 3);
            let flat = narrow(&common::parameters(&config, &mut random, 1.0));
            // One batch of tiles and columns, one that is ragged.
            let padded = Batch::dense(&mut random, &[21; 80], 5);
            let ragged = lengths(&mut random, 80, 30);
            let batches = [padded, Batch::dense(&mut random, &ragged, 5)];
            let d_logits: Vec<_> =
                batches.iter().map(|batch| cotangent(&mut random, batch, &config)).collect();
            let mut step = |_| {
                let lengths = lengths(&mut random, 40, 30);
                let targets = (0..40).map(|_| random.below(3)).collect();
                (Batch::tokens(&mut random, &lengths, 5), targets)
            };
            let training: Vec<(Batch, Vec<u32>)> = (0..3).map(&mut step).collect();

            let mut expected = None;
            for threads in [1, 2, 3, 7] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let cpu = Cpu::new();
                let parameters = Parameters::new(&config, cpu.clone(), &flat).unwrap();
                // Which thread gets what is chance: until another one got something.
                for attempt in 0..100 {
                    let (passes, trained) = pool.install(|| {
                        let passes = batches.iter().zip(&d_logits);
                        let passes: Vec<_> =
                            passes.map(|(batch, d)| batch.train(&parameters, Outputs::All, d)).collect();
                        (passes, steps(&config, &cpu, &flat, &training))
                    });
                    assert_ne!(flat, trained, "no step was taken");
                    let (of_one, trained_by_one) =
                        expected.get_or_insert_with(|| (passes.clone(), trained.clone()));
                    for (pass, of_one) in passes.iter().zip(of_one) {
                        pass.assert_same_bits(of_one, &format!("{config:?}, {threads} threads"));
                    }
                    let what = format!("{config:?}, {threads} threads: trained parameters");
                    assert_same_bits(&trained, trained_by_one, &what);

                    let workers = cpu.work().by_worker.iter().filter(|&&rows| rows > 0).count();
                    if workers >= threads.min(2) {
                        assert!(workers <= threads, "{workers} workers of {threads}");
                        break;
                    }
                    assert!(attempt < 99, "no second worker of {threads} ever did a row");
                }
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let paths = available_paths();
    assert!(paths.len() > 1 || cfg!(not(target_arch = "x86_64")), "nothing to compare: {paths:?}");
    for (seed, (cell, layers)) in (200..).zip(shapes()) {
        let mut random = random(seed);
        for (hidden, scale) in [(1, 1.0), (33, 1.0), (64, 1.0), (137, 1.0), (33, 6.0)] {
            let config =
                config(cell, layers, between(&mut random, 1, 20), hidden, between(&mut random, 1, 5));
            let flat = narrow(&common::parameters(&config, &mut random, scale));
            let ragged = lengths(&mut random, 9, 20);
            let batches = [
                Batch::dense(&mut random, &[17; 19], config.input),
                Batch::dense(&mut random, &ragged, config.input),
                Batch::tokens(&mut random, &ragged, config.input),
            ];
            for batch in &batches {
                let d_logits = cotangent(&mut random, batch, &config);
                let mut plain = None;
                for &path in &paths {
                    let cpu = Cpu::with_path(path).unwrap();
                    let parameters = Parameters::new(&config, cpu, &flat).unwrap();
                    let mut session = batch.session(&parameters.model(), Outputs::All);
                    let logits = batch.forward(&mut session);
                    assert_eq!(session.path(), path.name());
                    let pass = batch.train(&parameters, Outputs::All, &d_logits);
                    let what = format!("{config:?} on {path:?}");
                    assert_same_bits(&logits, &pass.logits, &what);
                    pass.assert_same_bits(plain.get_or_insert_with(|| pass.clone()), &what);
                }
            }
        }
    }
}

#[test]
fn a_sequence_has_the_same_bits_alone_and_anywhere_in_a_batch() {
    let (sizes, outputs, inputs) = ([1, 8, 33, 64, 137, 256, 300], [1, 2, 5], [1, 2, 3, 700]);
    let mut combination = 0;
    let mut random = random(300);
    for (cell, layers) in shapes() {
        for hidden in sizes {
            let config = config(cell, layers, inputs[combination % 4], hidden, outputs[combination % 3]);
            combination += 1;
            let cpu = Cpu::new();
            let parameters = device_parameters(&config, &cpu, &mut random, 1.0);
            // Once as large as they come, else at random; large models get short sequences.
            let size = if combination % 7 == 3 { 130 } else { between(&mut random, 2, 129) };
            let most = if hidden > 100 { 6 } else { 20 };
            let same = vec![between(&mut random, 2, most); size];
            let ragged = lengths(&mut random, size, most);
            for lengths in [same, ragged] {
                let batch = Batch::dense(&mut random, &lengths, config.input);
                let d_logits = cotangent(&mut random, &batch, &config);
                let together = batch.train(&parameters, Outputs::All, &d_logits);
                let merges_together = cpu.work().merges;
                let mut session = batch.session(&parameters.model(), Outputs::All);
                let logits = batch.forward(&mut session);
                assert_same_bits(&logits, &together.logits, "inference and training");
                assert_same_bits(&session.hidden().unwrap(), &together.hidden, "inference and training");

                for place in [0, between(&mut random, 0, size - 1), size - 1] {
                    let first: usize = lengths[..place].iter().sum();
                    let part = |width: usize| first * width..(first + lengths[place]) * width;
                    let alone = batch.alone(place);
                    let before = cpu.work().merges;
                    let trained = alone.train(&parameters, Outputs::All, &d_logits[part(config.output)]);
                    assert!(cpu.work().merges - before < merges_together, "the batch was no batch");
                    let what = format!("{config:?}, place {place} of {size}");
                    for (name, alone, together, width) in [
                        ("hidden", &trained.hidden, &together.hidden, config.hidden),
                        ("logits", &trained.logits, &together.logits, config.output),
                        ("d_input", &trained.d_input, &together.d_input, config.input),
                    ] {
                        assert_same_bits(&together[part(width)], alone, &format!("{what}: {name}"));
                    }
                    let inferred = alone.logits(&parameters.model(), Outputs::All);
                    assert_same_bits(&inferred, &trained.logits, &format!("{what}: inference"));
                }
            }
        }
    }
}

#[test]
fn pruned_outputs_are_the_rows_of_all_and_cost_fewer_merges() {
    for (seed, (cell, layers)) in (400..).zip(shapes()) {
        let mut random = random(seed);
        let config = config(cell, layers, 4, 33, 2);
        let cpu = Cpu::new();
        let parameters = device_parameters(&config, &cpu, &mut random, 1.0);
        let model = parameters.model();
        for round in 0..12 {
            let longest = between(&mut random, 12, 90);
            let lengths: Vec<usize> = match round % 2 {
                0 => vec![longest; 5],
                _ => (0..5).map(|_| between(&mut random, 10, longest)).collect(),
            };
            let batch = Batch::tokens(&mut random, &lengths, 4);
            let count = |f: &mut dyn FnMut() -> Vec<f32>| {
                let before = cpu.work().merges;
                (f(), cpu.work().merges - before)
            };
            let (all, most) = count(&mut || batch.logits(&model, Outputs::All));
            let mut positions: Vec<usize> = (0..10).filter(|_| random.below(3) == 0).collect();
            positions.push(10 - 1);
            positions.dedup();
            let last = between(&mut random, 1, 8);
            for outputs in [Outputs::Last, Outputs::LastN(last), Outputs::At(positions)] {
                let (some, merges) = count(&mut || batch.logits(&model, outputs.clone()));
                assert!(merges < most, "{outputs:?}: {merges} merges of {most}");
                let mut expected = Vec::new();
                let mut first = 0;
                for &length in &lengths {
                    for j in 0..outputs.count(length) {
                        let row = first + outputs.position(length, j);
                        expected.extend_from_slice(&all[row * 2..][..2]);
                    }
                    first += length;
                }
                assert_same_bits(&some, &expected, &format!("{config:?}, {lengths:?}, {outputs:?}"));

                let d_logits = narrow(&normals(&mut random, some.len(), 1.0));
                let trained = batch.train(&parameters, outputs.clone(), &d_logits);
                assert_same_bits(&trained.logits, &expected, &format!("{config:?}, {outputs:?}, training"));
            }
        }
    }
}

#[test]
fn the_merges_that_run_are_those_of_the_pruned_tree() {
    let mut random = random(500);
    for (cell, layers) in shapes() {
        let cpu = Cpu::new();
        let parameters = device_parameters(&config(cell, layers, 2, 3, 1), &cpu, &mut random, 1.0);
        let model = parameters.model();
        let mut run = |lengths: &[usize], outputs: &Outputs, expected: u64| {
            let batch = Batch::tokens(&mut random, lengths, 2);
            for training in [false, true] {
                let before = cpu.work().merges;
                if training {
                    let rows: usize = lengths.iter().map(|&length| outputs.count(length)).sum();
                    batch.train(&parameters, outputs.clone(), &vec![1.0; rows]);
                } else {
                    batch.logits(&model, outputs.clone());
                }
                assert_eq!(cpu.work().merges - before, expected, "{lengths:?}, {outputs:?}, {training}");
            }
        };
        run(&[40], &Outputs::Last, 39);
        run(&[40], &Outputs::All, 72);
        run(&[500], &Outputs::Last, 499);
        run(&[500], &Outputs::All, 985);
        run(&[40; 7], &Outputs::Last, 7 * 39);
        run(&[40; 7], &Outputs::All, 7 * 72);
        run(&[40, 500, 1], &Outputs::Last, 39 + 499);
        run(&[500, 1, 40], &Outputs::All, 72 + 985);
    }
}

#[test]
fn tokens_are_one_hot_rows() {
    for (seed, (cell, layers)) in (600..).zip(shapes()) {
        let mut random = random(seed);
        for (hidden, input) in [(5, 1), (33, 2), (70, 7)] {
            let config = config(cell, layers, input, hidden, 2);
            let parameters = device_parameters(&config, &Cpu::new(), &mut random, 1.0);
            let ragged = lengths(&mut random, 11, 30);
            for lengths in [vec![13; 11], ragged] {
                let tokens = Batch::tokens(&mut random, &lengths, input);
                let rows = tokens.one_hot(input);
                let d_logits = cotangent(&mut random, &tokens, &config);
                let by_token = tokens.train(&parameters, Outputs::All, &d_logits);
                let mut by_row = rows.train(&parameters, Outputs::All, &d_logits);
                assert!(by_row.d_input.iter().any(|&d| d != 0.0), "the rows were not dense");
                by_row.d_input.clear();
                by_token.assert_same_bits(&by_row, &format!("{config:?}"));
            }
        }
    }
}

/// One pass forward and backward through the backend's own line, over a workspace filled with `fill`.
fn pass_over(config: &Config, flat: &[f32], x: &[f32], lengths: &[usize], fill: f32) -> [Vec<f32>; 3] {
    let cpu = Cpu::new();
    let mut weights = cpu.weights(config, Pass::Train).unwrap();
    cpu.pack(flat, &mut weights).unwrap();
    let mut schedule = Schedule::default();
    let all_same = lengths.iter().all(|&length| length == lengths[0]);
    if all_same {
        let (batch, time) = (lengths.len(), lengths[0]);
        Planner::new().padded(&mut schedule, batch, time, &Outputs::All, Rows::Keep).unwrap();
    } else {
        Planner::new().ragged(&mut schedule, lengths, &Outputs::All, Rows::Keep).unwrap();
    }
    let plan = cpu.plan(config, &schedule, Pass::Train).unwrap();
    let mut workspace = cpu.alloc::<f32>(cpu.workspace_bytes(&plan) / 4).unwrap();
    workspace.as_mut_slice().fill(fill);
    let workspace: &mut [u8] = bytemuck::cast_slice_mut(workspace.as_mut_slice());
    let rows = lengths.iter().sum::<usize>();
    let mut hidden = vec![fill; rows * config.hidden];
    cpu.scan(&weights, &plan, Input::Dense(x), workspace, &mut hidden).unwrap();
    let (mut gradient, mut d_input) = (vec![0.0; flat.len()], vec![0.0; x.len()]);
    let d_hidden: Vec<f32> = hidden.iter().map(|h| 1.0 - h).collect();
    let (gradient_out, d_input_out) = (&mut gradient[..], Some(&mut d_input[..]));
    cpu.scan_backward(&weights, &plan, Input::Dense(x), workspace, &d_hidden, gradient_out, d_input_out)
        .unwrap();
    [hidden, gradient, d_input]
}

#[test]
fn what_the_workspace_held_before_changes_no_bit() {
    for (seed, (cell, layers)) in (700..).zip(shapes()) {
        let mut random = random(seed);
        for hidden in [1, 16, 33] {
            let config = config(cell, layers, 3, hidden, 1);
            let flat = narrow(&common::parameters(&config, &mut random, 1.0));
            let ragged = lengths(&mut random, 20, 30);
            for lengths in [vec![21; 20], vec![7; 1], ragged] {
                let Batch::Dense(rows, _) = Batch::dense(&mut random, &lengths, 3) else { unreachable!() };
                let x = rows.concat();
                let clean = pass_over(&config, &flat, &x, &lengths, 0.0);
                let dirty = pass_over(&config, &flat, &x, &lengths, f32::NAN);
                for (name, (dirty, clean)) in
                    ["hidden", "gradient", "d_input"].iter().zip(dirty.iter().zip(&clean))
                {
                    assert_same_bits(dirty, clean, &format!("{config:?}, {lengths:?}: {name}"));
                }
            }
        }
    }
}

#[test]
fn a_session_and_a_tape_give_the_same_bits_run_after_run() {
    for (seed, (cell, layers)) in (800..).zip(shapes()) {
        let mut random = random(seed);
        let config = config(cell, layers, 4, 40, 3);
        let parameters = device_parameters(&config, &Cpu::new(), &mut random, 1.0);
        let mut session = parameters.model().session().max_batch(30).max_time(50).build().unwrap();
        let mut tape = Tape::new(&parameters, 30, 50).unwrap();
        let mut train = |batch: &Batch, d_logits: &[f32]| {
            let Batch::Tokens(sequences) = batch else { unreachable!() };
            tape.clear();
            let hidden = tape.scan(&parameters, sequences, Outputs::All).unwrap();
            let logits = tape.readout(&parameters, hidden).unwrap();
            let gradients = tape.backward_from(logits, d_logits).unwrap().to_vec().unwrap();
            (tape.value(logits).unwrap(), gradients)
        };
        let mut batches: Vec<(Batch, Vec<f32>)> = Vec::new();
        for round in 0..6 {
            let size = between(&mut random, 1, 30);
            let longest = between(&mut random, 1, 50);
            let lengths =
                if round % 2 == 0 { vec![longest; size] } else { lengths(&mut random, size, longest) };
            let batch = Batch::tokens(&mut random, &lengths, 4);
            let d_logits = cotangent(&mut random, &batch, &config);
            batches.push((batch, d_logits));
        }
        // Each twice, others in between.
        let mut expected = Vec::new();
        for round in 0..12 {
            let (batch, d_logits) = &batches[round % 6];
            let (logits, gradients) = train(batch, d_logits);
            assert_same_bits(&batch.forward(&mut session), &logits, "inference and training");
            if round < 6 {
                expected.push((logits, gradients));
            } else {
                let what = format!("{config:?}, batch {} again", round % 6);
                assert_same_bits(&logits, &expected[round % 6].0, &what);
                assert_same_bits(&gradients, &expected[round % 6].1, &what);
            }
        }
    }
}
