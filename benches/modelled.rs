//! What the passes of the targets would take on a card by what their launches count on the virtual GPU: *modelled*,
//! by a model that was calibrated on an H200 on 2026-11-26 for the kernels of then; what it has of `wgmma` is of the data sheet, and a
//! table shows what hangs on it. H = 256, R = 1, bf16; at last H = 64, with
//! launches for every step and with the whole tree in a block, which the model was not calibrated for.
//!
//! `PR_LSTM_VIRTUAL_GPU_CHIP=sm_90 cargo bench --features gpu-benches --bench modelled` prints tables in Markdown: alike launches with their bound, and the
//! sum. Needs no GPU. As a test it runs small. The training step is run whole. The forward pass would take too long: a launch
//! of each kernel on whole tiles is counted, and every block of the schedule's launches is taken to count as its blocks do.

#[path = "../tests/common/ptxas.rs"]
mod ptxas;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use pr_lstm::backend::{Backend as _, Input};
use pr_lstm::tree::{Planner, Rows, Schedule};
use pr_lstm::{Adam, Checkpoint, Config, Cuda, Dtype, Model, Outputs, Parameters, Tape, model};
use virtual_gpu::Launched;
use virtual_gpu::model::{Bound, Card, H200, Modelled};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const HIDDEN: usize = 256;
/// Packed blocks of units.
const BLOCKS: usize = HIDDEN / 16;
/// Rows of a launch of a step at most, and from twice how many blocks of 32 rows a multiprocessor on its tiles have 64 rows,
/// and its weights stay: as the library has it.
const MOST_ROWS: usize = 16384;
const NARROW: usize = 8;
const WIDE: usize = 17;
/// The card, and the chip of its cubins.
const CARD: Card = H200;
const CHIP: &str = "sm_90";

fn config() -> Config {
    Config::new(3, HIDDEN, 2)
}

/// A model whose weights fit a block's shared memory.
fn small() -> Config {
    Config::new(3, 64, 2)
}

/// FLOP of a merge with its unary layer, by the algorithm.
fn merge_flop(hidden: usize) -> f64 {
    (2 * (2 * hidden * 5 * hidden) + 2 * (hidden * 4 * hidden)) as f64
}

/// Registers of a thread of every kernel of these images.
fn registers(images: &[&str]) -> Result<BTreeMap<String, u32>> {
    let mut registers = BTreeMap::new();
    for image in images {
        // What runs on this chip alone.
        let alone = if image.starts_with("wgmma_") { "a" } else { "" };
        let path = Path::new(env!("PR_LSTM_KERNELS")).join(format!("{image}.{CHIP}{alone}.txt"));
        let words = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        registers.extend(ptxas::resources(&words).into_iter().map(|(name, used)| (name, used.registers)));
    }
    Ok(registers)
}

/// Prints a pass by launch and in sum; `flop` is the algorithm's.
fn report(what: &str, flop: f64, launches: &[Launched], registers: &BTreeMap<String, u32>) -> Result<()> {
    let mut alike: BTreeMap<(&str, u32), (usize, Modelled)> = BTreeMap::new();
    let mut seconds = 0.0;
    let mut by_bound: BTreeMap<Bound, f64> = BTreeMap::new();
    for launch in launches {
        let used = registers.get(&launch.kernel).ok_or_else(|| format!("no kernel {}", launch.kernel))?;
        let modelled = CARD.model(launch, *used).ok_or_else(|| format!("no block of {launch:?} fits"))?;
        alike.entry((&launch.kernel, launch.blocks)).or_insert((0, modelled)).0 += 1;
        seconds += modelled.seconds;
        *by_bound.entry(modelled.bound).or_default() += modelled.seconds;
    }
    println!("\n{what}: modelled for {}\n", CARD.name);
    println!(
        "| kernel | blocks | on an SM | launches | µs each | µs | bound |\n|---|---|---|---|---|---|---|"
    );
    for ((kernel, blocks), (count, Modelled { together, seconds, bound, .. })) in alike {
        let each = seconds * 1e6;
        println!(
            "| {kernel} | {blocks} | {together} | {count} | {each:.2} | {:.1} | {bound:?} |",
            each * count as f64
        );
    }
    let (rate, count) = (flop / seconds, launches.len());
    println!("\n{count} launches, {:.1} µs, {:.2} GFLOP by the algorithm", seconds * 1e6, flop / 1e9);
    println!(
        "{:.1} TFLOP/s: {:.1} % of the data sheet's {:.0}, {:.1} % of the {:.0} of mma.sync (modelled)",
        rate / 1e12,
        100.0 * rate / CARD.peak,
        CARD.peak / 1e12,
        100.0 * rate / CARD.mma_flops(),
        CARD.mma_flops() / 1e12,
    );
    for (bound, part) in by_bound {
        println!("{:.1} % of the time is bound by: {bound:?}", 100.0 * part / seconds);
    }
    Ok(())
}

