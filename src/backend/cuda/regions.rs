//! Where each matrix of a pass lies in its workspace; knows no address.

use super::plan::{CudaPlan, MOST_ROWS};
use super::storage::{ALIGNMENT, Chunks, GRADIENT_WINDOW, Sizes};
use crate::backend::Pass;

/// Bytes of dense input that are brought into the storage at a time.
const MOST_INPUT: usize = 16 << 20;

/// Where each matrix begins in a workspace, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Regions {
    pub h: usize,
    pub c: usize,
    /// `h` between two stages of a step, where it is not kept. Where it is computed anew it lies there too: the pass
    /// forward is over by then.
    pub between: [usize; 2],
    /// Of a pass with a way back.
    pub kept: Option<Kept>,
    /// Dense input in the storage. It lies where `between` will, or the places: leaves run before the first step, and the
    /// gradient of their weights is taken when every place has been read.
    pub input: usize,
    pub end: usize,
}

/// What only a pass with a way back has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    /// Rows of merges whose `z` and stages are there at a time: row `r` of the pass lies at `r % window`. All of them, or a
    /// whole number of windows of the weights' gradients where `z` is computed anew.
    pub window: usize,
    /// `h` and `c` after each stage but the last, `[R, window]` rows of a state.
    pub stage_h: usize,
    pub stage_c: usize,
    /// `z`, then `dz`, of the leaves, `[window]` of the merges, and `[R, window]` of the unary layers.
    pub z_leaf: usize,
    pub z_merge: usize,
    pub z_unary: usize,
    /// Gradient of `c` between two stages of a step, `[rows of a chunk, units]` f32.
    pub dc: usize,
    /// Partial sums of the gradient of a layer's weights, f32: of the leaf, and each stage.
    pub partial: usize,
    /// Bytes from the merge's to those of the first unary layer, and from each of these to the next; 0 where one layer is
    /// finished before another begins.
    pub partial_steps: [usize; 2],
    /// Each merge's gradients of its two states, `[merge rows, 2 * units]` f32.
    pub h_places: usize,
    pub c_places: usize,
}

impl Kept {
    /// Where the partial sums of a stage lie.
    pub(super) fn partial_of(&self, stage: usize) -> usize {
        let [to_first, to_next] = self.partial_steps;
        if stage == 0 { self.partial } else { self.partial + to_first + (stage - 1) * to_next }
    }
}

impl CudaPlan {
    /// Leaves, all lanes of each, whose dense input is brought into the storage at a time.
    pub(super) fn leaves_at_once(&self) -> usize {
        (self.input_rows_at_once() / self.width.max(1)).clamp(1, self.leaves.max(1))
    }

    /// Rows that a chunk of dense input may have: those of one leaf at least.
    fn input_rows_at_once(&self) -> usize {
        (MOST_INPUT / self.sizes.input_row).clamp(1, MOST_ROWS).max(self.width)
    }

    /// Where the matrices lie; every end is saturated where it overflows, and grows with every size of the schedule.
    pub(super) fn regions(&self) -> Regions {
        let Sizes { storage, units, h_row, c_row, input_row, .. } = self.sizes;
        let (cell, unary) = (self.config.cell, self.config.unary_layers);
        let bytes = |rows: usize, row: usize| {
            rows.saturating_mul(row).checked_next_multiple_of(ALIGNMENT).unwrap_or(usize::MAX)
        };
        let mut end = 0usize;
        let mut take = |rows: usize, row: usize| {
            let start = end;
            end = end.saturating_add(bytes(rows, row));
            start
        };
        let widest = self.steps().map(|(_, merges)| merges).max().unwrap_or(0) * self.width;
        let chunk = widest.min(MOST_ROWS);
        // Streams keep their states in an arena.
        let rows = if self.pass == Pass::Stream { 0 } else { self.slots * self.width };
        let (h, c) = (take(rows, h_row), take(rows, c_row));
        let (between, kept, input);
        if self.pass.trains() {
            let (merges, leaves) = (self.merge_rows(), self.leaf_rows());
            let anew = self.pass == Pass::TrainRecompute;
            // The widest step fits where one can.
            let window = if anew { chunk.next_multiple_of(GRADIENT_WINDOW).min(merges) } else { merges };
            let kept_rows = window.saturating_mul(unary);
            let [of_leaf, of_merge, of_unary] = self.partial_numbers();
            let first = of_leaf.max(of_merge);
            let (partial, partial_steps) = match anew {
                true => (first.saturating_add(of_unary.saturating_mul(unary)), [first, of_unary]),
                false => (first.max(of_unary), [0; 2]),
            };
            let z_row = |states| storage.row_bytes(cell.gates(states) * units);
            let places = Kept {
                window: window.max(1),
                stage_h: take(kept_rows, h_row),
                stage_c: take(kept_rows, c_row),
                z_leaf: take(leaves, z_row(0)),
                z_merge: take(window, z_row(2)),
                z_unary: take(kept_rows, z_row(1)),
                dc: take(chunk, c_row),
                partial: take(partial, 4),
                partial_steps: partial_steps.map(|numbers| numbers.saturating_mul(4)),
                h_places: take(merges, 2 * 4 * units),
                c_places: take(merges, 2 * c_row),
            };
            between = [0, window].map(|rows| places.stage_h.saturating_add(rows.saturating_mul(h_row)));
            (kept, input) = (Some(places), places.h_places);
        } else {
            between = [1, 2].map(|layers| take(if unary >= layers { chunk } else { 0 }, h_row));
            (kept, input) = (None, between[0]);
        }
        let input_end =
            input.saturating_add(bytes(self.leaf_rows().min(self.input_rows_at_once()), input_row));
        Regions { h, c, between, kept, input, end: end.max(input_end) }
    }

