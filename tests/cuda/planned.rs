//! A planned pass over the caller's memory: launches and nothing else, eager and replayed from a graph, equal bits.

use pr_lstm::backend::{Backend as _, Input};
use pr_lstm::cuda::cudarc::driver::CudaContext;
use pr_lstm::cuda::{self, Cuda};
use pr_lstm::model::{Cell, Checkpoint};
use pr_lstm::random::Random;
use pr_lstm::{Config, Model, Outputs};

use crate::common::device::{Device, Storage};
use crate::common::{Batch, POISON, assert_same_bits, narrow, on_device, parameters, random};

/// Sequences and their length.
const B: usize = 9;
const T: usize = 6;

fn models(random: &mut Random, backend: &Cuda) -> Vec<Model<Cuda>> {
    [(Cell::Lstm, 1, 33), (Cell::Rnn, 2, 7), (Cell::Lstm, 0, 16)]
        .map(|(cell, layers, hidden)| {
            let config = Config::new(5, hidden, 3).cell(cell).unary_layers(layers);
            let flat = narrow(&parameters(&config, random, 1.0));
            Model::new(&Checkpoint::new(config, flat), backend.clone()).expect("a model")
        })
        .into()
}

#[test]
fn a_planned_pass_makes_launches_only_and_has_the_bits_of_a_session() {
    let mut random = random(900);
    let device = Device::take();
    for storage in Storage::ALL {
        let backend = device.backend(storage);
        for model in models(&mut random, &backend) {
            let config = model.config();
            for outputs in [Outputs::All, Outputs::Last] {
                let plan = model.plan(B, T, outputs.clone()).unwrap();
                assert!(plan.path().starts_with("cuda "), "{}", plan.path());
                let len = plan.outputs() * config.output;
                for dense in [false, true] {
                    let tokens = Batch::tokens(&mut random, &[T; B], config.input);
                    let rows = Batch::dense(&mut random, &[T; B], config.input);
                    let (Batch::Tokens(t), Batch::Dense(x, _)) = (&tokens, &rows) else { unreachable!() };
                    let (t, x) = (on_device(&backend, &t.concat()), on_device(&backend, &x.concat()));
                    let mut workspace = on_device(&backend, &vec![POISON; plan.workspace_bytes()]);
                    let mut y = on_device(&backend, &vec![f32::NAN; len]);
                    backend.wait().unwrap();
                    device.calls();
                    device.launches();
                    for _ in 0..2 {
                        let input = match dense {
                            false => Input::Tokens(backend.view(&t, 0, B * T)),
                            true => Input::Dense(backend.view(&x, 0, B * T * config.input)),
                        };
                        let workspace = backend.view_mut(&mut workspace, 0, plan.workspace_bytes());
                        model
                            .forward_into(&plan, input, workspace, backend.view_mut(&mut y, 0, len))
                            .unwrap();
                    }
                    if device.is_virtual() {
                        let (calls, launches) = (device.calls(), device.launches().len());
                        let harmless = ["cuCtxGetCurrent", "cuCtxSetCurrent", "cuStreamIsCapturing"];
                        // The second where a launch may begin early.
                        let launching = ["cuLaunchKernel", "cuLaunchKernelEx"];
                        let other: Vec<_> = calls
                            .keys()
                            .filter(|name| !launching.contains(&&***name) && !harmless.contains(&&***name))
                            .collect();
                        assert!(other.is_empty(), "a forward makes more than launches: {calls:?}");
                        let launched: u64 = launching.iter().filter_map(|name| calls.get(*name)).sum();
                        assert!(launches >= 8 && launched == launches as u64, "{calls:?}");
                    }
                    let mut found = vec![0.0; len];
                    backend.download(backend.view(&y, 0, len), &mut found).unwrap();
                    let expected = if dense { &rows } else { &tokens }.logits(&model, outputs.clone());
                    let what = format!("{storage:?}, {config:?}, {outputs:?}, dense {dense}");
                    assert_same_bits(&found, &expected, &what);
                }
            }
        }
    }
}

#[test]
fn a_replayed_graph_has_the_bits_of_an_eager_pass() {
    let mut random = random(910);
    let device = Device::take();
    for storage in Storage::ALL {
        let backend = device.backend(storage);
        for model in models(&mut random, &backend) {
            let config = model.config();
            let plan = model.plan(B, T, Outputs::All).unwrap();
            let len = plan.outputs() * config.output;
            let tokens = backend.alloc::<u32>(B * T).unwrap();
            let workspace = on_device(&backend, &vec![POISON; plan.workspace_bytes()]);
            let y = on_device(&backend, &vec![f32::NAN; len]);
            backend.wait().unwrap();
            device.launches();
            let mut graph = cuda::capture(&model, &plan, tokens, workspace, y).unwrap();
            assert!(device.launches().is_empty(), "a capture runs nothing");
            let mut first = None;
            for round in 0..3 {
                let batch = Batch::tokens(&mut random, &[T; B], config.input);
                device.launches();
                let expected = batch.logits(&model, Outputs::All);
                let eager = device.launches();
                let Batch::Tokens(tokens) = &batch else { unreachable!() };
                backend.upload(&tokens.concat(), graph.input_mut()).unwrap();
                device.calls();
                graph.launch().unwrap();
                if device.is_virtual() {
                    let (calls, replayed) = (device.calls(), device.launches());
                    assert_eq!(calls.get("cuGraphLaunch"), Some(&1), "{calls:?}");
                    assert!(!calls.keys().any(|name| name.starts_with("cuLaunchKernel")), "{calls:?}");
                    let names = |launches: &[virtual_gpu::Launched]| -> Vec<String> {
                        launches.iter().map(|launch| launch.kernel.clone()).collect()
                    };
                    assert_eq!(names(&replayed), names(&eager));
                }
                let mut found = vec![f32::NAN; len];
                backend.download(graph.y(), &mut found).unwrap();
                let what = format!("{storage:?}, {config:?}, round {round}");
                assert_same_bits(&found, &expected, &what);
                assert!(first.get_or_insert_with(|| found.clone()) == &found || round > 0);
                assert!(round == 0 || first.as_ref() != Some(&found), "{what}: the input did not matter");
            }
            graph.plan().check().unwrap();
        }
    }
}

#[test]
fn on_a_stream_of_the_caller_bits_are_the_same() {
    let mut random = random(920);
    let device = Device::take();
    device.backend(Storage::Bf16); // loads the driver
    let context = CudaContext::new(0).unwrap();
    // SAFETY: everything here is on one stream at a time, and waited for.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let [mine, own] = [Cuda::on(&stream), Cuda::new(0)].map(|cuda| cuda.expect("a device"));
    let mut again = random.clone();
    for (mine, own) in models(&mut random, &mine).iter().zip(models(&mut again, &own)) {
        assert_eq!(mine.backend().stream().cu_stream(), stream.cu_stream());
        let batch = Batch::tokens(&mut random, &[T; B], 5);
        let what = format!("{:?}", own.config());
        assert_same_bits(&batch.logits(mine, Outputs::All), &batch.logits(&own, Outputs::All), &what);
    }
}
