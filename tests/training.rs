//! Training and evaluation on the CPU: against golden steps and the oracle's Adam, equal bits for any number of
//! threads and after a resume, divergence that writes nothing, models that learn.
#![cfg(feature = "tasks")]

mod common;

use std::ops::ControlFlow;

use common::{
    TrainingTrace, bits, distance, draw_tokens, narrow, normals, oracle, parameters, random, refused, widen,
    worst_parameter,
};
use pr_lstm::evaluate::{Evaluation, LengthAccuracy, score};
use pr_lstm::random::Purpose;
use pr_lstm::reference::{self, Input};
use pr_lstm::tasks::{Batch, Task};
use pr_lstm::train::{Settings, StepMetrics, Trainer};
use pr_lstm::{
    Adam, Cell, Checkpoint, Config, Cpu, Error, Model, Optimizer, Outputs, Parameters, Result, Tape,
};

/// A short run of a small model.
fn short(task: Task, cell: Cell, seed: u64) -> Settings {
    let paper = Settings::paper(task);
    Settings { cell, hidden: 12, steps: 16, batch: 8, max_length: 9, seed, ..paper }
}

#[test]
fn thirty_steps_follow_the_papers() {
    let trace = TrainingTrace::read();
    let config = &trace.config;
    let mut parameters = Parameters::new(config, Cpu::new(), &narrow(&trace.parameters("initial"))).unwrap();
    let mut adam = Adam::paper().build(&parameters).unwrap();
    let [batch, time] = [0, 1].map(|axis| {
        let sizes = trace.steps.iter().map(|(tokens, _)| [tokens.len(), tokens[0].len()][axis]);
        sizes.max().unwrap()
    });
    let mut tape = Tape::new(&parameters, batch, time).unwrap();
    let mut worst = [0.0f64; 2];
    for (step, (tokens, targets)) in trace.steps.iter().enumerate() {
        tape.clear();
        let hidden = tape.scan(&parameters, tokens, Outputs::Last).unwrap();
        let logits = tape.readout(&parameters, hidden).unwrap();
        let loss = tape.cross_entropy(logits, targets).unwrap();
        let found_loss = f64::from(tape.value(loss).unwrap()[0]);
        let gradients = tape.backward(loss).unwrap();
        if step == 0 {
            let found = widen(&gradients.to_vec().unwrap());
            let (error, name) = worst_parameter(config, &found, &trace.parameters("grad0"));
            println!("grad0: {error:.1e} at {name}");
            assert!(error <= 1e-4, "grad0.{name}: {error:e}");
        }
        adam.step(&mut parameters, gradients).unwrap();
        let status = adam.status().unwrap();
        assert_eq!(status.steps, step as u64 + 1);
        let errors = [
            distance(&[found_loss], &[trace.losses[step]]),
            distance(&[f64::from(status.gradient_norm)], &[trace.norms[step]]),
        ];
        assert!(errors.iter().all(|&error| error <= 1e-4), "step {step}: loss, norm {errors:?}");
        worst = std::array::from_fn(|n| worst[n].max(errors[n]));
    }
    println!("worst of 30 steps: loss {:.1e}, norm {:.1e}", worst[0], worst[1]);
    let found = widen(&parameters.to_vec().unwrap());
    let (error, name) = worst_parameter(config, &found, &trace.parameters("final"));
    println!("final: {error:.1e} at {name}");
    assert!(error <= 1e-4, "final.{name}: {error:e}");
}

/// A model, its optimiser and its tape: what takes a step on a gradient of one's choice.
struct Stepper {
    config: Config,
    parameters: Parameters<Cpu>,
    adam: Optimizer<Cpu>,
    tape: Tape<Cpu>,
    tokens: Vec<Vec<u32>>,
}

