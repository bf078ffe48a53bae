//! The oracle: the paper's equations in f64, forward and backward written out by hand, to be read beside the paper.
//! Everything else in this crate is compared with it. It shares no arithmetic and no tree with any other module,
//! and knows nothing of speed.
//!
//! A *state* is a pair `(h, c)`, each of width `H`. One cell, applied to `N` states, makes a new one
//! (`σ` the logistic function, `⊙` elementwise):
//!
//! ```text
//! z = [input] · W + b                      W: [fan_in, (3+N)·H]
//! i, g, o, f_1 … f_N = split(z)            in this order, H columns each
//! c = σ(i) ⊙ tanh(g) + Σ_n σ(f_n) ⊙ c_n
//! h = σ(o) ⊙ tanh(c)
//! ```
//!
//! | use | N | input | gates |
//! |---|---|---|---|
//! | leaf: input row → state | 0 | `x_t` | i g o |
//! | merge: two neighbours → one | 2 | `[h_left ; h_right]` | i g o f_left f_right |
//! | unary, `R` of them after every merge, each with its own weights | 1 | `h` | i g o f |
//!
//! The PR-RNN has `h = relu(z)` instead of the gates, no `c`, and a leaf `h = z`. The read-out is
//! `y = relu(h) · W_out + b_out`, and `relu'(0) = 0`. Which states are merged: [`Tree`].
//!
//! | here | holds |
//! |---|---|
//! | [`Model`] | forward and backward of the whole model |
//! | [`Linear`] | `z = x · W + b` and its gradient; the gates are beside it, in `reference/cell.rs` |
//! | [`Tree`] | the definition of the tree |
//! | [`cross_entropy`], [`Adam`] | the paper's loss and optimiser |
//! | [`SequentialLstm`], [`SequentialRnn`] | the paper's baselines |
//! | [`round_f32`], [`round_bf16`], [`round_f16`] | what low precision does to a number |
//!
//! ```
//! use pr_lstm::Config;
//! use pr_lstm::reference::{Input, Model, Parameters, cross_entropy};
//!
//! let config = Config::new(3, 4, 2);
//! let flat: Vec<f64> = (0..config.layout()?.len()).map(|i| (i as f64).sin()).collect();
//! let model = Model::new(&config, Parameters::from_flat(&config, &flat)?)?;
//! let pass = model.forward_last(&Input::Tokens(vec![vec![0, 1, 1, 2], vec![1, 2]]))?;
//! let (_loss, d_output) = cross_entropy(pass.output(), config.output, &[0, 1])?;
//! let gradients = model.backward(&pass, &d_output)?;
//! assert_eq!(gradients.parameters.to_flat().len(), flat.len());
//! # Ok::<(), pr_lstm::Error>(())
//! ```

mod cell;
mod model;
mod parameters;
mod rounding;
mod sequential;
mod training;
mod tree;

pub use cell::Linear;
pub use model::{Gradients, Input, Model, Pass};
pub use parameters::Parameters;
pub use rounding::{round_bf16, round_f16, round_f32};
pub use sequential::{LstmPass, RnnPass, SequentialGradients, SequentialLstm, SequentialRnn};
pub use training::{Adam, cross_entropy};
pub use tree::Tree;

/// Adds `from` into `into`, elementwise.
fn add(into: &mut [f64], from: &[f64]) {
    assert_eq!(into.len(), from.len());
    into.iter_mut().zip(from).for_each(|(into, from)| *into += from);
}
