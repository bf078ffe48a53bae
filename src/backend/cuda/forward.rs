//! The pass forward as launches: leaves, then step after step the merge and its unary layers, then the wanted `h`. A step
//! runs in chunks of at most 16384 rows, each through all stages. Small models have all steps in one launch.

use cudarc::driver::CudaView;

use super::arguments::{CellArguments, CollectArguments, TokensArguments, TreeArguments};
use super::backend::CudaInput;
use super::frame::Frame;
use super::kernels::{Cells, Kind};
use super::launch::Span;
use super::plan::{List, MOST_ROWS};
use super::regions::Kept;
use super::storage::Sizes;
use super::walk::Walk;
use crate::backend::Pass;
use crate::error::Result;

impl Frame<'_> {
    pub(super) fn forward(&self, input: &CudaInput<'_>, hidden: Span) -> Result<()> {
        let plain = &self.cuda.kernels().cells;
        // What runs the leaves keeps `z` where there is a way back.
        let cells = match self.regions.kept {
            Some(_) => &self.cuda.training()?.kernels.cells,
            None => plain,
        };
        match input {
            CudaInput::Tokens(tokens) => self.tokens(cells, tokens)?,
            CudaInput::Dense(x) => self.dense(cells, x)?,
        }
        let (cells, kept) = match self.plan.pass {
            Pass::Train => (cells, self.regions.kept),
            _ => (plain, None),
        };
        match &self.plan.walk {
            Some(walk) => self.walk(cells, kept.as_ref(), walk)?,
            None => self.steps(cells, kept.as_ref())?,
        }
        self.collect(hidden)
    }

    fn steps(&self, cells: &Cells, kept: Option<&Kept>) -> Result<()> {
        for (first, merges) in self.plan.steps() {
            let (first, rows) = (first * self.plan.width, merges * self.plan.width);
            for start in (0..rows).step_by(MOST_ROWS) {
                self.step(cells, kept, first + start, MOST_ROWS.min(rows - start))?;
            }
        }
        Ok(())
    }

    /// Launches all steps at once.
    fn walk(&self, cells: &Cells, kept: Option<&Kept>, walk: &Walk) -> Result<()> {
        let plan = self.plan;
        let rows = plan.merge_rows();
        // Where nothing is kept, what is between merge and unary layer does not leave the block.
        let between = |stage: usize| match kept {
            Some(kept) => (self.stage(kept, stage, 0, rows), 1),
            None => ([0; 2], 1),
        };
        let arguments = TreeArguments {
            merge: self.cell(0, kept, 0, rows, between),
            unary: self.cell(1, kept, 0, rows, between),
            step_ends: self.list(List::StepEnds, 0),
            steps: plan.step_ends.len() as u32,
            lanes: walk.lanes as u32,
            tile: walk.tile as u32,
        };
        self.cuda.walk("run all steps", cells.tree(plan.config.cell), &arguments, walk, walk.shared[0])
    }

    fn tokens(&self, cells: &Cells, tokens: &CudaView<'_, u32>) -> Result<()> {
        let (plan, cuda) = (self.plan, self.cuda);
        let rows = plan.leaf_rows();
        let (tokens, _tokens) = Span::of(tokens, cuda.stream());
        let (weights, bias) = self.packed(&self.weights.leaf);
        let arguments = TokensArguments {
            tokens: tokens.at(0, 4 * rows),
            h_out: self.h,
            c_out: self.c,
            weights,
            bias,
            out: self.list(List::Leaves, 0),
            bad: self.lists.at(0, 4),
            width: plan.width as u32,
            count: plan.leaves as u32,
            rows: rows as u32,
            units: self.sizes().units as u32,
            vocabulary: self.sizes().input as u32,
            z: self.regions.kept.map_or(0, |kept| self.z_leaf(&kept, 0)),
        };
        let kernel = cells.tokens(plan.config.cell);
        cuda.threads("run the leaves", kernel, &arguments, rows * (self.sizes().units / 4), 128)
    }

    fn dense(&self, cells: &Cells, x: &CudaView<'_, f32>) -> Result<()> {
        let plan = self.plan;
        let (x, _x) = Span::of(x, self.cuda.stream());
        let (weights, bias) = self.packed(&self.weights.leaf);
        for (first, count) in self.input_chunks() {
            let buffer = self.store_input(x, first, count)?;
            let rows = count * plan.width;
            for start in (0..rows).step_by(MOST_ROWS) {
                let arguments = CellArguments {
                    input: buffer,
                    h_out: self.h,
                    c_out: self.c,
                    weights,
                    bias,
                    out: self.list(List::Leaves, first),
                    width: plan.width as u32,
                    first: start as u32,
                    rows: MOST_ROWS.min(rows - start) as u32,
                    count: count as u32,
                    units: self.sizes().units as u32,
                    segment: self.sizes().padded_input as u32,
                    z: self.regions.kept.map_or(0, |kept| self.z_leaf(&kept, first * plan.width + start)),
                    ..Default::default()
                };
                self.layer(cells, Kind::Leaf, &arguments)?;
            }
        }
        Ok(())
    }

    /// Launch rows `first .. first + rows` of the pass's merges, through all stages; `z` and what lies between them is kept
    /// or not, as the cells do it.
    pub(super) fn step(&self, cells: &Cells, kept: Option<&Kept>, first: usize, rows: usize) -> Result<()> {
        let h_row = self.sizes().h_row;
        // Where nothing is kept `c` is updated in place.
        let between = |stage: usize| match kept {
            Some(kept) => (self.stage(kept, stage, first, rows), 1),
            None => ([self.workspace.at(self.regions.between[stage % 2], rows * h_row), self.c], 0),
        };
        for stage in 0..self.weights.stages.len() {
            let kind = if stage == 0 { Kind::Merge } else { Kind::Unary };
            self.layer(cells, kind, &self.cell(stage, kept, first, rows, between))?;
        }
        Ok(())
    }

    /// A stage of some of the merges' rows. `between`: `h` and `c` after a stage but the last, and whether `c` too lies there
    /// by these rows.
    fn cell(
        &self,
        stage: usize,
        kept: Option<&Kept>,
        first: usize,
        rows: usize,
        between: impl Fn(usize) -> ([u64; 2], u32),
    ) -> CellArguments {
        let units = self.sizes().units as u32;
        let last = self.weights.stages.len() - 1;
        let (weights, bias) = self.packed(&self.weights.stages[stage]);
        let states = ([self.h, self.c], 0);
        let ([input, c_in], c_in_local) = if stage == 0 { states } else { between(stage - 1) };
        let ([h_out, c_out], c_out_local) = if stage == last { states } else { between(stage) };
        CellArguments {
            input,
            c_in,
            h_out,
            c_out,
            weights,
            bias,
            left: self.list(List::Left, 0),
            right: self.list(List::Right, 0),
            out: self.list(List::Out, 0),
            width: self.plan.width as u32,
            first: first as u32,
            rows: rows as u32,
            count: 0,
            units,
            segment: units,
            h_local: u32::from(stage != last),
            z: kept.map_or(0, |kept| self.z(kept, stage, first, rows)),
            c_in_local,
            c_out_local,
        }
    }

    fn layer(&self, cells: &Cells, kind: Kind, arguments: &CellArguments) -> Result<()> {
        let cell = self.plan.config.cell;
        let layer = cells.layer(cell, kind);
        let (blocks, rows) = (self.sizes().unit_blocks(), arguments.rows as usize);
        let Sizes { storage, units, .. } = *self.sizes();
        if let Some((product, kernel)) = layer.stationary(self.cuda.product())
            && let Some(shared) =
                storage.stationary_shared_bytes(product, cell.gates(kind.states()), units, kind.states())
            && self.cuda.keeps_weights(blocks, rows, shared)
        {
            let shape = (product.threads(), shared);
            return self.cuda.stationary("run a layer", kernel, arguments, blocks, rows, shape);
        }
        self.cuda.tiled("run a layer", &layer.tiles, arguments, blocks, rows)
    }

    fn collect(&self, hidden: Span) -> Result<()> {
        let (plan, rows) = (self.plan, self.plan.output_rows());
        let Sizes { hidden: hidden_size, units, .. } = *self.sizes();
        let arguments = CollectArguments {
            h: self.h,
            outputs: self.list(List::Outputs, 0),
            hidden: hidden.at(0, 4 * rows * hidden_size),
            width: plan.width as u32,
            count: plan.outputs as u32,
            rows: rows as u32,
            units: units as u32,
            hidden_size: hidden_size as u32,
        };
        let collect = &self.cuda.kernels().collect;
        self.cuda.elementwise("collect the outputs", collect, &arguments, rows * hidden_size.div_ceil(4))
    }
}
