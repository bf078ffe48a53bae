//! All that is `unsafe` in the CUDA backend: launches, raw addresses, and the few driver calls that cudarc has no safe
//! word for. Knows no model.
//!
//! A launch is safe if what it is told is true: every address in its arguments is that of memory which lives until the
//! launch has ended, and is as long as the kernel, told these sizes, reads or writes. The callers see to it: addresses
//! come from [`Span`]s of views and buffers that a call borrows, cut with their bounds checked, and slots from a
//! schedule that was checked when it was planned. Memory is freed in the order of its stream, after the launch.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaFunction, CudaGraph, CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr,
    DevicePtrMut, DriverError, PinnedHostSlice, SyncOnDrop, result, sys,
};

use super::arguments::{
    AdamArguments, AddArguments, CellArguments, CollectArguments, CopyArguments, GatherArguments,
    InputArguments, LossArguments, PackArguments, ReadoutArguments, ReadoutBackwardArguments,
    ReduceArguments, StatesArguments, TokenGradientArguments, TokensArguments, TransposedArguments,
    TreeArguments, TreeBackwardArguments, WeightGradientArguments,
};

/// A struct that a kernel takes by value.
pub(super) trait Arguments: Copy {}

impl Arguments for AdamArguments {}
impl Arguments for AddArguments {}
impl Arguments for CellArguments {}
impl Arguments for CollectArguments {}
impl Arguments for CopyArguments {}
impl Arguments for GatherArguments {}
impl Arguments for InputArguments {}
impl Arguments for LossArguments {}
impl Arguments for PackArguments {}
impl Arguments for ReadoutArguments {}
impl Arguments for ReadoutBackwardArguments {}
impl Arguments for ReduceArguments {}
impl Arguments for StatesArguments {}
impl Arguments for TokenGradientArguments {}
impl Arguments for TokensArguments {}
impl Arguments for TransposedArguments {}
impl Arguments for TreeArguments {}
impl Arguments for TreeBackwardArguments {}
impl Arguments for WeightGradientArguments {}

/// Blocks along x, y and z, threads of each, and bytes of shared memory of each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub blocks: [u32; 3],
    pub threads: u32,
    pub shared: u32,
}

/// Enqueues a kernel; `early`, it may begin before the launch before it has ended, for which it waits by itself. The stream's context is current on this thread.
pub(super) fn launch<A: Arguments>(
    stream: &CudaStream,
    function: &CudaFunction,
    arguments: &A,
    shape: Shape,
    early: bool,
) -> Result<(), DriverError> {
    let Shape { blocks: [x, y, z], threads, shared } = shape;
    let mut parameters = [std::ptr::from_ref(arguments).cast_mut().cast::<c_void>()];
    let (function, stream) = (function.cu_function(), stream.cu_stream());
    if !early {
        // SAFETY: the kernel takes this one struct, whose mirror the trait marks; the driver copies it before the call
        // returns. That its addresses are good is the callers' part, see above.
        return unsafe {
            result::launch_kernel(function, (x, y, z), (threads, 1, 1), shared, stream, &mut parameters)
        };
    }
    let mut attribute = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
    };
    let config = sys::CUlaunchConfig {
        gridDimX: x,
        gridDimY: y,
        gridDimZ: z,
        blockDimX: threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: shared,
        hStream: stream,
        attrs: &mut attribute,
        numAttrs: 1,
    };
    // SAFETY: as above; the driver reads the attribute before the call returns.
    unsafe { sys::cuLaunchKernelEx(&config, function, parameters.as_mut_ptr(), std::ptr::null_mut()) }
        .result()
}

/// Launches that were recorded, to be enqueued in one call. Whoever holds them keeps the memory that they use.
pub(super) struct Recorded(pub CudaGraph);

// SAFETY: the driver takes a graph from any thread, if from one at a time; a shared reference gives nothing away.
unsafe impl Send for Recorded {}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorded").finish_non_exhaustive()
    }
}

/// Enqueues a graph, on a stream of its context. The stream's context is current on this thread.
pub(super) fn replay(stream: &CudaStream, graph: &Recorded) -> Result<(), DriverError> {
    // SAFETY: the graph is there, and whoever holds it keeps the memory of its launches.
    unsafe { result::graph::launch(graph.0.cu_graph_exec(), stream.cu_stream()) }
}

/// Device memory as the kernels see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    address: u64,
    bytes: usize,
}

impl Span {
    /// Memory that a pass reads, and what records on the caller's events that it was read; to be dropped once the launch
    /// is enqueued.
    pub(super) fn of<'a, T>(memory: &'a impl DevicePtr<T>, stream: &'a CudaStream) -> (Self, SyncOnDrop<'a>) {
        let (address, guard) = memory.device_ptr(stream);
        (Span { address, bytes: memory.num_bytes() }, guard)
    }

    /// The same for memory that is written.
    pub(super) fn of_mut<'a, T>(
        memory: &'a mut impl DevicePtrMut<T>,
        stream: &'a CudaStream,
    ) -> (Self, SyncOnDrop<'a>) {
        let bytes = memory.num_bytes();
        let (address, guard) = memory.device_ptr_mut(stream);
        (Span { address, bytes }, guard)
    }

    pub(super) fn address(self) -> u64 {
        self.address
    }

    pub(super) fn bytes(self) -> usize {
        self.bytes
    }

    /// The address of `bytes` bytes from `start`.
    ///
    /// # Panics
    /// If the memory has not that many, which sizes that were checked before leave no way to.
    pub(super) fn at(self, start: usize, bytes: usize) -> u64 {
        assert!(start.checked_add(bytes).is_some_and(|end| end <= self.bytes), "{bytes} bytes from {start}");
        self.address + start as u64
    }
}

