//! The whole model on a batch: leaves, merges with their unary layers, read-out; and the same road back.

use crate::error::{Error, Result};
use crate::model::{Cell, Config};

use super::cell::{State, activate, activate_backward, check_length};
use super::{Parameters, Tree, add};

/// A batch of sequences, each of its own length. Right-padding is never needed: sequences do not meet.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A sequence is its rows, `[T, D]`, row-major.
    Dense(Vec<Vec<f64>>),
    /// A sequence is its tokens, `[T]`; a token picks a row of `leaf.w`, as its one-hot row would.
    Tokens(Vec<Vec<u32>>),
}

impl Input {
    /// Dense sequences of one length, from `values: [batch, T, D]`, row-major.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no value, or they do not make `batch` sequences.
    pub fn dense(values: &[f64], batch: usize) -> Result<Self> {
        if values.is_empty() || batch == 0 || !values.len().is_multiple_of(batch) {
            return Err(Error::argument("values", format!("{batch} sequences of one length"), values.len()));
        }
        Ok(Input::Dense(values.chunks(values.len() / batch).map(<[f64]>::to_vec).collect()))
    }

    /// The same with tokens written as one-hot rows of width `input`.
    ///
    /// # Errors
    /// [`Error::Token`] if a token is `input` or more.
    pub fn one_hot(&self, input: usize) -> Result<Self> {
        self.check_tokens(input)?;
        let rows = |tokens: &Vec<u32>| {
            let mut rows = vec![0.0; tokens.len() * input];
            for (row, &token) in rows.chunks_mut(input).zip(tokens) {
                row[token as usize] = 1.0;
            }
            rows
        };
        Ok(match self {
            Input::Dense(_) => self.clone(),
            Input::Tokens(sequences) => Input::Dense(sequences.iter().map(rows).collect()),
        })
    }

    fn check_tokens(&self, vocabulary: usize) -> Result<()> {
        let Input::Tokens(sequences) = self else { return Ok(()) };
        for (sequence, tokens) in sequences.iter().enumerate() {
            if let Some(position) = tokens.iter().position(|&token| token as usize >= vocabulary) {
                return Err(Error::Token { sequence, position, token: tokens[position], vocabulary });
            }
        }
        Ok(())
    }

    /// The length `T` of each sequence, once everything is found to fit the model.
    fn lengths(&self, config: &Config) -> Result<Vec<usize>> {
        let lengths: Vec<usize> = match self {
            Input::Dense(sequences) => {
                if let Some(bad) = sequences.iter().find(|rows| !rows.len().is_multiple_of(config.input)) {
                    return Err(Error::argument(
                        "input",
                        format!("rows of {} values", config.input),
                        bad.len(),
                    ));
                }
                sequences.iter().map(|rows| rows.len() / config.input).collect()
            }
            Input::Tokens(sequences) => {
                self.check_tokens(config.input)?;
                sequences.iter().map(Vec::len).collect()
            }
        };
        if lengths.is_empty() || lengths.contains(&0) {
            return Err(Error::argument("input", "one sequence or more, of one position or more", "none"));
        }
        Ok(lengths)
    }
}

/// A model: its configuration and its weights.
#[derive(Clone, Debug)]
pub struct Model {
    config: Config,
    weights: Parameters,
    round_hidden: fn(f64) -> f64,
}

/// One application of the cell, with what its gradient needs.
#[derive(Clone, Debug)]
struct Applied {
    z: Vec<f64>,
    state: State,
}

/// A node of the tree: a leaf is applied once, a merge once and then each unary layer. The last state is the node's.
type Node = Vec<Applied>;

/// One sequence of a pass.
#[derive(Clone, Debug)]
struct Sequence {
    tree: Tree,
    nodes: Vec<Node>,
}

impl Sequence {
    fn state(&self, node: usize) -> &State {
        &self.nodes[node].last().expect("a node has a state").state
    }
}

/// What [`Model::forward`] computed, and what [`Model::backward`] needs of it.
#[derive(Clone, Debug)]
pub struct Pass {
    config: Config,
    input: Input,
    sequences: Vec<Sequence>,
    hidden: Vec<f64>,
    output: Vec<f64>,
}

impl Pass {
    /// `h` of the wanted prefixes, `[positions, H]`, sequence after sequence: `[B, T, H]` where all have one length
    /// and everything was wanted.
    pub fn hidden(&self) -> &[f64] {
        &self.hidden
    }

    /// The read-out of [`Pass::hidden`], `[positions, O]`.
    pub fn output(&self) -> &[f64] {
        &self.output
    }

    /// The tree of each sequence. Its merges are those that were computed, each once.
    pub fn trees(&self) -> impl Iterator<Item = &Tree> {
        self.sequences.iter().map(|sequence| &sequence.tree)
    }