impl Stepper {
    /// The weights of the read-out are multiplied by `readout`.
    fn new(seed: u64, adam: Adam, readout: f32) -> Self {
        let config = Config::new(3, 6, 4);
        let mut flat = narrow(&parameters(&config, &mut random(seed), 1.0));
        flat[config.layout().unwrap().readout.w].iter_mut().for_each(|w| *w *= readout);
        let parameters = Parameters::new(&config, Cpu::new(), &flat).unwrap();
        let adam = adam.build(&parameters).unwrap();
        let tape = Tape::new(&parameters, 2, 8).unwrap();
        let tokens = draw_tokens(&mut random(seed + 1), 3, &[8, 5]);
        Stepper { config, parameters, adam, tape, tokens }
    }

    /// A step on the gradient of `Σ d_output ⊙ output`, `[2, O]`; that gradient.
    fn step(&mut self, d_output: &[f32]) -> Vec<f32> {
        self.tape.clear();
        let hidden = self.tape.scan(&self.parameters, &self.tokens, Outputs::Last).unwrap();
        let logits = self.tape.readout(&self.parameters, hidden).unwrap();
        let gradients = self.tape.backward_from(logits, d_output).unwrap();
        self.adam.step(&mut self.parameters, gradients).unwrap();
        gradients.to_vec().unwrap()
    }

    /// Parameters and moments.
    fn state(&self) -> [Vec<u32>; 3] {
        let [m, v] = self.adam.moments().unwrap();
        [self.parameters.to_vec().unwrap(), m, v].map(|values| bits(&values))
    }
}

#[test]
fn adam_clips_as_the_oracle_does() {
    let paper = Adam { learning_rate: 1e-2, ..Adam::paper() };
    for clip in [Some(1.0), Some(7.5), None] {
        let mut stepper = Stepper::new(20, Adam { clip, ..paper }, 1.0);
        let config = stepper.config.clone();
        let mut weights = widen(&stepper.parameters.to_vec().unwrap());
        let mut expected = reference::Adam::paper(weights.len());
        expected.learning_rate = 1e-2;
        expected.clip = clip.unwrap_or(f64::INFINITY);
        let input = Input::Tokens(stepper.tokens.clone());
        let mut norms = Vec::new();
        for (step, scale) in [20.0, 0.05, 3.0, 0.01, 40.0, 1.0].into_iter().enumerate() {
            let d_output = narrow(&normals(&mut random(30 + step as u64), 8, scale));
            let model = oracle(&config, &weights);
            let pass = model.forward_last(&input).unwrap();
            let gradient = model.backward(&pass, &widen(&d_output)).unwrap().parameters.to_flat();
            let norm = expected.step(&mut weights, &gradient).unwrap();
            stepper.step(&d_output);
            let found = f64::from(stepper.adam.status().unwrap().gradient_norm);
            assert!(distance(&[found], &[norm]) <= 1e-4, "step {step}: norm {found} for {norm}");
            let [m, v] = stepper.adam.moments().unwrap();
            let moved = [
                (stepper.parameters.to_vec().unwrap(), &weights),
                (m, &expected.first),
                (v, &expected.second),
            ];
            for (found, expected) in moved {
                let (error, name) = worst_parameter(&config, &widen(&found), expected);
                assert!(error <= 1e-4, "clip {clip:?}, step {step}, {name}: {error:e}");
            }
            norms.push(norm);
        }
        let most = clip.unwrap_or(1.0);
        assert!(norms.iter().any(|&norm| norm > most) && norms.iter().any(|&norm| norm < most), "{norms:?}");
    }
}

