//! The program, as a person runs it: what it prints, what it leaves, how it fails.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::{cell_files, golden};
use pr_lstm::golden::CellFile;
use pr_lstm::random::{Purpose, Random};
use pr_lstm::verify::{self, Tolerances};
use pr_lstm::{Checkpoint, Cpu, CpuPath, Dtype};
use safetensors::tensor::{SafeTensors, TensorView, serialize};
use serde_json::Value;

/// A small run: a second or two with its evaluation.
const SMALL: [&str; 8] = ["--hidden", "8", "--batch", "8", "--max-length", "10", "--samples", "1"];

fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pr-lstm"));
    command.current_dir(folder).args(arguments);
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    program(folder, arguments).output().expect("the program starts")
}

fn stdout(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// Fails with that status and one line on stderr that holds each of `words`; prints nothing else.
fn refuses(folder: &Path, arguments: &[&str], status: i32, words: &[&str]) {
    let output = run(folder, arguments);
    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {error}");
    assert_eq!(error.lines().count(), 1, "{arguments:?}: {error}");
    assert!(error.starts_with("error: "), "{arguments:?}: {error}");
    for word in words {
        assert!(error.contains(word), "{arguments:?}: no `{word}` in: {error}");
    }
    assert!(output.stdout.is_empty(), "{arguments:?} printed something");
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn wrong_usage_is_one_line_with_its_mend() {
    let folder = temporary();
    let refuses = |arguments: &[&str], words: &[&str]| refuses(folder.path(), arguments, 2, words);
    refuses(&["train", "parity_chek"], &["parity_chek", "the nearest is `parity_check`"]);
    refuses(&["train"], &["<TASK>"]);
    for option in ["--hidden", "--batch", "--max-length", "--steps", "--samples", "--metrics-every"] {
        refuses(&["train", "parity_check", option, "0"], &[option, "0 is not in 1.."]);
    }
    refuses(&["train", "parity_check", "--learning-rate", "nan"], &["--learning-rate", "positive"]);
    refuses(&["train", "parity_check", "--model", "gru"], &["gru", "pr-lstm, pr-rnn, lstm or rnn"]);
    #[cfg(not(feature = "cuda"))]
    refuses(&["train", "parity_check", "--device", "cuda:0"], &["cuda:0", "no CUDA backend", "use cpu"]);
    for device in ["gpu", "cuda:", "cuda:x", "cuda:-1"] {
        refuses(&["verify", "x", "--device", device], &[device, "use cpu"]);
    }
    refuses(&["verify", "x", "--dtype", "fp16"], &["fp16", "f32, bf16 or f16"]);
    refuses(&["train", "--resume", "runs/x", "--hidden", "8"], &["--resume", "--hidden"]);
    refuses(&["evaluate", "x", "--lengths", "5-2"], &["5-2", "first <= last"]);
    refuses(&["sample", "parity_check", "--length", "0"], &["--length", "1.."]);
    refuses(&["bench", "--samples", "0"], &["--samples", "1.."]);
    refuses(&["report", "lines"], &["--out"]);
    refuses(&["verify"], &["<FILE OR FOLDER>"]);
    refuses(&["nonsense"], &["nonsense"]);
    assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 0, "something was left");
}

#[test]
fn failures_are_one_line_with_their_mend() {
    let folder = temporary();
    let refuses = |arguments: &[&str], words: &[&str]| refuses(folder.path(), arguments, 1, words);
    fs::create_dir(folder.path().join("taken")).expect("a folder");
    fs::write(folder.path().join("text"), "not a checkpoint").expect("a file");
    refuses(&["train", "parity_check", "--out", "taken"], &["taken", "exists", "--resume"]);
    refuses(&["train", "--resume", "missing"], &["missing", "no such folder"]);
    refuses(&["train", "--resume", "taken"], &["taken", "config.toml"]);
    refuses(&["evaluate", "missing"], &["cannot read missing"]);
    refuses(&["evaluate", "text"], &["text", "safetensors"]);
    refuses(&["evaluate", "taken"], &["model.safetensors"]);
    refuses(&["verify", "taken"], &["taken", "no .safetensors file"]);
    refuses(&["verify", "text"], &["text"]);
    refuses(&["verify", "text", "--dtype", "f16"], &["f16 on cpu", "f32 and bf16"]);
    let task = golden("tasks/parity_check.safetensors");
    refuses(&["verify", task.to_str().expect("utf-8")], &["expected a cell file"]);
    refuses(&["bench", "scan"], &["bench --list", "got scan"]);
    refuses(&["report", "text", "--out", "page"], &["text: line 1", "not a checkpoint"]);
    refuses(&["report", "missing", "--out", "page"], &["cannot read missing"]);
    assert!(!folder.path().join("page.md").exists(), "a page of nothing");
    assert_eq!(fs::read_dir(folder.path().join("taken")).expect("readable").count(), 0, "something was left");
}

#[test]
fn bench_runs_every_small_case_and_report_makes_a_page_and_a_picture_of_it() {
    let folder = temporary();
    let names: Vec<String> =
        stdout(&run(folder.path(), &["bench", "--small", "--list"])).lines().map(str::to_owned).collect();
    let printed = stdout(&run(folder.path(), &["bench", "--small", "--json"]));
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for name in &names {
        let f32 = lines.iter().find(|line| {
            let contender = line["contender"].as_str().unwrap_or_default();
            line["case"] == *name && contender.starts_with("pr-lstm") && contender.ends_with("f32")
        });
        let f32 = f32.unwrap_or_else(|| panic!("no line of {name} in {printed}"));
        assert!(f32["seconds"].as_f64() > Some(0.0) && f32["threads"].as_u64() >= Some(1), "{f32}");
        let counted =
            ["step/", "scan_vs_lstm/h8-b2-t5", "training_step/"].iter().any(|start| name.starts_with(start));
        assert!(!counted || f32["gflops"].as_f64() > Some(0.0), "{f32}");
    }
    assert!(lines.iter().any(|line| line["note"] == "pr-lstm f32"), "the path is not told: {printed}");
    let table = stdout(&run(folder.path(), &["bench", "--small", "step", "gates/tanh"]));
    assert!(table.contains("step/h8-r130") && table.contains("gates/tanh"), "{table}");
    assert!(table.contains("GFLOP/s") && !table.contains("scan_vs_lstm"), "{table}");

    fs::write(folder.path().join("lines"), &printed).expect("a file");
    stdout(&run(
        folder.path(),
        &["report", "lines", "lines", "--out", "2026-01-31-a.cpu", "--title", "Two runs"],
    ));
    let page = fs::read_to_string(folder.path().join("2026-01-31-a.cpu.md")).expect("a page");
    assert!(page.starts_with("# Two runs\n") && page.contains("](2026-01-31-a.cpu.svg)"), "{page}");
    for name in &names {
        let (group, case) = name.split_once('/').expect("a group");
        assert!(
            page.contains(&format!("## {group}\n")) && page.contains(&format!("| {case} |")),
            "{name}: {page}"
        );
    }
    let picture = fs::read_to_string(folder.path().join("2026-01-31-a.cpu.svg")).expect("a picture");
    for text in ["Two runs", "H = 8, B = 1", "H = 8, B = 2", "pr-lstm last f32"] {
        assert!(picture.contains(text), "no {text}");
    }
}

#[test]
fn verify_passes_on_every_golden_cell_file() {
    let folder = temporary();
    let cells = golden("cell");
    let output = run(folder.path(), &["verify", cells.to_str().expect("utf-8"), "--json"]);
    let lines: Vec<Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for device in ["reference", "cpu"] {
        for file in cell_files() {
            let path = file.display().to_string();
            let tensors: Vec<&Value> =
                lines.iter().filter(|line| line["file"] == *path && line["device"] == device).collect();
            for name in ["hidden", "output", "loss", "grad.leaf.w", "grad.readout.b", "grad.input"] {
                let line = tensors.iter().find(|line| line["tensor"] == name);
                let line = line.unwrap_or_else(|| panic!("{path}: no {name} on {device}"));
                assert_eq!(line["ok"], true, "{line}");
                let (error, tolerance) = (line["error"].as_f64(), line["tolerance"].as_f64());
                assert!(error <= tolerance, "{line}");
            }
        }
    }
    let text = stdout(&run(folder.path(), &["verify", cells.to_str().expect("utf-8")]));
    assert!(text.ends_with("tensors of 16 files are within tolerance\n"), "{text}");
}

/// The file with one element of one tensor changed.
fn with_one_element_changed(path: &Path, tensor: &str, random: &mut Random) -> Vec<u8> {
    let bytes = fs::read(path).expect("a golden file");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
    let tensors = SafeTensors::deserialize(&bytes).expect("tensors");
    let mut data = tensors.tensor(tensor).expect("the tensor").data().to_vec();
    let element = 8 * random.below((data.len() / 8) as u32) as usize;
    let place = &mut data[element..element + 8];
    let value = f64::from_le_bytes(place.try_into().expect("eight bytes"));
    place.copy_from_slice(&(value + 0.25 * value.abs().max(0.5)).to_le_bytes());
    let views = tensors.iter().map(|(name, view)| {
        let data = if name == tensor { &data[..] } else { view.data() };
        (name.to_owned(), TensorView::new(view.dtype(), view.shape().to_vec(), data).expect("a view"))
    });
    serialize(views, header.metadata().clone()).expect("bytes")
}

#[test]
fn verify_fails_on_any_changed_tensor_and_names_one() {
    let folder = temporary();
    let changed = folder.path().join("changed.safetensors");
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = Random::new(seed, Purpose::Show, 0, 0);
    for name in ["lstm-r1-h16-b3-t7", "lstm-r2-h8-b2-t5", "rnn-r2-h8-b1-t40", "lstm-r1-h8-b1-t1"] {
        let path = golden(&format!("cell/{name}.safetensors"));
        let bytes = fs::read(&path).expect("a golden file");
        let tensors = SafeTensors::deserialize(&bytes).expect("tensors");
        for tensor in tensors.names() {
            // A dead unit of the RNN passes nothing on: an element that matters is drawn within a few tries.
            let found = (0..20).any(|_| {
                fs::write(&changed, with_one_element_changed(&path, tensor, &mut random)).expect("written");
                let file = CellFile::read(&changed).expect("still a cell file");
                let checks = [
                    verify::reference(&file).expect("runs"),
                    verify::device(&file, &Cpu::new(), Tolerances::CPU_F32).expect("runs"),
                ];
                let expected = ["hidden", "output", "loss"].contains(&tensor) || tensor.starts_with("grad.");
                checks.iter().all(|checks| {
                    let mut failed = checks.iter().filter(|check| !check.ok());
                    if expected {
                        failed.any(|check| check.tensor == tensor)
                    } else {
                        failed.next().is_some()
                    }
                })
            });
            assert!(found, "{name}: {tensor} was changed and nothing failed");
        }
    }
    // And through the program: the verdict names file, tensor and device.
    let path = golden("cell/lstm-r1-h16-b3-t7.safetensors");
    fs::write(&changed, with_one_element_changed(&path, "grad.merge.w", &mut random)).expect("written");
    let output = run(folder.path(), &["verify", "changed.safetensors"]);
    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("changed.safetensors grad.merge.w on reference"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

/// metrics.csv without its last column, the seconds.
fn metrics(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("metrics.csv")).expect("metrics.csv");
    text.lines().map(|line| line.rsplit_once(',').expect("columns").0.to_owned()).collect()
}

#[test]
fn a_run_leaves_its_folder_and_can_be_evaluated() {
    let folder = temporary();
    let text = stdout(&run(folder.path(), &[&["train", "even_pairs", "--steps", "20"][..], &SMALL].concat()));
    assert!(text.contains("score 0.") || text.contains("score 1."), "{text}");
    let made = folder.path().join("runs/even_pairs-1");
    for name in ["model.safetensors", "metrics.csv", "config.toml", "loss.svg", "accuracy-by-length.svg"] {
        assert!(made.join(name).metadata().is_ok_and(|file| file.len() > 0), "no {name}");
    }
    assert_eq!(fs::read_dir(&made).expect("readable").count(), 5, "something more was left");
    let rows = metrics(&made);
    assert_eq!(rows[0], "step,length,loss,accuracy,grad_norm");
    assert_eq!(rows.len(), 21);

    // A second run has the next number, and with another seed other losses; with the same, the same.
    let again = [&["train", "even_pairs", "--steps", "20", "--metrics-every", "5"][..], &SMALL].concat();
    stdout(&run(folder.path(), &again));
    let second = metrics(&folder.path().join("runs/even_pairs-2"));
    assert_eq!(second[1..], [5, 10, 15, 20].map(|step| rows[step].clone()));
    let other =
        [&["train", "even_pairs", "--steps", "20", "--seed", "1", "--out", "other"][..], &SMALL].concat();
    stdout(&run(folder.path(), &other));
    assert_ne!(metrics(&folder.path().join("other")), rows);

    let evaluate = ["evaluate", "other", "--lengths", "39-42", "--samples", "32", "--json"];
    let json: Value = serde_json::from_str(&stdout(&run(folder.path(), &evaluate))).expect("JSON");
    assert_eq!(json["task"], "even_pairs");
    assert_eq!(json["lengths"], serde_json::json!([39, 40, 41, 42]));
    let accuracy: Vec<f64> =
        json["accuracy"].as_array().expect("a list").iter().filter_map(Value::as_f64).collect();
    assert_eq!(accuracy.len(), 4);
    let score = json["score"].as_f64().expect("a score");
    assert!((score - (accuracy[2] + accuracy[3]) / 2.0).abs() < 1e-12, "{json}");
    // A model of another task's shape is refused.
    refuses(folder.path(), &["evaluate", "other", "--task", "bucket_sort"], 1, &["model", "bucket_sort"]);
    refuses(folder.path(), &["train", "--resume", "other", "--steps", "10"], 1, &["--steps", "at least 20"]);
}

/// The bytes that a run says it holds.
fn told_bytes(text: &str) -> u64 {
    let line = text.lines().find(|line| line.contains("bytes of memory")).unwrap_or_else(|| panic!("{text}"));
    line.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

#[test]
fn recomputation_ends_with_the_same_bytes_in_less_memory_also_after_a_resume() {
    let folder = temporary();
    let train = |out: &str, steps: &str, more: &[&str]| {
        let run_for =
            ["train", "parity_check", "--out", out, "--steps", steps, "--seed", "5", "--samples", "1"];
        let larger = ["--every", "499", "--hidden", "16", "--batch", "64", "--max-length", "60"];
        stdout(&run(folder.path(), &[&run_for[..], &larger, more].concat()))
    };
    let (kept, anew) = (train("kept", "6", &[]), train("anew", "6", &["--recompute"]));
    assert!(anew.contains("computed anew") && !kept.contains("computed anew"), "{anew}");
    let [kept, anew] = [kept, anew].map(|text| told_bytes(&text));
    assert!(anew < kept * 3 / 4, "{anew} bytes with recomputation, {kept} without");
    train("part", "3", &["--recompute"]);
    let resume = ["train", "--resume", "part", "--steps", "6", "--samples", "1", "--every", "499"];
    assert_eq!(told_bytes(&stdout(&run(folder.path(), &resume))), anew, "the resumed run keeps z");
    let model = |name: &str| fs::read(folder.path().join(name).join("model.safetensors")).unwrap();
    assert!(model("kept") == model("anew") && model("kept") == model("part"), "the runs differ");

    // A folder from before there was a choice goes on as it began.
    let config = folder.path().join("kept/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    let before: Vec<&str> = text.lines().filter(|line| !line.contains("recompute")).collect();
    assert_eq!(before.len() + 1, text.lines().count(), "{text}");
    fs::write(&config, before.join("\n")).unwrap();
    let resume = ["train", "--resume", "kept", "--steps", "7", "--samples", "1", "--every", "499"];
    assert_eq!(told_bytes(&stdout(&run(folder.path(), &resume))), kept);
}

#[test]
fn every_model_trains_and_is_evaluated() {
    let folder = temporary();
    let runs = ["pr-lstm", "pr-rnn", "lstm", "rnn"].map(|model| {
        let train =
            ["train", "even_pairs", "--steps", "12", "--out", model, "--model", model, "--every", "100"];
        let text = stdout(&run(folder.path(), &[&train[..], &SMALL].concat()));
        let name = model.to_uppercase();
        let title = if name.starts_with("PR-") {
            format!(" {name}, H = 8, R = 1,")
        } else {
            format!(" {name}, H = 8,")
        };
        assert!(text.contains(&title), "{title} is not in: {text}");
        let config = fs::read_to_string(folder.path().join(model).join("config.toml")).expect("config.toml");
        assert!(config.contains(&format!("model = \"{model}\"")), "{config}");
        let picture = fs::read_to_string(folder.path().join(model).join("loss.svg")).expect("loss.svg");
        assert!(picture.contains(&format!("{name}, H = 8")), "{name} is not in the picture");
        let evaluate = ["evaluate", model, "--lengths", "5-6", "--samples", "8", "--json"];
        let json: Value = serde_json::from_str(&stdout(&run(folder.path(), &evaluate))).expect("JSON");
        assert_eq!(json["accuracy"].as_array().map(Vec::len), Some(2), "{json}");
        metrics(&folder.path().join(model))
    });
    for (n, rows) in runs.iter().enumerate() {
        assert_eq!(rows.len(), 13);
        assert!(runs[..n].iter().all(|other| other[1..] != rows[1..]), "two models are one");
    }
    let refuses = |arguments: &[&str], words: &[&str]| refuses(folder.path(), arguments, 1, words);
    let layers = ["train", "even_pairs", "--model", "lstm", "--unary-layers", "2"];
    refuses(&layers, &["config.unary_layers", "sequential", "got 2"]);
    // A folder of before there were baselines says which cell the tree has.
    let path = folder.path().join("pr-rnn/config.toml");
    let config = fs::read_to_string(&path).expect("config.toml");
    let with = |line: &str| fs::write(&path, config.replace("model = \"pr-rnn\"", line)).expect("written");
    with("cell = \"rnn\"");
    let resume = ["train", "--resume", "pr-rnn", "--steps", "14", "--samples", "1", "--every", "100"];
    let text = stdout(&run(folder.path(), &resume));
    assert!(text.contains("PR-RNN") && text.contains("going on after step 12"), "{text}");
    assert_eq!(fs::read_to_string(&path).expect("config.toml"), config.replace("steps = 12", "steps = 14"));
    for (line, word) in [
        ("cell = \"lstm\"", "checkpoint, model"),
        ("cell = \"gru\"", "cell: expected lstm or rnn, got gru"),
        ("model = \"gru\"", "pr-lstm, pr-rnn, lstm or rnn"),
        ("model = \"pr-rnn\"\ncell = \"rnn\"", "one model"),
        ("", "one model"),
    ] {
        with(line);
        refuses(&resume, &[word]);
    }
}

/// Takes a run whole; takes it again, kills it in its first half, and resumes it: the same bytes. `start` makes the program,
/// `little` is what an evaluation takes.
fn killed_and_resumed(
    start: impl Fn(&Path, &[&str]) -> Command,
    steps: u64,
    every: &str,
    settings: &[&str],
    little: &[&str],
) {
    let folder = temporary();
    let run =
        |arguments: &[&str]| stdout(&start(folder.path(), arguments).output().expect("the program starts"));
    let number = steps.to_string();
    let settings = [&["--steps", &number, "--checkpoint-every", every], settings, little].concat();
    let train = |out| [&["train", "parity_check", "--out", out][..], &settings].concat();
    run(&train("whole"));

    let mut child =
        start(folder.path(), &train("killed")).stdout(std::process::Stdio::null()).spawn().unwrap();
    let model = folder.path().join("killed/model.safetensors");
    // Somewhere in the middle: not before its first checkpoints, and before its end.
    let wanted = steps / 30 + u64::from(std::process::id()) % (steps / 3);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !Checkpoint::read(&model).is_ok_and(|checkpoint| checkpoint.step >= wanted) {
        assert!(Instant::now() < deadline, "no checkpoint at step {wanted}");
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it was killed");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let step = Checkpoint::read(&model).expect("whole at any time").step;
    assert!((wanted..steps).contains(&step), "killed at {step}");

    let resume = [&["train", "--resume", "killed", "--checkpoint-every", every], little].concat();
    let text = run(&resume);
    assert!(text.contains(&format!("going on after step {step}")), "{text}");
    let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(name));
    for name in ["model.safetensors", "config.toml", "accuracy-by-length.svg"] {
        assert!(
            fs::read(whole.join(name)).unwrap() == fs::read(killed.join(name)).unwrap(),
            "{name} differs"
        );
    }
    assert_eq!(metrics(&whole), metrics(&killed));
}

#[test]
fn a_run_killed_at_any_step_and_resumed_ends_with_the_same_bytes() {
    let settings = ["--hidden", "8", "--batch", "8", "--max-length", "10", "--seed", "3"];
    killed_and_resumed(program, 600, "7", &settings, &["--samples", "1"]);
}

#[test]
fn tasks_samples_and_info_print_what_they_should() {
    let folder = temporary();
    let text = stdout(&run(folder.path(), &["tasks"]));
    assert_eq!(text.lines().count(), 16, "{text}");
    let sample = ["sample", "stack_manipulation", "--length", "9", "--count", "3", "--seed", "5", "--json"];
    let text = stdout(&run(folder.path(), &sample));
    assert_eq!(text, stdout(&run(folder.path(), &sample)), "samples drift");
    assert_eq!(text.lines().count(), 3);
    for line in text.lines() {
        let json: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(json["task"], "stack_manipulation");
        assert_eq!(json["length"], 9);
        let lengths = ["input", "target", "mask"].map(|name| json[name].as_array().map(Vec::len));
        assert_eq!(lengths, [Some(9), Some(10), Some(10)], "{line}");
        assert!(json["mask"][0].is_boolean());
    }
    let text = stdout(&run(folder.path(), &["info"]));
    for path in CpuPath::ALL {
        let line = text.lines().find(|line| line.split_whitespace().nth(2) == Some(path.name()));
        let line = line.unwrap_or_else(|| panic!("no {path:?} in {text}"));
        let says = |dtype: Dtype| {
            let (_, taken) = line.split_once("taken in ").unwrap_or_default();
            taken.split(", ").any(|name| name == dtype.name())
        };
        for dtype in [Dtype::F32, Dtype::Bf16] {
            assert_eq!(says(dtype), path == CpuPath::fastest(dtype), "{line}");
        }
        assert_eq!(line.contains("processor") || line.contains("system"), !path.is_available(), "{line}");
    }
}

/// The same on CUDA: the virtual GPU, whose library the program is led to.
#[cfg(feature = "cuda")]
mod cuda {
    use super::*;

    const CUDA: [&str; 2] = ["--device", "cuda:0"];

    fn gpu_program(folder: &Path, arguments: &[&str]) -> Command {
        let library = virtual_gpu::directory().expect("the virtual GPU was built with the tests");
        let mut command = program(folder, arguments);
        command.env("LD_LIBRARY_PATH", library);
        command
    }

    fn on_gpu(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = gpu_program(folder, arguments);
        for (name, value) in variables {
            command.env(format!("PR_LSTM_VIRTUAL_GPU_{name}"), value);
        }
        command.output().expect("the program starts")
    }

    /// Fails with one line on stderr that holds each of `words`.
    fn refuses(folder: &Path, arguments: &[&str], variables: &[(&str, &str)], words: &[&str]) {
        let output = on_gpu(folder, arguments, variables);
        let error = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{arguments:?}: {error}");
        for word in words {
            assert!(error.contains(word), "{arguments:?}: no `{word}` in: {error}");
        }
        assert!(output.stdout.is_empty(), "{arguments:?} printed something");
    }

    #[test]
    fn verify_passes_on_every_golden_cell_file_in_every_type() {
        let folder = temporary();
        let cells = golden("cell");
        let cells = cells.to_str().expect("utf-8");
        for (dtype, tolerance, of_gradients) in
            [("f32", 1e-4, Some(1e-4)), ("bf16", 2e-2, Some(5e-2)), ("f16", 5e-3, None)]
        {
            let arguments = ["verify", cells, "--json", "--device", "cuda:0", "--dtype", dtype];
            let text = stdout(&on_gpu(folder.path(), &arguments, &[]));
            let lines: Vec<Value> =
                text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            let gradient = |line: &Value| line["tensor"].as_str().is_some_and(|t| t.starts_with("grad."));
            let (gradients, found): (Vec<&Value>, Vec<&Value>) =
                lines.iter().filter(|line| line["device"] == "cuda:0").partition(|line| gradient(line));
            // Of leaf, merge and read-out at least, and of the input.
            let least = if of_gradients.is_some() { 7 * cell_files().len() } else { 0 };
            assert!(gradients.len() >= least && gradients.is_empty() == (least == 0), "{}", gradients.len());
            assert!(
                gradients
                    .iter()
                    .all(|l| l["ok"] == true
                        && Some(&l["tolerance"]) == of_gradients.map(Value::from).as_ref())
            );
            assert_eq!(found.len(), 3 * cell_files().len(), "hidden, output and loss of every file");
            assert!(found.iter().all(|line| line["ok"] == true && line["tolerance"] == tolerance));
            // A type that was not used would leave no error of its size.
            let worst = found.iter().filter_map(|line| line["error"].as_f64()).fold(0.0, f64::max);
            println!("{dtype}: {worst:e}");
            assert!(if dtype == "f32" { worst < 1e-5 } else { worst > 1e-5 }, "{dtype}: {worst:e}");
        }
    }

    #[test]
    fn evaluate_gives_what_the_cpu_gives() {
        let folder = temporary();
        let train = ["train", "parity_check", "--steps", "3", "--out", "run"];
        stdout(&run(folder.path(), &[&train[..], &SMALL].concat()));
        let evaluate = ["evaluate", "run", "--lengths", "1-9", "--samples", "20", "--json"];
        let expected = stdout(&run(folder.path(), &evaluate));
        let found = stdout(&on_gpu(folder.path(), &[&evaluate[..], &CUDA].concat(), &[]));
        let [expected, found]: [Value; 2] =
            [expected, found].map(|text| serde_json::from_str(&text).expect("JSON"));
        assert_eq!(found["accuracy"].as_array().map(Vec::len), Some(9));
        assert_eq!(found, expected);
    }

    #[test]
    fn training_in_f16_and_devices_that_are_not_there_are_one_line() {
        let folder = temporary();
        let train = ["train", "parity_check", "--device", "cuda:0", "--dtype", "f16", "--out", "run"];
        refuses(folder.path(), &train, &[], &["training in f16 on cuda:0", "train in bf16 or f32"]);
        assert!(!folder.path().join("run").exists(), "a folder was left");
        let other = ["evaluate", "x", "--device", "cuda:7"];
        refuses(folder.path(), &other, &[], &["device", "below 1", "got 7"]);
        let here = ["evaluate", "x", "--device", "cuda:0"];
        refuses(folder.path(), &here, &[], &["cannot read x"]);
        refuses(folder.path(), &here, &[("COUNT", "0")], &["CUDA is not available", "no device"]);
        refuses(folder.path(), &here, &[("CHIP", "sm_75")], &["sm_75", "sm_80 or newer"]);
        refuses(folder.path(), &here, &[("DRIVER", "11000")], &["CUDA 11.0", "at least 11.4"]);
    }

    /// Six steps at once, and three, then the others from the checkpoint: the same bytes.
    #[test]
    fn a_run_goes_on_where_it_was_left() {
        let folder = temporary();
        let small = ["--hidden", "16", "--batch", "4", "--max-length", "5", "--seed", "3"];
        let little = ["--samples", "1", "--every", "499"];
        for dtype in ["f32", "bf16"] {
            let train = |out: &str, steps: &str| {
                let run = ["train", "parity_check", "--out", out, "--steps", steps, "--dtype", dtype];
                stdout(&on_gpu(folder.path(), &[&run[..], &small, &little, &CUDA].concat(), &[]))
            };
            let (whole, part) = (format!("whole-{dtype}"), format!("part-{dtype}"));
            let text = train(&whole, "6");
            assert!(text.contains("cuda:0") && text.contains("step       6"), "{text}");
            train(&part, "3");
            let resume = ["train", "--resume", &part, "--steps", "6", "--dtype", dtype];
            let text = stdout(&on_gpu(folder.path(), &[&resume[..], &little, &CUDA].concat(), &[]));
            assert!(text.contains("going on after step 3"), "{text}");
            let read = |run: &str| {
                let path = folder.path().join(run).join("model.safetensors");
                std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
            };
            assert!(read(&whole) == read(&part), "{dtype}: the runs differ");
        }
    }

    /// Lengths of 1 to 8, then up to 500: the same as on the CPU, whatever the type.
    #[test]
    fn a_small_model_learns_and_generalises_as_on_the_cpu() {
        let folder = temporary();
        let settings = ["--hidden", "16", "--batch", "8", "--max-length", "8", "--learning-rate", "0.01"];
        let train = |out: &str, device: &[&str]| {
            let run = ["train", "parity_check", "--steps", "250", "--out", out, "--metrics-every", "50"];
            let little = ["--samples", "8", "--every", "99"];
            let start = Instant::now();
            let text = stdout(&on_gpu(folder.path(), &[&run[..], &settings, &little, device].concat(), &[]));
            println!("{out}, {:.1} s:\n{text}", start.elapsed().as_secs_f64());
            let score = text.split("score ").nth(1).and_then(|rest| rest.split(',').next());
            let losses = metrics(&folder.path().join(out));
            let loss = losses.last().and_then(|row| row.split(',').nth(2));
            [score, loss].map(|number| number.expect(&text).parse::<f64>().expect("a number"))
        };
        let runs = [
            train("cpu", &["--device", "cpu"]),
            train("f32", &["--device", "cuda:0", "--dtype", "f32"]),
            train("bf16", &["--device", "cuda:0", "--dtype", "bf16"]),
        ];
        for [score, loss] in runs {
            assert!(score >= 0.99 && loss < 0.02, "score {score}, loss {loss}");
        }
    }

    #[test]
    fn recomputation_ends_with_the_same_bytes_in_less_memory() {
        let folder = temporary();
        let train = |out: &str, more: &[&str]| {
            let run =
                ["train", "parity_check", "--out", out, "--steps", "2", "--seed", "5", "--samples", "1"];
            let larger = ["--every", "499", "--hidden", "16", "--batch", "50", "--max-length", "60"];
            stdout(&on_gpu(folder.path(), &[&run[..], &larger, &CUDA, more].concat(), &[]))
        };
        let (kept, anew) = (train("kept", &[]), train("anew", &["--recompute"]));
        assert!(anew.contains("computed anew") && !kept.contains("computed anew"), "{anew}");
        let [kept, anew] = [kept, anew].map(|text| told_bytes(&text));
        assert!(anew < kept * 7 / 8, "{anew} bytes with recomputation, {kept} without");
        let model = |name: &str| fs::read(folder.path().join(name).join("model.safetensors")).unwrap();
        assert!(model("kept") == model("anew"), "the runs differ");
    }

    /// With steps of which one in four is read, so that the host runs ahead.
    #[test]
    fn a_run_killed_at_any_step_and_resumed_ends_with_the_same_bytes() {
        let settings = ["--hidden", "16", "--batch", "4", "--max-length", "5", "--seed", "3"];
        let little = ["--metrics-every", "4", "--samples", "1", "--every", "499", "--device", "cuda:0"];
        killed_and_resumed(gpu_program, 90, "3", &settings, &little);
    }

    #[test]
    fn info_names_devices_images_and_paths() {
        let folder = temporary();
        let text = stdout(&on_gpu(folder.path(), &["info"], &[("COUNT", "2"), ("MEMORY", "8G")]));
        for ordinal in 0..2 {
            let line = format!("cuda:{ordinal}, Virtual GPU sm_80, sm_80, 8.0 GiB, driver of CUDA 13.0");
            assert!(text.contains(&line), "{text}");
        }
        for path in ["cuda f32 split wide", "cuda bf16 wide", "cuda f16 wide"] {
            let lines: Vec<&str> = text.lines().filter(|line| line.contains(path)).collect();
            assert_eq!(lines.len(), 2, "{text}");
            // The virtual GPU takes no cubin.
            assert!(lines.iter().all(|line| line.contains("PTX ")), "{text}");
        }
        let text = stdout(&on_gpu(folder.path(), &["info"], &[("CHIP", "sm_89")]));
        assert!(text.contains("cuda f32 ffma wide"), "{text}");
        let text = stdout(&on_gpu(folder.path(), &["info"], &[("COUNT", "0")]));
        assert!(text.contains("CUDA is not available: the driver finds no device"), "{text}");
        let text = stdout(&on_gpu(folder.path(), &["info"], &[("CHIP", "sm_70")]));
        assert!(text.contains("sm_70") && text.contains("sm_80 or newer"), "{text}");
    }
}
