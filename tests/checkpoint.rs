//! Checkpoints and saved streams: what is written is what is documented and what is read, and a file that is cut
//! short, foreign, hostile or half written is refused by name and leaves what was there.

mod common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use common::{bits, draw_tokens, narrow, parameters, random, refused};
use pr_lstm::{Cell, Checkpoint, Config, Cpu, Error, Model, Parameters, Recurrence, StreamId, Streams};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

fn checkpoint(config: Config, with_moments: bool) -> Checkpoint {
    let mut random = random(1);
    let mut draw = || narrow(&parameters(&config, &mut random, 1.0));
    let (drawn, m, v) = (draw(), draw(), draw());
    let v = v.into_iter().map(f32::abs).collect();
    Checkpoint {
        task: with_moments.then(|| "parity_check".into()),
        seed: if with_moments { u64::MAX } else { 0 },
        step: 12_345,
        parameters: drawn,
        moments: with_moments.then_some([m, v]),
        config,
    }
}

fn small() -> Config {
    Config::new(3, 4, 2)
}

/// Name, type, shape, bytes.
type Tensor = (String, Dtype, Vec<usize>, Vec<u8>);

/// A safetensors file that can be changed part by part.
#[derive(Clone)]
struct Parts {
    metadata: HashMap<String, String>,
    tensors: Vec<Tensor>,
}

impl Parts {
    fn read(bytes: &[u8]) -> Self {
        let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
        let mut tensors: Vec<_> = SafeTensors::deserialize(bytes)
            .unwrap()
            .iter()
            .map(|(name, view)| (name.to_owned(), view.dtype(), view.shape().to_vec(), view.data().to_vec()))
            .collect();
        tensors.sort();
        Parts { metadata: header.metadata().clone().unwrap_or_default(), tensors }
    }

    fn bytes(&self) -> Vec<u8> {
        let views = self.tensors.iter().map(|(name, dtype, shape, data)| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        safetensors::serialize(views, Some(self.metadata.clone())).unwrap()
    }

    fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap()
    }

    /// The JSON under the one key, changed.
    fn with_json(mut self, key: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut json = serde_json::from_str(&self.metadata[key]).unwrap();
        change(&mut json);
        self.metadata.insert(key.into(), json.to_string());
        self.bytes()
    }

    /// An element of a tensor, changed.
    fn with_element(mut self, tensor: &str, element: usize, value: f32) -> Vec<u8> {
        self.tensor(tensor).3[element * 4..][..4].copy_from_slice(&value.to_le_bytes());
        self.bytes()
    }
}

/// A folder with a checkpoint in it.
struct Folder {
    folder: tempfile::TempDir,
    path: PathBuf,
    parts: Parts,
}

impl Folder {
    fn new(checkpoint: &Checkpoint) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        checkpoint.write(&path).unwrap();
        Folder { parts: Parts::read(&std::fs::read(&path).unwrap()), folder, path }
    }

    /// Reads a file of these bytes by every way there is, none of which gives anything, and tells the error.
    #[track_caller]
    fn refuses(&self, bytes: &[u8], parts: &[&str]) {
        let path = self.folder.path().join("other.safetensors");
        std::fs::write(&path, bytes).unwrap();
        let named = [&[path.to_str().unwrap()], parts].concat();
        refused(Checkpoint::read(&path), &named);
        refused(Model::load(&path, Cpu::new()), &named);
        refused(Parameters::load(&path, Cpu::new()), &named);
    }

    fn entries(&self) -> usize {
        std::fs::read_dir(self.folder.path()).unwrap().count()
    }
}