    /// The smallest `|x|` that entered any relu, of cells or of the read-out: a finite difference that moves one of
    /// them across 0 says nothing about the gradient.
    pub fn nearest_kink(&self) -> f64 {
        let mut nearest = f64::INFINITY;
        for sequence in &self.sequences {
            let (leaves, merges) = sequence.nodes.split_at(sequence.tree.leaves);
            // A merge of the RNN went through its own relu; what it gave meets no kink of the read-out elsewhere.
            let rnn = self.config.cell == Cell::Rnn;
            let cells = merges.iter().flatten().filter(|_| rnn).flat_map(|applied| &applied.z);
            let read = sequence.tree.outputs.iter().filter(|&&node| !rnn || node < leaves.len());
            let readout = read.flat_map(|&node| &sequence.state(node).h);
            nearest = cells.chain(readout).fold(nearest, |nearest, x| nearest.min(x.abs()));
        }
        nearest
    }
}

/// The gradients of one scalar.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// Of every parameter.
    pub parameters: Parameters,
    /// Of dense input, laid out like it: `[B, T, D]`, sequence after sequence. `None` for tokens.
    pub input: Option<Vec<f64>>,
}

impl Model {
    /// A model with these weights.
    ///
    /// # Errors
    /// [`Error::Argument`] if a weight has not the shape that `config` says, [`Error::NotFinite`] if it holds a NaN
    /// or an infinity; as [`Config::layout`].
    pub fn new(config: &Config, weights: Parameters) -> Result<Self> {
        weights.check(config)?;
        Ok(Model { config: config.clone(), weights, round_hidden: |h| h })
    }

    /// The same model that rounds every `h` as it is stored: after a leaf, a merge and each unary layer. What reads
    /// `h` reads the rounded one; `c` stays exact, and gradients pass through the rounding unchanged. For weights
    /// that are rounded too: [`Parameters::round_weights`].
    pub fn round_hidden(self, round: fn(f64) -> f64) -> Self {
        Model { round_hidden: round, ..self }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The weights.
    pub fn weights(&self) -> &Parameters {
        &self.weights
    }

    /// All prefixes of all sequences.
    ///
    /// # Errors
    /// [`Error::Argument`] for an empty batch, an empty sequence or rows of another width, [`Error::Token`] for a
    /// token outside of the vocabulary.
    pub fn forward(&self, input: &Input) -> Result<Pass> {
        let lengths = input.lengths(&self.config)?;
        self.forward_at(input, &lengths.iter().map(|&time| (0..time).collect()).collect::<Vec<_>>())
    }

    /// The last prefix of each sequence, `[B, 1, ·]`, and no merge that it does not need.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn forward_last(&self, input: &Input) -> Result<Pass> {
        let lengths = input.lengths(&self.config)?;
        self.forward_at(input, &lengths.iter().map(|&time| vec![time - 1]).collect::<Vec<_>>())
    }

    /// The prefixes at `positions`, a list for each sequence, and no merge that they do not need.
    ///
    /// # Errors
    /// As [`Model::forward`], and [`Error::Argument`] if the lists are not one a sequence or reach beyond it.
    pub fn forward_at(&self, input: &Input, positions: &[Vec<usize>]) -> Result<Pass> {
        let lengths = input.lengths(&self.config)?;
        if positions.len() != lengths.len() {
            return Err(Error::argument("positions", format!("{} lists", lengths.len()), positions.len()));
        }
        let mut sequences = Vec::new();
        for (b, (&time, positions)) in lengths.iter().zip(positions).enumerate() {
            sequences.push(self.forward_sequence(input, b, Tree::new(time, positions)?));
        }
        let outputs = |sequence: &Sequence| -> Vec<f64> {
            sequence.tree.outputs.iter().flat_map(|&node| sequence.state(node).h.clone()).collect()
        };
        let hidden: Vec<f64> = sequences.iter().flat_map(outputs).collect();
        let output = self.weights.readout.readout(&hidden)?;
        Ok(Pass { config: self.config.clone(), input: input.clone(), sequences, hidden, output })
    }

    fn forward_sequence(&self, input: &Input, b: usize, tree: Tree) -> Sequence {
        let mut sequence = Sequence { nodes: Vec::new(), tree };
        for t in 0..sequence.tree.leaves {
            let z = match input {
                Input::Dense(rows) => self.weights.leaf.forward(self.row(&rows[b], t)),
                Input::Tokens(tokens) => self.weights.leaf.forward_token(tokens[b][t] as usize),
            };
            sequence.nodes.push(vec![self.apply(z, &[])]);
        }
        for m in 0..sequence.tree.merges.len() {
            let (left, right) = sequence.tree.merges[m];
            let (left, right) = (sequence.state(left), sequence.state(right));
            let z = self.weights.merge.forward(&[&left.h[..], &right.h[..]].concat());
            let mut node = vec![self.apply(z, &[&left.c, &right.c])];
            for (r, layer) in self.weights.unary.iter().enumerate() {
                let State { h, c } = &node[r].state;
                node.push(self.apply(layer.forward(h), &[c]));
            }
            sequence.nodes.push(node);
        }
        sequence
    }

