//! The backend's line on CUDA: every call checks what keeps kernels in bounds, then allocates, copies or launches.

use std::collections::HashSet;

use cudarc::driver::{CudaFunction, CudaSlice, CudaView, CudaViewMut, DeviceSlice, SyncOnDrop};

use super::arguments::{AddArguments, CopyArguments, ReadoutArguments, StatesArguments};
use super::backward::Backward;
use super::driver::{device_name, out_of_memory};
use super::frame::Frame;
use super::launch::{self, Span};
use super::storage::{ALIGNMENT, Sizes, Storage};
use super::{Cuda, CudaPlan, CudaWeights, f32_storage, plan};
use crate::backend::check::check_len;
use crate::backend::{AdamBuffers, Backend, Dtype, Element, Input, Labelled, Pass};
use crate::error::{Error, Result};
use crate::model::Config;
use crate::optim::Adam;
use crate::tree::Schedule;

/// Blocks of the read-out's large tile that keep a card busy; fewer, and it runs in the small one.
const MANY_BLOCKS: usize = 128;

/// The input of a pass, as views.
pub(super) enum CudaInput<'a> {
    Tokens(CudaView<'a, u32>),
    Dense(CudaView<'a, f32>),
}

impl<'a> From<Input<'a, Cuda>> for CudaInput<'a> {
    fn from(input: Input<'a, Cuda>) -> Self {
        match input {
            Input::Tokens(tokens) => CudaInput::Tokens(tokens),
            Input::Dense(x) => CudaInput::Dense(x),
        }
    }
}

impl Cuda {
    /// Refuses weights, input or `hidden` that are not the plan's, or are another device's.
    fn check_pass(
        &self,
        weights: &CudaWeights,
        plan: &CudaPlan,
        input: &CudaInput<'_>,
        (name, hidden): (&str, &impl DeviceSlice<f32>),
    ) -> Result<()> {
        if weights.config != plan.config {
            let (expected, found) = (&plan.config, &weights.config);
            return Err(Error::argument("weights", format!("those of {expected:?}"), format!("{found:?}")));
        }
        for (name, sizes) in [("weights", weights.sizes), ("plan", plan.sizes)] {
            if sizes.storage != self.storage() {
                let (expected, found) = (self.storage().path(), sizes.storage.path());
                return Err(Error::argument(name, format!("those of {expected}"), found));
            }
        }
        self.own("weights", &weights.buffer)?;
        self.own("plan", &plan.lists)?;
        match input {
            CudaInput::Tokens(tokens) => {
                check_len("tokens", tokens.len(), plan.leaf_rows())?;
                self.own("tokens", tokens)?;
            }
            CudaInput::Dense(x) => {
                check_len("dense input", x.len(), plan.leaf_rows() * plan.config.input)?;
                self.own("dense input", x)?;
            }
        }
        check_len(name, hidden.len(), plan.output_rows() * plan.config.hidden)?;
        self.own(name, hidden)
    }

