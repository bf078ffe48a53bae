//! What a CUDA device is asked for and cannot give: each its own error with its mend, no panic, and the device as good as
//! before. On the virtual GPU; with `PR_LSTM_TEST_GPU=real` on the machine's own, less what needs another driver.

mod common;

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::refused;
use pr_lstm::backend::{Backend, Input, Pass};
use pr_lstm::cuda::cudarc::driver::sys::CUgraphInstantiate_flags;
use pr_lstm::cuda::cudarc::driver::sys::CUstreamCaptureMode as Mode;
use pr_lstm::cuda::cudarc::driver::{CudaContext, CudaStream};
use pr_lstm::cuda::{self, Cuda, F32Path};
use pr_lstm::model::initial;
use pr_lstm::tree::{Planner, Rows, Schedule};
use pr_lstm::{Checkpoint, Config, Cpu, Dtype, Error, Model, Outputs, Parameters};

/// Whether the machine's own driver is used.
fn real() -> bool {
    std::env::var("PR_LSTM_TEST_GPU").is_ok_and(|value| value == "real")
}

/// The device, for one test at a time: a capture looks at the whole context.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !real() {
        virtual_gpu::load().expect("the virtual GPU was built with the tests");
    }
    alone
}

fn checkpoint() -> Checkpoint {
    let config = Config::new(3, 20, 2);
    let parameters = initial(&config, 5).expect("parameters");
    Checkpoint::new(config, parameters)
}

fn model(cuda: Cuda) -> Model<Cuda> {
    Model::new(&checkpoint(), cuda).expect("a model")
}

const BATCH: [[u32; 4]; 2] = [[0, 1, 2, 1], [2, 2, 0, 1]];

/// Runs a batch: the device is as good as before if this has the bits it had.
fn logits(model: &Model<Cuda>) -> Vec<f32> {
    let mut session = model.session().max_batch(2).max_time(4).build().expect("a session");
    let logits = session.forward(&BATCH).expect("a pass").to_vec();
    assert!(logits.iter().all(|x| x.is_finite()));
    logits
}

/// A stream whose context does not track events.
fn stream() -> Arc<CudaStream> {
    let context = CudaContext::new(0).expect("a device");
    // SAFETY: one stream, so that nothing is left for events to order.
    unsafe { context.disable_event_tracking() };
    context.new_stream().expect("a stream")
}

