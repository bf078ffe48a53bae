//! Who computes a case here, and the work itself, ready to be repeated: all memory is there, inputs are drawn.

use std::fmt;
use std::hint::black_box;

use super::case::{Algorithm, Case, OUTPUT, VOCABULARY};
use crate::backend::cpu::Cpu;
use crate::backend::{Backend, Dtype, Input, Pass};
use crate::error::{Error, Result};
use crate::model::{Checkpoint, Config, Model, Parameters, Recurrence, initial};
use crate::optim::Adam;
use crate::random::{Purpose, Random};
use crate::tape::Tape;
use crate::tasks::Batch;
use crate::tree::{Outputs, Schedule};

/// The seed of all weights and inputs.
const SEED: u64 = 1;
/// Tokens that a run of a stream appends: how many merges a token takes depends on its position.
const TOKENS: usize = 64;
/// Numbers that a gate is applied to: they and its results lie in the first cache.
const NUMBERS: usize = 4096;

/// A contender of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contender {
    /// What it computes.
    pub algorithm: Algorithm,
    /// In what; f16 never.
    pub dtype: Dtype,
}

impl Contender {
    /// Those of a case.
    pub fn of(case: &Case) -> Vec<Contender> {
        let dtypes: &[Dtype] = match case {
            Case::Step { .. } | Case::Scan { .. } | Case::Stream { .. } | Case::Gate { .. } => {
                &[Dtype::F32, Dtype::Bf16]
            }
            Case::Training { .. } | Case::Task { .. } => &[Dtype::F32],
        };
        let all = case
            .algorithms()
            .iter()
            .flat_map(|&algorithm| dtypes.iter().map(move |&dtype| Contender { algorithm, dtype }));
        // The LSTM is there to be compared with, in the type that peers have too; streams are of trees.
        let has_lstm = !matches!(case, Case::Stream { .. });
        all.filter(|contender| {
            contender.algorithm != Algorithm::Lstm || (has_lstm && contender.dtype == Dtype::F32)
        })
        .collect()
    }

