//! The fifteen formal-language tasks (Delétang et al., arXiv 2207.02098): what is drawn, what is right, and
//! batches of it as tokens. Knows of no model. A task is one file here, its `mod` line and its line in [`Task`].

use crate::error::{Error, Result};
use crate::random::{Purpose, Random};
use std::fmt;

mod binary;
mod expression;

mod binary_addition;
mod binary_multiplication;
mod bucket_sort;
mod compute_sqrt;
mod cycle_navigation;
mod duplicate_string;
mod even_pairs;
mod missing_duplicate_string;
mod modular_arithmetic;
mod modular_arithmetic_brackets;
mod odds_first;
mod parity_check;
mod reverse_string;
mod solve_equation;
mod stack_manipulation;

/// What a task's file says of it. A `length` is at least 1 here.
struct Rules {
    /// Where the task stands in Chomsky's hierarchy.
    level: Level,
    /// Number of input symbols, the empty one not counted.
    input_size: usize,
    /// Number of output symbols.
    output_size: usize,
    /// Symbols in the input of a task of a length.
    input_length: fn(usize) -> usize,
    /// Symbols in the target of a task of a length.
    output_length: fn(usize) -> usize,
    /// Whether the target is the answer, then a 2, then zeros that do not count.
    terminated: bool,
    /// Draws an input over the zeros that stand there.
    draw: fn(&mut [u32], &mut Random),
    /// Appends the answer to an input to an empty target. Anything may stand in the input, and nothing panics.
    answer: fn(&[u32], &mut Vec<u32>),
}

/// Makes [`Task`] from its list, so that no task can be forgotten in one of its functions.
macro_rules! tasks {
    ($count:literal: $($(#[$doc:meta])* $task:ident = $file:ident,)*) => {
        /// One of the fifteen.
        ///
        /// A `length` is that of the input, and 0 counts as 1. [`input_length`](Self::input_length) has the
        /// one exception.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Task {
            $($(#[$doc])* $task,)*
        }

        impl Task {
            /// All of them: regular, deterministic context-free, context-sensitive.
            pub const ALL: [Task; $count] = [$(Task::$task),*];

            /// Its name in the paper's program and on the command line, such as `even_pairs`.
            pub fn name(self) -> &'static str {
                self.entry().0
            }

            fn entry(self) -> (&'static str, &'static Rules) {
                match self {
                    $(Task::$task => (stringify!($file), &$file::RULES),)*
                }
            }
        }
    };
}

tasks! { 15:
    /// Bits → the parity of the number of `01` and `10`.
    EvenPairs = even_pairs,
    /// Bits → the parity of the ones.
    ParityCheck = parity_check,
    /// Moves left, stay, right (0, 1, 2) on a cycle of five → the position.
    CycleNavigation = cycle_navigation,
    /// `n op n op n …`, `+ - *` = 5, 6, 7, `*` first → the value modulo 5.
    ModularArithmetic = modular_arithmetic,
    /// A bracketed expression, `+ - * ( )` = 5 to 9 → the value modulo 5.
    ModularArithmeticBrackets = modular_arithmetic_brackets,
    /// A bracketed expression with one digit hidden, and its value: `+ - ( ) x =` are 5 to 10 → the digit.
    SolveEquation = solve_equation,
    /// A stack of bits from the bottom, then `pop`, `push 0`, `push 1` = 2, 3, 4 → the final stack from the top.
    StackManipulation = stack_manipulation,
    /// Bits → the same from the last to the first.
    ReverseString = reverse_string,
    /// Bits → the same twice.
    DuplicateString = duplicate_string,
    /// A word of bits twice with one symbol hidden as 2, then a 3 if the length is odd → the hidden symbol.
    MissingDuplicateString = missing_duplicate_string,
    /// Bits → those at the indices 1, 3, 5, … and then those at 0, 2, 4, …
    OddsFirst = odds_first,
    /// `n 2 m`, lowest bits first → their sum.
    BinaryAddition = binary_addition,
    /// `n 2 m`, lowest bits first → their product.
    BinaryMultiplication = binary_multiplication,
    /// A number, highest bit first → the floor of its square root.
    ComputeSqrt = compute_sqrt,
    /// Symbols 0 to 4 → the same, sorted.
    BucketSort = bucket_sort,
}

impl Task {
    /// The task of that name; where there is none, an [`Error::Argument`] that tells the nearest name.
    pub fn from_name(name: &str) -> Result<Task> {
        Task::ALL.into_iter().find(|task| task.name() == name).ok_or_else(|| {
            let nearest = Task::ALL.map(Task::name).into_iter().min_by_key(|known| distance(name, known));
            let expected = "one of the names that `pr-lstm tasks` lists";
            let nearest = nearest.map_or(String::new(), |known| format!(" (the nearest is `{known}`)"));
            Error::argument("task", format!("{expected}{nearest}"), format_args!("`{name}`"))
        })
    }

    /// Where the task stands in Chomsky's hierarchy.
    pub fn level(self) -> Level {
        self.rules().level
    }

    /// Number of input symbols. The model has one more, the empty symbol `input_size`.
    pub fn input_size(self) -> usize {
        self.rules().input_size
    }

    /// Number of output symbols.
    pub fn output_size(self) -> usize {
        self.rules().output_size
    }

    /// Symbols in an input: `length`, but `modular_arithmetic` shortens an even one by one.
    pub fn input_length(self, length: usize) -> usize {
        (self.rules().input_length)(length.max(1))
    }

    /// Symbols in a target.
    pub fn output_length(self, length: usize) -> usize {
        (self.rules().output_length)(length.max(1))
    }

    /// Draws one sample. The same numbers in `random` give the same sample in every version.
    pub fn sample(self, length: usize, random: &mut Random, sample: &mut Sample) {
        sample.input.clear();
        sample.input.resize(self.input_length(length), 0);
        (self.rules().draw)(&mut sample.input, random);
        self.answer(&sample.input, &mut sample.target, &mut sample.mask);
    }

    /// The target of a given input `[input_length]`, and which of its positions count: both `[output_length]`.
    ///
    /// An input that the task could not have drawn gets some target of that length.
    pub fn answer(self, input: &[u32], target: &mut Vec<u32>, mask: &mut Vec<bool>) {
        let rules = self.rules();
        target.clear();
        (rules.answer)(input, target);
        if rules.terminated {
            target.push(2);
        }
        mask.clear();
        mask.resize(target.len(), true);
        let length = self.output_length(input.len());
        target.resize(length, 0);
        mask.resize(length, false);
    }

    fn rules(self) -> &'static Rules {
        self.entry().1
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A level of Chomsky's hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// A finite automaton is enough.
    Regular,
    /// A deterministic automaton with a stack is enough.
    DeterministicContextFree,
    /// An automaton whose tape is as long as the input is enough.
    ContextSensitive,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Regular => "regular",
            Level::DeterministicContextFree => "deterministic context-free",
            Level::ContextSensitive => "context-sensitive",
        })
    }
}

