//! The oracle against golden data made with the paper's own code, and against central differences.

mod common;

use common::{central_differences, distance, dot, normals, oracle as model, parameters, random};
use pr_lstm::model::Cell;
use pr_lstm::random::Random;
use pr_lstm::reference::{
    Adam, Input, Linear, Model, Parameters, SequentialLstm, SequentialRnn, Tree, cross_entropy, round_bf16,
};
use pr_lstm::{Config, Error};

/// As powers of ten.
fn show(errors: &[f64]) -> String {
    errors.iter().map(|error| format!("{error:9.1e}")).collect()
}

#[cfg(feature = "tasks")]
mod golden {
    use super::*;
    use common::{TrainingTrace, cell_files, golden};
    use pr_lstm::golden::{CellFile, TensorFile, relative_error, worst_position};

    #[test]
    fn cells_give_the_papers_values_and_gradients() {
        let mut worst: [f64; 5] = [0.0; 5];
        for path in cell_files() {
            let file = CellFile::read(&path).unwrap();
            let CellFile { config, batch, time, .. } = &file;
            let name = path.file_stem().unwrap().to_string_lossy();
            let model = model(config, &file.parameters);
            let pass = model.forward(&Input::dense(&file.input, *batch).unwrap()).unwrap();
            let positions = (batch * time) as f64;
            let d_output: Vec<f64> = file.cotangent.iter().map(|y| y / positions).collect();
            let gradients = model.backward(&pass, &d_output).unwrap();

            let loss = [dot(&file.cotangent, pass.output()) / positions];
            let flat = gradients.parameters.to_flat();
            let layout = config.layout().unwrap();
            let by_name = layout
                .names
                .iter()
                .map(|p| relative_error(&flat[p.range.clone()], &file.gradients[p.range.clone()]));
            let errors = [
                worst_position(pass.hidden(), &file.hidden, *batch, *time).0,
                worst_position(pass.output(), &file.output, *batch, *time).0,
                relative_error(&loss, &[file.loss]),
                by_name.fold(0.0, f64::max),
                worst_position(&gradients.input.unwrap(), &file.grad_input, *batch, *time).0,
            ];
            println!("{name}: hidden, output, loss, gradients, grad.input {}", show(&errors));
            assert!(errors.iter().all(|&error| error <= 1e-10), "{name}: {errors:?}");
            worst = std::array::from_fn(|n| worst[n].max(errors[n]));
        }
        println!("worst: {}", show(&worst));
    }

    #[test]
    fn thirty_training_steps_follow_the_papers() {
        let trace = TrainingTrace::read();
        let TrainingTrace { config, losses, norms, .. } = &trace;
        let layout = config.layout().unwrap();
        let mut weights = trace.parameters("initial");
        let mut adam = Adam::paper(layout.len());
        let mut worst: [f64; 2] = [0.0; 2];
        for (step, (sequences, targets)) in trace.steps.iter().enumerate() {
            let input = Input::Tokens(sequences.clone());
            let model = model(config, &weights);
            let pass = model.forward_last(&input).unwrap();
            let (loss, d_output) = cross_entropy(pass.output(), config.output, targets).unwrap();
            let gradient = model.backward(&pass, &d_output).unwrap().parameters.to_flat();
            if step == 0 {
                let expected = trace.parameters("grad0");
                for p in &layout.names {
                    let error = relative_error(&gradient[p.range.clone()], &expected[p.range.clone()]);
                    println!("grad0.{}: {error:.1e}", p.name);
                    assert!(error <= 1e-10, "grad0.{}: {error:e}", p.name);
                }
            }
            let norm = adam.step(&mut weights, &gradient).unwrap();
            let errors = [relative_error(&[loss], &[losses[step]]), relative_error(&[norm], &[norms[step]])];
            assert!(errors.iter().all(|&error| error <= 1e-8), "step {step}: loss, norm {errors:?}");
            worst = std::array::from_fn(|n| worst[n].max(errors[n]));
        }
        println!("worst of 30 steps: loss, norm {}", show(&worst));
        let expected = trace.parameters("final");
        for p in &layout.names {
            let error = relative_error(&weights[p.range.clone()], &expected[p.range.clone()]);
            println!("final.{}: {error:.1e}", p.name);
            assert!(error <= 1e-8, "final.{}: {error:e}", p.name);
        }
    }

