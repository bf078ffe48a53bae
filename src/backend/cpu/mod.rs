//! The CPU backend: weights packed once; in f32 one arithmetic for every instruction set, in bf16 one for every path, and
//! with both for any number of threads.
//!
//! The road of the data: `pack` (weights) → `plan` (a schedule and its memory) → `forward` → `backward`; a step
//! of it is a `product` of rows with a panel, followed at once by the gates (`cell`, `cell_backward`). The passes of a
//! sequential model are of the same stuff: `sequential`, `sequential_backward`.

mod adam;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod arena;
mod backward;
mod cell;
mod cell_backward;
mod check;
mod forward;
#[cfg(feature = "tasks")]
mod gate_bench;
mod gates;
mod gates_bf16;
mod lanes;
mod loss;
mod memory;
mod pack;
mod parallel;
mod path;
mod plan;
mod product;
mod recompute;
mod sequential;
mod sequential_backward;
mod stored;
mod weight_gradient;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backward::Backward;
use check::{check_labels, check_pass, check_slots, floats};
use forward::Forward;
use half::bf16;
use plan::States;
use sequential::{ChainMemory, Chains};
use sequential_backward::ChainsBackward;
use stored::Stored;

pub use memory::CpuBuffer;
pub use pack::CpuWeights;
pub use path::CpuPath;
pub use plan::CpuPlan;

use super::check::check_len;
use super::{AdamBuffers, Backend, Dtype, Element, Input, Labelled, Pass};
use crate::error::{Error, Result};
use crate::model::{Config, Recurrence};
use crate::optim::Adam;
use crate::tree::Schedule;

/// Units of a panel of weights, and what a row of a state is padded to: 64 bytes of f32.
const BLOCK: usize = 16;

/// Blocks that `columns` take.
fn blocks(columns: usize) -> usize {
    columns.div_ceil(BLOCK)
}

/// The processor, on the threads of the caller's rayon pool.
#[derive(Clone, Debug)]
pub struct Cpu {
    path: CpuPath,
    dtype: Dtype,
    counters: Arc<Counters>,
}

impl Cpu {
    /// On the fastest path of this processor.
    pub fn new() -> Self {
        Cpu { path: CpuPath::detect(), dtype: Dtype::F32, counters: Arc::default() }
    }

    /// On a path of one's choice, in f32: the results have the same bits on all.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if this processor lacks it.
    pub fn with_path(path: CpuPath) -> Result<Self> {
        Cpu::with_dtype_and_path(Dtype::F32, path)
    }

    /// On a path of one's choice, weights and `h` kept in this type: f32 or bf16. In bf16 the paths differ within its
    /// tolerance, since each sums pairs its own way.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the CPU computes not in that type, or this processor lacks the path.
    pub fn with_dtype_and_path(dtype: Dtype, path: CpuPath) -> Result<Self> {
        check_dtype(dtype)?;
        Ok(Cpu { path: path.checked(dtype)?, dtype, counters: Arc::default() })
    }

    /// What this device and its clones have done so far.
    pub fn work(&self) -> Work {
        let rows: Vec<u64> = self.counters.0.iter().map(|rows| rows.load(Ordering::Relaxed)).collect();
        Work { merges: rows.iter().sum(), by_worker: rows }
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Cpu::new()
    }
}

/// Work done by a [`Cpu`], counted where it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// Merges of two states, or steps of a sequential model, a sequence of a batch each.
    pub merges: u64,
    /// The same by index of the worker in its pool; workers from 64 on count with the last.
    pub by_worker: Vec<u64>,
}

/// Rows merged, by worker.
#[derive(Debug)]
struct Counters([AtomicU64; 64]);

