//! `bench`: this crate's contenders of the benchmarks, timed here and now. Knows no peer: those are in `benches`.

use std::io::Write;

use pr_lstm::backend::Backend as _;
use pr_lstm::bench::{Case, Contender, Effort, Line, Record, Timing, measure, threads};
use pr_lstm::model::initial;
use pr_lstm::{Checkpoint, Config, Cpu, Dtype, Error, Model};

use super::{BenchArgs, Failure};

/// Prints the cases that are meant, or times every contender at each and notes which this machine lacks.
pub fn run(args: &BenchArgs, out: &mut impl Write) -> Result<(), Failure> {
    let mut cases = Case::all(args.small);
    cases.retain(|case| args.cases.is_empty() || args.cases.iter().any(|wanted| case.is_meant_by(wanted)));
    if cases.is_empty() {
        let expected = "groups or cases that `pr-lstm bench --list` names, as step or scan_vs_lstm/h256-b1";
        let found = args.cases.join(" ");
        return Err(Error::Argument { argument: "case".into(), expected: expected.into(), found }.into());
    }
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
    for note in paths()? {
        print(&note)?;
    }
    for case in cases {
        for record in time(&case, effort(args))? {
            print(&record)?;
        }
    }
    Ok(())
}

fn effort(args: &BenchArgs) -> Effort {
    let effort = if args.small { Effort::ONCE } else { Effort::FULL };
    Effort { samples: args.samples.map_or(effort.samples, |samples| samples as usize), ..effort }
}

/// Times the contenders of a case in turn.
fn time(case: &Case, effort: Effort) -> Result<Vec<Record>, Failure> {
    let (mut records, mut contenders, mut works) = (Vec::new(), Vec::new(), Vec::new());
    for contender in Contender::of(case) {
        match contender.work(case) {
            Ok(work) => {
                contenders.push(contender);
                works.push(work);
            }
            // Some processors lack a type; that is no failure of the others.
            Err(error @ Error::Unavailable { .. }) => {
                records.push(Record::note(format!("left out: {contender}"), error));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let timings = measure(&mut works, effort)?;
    for (contender, Timing { median, fastest, samples }) in contenders.into_iter().zip(timings) {
        records.push(Record::Line(Line {
            case: case.to_string(),
            contender: contender.to_string(),
            seconds: median,
            fastest,
            samples,
            gflop: case.gflop(contender.algorithm)?,
            threads: threads(),
        }));
    }
    Ok(records)
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