/// Runs this test, alone, in a process with another virtual driver; true where that is done and all.
fn in_child(test: &str, variables: &[(&str, &str)]) -> bool {
    if real() || std::env::var_os("PR_LSTM_TEST_CHILD").is_some() {
        return real();
    }
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--nocapture"]).env("PR_LSTM_TEST_CHILD", "1");
    for (name, value) in variables {
        command.env(format!("PR_LSTM_VIRTUAL_GPU_{name}"), value);
    }
    let output = command.output().expect("this program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "no such test: {text}");
    true
}

#[test]
fn no_device() {
    if in_child("no_device", &[("COUNT", "0")]) {
        return;
    }
    let _alone = alone();
    refused(Cuda::new(0), &["CUDA is not available", "no device", "use cpu"]);
    refused(cuda::count(), &["CUDA is not available", "no device", "use cpu"]);
}

#[test]
fn an_ordinal_too_high() {
    let _alone = alone();
    let devices = cuda::count().expect("devices");
    refused(Cuda::new(devices), &["device", &format!("below {devices}"), &format!("got {devices}")]);
    refused(Cuda::new(usize::MAX), &["device", "below"]);
    logits(&model(Cuda::new(0).expect("the first")));
}

#[test]
fn a_chip_that_is_too_old() {
    if in_child("a_chip_that_is_too_old", &[("CHIP", "sm_75")]) {
        return;
    }
    let _alone = alone();
    refused(Cuda::new(0), &["cuda:0", "sm_75", "sm_80 or newer"]);
    refused(Cuda::on(&stream()), &["cuda:0", "sm_75", "sm_80 or newer"]);
}

#[test]
fn a_driver_that_is_too_old() {
    if in_child("a_driver_that_is_too_old", &[("DRIVER", "11020")]) {
        return;
    }
    let _alone = alone();
    refused(Cuda::new(0), &["CUDA is not available", "of CUDA 11.2", "at least 11.4", "update"]);
}

/// One that knows no `wgmma` has `mma.sync`.
#[test]
fn a_driver_older_than_a_faster_kernel() {
    if in_child("a_driver_older_than_a_faster_kernel", &[("DRIVER", "11080"), ("CHIP", "sm_90")]) {
        return;
    }
    let _alone = alone();
    logits(&model(Cuda::new(0).and_then(|cuda| cuda.with_dtype(Dtype::Bf16)).expect("16 bit")));
}

#[test]
fn no_driver() {
    // Only a process that never loaded the virtual one has none, and only on a machine without NVIDIA's.
    if real() || std::env::var_os("PR_LSTM_TEST_CHILD").is_some() {
        match cuda::count() {
            Ok(devices) => println!("this machine has a driver and {devices} devices"),
            Err(error) => assert!(
                error.to_string().contains("no driver was found") || error.to_string().contains("no device"),
                "{error}"
            ),
        }
        return;
    }
    assert!(in_child("no_driver", &[]));
}

#[test]
fn memory_that_is_not_there() {
    let _alone = alone();
    let cuda = Cuda::new(0).expect("a device");
    let model = model(cuda.clone());
    let before = logits(&model);
    for len in [1 << 45, usize::MAX / 4, usize::MAX] {
        let bytes = if len == 1 << 45 { "140737488355328 bytes" } else { "bytes" };
        refused(
            cuda.alloc::<f32>(len).map(drop),
            &["memory of", bytes, "cuda:0", "are free", "smaller batch"],
        );
    }
    assert_eq!(logits(&model), before);
}

#[test]
fn memory_that_a_session_does_not_find() {
    if in_child("memory_that_a_session_does_not_find", &[("MEMORY", "64M")]) {
        return;
    }
    let _alone = alone();
    let cuda = Cuda::new(0).expect("a device");
    let model = model(cuda);
    let (before, allocations) = (logits(&model), virtual_gpu::allocations());
    let large = model.session().max_batch(64).max_time(4096);
    refused(large.build().map(drop), &["memory of", "cuda:0", "of 67108864 bytes are free", "smaller batch"]);
    refused(model.streams(1 << 14).map(drop), &["memory of", "cuda:0"]);
    assert_eq!(virtual_gpu::allocations(), allocations, "what was taken before is given back");
    assert_eq!(logits(&model), before);
}

#[test]
fn memory_of_another_context() {
    if in_child("memory_of_another_context", &[("COUNT", "2")]) {
        return;
    }
    let _alone = alone();
    let [first, second] = [0, 1].map(|ordinal| Cuda::new(ordinal).expect("two devices"));
    let model = model(first.clone());
    let before = logits(&model);
    let plan = model.plan(2, 4, Outputs::Last).expect("a plan");
    let memory = |cuda: &Cuda| {
        let tokens = cuda.alloc::<u32>(8).expect("memory");
        let workspace = cuda.alloc::<u8>(plan.workspace_bytes()).expect("memory");
        (tokens, workspace, cuda.alloc::<f32>(4).expect("memory"))
    };
    for wrong in 0..4 {
        let of = |which: usize| if wrong == which { &second } else { &first };
        let (tokens, _, _) = memory(of(0));
        let (_, mut workspace, _) = memory(of(1));
        let (_, _, mut y) = memory(of(2));
        let input = Input::Tokens(tokens.as_view());
        let result = model.forward_into(&plan, input, workspace.as_view_mut(), y.as_view_mut());
        let name = ["tokens", "workspace", "y", ""][wrong];
        match wrong {
            3 => result.expect("all is of one context"),
            _ => refused(result, &[name, "another context", "cuda:1", "cuda:0"]),
        }
    }
    let mut elsewhere = second.alloc::<f32>(4).expect("memory");
    refused(first.upload(&[1.0; 4], elsewhere.as_view_mut()), &["another context"]);
    refused(first.download(elsewhere.as_view(), &mut [0.0; 4]), &["another context"]);
    refused(first.zero(elsewhere.as_view_mut()), &["another context"]);
    let mut here = first.alloc::<f32>(4).expect("memory");
    refused(first.add(elsewhere.as_view(), here.as_view_mut()), &["from", "another context"]);
    // Weights and plan of a model on the other device.
    let other = self::model(second);
    let there = other.plan(2, 4, Outputs::Last).expect("a plan");
    let (tokens, mut workspace, mut y) = memory(&first);
    let input = Input::Tokens(tokens.as_view());
    refused(
        model.forward_into(&there, input, workspace.as_view_mut(), y.as_view_mut()),
        &["plan", "another context", "cuda:1"],
    );
    assert_eq!(logits(&model), before);
}

#[test]
fn another_type() {
    let _alone = alone();
    let cuda = Cuda::new(0).expect("a device");
    let bf16 = cuda.clone().with_dtype(Dtype::Bf16).expect("bf16");
    assert_eq!((cuda.dtype(), bf16.dtype()), (Dtype::F32, Dtype::Bf16));
    let [model, narrow] = [cuda.clone(), bf16.clone()].map(self::model);
    let before = logits(&model);
    // A plan of the same model in another type.
    let plan = narrow.plan(2, 4, Outputs::Last).expect("a plan");
    assert_eq!(plan.path(), "cuda bf16 wide");
    let tokens = cuda.alloc::<u32>(8).expect("memory");
    let mut workspace = cuda.alloc::<u8>(1 << 20).expect("memory");
    let mut y = cuda.alloc::<f32>(4).expect("memory");
    let input = Input::Tokens(tokens.as_view());
    refused(
        model.forward_into(&plan, input, workspace.as_view_mut(), y.as_view_mut()),
        &["plan", "those of cuda f32", "got cuda bf16"],
    );
    // Weights of another type.
    let checkpoint = checkpoint();
    let mut flat = cuda.alloc::<f32>(checkpoint.parameters.len()).expect("memory");
    cuda.upload(&checkpoint.parameters, flat.as_view_mut()).expect("a copy");
    let mut weights = bf16.weights(&checkpoint.config, Pass::Infer).expect("weights");
    refused(cuda.pack(flat.as_view(), &mut weights), &["weights", "those of cuda f32", "got cuda bf16"]);
    // No tiles of 128 rows for plain f32, nor of any other number for any.
    let ffma = cuda.clone().with_f32_path(F32Path::Ffma).expect("f32 by multiply and add");
    assert_eq!(ffma.path_name(), "cuda f32 ffma wide");
    refused(ffma.with_tile(128), &["tile of 128 rows", "use 64"]);
    refused(cuda.clone().with_tile(48), &["rows", "32, 64, 128 or 256", "got 48"]);
    assert_eq!(logits(&model), before);
}

#[test]
fn training_in_f16_is_refused_at_once() {
    let _alone = alone();
    let cuda = Cuda::new(0).and_then(|cuda| cuda.with_dtype(Dtype::F16)).expect("a device");
    assert!(!cuda.can_train());
    let words = &["training in f16 on cuda:0", "not available", "train in bf16 or f32"];
    let config = checkpoint().config;
    refused(Parameters::init(&config, cuda.clone(), 0).map(drop), words);
    let mut schedule = Schedule::default();
    Planner::new().padded(&mut schedule, 2, 4, &Outputs::All, Rows::Keep).expect("a schedule");
    for pass in [Pass::Train, Pass::TrainRecompute] {
        refused(cuda.weights(&config, pass).map(drop), words);
        refused(cuda.plan(&config, &schedule, pass).map(drop), words);
    }
}

/// Of a pass backward: shapes that are not the plan's, weights and plans without a way back. Nothing is written.
#[test]
fn a_pass_backward_over_other_things() {
    let _alone = alone();
    let cuda = Cuda::new(0).expect("a device");
    let checkpoint = checkpoint();
    let config = &checkpoint.config;
    let len = checkpoint.parameters.len();
    let mut flat = cuda.alloc::<f32>(len).expect("memory");
    cuda.upload(&checkpoint.parameters, flat.as_view_mut()).expect("a copy");
    let [infer, train] = [Pass::Infer, Pass::Train].map(|pass| {
        let mut weights = cuda.weights(config, pass).expect("weights");
        cuda.pack(flat.as_view(), &mut weights).expect("packed weights");
        let mut schedule = Schedule::default();
        let rows = if pass == Pass::Train { Rows::Keep } else { Rows::Reuse };
        Planner::new().padded(&mut schedule, 2, 4, &Outputs::All, rows).expect("a schedule");
        (weights, cuda.plan(config, &schedule, pass).expect("a plan"))
    });
    let bytes = cuda.workspace_bytes(&train.1);
    let mut workspace = cuda.alloc::<u8>(bytes).expect("memory");
    let tokens = cuda.alloc::<u32>(8).expect("memory");
    let hidden = cuda.alloc::<f32>(8 * config.hidden + 1).expect("memory");
    let mut d_input = cuda.alloc::<f32>(8 * config.input + 1).expect("memory");
    let mut gradient = cuda.alloc::<f32>(len + 1).expect("memory");
    cuda.upload(&vec![7.0; len + 1], gradient.as_view_mut()).expect("a copy");
    let mut run = |weights, plan, bytes: usize, rows: usize, numbers: usize, inputs: usize| {
        let (workspace, d_input) = (workspace.slice_mut(..bytes), d_input.slice_mut(..inputs));
        let (hidden, gradient) = (hidden.slice(..rows), gradient.slice_mut(..numbers));
        let input = Input::Tokens(tokens.as_view());
        cuda.scan_backward(weights, plan, input, workspace, hidden, gradient, Some(d_input))
    };
    let (rows, inputs) = (8 * config.hidden, 8 * config.input);
    let inference = &["plan and weights", "those of a training pass"];
    refused(run(&infer.0, &train.1, bytes, rows, len, inputs), inference);
    refused(run(&train.0, &infer.1, bytes, rows, len, inputs), inference);
    let (weights, plan) = &train;
    refused(run(weights, plan, bytes - 1, rows, len, inputs), &["workspace", &format!("at least {bytes}")]);
    refused(run(weights, plan, bytes, rows + 1, len, inputs), &["d_hidden", &format!("{rows} elements")]);
    refused(run(weights, plan, bytes, rows, len + 1, inputs), &["gradient", &format!("{len} elements")]);
    refused(run(weights, plan, bytes, rows, len, inputs + 1), &["d_input", &format!("{inputs} elements")]);
    let mut written = vec![0.0; len + 1];
    cuda.download(gradient.as_view(), &mut written).expect("a copy");
    assert!(written.iter().all(|&x| x == 7.0), "something was written");
}

#[test]
fn another_shape() {
    let _alone = alone();
    let cuda = Cuda::new(0).expect("a device");
    let model = model(cuda.clone());
    let before = logits(&model);
    let plan = model.plan(2, 4, Outputs::Last).expect("a plan");
    let bytes = plan.workspace_bytes();
    let tokens = cuda.alloc::<u32>(9).expect("memory");
    let rows = cuda.alloc::<f32>(24).expect("memory");
    let mut workspace = cuda.alloc::<u8>(bytes + 256).expect("memory");
    let mut y = cuda.alloc::<f32>(5).expect("memory");
    cuda.upload(&[7.0; 5], y.as_view_mut()).expect("a copy");
    let mut run = |input: Input<'_, Cuda>, start: usize, end: usize, outputs: usize| {
        model.forward_into(&plan, input, workspace.slice_mut(start..end), y.slice_mut(..outputs))
    };
    let all = || Input::Tokens(tokens.slice(..8));
    refused(run(all(), 0, bytes, 3), &["y", "4 elements", "got 3"]);
    refused(run(all(), 0, bytes, 5), &["y", "4 elements", "got 5"]);
    refused(run(Input::Tokens(tokens.slice(..7)), 0, bytes, 4), &["tokens", "8 elements", "got 7"]);
    refused(run(Input::Tokens(tokens.slice(..9)), 0, bytes, 4), &["tokens", "8 elements", "got 9"]);
    refused(run(Input::Dense(rows.slice(..23)), 0, bytes, 4), &["dense input", "24 elements", "got 23"]);
    refused(run(all(), 0, bytes - 1, 4), &["workspace", &format!("at least {bytes} bytes")]);
    refused(run(all(), 4, bytes + 4, 4), &["workspace", "aligned to 256 bytes"]);
    let mut written = [0.0; 5];
    cuda.download(y.as_view(), &mut written).expect("a copy");
    assert_eq!(written, [7.0; 5], "something was written");
    let mut run = |start: usize, end: usize| {
        let input = Input::Tokens(tokens.slice(..8));
        model.forward_into(&plan, input, workspace.slice_mut(start..end), y.slice_mut(..4))
    };
    run(256, bytes + 256).expect("a pass");
    // The backend's own line keeps its kernels in bounds, whoever calls.
    let mut schedule = Schedule::default();
    Planner::new().padded(&mut schedule, 2, 4, &Outputs::Last, Rows::Reuse).expect("a schedule");
    let config = model.config();
    let raw = cuda.plan(config, &schedule, Pass::Infer).expect("a plan");
    let weights = cuda.weights(config, Pass::Infer).expect("weights");
    let mut hidden = cuda.alloc::<f32>(40).expect("memory");
    let mut scan = |bytes: usize, floats: usize| {
        let input = Input::Tokens(tokens.slice(..8));
        cuda.scan(&weights, &raw, input, workspace.slice_mut(..bytes), hidden.slice_mut(..floats))
    };
    let bytes = cuda.workspace_bytes(&raw);
    refused(scan(bytes - 1, 40), &["workspace", &format!("at least {bytes} bytes")]);
    refused(scan(bytes, 39), &["hidden", "40 elements", "got 39"]);
    scan(bytes, 40).expect("a pass");
    refused(cuda.readout(&weights, hidden.slice(..39), y.slice_mut(..4)), &["hidden", "got 39"]);
    refused(cuda.readout(&weights, hidden.slice(..40), y.slice_mut(..3)), &["y", "4 elements", "got 3"]);
    let mut arena = cuda.alloc::<u8>(cuda.arena_bytes(config, 3)).expect("memory");
    refused(cuda.copy_states(config, arena.as_view_mut(), &[(0, 3)]), &["slots", "below 3", "got 3"]);
    refused(cuda.copy_states(config, arena.as_view_mut(), &[(1, 1)]), &["pairs", "got 1"]);
    let mut states = [0.0; 40];
    refused(cuda.read_states(config, arena.as_view(), &[3], &mut states), &["slots", "below 3", "got 3"]);
    refused(cuda.read_states(config, arena.as_view(), &[0], &mut states[..39]), &["states", "40 elements"]);
    refused(cuda.write_states(config, arena.as_view_mut(), &[7], &states), &["slots", "below 3", "got 7"]);
    cuda.wait().expect("well run");
    assert_eq!(logits(&model), before);
}

