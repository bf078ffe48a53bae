//! The CPU in bf16: every path of this processor against the oracle that rounds where they do, its bits whatever the
//! batch, the outputs, the threads and the workspace, streams, and what is refused.

mod common;

use common::{
    Batch, assert_same_bits, between, distance, draw_tokens, lengths, narrow, normals, oracle, parameters,
    random, refused, widen, worst_row,
};
use pr_lstm::backend::{Backend, Input, Pass};
use pr_lstm::model::{Cell, Recurrence};
use pr_lstm::reference::{self, round_bf16};
use pr_lstm::tree::{Planner, Rows, Schedule};
use pr_lstm::{Checkpoint, Config, Cpu, CpuPath, Dtype, Model, Outputs, Parameters, Streams};

/// The paths of this processor in bf16; says which it lacks, and why.
fn paths() -> Vec<CpuPath> {
    let (has, lacks): (Vec<CpuPath>, Vec<CpuPath>) =
        CpuPath::ALL.into_iter().partition(|path| path.is_available());
    let why = |path: &CpuPath| format!("{}: {}", path.name(), path.unavailable().unwrap());
    println!("paths {has:?}, skipped: {:?}", lacks.iter().map(why).collect::<Vec<_>>());
    has
}

fn cpu(path: CpuPath) -> Cpu {
    let cpu = Cpu::with_dtype_and_path(Dtype::Bf16, path).expect("an available path");
    assert_eq!(cpu.dtype(), Dtype::Bf16);
    cpu
}

fn model(config: &Config, flat: &[f32], cpu: &Cpu) -> Model<Cpu> {
    Model::new(&Checkpoint::new(config.clone(), flat.to_vec()), cpu.clone()).expect("a model")
}

/// Both cells with 0, 1 and 2 unary layers.
fn shapes() -> impl Iterator<Item = (Cell, usize)> {
    [Cell::Lstm, Cell::Rnn].into_iter().flat_map(|cell| (0..3).map(move |layers| (cell, layers)))
}

/// `relu(h) · W_out + b_out`, which is f32 in every type.
fn readout(config: &Config, flat: &[f32], hidden: &[f32]) -> Vec<f64> {
    let range = config.layout().unwrap().readout;
    let (w, b) = (widen(&flat[range.w]), widen(&flat[range.b]));
    let logit = |h: &[f64], column: usize| {
        let products = h.iter().enumerate().map(|(k, h)| h.max(0.0) * w[k * config.output + column]);
        b[column] + products.sum::<f64>()
    };
    let rows = widen(hidden);
    rows.chunks(config.hidden).flat_map(|h| (0..config.output).map(move |o| logit(h, o))).collect()
}

#[test]
fn random_models_follow_the_oracle_that_rounds() {
    for path in paths() {
        let mut worst = 0.0f64;
        for (seed, (cell, layers)) in (1..).zip(shapes()) {
            for hidden in [1, 16, 17, 33, 64, 137] {
                let mut random = random(100 * seed + hidden as u64);
                let config = Config::new(between(&mut random, 1, 9), hidden, between(&mut random, 1, 20))
                    .cell(cell)
                    .unary_layers(layers);
                let flat = narrow(&parameters(&config, &mut random, 1.0));
                // Steps of one row, of more than a tile, of more than one task.
                let size = [1, 3, 40][between(&mut random, 0, 2)];
                let most = if size == 40 { 20 } else { 70 };
                let lengths = match between(&mut random, 0, 1) {
                    0 => vec![most; size],
                    _ => lengths(&mut random, size, most),
                };
                let tokens = draw_tokens(&mut random, config.input, &lengths);
                let rounded =
                    reference::Parameters::from_flat(&config, &flat).unwrap().round_weights(round_bf16);
                let oracle = reference::Model::new(&config, rounded).unwrap().round_hidden(round_bf16);
                let expected = oracle.forward(&reference::Input::Tokens(tokens.clone())).unwrap();

                let model = model(&config, &flat, &cpu(path));
                let batch = Batch::Tokens(tokens);
                let mut session = batch.session(&model, Outputs::All);
                let logits = batch.forward(&mut session);
                assert_eq!(session.path(), path.name());
                let found = session.hidden().unwrap();
                let (error, row) = worst_row(&found, expected.hidden(), hidden);
                // What is not bounded passes a rounding that fell the other way on, and larger.
                let most = if cell == Cell::Lstm { 3e-3 } else { 1e-2 };
                assert!(error <= most, "{config:?} on {path:?}, {lengths:?}: row {row} is {error:e} off");
                let (of_logits, row) = worst_row(&logits, &readout(&config, &flat, &found), config.output);
                assert!(of_logits <= 1e-4, "{config:?} on {path:?}: logits of {row} are {of_logits:e} off");
                worst = worst.max(error);
            }
        }
        println!("{path:?}: worst {worst:.1e}");
        assert!(worst > 1e-6, "bf16 is never that near: {worst:e}");
    }
}

