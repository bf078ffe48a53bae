//! What a forward pass and a streamed token take on a GPU, at the sizes of the targets (H = 256, R = 1).
//!
//! `cargo bench --features gpu-benches --bench forward`, or by the script of `scripts/gpu-bundle`. Prints a table in
//! Markdown. On the virtual GPU it runs everything once, small, and prints no figure.

mod card;

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use card::Card;
use pr_lstm::backend::{Backend as _, Input};
use pr_lstm::cuda::cudarc::driver::CudaStream;
use pr_lstm::cuda::{self, Cuda};
use pr_lstm::tree::{Planner, Rows, Schedule};
use pr_lstm::{Checkpoint, Config, Cpu, Dtype, Model, Outputs, Parameters};

const HIDDEN: usize = 256;
const VOCABULARY: usize = 3;
const OUTPUT: usize = 2;
/// Dense peak of bf16 tensor cores by a card's name, TFLOP/s, from the data sheets.
const PEAKS: [(&str, f64); 3] = [("H200", 989.0), ("H100", 989.0), ("A100", 312.0)];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A row of the table of passes.
struct Case {
    batch: usize,
    time: usize,
    outputs: Outputs,
}

/// FLOP of a pass by the algorithm, without padding: the merges and their unary layers.
fn flop(case: &Case) -> Result<f64> {
    let mut schedule = Schedule::default();
    Planner::new().padded(&mut schedule, case.batch, case.time, &case.outputs, Rows::Reuse)?;
    let merge = 2 * (2 * HIDDEN * 5 * HIDDEN) + 2 * (HIDDEN * 4 * HIDDEN);
    Ok((schedule.merges() * schedule.width() * merge) as f64)
}

/// Seconds of `work`, enqueued `times` times one after another: the median of five such rows, after one that isn't timed.
/// By the host's clock: events that tell the time ask for a newer driver than the library does.
fn seconds(stream: &Arc<CudaStream>, times: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut taken = Vec::new();
    for row in 0..6 {
        stream.synchronize()?;
        let start = Instant::now();
        (0..times).try_for_each(|_| work())?;
        stream.synchronize()?;
        if row > 0 {
            taken.push(start.elapsed().as_secs_f64() / times as f64);
        }
    }
    taken.sort_by(f64::total_cmp);
    Ok(taken[taken.len() / 2])
}

/// Seconds of a pass, launched and as a graph, and the path that it took.
fn pass(model: &Model<Cuda>, case: &Case, times: usize) -> Result<([f64; 2], &'static str)> {
    let stream = Arc::clone(model.backend().stream());
    let plan = model.plan(case.batch, case.time, case.outputs.clone())?;
    let tokens: Vec<u32> = (0..plan.inputs()).map(|i| (i * i % 7 % VOCABULARY) as u32).collect();
    let tokens = stream.clone_htod(&tokens)?;
    let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes())?;
    let mut y = stream.clone_htod(&vec![f32::NAN; plan.outputs() * OUTPUT])?;
    let launched = seconds(&stream, times, || {
        model.forward_into(
            &plan,
            Input::Tokens(tokens.as_view()),
            workspace.as_view_mut(),
            y.as_view_mut(),
        )?;
        Ok(())
    })?;
    if stream.clone_dtoh(&y)?.iter().any(|y| !y.is_finite()) {
        return Err("a pass gave numbers that are not finite".into());
    }
    let mut graph = cuda::capture(model, &plan, tokens, workspace, y)?;
    let replayed = seconds(&stream, times, || Ok(graph.launch()?))?;
    plan.check()?;
    Ok(([launched, replayed], plan.path()))
}

/// Seconds of a pass of one step, as a graph, with its leaves and its read-out, in tiles of so many rows, by `wgmma` where there is
/// that and it is wanted; None where there are no kernels of it.
fn step(
    model: &Model<Cuda>,
    checkpoint: &Checkpoint,
    rows: usize,
    (tile, wgmma): (usize, bool),
    times: usize,
) -> Result<Option<f64>> {
    let cuda = model.backend().clone();
    let cuda = if wgmma { cuda } else { cuda.without_wgmma() };
    let Ok(cuda) = cuda.with_tile(tile) else { return Ok(None) };
    let case = Case { batch: rows, time: 2, outputs: Outputs::Last };
    let ([_, replayed], _) = pass(&Model::new(checkpoint, cuda)?, &case, times)?;
    Ok(Some(replayed))
}