    /// Whether this processor has it.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub fn check(&self) -> Result<()> {
        Cpu::new().with_dtype(self.dtype).map(|_| ())
    }

    /// Its work at a case, on the fastest path of this processor. It was run once, and gave finite numbers.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if this processor has no such contender; those of what it calls.
    pub fn work(&self, case: &Case) -> Result<Work<'static>> {
        let backend = Cpu::new().with_dtype(self.dtype)?;
        let mut work = match *case {
            Case::Step { hidden, rows } => step(backend, hidden, rows),
            Case::Scan { hidden, batch, time } => self.scan(backend, hidden, batch, time),
            Case::Training { hidden, batch, time } => self.training(backend, hidden, batch, time),
            Case::Stream { hidden, time } => self.stream(backend, hidden, time),
            Case::Task { task, batch, length } => {
                let (mut samples, mut step) = (Batch::default(), 0);
                Ok(Work::new(1, move || {
                    step += 1;
                    samples.fill(task, length, batch, SEED, Purpose::Train, step)?;
                    black_box(&samples.tokens);
                    Ok(())
                }))
            }
            Case::Gate { tanh } => {
                let mut random = Random::new(SEED, Purpose::Show, 0, 0);
                let x: Vec<f32> = (0..NUMBERS).map(|_| 8.0 * random.truncated_normal() as f32).collect();
                let mut y = vec![f32::NAN; NUMBERS];
                Ok(Work::new(1, move || {
                    backend.gate(tanh, &x, &mut y);
                    finite(black_box(&y))
                }))
            }
        }?;
        work.run()?;
        Ok(work)
    }

    fn config(&self, hidden: usize) -> Config {
        let config = Config::new(VOCABULARY, hidden, OUTPUT);
        match self.algorithm {
            Algorithm::Tree | Algorithm::TreeLast => config,
            Algorithm::Lstm => config.recurrence(Recurrence::Sequential),
        }
    }

    fn model(&self, backend: Cpu, hidden: usize) -> Result<Model<Cpu>> {
        let config = self.config(hidden);
        let parameters = initial(&config, SEED)?;
        Model::new(&Checkpoint::new(config, parameters), backend)
    }

    fn scan(&self, backend: Cpu, hidden: usize, batch: usize, time: usize) -> Result<Work<'static>> {
        let outputs = match self.algorithm {
            Algorithm::TreeLast => Outputs::Last,
            Algorithm::Tree | Algorithm::Lstm => Outputs::All,
        };
        let model = self.model(backend, hidden)?;
        let mut session = model.session().max_batch(batch).max_time(time).outputs(outputs).build()?;
        let sequences = sequences(batch, time);
        Ok(Work::new(1, move || finite(&session.forward(&sequences)?)))
    }

    fn training(&self, backend: Cpu, hidden: usize, batch: usize, time: usize) -> Result<Work<'static>> {
        let mut parameters = Parameters::init(&self.config(hidden), backend, SEED)?;
        let mut adam = Adam::paper().build(&parameters)?;
        let mut tape = Tape::new(&parameters, batch, time)?;
        let sequences = sequences(batch, time);
        let targets: Vec<u32> = sequences.iter().map(|tokens| tokens.iter().sum::<u32>() % 2).collect();
        Ok(Work::new(1, move || {
            tape.clear();
            let hidden = tape.scan(&parameters, &sequences, Outputs::Last)?;
            let logits = tape.readout(&parameters, hidden)?;
            let loss = tape.cross_entropy(logits, &targets)?;
            adam.step(&mut parameters, tape.backward(loss)?)?;
            finite(&[tape.metrics(loss)?.loss, adam.status()?.gradient_norm])
        }))
    }

    /// A stream of `time` tokens is forked, grows, and is closed again: every run begins at the same position.
    fn stream(&self, backend: Cpu, hidden: usize, time: usize) -> Result<Work<'static>> {
        let mut streams = self.model(backend, hidden)?.streams(2)?;
        let past = streams.open()?;
        let tokens = sequences(1, time.max(TOKENS)).concat();
        streams.prefill(past, &tokens[..time])?;
        Ok(Work::new(TOKENS, move || {
            let stream = streams.fork(past)?;
            for &token in &tokens[..TOKENS] {
                finite(streams.append(&[(stream, token)])?)?;
            }
            streams.close(stream)
        }))
    }
}

/// Its name in results: `pr-lstm f32`, `pr-lstm last bf16`, `own lstm f32`.
impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.algorithm {
            Algorithm::Tree => "pr-lstm",
            Algorithm::TreeLast => "pr-lstm last",
            Algorithm::Lstm => "own lstm",
        };
        write!(f, "{name} {}", self.dtype)
    }
}

/// Work to be timed: a run does so many units of it, each alike.
pub struct Work<'a> {
    units: usize,
    run: Box<dyn FnMut() -> Result<()> + 'a>,
}

impl<'a> Work<'a> {
    /// Of `units` units a run, at least one; times are those of one unit.
    pub fn new(units: usize, run: impl FnMut() -> Result<()> + 'a) -> Self {
        Work { units: units.max(1), run: Box::new(run) }
    }

    /// Does it once.
    ///
    /// # Errors
    /// Its own.
    pub fn run(&mut self) -> Result<()> {
        (self.run)()
    }

    /// Units of a run.
    pub fn units(&self) -> usize {
        self.units
    }
}

impl fmt::Debug for Work<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("units", &self.units).finish_non_exhaustive()
    }
}

/// Merges and unary layers of `rows` rows, without the leaves and the read-out that any whole pass has.
fn step(backend: Cpu, hidden: usize, rows: usize) -> Result<Work<'static>> {
    let config = Config::new(VOCABULARY, hidden, OUTPUT);
    let parameters = initial(&config, SEED)?;
    let model = Model::new(&Checkpoint::new(config.clone(), parameters), backend.clone())?;
    let plan = backend.plan(&config, &Schedule::one_step(rows), Pass::Infer)?;
    let bytes = backend.workspace_bytes(&plan);
    let mut workspace = backend.alloc::<u8>(bytes)?;
    // 0.046 in f32 and in bf16 alike: states that no kernel could skip.
    backend.upload(&vec![0x3d; bytes], backend.view_mut(&mut workspace, 0, bytes))?;
    Ok(Work::new(1, move || {
        let workspace = backend.view_mut(&mut workspace, 0, bytes);
        backend.scan(model.weights(), &plan, Input::Tokens(&[] as &[u32]), workspace, &mut [])
    }))
}

