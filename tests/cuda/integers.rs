//! RNNs of whole numbers, where every product and every sum is exact: the bits of the CPU on every path.

use pr_lstm::model::Cell;
use pr_lstm::random::Random;
use pr_lstm::{Config, Cpu, Outputs, reference};

use crate::common::device::{Device, Storage};
use crate::common::{Batch, Runner, Scanned, between, kept, lengths, random, widen};

/// The CPU's own pass, on its own line.
fn on_the_cpu(config: &Config, flat: &[f32], batch: &Batch) -> Scanned {
    Runner::new(&Cpu::new(), config, flat).all(batch)
}

/// What the oracle makes of it when it rounds weights, input and `h`; with weights and input made positive where
/// `positive`, so that every sum is the largest that any order of the real one can pass through.
fn oracle(config: &Config, flat: &[f32], batch: &Batch, round: fn(f64) -> f64, positive: bool) -> Vec<f64> {
    let sign = |values: &[f32]| -> Vec<f64> {
        widen(values).into_iter().map(|x| if positive { x.abs() } else { x }).collect()
    };
    let weights = reference::Parameters::from_flat(config, &sign(flat)).unwrap().round_weights(round);
    let model = reference::Model::new(config, weights).unwrap().round_hidden(round);
    let Batch::Dense(sequences, _) = batch else { panic!("dense only") };
    let rows = sequences.iter().map(|rows| sign(rows).into_iter().map(round).collect()).collect();
    let pass = model.forward(&reference::Input::Dense(rows)).unwrap();
    [pass.hidden(), pass.output()].concat()
}

#[test]
fn small_integers_have_the_bits_of_the_cpu() {
    let mut cases = Vec::new();
    for seed in 5000..5060 {
        let mut random = random(seed);
        let hidden = [1, 15, 16, 17, 33, 64, 70, 137][seed as usize % 8];
        let config = Config::new(between(&mut random, 1, 40), hidden, between(&mut random, 1, 9));
        let config = config.cell(Cell::Rnn).unary_layers(seed as usize % 3);
        let mut integers = |count: usize, odds: u32| -> Vec<f32> {
            let mut draw = |_| [1.0, -1.0].get(random.below(odds) as usize).copied().unwrap_or(0.0);
            (0..count).map(&mut draw).collect()
        };
        // Few weights that are not 0, so that sums stay small.
        let flat = integers(config.layout().unwrap().len(), 2 + config.hidden as u32);
        let time = 1 + seed as usize % 23;
        let lengths: Vec<usize> = (0..6).map(|b| 1 + (time + b * (seed as usize % 2)) % 23).collect();
        let sequence = |&time: &usize| integers(time * config.input, 4);
        let batch = Batch::Dense(lengths.iter().map(sequence).collect(), config.input);
        let largest = oracle(&config, &flat, &batch, |x| x, true).into_iter().fold(0.0, f64::max);
        cases.push((seed, config, flat, batch, largest));
    }
    let device = Device::take();
    for storage in Storage::ALL {
        let (backend, mut exact, mut large) = (device.backend(storage), 0, 0.0);
        for (seed, config, flat, batch, largest) in &cases {
            let plain = oracle(config, flat, batch, |x| x, false);
            if *largest >= f64::from(1 << 23) || oracle(config, flat, batch, storage.round(), false) != plain
            {
                continue;
            }
            exact += 1;
            large = f64::max(large, *largest);
            let expected = on_the_cpu(config, flat, batch);
            assert_eq!([widen(&expected.hidden), widen(&expected.logits)].concat(), plain, "seed {seed}");
            let found = Runner::new(&backend, config, flat).all(batch);
            found.assert_same_bits(&expected, &format!("{storage:?}, seed {seed}, {config:?}"));
        }
        println!("{storage:?}: {exact} of {} cases are exact, sums to {large}", cases.len());
        assert!(exact >= 20 && large > 4.0, "{storage:?}: only {exact} draws are exact");
    }
}

/// A matrix that picks: every column has one element that is not 0, a whole number of up to `bits` bits.
fn picks(random: &mut Random, rows: usize, columns: usize, bits: u32) -> Vec<f32> {
    let mut w = vec![0.0; rows * columns];
    for column in 0..columns {
        w[between(random, 0, rows - 1) * columns + column] = whole(random, bits);
    }
    w
}