#[test]
fn a_token_out_of_range_on_the_device() {
    let _alone = alone();
    let cuda = Cuda::new(0).expect("a device");
    let model = model(cuda.clone());
    let before = logits(&model);
    let plan = model.plan(2, 4, Outputs::All).expect("a plan");
    let mut tokens = cuda.alloc::<u32>(8).expect("memory");
    let mut workspace = cuda.alloc::<u8>(plan.workspace_bytes()).expect("memory");
    let mut y = cuda.alloc::<f32>(16).expect("memory");
    let mut batch = BATCH.concat();
    let mut run = |batch: &[u32]| {
        cuda.upload(batch, tokens.as_view_mut()).expect("a copy");
        let input = Input::Tokens(tokens.as_view());
        model.forward_into(&plan, input, workspace.as_view_mut(), y.as_view_mut()).expect("a pass");
        let mut logits = [0.0; 16];
        cuda.download(y.as_view(), &mut logits).expect("a copy");
        logits
    };
    assert_eq!(run(&batch)[..], before[..]);
    plan.check().expect("every token is known");
    (batch[6], batch[7]) = (3, u32::MAX);
    let logits = run(&batch);
    assert_eq!(logits[..12], before[..12], "what does not depend on it");
    assert!(logits[12..].iter().all(|x| x.is_nan()), "{logits:?}");
    let error = plan.check().expect_err("a bad token");
    assert!(matches!(error, Error::DeviceToken { sequence: 1, position: 2, vocabulary: 3 }), "{error}");
    assert!(error.to_string().contains("sequence 1, position 2"), "{error}");
    plan.check().expect("asking clears it");
    assert_eq!(run(&BATCH.concat())[..], before[..]);
    plan.check().expect("every token is known");
}

