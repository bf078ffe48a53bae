//! The pass backward as launches: the steps in reverse, in chunks as forward, then the leaves, then the gradients of the
//! weights. Where `z` was not kept a chunk runs forward once more before, and the weights' gradients follow window by window.
//!
//! Of a chunk of a step: the last layer's gates, from the gradients that the readers of its state left in their places;
//! layer by layer `dz` times the weights transposed, into the gates of the layer before; the merge's into its own places.
//! `dz` takes the memory of `z`. Small models have all steps in one launch.

use super::arguments::{
    GatesBackward, GatherArguments, ReduceArguments, TokenGradientArguments, TransposedArguments,
    TreeBackwardArguments, WeightGradientArguments,
};
use super::backend::CudaInput;
use super::frame::Frame;
use super::kernels::Kind;
use super::launch::Span;
use super::plan::{List, MOST_ROWS};
use super::regions::Kept;
use super::storage::{Chunks, GRADIENT_COLUMNS, GRADIENT_WINDOW, Layer, Sizes, TOKEN_COLUMNS, Transposed};
use super::training::TrainingKernels;
use super::walk::Walk;
use crate::backend::Pass;
use crate::error::{Error, Result};

/// A pass backward at work.
pub(super) struct Backward<'a> {
    pub frame: &'a Frame<'a>,
    pub kernels: &'a TrainingKernels,
    pub kept: Kept,
    /// `[output rows, H]`.
    pub d_hidden: u64,
    /// Flat.
    pub gradient: Span,
}

/// The rows of a layer over which its weights' gradient is taken.
struct Operands {
    input: u64,
    /// The slots of a merge's states, else 0.
    lists: [u64; 2],
    dz: u64,
    /// The first row, that of a window, and how many.
    first: usize,
    rows: usize,
    /// Rows of the layer.
    all: usize,
    /// Leaves whose dense input it is, else 0.
    count: usize,
}