#[test]
fn what_is_written_is_read() {
    let sequential = Config::new(5, 4, 2).recurrence(Recurrence::Sequential);
    for config in [
        small(),
        Config::new(5, 17, 1).unary_layers(0),
        Config::new(1, 1, 3).unary_layers(3).cell(Cell::Rnn),
        sequential.clone().cell(Cell::Rnn),
        sequential,
    ] {
        for with_moments in [false, true] {
            let mut written = checkpoint(config.clone(), with_moments);
            // Numbers at the edge of f32 come back as they were.
            written.parameters[..4].copy_from_slice(&[f32::MAX, f32::MIN_POSITIVE, -0.0, 1e-45]);
            let folder = Folder::new(&written);
            let read = Checkpoint::read(&folder.path).unwrap();
            assert_eq!(read, written);
            assert_eq!(bits(&read.parameters), bits(&written.parameters));
            let parameters = Parameters::load(&folder.path, Cpu::new()).unwrap();
            assert_eq!(bits(&parameters.to_vec().unwrap()), bits(&written.parameters));
            assert_eq!(Model::load(&folder.path, Cpu::new()).unwrap().config(), &config);
        }
    }
}

#[test]
fn a_checkpoint_of_before_there_was_a_recurrence_is_a_tree() {
    let written = checkpoint(small(), true);
    let folder = Folder::new(&written);
    let old = folder.parts.clone().with_json("pr_lstm", |json| {
        json["config"].as_object_mut().unwrap().remove("recurrence").expect("there was one");
    });
    let path = folder.folder.path().join("old.safetensors");
    std::fs::write(&path, old).unwrap();
    assert_eq!(Checkpoint::read(&path).unwrap(), written);
    let other =
        folder.parts.clone().with_json("pr_lstm", |json| json["config"]["recurrence"] = "sequential".into());
    folder.refuses(&other, &["config.unary_layers", "sequential", "got 1"]);
}

#[test]
fn parameters_save_a_checkpoint_of_a_model_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let parameters = Parameters::init(&small(), Cpu::new(), 3).unwrap();
    parameters.save(&path).unwrap();
    let read = Checkpoint::read(&path).unwrap();
    assert_eq!(read, Checkpoint::new(small(), parameters.to_vec().unwrap()));
    assert_eq!((read.task, read.seed, read.step, read.moments), (None, 0, 0, None));
}

