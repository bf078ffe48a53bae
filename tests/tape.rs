//! The tape: gradients of composite functions against the oracle's and against central differences of the oracle,
//! equal bits however often a tape was used, and bad input that leaves it usable.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use common::{
    bits, central_differences, dot, draw_tokens, narrow, normals, oracle, parameters, random, refused, widen,
    worst_parameter, worst_row,
};
use pr_lstm::reference::{Input, Pass, cross_entropy};
use pr_lstm::tape::Value;
use pr_lstm::{Cell, Config, Cpu, Outputs, Parameters, Result, Tape};

/// Worst relative error of a gradient, by the oracle and by central differences.
const TOLERANCE: f64 = 1e-4;

/// A model small enough for central differences, with its parameters in both precisions.
struct Small {
    config: Config,
    flat: Vec<f64>,
    parameters: Parameters<Cpu>,
}

impl Small {
    fn new(config: Config, seed: u64) -> Self {
        let drawn = narrow(&parameters(&config, &mut random(seed), 1.5));
        let parameters = Parameters::new(&config, Cpu::new(), &drawn).unwrap();
        Small { flat: widen(&drawn), parameters, config }
    }

    fn tape(&self) -> Tape<Cpu> {
        Tape::new(&self.parameters, 4, 16).unwrap()
    }

    /// Holds gradients of the tape to the oracle's, and both to central differences of the same function.
    fn check(&self, what: &str, found: &[f32], expected: &[f64], function: impl Fn(&[f64]) -> f64) {
        assert!(dot(expected, expected) > 0.0, "{what}: the gradient is zero");
        let numeric = central_differences(&self.flat, function);
        for (other, expected) in [("oracle", expected), ("central differences", &numeric)] {
            let (error, name) = worst_parameter(&self.config, &widen(found), &rounded(expected));
            println!("{what}, {:?}: {error:.1e} from the {other}, at {name}", self.config.cell);
            assert!(error <= TOLERANCE, "{what}, {:?}: {error:e} from the {other}, {name}", self.config);
        }
    }
}

/// What central differences cannot tell from zero is zero.
fn rounded(gradient: &[f64]) -> Vec<f64> {
    gradient.iter().map(|&g| if g.abs() < 1e-9 { 0.0 } else { g }).collect()
}

/// The models that gradients are checked for: every cell, 0 to 2 unary layers, away from relu's kink. A seed whose
/// passes come near the kink is drawn again.
fn each_small(input: usize, check: impl Fn(&Small, u64) -> Option<f64>) {
    for (cell, unary) in [(Cell::Lstm, 1), (Cell::Lstm, 0), (Cell::Lstm, 2), (Cell::Rnn, 1)] {
        let config = Config::new(input, 4, 3).cell(cell).unary_layers(unary);
        let seed = (1..200).find(|&seed| check(&Small::new(config.clone(), seed), seed).is_some());
        println!("{config:?}: seed {}", seed.expect("a seed away from the kink"));
    }
}

/// None if a finite difference over these passes could cross a kink.
fn away_from_kinks(passes: &[&Pass]) -> Option<f64> {
    let nearest = passes.iter().map(|pass| pass.nearest_kink()).fold(f64::INFINITY, f64::min);
    (nearest > 1e-3).then_some(nearest)
}

/// `Σ w ⊙ a ⊙ b²` with fixed weights `w`, and its gradients by `a` and by `b`.
fn product(a: &[f64], b: &[f64]) -> (f64, Vec<f64>, Vec<f64>) {
    let weight = |k: usize| (k as f64 + 1.0).sin();
    let terms = || a.iter().zip(b).enumerate();
    (
        terms().map(|(k, (a, b))| weight(k) * a * b * b).sum(),
        terms().map(|(k, (_, b))| weight(k) * b * b).collect(),
        terms().map(|(k, (a, b))| weight(k) * 2.0 * a * b).collect(),
    )
}

