//! The paper's sequential baselines, haiku's `LSTM` and `VanillaRNN`, on one sequence from a state of zeros.

use crate::error::{Error, Result};

use super::cell::{check_length, relu, relu_backward, sigmoid, sigmoid_slope};
use super::{Linear, add};

/// The sequential LSTM:
///
/// ```text
/// i, g, f, o = split([x_t ; h_{t-1}] · W + b)     W: [D+H, 4H]
/// c_t = σ(f + 1) ⊙ c_{t-1} + σ(i) ⊙ tanh(g)
/// h_t = σ(o) ⊙ tanh(c_t)
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SequentialLstm {
    /// `[D+H, 4H]`, gates in order i g f o. (haiku: `lstm/linear`)
    pub layer: Linear,
}

/// What [`SequentialLstm::forward`] computed.
#[derive(Clone, Debug)]
pub struct LstmPass {
    /// `h_t`, `[T, H]`.
    pub hidden: Vec<f64>,
    steps: Vec<LstmStep>,
}

#[derive(Clone, Debug)]
struct LstmStep {
    x: Vec<f64>, // [D+H]
    z: Vec<f64>, // [4H]
    c: Vec<f64>, // [H]
}

/// The sequential RNN: `h_t = relu(x_t · W + b + h_{t-1} · W_1 + b_1)`.
#[derive(Clone, Debug, PartialEq)]
pub struct SequentialRnn {
    /// `W`, `b`: `[D, H]`. (haiku: `vanilla_rnn/linear`)
    pub input: Linear,
    /// `W_1`, `b_1`: `[H, H]`. (haiku: `vanilla_rnn/linear_1`)
    pub recurrent: Linear,
}

/// What [`SequentialRnn::forward`] computed.
#[derive(Clone, Debug)]
pub struct RnnPass {
    /// `h_t`, `[T, H]`.
    pub hidden: Vec<f64>,
    z: Vec<f64>,
    x: Vec<f64>,
}

/// The gradients of one scalar.
#[derive(Clone, Debug, PartialEq)]
pub struct SequentialGradients<M> {
    /// Of the weights, in the shape of the model.
    pub parameters: M,
    /// Of the input, `[T, D]`.
    pub input: Vec<f64>,
}

impl SequentialLstm {
    /// From its one layer.
    ///
    /// # Errors
    /// [`Error::Argument`] if its columns are not four gates of one width `H`, or it has not more rows than `H`;
    /// [`Error::NotFinite`] for a NaN or an infinity.
    pub fn new(layer: Linear) -> Result<Self> {
        let columns = layer.b.len();
        if columns == 0 || !columns.is_multiple_of(4) || layer.fan_in() <= columns / 4 {
            return Err(Error::argument("layer", "[D+H, 4H]", format_args!("{columns} columns")));
        }
        layer.check("layer", layer.fan_in(), columns)?;
        Ok(SequentialLstm { layer })
    }

    fn sizes(&self) -> (usize, usize) {
        let hidden = self.layer.columns() / 4;
        (self.layer.fan_in() - hidden, hidden)
    }

    /// All hidden states of one sequence `x: [T, D]`.
    ///
    /// # Errors
    /// [`Error::Argument`] if `x` is empty or not made of rows of `D`.
    pub fn forward(&self, x: &[f64]) -> Result<LstmPass> {
        let (input, width) = self.sizes();
        check_rows(x, input)?;
        let (mut h, mut c) = (vec![0.0; width], vec![0.0; width]);
        let mut pass = LstmPass { hidden: Vec::new(), steps: Vec::new() };
        for x in x.chunks(input) {
            let x = [x, &h].concat();
            let z = self.layer.forward(&x);
            let gate = |n: usize| &z[n * width..][..width];
            let (i, g, f, o) = (gate(0), gate(1), gate(2), gate(3));
            for u in 0..width {
                c[u] = sigmoid(f[u] + 1.0) * c[u] + sigmoid(i[u]) * g[u].tanh();
                h[u] = sigmoid(o[u]) * c[u].tanh();
            }
            pass.hidden.extend(&h);
            pass.steps.push(LstmStep { x, z, c: c.clone() });
        }
        Ok(pass)
    }

