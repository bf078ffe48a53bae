//! A case and all who work at it, and the program of a peer that is written in Rust. Knows no peer's own work.

use std::fmt;
use std::io::{BufRead, Write};

use super::{Algorithm, Case, Contender, Effort, Line, Record, Timing, Work, measure, threads};
use crate::error::{Error, Result};

/// A contender, what it computes and how it does.
#[derive(Debug)]
pub struct Entrant {
    /// Its name in results.
    pub contender: String,
    /// Billions of floating-point operations of a run.
    pub gflop: Option<f64>,
    /// The work, ready to run.
    pub work: Work<'static>,
}

impl Entrant {
    /// A contender that computes a case by this algorithm.
    ///
    /// # Errors
    /// Those of [`Case::products`].
    pub fn new(
        contender: impl fmt::Display,
        case: &Case,
        algorithm: Algorithm,
        work: Work<'static>,
    ) -> Result<Self> {
        Ok(Entrant { contender: contender.to_string(), gflop: case.gflop(algorithm)?, work })
    }

    /// The contenders of this crate at a case, and a note for each that this machine or this version has not.
    ///
    /// # Errors
    /// Those of [`Contender::work`] but [`Error::Unavailable`].
    pub fn ours(case: &Case) -> Result<(Vec<Entrant>, Vec<Record>)> {
        let (mut entrants, mut notes) = (Vec::new(), Vec::new());
        for contender in Contender::of(case) {
            match contender.work(case) {
                Ok(work) => entrants.push(Entrant::new(contender, case, contender.algorithm, work)?),
                Err(error @ Error::Unavailable { .. }) => {
                    notes.push(Record::note(format!("left out: {contender}"), error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok((entrants, notes))
    }
}

/// Times the entrants of a case in turn: a line each.
///
/// # Errors
/// Those of their works.
pub fn contest(case: &Case, entrants: Vec<Entrant>, effort: Effort) -> Result<Vec<Record>> {
    let mut lines = Vec::new();
    let mut works = Vec::new();
    for Entrant { contender, gflop, work } in entrants {
        lines.push((contender, gflop));
        works.push(work);
    }
    let line = |((contender, gflop), Timing { median, fastest, samples })| {
        let (case, threads) = (case.to_string(), threads());
        Record::Line(Line { case, contender, seconds: median, fastest, samples, gflop, threads })
    };
    Ok(lines.into_iter().zip(measure(&mut works, effort)?).map(line).collect())
}

/// The program of a peer: reads cases as `pr-lstm bench --list --json` prints them, times what it has at each, writes
/// JSON lines.
///
/// # Errors
/// [`Error::Argument`] if a line names no case, [`Error::Io`], and the works' own.
pub fn peer(
    input: impl BufRead,
    out: &mut impl Write,
    effort: Effort,
    mut entrants: impl FnMut(&Case) -> Result<Vec<Entrant>>,
) -> Result<()> {
    let io = |action, stream: &str| {
        let path = stream.into();
        move |source| Error::Io { action, path, source }
    };
    let known = Case::known();
    for line in input.lines() {
        let line = line.map_err(io("read", "stdin"))?;
        let json: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let Some(case) = known.iter().find(|case| json["case"] == case.to_string()) else {
            return Err(Error::argument("stdin", "what `pr-lstm bench --list --json` prints", line));
        };
        for record in contest(case, entrants(case)?, effort)? {
            writeln!(out, "{}", record.to_json()).map_err(io("write to", "stdout"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_answers_each_case_that_it_has_with_its_lines() {
        let cases: Vec<Case> = Case::all(true);
        let list: Vec<String> = cases.iter().map(|case| case.to_json().expect("valid").to_string()).collect();
        let mut out = Vec::new();
        peer(list.join("\n").as_bytes(), &mut out, Effort::ONCE, |case| {
            if !matches!(case, Case::Scan { .. }) {
                return Ok(Vec::new());
            }
            Ok(vec![Entrant::new("some peer f32", case, Algorithm::Lstm, Work::new(1, || Ok(())))?])
        })
        .expect("known cases");
        let out = String::from_utf8(out).expect("text");
        let found: Vec<Record> = out.lines().map(|line| Record::parse(line).expect("a record")).collect();
        let scans: Vec<&Case> = cases.iter().filter(|case| matches!(case, Case::Scan { .. })).collect();
        assert_eq!(found.len(), scans.len());
        for (record, case) in found.iter().zip(scans) {
            let Record::Line(line) = record else { panic!("a line: {record}") };
            assert_eq!((&line.case, line.contender.as_str()), (&case.to_string(), "some peer f32"));
            assert_eq!(line.gflop, case.gflop(Algorithm::Lstm).expect("valid"));
        }
        for bad in ["{}", "step/h8-r1", r#"{"case": "step/h8"}"#] {
            assert!(
                peer(bad.as_bytes(), &mut Vec::new(), Effort::ONCE, |_| Ok(Vec::new())).is_err(),
                "{bad}"
            );
        }
    }
}