    fn row<'a>(&self, rows: &'a [f64], t: usize) -> &'a [f64] {
        &rows[t * self.config.input..][..self.config.input]
    }

    fn apply(&self, z: Vec<f64>, c_n: &[&[f64]]) -> Applied {
        let mut state = activate(self.config.cell, &z, c_n);
        state.h.iter_mut().for_each(|h| *h = (self.round_hidden)(*h));
        Applied { z, state }
    }

    /// Gradients of the scalar whose gradient by [`Pass::output`] is `d_output: [positions, O]`.
    ///
    /// # Errors
    /// [`Error::Argument`] if `d_output` is not as long as the output, or the pass is of another configuration.
    pub fn backward(&self, pass: &Pass, d_output: &[f64]) -> Result<Gradients> {
        let (gradient, d_hidden) = self.weights.readout.readout_backward(&pass.hidden, d_output)?;
        let mut gradients = self.backward_hidden(pass, &d_hidden)?;
        gradients.parameters.readout = gradient;
        Ok(gradients)
    }

    /// Gradients of the scalar whose gradient by [`Pass::hidden`] is `d_hidden: [positions, H]`; zero for the
    /// read-out.
    ///
    /// # Errors
    /// [`Error::Argument`] if `d_hidden` is not as long as the hidden states, or the pass is of another
    /// configuration.
    pub fn backward_hidden(&self, pass: &Pass, d_hidden: &[f64]) -> Result<Gradients> {
        if pass.config != self.config {
            return Err(Error::argument(
                "pass",
                format!("{:?}", self.config),
                format_args!("{:?}", pass.config),
            ));
        }
        check_length("d_hidden", d_hidden, pass.hidden.len())?;
        let mut gradient = Parameters::zeros(&self.config)?;
        let mut d_input = Vec::new();
        let mut d_hidden = d_hidden.chunks(self.config.hidden);
        for (b, sequence) in pass.sequences.iter().enumerate() {
            let d_hidden: Vec<&[f64]> = d_hidden.by_ref().take(sequence.tree.outputs.len()).collect();
            d_input.extend(self.backward_sequence(&pass.input, b, sequence, &d_hidden, &mut gradient));
        }
        let input = matches!(pass.input, Input::Dense(_)).then_some(d_input);
        Ok(Gradients { parameters: gradient, input })
    }

    /// Adds one sequence's gradients to `gradient`, returns that of its dense input, `[T, D]`.
    fn backward_sequence(
        &self,
        input: &Input,
        b: usize,
        sequence: &Sequence,
        d_hidden: &[&[f64]],
        gradient: &mut Parameters,
    ) -> Vec<f64> {
        let cell = self.config.cell;
        let Sequence { tree, nodes } = sequence;
        // A node's gradient is the sum over its readers: the outputs and the merges, all of which come after it.
        let mut d_nodes: Vec<State> = (0..nodes.len())
            .map(|node| {
                let State { h, c } = sequence.state(node);
                State { h: vec![0.0; h.len()], c: vec![0.0; c.len()] }
            })
            .collect();
        for (&node, d_hidden) in tree.outputs.iter().zip(d_hidden) {
            add(&mut d_nodes[node].h, d_hidden);
        }
        for (m, &(left, right)) in tree.merges.iter().enumerate().rev() {
            let node = &nodes[tree.leaves + m];
            let mut d = d_nodes[tree.leaves + m].clone();
            for (r, layer) in self.weights.unary.iter().enumerate().rev() {
                let (Applied { state: below, .. }, Applied { z, state }) = (&node[r], &node[r + 1]);
                let (dz, mut dc) = activate_backward(cell, z, &[&below.c], &state.c, &d);
                d = State { h: layer.backward(&below.h, &dz, &mut gradient.unary[r]), c: dc.remove(0) };
            }
            let (l, r) = (sequence.state(left), sequence.state(right));
            let (dz, dc) = activate_backward(cell, &node[0].z, &[&l.c, &r.c], &node[0].state.c, &d);
            let dx = self.weights.merge.backward(&[&l.h[..], &r.h[..]].concat(), &dz, &mut gradient.merge);
            let (dh_left, dh_right) = dx.split_at(self.config.hidden);
            add(&mut d_nodes[left].h, dh_left);
            add(&mut d_nodes[left].c, &dc[0]);
            add(&mut d_nodes[right].h, dh_right);
            add(&mut d_nodes[right].c, &dc[1]);
        }
        let mut d_input = Vec::new();
        for t in 0..tree.leaves {
            let Applied { z, state } = &nodes[t][0];
            let (dz, _) = activate_backward(cell, z, &[], &state.c, &d_nodes[t]);
            match input {
                Input::Dense(rows) => {
                    let row = self.row(&rows[b], t);
                    d_input.extend(self.weights.leaf.backward(row, &dz, &mut gradient.leaf));
                }
                Input::Tokens(tokens) => {
                    self.weights.leaf.backward_token(tokens[b][t] as usize, &dz, &mut gradient.leaf);
                }
            }
        }
        d_input
    }
}