#[test]
fn the_file_is_as_documented() {
    for (with_moments, task) in [(true, json!("parity_check")), (false, Value::Null)] {
        let written = checkpoint(small(), with_moments);
        let Parts { metadata, tensors } = Folder::new(&written).parts;
        assert_eq!(metadata.keys().collect::<Vec<_>>(), ["pr_lstm"]);
        let json: Value = serde_json::from_str(&metadata["pr_lstm"]).unwrap();
        let config = json!({
            "cell": "lstm", "recurrence": "tree", "input": 3, "hidden": 4, "unary_layers": 1, "output": 2,
        });
        let expected = json!({
            "format": 1, "config": config, "dtype": "f32", "task": task, "seed": written.seed, "step": 12_345,
        });
        assert_eq!(json, expected);

        let shapes: [(&str, &[usize]); 8] = [
            ("leaf.b", &[12]),
            ("leaf.w", &[3, 12]),
            ("merge.b", &[20]),
            ("merge.w", &[8, 20]),
            ("readout.b", &[2]),
            ("readout.w", &[4, 2]),
            ("unary.0.b", &[16]),
            ("unary.0.w", &[4, 16]),
        ];
        let layout = small().layout().unwrap();
        let mut expected = Vec::new();
        let mut groups = vec![("", &written.parameters)];
        groups.extend(written.moments.iter().flat_map(|[m, v]| [("adam.m.", m), ("adam.v.", v)]));
        for (prefix, flat) in groups {
            for (name, shape) in shapes {
                let range = layout.get(name).unwrap().range.clone();
                let data = flat[range].iter().flat_map(|x| x.to_le_bytes()).collect();
                expected.push((format!("{prefix}{name}"), Dtype::F32, shape.to_vec(), data));
            }
        }
        expected.sort();
        assert!(tensors == expected);
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let folder = Folder::new(&checkpoint(small(), true));
    let whole = std::fs::read(&folder.path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for length in (0..header).step_by(31).chain((header - 1..whole.len()).step_by(13)) {
        let parts: &[&str] =
            if length < header { &["not a whole"] } else { &["cut short: tensor `", "whole"] };
        folder.refuses(&whole[..length], parts);
    }
    // One byte less: the last tensor is named. A byte more belongs to none.
    let tensors = SafeTensors::deserialize(&whole).unwrap().tensors();
    let (last, _) = tensors.iter().max_by_key(|(_, view)| view.data().as_ptr_range().end).unwrap();
    folder.refuses(
        &whole[..whole.len() - 1],
        &[&format!("tensor `{last}` is not whole"), "copy the file again"],
    );
    folder.refuses(&[&whole[..], &[0]].concat(), &["not a whole"]);
}

#[test]
fn a_foreign_file_is_refused() {
    let folder = Folder::new(&checkpoint(small(), false));
    folder.refuses(b"", &["safetensors"]);
    folder.refuses(b"PK\x03\x04 something else altogether", &["safetensors"]);
    folder.refuses(&u64::MAX.to_le_bytes(), &["safetensors"]);
    folder.refuses(&[u64::MAX.to_le_bytes(), [b'{'; 8]].concat(), &["safetensors"]);
    let mut parts = folder.parts.clone();
    parts.metadata.clear();
    folder.refuses(&parts.bytes(), &["no key `pr_lstm`"]);
    parts.metadata.insert("pr_lstm".into(), "{".into());
    folder.refuses(&parts.bytes(), &["metadata `pr_lstm`"]);
    for text in ["[]", "1", "null", "{}"] {
        parts.metadata.insert("pr_lstm".into(), text.into());
        folder.refuses(&parts.bytes(), &["metadata `pr_lstm`", "`format`"]);
    }
    let missing = folder.folder.path().join("missing.safetensors");
    refused(Checkpoint::read(&missing), &["cannot read", "missing.safetensors"]);
    refused(Checkpoint::read(folder.folder.path()), &["cannot read", folder.folder.path().to_str().unwrap()]);
}

#[test]
fn metadata_that_does_not_fit_is_refused() {
    let folder = Folder::new(&checkpoint(small(), false));
    let with = |change: &dyn Fn(&mut Value)| folder.parts.clone().with_json("pr_lstm", change);
    for found in [0, 2, u64::MAX] {
        let bytes = with(&|json| json["format"] = found.into());
        folder.refuses(&bytes, &[&format!("format {found}"), "reads format 1", "version that wrote it"]);
    }
    for format in [json!("1"), json!(1.5), json!(-1), Value::Null] {
        folder.refuses(&with(&|json| json["format"] = format.clone()), &["whole number `format`"]);
    }
    for name in ["seed", "step"] {
        for wrong in [json!(-1), json!("7"), Value::Null] {
            let named = format!("whole number `{name}`");
            folder.refuses(&with(&|json| json[name] = wrong.clone()), &[&named]);
        }
    }
    for name in ["cell", "recurrence", "input", "hidden", "unary_layers", "output"] {
        for wrong in [json!(-1), json!(1e30), json!("gru"), Value::Null] {
            folder.refuses(&with(&|json| json["config"][name] = wrong.clone()), &["no config with", name]);
        }
    }
    folder.refuses(&with(&|json| json["config"] = json!("lstm")), &["no config with"]);
}

#[test]
fn a_hostile_configuration_asks_for_nothing() {
    let folder = Folder::new(&checkpoint(small(), false));
    let with = |sizes: &[(&str, u64)]| {
        folder.parts.clone().with_json("pr_lstm", |json| {
            sizes.iter().for_each(|&(name, size)| json["config"][name] = size.into());
        })
    };
    for name in ["input", "hidden", "output"] {
        let named = format!("config.{name}");
        for size in [0, (1 << 20) + 1, 1 << 32, u64::MAX] {
            folder.refuses(&with(&[(name, size)]), &[&named, "1 to 1048576", &size.to_string()]);
        }
        folder.refuses(&with(&[(name, 1 << 13)]), &["its configuration wants", "more than the file holds"]);
    }
    folder.refuses(&with(&[("unary_layers", 17)]), &["config.unary_layers", "0 to 16", "17"]);
    let largest = [("input", 1 << 20), ("hidden", 1 << 20), ("output", 1 << 20), ("unary_layers", 16)];
    folder.refuses(&with(&largest), &["at most 2^32 parameters", "hidden"]);
    // The same through the library.
    let config = Config::new(1 << 20, 1 << 20, 1 << 20);
    refused(
        Parameters::init(&config, Cpu::new(), 0),
        &["config", "at most 2^32 parameters", "smaller `hidden`"],
    );
    refused(Checkpoint::new(config, vec![]).write(&folder.path), &["config", "at most 2^32 parameters"]);
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let folder = Folder::new(&checkpoint(small(), true));
    let names: Vec<String> = folder.parts.tensors.iter().map(|tensor| tensor.0.clone()).collect();
    assert_eq!(names.len(), 24);
    for name in &names {
        let named = format!("`{name}`");
        let changed = |change: &dyn Fn(&mut Tensor)| {
            let mut parts = folder.parts.clone();
            change(parts.tensor(name));
            parts.bytes()
        };
        let mut parts = folder.parts.clone();
        parts.tensors.retain(|tensor| tensor.0 != *name);
        folder.refuses(&parts.bytes(), &[&named, "missing"]);
        // Of the same elements, of one less, of another type.
        folder.refuses(&changed(&|tensor| tensor.2.insert(0, 1)), &[&named, "expected F32", "got F32 [1, "]);
        let shorter = changed(&|tensor| {
            tensor.3.truncate(tensor.3.len() - 4);
            tensor.2 = vec![tensor.3.len() / 4];
        });
        folder.refuses(&shorter, &[&named, "expected F32"]);
        folder.refuses(&changed(&|tensor| tensor.1 = Dtype::I32), &[&named, "expected F32", "got I32"]);
        // NaN and infinity.
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let bytes = folder.parts.clone().with_element(name, 1, value);
            folder.refuses(&bytes, &[name, "element 1", &value.to_string(), "not finite"]);
        }
    }
    // One too many, a layer too many, moments of one kind only.
    for name in ["leaf", "unary.1.w", "adam.m.extra", "adam.w", "optimizer"] {
        let mut parts = folder.parts.clone();
        parts.tensors.push((name.into(), Dtype::F32, vec![1], vec![0; 4]));
        folder.refuses(&parts.bytes(), &[&format!("`{name}`"), "configuration"]);
    }
    let mut parts = folder.parts.clone();
    parts.tensors.retain(|tensor| !tensor.0.starts_with("adam.v."));
    folder.refuses(&parts.bytes(), &["`adam.v.leaf.w`", "missing"]);
    // Tensors of another configuration.
    let with = |hidden: u64| {
        folder.parts.clone().with_json("pr_lstm", |json| json["config"]["hidden"] = hidden.into())
    };
    folder.refuses(&with(3), &["`leaf.w`", "[3, 9]", "[3, 12]"]);
    let rnn = folder.parts.clone().with_json("pr_lstm", |json| json["config"]["cell"] = "rnn".into());
    folder.refuses(&rnn, &["`leaf.w`", "[3, 4]", "[3, 12]"]);
}

#[test]
fn what_cannot_be_read_is_not_written() {
    let good = checkpoint(small(), true);
    let folder = Folder::new(&good);
    let before = std::fs::read(&folder.path).unwrap();
    let refuses = |change: &dyn Fn(&mut Checkpoint), parts: &[&str]| {
        let mut bad = good.clone();
        change(&mut bad);
        refused(bad.write(&folder.path), parts);
        assert!(std::fs::read(&folder.path).unwrap() == before);
        assert_eq!(folder.entries(), 1, "a temporary file is left");
    };
    for value in [f32::NAN, f32::INFINITY] {
        let found = &value.to_string();
        refuses(&|bad| bad.parameters[36 + 12 + 2] = value, &["merge.w", "element 2", found]);
        refuses(&|bad| bad.moments.as_mut().unwrap()[0][1] = value, &["adam.m.leaf.w", "element 1", found]);
        refuses(&|bad| bad.moments.as_mut().unwrap()[1][36] = value, &["adam.v.leaf.b", "element 0", found]);
    }
    refuses(&|bad| bad.parameters.truncate(5), &["checkpoint", "elements", "5"]);
    refuses(&|bad| bad.parameters.push(0.0), &["checkpoint", "elements"]);
    refuses(&|bad| bad.moments.as_mut().unwrap()[1].clear(), &["checkpoint", "adam.v", "0"]);
    refuses(&|bad| bad.config.hidden = 0, &["config.hidden", "1 to"]);
}

#[test]
fn a_write_that_fails_leaves_what_was_there() {
    let folder = Folder::new(&checkpoint(small(), true));
    let other = checkpoint(Config::new(2, 3, 1), false);
    // The folder is missing, is a file, or the target is a folder.
    let missing = folder.folder.path().join("missing").join("model.safetensors");
    refused(other.write(&missing), &["cannot", "missing"]);
    refused(other.write(folder.path.join("model.safetensors")), &["cannot", "model.safetensors"]);
    let target = folder.folder.path().join("folder");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("inside"), "kept").unwrap();
    refused(other.write(&target), &["cannot replace", target.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(target.join("inside")).unwrap(), "kept");
    assert_eq!(folder.entries(), 2, "a temporary file is left");
    assert!(Parts::read(&std::fs::read(&folder.path).unwrap()).bytes() == folder.parts.bytes());
    // One that works replaces the file, and leaves nothing else either.
    other.write(&folder.path).unwrap();
    assert_eq!(Checkpoint::read(&folder.path).unwrap(), other);
    assert_eq!(folder.entries(), 2);
}

#[cfg(unix)]
#[test]
fn the_file_may_be_read_by_whom_any_new_file_may() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new(&checkpoint(small(), false));
    let plain = folder.folder.path().join("plain");
    std::fs::write(&plain, "").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&folder.path), mode(&plain));
}

