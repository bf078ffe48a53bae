//! The CUDA backend: the crate's own kernels on the caller's stream, context and memory.
//!
//! The road of the data: `pack` (weights) → `plan` (a schedule's lists on the device, `regions` of memory) → `forward`,
//! `backward`, `update` (launches); `walk` says whether the steps of a pass are one launch. Kernels are loaded when a handle
//! is made, those of training when the first weights with a way back are, so that a pass only launches.

mod arguments;
mod backend;
mod backward;
mod capture;
mod driver;
mod forward;
mod frame;
mod image;
mod kept;
mod kernels;
mod launch;
mod pinned;
mod plan;
mod regions;
mod steps;
mod storage;
mod training;
mod update;
mod walk;
mod weights;

use std::sync::{Arc, Mutex, OnceLock};

use cudarc::driver::sys::CUstreamCaptureStatus;
use cudarc::driver::{CudaFunction, CudaStream, DeviceSlice, DriverError};

use driver::{device_name, failed, in_capture, tracked};
use kernels::{ByTile, Kernels, Product, Tile};
use launch::{Arguments, Shape};
use storage::Storage;
use training::{ADAM_BYTES, Training, TrainingKernels};
use walk::Walk;

pub use capture::{Graph, GraphInput, Memory, capture};
pub use driver::{Device, count};
pub use plan::CudaPlan;
pub use weights::CudaWeights;

use super::{Backend, Pass};
use crate::error::{Error, Result};
use crate::model::{Config, Recurrence};

/// The first chip whose kernels wait for the launch before them, and the first driver that records such launches: CUDA 12.3.
const EARLY_CHIP: u32 = 90;
const EARLY_DRIVER: u32 = 12030;

/// How f32 is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum F32Path {
    /// On tensor cores, an f32 as three bf16: faster where tensor cores are far faster than the rest.
    Split,
    /// By fused multiply-add: faster on sm_86, sm_87, sm_89 and sm_120.
    Ffma,
}

/// An NVIDIA GPU, on one stream of one context. `Clone` is cheap and gives the same stream and kernels.
///
/// Everything is enqueued on that stream. Memory of another stream is taken only where cudarc's events keep it in order:
/// both in one `CudaContext` whose event tracking is on.
#[derive(Clone, Debug)]
pub struct Cuda {
    shared: Arc<Shared>,
    tile: Option<Tile>,
    /// Whether the steps of a pass are one launch; unset, as its sizes say.
    whole_tree: Option<bool>,
    /// Whether weights that stay may be multiplied by `wgmma`.
    wgmma: bool,
    /// Where launches go while a capture is recorded: a stream of its own, so that no other thread's work gets into it.
    recording: Option<Arc<CudaStream>>,
    /// Whether training steps are recorded.
    graphs: bool,
}

#[derive(Debug)]
struct Shared {
    stream: Arc<CudaStream>,
    device: Device,
    storage: Storage,
    /// Whether a launch may begin before the one before it has ended; the kernels wait for it by themselves.
    early: bool,
    kernels: Kernels,
    /// Once weights with a way back were asked for.
    training: OnceLock<Training>,
}

impl Cuda {
    /// Device `ordinal` with a stream of its own in the device's primary context, in f32. cudarc's tracking of events is
    /// off there: memory has to be of `stream()` itself.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without a driver or a device, with a driver that is too old, a chip below sm_80, or one
    /// that this build has no kernels for; [`Error::Argument`] if there are not so many devices; [`Error::Device`].
    pub fn new(ordinal: usize) -> Result<Self> {
        let context = driver::open(ordinal)?;
        // Before the stream, since a chip that is too old is the better reason.
        let device = driver::describe(&context)?;
        let stream = context.new_stream();
        let stream = stream.map_err(|error| failed(&device_name(ordinal), "make a stream", error))?;
        Self::load(stream, device, None)
    }

    /// The caller's stream, with its context and memory, in f32. To be captured, the stream must be one that was made
    /// (not the default one), in a context whose event tracking is off.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::Unavailable`] if the stream is being captured.
    pub fn on(stream: &Arc<CudaStream>) -> Result<Self> {
        let device = driver::describe(stream.context())?;
        Self::load(Arc::clone(stream), device, None)
    }

    /// The same device with f32 computed this way, whatever the chip: for tests and measurements.
    ///
    /// # Errors
    /// As [`with_dtype`](Backend::with_dtype).
    pub fn with_f32_path(self, path: F32Path) -> Result<Self> {
        let storage = match path {
            F32Path::Split => Storage::Split,
            F32Path::Ffma => Storage::Ffma,
        };
        self.with_storage(storage)
    }

