//! The weights of a model, packed: where each layer lies in one buffer, and the launches that fill it.

use cudarc::driver::{CudaSlice, CudaView};

use super::Cuda;
use super::arguments::{PackArguments, PackBiasArguments};
use super::launch::{self, Span};
use super::storage::{ALIGNMENT, Layer, Sizes};
use crate::backend::Backend as _;
use crate::backend::check::check_len;
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
    /// Bytes at which `W_out`, `[H, O]`, and `b_out`, `[O]`, begin: f32 in every storage.
    pub(super) readout: [usize; 2],
    pub(super) buffer: CudaSlice<u8>,
}

impl CudaWeights {
    pub(super) fn new(cuda: &Cuda, config: &Config) -> Result<Self> {
        let layout = config.layout()?;
        let sizes = Sizes::new(config, cuda.storage());
        let mut end = 0;
        let leaf = Layer::place(&sizes, &layout.leaf, 1, &mut end);
        let mut stages = vec![Layer::place(&sizes, &layout.merge, 2, &mut end)];
        stages.extend(layout.unary.iter().map(|unary| Layer::place(&sizes, unary, 1, &mut end)));
        let w = end;
        let b = (w + 4 * layout.readout.w.len()).next_multiple_of(ALIGNMENT);
        let buffer = cuda.alloc(b + 4 * layout.readout.b.len())?;
        Ok(CudaWeights { config: config.clone(), layout, sizes, leaf, stages, readout: [w, b], buffer })
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
        let kernels = cuda.kernels();
        let (from, _from) = Span::of(parameters, cuda.stream());
        let (to, _to) = Span::of_mut(buffer, cuda.stream());
        let flat = |range: &std::ops::Range<usize>| from.at(4 * range.start, 4 * range.len());
        for layer in std::iter::once(&*leaf).chain(&*stages) {
            let arguments = PackArguments {
                w: flat(&layer.from.w),
                packed: to.at(layer.weights, sizes.storage.row_bytes(layer.elements)),
                units: sizes.hidden as u32,
                gates: layer.gates as u32,
                segments: layer.segments as u32,
                segment: layer.segment as u32,
                padded: layer.padded as u32,
            };
            cuda.elementwise("pack weights", &kernels.pack, &arguments, layer.elements)?;
            let arguments = PackBiasArguments {
                b: flat(&layer.from.b),
                packed: to.at(layer.bias, 4 * layer.bias_elements),
                units: sizes.hidden as u32,
                gates: layer.gates as u32,
            };
            cuda.elementwise("pack a bias", &kernels.pack_bias, &arguments, layer.bias_elements)?;
        }
        for (range, start) in [&layout.readout.w, &layout.readout.b].into_iter().zip(*readout) {
            let bytes = 4 * range.len();
            let copied = launch::copy(cuda.stream(), flat(range), to.at(start, bytes), bytes);
            copied.map_err(|error| cuda.failed("copy the read-out", error))?;
        }
        Ok(())
    }
}
