//! The command line: what a person may ask for, and who does it.

mod bench;
mod evaluate;
mod plot;
mod report;
mod run_folder;
mod show;
mod train;
mod verify;

use std::fmt;
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use pr_lstm::backend::Backend as _;
use pr_lstm::tasks::Task;
use pr_lstm::train::Settings;
use pr_lstm::verify::Tolerances;
use pr_lstm::{Cell, Cpu, Dtype, Error, Recurrence, Result};

/// Train, evaluate and verify Parallel Recursive LSTMs, and the sequential models they are compared with.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train on a task, evaluate beyond the lengths trained on, leave a run folder.
    Train(TrainArgs),
    /// Evaluate a checkpoint at every length of a range.
    Evaluate(EvaluateArgs),
    /// List the fifteen tasks, with an example each.
    Tasks,
    /// Print samples of a task.
    Sample(SampleArgs),
    /// Tell what this build and this machine can do.
    Info,
    /// Run golden files through the oracle and a device, and compare every tensor.
    Verify(VerifyArgs),
    /// Time this crate on the CPU: steps, whole passes, training steps, streams, tasks, gates.
    Bench(BenchArgs),
    /// Make a page of tables and a picture of what `bench --json` and its peers printed.
    Report(ReportArgs),
}

#[derive(Args)]
struct TrainArgs {
    /// The task, one of those that `pr-lstm tasks` lists.
    #[arg(value_parser = task, required_unless_present = "resume")]
    task: Option<Task>,
    /// Go on with the run in this folder, on the device and in the type that are named again; of the settings only --steps may change.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["task", "settings", "out"])]
    resume: Option<PathBuf>,
    /// Folder to make for the run [default: runs/<task>-<n>].
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Steps of the whole run [default: 4000].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    steps: Option<u64>,
    #[command(flatten)]
    settings: SettingsArgs,
    /// Steps between two rows of metrics.csv.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    metrics_every: u64,
    /// Steps between two checkpoints.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_every: u64,
    /// Samples at each length of the final evaluation.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    samples: u32,
    /// Only every n-th length in the final evaluation.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Args)]
#[group(id = "settings", multiple = true)]
struct SettingsArgs {
    /// Where the settings start from: `cpu` is small, `paper` is the paper's protocol (H = 256, 10^6 steps).
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// The model: pr-lstm, pr-rnn, or a sequential baseline, lstm or rnn [default: pr-lstm].
    #[arg(long, value_parser = family)]
    model: Option<Family>,
    /// Hidden size H [default: 64].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    hidden: Option<u32>,
    /// Unary layers R after every merge [default: 1; a baseline has none].
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=16))]
    unary_layers: Option<u32>,
    /// Sequences of a batch [default: 128].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    batch: Option<u32>,
    /// Longest training length [default: 40].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    max_length: Option<u32>,
    /// Compute the gates anew on the way back: less memory, more work, the same result.
    #[arg(long)]
    recompute: bool,
    /// Step size of Adam [default: 0.001].
    #[arg(long, value_parser = positive)]
    learning_rate: Option<f64>,
    /// Seed of weights, lengths and samples [default: 0].
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..1 << 63))]
    seed: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Preset {
    Cpu,
    Paper,
}

#[derive(Args)]
struct EvaluateArgs {
    /// A checkpoint, or the folder of a run.
    model: PathBuf,
    /// The task, if not the one that the checkpoint was trained on.
    #[arg(long, value_parser = task)]
    task: Option<Task>,
    /// First and last length; the score averages over 41-500.
    #[arg(long, default_value = "41-500", value_name = "A-B")]
    lengths: Lengths,
    /// Only every n-th length.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// Samples at each length.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    samples: u32,
    /// Seed of the samples.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One JSON object: task, lengths, accuracy, score.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Args)]
struct SampleArgs {
    /// The task, one of those that `pr-lstm tasks` lists.
    #[arg(value_parser = task)]
    task: Task,
    /// Length of the input.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    length: u32,
    /// How many samples.
    #[arg(long, default_value_t = 5)]
    count: u32,
    /// Seed of the samples.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One JSON object a line: task, length, input, target, mask.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct VerifyArgs {
    /// Golden files of cells or sequential baselines, or folders of them.
    #[arg(required = true, value_name = "FILE OR FOLDER")]
    paths: Vec<PathBuf>,
    /// One JSON object a line: file, tensor, device, error, tolerance, ok.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Args)]
struct BenchArgs {
    /// Groups or cases, as `step` or `scan_vs_lstm/h256-b1` [default: all].
    #[arg(value_name = "CASE")]
    cases: Vec<String>,
    /// Only name the cases; with --json their shapes and FLOP counts, for peers.
    #[arg(long)]
    list: bool,
    /// Tiny cases, each run once: shows that everything runs, measures nothing.
    #[arg(long)]
    small: bool,
    /// Most samples of each contender [default: 20].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    samples: Option<u32>,
    /// One JSON object a line: case, contender, seconds, fastest, samples, gflop, gflops, threads; or note, text.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ReportArgs {
    /// Files of JSON lines, of as many runs as there were.
    #[arg(required = true, value_name = "FILE")]
    lines: Vec<PathBuf>,
    /// Where to write: STEM.md and STEM.svg.
    #[arg(long, value_name = "STEM")]
    out: PathBuf,
    /// The page's title.
    #[arg(long, default_value = "Benchmarks")]
    title: String,
}

#[derive(Args, Clone, Copy)]
struct DeviceArgs {
    /// The device that computes: cpu or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// The type in which weights and states are kept: f32, bf16 or f16.
    #[arg(long, default_value_t)]
    dtype: Dtype,
}

/// A device that a person named.
#[derive(Clone, Copy)]
enum Device {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(usize),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if name == "cpu" {
            return Ok(Device::Cpu);
        }
        #[cfg(not(feature = "cuda"))]
        return Err(match name.starts_with("cuda") {
            true => "this build has no CUDA backend, use cpu or build with `--features cuda`".into(),
            false => "use cpu".into(),
        });
        #[cfg(feature = "cuda")]
        match name.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(ordinal)) => Ok(Device::Cuda(ordinal)),
            _ => Err("use cpu, or cuda:N with the device's number, as cuda:0".into()),
        }
    }
}