/// Rows that are longer than what is gathered at once.
#[test]
fn wide_models_follow_it_too() {
    let config = Config::new(3, 1056, 2);
    let mut random = random(7);
    let flat = narrow(&parameters(&config, &mut random, 1.0));
    let tokens = draw_tokens(&mut random, 3, &[5, 3, 4]);
    let rounded = reference::Parameters::from_flat(&config, &flat).unwrap().round_weights(round_bf16);
    let oracle = reference::Model::new(&config, rounded).unwrap().round_hidden(round_bf16);
    let expected = oracle.forward(&reference::Input::Tokens(tokens.clone())).unwrap();
    let batch = Batch::Tokens(tokens);
    for path in paths().into_iter().filter(|path| *path != CpuPath::Plain) {
        let mut session = batch.session(&model(&config, &flat, &cpu(path)), Outputs::All);
        batch.forward(&mut session);
        let (error, row) = worst_row(&session.hidden().unwrap(), expected.hidden(), 1056);
        assert!(error <= 3e-3, "{path:?}: row {row} is {error:e} off");
    }
}

#[test]
fn a_sequence_has_the_same_bits_alone_in_a_batch_and_where_outputs_are_pruned() {
    for path in paths() {
        for (seed, (cell, layers)) in (200..).zip(shapes()) {
            let mut random = random(seed);
            for (hidden, size, most) in [(33, 130, 12), (64, 5, 90), (137, 40, 6)] {
                let config = Config::new(4, hidden, 3).cell(cell).unary_layers(layers);
                let flat = narrow(&parameters(&config, &mut random, 1.0));
                let cpu = cpu(path);
                let model = model(&config, &flat, &cpu);
                for lengths in [vec![most; size], lengths(&mut random, size, most)] {
                    let batch = Batch::dense(&mut random, &lengths, 4);
                    let together = batch.logits(&model, Outputs::All);
                    let merges = cpu.work().merges;
                    let last = batch.logits(&model, Outputs::Last);
                    assert!(cpu.work().merges - merges < merges || lengths.iter().all(|&l| l <= 3));
                    let mut end = 0;
                    for (place, &length) in lengths.iter().enumerate() {
                        let first = end;
                        end += length;
                        let what = format!("{config:?} on {path:?}, {place} of {size}");
                        assert_same_bits(
                            &last[place * 3..][..3],
                            &together[(end - 1) * 3..end * 3],
                            &format!("{what}: pruned"),
                        );
                        if place % 7 == 0 || place + 1 == size {
                            let alone = batch.alone(place).logits(&model, Outputs::All);
                            assert_same_bits(&alone, &together[first * 3..end * 3], &what);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(feature = "rayon")]
#[test]
fn the_number_of_threads_changes_no_bit() {
    for path in paths() {
        for (seed, (cell, layers)) in (300..).zip(shapes()) {
            let mut random = random(seed);
            let config = Config::new(5, 150, 3).cell(cell).unary_layers(layers);
            let flat = narrow(&parameters(&config, &mut random, 1.0));
            // Their widest steps are divided by rows, the others by units.
            let ragged = lengths(&mut random, 80, 30);
            for batch in [Batch::dense(&mut random, &[21; 80], 5), Batch::dense(&mut random, &ragged, 5)] {
                let mut expected = None;
                for threads in [1, 2, 5] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    for attempt in 0.. {
                        let cpu = cpu(path);
                        let logits =
                            pool.install(|| batch.logits(&model(&config, &flat, &cpu), Outputs::All));
                        let what = format!("{config:?} on {path:?}, {threads} threads");
                        assert_same_bits(&logits, expected.get_or_insert_with(|| logits.clone()), &what);
                        let workers = cpu.work().by_worker.iter().filter(|&&rows| rows > 0).count();
                        if workers >= threads.min(2) {
                            break;
                        }
                        assert!(attempt < 99, "no second worker of {threads} ever did a row");
                    }
                }
            }
        }
    }
}

#[test]
fn what_the_workspace_held_before_changes_no_bit() {
    for path in paths() {
        for (seed, (cell, layers)) in (400..).zip(shapes()) {
            for hidden in [1, 16, 33, 137] {
                let mut random = random(seed);
                let config = Config::new(3, hidden, 1).cell(cell).unary_layers(layers);
                let flat = narrow(&parameters(&config, &mut random, 1.0));
                let x = narrow(&normals(&mut random, 20 * 21 * 3, 1.0));
                let cpu = cpu(path);
                let mut weights = cpu.weights(&config, Pass::Infer).unwrap();
                cpu.pack(&flat, &mut weights).unwrap();
                let mut schedule = Schedule::default();
                Planner::new().padded(&mut schedule, 20, 21, &Outputs::All, Rows::Reuse).unwrap();
                let plan = cpu.plan(&config, &schedule, Pass::Infer).unwrap();
                let pass = |fill: u8| {
                    let mut workspace = cpu.alloc::<f32>(cpu.workspace_bytes(&plan) / 4).unwrap();
                    let workspace: &mut [u8] = bytemuck::cast_slice_mut(workspace.as_mut_slice());
                    workspace.fill(fill);
                    let mut y = vec![f32::NAN; 20 * 21 * hidden];
                    cpu.scan(&weights, &plan, Input::Dense(&x[..]), workspace, &mut y).unwrap();
                    y
                };
                let clean = pass(0);
                // All bits 1 are a NaN, of bf16 as of f32.
                assert_same_bits(&pass(0xff), &clean, &format!("{config:?} on {path:?}"));
            }
        }
    }
}

/// What lies beside the units of a state is never more than 0, whatever the arena held and however large `h` grows.
#[test]
fn the_padding_of_a_state_reaches_no_result() {
    for path in paths() {
        for (seed, (cell, layers)) in (600..).zip(shapes()) {
            for hidden in [16, 17] {
                let mut random = random(seed);
                let config = Config::new(3, hidden, 1).cell(cell).unary_layers(layers);
                let flat = narrow(&parameters(&config, &mut random, 1.0));
                let cpu = cpu(path);
                let mut weights = cpu.weights(&config, Pass::Infer).unwrap();
                cpu.pack(&flat, &mut weights).unwrap();
                let mut schedule = Schedule::default();
                // A merge of the two states in slots 0 and 1, one of them written from outside.
                Planner::new().padded(&mut schedule, 1, 2, &Outputs::Last, Rows::Reuse).unwrap();
                let plan = cpu.plan(&config, &schedule, Pass::Stream).unwrap();
                let states = vec![0.25; 2 * hidden];
                let append = |fill: u8| {
                    let mut arena = cpu.alloc::<f32>(cpu.arena_bytes(&config, 8) / 4).unwrap();
                    let arena: &mut [u8] = bytemuck::cast_slice_mut(arena.as_mut_slice());
                    arena.fill(fill);
                    cpu.write_states(&config, arena, &[5], &states).unwrap();
                    let mut workspace = cpu.alloc::<f32>(cpu.workspace_bytes(&plan) / 4).unwrap();
                    let workspace = bytemuck::cast_slice_mut(workspace.as_mut_slice());
                    let mut y = vec![f32::NAN; hidden];
                    let tokens = Input::Tokens(&[0u32, 2][..]);
                    cpu.append(&weights, &plan, tokens, arena, workspace, &mut y).unwrap();
                    let mut read = vec![f32::NAN; 2 * hidden];
                    cpu.read_states(&config, arena, &[5], &mut read).unwrap();
                    assert_eq!(read[..hidden], states[..hidden]);
                    y
                };
                assert_same_bits(&append(0xff), &append(0), &format!("{config:?} on {path:?}"));
            }
        }
        // All weights 1 and a bias that is as large as they come: `h` of the RNN is infinite after the first merge.
        let infinite = [16, 17].map(|hidden| {
            let config = Config::new(1, hidden, 1).cell(Cell::Rnn).unary_layers(0);
            let mut flat = vec![1.0; config.layout().unwrap().len()];
            flat[config.layout().unwrap().leaf.b].fill(3e38);
            Batch::Tokens(vec![vec![0; 4]]).logits(&model(&config, &flat, &cpu(path)), Outputs::Last)
        });
        assert_eq!(infinite, [[f32::INFINITY], [f32::INFINITY]], "{path:?}");
    }
}

#[test]
fn streams_give_the_bits_of_the_whole_scan() {
    for path in paths() {
        for (seed, (cell, layers)) in (500..).zip(shapes()) {
            for hidden in [33, 64] {
                let mut random = random(seed);
                let config = Config::new(4, hidden, 3).cell(cell).unary_layers(layers);
                let flat = narrow(&parameters(&config, &mut random, 1.0));
                let model = model(&config, &flat, &cpu(path));
                let tokens = draw_tokens(&mut random, 4, &[75, 41]);
                let whole: Vec<Vec<f32>> = tokens
                    .iter()
                    .map(|tokens| Batch::Tokens(vec![tokens.clone()]).logits(&model, Outputs::All))
                    .collect();
                let what = format!("{config:?} on {path:?}");
                let check = |y: &[f32], sequence: usize, end: usize| {
                    assert_same_bits(y, &whole[sequence][(end - 1) * 3..][..3], &format!("{what} at {end}"));
                };
                let mut streams: Streams<Cpu> = model.streams(4).unwrap();
                let (a, b) = (streams.open().unwrap(), streams.open().unwrap());
                check(streams.prefill(b, &tokens[1][..20]).unwrap(), 1, 20);
                for end in 1..=21 {
                    let y = streams.append(&[(a, tokens[0][end - 1]), (b, tokens[1][19 + end])]).unwrap();
                    check(&y[..3], 0, end);
                    check(&y[3..], 1, 20 + end);
                }
                // A copy within the arena, and one through the host.
                let fork = streams.fork(a).unwrap();
                let saved = streams.save(fork).unwrap();
                let restored = streams.restore(&saved).unwrap();
                for stream in [fork, restored] {
                    for end in 22..=75 {
                        check(streams.append(&[(stream, tokens[0][end - 1])]).unwrap(), 0, end);
                    }
                }
            }
        }
    }
}

#[test]
fn states_take_half_the_room_and_weights_too() {
    let config = Config::new(3, 256, 2);
    let flat = vec![0.0; config.layout().unwrap().len()];
    let bytes = |cpu: &Cpu| {
        let model = model(&config, &flat, cpu);
        let session = model.session().max_batch(8).max_time(64).build().unwrap();
        [model.weights_bytes(), session.workspace_bytes(), cpu.arena_bytes(&config, 10)]
    };
    let [f32_bytes, bf16_bytes] =
        [Cpu::new(), Cpu::new().with_dtype(Dtype::Bf16).unwrap()].map(|c| bytes(&c));
    assert_eq!(f32_bytes[2], 10 * 256 * 8);
    assert_eq!(bf16_bytes[2], 10 * 256 * 6);
    assert!(bf16_bytes[0] * 100 < f32_bytes[0] * 52, "{bf16_bytes:?} {f32_bytes:?}");
    assert!(bf16_bytes[1] * 100 < f32_bytes[1] * 76, "{bf16_bytes:?} {f32_bytes:?}");
}

#[test]
fn what_it_cannot_do_is_refused() {
    let config = Config::new(3, 8, 2);
    let bf16 = Cpu::new().with_dtype(Dtype::Bf16).unwrap();
    refused(Parameters::init(&config, bf16.clone(), 0), &["training in bf16 on cpu", "train in f32"]);
    let sequential = config.clone().unary_layers(0).recurrence(Recurrence::Sequential);
    refused(bf16.weights(&sequential, Pass::Infer), &["a sequential model in bf16 on cpu", "f32"]);
    refused(Cpu::new().with_dtype(Dtype::F16), &["f16 on cpu", "f32 and bf16"]);
    for path in [CpuPath::Avx512Bf16, CpuPath::Amx] {
        refused(Cpu::with_path(path), &["CPU path", path.name(), "the fastest path in f32 is"]);
    }
    for path in CpuPath::ALL.into_iter().filter(|path| !path.is_available()) {
        refused(Cpu::with_dtype_and_path(Dtype::Bf16, path), &["CPU path", path.name(), "the processor"]);
    }
    // A path other than the fastest was forced, and stays where it can.
    let plain = Cpu::with_path(CpuPath::Plain).unwrap().with_dtype(Dtype::Bf16).unwrap();
    let session =
        model(&config, &vec![0.0; config.layout().unwrap().len()], &plain).session().build().unwrap();
    assert_eq!(session.path(), "plain");

    // A number that bf16 would round to infinity.
    let mut flat = vec![0.0; config.layout().unwrap().len()];
    flat[1] = f32::MAX;
    refused(Model::new(&Checkpoint::new(config.clone(), flat), bf16), &["leaf.w, element 1", "bf16 on cpu"]);

    // Weights of one type, a plan of the other.
    let f32_weights = Cpu::new().weights(&config, Pass::Infer).unwrap();
    let mut schedule = Schedule::default();
    Planner::new().padded(&mut schedule, 1, 2, &Outputs::Last, Rows::Reuse).unwrap();
    let bf16 = Cpu::new().with_dtype(Dtype::Bf16).unwrap();
    let plan = bf16.plan(&config, &schedule, Pass::Infer).unwrap();
    let mut workspace = bf16.alloc::<u8>(bf16.workspace_bytes(&plan)).unwrap();
    let pass = bf16.scan(
        &f32_weights,
        &plan,
        Input::Tokens(&[0u32, 1][..]),
        workspace.as_mut_slice(),
        &mut [0.0; 8],
    );
    refused(pass, &["weights", "bf16", "f32"]);
}

/// The oracle that does not round is further away than the one that does: rounding is where it is said to be.
#[test]
fn the_oracle_that_rounds_is_the_nearer_one() {
    let config = Config::new(4, 64, 2);
    let mut random = random(9);
    let flat = narrow(&parameters(&config, &mut random, 1.0));
    let tokens = draw_tokens(&mut random, 4, &[40, 40]);
    let input = reference::Input::Tokens(tokens.clone());
    let exact = oracle(&config, &widen(&flat)).forward(&input).unwrap();
    let rounded = reference::Parameters::from_flat(&config, &flat).unwrap().round_weights(round_bf16);
    let rounding = reference::Model::new(&config, rounded).unwrap().round_hidden(round_bf16);
    let rounding = rounding.forward(&input).unwrap();
    let batch = Batch::Tokens(tokens);
    for path in paths() {
        let mut session = batch.session(&model(&config, &flat, &cpu(path)), Outputs::All);
        batch.forward(&mut session);
        let found = session.hidden().unwrap();
        // All rows together, since one rounding that fell the other way is a whole step of bf16.
        let [near, far] = [&rounding, &exact].map(|oracle| distance(&widen(&found), oracle.hidden()));
        println!("{path:?}: {near:.1e} from the one, {far:.1e} from the other");
        assert!(near * 2.0 < far, "{path:?}: {near:e} {far:e}");
    }
}