/// Records [`product`] on a tape.
fn record_product(tape: &mut Tape<Cpu>, a: Value, b: Value) -> Result<Value> {
    tape.custom(
        [a, b],
        |[a, b]| vec![product(&widen(a), &widen(b)).0 as f32],
        |[a, b], d| {
            let (_, d_a, d_b) = product(&widen(a), &widen(b));
            [d_a, d_b].map(|gradient| narrow(&gradient).iter().map(|g| g * d[0]).collect())
        },
    )
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

#[test]
fn a_custom_loss_over_two_scans_that_share_weights() {
    each_small(3, |small, seed| {
        let Small { config, flat, .. } = small;
        let mut random = random(1000 + seed);
        let left = draw_tokens(&mut random, 3, &[5, 1, 7]);
        let right = draw_tokens(&mut random, 3, &[6, 6, 6]);
        let inputs = [Input::Tokens(left.clone()), Input::Tokens(right.clone())];
        let run = |flat: &[f64]| {
            let model = oracle(config, flat);
            inputs.each_ref().map(|input| model.forward_last(input).unwrap())
        };
        let [p1, p2] = run(flat);
        let nearest = away_from_kinks(&[&p1, &p2])?;
        let (loss, d1, d2) = product(p1.hidden(), p2.hidden());
        let model = oracle(config, flat);
        let [g1, g2] =
            [(&p1, &d1), (&p2, &d2)].map(|(p, d)| model.backward_hidden(p, d).unwrap().parameters.to_flat());

        let mut tape = small.tape();
        let h1 = tape.scan(&small.parameters, &left, Outputs::Last).unwrap();
        let h2 = tape.scan(&small.parameters, &right, Outputs::Last).unwrap();
        let found = record_product(&mut tape, h1, h2).unwrap();
        assert!((f64::from(tape.value(found).unwrap()[0]) - loss).abs() <= 1e-5 * loss.abs().max(0.1));
        let gradients = tape.backward(found).unwrap().to_vec().unwrap();
        small.check("two scans", &gradients, &sum(&g1, &g2), |flat| {
            let [p1, p2] = run(flat);
            product(p1.hidden(), p2.hidden()).0
        });
        Some(nearest)
    });
}

#[test]
fn dense_input_has_its_gradient() {
    each_small(2, |small, seed| {
        let Small { config, flat, .. } = small;
        let lengths = [5, 1, 8];
        let mut random = random(2000 + seed);
        let rows = narrow(&normals(&mut random, 2 * lengths.iter().sum::<usize>(), 1.0));
        let targets: Vec<u32> = (0..rows.len() / 2).map(|_| random.below(3)).collect();
        let split = |rows: &[f64]| {
            let mut rest = rows;
            Input::Dense(lengths.map(|time| rest.split_off(..2 * time).unwrap().to_vec()).to_vec())
        };
        let loss = |flat: &[f64], rows: &[f64]| {
            let pass = oracle(config, flat).forward(&split(rows)).unwrap();
            cross_entropy(pass.output(), 3, &targets).unwrap().0
        };
        let rows64 = widen(&rows);
        let model = oracle(config, flat);
        let pass = model.forward(&split(&rows64)).unwrap();
        let nearest = away_from_kinks(&[&pass])?;
        let d_output = cross_entropy(pass.output(), 3, &targets).unwrap().1;
        let expected = model.backward(&pass, &d_output).unwrap();

        let mut tape = small.tape();
        let mut rest = &rows[..];
        let batch = lengths.map(|time| rest.split_off(..2 * time).unwrap());
        let h = tape.scan_dense(&small.parameters, &batch, Outputs::All).unwrap();
        let y = tape.readout(&small.parameters, h).unwrap();
        let found = tape.cross_entropy(y, &targets).unwrap();
        let gradients = tape.backward(found).unwrap().to_vec().unwrap();
        small.check("dense", &gradients, &expected.parameters.to_flat(), |flat| loss(flat, &rows64));
        let d_input = tape.d_input(h).unwrap();
        let numeric = central_differences(&rows64, |rows| loss(flat, rows));
        for (other, expected) in [("oracle", expected.input.unwrap()), ("central differences", numeric)] {
            let (error, row) = worst_row(&d_input, &expected, 2);
            assert!(error <= TOLERANCE, "{config:?}: {error:e} from the {other}, input row {row}");
        }
        Some(nearest)
    });
}

#[test]
fn two_losses_on_one_scan() {
    each_small(3, |small, seed| {
        let Small { config, flat, .. } = small;
        let mut random = random(3000 + seed);
        let batch = draw_tokens(&mut random, 3, &[7, 3]);
        let targets: Vec<u32> = (0..10).map(|_| random.below(3)).collect();
        let input = Input::Tokens(batch.clone());
        // Cross entropy of the read-out, and the product of the hidden states with themselves: used three times.
        let losses = |pass: &Pass| {
            [cross_entropy(pass.output(), 3, &targets).unwrap().0, product(pass.hidden(), pass.hidden()).0]
        };
        let model = oracle(config, flat);
        let pass = model.forward(&input).unwrap();
        let nearest = away_from_kinks(&[&pass])?;
        let d_output = cross_entropy(pass.output(), 3, &targets).unwrap().1;
        let (_, d_a, d_b) = product(pass.hidden(), pass.hidden());
        let expected = sum(
            &model.backward(&pass, &d_output).unwrap().parameters.to_flat(),
            &model.backward_hidden(&pass, &sum(&d_a, &d_b)).unwrap().parameters.to_flat(),
        );
        let run =
            |flat: &[f64]| -> f64 { losses(&oracle(config, flat).forward(&input).unwrap()).iter().sum() };

        // The sum as `add` makes it, and as a function of one's own.
        for by_add in [true, false] {
            let mut tape = small.tape();
            let h = tape.scan(&small.parameters, &batch, Outputs::All).unwrap();
            let y = tape.readout(&small.parameters, h).unwrap();
            let first = tape.cross_entropy(y, &targets).unwrap();
            let second = record_product(&mut tape, h, h).unwrap();
            let total = if by_add {
                tape.add(first, second)
            } else {
                tape.custom([first, second], |[a, b]| vec![a[0] + b[0]], |_, d| [d.to_vec(), d.to_vec()])
            }
            .unwrap();
            let value = f64::from(tape.value(total).unwrap()[0]);
            assert!((value - run(flat)).abs() <= 1e-5 * run(flat).abs().max(0.1));
            let gradients = tape.backward(total).unwrap().to_vec().unwrap();
            small.check("two losses", &gradients, &expected, run);
        }
        Some(nearest)
    });
}

#[test]
fn a_value_added_to_itself_has_twice_the_gradient() {
    let small = Small::new(Config::new(3, 5, 2), 4);
    let batch = draw_tokens(&mut random(4), 3, &[6, 2]);
    let gradients = |twice: bool| {
        let mut tape = small.tape();
        let h = tape.scan(&small.parameters, &batch, Outputs::Last).unwrap();
        let y = tape.readout(&small.parameters, h).unwrap();
        let loss = tape.cross_entropy(y, &[0, 1]).unwrap();
        let loss = if twice { tape.add(loss, loss).unwrap() } else { loss };
        tape.backward(loss).unwrap().to_vec().unwrap()
    };
    let doubled: Vec<f32> = gradients(false).iter().map(|g| 2.0 * g).collect();
    assert!(doubled.iter().any(|&g| g != 0.0));
    let (error, name) = worst_parameter(&small.config, &widen(&gradients(true)), &widen(&doubled));
    assert!(error <= 1e-6, "{name}: {error:e}");
}

#[test]
fn backward_from_a_given_gradient() {
    each_small(3, |small, seed| {
        let Small { config, flat, .. } = small;
        let mut random = random(5000 + seed);
        let batch = draw_tokens(&mut random, 3, &[9, 4, 1]);
        let input = Input::Tokens(batch.clone());
        let positions = vec![vec![7, 8], vec![2, 3], vec![]];
        let lengths = [9, 4];
        let model = oracle(config, flat);
        let pass = model.forward_at(&input, &positions).unwrap();
        let nearest = away_from_kinks(&[&pass])?;
        let d_hidden = narrow(&normals(&mut random, 4 * config.hidden, 1.0));
        let d_output = narrow(&normals(&mut random, 4 * 3, 1.0));
        let run = |flat: &[f64]| oracle(config, flat).forward_at(&input, &positions).unwrap();
        for from_hidden in [true, false] {
            let mut tape = small.tape();
            let h = tape.scan(&small.parameters, &batch[..lengths.len()], Outputs::LastN(2)).unwrap();
            let y = tape.readout(&small.parameters, h).unwrap();
            let (value, gradient) = if from_hidden { (h, &d_hidden) } else { (y, &d_output) };
            let found = tape.backward_from(value, gradient).unwrap().to_vec().unwrap();
            let gradient = widen(gradient);
            let expected = if from_hidden {
                model.backward_hidden(&pass, &gradient)
            } else {
                model.backward(&pass, &gradient)
            };
            let expected = expected.unwrap().parameters.to_flat();
            small.check("backward_from", &found, &expected, |flat| {
                let pass = run(flat);
                dot(&gradient, if from_hidden { pass.hidden() } else { pass.output() })
            });
        }
        Some(nearest)
    });
}

/// A recording with all that a tape can do, and everything that comes out of it.
#[derive(Clone, Debug)]
struct Recording {
    tokens: Vec<Vec<u32>>,
    rows: Vec<Vec<f32>>,
    outputs: Outputs,
    targets: Vec<u32>,
}

impl Recording {
    /// Both scans have these lengths.
    fn new(seed: u64, lengths: &[usize], outputs: Outputs) -> Self {
        let mut random = random(seed);
        let count = lengths.iter().map(|&time| outputs.count(time)).sum();
        Recording {
            tokens: draw_tokens(&mut random, 3, lengths),
            rows: lengths.iter().map(|time| narrow(&normals(&mut random, 3 * time, 1.0))).collect(),
            targets: (0..count).map(|_| random.below(2)).collect(),
            outputs,
        }
    }

    /// Bits of every value, of the metrics, of the gradients and of the input's.
    fn run(&self, tape: &mut Tape<Cpu>, parameters: &Parameters<Cpu>) -> Result<Vec<Vec<u32>>> {
        tape.clear();
        let mask: Vec<u8> = (0..self.targets.len()).map(|row| u8::from(row % 3 != 1)).collect();
        let h1 = tape.scan(parameters, &self.tokens, self.outputs.clone())?;
        let h2 = tape.scan_dense(parameters, &self.rows, self.outputs.clone())?;
        let y = tape.readout(parameters, h1)?;
        let loss = tape.cross_entropy_masked(y, &self.targets, &mask)?;
        let other = record_product(tape, h1, h2)?;
        let total = tape.add(loss, other)?;
        let mut found = Vec::new();
        for value in [h1, h2, y, loss, other, total] {
            found.push(bits(&tape.value(value)?));
        }
        let metrics = tape.metrics(loss)?;
        found.push(vec![metrics.loss.to_bits(), metrics.right as u32, metrics.counted as u32]);
        found.push(bits(&tape.backward(total)?.to_vec()?));
        found.push(bits(&tape.d_input(h2)?));
        assert_eq!(tape.metrics(loss)?, metrics, "metrics after the walk back");
        Ok(found)
    }
}

/// Recordings of different shapes: padded and ragged, smaller and larger, every kind of output.
fn recordings() -> Vec<Recording> {
    let of = |seed, lengths: &[usize], outputs| Recording::new(seed, lengths, outputs);
    vec![
        of(1, &[5, 5], Outputs::All),
        of(2, &[16, 16, 16, 16], Outputs::All),
        of(3, &[1], Outputs::Last),
        of(4, &[3, 16, 7, 1], Outputs::Last),
        of(5, &[9, 2], Outputs::LastN(2)),
        of(6, &[13], Outputs::At(vec![0, 5, 12])),
        of(7, &[5, 5], Outputs::All),
        of(8, &[5, 5], Outputs::LastN(3)),
        of(9, &[5, 5], Outputs::At(vec![0, 2, 4])),
        of(10, &[5, 4], Outputs::All),
        of(11, &[4, 5], Outputs::Last),
    ]
}

#[test]
fn a_tape_used_before_gives_the_bits_of_a_fresh_one() {
    for cell in [Cell::Lstm, Cell::Rnn] {
        let small = Small::new(Config::new(3, 19, 2).cell(cell), 6);
        let mut used = small.tape();
        let recordings = recordings();
        let fresh: Vec<_> =
            recordings.iter().map(|one| one.run(&mut small.tape(), &small.parameters).unwrap()).collect();
        for (n, found) in fresh.iter().enumerate() {
            assert!(found[7].iter().any(|&g| f32::from_bits(g) != 0.0), "a gradient");
            assert!(fresh[..n].iter().all(|other| other[7] != found[7]), "recordings differ");
        }
        // Forwards, backwards, and each twice: the same bits run after run.
        let order = (0..recordings.len()).chain((0..recordings.len()).rev());
        for n in order.flat_map(|n| [n, n]) {
            assert_eq!(recordings[n].run(&mut used, &small.parameters).unwrap(), fresh[n], "recording {n}");
        }
    }
}

#[cfg(feature = "rayon")]
#[test]
fn gradients_add_in_one_order_for_any_number_of_threads() {
    let config = Config::new(3, 40, 2);
    let cpu = Cpu::new();
    let drawn = narrow(&parameters(&config, &mut random(8), 1.5));
    let parameters = Parameters::new(&config, cpu.clone(), &drawn).unwrap();
    let recording = Recording::new(10, &[48; 20], Outputs::All);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| recording.run(&mut Tape::new(&parameters, 20, 48).unwrap(), &parameters).unwrap())
    };
    let one = run(1);
    assert_eq!(cpu.work().by_worker.iter().filter(|&&rows| rows > 0).count(), 1);
    // A second worker does rows sooner or later, whatever else the machine is doing.
    for _ in 0..20 {
        assert_eq!(run(3), one);
    }
    let workers = cpu.work().by_worker.iter().filter(|&&rows| rows > 0).count();
    assert!(workers > 1, "{workers} worker did all rows");
}

