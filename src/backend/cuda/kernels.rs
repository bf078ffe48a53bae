//! The kernels of a storage on a device, loaded and given their shared memory, so that nothing is left to do when a pass
//! runs or is captured. Knows no memory.

use std::sync::Arc;

use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule};

use super::driver::{Device, device_name, failed};
use super::image;
use super::storage::Storage;
use crate::error::Result;
use crate::model::Cell;

/// What a launch may ask of shared memory without an attribute.
const PLAIN_SHARED: usize = 48 * 1024;

/// What a layer's kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Dense input to states.
    Leaf,
    /// Two states to one.
    Merge,
    /// A state to one.
    Unary,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Leaf, Kind::Merge, Kind::Unary];

    fn name(self) -> &'static str {
        match self {
            Kind::Leaf => "leaf",
            Kind::Merge => "merge",
            Kind::Unary => "unary",
        }
    }

    fn states(self) -> usize {
        match self {
            Kind::Leaf => 0,
            Kind::Merge => 2,
            Kind::Unary => 1,
        }
    }
}

/// Rows of a block of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tile {
    Rows64,
    Rows128,
}

impl Tile {
    pub(super) const ALL: [Tile; 2] = [Tile::Rows64, Tile::Rows128];

    pub(super) fn rows(self) -> usize {
        match self {
            Tile::Rows64 => 64,
            Tile::Rows128 => 128,
        }
    }
}

/// The kernel of a layer in one tile.
#[derive(Clone, Debug)]
pub(super) struct LayerKernel {
    pub function: CudaFunction,
    /// Bytes of shared memory.
    pub shared: u32,
}

/// Every kernel of a storage.
#[derive(Debug)]
pub(super) struct Kernels {
    /// What the image was made from: `cubin sm_90` or `PTX 8.0`.
    pub from: String,
    /// By cell, kind and tile; None where the storage lacks the tile, or the chip the shared memory for it.
    layers: [[[Option<LayerKernel>; 2]; 3]; 2],
    /// By cell.
    tokens: [CudaFunction; 2],
    pub input: CudaFunction,
    pub pack: CudaFunction,
    pub pack_bias: CudaFunction,
    pub collect: CudaFunction,
    pub read_states: CudaFunction,
    pub write_states: CudaFunction,
    pub copy_states: CudaFunction,
    pub readout: CudaFunction,
    pub add: CudaFunction,
}

impl Kernels {
    pub(super) fn load(context: &Arc<CudaContext>, device: &Device, storage: Storage) -> Result<Self> {
        let name = device_name(device.ordinal);
        let most = context
            .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
            .map_err(|error| failed(&name, "ask for the shared memory", error))?;
        let image::Loaded { module, from } = image::load(context, device, storage.image())?;
        let readout = image::load(context, device, "readout")?.module;
        let function = |module: &Arc<CudaModule>, kernel: &str| {
            let found = module.load_function(kernel);
            found.map_err(|error| failed(&name, &format!("find the kernel `{kernel}`"), error))
        };
        let layer = |cell: Cell, kind: Kind, tile: Tile| -> Result<Option<LayerKernel>> {
            let shared = storage.shared_bytes(cell.gates(kind.states()), tile.rows());
            let made = storage != Storage::Ffma || tile == Tile::Rows64;
            if !made || shared > most.unsigned_abs() as usize {
                return Ok(None);
            }
            let kernel = format!("{}_{}_{}", kind.name(), cell.name(), tile.rows());
            let function = function(&module, &kernel)?;
            if shared > PLAIN_SHARED {
                let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                function.set_attribute(attribute, shared as i32).map_err(|error| {
                    failed(&name, &format!("give `{kernel}` {shared} bytes of shared memory"), error)
                })?;
            }
            Ok(Some(LayerKernel { function, shared: shared as u32 }))
        };
        let mut layers = [const { [const { [const { None }; 2] }; 3] }; 2];
        for cell in [Cell::Lstm, Cell::Rnn] {
            for kind in Kind::ALL {
                for tile in Tile::ALL {
                    layers[index(cell)][kind as usize][tile as usize] = layer(cell, kind, tile)?;
                }
            }
        }
        Ok(Kernels {
            from,
            layers,
            tokens: [function(&module, "tokens_lstm")?, function(&module, "tokens_rnn")?],
            input: function(&module, "input")?,
            pack: function(&module, "pack")?,
            pack_bias: function(&module, "pack_bias")?,
            collect: function(&module, "collect")?,
            read_states: function(&module, "read_states")?,
            write_states: function(&module, "write_states")?,
            copy_states: function(&module, "copy_states")?,
            readout: function(&readout, "readout")?,
            add: function(&readout, "add")?,
        })
    }

    /// The kernel of a layer, if there is one of that tile here.
    pub(super) fn layer(&self, cell: Cell, kind: Kind, tile: Tile) -> Option<&LayerKernel> {
        self.layers[index(cell)][kind as usize][tile as usize].as_ref()
    }

    /// Whether every layer has a kernel of that tile.
    pub(super) fn has(&self, tile: Tile) -> bool {
        self.layers.iter().flatten().all(|tiles| tiles[tile as usize].is_some())
    }

    /// The leaf of tokens.
    pub(super) fn tokens(&self, cell: Cell) -> &CudaFunction {
        &self.tokens[index(cell)]
    }
}

fn index(cell: Cell) -> usize {
    match cell {
        Cell::Lstm => 0,
        Cell::Rnn => 1,
    }
}
