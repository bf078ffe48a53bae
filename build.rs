//! Compiles the CUDA kernels and writes the list of their images; knows nothing of what they compute.
//!
//! Without the feature `cuda`, and on docs.rs, nothing is compiled. With it, `nvcc` turns each unit into plain PTX
//! for the oldest chip we run on and for sm_90, which can begin a launch before the last has ended, and `ptxas` turns
//! **that very PTX** into a cubin an architecture: what the virtual GPU interprets is what a card runs. What sm_90 alone has
//! is in images of its own. No GPU is asked for.
//!
//! The PTX gets the lowest version line that `ptxas` accepts: with nvcc's own a driver older than nvcc would refuse
//! code that it can very well run.

use std::collections::VecDeque;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;

/// What is compiled to one image: its name, its source, what is defined for it.
type Unit = (&'static str, &'static str, &'static [&'static str]);

const UNITS: &[Unit] = &[
    ("bf16", "kernels/pass.cu", &["PR_LSTM_STORAGE=0"]),
    ("f16", "kernels/pass.cu", &["PR_LSTM_STORAGE=1"]),
    ("split", "kernels/pass.cu", &["PR_LSTM_STORAGE=2"]),
    ("ffma", "kernels/pass.cu", &["PR_LSTM_STORAGE=3"]),
    ("train_bf16", "kernels/train.cu", &["PR_LSTM_STORAGE=0"]),
    ("train_split", "kernels/train.cu", &["PR_LSTM_STORAGE=2"]),
    ("train_ffma", "kernels/train.cu", &["PR_LSTM_STORAGE=3"]),
    ("readout", "kernels/readout.cu", &[]),
    ("loss", "kernels/loss.cu", &[]),
    ("adam", "kernels/adam.cu", &[]),
];

/// What runs on one chip alone, sm_90 with what no later one has.
const WGMMA_UNITS: &[Unit] = &[
    ("wgmma_bf16", "kernels/wgmma.cu", &["PR_LSTM_STORAGE=0"]),
    ("wgmma_f16", "kernels/wgmma.cu", &["PR_LSTM_STORAGE=1"]),
    ("wgmma_train_bf16", "kernels/wgmma.cu", &["PR_LSTM_STORAGE=0", "PR_LSTM_KEEP"]),
];

/// Kernels of a benchmark, no part of the library; with the feature `gpu-benches`.
const CONSTANTS: Unit = ("constants", "benches/constants.cu", &[]);
const CONSTANTS_OF_WGMMA: Unit = ("constants_wgmma", "benches/constants_wgmma.cu", &[]);

/// The chips that PTX is made for, each for itself and those up to the next: the oldest that the kernels are written for,
/// then those that have more.
const BASES: [u32; 2] = [80, 90];
const WGMMA: Chip = Chip { number: 90, alone: true };
const DEFAULT_ARCHS: &str = "sm_80,sm_90";

/// Versions of PTX, from the first that knows sm_80. One is taken if it is no higher than nvcc's own.
const PTX_VERSIONS: &[&str] = &[
    "7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "7.7", "7.8", "8.0", "8.1", "8.2", "8.3", "8.4", "8.5",
    "8.6", "8.7", "8.8", "9.0", "9.1", "9.2", "9.3",
];

/// Where `scripts/setup-nvcc` puts the compiler, and where a CUDA installation usually is.
const USUAL_FOLDERS: &[&str] = &["target/nvcc/nvidia/cu13/bin", "/usr/local/cuda/bin", "/opt/cuda/bin"];

/// A chip to compile for: `number` 90 is sm_90, and sm_90a where `alone`.
#[derive(Clone, Copy, PartialEq)]
struct Chip {
    number: u32,
    alone: bool,
}

