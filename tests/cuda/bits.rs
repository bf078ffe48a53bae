//! The device against itself, equal bits on every path: alone and anywhere in a batch, ragged and padded, pruned and
//! whole, tiles, tokens and one-hot rows, what memory held before, run after run. Each proves that it varied something.

use pr_lstm::model::Cell;
use pr_lstm::random::Random;
use pr_lstm::{Config, Cpu, Outputs};

use crate::common::device::{Device, Storage};
use crate::common::{
    Batch, POISON, Runner, Scanned, assert_same_bits, between, lengths, narrow, normals, parameters, ragged,
    random, schedule,
};

/// A random model of each cell with 0, 1 and 2 unary layers; their hidden sizes go round.
fn models(random: &mut Random, input: usize, hidden: &[usize]) -> Vec<(Config, Vec<f32>)> {
    let shapes =
        [Cell::Lstm, Cell::Rnn].into_iter().flat_map(|cell| (0..3).map(move |layers| (cell, layers)));
    shapes
        .zip(hidden.iter().cycle())
        .map(|((cell, layers), &hidden)| {
            let config = Config::new(input, hidden, between(random, 1, 9)).cell(cell).unary_layers(layers);
            let flat = narrow(&parameters(&config, random, 1.0));
            (config, flat)
        })
        .collect()
}

/// Not all of the rows are the same.
fn assert_rows_differ(scanned: &Scanned, config: &Config) {
    let rows: Vec<&[f32]> = scanned.hidden.chunks_exact(config.hidden).collect();
    assert!(rows.iter().any(|row| row != &rows[0]), "{config:?}: {} rows are all the same", rows.len());
}

#[test]
fn a_sequence_has_the_same_bits_alone_and_anywhere_in_a_batch() {
    let mut random = random(300);
    let models = models(&mut random, 5, &[1, 33, 64, 16, 70]);
    let device = Device::take();
    for storage in Storage::ALL {
        let backend = device.backend(storage);
        for (round, (config, flat)) in models.iter().enumerate() {
            let runner = Runner::new(&backend, config, flat);
            // Once as large as they come, over two tiles of rows and more; else at random.
            let size = if round % 3 == 1 { 130 } else { between(&mut random, 2, 40) };
            let same = vec![between(&mut random, 2, 9); size];
            let ragged = lengths(&mut random, size, 9);
            for lengths in [same, ragged] {
                let batch = match round % 2 {
                    0 => Batch::dense(&mut random, &lengths, config.input),
                    _ => Batch::tokens(&mut random, &lengths, config.input),
                };
                let together = runner.all(&batch);
                assert_rows_differ(&together, config);
                for place in [0, between(&mut random, 0, size - 1), size - 1] {
                    let first: usize = lengths[..place].iter().sum();
                    let alone = runner.all(&batch.alone(place));
                    assert!(alone.hidden.len() < together.hidden.len(), "the batch is no batch");
                    let what = format!("{storage:?}, {config:?}, place {place} of {size}");
                    together.rows(config, first..first + lengths[place]).assert_same_bits(&alone, &what);
                }
            }
        }
    }
}

#[test]
fn a_slot_of_many_rows_and_slots_of_one_give_the_same_bits() {
    let mut random = random(310);
    let models = models(&mut random, 5, &[33, 16, 48]);
    let device = Device::take();
    for storage in Storage::ALL {
        let backend = device.backend(storage);
        for (config, flat) in &models {
            let runner = Runner::new(&backend, config, flat);
            let lengths = vec![between(&mut random, 2, 12); 20];
            let batch = Batch::tokens(&mut random, &lengths, config.input);
            let [wide, thin] = [schedule(&lengths, &Outputs::All), ragged(&lengths, &Outputs::All)];
            assert_eq!((wide.width(), thin.width()), (20, 1));
            let (wide, thin) = (runner.run(&wide, &batch), runner.run(&thin, &batch));
            assert_rows_differ(&wide, config);
            thin.assert_same_bits(&wide, &format!("{storage:?}, {config:?}, {lengths:?}"));
        }
    }
}

