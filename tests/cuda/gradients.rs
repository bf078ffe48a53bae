//! Gradients of every parameter and of dense input: against the oracle over random shapes and corners, and against
//! themselves where equal bits are promised. Memory is poisoned before every pass.

use pr_lstm::model::Cell;
use pr_lstm::random::Random;
use pr_lstm::{Config, Outputs, reference};

use crate::common::device::{Device, Storage};
use crate::common::{
    Batch, Runner, Trained, assert_same_bits, between, distance, kept, lengths, narrow, normals, parameters,
    random, widen, worst_parameter,
};

/// A model, a batch, and the gradient of the logits.
struct Case {
    what: String,
    config: Config,
    flat: Vec<f32>,
    batch: Batch,
    outputs: Outputs,
    d_logits: Vec<f32>,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    cell: Cell,
    layers: usize,
    hidden: usize,
    batch: usize,
    /// At least 2 for the last two outputs.
    time: usize,
    input: usize,
    dense: bool,
    ragged: bool,
    /// 0: all, 1: the last, 2: the last two.
    outputs: usize,
}

const BASE: Shape = Shape {
    cell: Cell::Lstm,
    layers: 1,
    hidden: 16,
    batch: 5,
    time: 9,
    input: 3,
    dense: true,
    ragged: false,
    outputs: 0,
};

impl Case {
    fn draw(seed: u64, shape: Shape) -> Case {
        let mut random = random(seed);
        let config = Config::new(shape.input, shape.hidden, between(&mut random, 1, 5));
        let config = config.cell(shape.cell).unary_layers(shape.layers);
        let mut lengths = match shape.ragged {
            true => lengths(&mut random, shape.batch, shape.time),
            false => vec![shape.time; shape.batch],
        };
        let outputs = [Outputs::All, Outputs::Last, Outputs::LastN(2)][shape.outputs].clone();
        lengths.iter_mut().for_each(|length| *length = (*length).max(shape.outputs));
        let batch = match shape.dense {
            true => Batch::dense(&mut random, &lengths, shape.input),
            false => Batch::tokens(&mut random, &lengths, shape.input),
        };
        let flat = narrow(&parameters(&config, &mut random, 1.0));
        let rows: usize = lengths.iter().map(|&length| outputs.count(length)).sum();
        let d_logits = narrow(&normals(&mut random, rows * config.output, 1.0));
        Case { what: format!("seed {seed}, {shape:?}"), config, flat, batch, outputs, d_logits }
    }

    fn random(seed: u64) -> Case {
        let mut random = random(seed);
        let time = between(&mut random, 2, 20);
        let shape = Shape {
            cell: [Cell::Lstm, Cell::Lstm, Cell::Rnn][between(&mut random, 0, 2)],
            layers: between(&mut random, 0, 2),
            hidden: between(&mut random, 1, 70),
            batch: between(&mut random, 4, 90 / time),
            time,
            input: between(&mut random, 1, 40),
            dense: random.below(2) == 0,
            ragged: random.below(2) == 0,
            outputs: between(&mut random, 0, 2),
        };
        Case::draw(seed, shape)
    }

    fn train(&self, runner: &Runner<pr_lstm::Cuda>) -> Trained {
        runner.train(&kept(&self.batch.lengths(), &self.outputs), &self.batch, &self.d_logits, 1)
    }

    /// Gradients of parameters and input, by an oracle that rounds as the storage does. They pass through the rounding.
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
        let positions: Vec<Vec<usize>> = self
            .batch
            .lengths()
            .into_iter()
            .map(|time| (0..self.outputs.count(time)).map(|j| self.outputs.position(time, j)).collect())
            .collect();
        let pass = model.forward_at(&input, &positions).unwrap();
        let gradients = model.backward(&pass, &widen(&self.d_logits)).unwrap();
        [gradients.parameters.to_flat(), gradients.input.unwrap_or_default()]
    }
}

