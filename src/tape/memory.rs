//! What a tape holds on the device: allocated as more is recorded than ever before, kept from recording to
//! recording. Knows nothing of how values depend on each other.

use super::Tape;
use crate::backend::{Backend, Labelled};
use crate::error::{Error, Result};
use crate::tree::{Outputs, Rows};

/// A value and its gradient on the device; kept over [`Tape::clear`] and used again.
#[derive(Debug)]
pub(super) struct Storage<B: Backend> {
    pub(super) value: B::Buffer<f32>,
    pub(super) gradient: B::Buffer<f32>,
    pub(super) capacity: usize,
    pub(super) len: usize,
}

/// The memory of one recorded scan; kept and used again likewise.
#[derive(Debug)]
pub(super) struct PassMemory<B: Backend> {
    pub(super) plan: B::Plan,
    /// What it is planned for: lengths of the sequences, and which prefixes.
    pub(super) lengths: Vec<usize>,
    pub(super) wanted: Option<Outputs>,
    pub(super) workspace: B::Buffer<u8>,
    pub(super) workspace_bytes: usize,
    pub(super) tokens: B::Buffer<u32>,
    pub(super) dense: B::Buffer<f32>,
    pub(super) d_input: B::Buffer<f32>,
    /// Input rows, and whether they are dense.
    pub(super) input: (usize, bool),
    /// Rows of `hidden`.
    pub(super) outputs: usize,
    /// Bytes of `dense` and `d_input` together; 0 until dense input came.
    pub(super) dense_bytes: usize,
}

/// Targets and mask of a cross entropy on the device; kept and used again likewise.
#[derive(Debug)]
pub(super) struct Labels<B: Backend> {
    pub(super) targets: B::Buffer<u32>,
    pub(super) mask: B::Buffer<u8>,
    pub(super) capacity: usize,
    pub(super) len: usize,
}

impl<B: Backend> Tape<B> {
    /// Allocates now what recording one more scan of the largest batch with these outputs would, so that
    /// [`bytes`](Self::bytes) tells before anything runs.
    ///
    /// # Errors
    /// Those of [`scan`](Self::scan).
    pub fn reserve(&mut self, outputs: &Outputs) -> Result<()> {
        let pass = self.passes_used;
        self.make_pass(pass, outputs)?;
        self.lengths.clear();
        self.lengths.resize(self.max_batch, self.max_time);
        self.plan(pass, outputs)?;
        self.allocate(self.passes[pass].outputs * self.config.hidden).map(|_| ())
    }

    /// Bytes on the device that the tape holds.
    pub fn bytes(&self) -> usize {
        let mut bytes = self.gradients.layout.len() * 4;
        for storage in &self.storage {
            bytes += storage.capacity * 8;
        }
        for pass in &self.passes {
            bytes += pass.workspace_bytes + self.max_batch * self.max_time * 4;
            bytes += pass.dense_bytes;
        }
        bytes + self.labels.iter().map(|labels| labels.capacity * 5).sum::<usize>()
    }

    /// Takes the lengths of a batch's sequences, if they are within the tape's limits.
    pub(super) fn take_lengths(
        &mut self,
        lengths: impl ExactSizeIterator<Item = usize> + Clone,
    ) -> Result<()> {
        let (batch, max_batch, max_time) = (lengths.len(), self.max_batch, self.max_time);
        if batch == 0 || batch > max_batch {
            let expected = format!("1 to {max_batch} sequences (max_batch of `Tape::new`)");
            return Err(Error::argument("batch", expected, batch));
        }
        for (index, length) in lengths.clone().enumerate() {
            if length == 0 || length > max_time {
                let name = format!("sequence {index}");
                let expected = format!("1 to {max_time} steps (max_time of `Tape::new`)");
                return Err(Error::argument(name, expected, length));
            }
        }
        self.lengths.clear();
        self.lengths.extend(lengths);
        Ok(())
    }

    /// Makes the memory of pass `index`, if it is the next: for the largest batch, so that it does not grow with each
    /// longer one.
    fn make_pass(&mut self, index: usize, outputs: &Outputs) -> Result<()> {
        let (backend, planner, schedule) = (&self.backend, &mut self.planner, &mut self.schedule);
        if index == self.passes.len() {
            planner.padded(schedule, self.max_batch, self.max_time, outputs, Rows::Keep)?;
            let plan = backend.plan(&self.config, schedule, self.pass)?;
            let workspace_bytes = backend.workspace_bytes(&plan);
            self.passes.push(PassMemory {
                plan,
                lengths: Vec::new(),
                wanted: None,
                workspace: backend.alloc(workspace_bytes)?,
                workspace_bytes,
                tokens: backend.alloc(self.max_batch * self.max_time)?,
                dense: backend.alloc(0)?,
                d_input: backend.alloc(0)?,
                input: (0, false),
                outputs: 0,
                dense_bytes: 0,
            });
        }
        Ok(())
    }

    /// Makes the memory of pass `index` ready for the lengths that were taken: padded where they are equal.
    pub(super) fn plan(&mut self, index: usize, outputs: &Outputs) -> Result<()> {
        self.make_pass(index, outputs)?;
        let (backend, planner, schedule) = (&self.backend, &mut self.planner, &mut self.schedule);
        let (pass, lengths) = (&mut self.passes[index], &self.lengths);
        if pass.wanted.as_ref() == Some(outputs) && pass.lengths == *lengths {
            return Ok(());
        }
        if lengths.iter().all(|&length| length == lengths[0]) {
            planner.padded(schedule, lengths.len(), lengths[0], outputs, Rows::Keep)?;
        } else {
            planner.ragged(schedule, lengths, outputs, Rows::Keep)?;
        }
        pass.wanted = None;
        backend.replan(&mut pass.plan, schedule)?;
        let bytes = backend.workspace_bytes(&pass.plan);
        if bytes > pass.workspace_bytes {
            pass.workspace = backend.alloc(bytes)?;
            pass.workspace_bytes = bytes;
        }
        pass.outputs = schedule.outputs().len() * schedule.width();
        pass.lengths.clone_from(lengths);
        pass.wanted = Some(outputs.clone());
        Ok(())
    }

    /// Storage for the value that is recorded next.
    pub(super) fn allocate(&mut self, len: usize) -> Result<usize> {
        let index = self.nodes.len();
        if self.storage.get(index).is_none_or(|storage| storage.capacity < len) {
            let storage = Storage {
                value: self.backend.alloc(len)?,
                gradient: self.backend.alloc(len)?,
                capacity: len,
                len,
            };
            if index < self.storage.len() {
                self.storage[index] = storage;
            } else {
                self.storage.push(storage);
            }
        }
        self.storage[index].len = len;
        Ok(index)
    }
}

pub(super) fn download<B: Backend>(backend: &B, storage: &Storage<B>) -> Result<Vec<f32>> {
    let mut host = vec![0.0; storage.len];
    backend.download(backend.view(&storage.value, 0, storage.len), &mut host)?;
    Ok(host)
}

/// Logits with their labels, as a backend takes them.
pub(super) fn labelled<'a, B: Backend>(
    backend: &B,
    logits: B::View<'a, f32>,
    labels: &'a Labels<B>,
) -> Labelled<'a, B> {
    Labelled {
        logits,
        targets: backend.view(&labels.targets, 0, labels.len),
        mask: backend.view(&labels.mask, 0, labels.len),
    }
}
