//! The sequential baselines on the CPU: against haiku's golden data and the oracle, the same bits whatever the batch,
//! the threads, the path and the outputs that are asked for, training, and what is refused.
#![cfg(all(feature = "tasks", feature = "rayon"))]

mod common;

use common::*;
use pr_lstm::golden::{SequentialFile, TensorFile};
use pr_lstm::model::{LinearRange, initial};
use pr_lstm::random::Random;
use pr_lstm::reference::{self, Linear, SequentialLstm, SequentialRnn, cross_entropy};
use pr_lstm::tasks::Task;
use pr_lstm::train::{Settings, Trainer};
use pr_lstm::tree::{Counter, Planner, Rows, Schedule, Slots};
use pr_lstm::verify::{self, Tolerances};
use pr_lstm::{Adam, Cell, Checkpoint, Config, Cpu, Outputs, Parameters, Recurrence, Tape};

const CELLS: [Cell; 2] = [Cell::Lstm, Cell::Rnn];

fn config(cell: Cell, input: usize, hidden: usize, output: usize) -> Config {
    Config::new(input, hidden, output).cell(cell).recurrence(Recurrence::Sequential)
}

/// Weights, of the size of trained ones, on a device.
fn draw(config: &Config, cpu: &Cpu, random: &mut Random) -> Parameters<Cpu> {
    device_parameters(config, cpu, random, 1.5)
}

/// The oracle of one cell.
enum Oracle {
    Lstm(SequentialLstm),
    Rnn(SequentialRnn),
}

impl Oracle {
    fn new(config: &Config, flat: &[f64]) -> (Self, Linear) {
        let layout = config.layout().unwrap();
        let linear = |range: &LinearRange| Linear {
            w: flat[range.w.clone()].to_vec(),
            b: flat[range.b.clone()].to_vec(),
        };
        let readout = linear(&layout.readout);
        let [input, recurrent] = [linear(&layout.leaf), linear(&layout.merge)];
        let oracle = match config.cell {
            Cell::Lstm => {
                let layer = Linear { w: [input.w, recurrent.w].concat(), b: input.b };
                Oracle::Lstm(SequentialLstm::new(layer).unwrap())
            }
            _ => Oracle::Rnn(SequentialRnn::new(input, recurrent).unwrap()),
        };
        (oracle, readout)
    }

    /// Hidden states of `[T, D]`, and the way back: from their gradients to those of the tensors but the read-out's, in
    /// the order of the flat buffer, and of the input.
    #[allow(clippy::type_complexity)]
    fn run(&self, x: &[f64]) -> (Vec<f64>, Box<dyn Fn(&[f64]) -> (Vec<f64>, Vec<f64>) + '_>) {
        let flat = |layers: Vec<Linear>| layers.into_iter().flat_map(|l| [l.w, l.b]).flatten().collect();
        match self {
            Oracle::Lstm(lstm) => {
                let pass = lstm.forward(x).unwrap();
                let hidden = pass.hidden.clone();
                let back = move |d: &[f64]| {
                    let gradients = lstm.backward(&pass, d).unwrap();
                    (flat(vec![gradients.parameters.layer]), gradients.input)
                };
                (hidden, Box::new(back))
            }
            Oracle::Rnn(rnn) => {
                let pass = rnn.forward(x).unwrap();
                let hidden = pass.hidden.clone();
                let back = move |d: &[f64]| {
                    let SequentialRnn { input, recurrent } = rnn.backward(&pass, d).unwrap().parameters;
                    (flat(vec![input, recurrent]), rnn.backward(&pass, d).unwrap().input)
                };
                (hidden, Box::new(back))
            }
        }
    }
}

/// What a pass should give.
#[derive(Default)]
struct Expected {
    hidden: Vec<f64>,
    logits: Vec<f64>,
    gradients: Vec<f64>,
    d_input: Vec<f64>,
}

