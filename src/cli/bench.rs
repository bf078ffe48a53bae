//! `bench`: this crate's contenders of the benchmarks, timed here and now. Knows no peer: those are in `benches`.

use std::io::Write;

use pr_lstm::backend::Backend as _;
use pr_lstm::bench::{Case, Effort, Entrant, Record, contest, threads};
use pr_lstm::model::initial;
use pr_lstm::{Checkpoint, Config, Cpu, Dtype, Error, Model};

use super::{BenchArgs, Failure};

/// Prints the cases that are meant, or times every contender at each and notes which this machine lacks.
pub fn run(args: &BenchArgs, out: &mut impl Write) -> Result<(), Failure> {
    let mut cases = Case::all(args.small);
    if let Some(unknown) = args.cases.iter().find(|wanted| !cases.iter().any(|case| case.is_meant_by(wanted)))
    {
        let expected = "a group or cases that `pr-lstm bench --list` names, as step or scan_vs_lstm/h256-b1";
        let (argument, found) = ("case".into(), unknown.clone());
        return Err(Error::Argument { argument, expected: expected.into(), found }.into());
    }
    cases.retain(|case| args.cases.is_empty() || args.cases.iter().any(|wanted| case.is_meant_by(wanted)));
    if args.list {
        for case in cases {
            match args.json {
                true => writeln!(out, "{}", case.to_json()?)?,
                false => writeln!(out, "{case}")?,
            }
        }
        return Ok(());
    }
    let mut print = |record: &Record| match args.json {
        true => writeln!(out, "{}", record.to_json()),
        false => writeln!(out, "{record}"),
    };
    let mut told = paths()?;
    told.iter().try_for_each(&mut print)?;
    for case in cases {
        let (entrants, notes) = Entrant::ours(&case)?;
        for note in notes {
            if !told.contains(&note) {
                print(&note)?;
                told.push(note);
            }
        }
        contest(&case, entrants, effort(args))?.iter().try_for_each(&mut print)?;
    }
    Ok(())
}

fn effort(args: &BenchArgs) -> Effort {
    let effort = if args.small { Effort::ONCE } else { Effort::FULL };
    Effort { samples: args.samples.map_or(effort.samples, |samples| samples as usize), ..effort }
}

/// The path that each type takes on this processor.
fn paths() -> Result<Vec<Record>, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let mut notes = vec![Record::note("pr-lstm", format!("version {version}, {} threads", threads()))];
    let config = Config::new(1, 1, 1);
    let checkpoint = Checkpoint::new(config.clone(), initial(&config, 0)?);
    for dtype in [Dtype::F32, Dtype::Bf16] {
        if let Ok(backend) = Cpu::new().with_dtype(dtype) {
            let path = Model::new(&checkpoint, backend)?.session().build()?.path();
            notes.push(Record::note(format!("pr-lstm {dtype}"), format!("path {path}")));
        }
    }
    Ok(notes)
}
