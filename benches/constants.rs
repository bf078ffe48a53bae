//! The constants of the model of a GPU's time that can be measured for themselves (rate of the tensor cores, rate of L2, a grid's
//! barrier, the gap between launches; on sm_90 the rate of `wgmma` and what a wait for it costs), with kernels of their own.
//! Knows nothing of the library.
//!
//! `cargo bench --features gpu-benches --bench constants`, or by the script of `scripts/gpu-bundle`. Prints a table in
//! Markdown. On the virtual GPU it checks that the kernels did their work, and prints no figure.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use cudarc::driver::sys::{CUdevice_attribute, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

const PTX: &str = include_str!(concat!(env!("PR_LSTM_KERNELS"), "/constants.compute_80.ptx"));
const WGMMA_PTX: &str = include_str!(concat!(env!("PR_LSTM_KERNELS"), "/constants_wgmma.compute_90a.ptx"));
const THREADS: u32 = 256;
/// Sums a warp keeps side by side, as in the kernel.
const CHAINS: u64 = 8;
/// Of one `mma` of 16 by 8 by 16.
const FLOP: u64 = 2 * 16 * 8 * 16;
/// Of a round of the kernel `wgmma`, in products of 16 by 8 by 16: 64 rows, 160 columns, 64 k.
const OF_A_ROUND: u64 = 4 * 20 * 4;

/// How much is done: enough to last milliseconds on a card, or just to see that it works.
struct Amounts {
    hmma_rounds: u32,
    wgmma_rounds: u32,
    l2_bytes: u32,
    l2_rounds: u32,
    barriers: u32,
    launches: u32,
}

const ON_A_CARD: Amounts = Amounts {
    hmma_rounds: 20_000,
    wgmma_rounds: 10_000,
    l2_bytes: 16 << 20,
    l2_rounds: 200,
    barriers: 2000,
    launches: 2000,
};
const VIRTUAL: Amounts =
    Amounts { hmma_rounds: 3, wgmma_rounds: 2, l2_bytes: 1 << 20, l2_rounds: 2, barriers: 3, launches: 20 };

struct Bench {
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    sms: u32,
    amounts: Amounts,
}

impl Bench {
    fn kernel(&self, name: &str) -> Result<CudaFunction, Box<dyn Error>> {
        Ok(self.module.load_function(name)?)
    }