#[test]
fn what_a_capture_forbids() {
    let _alone = alone();
    let stream = stream();
    let cuda = Cuda::on(&stream).expect("a device");
    let model = model(cuda.clone());
    let before = logits(&model);
    let mut session = model.session().max_batch(2).max_time(4).build().expect("a session");
    session.forward(&BATCH).expect("a pass");
    let mut streams = model.streams(2).expect("streams");
    let open = streams.open().expect("a stream");
    streams.prefill(open, &[0, 1]).expect("a prompt");
    let plan = model.plan(2, 4, Outputs::All).expect("a plan");
    let tokens = stream.clone_htod(&BATCH.concat()).expect("memory");
    let mut workspace = cuda.alloc::<u8>(plan.workspace_bytes()).expect("memory");
    let mut y = cuda.alloc::<f32>(16).expect("memory");
    let mut spare = cuda.alloc::<u32>(8).expect("memory");

    for mode in [
        Mode::CU_STREAM_CAPTURE_MODE_GLOBAL,
        Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
        Mode::CU_STREAM_CAPTURE_MODE_RELAXED,
    ] {
        stream.begin_capture(mode).expect("a capture");
        let words =
            |action: &'static str| ["cuda:0", action, "a capture is in progress", "before the capture"];
        refused(cuda.alloc::<f32>(4).map(drop), &words("allocate"));
        refused(cuda.upload(&[1.0; 16], y.as_view_mut()), &words("upload"));
        refused(cuda.download(y.as_view(), &mut [0.0; 16]), &words("download"));
        refused(cuda.wait(), &words("wait"));
        refused(model.plan(1, 1, Outputs::All).map(drop), &words("allocate"));
        refused(plan.check(), &words("download"));
        refused(Cuda::on(&stream).map(drop), &words("load kernels"));
        refused(cuda.clone().with_dtype(Dtype::Bf16).map(drop), &words("load kernels"));
        refused(Model::new(&checkpoint(), cuda.clone()).map(drop), &words("allocate"));
        refused(model.session().build().map(drop), &words("allocate"));
        refused(model.streams(1).map(drop), &words("allocate"));
        // Of the shape that is planned, and of another.
        refused(session.forward(&BATCH).map(drop), &words("upload"));
        refused(session.forward(&[[0u32]]).map(drop), &words("plan"));
        refused(streams.append(&[(open, 1)]).map(drop), &["a capture is in progress"]);
        refused(streams.prefill(open, &[1]).map(drop), &["a capture is in progress"]);
        refused(streams.fork(open).map(drop), &["a capture is in progress"]);
        refused(streams.save(open).map(drop), &["a capture is in progress"]);
        refused(
            cuda::capture::<u32>(&model, &plan, &mut spare, &mut workspace, &mut y).map(drop),
            &words("begin another"),
        );
        // A pass may be captured, and nothing above has spoiled that.
        let input = Input::Tokens(tokens.as_view());
        model.forward_into(&plan, input, workspace.as_view_mut(), y.as_view_mut()).expect("launches only");
        let graph =
            stream.end_capture(CUgraphInstantiate_flags(0)).expect("a whole capture").expect("a graph");
        cuda.zero(y.as_view_mut()).expect("zeros");
        graph.launch().expect("a replay");
        let mut replayed = [f32::NAN; 16];
        cuda.download(y.as_view(), &mut replayed).expect("a copy");
        assert_eq!(replayed[..], before[..]);
        drop(graph);
        // The device and everything on it are as before.
        assert_eq!(session.forward(&BATCH).expect("a pass")[..], before[..]);
        assert_eq!(streams.position(open).expect("open"), 2);
    }
    let fork = streams.fork(open).expect("a fork");
    let y = streams.append(&[(open, 2), (fork, 2)]).expect("a token").to_vec();
    assert_eq!(y[..2], before[4..6], "as the first three tokens of the batch");
    assert_eq!(y[..2], y[2..]);
}

