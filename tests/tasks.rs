//! The fifteen tasks: golden data, a second and slower way to every answer, distributions, frozen draws.
#![cfg(feature = "tasks")]

use pr_lstm::Error;
use pr_lstm::random::{Purpose, Random};
use pr_lstm::tasks::{Batch, Level, Sample, Task};
use safetensors::SafeTensors;

const SEED: u64 = 7;

fn sample(task: Task, length: usize, index: u32) -> Sample {
    let mut sample = Sample::default();
    task.sample(length, &mut Random::new(SEED, Purpose::Evaluate, length as u64, index), &mut sample);
    sample
}

fn samples(task: Task, length: usize, count: u32) -> impl Iterator<Item = Sample> {
    (0..count).map(move |index| sample(task, length, index))
}

/// Symbols as a person writes them, one character each.
fn digits(symbols: &[u32]) -> String {
    symbols.iter().map(|&symbol| char::from_digit(symbol, 16).unwrap()).collect()
}

#[test]
fn golden_data() {
    for task in Task::ALL {
        let path = format!("{}/tests/golden/tasks/{task}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(&path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let sizes = header.metadata().as_ref().unwrap();
        assert_eq!(sizes["input_size"], task.input_size().to_string(), "{task}");
        assert_eq!(sizes["output_size"], task.output_size().to_string(), "{task}");

        let file = SafeTensors::deserialize(&bytes).unwrap();
        let rows = |name: String, length: usize| -> Vec<Vec<u32>> {
            let tensor = file.tensor(&name).unwrap();
            assert_eq!(tensor.shape(), [4, length], "{task}, {name}");
            let values: Vec<u32> = match tensor.dtype() {
                safetensors::Dtype::U8 => tensor.data().iter().map(|&byte| byte.into()).collect(),
                _ => {
                    tensor.data().chunks(4).map(|four| u32::from_le_bytes(four.try_into().unwrap())).collect()
                }
            };
            values.chunks(length).map(<[u32]>::to_vec).collect()
        };
        for length in [1, 2, 3, 5, 10, 17, 40] {
            let inputs = rows(format!("length{length}.input"), task.input_length(length));
            let targets = rows(format!("length{length}.target"), task.output_length(length));
            let masks = rows(format!("length{length}.mask"), task.output_length(length));
            let (mut target, mut mask) = (vec![9], vec![false]);
            for row in 0..4 {
                task.answer(&inputs[row], &mut target, &mut mask);
                let mask: Vec<u32> = mask.iter().map(|&counts| counts.into()).collect();
                assert_eq!(
                    (&target, &mask),
                    (&targets[row], &masks[row]),
                    "{task}: {}",
                    digits(&inputs[row])
                );
            }
        }
    }
}

/// A number as bits, lowest first, added and multiplied a bit at a time.
mod naive {
    pub fn trim(mut number: Vec<u32>) -> Vec<u32> {
        while number.len() > 1 && number.last() == Some(&0) {
            number.pop();
        }
        number
    }

    fn carry(columns: Vec<u32>) -> Vec<u32> {
        let mut carry = 0;
        let mut number: Vec<u32> = columns
            .into_iter()
            .map(|column| {
                carry += column;
                let bit = carry % 2;
                carry /= 2;
                bit
            })
            .collect();
        while carry > 0 {
            number.push(carry % 2);
            carry /= 2;
        }
        trim(number)
    }

    pub fn add(n: &[u32], m: &[u32]) -> Vec<u32> {
        let bit = |number: &[u32], i: usize| number.get(i).copied().unwrap_or(0);
        carry((0..n.len().max(m.len())).map(|i| bit(n, i) + bit(m, i)).collect())
    }

    pub fn multiply(n: &[u32], m: &[u32]) -> Vec<u32> {
        let mut columns = vec![0; n.len() + m.len()];
        for (i, x) in n.iter().enumerate() {
            m.iter().enumerate().for_each(|(j, y)| columns[i + j] += x * y);
        }
        carry(columns)
    }

    /// Whether `n <= m`.
    pub fn at_most(n: &[u32], m: &[u32]) -> bool {
        let (n, m) = (trim(n.to_vec()), trim(m.to_vec()));
        n.len() < m.len() || n.len() == m.len() && n.iter().rev().le(m.iter().rev())
    }
}

/// Recursive descent through `sum = product {±  product}`, `product = factor {* factor}`,
/// `factor = -factor | (sum) | digit`, modulo 5.
struct Parser<'a>(&'a [u8]);

