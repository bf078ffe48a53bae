//! `report`: a page of tables and a picture, made of the lines that contenders printed. Times nothing.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use pr_lstm::bench::{Case, Group, Line, Note, Record, Timing};
use pr_lstm::{Error, Result};

use super::{Failure, ReportArgs, plot};

/// What a reader has to know of the tables.
const LEGEND: &str = "\
A time is the median of its samples, the least of a row is in bold. `pr-lstm` has every output, `pr-lstm last` the last \
one alone; an LSTM has all of them anyway. GFLOP are those of the matrix products; `of gemm` is the share of the rate at \
which plain f32 products of the same shapes ran. `time / peer` below 1: this crate is faster.
";

/// Reads all lines, writes the page and, if there is more than one length to draw, the picture.
pub fn run(args: &ReportArgs, out: &mut impl Write) -> Result<(), Failure> {
    let mut results = Results::default();
    for path in &args.lines {
        let text = fs::read_to_string(path).map_err(|source| Error::Io {
            action: "read",
            path: path.clone(),
            source,
        })?;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let record = Record::parse(line).map_err(|error| Error::File {
                path: path.clone(),
                problem: format!("line {}: {error}", number + 1),
            })?;
            results.add(record);
        }
    }
    let [page, picture] = ["md", "svg"].map(|extension| beside(&args.out, extension));
    let panels = results.panels();
    let mut text = results.page(&args.title)?;
    if !panels.is_empty() {
        plot::times(&picture, &args.title, &panels)?;
        let name = picture.file_name().unwrap_or_default().to_string_lossy();
        text += &format!("\n![Time of a forward pass against its length, a line a contender]({name})\n");
        writeln!(out, "wrote {}", picture.display())?;
    }
    pr_lstm::model::write_atomically(&page, text.as_bytes())?;
    writeln!(out, "wrote {}", page.display())?;
    Ok(())
}

/// `stem.extension`, where a stem may have dots itself.
fn beside(stem: &Path, extension: &str) -> PathBuf {
    let mut name = stem.as_os_str().to_owned();
    name.push(format!(".{extension}"));
    name.into()
}

/// What was measured, one line a case and contender, and what was said about it.
#[derive(Default)]
struct Results {
    lines: Vec<Line>,
    /// The medians of each line's runs.
    medians: Vec<Vec<f64>>,
    notes: Vec<Note>,
}

impl Results {
    /// Adds a line or a note. A contender that ran a case several times has the median of its medians.
    fn add(&mut self, record: Record) {
        let line = match record {
            Record::Note(note) if self.notes.contains(&note) => return,
            Record::Note(note) => return self.notes.push(note),
            Record::Line(line) => line,
        };
        let same = |old: &Line| old.case == line.case && old.contender == line.contender;
        match self.lines.iter().position(same) {
            None => {
                self.medians.push(vec![line.seconds]);
                self.lines.push(line);
            }
            Some(index) => {
                let (old, medians) = (&mut self.lines[index], &mut self.medians[index]);
                medians.push(line.seconds);
                old.seconds = Timing::of(medians).median;
                old.fastest = old.fastest.min(line.fastest);
                old.samples += line.samples;
            }
        }
    }