/// The oracle over a batch, from the gradient of the logits.
fn expected(config: &Config, flat: &[f64], batch: &Batch, outputs: &Outputs, d_logits: &[f64]) -> Expected {
    let (oracle, readout) = Oracle::new(config, flat);
    let Batch::Dense(sequences, _) = (match batch {
        Batch::Tokens(_) => batch.one_hot(config.input),
        dense => dense.clone(),
    }) else {
        unreachable!()
    };
    let Config { hidden: h, output: o, .. } = *config;
    let mut d_logits = d_logits.chunks(o);
    let at_readout = config.layout().unwrap().readout;
    let mut found = Expected { gradients: vec![0.0; flat.len()], ..Expected::default() };
    for sequence in &sequences {
        let (hidden, back) = oracle.run(&widen(sequence));
        let time = sequence.len() / config.input;
        let mut d_hidden = vec![0.0; hidden.len()];
        for j in 0..outputs.count(time) {
            let t = outputs.position(time, j);
            let row = &hidden[t * h..][..h];
            found.hidden.extend(row);
            let d = d_logits.next().expect("a gradient for each output");
            for (column, d) in d.iter().enumerate() {
                let products = (0..h).map(|k| row[k].max(0.0) * readout.w[k * o + column]);
                found.logits.push(products.sum::<f64>() + readout.b[column]);
                found.gradients[at_readout.b.start + column] += d;
                for k in 0..h {
                    found.gradients[at_readout.w.start + k * o + column] += row[k].max(0.0) * d;
                    let open = f64::from(row[k] > 0.0);
                    d_hidden[t * h + k] += open * readout.w[k * o + column] * d;
                }
            }
        }
        let (gradients, d_input) = back(&d_hidden);
        found.gradients.iter_mut().zip(gradients).for_each(|(sum, part)| *sum += part);
        found.d_input.extend(d_input);
    }
    found
}

/// A chain's schedule, padded where the lengths are equal.
fn schedule(lengths: &[usize], outputs: &Outputs, rows: Rows) -> Schedule {
    let (mut planner, mut schedule) = (Planner::of(Recurrence::Sequential), Schedule::default());
    match lengths.iter().all(|&length| length == lengths[0]) {
        true => planner.padded(&mut schedule, lengths.len(), lengths[0], outputs, rows),
        false => planner.ragged(&mut schedule, lengths, outputs, rows),
    }
    .expect("a schedule");
    schedule
}

/// Outputs of every kind that sequences of `shortest` steps or more have.
fn kinds(random: &mut Random, shortest: usize) -> [Outputs; 4] {
    let at = (0..shortest).filter(|t| *t == 0 || random.below(2) == 0).collect();
    [Outputs::All, Outputs::Last, Outputs::LastN(between(random, 1, shortest)), Outputs::At(at)]
}

#[test]
fn random_shapes_give_what_the_oracle_gives() {
    let seed = 50;
    println!("seed {seed}");
    let random = &mut random(seed);
    let cpu = Cpu::new();
    let mut worst = [0.0f64; 4];
    for case in 0..48 {
        let cell = [Cell::Lstm, Cell::Rnn][case % 2];
        // Hidden sizes and batches on both sides of a block and of a tile. A position has three numbers or more, for one
        // alone may be next to nothing, and has no relative error then.
        let hidden = [3, 8, 15, 16, 17, 33, 70][between(random, 0, 6)];
        let config = config(cell, between(random, 3, 20), hidden, between(random, 1, 5));
        let count = [1, 2, 5, 17, 40][between(random, 0, 4)];
        let lengths = match case % 3 {
            0 => vec![between(random, 1, 20); count],
            _ => lengths(random, count, 20),
        };
        let batch = match case % 4 {
            0 | 1 => Batch::tokens(random, &lengths, config.input),
            _ => Batch::dense(random, &lengths, config.input),
        };
        let shortest = *lengths.iter().min().unwrap();
        let outputs = kinds(random, shortest)[between(random, 0, 3)].clone();
        let rows: usize = lengths.iter().map(|&length| outputs.count(length)).sum();
        let parameters = draw(&config, &cpu, random);
        let flat = widen(&parameters.to_vec().unwrap());
        let d_logits = normals(random, rows * config.output, 1.0);
        let expected = expected(&config, &flat, &batch, &outputs, &widen(&narrow(&d_logits)));
        let what = format!("case {case}: {config:?}, {lengths:?}, {outputs:?}");
        // Over poisoned memory; a tape and a session give the same.
        let runner = Runner::training(&cpu, &config, &narrow(&flat));
        let trained = runner.train(&schedule(&lengths, &outputs, Rows::Keep), &batch, &narrow(&d_logits), 1);
        batch.train(&parameters, outputs.clone(), &narrow(&d_logits)).assert_same_bits(&trained, &what);
        let inferred = runner.run(&schedule(&lengths, &outputs, Rows::Reuse), &batch);
        assert_same_bits(&inferred.hidden, &trained.hidden, &what);
        assert_same_bits(&batch.logits(&parameters.model(), outputs), &trained.logits, &what);
        let (gradients, name) = worst_parameter(&config, &widen(&trained.gradients), &expected.gradients);
        let errors = [
            worst_row(&trained.hidden, &expected.hidden, config.hidden).0,
            // A logit may be a small difference of large products.
            distance(&widen(&trained.logits), &expected.logits),
            gradients,
            match batch {
                // A small model may be closed to the way back by the relu of its read-out.
                Batch::Dense(..) if expected.d_input.iter().all(|x| *x == 0.0) => {
                    if trained.d_input.iter().all(|x| *x == 0.0) { 0.0 } else { f64::INFINITY }
                }
                Batch::Tokens(_) => 0.0,
                Batch::Dense(..) => worst_row(&trained.d_input, &expected.d_input, config.input).0,
            },
        ];
        for (error, most) in errors.into_iter().zip([1e-5, 1e-5, 1e-4, 1e-4]) {
            assert!(error <= most, "{what}: hidden, logits, gradients, d_input {errors:?}, worst {name}");
        }
        worst = std::array::from_fn(|n| worst[n].max(errors[n]));
    }
    println!("worst hidden, logits, gradients, d_input: {worst:?}");
}

