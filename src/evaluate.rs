//! Accuracy at every length of a range, and the paper's score: the mean over lengths beyond those trained on.

use std::ops::{ControlFlow, RangeInclusive};

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::random::Purpose;
use crate::session::Session;
use crate::tasks::{Batch, Task};
use crate::tree::Outputs;

/// Lengths that the paper's score averages over.
pub const SCORED: RangeInclusive<usize> = 41..=500;
/// Sequences that are run at once.
const BATCH: usize = 128;

/// How to evaluate.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The task.
    pub task: Task,
    /// The lengths.
    pub lengths: RangeInclusive<usize>,
    /// Only every n-th length, the first and the last among them.
    pub every: usize,
    /// Samples a length. Paper: 512.
    pub samples: usize,
    /// The seed of the samples, which are none of those that a run with the same seed was trained on.
    pub seed: u64,
}

/// Accuracy at one length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LengthAccuracy {
    /// The length.
    pub length: usize,
    /// Share of the positions that count whose arg-max is right.
    pub accuracy: f64,
}

impl Evaluation {
    /// The paper's: 512 samples at each length of 41 to 500.
    pub fn paper(task: Task) -> Self {
        Evaluation { task, lengths: SCORED, every: 1, samples: 512, seed: 0 }
    }

    /// The lengths that are evaluated.
    pub fn lengths(&self) -> Vec<usize> {
        let mut lengths: Vec<usize> = self.lengths.clone().step_by(self.every.max(1)).collect();
        if lengths.last().is_some_and(|last| last != self.lengths.end()) {
            lengths.push(*self.lengths.end());
        }
        lengths
    }

    /// Evaluates a model; `progress` sees each length as it is done and may stop there.
    ///
    /// # Errors
    /// [`Error::Argument`] if the range is empty, a number 0, or the model is not of the task's shape; the device's.
    pub fn run<B: Backend>(
        &self,
        model: &Model<B>,
        mut progress: impl FnMut(LengthAccuracy) -> ControlFlow<()>,
    ) -> Result<Vec<LengthAccuracy>> {
        let (task, config) = (self.task, model.config());
        let [wanted, found] = [(task.input_size() + 1, task.output_size()), (config.input, config.output)];
        if wanted != found {
            let shape = |(input, output)| format!("input {input} and output {output}");
            return Err(Error::argument("model", format!("{}, as {task} has", shape(wanted)), shape(found)));
        }
        if self.lengths.is_empty() || *self.lengths.start() == 0 || *self.lengths.end() > 1 << 20 {
            return Err(Error::argument(
                "lengths",
                "first to last, from 1 to 2^20",
                format!("{:?}", self.lengths),
            ));
        }
        for (name, number) in [("every", self.every), ("samples", self.samples)] {
            if number == 0 {
                return Err(Error::argument(name, "at least 1", 0));
            }
        }
        let mut session: Option<(usize, usize, Session<B>)> = None;
        let mut batch = Batch::default();
        let mut results = Vec::new();
        for length in self.lengths() {
            batch.fill(task, length, self.samples, self.seed, Purpose::Evaluate, length as u64)?;
            // A session serves all lengths with as many outputs that it has room for.
            let fits =
                |(outputs, time, _): &(usize, usize, _)| *outputs == batch.outputs && batch.time <= *time;
            if !session.as_ref().is_some_and(fits) {
                // Where the outputs do not grow with the length, it is made for the longest at once.
                let longest = *self.lengths.end();
                let max_time = match task.output_length(longest) == batch.outputs {
                    true => (longest + batch.outputs).max(batch.time),
                    false => batch.time,
                };
                let built = model
                    .session()
                    .max_batch(BATCH.min(self.samples))
                    .max_time(max_time)
                    .outputs(Outputs::LastN(batch.outputs))
                    .build()?;
                session = Some((batch.outputs, max_time, built));
            }
            let Some((_, _, session)) = &mut session else { continue };
            let (mut right, mut counted) = (0u64, 0u64);
            let sequences: Vec<&[u32]> = batch.tokens.chunks_exact(batch.time).collect();
            let answers =
                batch.targets.chunks(BATCH * batch.outputs).zip(batch.mask.chunks(BATCH * batch.outputs));
            for (sequences, (targets, mask)) in sequences.chunks(BATCH).zip(answers) {
                let logits = session.forward(sequences)?;
                for (logits, (&target, &mask)) in
                    logits.chunks_exact(config.output).zip(targets.iter().zip(mask))
                {
                    let target = logits[target as usize];
                    // The first of equals is the arg-max; a NaN anywhere is never right.
                    let mut others = logits.iter();
                    let is_first = others.by_ref().take_while(|&&x| x != target).all(|&x| x < target);
                    counted += u64::from(mask != 0);
                    right += u64::from(mask != 0 && is_first && others.all(|&x| x <= target));
                }
            }
            let result = LengthAccuracy { length, accuracy: right as f64 / counted.max(1) as f64 };
            results.push(result);
            if progress(result).is_break() {
                break;
            }
        }
        Ok(results)
    }
}

/// The paper's score: the mean accuracy over the lengths of 41 to 500 among these; None if there is none.
pub fn score(results: &[LengthAccuracy]) -> Option<f64> {
    let scored = results.iter().filter(|result| SCORED.contains(&result.length));
    let (count, sum) = scored.fold((0, 0.0), |(count, sum), result| (count + 1, sum + result.accuracy));
    (count > 0).then(|| sum / f64::from(count))
}
