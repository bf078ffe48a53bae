//! The walk back: from a value's gradient to those of the parameters and of dense input, the last recorded first.

use super::memory::{Storage, download, labelled};
use super::{Gradients, Node, Tape, Value};
use crate::backend::{Backend, Input};
use crate::error::{Error, Result};

impl<B: Backend> Tape<B> {
    /// Walks the tape back from a loss of one element. A recording can be walked back once.
    ///
    /// # Errors
    /// [`Error::Argument`] if the loss is not one element or the recording was walked back already; the device's.
    pub fn backward(&mut self, loss: Value) -> Result<&Gradients<B>> {
        let index = self.index(loss)?;
        if self.storage[index].len != 1 {
            let found = format!("{} elements", self.storage[index].len);
            return Err(Error::argument("loss", "one element; `backward_from` takes a gradient", found));
        }
        self.backward_from(loss, &[1.0])
    }

    /// Walks the tape back from a value, whose gradient is given.
    ///
    /// # Errors
    /// As [`backward`](Self::backward); [`Error::Argument`] if the lengths differ.
    pub fn backward_from(&mut self, value: Value, gradient: &[f32]) -> Result<&Gradients<B>> {
        let last = self.index(value)?;
        if gradient.len() != self.storage[last].len {
            let expected = format!("{} elements, as the value has", self.storage[last].len);
            return Err(Error::argument("gradient", expected, gradient.len()));
        }
        if self.nodes.iter().any(|node| matches!(node, Node::Spent)) {
            return Err(Error::argument(
                "value",
                "one of a recording not yet walked back: `clear`, and record anew",
                "one that was",
            ));
        }
        let backend = &self.backend;
        for storage in &mut self.storage[..self.nodes.len()] {
            let len = storage.len;
            backend.zero(backend.view_mut(&mut storage.gradient, 0, len))?;
        }
        backend.zero(backend.view_mut(&mut self.gradients.flat, 0, self.gradients.layout.len()))?;
        backend.upload(gradient, backend.view_mut(&mut self.storage[last].gradient, 0, gradient.len()))?;
        // Spent before anything is walked: a panic in a function of the user's leaves no half of a recording.
        let mut walked = std::mem::take(&mut self.walked);
        walked.append(&mut self.nodes);
        self.nodes.extend(walked.iter().map(|_| Node::Spent));
        let mut result = Ok(());
        while let Some(node) = walked.pop() {
            if walked.len() <= last && result.is_ok() {
                result = self.backward_node(walked.len(), node);
            }
        }
        self.walked = walked;
        result.map(|()| &self.gradients)
    }

    fn backward_node(&mut self, index: usize, node: Node<B>) -> Result<()> {
        let backend = &self.backend;
        let (before, after) = self.storage.split_at_mut(index);
        let Storage { gradient, len, .. } = &after[0];
        let (layout_len, flat) = (self.gradients.layout.len(), &mut self.gradients.flat);
        match node {
            Node::Scan { pass, weights } => {
                let memory = &mut self.passes[pass];
                let (rows, dense) = memory.input;
                let elements = rows * self.config.input;
                let input = if dense {
                    Input::Dense(backend.view(&memory.dense, 0, elements))
                } else {
                    Input::Tokens(backend.view(&memory.tokens, 0, rows))
                };
                let workspace =
                    backend.view_mut(&mut memory.workspace, 0, backend.workspace_bytes(&memory.plan));
                let d_input = dense.then(|| backend.view_mut(&mut memory.d_input, 0, elements));
                let d_hidden = backend.view(gradient, 0, *len);
                let flat = backend.view_mut(flat, 0, layout_len);
                backend.scan_backward(&weights, &memory.plan, input, workspace, d_hidden, flat, d_input)
            }
            Node::Readout { hidden, weights } => {
                let Storage { value, gradient: d_hidden, len: hidden_len, .. } = &mut before[hidden];
                backend.readout_backward(
                    &weights,
                    backend.view(value, 0, *hidden_len),
                    backend.view(gradient, 0, *len),
                    backend.view_mut(d_hidden, 0, *hidden_len),
                    backend.view_mut(flat, 0, layout_len),
                )
            }
            Node::CrossEntropy { logits, labels } => {
                let d_loss = backend.view(gradient, 0, 1);
                let Storage { value, gradient: d_logits, len, .. } = &mut before[logits];
                let labelled = labelled(backend, backend.view(value, 0, *len), &self.labels[labels]);
                backend.cross_entropy_backward(labelled, d_loss, backend.view_mut(d_logits, 0, *len))
            }
            Node::Custom { inputs, backward } => {
                let mut d_result = vec![0.0; *len];
                backend.download(backend.view(gradient, 0, *len), &mut d_result)?;
                let mut values = Vec::with_capacity(inputs.len());
                for &input in &inputs {
                    values.push(download(backend, &before[input])?);
                }
                let values: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
                let gradients = backward(&values, &d_result);
                for (n, (input, from)) in inputs.into_iter().zip(gradients).enumerate() {
                    let to = &mut before[input];
                    if from.len() != to.len {
                        let name = format!("gradient {n} of the custom function");
                        return Err(Error::argument(name, format!("{} elements", to.len), from.len()));
                    }
                    let mut staged = backend.alloc(from.len())?;
                    backend.upload(&from, backend.view_mut(&mut staged, 0, from.len()))?;
                    let staged = backend.view(&staged, 0, from.len());
                    backend.add(staged, backend.view_mut(&mut to.gradient, 0, to.len))?;
                }
                Ok(())
            }
            Node::Add { inputs } => {
                for input in inputs {
                    let to = backend.view_mut(&mut before[input].gradient, 0, *len);
                    backend.add(backend.view(gradient, 0, *len), to)?;
                }
                Ok(())
            }
            Node::Spent => Ok(()),
        }
    }
}
