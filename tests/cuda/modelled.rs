//! What the widest launch of a pass would take on a card by its counts: *modelled*, so a floor that keeps what was reached, and
//! no promise. `benches/modelled.rs` has the whole passes.

use std::path::Path;

use pr_lstm::{Config, Cuda, Outputs};
use virtual_gpu::Launched;
use virtual_gpu::model::{Bound, H200};

use crate::common::device::{Device, Storage};
use crate::common::ptxas::resources;
use crate::common::{Batch, Runner, narrow, parameters, random, schedule};

const H: usize = 256;
const ROWS: usize = 256;
/// Rows of the launch.
const LAUNCH: usize = 16384;

/// A merge of 32768 rows, as a step of the widest pass runs it: in launches of 16384, in tiles of 128 rows and where the weights
/// stay, by `mma.sync` and by `wgmma`. KERNELS wants 70 % of the ceiling of `mma.sync`. An H200 reached 40 % of it in tiles at commit
/// 7181fcb: two blocks on an SM hide too little of each other's latencies, and weights that come with every tile are more than L2
/// gives. Where they stay, what is left is that pairs of warps go in step; `wgmma` leaves them little else to do:
/// its rate here is the data sheet's and its wait a guess, and the share hangs on both, and on L2 (benches/modelled.rs).
#[test]
fn a_wide_merge_keeps_its_share_of_the_ceiling() {
    let mut random = random(630);
    let device = Device::take();
    if !device.is_virtual() {
        return;
    }
    if device.backend(Storage::Bf16).device().chip != 90 {
        println!("left out: what is modelled is an sm_90");
        return;
    }
    let config = Config::new(2, H, 1);
    let flat = narrow(&parameters(&config, &mut random, 1.0));
    let words = ["bf16.sm_90.txt", "wgmma_bf16.sm_90a.txt"]
        .map(|file| std::fs::read_to_string(Path::new(env!("PR_LSTM_KERNELS")).join(file)).expect(file));
    let resources = resources(&words.concat());
    let tiled = |tile| device.tiled(Storage::Bf16, tile).expect("the tile");
    let mut merge = |cuda: &Cuda, rows: usize| {
        let lengths = vec![2; rows];
        let batch = Batch::tokens(&mut random, &lengths, 2);
        device.launches();
        Runner::new(cuda, &config, &flat).run(&schedule(&lengths, &Outputs::Last), &batch);
        device.launches().into_iter().find(|launch| launch.kernel.starts_with("merge")).expect("a merge")
    };
    let share = |launch: &Launched, together: u32, least: f64| {
        let modelled = H200.model(launch, resources[&launch.kernel].registers).expect("it fits");
        let flop = (2 * 2 * H * 5 * H * LAUNCH) as f64;
        let share = flop / modelled.seconds / H200.mma_flops();
        println!(
            "{}: {modelled:?}: {:.1} % of the ceiling of mma.sync, modelled",
            launch.kernel,
            100.0 * share
        );
        assert_eq!((modelled.together, modelled.bound), (together, Bound::Chain));
        assert!((least..1.0).contains(&share), "{share}");
    };
    let tiles = merge(&tiled(128), ROWS);
    share(&tiles.with_blocks((LAUNCH / ROWS) as u32 * tiles.blocks), 2, 0.39);
    let stationary = tiled(256);
    // As many blocks as an H200 has multiprocessors for; the tiles of 256 rows after the first take as long as the second.
    let sharing = stationary.device().multiprocessors as usize / (H / 32);
    let blocks = (H200.sms as usize / (H / 32) * (H / 32)) as u32;
    let tiles_each = LAUNCH / ROWS / (blocks as usize / (H / 32));
    for (cuda, name, least) in
        [(stationary.clone().without_wgmma(), "merge_lstm_256", 0.54), (stationary, "merge_lstm_wgmma", 0.73)]
    {
        let [one, two] = [1, 2].map(|tiles| merge(&cuda, tiles * sharing * ROWS));
        assert_eq!([&one.kernel, &two.kernel], [name; 2]);
        share(&one.with_blocks(blocks).continued(&two.with_blocks(blocks), tiles_each - 1), 1, least);
    }
}
