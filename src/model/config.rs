//! The shape of a model, and where each parameter lies in the flat buffer.

use std::ops::Range;

use crate::error::{Error, Result};

/// Which cell merges two states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cell {
    /// The gated cell of the PR-LSTM: `c = σ(i)⊙tanh(g) + Σ σ(f_n)⊙c_n`, `h = σ(o)⊙tanh(c)`.
    Lstm,
    /// The PR-RNN: `h = relu(W·input + b)`, a linear leaf, no `c`.
    Rnn,
}

impl Cell {
    /// The name in checkpoints and on the command line: `lstm` or `rnn`.
    pub fn name(self) -> &'static str {
        match self {
            Cell::Lstm => "lstm",
            Cell::Rnn => "rnn",
        }
    }

    /// The cell of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Cell::Lstm, Cell::Rnn].into_iter().find(|cell| cell.name() == name)
    }

    /// Gates of a cell applied to `states` states: `i, g, o` and one forget gate a state, or 1 for the RNN.
    pub fn gates(self, states: usize) -> usize {
        match self {
            Cell::Lstm => 3 + states,
            Cell::Rnn => 1,
        }
    }
}

/// How the state of a prefix comes about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Recurrence {
    /// A tree of merges of neighbouring states: the PR-LSTM and the PR-RNN.
    #[default]
    Tree,
    /// From the prefix before it and the input row: the paper's baselines, haiku's `LSTM` and `VanillaRNN`, from
    /// states of zero. `h_t = σ(o)⊙tanh(c_t)`, `c_t = σ(f + 1)⊙c_{t-1} + σ(i)⊙tanh(g)` of
    /// `[i, g, f, o] = [x_t ; h_{t-1}]·W + b`; or `h_t = relu(x_t·W + b + h_{t-1}·W_1 + b_1)`.
    Sequential,
}

impl Recurrence {
    /// The name in checkpoints: `tree` or `sequential`.
    pub fn name(self) -> &'static str {
        match self {
            Recurrence::Tree => "tree",
            Recurrence::Sequential => "sequential",
        }
    }

    /// The recurrence of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Recurrence::Tree, Recurrence::Sequential].into_iter().find(|recurrence| recurrence.name() == name)
    }
}

/// The shape of a model. Paper: `H = 256`, one unary layer (`num_layers = 2` in its code).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// The cell.
    pub cell: Cell,
    /// How the state of a prefix comes about.
    pub recurrence: Recurrence,
    /// `D`: size of the vocabulary for tokens, width of a row for dense input.
    pub input: usize,
    /// `H`: width of a state.
    pub hidden: usize,
    /// `R`: unary layers applied after every merge, 0 to 16; a sequential model has none.
    pub unary_layers: usize,
    /// `O`: width of the read-out.
    pub output: usize,
}

impl Config {
    /// A PR-LSTM with one unary layer: input size `D`, hidden size `H`, output size `O`.
    pub fn new(input: usize, hidden: usize, output: usize) -> Self {
        Config { cell: Cell::Lstm, recurrence: Recurrence::Tree, input, hidden, unary_layers: 1, output }
    }

    /// The same with another cell.
    pub fn cell(self, cell: Cell) -> Self {
        Config { cell, ..self }
    }

    /// The same with another recurrence; a sequential one has no unary layers.
    pub fn recurrence(self, recurrence: Recurrence) -> Self {
        match recurrence {
            Recurrence::Tree => Config { recurrence, ..self },
            Recurrence::Sequential => Config { recurrence, unary_layers: 0, ..self },
        }
    }

    /// The same with `R` unary layers.
    pub fn unary_layers(self, unary_layers: usize) -> Self {
        Config { unary_layers, ..self }
    }

    /// As checkpoints have it: `{cell, recurrence, input, hidden, unary_layers, output}`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let Config { cell, recurrence, input, hidden, unary_layers, output } = self;
        serde_json::json!({
            "cell": cell.name(), "recurrence": recurrence.name(), "input": input, "hidden": hidden,
            "unary_layers": unary_layers, "output": output,
        })
    }

    /// What [`to_json`](Self::to_json) wrote; None if a field is missing or of another kind. Without a recurrence, as
    /// the first checkpoints are, it is the tree.
    pub(crate) fn from_json(json: &serde_json::Value) -> Option<Self> {
        let size = |name: &str| json[name].as_u64().and_then(|size| usize::try_from(size).ok());
        Some(Config {
            cell: Cell::from_name(json["cell"].as_str()?)?,
            recurrence: match json.get("recurrence") {
                None => Recurrence::Tree,
                Some(name) => Recurrence::from_name(name.as_str()?)?,
            },
            input: size("input")?,
            hidden: size("hidden")?,
            unary_layers: size("unary_layers")?,
            output: size("output")?,
        })
    }

    /// Checks every size and lays the parameters out.
    ///
    /// # Errors
    /// [`Error::Argument`] if a size is 0, too large, or their product overflows, or a sequential model has unary
    /// layers.
    pub fn layout(&self) -> Result<Layout> {
        Layout::new(self)
    }
}

