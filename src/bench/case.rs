//! The cases: shapes, names, and the products that each way to compute one is made of. Knows no clock.

use std::fmt;

use serde_json::{Value, json};

use crate::error::Result;
use crate::tasks::Task;
use crate::tree::{Outputs, Planner, Rows, Schedule};

/// Tokens that a model of the benchmarks knows, `D`: two bits and the empty symbol, as for parity.
pub(super) const VOCABULARY: usize = 3;
/// Logits, `O`.
pub(super) const OUTPUT: usize = 2;
/// Sequences of a training batch, and of a batch of samples: the paper's.
const BATCH: usize = 128;
/// Most tokens of a batch: all rows of a pass in f32 stay below 0.5 GiB.
const MOST_TOKENS: usize = 65_536;

/// A table of the benchmarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// A step of the tree alone: merges of so many rows, each followed by its unary layer.
    Step,
    /// A forward pass over whole sequences, against LSTMs that go token by token.
    ScanVsLstm,
    /// Forward, cross entropy of the last output, backward, clipping and Adam.
    TrainingStep,
    /// A token appended to one stream that has so many already.
    Stream,
    /// A batch of samples of a task.
    Tasks,
    /// A gate's function over 4096 numbers, on one thread.
    Gates,
}

impl Group {
    /// All of them.
    pub const ALL: [Group; 6] =
        [Group::Step, Group::ScanVsLstm, Group::TrainingStep, Group::Stream, Group::Tasks, Group::Gates];

    /// Its name: `step`, `scan_vs_lstm`, `training_step`, `stream`, `tasks` or `gates`.
    pub fn name(self) -> &'static str {
        match self {
            Group::Step => "step",
            Group::ScanVsLstm => "scan_vs_lstm",
            Group::TrainingStep => "training_step",
            Group::Stream => "stream",
            Group::Tasks => "tasks",
            Group::Gates => "gates",
        }
    }
}

/// A way to compute a case: it says which products it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// The tree, every output that the case has: those of all positions for a scan.
    Tree,
    /// The tree, the last output only.
    TreeLast,
    /// The LSTM, token by token; it has all outputs whether they are wanted or not.
    Lstm,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 3] = [Algorithm::Tree, Algorithm::TreeLast, Algorithm::Lstm];

    /// Its name: `tree`, `tree last` or `lstm`.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Tree => "tree",
            Algorithm::TreeLast => "tree last",
            Algorithm::Lstm => "lstm",
        }
    }
}

/// A matrix product, `[rows, inner] · [inner, columns]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Rows of the left matrix and of the result.
    pub rows: usize,
    /// What is summed over.
    pub inner: usize,
    /// Columns of the right matrix and of the result.
    pub columns: usize,
}

impl Product {
    /// Floating-point operations: two a multiply-add.
    pub fn flop(&self) -> f64 {
        2.0 * self.rows as f64 * self.inner as f64 * self.columns as f64
    }
}

/// One shape, at which every contender does the same task. One unary layer everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are `H`, `B`, `T` and what their names say
pub enum Case {
    Step { hidden: usize, rows: usize },
    Scan { hidden: usize, batch: usize, time: usize },
    Training { hidden: usize, batch: usize, time: usize },
    Stream { hidden: usize, time: usize },
    Task { task: Task, batch: usize, length: usize },
    Gate { tanh: bool },
}

impl Case {
    /// Every case, group after group. `small` ones only show that everything runs: tiny shapes, fewer of them.
    pub fn all(small: bool) -> Vec<Case> {
        let pick = |full: &[usize], few: &[usize]| if small { few.to_vec() } else { full.to_vec() };
        let mut cases = Vec::new();
        for hidden in pick(&[64, 137, 256, 512], &[8, 19]) {
            let rows = pick(&[1, 4, 16, 64, 128, 512, 2048, 8192], &[1, 130]);
            cases.extend(rows.into_iter().map(|rows| Case::Step { hidden, rows }));
        }
        let hidden = if small { 8 } else { 256 };
        for batch in pick(&[1, 16, 64, 128], &[1, 2]) {
            // B = 64 is there for the one length at which the forward pass alone is held to a target.
            let times = if batch == 64 { vec![128] } else { pick(&[32, 128, 512, 2048, 8192], &[1, 5]) };
            let times = times.into_iter().filter(|time| batch * time <= MOST_TOKENS);
            cases.extend(times.map(|time| Case::Scan { hidden, batch, time }));
        }
        for hidden in pick(&[64, 256], &[8]) {
            // Ten, twenty and forty symbols, each followed by the empty one at which the answer is read.
            let (times, batch) = (pick(&[11, 21, 41], &[4]), if small { 2 } else { BATCH });
            cases.extend(times.into_iter().map(|time| Case::Training { hidden, batch, time }));
        }
        let times = pick(&[500, 100_000], &[5]);
        cases.extend(times.into_iter().map(|time| Case::Stream { hidden, time }));
        let (batch, length) = if small { (2, 5) } else { (BATCH, 40) };
        cases.extend(Task::ALL.map(|task| Case::Task { task, batch, length }));
        cases.extend([false, true].map(|tanh| Case::Gate { tanh }));
        cases
    }