/// A step after a change is that of an optimiser that was built with the new numbers.
#[test]
fn hyperparameters_may_change_between_steps() {
    let d_output = narrow(&normals(&mut random(50), 8, 1.0));
    let slow = Adam { learning_rate: 1e-3, ..Adam::paper() };
    let fast = Adam { learning_rate: 1e-2, beta1: 0.7, ..slow };
    let mut stepper = Stepper::new(51, slow, 1.0);
    stepper.step(&d_output);
    let (flat, moments) = (stepper.parameters.to_vec().unwrap(), stepper.adam.moments().unwrap());
    let expected = |adam: Adam| {
        let mut other = Stepper::new(51, adam, 1.0);
        other.parameters = Parameters::new(&other.config, Cpu::new(), &flat).unwrap();
        other.adam.restore(&moments, 1).unwrap();
        other.step(&d_output);
        other.state()
    };
    for bad in [0.0, -1e-3, f64::NAN, f64::INFINITY, 1e39, 1e-46] {
        let bad = Adam { learning_rate: bad, ..fast };
        refused(stepper.adam.set(bad), &["learning_rate", "positive"]);
    }
    assert_eq!(*stepper.adam.config(), slow);
    stepper.adam.set(fast).unwrap();
    stepper.step(&d_output);
    assert!(expected(slow) != expected(fast));
    assert!(stepper.state() == expected(fast));
}

#[test]
fn a_gradient_that_is_not_finite_writes_nothing() {
    // The gradient of the last is finite, but its norm is beyond f32.
    for (bad, finite) in [([f32::NAN; 8], false), ([f32::INFINITY; 8], false), ([1.5e38; 8], true)] {
        let mut stepper = Stepper::new(21, Adam::paper(), 0.0);
        let good = narrow(&normals(&mut random(22), 8, 1.0));
        let start = stepper.state();
        stepper.step(&good);
        stepper.step(&good);
        let before = stepper.state();
        assert_ne!(before, start);
        assert_eq!(stepper.step(&bad).iter().all(|g| g.is_finite()), finite, "{bad:?}");
        for later in 3..6 {
            assert_eq!(stepper.state(), before, "{bad:?}, step {later}");
            let status = stepper.adam.status();
            assert!(matches!(status, Err(Error::Diverged { step: 3 })), "{bad:?}: {status:?}");
            refused(status, &["step 3", "not finite", "lower learning rate"]);
            stepper.step(&good);
        }
        // Moments of before take the optimiser back to work.
        let moments = stepper.adam.moments().unwrap();
        stepper.adam.restore(&moments, 2).unwrap();
        stepper.step(&good);
        assert_eq!(stepper.adam.status().unwrap().steps, 3);
        assert_ne!(stepper.state(), before);
    }
}

#[test]
fn a_run_that_diverges_stops_and_keeps_its_parameters() {
    let settings = short(Task::ParityCheck, Cell::Lstm, 5);
    let mut trainer = Trainer::new(settings.clone(), Cpu::new()).unwrap();
    (0..4).for_each(|_| assert!(trainer.step(false).unwrap().is_none()));
    let mut checkpoint = trainer.checkpoint().unwrap();
    // Finite weights whose loss is not: one class's logit is -inf, and the gradient alone would be finite.
    let readout = settings.config().layout().unwrap().readout;
    for weight in checkpoint.parameters[readout.w].iter_mut().step_by(2) {
        *weight = -3e38;
    }
    checkpoint.parameters[readout.b.start] = -3.3e38;
    for measured in [1, 3] {
        let mut trainer = Trainer::resume(settings.clone(), &checkpoint, Cpu::new()).unwrap();
        (1..measured).for_each(|_| assert!(trainer.step(false).unwrap().is_none()));
        refused(trainer.step(true), &["step 5", "not finite"]);
        assert_eq!(bits(&trainer.parameters().to_vec().unwrap()), bits(&checkpoint.parameters));
        refused(trainer.checkpoint(), &["step 5", "not finite"]);
        refused(trainer.step(true), &["step 5"]);
    }
}

/// All that a run gives: a line of metrics a step, and its checkpoint.
fn run(trainer: &mut Trainer<Cpu>) -> (Vec<StepMetrics>, Checkpoint) {
    let steps = trainer.settings().steps;
    let mut metrics = Vec::new();
    while trainer.steps() < steps {
        metrics.push(trainer.step(true).unwrap().unwrap());
    }
    (metrics, trainer.checkpoint().unwrap())
}

