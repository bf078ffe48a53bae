//! Weights as the kernels want them: panels of [`BLOCK`] units with the gates of a unit side by side, so that a
//! tile of a product holds every gate of its units and the gates are applied before `z` leaves the registers.

use std::ops::Range;

use super::memory::{CpuBuffer, Matrix};
use super::weight_gradient::PackedGradient;
use super::{BLOCK, blocks, parallel};
use crate::backend::Pass;
use crate::error::Result;
use crate::model::{Cell, Config, Layout, LinearRange, Recurrence};

/// Rows of `W` whose gradient one task unpacks.
const UNPACKED: usize = 32;

/// Columns of the transposed panels in one group: a tile of the backward product.
pub(super) const GROUP: usize = 4;

/// One `z = input · W + b`, packed.
#[derive(Debug)]
pub(super) struct PackedLinear {
    /// Gates of a unit; 1 for the read-out.
    pub gates: usize,
    /// Blocks of units.
    pub blocks: usize,
    /// Rows of `W`.
    pub fan_in: usize,
    /// Inputs come in this many segments (2 for a merge), each padded to whole blocks when transposed.
    segments: usize,
    /// Where each gate of a unit lies among the gates of `W`.
    gates_in_w: [usize; 5],
    /// `[blocks, fan_in, gates · BLOCK]`.
    panels: CpuBuffer<f32>,
    /// `[blocks, gates · BLOCK]`.
    bias: CpuBuffer<f32>,
    /// `[groups, blocks · gates · BLOCK, columns of the group · BLOCK]`; empty without a pass backward.
    transposed: CpuBuffer<f32>,
}

impl PackedLinear {
    fn new(range: &LinearRange, gates: usize, segments: usize, pass: Pass) -> Result<Self> {
        let blocks = blocks(range.columns / gates);
        let mut packed = PackedLinear {
            gates,
            blocks,
            fan_in: range.fan_in,
            segments,
            gates_in_w: [0, 1, 2, 3, 4],
            panels: CpuBuffer::zeroed(blocks * range.fan_in * gates * BLOCK)?,
            bias: CpuBuffer::zeroed(blocks * gates * BLOCK)?,
            transposed: CpuBuffer::zeroed(0)?,
        };
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

    /// The panel of a block of units, `[fan_in, gates · BLOCK]`.
    pub(super) fn panel(&self, block: usize) -> &[f32] {
        let len = self.fan_in * self.panel_width();
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
        let len = self.fan_in / self.segments;
        let (segment, first) = (block / blocks(len), block % blocks(len) * BLOCK);
        segment * len + first..segment * len + len.min(first + BLOCK)
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

    /// Calls `f(unit, position in a panel's row)` for every column of `W` in a block, in the order of `W`'s gates.
    fn columns(&self, block: usize, units: usize, mut f: impl FnMut(usize, usize)) {
        let live = BLOCK.min(units - block * BLOCK);
        for (gate, in_w) in self.gates_in_w[..self.gates].iter().enumerate() {
            for lane in 0..live {
                f(in_w * units + block * BLOCK + lane, gate * BLOCK + lane);
            }
        }
    }

    fn pack(&mut self, range: &LinearRange, parameters: &[f32]) {
        let (w, b) = (&parameters[range.w.clone()], &parameters[range.b.clone()]);
        let (columns, width, fan_in) = (range.columns, self.panel_width(), self.fan_in);
        let units = columns / self.gates;
        let (segments, segment_len) = (self.segments, fan_in / self.segments);
        for block in 0..self.blocks {
            let mut places = Vec::with_capacity(width);
            self.columns(block, units, |column, place| places.push((column, place)));
            let panel = &mut self.panels.as_mut_slice()[block * fan_in * width..][..fan_in * width];
            for (row, w) in panel.chunks_exact_mut(width).zip(w.chunks_exact(columns)) {
                places.iter().for_each(|&(column, place)| row[place] = w[column]);
            }
            let bias = &mut self.bias.as_mut_slice()[block * width..][..width];
            if !b.is_empty() {
                places.iter().for_each(|&(column, place)| bias[place] = b[column]);
            }
            if self.transposed.as_slice().is_empty() {
                continue;
            }
            let input_blocks = segments * blocks(segment_len);
            let rows = self.blocks * width;
            let transposed = self.transposed.as_mut_slice();
            for segment in 0..segments {
                for k in 0..segment_len {
                    let input = segment * blocks(segment_len) + k / BLOCK;
                    let group = input / GROUP;
                    let group_width = GROUP.min(input_blocks - group * GROUP) * BLOCK;
                    let start = group * GROUP * BLOCK * rows + input % GROUP * BLOCK + k % BLOCK;
                    let w = &w[(segment * segment_len + k) * columns..][..columns];
                    for &(column, place) in &places {
                        transposed[start + (block * width + place) * group_width] = w[column];
                    }
                }
            }
        }
    }

    /// Adds a packed gradient to that of the flat buffer.
    pub(super) fn unpack_add(&self, range: &LinearRange, from: PackedGradient<'_>, gradient: &mut [f32]) {
        let (columns, fan_in) = (range.columns, self.fan_in);
        let units = columns / self.gates;
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
                    let live = BLOCK.min(units - block * BLOCK);
                    for (gate, in_w) in self.gates_in_w[..self.gates].iter().enumerate() {
                        // SAFETY: a row of a packed gradient has `gates · BLOCK` floats; nothing writes them now.
                        let from = unsafe {
                            std::slice::from_raw_parts(from.row(block, input).add(gate * BLOCK), live)
                        };
                        let to = &mut to[in_w * units + block * BLOCK..][..live];
                        to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
                    }
                }
            }
        });
    }
}

/// All weights of a model, packed.
#[derive(Debug)]
pub struct CpuWeights {
    pub(super) config: Config,
    pub(super) layout: Layout,
    /// Of a sequential model: what multiplies `x_t`, and the whole bias.
    pub(super) leaf: PackedLinear,
    /// The merge, then the unary layers: stage after stage. Of a sequential model: what multiplies `h_{t-1}`.
    pub(super) stages: Vec<PackedLinear>,
    pub(super) readout: PackedLinear,
    pub(super) pass: Pass,
}

impl CpuWeights {
    pub(super) fn new(config: &Config, layout: Layout, pass: Pass) -> Result<Self> {
        let linear =
            |range, states, segments| PackedLinear::new(range, config.cell.gates(states), segments, pass);
        let (leaf, stages) = match config.recurrence {
            Recurrence::Tree => {
                let stages = std::iter::once(linear(&layout.merge, 2, 2))
                    .chain(layout.unary.iter().map(|range| linear(range, 1, 1)))
                    .collect::<Result<_>>()?;
                (linear(&layout.leaf, 0, 1)?, stages)
            }
            Recurrence::Sequential => {
                let linear = |range| linear(range, 1, 1).map(PackedLinear::of_haiku);
                (linear(&layout.leaf)?, vec![linear(&layout.merge)?])
            }
        };
        Ok(CpuWeights {
            config: config.clone(),
            leaf,
            stages,
            readout: PackedLinear::new(&layout.readout, 1, 1, Pass::Infer)?,
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
