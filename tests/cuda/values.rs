//! Values against the oracle at the worst position of time: random shapes, fixed corners.

use pr_lstm::model::Cell;
use pr_lstm::{Config, Outputs, reference};

use crate::common::device::{Device, Storage};
use crate::common::{
    Batch, Runner, between, lengths, narrow, over_time, parameters, random, schedule, widen,
};

/// A model and a batch.
struct Case {
    seed: u64,
    config: Config,
    flat: Vec<f32>,
    batch: Batch,
}

/// How weights are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Weights {
    /// As at the start of training.
    Fresh,
    /// Twice as large.
    Large,
    /// Biases of ±10 or so: gates far out on their tails.
    Saturated,
}

/// The shape of a case.
#[derive(Clone, Copy, Debug)]
struct Shape {
    cell: Cell,
    layers: usize,
    hidden: usize,
    batch: usize,
    time: usize,
    input: usize,
    output: usize,
    dense: bool,
    ragged: bool,
    weights: Weights,
}

impl Case {
    fn draw(seed: u64, shape: Shape) -> Case {
        let mut random = random(seed);
        let config = Config::new(shape.input, shape.hidden, shape.output);
        let config = config.cell(shape.cell).unary_layers(shape.layers);
        let lengths = match shape.ragged {
            true => lengths(&mut random, shape.batch, shape.time),
            false => vec![shape.time; shape.batch],
        };
        let batch = match shape.dense {
            true => Batch::dense(&mut random, &lengths, shape.input),
            false => Batch::tokens(&mut random, &lengths, shape.input),
        };
        let scale = if shape.weights == Weights::Large { 2.0 } else { 1.0 };
        let mut flat = parameters(&config, &mut random, scale);
        if shape.weights == Weights::Saturated {
            let layout = config.layout().unwrap();
            for bias in layout.names.iter().filter(|p| p.shape.len() == 1 && p.name != "readout.b") {
                flat[bias.range.clone()].iter_mut().for_each(|b| *b *= 40.0);
            }
        }
        Case { seed, config, flat: narrow(&flat), batch }
    }

    /// Multiplications and additions of the kernels, padding included, in units of 10^9.
    fn gflop(&self) -> f64 {
        let Config { cell, hidden, unary_layers, .. } = self.config;
        let hidden = hidden.next_multiple_of(32);
        let schedule = schedule(&self.batch.lengths(), &Outputs::All);
        let width = schedule.width();
        let rows: usize = schedule.steps().map(|s| (s.out.len() * width).next_multiple_of(64)).sum();
        let merge = 2 * 2 * hidden * cell.gates(2) * hidden;
        let unary = 2 * hidden * cell.gates(1) * hidden;
        (rows * (merge + unary_layers * unary)) as f64 * 1e-9
    }

    /// `hidden` and logits of every position, by an oracle that rounds where the kernels do: weights, dense input, and
    /// `h` after leaf, merge and each unary layer. The read-out is f32.
    fn expected(&self, storage: Storage) -> [Vec<f64>; 2] {
        let exact = reference::Parameters::from_flat(&self.config, &self.flat).unwrap();
        let readout = exact.readout.clone();
        let weights = reference::Parameters { readout, ..exact.round_weights(storage.round()) };
        let model = reference::Model::new(&self.config, weights).unwrap().round_hidden(storage.round());
        let round = |rows: &Vec<f32>| widen(rows).into_iter().map(storage.round()).collect();
        let input = match &self.batch {
            Batch::Tokens(sequences) => reference::Input::Tokens(sequences.clone()),
            Batch::Dense(sequences, _) => reference::Input::Dense(sequences.iter().map(round).collect()),
        };
        let pass = model.forward(&input).unwrap();
        [pass.hidden().to_vec(), pass.output().to_vec()]
    }
}

/// Runs the cases on every path; prints the worst errors.
fn check(cases: &[Case]) {
    // Before the device is taken, so that another test can have it meanwhile.
    let expected: Vec<[[Vec<f64>; 2]; 3]> = cases
        .iter()
        .map(|case| [Storage::Bf16, Storage::F16, Storage::Split].map(|storage| case.expected(storage)))
        .collect();
    let device = Device::take();
    for (storage, index) in Storage::ALL.into_iter().zip([0, 1, 2, 2]) {
        let backend = device.backend(storage);
        let mut worst = [0.0f64; 2];
        for (case, expected) in cases.iter().zip(&expected) {
            let found = Runner::new(&backend, &case.config, &case.flat).all(&case.batch);
            let lengths = case.batch.lengths();
            let [hidden, logits] = &expected[index];
            let errors = [
                over_time(&found.hidden, hidden, &lengths, case.config.hidden),
                over_time(&found.logits, logits, &lengths, case.config.output),
            ];
            let kind = if matches!(case.batch, Batch::Dense(..)) { "dense" } else { "tokens" };
            let what = format!("{storage:?}, seed {}, {:?}, {kind} {lengths:?}", case.seed, case.config);
            assert!(errors.iter().all(|&error| error <= storage.tolerance()), "{what}: {errors:?}");
            worst = std::array::from_fn(|n| worst[n].max(errors[n]));
        }
        println!(
            "{storage:?}: hidden {:.1e}, logits {:.1e} of {:.0e}",
            worst[0],
            worst[1],
            storage.tolerance()
        );
        assert!(worst.iter().all(|&error| error > 0.0), "{storage:?} is never exact");
    }
}

