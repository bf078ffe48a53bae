//! What a device must be able to do: one trait, its unit the pass. A backend knows nothing of the tape.
//!
//! Shapes are checked once, in the typed layer above ([`Model`](crate::Model), [`Tape`](crate::Tape),
//! [`Streams`](crate::Streams)), with the words of what a user wrote; an implementation checks again only what keeps
//! its memory safe, whoever calls. Nothing comes back to the host but by
//! [`Backend::download`], and only [`Backend::upload`], [`Backend::download`] and [`Backend::wait`] may wait.

use std::fmt::Debug;

use crate::error::Result;
use crate::model::Config;
use crate::optim::Adam;
use crate::tree::Schedule;

mod check;
pub mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod dtype;
pub(crate) mod steps;

pub use dtype::Dtype;

pub(crate) mod sealed {
    /// Backends live in this crate: the trait may grow.
    pub use super::steps::Sealed;

    /// What CUDA's own crate asks of a scalar.
    #[cfg(feature = "cuda")]
    pub trait Scalar: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits {}
    #[cfg(feature = "cuda")]
    impl<T: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits> Scalar for T {}

    /// Nothing is asked without it.
    #[cfg(not(feature = "cuda"))]
    pub trait Scalar {}
    #[cfg(not(feature = "cuda"))]
    impl<T> Scalar for T {}
}

/// A scalar that device memory can hold.
pub trait Element: bytemuck::Pod + sealed::Scalar + Send + Sync + Debug + Default {}

impl Element for f32 {}
impl Element for u8 {}
impl Element for u32 {}
impl Element for u64 {}

/// What a pass keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pass {
    /// Forward only: rows are reused, nothing is kept.
    Infer,
    /// Forward and backward: every state and every `z` is kept in the workspace.
    Train,
    /// The same with less memory and more work: the states are kept, and the pass backward computes `z` anew, a chunk of
    /// rows at a time. A pass of no more rows than a chunk saves nothing. The gradient has the same bits.
    TrainRecompute,
    /// Forward over states that outlive the pass: streams.
    Stream,
}

impl Pass {
    /// Whether a pass backward follows.
    pub(crate) fn trains(self) -> bool {
        matches!(self, Pass::Train | Pass::TrainRecompute)
    }
}

/// The input of a pass in device memory, in the order of the schedule's input rows.
pub enum Input<'a, B: Backend> {
    /// One token an input row; each picks a row of `W_leaf`. Every one must be below `D`: the CPU refuses the pass
    /// else; a device that may not wait computes NaN from that token and remembers it for [`Backend::check`].
    Tokens(B::View<'a, u32>),
    /// `[rows, D]`, row-major.
    Dense(B::View<'a, f32>),
}

/// Logits and what they should have been, in device memory.
pub struct Labelled<'a, B: Backend> {
    /// `[n, O]`.
    pub logits: B::View<'a, f32>,
    /// `[n]`, each below `O`.
    pub targets: B::View<'a, u32>,
    /// `[n]`: 1 where the position counts for accuracy, else 0. The loss counts every position.
    pub mask: B::View<'a, u8>,
}

/// Parameters and the optimiser's memory, all laid out as [`Layout`](crate::model::Layout) says.
pub struct AdamBuffers<'a, B: Backend> {
    /// The parameters, updated in place.
    pub parameters: B::ViewMut<'a, f32>,
    /// The gradient before clipping.
    pub gradient: B::View<'a, f32>,
    /// `[1]`: the step size. On the device, so that work which was recorded once follows it.
    pub rate: B::View<'a, f32>,
    /// First moments.
    pub m: B::ViewMut<'a, f32>,
    /// Second moments.
    pub v: B::ViewMut<'a, f32>,
    /// `[steps taken, first step whose gradient norm was not finite or 0]`; once the second is set, nothing is
    /// written any more.
    pub state: B::ViewMut<'a, u64>,
    /// `[1]`: the global norm of the gradient before clipping.
    pub norm: B::ViewMut<'a, f32>,
}