#[test]
fn event_tracking_and_captures() {
    let _alone = alone();
    let context = CudaContext::new(0).expect("a device");
    let stream = context.new_stream().expect("a stream");
    assert!(context.is_managing_stream_synchronization());
    let model = model(Cuda::on(&stream).expect("a device"));
    let before = logits(&model);
    let plan = model.plan(2, 4, Outputs::All).expect("a plan");
    let tokens = stream.clone_htod(&BATCH.concat()).expect("memory");
    let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes()).expect("memory");
    let mut y = stream.alloc_zeros::<f32>(16).expect("memory");
    let words = &["event tracking is on", "disable_event_tracking"];
    refused(
        cuda::capture::<u32>(
            &model,
            &plan,
            stream.clone_htod(&BATCH.concat()).expect("memory"),
            &mut workspace,
            &mut y,
        )
        .map(drop),
        words,
    );
    stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).expect("a capture");
    let input = Input::Tokens(tokens.as_view());
    refused(model.forward_into(&plan, input, workspace.as_view_mut(), y.as_view_mut()), words);
    stream.end_capture(CUgraphInstantiate_flags(0)).expect("nothing spoiled it");
    // Without a capture events are as good as none.
    let input = Input::Tokens(tokens.as_view());
    model.forward_into(&plan, input, workspace.as_view_mut(), y.as_view_mut()).expect("a pass");
    assert_eq!(stream.clone_dtoh(&y).expect("a copy"), before);
    assert_eq!(logits(&model), before);
}