    /// Gradients of the scalar whose gradient by the hidden states is `d_hidden: [T, H]`.
    ///
    /// # Errors
    /// [`Error::Argument`] if `d_hidden` is not as long as the hidden states.
    pub fn backward(&self, pass: &LstmPass, d_hidden: &[f64]) -> Result<SequentialGradients<Self>> {
        check_length("d_hidden", d_hidden, pass.hidden.len())?;
        let (input, width) = self.sizes();
        let mut gradient = Linear::zeros(input + width, 4 * width);
        let (mut dh, mut dc) = (vec![0.0; width], vec![0.0; width]);
        let mut d_input = vec![0.0; pass.steps.len() * input];
        let first = vec![0.0; width];
        for (t, LstmStep { x, z, c }) in pass.steps.iter().enumerate().rev() {
            let before = if t == 0 { &first } else { &pass.steps[t - 1].c };
            add(&mut dh, &d_hidden[t * width..][..width]);
            let gate = |n: usize| n * width..(n + 1) * width;
            let (i, g, f, o) = (&z[gate(0)], &z[gate(1)], &z[gate(2)], &z[gate(3)]);
            let mut dz = vec![0.0; 4 * width];
            for u in 0..width {
                let (t, tg) = (c[u].tanh(), g[u].tanh());
                let d = dc[u] + dh[u] * sigmoid(o[u]) * (1.0 - t * t);
                dz[gate(0)][u] = d * tg * sigmoid_slope(i[u]);
                dz[gate(1)][u] = d * sigmoid(i[u]) * (1.0 - tg * tg);
                dz[gate(2)][u] = d * before[u] * sigmoid_slope(f[u] + 1.0);
                dz[gate(3)][u] = dh[u] * t * sigmoid_slope(o[u]);
                dc[u] = d * sigmoid(f[u] + 1.0);
            }
            let dx = self.layer.backward(x, &dz, &mut gradient);
            d_input[t * input..][..input].copy_from_slice(&dx[..input]);
            dh = dx[input..].to_vec();
        }
        Ok(SequentialGradients { parameters: SequentialLstm { layer: gradient }, input: d_input })
    }
}

impl SequentialRnn {
    /// From its two layers.
    ///
    /// # Errors
    /// [`Error::Argument`] if they are not `[D, H]` and `[H, H]`, [`Error::NotFinite`] for a NaN or an infinity.
    pub fn new(input: Linear, recurrent: Linear) -> Result<Self> {
        let width = input.b.len();
        if width == 0 || input.w.len() < width {
            return Err(Error::argument("input", "[D, H]", format_args!("{width} columns")));
        }
        input.check("input", input.fan_in(), width)?;
        recurrent.check("recurrent", width, width)?;
        Ok(SequentialRnn { input, recurrent })
    }

    /// All hidden states of one sequence `x: [T, D]`.
    ///
    /// # Errors
    /// [`Error::Argument`] if `x` is empty or not made of rows of `D`.
    pub fn forward(&self, x: &[f64]) -> Result<RnnPass> {
        check_rows(x, self.input.fan_in())?;
        let mut pass = RnnPass { hidden: Vec::new(), z: Vec::new(), x: x.to_vec() };
        let mut h = vec![0.0; self.input.columns()];
        for x in x.chunks(self.input.fan_in()) {
            let mut z = self.input.forward(x);
            add(&mut z, &self.recurrent.forward(&h));
            h = relu(&z);
            pass.hidden.extend(&h);
            pass.z.extend(z);
        }
        Ok(pass)
    }

    /// Gradients of the scalar whose gradient by the hidden states is `d_hidden: [T, H]`.
    ///
    /// # Errors
    /// [`Error::Argument`] if `d_hidden` is not as long as the hidden states.
    pub fn backward(&self, pass: &RnnPass, d_hidden: &[f64]) -> Result<SequentialGradients<Self>> {
        check_length("d_hidden", d_hidden, pass.hidden.len())?;
        let (input, width) = (self.input.fan_in(), self.input.columns());
        let mut gradient =
            SequentialRnn { input: Linear::zeros(input, width), recurrent: Linear::zeros(width, width) };
        let mut dh = vec![0.0; width];
        let mut d_input = vec![0.0; pass.x.len()];
        let first = vec![0.0; width];
        for (t, (x, z)) in pass.x.chunks(input).zip(pass.z.chunks(width)).enumerate().rev() {
            let before = if t == 0 { &first[..] } else { &pass.hidden[(t - 1) * width..][..width] };
            add(&mut dh, &d_hidden[t * width..][..width]);
            let dz = relu_backward(z, &dh);
            let dx = self.input.backward(x, &dz, &mut gradient.input);
            d_input[t * input..][..input].copy_from_slice(&dx);
            dh = self.recurrent.backward(before, &dz, &mut gradient.recurrent);
        }
        Ok(SequentialGradients { parameters: gradient, input: d_input })
    }
}

fn check_rows(x: &[f64], input: usize) -> Result<()> {
    if x.is_empty() || !x.len().is_multiple_of(input) {
        return Err(Error::argument("x", format!("one row or more of {input} values"), x.len()));
    }
    Ok(())
}
