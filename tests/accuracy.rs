//! The CPU against the oracle: random models at the worst position of time, golden cell files on every path, and RNNs
//! of small integers bit for bit.
#![cfg(feature = "tasks")]

mod common;

use common::{
    Batch, Trained, assert_same_bits, available_paths, between, lengths, narrow, normals, over_time, widen,
};
use pr_lstm::golden::{CellFile, relative_error};
use pr_lstm::model::Cell;
use pr_lstm::verify::{self, Tolerances};
use pr_lstm::{Config, Cpu, Outputs, Parameters, reference};

/// What the oracle gives, laid out as [`Trained`], and how near it came to a kink of a relu.
struct Expected {
    hidden: Vec<f64>,
    logits: Vec<f64>,
    gradients: Vec<f64>,
    d_input: Vec<f64>,
    nearest_kink: f64,
}

/// The oracle forward, all prefixes, and backward.
fn oracle(config: &Config, flat: &[f32], batch: &Batch, d_logits: &[f32]) -> Expected {
    let weights = reference::Parameters::from_flat(config, flat).unwrap();
    let model = reference::Model::new(config, weights).unwrap();
    let pass = model
        .forward(&match batch {
            Batch::Tokens(sequences) => reference::Input::Tokens(sequences.clone()),
            Batch::Dense(rows, _) => reference::Input::Dense(rows.iter().map(|rows| widen(rows)).collect()),
        })
        .unwrap();
    let gradients = model.backward(&pass, &widen(d_logits)).unwrap();
    Expected {
        hidden: pass.hidden().to_vec(),
        logits: pass.output().to_vec(),
        gradients: gradients.parameters.to_flat(),
        d_input: gradients.input.unwrap_or_default(),
        nearest_kink: pass.nearest_kink(),
    }
}

/// As powers of ten.
fn show(errors: &[f64]) -> String {
    errors.iter().map(|error| format!(" {error:.1e}")).collect()
}

/// How weights are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Weights {
    /// As at the start of training.
    Fresh,
    /// Twice as large.
    Large,
    /// Biases of ±10 or so: gates far out on their tails, where derivatives are small but not 0.
    Saturated,
}

#[test]
fn random_models_follow_the_oracle_at_every_position() {
    let mut worst = [0.0f64; 4];
    for case in 0..72 {
        let cell = [Cell::Lstm, Cell::Rnn][case % 2];
        let kind = [Weights::Fresh, Weights::Large, Weights::Saturated][case / 2 % 3];
        if (cell, kind) == (Cell::Rnn, Weights::Saturated) {
            continue; // it has no gates
        }
        let layers = case / 6 % 3;
        let mut seed = 1000 * (case as u64 + 1);
        // Far enough from relu's kink that f32 is on the same side; else draw again.
        let (config, batch, trained, expected) = loop {
            let mut random = common::random(seed);
            let config = Config::new(between(&mut random, 1, 9), 2 * between(&mut random, 0, 20) + 1, 1)
                .cell(cell)
                .unary_layers(layers);
            let config = Config { output: between(&mut random, 1, 6), ..config };
            let size = between(&mut random, 2, 5); // of one sequence a single logit can cancel to nothing
            let lengths = match case % 3 {
                0 => vec![between(&mut random, 1, 70); size],
                _ => lengths(&mut random, size, 70),
            };
            let batch = match case % 4 {
                0 | 1 => Batch::dense(&mut random, &lengths, config.input),
                _ => Batch::tokens(&mut random, &lengths, config.input),
            };
            let scale = if kind == Weights::Large { 2.0 } else { 1.0 };
            let mut flat = common::parameters(&config, &mut random, scale);
            if kind == Weights::Saturated {
                let layout = config.layout().unwrap();
                for bias in layout.names.iter().filter(|p| p.shape.len() == 1 && p.name != "readout.b") {
                    flat[bias.range.clone()].iter_mut().for_each(|b| *b *= 40.0);
                }
            }
            let flat = narrow(&flat);
            let rows: usize = lengths.iter().sum();
            let d_logits = narrow(&normals(&mut random, rows * config.output, 1.0));
            let expected = oracle(&config, &flat, &batch, &d_logits);
            if expected.nearest_kink > if cell == Cell::Rnn { 1e-6 } else { 1e-7 } {
                let parameters = Parameters::new(&config, Cpu::new(), &flat).unwrap();
                break (config, batch.clone(), batch.train(&parameters, Outputs::All, &d_logits), expected);
            }
            seed += 1;
            assert!(seed % 1000 < 50, "every draw is at a kink");
        };
        let Trained { hidden, logits, gradients, d_input } = &trained;
        let lengths = batch.lengths();
        let mut errors = [
            over_time(hidden, &expected.hidden, &lengths, config.hidden),
            over_time(logits, &expected.logits, &lengths, config.output),
            0.0,
            0.0,
        ];
        for parameter in &config.layout().unwrap().names {
            let range = parameter.range.clone();
            let error = relative_error(&widen(&gradients[range.clone()]), &expected.gradients[range]);
            errors[2] = f64::max(errors[2], error);
        }
        if let Batch::Dense(..) = batch {
            errors[3] = over_time(d_input, &expected.d_input, &lengths, config.input);
        }
        println!("seed {seed}: {config:?}, {kind:?}, {lengths:?}: {}", show(&errors));
        let within = errors.iter().zip([1e-5, 1e-5, 1e-4, 1e-4]).all(|(error, most)| *error <= most);
        assert!(within, "seed {seed}: hidden, logits, gradients, d_input {errors:?}");
        worst = std::array::from_fn(|n| worst[n].max(errors[n]));
    }
    println!("worst: {}", show(&worst));
    assert!(worst.iter().all(|&error| error > 0.0), "f32 is never exact: {worst:?}");
}