    fn find(&self, case: &str, contender: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.case == case && line.contender == contender)
    }

    /// Contenders of a group in the order that they came in, this crate's first.
    fn contenders(&self, group: Group, wanted: impl Fn(&str) -> bool) -> Vec<&str> {
        let mut contenders = Vec::new();
        for line in self.lines.iter().filter(|line| of(group, line) && wanted(&line.contender)) {
            if !contenders.contains(&line.contender.as_str()) {
                contenders.push(&line.contender);
            }
        }
        contenders.sort_by_key(|contender| !is_ours(contender));
        contenders
    }

    /// The whole page, in Markdown.
    fn page(&self, title: &str) -> Result<String> {
        let known = Case::known();
        if let Some(line) =
            self.lines.iter().find(|line| known.iter().all(|case| case.to_string() != line.case))
        {
            let expected = "cases that `pr-lstm bench --list` names";
            let (argument, found) = ("lines".into(), line.case.clone());
            return Err(Error::Argument { argument, expected: expected.into(), found });
        }
        let mut page = format!("# {title}\n\n{LEGEND}\n");
        for Note { note, text } in &self.notes {
            page += &format!("- **{note}**: {text}\n");
        }
        for group in Group::ALL {
            let has = |case: &&Case| self.lines.iter().any(|line| line.case == case.to_string());
            let cases: Vec<String> =
                known.iter().filter(|case| case.group() == group).filter(has).map(Case::to_string).collect();
            if !cases.is_empty() {
                page += &format!("\n## {}\n\n{}", group.name(), self.times(group, &cases));
                page += &self.comparison(group, &cases);
            }
        }
        Ok(page)
    }

    /// Medians, a row a case, a column a contender; the fastest of a row in bold.
    fn times(&self, group: Group, cases: &[String]) -> String {
        let contenders = self.contenders(group, |contender| !is_gemm(contender));
        let mut table = Table::new(std::iter::once("median time").chain(contenders.iter().copied()));
        for case in cases {
            let lines: Vec<Option<&Line>> =
                contenders.iter().map(|contender| self.find(case, contender)).collect();
            let best = lines.iter().flatten().map(|line| line.seconds).fold(f64::INFINITY, f64::min);
            let cells = lines.iter().map(|line| match line {
                None => String::new(),
                Some(line) if line.seconds == best => format!("**{}**", duration(line.seconds)),
                Some(line) => duration(line.seconds),
            });
            table.row(std::iter::once(short(case).to_owned()).chain(cells));
        }
        table.text
    }

    /// For each contender of this crate: what its products count and reach, and its time over that of each peer.
    fn comparison(&self, group: Group, cases: &[String]) -> String {
        let ours = self.contenders(group, is_ours);
        let peers = self.contenders(group, |contender| !is_ours(contender) && !is_gemm(contender));
        let lines = ours.iter().flat_map(|ours| cases.iter().filter_map(|case| self.find(case, ours)));
        let lines: Vec<&Line> = lines.collect();
        if peers.is_empty() && lines.iter().all(|line| line.gflop.is_none()) {
            return String::new();
        }
        let heads = ["this crate", "case", "fastest", "GFLOP", "GFLOP/s", "of gemm"].map(str::to_owned);
        let mut table =
            Table::new(heads.into_iter().chain(peers.iter().map(|peer| format!("time / {peer}"))));
        for line in lines {
            let Line { case, contender, fastest, gflop, .. } = line;
            let gemm = line.gemm().and_then(|gemm| self.find(case, &gemm)?.rate());
            let share = line.rate().zip(gemm).map(|(rate, gemm)| format!("{:.0} %", 100.0 * rate / gemm));
            let ratios = peers.iter().map(|peer| {
                let peer = self.find(case, peer);
                peer.map_or(String::new(), |peer| format!("{:.2}", line.seconds / peer.seconds))
            });
            let cells = [
                contender.clone(),
                short(case).to_owned(),
                duration(*fastest),
                gflop.map_or(String::new(), |gflop| format!("{gflop:.*}", if gflop < 0.1 { 6 } else { 3 })),
                line.rate().map_or(String::new(), |rate| format!("{rate:.1}")),
                share.unwrap_or_default(),
            ];
            table.row(cells.into_iter().chain(ratios));
        }
        format!("\n{}", table.text)
    }

    /// Time against length, a panel a batch size that has several lengths.
    fn panels(&self) -> Vec<plot::Panel> {
        let contenders = self.contenders(Group::ScanVsLstm, |contender| !is_gemm(contender));
        let mut panels: Vec<plot::Panel> = Vec::new();
        for case in Case::known() {
            let Case::Scan { hidden, batch, time } = case else { continue };
            let title = format!("H = {hidden}, B = {batch}");
            if panels.iter().all(|panel| panel.title != title) {
                let curves = contenders.iter().map(|name| (name.to_string(), Vec::new())).collect();
                panels.push(plot::Panel { title: title.clone(), curves });
            }
            let curves =
                panels.iter_mut().filter(|panel| panel.title == title).flat_map(|panel| &mut panel.curves);
            for (name, points) in curves {
                points.extend(self.find(&case.to_string(), name).map(|line| (time as f64, line.seconds)));
            }
        }
        panels.retain(|panel| panel.curves.iter().any(|(_, points)| points.len() > 1));
        panels
    }
}

fn of(group: Group, line: &Line) -> bool {
    line.case.split('/').next() == Some(group.name())
}

/// A case's name without its group.
fn short(case: &str) -> &str {
    case.split_once('/').map_or(case, |(_, name)| name)
}

/// Of this crate, but for its LSTM, which is what the tree is compared with.
fn is_ours(contender: &str) -> bool {
    contender.split(' ').next() == Some("pr-lstm")
}

/// Plain products, which do not do the task.
fn is_gemm(contender: &str) -> bool {
    contender.split(' ').next() == Some("gemm")
}

/// With three digits, as `1.23 ms`.
fn duration(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    let digits = 2 - (value.log10().floor().clamp(0.0, 2.0) as usize);
    format!("{value:.digits$} {unit}")
}

/// A table in Markdown.
struct Table {
    text: String,
}

impl Table {
    fn new(heads: impl Iterator<Item = impl Into<String>>) -> Self {
        let heads: Vec<String> = heads.map(Into::into).collect();
        let rule = "|---".repeat(heads.len());
        Table { text: format!("| {} |\n{rule}|\n", heads.join(" | ")) }
    }