#[test]
fn memory_is_told_before_and_kept() {
    let small = Small::new(Config::new(3, 8, 2), 7);
    let mut tape = small.tape();
    tape.reserve(&Outputs::All).unwrap();
    let reserved = tape.bytes();
    let batch = draw_tokens(&mut random(7), 3, &[16; 4]);
    tape.scan(&small.parameters, &batch, Outputs::All).unwrap();
    assert_eq!(tape.bytes(), reserved);
    for lengths in [&[16, 3, 9, 16][..], &[2], &[16; 4]] {
        tape.clear();
        let batch = draw_tokens(&mut random(7), 3, lengths);
        tape.scan(&small.parameters, &batch, Outputs::All).unwrap();
        assert_eq!(tape.bytes(), reserved, "{lengths:?}");
    }
}

/// A tape with a recording on it that was not walked back, and its values: `h [2, H]`, logits `[2, O]`, loss.
struct Recorded {
    small: Small,
    tape: Tape<Cpu>,
    recording: Recording,
    fresh: Vec<Vec<u32>>,
    h: Value,
    logits: Value,
    loss: Value,
}

impl Recorded {
    fn new() -> Self {
        let small = Small::new(Config::new(3, 5, 2), 9);
        let recording = Recording::new(11, &[4, 7], Outputs::Last);
        let fresh = recording.run(&mut small.tape(), &small.parameters).unwrap();
        let mut tape = small.tape();
        let batch = draw_tokens(&mut random(12), 3, &[3, 6]);
        let h = tape.scan(&small.parameters, &batch, Outputs::Last).unwrap();
        let logits = tape.readout(&small.parameters, h).unwrap();
        let loss = tape.cross_entropy(logits, &[1, 0]).unwrap();
        Recorded { small, tape, recording, fresh, h, logits, loss }
    }