impl Parser<'_> {
    fn value(text: &str) -> i32 {
        let mut parser = Parser(text.as_bytes());
        let value = parser.sum();
        assert!(parser.0.is_empty(), "{text}");
        value
    }

    fn take(&mut self, symbol: u8) -> bool {
        let found = self.0.first() == Some(&symbol);
        self.0 = &self.0[usize::from(found)..];
        found
    }

    fn sum(&mut self) -> i32 {
        let mut value = self.product();
        loop {
            if self.take(b'+') {
                value += self.product();
            } else if self.take(b'-') {
                value -= self.product();
            } else {
                return value.rem_euclid(5);
            }
        }
    }

    fn product(&mut self) -> i32 {
        let mut value = self.factor();
        while self.take(b'*') {
            value = value * self.factor() % 5;
        }
        value
    }

    fn factor(&mut self) -> i32 {
        if self.take(b'-') {
            return -self.factor();
        }
        if self.take(b'(') {
            let value = self.sum();
            assert!(self.take(b')'));
            return value;
        }
        let digit = self.0[0];
        assert!(digit.is_ascii_digit());
        self.0 = &self.0[1..];
        i32::from(digit - b'0')
    }
}

/// An expression's symbols as characters.
fn text(task: Task, input: &[u32]) -> String {
    let alphabet = match task {
        Task::ModularArithmetic => "01234+-*",
        Task::ModularArithmeticBrackets => "01234+-*()",
        _ => "01234+-()x=",
    };
    input.iter().map(|&symbol| alphabet.chars().nth(symbol as usize).unwrap()).collect()
}

/// The answer that counts, by other means than the crate's; asserts that the input is one of the task's.
fn by_hand(task: Task, length: usize, input: &[u32]) -> Vec<u32> {
    let at = |symbol| input.iter().position(|&other| other == symbol);
    let ones = |bits: &[u32]| bits.iter().filter(|&&bit| bit == 1).count() as u32;
    let bits = |symbols: &[u32]| symbols.iter().all(|&symbol| symbol < 2);
    let terminated = |mut number: Vec<u32>| {
        number.push(2);
        number
    };
    match task {
        Task::EvenPairs => vec![input.windows(2).filter(|pair| pair[0] != pair[1]).count() as u32 % 2],
        Task::ParityCheck => vec![ones(input) % 2],
        Task::CycleNavigation => {
            let moves = input.iter().map(|&step| step as i32 - 1);
            vec![moves.sum::<i32>().rem_euclid(5) as u32]
        }
        Task::ModularArithmetic => {
            assert_eq!(input.len(), length - (length + 1) % 2);
            vec![Parser::value(&text(task, input)) as u32]
        }
        Task::ModularArithmeticBrackets => vec![Parser::value(&text(task, input)) as u32],
        Task::SolveEquation if length < 3 => {
            assert_eq!(ones(input), 0);
            vec![0]
        }
        Task::SolveEquation => {
            let text = text(task, input);
            let (left, right) = text.split_once('=').unwrap();
            assert_eq!((left.matches('x').count(), right.len()), (1, 1));
            let solves =
                |digit: &u32| Parser::value(&left.replace('x', &digit.to_string())).to_string() == right;
            let solutions: Vec<u32> = (0..5).filter(solves).collect();
            assert_eq!(solutions.len(), 1, "{text}");
            solutions
        }
        Task::StackManipulation => {
            let depth = input.iter().position(|&symbol| symbol > 1).unwrap_or(length);
            assert!(depth >= 1 && !input[depth..].iter().any(|&symbol| symbol < 2));
            let mut stack: Vec<u32> = input[..depth].to_vec();
            for action in &input[depth..] {
                match action {
                    2 => drop(stack.pop()),
                    3 => stack.push(0),
                    _ => stack.push(1),
                }
            }
            terminated(stack.into_iter().rev().collect())
        }
        Task::ReverseString => (0..length).map(|i| input[length - 1 - i]).collect(),
        Task::DuplicateString => (0..2 * length).map(|i| input[i % length]).collect(),
        Task::MissingDuplicateString if length == 1 => {
            assert_eq!(input, [1]);
            vec![1]
        }
        Task::MissingDuplicateString => {
            let (half, hidden) = (length / 2, at(2).unwrap());
            assert_eq!(at(3), (length % 2 == 1).then_some(length - 1));
            let fits = |&bit: &u32| {
                let mut whole = input[..2 * half].to_vec();
                whole[hidden] = bit;
                bits(&whole) && whole[..half] == whole[half..]
            };
            let fitting: Vec<u32> = (0..2).filter(fits).collect();
            assert_eq!(fitting.len(), 1);
            fitting
        }
        Task::OddsFirst => {
            let mut places: Vec<usize> = (0..length).collect();
            places.sort_by_key(|i| (i % 2 == 0, *i));
            places.into_iter().map(|i| input[i]).collect()
        }
        Task::BinaryAddition | Task::BinaryMultiplication if length < 3 => {
            assert!(bits(input) && (ones(input) as usize) < length);
            let product = vec![0; length - 1];
            terminated(if task == Task::BinaryAddition { naive::trim(input.to_vec()) } else { product })
        }
        Task::BinaryAddition | Task::BinaryMultiplication => {
            let (n, m) = input.split_at(at(2).unwrap());
            let m = &m[1..];
            assert!(bits(n) && bits(m) && ones(n) > 0 && ones(m) > 0);
            let number =
                |bits: &[u32]| bits.iter().rev().fold(0u128, |number, &bit| 2 * number + u128::from(bit));
            let slow = if task == Task::BinaryAddition { naive::add(n, m) } else { naive::multiply(n, m) };
            if length <= 128 {
                let (n, m) = (number(n), number(m));
                assert_eq!(number(&slow), if task == Task::BinaryAddition { n + m } else { n * m });
            }
            terminated(slow)
        }
        Task::ComputeSqrt => {
            assert!(bits(input) && ones(input) > 0);
            // Bit by bit, the largest whose square is not above.
            let number: Vec<u32> = input.iter().rev().copied().collect();
            let mut root = vec![0; length.div_ceil(2)];
            for i in (0..root.len()).rev() {
                root[i] = 1;
                root[i] = naive::at_most(&naive::multiply(&root, &root), &number).into();
            }
            root.into_iter().rev().collect()
        }
        Task::BucketSort => {
            let times = |symbol: u32| input.iter().filter(|&&other| other == symbol).count();
            (0..5).flat_map(|symbol| vec![symbol; times(symbol)]).collect()
        }
        _ => unreachable!("a task without a test"),
    }
}

