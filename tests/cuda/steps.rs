//! Training steps as graphs: the bits of steps taken launch by launch, one call each once their length is known, and nothing
//! that waits; models of their own weights; divergence.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use pr_lstm::backend::Backend as _;
use pr_lstm::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use pr_lstm::cuda::cudarc::driver::{CudaContext, CudaStream};
use pr_lstm::model::Cell;
use pr_lstm::tasks::Task;
use pr_lstm::train::{Settings, StepMetrics, Trainer};
use pr_lstm::{Adam, Checkpoint, Cuda, Dtype, Error, Model};

use crate::common::device::{Device, Storage};
use crate::common::{assert_same_bits, bits, random, refused};

fn settings(task: Task, seed: u64) -> Settings {
    let paper = Settings::paper(task);
    Settings { hidden: 12, steps: 12, batch: 5, max_length: 4, seed, ..paper }
}

/// Takes all steps that are left, each measured.
fn run(trainer: &mut Trainer<Cuda>) -> (Vec<StepMetrics>, Checkpoint) {
    let steps = trainer.settings().steps;
    let mut metrics = Vec::new();
    while trainer.steps() < steps {
        metrics.push(trainer.step(true).unwrap().unwrap());
    }
    (metrics, trainer.checkpoint().unwrap())
}

/// How often a call was made.
fn count(calls: &BTreeMap<String, u64>, call: &str) -> u64 {
    calls.get(call).copied().unwrap_or(0)
}

#[test]
fn recorded_steps_have_the_bits_of_eager_ones() {
    let seed = random(740).below(1000);
    let device = Device::take();
    for (storage, task, cell, hidden) in [
        (Storage::Bf16, Task::ParityCheck, Cell::Lstm, 12),
        (Storage::Split, Task::BinaryAddition, Cell::Rnn, 12),
        (Storage::Ffma, Task::ReverseString, Cell::Lstm, 12),
        // Its longest batch is not that of the longest samples.
        (Storage::Bf16, Task::ModularArithmetic, Cell::Rnn, 12),
        // Weights that stay.
        (Storage::Bf16, Task::ParityCheck, Cell::Rnn, 128),
    ] {
        let settings = Settings { cell, hidden, ..settings(task, u64::from(seed)) };
        // The others launch every step, as large models do.
        let backend = device.backend(storage).with_whole_tree(storage == Storage::Split);
        let backend = if hidden == 128 { backend.with_tile(256).unwrap() } else { backend };
        let eager = backend.clone().without_graphs();
        device.calls();
        let expected = run(&mut Trainer::new(settings.clone(), eager).unwrap());
        assert_eq!(count(&device.calls(), "cuGraphLaunch"), 0);
        device.launches();
        let (metrics, checkpoint) = run(&mut Trainer::new(settings, backend).unwrap());
        if device.is_virtual() {
            let stayed = |kernel: &str| kernel.ends_with("_256") || kernel.ends_with("_wgmma");
            assert_eq!(device.launches().iter().any(|launch| stayed(&launch.kernel)), hidden == 128);
            let calls = device.calls();
            // A length is recorded for each of the two places that its batches are copied from.
            let recordings: HashSet<(usize, u64)> =
                metrics.iter().map(|step| (step.length, step.step % 2)).collect();
            assert!(recordings.len() < metrics.len(), "nothing came twice");
            assert_eq!(count(&calls, "cuGraphLaunch"), 12);
            assert_eq!(count(&calls, "cuStreamBeginCapture_v2"), recordings.len() as u64);
        }
        assert_eq!(metrics, expected.0, "{storage:?}, {task}");
        assert!(checkpoint == expected.1, "{storage:?}, {task}");
    }
}

/// As graphs and on a tape: lengths of several windows and of one, and less memory.
#[test]
fn steps_that_recompute_have_the_bits_of_those_that_do_not() {
    let seed = u64::from(random(745).below(1000));
    let device = Device::take();
    let kept =
        Settings { hidden: 6, batch: 100, max_length: 20, steps: 3, ..settings(Task::ParityCheck, seed) };
    let anew = Settings { recompute: true, ..kept.clone() };
    let runs = [(kept, 3), (anew.clone(), 3), (anew, 0)];
    let [kept, anew, taped] = runs.map(|(settings, graphs)| {
        let backend = device.backend(Storage::Bf16);
        let backend = if graphs > 0 { backend } else { backend.without_graphs() };
        let mut trainer = Trainer::new(settings, backend).unwrap();
        let bytes = trainer.bytes();
        device.calls();
        let done = run(&mut trainer);
        assert!(!device.is_virtual() || count(&device.calls(), "cuGraphLaunch") == graphs);
        (bytes, done)
    });
    println!("{} bytes, {} anew", kept.0, anew.0);
    assert!(anew.0 * 8 < kept.0 * 7, "{} bytes anew, {} kept", anew.0, kept.0);
    assert!(kept.1.0.iter().any(|step| step.length > 12), "no length of several windows");
    assert!(anew.1 == kept.1 && taped.1 == kept.1);
}

