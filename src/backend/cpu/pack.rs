//! Weights as the kernels want them: panels of [`BLOCK`] units with the gates of a unit side by side, so that a
//! tile of a product holds every gate of its units and the gates are applied before `z` leaves the registers.

use std::ops::Range;

use half::bf16;

use super::memory::{CpuBuffer, Matrix};
use super::stored::Stored;
use super::weight_gradient::PackedGradient;
use super::{BLOCK, blocks, parallel};
use crate::backend::{Dtype, Pass};
use crate::error::Result;
use crate::model::{Cell, Config, Layout, LinearRange, Recurrence};

/// Rows of `W` whose gradient one task unpacks.
const UNPACKED: usize = 32;

/// Columns of the transposed panels in one group: a tile of the backward product.
pub(super) const GROUP: usize = 4;

/// What a row of a panel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    /// A row of `W`.
    F32,
    /// A row of `W` rounded to bf16, as f32: for inputs that are f32.
    Rounded,
    /// Two rows of `W` rounded to bf16, the first in the lower halves: for inputs that are bf16. Each segment is
    /// padded, as its inputs are.
    Pairs,
}

impl Words {
    /// The rows of `W` in a row of a panel, whose segments have `len` inputs and `rows` rows.
    fn inputs(self, row: usize, len: usize, rows: usize) -> Range<usize> {
        let (segment, row) = (row / rows, row % rows);
        let of_segment = match self {
            Words::F32 | Words::Rounded => row..row + 1,
            Words::Pairs => len.min(2 * row)..len.min(2 * row + 2),
        };
        segment * len + of_segment.start..segment * len + of_segment.end
    }

    /// Packs columns of these rows of `W`.
    fn pack<'a>(self, to: &mut [f32], inputs: Range<usize>, w: impl Fn(usize) -> &'a [f32]) {
        match self {
            Words::F32 => to.copy_from_slice(w(inputs.start)),
            Words::Rounded => {
                let w = w(inputs.start);
                to.iter_mut().zip(w).for_each(|(to, &w)| *to = bf16::from_f32(w).to_f32());
            }
            Words::Pairs => {
                to.fill(0.0);
                for (half, k) in inputs.enumerate() {
                    for (to, &w) in to.iter_mut().zip(w(k)) {
                        let bits = u32::from(bf16::from_f32(w).to_bits()) << (16 * half);
                        *to = f32::from_bits(to.to_bits() | bits);
                    }
                }
            }
        }
    }
}

/// One `z = input · W + b`, packed.
#[derive(Debug)]
pub(super) struct PackedLinear {
    words: Words,
    /// Gates of a unit; 1 for the read-out.
    pub gates: usize,
    /// Blocks of units.
    pub blocks: usize,
    /// Units: columns of a gate.
    pub units: usize,
    /// Rows of `W`.
    pub fan_in: usize,
    /// Inputs come in this many segments (2 for a merge), each padded to whole blocks when transposed.
    segments: usize,
    /// Where each gate of a unit lies among the gates of `W`.
    gates_in_w: [usize; 5],
    /// `[blocks, panel rows, gates · BLOCK]`.
    panels: CpuBuffer<f32>,
    /// `[blocks, gates · BLOCK]`.
    bias: CpuBuffer<f32>,
    /// `[groups, blocks · gates · BLOCK, columns of the group · BLOCK]`; empty without a pass backward.
    transposed: CpuBuffer<f32>,
}

impl PackedLinear {
    fn new(range: &LinearRange, gates: usize, segments: usize, words: Words, pass: Pass) -> Result<Self> {
        let blocks = blocks(range.columns / gates);
        let mut packed = PackedLinear {
            words,
            gates,
            blocks,
            units: range.columns / gates,
            fan_in: range.fan_in,
            segments,
            gates_in_w: [0, 1, 2, 3, 4],
            panels: CpuBuffer::zeroed(0)?,
            bias: CpuBuffer::zeroed(blocks * gates * BLOCK)?,
            transposed: CpuBuffer::zeroed(0)?,
        };
        packed.panels = CpuBuffer::zeroed(blocks * packed.panel_rows() * gates * BLOCK)?;
        if pass.trains() {
            packed.transposed = CpuBuffer::zeroed(blocks * gates * BLOCK * packed.input_blocks() * BLOCK)?;
        }
        Ok(packed)
    }

    /// The same for a `W` whose gates are in haiku's order, i g f o.
    fn of_haiku(self) -> Self {
        PackedLinear { gates_in_w: [0, 1, 3, 2, 4], ..self }
    }

    /// Floats of a row of a panel: `gates · BLOCK`.
    pub(super) fn panel_width(&self) -> usize {
        self.gates * BLOCK
    }

    /// Rows of a panel: one for each of the inputs, or for a pair of them.
    pub(super) fn panel_rows(&self) -> usize {
        match self.words {
            Words::F32 | Words::Rounded => self.fan_in,
            Words::Pairs => self.segments * bf16::row_of(self.fan_in / self.segments) / 2,
        }
    }