/// A device. `Clone` is cheap and gives the same device.
pub trait Backend: sealed::Sealed + Clone + Debug + Send + Sync + 'static {
    /// Owned device memory.
    type Buffer<T: Element>: Send + Sync + Debug;
    /// A shared view of device memory; not assumed to be `Copy`.
    type View<'a, T: Element>: Send;
    /// An exclusive view of device memory.
    type ViewMut<'a, T: Element>: Send;
    /// The weights as the device's kernels want them, derived from the flat parameters.
    type Weights: Send + Sync + Debug;
    /// A schedule as the device wants it: index lists, order, memory.
    type Plan: Send + Sync + Debug;

    /// The largest magnitude that weights and dense input may have, so that rounding them to the dtype leaves them finite.
    fn largest(&self) -> f32 {
        f32::MAX
    }

    /// Refuses memory that the device cannot write in the order of its work, as that of another device.
    fn own_memory<T: Element>(&self, _argument: &str, _memory: &Self::ViewMut<'_, T>) -> Result<()> {
        Ok(())
    }

    /// The device as a user names it: `cpu`, `cuda:0`.
    fn name(&self) -> String;
    /// The type in which this handle keeps weights and `h`.
    fn dtype(&self) -> Dtype;
    /// The same device with another type; [`Error::Unavailable`](crate::Error::Unavailable) if it lacks that.
    fn with_dtype(self, dtype: Dtype) -> Result<Self>;
    /// Whether passes backward and the optimiser run here; without, [`Pass::Train`] is refused.
    fn can_train(&self) -> bool;

    /// Whether the device may allocate, wait and copy now; a capture forbids it.
    fn ready(&self) -> Result<()> {
        Ok(())
    }

    /// `len` zeroed elements.
    fn alloc<T: Element>(&self, len: usize) -> Result<Self::Buffer<T>>;
    /// A view of `len` elements from `start`.
    ///
    /// # Panics
    /// If the buffer has not that many.
    fn view<'a, T: Element>(
        &self,
        buffer: &'a Self::Buffer<T>,
        start: usize,
        len: usize,
    ) -> Self::View<'a, T>;
    /// An exclusive view of `len` elements from `start`.
    ///
    /// # Panics
    /// If the buffer has not that many.
    fn view_mut<'a, T: Element>(
        &self,
        buffer: &'a mut Self::Buffer<T>,
        start: usize,
        len: usize,
    ) -> Self::ViewMut<'a, T>;
    /// Cuts a workspace: what lies before byte `at`, and `floats` f32 from there.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if it is too short, or not aligned as the device wants it.
    #[allow(clippy::type_complexity)]
    fn cut<'a>(
        &self,
        workspace: &'a mut Self::ViewMut<'_, u8>,
        at: usize,
        floats: usize,
    ) -> Result<(Self::ViewMut<'a, u8>, Self::ViewMut<'a, f32>)>;
    /// Elements of a view.
    fn len<T: Element>(&self, view: &Self::ViewMut<'_, T>) -> usize;
    /// The same memory, only to read.
    fn freeze<'a, T: Element>(&self, view: &'a Self::ViewMut<'_, T>) -> Self::View<'a, T>;
    /// Copies from the host; `host` may be reused once this returns.
    ///
    /// # Panics
    /// If the lengths differ.
    fn upload<T: Element>(&self, host: &[T], device: Self::ViewMut<'_, T>) -> Result<()>;
    /// Waits for the device and copies to the host.
    ///
    /// # Panics
    /// If the lengths differ.
    fn download<T: Element>(&self, device: Self::View<'_, T>, host: &mut [T]) -> Result<()>;
    /// Sets every byte to 0.
    fn zero<T: Element>(&self, device: Self::ViewMut<'_, T>) -> Result<()>;
    /// `to += from`, elementwise.
    fn add(&self, from: Self::View<'_, f32>, to: Self::ViewMut<'_, f32>) -> Result<()>;
    /// Waits until all that was enqueued is done.
    fn wait(&self) -> Result<()>;

    /// Memory for the packed weights of a model; those of [`Pass::Infer`] cannot run a pass backward, those of
    /// [`Pass::Train`] serve both that have one.
    fn weights(&self, config: &Config, pass: Pass) -> Result<Self::Weights>;
    /// Bytes of packed weights.
    fn weights_bytes(&self, weights: &Self::Weights) -> usize;
    /// Derives the packed weights from the flat parameters.
    fn pack(&self, parameters: Self::View<'_, f32>, weights: &mut Self::Weights) -> Result<()>;

    /// Turns a schedule into a plan. One to train wants [`Rows::Keep`](crate::tree::Rows::Keep). A sequential model keeps
    /// every `z` in any case: there [`Pass::TrainRecompute`] is [`Error::Unavailable`](crate::Error::Unavailable).
    fn plan(&self, config: &Config, schedule: &Schedule, pass: Pass) -> Result<Self::Plan>;
    /// Refills a plan with another schedule. No memory is allocated if the plan has ever been as large.
    fn replan(&self, plan: &mut Self::Plan, schedule: &Schedule) -> Result<()>;
    /// Bytes of workspace that a pass over this plan wants; monotone in every size of the schedule.
    fn workspace_bytes(&self, plan: &Self::Plan) -> usize;
    /// The path that the pass takes, as `avx512` or `cuda wide`.
    fn path(&self, plan: &Self::Plan) -> &'static str;

    /// Waits, and says whether a pass over this plan met a token that the model does not have, where a device finds that
    /// out by itself; asking clears it. The CPU refuses such a pass at once.
    ///
    /// # Errors
    /// [`Error::DeviceToken`](crate::Error::DeviceToken) with the first such token in the order of the input rows.
    fn check(&self, plan: &Self::Plan) -> Result<()>;

    /// The pass forward. Writes `h` of every output to `hidden`, `[output rows, H]`; keeps in `workspace` what
    /// the pass backward needs.
    fn scan(
        &self,
        weights: &Self::Weights,
        plan: &Self::Plan,
        input: Input<'_, Self>,
        workspace: Self::ViewMut<'_, u8>,
        hidden: Self::ViewMut<'_, f32>,
    ) -> Result<()>;
    /// The pass backward, over the workspace that `scan` left; it may be run once for each `scan`. Adds to
    /// `gradient`, laid out as the parameters, in a fixed order; adds to `d_input`, `[input rows, D]`.
    #[allow(clippy::too_many_arguments)]
    fn scan_backward(
        &self,
        weights: &Self::Weights,
        plan: &Self::Plan,
        input: Input<'_, Self>,
        workspace: Self::ViewMut<'_, u8>,
        d_hidden: Self::View<'_, f32>,
        gradient: Self::ViewMut<'_, f32>,
        d_input: Option<Self::ViewMut<'_, f32>>,
    ) -> Result<()>;

    /// `y = relu(hidden) · W_out + b_out`: `[n, H]` to `[n, O]`.
    fn readout(
        &self,
        weights: &Self::Weights,
        hidden: Self::View<'_, f32>,
        y: Self::ViewMut<'_, f32>,
    ) -> Result<()>;
    /// Adds to `d_hidden`, `[n, H]`, and to the read-out's part of `gradient`.
    fn readout_backward(
        &self,
        weights: &Self::Weights,
        hidden: Self::View<'_, f32>,
        d_y: Self::View<'_, f32>,
        d_hidden: Self::ViewMut<'_, f32>,
        gradient: Self::ViewMut<'_, f32>,
    ) -> Result<()>;
    /// Cross entropy, mean over the `n` rows. Writes `metrics`: `[loss, right among the counted, counted]`.
    fn cross_entropy(&self, labelled: Labelled<'_, Self>, metrics: Self::ViewMut<'_, f32>) -> Result<()>;
    /// Adds the gradient of the cross entropy, times `d_loss` `[1]`, to `d_logits`, `[n, O]`.
    fn cross_entropy_backward(
        &self,
        labelled: Labelled<'_, Self>,
        d_loss: Self::View<'_, f32>,
        d_logits: Self::ViewMut<'_, f32>,
    ) -> Result<()>;
    /// Global norm, clipping and Adam's update in one. The step size is that of the buffers, not of `config`.
    fn adam(&self, config: &Adam, buffers: AdamBuffers<'_, Self>) -> Result<()>;

    /// Bytes of an arena of states that outlives a pass.
    fn arena_bytes(&self, config: &Config, slots: usize) -> usize;
    /// A pass whose slots are the arena's, of width 1: streams.
    fn append(
        &self,
        weights: &Self::Weights,
        plan: &Self::Plan,
        input: Input<'_, Self>,
        arena: Self::ViewMut<'_, u8>,
        workspace: Self::ViewMut<'_, u8>,
        hidden: Self::ViewMut<'_, f32>,
    ) -> Result<()>;
    /// Copies states within an arena, `(from, to)` each; no `to` is another's `from`.
    fn copy_states(&self, config: &Config, arena: Self::ViewMut<'_, u8>, pairs: &[(u32, u32)]) -> Result<()>;
    /// Reads states of an arena as f32: `h` then `c` of each slot, `[slots, 2, H]`.
    fn read_states(
        &self,
        config: &Config,
        arena: Self::View<'_, u8>,
        slots: &[u32],
        states: &mut [f32],
    ) -> Result<()>;
    /// Writes what [`Backend::read_states`] read.
    fn write_states(
        &self,
        config: &Config,
        arena: Self::ViewMut<'_, u8>,
        slots: &[u32],
        states: &[f32],
    ) -> Result<()>;
}
