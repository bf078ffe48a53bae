//! What a launch does, counted, at H = 256: matrix products no more than needed, shared memory without conflicts, device
//! memory in whole sectors, and no byte more than the tile's formula (KERNELS, section 2).

use pr_lstm::{Config, Outputs};
use virtual_gpu::Launched;

use crate::common::device::{Device, Storage};
use crate::common::{Batch, Runner, narrow, parameters, random, schedule};

const H: usize = 256;
/// Rows of the one step: whole tiles of either kind.
const ROWS: usize = 256;

/// Prints the counts beside what they may be, and holds them to it. `inputs` states of `k` elements of `H` go in.
fn check(launch: &Launched, tile: usize, inputs: usize) {
    let gates = 3 + inputs;
    let (k, tiles) = (inputs * H, ROWS / tile);
    // Of 32 rows: half the units, and half the threads.
    let (units, threads) = if tile == 32 { (16, 64) } else { (32, 128) };
    let across = H / units;
    assert_eq!(launch.blocks as usize, across * tiles);
    let count = |name: &str| launch.counts[name];
    // m16n8k16.
    let needed = (ROWS / 16 * (k / 16) * (gates * H / 8)) as f64;
    // Bytes that lanes ask for: the rows' inputs once a block of units, the packed weights once a tile of rows (a k of a
    // packed block of 16 units has 8 columns of padding), biases once a thread, c once a row, row numbers once a block and row.
    let input = ROWS * k * 2 * across;
    let weights = across * k * (units * gates + units / 16 * 8) * 2 * tiles;
    let bias = across * tiles * threads * gates * 16;
    let c = ROWS * inputs * H * 4;
    let lists = across * ROWS * 4 * if inputs == 2 { 3 } else { 1 };
    let read = (input + weights + bias + c + lists) as f64;
    // What is written: h in 16 bits and c.
    let written = (ROWS * H * (2 + 4)) as f64;
    // Eight rows of a warp ask for the same biases at once; L2 is asked once.
    let l2 = read - bias as f64 * (1.0 - 1.0 / 8.0) + written;
    println!("{}, {ROWS} rows, H = {H}, {} blocks:", launch.kernel, launch.blocks);
    for (name, found, ideal, most) in [
        ("mma", count("mma"), needed, 1.03),
        ("shared wavefronts", count("wavefronts"), count("wavefronts_ideal"), 1.05),
        ("sectors", count("sectors"), count("sectors_ideal"), 1.05),
        ("bytes read", count("bytes_read"), read, 1.0),
        ("bytes written", count("bytes_written"), written, 1.0),
        ("bytes of sectors", 32.0 * count("sectors"), l2, 1.05),
    ] {
        println!("  {name:18} {found:12.0}, ideal {ideal:12.0}, ratio {:.3}, at most {most}", found / ideal);
        assert!(found > 0.0 && found <= most * ideal, "{}: {name} {found} of {ideal}", launch.kernel);
    }
    println!("  special functions  {:12.0}", count("special"));
    // A tanh a gate, and one of c.
    assert_eq!(count("special"), (ROWS * H * (gates + 1)) as f64, "{}", launch.kernel);
    assert_eq!(count("local_bytes"), 0.0, "{}", launch.kernel);
}

#[test]
fn merge_and_unary_do_no_more_than_they_must() {
    let mut random = random(600);
    let device = Device::take();
    if !device.is_virtual() {
        return;
    }
    let config = Config::new(2, H, 1);
    let flat = narrow(&parameters(&config, &mut random, 1.0));
    let batch = Batch::tokens(&mut random, &[2; ROWS], 2);
    let schedule = schedule(&[2; ROWS], &Outputs::Last);
    assert_eq!((schedule.merges(), schedule.width()), (1, ROWS));
    for tile in [32, 64, 128] {
        let Some(cuda) = device.tiled(Storage::Bf16, tile) else { continue };
        let runner = Runner::new(&cuda, &config, &flat);
        device.launches();
        runner.run(&schedule, &batch);
        let launches = device.launches();
        for (kernel, inputs) in [(format!("merge_lstm_{tile}"), 2), (format!("unary_lstm_{tile}"), 1)] {
            let mut found = launches.iter().filter(|launch| launch.kernel == kernel);
            let (Some(launch), None) = (found.next(), found.next()) else { panic!("{kernel}: {launches:?}") };
            check(launch, tile, inputs);
        }
    }
}

/// Every way to keep numbers, in every tile: no conflicts in shared memory, whole sectors, nothing spilled.
#[test]
fn no_path_meets_a_bank_twice() {
    const ROWS: usize = 128;
    let mut random = random(610);
    let device = Device::take();
    if !device.is_virtual() {
        return;
    }
    let config = Config::new(2, H, 1);
    let flat = narrow(&parameters(&config, &mut random, 1.0));
    let batch = Batch::tokens(&mut random, &[2; ROWS], 2);
    let schedule = schedule(&[2; ROWS], &Outputs::Last);
    for (storage, tile) in Storage::TILES {
        let Some(cuda) = device.tiled(storage, tile) else { continue };
        let runner = Runner::new(&cuda, &config, &flat);
        device.launches();
        runner.run(&schedule, &batch);
        let launches = device.launches();
        for kernel in ["merge", "unary"] {
            let name = format!("{kernel}_lstm_{tile}");
            let launch = launches.iter().find(|launch| launch.kernel == name).expect(&name);
            let ratio = |name: &str| launch.counts[name] / launch.counts[&format!("{name}_ideal")];
            let (wavefronts, sectors) = (ratio("wavefronts"), ratio("sectors"));
            println!(
                "{storage:?} {name}: shared wavefronts {wavefronts:.3}, sectors {sectors:.3} of the ideal"
            );
            assert!(wavefronts <= 1.05 && sectors <= 1.05, "{storage:?} {name}: {launch:?}");
            assert_eq!(launch.counts["local_bytes"], 0.0, "{storage:?} {name}");
        }
    }
}
