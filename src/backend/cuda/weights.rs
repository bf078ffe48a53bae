//! The weights of a model, packed: where each layer lies in one buffer, and the launch that fills it.

use std::sync::{Mutex, PoisonError};

use cudarc::driver::{CudaSlice, CudaStream, CudaView};

use super::Cuda;
use super::arguments::{PackArguments, PackLayer};
use super::launch::Span;
use super::storage::{Layer, Sizes};
use crate::backend::check::check_len;
use crate::backend::{Backend as _, Pass};
use crate::error::{Error, Result};
use crate::model::{Config, Layout};

/// Packed weights, and the read-out as it is.
#[derive(Debug)]
pub struct CudaWeights {
    pub(super) config: Config,
    pub(super) layout: Layout,
    pub(super) sizes: Sizes,
    pub(super) leaf: Layer,
    /// The merge, then the unary layers.
    pub(super) stages: Vec<Layer>,
    /// Bytes at which `W_out`, `[H, O]`, and behind it `b_out`, `[O]`, begin: f32 in every storage.
    pub(super) readout: [usize; 2],
    pub(super) buffer: CudaSlice<u8>,
    /// Of weights with a way back.
    pub(super) readout_partial: Option<ReadoutPartial>,
}

/// Partial sums of the read-out's gradient. Who enqueues it has them alone meanwhile: all runs on one stream.
#[derive(Debug)]
pub(super) struct ReadoutPartial {
    /// Chunks that rows are cut into, at most.
    pub chunks: usize,
    /// `[chunks, (H + 1) * O]`.
    pub sums: Mutex<CudaSlice<f32>>,
}

/// Numbers of the read-out that a block copies.
const COPIED: usize = 1024;

/// Numbers of the read-out's partial sums, at most, where more than one chunk is cut.
const MOST_PARTIAL: usize = 1 << 22;

impl ReadoutPartial {
    fn new(cuda: &Cuda, config: &Config) -> Result<Self> {
        let numbers = (config.hidden + 1) * config.output;
        let chunks = (MOST_PARTIAL / numbers).clamp(1, 32);
        Ok(ReadoutPartial { chunks, sums: Mutex::new(cuda.alloc(chunks * numbers)?) })
    }
}

impl CudaWeights {
    pub(super) fn new(cuda: &Cuda, config: &Config, pass: Pass) -> Result<Self> {
        let layout = config.layout()?;
        let backward = pass.trains();
        let sizes = Sizes::new(config, cuda.storage());
        let mut end = 0;
        let leaf = Layer::place(&sizes, &layout.leaf, 1, backward, &mut end);
        let mut stages = vec![Layer::place(&sizes, &layout.merge, 2, backward, &mut end)];
        let unary = |unary| Layer::place(&sizes, unary, 1, backward, &mut end);
        stages.extend(layout.unary.iter().map(unary));
        let w = end;
        let b = w + 4 * layout.readout.w.len();
        let buffer = cuda.alloc(b + 4 * layout.readout.b.len())?;
        let readout_partial = backward.then(|| ReadoutPartial::new(cuda, config)).transpose()?;
        Ok(CudaWeights {
            config: config.clone(),
            layout,
            sizes,
            leaf,
            stages,
            readout: [w, b],
            buffer,
            readout_partial,
        })
    }

    /// Where what is packed lies, and the partial sums.
    pub(super) fn addresses(&self, stream: &CudaStream) -> Vec<u64> {
        let sums = self.readout_partial.as_ref().map(|partial| {
            let sums = partial.sums.lock().unwrap_or_else(PoisonError::into_inner);
            Span::of(&*sums, stream).0.address()
        });
        std::iter::once(Span::of(&self.buffer, stream).0.address()).chain(sums).collect()
    }

    /// Fills the buffer from the flat parameters.
    pub(super) fn pack(&mut self, cuda: &Cuda, parameters: &CudaView<'_, f32>) -> Result<()> {
        check_len("parameters", parameters.len(), self.layout.len())?;
        cuda.own("parameters", parameters)?;
        cuda.own("weights", &self.buffer)?;
        if self.sizes.storage != cuda.storage() {
            let (expected, found) = (cuda.storage().path(), self.sizes.storage.path());
            return Err(Error::argument("weights", format!("those of {expected}"), found));
        }
        cuda.recordable()?;
        let CudaWeights { layout, sizes, leaf, stages, readout, buffer, .. } = self;
        let (from, _from) = Span::of(parameters, cuda.stream());
        let (to, _to) = Span::of_mut(buffer, cuda.stream());
        let flat = |range: &std::ops::Range<usize>| from.at(4 * range.start, 4 * range.len());
        let row_bytes = |elements: usize| sizes.storage.row_bytes(elements);
        let mut layers = std::iter::once(&*leaf).chain(&*stages).peekable();
        // The read-out is one piece in both; it goes with the first launch.
        let mut copied = layout.readout.w.start..layout.readout.b.end;
        while layers.peek().is_some() {
            let mut blocks = 0;
            let packs = std::array::from_fn(|_| {
                let Some(layer) = layers.next() else {
                    return PackLayer { first: u32::MAX, ..Default::default() };
                };
                let first = blocks as u32;
                blocks += layer.stages;
                let transposed = layer.transposed.map_or(0, |transposed| {
                    blocks += transposed.stages;
                    to.at(transposed.weights, row_bytes(transposed.elements))
                });
                PackLayer {
                    w: flat(&layer.from.w),
                    b: flat(&layer.from.b),
                    packed: to.at(layer.weights, row_bytes(layer.elements)),
                    transposed,
                    bias: to.at(layer.bias, 4 * layer.bias_elements),
                    first,
                    gates: layer.gates as u32,
                    segments: layer.segments as u32,
                    segment: layer.segment as u32,
                    padded: layer.padded as u32,
                }
            });
            let arguments = PackArguments {
                layers: packs,
                readout: flat(&copied),
                packed_readout: to.at(readout[0], 4 * copied.len()),
                readout_len: copied.len() as u64,
                readout_first: blocks as u32,
                hidden_size: sizes.hidden as u32,
            };
            let blocks = [blocks + copied.len().div_ceil(COPIED), 1, 1];
            cuda.launch("pack weights", &cuda.kernels().pack, &arguments, blocks, 256, 0)?;
            copied.end = copied.start;
        }
        Ok(())
    }
}