    /// Refuses memory that is another context's, too short or misaligned; gives it with what records its use.
    fn scratch<'a>(
        &'a self,
        name: &str,
        memory: &'a mut CudaViewMut<'_, u8>,
        bytes: usize,
    ) -> Result<(Span, SyncOnDrop<'a>)> {
        self.own(name, memory)?;
        if memory.len() < bytes {
            return Err(Error::argument(name, format!("at least {bytes} bytes"), memory.len()));
        }
        let (span, guard) = Span::of_mut(memory, self.stream());
        check_aligned(name, span)?;
        Ok((span, guard))
    }

    /// Where `h` and `c` begin in an arena, and how many slots it has.
    fn arena(sizes: &Sizes, arena: Span) -> (u64, u64, usize) {
        let slots = arena.bytes() / (sizes.h_row + sizes.c_row);
        let h = arena.at(0, slots * sizes.h_row);
        // The RNN has no `c`.
        let c = if sizes.c_row == 0 { 0 } else { arena.at(slots * sizes.h_row, slots * sizes.c_row) };
        (h, c, slots)
    }

    /// A pass whose states lie in its workspace.
    fn frame<'a>(
        &'a self,
        weights: &'a CudaWeights,
        plan: &'a CudaPlan,
        packed: Span,
        lists: Span,
        workspace: Span,
    ) -> Frame<'a> {
        let regions = plan.regions();
        let rows = plan.slots * plan.width;
        let h = workspace.at(regions.h, rows * plan.sizes.h_row);
        let c = match plan.sizes.c_row {
            0 => 0,
            c_row => workspace.at(regions.c, rows * c_row),
        };
        Frame { cuda: self, weights, plan, packed, lists, workspace, regions, h, c }
    }

    /// A host's list on the device.
    fn uploaded<T: Element>(&self, host: &[T]) -> Result<CudaSlice<T>> {
        let mut buffer = self.alloc(host.len())?;
        self.upload(host, buffer.slice_mut(..host.len()))?;
        Ok(buffer)
    }

    /// States of an arena to `states`, `[slots, 2, H]`, or back, as the kernel says.
    fn transfer(
        &self,
        action: &str,
        kernel: &CudaFunction,
        sizes: &Sizes,
        arena: Span,
        slots: &[u32],
        states: &mut CudaSlice<f32>,
    ) -> Result<()> {
        let (h, c, found) = Self::arena(sizes, arena);
        check_slots(found, slots.iter().copied())?;
        let list = self.uploaded(slots)?;
        let (list, _list) = Span::of(&list, self.stream());
        let (states, _states) = Span::of_mut(states, self.stream());
        let arguments = StatesArguments {
            h,
            c,
            slots: list.address(),
            states: states.address(),
            count: slots.len() as u32,
            units: sizes.units as u32,
            hidden_size: sizes.hidden as u32,
        };
        self.elementwise(action, kernel, &arguments, slots.len() * sizes.units)
    }
}

/// Refuses slots that an arena does not have.
fn check_slots(slots: usize, wanted: impl IntoIterator<Item = u32>) -> Result<()> {
    match wanted.into_iter().find(|&slot| slot as usize >= slots) {
        None => Ok(()),
        Some(slot) => Err(Error::argument("slots", format!("below {slots}, the arena's slots"), slot)),
    }
}

/// Refuses a slot that comes twice: two threads would write it.
fn check_distinct(argument: &str, slots: impl IntoIterator<Item = u32>) -> Result<()> {
    let mut seen = HashSet::new();
    match slots.into_iter().find(|&slot| !seen.insert(slot)) {
        None => Ok(()),
        Some(slot) => Err(Error::argument(argument, "each slot written once", format!("slot {slot} twice"))),
    }
}

/// Refuses memory that kernels would read misaligned.
fn check_aligned(argument: &str, memory: Span) -> Result<()> {
    if memory.address().is_multiple_of(ALIGNMENT as u64) {
        return Ok(());
    }
    let expected = format!("memory aligned to {ALIGNMENT} bytes, as an allocation is");
    Err(Error::argument(argument, expected, format!("address {:#x}", memory.address())))
}

impl Backend for Cuda {
    type Buffer<T: Element> = CudaSlice<T>;
    type View<'a, T: Element> = CudaView<'a, T>;
    type ViewMut<'a, T: Element> = CudaViewMut<'a, T>;
    type Weights = CudaWeights;
    type Plan = CudaPlan;

    fn name(&self) -> String {
        device_name(self.device().ordinal)
    }

    fn dtype(&self) -> Dtype {
        self.storage().dtype()
    }

    fn own_memory<T: Element>(&self, argument: &str, memory: &CudaViewMut<'_, T>) -> Result<()> {
        self.own(argument, memory)
    }

    fn largest(&self) -> f32 {
        self.storage().largest()
    }

    fn with_dtype(self, dtype: Dtype) -> Result<Self> {
        let storage = match dtype {
            // One of f32's own ways stays as it was forced.
            Dtype::F32 if self.dtype() == Dtype::F32 => self.storage(),
            Dtype::F32 => f32_storage(self.device().chip),
            Dtype::Bf16 => Storage::Bf16,
            Dtype::F16 => Storage::F16,
        };
        self.with_storage(storage)
    }