    /// The panel of a block of units, `[panel rows, gates · BLOCK]`.
    pub(super) fn panel(&self, block: usize) -> &[f32] {
        let len = self.panel_rows() * self.panel_width();
        &self.panels.as_slice()[block * len..][..len]
    }

    /// The bias of a block of units, `[gates · BLOCK]`.
    pub(super) fn bias(&self, block: usize) -> &[f32] {
        &self.bias.as_slice()[block * self.panel_width()..][..self.panel_width()]
    }

    /// Blocks of inputs, each segment padded to whole blocks.
    pub(super) fn input_blocks(&self) -> usize {
        self.segments * blocks(self.fan_in / self.segments)
    }

    /// The rows of `W` whose inputs are in a block of inputs.
    pub(super) fn input_rows(&self, block: usize) -> Range<usize> {
        input_rows(self.fan_in, self.segments, block)
    }

    /// Groups of input blocks.
    pub(super) fn groups(&self) -> usize {
        self.input_blocks().div_ceil(GROUP)
    }

    /// Input blocks of a group: `GROUP` but for the last.
    pub(super) fn group_blocks(&self, group: usize) -> usize {
        GROUP.min(self.input_blocks() - group * GROUP)
    }

    /// The transposed panel of a group, `[blocks · gates · BLOCK, group blocks · BLOCK]`.
    pub(super) fn transposed(&self, group: usize) -> &[f32] {
        let rows = self.blocks * self.panel_width();
        &self.transposed.as_slice()[group * GROUP * BLOCK * rows..][..rows * self.group_blocks(group) * BLOCK]
    }

    /// Bytes held.
    fn bytes(&self) -> usize {
        let floats = |buffer: &CpuBuffer<f32>| size_of_val(buffer.as_slice());
        floats(&self.panels) + floats(&self.bias) + floats(&self.transposed)
    }

    fn pack(&mut self, range: &LinearRange, parameters: &[f32]) {
        let (w, b) = (&parameters[range.w.clone()], &parameters[range.b.clone()]);
        let PackedLinear { words, gates, gates_in_w, blocks, fan_in, segments, .. } = *self;
        let rows = self.panel_rows();
        let (columns, width) = (range.columns, gates * BLOCK);
        let run = |block, gate: usize| gate_columns(columns / gates, block, gates_in_w[gate]);
        let panels = Matrix::new(self.panels.as_mut_slice(), width);
        let biases = Matrix::new(self.bias.as_mut_slice(), width);
        let input = |k: usize, columns_of: Range<usize>| &w[k * columns..][columns_of];
        parallel::for_each(blocks, |block| {
            for gate in 0..gates {
                let run = run(block, gate);
                let lanes = run.len();
                // SAFETY: rows have `gates · BLOCK` floats, and those of the block are this task's own.
                unsafe {
                    if let Some(bias) = b.get(run.clone()) {
                        bias.as_ptr().copy_to_nonoverlapping(biases.row(block).add(gate * BLOCK), lanes);
                    }
                    for row in 0..rows {
                        let to = panels.row(block * rows + row).add(gate * BLOCK);
                        let to = std::slice::from_raw_parts_mut(to, lanes);
                        words.pack(to, words.inputs(row, fan_in / segments, rows / segments), |k| {
                            input(k, run.clone())
                        });
                    }
                }
            }
        });
        if self.transposed.as_slice().is_empty() {
            return;
        }
        let (input_blocks, rows) = (self.input_blocks(), blocks * width);
        let transposed = Matrix::new(self.transposed.as_mut_slice(), BLOCK);
        parallel::for_each(input_blocks, |input_block| {
            let inputs = input_rows(fan_in, segments, input_block);
            let (first, place) = (input_block / GROUP * GROUP, input_block % GROUP);
            let group_blocks = GROUP.min(input_blocks - first);
            for (block, gate) in (0..blocks).flat_map(|block| (0..gates).map(move |gate| (block, gate))) {
                for (lane, column) in run(block, gate).enumerate() {
                    let row = block * width + gate * BLOCK + lane;
                    let to = transposed.row(first * rows + row * group_blocks + place);
                    for (k, input) in inputs.clone().enumerate() {
                        // SAFETY: a row has `BLOCK` floats; a group's rows of this block are this task's own.
                        unsafe { *to.add(k) = w[input * columns + column] };
                    }
                }
            }
        });
    }