/// How much of the ceiling a launch reaches if what nobody measured of `wgmma` is otherwise, the share of the data sheet's rate and
/// the clocks of a wait; if L2 gives a tenth less; and if c comes in two waits for memory a tile, as ptxas has it for merges, for
/// want of registers: the model sees the PTX, where it is one.
fn by_unmeasured(flop: f64, launch: &Launched, registers: u32, tiles: usize) -> Result<()> {
    let share = |card: Card, launch: &Launched| -> Result<f64> {
        let modelled = card.model(launch, registers).ok_or("it does not fit")?;
        Ok(100.0 * flop / modelled.seconds / CARD.mma_flops())
    };
    println!("\n| part of the data sheet's rate of wgmma | wait, clocks | of mma.sync |\n|---|---|---|");
    for (rate, wgmma_wait) in
        [1.0, 0.8, CARD.wgmma / CARD.mma].into_iter().flat_map(|r| [0.0, 100.0, 200.0].map(|w| (r, w)))
    {
        let card = Card { wgmma: CARD.wgmma / rate, wgmma_wait, ..CARD };
        println!("| {rate:.2} | {wgmma_wait} | {:.1} % |", share(card, launch)?);
    }
    let mut waits = launch.clone();
    *waits.counts.get_mut("most_trips").ok_or("no trips were counted")? += tiles as f64;
    println!("\nL2 a tenth slower: {:.1} %", share(Card { l2: 0.9 * CARD.l2, ..CARD }, launch)?);
    println!("a wait for memory more a tile: {:.1} %", share(CARD, &waits)?);
    Ok(())
}

/// A training step as tapes have it: the launches of the recorded step are the same. Fills and copies are no kernels, and not
/// among them.
fn training_step(
    cuda: &Cuda,
    config: &Config,
    batch: usize,
    time: usize,
    outputs: &Outputs,
) -> Result<Vec<Launched>> {
    let mut parameters = Parameters::init(config, cuda.clone(), 1)?;
    let mut adam = Adam::paper().build(&parameters)?;
    let mut tape = Tape::new(&parameters, batch, time)?;
    let tokens: Vec<Vec<u32>> =
        (0..batch).map(|b| (0..time).map(|t| ((b + t * t) % 3) as u32).collect()).collect();
    virtual_gpu::launches();
    let hidden = tape.scan(&parameters, &tokens, outputs.clone())?;
    let logits = tape.readout(&parameters, hidden)?;
    let rows = tape.value(logits)?.len() / 2;
    let targets: Vec<u32> = (0..rows).map(|row| (row % 2) as u32).collect();
    let loss = tape.cross_entropy(logits, &targets)?;
    adam.step(&mut parameters, tape.backward(loss)?)?;
    if !tape.value(loss)?[0].is_finite() {
        return Err("a loss that is not finite".into());
    }
    Ok(virtual_gpu::launches())
}