    fn can_train(&self) -> bool {
        self.storage().train_image().is_some()
    }

    fn ready(&self) -> Result<()> {
        self.outside_capture("run a batch")
    }

    fn alloc<T: Element>(&self, len: usize) -> Result<CudaSlice<T>> {
        self.outside_capture("allocate")?;
        // The driver refuses an allocation of nothing.
        let len = len.max(1);
        let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize);
        let Some(bytes) = bytes else { return Err(out_of_memory(self.stream(), usize::MAX, None)) };
        self.stream().alloc_zeros(len).map_err(|error| out_of_memory(self.stream(), bytes, Some(error)))
    }

    fn view<'a, T: Element>(&self, buffer: &'a CudaSlice<T>, start: usize, len: usize) -> CudaView<'a, T> {
        buffer.slice(start..start + len)
    }

    fn view_mut<'a, T: Element>(
        &self,
        buffer: &'a mut CudaSlice<T>,
        start: usize,
        len: usize,
    ) -> CudaViewMut<'a, T> {
        buffer.slice_mut(start..start + len)
    }

    fn cut<'a>(
        &self,
        workspace: &'a mut CudaViewMut<'_, u8>,
        at: usize,
        floats: usize,
    ) -> Result<(CudaViewMut<'a, u8>, CudaViewMut<'a, f32>)> {
        self.recordable()?;
        let wanted = floats.checked_mul(size_of::<f32>()).and_then(|bytes| bytes.checked_add(at));
        let Some(wanted) = wanted else {
            return Err(Error::argument("floats", "fewer than 2^64 bytes", floats));
        };
        let found = workspace.len();
        drop(self.scratch("workspace", workspace, wanted)?);
        let cut = launch::cut(workspace, at, floats, self.stream());
        cut.ok_or_else(|| Error::argument("workspace", format!("at least {wanted} bytes"), found))
    }

    fn len<T: Element>(&self, view: &CudaViewMut<'_, T>) -> usize {
        view.len()
    }

    fn freeze<'a, T: Element>(&self, view: &'a CudaViewMut<'_, T>) -> CudaView<'a, T> {
        view.as_view()
    }

    fn upload<T: Element>(&self, host: &[T], mut device: CudaViewMut<'_, T>) -> Result<()> {
        assert_eq!(host.len(), device.len(), "elements to upload");
        self.own("device", &device)?;
        self.outside_capture("upload")?;
        if host.is_empty() {
            return Ok(());
        }
        self.stream().memcpy_htod(host, &mut device).map_err(|error| self.failed("upload", error))
    }

    fn download<T: Element>(&self, device: CudaView<'_, T>, host: &mut [T]) -> Result<()> {
        assert_eq!(host.len(), device.len(), "elements to download");
        self.own("device", &device)?;
        self.outside_capture("download")?;
        if !host.is_empty() {
            let copied = self.stream().memcpy_dtoh(&device, host);
            copied.map_err(|error| self.failed("download", error))?;
        }
        self.wait()
    }

    fn zero<T: Element>(&self, mut device: CudaViewMut<'_, T>) -> Result<()> {
        self.own("device", &device)?;
        self.recordable()?;
        if device.is_empty() {
            return Ok(());
        }
        self.target().memset_zeros(&mut device).map_err(|error| self.failed("set memory to zero", error))
    }

    fn add(&self, from: CudaView<'_, f32>, mut to: CudaViewMut<'_, f32>) -> Result<()> {
        check_len("from", from.len(), to.len())?;
        self.own("from", &from)?;
        self.own("to", &to)?;
        self.recordable()?;
        let len = to.len();
        let ((from, _from), (to, _to)) =
            (Span::of(&from, self.stream()), Span::of_mut(&mut to, self.stream()));
        let arguments = AddArguments { from: from.address(), to: to.address(), len: len as u64 };
        self.elementwise("add", &self.kernels().add, &arguments, len)
    }

    fn wait(&self) -> Result<()> {
        self.outside_capture("wait")?;
        self.stream().synchronize().map_err(|error| self.failed("wait", error))
    }

    fn weights(&self, config: &Config, pass: Pass) -> Result<CudaWeights> {
        self.has_kernels(config)?;
        self.can_run(pass)?;
        CudaWeights::new(self, config, pass)
    }

    fn weights_bytes(&self, weights: &CudaWeights) -> usize {
        weights.buffer.num_bytes()
    }

    fn pack(&self, parameters: CudaView<'_, f32>, weights: &mut CudaWeights) -> Result<()> {
        weights.pack(self, &parameters)
    }

    fn plan(&self, config: &Config, schedule: &Schedule, pass: Pass) -> Result<CudaPlan> {
        self.has_kernels(config)?;
        self.can_run(pass)?;
        CudaPlan::new(self, config, pass, schedule)
    }

    fn replan(&self, plan: &mut CudaPlan, schedule: &Schedule) -> Result<()> {
        plan.fill(self, schedule)
    }

    fn workspace_bytes(&self, plan: &CudaPlan) -> usize {
        plan.regions().end
    }

    fn path(&self, plan: &CudaPlan) -> &'static str {
        plan.sizes.storage.path()
    }

    fn check(&self, plan: &CudaPlan) -> Result<()> {
        let mut word = [plan::NO_TOKEN];
        self.download(plan.lists.slice(..1), &mut word)?;
        if word[0] == plan::NO_TOKEN {
            return Ok(());
        }
        let (lists, _lists) = Span::of(&plan.lists, self.stream());
        let cleared = launch::write_word(self.stream(), lists.at(0, 4), plan::NO_TOKEN);
        cleared.map_err(|error| self.failed("clear the word for bad tokens", error))?;
        let (sequence, position) = (word[0] as usize / plan.leaves, word[0] as usize % plan.leaves);
        Err(Error::DeviceToken { sequence, position, vocabulary: plan.config.input })
    }

    fn scan(
        &self,
        weights: &CudaWeights,
        plan: &CudaPlan,
        input: Input<'_, Self>,
        mut workspace: CudaViewMut<'_, u8>,
        mut hidden: CudaViewMut<'_, f32>,
    ) -> Result<()> {
        let input = CudaInput::from(input);
        self.check_pass(weights, plan, &input, ("hidden", &hidden))?;
        if plan.pass == Pass::Stream {
            return Err(Error::argument("plan", "one of a whole pass", "one of streams"));
        }
        self.recordable()?;
        let (workspace, _workspace) = self.scratch("workspace", &mut workspace, plan.regions().end)?;
        let (packed, _packed) = Span::of(&weights.buffer, self.stream());
        let (lists, _lists) = Span::of(&plan.lists, self.stream());
        let (hidden, _hidden) = Span::of_mut(&mut hidden, self.stream());
        self.frame(weights, plan, packed, lists, workspace).forward(&input, hidden)
    }

    fn scan_backward(
        &self,
        weights: &CudaWeights,
        plan: &CudaPlan,
        input: Input<'_, Self>,
        mut workspace: CudaViewMut<'_, u8>,
        d_hidden: CudaView<'_, f32>,
        mut gradient: CudaViewMut<'_, f32>,
        mut d_input: Option<CudaViewMut<'_, f32>>,
    ) -> Result<()> {
        let input = CudaInput::from(input);
        self.check_pass(weights, plan, &input, ("d_hidden", &d_hidden))?;
        check_len("gradient", gradient.len(), weights.layout.len())?;
        self.own("gradient", &gradient)?;
        if let Some(d_input) = &d_input {
            check_len("d_input", d_input.len(), plan.leaf_rows() * plan.config.input)?;
            self.own("d_input", d_input)?;
        }
        let (Some(kept), Some(_)) = (plan.regions().kept, weights.leaf.transposed) else {
            let found = "those of inference";
            return Err(Error::argument("plan and weights", "those of a training pass", found));
        };
        let kernels = &self.training()?.kernels;
        self.recordable()?;
        let (workspace, _workspace) = self.scratch("workspace", &mut workspace, plan.regions().end)?;
        let (packed, _packed) = Span::of(&weights.buffer, self.stream());
        let (lists, _lists) = Span::of(&plan.lists, self.stream());
        let (d_hidden, _d_hidden) = Span::of(&d_hidden, self.stream());
        let (gradient, _gradient) = Span::of_mut(&mut gradient, self.stream());
        let (d_input, _d_input) = d_input.as_mut().map(|to| Span::of_mut(to, self.stream())).unzip();
        let frame = self.frame(weights, plan, packed, lists, workspace);
        let d_hidden = d_hidden.address();
        Backward { frame: &frame, kernels, kept, d_hidden, gradient }.run(&input, d_input)
    }

    fn readout(
        &self,
        weights: &CudaWeights,
        hidden: CudaView<'_, f32>,
        mut y: CudaViewMut<'_, f32>,
    ) -> Result<()> {
        let Config { hidden: width, output, .. } = weights.config;
        let rows = hidden.len() / width;
        check_len("hidden", hidden.len(), rows * width)?;
        check_len("y", y.len(), rows * output)?;
        self.own("weights", &weights.buffer)?;
        self.own("hidden", &hidden)?;
        self.own("y", &y)?;
        if u32::try_from(rows).is_err() {
            return Err(Error::argument("hidden", "fewer than 2^32 rows", rows));
        }
        self.recordable()?;
        let (packed, _packed) = Span::of(&weights.buffer, self.stream());
        let (hidden, _hidden) = Span::of(&hidden, self.stream());
        let (y, _y) = Span::of_mut(&mut y, self.stream());
        let [w, b] = weights.readout;
        let arguments = ReadoutArguments {
            hidden: hidden.address(),
            w: packed.at(w, 4 * width * output),
            b: packed.at(b, 4 * output),
            y: y.address(),
            rows: rows as u32,
            h: width as u32,
            o: output as u32,
        };
        let wide = rows.div_ceil(32) * output.div_ceil(16);
        let (kernel, blocks) = match output <= 4 || wide < MANY_BLOCKS {
            true => (&self.kernels().readout, rows.div_ceil(4) * output.div_ceil(4)),
            false => (&self.kernels().readout_wide, wide),
        };
        self.launch("read out", kernel, &arguments, [blocks, 1, 1], 128, 0)
    }

    fn readout_backward(
        &self,
        weights: &CudaWeights,
        hidden: CudaView<'_, f32>,
        d_y: CudaView<'_, f32>,
        mut d_hidden: CudaViewMut<'_, f32>,
        mut gradient: CudaViewMut<'_, f32>,
    ) -> Result<()> {
        self.readout_gradient(weights, &hidden, &d_y, &mut d_hidden, &mut gradient)
    }

    fn cross_entropy(&self, labelled: Labelled<'_, Self>, mut metrics: CudaViewMut<'_, f32>) -> Result<()> {
        self.loss(&labelled, &mut metrics)
    }

    fn cross_entropy_backward(
        &self,
        labelled: Labelled<'_, Self>,
        d_loss: CudaView<'_, f32>,
        mut d_logits: CudaViewMut<'_, f32>,
    ) -> Result<()> {
        self.loss_backward(&labelled, &d_loss, &mut d_logits)
    }

    fn adam(&self, config: &Adam, buffers: AdamBuffers<'_, Self>) -> Result<()> {
        self.adam_update(config, buffers)
    }

    fn arena_bytes(&self, config: &Config, slots: usize) -> usize {
        let Sizes { h_row, c_row, .. } = Sizes::new(config, self.storage());
        slots * (h_row + c_row)
    }

    fn append(
        &self,
        weights: &CudaWeights,
        plan: &CudaPlan,
        input: Input<'_, Self>,
        mut arena: CudaViewMut<'_, u8>,
        mut workspace: CudaViewMut<'_, u8>,
        mut hidden: CudaViewMut<'_, f32>,
    ) -> Result<()> {
        let input = CudaInput::from(input);
        self.check_pass(weights, plan, &input, ("hidden", &hidden))?;
        if plan.pass != Pass::Stream {
            return Err(Error::argument("plan", "one of streams", "one of a whole pass"));
        }
        self.recordable()?;
        let regions = plan.regions();
        let (workspace, _workspace) = self.scratch("workspace", &mut workspace, regions.end)?;
        let (arena, _arena) = self.scratch("arena", &mut arena, 0)?;
        let (h, c, slots) = Self::arena(&plan.sizes, arena);
        check_slots(slots, (plan.slots * plan.width).checked_sub(1).map(|row| row as u32))?;
        let (packed, _packed) = Span::of(&weights.buffer, self.stream());
        let (lists, _lists) = Span::of(&plan.lists, self.stream());
        let (hidden, _hidden) = Span::of_mut(&mut hidden, self.stream());
        Frame { cuda: self, weights, plan, packed, lists, workspace, regions, h, c }.forward(&input, hidden)
    }

    fn copy_states(
        &self,
        config: &Config,
        mut arena: CudaViewMut<'_, u8>,
        pairs: &[(u32, u32)],
    ) -> Result<()> {
        config.layout()?;
        self.outside_capture("copy states")?;
        let sizes = Sizes::new(config, self.storage());
        let (arena, _arena) = self.scratch("arena", &mut arena, 0)?;
        let (h, c, slots) = Self::arena(&sizes, arena);
        check_slots(slots, pairs.iter().flat_map(|&(from, to)| [from, to]))?;
        check_distinct("pairs", pairs.iter().map(|&(_, to)| to))?;
        let written: HashSet<u32> = pairs.iter().map(|&(_, to)| to).collect();
        if let Some((slot, _)) = pairs.iter().find(|(from, _)| written.contains(from)) {
            return Err(Error::argument("pairs", "slots to copy from that are not copied to", slot));
        }
        let host: Vec<u32> = pairs.iter().flat_map(|&(from, to)| [from, to]).collect();
        let list = self.uploaded(&host)?;
        let (list, _list) = Span::of(&list, self.stream());
        let (count, units) = (pairs.len() as u32, sizes.units as u32);
        let arguments = CopyArguments { h, c, pairs: list.address(), count, units };
        let threads = pairs.len() * sizes.units;
        self.elementwise("copy states", &self.kernels().copy_states, &arguments, threads)
    }

    fn read_states(
        &self,
        config: &Config,
        arena: CudaView<'_, u8>,
        slots: &[u32],
        states: &mut [f32],
    ) -> Result<()> {
        config.layout()?;
        self.outside_capture("read states")?;
        let sizes = Sizes::new(config, self.storage());
        check_len("states", states.len(), slots.len() * 2 * sizes.hidden)?;
        self.own("arena", &arena)?;
        let (arena, _arena) = Span::of(&arena, self.stream());
        check_aligned("arena", arena)?;
        let mut buffer = self.alloc::<f32>(states.len())?;
        self.transfer("read states", &self.kernels().read_states, &sizes, arena, slots, &mut buffer)?;
        self.download(buffer.slice(..states.len()), states)
    }

    fn write_states(
        &self,
        config: &Config,
        mut arena: CudaViewMut<'_, u8>,
        slots: &[u32],
        states: &[f32],
    ) -> Result<()> {
        config.layout()?;
        self.outside_capture("write states")?;
        let sizes = Sizes::new(config, self.storage());
        check_len("states", states.len(), slots.len() * 2 * sizes.hidden)?;
        check_distinct("slots", slots.iter().copied())?;
        let (arena, _arena) = self.scratch("arena", &mut arena, 0)?;
        let mut buffer = self.uploaded(states)?;
        self.transfer("write states", &self.kernels().write_states, &sizes, arena, slots, &mut buffer)
    }
}