#[test]
fn a_model_on_a_default_stream_can_be_captured() {
    let _alone = alone();
    let context = CudaContext::new(0).expect("a device");
    // SAFETY: each of the two streams is used alone.
    unsafe { context.disable_event_tracking() };
    for stream in [context.default_stream(), context.per_thread_stream()] {
        let model = model(Cuda::on(&stream).expect("a device"));
        let before = logits(&model);
        let plan = model.plan(2, 4, Outputs::All).expect("a plan");
        let tokens = stream.clone_htod(&BATCH.concat()).expect("memory");
        let workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes()).expect("memory");
        let y = stream.alloc_zeros::<f32>(16).expect("memory");
        let mut graph = cuda::capture::<u32>(&model, &plan, tokens, workspace, y).expect("a graph");
        graph.launch().expect("a replay");
        assert_eq!(stream.clone_dtoh(&graph.y()).expect("a copy"), before);
        assert_eq!(logits(&model), before);
    }
}

/// A graph holds its own pass only, and no pass of another thread is lost to it.
#[test]
fn a_capture_beside_passes_of_another_thread() {
    let _alone = alone();
    let stream = stream();
    let cuda = Cuda::on(&stream).expect("a device");
    let model = model(cuda.clone());
    let expected = logits(&model);
    let plan = model.plan(2, 4, Outputs::All).expect("a plan");
    let memory = || {
        let tokens = stream.clone_htod(&BATCH.concat()).expect("memory");
        let workspace = cuda.alloc::<u8>(plan.workspace_bytes()).expect("memory");
        (tokens, workspace, cuda.alloc::<f32>(16).expect("memory"))
    };
    let (mut tokens, mut workspace, mut y) = memory();
    let (own, mut scratch, mut logits) = memory();
    let mut streams = model.streams(1).expect("streams");
    let open = streams.open().expect("a stream");
    let (captured, passes_done) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let capturer = scope.spawn(|| {
            while !passes_done.load(Ordering::SeqCst) {
                cuda::capture::<u32>(&model, &plan, &mut tokens, &mut workspace, &mut y).expect("a graph");
                captured.fetch_add(1, Ordering::SeqCst);
            }
            let mut graph =
                cuda::capture::<u32>(&model, &plan, &mut tokens, &mut workspace, &mut y).expect("a graph");
            graph.launch().expect("a replay");
            stream.clone_dtoh(&graph.y()).expect("a copy")
        });
        for _ in 0..20 {
            cuda.upload(&[7.0f32; 16], logits.as_view_mut()).expect("a copy");
            let input = Input::Tokens(own.as_view());
            model.forward_into(&plan, input, scratch.as_view_mut(), logits.as_view_mut()).expect("a pass");
            let mut found = [f32::NAN; 16];
            cuda.download(logits.as_view(), &mut found).expect("a copy");
            assert_eq!(found[..], expected[..]);
            streams.append(&[(open, 1)]).expect("a token");
        }
        let captures = captured.load(Ordering::SeqCst);
        passes_done.store(true, Ordering::SeqCst);
        assert!(captures > 1, "nothing was captured beside the passes");
        assert_eq!(capturer.join().expect("captures"), expected);
    });
}