#[test]
fn pruned_outputs_are_the_rows_of_all() {
    let mut random = random(320);
    let models = models(&mut random, 4, &[33, 16]);
    let device = Device::take();
    for storage in Storage::ALL {
        let backend = device.backend(storage);
        for (round, (config, flat)) in models.iter().enumerate() {
            let runner = Runner::new(&backend, config, flat);
            let longest = between(&mut random, 12, 40);
            let lengths: Vec<usize> = match round % 2 {
                0 => vec![longest; 5],
                _ => (0..5).map(|_| between(&mut random, 10, longest)).collect(),
            };
            let batch = Batch::tokens(&mut random, &lengths, config.input);
            let whole = schedule(&lengths, &Outputs::All);
            let all = runner.run(&whole, &batch);
            assert_rows_differ(&all, config);
            let last = between(&mut random, 2, 8);
            for outputs in [Outputs::Last, Outputs::LastN(last), Outputs::At(vec![1, 4, 8, 9])] {
                let pruned = schedule(&lengths, &outputs);
                assert!(pruned.merges() * pruned.width() < whole.merges() * whole.width(), "{outputs:?}");
                let mut rows = Vec::new();
                let mut first = 0;
                for &length in &lengths {
                    rows.extend((0..outputs.count(length)).map(|j| first + outputs.position(length, j)));
                    first += length;
                }
                let what = format!("{storage:?}, {config:?}, {lengths:?}, {outputs:?}");
                runner.run(&pruned, &batch).assert_same_bits(&all.rows(config, rows), &what);
            }
        }
    }
}

#[test]
fn tiles_give_the_same_bits() {
    let mut random = random(330);
    let models = models(&mut random, 40, &[33, 80, 16]);
    let device = Device::take();
    for storage in Storage::ALL {
        let tiles: Vec<usize> = Storage::TILES
            .into_iter()
            .filter(|&(of, tile)| of == storage && device.tiled(storage, tile).is_some())
            .map(|(_, tile)| tile)
            .collect();
        for (round, (config, flat)) in models.iter().enumerate() {
            // More than a tile of any kind, and not a whole number of them.
            let lengths = if round % 2 == 0 { vec![4; 90] } else { lengths(&mut random, 90, 5) };
            let batch = Batch::dense(&mut random, &lengths, config.input);
            let run = |&tile: &usize| {
                device.launches();
                let runner = Runner::new(&device.tiled(storage, tile).expect("the tile"), config, flat);
                let scanned = runner.all(&batch);
                if device.is_virtual() {
                    let ends_so = format!("_{tile}");
                    let launches = device.launches();
                    for cell in ["leaf_", "merge_", "unary_"].iter().take(2 + config.unary_layers.min(1)) {
                        let mut of_cell = launches.iter().filter(|launch| launch.kernel.starts_with(cell));
                        assert!(of_cell.clone().count() > 0, "no {cell}: {launches:?}");
                        assert!(of_cell.all(|launch| launch.kernel.ends_with(&ends_so)), "{launches:?}");
                    }
                }
                scanned
            };
            let found: Vec<_> = tiles.iter().map(run).collect();
            assert_rows_differ(&found[0], config);
            for (other, tile) in found[1..].iter().zip(&tiles[1..]) {
                other.assert_same_bits(
                    &found[0],
                    &format!("{storage:?}, {config:?}, {lengths:?}, tile {tile}"),
                );
            }
        }
    }
}

#[test]
fn tokens_are_one_hot_rows() {
    let mut random = random(340);
    let device = Device::take();
    for input in [1, 7, 40] {
        let models = models(&mut random, input, &[33, 16, 5]);
        for storage in Storage::ALL {
            let backend = device.backend(storage);
            for (config, flat) in &models {
                let runner = Runner::new(&backend, config, flat);
                let lengths = lengths(&mut random, 11, 6);
                let tokens = Batch::tokens(&mut random, &lengths, input);
                device.launches();
                let by_token = runner.all(&tokens);
                let lookups = device.blocks("tokens_");
                let by_row = runner.all(&tokens.one_hot(input));
                let products = device.blocks("leaf_");
                assert!(!device.is_virtual() || (lookups > 0 && products > 0), "{lookups} {products}");
                by_token.assert_same_bits(&by_row, &format!("{storage:?}, {config:?}"));
            }
        }
    }
}

#[test]
fn what_memory_held_before_changes_no_bit() {
    let mut random = random(350);
    let models = models(&mut random, 3, &[33, 16, 1, 137]);
    let device = Device::take();
    for storage in Storage::ALL {
        let backend = device.backend(storage);
        for (config, flat) in &models {
            let runner = Runner::new(&backend, config, flat);
            for lengths in [vec![6; 9], vec![7], lengths(&mut random, 8, 9)] {
                let batch = Batch::dense(&mut random, &lengths, config.input);
                let schedule = schedule(&lengths, &Outputs::All);
                let [clean, dirty] =
                    [0, POISON].map(|fill| runner.try_run(&schedule, &batch, fill).0.unwrap());
                dirty.assert_same_bits(&clean, &format!("{storage:?}, {config:?}, {lengths:?}"));
            }
        }
    }
}