#[test]
fn a_run_is_a_function_of_its_seed() {
    let of = |seed| run(&mut Trainer::new(short(Task::ReverseString, Cell::Lstm, seed), Cpu::new()).unwrap());
    let (metrics, checkpoint) = of(1);
    assert_eq!(of(1), (metrics.clone(), checkpoint.clone()));
    assert_eq!(metrics.iter().map(|one| one.step).collect::<Vec<_>>(), (1..=16).collect::<Vec<_>>());
    let lengths: Vec<usize> = metrics.iter().map(|one| one.length).collect();
    assert!(
        lengths.iter().all(|length| (1..=9).contains(length)) && lengths.iter().min() < lengths.iter().max()
    );
    assert!(metrics.iter().all(|one| one.loss > 0.0 && one.gradient_norm > 0.0));
    let (other, _) = of(2);
    assert!(other.iter().zip(&metrics).any(|(a, b)| a.length != b.length));

    // Measuring changes nothing.
    let mut blind = Trainer::new(short(Task::ReverseString, Cell::Lstm, 1), Cpu::new()).unwrap();
    (0..16).for_each(|_| assert!(blind.step(false).unwrap().is_none()));
    assert_eq!(blind.checkpoint().unwrap(), checkpoint);
}

#[cfg(feature = "rayon")]
#[test]
fn a_run_does_not_depend_on_threads() {
    let settings =
        Settings { hidden: 40, batch: 64, max_length: 24, ..short(Task::BucketSort, Cell::Lstm, 3) };
    let of = |threads| {
        let (cpu, pool) = (Cpu::new(), rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
        let result = pool.install(|| run(&mut Trainer::new(settings.clone(), cpu.clone()).unwrap()));
        (result, cpu.work().by_worker.iter().filter(|&&rows| rows > 0).count())
    };
    let (one, workers) = of(1);
    assert_eq!(workers, 1);
    for threads in [2, 3] {
        let (found, workers) = of(threads);
        assert_eq!(found, one, "{threads} threads");
        assert!(workers > 1, "{threads} threads, but {workers} did all rows");
    }
}

#[test]
fn a_run_resumed_at_any_step_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let write = |checkpoint: &Checkpoint, name: &str| {
        let path = folder.path().join(name);
        checkpoint.write(&path).unwrap();
        path
    };
    for (task, cell, seed) in [
        (Task::ParityCheck, Cell::Lstm, 7),
        (Task::BinaryAddition, Cell::Rnn, 8),
        (Task::ModularArithmetic, Cell::Lstm, 9),
    ] {
        let settings = short(task, cell, seed);
        let at = 1 + u64::from(random(seed).below(15));
        println!("{task}: stopped after step {at}");
        let mut whole = Trainer::new(settings.clone(), Cpu::new()).unwrap();
        let (metrics, last) = run(&mut whole);
        let whole = write(&last, "whole");

        let mut first = Trainer::new(Settings { steps: at, ..settings.clone() }, Cpu::new()).unwrap();
        let (before, stopped) = run(&mut first);
        let stopped = Checkpoint::read(write(&stopped, "stopped")).unwrap();
        assert_eq!((stopped.step, stopped.task.as_deref()), (at, Some(task.name())));
        let mut second = Trainer::resume(settings, &stopped, Cpu::new()).unwrap();
        assert_eq!(second.steps(), at);
        let (after, last) = run(&mut second);
        let resumed = write(&last, "resumed");
        assert_eq!([before, after].concat(), metrics);
        assert!(std::fs::read(whole).unwrap() == std::fs::read(resumed).unwrap(), "{task} after step {at}");
    }
}