#[test]
fn the_bits_depend_neither_on_threads_nor_path_nor_batch_nor_outputs() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let random = &mut random(seed);
    let pools = [1, 2, 3]
        .map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool"));
    for (case, cell) in [Cell::Lstm, Cell::Rnn, Cell::Lstm, Cell::Rnn].into_iter().enumerate() {
        // Wide enough that a step is divided.
        let config = config(cell, 7, 137, 3);
        let lengths = lengths(random, 66, 9);
        let batch = match case / 2 {
            0 => Batch::tokens(random, &lengths, config.input),
            _ => Batch::dense(random, &lengths, config.input),
        };
        let rows: usize = lengths.iter().sum();
        let d_logits = narrow(&normals(random, rows * config.output, 1.0));
        let flat = narrow(&parameters(&config, random, 1.5));
        let mut first: Option<Trained> = None;
        let mut workers = 0;
        for path in available_paths() {
            for pool in &pools {
                let cpu = Cpu::with_path(path).unwrap();
                let parameters = Parameters::new(&config, cpu.clone(), &flat).unwrap();
                let trained = pool.install(|| batch.train(&parameters, Outputs::All, &d_logits));
                let first = first.get_or_insert_with(|| trained.clone());
                trained.assert_same_bits(first, &format!("{cell:?}, {path:?}"));
                let work = cpu.work();
                assert_eq!(work.merges, rows as u64, "every step of every sequence, once");
                workers = workers.max(work.by_worker.iter().filter(|rows| **rows > 0).count());
            }
        }
        assert!(workers > 0);
        // Each sequence alone, and only some of its outputs.
        let whole = first.expect("a path").logits;
        let cpu = Cpu::new();
        let model = Parameters::new(&config, cpu.clone(), &flat).unwrap().model();
        let mut start = 0;
        for (index, &length) in lengths.iter().enumerate() {
            let of_sequence = &whole[start * config.output..][..length * config.output];
            start += length;
            for outputs in kinds(random, length) {
                let before = cpu.work().merges;
                let alone = batch.alone(index).logits(&model, outputs.clone());
                let steps = outputs.position(length, outputs.count(length) - 1) + 1;
                assert_eq!(cpu.work().merges - before, steps as u64, "nothing after the last wanted output");
                for j in 0..outputs.count(length) {
                    let t = outputs.position(length, j);
                    let [found, expected] = [(&alone[..], j), (of_sequence, t)]
                        .map(|(logits, row)| &logits[row * config.output..][..config.output]);
                    assert_same_bits(found, expected, &format!("sequence {index} alone, {outputs:?}"));
                }
            }
        }
    }
}

