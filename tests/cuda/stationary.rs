//! Weights that stay in a block while many rows go past, multiplied by `mma.sync` and by `wgmma`: the bits of the other tiles,
//! forward and in training, over several tiles a team of warps, in any order of warps, and nothing wasted.

use pr_lstm::backend::Backend as _;
use pr_lstm::model::Cell;
use pr_lstm::random::Random;
use pr_lstm::{Config, Cuda, Dtype, Outputs};
use virtual_gpu::Launched;

use crate::common::device::{Device, Storage};
use crate::common::{
    Batch, Runner, assert_same_bits, kept, lengths, narrow, normals, parameters, random, schedule,
};

/// The device; none, and a word, where a block has too little shared memory for weights that stay.
fn device() -> Option<Device> {
    let device = Device::take();
    let chip = device.backend(Storage::Bf16).device().chip;
    if matches!(chip, 86..=89 | 120..=129) {
        println!("left out: a block of sm_{chip} has 99 KiB");
        return None;
    }
    Some(device)
}

/// An LSTM whose weights fit a block of any chip with more than 99 KiB, and RNN's: two stages of `k` a unary layer, three, and many. Then, where it
/// fits, an LSTM that fills the shared memory of a block to the last byte, with two unary layers.
fn models(random: &mut Random, device: &Device) -> Vec<(Config, Vec<f32>)> {
    let mut sizes = vec![(Cell::Lstm, 128, 1), (Cell::Rnn, 192, 0), (Cell::Rnn, 500, 1)];
    if device.backend(Storage::Bf16).device().chip >= 90 {
        sizes.push((Cell::Lstm, 256, 2));
    }
    let model = |(cell, hidden, unary_layers)| {
        let config = Config::new(4, hidden, 2).cell(cell).unary_layers(unary_layers);
        let flat = narrow(&parameters(&config, random, 1.0));
        (config, flat)
    };
    sizes.into_iter().map(model).collect()
}

/// Virtual multiprocessors that are few enough for several tiles of the largest model.
const FEW: u32 = 32;

/// How kernels whose weights stay multiply, as their names end.
const MMA: &str = "256";
const WGMMA: &str = "wgmma";

/// A device with weights that stay, and what it multiplies with.
struct Stationary {
    cuda: Cuda,
    product: &'static str,
}

impl Stationary {
    /// By everything that the device can multiply with.
    fn all(device: &Device, storage: Storage) -> Vec<Self> {
        let cuda = device.tiled(storage, 256).expect("the tile");
        let mma = Stationary { cuda: cuda.clone().without_wgmma(), product: MMA };
        if cuda.device().chip == 90 { vec![Stationary { cuda, product: WGMMA }, mma] } else { vec![mma] }
    }

    /// Whether a model is to run so: beside `wgmma`, `mma.sync` runs only what fits no other chip.
    fn runs(&self, config: &Config) -> bool {
        let fits_others = config.cell == Cell::Rnn || config.hidden < 256;
        self.product == WGMMA || self.cuda.device().chip != 90 || !fits_others
    }
}

/// As many rows as all teams of warps have in so many tiles each, and 70: some teams have a tile more, one a part of it.
fn rows_of_tiles(cuda: &Cuda, config: &Config, tiles: usize) -> usize {
    let sharing = cuda.device().multiprocessors as usize / config.hidden.div_ceil(32);
    tiles * sharing * 256 + 70
}

/// Demands that merges and unary layers kept their weights, and multiplied so, or that none did.
fn assert_stationary(device: &Device, config: &Config, product: Option<&str>) {
    if device.is_virtual() {
        let launches = device.launches();
        for kind in &["merge", "unary"][..if config.unary_layers > 0 { 2 } else { 1 }] {
            let of_kind: Vec<_> =
                launches.iter().filter(|launch| launch.kernel.starts_with(kind)).map(|l| &l.kernel).collect();
            assert!(!of_kind.is_empty(), "no {kind}: {launches:?}");
            let layer = format!("{kind}_{}", config.cell.name());
            let keeps = |kernel: &str| {
                [MMA, WGMMA].into_iter().find(|product| kernel == format!("{layer}_{product}"))
            };
            assert!(of_kind.iter().all(|kernel| keeps(kernel) == product), "{of_kind:?}");
        }
    }
}