    fn row(&mut self, cells: impl Iterator<Item = String>) {
        let cells: Vec<String> = cells.collect();
        self.text += &format!("| {} |\n", cells.join(" | "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(lines: &[(&str, &str, f64, Option<f64>)]) -> Results {
        let mut results = Results::default();
        for &(case, contender, seconds, gflop) in lines {
            let (case, contender) = (case.to_owned(), contender.to_owned());
            let line =
                Line { case, contender, seconds, fastest: seconds / 2.0, samples: 5, gflop, threads: 2 };
            results.add(Record::Line(line));
        }
        results
    }

    const SCAN: &str = "scan_vs_lstm/h256-b1-t512";

    #[test]
    fn the_best_is_bold_and_ratios_are_ours_over_the_peers() {
        let mut results = results(&[
            (SCAN, "torch lstm f32", 0.004, Some(0.25)),
            (SCAN, "pr-lstm f32", 0.005, Some(1.0)),
            (SCAN, "gemm", 0.0025, Some(1.0)),
            (SCAN, "pr-lstm last bf16", 0.001, Some(0.5)),
            (SCAN, "gemm last", 0.002, Some(0.5)),
            ("gates/tanh", "pr-lstm f32", 1.5e-6, None),
        ]);
        results.add(Record::note("candle", "left out: not built"));
        results.add(Record::note("candle", "left out: not built"));
        let page = results.page("Planted").expect("known cases");
        let (head, tables) = page.split_at(page.find("## ").expect("a table"));
        assert_eq!(head, format!("# Planted\n\n{LEGEND}\n- **candle**: left out: not built\n\n"));
        let expected = "\
## scan_vs_lstm

| median time | pr-lstm f32 | pr-lstm last bf16 | torch lstm f32 |
|---|---|---|---|
| h256-b1-t512 | 5.00 ms | **1.00 ms** | 4.00 ms |

| this crate | case | fastest | GFLOP | GFLOP/s | of gemm | time / torch lstm f32 |
|---|---|---|---|---|---|---|
| pr-lstm f32 | h256-b1-t512 | 2.50 ms | 1.000 | 200.0 | 50 % | 1.25 |
| pr-lstm last bf16 | h256-b1-t512 | 500 µs | 0.500 | 500.0 | 200 % | 0.25 |

## gates

| median time | pr-lstm f32 |
|---|---|
| tanh | **1.50 µs** |
";
        assert_eq!(tables, expected);
    }

    #[test]
    fn several_runs_become_one_line_and_gaps_stay_empty() {
        let other = "scan_vs_lstm/h256-b1-t32";
        let mut results = results(&[
            (SCAN, "pr-lstm f32", 0.005, None),
            (SCAN, "pr-lstm f32", 0.009, None),
            (SCAN, "pr-lstm f32", 0.003, None),
            (other, "candle lstm f32", 0.001, None),
        ]);
        let line = results.find(SCAN, "pr-lstm f32").expect("added");
        assert_eq!((line.seconds, line.fastest, line.samples), (0.005, 0.0015, 15));
        let page = results.page("Planted").expect("known cases");
        assert!(
            page.contains("| h256-b1-t32 |  | **1.00 ms** |\n| h256-b1-t512 | **5.00 ms** |  |\n"),
            "{page}"
        );
        let line = Line { case: "scan_vs_lstm/h1-b1-t1".into(), ..results.lines[0].clone() };
        results.add(Record::Line(line));
        let error = results.page("Planted").expect_err("no such case").to_string();
        assert!(error.contains("scan_vs_lstm/h1-b1-t1"), "{error}");
    }

    #[test]
    fn a_panel_has_a_curve_for_each_contender_and_several_lengths() {
        let results = results(&[
            ("scan_vs_lstm/h256-b1-t512", "pr-lstm f32", 0.005, None),
            ("scan_vs_lstm/h256-b1-t32", "pr-lstm f32", 0.001, None),
            ("scan_vs_lstm/h256-b1-t32", "gemm", 0.001, None),
            ("scan_vs_lstm/h256-b16-t32", "pr-lstm f32", 0.002, None),
        ]);
        let panels = results.panels();
        assert_eq!(panels.len(), 1, "one length is no curve");
        assert_eq!(panels[0].title, "H = 256, B = 1");
        assert_eq!(panels[0].curves, [("pr-lstm f32".to_owned(), vec![(32.0, 0.001), (512.0, 0.005)])]);
    }

    #[test]
    fn durations_have_three_digits() {
        let pairs = [
            (1.234e-7, "0.12 µs"),
            (9.87e-6, "9.87 µs"),
            (0.0123, "12.3 ms"),
            (0.45, "450 ms"),
            (3.0, "3.00 s"),
        ];
        for (seconds, text) in pairs {
            assert_eq!(duration(seconds), text);
        }
    }
}