    /// The same device with every layer in launches, in tiles of so many rows, 32, 64, 128 or 256, whatever the size of a step: for
    /// tests and measurements. The results have the same bits. A block of 256 rows keeps its weights in shared memory, in
    /// merges and unary layers of 128, 192, 256 and so on units; where they do not fit, and elsewhere, there are 128 rows.
    ///
    /// # Errors
    /// [`Error::Argument`] for another number; [`Error::Unavailable`] if the type or the chip's shared memory does not
    /// allow it.
    pub fn with_tile(self, rows: usize) -> Result<Self> {
        let Some(tile) = Tile::ALL.into_iter().find(|tile| tile.rows() == rows) else {
            return Err(Error::argument("rows", "32, 64, 128 or 256", rows));
        };
        if !self.kernels().has(tile) {
            return Err(Error::Unavailable {
                what: format!("a tile of {rows} rows for {}", self.storage().path()),
                why: format!("it has no kernels of it on sm_{}: use 64", self.device().chip),
            });
        }
        Ok(Cuda { tile: Some(tile), whole_tree: Some(false), ..self })
    }

    /// The same device with all steps of a pass in one launch, in which a block of threads walks the whole tree of its
    /// sequences, or, `false`, with launches of every step; whatever the sizes, which otherwise decide: for tests and
    /// measurements. The results have the same bits.
    ///
    /// The first wants one unary layer, and all weights in the shared memory of a block: the plan of a pass says
    /// [`Error::Unavailable`] where they do not fit. Streams keep their launches, and so does the way back where `z` is computed
    /// anew.
    #[must_use]
    pub fn with_whole_tree(self, whole_tree: bool) -> Self {
        Cuda { whole_tree: Some(whole_tree), ..self }
    }

    /// The same device without `wgmma`, the products of matrices that sm_90 alone has: for tests and measurements. The results have
    /// the same bits on the virtual GPU; no card has compared them yet.
    #[must_use]
    pub fn without_wgmma(self) -> Self {
        Cuda { wgmma: false, ..self }
    }

    /// The same device with every launch of a training step a call of its own, as tapes have it: for tests and measurements,
    /// and for a context whose event tracking is on. The results have the same bits.
    #[must_use]
    pub fn without_graphs(self) -> Self {
        Cuda { graphs: false, ..self }
    }

