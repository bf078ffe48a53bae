//! The weights of a model in f64, by layer.

use crate::error::{Error, Result};
use crate::model::{Config, LinearRange, Recurrence};

use super::Linear;

/// The weights of a model; also their gradients.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// Input row → state: `[D, 3H]` (RNN: `[D, H]`).
    pub leaf: Linear,
    /// Two neighbours → one: `[2H, 5H]` (RNN: `[2H, H]`).
    pub merge: Linear,
    /// The unary layers in order: `[H, 4H]` each (RNN: `[H, H]`).
    pub unary: Vec<Linear>,
    /// Read-out: `[H, O]`.
    pub readout: Linear,
}

impl Parameters {
    /// Zeros.
    ///
    /// # Errors
    /// As [`Config::layout`]; [`Error::Argument`] for a sequential model.
    pub fn zeros(config: &Config) -> Result<Self> {
        let layout = config.layout()?;
        if config.recurrence != Recurrence::Tree {
            let found = "a sequential one: its oracle is `SequentialLstm` or `SequentialRnn`";
            return Err(Error::argument("config", "that of a tree", found));
        }
        let zeros = |range: &LinearRange| Linear::zeros(range.fan_in, range.columns);
        Ok(Parameters {
            leaf: zeros(&layout.leaf),
            merge: zeros(&layout.merge),
            unary: layout.unary.iter().map(zeros).collect(),
            readout: zeros(&layout.readout),
        })
    }

    /// The weights that lie in a flat buffer as [`Config::layout`] says.
    ///
    /// # Errors
    /// [`Error::Argument`] if its length differs from the layout's; as [`Config::layout`].
    pub fn from_flat<T: Copy + Into<f64>>(config: &Config, flat: &[T]) -> Result<Self> {
        let layout = config.layout()?;
        if flat.len() != layout.len() {
            return Err(Error::argument("flat", format!("{} elements", layout.len()), flat.len()));
        }
        Self::from_named(config, |name| {
            let parameter = layout.get(name)?;
            Some(flat[parameter.range.clone()].iter().map(|&value| value.into()).collect())
        })
    }

    /// The weights that `tensor` gives for each name: `leaf.w`, `leaf.b`, `merge.w`, …, `unary.0.w`, …, `readout.b`.
    ///
    /// # Errors
    /// [`Error::Argument`] that names a tensor which is missing or has another length; as [`Config::layout`].
    pub fn from_named(config: &Config, tensor: impl Fn(&str) -> Option<Vec<f64>>) -> Result<Self> {
        let mut parameters = Self::zeros(config)?;
        for (name, into) in parameters.named_mut() {
            let elements = format!("{} elements", into.len());
            let values = tensor(&name).ok_or_else(|| Error::argument(&name, &elements, "nothing"))?;
            if values.len() != into.len() {
                return Err(Error::argument(name, elements, values.len()));
            }
            *into = values;
        }
        Ok(parameters)
    }

    /// All of them in one buffer, laid out as [`Config::layout`] says.
    pub fn to_flat(&self) -> Vec<f64> {
        self.named().into_iter().flat_map(|(_, values)| values).copied().collect()
    }

    /// All of them by name, in the order of the flat buffer.
    pub fn named(&self) -> Vec<(String, &[f64])> {
        let unary = self.unary.iter().enumerate().map(|(r, layer)| (format!("unary.{r}"), layer));
        [("leaf".to_owned(), &self.leaf), ("merge".to_owned(), &self.merge)]
            .into_iter()
            .chain(unary)
            .chain([("readout".to_owned(), &self.readout)])
            .flat_map(|(name, layer)| {
                [(format!("{name}.w"), &layer.w[..]), (format!("{name}.b"), &layer.b[..])]
            })
            .collect()
    }

    /// The same with each weight `W` replaced by `round(W)`; biases stay, as they are added in full precision. A
    /// path that keeps some layer exact puts that field back.
    pub fn round_weights(mut self, round: fn(f64) -> f64) -> Self {
        for (name, values) in self.named_mut() {
            if name.ends_with(".w") {
                values.iter_mut().for_each(|value| *value = round(*value));
            }
        }
        self
    }

    fn named_mut(&mut self) -> Vec<(String, &mut Vec<f64>)> {
        let unary = self.unary.iter_mut().enumerate().map(|(r, layer)| (format!("unary.{r}"), layer));
        [("leaf".to_owned(), &mut self.leaf), ("merge".to_owned(), &mut self.merge)]
            .into_iter()
            .chain(unary)
            .chain([("readout".to_owned(), &mut self.readout)])
            .flat_map(|(name, layer)| {
                [(format!("{name}.w"), &mut layer.w), (format!("{name}.b"), &mut layer.b)]
            })
            .collect()
    }

    /// Refuses shapes that are not those of `config`, and values that are not finite.
    pub(super) fn check(&self, config: &Config) -> Result<()> {
        let layout = config.layout()?;
        if self.unary.len() != layout.unary.len() {
            return Err(Error::argument("unary", format!("{} layers", layout.unary.len()), self.unary.len()));
        }
        self.leaf.check("leaf", layout.leaf.fan_in, layout.leaf.columns)?;
        self.merge.check("merge", layout.merge.fan_in, layout.merge.columns)?;
        for (r, (layer, range)) in self.unary.iter().zip(&layout.unary).enumerate() {
            layer.check(&format!("unary.{r}"), range.fan_in, range.columns)?;
        }
        self.readout.check("readout", layout.readout.fan_in, layout.readout.columns)
    }
}