impl Backward<'_> {
    /// Adds to the gradient, and to `d_input`, `[input rows, D]`, if there is one.
    pub(super) fn run(&self, input: &CudaInput<'_>, d_input: Option<Span>) -> Result<()> {
        let (frame, width) = (self.frame, self.frame.plan.width);
        let anew = frame.plan.pass == Pass::TrainRecompute;
        match &frame.plan.walk {
            Some(walk) if !anew => self.walk(walk)?,
            _ => self.steps(anew)?,
        }
        let gates = GatesBackward {
            z: frame.z_leaf(&self.kept, 0),
            width: width as u32,
            rows: frame.plan.leaf_rows() as u32,
            units: frame.sizes().units as u32,
            ..Default::default()
        };
        self.gather(Kind::Leaf, gates, 0)?;
        if let (CudaInput::Dense(_), Some(d_input)) = (input, d_input) {
            self.d_input(gates, d_input)?;
        }
        match input {
            CudaInput::Tokens(tokens) => {
                let (tokens, _tokens) = Span::of(tokens, frame.cuda.stream());
                self.token_gradient(tokens)?;
            }
            CudaInput::Dense(x) => {
                let (x, _x) = Span::of(x, frame.cuda.stream());
                for (first, count) in frame.input_chunks() {
                    let input = frame.store_input(x, first, count)?;
                    let dz = frame.z_leaf(&self.kept, first * width);
                    let rows = count * width;
                    let operands = Operands { input, lists: [0; 2], dz, first: 0, rows, all: rows, count };
                    self.weight_gradient(&frame.weights.leaf, self.kept.partial, &operands)?;
                }
            }
        }
        match anew {
            true => Ok(()),
            false => self.stage_gradients(0, frame.plan.merge_rows()),
        }
    }

    /// Rows `first .. first + rows` of the pass's merges, which are one step's, with their `z` computed anew; from the last
    /// to the first, cut where windows end. A window's gradients of weights are taken once its first row is through.
    fn step_anew(&self, first: usize, rows: usize) -> Result<()> {
        let (frame, window) = (self.frame, self.kept.window);
        let mut end = first + rows;
        while end > first {
            let start = ((end - 1) / window * window).max(first);
            // It writes the step's states once more, the same bits.
            frame.step(&self.kernels.cells, Some(&self.kept), start, end - start)?;
            self.step(start, end - start)?;
            if start.is_multiple_of(window) {
                self.stage_gradients(start, window.min(frame.plan.merge_rows() - start))?;
            }
            end = start;
        }
        Ok(())
    }

    /// The gradients of the weights of merge and unary layers, over rows `first .. first + rows` of the pass's merges. Ranges
    /// follow each other downwards.
    fn stage_gradients(&self, first: usize, rows: usize) -> Result<()> {
        let frame = self.frame;
        for (stage, layer) in frame.weights.stages.iter().enumerate() {
            let (input, lists) = match stage {
                0 => (frame.h, [List::Left, List::Right].map(|list| frame.list(list, 0))),
                _ => (frame.stage(&self.kept, stage - 1, first, rows)[0], [0; 2]),
            };
            let dz = frame.z(&self.kept, stage, first, rows);
            let operands = Operands { input, lists, dz, first, rows, all: frame.plan.merge_rows(), count: 0 };
            self.weight_gradient(layer, self.kept.partial_of(stage), &operands)?;
        }
        Ok(())
    }

    fn steps(&self, anew: bool) -> Result<()> {
        let width = self.frame.plan.width;
        let steps: Vec<_> = self.frame.plan.steps().collect();
        for &(first, merges) in steps.iter().rev() {
            let (first, rows) = (first * width, merges * width);
            if anew {
                self.step_anew(first, rows)?;
                continue;
            }
            for start in (0..rows).step_by(MOST_ROWS) {
                self.step(first + start, MOST_ROWS.min(rows - start))?;
            }
        }
        Ok(())
    }

    /// Launches all steps at once.
    fn walk(&self, walk: &Walk) -> Result<()> {
        let Frame { plan, weights, cuda, .. } = self.frame;
        let rows = plan.merge_rows();
        let transposed =
            |stage: usize| self.transposed(&weights.stages[stage], self.frame.z(&self.kept, stage, 0, rows));
        // Between the gates of the two layers the gradient of `c` does not leave the block.
        let gates = |stage: usize| GatesBackward { dc: 0, ..self.gates(stage, 0, rows) };
        let arguments = TreeBackwardArguments {
            unary: self.gathered(gates(1), plan.leaves),
            merge: TransposedArguments { gates: gates(0), ..transposed(1)?.0 },
            places: TransposedArguments { h_places: self.h_places(0, rows), ..transposed(0)?.0 },
            step_ends: self.frame.list(List::StepEnds, 0),
            steps: plan.step_ends.len() as u32,
            lanes: walk.lanes as u32,
            tile: walk.tile as u32,
        };
        let kernel = self.kernels.tree(plan.config.cell);
        cuda.walk("run all steps backward", kernel, &arguments, walk, walk.shared[1])
    }

    /// Launch rows `first .. first + rows` of the pass's merges, through all stages.
    fn step(&self, first: usize, rows: usize) -> Result<()> {
        let Frame { plan, weights, cuda, .. } = self.frame;
        let last = weights.stages.len() - 1;
        let kind = |stage: usize| if stage == 0 { Kind::Merge } else { Kind::Unary };
        self.gather(kind(last), self.gates(last, first, rows), plan.leaves)?;
        for stage in (1..=last).rev() {
            let (arguments, blocks) =
                self.transposed(&weights.stages[stage], self.frame.z(&self.kept, stage, first, rows))?;
            let arguments = TransposedArguments { gates: self.gates(stage - 1, first, rows), ..arguments };
            let kernels = self.kernels.gates_before(plan.config.cell, kind(stage - 1));
            cuda.tiled("run a layer backward", kernels, &arguments, blocks, rows)?;
        }
        let (arguments, blocks) =
            self.transposed(&weights.stages[0], self.frame.z(&self.kept, 0, first, rows))?;
        let arguments = TransposedArguments {
            gates: self.gates(0, first, rows),
            h_places: self.h_places(first, rows),
            ..arguments
        };
        cuda.tiled("run a merge backward", &self.kernels.into_places, &arguments, blocks, rows)
    }

    /// Where some of the merges' rows leave the gradients of their states' `h`.
    fn h_places(&self, first: usize, rows: usize) -> u64 {
        self.frame.rows(self.kept.h_places, 2 * 4 * self.frame.sizes().units, first, rows)
    }

    /// What the gates of a stage need for some of the merges' rows.
    fn gates(&self, stage: usize, first: usize, rows: usize) -> GatesBackward {
        let Frame { plan, workspace, .. } = *self.frame;
        let Sizes { units, c_row, .. } = *self.frame.sizes();
        let c_in = match stage {
            0 => self.frame.c,
            _ => self.frame.stage(&self.kept, stage - 1, first, rows)[1],
        };
        GatesBackward {
            z: self.frame.z(&self.kept, stage, first, rows),
            c_in,
            left: self.frame.list(List::Left, 0),
            right: self.frame.list(List::Right, 0),
            dc: workspace.at(self.kept.dc, rows * c_row),
            dc_places: workspace.at(self.kept.c_places, plan.merge_rows() * 2 * c_row),
            width: plan.width as u32,
            first: first as u32,
            rows: rows as u32,
            units: units as u32,
        }
    }

    /// The gates of a layer whose state is read by others; the first entry of its list is slot `slot`.
    fn gather(&self, kind: Kind, gates: GatesBackward, slot: usize) -> Result<()> {
        let kernel = self.kernels.gather(self.frame.plan.config.cell, kind);
        let threads = gates.rows as usize * (self.frame.sizes().units / 4);
        self.frame.cuda.elementwise("gather gradients", kernel, &self.gathered(gates, slot), threads)
    }

    fn gathered(&self, gates: GatesBackward, slot: usize) -> GatherArguments {
        let Frame { plan, workspace, .. } = *self.frame;
        let Sizes { units, hidden, c_row, .. } = *self.frame.sizes();
        GatherArguments {
            gates,
            h_places: workspace.at(self.kept.h_places, plan.merge_rows() * 2 * 4 * units),
            c_places: workspace.at(self.kept.c_places, plan.merge_rows() * 2 * c_row),
            reader_starts: self.frame.list(List::ReaderStarts, 0),
            readers: self.frame.list(List::Readers, 0),
            output_of: self.frame.list(List::OutputOf, 0),
            d_hidden: self.d_hidden,
            slot: slot as u32,
            outputs: plan.outputs as u32,
            hidden_size: hidden as u32,
        }
    }

    /// A layer's `dz` times its weights transposed, into nothing yet; and packed blocks of columns.
    fn transposed(&self, layer: &Layer, dz: u64) -> Result<(TransposedArguments, usize)> {
        let Frame { packed, .. } = self.frame;
        let Sizes { storage, units, .. } = *self.frame.sizes();
        let Some(Transposed { weights, elements, blocks, .. }) = layer.transposed else {
            return Err(Error::argument("weights", "those of a training pass", "those of inference"));
        };
        let arguments = TransposedArguments {
            dz,
            weights: packed.at(weights, storage.row_bytes(elements)),
            k: (layer.gates * units) as u32,
            columns: (layer.segments * layer.padded) as u32,
            ..Default::default()
        };
        Ok((arguments, blocks))
    }

    /// `dz` of the leaves, into the gradient of the dense input.
    fn d_input(&self, gates: GatesBackward, d_input: Span) -> Result<()> {
        let Frame { plan, cuda, weights, .. } = self.frame;
        let all = plan.leaf_rows();
        let d_input = d_input.at(0, 4 * all * plan.config.input);
        for first in (0..all).step_by(MOST_ROWS) {
            let rows = MOST_ROWS.min(all - first);
            let (arguments, blocks) = self.transposed(&weights.leaf, self.frame.z_leaf(&self.kept, first))?;
            let arguments = TransposedArguments {
                gates: GatesBackward { first: first as u32, rows: rows as u32, ..gates },
                d_input,
                count: plan.leaves as u32,
                input_size: plan.config.input as u32,
                ..arguments
            };
            let kernels = &self.kernels.into_input;
            cuda.tiled("find the input's gradient", kernels, &arguments, blocks, rows)?;
        }
        Ok(())
    }

    /// The partial sums from byte `partial` on of a layer's `inputs` rows of weights, and of its bias; so many chunks of each.
    fn partial(&self, layer: &Layer, partial: usize, chunks: [usize; 2], inputs: usize) -> [u64; 2] {
        let n = layer.gates * self.frame.sizes().units;
        let [w, b] = [4 * chunks[0] * inputs * n, 4 * chunks[1] * n];
        let Frame { workspace, .. } = self.frame;
        [workspace.at(partial, w), workspace.at(partial + w, b)]
    }

    /// Chunks of a layer's rows.
    fn chunks(&self, layer: &Layer, rows: usize) -> Chunks {
        Chunks::of(rows, self.frame.sizes().gradient_numbers(layer.gates, layer.segments * layer.padded))
    }

    /// Adds a range of rows to the partial sums; the lowest, which comes last, has those added to the flat gradient.
    fn weight_gradient(&self, layer: &Layer, partial: usize, operands: &Operands) -> Result<()> {
        let Frame { plan, cuda, .. } = self.frame;
        let &Operands { input, lists: [left, right], dz, first, rows, all, count } = operands;
        let n = layer.gates * self.frame.sizes().units;
        let chunks = self.chunks(layer, all);
        let [w, b] = self.partial(layer, partial, [chunks.count; 2], layer.segments * layer.padded);
        let arguments = WeightGradientArguments {
            input,
            left,
            right,
            dz,
            w,
            b,
            width: plan.width as u32,
            first: first as u32,
            rows: rows as u32,
            count: count as u32,
            segment: layer.padded as u32,
            segments: layer.segments as u32,
            n: n as u32,
            windows: all.div_ceil(GRADIENT_WINDOW) as u32,
            chunks: chunks.count as u32,
        };
        let inputs = layer.segments * layer.padded.div_ceil(self.frame.sizes().storage.gradient_inputs());
        let chunks_of_range = chunks.count.min(rows.div_ceil(GRADIENT_WINDOW));
        let blocks = [n.div_ceil(GRADIENT_COLUMNS), inputs, chunks_of_range];
        let kernel = &self.kernels.weight_gradient;
        let action = "find a weight's gradient";
        cuda.launch(action, &kernel.function, &arguments, blocks, 128, kernel.shared)?;
        match first {
            0 => self.reduce(layer, partial, [chunks.count; 2], layer.padded),
            _ => Ok(()),
        }
    }

    fn token_gradient(&self, tokens: Span) -> Result<()> {
        let Frame { plan, cuda, weights, .. } = self.frame;
        let (layer, rows) = (&weights.leaf, plan.leaf_rows());
        let n = layer.gates * self.frame.sizes().units;
        let vocabulary = layer.segment;
        let [of_tokens, of_bias] = [vocabulary, 1].map(|tokens| Chunks::of_tokens(rows, tokens));
        let chunks = [of_tokens.count, of_bias.count];
        let [w, b] = self.partial(layer, self.kept.partial, chunks, vocabulary);
        let arguments = TokenGradientArguments {
            tokens: tokens.at(0, 4 * rows),
            dz: self.frame.z_leaf(&self.kept, 0),
            w,
            b,
            width: plan.width as u32,
            rows: rows as u32,
            count: plan.leaves as u32,
            vocabulary: vocabulary as u32,
            n: n as u32,
            chunk: of_tokens.rows as u32,
            bias_chunk: of_bias.rows as u32,
            bias_chunks: of_bias.count as u32,
        };
        let blocks = [of_bias.count + vocabulary * of_tokens.count, n.div_ceil(TOKEN_COLUMNS), 1];
        let kernel = &self.kernels.token_gradient;
        cuda.launch("find the tokens' gradient", kernel, &arguments, blocks, TOKEN_COLUMNS as u32, 0)?;
        self.reduce(layer, self.kept.partial, chunks, vocabulary)
    }

    /// Adds the chunks of the weights, whose segments are `padded` rows apart, and of the bias to the flat gradient.
    fn reduce(&self, layer: &Layer, partial: usize, chunks: [usize; 2], padded: usize) -> Result<()> {
        let Sizes { units, hidden, .. } = *self.frame.sizes();
        let [partial_w, partial_b] = self.partial(layer, partial, chunks, layer.segments * padded);
        let flat = |range: &std::ops::Range<usize>| self.gradient.at(4 * range.start, 4 * range.len());
        let arguments = ReduceArguments {
            partial_w,
            partial_b,
            w: flat(&layer.from.w),
            b: flat(&layer.from.b),
            chunks: chunks[0] as u32,
            bias_chunks: chunks[1] as u32,
            segments: layer.segments as u32,
            segment: layer.segment as u32,
            padded: padded as u32,
            gates: layer.gates as u32,
            units: units as u32,
            hidden_size: hidden as u32,
        };
        let quads = (layer.from.fan_in + 1) * layer.from.columns.div_ceil(4);
        self.frame.cuda.threads("add a gradient", &self.kernels.reduce, &arguments, quads, 128)
    }
}
