//! A planned pass as a graph that can be replayed: it owns or borrows every buffer that it reads, so that none can go while
//! it is there.

use std::sync::Arc;

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut};

use super::driver::tracked;
use super::launch::{self, Recorded};
use super::{Cuda, is_captured};
use crate::backend::{Backend as _, Element, Input};
use crate::error::Result;
use crate::model::Model;
use crate::plan::Plan;

/// Device memory that a graph owns or borrows.
#[derive(Debug)]
pub enum Memory<'a, T> {
    /// Given to the graph.
    Owned(CudaSlice<T>),
    /// Lent for as long as the graph is there.
    Borrowed(CudaViewMut<'a, T>),
}

impl<T> Memory<'_, T> {
    fn view(&self) -> CudaView<'_, T> {
        match self {
            Memory::Owned(slice) => slice.as_view(),
            Memory::Borrowed(view) => view.as_view(),
        }
    }

    fn view_mut(&mut self) -> CudaViewMut<'_, T> {
        match self {
            Memory::Owned(slice) => slice.as_view_mut(),
            Memory::Borrowed(view) => view.slice_mut(..),
        }
    }
}

impl<T> From<CudaSlice<T>> for Memory<'_, T> {
    fn from(slice: CudaSlice<T>) -> Self {
        Memory::Owned(slice)
    }
}

impl<'a, T> From<CudaViewMut<'a, T>> for Memory<'a, T> {
    fn from(view: CudaViewMut<'a, T>) -> Self {
        Memory::Borrowed(view)
    }
}

impl<'a, T> From<&'a mut CudaSlice<T>> for Memory<'a, T> {
    fn from(slice: &'a mut CudaSlice<T>) -> Self {
        Memory::Borrowed(slice.as_view_mut())
    }
}

/// What a graph takes as input: tokens are u32, dense rows f32.
pub trait GraphInput: Element {
    /// The view as a pass's input.
    fn input(view: CudaView<'_, Self>) -> Input<'_, Cuda>;
}

impl GraphInput for u32 {
    fn input(view: CudaView<'_, u32>) -> Input<'_, Cuda> {
        Input::Tokens(view)
    }
}

impl GraphInput for f32 {
    fn input(view: CudaView<'_, f32>) -> Input<'_, Cuda> {
        Input::Dense(view)
    }
}

/// A planned pass, captured. Replaying it costs one call, whatever the number of its launches. All its memory is of the
/// model's stream, in whose order it is freed after the last replay; so it must not be dropped while that stream is
/// captured by someone else.
pub struct Graph<'a, T: GraphInput> {
    graph: Recorded,
    /// The model's stream: not the one that the graph was captured on.
    stream: Arc<CudaStream>,
    // What the graph's launches read and write.
    _model: Model<Cuda>,
    plan: Plan<Cuda>,
    input: Memory<'a, T>,
    _workspace: Memory<'a, u8>,
    y: Memory<'a, f32>,
}

impl<T: GraphInput> std::fmt::Debug for Graph<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// Captures [`Model::forward_into`], without running it; replays go to the model's stream. The graph owns or borrows
/// input, workspace and `y`, and keeps the model's weights and the plan. What other threads enqueue meanwhile is no part of
/// it: the capture has a stream of its own.
///
/// # Errors
/// [`Error::Unavailable`](crate::Error::Unavailable) if cudarc's event tracking is on in the stream's context, or the stream is being captured; as
/// [`Model::forward_into`]. No capture is left open.
pub fn capture<'a, T: GraphInput>(
    model: &Model<Cuda>,
    plan: &Plan<Cuda>,
    input: impl Into<Memory<'a, T>>,
    workspace: impl Into<Memory<'a, u8>>,
    y: impl Into<Memory<'a, f32>>,
) -> Result<Graph<'a, T>> {
    let cuda = model.backend();
    let stream = Arc::clone(cuda.stream());
    let (input, mut workspace, mut y) = (input.into(), workspace.into(), y.into());
    let graph = record(cuda, |recorder| {
        let input = T::input(input.view());
        model.on(recorder.clone()).forward_into(plan, input, workspace.view_mut(), y.view_mut())
    })?;
    Ok(Graph { graph, stream, _model: model.clone(), plan: plan.clone(), input, _workspace: workspace, y })
}

/// Records what `work` enqueues on the handle that it is given, without running it. Work that allocates, waits or copies to
/// or from the host is refused, but for copies from [`Pinned`](super::pinned::Pinned). No capture is left open.
///
/// # Errors
/// [`Error::Unavailable`](crate::Error::Unavailable) if cudarc's event tracking is on in the stream's context, or the stream
/// is being captured; those of `work`; the device's.
pub(super) fn record(cuda: &Cuda, work: impl FnOnce(&Cuda) -> Result<()>) -> Result<Recorded> {
    let stream = cuda.stream();
    if stream.context().is_event_tracking() {
        return Err(tracked());
    }
    if is_captured(stream)? {
        return Err(super::in_capture(&cuda.name(), "begin another"));
    }
    let recording = stream.context().new_stream().map_err(|error| cuda.failed("make a stream", error))?;
    recording
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .map_err(|error| cuda.failed("begin a capture", error))?;
    let recorded = work(&cuda.recording(&recording));
    let graph = recording.end_capture(CUgraphInstantiate_flags(0));
    recorded?;
    let graph = graph.map_err(|error| cuda.failed("end a capture", error))?;
    graph.map(Recorded).ok_or_else(|| super::in_capture(&cuda.name(), "capture it"))
}

impl<T: GraphInput> Graph<'_, T> {
    /// The input's memory, to write before a [`launch`](Self::launch) in the order of the stream.
    pub fn input_mut(&mut self) -> CudaViewMut<'_, T> {
        self.input.view_mut()
    }

    /// Enqueues the pass.
    ///
    /// # Errors
    /// The device's.
    pub fn launch(&mut self) -> Result<()> {
        let launched =
            self.stream.context().bind_to_thread().and_then(|()| launch::replay(&self.stream, &self.graph));
        launched.map_err(|error| super::failed(&self.device(), "launch a graph", error))
    }

    /// The logits of the last launch, `[plan.outputs(), O]`, in the order of the stream.
    pub fn y(&self) -> CudaView<'_, f32> {
        self.y.view()
    }

    /// The plan; its [`check`](Plan::check) tells of tokens that the model does not have.
    pub fn plan(&self) -> &Plan<Cuda> {
        &self.plan
    }

    fn device(&self) -> String {
        super::device_name(self.stream.context().ordinal())
    }
}