/// Random tokens, `[batch, time]`.
fn sequences(batch: usize, time: usize) -> Vec<Vec<u32>> {
    let tokens = |sample| {
        let mut random = Random::new(SEED, Purpose::Show, time as u64, sample);
        (0..time).map(|_| random.below(VOCABULARY as u32)).collect()
    };
    (0..batch as u32).map(tokens).collect()
}

/// Refuses results that are none: a contender that computed NaN did not do the work.
fn finite(results: &[f32]) -> Result<()> {
    match results.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(index) => {
            let value = f64::from(results[index]);
            Err(Error::NotFinite { tensor: "results".into(), index, value })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Effort, measure};

    #[test]
    fn every_contender_of_every_small_case_runs_or_says_why_not() {
        for case in Case::all(true) {
            let contenders = Contender::of(&case);
            assert!(!contenders.is_empty(), "{case}");
            for contender in contenders {
                match contender.work(&case) {
                    Ok(work) => {
                        let timings = measure(&mut [work], Effort::ONCE).expect("it runs");
                        assert!(timings[0].fastest > 0.0 && timings[0].samples == 1, "{case} {contender}");
                    }
                    Err(Error::Unavailable { .. }) => {
                        let f32_tree =
                            contender.dtype == Dtype::F32 && contender.algorithm != Algorithm::Lstm;
                        assert!(!f32_tree, "{case}: {contender} is everywhere");
                    }
                    Err(error) => panic!("{case} {contender}: {error}"),
                }
            }
        }
    }

    /// What is timed is what is counted: the merges that the products of a case name.
    #[test]
    fn a_run_merges_as_many_rows_as_its_products_have() {
        let merged = |contender: &Contender, case: &Case| {
            let Case::Scan { hidden, batch, time } = *case else { panic!("a scan") };
            let backend = Cpu::new();
            let mut work = contender.scan(backend.clone(), hidden, batch, time).expect("valid");
            work.run().expect("it runs");
            backend.work().merges as usize
        };
        let mut counts = Vec::new();
        let case = Case::Scan { hidden: 8, batch: 3, time: 21 };
        for algorithm in [Algorithm::Tree, Algorithm::TreeLast] {
            let contender = Contender { algorithm, dtype: Dtype::F32 };
            let products = case.products(algorithm).expect("valid");
            let rows: usize =
                products.iter().filter(|product| product.inner == 16).map(|product| product.rows).sum();
            assert_eq!(merged(&contender, &case), rows, "{contender}");
            counts.push(rows);
        }
        assert!(counts[0] > counts[1], "{counts:?}: pruning changed nothing");

        let backend = Cpu::new();
        step(backend.clone(), 19, 130).expect("valid").run().expect("it runs");
        assert_eq!(backend.work().merges, 130);
    }

    #[test]
    fn a_stream_grows_from_the_same_position_every_time() {
        let case = Case::Stream { hidden: 8, time: 5 };
        let backend = Cpu::new();
        let contender = Contender { algorithm: Algorithm::Tree, dtype: Dtype::F32 };
        let Case::Stream { hidden, time } = case else { panic!("a stream") };
        let mut work = contender.stream(backend.clone(), hidden, time).expect("valid");
        assert_eq!(work.units(), TOKENS);
        let mut merges = vec![backend.work().merges];
        for _ in 0..3 {
            work.run().expect("it runs");
            merges.push(backend.work().merges);
        }
        let grown: Vec<u64> = merges.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(grown[0] > TOKENS as u64 / 2 && grown.iter().all(|count| *count == grown[0]), "{grown:?}");
    }

    #[test]
    fn results_that_are_none_are_refused() {
        assert!(finite(&[1.0, -2.0]).is_ok());
        assert!(finite(&[1.0, f32::NAN]).is_err() && finite(&[f32::INFINITY]).is_err());
    }
}