    /// The tape gives the bits of a fresh one.
    fn works(&mut self) {
        assert_eq!(self.recording.run(&mut self.tape, &self.small.parameters).unwrap(), self.fresh);
    }
}

#[test]
fn bad_arguments_are_refused_and_change_nothing() {
    let expected = {
        let Recorded { mut tape, loss, .. } = Recorded::new();
        bits(&tape.backward(loss).unwrap().to_vec().unwrap())
    };
    let mut recorded = Recorded::new();
    let Recorded { small, tape, h, logits, loss, .. } = &mut recorded;
    let (h, logits, loss, parameters) = (*h, *logits, *loss, &small.parameters);
    let other = Parameters::init(&Config::new(3, 6, 2), Cpu::new(), 0).unwrap();
    let batch = || vec![vec![0u32, 1], vec![2]];

    refused(Tape::new(parameters, 0, 1).map(drop), &["max_batch", "at least 1", "0"]);
    refused(Tape::new(parameters, 1, 0).map(drop), &["max_time", "at least 1", "0"]);
    refused(tape.scan(&other, &batch(), Outputs::Last), &["parameters", "hidden: 5", "hidden: 6"]);
    refused(tape.scan(parameters, &[[3u32]], Outputs::Last), &["sequence 0, position 0", "3", "below 3"]);
    refused(tape.scan(parameters, &[[0u32]; 5], Outputs::Last), &["batch", "1 to 4", "max_batch", "5"]);
    refused(tape.scan(parameters, &[[0u32]; 0], Outputs::Last), &["batch", "1 to 4", "0"]);
    refused(
        tape.scan(parameters, &[[0u32; 17]], Outputs::Last),
        &["sequence 0", "1 to 16", "max_time", "17"],
    );
    refused(tape.scan(parameters, &[&[0u32][..], &[]], Outputs::Last), &["sequence 1", "1 to 16", "0"]);
    refused(
        tape.scan(parameters, &batch(), Outputs::LastN(2)),
        &["outputs", "1 steps of sequence 1", "LastN(2)"],
    );
    refused(tape.scan(parameters, &batch(), Outputs::LastN(0)), &["outputs", "of sequence 0", "LastN(0)"]);
    refused(tape.scan(parameters, &batch(), Outputs::At(vec![])), &["outputs", "at least one", "none"]);
    refused(
        tape.scan(parameters, &[[0u32; 3]], Outputs::At(vec![1, 1])),
        &["outputs", "strictly ascending", "1 after 1"],
    );
    refused(
        tape.scan_dense(parameters, &[[0.5f32; 4]], Outputs::Last),
        &["sequence 0", "D = 3", "4 elements"],
    );
    refused(tape.scan_dense(parameters, &[[0.5, f32::NAN, 0.0]], Outputs::Last), &["sequence 0", "1", "NaN"]);
    refused(tape.scan_dense(&other, &[[0.5; 3]], Outputs::Last), &["parameters", "hidden: 6"]);
    refused(tape.readout(&other, h), &["parameters", "hidden: 6"]);
    refused(tape.readout(parameters, loss), &["hidden", "H = 5", "1 elements"]);
    refused(tape.cross_entropy(logits, &[0]), &["targets", "2", "1"]);
    refused(tape.cross_entropy(logits, &[]), &["targets", "2", "0"]);
    refused(tape.cross_entropy(logits, &[0, 2]), &["targets", "below O = 2", "2"]);
    refused(tape.cross_entropy_masked(logits, &[0, 1], &[1]), &["mask", "2 rows", "1"]);
    refused(tape.metrics(h), &["loss", "cross entropy"]);
    refused(tape.d_input(h), &["scan", "scan_dense"]);
    refused(tape.d_input(loss), &["scan", "scan_dense"]);
    refused(tape.add(h, logits), &["b", "10 elements", "4"]);
    refused(tape.backward(h).map(drop), &["loss", "one element", "10 elements", "backward_from"]);
    refused(tape.backward_from(h, &[0.0; 9]).map(drop), &["gradient", "10 elements", "9"]);
    refused(tape.custom([h], |_| vec![], |_, _| [vec![]]), &["forward", "at least one", "empty"]);
    let foreign = Recorded::new();
    refused(tape.value(foreign.h), &["value", "present recording", "another tape"]);

    // Nothing of it was recorded.
    assert_eq!(bits(&tape.backward(loss).unwrap().to_vec().unwrap()), expected);
    refused(tape.metrics(h), &["loss", "cross entropy"]);
    refused(tape.metrics(logits), &["loss", "cross entropy"]);
    refused(tape.backward(loss).map(drop), &["value", "record anew", "walked back"]);
    recorded.works();
}