/// Whether the driver's library can be loaded; cudarc panics where it can't.
pub(super) fn library_present() -> bool {
    let names = ["libcuda.so", "libcuda.so.1", "nvcuda.dll"];
    // SAFETY: loading a library runs its start-up code; that of a CUDA driver asks nothing of the program.
    names.iter().any(|name| unsafe { libloading::Library::new(*name) }.is_ok())
}

/// The driver's version, 13000 for 13.0.
pub(super) fn driver_version() -> Result<u32, DriverError> {
    let mut version = 0;
    // SAFETY: the address is that of a number that lives through the call, which may be the first of all.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(version.unsigned_abs())
}

/// The device's context with cudarc's tracking of events off, so that its streams can be captured.
pub(super) fn untracked_context(ordinal: usize) -> Result<Arc<CudaContext>, DriverError> {
    let context = CudaContext::new(ordinal)?;
    // SAFETY: the backend enqueues everything that touches its memory on one stream. Who asks for that stream and makes
    // others beside it is told to order them, see `Cuda::new`.
    unsafe { context.disable_event_tracking() };
    Ok(context)
}

/// What lies before byte `at` of a view, and `floats` f32 from there; None if it is shorter.
///
/// # Panics
/// If the f32 would be misaligned.
#[allow(clippy::type_complexity)]
pub(super) fn cut<'a>(
    view: &'a mut CudaViewMut<'_, u8>,
    at: usize,
    floats: usize,
    stream: &CudaStream,
) -> Option<(CudaViewMut<'a, u8>, CudaViewMut<'a, f32>)> {
    let address = Span::of(view, stream).0.address();
    let (before, mut rest) = view.try_split_at_mut(at)?;
    assert!((address + at as u64).is_multiple_of(4), "misaligned f32");
    // SAFETY: every bit pattern is an f32, the address is aligned, and `transmute_mut` checks the length.
    let floats = unsafe { rest.transmute_mut::<f32>(floats) }?;
    // SAFETY: only the lifetime changes, from the borrow of `rest` to that of the view which `rest` reborrows; `rest` is
    // gone when this returns, and `before` ends where it began.
    let floats = unsafe { std::mem::transmute::<CudaViewMut<'_, f32>, CudaViewMut<'a, f32>>(floats) };
    Some((before, floats))
}

/// Writes one word that kernels may write too, in the order of the stream.
pub(super) fn write_word(stream: &CudaStream, to: u64, word: u32) -> Result<(), DriverError> {
    // SAFETY: as for a launch; `word` is copied before the call returns, being no pinned memory.
    unsafe { result::memcpy_htod_async(to, &[word], stream.cu_stream()) }
}

/// Pinned words of the host. Who drops them has waited for their copies.
#[derive(Debug)]
pub(super) struct PinnedWords {
    memory: PinnedHostSlice<u32>,
    start: *mut u32,
}

// SAFETY: the words are this struct's alone, and host memory may be used from any thread.
unsafe impl Send for PinnedWords {}

impl PinnedWords {
    /// So many zeros. The host writes them in order and does not read them, so they need not pass its caches.
    pub(super) fn new(context: &Arc<CudaContext>, len: usize) -> Result<Self, DriverError> {
        // SAFETY: all words are written below before anyone reads one.
        let mut memory = unsafe { context.alloc_pinned::<u32>(len.max(1)) }?;
        let start = memory.as_mut_ptr()?;
        // SAFETY: as many words were allocated.
        unsafe { start.write_bytes(0, memory.len()) };
        Ok(PinnedWords { memory, start })
    }

    /// The words. No copy of them may be under way.
    pub(super) fn as_mut_slice(&mut self) -> &mut [u32] {
        // SAFETY: the memory is there as long as `self`, is aligned and initialised, and nothing else has its address.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.memory.len()) }
    }
}

/// Enqueues a copy of the first `len` words, which must stay as they are until it has ended.
pub(super) fn copy_pinned(
    stream: &CudaStream,
    from: &PinnedWords,
    len: usize,
    to: &mut CudaSlice<u32>,
) -> Result<(), DriverError> {
    assert!(len <= from.memory.len() && len <= to.len(), "{len} words");
    stream.context().bind_to_thread()?;
    let (to, _to) = Span::of_mut(to, stream);
    // SAFETY: both have so many words, by the check above; the caller keeps the host's as they are.
    unsafe {
        let words = std::slice::from_raw_parts(from.start, len);
        result::memcpy_htod_async(to.address(), words, stream.cu_stream())
    }
}

/// The first `len` bytes of words.
pub(super) fn bytes<'a>(words: &CudaView<'a, u32>, len: usize) -> Option<CudaView<'a, u8>> {
    // SAFETY: every byte of a word is one, and `transmute` checks the length.
    unsafe { words.transmute::<u8>(len) }
}