#[test]
fn resume_refuses_what_is_not_its_run() {
    let settings = short(Task::ParityCheck, Cell::Lstm, 5);
    let mut trainer = Trainer::new(settings.clone(), Cpu::new()).unwrap();
    trainer.step(false).unwrap();
    let checkpoint = trainer.checkpoint().unwrap();
    let resume = |settings: &Settings, checkpoint: &Checkpoint| {
        Trainer::resume(settings.clone(), checkpoint, Cpu::new()).map(drop)
    };
    resume(&settings, &checkpoint).unwrap();
    let other = |change: fn(&mut Settings)| {
        let mut settings = settings.clone();
        change(&mut settings);
        resume(&settings, &checkpoint)
    };
    refused(other(|s| s.hidden = 13), &["checkpoint, model", "hidden: 13", "hidden: 12"]);
    refused(other(|s| s.cell = Cell::Rnn), &["checkpoint, model", "Rnn", "Lstm"]);
    refused(other(|s| s.unary_layers = 0), &["checkpoint, model", "unary_layers: 0", "unary_layers: 1"]);
    refused(other(|s| s.task = Task::EvenPairs), &["checkpoint, task", "even_pairs", "parity_check"]);
    refused(other(|s| s.seed = 6), &["checkpoint, seed", "6", "5"]);
    let mut changed = checkpoint.clone();
    changed.task = None;
    refused(resume(&settings, &changed), &["checkpoint, task", "parity_check", "none"]);
    changed = checkpoint.clone();
    changed.moments = None;
    refused(resume(&settings, &changed), &["checkpoint", "moments"]);
    changed = checkpoint.clone();
    changed.parameters.pop();
    refused(resume(&settings, &changed), &["flat"]);
    changed = checkpoint.clone();
    changed.parameters[0] = f32::NAN;
    refused(resume(&settings, &changed), &["leaf.w", "element 0", "NaN"]);
    for (which, name, value) in [(0, "m", f32::NAN), (1, "v", f32::INFINITY), (1, "v", -1.0)] {
        changed = checkpoint.clone();
        changed.moments.as_mut().unwrap()[which][3] = value;
        refused(resume(&settings, &changed), &[name, "finite", &value.to_string(), "element 3"]);
    }
    changed = checkpoint.clone();
    changed.moments.as_mut().unwrap()[1].pop();
    refused(resume(&settings, &changed), &["v", "elements"]);
}

#[test]
fn settings_out_of_range_are_refused() {
    let new = |change: fn(&mut Settings)| {
        let mut settings = short(Task::ParityCheck, Cell::Lstm, 5);
        change(&mut settings);
        Trainer::new(settings, Cpu::new()).map(drop)
    };
    new(|_| ()).unwrap();
    refused(new(|s| s.hidden = 0), &["config.hidden", "1 to", "0"]);
    refused(new(|s| s.hidden = usize::MAX), &["config.hidden", "1 to", &usize::MAX.to_string()]);
    refused(new(|s| s.unary_layers = 17), &["config.unary_layers", "0 to 16", "17"]);
    refused(new(|s| s.batch = 0), &["batch", "at least 1", "0"]);
    refused(new(|s| s.batch = usize::MAX), &["batch", "tokens in a pass", "smaller batch"]);
    refused(new(|s| s.max_length = 0), &["max_length", "1 to 2^20", "0"]);
    refused(new(|s| s.max_length = usize::MAX), &["max_length", "1 to 2^20"]);
    for value in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let adam = |change: fn(&mut Adam, f64)| {
            let mut settings = short(Task::ParityCheck, Cell::Lstm, 5);
            change(&mut settings.adam, value);
            Trainer::new(settings, Cpu::new()).map(drop)
        };
        let found = &value.to_string();
        refused(adam(|a, x| a.learning_rate = x), &["learning_rate", "positive", found]);
        refused(adam(|a, x| a.epsilon = x), &["epsilon", "positive", found]);
        refused(adam(|a, x| a.clip = Some(x)), &["clip", "positive", found]);
        if value != 0.0 {
            refused(adam(|a, x| a.beta1 = x), &["beta1", "below 1", found]);
            refused(adam(|a, x| a.beta2 = x), &["beta2", "below 1", found]);
        }
    }
}