/// A whole number of up to so many bits, mostly positive, so that few die in a relu; 1 of one bit.
fn whole(random: &mut Random, bits: u32) -> f32 {
    let value = if bits == 1 { 1 } else { 1 + random.below((1 << bits) - 1) };
    if bits > 1 && random.below(5) == 0 { -(value as f32) } else { value as f32 }
}

/// Numbers of up to 23 bits, the wide ones once in each operand, and half in both: what every plane of the three, and
/// every product of two of them, is for. One product an element, so that all is exact.
#[test]
fn wide_integers_pass_through_every_plane() {
    let device = Device::take();
    for storage in Storage::ALL {
        let backend = device.backend(storage);
        let wide = storage.bits() - 1;
        let half = wide / 2 + 1;
        let mut different = 0;
        // Bits of: input, weights of leaf, merge, unary.
        for (kind, bits) in [
            [wide, 1, 1, 1],
            [1, wide, 1, 1],
            [1, 1, wide, 1],
            [1, 1, 1, wide],
            [half - 1, half - 1, 1, 1],
            [half - 1, 1, half - 1, 1],
            [1, half - 1, 1, half - 1],
            [1, 1, half - 1, half - 1],
        ]
        .into_iter()
        .enumerate()
        {
            for (seed, hidden) in (7000 + 10 * kind as u64..).zip([5, 33, 64, 80]) {
                let mut random = random(seed);
                let config = Config::new(40, hidden, 3).cell(Cell::Rnn).unary_layers(1);
                let layout = config.layout().unwrap();
                let mut flat = Vec::new();
                for parameter in &layout.names {
                    let bits = match parameter.name.split('.').next() {
                        Some("leaf") => bits[1],
                        Some("merge") => bits[2],
                        Some("unary") => bits[3],
                        _ => 1,
                    };
                    match parameter.shape[..] {
                        [rows, columns] => flat.extend(picks(&mut random, rows, columns, bits)),
                        _ => flat.extend(vec![0.0; parameter.range.len()]),
                    }
                }
                // One merge, or weights would multiply on.
                let narrow = bits[2] == 1 && bits[3] == 1;
                let lengths = if narrow { lengths(&mut random, 7, 20) } else { vec![2; 40] };
                let sequence = |&time: &usize| (0..time * 40).map(|_| whole(&mut random, bits[0])).collect();
                let batch = Batch::Dense(lengths.iter().map(sequence).collect(), 40);
                let expected = on_the_cpu(&config, &flat, &batch);
                let found = Runner::new(&backend, &config, &flat).all(&batch);
                let what = format!("{storage:?}, seed {seed}, H {hidden}, bits {bits:?}");
                found.assert_same_bits(&expected, &what);
                let mut values: Vec<u32> = found.hidden.iter().map(|x| x.to_bits()).collect();
                values.sort_unstable();
                values.dedup();
                different += values.len();
                assert!(values.len() > 2, "{what}: nearly everything died: {values:?}");
            }
        }
        println!("{storage:?}: {different} values of up to {wide} bits");
    }
}

/// Of more windows of rows than a weight's gradient has chunks, and the last of a part of its rows: every row counts, once.
#[test]
fn every_row_of_many_counts_in_a_gradient() {
    let mut random = random(7100);
    let lengths = vec![2; 66_000];
    let config = Config::new(3, 2, 1).cell(Cell::Rnn).unary_layers(0);
    // None is negative: nothing dies in a relu. Sums stay below 2^24.
    let mut integers = |count: usize| -> Vec<f32> { (0..count).map(|_| random.below(3) as f32).collect() };
    let (flat, d_logits) = (integers(config.layout().unwrap().len()), integers(lengths.len()));
    let batch = Batch::tokens(&mut random, &lengths, config.input);
    let schedule = kept(&lengths, &Outputs::Last);
    let expected = Runner::training(&Cpu::new(), &config, &flat).train(&schedule, &batch, &d_logits, 1);
    assert!(expected.gradients.iter().any(|&gradient| gradient > 65_536.0), "{:?}", expected.gradients);
    let device = Device::take();
    for storage in [Storage::Bf16, Storage::Ffma] {
        let found =
            Runner::training(&device.backend(storage), &config, &flat).train(&schedule, &batch, &d_logits, 1);
        found.assert_same_bits(&expected, &format!("{storage:?}"));
    }
}
