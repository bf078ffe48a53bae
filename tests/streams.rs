//! Streams against the whole scan, equal bits: token by token, in pieces, interleaved, forked, saved and restored; and
//! what a token costs in merges and states.

mod common;

use common::{Batch, assert_same_bits, between, device_parameters, random};
use pr_lstm::model::Cell;
use pr_lstm::random::Random;
use pr_lstm::{Config, Cpu, Model, Outputs, StreamId, Streams};

/// Vocabulary and logits of the models here.
const D: usize = 5;
const O: usize = 3;

/// A random model of each cell with 0, 1 and 2 unary layers.
fn models(seed: u64, hidden: usize) -> impl Iterator<Item = Model<Cpu>> {
    println!("seed {seed}");
    let mut random = random(seed);
    let shapes =
        [Cell::Lstm, Cell::Rnn].into_iter().flat_map(|cell| (0..3).map(move |layers| (cell, layers)));
    shapes.map(move |(cell, layers)| {
        let config = Config::new(D, hidden, O).cell(cell).unary_layers(layers);
        device_parameters(&config, &Cpu::new(), &mut random, 1.0).model()
    })
}

fn draw(random: &mut Random, time: usize) -> Vec<u32> {
    (0..time).map(|_| random.below(D as u32)).collect()
}

/// The logits of every prefix by the whole scan, `[T, O]`.
fn whole(model: &Model<Cpu>, tokens: &[u32]) -> Vec<f32> {
    Batch::Tokens(vec![tokens.to_vec()]).logits(model, Outputs::All)
}

/// Demands that `found` are the logits of the prefix of `end` tokens.
fn assert_prefix(found: &[f32], whole: &[f32], end: usize, what: &str) {
    assert_same_bits(found, &whole[(end - 1) * O..][..O], &format!("{what}, after {end} tokens"));
}

/// A stream with the tokens that it is to get.
struct Told {
    stream: StreamId,
    tokens: Vec<u32>,
    whole: Vec<f32>,
    at: usize,
}

impl Told {
    fn open(streams: &mut Streams<Cpu>, model: &Model<Cpu>, tokens: Vec<u32>) -> Self {
        let whole = whole(model, &tokens);
        Told { stream: streams.open().unwrap(), tokens, whole, at: 0 }
    }
}

#[test]
fn appended_in_any_order_streams_give_the_bits_of_the_whole_scan() {
    for hidden in [1, 33] {
        for model in models(10 + hidden as u64, hidden) {
            let mut random = random(hidden as u64);
            let mut streams = model.streams(9).unwrap();
            let mut told: Vec<Told> = (0..9)
                .map(|_| {
                    let time = between(&mut random, 1, 140);
                    let tokens = draw(&mut random, time);
                    Told::open(&mut streams, &model, tokens)
                })
                .collect();
            let (mut sizes, mut unsorted) = ([false; 10], false);
            loop {
                // Some of those that still want tokens, in a random order.
                let mut live: Vec<usize> = (0..9).filter(|&i| told[i].at < told[i].tokens.len()).collect();
                if live.is_empty() {
                    break;
                }
                for i in (1..live.len()).rev() {
                    live.swap(i, between(&mut random, 0, i));
                }
                live.truncate(between(&mut random, 1, live.len()));
                sizes[live.len()] = true;
                unsorted |= !live.is_sorted();
                let step: Vec<(StreamId, u32)> =
                    live.iter().map(|&i| (told[i].stream, told[i].tokens[told[i].at])).collect();
                let y = streams.append(&step).unwrap().to_vec();
                assert_eq!(y.len(), live.len() * O);
                for (&i, y) in live.iter().zip(y.chunks_exact(O)) {
                    told[i].at += 1;
                    assert_prefix(
                        y,
                        &told[i].whole,
                        told[i].at,
                        &format!("{:?}, stream {i}", model.config()),
                    );
                }
            }
            assert!(unsorted && sizes.iter().filter(|&&size| size).count() > 3, "no interleaving: {sizes:?}");
        }
    }
}

