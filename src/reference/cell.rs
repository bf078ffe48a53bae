//! One layer and what follows it: the gates of the LSTM cell, the relu of the RNN cell. Knows nothing of the tree.

use crate::error::{Error, Result};
use crate::model::Cell;

use super::add;

/// `z = x · W + b`.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// `W`, `[fan_in, columns]`, row-major.
    pub w: Vec<f64>,
    /// `b`, `[columns]`.
    pub b: Vec<f64>,
}

impl Linear {
    /// A layer of zeros.
    pub fn zeros(fan_in: usize, columns: usize) -> Self {
        Linear { w: vec![0.0; fan_in * columns], b: vec![0.0; columns] }
    }

    /// Width of `x`.
    pub fn fan_in(&self) -> usize {
        self.w.len().checked_div(self.b.len()).unwrap_or(0)
    }

    /// Width of `z`.
    pub fn columns(&self) -> usize {
        self.b.len()
    }

    /// `relu(h) · W + b` of `hidden: [rows, fan_in]`: `[rows, columns]`.
    ///
    /// # Errors
    /// [`Error::Argument`] if `hidden` is not made of such rows.
    pub fn readout(&self, hidden: &[f64]) -> Result<Vec<f64>> {
        check_length("hidden", hidden, self.rows(hidden) * self.fan_in())?;
        Ok(hidden.chunks_exact(self.fan_in()).flat_map(|h| self.forward(&relu(h))).collect())
    }

    /// Given the gradient of [`Linear::readout`]: that of the layer and that of `hidden`.
    ///
    /// # Errors
    /// [`Error::Argument`] if `hidden` or `d_output` is not made of such rows.
    pub fn readout_backward(&self, hidden: &[f64], d_output: &[f64]) -> Result<(Linear, Vec<f64>)> {
        check_length("hidden", hidden, self.rows(hidden) * self.fan_in())?;
        check_length("d_output", d_output, self.rows(hidden) * self.columns())?;
        let mut gradient = Linear::zeros(self.fan_in(), self.columns());
        let mut d_hidden = Vec::new();
        for (h, dy) in hidden.chunks_exact(self.fan_in()).zip(d_output.chunks_exact(self.columns())) {
            let d_relu = self.backward(&relu(h), dy, &mut gradient);
            d_hidden.extend(relu_backward(h, &d_relu));
        }
        Ok((gradient, d_hidden))
    }

    fn rows(&self, hidden: &[f64]) -> usize {
        hidden.len() / self.fan_in().max(1)
    }

    /// `x · W + b` of one row `x: [fan_in]`, `k` ascending and the bias last.
    pub(super) fn forward(&self, x: &[f64]) -> Vec<f64> {
        assert_eq!(x.len(), self.fan_in());
        let mut z = vec![0.0; self.columns()];
        for (x_k, w_k) in x.iter().zip(self.w.chunks_exact(self.columns())) {
            for (z_j, w_kj) in z.iter_mut().zip(w_k) {
                *z_j += x_k * w_kj;
            }
        }
        add(&mut z, &self.b);
        z
    }

    /// Given `dz` of [`Linear::forward`] at `x`: adds `dW = xᵀ · dz` and `db = dz` to `gradient`, returns
    /// `dx = dz · Wᵀ`.
    pub(super) fn backward(&self, x: &[f64], dz: &[f64], gradient: &mut Linear) -> Vec<f64> {
        assert_eq!(x.len(), self.fan_in());
        for (x_k, dw_k) in x.iter().zip(gradient.w.chunks_exact_mut(dz.len())) {
            for (dw_kj, dz_j) in dw_k.iter_mut().zip(dz) {
                *dw_kj += x_k * dz_j;
            }
        }
        add(&mut gradient.b, dz);
        self.w
            .chunks_exact(dz.len())
            .map(|w_k| w_k.iter().zip(dz).map(|(w_kj, dz_j)| w_kj * dz_j).sum())
            .collect()
    }

    /// [`Linear::forward`] of the one-hot row of `token`: row `token` of `W`, and `b`.
    pub(super) fn forward_token(&self, token: usize) -> Vec<f64> {
        let mut z = self.w[token * self.columns()..][..self.columns()].to_vec();
        add(&mut z, &self.b);
        z
    }

    /// [`Linear::backward`] at the one-hot row of `token`, which itself has no gradient.
    pub(super) fn backward_token(&self, token: usize, dz: &[f64], gradient: &mut Linear) {
        add(&mut gradient.w[token * dz.len()..][..dz.len()], dz);
        add(&mut gradient.b, dz);
    }

