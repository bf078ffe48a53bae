//! What there is to see without a model: tasks, samples, this build and machine.

use std::io::Write;

use pr_lstm::bench::threads;
use pr_lstm::random::{Purpose, Random};
use pr_lstm::tasks::{Sample, Task};
use pr_lstm::{CpuPath, Dtype};
use serde_json::json;

use super::{Failure, SampleArgs};

/// Length of the example of each task.
const EXAMPLE: usize = 8;

/// A table of the tasks.
pub fn tasks(out: &mut impl Write) -> Result<(), Failure> {
    writeln!(out, "{:<29}{:<28}{:>4}{:>5}  example (length {EXAMPLE})", "task", "level", "in", "out")?;
    for task in Task::ALL {
        let sample = draw(task, EXAMPLE, 0, 0);
        writeln!(
            out,
            "{:<29}{:<28}{:>4}{:>5}  {} -> {}",
            task.name(),
            task.level().to_string(),
            task.input_size(),
            task.output_size(),
            symbols(&sample.input),
            answer(&sample),
        )?;
    }
    Ok(())
}

/// Samples of a task.
pub fn sample(args: &SampleArgs, out: &mut impl Write) -> Result<(), Failure> {
    let (task, length) = (args.task, args.length as usize);
    for index in 0..args.count {
        let sample = draw(task, length, args.seed, index);
        if args.json {
            let Sample { input, target, mask } = sample;
            let line = json!({
                "task": task.name(), "length": length, "input": input, "target": target, "mask": mask,
            });
            writeln!(out, "{line}")?;
        } else {
            writeln!(out, "{} -> {}", symbols(&sample.input), answer(&sample))?;
        }
    }
    Ok(())
}

/// This build, the processor, the path it takes, the devices.
pub fn info(out: &mut impl Write) -> Result<(), Failure> {
    writeln!(out, "pr-lstm {}", env!("CARGO_PKG_VERSION"))?;
    let target = format!("{} {}", std::env::consts::ARCH, std::env::consts::OS);
    writeln!(
        out,
        "target      {target}, features: cli, tasks{}{}",
        if cfg!(feature = "rayon") { ", rayon" } else { "" },
        if cfg!(feature = "cuda") { ", cuda" } else { "" },
    )?;
    writeln!(out, "processor   {}", processor().join(" "))?;
    for path in CpuPath::ALL {
        let taken = [Dtype::F32, Dtype::Bf16].into_iter().filter(|dtype| path == CpuPath::fastest(*dtype));
        let word = match (path.unavailable(), taken.map(Dtype::name).collect::<Vec<_>>().join(", ")) {
            (Some(why), _) => why.to_owned(),
            (None, taken) if taken.is_empty() => "available".to_owned(),
            (None, taken) => format!("taken in {taken}"),
        };
        writeln!(out, "cpu path    {:<13}{word}", path.name())?;
    }
    writeln!(out, "device      cpu, {} threads", threads())?;
    cuda(out)
}

/// The CUDA devices: none in this build.
#[cfg(not(feature = "cuda"))]
fn cuda(out: &mut impl Write) -> Result<(), Failure> {
    writeln!(out, "device      cuda: not in this build")?;
    Ok(())
}

/// The CUDA devices, and for each type which image and path a pass takes; or why there are none.
#[cfg(feature = "cuda")]
fn cuda(out: &mut impl Write) -> Result<(), Failure> {
    use pr_lstm::backend::Backend as _;
    use pr_lstm::cuda::{Cuda, Device, count};

    let devices = match count() {
        Ok(devices) => devices,
        Err(error) => {
            writeln!(out, "device      {error}")?;
            return Ok(());
        }
    };
    for ordinal in 0..devices {
        let cuda = match Cuda::new(ordinal) {
            Ok(cuda) => cuda,
            Err(error) => {
                writeln!(out, "device      {error}")?;
                continue;
            }
        };
        let Device { name, chip, memory, driver, .. } = cuda.device();
        let (gib, driver) = (*memory as f64 / f64::from(1 << 30), (driver / 1000, driver % 1000 / 10));
        writeln!(
            out,
            "device      cuda:{ordinal}, {name}, sm_{chip}, {gib:.1} GiB, driver of CUDA {}.{}",
            driver.0, driver.1
        )?;
        for dtype in pr_lstm::Dtype::ALL {
            match cuda.clone().with_dtype(dtype) {
                Ok(cuda) => writeln!(out, "  {dtype:<10}{:<22}{}", cuda.path_name(), cuda.image())?,
                Err(error) => writeln!(out, "  {dtype:<10}{error}")?,
            }
        }
    }
    Ok(())
}

fn draw(task: Task, length: usize, seed: u64, index: u32) -> Sample {
    let mut sample = Sample::default();
    task.sample(length, &mut Random::new(seed, Purpose::Show, length as u64, index), &mut sample);
    sample
}

/// Symbols without spaces while each is one character.
fn symbols(symbols: &[u32]) -> String {
    let separator = if symbols.iter().all(|&symbol| symbol < 10) { "" } else { " " };
    symbols.iter().map(u32::to_string).collect::<Vec<_>>().join(separator)
}

/// The target, with what does not count in brackets.
fn answer(sample: &Sample) -> String {
    let counted = sample.mask.iter().filter(|&&counts| counts).count();
    let (counts, rest) = sample.target.split_at(counted);
    if rest.is_empty() { symbols(counts) } else { format!("{}({})", symbols(counts), symbols(rest)) }
}

/// The features of this processor that a path of this crate uses, or will.
fn processor() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let features = [
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
            ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ];
        features.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    vec!["no vector features known"]
}