/// The launches of a pass forward.
fn ran(cuda: Cuda, config: Config, batch: usize, time: usize, outputs: Outputs) -> Result<Vec<Launched>> {
    let flat = model::initial(&config, 1)?;
    let model = Model::new(&Checkpoint::new(config, flat), cuda)?;
    let plan = model.plan(batch, time, outputs)?;
    let stream = model.backend().stream();
    let tokens = stream.clone_htod(&vec![1u32; plan.inputs()])?;
    let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes())?;
    let mut y = stream.clone_htod(&vec![f32::NAN; plan.outputs() * 2])?;
    virtual_gpu::launches();
    model.forward_into(&plan, Input::Tokens(tokens.as_view()), workspace.as_view_mut(), y.as_view_mut())?;
    if stream.clone_dtoh(&y)?.iter().any(|y| !y.is_finite()) {
        return Err("a pass gave numbers that are not finite".into());
    }
    Ok(virtual_gpu::launches())
}

/// Each kernel of a pass forward on so many rows, in tiles of so many.
fn counted(cuda: Cuda, tile: usize, rows: usize) -> Result<BTreeMap<String, Launched>> {
    let launches = ran(cuda.with_tile(tile)?, config(), rows, 2, Outputs::Last)?;
    Ok(launches.into_iter().map(|launch| (launch.kernel.clone(), launch)).collect())
}

/// Launches of blocks whose weights stay: counted where each takes one tile of 256 rows, and two; as a test, one alone.
struct Stationary {
    one: BTreeMap<String, Launched>,
    two: BTreeMap<String, Launched>,
}

impl Stationary {
    fn count(cuda: &Cuda, whole: bool) -> Result<Self> {
        if !whole {
            let one = counted(cuda.clone(), 256, 256)?;
            return Ok(Stationary { two: one.clone(), one });
        }
        let sharing = cuda.device().multiprocessors as usize / (BLOCKS / 2);
        let counted = |tiles: usize| counted(cuda.clone(), 256, tiles * sharing * 256);
        Ok(Stationary { one: counted(1)?, two: counted(2)? })
    }

    /// On so many rows: every block as that which has most tiles.
    fn launch(&self, kernel: &str, rows: usize) -> Launched {
        let tiles = rows.div_ceil(256);
        let sharing = (CARD.sms as usize / (BLOCKS / 2)).min(tiles);
        let (more, blocks) = (tiles.div_ceil(sharing) - 1, (BLOCKS / 2 * sharing) as u32);
        let [one, two] = [&self.one, &self.two].map(|counted| counted[kernel].with_blocks(blocks));
        one.continued(&two, more)
    }
}

/// The launches of a pass forward over this schedule, their blocks as those that were counted; and its merges.
fn forward(
    cuda: &Cuda,
    stationary: &Stationary,
    batch: usize,
    time: usize,
    outputs: &Outputs,
) -> Result<(Vec<Launched>, usize)> {
    let [narrow, middle] = [counted(cuda.clone(), 32, 256)?, counted(cuda.clone(), 64, 256)?];
    let mut schedule = Schedule::default();
    Planner::new().padded(&mut schedule, batch, time, outputs, Rows::Reuse)?;
    let (width, mut start, mut launches) = (schedule.width(), 0, Vec::new());
    let rows_of = |name: &str, rows: usize, counted_rows: usize| {
        let launch = &middle[name];
        launch.with_blocks((rows * launch.blocks as usize).div_ceil(counted_rows) as u32)
    };
    launches.push(rows_of("tokens_lstm", schedule.leaves().len() * width, 512));
    for &end in schedule.step_ends() {
        let mut rows = (end as usize - start) * width;
        start = end as usize;
        while rows > 0 {
            let now = rows.min(MOST_ROWS);
            // As the library chooses on the card, not on the virtual chip that counts: all wide launches here are in rounds that
            // pay.
            for layer in ["merge", "unary"] {
                let tiled = |counts: &BTreeMap<String, Launched>, tile: usize, across: usize| {
                    let blocks = (BLOCKS / across * now.div_ceil(tile)) as u32;
                    counts[&format!("{layer}_lstm_{tile}")].with_blocks(blocks)
                };
                launches.push(match 2 * now.div_ceil(32) * BLOCKS / CARD.sms as usize {
                    0..NARROW => tiled(&narrow, 32, 1),
                    NARROW..WIDE => tiled(&middle, 64, 2),
                    _ => stationary.launch(&format!("{layer}_lstm_wgmma"), now),
                });
            }
            rows -= now;
        }
    }
    let rows = schedule.outputs().len() * width;
    launches.extend(["collect", "readout"].map(|name| rows_of(name, rows, 256)));
    Ok((launches, schedule.merges() * width))
}