fn streams(config: &Config, capacity: usize) -> Streams<Cpu> {
    let model = Parameters::init(config, Cpu::new(), 5).unwrap().model();
    Streams::new(&model, capacity, 64).unwrap()
}

/// A stream after these many tokens.
fn after(streams: &mut Streams<Cpu>, tokens: usize) -> StreamId {
    let stream = streams.open().unwrap();
    if tokens > 0 {
        streams.prefill(stream, &draw_tokens(&mut random(6), 3, &[tokens])[0]).unwrap();
    }
    stream
}

#[test]
fn a_restored_stream_goes_on_with_the_same_bits() {
    for config in [small(), Config::new(3, 20, 2).cell(Cell::Rnn).unary_layers(0)] {
        for position in [0, 1, 2, 7, 31, 40, 63, 64] {
            let mut first = streams(&config, 2);
            let stream = after(&mut first, position);
            let bytes = first.save(stream).unwrap();
            let parts = Parts::read(&bytes);
            let json: Value = serde_json::from_str(&parts.metadata["pr_lstm_stream"]).unwrap();
            assert_eq!((&json["format"], &json["position"]), (&json!(1), &json!(position)));
            assert_eq!(parts.metadata.len(), 1);
            let shape = vec![first.states(stream).unwrap(), 2, config.hidden];
            assert_eq!(
                (parts.tensors.len(), &parts.tensors[0].0[..], &parts.tensors[0].2),
                (1, "states", &shape)
            );

            // Elsewhere, beside another stream.
            let mut second = streams(&config, 2);
            after(&mut second, 5);
            let restored = second.restore(&bytes).unwrap();
            assert_eq!(second.position(restored).unwrap(), position as u64);
            assert!(second.save(restored).unwrap() == bytes);
            for token in (0..64 - position as u32).map(|n| n % 3) {
                let expected = bits(first.append(&[(stream, token)]).unwrap());
                assert_eq!(bits(second.append(&[(restored, token)]).unwrap()), expected);
            }
        }
    }
}