/// Seconds a token of one stream, the host's share and the copy of the logits included.
fn token(model: &Model<Cuda>, tokens: usize) -> Result<f64> {
    let mut streams = model.streams(1)?;
    let stream = streams.open()?;
    let mut append = |count: usize| -> Result<()> {
        for at in 0..count {
            if streams.append(&[(stream, (at % VOCABULARY) as u32)])?.iter().any(|y| !y.is_finite()) {
                return Err("a token gave numbers that are not finite".into());
            }
        }
        Ok(())
    };
    append(tokens)?;
    let start = Instant::now();
    append(tokens)?;
    Ok(start.elapsed().as_secs_f64() / tokens as f64)
}

fn main() -> Result<()> {
    let Card { context, name, is_virtual } = Card::open()?;
    let stream = context.new_stream()?;
    let case = |batch: usize, time: usize, outputs: Outputs| match is_virtual {
        true => Case { batch: batch.min(2), time: time.min(5), outputs },
        false => Case { batch, time, outputs },
    };
    // Of the length 500 as benches/peers/cudnn.py has them.
    let of_500 = [1024, 512, 128, 64, 8, 1].map(|batch| (batch, 500));
    let cases: Vec<Case> = of_500
        .into_iter()
        .chain([(128, 40)])
        .take(if is_virtual { 1 } else { usize::MAX })
        .flat_map(|(batch, time)| [case(batch, time, Outputs::All), case(batch, time, Outputs::Last)])
        .collect();
    let (times, tokens) = if is_virtual { (1, 3) } else { (20, 1 << 12) };

    let config = Config::new(VOCABULARY, HIDDEN, OUTPUT);
    let parameters = Parameters::init(&config, Cpu::new(), 1)?.to_vec()?;
    let checkpoint = Checkpoint::new(config, parameters);
    let peak = PEAKS.iter().find(|(card, _)| name.contains(card)).map(|(_, peak)| *peak);

    println!(
        "| pass ({name}; H = {HIDDEN}, R = 1) | path | GFLOP | launched | graph | TFLOP/s | of the bf16 peak |"
    );
    println!("|---|---|---|---|---|---|---|");
    let (mut streamed, mut by_tile) = (String::new(), String::new());
    for dtype in [Dtype::Bf16, Dtype::F32] {
        let model = Model::new(&checkpoint, Cuda::on(&stream)?.with_dtype(dtype)?)?;
        for case in &cases {
            let ([launched, replayed], path) = pass(&model, case, times)?;
            let (flop, what) =
                (flop(case)?, format!("B = {}, T = {}, {:?}", case.batch, case.time, case.outputs));
            let gflop = flop / 1e9;
            if is_virtual {
                println!("| {what} | {path} | {gflop:.2} | virtual, not measured | | | |");
                continue;
            }
            let tflops = flop / replayed / 1e12;
            let share = peak.map_or("unknown".into(), |peak| format!("{:.1} %", 100.0 * tflops / peak));
            let [launched, replayed] = [launched, replayed].map(|seconds| format!("{:.3} ms", seconds * 1e3));
            println!("| {what} | {path} | {gflop:.2} | {launched} | {replayed} | {tflops:.1} | {share} |");
        }
        let sizes: &[usize] =
            if is_virtual { &[2] } else { &[1, 32, 128, 256, 512, 1024, 2048, 4096, 8192, 16384] };
        for &rows in sizes {
            let mut cells = Vec::new();
            for tile in [(32, false), (64, false), (128, false), (256, false), (256, true)] {
                cells.push(match step(&model, &checkpoint, rows, tile, times)? {
                    Some(_) if is_virtual => "virtual, not measured".into(),
                    Some(seconds) => format!("{:.2} µs", seconds * 1e6),
                    None => "none".into(),
                });
            }
            by_tile += &format!("| {dtype} | {rows} | {} |\n", cells.join(" | "));
        }
        let taken = token(&model, tokens)?;
        let taken =
            if is_virtual { "virtual, not measured".into() } else { format!("{:.2} µs", taken * 1e6) };
        streamed += &format!("| {dtype} | {tokens} | {taken} |\n");
    }
    println!(
        "\n| one step, as a graph | rows | tiles of 32 | 64 | 128 | 256 | 256, wgmma if there is |\n|---|---|---|---|---|---|---|\n{by_tile}"
    );
    println!("| streaming, B = 1 | tokens | a token, amortised |\n|---|---|---|\n{streamed}");
    Ok(())
}