#[test]
fn the_same_bits_run_after_run() {
    let mut random = random(360);
    let models = models(&mut random, 4, &[40, 17]);
    let device = Device::take();
    for storage in Storage::ALL {
        let backend = device.backend(storage);
        for (config, flat) in &models {
            let runner = Runner::new(&backend, config, flat);
            let batches: Vec<Batch> = (0..3)
                .map(|_| {
                    let size = between(&mut random, 1, 30);
                    let lengths = lengths(&mut random, size, 12);
                    Batch::tokens(&mut random, &lengths, config.input)
                })
                .collect();
            let first: Vec<Scanned> = batches.iter().map(|batch| runner.all(batch)).collect();
            // Others in between, and by a handle and weights of its own.
            let other = Runner::new(&device.backend(storage), config, flat);
            for (batch, first) in batches.iter().zip(&first) {
                runner.all(batch).assert_same_bits(first, &format!("{storage:?}, {config:?}, again"));
                other.all(batch).assert_same_bits(first, &format!("{storage:?}, {config:?}, another handle"));
            }
        }
    }
}

/// A launch takes 16384 rows at most: what lies before, on and behind the borders of chunks of leaves and of merges.
#[test]
fn more_rows_than_a_launch_takes() {
    let mut random = random(370);
    let device = Device::take();
    for storage in Storage::ALL {
        let backend = device.backend(storage).with_whole_tree(false);
        for (cell, lengths, dense) in [
            (Cell::Lstm, vec![2; 17_000], true),
            (Cell::Rnn, vec![60; 600], true),
            (Cell::Lstm, (0..12_000).map(|b| 3 + b % 2).collect(), false),
        ] {
            let config = Config::new(3, 2, 1).cell(cell);
            let runner = Runner::new(&backend, &config, &narrow(&parameters(&config, &mut random, 1.0)));
            let batch = match dense {
                true => Batch::dense(&mut random, &lengths, config.input),
                false => Batch::tokens(&mut random, &lengths, config.input),
            };
            let schedule = schedule(&lengths, &Outputs::All);
            device.launches();
            let together = runner.run(&schedule, &batch);
            if device.is_virtual() {
                let launches = device.launches();
                let count = |name: &str| launches.iter().filter(|l| l.kernel.starts_with(name)).count();
                assert!(count("merge_") > schedule.steps().len(), "one launch a step: {}", count("merge_"));
                assert!(!dense || count("leaf_") > 1, "one launch for all leaves");
            }
            assert_rows_differ(&together, &config);
            for place in [0, 16_383, 16_384, lengths.len() / 2, lengths.len() - 1] {
                let place = place.min(lengths.len() - 1);
                let first: usize = lengths[..place].iter().sum();
                let alone = runner.all(&batch.alone(place));
                let what = format!("{storage:?}, {config:?}, place {place} of {}", lengths.len());
                together.rows(&config, first..first + lengths[place]).assert_same_bits(&alone, &what);
            }
        }
    }
}

/// One f32 accumulator an output, k ascending, the bias last: as the CPU does it.
#[test]
fn a_read_out_has_the_bits_of_the_cpu() {
    let mut random = random(380);
    let device = Device::take();
    let backend = device.backend(Storage::Bf16);
    // The last three in steps of k and in tiles of both kinds.
    for (rows, hidden, output, kernel) in [
        (1, 1, 1, "readout"),
        (33, 31, 16, "readout"),
        (32, 100, 17, "readout"),
        (70, 33, 40, "readout"),
        (5, 300, 9, "readout"),
        (131, 515, 2, "readout"),
        (301, 77, 221, "readout_wide"),
        (1025, 64, 64, "readout_wide"),
    ] {
        let config = Config::new(2, hidden, output);
        let flat = narrow(&parameters(&config, &mut random, 1.0));
        let h = narrow(&normals(&mut random, rows * hidden, 1.0));
        let expected = Runner::new(&Cpu::new(), &config, &flat).readout(&h);
        let runner = Runner::new(&backend, &config, &flat);
        device.launches();
        let found = runner.readout(&h);
        let launches = device.launches();
        assert!(!device.is_virtual() || (launches.len(), &*launches[0].kernel) == (1, kernel));
        assert_same_bits(&found, &expected, &format!("{rows} rows, {config:?}"));
    }
}