    /// Seconds that `work` takes, milliseconds of it, the best of three after one that isn't timed. By the host's clock:
    /// events that tell the time ask for a newer driver than the library does.
    fn seconds(&self, mut work: impl FnMut() -> Result<(), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
        work()?;
        let mut best = f64::INFINITY;
        for _ in 0..3 {
            self.stream.synchronize()?;
            let start = Instant::now();
            work()?;
            self.stream.synchronize()?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(best)
    }

    /// Seconds of a kernel that multiplies so many rounds, and clocks of its slowest block.
    fn products(
        &self,
        kernel: &CudaFunction,
        shape: LaunchConfig,
        rounds: u32,
    ) -> Result<[f64; 2], Box<dyn Error>> {
        let blocks = shape.grid_dim.0 as usize;
        let mut sums = self.stream.clone_htod(&vec![f32::NAN; blocks * shape.block_dim.0 as usize])?;
        let mut clocks = self.stream.alloc_zeros::<u64>(blocks)?;
        let seconds = self.seconds(|| {
            let mut launch = self.stream.launch_builder(kernel);
            launch.arg(&mut sums).arg(&mut clocks).arg(&rounds);
            // SAFETY: a sum a thread and a count a block, as the kernels write them.
            unsafe { launch.launch(shape) }?;
            Ok(())
        })?;
        if self.stream.clone_dtoh(&sums)?.iter().any(|sum| !(sum.is_finite() && *sum != 0.0)) {
            return Err("the products of matrices did not arrive".into());
        }
        Ok([seconds, slowest(&self.stream.clone_dtoh(&clocks)?)])
    }

    /// FLOP a second, and clocks of an SM for one HMMA.16816.
    fn hmma(&self) -> Result<[f64; 2], Box<dyn Error>> {
        let (shape, rounds) = (shape(2 * self.sms), self.amounts.hmma_rounds); // 16 warps an SM
        let [seconds, clocks] = self.products(&self.kernel("hmma")?, shape, rounds)?;
        let warps = u64::from(shape.grid_dim.0 * THREADS / 32);
        let products = warps * CHAINS * u64::from(rounds);
        Ok([(products * FLOP) as f64 / seconds, clocks / (products / u64::from(self.sms)) as f64])
    }

    /// Of `wgmma`: clocks of an SM for a product of 16 by 8 by 16 where four warpgroups share it, and those of a wait, its fences
    /// included, where one has it for itself.
    fn wgmma(&self) -> Result<[f64; 2], Box<dyn Error>> {
        let kernel = self.stream.context().load_module(Ptx::from_src(WGMMA_PTX))?.load_function("wgmma")?;
        let rounds = self.amounts.wgmma_rounds;
        let clocks_of_a_round = |on_an_sm: u32| -> Result<f64, Box<dyn Error>> {
            let shape = LaunchConfig { block_dim: (128, 1, 1), ..shape(on_an_sm * self.sms) };
            Ok(self.products(&kernel, shape, rounds)?[1] / f64::from(rounds))
        };
        let product = clocks_of_a_round(4)? / (4 * OF_A_ROUND) as f64;
        Ok([product, clocks_of_a_round(1)? - OF_A_ROUND as f64 * product])
    }

    /// Bytes a second, and bytes a clock of an SM.
    fn l2(&self) -> Result<[f64; 2], Box<dyn Error>> {
        let kernel = self.kernel("l2")?;
        let blocks = 8 * self.sms;
        let (chunks, rounds) = (self.amounts.l2_bytes / 16, self.amounts.l2_rounds);
        let words: Vec<u32> = (0..chunks * 4).collect();
        let from = self.stream.clone_htod(&words)?;
        let mut to = self.stream.alloc_zeros::<u32>((blocks * THREADS) as usize)?;
        let mut clocks = self.stream.alloc_zeros::<u64>(blocks as usize)?;
        let seconds = self.seconds(|| {
            let mut launch = self.stream.launch_builder(&kernel);
            launch.arg(&from).arg(&mut to).arg(&mut clocks).arg(&chunks).arg(&rounds);
            // SAFETY: `from` has that many chunks, `to` a word a thread, `clocks` a count a block.
            unsafe { launch.launch(shape(blocks)) }?;
            Ok(())
        })?;
        let sum = |words: &[u32]| words.iter().fold(0u32, |sum, word| sum.wrapping_add(*word));
        let expected: Vec<u32> =
            words.chunks(4).map(|v| (v[0] ^ v[1] ^ v[2] ^ v[3]).wrapping_mul(rounds)).collect();
        if sum(&self.stream.clone_dtoh(&to)?) != sum(&expected) {
            return Err("l2 did not read what was written".into());
        }
        let bytes = f64::from(self.amounts.l2_bytes) * f64::from(rounds);
        let clocks = slowest(&self.stream.clone_dtoh(&clocks)?);
        Ok([bytes / seconds, bytes / f64::from(self.sms) / clocks])
    }

    /// Seconds of one barrier of a cooperative grid, a block an SM.
    fn barrier(&self) -> Result<f64, Box<dyn Error>> {
        let kernel = self.kernel("barrier")?;
        let rounds = self.amounts.barriers;
        let mut arrived = self.stream.alloc_zeros::<u32>(1)?;
        let seconds = self.seconds(|| {
            self.stream.memset_zeros(&mut arrived)?;
            let mut launch = self.stream.launch_builder(&kernel);
            launch.arg(&mut arrived).arg(&rounds);
            // SAFETY: one word, and all blocks of the grid live at once.
            unsafe { launch.launch_cooperative(shape(self.sms)) }?;
            Ok(())
        })?;
        if self.stream.clone_dtoh(&arrived)? != [rounds * self.sms] {
            return Err("not every block met the others".into());
        }
        Ok(seconds / f64::from(rounds))
    }

    /// Seconds from one launch to the next, of a stream and of a graph.
    fn gap(&self) -> Result<[f64; 2], Box<dyn Error>> {
        let kernel = self.kernel("nothing")?;
        let mut counted = self.stream.alloc_zeros::<u32>(1)?;
        let launches = self.amounts.launches;
        let mut enqueue = || -> Result<(), Box<dyn Error>> {
            for _ in 0..launches {
                let mut launch = self.stream.launch_builder(&kernel);
                launch.arg(&mut counted);
                // SAFETY: one word, and one launch after the other.
                unsafe { launch.launch(shape(1)) }?;
            }
            Ok(())
        };
        let of_a_stream = self.seconds(&mut enqueue)?;
        self.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        enqueue()?;
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0))?.ok_or("a capture gave no graph")?;
        let of_a_graph = self.seconds(|| Ok(graph.launch()?))?;
        if self.stream.clone_dtoh(&counted)? != [8 * launches] {
            return Err("not every launch was made".into());
        }
        Ok([of_a_stream, of_a_graph].map(|seconds| seconds / f64::from(launches)))
    }
}

