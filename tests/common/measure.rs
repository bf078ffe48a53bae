//! The oracle, central differences, and how far one result is from another.

use pr_lstm::random::Random;
use pr_lstm::{Config, Error, reference};

use super::{golden, widen};

/// `Σ a ⊙ b`.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The norm of `a - b` over that of `b`; 0 if both are zero.
pub fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let (error, norm) = (dot(&difference, &difference), dot(b, b));
    if error == 0.0 { 0.0 } else { (error / norm).sqrt() }
}

/// The largest [`distance`] of two rows of `width`, one row a position of time, and where it is. A row's norm counts
/// as a thousandth of the largest row's at least.
pub fn worst_row(found: &[f32], expected: &[f64], width: usize) -> (f64, usize) {
    assert_eq!(found.len(), expected.len());
    let found = widen(found);
    let norms: Vec<f64> = expected.chunks(width).map(|row| dot(row, row).sqrt()).collect();
    let floor = norms.iter().copied().fold(0.0, f64::max) * 1e-3;
    let mut worst = (0.0, 0);
    for (row, (a, b)) in found.chunks(width).zip(expected.chunks(width)).enumerate() {
        let difference: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        let error = dot(&difference, &difference).sqrt() / norms[row].max(floor);
        if error > worst.0 || error.is_nan() {
            worst = (if error.is_nan() { f64::INFINITY } else { error }, row);
        }
    }
    worst
}

/// The error at the worst position of time of `[positions, width]`, sequences of these lengths one after another.
#[cfg(feature = "tasks")]
pub fn over_time(found: &[f32], expected: &[f64], lengths: &[usize], width: usize) -> f64 {
    assert_eq!(found.len(), lengths.iter().sum::<usize>() * width);
    // Where a sequence has ended both are 0.
    let longest = lengths.iter().copied().max().unwrap();
    let padded = |values: &[f64]| {
        let mut padded = Vec::new();
        let mut rest = values;
        for &length in lengths {
            let (sequence, others) = rest.split_at(length * width);
            padded.extend_from_slice(sequence);
            padded.resize(padded.len() + (longest - length) * width, 0.0);
            rest = others;
        }
        padded
    };
    pr_lstm::golden::worst_position(&padded(&widen(found)), &padded(expected), lengths.len(), longest).0
}

/// The largest [`distance`] of two flat buffers among the parameters of a configuration, and the parameter's name.
/// Where nothing is expected, anything but zero is infinitely far.
pub fn worst_parameter(config: &Config, found: &[f64], expected: &[f64]) -> (f64, String) {
    let layout = config.layout().expect("a layout");
    assert_eq!((found.len(), expected.len()), (layout.len(), layout.len()));
    let errors = layout.names.into_iter().map(|p| {
        let error = distance(&found[p.range.clone()], &expected[p.range]);
        (if error.is_nan() { f64::INFINITY } else { error }, p.name)
    });
    errors.fold((0.0, String::new()), |worst, error| if error.0 > worst.0 { error } else { worst })
}

/// `(f(x + εe) - f(x - εe)) / 2ε` for every element.
pub fn central_differences(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let epsilon = 1e-5;
    (0..x.len())
        .map(|k| {
            let at = |shift: f64| {
                let mut x = x.to_vec();
                x[k] += shift;
                f(&x)
            };
            (at(epsilon) - at(-epsilon)) / (2.0 * epsilon)
        })
        .collect()
}

/// The oracle with these parameters, flat.
pub fn oracle(config: &Config, flat: &[f64]) -> reference::Model {
    let weights = reference::Parameters::from_flat(config, flat).expect("parameters");
    reference::Model::new(config, weights).expect("a model")
}

/// The bits of numbers: what is compared where equal bits are promised.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Random tokens, a sequence of each length.
pub fn draw_tokens(random: &mut Random, vocabulary: usize, lengths: &[usize]) -> Vec<Vec<u32>> {
    let mut sequence = |&length: &usize| (0..length).map(|_| random.below(vocabulary as u32)).collect();
    lengths.iter().map(&mut sequence).collect()
}

/// Asserts that this is an error whose message has each of these parts.
#[track_caller]
pub fn refused<T>(result: Result<T, Error>, parts: &[&str]) {
    let Err(error) = result else { panic!("accepted, where {parts:?} was expected") };
    let message = error.to_string();
    assert!(
        !message.contains('\n') && parts.iter().all(|part| message.contains(part)),
        "{message}\n{parts:?}"
    );
}

/// The thirty training steps of `training-parity.safetensors`.
#[cfg(feature = "tasks")]
pub struct TrainingTrace {
    pub config: Config,
    /// Tokens and targets of each step.
    pub steps: Vec<(Vec<Vec<u32>>, Vec<u32>)>,
    pub losses: Vec<f64>,
    pub norms: Vec<f64>,
    file: pr_lstm::golden::TensorFile,
}

#[cfg(feature = "tasks")]
impl TrainingTrace {
    pub fn read() -> Self {
        let file = pr_lstm::golden::TensorFile::read(golden("training-parity.safetensors")).expect("a trace");
        let step = |step: usize| {
            let name = format!("step{step}.bits");
            let shape = file.shape(&name).unwrap();
            let bits = file.i32(&name, shape).unwrap();
            let sequences = bits.chunks(shape[1]).map(|bits| bits.iter().map(|&bit| bit as u32));
            let targets = sequences.clone().map(|bits| bits.sum::<u32>() % 2).collect();
            (sequences.map(|bits| bits.chain([2]).collect()).collect(), targets)
        };
        TrainingTrace {
            config: file.config().unwrap(),
            steps: (0..30).map(step).collect(),
            losses: file.f64("loss", &[30]).unwrap(),
            norms: file.f64("grad_norm", &[30]).unwrap(),
            file,
        }
    }

    /// The parameters of that prefix, flat: `initial`, `grad0` or `final`.
    pub fn parameters(&self, prefix: &str) -> Vec<f64> {
        let layout = self.config.layout().unwrap();
        let tensor = |p: &pr_lstm::model::ParameterRange| {
            self.file.f64(&format!("{prefix}.{}", p.name), &p.shape).unwrap()
        };
        layout.names.iter().flat_map(tensor).collect()
    }
}