impl std::fmt::Display for Chip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.number, if self.alone { "a" } else { "" })
    }
}

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return ExitCode::SUCCESS;
    }
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            for line in message.lines().filter(|line| !line.trim().is_empty()) {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: build.rs is run by cargo")?);
    if env::var_os("DOCS_RS").is_some() {
        return write(&out.join("kernels.rs"), "static IMAGES: &[Image] = &[];\n");
    }
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-env-changed=PR_LSTM_CUDA_ARCHS");
    let archs = architectures()?;
    let nvcc = find_nvcc()?;
    println!("cargo::rerun-if-changed={}", nvcc.display());
    let tools = nvcc.parent().unwrap_or(Path::new("")).to_path_buf();
    let ptxas = beside(&tools, &nvcc, "ptxas")?;
    // For the tests of what the compiler made.
    println!("cargo::rustc-env=PR_LSTM_KERNELS={}", out.display());
    println!("cargo::rustc-env=PR_LSTM_CUDA_TOOLS={}", tools.display());

    let (mut units, mut wgmma_units) = (UNITS.to_vec(), WGMMA_UNITS.to_vec());
    if env::var_os("CARGO_FEATURE_GPU_BENCHES").is_some() {
        for (of, unit) in [(&mut units, CONSTANTS), (&mut wgmma_units, CONSTANTS_OF_WGMMA)] {
            println!("cargo::rerun-if-changed={}", unit.1);
            of.push(unit);
        }
    }
    // Of a base's architectures the first decides the version line, the others take what it left.
    let of_bases: Vec<(Chip, Vec<Chip>)> = BASES
        .iter()
        .map(|&base| {
            (chip(base), archs.iter().filter(|&&arch| base_of(arch) == base).copied().map(chip).collect())
        })
        .collect();
    let of_wgmma = [(WGMMA, vec![WGMMA])];
    let compiled: Vec<_> = [(&units[..], &of_bases[..]), (&wgmma_units[..], &of_wgmma[..])]
        .into_iter()
        .flat_map(|(units, bases)| {
            units.iter().flat_map(move |unit| bases.iter().map(move |base| (unit, base)))
        })
        .collect();
    parallel(&compiled, |&(unit, (base, archs))| {
        compile(&nvcc, unit, *base, &out)?;
        lowest_version(&ptxas, unit.0, *base, archs.first().copied().unwrap_or(*base), &out)
    })?;
    let rest: Vec<_> = compiled
        .iter()
        .flat_map(|(unit, (base, archs))| archs.iter().skip(1).map(move |&arch| (unit.0, *base, arch)))
        .collect();
    parallel(&rest, |&(name, base, arch)| assemble(&ptxas, name, base, arch, &out))?;

    let mut list = String::from("static IMAGES: &[Image] = &[\n");
    for (name, ..) in UNITS {
        list.push_str(&image(name, &BASES.map(chip), &archs.iter().copied().map(chip).collect::<Vec<_>>()));
    }
    for (name, ..) in WGMMA_UNITS {
        let cubins: &[Chip] = if archs.contains(&WGMMA.number) { &[WGMMA] } else { &[] };
        list.push_str(&image(name, &[WGMMA], cubins));
    }
    list.push_str("];\n");
    write(&out.join("kernels.rs"), &list)
}

/// An image as an item of the list.
fn image(name: &str, ptx: &[Chip], cubins: &[Chip]) -> String {
    let mut item = format!("    Image {{ name: {name:?}, ptx: &[");
    for base in ptx {
        write!(item, "({}, include_str!(\"{name}.compute_{base}.ptx\")), ", base.number).unwrap();
    }
    item.push_str("], cubins: &[");
    for arch in cubins {
        write!(item, "({}, include_bytes!(\"{name}.sm_{arch}.cubin\")), ", arch.number).unwrap();
    }
    item + "] },\n"
}

fn chip(number: u32) -> Chip {
    Chip { number, alone: false }
}

