//! The folder of a run: what its files are called, how they are written and read again.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use pr_lstm::tasks::Task;
use pr_lstm::train::{Settings, StepMetrics};
use pr_lstm::{Adam, Error, Result};
use serde::{Deserialize, Serialize};

use super::Family;

/// The checkpoint's name.
pub const MODEL: &str = "model.safetensors";
const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.csv";
const HEADER: &str = "step,length,loss,accuracy,grad_norm,seconds";

/// A run's settings as config.toml has them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    task: String,
    /// As `--model` names it; first there was only a `cell`, that of a tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cell: Option<String>,
    hidden: usize,
    unary_layers: usize,
    steps: u64,
    batch: usize,
    max_length: usize,
    #[serde(default)]
    recompute: bool,
    learning_rate: f64,
    seed: u64,
}

/// The folder of a run.
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes the folder that was asked for, or the next of `runs/<task>-<n>`.
    pub fn create(out: Option<&Path>, task: Task) -> Result<Self> {
        let create = |path: &Path| fs::create_dir(path);
        let error = |path: &Path, source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AlreadyExists if path.is_dir() => Error::File {
                path: path.into(),
                problem: "the folder exists: go on with its run by --resume, or name another with --out"
                    .into(),
            },
            _ => Error::Io { action: "create", path: path.into(), source },
        };
        if let Some(path) = out {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(|source| error(parent, source))?;
            }
            create(path).map_err(|source| error(path, source))?;
            return Ok(RunFolder { path: path.into() });
        }
        let runs = Path::new("runs");
        fs::create_dir_all(runs).map_err(|source| error(runs, source))?;
        for n in 1.. {
            let path = runs.join(format!("{task}-{n}"));
            match create(&path) {
                Ok(()) => return Ok(RunFolder { path }),
                Err(source) if source.kind() == std::io::ErrorKind::AlreadyExists => (),
                Err(source) => return Err(error(&path, source)),
            }
        }
        unreachable!("the numbers do not end")
    }

    /// The folder of a run that was begun.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(RunFolder { path: path.into() });
        }
        let problem = "no such folder: --resume takes the folder of a run, as runs/parity_check-1".into();
        Err(Error::File { path: path.into(), problem })
    }

    /// Removes a folder that was made and in which nothing could be written.
    pub fn discard(self) {
        let _ = fs::remove_dir_all(&self.path);
    }

    /// Removes what a killed run left of files that it was writing.
    pub fn clean(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(".tmp") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// A file of the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes config.toml.
    pub fn write_settings(&self, settings: &Settings) -> Result<()> {
        let config = ConfigFile {
            task: settings.task.name().into(),
            model: Some(Family::of(settings).name().into()),
            cell: None,
            hidden: settings.hidden,
            unary_layers: settings.unary_layers,
            steps: settings.steps,
            batch: settings.batch,
            max_length: settings.max_length,
            recompute: settings.recompute,
            learning_rate: settings.adam.learning_rate,
            seed: settings.seed,
        };
        let path = self.file(CONFIG);
        let text = toml::to_string(&config)
            .map_err(|error| Error::File { path: path.clone(), problem: error.to_string() })?;
        pr_lstm::model::write_atomically(&path, text.as_bytes())
    }

    /// Reads config.toml.
    pub fn read_settings(&self) -> Result<Settings> {
        let path = self.file(CONFIG);
        let text = fs::read_to_string(&path).map_err(|source| Error::Io {
            action: "read",
            path: path.clone(),
            source,
        })?;
        let file = |problem: String| Error::File { path: path.clone(), problem };
        let config: ConfigFile = toml::from_str(&text).map_err(|error| file(error.message().to_owned()))?;
        let families = "pr-lstm, pr-rnn, lstm or rnn";
        let family = match (&config.model, &config.cell) {
            (Some(name), None) => {
                Family::from_name(name).ok_or_else(|| file(format!("model: expected {families}, got {name}")))
            }
            (None, Some(cell)) => Family::from_name(&format!("pr-{cell}"))
                .ok_or_else(|| file(format!("cell: expected lstm or rnn, got {cell}"))),
            _ => Err(file(format!("expected one model: {families}"))),
        };
        let Family { cell, recurrence } = family?;
        Ok(Settings {
            task: Task::from_name(&config.task).map_err(|error| file(error.to_string()))?,
            cell,
            recurrence,
            hidden: config.hidden,
            unary_layers: config.unary_layers,
            steps: config.steps,
            batch: config.batch,
            max_length: config.max_length,
            recompute: config.recompute,
            adam: Adam { learning_rate: config.learning_rate, ..Adam::paper() },
            seed: config.seed,
        })
    }

    /// Opens metrics.csv to go on after `step`; later rows, of steps that will be taken again, are dropped.
    pub fn metrics(&self, step: u64) -> Result<Metrics> {
        let path = self.file(METRICS);
        let mut text = String::from(HEADER);
        text.push('\n');
        let mut rows = Vec::new();
        if step > 0 {
            // The run can go on without its past rows; a line that is none, as a crash leaves it, is passed over.
            let old = fs::read(&path).unwrap_or_default();
            let mut last = 0;
            for line in String::from_utf8_lossy(&old).lines() {
                if let Some(row) =
                    Row::parse(line).filter(|row| (last + 1..=step).contains(&row.metrics.step))
                {
                    last = row.metrics.step;
                    text.push_str(line);
                    text.push('\n');
                    rows.push(row);
                }
            }
        }
        pr_lstm::model::write_atomically(&path, text.as_bytes())?;
        let file = File::options().append(true).open(&path);
        let file = file.map_err(|source| Error::Io { action: "write", path: path.clone(), source })?;
        Ok(Metrics { file: BufWriter::new(file), path, rows })
    }
}

/// A row of metrics.csv.
#[derive(Clone, Copy)]
pub struct Row {
    /// What the step measured.
    pub metrics: StepMetrics,
    /// Seconds since the run began.
    pub seconds: f64,
}

impl Row {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(',');
        let mut field = || fields.next();
        let row = Row {
            metrics: StepMetrics {
                step: field()?.parse().ok()?,
                length: field()?.parse().ok()?,
                loss: field()?.parse().ok()?,
                accuracy: field()?.parse().ok()?,
                gradient_norm: field()?.parse().ok()?,
            },
            seconds: field()?.parse().ok()?,
        };
        field().is_none().then_some(row)
    }
}

/// metrics.csv, open.
pub struct Metrics {
    file: BufWriter<File>,
    path: PathBuf,
    /// The rows so far.
    pub rows: Vec<Row>,
}

impl Metrics {
    /// Appends a row.
    pub fn push(&mut self, row: Row) -> Result<()> {
        let StepMetrics { step, length, loss, accuracy, gradient_norm } = row.metrics;
        self.rows.push(row);
        let seconds = row.seconds;
        writeln!(self.file, "{step},{length},{loss},{accuracy},{gradient_norm},{seconds:.3}")
            .map_err(|source| Error::Io { action: "write", path: self.path.clone(), source })
    }

    /// Hands all rows to the system: before the checkpoint that follows them.
    pub fn flush(&mut self) -> Result<()> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_data());
        synced.map_err(|source| Error::Io { action: "write", path: self.path.clone(), source })
    }
}