/// Trains, and evaluates at lengths beyond those trained on: the worst accuracy.
fn learn(settings: Settings, lengths: std::ops::RangeInclusive<usize>) -> f64 {
    let mut trainer = Trainer::new(settings.clone(), Cpu::new()).unwrap();
    let (metrics, _) = run(&mut trainer);
    let last = &metrics[metrics.len() - 20..];
    let loss = last.iter().map(|one| one.loss).sum::<f32>() / last.len() as f32;
    let evaluation = Evaluation { lengths, every: 20, samples: 64, ..Evaluation::paper(settings.task) };
    let results = evaluation.run(&trainer.parameters().model(), |_| ControlFlow::Continue(())).unwrap();
    let worst = results.iter().map(|one| one.accuracy).fold(1.0, f64::min);
    println!("{}: loss {} to {loss}, worst accuracy {worst}", settings.task, metrics[0].loss);
    assert!(metrics[0].loss > 0.3 && loss < 0.02, "{}: loss {loss}", settings.task);
    worst
}

#[test]
fn small_models_learn_and_generalise() {
    use {Cell::*, Task::*};
    for (task, cell, unary_layers) in
        [(ParityCheck, Lstm, 1), (EvenPairs, Lstm, 1), (ParityCheck, Lstm, 0), (EvenPairs, Lstm, 0)]
    {
        let settings = Settings {
            cell,
            unary_layers,
            hidden: 16,
            steps: 600,
            batch: 32,
            max_length: 12,
            adam: Adam { learning_rate: 1e-2, ..Adam::paper() },
            ..Settings::paper(task)
        };
        let worst = learn(settings, 41..=101);
        assert!(worst >= 0.99, "{task}, {cell:?}: {worst}");
    }
}

/// An untrained model of a task.
fn untrained(task: Task, seed: u64) -> Model<Cpu> {
    let config = Settings { hidden: 8, ..Settings::paper(task) }.config();
    let flat = narrow(&parameters(&config, &mut random(seed), 2.0));
    Parameters::new(&config, Cpu::new(), &flat).unwrap().model()
}

fn evaluate(evaluation: &Evaluation, model: &Model<Cpu>) -> Result<Vec<LengthAccuracy>> {
    evaluation.run(model, |_| ControlFlow::Continue(()))
}

#[test]
fn evaluation_counts_as_one_sequence_at_a_time_does() {
    // 150 samples are more than are run at once.
    let mut masked_right = 0;
    let tasks = [Task::ParityCheck, Task::BinaryAddition, Task::ModularArithmetic, Task::BinaryAddition];
    for (seed, task) in (40..).zip(tasks) {
        let model = untrained(task, seed);
        let evaluation =
            Evaluation { lengths: 1..=6, every: 2, samples: 150, seed: 3, ..Evaluation::paper(task) };
        let results = evaluate(&evaluation, &model).unwrap();
        assert_eq!(results.iter().map(|one| one.length).collect::<Vec<_>>(), [1, 3, 5, 6]);
        assert!(results.iter().any(|one| one.accuracy > 0.0 && one.accuracy < 1.0), "{results:?}");
        for LengthAccuracy { length, accuracy } in results {
            let mut batch = Batch::default();
            batch.fill(task, length, 150, 3, Purpose::Evaluate, length as u64).unwrap();
            let outputs = Outputs::LastN(batch.outputs);
            let mut session = model.session().max_time(batch.time).outputs(outputs).build().unwrap();
            // Of the positions that do not count, and of those that do.
            let (mut right, mut counted) = ([0; 2], [0; 2]);
            let answers = batch.targets.chunks(batch.outputs).zip(batch.mask.chunks(batch.outputs));
            for (tokens, (targets, mask)) in batch.tokens.chunks(batch.time).zip(answers) {
                let y = session.forward(&[tokens]).unwrap();
                let rows = y.chunks(model.config().output);
                for (row, (&target, &mask)) in rows.zip(targets.iter().zip(mask)) {
                    let best = (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
                    counted[usize::from(mask)] += 1;
                    right[usize::from(mask)] += usize::from(best == target as usize);
                }
            }
            masked_right += right[0];
            assert_eq!(accuracy, right[1] as f64 / counted[1] as f64, "{task}, length {length}");
        }
    }
    assert!(masked_right > 0, "no position that does not count was right");
}

#[cfg(feature = "rayon")]
#[test]
fn evaluation_does_not_depend_on_threads() {
    let model = untrained(Task::BucketSort, 40);
    let evaluation =
        Evaluation { lengths: 30..=40, every: 5, samples: 140, ..Evaluation::paper(Task::BucketSort) };
    let of = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| evaluate(&evaluation, &model).unwrap())
    };
    let one = of(1);
    let workers = || model.backend().work().by_worker.iter().filter(|&&rows| rows > 0).count();
    assert_eq!(workers(), 1);
    assert_eq!((of(2), of(3)), (one.clone(), one.clone()));
    // On a busy machine one worker may have done all before another woke.
    assert!((0..100).any(|_| of(3) == one && workers() > 1), "no second worker did rows");
}

