//! What the widest launch of a pass would take on a card by its counts: *modelled*, so a floor that keeps what was reached, and
//! no promise. `benches/modelled.rs` has the whole passes.

use std::path::Path;

use pr_lstm::{Config, Outputs};
use virtual_gpu::model::{Bound, H200};

use crate::common::device::{Device, Storage};
use crate::common::ptxas::resources;
use crate::common::{Batch, Runner, narrow, parameters, random, schedule};

const H: usize = 256;
const ROWS: usize = 256;

/// A merge of 32768 rows, as a step of the widest pass runs it: in launches of 16384. KERNELS wants 70 % of the ceiling; an H200
/// reached 40 % of it at commit 7181fcb: two blocks on an SM hide too little of each other's latencies.
#[test]
fn a_wide_merge_keeps_its_share_of_the_ceiling() {
    let mut random = random(630);
    let device = Device::take();
    if !device.is_virtual() {
        return;
    }
    let config = Config::new(2, H, 1);
    let flat = narrow(&parameters(&config, &mut random, 1.0));
    let batch = Batch::tokens(&mut random, &[2; ROWS], 2);
    let cuda = device.tiled(Storage::Bf16, 128).expect("the tile");
    let runner = Runner::new(&cuda, &config, &flat);
    device.launches();
    runner.run(&schedule(&[2; ROWS], &Outputs::Last), &batch);
    let launches = device.launches();
    let merge = launches.iter().find(|launch| launch.kernel == "merge_lstm_128").expect("a merge");
    let words = std::fs::read_to_string(Path::new(env!("PR_LSTM_KERNELS")).join("bf16.sm_90.txt"));
    let registers = resources(&words.expect("ptxas' words"))["merge_lstm_128"].registers;
    let modelled = H200.model(&merge.with_blocks((16384 / ROWS) as u32 * merge.blocks), registers);
    let modelled = modelled.expect("it fits");
    let flop = (2 * 2 * H * 5 * H * 16384) as f64;
    let share = flop / modelled.seconds / H200.mma_flops();
    println!("{modelled:?}: {:.1} % of the ceiling of mma.sync, modelled", 100.0 * share);
    assert_eq!((modelled.together, modelled.bound), (2, Bound::Chain));
    assert!((0.39..1.0).contains(&share), "{share}");
}
