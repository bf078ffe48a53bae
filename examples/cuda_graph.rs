//! An engine's own CUDA stream, memory and graph: `cargo run --features cuda --example cuda_graph`. Without a GPU it runs on
//! the virtual one: `LD_LIBRARY_PATH=target/debug/deps/virtual-gpu` once the tests have run.

use pr_lstm::backend::{Backend as _, Input};
use pr_lstm::cuda::{self, Cuda, cudarc::driver::CudaContext};
use pr_lstm::{Checkpoint, Config, Dtype, Model, Outputs, model};

const BATCH: usize = 3;
const TIME: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    cuda::count()?; // says in a sentence what is missing; cudarc panics without a driver
    let context = CudaContext::new(0)?;
    // SAFETY: there is one stream, so that nothing is left for events to order; and events would spoil the capture.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream()?;

    let config = Config::new(3, 64, 2);
    let checkpoint = Checkpoint::new(config.clone(), model::initial(&config, 0)?); // or `Model::load_as`, a file
    let model = Model::new(&checkpoint, Cuda::on(&stream)?.with_dtype(Dtype::Bf16)?)?;
    let plan = model.plan(BATCH, TIME, Outputs::Last)?; // uploads the tree, picks a path
    println!("{}, {} bytes, path {}", model.backend().device().name, plan.workspace_bytes(), plan.path());

    // The engine's memory: `[B, T]` tokens, the logits, and whatever workspace the plan asks for.
    let batch: [u32; BATCH * TIME] = [0, 1, 1, 0, 2, 1, 1, 1, 0, 0, 2, 2, 2, 0, 1];
    let tokens = stream.clone_htod(&batch)?;
    let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes())?;
    let mut y = stream.alloc_zeros::<f32>(plan.outputs() * config.output)?;
    model.forward_into(&plan, Input::Tokens(tokens.as_view()), workspace.as_view_mut(), y.as_view_mut())?;
    let eager = stream.clone_dtoh(&y)?;
    println!("{batch:?} -> {eager:?}");

    // The same as a graph: it is given the tokens, borrows workspace and logits, and cannot outlive them.
    let mut graph = cuda::capture(&model, &plan, tokens, &mut workspace, &mut y)?;
    for step in 0..3u32 {
        let next = batch.map(|token| (token + step) % 3);
        stream.memcpy_htod(&next, &mut graph.input_mut())?;
        graph.launch()?; // enqueues only
        let replayed = stream.clone_dtoh(&graph.y())?;
        println!("{next:?} -> {replayed:?}");
        assert_eq!(replayed == eager, step == 0);
    }
    graph.plan().check()?; // tokens on the device are seen by nobody else
    Ok(())
}
