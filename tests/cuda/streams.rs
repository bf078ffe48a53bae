//! Streams on the device against the whole scan, equal bits on every path: token by token at different positions, in
//! pieces, forked, saved and restored.

use pr_lstm::backend::Backend;
use pr_lstm::model::{Cell, Checkpoint};
use pr_lstm::random::Random;
use pr_lstm::{Config, Model, Outputs, StreamId};

use crate::common::device::{Device, Storage};
use crate::common::{Batch, assert_same_bits, between, draw_tokens, narrow, parameters, random};

/// Vocabulary and logits of the models here.
const D: usize = 5;
const O: usize = 3;

/// Random models, both cells, 0 to 2 unary layers, several K tiles in some.
fn models<B: Backend>(random: &mut Random, backend: &B) -> Vec<Model<B>> {
    let shapes = [(Cell::Lstm, 1, 33), (Cell::Rnn, 2, 7), (Cell::Lstm, 0, 16), (Cell::Lstm, 2, 5)];
    shapes
        .map(|(cell, layers, hidden)| {
            let config = Config::new(D, hidden, O).cell(cell).unary_layers(layers);
            let flat = narrow(&parameters(&config, random, 1.0));
            Model::new(&Checkpoint::new(config, flat), backend.clone()).unwrap()
        })
        .into()
}

/// The logits of every prefix by the whole scan, `[T, O]`; not all the same.
fn whole<B: Backend>(model: &Model<B>, tokens: &[u32]) -> Vec<f32> {
    Batch::Tokens(vec![tokens.to_vec()]).logits(model, Outputs::All)
}

/// Demands that `found` are the logits of the prefix of `end` tokens.
#[track_caller]
fn assert_prefix(found: &[f32], whole: &[f32], end: usize, what: &str) {
    assert_same_bits(found, &whole[(end - 1) * O..][..O], &format!("{what}, after {end} tokens"));
}

#[test]
fn appended_at_different_positions_streams_give_the_bits_of_the_whole_scan() {
    let device = Device::take();
    for storage in Storage::ALL {
        let mut random = random(410);
        for model in models(&mut random, &device.backend(storage)) {
            let mut streams = model.streams(6).unwrap();
            let lengths: Vec<usize> = (0..6).map(|_| between(&mut random, 1, 34)).collect();
            let tokens = draw_tokens(&mut random, D, &lengths);
            let whole: Vec<Vec<f32>> = tokens.iter().map(|tokens| whole(&model, tokens)).collect();
            let ids: Vec<StreamId> = (0..6).map(|_| streams.open().unwrap()).collect();
            let (mut at, mut mixed) = ([0; 6], 0);
            loop {
                // Some of those that still want tokens, in a random order.
                let mut live: Vec<usize> = (0..6).filter(|&i| at[i] < lengths[i]).collect();
                if live.is_empty() {
                    break;
                }
                for i in (1..live.len()).rev() {
                    live.swap(i, between(&mut random, 0, i));
                }
                live.truncate(between(&mut random, 1, live.len()));
                mixed += usize::from(live.iter().any(|&i| at[i] != at[live[0]]));
                let step: Vec<(StreamId, u32)> = live.iter().map(|&i| (ids[i], tokens[i][at[i]])).collect();
                let y = streams.append(&step).unwrap().to_vec();
                assert_eq!(y.len(), live.len() * O);
                for (&i, y) in live.iter().zip(y.chunks_exact(O)) {
                    at[i] += 1;
                    let what = format!("{storage:?}, {:?}, stream {i}", model.config());
                    assert_prefix(y, &whole[i], at[i], &what);
                }
            }
            assert!(mixed > 5, "{mixed} steps of streams at different positions");
        }
    }
}

#[test]
fn prompts_in_pieces_give_the_bits_of_the_whole_scan() {
    let device = Device::take();
    for storage in Storage::ALL {
        let mut random = random(420);
        for model in models(&mut random, &device.backend(storage)) {
            let mut streams = model.streams(2).unwrap();
            for (time, most) in [(40, 9), (130, 70)] {
                let tokens = draw_tokens(&mut random, D, &[time]).remove(0);
                let whole = whole(&model, &tokens);
                let [pieces, one] = [(); 2].map(|()| streams.open().unwrap());
                let (mut at, mut count) = (0, 0);
                while at < time {
                    let size = between(&mut random, 1, most.min(time - at));
                    let y = streams.prefill(pieces, &tokens[at..at + size]).unwrap();
                    at += size;
                    count += 1;
                    assert_prefix(y, &whole, at, &format!("{storage:?}, {:?}", model.config()));
                }
                assert!(count > 1, "{time} tokens in one piece");
                assert_prefix(streams.prefill(one, &tokens).unwrap(), &whole, time, "in one piece");
                [pieces, one].into_iter().for_each(|stream| streams.close(stream).unwrap());
            }
        }
    }
}

#[test]
fn forks_saved_and_restored_streams_go_on_as_the_whole_scan() {
    const MORE: usize = 11;
    let device = Device::take();
    for storage in Storage::ALL {
        let mut random = random(430);
        let backend = device.backend(storage);
        for model in models(&mut random, &backend) {
            let (mut streams, mut elsewhere) = (model.streams(3).unwrap(), model.streams(2).unwrap());
            for round in 0..3 {
                let time = between(&mut random, 1, 40);
                let past = draw_tokens(&mut random, D, &[time]).remove(0);
                let a = streams.open().unwrap();
                streams.prefill(a, &past).unwrap();
                let b = streams.fork(a).unwrap();
                // Restored twice: beside the others, and where other states lie in other places.
                let bytes = streams.save(a).unwrap();
                let c = streams.restore(&bytes).unwrap();
                let busy = elsewhere.open().unwrap();
                elsewhere.prefill(busy, &past[..past.len().div_ceil(2)]).unwrap();
                let d = elsewhere.restore(&bytes).unwrap();
                assert_eq!(elsewhere.save(d).unwrap(), bytes, "what was restored is saved again");

                let futures = draw_tokens(&mut random, D, &[MORE; 4]);
                assert!((1..4).all(|i| futures[0] != futures[i]), "nothing diverges");
                let whole: Vec<Vec<f32>> =
                    futures.iter().map(|future| whole(&model, &[&past[..], future].concat())).collect();
                for end in past.len() + 1..=past.len() + MORE {
                    let next = |i: usize| futures[i][end - past.len() - 1];
                    let what =
                        |kind: &str| format!("{storage:?}, {:?}, round {round}, {kind}", model.config());
                    let y = streams.append(&[(c, next(2)), (a, next(0)), (b, next(1))]).unwrap();
                    for (y, i) in y.chunks_exact(O).zip([2, 0, 1]) {
                        assert_prefix(y, &whole[i], end, &what(["stream", "fork", "restored"][i]));
                    }
                    let y = elsewhere.append(&[(d, next(3))]).unwrap();
                    assert_prefix(y, &whole[3], end, &what("restored elsewhere"));
                }
                [a, b, c].into_iter().for_each(|stream| streams.close(stream).unwrap());
                [busy, d].into_iter().for_each(|stream| elsewhere.close(stream).unwrap());
            }
        }
    }
}