impl Default for Counters {
    fn default() -> Self {
        Counters(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counters {
    fn count(&self, rows: usize) {
        self.0[parallel::worker().min(63)].fetch_add(rows as u64, Ordering::Relaxed);
    }
}

/// The input of a pass, as slices.
#[derive(Clone, Copy)]
enum CpuInput<'a> {
    Tokens(&'a [u32]),
    Dense(&'a [f32]),
}

impl<'a> From<Input<'a, Cpu>> for CpuInput<'a> {
    fn from(input: Input<'a, Cpu>) -> Self {
        match input {
            Input::Tokens(tokens) => CpuInput::Tokens(tokens),
            Input::Dense(x) => CpuInput::Dense(x),
        }
    }
}

/// Refuses types that the CPU does not compute in.
fn check_dtype(dtype: Dtype) -> Result<()> {
    match dtype {
        Dtype::F32 | Dtype::Bf16 => Ok(()),
        Dtype::F16 => Err(Error::Unavailable {
            what: format!("{dtype} on cpu"),
            why: "it computes in f32 and bf16 there; use one of these, or a CUDA device".into(),
        }),
    }
}

impl Cpu {
    /// Refuses what there is only in f32.
    fn check_model(&self, config: &Config, pass: Pass) -> Result<()> {
        let dtype = self.dtype;
        let (what, why) = match dtype {
            Dtype::F32 => return Ok(()),
            _ if config.recurrence == Recurrence::Sequential => {
                ("a sequential model", "these are there in f32; use that")
            }
            _ if pass.trains() => ("training", "it runs models there and trains none; train in f32"),
            _ => return Ok(()),
        };
        Err(Error::Unavailable { what: format!("{what} in {dtype} on cpu"), why: why.into() })
    }

    fn scan_as<H: Stored>(
        &self,
        weights: &CpuWeights,
        plan: &CpuPlan,
        input: CpuInput<'_>,
        workspace: &mut [u8],
        hidden: &mut [f32],
    ) -> Result<()> {
        let memory = plan.memory::<H>(floats("workspace", workspace, plan.floats())?);
        let states =
            memory.states.ok_or_else(|| Error::argument("plan", "one of a whole pass", "one of streams"))?;
        Forward::new(plan.path, weights, plan, &memory, states, &self.counters).run(input, hidden);
        Ok(())
    }

    fn append_as<H: Stored>(
        &self,
        weights: &CpuWeights,
        plan: &CpuPlan,
        input: CpuInput<'_>,
        arena: &mut [u8],
        workspace: &mut [u8],
        hidden: &mut [f32],
    ) -> Result<()> {
        let memory = plan.memory::<H>(floats("workspace", workspace, plan.floats())?);
        let all = arena.len() / 4;
        let states = States::of_arena(&plan.config, floats("arena", arena, all)?);
        let most = (plan.schedule.slots() * plan.schedule.width()).checked_sub(1);
        check_slots(&states, most.map(|row| row as u32))?;
        Forward::new(plan.path, weights, plan, &memory, states, &self.counters).run(input, hidden);
        Ok(())
    }
}

impl Backend for Cpu {
    type Buffer<T: Element> = CpuBuffer<T>;
    type View<'a, T: Element> = &'a [T];
    type ViewMut<'a, T: Element> = &'a mut [T];
    type Weights = CpuWeights;
    type Plan = CpuPlan;

    fn name(&self) -> String {
        "cpu".into()
    }

    fn largest(&self) -> f32 {
        match self.dtype {
            Dtype::Bf16 => half::bf16::MAX.to_f32(),
            _ => f32::MAX,
        }
    }

    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn with_dtype(self, dtype: Dtype) -> Result<Self> {
        check_dtype(dtype)?;
        // A path other than the fastest was forced, and stays if it can.
        let path = match self.path == CpuPath::fastest(self.dtype) || !self.path.computes(dtype) {
            true => CpuPath::fastest(dtype),
            false => self.path,
        };
        Ok(Cpu { path, dtype, ..self })
    }

    fn can_train(&self) -> bool {
        self.dtype == Dtype::F32
    }

    fn alloc<T: Element>(&self, len: usize) -> Result<CpuBuffer<T>> {
        CpuBuffer::zeroed(len)
    }

    fn view<'a, T: Element>(&self, buffer: &'a CpuBuffer<T>, start: usize, len: usize) -> &'a [T] {
        &buffer.as_slice()[start..start + len]
    }

    fn view_mut<'a, T: Element>(
        &self,
        buffer: &'a mut CpuBuffer<T>,
        start: usize,
        len: usize,
    ) -> &'a mut [T] {
        &mut buffer.as_mut_slice()[start..start + len]
    }

    fn cut<'a>(
        &self,
        workspace: &'a mut &mut [u8],
        at: usize,
        floats: usize,
    ) -> Result<(&'a mut [u8], &'a mut [f32])> {
        let found = workspace.len();
        let wanted = floats.saturating_mul(size_of::<f32>()).saturating_add(at);
        if found < wanted {
            return Err(Error::argument("workspace", format!("at least {wanted} bytes"), found));
        }
        let (before, rest) = workspace[..wanted].split_at_mut(at);
        Ok((before, check::floats("workspace", rest, floats)?))
    }

    fn len<T: Element>(&self, view: &&mut [T]) -> usize {
        view.len()
    }

    fn freeze<'a, T: Element>(&self, view: &'a &mut [T]) -> &'a [T] {
        view
    }

    fn upload<T: Element>(&self, host: &[T], device: &mut [T]) -> Result<()> {
        device.copy_from_slice(host);
        Ok(())
    }

    fn download<T: Element>(&self, device: &[T], host: &mut [T]) -> Result<()> {
        host.copy_from_slice(device);
        Ok(())
    }

    fn zero<T: Element>(&self, device: &mut [T]) -> Result<()> {
        device.fill(T::default());
        Ok(())
    }

    fn add(&self, from: &[f32], to: &mut [f32]) -> Result<()> {
        check_len("from", from.len(), to.len())?;
        to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn weights(&self, config: &Config, pass: Pass) -> Result<CpuWeights> {
        self.check_model(config, pass)?;
        CpuWeights::new(config, config.layout()?, self.dtype, pass)
    }

    fn weights_bytes(&self, weights: &CpuWeights) -> usize {
        weights.bytes()
    }

    fn pack(&self, parameters: &[f32], weights: &mut CpuWeights) -> Result<()> {
        check_len("parameters", parameters.len(), weights.layout.len())?;
        weights.pack(parameters);
        Ok(())
    }

    fn plan(&self, config: &Config, schedule: &Schedule, pass: Pass) -> Result<CpuPlan> {
        self.check_model(config, pass)?;
        config.layout()?;
        CpuPlan::new(config, pass, self.dtype, self.path, schedule)
    }

    fn replan(&self, plan: &mut CpuPlan, schedule: &Schedule) -> Result<()> {
        plan.fill(schedule)
    }

    fn workspace_bytes(&self, plan: &CpuPlan) -> usize {
        plan.floats() * size_of::<f32>()
    }

    fn path(&self, plan: &CpuPlan) -> &'static str {
        plan.path.name()
    }

    fn check(&self, _plan: &CpuPlan) -> Result<()> {
        // A pass refuses such tokens before it runs.
        Ok(())
    }

    fn scan(
        &self,
        weights: &CpuWeights,
        plan: &CpuPlan,
        input: Input<'_, Self>,
        workspace: &mut [u8],
        hidden: &mut [f32],
    ) -> Result<()> {
        let input = CpuInput::from(input);
        check_pass(weights, plan, input, hidden.len())?;
        if plan.config.recurrence == Recurrence::Sequential {
            let memory = plan.chain_memory(floats("workspace", workspace, plan.floats())?);
            Chains { path: plan.path, weights, plan, memory, counters: &self.counters }.run(input, hidden);
            return Ok(());
        }
        match plan.dtype {
            Dtype::Bf16 => self.scan_as::<bf16>(weights, plan, input, workspace, hidden),
            _ => self.scan_as::<f32>(weights, plan, input, workspace, hidden),
        }
    }

    fn scan_backward(
        &self,
        weights: &CpuWeights,
        plan: &CpuPlan,
        input: Input<'_, Self>,
        workspace: &mut [u8],
        d_hidden: &[f32],
        gradient: &mut [f32],
        d_input: Option<&mut [f32]>,
    ) -> Result<()> {
        let input = CpuInput::from(input);
        check_pass(weights, plan, input, d_hidden.len())?;
        check_len("gradient", gradient.len(), weights.layout.len())?;
        if let Some(d_input) = &d_input {
            check_len("d_input", d_input.len(), plan.leaf_rows() * plan.config.input)?;
        }
        let workspace = floats("workspace", workspace, plan.floats())?;
        let refused =
            || Error::argument("plan and weights", "those of a training pass", "those of inference");
        if !weights.pass.trains() {
            return Err(refused());
        }
        if plan.config.recurrence == Recurrence::Sequential {
            let ChainMemory { states, z, backward, .. } = plan.chain_memory(workspace);
            let gradients = backward.ok_or_else(refused)?;
            let pass = ChainsBackward { path: self.path, weights, plan, states, z, gradients, d_hidden };
            pass.run(input, gradient, d_input);
            return Ok(());
        }
        let memory = plan.memory(workspace);
        let states = memory.states.ok_or_else(refused)?;
        let training = memory.training.ok_or_else(refused)?;
        let pass = Backward::new(self.path, weights, plan, states, training, d_hidden);
        parallel::inside(|| pass.run(input, gradient, d_input));
        Ok(())
    }

    fn readout(&self, weights: &CpuWeights, hidden: &[f32], y: &mut [f32]) -> Result<()> {
        let Config { hidden: width, output, .. } = weights.config;
        check_len("hidden", hidden.len(), hidden.len() / width * width)?;
        check_len("y", y.len(), hidden.len() / width * output)?;
        loss::readout(self.path, &weights.readout, weights.config.output, hidden, y);
        Ok(())
    }

    fn readout_backward(
        &self,
        weights: &CpuWeights,
        hidden: &[f32],
        d_y: &[f32],
        d_hidden: &mut [f32],
        gradient: &mut [f32],
    ) -> Result<()> {
        let Config { hidden: width, output, .. } = weights.config;
        check_len("hidden", hidden.len(), hidden.len() / width * width)?;
        check_len("d_y", d_y.len(), hidden.len() / width * output)?;
        check_len("d_hidden", d_hidden.len(), hidden.len())?;
        check_len("gradient", gradient.len(), weights.layout.len())?;
        loss::readout_backward(&weights.layout.readout, &weights.readout, hidden, d_y, d_hidden, gradient);
        Ok(())
    }

    fn cross_entropy(&self, labelled: Labelled<'_, Self>, metrics: &mut [f32]) -> Result<()> {
        check_labels(&labelled)?;
        check_len("metrics", metrics.len(), 3)?;
        loss::cross_entropy(labelled.logits, labelled.targets, labelled.mask, metrics);
        Ok(())
    }

    fn cross_entropy_backward(
        &self,
        labelled: Labelled<'_, Self>,
        d_loss: &[f32],
        d_logits: &mut [f32],
    ) -> Result<()> {
        check_labels(&labelled)?;
        check_len("d_loss", d_loss.len(), 1)?;
        check_len("d_logits", d_logits.len(), labelled.logits.len())?;
        loss::cross_entropy_backward(labelled.logits, labelled.targets, d_loss[0], d_logits);
        Ok(())
    }

    fn adam(&self, config: &Adam, buffers: AdamBuffers<'_, Self>) -> Result<()> {
        let AdamBuffers { parameters, gradient, rate, m, v, state, norm } = &buffers;
        for (name, len) in [("gradient", gradient.len()), ("m", m.len()), ("v", v.len())] {
            check_len(name, len, parameters.len())?;
        }
        check_len("state", state.len(), 2)?;
        check_len("norm", norm.len(), 1)?;
        check_len("rate", rate.len(), 1)?;
        adam::adam(self.path, config, buffers);
        Ok(())
    }

    fn arena_bytes(&self, config: &Config, slots: usize) -> usize {
        let floats = match self.dtype {
            Dtype::Bf16 => States::<bf16>::floats(config),
            _ => States::<f32>::floats(config),
        };
        slots * floats.iter().sum::<usize>() * size_of::<f32>()
    }

    fn append(
        &self,
        weights: &CpuWeights,
        plan: &CpuPlan,
        input: Input<'_, Self>,
        arena: &mut [u8],
        workspace: &mut [u8],
        hidden: &mut [f32],
    ) -> Result<()> {
        let input = CpuInput::from(input);
        check_pass(weights, plan, input, hidden.len())?;
        if plan.pass != Pass::Stream {
            return Err(Error::argument("plan", "one of streams", "one of a whole pass"));
        }
        match plan.dtype {
            Dtype::Bf16 => self.append_as::<bf16>(weights, plan, input, arena, workspace, hidden),
            _ => self.append_as::<f32>(weights, plan, input, arena, workspace, hidden),
        }
    }

    fn copy_states(&self, config: &Config, arena: &mut [u8], pairs: &[(u32, u32)]) -> Result<()> {
        config.layout()?;
        let all = arena.len() / 4;
        let arena = floats("arena", arena, all)?;
        match self.dtype {
            Dtype::Bf16 => arena::copy::<bf16>(config, arena, pairs),
            _ => arena::copy::<f32>(config, arena, pairs),
        }
    }

    fn read_states(&self, config: &Config, arena: &[u8], slots: &[u32], states: &mut [f32]) -> Result<()> {
        config.layout()?;
        let arena: &[f32] = bytemuck::try_cast_slice(&arena[..arena.len() / 4 * 4])
            .map_err(|_| Error::argument("arena", "memory aligned to 4 bytes", "less"))?;
        check_len("states", states.len(), slots.len() * 2 * config.hidden)?;
        match self.dtype {
            Dtype::Bf16 => arena::read::<bf16>(config, arena, slots, states),
            _ => arena::read::<f32>(config, arena, slots, states),
        }
    }

    fn write_states(&self, config: &Config, arena: &mut [u8], slots: &[u32], states: &[f32]) -> Result<()> {
        config.layout()?;
        let all = arena.len() / 4;
        check_len("states", states.len(), slots.len() * 2 * config.hidden)?;
        let arena = floats("arena", arena, all)?;
        match self.dtype {
            Dtype::Bf16 => arena::write::<bf16>(config, arena, slots, states),
            _ => arena::write::<f32>(config, arena, slots, states),
        }
    }
}

#[cfg(test)]
mod tests;
