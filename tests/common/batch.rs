//! Batches of sequences, padded or ragged, tokens or dense, and what the CPU makes of them.

use pr_lstm::backend::Backend;
use pr_lstm::random::Random;
use pr_lstm::{Config, Cpu, CpuPath, Dtype, Model, Outputs, Parameters, Session, Tape};

use super::{normals, parameters};

/// To f32.
pub fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

/// To f64.
pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// A whole number from `least` to `most`.
pub fn between(random: &mut Random, least: usize, most: usize) -> usize {
    least + random.below((most - least + 1) as u32) as usize
}

/// That many lengths of 1 to `most`.
pub fn lengths(random: &mut Random, batch: usize, most: usize) -> Vec<usize> {
    (0..batch).map(|_| between(random, 1, most)).collect()
}

/// [`parameters`] on a device.
pub fn device_parameters(config: &Config, cpu: &Cpu, random: &mut Random, scale: f64) -> Parameters<Cpu> {
    let flat = narrow(&parameters(config, random, scale));
    Parameters::new(config, cpu.clone(), &flat).expect("parameters")
}

/// The paths of the CPU that this processor has; says which it lacks.
pub fn available_paths() -> Vec<CpuPath> {
    let (has, lacks): (Vec<CpuPath>, Vec<CpuPath>) =
        CpuPath::ALL.into_iter().partition(|path| path.is_available() && path.computes(Dtype::F32));
    println!("paths {has:?}, skipped {lacks:?}");
    has
}

/// Sequences, each of its own length.
#[derive(Clone, Debug)]
pub enum Batch {
    /// Tokens, `[T]` each.
    Tokens(Vec<Vec<u32>>),
    /// Dense rows, `[T, D]` each.
    Dense(Vec<Vec<f32>>, usize),
}

impl Batch {
    /// Random tokens below `vocabulary`.
    pub fn tokens(random: &mut Random, lengths: &[usize], vocabulary: usize) -> Self {
        let mut sequence = |&time: &usize| (0..time).map(|_| random.below(vocabulary as u32)).collect();
        Batch::Tokens(lengths.iter().map(&mut sequence).collect())
    }

    /// Random dense rows of that width.
    pub fn dense(random: &mut Random, lengths: &[usize], width: usize) -> Self {
        let mut sequence = |&time: &usize| narrow(&normals(random, time * width, 1.0));
        Batch::Dense(lengths.iter().map(&mut sequence).collect(), width)
    }

    /// Tokens as rows with a single 1.
    pub fn one_hot(&self, width: usize) -> Self {
        let Batch::Tokens(sequences) = self else { panic!("dense already") };
        let row = |&token: &u32| (0..width).map(move |column| f32::from(column == token as usize));
        Batch::Dense(sequences.iter().map(|tokens| tokens.iter().flat_map(row).collect()).collect(), width)
    }

    /// The length of each sequence.
    pub fn lengths(&self) -> Vec<usize> {
        match self {
            Batch::Tokens(sequences) => sequences.iter().map(Vec::len).collect(),
            Batch::Dense(sequences, width) => sequences.iter().map(|rows| rows.len() / width).collect(),
        }
    }

    /// One of the sequences as a batch of its own.
    pub fn alone(&self, index: usize) -> Self {
        match self {
            Batch::Tokens(sequences) => Batch::Tokens(vec![sequences[index].clone()]),
            Batch::Dense(sequences, width) => Batch::Dense(vec![sequences[index].clone()], *width),
        }
    }

    /// A session that this batch just fits.
    pub fn session<B: Backend>(&self, model: &Model<B>, outputs: Outputs) -> Session<B> {
        let lengths = self.lengths();
        let builder = model.session().max_batch(lengths.len()).outputs(outputs);
        let builder = builder.max_time(lengths.into_iter().max().expect("a sequence"));
        match self {
            Batch::Tokens(_) => builder.build(),
            Batch::Dense(..) => builder.dense().build(),
        }
        .expect("a session")
    }

    /// Runs the batch: the logits.
    pub fn forward<B: Backend>(&self, session: &mut Session<B>) -> Vec<f32> {
        match self {
            Batch::Tokens(sequences) => session.forward(sequences),
            Batch::Dense(sequences, _) => session.forward_dense(sequences),
        }
        .expect("a pass")
        .to_vec()
    }

    /// The logits of a session of its own.
    pub fn logits<B: Backend>(&self, model: &Model<B>, outputs: Outputs) -> Vec<f32> {
        self.forward(&mut self.session(model, outputs))
    }

    /// Forward and backward on a tape of its own, from the gradient of the logits.
    pub fn train(&self, parameters: &Parameters<Cpu>, outputs: Outputs, d_logits: &[f32]) -> Trained {
        let lengths = self.lengths();
        let longest = lengths.iter().copied().max().expect("a sequence");
        let mut tape = Tape::new(parameters, lengths.len(), longest).expect("a tape");
        let hidden = match self {
            Batch::Tokens(sequences) => tape.scan(parameters, sequences, outputs),
            Batch::Dense(sequences, _) => tape.scan_dense(parameters, sequences, outputs),
        }
        .expect("a scan");
        let logits = tape.readout(parameters, hidden).expect("a read-out");
        let gradients = tape.backward_from(logits, d_logits).expect("the way back");
        Trained {
            gradients: gradients.to_vec().expect("gradients"),
            hidden: tape.value(hidden).expect("hidden"),
            logits: tape.value(logits).expect("logits"),
            d_input: match self {
                Batch::Tokens(_) => Vec::new(),
                Batch::Dense(..) => tape.d_input(hidden).expect("d_input"),
            },
        }
    }
}

/// What a pass forward and backward gives.
#[derive(Clone, Debug)]
pub struct Trained {
    /// `[outputs, H]`.
    pub hidden: Vec<f32>,
    /// `[outputs, O]`.
    pub logits: Vec<f32>,
    /// Of all parameters, flat.
    pub gradients: Vec<f32>,
    /// `[input rows, D]`; empty for tokens.
    pub d_input: Vec<f32>,
}

impl Trained {
    /// Demands the same bits of everything.
    pub fn assert_same_bits(&self, other: &Trained, what: &str) {
        assert_same_bits(&self.hidden, &other.hidden, &format!("{what}: hidden"));
        assert_same_bits(&self.logits, &other.logits, &format!("{what}: logits"));
        assert_same_bits(&self.gradients, &other.gradients, &format!("{what}: gradients"));
        assert_same_bits(&self.d_input, &other.d_input, &format!("{what}: d_input"));
    }
}

/// Demands the same bits, all of them finite.
pub fn assert_same_bits(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: elements");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(expected.is_finite(), "{what}: element {index} is {expected}");
        assert_eq!(found.to_bits(), expected.to_bits(), "{what}: element {index}: {found:e} {expected:e}");
    }
}