#[test]
fn a_stream_that_is_none_is_not_restored() {
    let mut streams = streams(&small(), 2);
    let stream = after(&mut streams, 7);
    let bytes = streams.save(stream).unwrap();
    let parts = Parts::read(&bytes);
    let key = "pr_lstm_stream";
    let mut refuses = |bytes: &[u8], parts: &[&str]| refused(streams.restore(bytes), parts);
    let whole = &["bytes", "a stream as `save` writes it"];
    for length in 0..bytes.len() {
        refuses(&bytes[..length], whole);
    }
    refuses(&[&bytes[..], &[0]].concat(), whole);
    refuses(b"something else altogether", whole);
    refuses(&Folder::new(&checkpoint(small(), false)).parts.bytes(), &["bytes", "no metadata key"]);
    for found in [0, 2, u64::MAX] {
        let bytes = parts.clone().with_json(key, |json| json["format"] = found.into());
        refuses(&bytes, &["saved stream", &format!("format {found}"), "reads format 1"]);
    }
    let mut with = |change: &dyn Fn(&mut Value), messages: &[&str]| {
        refuses(&parts.clone().with_json(key, change), messages);
    };
    with(&|json| json["format"] = Value::Null, &["bytes", "no format number"]);
    with(&|json| json["position"] = Value::Null, &["bytes", "no position"]);
    with(&|json| json["position"] = json!(65), &["bytes", "64 tokens (max_time)", "larger one", "65"]);
    with(&|json| json["position"] = json!(u64::MAX), &["bytes", "64 tokens (max_time)"]);
    // As many states, and one of another number of bits.
    with(&|json| json["position"] = json!(8), &["bytes", "states F32 [5, 2, 4]", "expected F32 [1, 2, 4]"]);
    with(&|json| json["config"]["hidden"] = json!(5), &["bytes", "a stream of Config", "\"hidden\":5"]);
    with(&|json| json["config"]["hidden"] = json!(u64::MAX), &["bytes", "a stream of Config"]);
    with(&|json| json["config"]["cell"] = json!("rnn"), &["bytes", "a stream of Config", "rnn"]);
    with(&|json| *json = json!([]), &["bytes", "no format number"]);
    for value in [f32::NAN, f32::INFINITY] {
        let bytes = parts.clone().with_element("states", 9, value);
        refuses(&bytes, &["states", "element 9", &value.to_string()]);
    }
    let mut other = parts.clone();
    other.tensor("states").1 = Dtype::U32;
    refuses(&other.bytes(), &["states U32"]);
    other = parts.clone();
    other.tensor("states").0 = "state".into();
    refuses(&other.bytes(), &["bytes", "states"]);

    // None of them took a place: the other one is free, and only that.
    let restored = streams.restore(&bytes).unwrap();
    refused(streams.restore(&bytes), &["streams", "capacity", "close one"]);
    streams.close(stream).unwrap();
    streams.restore(&bytes).unwrap();
    let logits = bits(streams.append(&[(restored, 1)]).unwrap());
    let mut fresh = self::streams(&small(), 1);
    let stream = after(&mut fresh, 7);
    assert_eq!(logits, bits(fresh.append(&[(stream, 1)]).unwrap()));
}

#[test]
fn a_format_error_tells_both_numbers() {
    let folder = Folder::new(&checkpoint(small(), false));
    let bytes = folder.parts.clone().with_json("pr_lstm", |json| json["format"] = 9.into());
    std::fs::write(&folder.path, bytes).unwrap();
    let error = Checkpoint::read(&folder.path).unwrap_err();
    let Error::Format { origin, found, supported } = error else { panic!("{error}") };
    assert_eq!((origin.as_str(), found, supported), (folder.path.to_str().unwrap(), 9, 1));
}