#[test]
fn random_shapes_follow_the_oracle() {
    let mut cases = Vec::new();
    let mut gflop = 0.0;
    for case in 0..36 {
        // Sizes are drawn evenly by their logarithm in most cases, evenly in the others, and again until the case is
        // not too large.
        let (mut seed, even) = (1000 * (case + 1), case % 3 == 0);
        let case = loop {
            let mut random = random(seed);
            let mut size = |most: usize| {
                let x = f64::from(random.bits()) / f64::from(u32::MAX);
                let size = if even { 1.0 + most as f64 * x } else { (most as f64 + 1.0).powf(x) };
                (size as usize).clamp(1, most)
            };
            let (hidden, batch, time, input) = (size(300), size(130), size(70), size(40));
            let cell = [Cell::Lstm, Cell::Lstm, Cell::Rnn][between(&mut random, 0, 2)];
            let weights = [Weights::Fresh, Weights::Large, Weights::Saturated];
            let weights = weights[between(&mut random, 0, if cell == Cell::Rnn { 1 } else { 2 })];
            let shape = Shape {
                cell,
                weights,
                hidden,
                time,
                input,
                // Of one row a single number can be nearly nothing, and its error all of it.
                batch: batch.max(4),
                layers: between(&mut random, 0, 2),
                output: between(&mut random, 1, 9),
                dense: random.below(2) == 0,
                ragged: random.below(2) == 0,
            };
            let case = Case::draw(seed, shape);
            if case.gflop() < 0.4 {
                println!("seed {seed}: {shape:?}");
                break case;
            }
            seed += 1;
        };
        gflop += case.gflop();
        cases.push(case);
    }
    let count = |kind: &dyn Fn(&Case) -> bool| cases.iter().filter(|case| kind(case)).count();
    println!("{gflop:.1} GFLOP");
    for (kind, count) in [
        ("dense", count(&|case| matches!(case.batch, Batch::Dense(..)))),
        ("LSTM", count(&|case| case.config.cell == Cell::Lstm)),
        ("several K tiles", count(&|case| case.config.hidden > 32)),
    ] {
        assert!((8..28).contains(&count), "{count} of 36 cases are {kind}");
    }
    check(&cases);
}

#[test]
fn corners_follow_the_oracle() {
    let base = Shape {
        cell: Cell::Lstm,
        layers: 1,
        hidden: 16,
        batch: 5,
        time: 9,
        input: 3,
        output: 2,
        dense: true,
        ragged: false,
        weights: Weights::Fresh,
    };
    let mut shapes = Vec::new();
    for cell in [Cell::Lstm, Cell::Rnn] {
        for hidden in [1, 15, 16, 17, 32, 33, 137] {
            shapes.push(Shape { cell, hidden, ..base });
            shapes.push(Shape { cell, hidden, dense: false, ragged: true, layers: 2, time: 6, ..base });
        }
        for shape in [
            Shape { time: 1, ..base },
            Shape { time: 1, dense: false, ..base },
            Shape { batch: 1, ..base },
            Shape { input: 1, ..base },
            Shape { input: 1, dense: false, ..base },
            Shape { layers: 0, ..base },
            // Leaves of several K tiles, one row more than a tile, columns of two unit blocks.
            Shape { input: 40, hidden: 33, batch: 65, time: 2, ..base },
            Shape { input: 300, hidden: 17, ..base },
            Shape { hidden: 256, batch: 4, time: 5, layers: 2, ..base },
            Shape { hidden: 300, batch: 3, time: 4, dense: false, ..base },
            Shape { weights: Weights::Large, hidden: 48, ..base },
            // Columns of the read-out in several tiles.
            Shape { output: 33, hidden: 40, ..base },
        ] {
            shapes.push(Shape { cell, ..shape });
        }
    }
    shapes.push(Shape { weights: Weights::Saturated, hidden: 48, batch: 9, time: 30, ..base });
    shapes.push(Shape { weights: Weights::Saturated, hidden: 33, dense: false, layers: 2, ..base });
    let cases: Vec<Case> = (100_000..).zip(shapes).map(|(seed, shape)| Case::draw(seed, shape)).collect();
    check(&cases);
}
