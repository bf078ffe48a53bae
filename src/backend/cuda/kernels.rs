//! The kernels of a storage on a device, loaded and given their shared memory, so that nothing is left to do when a pass
//! runs or is captured. Knows no memory.

use std::sync::Arc;

use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule};

use super::driver::{Device, device_name, failed};
use super::image;
use super::storage::Storage;
use crate::error::{Error, Result};
use crate::model::Cell;

/// From what work on, see [`Tile::work`], a launch runs in tiles of 64 rows, and of 128: where an H200 was faster so
/// (benches/results).
const NARROW: usize = 8;
const WIDE: usize = 24;

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
    pub(super) const ALL: [Kind; 3] = [Kind::Leaf, Kind::Merge, Kind::Unary];

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Leaf => "leaf",
            Kind::Merge => "merge",
            Kind::Unary => "unary",
        }
    }

    pub(super) fn states(self) -> usize {
        match self {
            Kind::Leaf => 0,
            Kind::Merge => 2,
            Kind::Unary => 1,
        }
    }
}

/// Rows of a block of threads, by two packed blocks of units, or of 32 rows by one. A block of 256 rows holds the weights of
/// its units, and takes tile after tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tile {
    Rows32,
    Rows64,
    Rows128,
    Rows256,
}

impl Tile {
    pub(super) const ALL: [Tile; 4] = [Tile::Rows32, Tile::Rows64, Tile::Rows128, Tile::Rows256];
    /// Those whose weights come with the rows.
    const PASSING: [Tile; 3] = [Tile::Rows32, Tile::Rows64, Tile::Rows128];

    pub(super) fn rows(self) -> usize {
        match self {
            Tile::Rows32 => 32,
            Tile::Rows64 => 64,
            Tile::Rows128 => 128,
            Tile::Rows256 => 256,
        }
    }

    /// Threads of a block.
    pub(super) fn threads(self) -> u32 {
        match self {
            Tile::Rows32 => 64,
            Tile::Rows64 | Tile::Rows128 => 128,
            Tile::Rows256 => Product::Mma.threads(),
        }
    }

    /// How many packed blocks of units a block of threads has beside each other.
    pub(super) fn across(self) -> usize {
        if self == Tile::Rows32 { 1 } else { 2 }
    }

    /// Twice the blocks of 32 rows that each multiprocessor would have.
    fn work(rows: usize, packed_blocks: usize, multiprocessors: u32) -> usize {
        2 * rows.div_ceil(Tile::Rows32.rows()) * packed_blocks / (multiprocessors as usize).max(1)
    }

    /// The tile whose weights come with the rows, for so many rows by packed blocks on a chip: small ones until all
    /// multiprocessors have work, large ones, which move fewer bytes, once they have enough of it.
    pub(super) fn choose(rows: usize, packed_blocks: usize, multiprocessors: u32) -> Self {
        match Self::work(rows, packed_blocks, multiprocessors) {
            0..NARROW => Tile::Rows32,
            NARROW..WIDE => Tile::Rows64,
            _ => Tile::Rows128,
        }
    }

    /// Whether blocks whose weights stay are done before them, where they fit.
    pub(super) fn weights_stay(
        rows: usize,
        packed_blocks: usize,
        multiprocessors: u32,
        product: Product,
    ) -> bool {
        Self::work(rows, packed_blocks, multiprocessors) >= product.least_work()
            && Self::rounds_pay(rows, packed_blocks, multiprocessors, product)
    }

    /// Blocks of 256 rows beside each other, and how many share the rows: one a multiprocessor, no more than have rows.
    pub(super) fn grid_of_stationary(rows: usize, packed_blocks: usize, multiprocessors: u32) -> [usize; 2] {
        let across = packed_blocks.div_ceil(Tile::Rows256.across());
        let sharing = (multiprocessors as usize / across).max(1);
        [across, sharing.min(rows.div_ceil(Tile::Rows256.rows()))]
    }