/// The architectures of `PR_LSTM_CUDA_ARCHS` as numbers, ascending.
fn architectures() -> Result<Vec<u32>, String> {
    let text = match env::var("PR_LSTM_CUDA_ARCHS") {
        Ok(text) if !text.is_empty() => text,
        Ok(_) | Err(env::VarError::NotPresent) => DEFAULT_ARCHS.into(),
        Err(env::VarError::NotUnicode(_)) => return Err("PR_LSTM_CUDA_ARCHS is not text".into()),
    };
    let mut archs = Vec::new();
    for name in text.split(',').map(str::trim) {
        let arch: u32 = name.strip_prefix("sm_").filter(|number| !number.starts_with('+')).and_then(|number| number.parse().ok()).ok_or_else(|| {
            format!("PR_LSTM_CUDA_ARCHS is {text:?}: {name:?} is no architecture; expected a list such as {DEFAULT_ARCHS}")
        })?;
        if arch < BASES[0] {
            return Err(format!(
                "PR_LSTM_CUDA_ARCHS is {text:?}: the kernels need sm_{} or newer, not {name}",
                BASES[0]
            ));
        }
        archs.push(arch);
    }
    archs.sort_unstable();
    archs.dedup();
    Ok(archs)
}

/// nvcc by `NVCC`, `CUDA_HOME`, `CUDA_PATH`, `PATH` or the usual folders; the first there is.
fn find_nvcc() -> Result<PathBuf, String> {
    // A variable is watched only if what comes before it didn't decide, so that a new PATH doesn't rebuild for nothing.
    println!("cargo::rerun-if-env-changed=NVCC");
    // A bare name, as compilers are often given, is looked for like any other.
    let named = env::var_os("NVCC").filter(|path| !path.is_empty() && path != "nvcc").map(PathBuf::from);
    if let Some(nvcc) = named {
        return if nvcc.is_file() {
            Ok(nvcc)
        } else {
            Err(format!(
                "NVCC is {:?}, where no file is; let it name nvcc itself, or unset it",
                nvcc.display()
            ))
        };
    }
    let mut looked = Vec::new();
    for variable in ["CUDA_HOME", "CUDA_PATH", "PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
        let Some(value) = env::var_os(variable).filter(|value| !value.is_empty()) else { continue };
        let folders: Vec<PathBuf> = match variable {
            "PATH" => env::split_paths(&value).collect(),
            _ => vec![Path::new(&value).join("bin")],
        };
        if let Some(nvcc) = folders.iter().map(|folder| folder.join("nvcc")).find(|nvcc| nvcc.is_file()) {
            return Ok(nvcc);
        }
        looked.push(format!("{variable} ({})", value.display()));
    }
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    for folder in USUAL_FOLDERS {
        let nvcc = root.join(folder).join("nvcc");
        if nvcc.is_file() {
            return Ok(nvcc);
        }
        looked.push(root.join(folder).display().to_string());
    }
    // Else a compiler that appears there would not be noticed.
    println!("cargo::rerun-if-changed={}", root.join(USUAL_FOLDERS[0]).join("nvcc").display());
    Err(format!(
        "no nvcc was found, which the feature `cuda` needs to build its kernels (no GPU is needed).\n\
         Looked by NVCC (not set) and in: {}.\n\
         Either install the CUDA toolkit (12.0 or newer) and set CUDA_HOME to it, or run scripts/setup-nvcc of this\n\
         repository, which takes nvcc from PyPI; nvcc itself wants a C++ compiler on the PATH, as g++ (python3 -m pip install --no-deps --target FOLDER with\n\
         nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96\n\
         nvidia-cuda-cccl==13.0.85) and then set NVCC to FOLDER/nvidia/cu13/bin/nvcc.",
        looked.join(", ")
    ))
}

/// A tool of the same installation as nvcc, which may be a link to it.
fn beside(tools: &Path, nvcc: &Path, tool: &str) -> Result<PathBuf, String> {
    let real = fs::canonicalize(nvcc).ok().and_then(|path| path.parent().map(Path::to_path_buf));
    [Some(tools.to_path_buf()), real]
        .into_iter()
        .flatten()
        .map(|folder| folder.join(tool))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            format!("{tool} is not beside {}; set NVCC to the nvcc of a whole CUDA toolkit", nvcc.display())
        })
}

/// Whose PTX an architecture's cubin is made from.
fn base_of(arch: u32) -> u32 {
    BASES.into_iter().filter(|&base| base <= arch).max().unwrap_or(BASES[0])
}

