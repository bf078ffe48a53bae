//! What only a training device has: the kernels of the way back, of the losses and of Adam, loaded when they are first
//! asked for, so that a program that only runs models does without. Launches nothing.

use std::sync::{Arc, Mutex};

use cudarc::driver::{CudaContext, CudaFunction, CudaSlice};

use super::driver::Device;
use super::kernels::{ByTile, Cells, Kind, Module, TiledKernel, index};
use super::storage::Storage;
use crate::error::{Error, Result};
use crate::model::Cell;

/// Blocks that sum the squares of a gradient, as the kernel has it.
pub(super) const NORM_BLOCKS: usize = 256;
/// Bytes of what Adam's launches tell each other: those sums in f64, then four f32, then a count that begins at 0.
pub(super) const ADAM_BYTES: usize = 8 * NORM_BLOCKS + 4 * 4 + 4;

/// The kernels, and Adam's few bytes of memory.
#[derive(Debug)]
pub(super) struct Training {
    pub kernels: TrainingKernels,
    /// Who enqueues an update has it alone meanwhile: all runs on one stream.
    pub adam: Mutex<CudaSlice<u8>>,
}

/// Every kernel that a pass with a way back has beside those of a pass forward.
#[derive(Debug)]
pub(super) struct TrainingKernels {
    /// Layers that keep `z`.
    pub cells: Cells,
    /// By cell and kind.
    gather: [[CudaFunction; 3]; 2],
    /// By cell and kind; the leaf has none.
    gates_before: [[ByTile; 2]; 2],
    /// All steps back in one launch, by cell.
    tree: [CudaFunction; 2],
    pub into_places: ByTile,
    pub into_input: ByTile,
    pub weight_gradient: TiledKernel,
    pub token_gradient: CudaFunction,
    pub reduce: CudaFunction,
    pub readout_backward: CudaFunction,
    pub readout_reduce: CudaFunction,
    pub cross_entropy: CudaFunction,
    pub cross_entropy_backward: CudaFunction,
    pub gradient_norm: CudaFunction,
    pub update: CudaFunction,
}

impl TrainingKernels {
    pub(super) fn load(
        context: &Arc<CudaContext>,
        device: &Device,
        storage: Storage,
        image: &str,
    ) -> Result<Self> {
        let module = Module::load(context, device, image)?;
        let readout = Module::load(context, device, "readout")?;
        let loss = Module::load(context, device, "loss")?;
        let adam = Module::load(context, device, "adam")?;
        let wgmma = Module::of_wgmma(context, device, image)?;
        let most = storage.widest();
        let transposed =
            |name: &str| module.by_tile(name, most, |tile| storage.transposed_shared_bytes(tile));
        let gather =
            |cell: Cell, kind: Kind| module.function(&format!("gather_{}_{}", kind.name(), cell.name()));
        let gathers = |cell| {
            let [leaf, merge, unary] = Kind::ALL;
            Ok([gather(cell, leaf)?, gather(cell, merge)?, gather(cell, unary)?])
        };
        let into = |cell: Cell| {
            let [merge, unary] = ["merge", "unary"].map(|kind| format!("into_{kind}_{}", cell.name()));
            Ok([transposed(&merge)?, transposed(&unary)?])
        };
        let shared = storage.gradient_shared_bytes();
        let weight_gradient = module.tiled("weight_gradient", shared)?.ok_or_else(|| Error::Unavailable {
            what: format!("training on {}", device.name),
            why: format!("sm_{} has too little shared memory: {shared} bytes are needed", device.chip),
        })?;
        Ok(TrainingKernels {
            cells: Cells::load(&module, wgmma.as_ref(), storage)?,
            gather: [gathers(Cell::Lstm)?, gathers(Cell::Rnn)?],
            gates_before: [into(Cell::Lstm)?, into(Cell::Rnn)?],
            tree: [module.alone("tree_backward_lstm")?, module.alone("tree_backward_rnn")?],
            into_places: transposed("into_places")?,
            into_input: transposed("into_input")?,
            weight_gradient,
            token_gradient: module.function("token_gradient")?,
            reduce: module.function("reduce")?,
            readout_backward: readout.function("readout_backward")?,
            readout_reduce: readout.function("readout_reduce")?,
            cross_entropy: loss.function("cross_entropy")?,
            cross_entropy_backward: loss.function("cross_entropy_backward")?,
            gradient_norm: adam.function("gradient_norm")?,
            update: adam.function("update")?,
        })
    }

    /// A layer's gates, after the gradients of its state were gathered.
    pub(super) fn gather(&self, cell: Cell, kind: Kind) -> &CudaFunction {
        &self.gather[index(cell)][kind as usize]
    }

    /// All steps back in one launch.
    pub(super) fn tree(&self, cell: Cell) -> &CudaFunction {
        &self.tree[index(cell)]
    }

    /// `dz` of the layer above into the gates of a merge or unary layer.
    pub(super) fn gates_before(&self, cell: Cell, kind: Kind) -> &ByTile {
        &self.gates_before[index(cell)][usize::from(kind == Kind::Unary)]
    }
}
