//! Reading golden files: whole ones give what they hold, damaged ones are refused by file and tensor.
#![cfg(feature = "tasks")]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use common::{cell_files, golden, normals, random};
use pr_lstm::Error;
use pr_lstm::golden::{CellFile, Kind, TensorFile, relative_error, worst_position};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};

/// The parts of a safetensors file, to damage.
struct Parts {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    metadata: HashMap<String, String>,
}

impl Parts {
    fn of(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let part = |(name, view): (&str, TensorView<'_>)| {
            (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        };
        Parts {
            tensors: tensors.iter().map(part).collect(),
            metadata: header.metadata().clone().unwrap_or_default(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        serialize(views, Some(self.metadata.clone())).unwrap()
    }
}

/// What reading those bytes as a cell file says; it must name the file.
fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let error = CellFile::read(&path).unwrap_err();
    assert!(matches!(&error, Error::File { path: named, .. } if *named == path), "{error:?}");
    error.to_string()
}

/// The same of a sound file after `damage`.
fn refusal_after(damage: impl FnOnce(&mut Parts)) -> String {
    let mut parts = Parts::of(&golden("cell/lstm-r1-h16-b3-t7.safetensors"));
    damage(&mut parts);
    refusal(&parts.bytes())
}

#[test]
fn whole_files_are_read() {
    for path in cell_files() {
        let file = CellFile::read(&path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let (cell, r, h) = (file.config.cell.name(), file.config.unary_layers, file.config.hidden);
        assert_eq!(name, format!("{cell}-r{r}-h{h}-b{}-t{}", file.batch, file.time));
        assert_eq!(file.hidden.len(), file.batch * file.time * h);
        assert!(file.parameters.iter().any(|&x| x != 0.0) && file.gradients.iter().any(|&x| x != 0.0));
    }
    // A single position: neither merge nor unary layers in the file.
    let single = CellFile::read(golden("cell/lstm-r1-h8-b1-t1.safetensors")).unwrap();
    let merge = single.config.layout().unwrap().merge.w;
    assert!(single.parameters[merge].iter().all(|&x| x == 0.0));
}

#[test]
fn kinds_are_told_by_their_names() {
    for (name, kind) in [
        ("cell/rnn-r0-h8-b2-t5", Kind::Cell),
        ("training-parity", Kind::Trace),
        ("tasks/bucket_sort", Kind::Task),
        ("sequential-lstm", Kind::Sequential),
        ("sequential-rnn", Kind::Sequential),
        ("paper-checkpoint", Kind::Checkpoint),
    ] {
        let path = golden(&format!("{name}.safetensors"));
        assert_eq!(TensorFile::read(&path).unwrap().kind(), Some(kind), "{name}");
        if kind != Kind::Cell {
            let error = CellFile::read(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("this holds a {kind:?}")) && error.contains(name), "{error}");
        }
    }
}

#[test]
fn damaged_files_are_refused_by_file_and_tensor() {
    let path = golden("cell/none.safetensors");
    let error = CellFile::read(&path).unwrap_err();
    assert!(matches!(&error, Error::Io { action: "read", path: named, .. } if *named == path), "{error:?}");
    assert!(matches!(CellFile::read(golden("cell")).unwrap_err(), Error::Io { .. }), "a folder");

    let sound = std::fs::read(golden("cell/lstm-r1-h16-b3-t7.safetensors")).unwrap();
    for length in [0, 7, 8, 100, sound.len() / 2, sound.len() - 1] {
        let message = refusal(&sound[..length]);
        assert!(message.contains("not a whole safetensors file"), "cut to {length} bytes: {message}");
    }
    assert!(
        refusal(&[&sound[..], &[0]].concat()).contains("not a whole safetensors file"),
        "a byte too many"
    );
    assert!(refusal(b"PNG or whatever else a person may pass").contains("not a whole safetensors file"));

    for (name, (_, shape, _)) in Parts::of(&golden("cell/lstm-r1-h16-b3-t7.safetensors")).tensors {
        let message = refusal_after(|parts| drop(parts.tensors.remove(&name)));
        assert!(message.contains(&format!("{name} is missing")), "{message}");

        let elements: usize = shape.iter().product();
        let with = |dtype: Dtype, shape: Vec<usize>, bytes: Vec<u8>| {
            refusal_after(|parts| drop(parts.tensors.insert(name.clone(), (dtype, shape, bytes))))
        };
        let message = with(Dtype::F32, shape.clone(), vec![0; 4 * elements]);
        assert!(
            message.contains(&format!("{name}: expected F64")) && message.contains("got F32"),
            "{message}"
        );
        let message = with(Dtype::F64, vec![elements, 1], vec![0; 8 * elements]);
        assert!(message.contains(&format!("{name}: expected F64 {shape:?}, got F64")), "{message}");
        for value in [f64::NAN, f64::INFINITY] {
            let mut bytes = vec![0; 8 * elements];
            bytes[8 * (elements - 1)..].copy_from_slice(&value.to_le_bytes());
            let message = with(Dtype::F64, shape.clone(), bytes);
            assert!(
                message.contains(&format!("{name}, element {}: {value} is not", elements - 1)),
                "{message}"
            );
        }
    }

    let message = refusal_after(|parts| {
        let layer = parts.tensors["param.unary.0.w"].clone();
        parts.tensors.insert("param.unary.1.w".to_owned(), layer);
    });
    assert!(message.contains("tensor param.unary.1.w is not one of the model"), "{message}");
}

#[test]
fn metadata_that_does_not_fit_is_refused() {
    let set = |key: &str, value: &str| {
        refusal_after(|parts| drop(parts.metadata.insert(key.to_owned(), value.to_owned())))
    };
    for key in ["cell", "hidden_size", "input_size", "output_size", "recursive_layers", "batch", "length"]
        .map(String::from)
    {
        let message = refusal_after(|parts| drop(parts.metadata.remove(&key)));
        assert!(message.contains(&format!("metadata {key:?} is missing")), "{message}");
        assert!(set(&key, "few").contains(&format!("metadata {key:?}: expected")));
    }
    assert!(set("batch", "0").contains("batch 0"));
    assert!(set("length", "0").contains("length 0"));
    assert!(set("hidden_size", "0").contains("config.hidden"));
    assert!(set("hidden_size", "8192").contains("parameters, expected"));
    assert!(set("hidden_size", "1048576").contains("config"));
    assert!(set("batch", &usize::MAX.to_string()).contains("expected F64"));
    assert!(set("length", "8").contains("input: expected F64 [3, 8, 6], got F64 [3, 7, 6]"));
    assert!(set("cell", "rnn").contains("expected F64"));
    assert!(set("recursive_layers", "2").contains("param.unary.1.w is missing"));
    assert!(set("recursive_layers", "0").contains("unary.0.b is not one of the model"));
}

#[test]
fn one_wrong_node_among_a_thousand_is_seen() {
    let (batch, time, width) = (2, 1000, 3);
    let mut random = random(11);
    // Norms from 1 down to 1e-5, as gradients of early positions are.
    let mut expected = normals(&mut random, batch * time * width, 1.0);
    for (n, x) in expected.iter_mut().enumerate() {
        *x *= 10f64.powf(-5.0 * ((n / width) % time) as f64 / time as f64);
    }
    let noise = normals(&mut random, expected.len(), 1e-7);
    let close: Vec<f64> = expected.iter().zip(noise).map(|(x, noise)| x * (1.0 + noise)).collect();
    assert!(worst_position(&close, &expected, batch, time).0 < 1e-6);
    for t in [0, 500, 999] {
        let mut wrong = close.clone();
        let element = (time + t) * width; // in the second sequence
        wrong[element..element + width].fill(0.0);
        let (error, position) = worst_position(&wrong, &expected, batch, time);
        assert!(position == t && error > 1e-3, "{t}: {error:e} at {position}");
        if t > 0 {
            assert!(relative_error(&wrong, &expected) < 1e-2, "it hides in the whole tensor's norm");
        }
    }
}

#[test]
fn nan_never_passes() {
    let infinite = |error: f64| error == f64::INFINITY;
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for (found, expected) in
            [([1.0, bad], [1.0, 2.0]), ([1.0, 2.0], [1.0, bad]), ([1.0, bad], [1.0, bad])]
        {
            assert!(infinite(relative_error(&found, &expected)));
            assert!(infinite(worst_position(&found, &expected, 1, 2).0));
            assert!(infinite(worst_position(&found, &expected, 2, 1).0));
        }
    }
    assert!(infinite(relative_error(&[1.0], &[0.0])));
    assert!(infinite(relative_error(&[1.0], &[1.0, 1.0])));
    assert!(infinite(relative_error(&[f64::MAX / 2.0; 2], &[f64::MAX; 2])), "the norm itself overflows");
    assert_eq!(relative_error(&[1e200], &[2e200]), 0.5);
    assert_eq!(relative_error(&[1e-200], &[2e-200]), 0.5);
    assert_eq!(relative_error(&[0.0; 2], &[0.0; 2]), 0.0);
    assert_eq!(relative_error(&[], &[]), 0.0);
    assert_eq!(relative_error(&[3.0, 5.0], &[3.0, 4.0]), 0.2);

    assert_eq!(worst_position(&[0.0; 4], &[0.0; 4], 2, 2), (0.0, 0));
    assert!(infinite(worst_position(&[0.0, 1e-300], &[0.0, 0.0], 1, 2).0));
    // A position whose expected norm is zero is measured by a thousandth of the largest.
    let (error, position) = worst_position(&[1.0, 1e-6], &[1.0, 0.0], 1, 2);
    assert!((error - 1e-3).abs() < 1e-12 && position == 1);
    for (batch, time) in [(0, 1), (1, 0), (3, 1), (usize::MAX, 2)] {
        assert!(infinite(worst_position(&[0.0; 4], &[0.0; 4], batch, time).0));
    }
    assert!(infinite(worst_position(&[], &[], 1, 1).0));
}