/// Runs the cases on these paths; prints the worst errors. `bf16` is what that may be off by.
fn check(cases: &[Case], storages: &[Storage], bf16: f64) {
    let expected: Vec<[[Vec<f64>; 2]; 2]> = cases
        .iter()
        .map(|case| [Storage::Bf16, Storage::Split].map(|storage| case.expected(storage)))
        .collect();
    let device = Device::take();
    let mut wrong = Vec::new();
    for &storage in storages {
        let backend = device.backend(storage);
        let most = if storage == Storage::Bf16 { bf16 } else { storage.gradient_tolerance() };
        let mut worst = (0.0f64, String::new(), 0.0f64);
        for (case, expected) in cases.iter().zip(&expected) {
            let [parameters, input] = &expected[usize::from(storage != Storage::Bf16)];
            let found = case.train(&Runner::training(&backend, &case.config, &case.flat));
            let (error, name) = worst_parameter(&case.config, &widen(&found.gradients), parameters);
            let by_input = if input.is_empty() { 0.0 } else { distance(&widen(&found.d_input), input) };
            // NaN is not within the tolerance.
            if !(error <= most && by_input <= most) {
                wrong.push(format!("{storage:?}, {}, {name}: {error:e}, input: {by_input:e}", case.what));
            }
            if error > worst.0 {
                (worst.0, worst.1) = (error, name);
            }
            worst.2 = worst.2.max(by_input);
        }
        println!("{storage:?}: {:.1e} at {}, input {:.1e}", worst.0, worst.1, worst.2);
        let dense = expected.iter().any(|[_, [_, input]]| !input.is_empty());
        assert!(worst.0 > 0.0 && (worst.2 > 0.0 || !dense), "{storage:?} is never exact");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn random_shapes_follow_the_oracle() {
    let cases: Vec<Case> = (0..20).map(|case| Case::random(2000 + case)).collect();
    cases.iter().for_each(|case| println!("{}", case.what));
    check(&cases, &Storage::TRAINED, Storage::Bf16.gradient_tolerance());
}

#[test]
fn corners_follow_the_oracle() {
    let mut shapes = Vec::new();
    for cell in [Cell::Lstm, Cell::Rnn] {
        for hidden in [1, 15, 17, 32, 33] {
            shapes.push(Shape { cell, hidden, time: 5, ..BASE });
            shapes.push(Shape { cell, hidden, dense: false, ragged: true, layers: 2, time: 6, ..BASE });
        }
        for shape in [
            Shape { time: 1, ..BASE },
            Shape { time: 1, dense: false, outputs: 1, ..BASE },
            Shape { batch: 1, layers: 0, outputs: 1, ..BASE },
            Shape { input: 1, dense: false, layers: 0, ..BASE },
            // More layers than one launch packs.
            Shape { layers: 5, hidden: 35, time: 3, ..BASE },
            // Inputs of two blocks of a weight's gradient, of three of the way into the input; columns of two.
            Shape { input: 150, hidden: 40, time: 3, ..BASE },
            Shape { input: 150, hidden: 20, time: 3, dense: false, ..BASE },
            // Units of several, rows of two tiles and one more.
            Shape { hidden: 137, batch: 43, time: 3, outputs: 1, ..BASE },
        ] {
            shapes.push(Shape { cell, ..shape });
        }
    }
    let cases: Vec<Case> = (200_000..).zip(shapes).map(|(seed, shape)| Case::draw(seed, shape)).collect();
    check(&cases, &Storage::TRAINED, Storage::Bf16.gradient_tolerance());
}

/// Steps in several chunks, weights' gradients in many. Of so many rows some hundred lie
/// within a rounding of bf16 of the read-out's kink, on this side of it or that, with all of their gradient; a chunk that
/// were left out would be off by more.
#[test]
fn many_rows_follow_the_oracle() {
    let base = Shape { time: 2, hidden: 2, input: 2, outputs: 1, ..BASE };
    let lstm = Case::draw(211, Shape { cell: Cell::Lstm, layers: 1, batch: 16_500, ..base });
    // Tokens in chunks of their own, other ones than their bias, and in two blocks of columns.
    let words = Shape { hidden: 100, input: 20, layers: 0, batch: 500, dense: false, ..base };
    check(&[Case::draw(212, words)], &Storage::TRAINED, 0.2);
    check(&[lstm], &Storage::TRAINED, 0.2);
}

/// A token that the model does not have: its gradient is none, so that no optimiser takes a step on it.
#[test]
fn a_token_that_is_none_has_no_gradient() {
    let device = Device::take();
    for storage in Storage::TRAINED {
        let backend = device.backend(storage);
        for cell in [Cell::Lstm, Cell::Rnn] {
            let mut case = Case::draw(260, Shape { cell, dense: false, ..BASE });
            let train = |case: &Case| case.train(&Runner::training(&backend, &case.config, &case.flat));
            assert!(train(&case).gradients.iter().all(|g| g.is_finite()));
            let Batch::Tokens(sequences) = &mut case.batch else { panic!("tokens") };
            sequences[3][2] = 3;
            let found = train(&case).gradients;
            let norm: f32 = found.iter().map(|g| g * g).sum();
            assert!(!norm.is_finite(), "{storage:?}, {cell:?}: {norm}");
        }
    }
}

/// One model of each cell and its batch, tokens and dense, small.
fn small(random: &mut Random) -> Vec<Case> {
    let seed = u64::from(random.bits());
    let lstm = Shape { hidden: 72, input: 20, time: 4, batch: 12, ..BASE };
    vec![
        Case::draw(seed, Shape { ragged: true, ..lstm }),
        Case::draw(seed + 1, Shape { dense: false, layers: 2, outputs: 2, ..lstm }),
        Case::draw(seed + 2, Shape { cell: Cell::Rnn, dense: false, ragged: true, ..lstm }),
        Case::draw(seed + 3, Shape { cell: Cell::Rnn, layers: 0, outputs: 1, ..lstm }),
    ]
}

#[test]
fn gradients_are_added_to_what_is_there() {
    let cases = small(&mut random(220));
    let device = Device::take();
    for storage in Storage::TRAINED {
        let backend = device.backend(storage);
        for case in &cases {
            let runner = Runner::training(&backend, &case.config, &case.flat);
            let once = case.train(&runner);
            let schedule = kept(&case.batch.lengths(), &case.outputs);
            let twice = runner.train(&schedule, &case.batch, &case.d_logits, 2);
            // A sum of two equal numbers is exact.
            let doubled = |values: &[f32]| values.iter().map(|x| 2.0 * x).collect::<Vec<f32>>();
            assert_same_bits(&twice.gradients, &doubled(&once.gradients), &case.what);
            assert_same_bits(&twice.d_input, &doubled(&once.d_input), &case.what);
        }
    }
}

#[test]
fn tiles_and_runs_give_the_same_bits() {
    let mut cases = small(&mut random(230));
    cases.push(Case::draw(231, Shape { hidden: 33, batch: 150, time: 2, ..BASE }));
    let device = Device::take();
    for storage in Storage::TRAINED {
        for case in &cases {
            let train =
                |backend: &pr_lstm::Cuda| case.train(&Runner::training(backend, &case.config, &case.flat));
            let expected = train(&device.tiled(storage, 64).expect("every chip has it"));
            let name = format!("merge_{}_64", case.config.cell.name());
            assert!(device.launches().iter().any(|launch| launch.kernel == name) || !device.is_virtual());
            train(&device.backend(storage)).assert_same_bits(&expected, &format!("{}, again", case.what));
            for tile in [32, 128] {
                // Gradients of planes are made in no tile of 128.
                if tile == 128 && storage != Storage::Bf16 {
                    continue;
                }
                let Some(cuda) = device.tiled(storage, tile) else { continue };
                device.launches();
                let found = train(&cuda);
                let ran = device.launches();
                for kernel in ["merge_", "into_places_", "leaf_"] {
                    let of_kernel =
                        |name: &str| name.starts_with(kernel) && name.ends_with(&format!("_{tile}"));
                    let tokens = kernel == "leaf_" && matches!(case.batch, Batch::Tokens(_));
                    assert!(
                        tokens || !device.is_virtual() || ran.iter().any(|launch| of_kernel(&launch.kernel)),
                        "{kernel} ran in no tile of {tile}"
                    );
                }
                found.assert_same_bits(&expected, &format!("{}, tile {tile}", case.what));
            }
        }
    }
}

/// What a sequence's own values and gradients are does not depend on what else is in the batch, and training runs the
/// inference's values.
#[test]
fn a_sequence_has_the_same_bits_alone_and_in_a_batch() {
    let mut random = random(240);
    let device = Device::take();
    for storage in Storage::TRAINED {
        let backend = device.backend(storage);
        for (cell, layers, hidden) in [(Cell::Lstm, 1, 33), (Cell::Rnn, 2, 16), (Cell::Lstm, 0, 8)] {
            let config = Config::new(5, hidden, 3).cell(cell).unary_layers(layers);
            let flat = narrow(&parameters(&config, &mut random, 1.0));
            let runner = Runner::training(&backend, &config, &flat);
            for lengths in [vec![6; 20], lengths(&mut random, 20, 7)] {
                let batch = Batch::dense(&mut random, &lengths, config.input);
                let rows: usize = lengths.iter().sum();
                let d_logits = narrow(&normals(&mut random, rows * config.output, 1.0));
                let together = runner.train(&kept(&lengths, &Outputs::All), &batch, &d_logits, 1);
                let inferred = Runner::new(&backend, &config, &flat).all(&batch);
                assert_same_bits(&inferred.hidden, &together.hidden, "inference and training");
                for place in [0, between(&mut random, 1, 18), 19] {
                    let first: usize = lengths[..place].iter().sum();
                    let part = |width: usize| first * width..(first + lengths[place]) * width;
                    let schedule = kept(&lengths[place..=place], &Outputs::All);
                    let own = &d_logits[part(config.output)];
                    let alone = runner.train(&schedule, &batch.alone(place), own, 1);
                    assert!(alone.d_input.len() < together.d_input.len());
                    for (name, alone, together, width) in [
                        ("hidden", &alone.hidden, &together.hidden, config.hidden),
                        ("d_input", &alone.d_input, &together.d_input, config.input),
                    ] {
                        let what = format!("{storage:?}, {config:?}, place {place}: {name}");
                        assert_same_bits(&together[part(width)], alone, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn ten_orders_of_warps_and_blocks_give_the_same_bits() {
    let mut cases = small(&mut random(250));
    // A dense LSTM and an RNN of tokens.
    cases.remove(1);
    cases.pop();
    let device = Device::take();
    if !device.is_virtual() {
        return;
    }
    for storage in Storage::TRAINED {
        let backend = device.backend(storage).with_whole_tree(false);
        for case in &cases {
            let run = || case.train(&Runner::training(&backend, &case.config, &case.flat));
            let expected = device.strict(run);
            let launches = device.launches();
            for kernel in ["weight_gradient", "into_places", "gather_", "reduce", "pack"] {
                let blocks = launches.iter().filter(|l| l.kernel.starts_with(kernel)).map(|l| l.blocks).max();
                assert!(blocks.is_some_and(|blocks| blocks > 1), "{kernel}: {blocks:?} blocks to shuffle");
            }
            for seed in 1..=10 {
                let found = device.strict(|| device.shuffled(seed, run));
                found.assert_same_bits(&expected, &format!("{storage:?}, {}, order {seed}", case.what));
            }
        }
    }
}