#[test]
fn every_answer_is_found_by_hand_too() {
    for task in Task::ALL {
        let lengths = (1..=45).map(|length| (length, 60)).chain([(100, 20), (129, 20), (500, 3)]);
        for (length, count) in lengths {
            for Sample { input, target, mask } in samples(task, length, count) {
                let place = || format!("{task}, length {length}: {}", digits(&input));
                assert_eq!(input.len(), task.input_length(length), "{}", place());
                assert_eq!(
                    (target.len(), mask.len()),
                    (task.output_length(length), task.output_length(length))
                );
                assert!(input.iter().all(|&symbol| (symbol as usize) < task.input_size()), "{}", place());
                assert!(target.iter().all(|&symbol| (symbol as usize) < task.output_size()), "{}", place());

                let counts = by_hand(task, length, &input);
                assert_eq!(digits(&target[..counts.len()]), digits(&counts), "{}", place());
                assert!(target[counts.len()..].iter().all(|&symbol| symbol == 0), "{}", place());
                assert!(mask.iter().enumerate().all(|(i, &mask)| mask == (i < counts.len())), "{}", place());
            }
        }
    }
}

/// Where carries and limbs end: all ones, single ones, squares and their neighbours.
#[test]
fn large_numbers_at_their_edges() {
    for length in (1..=140).chain([255, 256, 257, 511, 512, 2000]) {
        let one = |at: usize| (0..length).map(|i| u32::from(i == at)).collect::<Vec<_>>();
        let ones = vec![1; length];
        let mut square: Vec<u32> = naive::multiply(&ones[..length.div_ceil(2)], &ones[..length.div_ceil(2)]);
        square.resize(length.next_multiple_of(2), 0);
        let mut below = square.clone();
        below[0] = 0;
        let half = length.div_ceil(2);
        for number in [ones.clone(), one(0), one(length - 1), one(length / 2), vec![0; length]] {
            let (root, _) = answer(Task::ComputeSqrt, number.iter().rev().copied().collect());
            let root: Vec<u32> = root.into_iter().rev().collect();
            assert!(naive::at_most(&naive::multiply(&root, &root), &number), "length {length}");
            let next = naive::add(&root, &[1]);
            assert!(!naive::at_most(&naive::multiply(&next, &next), &number), "length {length}");

            for other in [vec![1], ones.clone(), one(length / 3)] {
                let input = [&number[..], &[2], &other].concat();
                let expect = |counts: Vec<u32>| [&counts[..], &[2]].concat();
                let (sum, counted) = answer(Task::BinaryAddition, input.clone());
                assert_eq!(sum[..counted], expect(naive::add(&number, &other)), "length {length}");
                let (product, counted) = answer(Task::BinaryMultiplication, input);
                assert_eq!(product[..counted], expect(naive::multiply(&number, &other)), "length {length}");
            }
        }
        // (2^half - 1)^2 and the number before it.
        square.reverse();
        below.reverse();
        assert_eq!(answer(Task::ComputeSqrt, square).0, vec![1; half], "length {length}");
        let before: Vec<u32> = (0..half).map(|i| u32::from(i + 1 < half)).collect();
        assert_eq!(answer(Task::ComputeSqrt, below).0, before, "length {length}");
    }
}

