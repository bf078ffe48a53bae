//! `train`: a run from its first step or from a checkpoint, to its evaluation and its pictures.

use std::io::Write;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use pr_lstm::backend::Backend;
use pr_lstm::bench::threads;
use pr_lstm::evaluate::{Evaluation, SCORED};
use pr_lstm::train::{Settings, Trainer};
use pr_lstm::{Adam, Checkpoint, Error, Recurrence};

use super::run_folder::{MODEL, Row, RunFolder};
use super::{Failure, Family, Preset, TrainArgs, evaluate, plot};

/// Lines about the loss that a run prints.
const REPORTS: u64 = 8;

/// Trains, evaluates, and leaves everything in the run's folder.
pub fn run<B: Backend>(args: TrainArgs, backend: B, out: &mut impl Write) -> Result<(), Failure> {
    let (folder, mut trainer) = match &args.resume {
        Some(path) => {
            let folder = RunFolder::open(path)?;
            let mut settings = folder.read_settings()?;
            settings.steps = args.steps.unwrap_or(settings.steps);
            let checkpoint = Checkpoint::read(folder.file(MODEL))?;
            if checkpoint.step > settings.steps {
                let expected = format!("at least {}, the steps that the run has taken", checkpoint.step);
                let found = settings.steps.to_string();
                return Err(Error::Argument { argument: "--steps".into(), expected, found }.into());
            }
            let trainer = Trainer::resume(settings, &checkpoint, backend)?;
            folder.clean();
            folder.write_settings(trainer.settings())?;
            (folder, trainer)
        }
        None => {
            // Everything that can be refused is refused before the folder is made.
            let trainer = Trainer::new(settings(&args)?, backend)?;
            let folder = RunFolder::create(args.out.as_deref(), trainer.settings().task)?;
            let written = folder
                .write_settings(trainer.settings())
                .and_then(|()| trainer.checkpoint()?.write(folder.file(MODEL)));
            if let Err(error) = written {
                folder.discard();
                return Err(error.into());
            }
            (folder, trainer)
        }
    };
    let settings = trainer.settings().clone();
    describe(&trainer, out)?;

    let mut metrics = folder.metrics(trainer.steps())?;
    let before = metrics.rows.last().map_or(0.0, |row| row.seconds);
    let start = Instant::now();
    let bar = ProgressBar::new(settings.steps);
    bar.set_style(style("training {bar:32} {pos}/{len} steps  {eta} left  {msg}"));
    bar.set_position(trainer.steps());
    let report_every = settings.steps.div_ceil(REPORTS).max(1);
    while trainer.steps() < settings.steps {
        let step = trainer.steps() + 1;
        let last = step == settings.steps;
        let report = last || step % report_every == 0;
        let measured = trainer.step(last || report || step % args.metrics_every == 0)?;
        if let Some(measured) = measured {
            let seconds = before + start.elapsed().as_secs_f64();
            if last || step % args.metrics_every == 0 {
                metrics.push(Row { metrics: measured, seconds })?;
            }
            bar.set_message(format!("loss {:.4}", measured.loss));
            if report {
                let (loss, accuracy) = (measured.loss, measured.accuracy);
                bar.suspend(|| {
                    writeln!(
                        out,
                        "  step {step:>7}  loss {loss:.5}  accuracy {accuracy:.4}  {seconds:>6.1} s"
                    )
                    .and_then(|()| out.flush())
                })?;
            }
        }
        bar.inc(1);
        if last || step % args.checkpoint_every == 0 {
            metrics.flush()?;
            trainer.checkpoint()?.write(folder.file(MODEL))?;
        }
    }
    bar.finish_and_clear();
    let seconds = before + start.elapsed().as_secs_f64();
    let (samples, every) = (args.samples, args.every as usize);
    let which = if every == 1 { "every length".into() } else { format!("one length in {every}") };
    writeln!(out, "trained in {seconds:.1} s; evaluating {samples} samples at {which} to 500")?;

    let lengths = 1..=*SCORED.end();
    let samples = samples as usize;
    let evaluation = Evaluation { task: settings.task, lengths, every, samples, seed: settings.seed };
    let start = Instant::now();
    let results = evaluate::with_progress(&evaluation, &trainer.parameters().model())?;
    evaluate::table(&results, Some(settings.max_length), out)?;
    writeln!(out, "evaluated in {:.1} s", start.elapsed().as_secs_f64())?;

    let title = format!("{}: {}", settings.task, name(&settings));
    plot::loss(&folder.file("loss.svg"), &title, &metrics.rows)?;
    plot::accuracy(&folder.file("accuracy-by-length.svg"), &title, settings.max_length, &results)?;
    writeln!(out, "wrote {}", folder.path().display())?;
    Ok(())
}

/// The settings of a new run: a preset, then what was given.
fn settings(args: &TrainArgs) -> Result<Settings, Failure> {
    let Some(task) = args.task else {
        let expected = "a task or --resume".into();
        return Err(Error::Argument { argument: "task".into(), expected, found: "neither".into() }.into());
    };
    let paper = Settings::paper(task);
    let given = &args.settings;
    let preset = match given.preset {
        Some(Preset::Paper) => paper,
        Some(Preset::Cpu) | None => Settings { hidden: 64, steps: 4000, ..paper },
    };
    let or = |given: Option<u32>, preset: usize| given.map_or(preset, |given| given as usize);
    let Family { cell, recurrence } = given.model.unwrap_or(Family::of(&preset));
    let unary_layers = if recurrence == Recurrence::Sequential { 0 } else { preset.unary_layers };
    Ok(Settings {
        task,
        cell,
        recurrence,
        hidden: or(given.hidden, preset.hidden),
        unary_layers: or(given.unary_layers, unary_layers),
        steps: args.steps.unwrap_or(preset.steps),
        batch: or(given.batch, preset.batch),
        max_length: or(given.max_length, preset.max_length),
        recompute: given.recompute,
        adam: Adam { learning_rate: given.learning_rate.unwrap_or(preset.adam.learning_rate), ..preset.adam },
        seed: given.seed.unwrap_or(preset.seed),
    })
}

/// `PR-LSTM, H = 64, R = 1`, or `LSTM, H = 64`.
fn name(settings: &Settings) -> String {
    let family = Family::of(settings).name().to_uppercase();
    match settings.recurrence {
        Recurrence::Sequential => format!("{family}, H = {}", settings.hidden),
        _ => format!("{family}, H = {}, R = {}", settings.hidden, settings.unary_layers),
    }
}

fn describe<B: Backend>(trainer: &Trainer<B>, out: &mut impl Write) -> Result<(), Failure> {
    let Settings { task, steps, batch, max_length, seed, .. } = trainer.settings();
    let parameters = trainer.parameters().layout().len();
    let device = trainer.parameters().backend().name();
    writeln!(out, "{task}: {}, {parameters} parameters, seed {seed}", name(trainer.settings()))?;
    writeln!(
        out,
        "  {steps} steps of {batch} sequences of 1 to {max_length} symbols, {device}, {} threads",
        threads()
    )?;
    let recompute = if trainer.settings().recompute { ", gates computed anew on the way back" } else { "" };
    writeln!(out, "  {} bytes of memory on the device{recompute}", trainer.bytes())?;
    if trainer.steps() > 0 {
        writeln!(out, "  going on after step {}", trainer.steps())?;
    }
    out.flush()?;
    Ok(())
}

/// The style of a progress bar; bars draw on a terminal only.
pub fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
