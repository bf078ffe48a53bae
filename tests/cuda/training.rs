//! Training on the device: golden steps, Adam and the loss as the CPU's, a run beside the CPU's from one seed, resumed
//! runs, and divergence that writes nothing.

use pr_lstm::backend::{AdamBuffers, Backend, Labelled};
use pr_lstm::model::Cell;
use pr_lstm::reference::{self, round_bf16};
use pr_lstm::tasks::Task;
use pr_lstm::train::{Settings, StepMetrics, Trainer};
use pr_lstm::verify::Tolerances;
use pr_lstm::{Adam, Checkpoint, Config, Cpu, Cuda, Dtype, Error, Outputs, Parameters, Tape};

use crate::common::device::{Device, Storage};
use crate::common::{
    TrainingTrace, assert_same_bits, bits, distance, draw_tokens, narrow, normals, on_device, parameters,
    random, refused, widen, worst_parameter,
};

/// Losses and norms of a trace's steps by an oracle that rounds weights and `h` to bf16; the master weights are exact.
fn rounded_steps(trace: &TrainingTrace, steps: usize) -> [Vec<f64>; 2] {
    let (config, mut flat) = (&trace.config, trace.parameters("initial"));
    let mut adam = reference::Adam::paper(flat.len());
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    for (tokens, targets) in trace.steps.iter().take(steps) {
        let exact = reference::Parameters::from_flat(config, &flat).unwrap();
        let readout = exact.readout.clone();
        let weights = reference::Parameters { readout, ..exact.round_weights(round_bf16) };
        let model = reference::Model::new(config, weights).unwrap().round_hidden(round_bf16);
        let pass = model.forward_last(&reference::Input::Tokens(tokens.clone())).unwrap();
        let (loss, d_output) = reference::cross_entropy(pass.output(), config.output, targets).unwrap();
        let gradient = model.backward(&pass, &d_output).unwrap().parameters.to_flat();
        losses.push(loss);
        norms.push(adam.step(&mut flat, &gradient).unwrap());
    }
    [losses, norms]
}

/// Relative errors of the losses and norms of a trace's steps; at last the parameters.
fn follow(
    trace: &TrainingTrace,
    backend: Cuda,
    [losses, norms]: &[Vec<f64>; 2],
) -> (Vec<[f64; 2]>, Vec<f32>) {
    let config = &trace.config;
    let mut parameters = Parameters::new(config, backend, &narrow(&trace.parameters("initial"))).unwrap();
    let mut adam = Adam::paper().build(&parameters).unwrap();
    let [batch, time] = [0, 1].map(|axis| {
        let sizes = trace.steps.iter().map(|(tokens, _)| [tokens.len(), tokens[0].len()][axis]);
        sizes.max().unwrap()
    });
    let mut tape = Tape::new(&parameters, batch, time).unwrap();
    let mut errors = Vec::new();
    for (step, (tokens, targets)) in trace.steps.iter().take(losses.len()).enumerate() {
        tape.clear();
        let hidden = tape.scan(&parameters, tokens, Outputs::Last).unwrap();
        let logits = tape.readout(&parameters, hidden).unwrap();
        let loss = tape.cross_entropy(logits, targets).unwrap();
        let found_loss = f64::from(tape.value(loss).unwrap()[0]);
        let gradients = tape.backward(loss).unwrap();
        adam.step(&mut parameters, gradients).unwrap();
        let status = adam.status().unwrap();
        assert_eq!(status.steps, step as u64 + 1);
        errors.push([
            distance(&[found_loss], &[losses[step]]),
            distance(&[f64::from(status.gradient_norm)], &[norms[step]]),
        ]);
    }
    (errors, parameters.to_vec().unwrap())
}

#[test]
fn golden_steps_are_followed() {
    let trace = TrainingTrace::read();
    let expected = [trace.losses.clone(), trace.norms.clone()];
    let rounded = rounded_steps(&trace, 10);
    let device = Device::take();
    for (storage, expected) in
        [(Storage::Split, &expected), (Storage::Ffma, &expected), (Storage::Bf16, &rounded)]
    {
        let steps = expected[0].len();
        let (errors, last) = follow(&trace, device.backend(storage), expected);
        let most = [storage.tolerance(), storage.gradient_tolerance()];
        let worst: [f64; 2] = std::array::from_fn(|n| errors.iter().map(|e| e[n]).fold(0.0, f64::max));
        println!("{storage:?}, {steps} steps: loss {:.1e}, norm {:.1e}", worst[0], worst[1]);
        for (step, errors) in errors.iter().enumerate() {
            assert!(errors.iter().zip(most).all(|(&error, most)| error <= most), "step {step}: {errors:?}");
        }
        if steps == 30 {
            let (error, name) = worst_parameter(&trace.config, &widen(&last), &trace.parameters("final"));
            println!("final: {error:.1e} at {name}");
            assert!(error <= most[1], "final.{name}: {error:e}");
        }
    }
}