#[test]
fn lengths_of_an_evaluation() {
    let of = |lengths, every| Evaluation { lengths, every, ..Evaluation::paper(Task::ParityCheck) }.lengths();
    assert_eq!(of(41..=500, 1), (41..=500).collect::<Vec<_>>());
    assert_eq!(of(1..=10, 4), [1, 5, 9, 10]);
    assert_eq!(of(1..=9, 4), [1, 5, 9]);
    assert_eq!(of(7..=7, 100), [7]);
    assert_eq!(of(3..=8, usize::MAX), [3, 8]);
}

#[test]
fn an_evaluation_can_be_stopped() {
    let (model, mut seen) = (untrained(Task::ParityCheck, 40), Vec::new());
    let evaluation = Evaluation { lengths: 1..=9, samples: 2, ..Evaluation::paper(Task::ParityCheck) };
    let results = evaluation.run(&model, |one| {
        seen.push(one);
        if one.length == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((seen.len(), results.unwrap()), (3, seen));
}

#[test]
fn the_score_is_the_mean_over_the_papers_lengths() {
    let of = |results: &[(usize, f64)]| {
        score(
            &results
                .iter()
                .map(|&(length, accuracy)| LengthAccuracy { length, accuracy })
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[(40, 1.0), (501, 1.0)]), None);
    assert_eq!(of(&[(40, 0.0), (41, 0.5), (300, 0.75), (500, 1.0), (501, 0.0)]), Some(0.75));
}

#[test]
fn an_evaluation_out_of_range_is_refused() {
    let model = untrained(Task::ParityCheck, 40);
    let small = Evaluation { lengths: 2..=3, samples: 2, ..Evaluation::paper(Task::ParityCheck) };
    evaluate(&small, &model).unwrap();
    let other = |change: fn(&mut Evaluation)| {
        let mut evaluation = small.clone();
        change(&mut evaluation);
        evaluate(&evaluation, &model)
    };
    refused(other(|e| e.lengths = 0..=3), &["lengths", "from 1", "0..=3"]);
    #[allow(clippy::reversed_empty_ranges)]
    refused(other(|e| e.lengths = 3..=2), &["lengths", "first to last", "3..=2"]);
    refused(other(|e| e.every = 0), &["every", "at least 1", "0"]);
    refused(other(|e| e.samples = 0), &["samples", "at least 1", "0"]);
    refused(other(|e| e.lengths = usize::MAX..=usize::MAX), &["length", "1 to"]);
    refused(other(|e| e.task = Task::CycleNavigation), &["model", "input 4", "cycle_navigation", "input 3"]);
}

/// Outputs of `compute_sqrt` are as many at two lengths, inputs are not: a session of one must not serve the other.
#[test]
fn every_task_is_evaluated_at_neighbouring_lengths() {
    for task in Task::ALL {
        let config = Config::new(task.input_size() + 1, 2, task.output_size());
        let model = Parameters::init(&config, Cpu::new(), 0).expect("parameters").model();
        let evaluation = Evaluation { lengths: 1..=7, samples: 2, ..Evaluation::paper(task) };
        let results = evaluation.run(&model, |_| ControlFlow::Continue(()));
        assert_eq!(results.expect("a result").len(), 7, "{task}");
    }
}