/// A target and how many of its positions count.
fn answer(task: Task, input: Vec<u32>) -> (Vec<u32>, usize) {
    let (mut target, mut mask) = (Vec::new(), Vec::new());
    task.answer(&input, &mut target, &mut mask);
    (target, mask.iter().filter(|&&counts| counts).count())
}

/// Asserts that events in these proportions were counted, to five standard deviations each.
fn assert_drawn(what: &str, counts: &[u32], proportions: &[u32]) {
    assert_eq!(counts.len(), proportions.len());
    let (n, whole) = (f64::from(counts.iter().sum::<u32>()), f64::from(proportions.iter().sum::<u32>()));
    assert!(n > 1000.0, "{what}: {n} draws");
    for (&count, &proportion) in counts.iter().zip(proportions) {
        let p = f64::from(proportion) / whole;
        let deviation = (f64::from(count) - n * p).abs();
        assert!(deviation <= 5.0 * (n * p * (1.0 - p)).sqrt(), "{what}: {counts:?} for {proportions:?}");
    }
}

fn tally(events: impl Iterator<Item = usize>, kinds: usize) -> Vec<u32> {
    let mut counts = vec![0; kinds];
    events.for_each(|event| counts[event] += 1);
    counts
}

#[test]
fn symbols_and_answers_are_drawn_evenly() {
    use Task::*;
    let bits = [EvenPairs, ParityCheck, ReverseString, DuplicateString, OddsFirst];
    for (task, kinds) in bits.map(|task| (task, 2)).into_iter().chain([(CycleNavigation, 3), (BucketSort, 5)])
    {
        for position in [0, 31, 32, 39] {
            let counts = tally(samples(task, 40, 4000).map(|sample| sample.input[position] as usize), kinds);
            assert_drawn(&format!("{task}, symbol {position}"), &counts, &vec![1; kinds]);
        }
        // A symbol says nothing of later ones.
        for later in [1, 2, 8, 16, 31, 32] {
            let pair = |sample: Sample| sample.input[3] as usize * kinds + sample.input[3 + later] as usize;
            let counts = tally(samples(task, 40, 4000).map(pair), kinds * kinds);
            assert_drawn(&format!("{task}, symbols 3 and {}", 3 + later), &counts, &vec![1; kinds * kinds]);
        }
    }
    for task in [EvenPairs, ParityCheck, CycleNavigation, SolveEquation, MissingDuplicateString] {
        let kinds = task.output_size();
        for length in [19, 40] {
            let counts = tally(samples(task, length, 8000).map(|sample| sample.target[0] as usize), kinds);
            assert_drawn(&format!("{task}, target at length {length}"), &counts, &vec![1; kinds]);
        }
    }
    let counts = tally(samples(MissingDuplicateString, 11, 8000).map(|s| place(&s.input, |s| s == 2)), 10);
    assert_drawn("the place of the hidden symbol", &counts, &[1; 10]);
    for (position, kinds) in [(0, 0..5), (1, 5..8), (8, 0..5)] {
        let symbols = samples(ModularArithmetic, 10, 4000).map(|s| s.input[position] as usize - kinds.start);
        assert_drawn("modular_arithmetic", &tally(symbols, kinds.len()), &vec![1; kinds.len()]);
    }
}

