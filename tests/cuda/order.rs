//! Kernels in ten shuffled orders of warps and blocks, equal bits, with bare products and sums refused: what a race or a
//! fused multiply-add would change.

use pr_lstm::Config;
use pr_lstm::model::Cell;

use crate::common::device::{Device, Storage};
use crate::common::{Batch, Runner, lengths, narrow, parameters, random};

#[test]
fn ten_orders_of_warps_and_blocks_give_the_same_bits() {
    let mut random = random(500);
    let device = Device::take();
    if !device.is_virtual() {
        return;
    }
    for cell in [Cell::Lstm, Cell::Rnn] {
        // Two K tiles of the leaf and of the unary layer, three of the merge; two blocks of units; rows of several tiles.
        let config = Config::new(40, 48, 3).cell(cell);
        let flat = narrow(&parameters(&config, &mut random, 1.0));
        let dense = Batch::dense(&mut random, &[3; 70], config.input);
        let ragged = lengths(&mut random, 70, 4);
        let tokens = Batch::tokens(&mut random, &ragged, config.input);
        for (storage, tile) in Storage::TILES {
            let Some(backend) = device.tiled(storage, tile) else { continue };
            device.launches();
            let runner = Runner::new(&backend, &config, &flat);
            let run = || [runner.all(&dense), runner.all(&tokens)];
            let expected = device.strict(run);
            let launches = device.launches();
            let name = cell.name();
            for kernel in [
                "pack",
                "input",
                &format!("leaf_{name}_{tile}"),
                &format!("tokens_{name}"),
                &format!("merge_{name}_{tile}"),
                &format!("unary_{name}_{tile}"),
                "collect",
                "readout",
            ] {
                let blocks = launches.iter().filter(|l| l.kernel == kernel).map(|l| l.blocks).max();
                assert!(blocks.is_some_and(|blocks| blocks > 1), "{kernel}: {blocks:?} blocks to shuffle");
            }
            for seed in 1..=10 {
                let found = device.strict(|| device.shuffled(seed, run));
                for (found, expected) in found.iter().zip(&expected) {
                    found.assert_same_bits(
                        expected,
                        &format!("{storage:?}, {name}, tile {tile}, order {seed}"),
                    );
                }
            }
        }
    }
}

/// Packing too: the same weights in any order, by one launch.
#[test]
fn weights_packed_in_another_order_are_the_same() {
    let mut random = random(510);
    let device = Device::take();
    if !device.is_virtual() {
        return;
    }
    let config = Config::new(7, 33, 3);
    let flat = narrow(&parameters(&config, &mut random, 1.0));
    let batch = Batch::dense(&mut random, &[3; 5], config.input);
    for storage in Storage::ALL {
        let backend = device.backend(storage);
        let expected = Runner::new(&backend, &config, &flat).all(&batch);
        for seed in 1..=10 {
            device.launches();
            let runner = device.strict(|| device.shuffled(seed, || Runner::new(&backend, &config, &flat)));
            assert_eq!(device.launches().iter().map(|launch| &*launch.kernel).collect::<Vec<_>>(), ["pack"]);
            runner.all(&batch).assert_same_bits(&expected, &format!("{storage:?}, order {seed}"));
        }
    }
}