#[test]
fn golden_files_give_haikus_values_and_gradients_on_every_path() {
    for name in ["lstm", "rnn"] {
        let file = TensorFile::read(golden(&format!("sequential-{name}.safetensors"))).unwrap();
        let file = SequentialFile::from_file(&file).unwrap();
        assert!(file.gradients.iter().any(|&x| x != 0.0) && file.hidden.iter().any(|&x| x != 0.0));
        for path in available_paths() {
            let cpu = Cpu::with_path(path).unwrap();
            let checks = verify::sequential(&file, &cpu, Tolerances::CPU_F32).unwrap();
            for check in &checks {
                println!("{name}, {path:?}: {} {} {:.1e}", check.device, check.tensor, check.error);
                assert!(check.ok(), "{name}, {path:?}: {check:?}");
            }
        }
        // One number changed anywhere is seen.
        let wrong = |change: &dyn Fn(&mut SequentialFile), tensor: &str| {
            let mut file = file.clone();
            change(&mut file);
            let checks = verify::sequential(&file, &Cpu::new(), Tolerances::CPU_F32).unwrap();
            for device in ["reference", "cpu"] {
                let failed = checks.iter().any(|c| !c.ok() && c.device == device && c.tensor == tensor);
                assert!(failed, "{name}: {tensor} was changed and {device} passes");
            }
        };
        wrong(&|file| file.hidden[5] += 0.5, "hidden");
        wrong(&|file| file.loss += 0.5, "loss");
        wrong(
            &|file| file.gradients[0] += 0.5,
            if name == "lstm" { "grad.recurrent.w" } else { "grad.input.w" },
        );
        wrong(&|file| file.grad_input[3] += 0.5, "grad.input");
        wrong(&|file| file.parameters[0] += 0.5, "hidden");
        wrong(&|file| file.input[0] += 0.5, "hidden");
    }
}

/// Every position of every sequence once, in its order, from zeros; outputs where they were asked for.
#[test]
fn a_chain_is_planned_for_any_lengths_and_outputs() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let random = &mut random(seed);
    let mut planner = Planner::of(Recurrence::Sequential);
    let mut schedule = Schedule::default();
    for case in 0..300 {
        let count = between(random, 1, 9);
        let padded = case % 3 == 0;
        let lengths = match padded {
            true => vec![between(random, 1, 30)],
            false => lengths(random, count, 30),
        };
        let shortest = *lengths.iter().min().unwrap();
        let outputs = kinds(random, shortest)[case % 4].clone();
        for rows in [Rows::Reuse, Rows::Keep] {
            match padded {
                true => planner.padded(&mut schedule, count, lengths[0], &outputs, rows).unwrap(),
                false => planner.ragged(&mut schedule, &lengths, &outputs, rows).unwrap(),
            }
            let what = format!("{lengths:?}, {outputs:?}, {rows:?}");
            assert_eq!(schedule.width(), if padded { count } else { 1 });
            assert_eq!(schedule.recurrence(), Recurrence::Sequential);
            let leaves: Vec<u32> = (0..lengths.iter().sum::<usize>() as u32).collect();
            assert_eq!(schedule.leaves(), leaves, "{what}");
            let starts: Vec<usize> = (0..lengths.len()).map(|s| lengths[..s].iter().sum()).collect();
            // What a slot holds: a sequence, and how many of its positions.
            let mut slots: Vec<Option<(usize, usize)>> = vec![None; schedule.slots()];
            let mut before = usize::MAX;
            for step in schedule.steps() {
                assert!(step.out.len() <= before, "{what}: a step with more rows than the one before");
                before = step.out.len();
                let states: Vec<(usize, usize)> = (0..before)
                    .map(|i| {
                        let leaf = step.right[i] as usize;
                        let sequence = starts.iter().rposition(|&start| start <= leaf).unwrap();
                        let passed = leaf - starts[sequence];
                        let held = slots[step.left[i] as usize];
                        assert_eq!(held, (passed > 0).then_some((sequence, passed)), "{what}");
                        assert_eq!(step.left[i] == 0, passed == 0, "{what}");
                        (sequence, passed + 1)
                    })
                    .collect();
                for (&out, state) in step.out.iter().zip(states) {
                    assert!(out != 0 && !step.left.contains(&out), "{what}");
                    slots[out as usize] = Some(state);
                }
            }
            let mut found = schedule.outputs().iter();
            let mut merges = 0;
            for (sequence, &length) in lengths.iter().enumerate() {
                for j in 0..outputs.count(length) {
                    let t = outputs.position(length, j);
                    assert_eq!(slots[*found.next().unwrap() as usize], Some((sequence, t + 1)), "{what}");
                }
                merges += outputs.position(length, outputs.count(length) - 1) + 1;
            }
            assert!(found.next().is_none());
            assert_eq!(schedule.merges(), merges, "{what}: nothing after the last wanted output");
            let wanted = schedule.outputs().len();
            let most = if rows == Rows::Keep { 1 + merges } else { 1 + wanted + 2 * lengths.len() };
            assert!(schedule.slots() <= most, "{what}: {} slots", schedule.slots());
        }
    }
}