#[test]
fn values_of_an_earlier_recording_are_refused() {
    let mut recorded = Recorded::new();
    let Recorded { small, tape, h, logits, loss, .. } = &mut recorded;
    let old = &["value", "present recording", "before `clear`"];
    tape.clear();
    // There is a value at each of their places again.
    let batch = draw_tokens(&mut random(13), 3, &[2, 5]);
    let new = tape.scan(&small.parameters, &batch, Outputs::Last).unwrap();
    let new_logits = tape.readout(&small.parameters, new).unwrap();
    let new_loss = tape.cross_entropy(new_logits, &[0, 0]).unwrap();
    refused(tape.value(*h), old);
    refused(tape.d_input(*h), old);
    refused(tape.metrics(*loss), old);
    refused(tape.readout(&small.parameters, *h), old);
    refused(tape.cross_entropy(*logits, &[0, 0]), old);
    refused(tape.add(new_loss, *loss), old);
    refused(tape.add(*loss, new_loss), old);
    refused(tape.custom([new, *h], |_| vec![0.0], |_, _| [vec![], vec![]]), old);
    refused(tape.backward(*loss).map(drop), old);
    refused(tape.backward_from(*h, &[0.0; 10]).map(drop), old);
    tape.backward(new_loss).unwrap();
    recorded.works();
}

