//! Whether the steps of a pass are one launch, in which a block of threads walks the whole tree of its sequences, and in
//! what shape. Knows no address, and launches nothing.

use super::Cuda;
use super::storage::{Sizes, Storage};
use crate::backend::{Backend as _, Pass};
use crate::error::{Error, Result};
use crate::model::Config;
use crate::tree::Schedule;

/// Threads of a block, and warps, as the kernels have it.
pub(super) const THREADS: u32 = 256;
const WARPS: usize = THREADS as usize / 32;

/// Rows of a tile, largest first.
const TILES: [usize; 4] = [128, 64, 32, 16];

/// The launches of a step take as long as a block takes for so many tiles: modelled for an H200 (benches/modelled.rs), not
/// measured. What a launch takes does not depend on its rows as long as they are few.
fn tiles_a_step(storage: Storage) -> usize {
    match storage {
        Storage::Bf16 | Storage::F16 => 3,
        Storage::Split => 2,
        Storage::Ffma => 1,
    }
}

/// The shape of such a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    /// Lanes of a block.
    pub lanes: usize,
    pub blocks: usize,
    /// Rows of a step that a block takes at a time.
    pub tile: usize,
    /// Bytes of shared memory, on the way forward and back.
    pub shared: [usize; 2],
}

impl Walk {
    /// Of a schedule's steps, if they are to run so: where it pays, or where the device was told to.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the device was told to, and the model does not fit.
    pub(super) fn choose(
        cuda: &Cuda,
        config: &Config,
        sizes: &Sizes,
        pass: Pass,
        schedule: &Schedule,
    ) -> Result<Option<Self>> {
        let wanted = cuda.whole_tree;
        if wanted == Some(false) || pass == Pass::Stream || schedule.merges() == 0 {
            return Ok(None);
        }
        let multiprocessors = cuda.device().multiprocessors as usize;
        let walk = Walk::fit(config, sizes, pass, cuda.kernels().most_shared)
            .map(|walk| walk.over(schedule.width(), multiprocessors));
        match (walk, wanted) {
            (Ok(walk), Some(_)) => Ok(Some(walk)),
            (Ok(walk), None) => Ok(walk.pays(schedule, sizes.storage).then_some(walk)),
            (Err(_), None) => Ok(None),
            (Err(why), Some(_)) => {
                Err(Error::Unavailable { what: format!("the whole tree in a block on {}", cuda.name()), why })
            }
        }
    }

    /// The largest tile that fits and gives no warp more than one of its parts, for blocks that have one lane yet; or why there
    /// is none.
    fn fit(
        config: &Config,
        sizes: &Sizes,
        pass: Pass,
        most_shared: usize,
    ) -> std::result::Result<Self, String> {
        if config.unary_layers != 1 {
            return Err(format!("it is made for one unary layer, not {}", config.unary_layers));
        }
        let bytes = |tile| {
            let back = if pass == Pass::Train { sizes.walk_back_shared_bytes(config.cell, tile) } else { 0 };
            [sizes.walk_shared_bytes(config.cell, tile), back]
        };
        let least = TILES[TILES.len() - 1];
        let suits = |tile: usize| tile == least || tile / 16 * sizes.unit_blocks() <= WARPS;
        let fits = |tile: usize| bytes(tile).into_iter().all(|bytes| bytes <= most_shared);
        // On the way back no warp may have two of the parts of 32 units.
        let held = sizes.units.div_ceil(32) <= WARPS;
        match TILES.into_iter().find(|&tile| held && suits(tile) && fits(tile)) {
            Some(tile) => Ok(Walk { lanes: 1, blocks: 1, tile, shared: bytes(tile) }),
            None => {
                let needed = bytes(least).into_iter().max().unwrap_or(0);
                Err(format!(
                    "a hidden size of {} takes {needed} bytes of shared memory, of which a block has {most_shared}",
                    sizes.hidden
                ))
            }
        }
    }