#[test]
fn it_has_the_bits_of_other_tiles() {
    let mut random = random(1100);
    let Some(device) = device() else { return };
    for storage in [Storage::Bf16, Storage::F16] {
        let (tiles, stationary) =
            (device.tiled(storage, 128).expect("the tile"), Stationary::all(&device, storage));
        for (round, (config, flat)) in models(&mut random, &device).iter().enumerate() {
            if round == 3 && storage == Storage::F16 {
                continue; // as dear as all others together
            }
            let passing = Runner::new(&tiles, config, flat);
            let mut shapes = vec![(vec![3; 90], Outputs::All), (lengths(&mut random, 40, 6), Outputs::Last)];
            // Several tiles a team, where that costs little: three of the model with fewest blocks that share rows, two of others,
            // and of the largest where there are few multiprocessors, as in scripts/test.
            let few = !device.is_virtual() || tiles.device().multiprocessors <= FEW;
            if (storage == Storage::Bf16) == (round % 2 == 0) || round == 3 && few {
                shapes.push((vec![2; rows_of_tiles(&tiles, config, 1 + round % 3 / 2)], Outputs::Last));
            }
            for (lengths, outputs) in shapes {
                let batch = Batch::tokens(&mut random, &lengths, config.input);
                let schedule = schedule(&lengths, &outputs);
                device.launches();
                let expected = passing.run(&schedule, &batch);
                assert_stationary(&device, config, None);
                for Stationary { cuda, product } in stationary.iter().filter(|way| way.runs(config)) {
                    let found = Runner::new(cuda, config, flat).run(&schedule, &batch);
                    assert_stationary(&device, config, Some(product));
                    let what =
                        format!("{storage:?}, {product}, {config:?}, {} lanes, {outputs:?}", lengths.len());
                    found.assert_same_bits(&expected, &what);
                }
            }
        }
    }
}

#[test]
fn training_has_the_bits_of_other_tiles() {
    let mut random = random(1110);
    let Some(device) = device() else { return };
    let tiles = device.tiled(Storage::Bf16, 128).expect("the tile");
    let stationary = Stationary::all(&device, Storage::Bf16);
    for (round, (config, flat)) in models(&mut random, &device).iter().enumerate() {
        let lanes = if round == 0 { rows_of_tiles(&tiles, config, 1) } else { 90 };
        let lengths = vec![2 + usize::from(round > 0); lanes];
        let batch = Batch::tokens(&mut random, &lengths, config.input);
        let schedule = kept(&lengths, &Outputs::Last);
        let d_logits = narrow(&normals(&mut random, lanes * config.output, 1.0));
        let train = |cuda: &Cuda, product: Option<&str>| {
            device.launches();
            let trained = Runner::training(cuda, config, flat).train(&schedule, &batch, &d_logits, 1);
            assert_stationary(&device, config, product);
            trained
        };
        let expected = train(&tiles, None);
        assert!(expected.gradients.iter().any(|&gradient| gradient != 0.0), "{config:?}");
        for Stationary { cuda, product } in stationary.iter().filter(|way| way.runs(config)) {
            let found = train(cuda, Some(product));
            assert_same_bits(&found.hidden, &expected.hidden, &format!("{product}, {config:?}: hidden"));
            let gradients = format!("{product}, {config:?}: gradients");
            assert_same_bits(&found.gradients, &expected.gradients, &gradients);
        }
    }
}

#[test]
fn ten_orders_of_warps_give_the_same_bits() {
    let mut random = random(1120);
    let Some(device) = device() else { return };
    if !device.is_virtual() {
        return;
    }
    for way in Stationary::all(&device, Storage::Bf16) {
        for (round, (config, flat)) in models(&mut random, &device).iter().enumerate() {
            if !way.runs(config) {
                continue;
            }
            let Stationary { cuda, product } = &way;
            let lanes = if round == 2 { rows_of_tiles(cuda, config, 1) } else { 300 };
            let batch = Batch::tokens(&mut random, &vec![2; lanes], config.input);
            let runner = Runner::new(cuda, config, flat);
            let schedule = schedule(&vec![2; lanes], &Outputs::Last);
            let run = || runner.run(&schedule, &batch);
            let expected = device.strict(run);
            for seed in 1..=if round >= 2 { 2 } else { 10 } {
                let found = device.strict(|| device.shuffled(seed, run));
                found.assert_same_bits(&expected, &format!("{product}, {config:?}, order {seed}"));
            }
        }
    }
}

/// One that is not to have `wgmma` has it in no other storage either.
#[test]
fn without_wgmma_it_stays() {
    let mut random = random(1150);
    let Some(device) = device() else { return };
    let (config, flat) = &models(&mut random, &device)[1];
    let cuda = device.tiled(Storage::Bf16, 256).expect("the tile").without_wgmma();
    let cuda = cuda.with_dtype(Dtype::F16).expect("kernels");
    device.launches();
    Runner::new(&cuda, config, flat)
        .run(&schedule(&[2; 9], &Outputs::Last), &Batch::tokens(&mut random, &[2; 9], config.input));
    assert_stationary(&device, config, Some(MMA));
}