fn place(input: &[u32], is: impl Fn(u32) -> bool) -> usize {
    input.iter().position(|&symbol| is(symbol)).unwrap()
}

#[test]
fn numbers_are_drawn_evenly() {
    for task in [Task::BinaryAddition, Task::BinaryMultiplication] {
        let number = |bits: &[u32]| bits.iter().rev().fold(0, |number, &bit| 2 * number + bit as usize);
        let counts = tally(samples(task, 10, 8000).map(|sample| place(&sample.input, |s| s == 2) - 1), 8);
        assert_drawn("the length of n", &counts, &[1; 8]);
        // At length 5, n has 1, 2 or 3 bits, and m the rest of 4.
        for (bits, from_m) in [(1, false), (2, false), (3, false), (1, true), (2, true), (3, true)] {
            let numbers = samples(task, 5, 8000).filter_map(|sample| {
                let at = place(&sample.input, |s| s == 2);
                let part = if from_m { &sample.input[at + 1..] } else { &sample.input[..at] };
                (part.len() == bits).then(|| number(part) - 1)
            });
            let kinds = (1 << bits) - 1;
            assert_drawn("a positive number", &tally(numbers, kinds), &vec![1; kinds]);
        }
        let counts = tally(samples(task, 2, 3000).map(|sample| number(&sample.input)), 4);
        assert_drawn("one number of two bits", &counts, &[1, 1, 1, 0]);
    }
    let number = |bits: &[u32]| bits.iter().fold(0, |number, &bit| 2 * number + bit as usize);
    let counts = tally(samples(Task::ComputeSqrt, 3, 8000).map(|sample| number(&sample.input)), 8);
    assert_drawn("a number under the root", &counts, &[0, 1, 1, 1, 1, 1, 1, 1]);
    let counts = tally(samples(Task::ComputeSqrt, 500, 4000).map(|sample| sample.input[0] as usize), 2);
    assert_drawn("the highest bit under the root", &counts, &[1; 2]);
}

#[test]
fn stacks_and_expressions_are_drawn_evenly() {
    let task = Task::StackManipulation;
    let counts = tally(samples(task, 10, 9000).map(|sample| place(&sample.input, |s| s > 1) - 1), 9);
    assert_drawn("the depth of a stack", &counts, &[1; 9]);
    let counts = tally(samples(task, 10, 9000).map(|sample| sample.input[9] as usize - 2), 3);
    assert_drawn("the last action", &counts, &[1; 3]);
    let counts = tally(samples(task, 10, 9000).map(|sample| sample.input[0] as usize), 2);
    assert_drawn("the bottom of a stack", &counts, &[1; 2]);

    for (task, operators, extra) in [(Task::ModularArithmeticBrackets, 3, 0), (Task::SolveEquation, 2, 2)] {
        // The length of the left part, told from the places of the brackets, and the operator after it.
        let open = 5 + operators;
        let parts: Vec<(usize, usize)> = samples(task, 12 + extra, 9000)
            .map(|sample| {
                let (mut depth, mut left) = (0, 0);
                // A minus that starts the left part is a sign.
                for (i, &symbol) in sample.input[1..].iter().enumerate() {
                    depth += i32::from(symbol == open) - i32::from(symbol == open + 1);
                    if depth == 0 && (5..open).contains(&symbol) && i > 0 {
                        left = i;
                        break;
                    }
                }
                (left - 1, sample.input[1 + left] as usize - 5)
            })
            .collect();
        assert_drawn("the length on the left", &tally(parts.iter().map(|part| part.0), 8), &[1; 8]);
        let kinds = operators as usize;
        assert_drawn("the operator", &tally(parts.iter().map(|part| part.1), kinds), &vec![1; kinds]);
        for (length, form) in [(1, "d"), (2, "-d"), (3, "(d)"), (4, "(-d)"), (5, "(dod)")] {
            for sample in samples(task, length + extra, 50) {
                let text = text(task, &sample.input[..length]);
                let form_of = |symbol| match symbol {
                    '0'..='4' | 'x' => 'd',
                    '+' | '-' | '*' if length == 5 => 'o',
                    other => other,
                };
                assert_eq!(text.chars().map(form_of).collect::<String>(), form);
            }
        }
    }
    // `(d+d)=v`: from the places 0, 1 and (around the end) 4 it is the first digit that is hidden.
    let counts = tally(samples(Task::SolveEquation, 7, 9000).map(|s| place(&s.input, |s| s == 9)), 4);
    assert_drawn("the place of the hidden digit", &counts, &[0, 3, 0, 2]);
}