    /// Refuses another shape than `[fan_in, columns]` and values that are not finite.
    pub(super) fn check(&self, name: &str, fan_in: usize, columns: usize) -> Result<()> {
        for (part, values, length) in [("w", &self.w, fan_in * columns), ("b", &self.b, columns)] {
            check_length(&format!("{name}.{part}"), values, length)?;
            if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                return Err(Error::NotFinite {
                    tensor: format!("{name}.{part}"),
                    index,
                    value: values[index],
                });
            }
        }
        Ok(())
    }
}

/// Refuses another number of elements.
pub(super) fn check_length(name: &str, values: &[f64], length: usize) -> Result<()> {
    if values.len() == length {
        return Ok(());
    }
    Err(Error::argument(name, format!("{length} elements"), values.len()))
}

/// What the tree merges; also the gradient of one. The RNN's `c` has width 0.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub h: Vec<f64>,
    pub c: Vec<f64>,
}

/// The state that `z: [gates·H]` makes of the states with cells `c_n`. The arity is the number of them.
pub(super) fn activate(cell: Cell, z: &[f64], c_n: &[&[f64]]) -> State {
    match cell {
        Cell::Lstm => {
            let width = z.len() / (3 + c_n.len());
            let gate = |n: usize| &z[n * width..][..width];
            let (i, g, o) = (gate(0), gate(1), gate(2));
            let mut state = State { h: vec![0.0; width], c: vec![0.0; width] };
            for u in 0..width {
                let mut c = sigmoid(i[u]) * g[u].tanh();
                for (n, c_n) in c_n.iter().enumerate() {
                    c += sigmoid(gate(3 + n)[u]) * c_n[u];
                }
                state.c[u] = c;
                state.h[u] = sigmoid(o[u]) * c.tanh();
            }
            state
        }
        Cell::Rnn if c_n.is_empty() => State { h: z.to_vec(), c: vec![] },
        Cell::Rnn => State { h: relu(z), c: vec![] },
    }
}

/// Given the gradient `d` of the state that [`activate`] made with cell `c`: `dz`, and `dc_n` for each `c_n`.
pub(super) fn activate_backward(
    cell: Cell,
    z: &[f64],
    c_n: &[&[f64]],
    c: &[f64],
    d: &State,
) -> (Vec<f64>, Vec<Vec<f64>>) {
    match cell {
        Cell::Lstm => {
            let width = c.len();
            let gate = |n: usize| n * width..(n + 1) * width;
            let (i, g, o) = (&z[gate(0)], &z[gate(1)], &z[gate(2)]);
            let mut dz = vec![0.0; z.len()];
            let mut dc_n = vec![vec![0.0; width]; c_n.len()];
            for u in 0..width {
                let (t, tg) = (c[u].tanh(), g[u].tanh());
                // h = σ(o)·tanh(c), so c is reached from above and through h.
                let dc = d.c[u] + d.h[u] * sigmoid(o[u]) * (1.0 - t * t);
                dz[gate(0)][u] = dc * tg * sigmoid_slope(i[u]);
                dz[gate(1)][u] = dc * sigmoid(i[u]) * (1.0 - tg * tg);
                dz[gate(2)][u] = d.h[u] * t * sigmoid_slope(o[u]);
                for (n, c_n) in c_n.iter().enumerate() {
                    let f = z[gate(3 + n)][u];
                    dz[gate(3 + n)][u] = dc * c_n[u] * sigmoid_slope(f);
                    dc_n[n][u] = dc * sigmoid(f);
                }
            }
            (dz, dc_n)
        }
        Cell::Rnn if c_n.is_empty() => (d.h.clone(), vec![]),
        Cell::Rnn => (relu_backward(z, &d.h), vec![vec![]; c_n.len()]),
    }
}

/// `σ(x)`.
pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `σ'(x) = σ(x)·(1 - σ(x)) = σ(x)·σ(-x)`; the last form does not cancel where the gate saturates.
pub(super) fn sigmoid_slope(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x)
}

/// `max(x, 0)`; NaN stays NaN.
pub(super) fn relu(x: &[f64]) -> Vec<f64> {
    x.iter().map(|&x| if x <= 0.0 { 0.0 } else { x }).collect()
}

/// Given the gradient `d` of `relu(x)`: that of `x`. At 0 the slope is 0.
pub(super) fn relu_backward(x: &[f64], d: &[f64]) -> Vec<f64> {
    x.iter().zip(d).map(|(&x, &d)| if x <= 0.0 { 0.0 } else { d }).collect()
}