    /// Whether tiles of 256 rows are done before tiles of 128, two blocks a multiprocessor, whose last wave may be almost empty
    /// as the last round may.
    fn rounds_pay(rows: usize, packed_blocks: usize, multiprocessors: u32, product: Product) -> bool {
        let [across, sharing] = Self::grid_of_stationary(rows, packed_blocks, multiprocessors);
        let rounds = rows.div_ceil(Tile::Rows256.rows()).div_ceil(sharing.max(1));
        let waves =
            (across * rows.div_ceil(Tile::Rows128.rows())).div_ceil(2 * multiprocessors.max(1) as usize);
        let (round, wave) = product.round();
        round * rounds <= wave * waves
    }
}

/// A kernel in tiles of rows, with a ring of stages in shared memory.
#[derive(Clone, Debug)]
pub(super) struct TiledKernel {
    pub function: CudaFunction,
    /// Bytes of shared memory.
    pub shared: u32,
}

/// The same kernel by tile; None where the storage lacks the tile, or the chip the shared memory for it.
pub(super) type ByTile = [Option<TiledKernel>; 3];

/// The kernel of a tile, or the next smaller one of those of 128 and 64 rows that there is.
pub(super) fn of_tile(kernels: &ByTile, tile: Tile) -> Option<(Tile, &TiledKernel)> {
    let next = [Tile::Rows128, Tile::Rows64].into_iter().filter(|next| next.rows() <= tile.rows().max(64));
    std::iter::once(tile).chain(next).find_map(|tile| Some((tile, kernels.get(tile as usize)?.as_ref()?)))
}

/// How a kernel whose weights stay multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Product {
    /// Its warps by `mma.sync`.
    Mma,
    /// Four warps together by `wgmma`, which is asynchronous: sm_90 alone.
    Wgmma,
}

/// The chip that has [`Product::Wgmma`].
const WGMMA_CHIP: u32 = 90;

impl Product {
    /// Threads of a block.
    pub(super) fn threads(self) -> u32 {
        match self {
            Product::Mma => 256,
            Product::Wgmma => 512,
        }
    }

    /// From what work on weights stay, see [`Tile::weights_stay`]: modelled, not measured.
    fn least_work(self) -> usize {
        match self {
            Product::Mma => WIDE,
            Product::Wgmma => 17,
        }
    }

    /// A round of blocks of 256 rows takes as long as the first of these numbers of the second's parts of a wave of blocks of 128:
    /// modelled (benches/modelled.rs), not measured.
    fn round(self) -> (usize, usize) {
        match self {
            Product::Mma => (3, 4),
            Product::Wgmma => (2, 3),
        }
    }
}

/// The kernels of a layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub tiles: ByTile,
    /// Those of 256 rows, whose shared memory is known at the launch, by their product; None where the storage or the chip lacks
    /// it.
    stationary: [Option<CudaFunction>; 2],
}

impl Layer {
    /// That of 256 rows, by this product where there is one, else by `mma.sync`.
    pub(super) fn stationary(&self, product: Product) -> Option<(Product, &CudaFunction)> {
        let kernel = |product| Some((product, self.stationary[product as usize].as_ref()?));
        kernel(product).or_else(|| kernel(Product::Mma))
    }
}

/// A module of kernels, to take them from.
pub(super) struct Module {
    device: String,
    /// Most shared memory of a block.
    most_shared: usize,
    module: Arc<CudaModule>,
    /// What it was made from: `cubin sm_90` or `PTX 8.0`.
    pub from: String,
}

impl Module {
    pub(super) fn load(context: &Arc<CudaContext>, device: &Device, image: &str) -> Result<Self> {
        let name = device_name(device.ordinal);
        let most = context
            .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
            .map_err(|error| failed(&name, "ask for the shared memory", error))?;
        let image::Loaded { module, from } = image::load(context, device, image)?;
        Ok(Module { device: name, most_shared: most.unsigned_abs() as usize, module, from })
    }