#[test]
fn a_batch_is_its_samples_alone() {
    let mut batch = Batch::default();
    for task in Task::ALL {
        for length in [40, 1, 17] {
            batch.fill(task, length, 5, SEED, Purpose::Train, 1 << 20).unwrap();
            let (inputs, outputs) = (task.input_length(length), task.output_length(length));
            assert_eq!((batch.batch, batch.time, batch.outputs), (5, inputs + outputs, outputs));
            assert_eq!((batch.tokens.len(), batch.targets.len()), (5 * batch.time, 5 * outputs));
            assert_eq!(batch.mask.len(), 5 * outputs);
            for b in (0..5).rev() {
                let mut alone = Sample::default();
                task.sample(length, &mut Random::new(SEED, Purpose::Train, 1 << 20, b as u32), &mut alone);
                let (input, empty) = batch.tokens[b * batch.time..][..batch.time].split_at(inputs);
                assert_eq!(input, alone.input, "{task}");
                assert_eq!(empty, vec![task.input_size() as u32; outputs], "{task}");
                let row = b * outputs..(b + 1) * outputs;
                assert_eq!(batch.targets[row.clone()], alone.target, "{task}");
                assert!(batch.mask[row].iter().zip(&alone.mask).all(|(&byte, &bit)| byte == u8::from(bit)));
            }
        }
        // A longer batch begins with the shorter one, and another step, seed or purpose is another batch.
        let filled = |batch, seed, purpose, step| {
            let mut filled = Batch::default();
            filled.fill(task, 40, batch, seed, purpose, step).unwrap();
            filled.tokens
        };
        let tokens = filled(8, SEED, Purpose::Train, 3);
        assert_eq!(filled(3, SEED, Purpose::Train, 3), tokens[..3 * tokens.len() / 8]);
        assert_ne!(filled(8, SEED + 1, Purpose::Train, 3), tokens);
        assert_ne!(filled(8, SEED, Purpose::Evaluate, 3), tokens);
        assert_ne!(filled(8, SEED, Purpose::Train, 4), tokens);
    }
}

#[test]
fn bad_sizes_are_refused_and_change_nothing() {
    let mut batch = Batch::default();
    batch.fill(Task::ParityCheck, 3, 2, SEED, Purpose::Train, 0).unwrap();
    let before = batch.clone();
    let sizes = [(0, 2, "length"), (usize::MAX, 2, "length"), (3, 0, "batch"), (3, usize::MAX, "batch")];
    for (length, size, name) in sizes {
        for task in Task::ALL {
            match batch.fill(task, length, size, SEED, Purpose::Train, 0) {
                Err(Error::Argument { argument, .. }) => assert_eq!(argument, name),
                other => panic!("{task}, length {length}, batch {size}: {other:?}"),
            }
            assert_eq!(batch, before);
        }
    }
    // Without a result to say so, a length of 0 is one of 1.
    for task in Task::ALL {
        let (mut zero, mut one) = (Sample::default(), Sample::default());
        task.sample(0, &mut Random::new(SEED, Purpose::Show, 0, 0), &mut zero);
        task.sample(1, &mut Random::new(SEED, Purpose::Show, 0, 0), &mut one);
        assert_eq!(zero, one, "{task}");
    }
}

/// Any symbols at all get an answer of the right length.
#[test]
fn foreign_inputs_do_not_panic() {
    for task in Task::ALL {
        for index in 0..3000 {
            let mut random = Random::new(SEED, Purpose::Show, task.input_size() as u64, index);
            let length = random.below(12) as usize;
            let mut symbol = || match random.below(8) {
                0 => u32::MAX - random.below(2),
                _ => random.below(12),
            };
            let input: Vec<u32> = (0..length).map(|_| symbol()).collect();
            let (mut target, mut mask) = (Vec::new(), Vec::new());
            task.answer(&input, &mut target, &mut mask);
            assert_eq!((target.len(), mask.len()), (task.output_length(length), target.len()), "{task}");
        }
    }
}