    /// Adds a packed gradient to that of the flat buffer.
    pub(super) fn unpack_add(&self, range: &LinearRange, from: PackedGradient<'_>, gradient: &mut [f32]) {
        let (columns, fan_in) = (range.columns, self.fan_in);
        let (before, b) = gradient.split_at_mut(range.b.start);
        let (w, b) = (&mut before[range.w.clone()], &mut b[..range.b.len()]);
        let (w, b) = (Matrix::new(w, columns), Matrix::new(b, columns));
        let rows = fan_in + b.rows();
        parallel::for_each(rows.div_ceil(UNPACKED), |task| {
            for input in task * UNPACKED..rows.min((task + 1) * UNPACKED) {
                let to = if input < fan_in { w.row(input) } else { b.row(0) };
                // SAFETY: a row of `columns` elements, the task's own.
                let to = unsafe { std::slice::from_raw_parts_mut(to, columns) };
                for block in 0..self.blocks {
                    for (gate, &in_w) in self.gates_in_w[..self.gates].iter().enumerate() {
                        let to = &mut to[gate_columns(columns / self.gates, block, in_w)];
                        let from = from.row(block, input).wrapping_add(gate * BLOCK);
                        // SAFETY: a row of a packed gradient has `gates · BLOCK` floats; nothing writes them now.
                        let from = unsafe { std::slice::from_raw_parts(from, to.len()) };
                        to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
                    }
                }
            }
        });
    }
}

/// The columns of `W` of a gate of a block of `units`.
fn gate_columns(units: usize, block: usize, gate: usize) -> Range<usize> {
    gate * units + block * BLOCK..gate * units + units.min((block + 1) * BLOCK)
}

/// The rows of `W` whose inputs are in a block of inputs.
fn input_rows(fan_in: usize, segments: usize, block: usize) -> Range<usize> {
    let len = fan_in / segments;
    let (segment, first) = (block / blocks(len), block % blocks(len) * BLOCK);
    segment * len + first..segment * len + len.min(first + BLOCK)
}

/// All weights of a model, packed.
#[derive(Debug)]
pub struct CpuWeights {
    pub(super) config: Config,
    pub(super) dtype: Dtype,
    pub(super) layout: Layout,
    /// Of a sequential model: what multiplies `x_t`, and the whole bias.
    pub(super) leaf: PackedLinear,
    /// The merge, then the unary layers: stage after stage. Of a sequential model: what multiplies `h_{t-1}`.
    pub(super) stages: Vec<PackedLinear>,
    pub(super) readout: PackedLinear,
    pub(super) pass: Pass,
}

impl CpuWeights {
    pub(super) fn new(config: &Config, layout: Layout, dtype: Dtype, pass: Pass) -> Result<Self> {
        let linear = |range, states, segments, words| {
            PackedLinear::new(range, config.cell.gates(states), segments, words, pass)
        };
        // The input of leaves is f32; the read-out is f32 whole.
        let (of_f32, of_h) = match dtype {
            Dtype::Bf16 => (Words::Rounded, Words::Pairs),
            _ => (Words::F32, Words::F32),
        };
        let (leaf, stages) = match config.recurrence {
            Recurrence::Tree => {
                let stages = std::iter::once(linear(&layout.merge, 2, 2, of_h))
                    .chain(layout.unary.iter().map(|range| linear(range, 1, 1, of_h)))
                    .collect::<Result<_>>()?;
                (linear(&layout.leaf, 0, 1, of_f32)?, stages)
            }
            Recurrence::Sequential => {
                let linear = |range| linear(range, 1, 1, of_h).map(PackedLinear::of_haiku);
                (linear(&layout.leaf)?, vec![linear(&layout.merge)?])
            }
        };
        Ok(CpuWeights {
            config: config.clone(),
            dtype,
            leaf,
            stages,
            readout: PackedLinear::new(&layout.readout, 1, 1, Words::F32, Pass::Infer)?,
            layout,
            pass,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.stages.iter().chain([&self.leaf, &self.readout]).map(PackedLinear::bytes).sum()
    }

    /// The range of a stage in the flat buffer.
    pub(super) fn stage_range(&self, stage: usize) -> &LinearRange {
        if stage == 0 { &self.layout.merge } else { &self.layout.unary[stage - 1] }
    }

    pub(super) fn pack(&mut self, parameters: &[f32]) {
        let CpuWeights { layout, leaf, stages, readout, .. } = self;
        leaf.pack(&layout.leaf, parameters);
        readout.pack(&layout.readout, parameters);
        let ranges = std::iter::once(&layout.merge).chain(&layout.unary);
        for (stage, range) in stages.iter_mut().zip(ranges) {
            stage.pack(range, parameters);
        }
        if self.config.recurrence == Recurrence::Sequential {
            self.one_bias();
        }
    }

    /// Makes the bias of the input rows that of the whole step: with the recurrent one of the RNN, with the 1 of the
    /// LSTM's forget gate.
    fn one_bias(&mut self) {
        let CpuWeights { config, leaf, stages, .. } = self;
        let (bias, recurrent) = (leaf.bias.as_mut_slice(), stages[0].bias.as_slice());
        match config.cell {
            Cell::Rnn => bias.iter_mut().zip(recurrent).for_each(|(bias, recurrent)| *bias += recurrent),
            Cell::Lstm => {
                for (block, bias) in bias.chunks_exact_mut(4 * BLOCK).enumerate() {
                    let live = BLOCK.min(config.hidden - block * BLOCK);
                    bias[3 * BLOCK..][..live].iter_mut().for_each(|forget| *forget += 1.0);
                }
            }
        }
    }
}