#[test]
fn memory_of_another_stream() {
    let _alone = alone();
    let cuda = Cuda::new(0).expect("a device");
    let model = model(cuda.clone());
    let before = logits(&model);
    let plan = model.plan(2, 4, Outputs::All).expect("a plan");
    let tokens = cuda.stream().clone_htod(&BATCH.concat()).expect("memory");
    let mut workspace = cuda.alloc::<u8>(plan.workspace_bytes()).expect("memory");
    let mut y = cuda.alloc::<f32>(16).expect("memory");
    // Of another handle to the context, tracked there, and of this one, not tracked: nothing would keep either in order.
    let tracked = CudaContext::new(0).expect("a device").new_stream().expect("a stream");
    let untracked = cuda.stream().context().new_stream().expect("a stream");
    for other in [tracked, untracked] {
        let words = ["another stream", "cuda:0"];
        let mut elsewhere = other.alloc_zeros::<f32>(16).expect("memory");
        let input = || Input::Tokens(tokens.as_view());
        refused(
            model.forward_into(&plan, input(), workspace.as_view_mut(), elsewhere.as_view_mut()),
            &[words[0], words[1], "y"],
        );
        let there = self::model(Cuda::on(&other).expect("a device"));
        let plan = there.plan(2, 4, Outputs::All).expect("a plan");
        refused(model.forward_into(&plan, input(), workspace.as_view_mut(), y.as_view_mut()), &words);
    }
    // In one context that tracks, events keep them in order.
    let context = CudaContext::new(0).expect("a device");
    let [first, second] = [0, 1].map(|_| context.new_stream().expect("a stream"));
    let model = self::model(Cuda::on(&first).expect("a device"));
    let plan = model.plan(2, 4, Outputs::All).expect("a plan");
    let tokens = second.clone_htod(&BATCH.concat()).expect("memory");
    let mut workspace = second.alloc_zeros::<u8>(plan.workspace_bytes()).expect("memory");
    let mut y = second.alloc_zeros::<f32>(16).expect("memory");
    model
        .forward_into(&plan, Input::Tokens(tokens.as_view()), workspace.as_view_mut(), y.as_view_mut())
        .expect("a pass");
    assert_eq!(second.clone_dtoh(&y).expect("a copy"), before);
}