/// Does the work on the device that was named: the one place that knows which there are. The work is generic, and gets
/// what `verify` allows on that device.
macro_rules! on_device {
    ($args:expr, |$backend:ident, $tolerances:pat_param| $work:expr) => {{
        let DeviceArgs { device, dtype } = $args;
        match device {
            Device::Cpu => Cpu::new().with_dtype(dtype).map_err(Failure::from).and_then(|$backend| {
                let $tolerances = Tolerances::cpu(dtype);
                $work
            }),
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => pr_lstm::Cuda::new(ordinal)
                .and_then(|cuda| cuda.with_dtype(dtype))
                .map_err(Failure::from)
                .and_then(|$backend| {
                    let $tolerances = Tolerances::cuda(dtype);
                    $work
                }),
        }
    }};
}

/// A kind of model, as a person names it.
#[derive(Clone, Copy, PartialEq)]
struct Family {
    cell: Cell,
    recurrence: Recurrence,
}

impl Family {
    const NAMES: [(&str, Family); 4] = [
        ("pr-lstm", Family { cell: Cell::Lstm, recurrence: Recurrence::Tree }),
        ("pr-rnn", Family { cell: Cell::Rnn, recurrence: Recurrence::Tree }),
        ("lstm", Family { cell: Cell::Lstm, recurrence: Recurrence::Sequential }),
        ("rnn", Family { cell: Cell::Rnn, recurrence: Recurrence::Sequential }),
    ];

    fn from_name(name: &str) -> Option<Self> {
        Family::NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, family)| family)
    }

    fn of(settings: &Settings) -> Self {
        Family { cell: settings.cell, recurrence: settings.recurrence }
    }

    fn name(self) -> &'static str {
        Family::NAMES
            .into_iter()
            .find(|(_, family)| *family == self)
            .map_or("a newer model", |(name, _)| name)
    }
}

/// A range of lengths, `A-B` or one length.
#[derive(Clone)]
struct Lengths(RangeInclusive<usize>);

impl FromStr for Lengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if 1 <= first && first <= last && last <= 1 << 20 => {
                Ok(Lengths(first..=last))
            }
            _ => Err("use first-last with 1 <= first <= last <= 1048576, as 41-500".into()),
        }
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

fn task(name: &str) -> Result<Task> {
    Task::from_name(name)
}

fn family(name: &str) -> Result<Family, String> {
    Family::from_name(name).ok_or_else(|| "use pr-lstm, pr-rnn, lstm or rnn".into())
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && (number as f32).is_normal() => Ok(number),
        _ => Err("use a positive number, such as 0.001".into()),
    }
}

/// How a command ended if not well.
enum Failure {
    /// With an error of the library.
    Error(Error),
    /// With something that was checked and found wanting.
    Verdict(String),
    /// The reader of stdout went away.
    Closed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

impl From<io::Error> for Failure {
    fn from(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe => Failure::Closed,
            _ => Failure::Error(Error::Io { action: "write to", path: "stdout".into(), source }),
        }
    }
}

/// Runs the command that the arguments name: 0 if all went well, 1 on failure, 2 on wrong usage.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let out = &mut io::stdout().lock();
    let result = match cli.command {
        Command::Train(args) => on_device!(args.device, |backend, _| train::run(args, backend, out)),
        Command::Evaluate(args) => {
            on_device!(args.device, |backend, _| evaluate::run(&args, backend, out))
        }
        Command::Verify(args) => {
            on_device!(args.device, |backend, most| verify::run(&args, &backend, most, out))
        }
        Command::Tasks => show::tasks(out),
        Command::Sample(args) => show::sample(&args, out),
        Command::Info => show::info(out),
        Command::Bench(args) => bench::run(&args, out),
        Command::Report(args) => report::run(&args, out),
    };
    let result = result.and_then(|()| Ok(out.flush()?));
    match result {
        Ok(()) => return ExitCode::SUCCESS,
        // Not done, but nobody is there to be told.
        Err(Failure::Closed) => (),
        Err(Failure::Error(error)) => tell(&format!("error: {error}")),
        Err(Failure::Verdict(verdict)) => tell(&format!("error: {verdict}")),
    }
    ExitCode::FAILURE
}

/// One line on stderr, whatever names and files had in them.
fn tell(message: &str) {
    let one_line: String = message
        .chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = escaped.is_none().then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect();
    let _ = writeln!(io::stderr(), "{one_line}");
}

/// Help and version as clap prints them; an error in one line.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        let _ = error.print();
        return ExitCode::from(if error.exit_code() == 0 { 0 } else { 2 });
    }
    let text = error.render().to_string();
    let paragraphs =
        text.split("\n\n").filter(|part| !part.starts_with("Usage") && !part.starts_with("For more"));
    let line = paragraphs.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ");
    tell(&format!("{line} (`pr-lstm help` tells more)"));
    ExitCode::from(2)
}