    /// The stream that everything is enqueued on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.shared.stream
    }

    /// What the driver says of the device.
    pub fn device(&self) -> &Device {
        &self.shared.device
    }

    /// What the kernels were made from: `cubin sm_90` or `PTX 8.0`, compiled by the driver.
    pub fn image(&self) -> &str {
        &self.kernels().from
    }

    /// The path that a pass takes, as [`Backend::path`] of any plan.
    pub fn path_name(&self) -> &'static str {
        self.storage().path()
    }

    fn load(stream: Arc<CudaStream>, device: Device, storage: Option<Storage>) -> Result<Self> {
        outside_capture(&stream, "load kernels")?;
        let storage = storage.unwrap_or_else(|| f32_storage(device.chip));
        let kernels = Kernels::load(stream.context(), &device, storage)?;
        let early = device.chip >= EARLY_CHIP && device.driver >= EARLY_DRIVER;
        let shared = Shared { stream, device, storage, early, kernels, training: OnceLock::new() };
        Ok(Cuda {
            shared: Arc::new(shared),
            tile: None,
            whole_tree: None,
            wgmma: true,
            recording: None,
            graphs: true,
        })
    }

    /// The same device with its launches on another stream of the context, to be captured there.
    fn recording(&self, stream: &Arc<CudaStream>) -> Self {
        Cuda { recording: Some(Arc::clone(stream)), ..self.clone() }
    }

    /// Refuses passes that this device or its dtype has not.
    fn can_run(&self, pass: Pass) -> Result<()> {
        match pass {
            Pass::Infer | Pass::Stream => Ok(()),
            Pass::Train | Pass::TrainRecompute => self.training().map(drop),
        }
    }

    /// Refuses models that have no kernels here.
    fn has_kernels(&self, config: &Config) -> Result<()> {
        match config.recurrence {
            Recurrence::Tree => Ok(()),
            Recurrence::Sequential => Err(Error::Unavailable {
                what: format!("a sequential model on {}", self.name()),
                why: "the baselines run on the CPU only: use cpu, or a PR-LSTM or PR-RNN".into(),
            }),
        }
    }

    /// What only training needs; loaded the first time.
    fn training(&self) -> Result<&Training> {
        let Shared { device, storage, training, .. } = &*self.shared;
        if let Some(training) = training.get() {
            return Ok(training);
        }
        let Some(image) = storage.train_image() else {
            return Err(Error::Unavailable {
                what: format!("training in f16 on {}", self.name()),
                why: "its gradients would want their loss scaled: train in bf16 or f32, the checkpoint runs in f16"
                    .into(),
            });
        };
        self.outside_capture("load kernels")?;
        let kernels = TrainingKernels::load(self.stream().context(), device, *storage, image)?;
        let adam = Mutex::new(self.alloc(ADAM_BYTES)?);
        Ok(training.get_or_init(|| Training { kernels, adam }))
    }

    fn with_storage(self, storage: Storage) -> Result<Self> {
        if storage == self.storage() {
            return Ok(self);
        }
        let Shared { stream, device, .. } = &*self.shared;
        let Cuda { tile, whole_tree, wgmma, graphs, .. } = self;
        let loaded = Self::load(Arc::clone(stream), device.clone(), Some(storage))?;
        let loaded = match tile {
            Some(tile) => loaded.with_tile(tile.rows())?,
            None => loaded,
        };
        Ok(Cuda { whole_tree, wgmma, graphs, ..loaded })
    }

    fn storage(&self) -> Storage {
        self.shared.storage
    }

    fn kernels(&self) -> &Kernels {
        &self.shared.kernels
    }

    fn failed(&self, action: &str, error: DriverError) -> Error {
        failed(&self.name(), action, error)
    }

    /// Where work goes: the stream, or the one on which it is recorded.
    fn target(&self) -> &Arc<CudaStream> {
        self.recording.as_ref().unwrap_or(self.stream())
    }

    /// Refuses to `action`, which allocates, waits or copies, while the stream is being captured or this handle records.
    fn outside_capture(&self, action: &str) -> Result<()> {
        if self.recording.is_some() {
            return Err(in_capture(&self.name(), action));
        }
        outside_capture(self.stream(), action)
    }

    /// Refuses a launch that cudarc's events would spoil the capture of.
    fn recordable(&self) -> Result<()> {
        let context = self.stream().context();
        if self.recording.is_none()
            && context.is_managing_stream_synchronization()
            && is_captured(self.stream())?
        {
            return Err(tracked());
        }
        // Once for all launches that follow.
        context.bind_to_thread().map_err(|error| self.failed("use the context", error))
    }

    /// Refuses memory of another context, and of another stream where no events keep the two in order.
    fn own<T>(&self, argument: &str, memory: &impl DeviceSlice<T>) -> Result<()> {
        let (own, other) = (self.stream().context(), memory.stream().context());
        if own != other {
            let found = format!("memory of another context, on {}", device_name(other.ordinal()));
            let expected = format!("memory of the context that {} was made on", self.name());
            return Err(Error::argument(argument, expected, found));
        }
        let ordered = Arc::ptr_eq(own, other) && own.is_managing_stream_synchronization();
        if ordered || memory.stream().cu_stream() == self.stream().cu_stream() {
            return Ok(());
        }
        let expected =
            format!("memory of the stream that {} is on, or events that order the two", self.name());
        Err(Error::argument(
            argument,
            expected,
            "memory of another stream, and cudarc's event tracking is off",
        ))
    }

    fn launch<A: Arguments>(
        &self,
        action: &str,
        kernel: &CudaFunction,
        arguments: &A,
        blocks: [usize; 3],
        threads: u32,
        shared: u32,
    ) -> Result<()> {
        // Large blocks that begin early lie where they found room, not where the multiprocessors have least to do; but for those
        // that have one to themselves.
        let alone = shared as usize > self.kernels().most_shared / 2;
        let early = shared == 0 || threads <= Tile::Rows32.threads() || alone && threads >= walk::THREADS;
        let [x, y, z] = blocks;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        if x >= 1 << 31 || y >= 1 << 16 || z >= 1 << 16 {
            let expected = format!("fewer than 2^31 by 2^16 by 2^16 blocks to {action}: use a smaller batch");
            return Err(Error::argument("pass", expected, format!("{x} by {y} by {z}")));
        }
        let early = self.shared.early && early;
        let shape = Shape { blocks: [x as u32, y as u32, z as u32], threads, shared };
        let launched = launch::launch(self.target(), kernel, arguments, shape, early);
        launched.map_err(|error| self.failed(action, error))
    }

    /// Launches a kernel that walks the whole tree, one block a multiprocessor. Like a tile it may read weights and lists early.
    fn walk<A: Arguments>(
        &self,
        action: &str,
        kernel: &CudaFunction,
        arguments: &A,
        walk: &Walk,
        shared: usize,
    ) -> Result<()> {
        self.launch(action, kernel, arguments, [walk.blocks, 1, 1], walk::THREADS, shared as u32)
    }

    /// Launches a kernel of so many threads in all.
    fn threads<A: Arguments>(
        &self,
        action: &str,
        kernel: &CudaFunction,
        arguments: &A,
        threads: usize,
        block: u32,
    ) -> Result<()> {
        self.launch(action, kernel, arguments, [threads.div_ceil(block as usize), 1, 1], block, 0)
    }

    /// Launches a kernel of one thread an element.
    fn elementwise<A: Arguments>(
        &self,
        action: &str,
        kernel: &CudaFunction,
        arguments: &A,
        elements: usize,
    ) -> Result<()> {
        self.threads(action, kernel, arguments, elements, 256)
    }

    /// How weights that stay are multiplied.
    fn product(&self) -> Product {
        if self.wgmma { self.kernels().product } else { Product::Mma }
    }

    fn tile(&self, packed_blocks: usize, rows: usize) -> Tile {
        let multiprocessors = self.device().multiprocessors;
        self.tile.unwrap_or_else(|| Tile::choose(rows, packed_blocks, multiprocessors))
    }

    /// Whether so many rows go to blocks whose weights stay, given the shared memory of such a block.
    fn keeps_weights(&self, packed_blocks: usize, rows: usize, shared: usize) -> bool {
        let stay = || Tile::weights_stay(rows, packed_blocks, self.device().multiprocessors, self.product());
        self.tile.map_or_else(stay, |tile| tile == Tile::Rows256) && shared <= self.kernels().most_shared
    }

    /// Launches a kernel whose weights stay, one block a multiprocessor, the rows shared among those of the same
    /// units. Like a tile it may read weights and lists early.
    fn stationary<A: Arguments>(
        &self,
        action: &str,
        kernel: &CudaFunction,
        arguments: &A,
        packed_blocks: usize,
        rows: usize,
        (threads, shared): (u32, usize),
    ) -> Result<()> {
        let multiprocessors = self.device().multiprocessors;
        let [across, sharing] = Tile::grid_of_stationary(rows, packed_blocks, multiprocessors);
        self.launch(action, kernel, arguments, [across, sharing, 1], threads, shared as u32)
    }

    /// Launches a kernel on so many rows, in tiles that suit them; so many packed blocks beside each other. It reads packed
    /// weights and lists before it waits for the launch before it, which must not write them: between packing and a tile there
    /// is a launch always, of leaves, of dense input or of gradients, and between packing and a way back with `z` computed anew
    /// the way forward.
    fn tiled<A: Arguments>(
        &self,
        action: &str,
        kernels: &ByTile,
        arguments: &A,
        packed_blocks: usize,
        rows: usize,
    ) -> Result<()> {
        let tile = self.tile(packed_blocks, rows);
        let Some((tile, kernel)) = kernels::of_tile(kernels, tile) else {
            return Err(Error::Unavailable {
                what: format!("to {action} on {}", self.name()),
                why: format!("sm_{} has too little shared memory", self.device().chip),
            });
        };
        let blocks = [packed_blocks.div_ceil(tile.across()), rows.div_ceil(tile.rows()), 1];
        self.launch(action, &kernel.function, arguments, blocks, tile.threads(), kernel.shared)
    }
}

/// How f32 is computed on a chip by default.
fn f32_storage(chip: u32) -> Storage {
    match chip {
        // Twice the f32 units of sm_80 beside smaller tensor cores.
        86..=89 | 120..=129 => Storage::Ffma,
        _ => Storage::Split,
    }
}

fn is_captured(stream: &CudaStream) -> Result<bool> {
    let status = stream.capture_status();
    let status = status
        .map_err(|error| failed(&device_name(stream.context().ordinal()), "ask for a capture", error))?;
    Ok(status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
}

fn outside_capture(stream: &CudaStream, action: &str) -> Result<()> {
    match is_captured(stream)? {
        true => Err(in_capture(&device_name(stream.context().ordinal()), action)),
        false => Ok(()),
    }
}

/// A device for tests: the virtual one, if no card was asked for.
#[cfg(test)]
fn test_device() -> Cuda {
    if !std::env::var("PR_LSTM_TEST_GPU").is_ok_and(|value| value == "real") {
        virtual_gpu::load().expect("the virtual GPU was built with the tests");
    }
    Cuda::new(0).expect("a device")
}