#[test]
fn a_function_that_gives_gradients_of_other_lengths_is_refused() {
    for (lengths, wrong) in [([9, 4], "gradient 0"), ([10, 0], "gradient 1"), ([0, 0], "gradient 0")] {
        let mut recorded = Recorded::new();
        let Recorded { tape, h, logits, .. } = &mut recorded;
        let loss = tape
            .custom([*h, *logits], |_| vec![1.0], move |_, _| lengths.map(|length| vec![1.0; length]))
            .unwrap();
        let expected = if wrong == "gradient 0" { "10 elements" } else { "4 elements" };
        refused(tape.backward(loss).map(drop), &[wrong, "custom function", expected]);
        refused(tape.backward(loss).map(drop), &["walked back"]);
        recorded.works();
    }
}

#[test]
fn a_panic_in_a_function_of_ones_own_leaves_a_sound_tape() {
    // Forward: nothing was recorded, the recording goes on.
    let mut recorded = Recorded::new();
    let Recorded { tape, h, loss, .. } = &mut recorded;
    let before = bits(&tape.value(*h).unwrap());
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let panics = |_: [&[f32]; 1]| -> Vec<f32> { resume_unwind(Box::new("forward")) };
        tape.custom([*h], panics, |_, _| [vec![]]).map(drop)
    }));
    assert!(unwound.is_err());
    assert_eq!(bits(&tape.value(*h).unwrap()), before);
    let found = bits(&tape.backward(*loss).unwrap().to_vec().unwrap());
    let Recorded { tape: mut other, loss: other_loss, .. } = Recorded::new();
    assert_eq!(found, bits(&other.backward(other_loss).unwrap().to_vec().unwrap()));
    recorded.works();

    // Backward: the recording is walked back, its values are still there, and nothing else takes their places.
    let mut recorded = Recorded::new();
    let Recorded { small, tape, h, .. } = &mut recorded;
    let panics = |_: [&[f32]; 1], _: &[f32]| -> [Vec<f32>; 1] { resume_unwind(Box::new("backward")) };
    let loss = tape.custom([*h], |_| vec![1.0], panics).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| tape.backward(loss).map(drop))).is_err());
    assert_eq!(bits(&tape.value(*h).unwrap()), before);
    let later = tape.scan(&small.parameters, &[[0u32]], Outputs::Last).unwrap();
    assert_eq!(tape.value(later).unwrap().len(), 5);
    assert_eq!(bits(&tape.value(*h).unwrap()), before);
    refused(tape.backward(loss).map(drop), &["walked back"]);
    recorded.works();
}