/// Every call of the driver in steps whose lengths are known: whether a place for the batch is free, a launch, and the event
/// that tells the next but one.
#[test]
fn a_step_is_one_launch_and_waits_for_nothing() {
    let device = Device::take();
    let settings = Settings { max_length: 3, steps: 100, ..settings(Task::ParityCheck, 5) };
    let mut trainer = Trainer::new(settings, device.backend(Storage::Bf16)).unwrap();
    for _ in 0..20 {
        trainer.step(false).unwrap();
    }
    if !device.is_virtual() {
        return;
    }
    device.calls();
    for _ in 0..10 {
        assert_eq!(trainer.step(false).unwrap(), None);
    }
    let mut calls = device.calls();
    println!("ten steps: {calls:?}");
    // Which context a thread is in, and whether a stream is captured: no work.
    for asked in ["cuCtxGetCurrent", "cuCtxSetCurrent", "cuStreamIsCapturing"] {
        calls.remove(asked);
    }
    let expected = ["cuEventQuery", "cuEventRecord", "cuGraphLaunch"];
    assert_eq!(calls, expected.map(|call| (call.to_owned(), 10)).into());
    // The loss is read where it is asked for.
    assert!(trainer.step(true).unwrap().unwrap().loss.is_finite());
    assert!(count(&device.calls(), "cuMemcpyDtoHAsync_v2") > 0);
}

/// A run that another thread goes on with, in a context that is not current there yet.
#[test]
fn a_run_may_move_to_another_thread() {
    let device = Device::take();
    let settings = settings(Task::ParityCheck, 12);
    let (_, expected) = run(&mut Trainer::new(settings.clone(), device.backend(Storage::Bf16)).unwrap());
    let mut trainer = Trainer::new(settings, device.backend(Storage::Bf16)).unwrap();
    for _ in 0..8 {
        trainer.step(false).unwrap();
    }
    let (_, found) = std::thread::spawn(move || run(&mut trainer)).join().unwrap();
    assert!(found == expected);
}

#[test]
fn streams_of_others_are_refused_or_left_alone() {
    let _device = Device::take();
    let settings = settings(Task::ParityCheck, 13);
    // Events that would spoil a capture.
    let context = CudaContext::new(0).unwrap();
    let on = |stream: &Arc<CudaStream>| Cuda::on(stream).unwrap().with_dtype(Dtype::Bf16).unwrap();
    let tracked = on(&context.new_stream().unwrap());
    refused(
        Trainer::new(settings.clone(), tracked.clone()).map(drop),
        &["event tracking is on", "disable_event_tracking"],
    );
    let (_, expected) = run(&mut Trainer::new(settings.clone(), tracked.without_graphs()).unwrap());
    // A capture of the stream's owner.
    let context = CudaContext::new(0).unwrap();
    // SAFETY: one stream, so there is nothing for events to order.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let mut trainer = Trainer::new(settings, on(&stream)).unwrap();
    for _ in 0..6 {
        trainer.step(false).unwrap();
    }
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    refused(trainer.step(false).map(drop), &["take a training step", "a capture is in progress"]);
    stream.end_capture(CUgraphInstantiate_flags(0)).expect("nothing spoiled it");
    let (_, found) = run(&mut trainer);
    assert!(found == expected);
}

fn logits(model: &Model<Cuda>) -> Vec<f32> {
    let mut session = model.session().max_batch(1).max_time(5).build().unwrap();
    session.forward(&[[0u32, 1, 1, 0, 1]]).unwrap().to_vec()
}

#[test]
fn a_model_keeps_the_weights_that_it_was_taken_with() {
    let device = Device::take();
    let settings = settings(Task::ParityCheck, 8);
    let (_, expected) = run(&mut Trainer::new(settings.clone(), device.backend(Storage::Split)).unwrap());
    let mut trainer = Trainer::new(settings, device.backend(Storage::Split)).unwrap();
    let mut models = Vec::new();
    for _ in 0..3 {
        trainer.step(false).unwrap();
        let model = trainer.parameters().model();
        models.push((logits(&model), model));
    }
    let (_, found) = run(&mut trainer);
    assert!(found == expected, "weights of others changed the run");
    for (before, model) in &models {
        assert_same_bits(&logits(model), before, "a model that was taken during a run");
    }
    assert_ne!(bits(&models[0].0), bits(&models[2].0));
    assert_ne!(bits(&logits(&trainer.parameters().model())), bits(&models[2].0));
}

#[test]
fn a_run_that_diverges_names_its_step_and_writes_nothing_from_there() {
    let device = Device::take();
    for storage in Storage::TRAINED {
        let good = Settings { steps: 3, ..settings(Task::ParityCheck, 9) };
        let (_, checkpoint) = run(&mut Trainer::new(good.clone(), device.backend(storage)).unwrap());
        // One good step with a rate beyond all measure, after which no loss is finite.
        let adam = Adam { learning_rate: 1e38, ..good.adam };
        let wild = Settings { adam, steps: 20, ..good };
        let resumed = || Trainer::resume(wild.clone(), &checkpoint, device.backend(storage)).unwrap();
        let mut one = resumed();
        one.step(false).unwrap();
        let expected = one.checkpoint().unwrap();
        assert!(expected.parameters != checkpoint.parameters);
        let mut trainer = resumed();
        for _ in 4..12 {
            trainer.step(false).unwrap();
        }
        let diverged = trainer.step(true);
        assert!(matches!(diverged, Err(Error::Diverged { step: 5 })), "{storage:?}: {diverged:?}");
        refused(trainer.checkpoint(), &["step 5", "not finite"]);
        assert_eq!(bits(&trainer.parameters().to_vec().unwrap()), bits(&expected.parameters), "{storage:?}");
    }
}