/// Loss, right, counted, and the gradient of the logits onto what was there.
fn cross_entropy<B: Backend>(
    backend: &B,
    logits: &[f32],
    targets: &[u32],
    mask: &[u8],
    d_before: &[f32],
) -> ([f32; 3], Vec<f32>) {
    let rows = targets.len();
    let device_logits = on_device(backend, logits);
    let (device_targets, device_mask) = (on_device(backend, targets), on_device(backend, mask));
    let labelled = || Labelled {
        logits: backend.view(&device_logits, 0, logits.len()),
        targets: backend.view(&device_targets, 0, rows),
        mask: backend.view(&device_mask, 0, rows),
    };
    let mut metrics = on_device(backend, &[f32::NAN; 3]);
    backend.cross_entropy(labelled(), backend.view_mut(&mut metrics, 0, 3)).unwrap();
    let (d_loss, mut d_logits) = (on_device(backend, &[1.75f32]), on_device(backend, d_before));
    let to = backend.view_mut(&mut d_logits, 0, logits.len());
    backend.cross_entropy_backward(labelled(), backend.view(&d_loss, 0, 1), to).unwrap();
    let (mut found, mut d) = ([0.0; 3], vec![0.0; logits.len()]);
    backend.download(backend.view(&metrics, 0, 3), &mut found).unwrap();
    backend.download(backend.view(&d_logits, 0, logits.len()), &mut d).unwrap();
    (found, d)
}

#[test]
fn the_loss_is_that_of_the_cpu() {
    let mut random = random(700);
    let device = Device::take();
    let backend = device.backend(Storage::Split);
    for (rows, classes) in [(1, 1), (3, 2), (255, 5), (257, 3), (700, 40)] {
        let mut logits = narrow(&normals(&mut random, rows * classes, 6.0));
        // A tie: the first of the largest is the answer.
        logits[..classes].fill(0.5);
        let targets: Vec<u32> = (0..rows).map(|_| random.below(classes as u32)).collect();
        let mask: Vec<u8> = (0..rows).map(|_| random.below(2) as u8).collect();
        let before = narrow(&normals(&mut random, logits.len(), 1e-3));
        let (expected, d_expected) = cross_entropy(&Cpu::new(), &logits, &targets, &mask, &before);
        let (found, d_found) = cross_entropy(&backend, &logits, &targets, &mask, &before);
        assert_eq!(found[1..], expected[1..], "right, counted");
        let close = |a: f32, b: f32| (a - b).abs() <= 2e-6 * b.abs().max(1e-3);
        assert!(close(found[0], expected[0]), "loss {} for {}", found[0], expected[0]);
        let error = distance(&widen(&d_found), &widen(&d_expected));
        assert!(error <= 1e-6, "{rows} rows: {error:e}");
        assert!(d_found.iter().zip(&before).any(|(d, before)| d != before) || classes == 1);
        // A logit that is none, or a target that is no class, is a loss that is none.
        for (logit, target) in [(f32::NAN, 0), (f32::INFINITY, 0), (0.0, classes as u32), (0.0, u32::MAX)] {
            let (mut logits, mut targets) = (logits.clone(), targets.clone());
            (logits[(rows - 1) * classes], targets[rows - 1]) = (logit, target);
            let (found, d) = cross_entropy(&backend, &logits, &targets, &mask, &before);
            assert!(found[0].is_nan(), "{logit} for {target}: {found:?}");
            assert!(d[(rows - 1) * classes..].iter().all(|d| d.is_nan()), "{logit} for {target}: {d:?}");
            let good = (rows - 1) * classes;
            assert_same_bits(&d[..good], &d_found[..good], "rows with a loss");
        }
    }
}