    /// The image `wgmma_...` beside an image of layers, where there is one and the chip and its driver, of CUDA 12.0 or newer, take
    /// it: nothing needs it.
    pub(super) fn of_wgmma(context: &Arc<CudaContext>, device: &Device, image: &str) -> Result<Option<Self>> {
        let image = format!("wgmma_{image}");
        if device.chip != WGMMA_CHIP || !image::has(&image) {
            return Ok(None);
        }
        match Self::load(context, device, &image) {
            Err(Error::Unavailable { .. }) => Ok(None),
            module => module.map(Some),
        }
    }

    pub(super) fn function(&self, kernel: &str) -> Result<CudaFunction> {
        let found = self.module.load_function(kernel);
        found.map_err(|error| failed(&self.device, &format!("find the kernel `{kernel}`"), error))
    }

    /// A kernel with so many bytes of shared memory; None if the chip has too little.
    pub(super) fn tiled(&self, kernel: &str, shared: usize) -> Result<Option<TiledKernel>> {
        if shared > self.most_shared {
            return Ok(None);
        }
        let function = self.function(kernel)?;
        if shared > PLAIN_SHARED {
            self.give_shared(&function, kernel, shared)?;
        }
        Ok(Some(TiledKernel { function, shared: shared as u32 }))
    }

    /// A kernel whose shared memory is known at the launch, up to what a block of the chip may have.
    pub(super) fn alone(&self, kernel: &str) -> Result<CudaFunction> {
        let function = self.function(kernel)?;
        self.give_shared(&function, kernel, self.most_shared)?;
        Ok(function)
    }

    fn give_shared(&self, function: &CudaFunction, kernel: &str, shared: usize) -> Result<()> {
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(attribute, shared as i32).map_err(|error| {
            failed(&self.device, &format!("give `{kernel}` {shared} bytes of shared memory"), error)
        })
    }

    /// A kernel `name_32`, and the larger tiles that it is made in.
    pub(super) fn by_tile(&self, name: &str, most: Tile, shared: impl Fn(Tile) -> usize) -> Result<ByTile> {
        let mut kernels = [const { None }; 3];
        for tile in Tile::PASSING.into_iter().filter(|tile| tile.rows() <= most.rows()) {
            kernels[tile as usize] = self.tiled(&format!("{name}_{}", tile.rows()), shared(tile))?;
        }
        Ok(kernels)
    }
}

/// The kernels of the cells forward; those of a pass with a way back keep `z`.
#[derive(Debug)]
pub(super) struct Cells {
    /// By cell and kind.
    layers: [[Layer; 3]; 2],
    /// By cell.
    tokens: [CudaFunction; 2],
    /// By cell.
    tree: [CudaFunction; 2],
}

impl Cells {
    /// From an image and, of the same passes, that of [`Product::Wgmma`].
    pub(super) fn load(module: &Module, wgmma: Option<&Module>, storage: Storage) -> Result<Self> {
        let most = storage.widest();
        let layer = |cell: Cell, kind: Kind| {
            let name = format!("{}_{}", kind.name(), cell.name());
            let shared = |tile| storage.shared_bytes(cell.gates(kind.states()), tile);
            let stationary = most == Tile::Rows256 && kind != Kind::Leaf;
            let of = |module: Option<&Module>, product: &str| {
                let module = module.filter(|_| stationary);
                module.map(|module| module.alone(&format!("{name}_{product}"))).transpose()
            };
            Ok(Layer {
                tiles: module.by_tile(&name, most, shared)?,
                stationary: [of(Some(module), "256")?, of(wgmma, "wgmma")?],
            })
        };
        let layers = |cell| {
            let [leaf, merge, unary] = Kind::ALL;
            Ok([layer(cell, leaf)?, layer(cell, merge)?, layer(cell, unary)?])
        };
        Ok(Cells {
            layers: [layers(Cell::Lstm)?, layers(Cell::Rnn)?],
            tokens: [module.function("tokens_lstm")?, module.function("tokens_rnn")?],
            tree: [module.alone("tree_lstm")?, module.alone("tree_rnn")?],
        })
    }

    /// The kernels of a layer.
    pub(super) fn layer(&self, cell: Cell, kind: Kind) -> &Layer {
        &self.layers[index(cell)][kind as usize]
    }