/// One named parameter in the flat buffer: a weight `[fan_in, columns]` or a bias `[columns]`, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterRange {
    /// Name as in checkpoints: `merge.w`, `unary.0.b`.
    pub name: String,
    /// Shape, row-major.
    pub shape: Vec<usize>,
    /// Elements of the flat buffer.
    pub range: Range<usize>,
}

/// A weight and its bias in the flat buffer: `z = input · W + b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearRange {
    /// `W`, `[fan_in, columns]`, row-major.
    pub w: Range<usize>,
    /// `b`, `[columns]`; empty where there is none.
    pub b: Range<usize>,
    /// Rows of `W`.
    pub fan_in: usize,
    /// Columns of `W`: gates · H, gate after gate.
    pub columns: usize,
}

impl LinearRange {
    /// The first `rows` rows of `W`, with the bias, and the others, without.
    fn split(self, rows: usize) -> [Self; 2] {
        let at = self.w.start + rows * self.columns;
        let part = |w, b, fan_in| LinearRange { w, b, fan_in, columns: self.columns };
        let none = self.b.end..self.b.end;
        [part(self.w.start..at, self.b, rows), part(at..self.w.end, none, self.fan_in - rows)]
    }
}

/// Where each parameter lies in the flat f32 buffer; gradients and moments are laid out alike.
///
/// | model | tensors |
/// |---|---|
/// | tree | `leaf`, `merge`, `unary.0` …, `readout`: a weight `.w` and a bias `.b` each |
/// | sequential LSTM | `recurrent`, `[D+H, 4H]`, the rows of `x_t` first, gates i g f o; `readout` |
/// | sequential RNN | `input`, `[D, H]`; `recurrent`, `[H, H]`; `readout` |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Token or input row → state: `[D, 3H]` (RNN: `[D, H]`). Of a sequential model: what `x_t` multiplies, `[D, 4H]`
    /// (RNN: `[D, H]`).
    pub leaf: LinearRange,
    /// Two neighbours → one: `[2H, 5H]` (RNN: `[2H, H]`). Of a sequential model: what `h_{t-1}` multiplies, `[H, 4H]`
    /// (RNN: `[H, H]`); the LSTM's has no bias beside that of `leaf`.
    pub merge: LinearRange,
    /// The unary layers in order: `[H, 4H]` each (RNN: `[H, H]`).
    pub unary: Vec<LinearRange>,
    /// Read-out: `[H, O]`.
    pub readout: LinearRange,
    /// All of them by name, in the order of the buffer.
    pub names: Vec<ParameterRange>,
}

/// Largest accepted value of any size: products of three of them times four bytes stay below 2^63.
const LARGEST: usize = 1 << 20;
/// Most parameters of a model: 16 GiB of f32.
const MOST_PARAMETERS: usize = 1 << 32;

impl Layout {
    fn new(config: &Config) -> Result<Self> {
        for (name, value) in [("input", config.input), ("hidden", config.hidden), ("output", config.output)] {
            if value == 0 || value > LARGEST {
                return Err(Error::argument(format!("config.{name}"), format!("1 to {LARGEST}"), value));
            }
        }
        if config.unary_layers > 16 {
            return Err(Error::argument("config.unary_layers", "0 to 16", config.unary_layers));
        }
        if config.recurrence == Recurrence::Sequential && config.unary_layers > 0 {
            let expected = "0, as a sequential model has it";
            return Err(Error::argument("config.unary_layers", expected, config.unary_layers));
        }
        let (d, h, cell) = (config.input, config.hidden, config.cell);
        let mut names = Vec::new();
        let mut end = 0;
        let mut linear = |name: &str, fan_in: usize, columns: usize| {
            let mut take = |part: &str, shape: Vec<usize>| {
                let range = end..end + shape.iter().product::<usize>();
                end = range.end;
                names.push(ParameterRange { name: format!("{name}.{part}"), shape, range: range.clone() });
                range
            };
            let w = take("w", vec![fan_in, columns]);
            let b = take("b", vec![columns]);
            LinearRange { w, b, fan_in, columns }
        };
        let [leaf, merge] = match (config.recurrence, cell) {
            (Recurrence::Tree, _) => {
                [linear("leaf", d, cell.gates(0) * h), linear("merge", 2 * h, cell.gates(2) * h)]
            }
            (Recurrence::Sequential, Cell::Lstm) => linear("recurrent", d + h, cell.gates(1) * h).split(d),
            (Recurrence::Sequential, Cell::Rnn) => [linear("input", d, h), linear("recurrent", h, h)],
        };
        let unary =
            (0..config.unary_layers).map(|r| linear(&format!("unary.{r}"), h, cell.gates(1) * h)).collect();
        let readout = linear("readout", h, config.output);
        if end > MOST_PARAMETERS {
            let expected = format!("at most 2^32 parameters: take a smaller `hidden` (it is {h})");
            return Err(Error::argument("config", expected, end));
        }
        Ok(Layout { leaf, merge, unary, readout, names })
    }

    /// Elements of the flat buffer.
    pub fn len(&self) -> usize {
        self.readout.b.end
    }

    /// False: a model has parameters.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The parameter of that name.
    pub fn get(&self, name: &str) -> Option<&ParameterRange> {
        self.names.iter().find(|parameter| parameter.name == name)
    }
}