#[test]
fn prompts_in_pieces_of_any_size_give_the_bits_of_the_whole_scan() {
    for model in models(20, 7) {
        let mut random = random(21);
        let mut streams = model.streams(3).unwrap();
        // The last is longer than what is scanned at once.
        for (time, most) in [(200, 9), (700, 150), (2600, 2600)] {
            let tokens = draw(&mut random, time);
            let mut told = Told::open(&mut streams, &model, tokens);
            let mut pieces = 0;
            while told.at < time {
                let size = between(&mut random, 1, most.min(time - told.at));
                let piece = &told.tokens[told.at..][..size];
                // Pieces of one token by either road.
                let y = match piece {
                    [token] if random.below(2) == 0 => streams.append(&[(told.stream, *token)]),
                    _ => streams.prefill(told.stream, piece),
                };
                told.at += size;
                pieces += 1;
                assert_prefix(y.unwrap(), &told.whole, told.at, &format!("{:?}", model.config()));
                assert_eq!(streams.position(told.stream).unwrap(), told.at as u64);
            }
            assert!(pieces > 1, "{time} tokens in one piece");
            let again = streams.open().unwrap();
            let y = streams.prefill(again, &told.tokens).unwrap();
            assert_prefix(y, &told.whole, time, "in one piece");
            streams.close(again).unwrap();
            streams.close(told.stream).unwrap();
        }
    }
}

#[test]
fn forks_saved_and_restored_streams_go_on_as_the_whole_scan() {
    for model in models(30, 12) {
        let mut random = random(31);
        let (mut streams, mut elsewhere) = (model.streams(3).unwrap(), model.streams(2).unwrap());
        for _ in 0..12 {
            let past = between(&mut random, 1, 130);
            let past = draw(&mut random, past);
            let a = streams.open().unwrap();
            streams.prefill(a, &past).unwrap();
            let b = streams.fork(a).unwrap();
            // Restored twice: beside the others, and where other states lie in other places.
            let bytes = streams.save(a).unwrap();
            let c = streams.restore(&bytes).unwrap();
            let busy = elsewhere.open().unwrap();
            elsewhere.prefill(busy, &past[..past.len().div_ceil(2)]).unwrap();
            let d = elsewhere.restore(&bytes).unwrap();

            let futures: Vec<Vec<u32>> = (0..4).map(|_| draw(&mut random, 40)).collect();
            assert!((1..4).all(|i| futures[0] != futures[i]), "nothing diverges");
            let whole: Vec<Vec<f32>> =
                futures.iter().map(|future| whole(&model, &[&past[..], future].concat())).collect();
            for end in past.len() + 1..=past.len() + 40 {
                let next = |i: usize| futures[i][end - past.len() - 1];
                let y = streams.append(&[(c, next(2)), (a, next(0)), (b, next(1))]).unwrap();
                for (y, i) in y.chunks_exact(O).zip([2, 0, 1]) {
                    assert_prefix(y, &whole[i], end, ["stream", "fork", "restored"][i]);
                }
                let y = elsewhere.append(&[(d, next(3))]).unwrap();
                assert_prefix(y, &whole[3], end, "restored elsewhere");
            }
            [a, b, c].into_iter().for_each(|stream| streams.close(stream).unwrap());
            [busy, d].into_iter().for_each(|stream| elsewhere.close(stream).unwrap());
        }
    }
}

/// `2·(set bits) - 1` states, at most two merges a token over time, at most `log2 T + 1` for one.
#[test]
fn a_token_costs_two_merges_and_a_stream_holds_a_state_or_two_a_bit() {
    for model in models(40, 2) {
        let mut random = random(41);
        let mut streams = model.streams(2).unwrap();
        let [stream, other] = [(); 2].map(|()| streams.open().unwrap());
        let (start, mut before) = (model.backend().work().merges, model.backend().work().merges);
        let mut worst = 0;
        for end in 1..=5000u64 {
            streams.append(&[(stream, random.below(D as u32))]).unwrap();
            let merges = model.backend().work().merges;
            assert!(merges - start <= 2 * end, "{} merges for {end} tokens", merges - start);
            assert!(merges - before <= u64::from(end.ilog2()) + 1, "{} for token {end}", merges - before);
            worst = worst.max(merges - before);
            before = merges;
            let states = streams.states(stream).unwrap();
            assert!(states < 2 * end.count_ones() as usize, "{states} states at {end}");
        }
        let merges = before - start;
        assert!(merges >= 4999 && worst > 2, "{merges} merges are too few to be those of the tree, {worst}");

        // Many tokens at once do not cost more, and hold as little.
        streams.prefill(other, &draw(&mut random, 5000)).unwrap();
        let by_prompt = model.backend().work().merges - before;
        assert!((4999..=merges).contains(&by_prompt), "{by_prompt} merges by prompt, {merges} by token");
        assert_eq!(streams.states(other).unwrap(), streams.states(stream).unwrap());
    }
}