/// Parameters, moments, state and norm after steps on these gradients, which begin `at` numbers behind where memory does.
fn adam_steps<B: Backend>(
    backend: &B,
    adam: &Adam,
    parameters: &[f32],
    gradients: &[Vec<f32>],
    at: usize,
) -> (Vec<[Vec<f32>; 3]>, Vec<f32>, [u64; 2]) {
    let len = parameters.len();
    let mut device_parameters = on_device(backend, parameters);
    let (mut m, mut v) = (backend.alloc(len).unwrap(), backend.alloc(len).unwrap());
    let rate = on_device(backend, &[adam.learning_rate as f32]);
    let (mut state, mut norm) = (backend.alloc(2).unwrap(), backend.alloc(1).unwrap());
    let (mut steps, mut norms) = (Vec::new(), Vec::new());
    let read = |buffer: &B::Buffer<f32>, len: usize| {
        let mut host = vec![f32::NAN; len];
        backend.download(backend.view(buffer, 0, len), &mut host).unwrap();
        host
    };
    for gradient in gradients {
        let gradient = on_device(backend, &[&vec![f32::NAN; at], &gradient[..]].concat());
        let buffers = AdamBuffers {
            parameters: backend.view_mut(&mut device_parameters, 0, len),
            gradient: backend.view(&gradient, at, len),
            rate: backend.view(&rate, 0, 1),
            m: backend.view_mut(&mut m, 0, len),
            v: backend.view_mut(&mut v, 0, len),
            state: backend.view_mut(&mut state, 0, 2),
            norm: backend.view_mut(&mut norm, 0, 1),
        };
        backend.adam(adam, buffers).unwrap();
        steps.push([read(&device_parameters, len), read(&m, len), read(&v, len)]);
        norms.extend(read(&norm, 1));
    }
    let mut host = [0; 2];
    backend.download(backend.view(&state, 0, 2), &mut host).unwrap();
    (steps, norms, host)
}