    /// Every case, each once, the small ones last: those that results may name.
    pub fn known() -> Vec<Case> {
        let mut cases = Case::all(false);
        let small: Vec<Case> = Case::all(true).into_iter().filter(|case| !cases.contains(case)).collect();
        cases.extend(small);
        cases
    }

    /// The table that it belongs to.
    pub fn group(&self) -> Group {
        match self {
            Case::Step { .. } => Group::Step,
            Case::Scan { .. } => Group::ScanVsLstm,
            Case::Training { .. } => Group::TrainingStep,
            Case::Stream { .. } => Group::Stream,
            Case::Task { .. } => Group::Tasks,
            Case::Gate { .. } => Group::Gates,
        }
    }

    /// Whether a person who named `wanted` means this case: its group, its name, or the beginning of its name up to a
    /// `-`, as `scan_vs_lstm/h256-b1`; nothing means all.
    pub fn is_meant_by(&self, wanted: &str) -> bool {
        let name = self.to_string();
        let rest = name.strip_prefix(wanted.trim_end_matches('/'));
        rest.is_some_and(|rest| wanted.is_empty() || rest.is_empty() || rest.starts_with(['/', '-']))
    }

    /// The algorithms that contend at it. What has no products, samples and gates, counts as [`Algorithm::Tree`].
    pub fn algorithms(&self) -> &'static [Algorithm] {
        match self {
            Case::Scan { .. } => &Algorithm::ALL,
            Case::Training { .. } => &[Algorithm::TreeLast, Algorithm::Lstm],
            Case::Stream { .. } => &[Algorithm::Tree, Algorithm::Lstm],
            _ => &[Algorithm::Tree],
        }
    }

    /// The products that a run takes, in order; empty where there are none, and for a stream's tree, whose tokens
    /// differ. What is looked up in a table, the read-out and the gates are not counted.
    ///
    /// # Errors
    /// Those of [`Planner::padded`].
    pub fn products(&self, algorithm: Algorithm) -> Result<Vec<Product>> {
        match *self {
            Case::Step { hidden, rows } => Ok(merges(hidden, rows).to_vec()),
            Case::Scan { hidden, batch, time } => pass(algorithm, hidden, batch, time),
            Case::Training { hidden, batch, time } => {
                let mut products = pass(algorithm, hidden, batch, time)?;
                let backward: Vec<Product> = products.iter().rev().flat_map(backward).collect();
                products.extend(backward);
                Ok(products)
            }
            Case::Stream { hidden, .. } if algorithm == Algorithm::Lstm => Ok(vec![lstm(hidden, 1)]),
            Case::Stream { .. } | Case::Task { .. } | Case::Gate { .. } => Ok(Vec::new()),
        }
    }

    /// Billions of floating-point operations of a run; None where it has no products of its own.
    ///
    /// # Errors
    /// Those of [`products`](Self::products).
    pub fn gflop(&self, algorithm: Algorithm) -> Result<Option<f64>> {
        let flop: f64 = self.products(algorithm)?.iter().map(Product::flop).sum();
        Ok((flop > 0.0).then_some(flop / 1e9))
    }

    /// For peers: `{case, group, input, hidden, batch, time, gflop: {tree, tree last, lstm}}`, without what the case
    /// has not.
    ///
    /// # Errors
    /// Those of [`products`](Self::products).
    pub fn to_json(&self) -> Result<Value> {
        let mut gflop = json!({});
        for &algorithm in self.algorithms() {
            gflop[algorithm.name()] = json!(self.gflop(algorithm)?);
        }
        let (hidden, batch, time) = match *self {
            Case::Step { hidden, rows } => (Some(hidden), Some(rows), None),
            Case::Scan { hidden, batch, time } | Case::Training { hidden, batch, time } => {
                (Some(hidden), Some(batch), Some(time))
            }
            Case::Stream { hidden, time } => (Some(hidden), Some(1), Some(time)),
            Case::Task { batch, length, .. } => (None, Some(batch), Some(length)),
            Case::Gate { .. } => (None, None, None),
        };
        Ok(json!({
            "case": self.to_string(), "group": self.group().name(), "input": VOCABULARY,
            "hidden": hidden, "batch": batch, "time": time, "gflop": gflop,
        }))
    }
}

/// Its name, as `scan_vs_lstm/h256-b16-t512`.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = self.group().name();
        match self {
            Case::Step { hidden, rows } => write!(f, "{group}/h{hidden}-r{rows}"),
            Case::Scan { hidden, batch, time } | Case::Training { hidden, batch, time } => {
                write!(f, "{group}/h{hidden}-b{batch}-t{time}")
            }
            Case::Stream { hidden, time } => write!(f, "{group}/h{hidden}-t{time}"),
            Case::Task { task, batch, length } => write!(f, "{group}/{task}-b{batch}-l{length}"),
            Case::Gate { tanh } => write!(f, "{group}/{}", if *tanh { "tanh" } else { "sigmoid" }),
        }
    }
}