    /// The leaf of tokens.
    pub(super) fn tokens(&self, cell: Cell) -> &CudaFunction {
        &self.tokens[index(cell)]
    }

    /// All steps in one launch.
    pub(super) fn tree(&self, cell: Cell) -> &CudaFunction {
        &self.tree[index(cell)]
    }
}

/// Every kernel of a storage but those of a pass with a way back.
#[derive(Debug)]
pub(super) struct Kernels {
    /// What the image was made from: `cubin sm_90` or `PTX 8.0`.
    pub from: String,
    /// Most shared memory of a block.
    pub most_shared: usize,
    /// The fastest product of weights that stay.
    pub product: Product,
    pub cells: Cells,
    pub input: CudaFunction,
    pub pack: CudaFunction,
    pub collect: CudaFunction,
    pub read_states: CudaFunction,
    pub write_states: CudaFunction,
    pub copy_states: CudaFunction,
    pub readout: CudaFunction,
    /// The same in tiles for many rows and outputs.
    pub readout_wide: CudaFunction,
    pub add: CudaFunction,
}

impl Kernels {
    pub(super) fn load(context: &Arc<CudaContext>, device: &Device, storage: Storage) -> Result<Self> {
        let module = Module::load(context, device, storage.image())?;
        let wgmma = Module::of_wgmma(context, device, storage.image())?;
        let readout = Module::load(context, device, "readout")?;
        Ok(Kernels {
            product: if wgmma.is_some() { Product::Wgmma } else { Product::Mma },
            cells: Cells::load(&module, wgmma.as_ref(), storage)?,
            input: module.function("input")?,
            pack: module.function("pack")?,
            collect: module.function("collect")?,
            read_states: module.function("read_states")?,
            write_states: module.function("write_states")?,
            copy_states: module.function("copy_states")?,
            readout: readout.function("readout")?,
            readout_wide: readout.function("readout_wide")?,
            add: readout.function("add")?,
            most_shared: module.most_shared,
            from: module.from,
        })
    }

    /// Whether every layer has a kernel of that tile, or, of 256 rows, those above the leaves.
    pub(super) fn has(&self, tile: Tile) -> bool {
        let mut layers = self.cells.layers.iter().flatten();
        match tile {
            Tile::Rows256 => layers.any(|layer| layer.stationary(Product::Mma).is_some()),
            _ => layers.all(|layer| layer.tiles[tile as usize].is_some()),
        }
    }
}

pub(super) fn index(cell: Cell) -> usize {
    match cell {
        Cell::Lstm => 0,
        Cell::Rnn => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_grow_with_the_rows() {
        // H = 256 on an H200.
        for (rows, tile) in
            [(512, Tile::Rows32), (1056, Tile::Rows64), (3000, Tile::Rows64), (3300, Tile::Rows128)]
        {
            assert_eq!(Tile::choose(rows, 16, 132), tile, "{rows} rows");
        }
    }

    #[test]
    fn weights_stay_where_rounds_pay() {
        // H = 256 on an H200: a round is 16 tiles of 256 rows, a wave 33 of 128. By mma.sync, then by wgmma.
        for (rows, stay) in [
            (512, [false, false]),
            (2112, [false, false]),
            (2300, [false, true]),
            (3000, [false, true]),
            (3300, [true, true]),
            (4096, [true, true]),
            (4097, [false, false]),
            (4224, [false, false]),
            (4225, [true, true]),
            (8200, [false, true]),
            (16384, [true, true]),
        ] {
            let found = [Product::Mma, Product::Wgmma].map(|by| Tile::weights_stay(rows, 16, 132, by));
            assert_eq!(found, stay, "{rows} rows");
        }
        assert_eq!(Tile::grid_of_stationary(16384, 16, 132), [8, 16]);
        assert_eq!(Tile::grid_of_stationary(300, 80, 132), [40, 2]);
        assert_eq!(Tile::grid_of_stationary(300, 80, 8), [40, 1]);
        assert_eq!(Tile::grid_of_stationary(0, 16, 132), [8, 0]);
    }
}
