//! `evaluate`: a checkpoint at every length of a range.

use std::io::Write;
use std::ops::ControlFlow;

use indicatif::ProgressBar;
use pr_lstm::backend::Backend;
use pr_lstm::evaluate::{Evaluation, LengthAccuracy, score};
use pr_lstm::tasks::Task;
use pr_lstm::{Checkpoint, Error, Model};
use serde_json::json;

use super::{EvaluateArgs, Failure, run_folder};

/// Evaluates and prints a table or JSON.
pub fn run<B: Backend>(args: &EvaluateArgs, backend: B, out: &mut impl Write) -> Result<(), Failure> {
    let path = if args.model.is_dir() { args.model.join(run_folder::MODEL) } else { args.model.clone() };
    let checkpoint = Checkpoint::read(&path)?;
    let task = match (args.task, &checkpoint.task) {
        (Some(task), _) => task,
        (None, Some(name)) => Task::from_name(name)?,
        (None, None) => {
            let problem = "the checkpoint names no task: give one with --task".into();
            return Err(Error::File { path, problem }.into());
        }
    };
    let evaluation = Evaluation {
        task,
        lengths: args.lengths.0.clone(),
        every: args.every as usize,
        samples: args.samples as usize,
        seed: args.seed,
    };
    let results = with_progress(&evaluation, &Model::new(&checkpoint, backend)?)?;
    if args.json {
        let lengths: Vec<usize> = results.iter().map(|result| result.length).collect();
        let accuracy: Vec<f64> = results.iter().map(|result| result.accuracy).collect();
        let line = json!({
            "task": task.name(), "lengths": lengths, "accuracy": accuracy, "score": score(&results),
        });
        writeln!(out, "{line}")?;
    } else {
        table(&results, None, out)?;
    }
    Ok(())
}

/// Evaluates with a bar on a terminal. The bar counts what the lengths cost, not their number.
pub fn with_progress<B: Backend>(
    evaluation: &Evaluation,
    model: &Model<B>,
) -> Result<Vec<LengthAccuracy>, Error> {
    let total: usize = evaluation.lengths().iter().sum();
    let bar = ProgressBar::new(total as u64);
    bar.set_style(super::train::style("evaluating {bar:32} {percent}%  {eta} left  {msg}"));
    let results = evaluation.run(model, |result| {
        bar.set_message(format!("length {}", result.length));
        bar.inc(result.length as u64);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    results
}

/// Accuracy by ranges of lengths, and the score.
pub fn table(
    results: &[LengthAccuracy],
    trained: Option<usize>,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let bounds = [1, 41, 101, 201, 301, 401, 501, 1001, usize::MAX];
    writeln!(out, "  lengths      accuracy (mean, lowest)")?;
    for pair in bounds.windows(2) {
        let within: Vec<&LengthAccuracy> =
            results.iter().filter(|result| (pair[0]..pair[1]).contains(&result.length)).collect();
        let (Some(first), Some(last)) = (within.first(), within.last()) else { continue };
        let mean = within.iter().map(|result| result.accuracy).sum::<f64>() / within.len() as f64;
        let lowest = within.iter().map(|result| result.accuracy).fold(f64::INFINITY, f64::min);
        let range = format!("{}-{}", first.length, last.length);
        let note = if trained.is_some_and(|most| last.length <= most) { "  trained on" } else { "" };
        writeln!(out, "  {range:<13}{mean:.4}  {lowest:.4}{note}")?;
    }
    match score(results) {
        Some(score) => writeln!(out, "score {score:.4}, the mean over the lengths of 41 to 500 above")?,
        None => writeln!(out, "no score: none of the lengths is in 41 to 500")?,
    }
    Ok(())
}