/// The merge and its unary layer over `rows` rows.
fn merges(hidden: usize, rows: usize) -> [Product; 2] {
    [
        Product { rows, inner: 2 * hidden, columns: 5 * hidden },
        Product { rows, inner: hidden, columns: 4 * hidden },
    ]
}

/// A token of `batch` sequences in the LSTM; the input's share is a row that is looked up.
fn lstm(hidden: usize, batch: usize) -> Product {
    Product { rows: batch, inner: hidden, columns: 4 * hidden }
}

fn pass(algorithm: Algorithm, hidden: usize, batch: usize, time: usize) -> Result<Vec<Product>> {
    let outputs = match algorithm {
        Algorithm::Tree => Outputs::All,
        Algorithm::TreeLast => Outputs::Last,
        Algorithm::Lstm => return Ok(vec![lstm(hidden, batch); time]),
    };
    let mut schedule = Schedule::default();
    Planner::new().padded(&mut schedule, batch, time, &outputs, Rows::Reuse)?;
    Ok(schedule.steps().flat_map(|step| merges(hidden, step.out.len() * batch)).collect())
}

/// The two products of a product backward: those of the gradients of its input and of its weights.
fn backward(forward: &Product) -> [Product; 2] {
    let Product { rows, inner, columns } = *forward;
    [Product { rows, inner: columns, columns: inner }, Product { rows: inner, inner: rows, columns }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_is_the_one_that_was_asked_for() {
        let names: Vec<String> = Case::all(false).iter().map(Case::to_string).collect();
        let of = |group: &str| names.iter().filter(|name| name.starts_with(&format!("{group}/"))).count();
        assert_eq!(Group::ALL.map(|group| of(group.name())), [32, 13, 6, 2, 15, 2]);
        for name in [
            "step/h256-r8192",
            "step/h137-r1",
            "scan_vs_lstm/h256-b64-t128",
            "scan_vs_lstm/h256-b1-t8192",
            "scan_vs_lstm/h256-b128-t512",
            "training_step/h64-b128-t41",
            "stream/h256-t100000",
            "tasks/parity_check-b128-l40",
            "gates/tanh",
        ] {
            assert!(names.iter().any(|known| known == name), "no {name}");
        }
        assert!(!names.contains(&"scan_vs_lstm/h256-b16-t8192".to_owned()), "more tokens than allowed");
        for small in [false, true] {
            let mut names: Vec<String> = Case::all(small).iter().map(Case::to_string).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "a name came twice");
        }
    }

    /// The design's figures: a merge of 1.835 MFLOP, 72 merges for all of 40 outputs and 39 for the last.
    #[test]
    fn flops_are_those_of_the_design() {
        let merge = 1_835_008.0 / 1e9;
        let case = Case::Scan { hidden: 256, batch: 128, time: 40 };
        let gflop = |case: Case, algorithm| case.gflop(algorithm).expect("valid").expect("has products");
        let close = |found: f64, expected: f64| (found - expected).abs() <= 1e-12 * expected;
        assert!(close(gflop(case, Algorithm::Tree), 128.0 * 72.0 * merge));
        assert!(close(gflop(case, Algorithm::TreeLast), 128.0 * 39.0 * merge));
        assert!(close(gflop(case, Algorithm::Lstm), 128.0 * 40.0 * 524_288.0 / 1e9));
        assert!(close(gflop(Case::Step { hidden: 256, rows: 10 }, Algorithm::Tree), 10.0 * merge));
        let training = Case::Training { hidden: 256, batch: 128, time: 40 };
        assert!(close(gflop(training, Algorithm::TreeLast), 3.0 * 128.0 * 39.0 * merge));
        assert_eq!(Case::Gate { tanh: true }.gflop(Algorithm::Tree).expect("valid"), None);
    }

    #[test]
    fn a_case_is_meant_by_its_group_its_name_and_its_beginning() {
        let case = Case::Scan { hidden: 256, batch: 1, time: 512 };
        for wanted in
            ["", "scan_vs_lstm", "scan_vs_lstm/", "scan_vs_lstm/h256-b1", "scan_vs_lstm/h256-b1-t512"]
        {
            assert!(case.is_meant_by(wanted), "{wanted}");
        }
        for wanted in ["scan", "step", "scan_vs_lstm/h256-b1-t5", "scan_vs_lstm/h256-b16", "h256"] {
            assert!(!case.is_meant_by(wanted), "{wanted}");
        }
    }

    #[test]
    fn peers_are_told_shapes_and_flops() {
        let json = Case::Scan { hidden: 256, batch: 2, time: 3 }.to_json().expect("valid");
        assert_eq!(json["case"], "scan_vs_lstm/h256-b2-t3");
        let shape = ["input", "hidden", "batch", "time"].map(|name| json[name].as_u64());
        assert_eq!(shape, [3, 256, 2, 3].map(Some));
        // All three outputs of three tokens take two merges, and so does the last.
        assert_eq!(json["gflop"]["tree"], json["gflop"]["tree last"]);
        assert_eq!(json["gflop"]["lstm"], 3.0 * 2.0 * 524_288.0 / 1e9);
    }
}