#[test]
fn another_thread_does_rows() {
    let random = &mut random(5);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for cell in CELLS {
        let config = config(cell, 4, 256, 2);
        let cpu = Cpu::new();
        let model = draw(&config, &cpu, random).model();
        let batch = Batch::tokens(random, &[12; 64], config.input);
        // Which thread gets what is chance: until another one got something.
        let busy = |_| {
            pool.install(|| batch.logits(&model, Outputs::Last));
            cpu.work().by_worker.iter().filter(|rows| **rows > 0).count()
        };
        assert!((0..100).map(busy).any(|workers| workers == 2), "one thread did every row");
    }
}

/// Parameters after some steps of Adam on the last output.
#[test]
fn training_follows_the_oracle() {
    let random = &mut random(31);
    for cell in CELLS {
        let config = config(cell, 5, 19, 3);
        let mut parameters = draw(&config, &Cpu::new(), random);
        let mut weights = widen(&parameters.to_vec().unwrap());
        let start = weights.clone();
        let mut adam = Adam::paper().build(&parameters).unwrap();
        let mut oracle = reference::Adam::paper(weights.len());
        let mut tape = Tape::new(&parameters, 6, 12).unwrap();
        for step in 0..6 {
            let lengths = lengths(random, 6, 12);
            let batch = Batch::tokens(random, &lengths, config.input);
            let Batch::Tokens(sequences) = &batch else { unreachable!() };
            let targets: Vec<u32> = (0..6).map(|_| random.below(3)).collect();
            tape.clear();
            let hidden = tape.scan(&parameters, sequences, Outputs::Last).unwrap();
            let logits = tape.readout(&parameters, hidden).unwrap();
            let loss = tape.cross_entropy(logits, &targets).unwrap();
            adam.step(&mut parameters, tape.backward(loss).unwrap()).unwrap();

            let forward = expected(&config, &weights, &batch, &Outputs::Last, &[0.0; 18]);
            let (expected_loss, d_logits) = cross_entropy(&forward.logits, 3, &targets).unwrap();
            let gradients = expected(&config, &weights, &batch, &Outputs::Last, &d_logits).gradients;
            let norm = oracle.step(&mut weights, &gradients).unwrap();
            let found = f64::from(adam.status().unwrap().gradient_norm);
            let loss = f64::from(tape.metrics(loss).unwrap().loss);
            let errors = [distance(&[loss], &[expected_loss]), distance(&[found], &[norm])];
            assert!(errors.iter().all(|error| *error <= 1e-4), "{cell:?}, step {step}: {errors:?}");
        }
        let moved =
            |weights: &[f64]| -> Vec<f64> { weights.iter().zip(&start).map(|(w, s)| w - s).collect() };
        let found = moved(&widen(&parameters.to_vec().unwrap()));
        let (error, name) = worst_parameter(&config, &found, &moved(&weights));
        println!("{cell:?}: the way that the parameters went, {error:.1e} off at {name}");
        // Adam divides by the root of the second moment: where it is next to nothing, so is the gradient's accuracy.
        assert!(error <= 1e-3, "{cell:?}: {error:e} at {name}");
    }
}

#[test]
fn a_run_resumed_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for (cell, seed) in [(Cell::Lstm, 3), (Cell::Rnn, 4)] {
        let paper = Settings::paper(Task::ReverseString);
        let settings = Settings {
            cell,
            recurrence: Recurrence::Sequential,
            hidden: 12,
            unary_layers: 0,
            steps: 9,
            batch: 8,
            max_length: 9,
            seed,
            ..paper
        };
        let mut whole = Trainer::new(settings.clone(), Cpu::new()).unwrap();
        let path = folder.path().join(cell.name());
        for step in 1..=9 {
            assert!(whole.step(true).unwrap().unwrap().loss.is_finite());
            if step == 4 {
                whole.checkpoint().unwrap().write(&path).unwrap();
            }
        }
        let stopped = Checkpoint::read(&path).unwrap();
        assert_eq!(stopped.config.recurrence, Recurrence::Sequential);
        let mut resumed = Trainer::resume(settings.clone(), &stopped, Cpu::new()).unwrap();
        for _ in 4..9 {
            resumed.step(false).unwrap();
        }
        assert_eq!(resumed.checkpoint().unwrap(), whole.checkpoint().unwrap());
        let tree = Settings { recurrence: Recurrence::Tree, ..settings };
        refused(Trainer::resume(tree, &stopped, Cpu::new()), &["checkpoint, model", "Tree", "Sequential"]);
    }
}