    /// Spreads the lanes over the multiprocessors.
    fn over(self, width: usize, multiprocessors: usize) -> Self {
        let lanes = width.div_ceil(multiprocessors.max(1)).max(1);
        Walk { lanes, blocks: width.div_ceil(lanes), ..self }
    }

    fn pays(&self, schedule: &Schedule, storage: Storage) -> bool {
        let tiles = |merges: usize| (merges * self.lanes).div_ceil(self.tile);
        let steps = schedule.steps();
        let afford = tiles_a_step(storage) * steps.len();
        steps.map(|step| tiles(step.out.len())).sum::<usize>() <= afford
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Cell;
    use crate::tree::{Outputs, Planner, Rows};

    const MOST_SHARED: usize = 227 << 10;

    fn fit(cell: Cell, hidden: usize, storage: Storage, pass: Pass) -> std::result::Result<usize, String> {
        let config = Config::new(3, hidden, 2).cell(cell);
        Walk::fit(&config, &Sizes::new(&config, storage), pass, MOST_SHARED).map(|walk| walk.tile)
    }

    #[test]
    fn tiles_are_those_that_fit() {
        for (cell, hidden, storage, pass, tile) in [
            (Cell::Lstm, 64, Storage::Bf16, Pass::Infer, Some(32)),
            (Cell::Lstm, 64, Storage::Bf16, Pass::Train, Some(32)),
            (Cell::Lstm, 17, Storage::Bf16, Pass::Train, Some(64)),
            (Cell::Lstm, 1, Storage::F16, Pass::Infer, Some(128)),
            (Cell::Lstm, 96, Storage::Bf16, Pass::Infer, None),
            (Cell::Lstm, 32, Storage::Split, Pass::Train, Some(64)),
            (Cell::Lstm, 64, Storage::Split, Pass::Infer, None),
            (Cell::Lstm, 48, Storage::Ffma, Pass::Train, Some(32)),
            (Cell::Rnn, 128, Storage::Bf16, Pass::Train, Some(16)),
            (Cell::Rnn, 256, Storage::Bf16, Pass::Infer, None),
        ] {
            let found = fit(cell, hidden, storage, pass);
            assert_eq!(found.clone().ok(), tile, "{cell:?}, H = {hidden}, {storage:?}, {pass:?}: {found:?}");
        }
        let why = fit(Cell::Lstm, 256, Storage::Bf16, Pass::Infer).unwrap_err();
        assert!(why.contains("hidden size of 256") && why.contains("232448"), "{why}");
        let two = Config::new(3, 16, 2).unary_layers(2);
        let why = Walk::fit(&two, &Sizes::new(&two, Storage::Bf16), Pass::Infer, MOST_SHARED).unwrap_err();
        assert!(why.contains("one unary layer, not 2"), "{why}");
    }

    #[test]
    fn narrow_steps_are_walked_and_wide_ones_launched() {
        let walk = Walk { lanes: 1, blocks: 1, tile: 32, shared: [0; 2] };
        for (batch, time, lanes, blocks, pays) in [
            (128, 40, 1, 128, [true; 3]),
            (133, 40, 2, 67, [true, true, false]),
            (1, 270, 1, 1, [true, true, false]),
            (1, 1000, 1, 1, [false; 3]),
            (4096, 40, 32, 128, [false; 3]),
        ] {
            let mut schedule = Schedule::default();
            Planner::new()
                .padded(&mut schedule, batch, time, &Outputs::All, Rows::Reuse)
                .expect("a schedule");
            let walk = walk.over(schedule.width(), 132);
            assert_eq!((walk.lanes, walk.blocks), (lanes, blocks), "{batch} lanes");
            let found =
                [Storage::Bf16, Storage::Split, Storage::Ffma].map(|storage| walk.pays(&schedule, storage));
            assert_eq!(found, pays, "B = {batch}, T = {time}");
        }
    }
}
