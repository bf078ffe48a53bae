//! Planned passes over memory of the caller's, on the CPU: the bits of a session over whatever lay in that memory before,
//! and errors that write nothing.

mod common;

use common::{Batch, assert_same_bits, between, device_parameters, random, refused};
use pr_lstm::backend::{Backend, Input};
use pr_lstm::{Cell, Config, Cpu, Dtype, Error, Model, Outputs, Plan};

fn model(config: &Config, seed: u64) -> Model<Cpu> {
    device_parameters(config, &Cpu::new(), &mut random(seed), 2.0).model()
}

/// A planned pass over poisoned memory: the logits, poisoned before too.
fn planned(model: &Model<Cpu>, plan: &Plan<Cpu>, batch: &Batch) -> Vec<f32> {
    let cpu = model.backend();
    let mut workspace = cpu.alloc::<u8>(plan.workspace_bytes()).expect("a workspace");
    workspace.as_mut_slice().fill(0xff); // NaN
    let mut y = vec![f32::NAN; plan.outputs() * model.config().output];
    let flat_tokens: Vec<u32>;
    let flat_rows: Vec<f32>;
    let input = match batch {
        Batch::Tokens(sequences) => {
            flat_tokens = sequences.concat();
            Input::Tokens(&flat_tokens[..])
        }
        Batch::Dense(sequences, _) => {
            flat_rows = sequences.concat();
            Input::Dense(&flat_rows[..])
        }
    };
    model.forward_into(plan, input, workspace.as_mut_slice(), &mut y).expect("a pass");
    y
}

#[test]
fn a_planned_pass_has_the_bits_of_a_session() {
    for seed in 0..12 {
        let random = &mut random(seed);
        let cell = if seed % 2 == 0 { Cell::Lstm } else { Cell::Rnn };
        let config = Config::new(between(random, 1, 9), between(random, 1, 40), between(random, 1, 5))
            .cell(cell)
            .unary_layers(between(random, 0, 2));
        let (size, time) = (between(random, 1, 20), between(random, 1, 40));
        let wanted = [Outputs::All, Outputs::Last, Outputs::LastN(1 + time / 2), Outputs::At(vec![time / 2])];
        println!("seed {seed}: {config:?}, B = {size}, T = {time}");
        let model = model(&config, seed);
        for outputs in wanted {
            let plan = model.plan(size, time, outputs.clone()).expect("a plan");
            assert_eq!(plan.inputs(), size * time);
            assert_eq!(plan.outputs(), size * outputs.count(time));
            for batch in [
                Batch::tokens(random, &vec![time; size], config.input),
                Batch::dense(random, &vec![time; size], config.input),
            ] {
                let expected = batch.logits(&model, outputs.clone());
                let what = format!("{outputs:?}");
                // Twice: a pass leaves the plan as it is.
                assert_same_bits(&planned(&model, &plan, &batch), &expected, &what);
                assert_same_bits(&planned(&model, &plan.clone(), &batch), &expected, &what);
            }
            plan.check().expect("the CPU refuses bad tokens at once");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_and_writes_nothing() {
    let config = Config::new(3, 20, 2);
    let (model, cpu) = (model(&config, 1), Cpu::new());
    let plan = model.plan(4, 6, Outputs::Last).expect("a plan");
    let (tokens, rows) = (vec![1u32; 24], vec![0.5f32; 72]);
    let mut buffer = cpu.alloc::<u8>(plan.workspace_bytes() + 4).expect("a workspace");
    let mut y = [7.0f32; 9];
    let bytes = plan.workspace_bytes();
    let mut run = |model: &Model<Cpu>, input: Input<'_, Cpu>, start: usize, end: usize, outputs: usize| {
        let memory = buffer.as_slice().to_vec();
        let workspace = &mut buffer.as_mut_slice()[start..end];
        let result = model.forward_into(&plan, input, workspace, &mut y[..outputs]);
        if result.is_err() {
            assert!(y.iter().all(|&y| y == 7.0), "something was written");
            assert_eq!(buffer.as_slice(), memory, "something was run");
        }
        result
    };
    let all = || Input::Tokens(&tokens[..]);
    refused(run(&model, all(), 0, bytes, 7), &["y", "8 elements", "got 7"]);
    refused(run(&model, all(), 0, bytes, 9), &["y", "8 elements", "got 9"]);
    refused(run(&model, Input::Tokens(&tokens[..23]), 0, bytes, 8), &["tokens", "24 elements", "got 23"]);
    refused(run(&model, Input::Dense(&rows[..71]), 0, bytes, 8), &["dense input", "72 elements", "got 71"]);
    let short = &["workspace", &format!("at least {bytes} bytes"), &format!("got {}", bytes - 1)];
    refused(run(&model, all(), 0, bytes - 1, 8), short);
    refused(run(&model, all(), 1, bytes + 1, 8), &["workspace", "aligned"]);
    let mut bad = tokens.clone();
    bad[17] = 3;
    let error = run(&model, Input::Tokens(&bad[..]), 0, bytes, 8);
    assert!(matches!(error, Err(Error::Token { position: 17, token: 3, vocabulary: 3, .. })), "{error:?}");
    let other = model_of(&config.clone().unary_layers(2));
    refused(run(&other, all(), 0, bytes, 8), &["plan", "unary_layers: 2", "unary_layers: 1"]);
    // And as it should be, 4 bytes further on.
    run(&model, all(), 4, bytes + 4, 8).expect("a pass");

    refused(model.plan(0, 6, Outputs::Last), &["batch", "at least 1"]);
    refused(model.plan(4, 0, Outputs::Last), &["time", "at least 1"]);
    refused(model.plan(4, 6, Outputs::LastN(7)), &["outputs", "LastN(7)"]);
    refused(model.plan(1 << 40, 1 << 30, Outputs::Last), &["batch, time", "smaller batch"]);
}

fn model_of(config: &Config) -> Model<Cpu> {
    model(config, 2)
}

#[test]
fn the_cpu_keeps_f32_and_bf16() {
    assert_eq!(Cpu::new().dtype(), Dtype::F32);
    assert_eq!(Cpu::new().with_dtype(Dtype::F32).expect("itself").dtype(), Dtype::F32);
    assert_eq!(Cpu::new().with_dtype(Dtype::Bf16).expect("the other").dtype(), Dtype::Bf16);
    refused(Cpu::new().with_dtype(Dtype::F16), &["f16 on cpu", "f32 and bf16", "or a CUDA device"]);
    let f16 = Model::load_as("model.safetensors", Cpu::new(), Dtype::F16);
    refused(f16.map(drop), &["f16 on cpu", "not available"]);
}