#[test]
fn golden_cells_hold_on_every_path() {
    for path in available_paths() {
        for file in common::cell_files() {
            let checks = verify::device(
                &CellFile::read(&file).unwrap(),
                &Cpu::with_path(path).unwrap(),
                Tolerances::CPU_F32,
            )
            .unwrap();
            assert!(checks.len() > 5, "{checks:?}");
            for check in checks {
                assert!(check.tolerance <= 1e-4, "{check:?}");
                assert!(check.ok(), "{} on {path:?}: {check:?}", file.display());
            }
        }
    }
}

/// Where every sum is exact, order and rounding do not matter: the bits are the oracle's.
#[test]
fn rnns_of_small_integers_have_the_oracles_bits() {
    let mut exact = 0;
    for seed in 0..40 {
        let mut random = common::random(5000 + seed);
        let config =
            Config::new(between(&mut random, 1, 4), between(&mut random, 1, 21), between(&mut random, 1, 3))
                .cell(Cell::Rnn)
                .unary_layers(seed as usize % 3);
        let mut integers = |count: usize, odds: u32| -> Vec<f32> {
            let mut draw = |_| match random.below(odds) {
                0 => 1.0,
                1 => -1.0,
                _ => 0.0,
            };
            (0..count).map(&mut draw).collect()
        };
        // Few weights that are not 0, so that sums stay small.
        let flat = integers(config.layout().unwrap().len(), 2 + config.hidden as u32);
        let lengths: Vec<usize> =
            (0..4).map(|b| 1 + (seed as usize * 7 + b * (seed as usize % 2)) % 30).collect();
        let rows: usize = lengths.iter().sum();
        let sequence = |&time: &usize| integers(time * config.input, 4);
        let batch = Batch::Dense(lengths.iter().map(sequence).collect(), config.input);
        let d_logits = integers(rows * config.output, 3);

        // With every sign positive each sum is the largest that any order of the real one can pass through.
        let absolute = |values: &[f32]| values.iter().map(|x| x.abs()).collect::<Vec<f32>>();
        let Batch::Dense(sequences, width) = &batch else { unreachable!() };
        let positive = Batch::Dense(sequences.iter().map(|rows| absolute(rows)).collect(), *width);
        let bound = oracle(&config, &absolute(&flat), &positive, &absolute(&d_logits));
        let bounds = [bound.hidden, bound.logits, bound.gradients, bound.d_input].concat();
        if bounds.iter().any(|&x| x >= f64::from(1 << 24)) {
            continue;
        }
        exact += 1;
        let expected = oracle(&config, &flat, &batch, &d_logits);
        for path in available_paths() {
            let parameters = Parameters::new(&config, Cpu::with_path(path).unwrap(), &flat).unwrap();
            let Trained { hidden, logits, gradients, d_input } =
                batch.train(&parameters, Outputs::All, &d_logits);
            for (name, found, expected) in [
                ("hidden", hidden, &expected.hidden),
                ("logits", logits, &expected.logits),
                ("gradients", gradients, &expected.gradients),
                ("d_input", d_input, &expected.d_input),
            ] {
                let what = format!("seed {seed}, {config:?}, {path:?}: {name}");
                assert_same_bits(&found, &narrow(expected), &what);
            }
        }
    }
    assert!(exact >= 15, "only {exact} draws were exact");
}