fn shape(blocks: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }
}

fn slowest(clocks: &[u64]) -> f64 {
    clocks.iter().copied().max().unwrap_or(0) as f64
}

fn main() -> Result<(), Box<dyn Error>> {
    let context = CudaContext::new(0)?;
    // SAFETY: one stream, so there is nothing for events to order.
    unsafe { context.disable_event_tracking() };
    let name = context.name()?;
    let is_virtual = name.starts_with("Virtual");
    let sms = context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
    let bench = Bench {
        stream: context.new_stream()?,
        module: context.load_module(Ptx::from_src(PTX))?,
        sms,
        amounts: if is_virtual { VIRTUAL } else { ON_A_CARD },
    };
    let ([flops, hmma_clocks], [bytes, l2_bytes]) = (bench.hmma()?, bench.l2()?);
    let wgmma = if context.compute_capability()? == (9, 0) { Some(bench.wgmma()?) } else { None };
    let (barrier, [stream_gap, graph_gap]) = (bench.barrier()?, bench.gap()?);

    println!("| constant ({name}, {sms} SMs) | measured | H200, 2026-11-26 |\n|---|---|---|");
    let row = |what: &str, measured: String, h200: &str| {
        let measured = if is_virtual { "virtual, not measured" } else { &measured };
        println!("| {what} | {measured} | {h200} |");
    };
    row("HMMA.16816, clocks of an SM", format!("{hmma_clocks:.3}"), "1.549");
    row("HMMA, TFLOP/s", format!("{:.0}", flops / 1e12), "622");
    if let Some([product, wait]) = wgmma {
        row("wgmma, clocks of an SM for 16 by 8 by 16", format!("{product:.3}"), "not measured");
        row("wait for wgmma and its fences, clocks", format!("{wait:.0}"), "not measured");
    }
    row("L2, bytes a clock of an SM", format!("{l2_bytes:.1}"), "31.6");
    row("L2, GB/s", format!("{:.0}", bytes / 1e9), "7953");
    row("barrier of a cooperative grid, µs", format!("{:.2}", barrier * 1e6), "0.94");
    row("from launch to launch, a stream, µs", format!("{:.2}", stream_gap * 1e6), "3.81");
    row("from launch to launch, a graph, µs", format!("{:.2}", graph_gap * 1e6), "0.84");
    Ok(())
}