/// An input and its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Symbols below `input_size`: `[input_length]`.
    pub input: Vec<u32>,
    /// Symbols below `output_size`: `[output_length]`.
    pub target: Vec<u32>,
    /// Positions of the target that count for the accuracy (the loss takes all): `[output_length]`.
    pub mask: Vec<bool>,
}

/// The longest input of a [`Batch`]; the sizes of all tasks can be counted up to here.
const MAX_LENGTH: usize = 1 << 28;

/// Samples as the model sees them. Outputs are read at the last `outputs` positions of the `time`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// `[batch, time]`: each row the input, then `outputs` times the empty symbol `input_size`.
    pub tokens: Vec<u32>,
    /// `[batch, outputs]`.
    pub targets: Vec<u32>,
    /// `[batch, outputs]`: 1 where a position counts for the accuracy, else 0.
    pub mask: Vec<u8>,
    /// Number of samples.
    pub batch: usize,
    /// `input_length + output_length`.
    pub time: usize,
    /// `output_length`.
    pub outputs: usize,
}

impl Batch {
    /// Draws `batch` samples into this batch, in the place of what it held. Sample `b` is the one that
    /// [`Task::sample`] makes of `Random::new(seed, purpose, step, b)`.
    ///
    /// # Errors
    /// [`Error::Argument`] if `length` or `batch` is 0 or too large to count; the batch is then as it was.
    pub fn fill(
        &mut self,
        task: Task,
        length: usize,
        batch: usize,
        seed: u64,
        purpose: Purpose,
        step: u64,
    ) -> Result<()> {
        if !(1..=MAX_LENGTH).contains(&length) {
            return Err(Error::argument("length", format!("1 to {MAX_LENGTH}"), length));
        }
        let outputs = task.output_length(length);
        let time = task.input_length(length) + outputs;
        let room = (isize::MAX as usize / size_of::<u32>() / time).min(u32::MAX as usize);
        if !(1..=room).contains(&batch) {
            return Err(Error::argument("batch", format!("1 to {room}"), batch));
        }

        self.tokens.clear();
        if self.tokens.try_reserve_exact(batch * time).is_err() {
            return Err(Error::Unavailable {
                what: format!("memory for a batch of {batch} samples of {time} tokens"),
                why: "the system has not as much; take fewer samples or shorter ones".into(),
            });
        }
        (self.batch, self.time, self.outputs) = (batch, time, outputs);
        self.targets.clear();
        self.mask.clear();
        let mut sample = Sample::default();
        for b in 0..batch {
            task.sample(length, &mut Random::new(seed, purpose, step, b as u32), &mut sample);
            self.tokens.extend_from_slice(&sample.input);
            self.tokens.resize((b + 1) * time, task.input_size() as u32);
            self.targets.extend_from_slice(&sample.target);
            self.mask.extend(sample.mask.iter().map(|&counts| u8::from(counts)));
        }
        Ok(())
    }
}

/// The length of an input or target that is as long as the task.
fn same(length: usize) -> usize {
    length
}

/// The length of a target of one symbol.
fn one(_length: usize) -> usize {
    1
}

/// Draws each symbol uniformly in `0..SIZE`.
fn uniform<const SIZE: u32>(symbols: &mut [u32], random: &mut Random) {
    if SIZE == 2 {
        bits(symbols, random);
    } else {
        symbols.fill_with(|| random.below(SIZE));
    }
}

/// Draws bits, 32 to a number, its lowest first.
fn bits(symbols: &mut [u32], random: &mut Random) {
    for chunk in symbols.chunks_mut(32) {
        let word = random.bits();
        chunk.iter_mut().enumerate().for_each(|(i, bit)| *bit = word >> i & 1);
    }
}

/// How far `typed` is from `name`: 1 a missing character, since names are cut short more often than
/// misspelt, and 3 a superfluous or wrong one.
fn distance(typed: &str, name: &str) -> usize {
    let mut row: Vec<usize> = (0..=name.chars().count()).collect();
    for x in typed.chars() {
        let mut diagonal = row[0];
        row[0] += 3;
        for (j, y) in name.chars().enumerate() {
            let kept = if x == y { diagonal } else { diagonal + 3 };
            diagonal = row[j + 1];
            row[j + 1] = kept.min(diagonal + 3).min(row[j] + 1);
        }
    }
    row[row.len() - 1]
}