    /// Reads `param.*` or `grad.*` of a layer of a sequential baseline.
    fn layer(file: &TensorFile, prefix: &str, name: &str) -> Linear {
        let tensor = |part: &str| {
            let name = format!("{prefix}.{name}.{part}");
            file.f64(&name, file.shape(&name).unwrap()).unwrap()
        };
        Linear { w: tensor("w"), b: tensor("b") }
    }

    /// Compares hidden states, loss, input gradients and layers of one baseline with its file. `run` takes a
    /// sequence and its cotangent and returns hidden, gradients of the layers and of the input.
    fn check_sequential(
        file: &TensorFile,
        layers: &[&str],
        run: impl Fn(&[f64], &[f64]) -> (Vec<f64>, Vec<Linear>, Vec<f64>),
    ) {
        let [batch, time, width] = file.shape("hidden").unwrap()[..] else { panic!("hidden is [B, T, H]") };
        let input_shape = file.shape("input").unwrap();
        let input = file.f64("input", input_shape).unwrap();
        let cotangent = file.f64("cotangent", &[batch, time, width]).unwrap();
        let positions = (batch * time) as f64;
        let d_hidden: Vec<f64> = cotangent.iter().map(|x| x / positions).collect();

        let (mut hidden, mut d_input, mut gradients) = (vec![], vec![], vec![vec![]; 2 * layers.len()]);
        for (x, d) in input.chunks(input.len() / batch).zip(d_hidden.chunks(time * width)) {
            let (h, d_layers, dx) = run(x, d);
            hidden.extend(h);
            d_input.extend(dx);
            let parts = d_layers.into_iter().flat_map(|layer| [layer.w, layer.b]);
            for (sum, part) in gradients.iter_mut().zip(parts) {
                sum.resize(part.len(), 0.0);
                sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
        }
        let loss = dot(&cotangent, &hidden) / positions;
        let mut errors = vec![
            worst_position(&hidden, &file.f64("hidden", &[batch, time, width]).unwrap(), batch, time).0,
            relative_error(&[loss], &file.f64("loss", &[1]).unwrap()),
            worst_position(&d_input, &file.f64("grad.input", input_shape).unwrap(), batch, time).0,
        ];
        let expected =
            layers.iter().map(|name| layer(file, "grad", name)).flat_map(|layer| [layer.w, layer.b]);
        errors
            .extend(gradients.iter().zip(expected).map(|(found, expected)| relative_error(found, &expected)));
        println!("hidden, loss, grad.input, gradients {}", show(&errors));
        assert!(errors.iter().all(|&error| error <= 1e-10), "{errors:?}");
    }

    #[test]
    fn the_sequential_lstm_gives_haikus() {
        let file = TensorFile::read(golden("sequential-lstm.safetensors")).unwrap();
        let lstm = SequentialLstm::new(layer(&file, "param", "lstm/linear")).unwrap();
        check_sequential(&file, &["lstm/linear"], |x, d_hidden| {
            let pass = lstm.forward(x).unwrap();
            let gradients = lstm.backward(&pass, d_hidden).unwrap();
            (pass.hidden, vec![gradients.parameters.layer], gradients.input)
        });
    }

    #[test]
    fn the_sequential_rnn_gives_haikus() {
        let file = TensorFile::read(golden("sequential-rnn.safetensors")).unwrap();
        let layers = ["vanilla_rnn/linear", "vanilla_rnn/linear_1"];
        let [input, recurrent] = layers.map(|name| layer(&file, "param", name));
        let rnn = SequentialRnn::new(input, recurrent).unwrap();
        check_sequential(&file, &layers, |x, d_hidden| {
            let pass = rnn.forward(x).unwrap();
            let gradients = rnn.backward(&pass, d_hidden).unwrap();
            (pass.hidden, vec![gradients.parameters.input, gradients.parameters.recurrent], gradients.input)
        });
    }
}

/// A random model and ragged dense batch, no relu of which is within reach of a finite difference of its kink.
fn away_from_kinks(config: &Config, seed: u64) -> (Vec<f64>, Vec<Vec<f64>>) {
    let random: &mut Random = &mut random(seed);
    for _ in 0..10_000 {
        let flat = parameters(config, random, 1.5);
        let rows: Vec<Vec<f64>> = [5, 1, 2].map(|time| normals(random, time * config.input, 1.0)).to_vec();
        let pass = model(config, &flat).forward(&Input::Dense(rows.clone())).unwrap();
        if pass.nearest_kink() > 1e-3 {
            return (flat, rows);
        }
    }
    panic!("no draw of seed {seed} stays away from the kinks")
}

#[test]
fn gradients_are_those_of_central_differences() {
    for (seed, (cell, unary_layers, hidden)) in [
        (Cell::Lstm, 0, 5),
        (Cell::Lstm, 1, 3),
        (Cell::Lstm, 2, 4),
        (Cell::Rnn, 0, 5),
        (Cell::Rnn, 1, 3),
        (Cell::Rnn, 2, 2),
    ]
    .into_iter()
    .enumerate()
    {
        let config = Config::new(3, hidden, 2).cell(cell).unary_layers(unary_layers);
        let (flat, rows) = away_from_kinks(&config, 41 + seed as u64);
        let oracle = model(&config, &flat);
        let pass = oracle.forward(&Input::Dense(rows.clone())).unwrap();
        let random = &mut random(97 + seed as u64);
        let d_output = normals(random, pass.output().len(), 1.0);
        let d_hidden = normals(random, pass.hidden().len(), 1.0);

        let loss = |flat: &[f64], rows: Vec<Vec<f64>>| {
            let pass = model(&config, flat).forward(&Input::Dense(rows)).unwrap();
            [dot(&d_output, pass.output()), dot(&d_hidden, pass.hidden())]
        };
        let split = |x: &[f64]| {
            let mut x = x;
            rows.iter().map(|rows| x.split_off(..rows.len()).unwrap().to_vec()).collect::<Vec<_>>()
        };
        let found =
            [oracle.backward(&pass, &d_output).unwrap(), oracle.backward_hidden(&pass, &d_hidden).unwrap()];
        for (n, (what, found)) in ["output", "hidden"].into_iter().zip(found).enumerate() {
            let by_weights = central_differences(&flat, |flat| loss(flat, rows.clone())[n]);
            let by_input = central_differences(&rows.concat(), |x| loss(&flat, split(x))[n]);
            let errors = [
                distance(&found.parameters.to_flat(), &by_weights),
                distance(&found.input.unwrap(), &by_input),
            ];
            println!("{config:?} by {what}: weights, input {}", show(&errors));
            assert!(
                errors.iter().all(|&error| error <= 1e-6),
                "seed {seed}, {config:?} by {what}: {errors:?}"
            );
        }
    }
}

#[test]
fn relu_has_slope_zero_at_zero() {
    // Everything is 0 with weights of 0, so that only the biases of the read-out have a gradient.
    for cell in [Cell::Lstm, Cell::Rnn] {
        let config = Config::new(2, 3, 2).cell(cell);
        let oracle = model(&config, &vec![0.0; config.layout().unwrap().len()]);
        let pass = oracle.forward(&Input::Dense(vec![vec![1.0; 6]])).unwrap();
        assert_eq!(pass.nearest_kink(), 0.0);
        let mut gradients = oracle.backward(&pass, &[1.0; 6]).unwrap().parameters;
        assert_eq!(gradients.readout.b, [3.0, 3.0]);
        gradients.readout.b.fill(0.0);
        assert!(gradients.to_flat().iter().all(|&x| x == 0.0), "{cell:?}");
    }
    // Merges of the RNN at 0, seen from the hidden states: only leaves pass the gradient on.
    let config = Config::new(1, 1, 1).cell(Cell::Rnn).unary_layers(0);
    let oracle = model(&config, &[1.0, 0.0, 1.0, -1.0, 0.0, 1.0, 0.0]); // merge: relu(h_left - h_right)
    let pass = oracle.forward(&Input::Dense(vec![vec![2.0, 2.0]])).unwrap();
    assert_eq!(pass.hidden(), [2.0, 0.0]);
    assert_eq!(oracle.backward_hidden(&pass, &[0.0, 1.0]).unwrap().input.unwrap(), [0.0, 0.0]);
}

#[test]
fn tokens_are_their_one_hot_rows() {
    let tokens = Input::Tokens(vec![vec![0, 2, 1, 1, 0, 3, 2], vec![3], vec![1, 1, 2]]);
    for cell in [Cell::Lstm, Cell::Rnn] {
        let config = Config::new(4, 5, 3).cell(cell);
        let oracle = model(&config, &parameters(&config, &mut random(5), 1.0));
        let [by_token, by_row] =
            [&tokens, &tokens.one_hot(4).unwrap()].map(|input| oracle.forward(input).unwrap());
        assert!(distance(by_token.hidden(), by_row.hidden()) <= 1e-15);
        assert!(distance(by_token.output(), by_row.output()) <= 1e-15);
        let d_output = normals(&mut random(6), by_row.output().len(), 1.0);
        let [by_token, by_row] = [by_token, by_row].map(|pass| oracle.backward(&pass, &d_output).unwrap());
        assert!(distance(&by_token.parameters.to_flat(), &by_row.parameters.to_flat()) <= 1e-15);
        assert!(by_token.input.is_none() && by_row.input.is_some());
    }
}

#[test]
fn merges_are_as_many_as_the_tree_needs() {
    let config = Config::new(2, 1, 1).unary_layers(0);
    let oracle = model(&config, &parameters(&config, &mut random(1), 1.0));
    for (time, all, last) in [(1, 0, 0), (2, 1, 1), (3, 2, 2), (4, 4, 3), (40, 72, 39), (500, 985, 499)] {
        let input = Input::Tokens(vec![vec![1; time]]);
        for (pass, merges) in [(oracle.forward(&input), all), (oracle.forward_last(&input), last)] {
            let pass = pass.unwrap();
            assert_eq!(pass.trees().map(|tree| tree.merges.len()).sum::<usize>(), merges, "T = {time}");
        }
    }
}

#[test]
fn the_tree_of_seven() {
    let tree = Tree::new(7, &[6, 2, 3]).unwrap();
    // [0 1] [2 3] [0 1 2 3] [4 5], then the prefix at 6 folds 4 + 2 + 1; the one at 2 is [0 1] and 2.
    assert_eq!(tree.merges, [(0, 1), (2, 3), (7, 8), (4, 5), (9, 10), (11, 6), (7, 2)]);
    assert_eq!(tree.outputs, [12, 13, 9]);
    assert!(matches!(Tree::new(7, &[7]), Err(Error::Argument { .. })));
}

#[test]
fn prefixes_and_the_batch_do_not_matter() {
    let config = Config::new(3, 4, 2);
    let oracle = model(&config, &parameters(&config, &mut random(8), 1.0));
    let long = vec![0, 1, 2, 2, 1, 0, 0, 1, 1, 2, 0];
    let whole = oracle.forward(&Input::Tokens(vec![long.clone()])).unwrap();
    for time in 1..=long.len() {
        let short = Input::Tokens(vec![vec![1, 2], long[..time].to_vec()]);
        let pass = oracle.forward(&short).unwrap();
        assert_eq!(pass.hidden()[2 * 4..], whole.hidden()[..time * 4]);
        let last = oracle.forward_last(&short).unwrap();
        assert_eq!(last.output(), [&pass.output()[2..4], &pass.output()[(time + 1) * 2..]].concat());
        let at = oracle.forward_at(&short, &[vec![], vec![time - 1, 0]]).unwrap();
        assert_eq!(at.hidden(), [&whole.hidden()[(time - 1) * 4..time * 4], &whole.hidden()[..4]].concat());
    }
}

#[test]
fn a_prefix_asked_for_twice_has_twice_the_gradient() {
    let config = Config::new(3, 4, 2);
    let oracle = model(&config, &parameters(&config, &mut random(9), 1.0));
    let input = Input::Tokens(vec![vec![0, 1, 2, 1, 1]]);
    let [once, twice] = [vec![4], vec![4, 4]].map(|positions| {
        let pass = oracle.forward_at(&input, &[positions]).unwrap();
        oracle.backward(&pass, &vec![1.0; pass.output().len()]).unwrap().parameters.to_flat()
    });
    assert!(distance(&twice, &once.iter().map(|x| 2.0 * x).collect::<Vec<_>>()) <= 1e-15);
}

#[test]
fn flat_and_named_parameters_agree() {
    let config = Config::new(3, 4, 2).unary_layers(2);
    let layout = config.layout().unwrap();
    let flat: Vec<f32> = (0..layout.len()).map(|i| i as f32).collect();
    let weights = Parameters::from_flat(&config, &flat).unwrap();
    assert_eq!(weights.to_flat(), flat.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
    for ((name, values), expected) in weights.named().into_iter().zip(&layout.names) {
        assert_eq!((&name, values[0] as usize), (&expected.name, expected.range.start));
    }
    let error = Parameters::from_named(&config, |name| {
        layout.get(name).filter(|p| p.name != "unary.1.w").map(|p| vec![0.0; p.range.len()])
    });
    assert_eq!(error.unwrap_err().to_string(), "unary.1.w: expected 64 elements, got nothing");
}

#[test]
fn rounding_reaches_weights_and_hidden_states_only() {
    for cell in [Cell::Lstm, Cell::Rnn] {
        let config = Config::new(3, 4, 2).cell(cell);
        let weights = Parameters::from_flat(&config, &parameters(&config, &mut random(3), 1.0)).unwrap();
        let rounded = weights.clone().round_weights(round_bf16);
        assert_eq!(rounded.merge.b, weights.merge.b);
        assert!(rounded.merge.w.iter().zip(&weights.merge.w).all(|(a, &b)| *a == round_bf16(b) && *a != b));

        let input = Input::Tokens(vec![vec![0, 2, 1, 1, 0]]);
        let exact = Model::new(&config, weights).unwrap().forward(&input).unwrap();
        let pass = Model::new(&config, rounded).unwrap().round_hidden(round_bf16).forward(&input).unwrap();
        assert!(pass.hidden().iter().all(|&h| h == round_bf16(h)));
        assert!(pass.output().iter().any(|&y| y != round_bf16(y)));
        let error = distance(pass.output(), exact.output());
        assert!((1e-6..3e-2).contains(&error), "{error:e}");
    }
}

#[test]
fn adam_clips_by_the_global_norm() {
    // By hand. Step 1: norm 5, so g = (0.6, 0.8). Step 2: norm 0.5, so g = (0.3, -0.4) as it is.
    let mut adam = Adam::paper(2);
    let mut w = [1.0, 1.0];
    assert_eq!(adam.step(&mut w, &[3.0, 4.0]).unwrap(), 5.0);
    assert_eq!(adam.step(&mut w, &[0.3, -0.4]).unwrap(), 0.5);
    let expected = [(0.6, 0.3), (0.8, -0.4)].map(|(g1, g2): (f64, f64)| {
        let first = 1.0 - 1e-3 * g1 / (g1 + 1e-8);
        let m = (0.9 * 0.1 * g1 + 0.1 * g2) / (1.0 - 0.81);
        let v: f64 = (0.999 * 0.001 * g1 * g1 + 0.001 * g2 * g2) / (1.0 - 0.999 * 0.999);
        first - 1e-3 * m / (v.sqrt() + 1e-8)
    });
    assert!(distance(&w, &expected) < 1e-14, "{w:?} {expected:?}");

    let before = (adam.clone(), w);
    let error = adam.step(&mut w, &[f64::NAN, 0.0]).unwrap_err();
    assert!(matches!(error, Error::Diverged { step: 3 }));
    assert_eq!((adam, w), before);
}

#[test]
fn cross_entropy_has_its_gradient() {
    let (logits, targets) = (normals(&mut random(4), 12, 3.0), [2, 0, 1, 1]);
    let (_, gradient) = cross_entropy(&logits, 3, &targets).unwrap();
    let expected = central_differences(&logits, |logits| cross_entropy(logits, 3, &targets).unwrap().0);
    assert!(distance(&gradient, &expected) < 1e-8);
    // No overflow, and the plain case: two equal logits are worth ln 2.
    assert_eq!(cross_entropy(&[1e4, 0.0], 2, &[1]).unwrap().0, 1e4);
    assert!((cross_entropy(&[0.0; 2], 2, &[1]).unwrap().0 - 2f64.ln()).abs() < 1e-15);
}

#[test]
fn bad_input_is_refused_by_name() {
    let config = Config::new(2, 3, 2);
    let flat = vec![0.5; config.layout().unwrap().len()];
    let oracle = model(&config, &flat);
    let refused = |error: Error, message: &str| assert!(error.to_string().contains(message), "{error}");

    refused(
        oracle.forward(&Input::Tokens(vec![vec![0], vec![1, 2]])).unwrap_err(),
        "sequence 1, position 1: token 2",
    );
    refused(oracle.forward(&Input::Tokens(vec![])).unwrap_err(), "input");
    refused(oracle.forward(&Input::Tokens(vec![vec![0], vec![]])).unwrap_err(), "input");
    refused(oracle.forward(&Input::Dense(vec![vec![0.0; 3]])).unwrap_err(), "rows of 2");
    refused(Input::dense(&[0.0; 5], 2).unwrap_err(), "2 sequences");
    refused(Input::Tokens(vec![vec![7]]).one_hot(7).unwrap_err(), "token 7");
    let two = Input::Tokens(vec![vec![0, 1]]);
    refused(oracle.forward_at(&two, &[vec![2]]).unwrap_err(), "positions: expected below 2, got 2");
    refused(oracle.forward_at(&two, &[]).unwrap_err(), "positions: expected 1 lists");

    let pass = oracle.forward(&two).unwrap();
    refused(oracle.backward(&pass, &[0.0; 3]).unwrap_err(), "d_output: expected 4 elements, got 3");
    refused(oracle.backward_hidden(&pass, &[0.0; 5]).unwrap_err(), "d_hidden: expected 6 elements, got 5");
    let other = model(&config.clone().cell(Cell::Rnn), &[0.5; 9 + 21 + 12 + 8]);
    refused(other.backward(&pass, &[0.0; 4]).unwrap_err(), "pass");

    refused(Parameters::from_flat(&config, &flat[1..]).unwrap_err(), "flat");
    let mut weights = Parameters::from_flat(&config, &flat).unwrap();
    weights.unary[0].b[1] = f64::NAN;
    refused(Model::new(&config, weights.clone()).unwrap_err(), "unary.0.b, element 1: NaN");
    weights.unary[0].b.pop();
    refused(Model::new(&config, weights.clone()).unwrap_err(), "unary.0.b: expected 12 elements, got 11");
    weights.unary.clear();
    refused(Model::new(&config, weights).unwrap_err(), "unary: expected 1 layers");

    refused(cross_entropy(&[0.0; 4], 2, &[0]).unwrap_err(), "logits");
    refused(cross_entropy(&[0.0; 2], 2, &[2]).unwrap_err(), "targets");
    refused(Adam::paper(2).step(&mut [0.0; 2], &[0.0; 3]).unwrap_err(), "gradient");
    refused(SequentialLstm::new(Linear::zeros(3, 6)).unwrap_err(), "layer");
    refused(SequentialRnn::new(Linear::zeros(3, 6), Linear::zeros(3, 6)).unwrap_err(), "recurrent.w");
    let rnn = SequentialRnn::new(Linear::zeros(3, 6), Linear::zeros(6, 6)).unwrap();
    refused(rnn.forward(&[0.0; 4]).unwrap_err(), "one row or more of 3");
    refused(Linear::zeros(3, 2).readout(&[0.0; 4]).unwrap_err(), "hidden");
}