#[test]
fn names_and_levels() {
    for task in Task::ALL {
        assert_eq!(Task::from_name(task.name()).unwrap(), task);
        assert_eq!(format!("{task:>30}").trim_start(), task.name());
    }
    for (name, nearest) in [
        ("even_pair", "even_pairs"),
        ("Parity-Check", "parity_check"),
        ("missing_string", "missing_duplicate_string"),
        ("modular_arithmetic_bracket", "modular_arithmetic_brackets"),
        ("sqrt", "compute_sqrt"),
        ("sort", "bucket_sort"),
        ("binary_add", "binary_addition"),
        ("revers_sting", "reverse_string"),
    ] {
        let message = Task::from_name(name).unwrap_err().to_string();
        assert!(
            message.contains(&format!("`{name}`")) && message.contains(&format!("`{nearest}`")),
            "{message}"
        );
        assert!(message.contains("`pr-lstm tasks`"), "{message}");
    }
    assert!(Task::from_name("").is_err());
    let levels = [Level::Regular, Level::DeterministicContextFree, Level::ContextSensitive];
    let tasks = levels.map(|level| Task::ALL.iter().filter(|task| task.level() == level).count());
    assert_eq!(tasks, [4, 4, 7]);
    assert!(Task::ALL.is_sorted_by_key(|task| task.level()));
    assert_eq!(
        levels.map(|level| level.to_string()),
        ["regular", "deterministic context-free", "context-sensitive"]
    );
}

/// A seed's samples are what they were, in every version: the first of length 16, and a hash of many.
#[test]
fn draws_are_frozen() {
    let fnv = |hash: u64, symbol: u32| (hash ^ u64::from(symbol)).wrapping_mul(0x100_0000_01b3);
    for (task, first, hash) in FROZEN {
        let Sample { input, target, .. } = sample(task, 16, 0);
        let mut all = 0xcbf2_9ce4_8422_2325;
        for length in (1..=45).chain([100, 500]) {
            for sample in samples(task, length, 8) {
                all = sample.input.into_iter().chain(sample.target).fold(all, fnv);
            }
        }
        let now = (format!("{} {}", digits(&input), digits(&target)), all);
        assert_eq!(now, (first.to_string(), hash), "{task}");
    }
}

const FROZEN: [(Task, &str, u64); 15] = [
    (Task::EvenPairs, "0010010100100111 1", 0xac09_5559_e338_c9d7),
    (Task::ParityCheck, "0010010100100111 1", 0xa52a_3ecd_c3fa_b529),
    (Task::CycleNavigation, "2102021020021110 4", 0x8f05_67e8_1474_9b10),
    (Task::ModularArithmetic, "361707254507162 0", 0xf358_4567_4839_771d),
    (Task::ModularArithmeticBrackets, "8860786399686299 2", 0xf7e8_aaa8_5c7c_5645),
    (Task::SolveEquation, "77967388676288a4 0", 0x7042_2a9b_94f3_d0f0),
    (Task::StackManipulation, "0011010111024243 01111010110020000", 0xf828_b139_2faf_e3fd),
    (Task::ReverseString, "0010010100100111 1110010010100100", 0x9a49_1ea5_eb65_c38d),
    (Task::DuplicateString, "0010010100100111 00100101001001110010010100100111", 0x4452_5c61_ba3d_2ca7),
    (Task::MissingDuplicateString, "0010010100200101 1", 0xda87_fc9d_2d9c_47b1),
    (Task::OddsFirst, "0010010100100111 0011001101000101", 0x7e22_7663_6961_df27),
    (Task::BinaryAddition, "0011010111211101 11000011112000000", 0x2472_48d5_2d01_91c1),
    (Task::BinaryMultiplication, "0011010111211101 0010111000101012", 0x31d3_48d5_272f_7f2a),
    (Task::ComputeSqrt, "0010010100100111 01100001", 0xc8e7_fd08_7273_72aa),
    (Task::BucketSort, "3314032040041220 0000011222333444", 0x4e94_c359_5789_f985),
];