    /// Numbers of the partial sums of leaf, merge and a unary layer.
    fn partial_numbers(&self) -> [usize; 3] {
        let Sizes { units, padded_input, .. } = self.sizes;
        let (cell, unary) = (self.config.cell, self.config.unary_layers);
        let layers = [
            (self.leaf_rows(), cell.gates(0), padded_input),
            (self.merge_rows(), cell.gates(2), 2 * units),
            (if unary > 0 { self.merge_rows() } else { 0 }, cell.gates(1), units),
        ];
        let [leaf, merge, unary] = layers.map(|(rows, gates, inputs)| {
            let numbers = self.sizes.gradient_numbers(gates, inputs);
            Chunks::at_most(rows, numbers).saturating_mul(numbers)
        });
        let n = cell.gates(0) * units;
        let of_tokens = Chunks::most_token_numbers(self.leaf_rows(), self.config.input, n);
        [leaf.max(of_tokens), merge, unary]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::{Cuda, test_device as device};
    use crate::model::{Cell, Config};
    use crate::random::{Purpose, Random};
    use crate::tree::{Outputs, Planner, Rows, Schedule};

    /// Of lengths to 40. Not of any: pruned, 30 outputs of 60 tokens take a merge more than 31 of 62 (`steps.rs`).
    #[test]
    fn what_is_made_for_the_largest_batch_does_for_all() {
        let cuda = device();
        for (input, unary, outputs) in [
            (3, 0, Outputs::Last),
            (3, 1, Outputs::All),
            (1 << 20, 2, Outputs::LastN(2)),
            (1, 2, Outputs::At(vec![0])),
        ] {
            let config = Config::new(input, 20, 2).unary_layers(unary);
            largest_does_for_all(&cuda, &config, &outputs, Pass::Infer, Rows::Reuse);
            largest_does_for_all(&cuda, &config, &outputs, Pass::Train, Rows::Keep);
            largest_does_for_all(&cuda, &config, &outputs, Pass::TrainRecompute, Rows::Keep);
        }
    }

    fn largest_does_for_all(cuda: &Cuda, config: &Config, outputs: &Outputs, pass: Pass, rows: Rows) {
        // More merges than a window has.
        let (most_batch, most_time) = (30, 40);
        let (mut planner, mut schedule) = (Planner::new(), Schedule::default());
        let mut padded = |schedule: &mut Schedule, batch, time| {
            planner.padded(schedule, batch, time, outputs, rows).expect("a schedule");
        };
        padded(&mut schedule, most_batch, most_time);
        let mut plan = CudaPlan::new(cuda, config, pass, &schedule).expect("a plan");
        let mut most = plan.regions().end;
        let mut ragged = Planner::new();
        ragged.ragged(&mut schedule, &vec![most_time; most_batch], outputs, rows).expect("a schedule");
        plan.fill(cuda, &schedule).expect("a plan");
        most = most.max(plan.regions().end);
        let words = plan.lists.len();
        let mut random = Random::new(3, Purpose::Show, config.input as u64, config.unary_layers as u32);
        for _ in 0..200 {
            let lengths: Vec<usize> = (0..=random.below(most_batch as u32))
                .take(most_batch)
                .map(|_| 2 + random.below(most_time as u32 - 1) as usize)
                .collect();
            if random.below(2) == 0 {
                padded(&mut schedule, lengths.len(), lengths[0]);
            } else {
                ragged.ragged(&mut schedule, &lengths, outputs, rows).expect("a schedule");
            }
            plan.fill(cuda, &schedule).expect("a plan");
            let bytes = plan.regions().end;
            assert!(bytes <= most, "{bytes} bytes for {lengths:?}, {most} for the largest");
            assert_eq!(plan.lists.len(), words, "lists grew for {lengths:?}");
            // No chunk of dense input is larger than its place.
            let chunk = plan.leaves_at_once() * plan.width * plan.sizes.input_row;
            assert!(plan.regions().input + chunk <= bytes);
        }
    }

    /// What is kept is there at once: no two matrices share a byte, and the last ends where the workspace does.
    #[test]
    fn matrices_that_are_kept_do_not_overlap() {
        let cuda = device();
        let shapes =
            [(Cell::Lstm, 2, 3, 9), (Cell::Lstm, 0, 1, 1), (Cell::Rnn, 1, 70, 5), (Cell::Lstm, 2, 9000, 4)];
        let passes = [Pass::Train, Pass::TrainRecompute];
        for ((cell, unary, width, time), pass) in
            shapes.into_iter().flat_map(|shape| passes.map(|pass| (shape, pass)))
        {
            let config = Config::new(5, 33, 2).cell(cell).unary_layers(unary);
            let mut schedule = Schedule::default();
            Planner::new().padded(&mut schedule, width, time, &Outputs::All, Rows::Keep).expect("a schedule");
            let plan = CudaPlan::new(&cuda, &config, pass, &schedule).expect("a plan");
            let Regions { h, c, between, kept, end, .. } = plan.regions();
            let kept = kept.expect("a way back");
            let Sizes { storage, units, h_row, c_row, .. } = plan.sizes;
            let (slots, leaves, merges) = (schedule.slots() * width, plan.leaf_rows(), plan.merge_rows());
            let z = |states: usize| storage.row_bytes(cell.gates(states) * units);
            let layers = [(leaves, 0, 16), (merges, 2, 96), (if unary > 0 { merges } else { 0 }, 1, 48)];
            let partial = layers.map(|(rows, states, inputs)| {
                let numbers = (inputs + 1) * cell.gates(states) * units;
                Chunks::of(rows, numbers).count * numbers * 4
            });
            let of_tokens = [5, 1].map(|vocabulary| Chunks::of_tokens(leaves, vocabulary).count * vocabulary);
            let of_tokens = of_tokens.iter().sum::<usize>() * cell.gates(0) * units * 4;
            let chunk = plan.steps().map(|step| step.1 * width).max().unwrap_or(0).min(MOST_ROWS);
            // What of the merges is there at a time: every step's chunk lies in it, and so in a whole number of windows.
            let (at_once, partial) = match pass {
                Pass::Train => (merges, partial.into_iter().fold(of_tokens, usize::max)),
                _ => {
                    let [of_leaf, of_merge, of_unary] = partial;
                    let ends = (1..=unary).map(|stage| kept.partial_of(stage) + of_unary);
                    let after_merge = if unary > 0 { kept.partial_of(1) } else { kept.h_places };
                    assert!(kept.partial + of_leaf.max(of_merge).max(of_tokens) <= after_merge);
                    assert!((2..=unary).all(|s| kept.partial_of(s - 1) + of_unary <= kept.partial_of(s)));
                    assert!(between[1] + chunk * h_row <= kept.stage_c || unary < 2);
                    assert!(between[0] + chunk * h_row <= between[1] || unary < 1);
                    let rows = chunk.next_multiple_of(GRADIENT_WINDOW).min(merges);
                    let end = ends.max().unwrap_or(kept.partial + of_leaf.max(of_merge).max(of_tokens));
                    (rows, end - kept.partial)
                }
            };
            assert_eq!(kept.window, at_once.max(1));
            let matrices = [
                (h, slots * h_row),
                (c, slots * c_row),
                (kept.stage_h, unary * at_once * h_row),
                (kept.stage_c, unary * at_once * c_row),
                (kept.z_leaf, leaves * z(0)),
                (kept.z_merge, at_once * z(2)),
                (kept.z_unary, unary * at_once * z(1)),
                (kept.dc, chunk * c_row),
                (kept.partial, partial),
                (kept.h_places, merges * 2 * 4 * units),
                (kept.c_places, merges * 2 * c_row),
            ];
            for (index, (start, bytes)) in matrices.into_iter().enumerate() {
                let next = matrices.get(index + 1).map_or(end, |next| next.0);
                assert!(start + bytes <= next, "{config:?}, {pass:?}, matrix {index}");
                assert_eq!(start % ALIGNMENT, 0);
            }
        }
    }
}
