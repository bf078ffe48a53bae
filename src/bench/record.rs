//! What was measured, as one JSON object a line: the form that every contender prints, in whatever language.

use std::fmt;

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// A measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The case's name.
    pub case: String,
    /// Who did it, as `pr-lstm last f32` or `torch lstm bf16`.
    pub contender: String,
    /// Seconds of a run, the median of the samples.
    pub seconds: f64,
    /// Seconds of the fastest sample.
    pub fastest: f64,
    /// Samples taken.
    pub samples: usize,
    /// Billions of floating-point operations of a run; None where they are not counted.
    pub gflop: Option<f64>,
    /// Threads that it ran on.
    pub threads: usize,
}

impl Line {
    /// GFLOP/s at the median.
    pub fn rate(&self) -> Option<f64> {
        self.gflop.map(|gflop| gflop / self.seconds)
    }

    /// The contender that multiplies the same shapes and does nothing else: `gemm last` for `pr-lstm last bf16`,
    /// `gemm lstm` for `own lstm f32`; None for one that is such itself.
    pub fn gemm(&self) -> Option<String> {
        let words: Vec<&str> = self.contender.split(' ').collect();
        let algorithm = words[1..].split_last().map_or(&[][..], |(_, algorithm)| algorithm);
        (words[0] != "gemm").then(|| [&["gemm"], algorithm].concat().join(" "))
    }
}

/// What a reader of the measurements should know: a version, a contender that was left out and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    /// What it is about.
    pub note: String,
    /// What there is to say.
    pub text: String,
}

/// A line of output: a measurement, or a note about measurements.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// `{case, contender, seconds, fastest, samples, gflop, gflops, threads}`; `gflop` and `gflops` may be null.
    Line(Line),
    /// `{note, text}`.
    Note(Note),
}

impl Record {
    /// A note.
    pub fn note(note: impl fmt::Display, text: impl fmt::Display) -> Self {
        Record::Note(Note { note: note.to_string(), text: text.to_string() })
    }

    /// As one JSON object.
    pub fn to_json(&self) -> Value {
        match self {
            Record::Line(line) => {
                let Line { case, contender, seconds, fastest, samples, gflop, threads } = line;
                json!({
                    "case": case, "contender": contender, "seconds": seconds, "fastest": fastest, "samples": samples,
                    "gflop": gflop, "gflops": line.rate(), "threads": threads,
                })
            }
            Record::Note(Note { note, text }) => json!({ "note": note, "text": text }),
        }
    }

    /// Reads what [`to_json`](Self::to_json) wrote. `fastest`, `samples`, `gflop` may be missing; `gflops` is not read,
    /// it follows from the others.
    ///
    /// # Errors
    /// [`Error::Argument`] if the text is no JSON object of either form, or a time is not one of 1 ps to 1e9 s.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |found: String| {
            Error::argument("line", "{case, contender, seconds, threads, …} or {note, text}, as JSON", found)
        };
        let json: Value = serde_json::from_str(text).map_err(|error| wrong(format!("{error}: {text}")))?;
        let string = |name: &str| json[name].as_str().map(str::to_owned);
        if let (Some(note), Some(text)) = (string("note"), string("text")) {
            return Ok(Record::Note(Note { note, text }));
        }
        let seconds = |name: &str| json[name].as_f64().filter(|seconds| (1e-12..=1e9).contains(seconds));
        let size = |name: &str| json[name].as_u64().and_then(|size| usize::try_from(size).ok());
        let line = || {
            Some(Line {
                case: string("case")?,
                contender: string("contender")?,
                seconds: seconds("seconds")?,
                fastest: if json["fastest"].is_null() { seconds("seconds")? } else { seconds("fastest")? },
                samples: if json["samples"].is_null() { 1 } else { size("samples")? },
                gflop: json["gflop"].as_f64(),
                threads: size("threads")?,
            })
        };
        line().map(Record::Line).ok_or_else(|| wrong(text.to_owned()))
    }
}

/// A row of a table for people: the case, the contender, the times, the rate.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Record::Line(line) => {
                let Line { case, contender, seconds, fastest, samples, .. } = line;
                let [seconds, fastest] = [seconds, fastest].map(|seconds| seconds * 1e6);
                write!(
                    f,
                    "{case:<34}{contender:<24}{seconds:>13.2} µs  fastest {fastest:>13.2} µs of {samples:<3}"
                )?;
                match (line.gflop, line.rate()) {
                    (Some(gflop), Some(rate)) => write!(f, "{gflop:>11.4} GFLOP {rate:>8.1} GFLOP/s"),
                    _ => Ok(()),
                }
            }
            Record::Note(Note { note, text }) => write!(f, "{note}: {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        Line {
            case: "scan_vs_lstm/h256-b1-t512".into(),
            contender: "pr-lstm last f32".into(),
            seconds: 0.004,
            fastest: 0.003,
            samples: 10,
            gflop: Some(0.5),
            threads: 2,
        }
    }

    #[test]
    fn a_line_has_the_promised_fields_and_is_read_back() {
        let record = Record::Line(line());
        let json = record.to_json();
        assert_eq!(json["case"], "scan_vs_lstm/h256-b1-t512");
        assert_eq!(json["contender"], "pr-lstm last f32");
        assert_eq!((json["seconds"].as_f64(), json["gflops"].as_f64()), (Some(0.004), Some(125.0)));
        assert_eq!((json["threads"].as_u64(), json["samples"].as_u64()), (Some(2), Some(10)));
        assert_eq!(Record::parse(&json.to_string()).expect("its own form"), record);
        let uncounted = Record::Line(Line { gflop: None, ..line() });
        assert!(uncounted.to_json()["gflops"].is_null());
        assert_eq!(Record::parse(&uncounted.to_json().to_string()).expect("its own form"), uncounted);
        let note = Record::note("torch", "not installed");
        assert_eq!(Record::parse(&note.to_json().to_string()).expect("its own form"), note);
    }

    #[test]
    fn a_line_knows_the_products_that_it_is_measured_against() {
        for (contender, gemm) in [
            ("pr-lstm f32", Some("gemm")),
            ("pr-lstm last bf16", Some("gemm last")),
            ("own lstm f32", Some("gemm lstm")),
            ("gemm last", None),
        ] {
            assert_eq!(Line { contender: contender.into(), ..line() }.gemm().as_deref(), gemm);
        }
    }

    #[test]
    fn what_a_peer_may_leave_out_is_filled_in_and_all_else_is_refused() {
        let short = r#"{"case": "a", "contender": "b", "seconds": 2.0, "threads": 1}"#;
        let Record::Line(found) = Record::parse(short).expect("enough") else { panic!("a line") };
        assert_eq!((found.fastest, found.samples, found.gflop), (2.0, 1, None));
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"case": "a", "contender": "b", "threads": 1}"#,
            r#"{"case": "a", "contender": "b", "seconds": 0, "threads": 1}"#,
            r#"{"case": "a", "contender": "b", "seconds": 1e-310, "threads": 1}"#,
            r#"{"case": "a", "contender": "b", "seconds": 1e300, "threads": 1}"#,
            r#"{"case": "a", "contender": "b", "seconds": null, "threads": 1}"#,
            r#"{"case": "a", "contender": "b", "seconds": 1, "fastest": "x", "threads": 1}"#,
            r#"{"case": "a", "contender": "b", "seconds": 1}"#,
            r#"{"case": "a", "contender": "b", "seconds": NaN, "threads": 1}"#,
        ] {
            assert!(Record::parse(bad).is_err(), "{bad}");
        }
    }
}
