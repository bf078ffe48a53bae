//! The paper's loss and its optimiser, on plain buffers.

use crate::error::{Error, Result};

/// The mean over rows of `-log softmax(logits)[target]`, and its gradient by the logits.
/// `logits: [rows, classes]`, `targets: [rows]`.
///
/// # Errors
/// [`Error::Argument`] if there is no row, the lengths do not fit or a target is `classes` or more.
pub fn cross_entropy(logits: &[f64], classes: usize, targets: &[u32]) -> Result<(f64, Vec<f64>)> {
    if targets.is_empty() || classes == 0 || logits.len() != targets.len() * classes {
        let expected = format!("{} rows of {classes}, one row or more", targets.len());
        return Err(Error::argument("logits", expected, format_args!("{} elements", logits.len())));
    }
    if let Some(target) = targets.iter().find(|&&target| target as usize >= classes) {
        return Err(Error::argument("targets", format!("classes below {classes}"), target));
    }
    let rows = targets.len() as f64;
    let (mut loss, mut gradient) = (0.0, Vec::new());
    for (row, &target) in logits.chunks(classes).zip(targets) {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| (x - largest).exp()).sum();
        loss += (largest + sum.ln() - row[target as usize]) / rows;
        for (class, x) in row.iter().enumerate() {
            let hit = f64::from(class == target as usize);
            gradient.push(((x - largest).exp() / sum - hit) / rows);
        }
    }
    Ok((loss, gradient))
}

/// Adam after clipping by the global norm, on one flat buffer. With `g` the clipped gradient and `t` the step:
///
/// ```text
/// m ← β₁·m + (1-β₁)·g        v ← β₂·v + (1-β₂)·g²
/// w ← w - lr · m/(1-β₁ᵗ) / (√(v/(1-β₂ᵗ)) + ε)
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    /// `lr`.
    pub learning_rate: f64,
    /// `β₁`.
    pub beta1: f64,
    /// `β₂`.
    pub beta2: f64,
    /// `ε`, outside of the root.
    pub epsilon: f64,
    /// A gradient of a larger norm is scaled down to this one.
    pub clip: f64,
    /// Steps taken.
    pub step: u64,
    /// `m`, laid out like the parameters.
    pub first: Vec<f64>,
    /// `v`, laid out like the parameters.
    pub second: Vec<f64>,
}

impl Adam {
    /// As the paper uses it: lr 1e-3, β 0.9 and 0.999, ε 1e-8, clip 1.0; for `parameters` of them.
    pub fn paper(parameters: usize) -> Self {
        Adam {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            clip: 1.0,
            step: 0,
            first: vec![0.0; parameters],
            second: vec![0.0; parameters],
        }
    }

    /// One step. Returns the global norm of `gradient`, before clipping.
    ///
    /// # Errors
    /// [`Error::Argument`] if the lengths differ, [`Error::Diverged`] if the norm is not finite; nothing was written
    /// then.
    pub fn step(&mut self, parameters: &mut [f64], gradient: &[f64]) -> Result<f64> {
        for (name, length) in [("parameters", parameters.len()), ("gradient", gradient.len())] {
            if length != self.first.len() {
                return Err(Error::argument(name, format!("{} elements", self.first.len()), length));
            }
        }
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        if !norm.is_finite() {
            return Err(Error::Diverged { step: self.step + 1 });
        }
        self.step += 1;
        let scale = if norm > self.clip { self.clip / norm } else { 1.0 };
        let correction1 = 1.0 - self.beta1.powf(self.step as f64);
        let correction2 = 1.0 - self.beta2.powf(self.step as f64);
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((w, g), (m, v)) in parameters.iter_mut().zip(gradient).zip(moments) {
            let g = g * scale;
            *m = self.beta1 * *m + (1.0 - self.beta1) * g;
            *v = self.beta2 * *v + (1.0 - self.beta2) * g * g;
            *w -= self.learning_rate * (*m / correction1) / ((*v / correction2).sqrt() + self.epsilon);
        }
        Ok(norm)
    }
}