#[test]
fn adam_has_the_bits_of_the_cpu() {
    let mut random = random(710);
    let device = Device::take();
    let backend = device.backend(Storage::Split);
    for (len, clip, at) in [
        (1, None, 0),
        (255, Some(1.0), 4),
        (257, Some(0.3), 0),
        (258, None, 3),
        (1111, None, 0),
        (66_000, Some(20.0), 0),
    ] {
        let adam = Adam { clip, learning_rate: 3e-3, ..Adam::paper() };
        let parameters = narrow(&normals(&mut random, len, 1.0));
        let gradients: Vec<Vec<f32>> = [1.0, 1e-3, 30.0, 0.2]
            .into_iter()
            .map(|scale| narrow(&normals(&mut random, len, scale)))
            .collect();
        let (expected, norms, state) = adam_steps(&Cpu::new(), &adam, &parameters, &gradients, at);
        let (found, found_norms, found_state) = adam_steps(&backend, &adam, &parameters, &gradients, at);
        assert_eq!((found_state, state), ([4, 0], [4, 0]));
        assert_same_bits(&found_norms, &norms, "norms");
        for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
            for (name, (found, expected)) in ["parameters", "m", "v"].iter().zip(found.iter().zip(expected)) {
                assert_same_bits(found, expected, &format!("{len} parameters, step {step}, {name}"));
            }
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_writes_nothing() {
    let mut random = random(720);
    let device = Device::take();
    let config = Config::new(3, 6, 4);
    let flat = narrow(&parameters(&config, &mut random, 1.0));
    let tokens = draw_tokens(&mut random, 3, &[8, 5]);
    let good = narrow(&normals(&mut random, 8, 1.0));
    for storage in Storage::TRAINED {
        for (place, bad) in [(0, f32::NAN), (7, f32::INFINITY)] {
            let mut parameters = Parameters::new(&config, device.backend(storage), &flat).unwrap();
            let mut adam = Adam::paper().build(&parameters).unwrap();
            let mut tape = Tape::new(&parameters, 2, 8).unwrap();
            let mut step = |d_output: &[f32]| {
                tape.clear();
                let hidden = tape.scan(&parameters, &tokens, Outputs::Last).unwrap();
                let logits = tape.readout(&parameters, hidden).unwrap();
                let gradients = tape.backward_from(logits, d_output).unwrap();
                adam.step(&mut parameters, gradients).unwrap();
                let [m, v] = adam.moments().unwrap();
                let state = [parameters.to_vec().unwrap(), m, v].map(|values| bits(&values));
                (state, tape.value(logits).unwrap(), adam.status())
            };
            let (first, ..) = step(&good);
            let (before, _, status) = step(&good);
            assert_ne!(before, first);
            assert_eq!(status.unwrap().steps, 2);
            let mut planted = good.clone();
            planted[place] = bad;
            let (_, logits, _) = step(&planted);
            for later in 4..6 {
                let (after, same, status) = step(&good);
                assert_eq!(after, before, "{storage:?}, {bad}, step {later}");
                assert!(matches!(status, Err(Error::Diverged { step: 3 })), "{status:?}");
                refused(status, &["step 3", "not finite"]);
                assert_same_bits(&same, &logits, "weights that were not updated");
            }
        }
    }
}

#[test]
fn f16_is_not_trained() {
    let device = Device::take();
    let backend = device.backend(Storage::F16);
    assert!(!backend.can_train());
    let config = Config::new(3, 4, 2);
    refused(Parameters::init(&config, backend, 0).map(drop), &["training in f16 on cuda:0", "bf16 or f32"]);
    assert!(Tolerances::cuda(Dtype::Bf16).gradients == Storage::Bf16.gradient_tolerance());
}

/// A short run of a small model.
fn short(task: Task, seed: u64) -> Settings {
    let paper = Settings::paper(task);
    Settings { hidden: 12, steps: 8, batch: 6, max_length: 7, seed, ..paper }
}

/// All that a run gives: a line of metrics a step, and its checkpoint.
fn run<B: Backend>(trainer: &mut Trainer<B>) -> (Vec<StepMetrics>, Checkpoint) {
    let steps = trainer.settings().steps;
    let mut metrics = Vec::new();
    while trainer.steps() < steps {
        metrics.push(trainer.step(true).unwrap().unwrap());
    }
    (metrics, trainer.checkpoint().unwrap())
}

#[test]
fn a_run_resumed_at_any_step_ends_with_the_same_bytes() {
    let device = Device::take();
    for (storage, task, cell) in [
        (Storage::Bf16, Task::ParityCheck, Cell::Lstm),
        (Storage::Split, Task::BinaryAddition, Cell::Rnn),
        (Storage::Ffma, Task::ReverseString, Cell::Lstm),
    ] {
        let settings = Settings { cell, ..short(task, 7) };
        let at = 1 + u64::from(random(730).below(7));
        let backend = device.backend(storage).with_whole_tree(storage == Storage::Split);
        let (metrics, expected) = run(&mut Trainer::new(settings.clone(), backend.clone()).unwrap());
        assert_eq!(metrics.len(), 8);
        let first = Settings { steps: at, ..settings.clone() };
        let (before, stopped) = run(&mut Trainer::new(first, backend.clone()).unwrap());
        let mut second = Trainer::resume(settings, &stopped, backend).unwrap();
        let (after, found) = run(&mut second);
        assert_eq!([before, after].concat(), metrics);
        assert!(found == expected, "{storage:?}, {task} after step {at}");
    }
}

/// Losses of the first steps agree, and all learn.
#[test]
fn two_hundred_steps_beside_the_cpu() {
    let settings = Settings {
        hidden: 16,
        steps: 200,
        batch: 16,
        max_length: 6,
        adam: Adam { learning_rate: 1e-2, ..Adam::paper() },
        ..Settings::paper(Task::ParityCheck)
    };
    let (expected, _) = run(&mut Trainer::new(settings.clone(), Cpu::new()).unwrap());
    let learned = |metrics: &[StepMetrics]| {
        let mean = |part: &[StepMetrics]| {
            part.iter().map(|one| f64::from(one.loss)).sum::<f64>() / part.len() as f64
        };
        (mean(&metrics[..20]), mean(&metrics[180..]))
    };
    let (first, last) = learned(&expected);
    println!("CPU: {first:.4}, then {last:.4}");
    assert!(last < 0.5 * first, "the CPU does not learn: {first} {last}");
    let device = Device::take();
    for storage in [Storage::Split, Storage::Bf16] {
        let backend = device.backend(storage).with_whole_tree(storage == Storage::Split);
        let (found, _) = run(&mut Trainer::new(settings.clone(), backend).unwrap());
        let (first, last) = learned(&found);
        let error = |step: usize| distance(&[f64::from(found[step].loss)], &[f64::from(expected[step].loss)]);
        let worst = (0..20).map(error).fold(0.0, f64::max);
        println!("{storage:?}: {first:.4}, then {last:.4}; worst of 20 {worst:.1e}");
        if storage == Storage::Split {
            assert!(worst <= 1e-3, "{worst:e}");
        }
        assert!(worst > 0.0 && last < 0.5 * first, "{storage:?} does not learn: {first} {last}");
    }
}