#[test]
fn states_that_would_race_or_lie_askew() {
    let _alone = alone();
    let cuda = Cuda::new(0).expect("a device");
    let model = model(cuda.clone());
    let before = logits(&model);
    let config = model.config();
    let mut arena = cuda.alloc::<u8>(cuda.arena_bytes(config, 4) + 8).expect("memory");
    let states = [0.5f32; 2 * 2 * 20];
    cuda.write_states(config, arena.as_view_mut(), &[0, 1], &states).expect("states");
    for pairs in [[(0, 1), (1, 2)], [(0, 2), (1, 2)], [(0, 1), (1, 0)]] {
        refused(cuda.copy_states(config, arena.as_view_mut(), &pairs), &["pairs"]);
    }
    refused(cuda.copy_states(config, arena.as_view_mut(), &[(1, 1)]), &["pairs"]);
    refused(cuda.write_states(config, arena.as_view_mut(), &[1, 1], &states), &["slots", "slot 1 twice"]);
    let mut read = [0.0; 2 * 20];
    refused(cuda.read_states(config, arena.slice(1..), &[0], &mut read), &["arena", "aligned to 256"]);
    cuda.copy_states(config, arena.as_view_mut(), &[(0, 2), (0, 3)]).expect("a copy");
    cuda.read_states(config, arena.as_view(), &[3], &mut read).expect("states");
    assert_eq!(read[0], 0.5);
    let mut view = arena.as_view_mut();
    refused(cuda.cut(&mut view, 0, 1 << 62).map(drop), &["floats"]);
    refused(cuda.cut(&mut view, usize::MAX, 1).map(drop), &["floats"]);
    assert_eq!(logits(&model), before);
}

#[test]
fn numbers_too_large_for_the_type() {
    let _alone = alone();
    let on = |dtype: Dtype| Cuda::new(0).and_then(|cuda| cuda.with_dtype(dtype)).expect("a device");
    let mut large = checkpoint();
    large.parameters[7] = 65_520.0;
    refused(Model::new(&large, on(Dtype::F16)).map(drop), &["leaf.w, element 7", "f16", "6.552e4"]);
    large.parameters[7] = 65_519.0;
    Model::new(&large, on(Dtype::F16)).expect("rounds to the largest number of f16");
    large.parameters[7] = -3.4e38;
    for dtype in [Dtype::Bf16, Dtype::F32] {
        refused(Model::new(&large, on(dtype)).map(drop), &["leaf.w, element 7", "3.4e38"]);
    }
    let dense = |dtype: Dtype, x: f32| {
        let model = Model::new(&checkpoint(), on(dtype)).expect("a model");
        let mut session = model.session().dense().max_time(2).build().expect("a session");
        session.forward_dense(&[[0.0, 0.0, 0.0, 0.0, x, 0.0]]).map(|y| y.to_vec())
    };
    refused(dense(Dtype::F16, 7e4), &["sequence 0, element 4", "7e4"]);
    refused(dense(Dtype::Bf16, f32::MAX), &["sequence 0, element 4"]);
    assert!(dense(Dtype::F16, 6e4).expect("logits").iter().all(|y| y.is_finite()));
}

#[test]
fn a_capture_that_fails_leaves_the_stream_free() {
    let _alone = alone();
    let stream = stream();
    let model = model(Cuda::on(&stream).expect("a device"));
    let before = logits(&model);
    let plan = model.plan(2, 4, Outputs::All).expect("a plan");
    let capture = |inputs: usize, outputs: usize| {
        let tokens = stream.alloc_zeros::<u32>(inputs).expect("memory");
        let workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes()).expect("memory");
        let y = stream.alloc_zeros::<f32>(outputs).expect("memory");
        cuda::capture::<u32>(&model, &plan, tokens, workspace, y)
    };
    refused(capture(7, 16).map(drop), &["tokens", "8 elements", "got 7"]);
    refused(capture(8, 15).map(drop), &["y", "16 elements", "got 15"]);
    let mut graph = capture(8, 16).expect("a graph");
    stream.memcpy_htod(&BATCH.concat(), &mut graph.input_mut()).expect("a copy");
    graph.launch().expect("a replay");
    assert_eq!(stream.clone_dtoh(&graph.y()).expect("a copy"), before);
    drop(graph);
    assert_eq!(logits(&model), before);
}

#[test]
fn what_threads_may_share_and_send() {
    fn share<T: Send + Sync>() {}
    fn send<T: Send>() {}
    share::<Cuda>();
    share::<Model<Cuda>>();
    share::<pr_lstm::Plan<Cuda>>();
    share::<pr_lstm::Plan<Cpu>>();
    send::<pr_lstm::Session<Cuda>>();
    send::<pr_lstm::Streams<Cuda>>();
}