/// As haiku initialises its layers: `σ = 1/√fan_in`, over all rows of the LSTM's one weight; biases 0.
#[test]
fn weights_start_as_haikus_do() {
    for cell in CELLS {
        let config = config(cell, 60, 100, 2);
        let flat = initial(&config, 1).unwrap();
        for parameter in config.layout().unwrap().names {
            let values = widen(&flat[parameter.range]);
            let [fan_in, _] = parameter.shape[..] else {
                assert!(values.iter().all(|x| *x == 0.0), "{}", parameter.name);
                continue;
            };
            let deviation = (dot(&values, &values) / values.len() as f64).sqrt() * (fan_in as f64).sqrt();
            // That of a normal distribution cut at two deviations is 0.88.
            assert!((0.7..1.05).contains(&deviation), "{cell:?}, {}: {deviation}", parameter.name);
        }
        let shapes: Vec<_> = config.layout().unwrap().names.into_iter().map(|p| (p.name, p.shape)).collect();
        let name = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec());
        let layers = match cell {
            Cell::Lstm => vec![name("recurrent.w", &[160, 400]), name("recurrent.b", &[400])],
            _ => vec![
                name("input.w", &[60, 100]),
                name("input.b", &[100]),
                name("recurrent.w", &[100, 100]),
                name("recurrent.b", &[100]),
            ],
        };
        let readout = vec![name("readout.w", &[100, 2]), name("readout.b", &[2])];
        assert_eq!(shapes, [layers, readout].concat());
    }
}

#[test]
fn what_a_sequential_model_has_not_is_refused() {
    let random = &mut random(8);
    for cell in CELLS {
        let good = config(cell, 3, 5, 2);
        refused(good.clone().unary_layers(2).layout(), &["config.unary_layers", "0", "sequential", "got 2"]);
        refused(Parameters::init(&good.clone().unary_layers(1), Cpu::new(), 0), &["config.unary_layers"]);
        let parameters = draw(&good, &Cpu::new(), random);
        let recompute = Tape::recompute(&parameters, 1, 4).unwrap().reserve(&Outputs::Last);
        refused(recompute, &["TrainRecompute", "sequential model", "without recomputation"]);
        refused(parameters.model().streams(2), &["a stream of a sequential model", "session"]);
        refused(reference::Parameters::zeros(&good), &["config", "SequentialLstm"]);
        // A tape or an optimiser of the tree with the same sizes.
        let tree = draw(&good.clone().recurrence(Recurrence::Tree), &Cpu::new(), random);
        let mut tape = Tape::new(&tree, 1, 4).unwrap();
        refused(tape.scan(&parameters, &[[0u32, 1]], Outputs::Last), &["parameters", "Tree", "Sequential"]);
    }
    let mut planner = Planner::of(Recurrence::Sequential);
    let mut schedule = Schedule::default();
    refused(planner.padded(&mut schedule, 1, 3, &Outputs::LastN(4), Rows::Keep), &["outputs", "LastN(4)"]);
    refused(planner.ragged(&mut schedule, &[2, 0], &Outputs::All, Rows::Keep), &["lengths", "sequence 1"]);
    let mut streams = [(&mut Counter::new(), 1)];
    let append = planner.append(&mut schedule, &mut Slots::new(100), &mut streams);
    refused(append, &["a stream of a sequential model"]);
    // A schedule of the other recurrence.
    use pr_lstm::backend::{Backend, Pass};
    let sequential = config(Cell::Lstm, 3, 5, 2);
    let tree = sequential.clone().recurrence(Recurrence::Tree);
    for (config, other) in [(&sequential, &tree), (&tree, &sequential)] {
        Planner::of(other.recurrence).padded(&mut schedule, 2, 3, &Outputs::All, Rows::Keep).unwrap();
        for pass in [Pass::Infer, Pass::Train] {
            Cpu::new().plan(other, &schedule, pass).unwrap();
            let names = [config.recurrence.name(), other.recurrence.name()];
            refused(Cpu::new().plan(config, &schedule, pass), &["schedule", names[0], names[1]]);
        }
    }
}