/// Merges of a batch, all lanes.
fn merges_of(batch: usize, time: usize, outputs: &Outputs) -> Result<f64> {
    let mut schedule = Schedule::default();
    Planner::new().padded(&mut schedule, batch, time, outputs, Rows::Keep)?;
    Ok((schedule.merges() * schedule.width()) as f64)
}

fn main() -> Result<()> {
    virtual_gpu::load()?;
    let whole = std::env::args().any(|argument| argument == "--bench");
    let cuda = Cuda::new(0)?.with_dtype(Dtype::Bf16)?;
    println!("{CARD:#?}");
    let chip = format!("sm_{}", cuda.device().chip);
    if chip != CHIP {
        let why = "shared memory for fewer weights";
        return Err(format!("a virtual {chip} has {why}: set PR_LSTM_VIRTUAL_GPU_CHIP={CHIP}").into());
    }
    let inference = registers(&["bf16", "wgmma_bf16", "readout"])?;
    let training = registers(&["train_bf16", "wgmma_train_bf16", "readout", "loss", "adam"])?;
    // Packing alone is of the other image.
    let training = inference.clone().into_iter().chain(training).collect();
    let merges = 32 * 1024;
    let stationary = Stationary::count(&cuda, whole)?;
    let flop = (merges * 2 * 2 * HIDDEN * 5 * HIDDEN) as f64;
    for (stationary, kernel) in [
        (&Stationary::count(&cuda.clone().without_wgmma(), whole)?, "merge_lstm_256"),
        (&stationary, "merge_lstm_wgmma"),
    ] {
        let merge = stationary.launch(kernel, MOST_ROWS);
        report("merge of 32768 rows, two launches", flop, &[merge.clone(), merge.clone()], &inference)?;
        if kernel == "merge_lstm_wgmma" {
            let tiles = MOST_ROWS / 256 / (CARD.sms as usize / (BLOCKS / 2));
            by_unmeasured(flop / 2.0, &merge, inference[kernel], tiles)?;
        }
    }
    for (batch, time, outputs) in
        [(1024, 500, Outputs::All), (128, 40, Outputs::All), (128, 40, Outputs::Last)]
    {
        let (launches, merges) = forward(&cuda, &stationary, batch, time, &outputs)?;
        let what = format!("forward, B = {batch}, T = {time}, {outputs:?}");
        report(&what, merges as f64 * merge_flop(HIDDEN), &launches, &inference)?;
    }
    let (batch, time) = if whole { (128, 40) } else { (2, 3) };
    for outputs in [Outputs::Last, Outputs::All] {
        let flop = 3.0 * merges_of(batch, time, &outputs)? * merge_flop(HIDDEN);
        let launches = training_step(&cuda, &config(), batch, time, &outputs)?;
        report(&format!("training step, B = {batch}, T = {time}, {outputs:?}"), flop, &launches, &training)?;
    }
    let small = small();
    for (batch, whole_tree) in [128, 1024].into_iter().flat_map(|batch| [(batch, false), (batch, true)]) {
        let batch = if whole { batch } else { 2 };
        let (cuda, outputs) = (cuda.clone().with_whole_tree(whole_tree), Outputs::All);
        let how = if whole_tree { "the whole tree in a block" } else { "launches for every step" };
        let what = format!("H = {}, B = {batch}, T = {time}, {outputs:?}, {how}", small.hidden);
        let flop = merges_of(batch, time, &outputs)? * merge_flop(small.hidden);
        let launches = ran(cuda.clone(), small.clone(), batch, time, outputs.clone())?;
        report(&format!("forward, {what}"), flop, &launches, &inference)?;
        let launches = training_step(&cuda, &small, batch, time, &outputs)?;
        report(&format!("training step, {what}"), 3.0 * flop, &launches, &training)?;
    }
    Ok(())
}