/// Where a unit's PTX for a base is.
fn ptx(name: &str, base: Chip, out: &Path) -> PathBuf {
    out.join(format!("{name}.compute_{base}.ptx"))
}

/// One unit to PTX for a base, as nvcc writes it.
fn compile(nvcc: &Path, &(name, source, defines): &Unit, base: Chip, out: &Path) -> Result<(), String> {
    let mut command = Command::new(nvcc);
    command.args(["-ptx", "-O3", "-std=c++17", "-fmad=false", "-Ikernels"]);
    command.arg(format!("-arch=compute_{base}"));
    command.args(defines.iter().map(|define| format!("-D{define}")));
    command.arg(source).arg("-o").arg(ptx(name, base, out));
    let words = run(&mut command)?;
    for line in words.lines().filter(|line| !line.trim().is_empty()) {
        println!("cargo::warning={name}: {line}");
    }
    Ok(())
}

/// Lowers the version line of the PTX that `arch` takes as far as ptxas goes along, and leaves its cubin.
fn lowest_version(ptxas: &Path, name: &str, base: Chip, arch: Chip, out: &Path) -> Result<(), String> {
    let path = ptx(name, base, out);
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    // A hint about wide loads of which not every byte is used. It alone would ask for 8.3, and so for a driver of 545.
    let lines: Vec<_> = text.lines().filter(|line| !line.contains(".pragma \"used_bytes_mask")).collect();
    let text = lines.join("\n") + "\n";
    let (before, rest) =
        text.split_once("\n.version ").ok_or(format!("{}: no .version line", path.display()))?;
    let (own, after) =
        rest.split_once('\n').ok_or(format!("{}: ends with its .version line", path.display()))?;
    let own = own.trim();
    for version in PTX_VERSIONS.iter().take_while(|version| number(version) < number(own)) {
        write(&path, &format!("{before}\n.version {version}\n{after}"))?;
        if assemble(ptxas, name, base, arch, out).is_ok() {
            return Ok(());
        }
    }
    write(&path, &text)?;
    assemble(ptxas, name, base, arch, out)
}

/// `9.0` as something that can be compared.
fn number(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or(u32::MAX)).collect()
}

/// PTX to `name.sm_arch.cubin`; what ptxas says of registers and spills to `name.sm_arch.txt`.
fn assemble(ptxas: &Path, name: &str, base: Chip, arch: Chip, out: &Path) -> Result<(), String> {
    let mut command = Command::new(ptxas);
    command.args(["-O3", "-v"]).arg(format!("-arch=sm_{arch}"));
    command.arg(ptx(name, base, out)).arg("-o").arg(out.join(format!("{name}.sm_{arch}.cubin")));
    let words = run(&mut command).map_err(|words| {
        let known = !words.contains("'gpu-name'");
        let mend = "\nit comes from PR_LSTM_CUDA_ARCHS; `ptxas --help` lists the architectures that this ptxas knows";
        words + if known { "" } else { mend }
    })?;
    // Some of CUDA 12 are quick to make a `wgmma` wait for the one before it.
    for line in words.lines().filter(|line| line.contains("serialized")) {
        println!("cargo::warning={name}: {line}");
    }
    write(&out.join(format!("{name}.sm_{arch}.txt")), &words)
}

/// Runs a compiler; its words, or on failure an error with them.
fn run(command: &mut Command) -> Result<String, String> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command.output().map_err(|e| format!("{shown}: {e}"))?;
    let words =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    if output.status.success() {
        Ok(words)
    } else {
        Err(format!("{words}\nfailed ({}): {shown}", output.status))
    }
}

/// Does `work` for every item, on as many threads as cargo allows a build script; the first error in the list's order.
fn parallel<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<(), String> + Sync) -> Result<(), String> {
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1usize).max(1);
    let queue = Mutex::new((0..items.len()).collect::<VecDeque<_>>());
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().pop_front();
                    let Some(index) = next else { break };
                    let result = work(&items[index]);
                    results.lock().unwrap().push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().try_for_each(|(_, result)| result)
}

/// Writes a file whole, or says which could not be written.
fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}