/// It runs by itself where a step has rows enough, and not where the weights do not fit.
#[test]
fn wide_steps_take_it_where_it_fits() {
    let mut random = random(1130);
    let Some(device) = device() else { return };
    let cuda = device.backend(Storage::Bf16).with_whole_tree(false);
    let product = if cuda.device().chip == 90 { WGMMA } else { MMA };
    for (hidden, cell, rows, stationary) in [
        (512, Cell::Rnn, 2600, true),
        (512, Cell::Rnn, 1200, product == WGMMA),
        (512, Cell::Rnn, 100, false),
        (160, Cell::Rnn, 5200, false),
    ] {
        let config = Config::new(2, hidden, 1).cell(cell);
        let runner = Runner::new(&cuda, &config, &narrow(&parameters(&config, &mut random, 1.0)));
        let batch = Batch::tokens(&mut random, &vec![2; rows], 2);
        device.launches();
        runner.run(&schedule(&vec![2; rows], &Outputs::Last), &batch);
        assert_stationary(&device, &config, stationary.then_some(product));
    }
    // Asked for where the weights do not fit: 128 rows.
    let config = Config::new(2, 512, 1);
    let cuda = device.tiled(Storage::Bf16, 256).expect("the tile");
    let runner = Runner::new(&cuda, &config, &narrow(&parameters(&config, &mut random, 1.0)));
    device.launches();
    runner.run(&schedule(&[2], &Outputs::Last), &Batch::tokens(&mut random, &[2], 2));
    if device.is_virtual() {
        assert!(device.launches().iter().any(|launch| launch.kernel == "merge_lstm_128"));
    }
}

/// Bytes that the lanes of a launch ask for, and those that they write: a block's weights once, with every tile of 64 rows its
/// inputs and numbers, its c once. The bias is a block's by `wgmma`, else a thread's of a tile.
fn bytes(launch: &Launched, config: &Config, rows: usize, inputs: usize, by_wgmma: bool) -> [usize; 2] {
    let units = config.hidden.next_multiple_of(64);
    let (gates, k, across, tiles) = (config.cell.gates(inputs), inputs * units, units / 32, rows / 64);
    let c = if config.cell == Cell::Lstm { rows * units * 4 } else { 0 };
    let of_gates = if by_wgmma { launch.blocks as usize * 32 * 4 } else { across * tiles * 64 * 16 };
    // By `wgmma` two lanes ask for a row's.
    let numbers = across * rows * 4 * if inputs == 2 { 3 } else { 1 } * if by_wgmma { 2 } else { 1 };
    let weights = launch.blocks as usize * k * 32 * gates * 2;
    [across * rows * k * 2 + weights + of_gates * gates + inputs * c + numbers, rows * units * 2 + c]
}

/// KERNELS, section 2: no more products and no more bytes than needed, no bank twice, whole sectors, nothing spilled.
#[test]
fn it_does_no_more_than_it_must() {
    let mut random = random(1140);
    let Some(device) = device() else { return };
    if !device.is_virtual() {
        return;
    }
    let models = models(&mut random, &device);
    let stationary = Stationary::all(&device, Storage::Bf16);
    let runs = stationary.iter().flat_map(|way| models.iter().map(move |model| (way, model)));
    for (Stationary { cuda, product }, (config, flat)) in runs.filter(|(way, (config, _))| way.runs(config)) {
        let (rows, units) = (512, config.hidden.next_multiple_of(64));
        let runner = Runner::new(cuda, config, flat);
        let batch = Batch::tokens(&mut random, &vec![2; rows], config.input);
        device.launches();
        runner.run(&schedule(&vec![2; rows], &Outputs::Last), &batch);
        let launches = device.launches();
        for (kind, inputs) in [("merge", 2), ("unary", 1)].into_iter().take(1 + config.unary_layers.min(1)) {
            let name = format!("{kind}_{}_{product}", config.cell.name());
            let launch = launches.iter().find(|launch| launch.kernel == name).expect(&name);
            let needed = rows / 16 * (inputs * units / 16) * (config.cell.gates(inputs) * units / 8);
            let ratio = |name: &str| launch.counts[name] / launch.counts[&format!("{name}_ideal")];
            let (wavefronts, sectors) = (ratio("wavefronts"), ratio("sectors"));
            println!("{name}, H = {}: wavefronts {wavefronts:.3}, sectors {sectors:.3}", config.hidden);
            let by_wgmma = *product == WGMMA;
            let expected = if by_wgmma { [0, needed] } else { [needed, 0] };
            assert_eq!(
                ["mma", "wgmma"].map(|name| launch.counts[name]),
                expected.map(|n| n as f64),
                "{name}"
            );
            // Of a row of an RNN's weights, 48 bytes with the padding, 32 are read, on two sectors where they begin on neither.
            let most_sectors = if config.cell == Cell::Rnn { 1.06 } else { 1.05 };
            assert!(wavefronts <= 1.05 && sectors <= most_sectors, "{name}: {launch:?}");
            let bytes = bytes(launch, config, rows, inputs, by_wgmma).map(|n| n as f64);
            assert_eq!(["bytes_read", "bytes_written"].map(|name| launch.counts[name]), bytes, "{name}");
            assert_eq!(launch.counts["local_bytes"], 0.0, "{name}");
        }
    }
}
