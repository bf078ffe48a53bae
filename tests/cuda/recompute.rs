//! Training with `z` computed anew: the bits of training that keeps it, over passes of one window of rows and of many, and
//! as much less memory as is said.

use pr_lstm::backend::{Backend as _, Pass};
use pr_lstm::model::Cell;
use pr_lstm::{Config, Outputs};

use crate::common::device::{Device, Storage};
use crate::common::{Batch, Runner, between, kept, lengths, narrow, normals, parameters, random};

/// Rows of a window of the weights' gradients.
const WINDOW: usize = 1024;

/// Trains both ways and demands the same bits; `windows` are computed anew, one after the other.
fn check(
    device: &Device,
    storage: Storage,
    config: &Config,
    batch: &Batch,
    outputs: &Outputs,
    windows: usize,
) {
    let mut random = random(config.hidden as u64);
    let what = format!("{storage:?}, {config:?}, {outputs:?}, {} sequences", batch.lengths().len());
    let runner =
        Runner::training(&device.backend(storage), config, &narrow(&parameters(config, &mut random, 1.0)));
    let schedule = kept(&batch.lengths(), outputs);
    let rows = schedule.outputs().len() * schedule.width();
    let d_logits = narrow(&normals(&mut random, rows * config.output, 1.0));
    let [kept, anew] = [Pass::Train, Pass::TrainRecompute].map(|pass| {
        device.launches();
        let trained = runner.train_as(pass, &schedule, batch, &d_logits, 1);
        let launches = device.launches();
        let count = |start: &str| launches.iter().filter(|launch| launch.kernel.starts_with(start)).count();
        (trained, count("weight_gradient"), count("merge_"))
    });
    if device.is_virtual() {
        // Of each layer of the merges one a window, and one of the leaves where input is dense.
        let (layers, dense) = (1 + config.unary_layers, usize::from(matches!(batch, Batch::Dense(..))));
        assert_eq!((kept.1, anew.1), (windows.min(1) * layers + dense, windows * layers + dense), "{what}");
        assert!(anew.2 >= 2 * kept.2, "{what}: merges launched {} times, and {}", kept.2, anew.2);
    }
    assert!(kept.0.gradients.iter().any(|&d| d != 0.0), "{what}: no gradient");
    anew.0.assert_same_bits(&kept.0, &what);
}

/// Both cells with 0, 1 and 2 unary layers; tokens and dense input; steps that go over the end of a window; padded and
/// ragged.
#[test]
fn the_gradient_has_the_bits_of_training_that_keeps_z() {
    let mut random = random(1000);
    let device = Device::take();
    for (round, storage) in Storage::TRAINED.into_iter().enumerate() {
        let models =
            [Cell::Lstm, Cell::Rnn].into_iter().flat_map(|cell| (0..3).map(move |layers| (cell, layers)));
        for (index, (cell, layers)) in models.enumerate() {
            let config = Config::new(3, between(&mut random, 1, 16), 2).cell(cell).unary_layers(layers);
            // 72 merges a sequence, in steps of at most 20: windows of 1024 rows.
            let (lengths, outputs, windows) = match (index + round) % 3 {
                0 if index < 3 => (vec![40; 30], Outputs::All, (72 * 30usize).div_ceil(WINDOW)),
                0 | 1 => (vec![40; 15], Outputs::All, (72 * 15usize).div_ceil(WINDOW)),
                _ => (lengths(&mut random, 30, 8), Outputs::Last, 1),
            };
            let batch = match (index + round + index / 3) % 2 {
                0 => Batch::tokens(&mut random, &lengths, 3),
                _ => Batch::dense(&mut random, &lengths, 3),
            };
            check(&device, storage, &config, &batch, &outputs, windows);
        }
        let config = Config::new(3, 5, 2);
        check(&device, storage, &config, &Batch::tokens(&mut random, &[1; 5], 3), &Outputs::All, 0);
    }
}

/// A step of more rows than a launch takes, 16384, and of more than are there at a time.
#[test]
fn a_step_of_many_rows_has_the_bits_of_training_that_keeps_z() {
    let mut random = random(1010);
    let device = Device::take();
    let config = Config::new(2, 3, 1).cell(Cell::Rnn).unary_layers(0);
    let batch = Batch::tokens(&mut random, &vec![2; 17_000], 2);
    check(&device, Storage::Ffma, &config, &batch, &Outputs::Last, 2);
}

/// Bytes of a merge and of a leaf, both where the workspace of a window and of partial sums is the same.
#[test]
fn a_merge_takes_what_is_said() {
    let (batch, units) = (1024, 32);
    let device = Device::take();
    for (storage, element) in [(Storage::Bf16, 2), (Storage::Split, 6), (Storage::Ffma, 4)] {
        let backend = device.backend(storage);
        for layers in 0..3 {
            let config = Config::new(3, units, 2).unary_layers(layers);
            // State and the places of its gradients; `z`; the states between the stages.
            let (state, places) = (element + 4, 2 * (4 + 4));
            let (z, stages) = ((5 + 4 * layers) * element, layers * (element + 4));
            for (pass, a_merge) in
                [(Pass::Train, state + places + z + stages), (Pass::TrainRecompute, state + places)]
            {
                let of = |time: usize| {
                    let schedule = kept(&vec![time; batch], &Outputs::All);
                    let plan = backend.plan(&config, &schedule, pass).unwrap();
                    [backend.workspace_bytes(&plan), schedule.merges() * batch, time * batch]
                };
                let [short, long] = [of(40), of(80)];
                let [bytes, merges, leaves] = [0, 1, 2].map(|i| long[i] - short[i]);
                let a_leaf = state + 3 * element;
                assert_eq!(
                    bytes,
                    (merges * a_merge + leaves * a_leaf) * units,
                    "{storage:?}, {pass:?}, {layers}"
                );
            }
        }
    }
}

/// Of the paper's size.
#[test]
fn a_workspace_is_as_much_smaller() {
    let device = Device::take();
    let backend = device.backend(Storage::Bf16);
    let config = Config::new(2, 256, 2);
    for (time, outputs, most) in [
        (40, Outputs::All, 0.82),
        (40, Outputs::Last, 0.95),
        (500, Outputs::All, 0.65),
        (500, Outputs::Last, 0.76),
    ] {
        let schedule = kept(&[time; 128], &outputs);
        let [kept, anew] = [Pass::Train, Pass::TrainRecompute]
            .map(|pass| backend.workspace_bytes(&backend.plan(&config, &schedule, pass).unwrap()));
        println!("T = {time}, {outputs:?}: {kept} bytes, {anew} with recomputation");
        assert!((anew as f64) < most * kept as f64, "T = {time}, {outputs:?}: {anew} of {kept} bytes");
    }
}
