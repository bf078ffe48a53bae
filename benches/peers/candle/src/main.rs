//! candle-nn's LSTM at the cases that `pr-lstm bench --list --json` prints to stdin: the same JSON lines to stdout.
//!
//! As a user has it: candle's default build for the CPU, [`RNN::seq`] over dense input `[B, T, D]`, one-hot since it has no
//! look-up. The states are left where `seq` puts them, no tensor `[B, T, H]` is made of them. `--small` runs each once.

use std::io::{Write as _, stdin, stdout};

use candle_core::{DType, Device, Tensor};
use candle_nn::rnn::{LSTM, LSTMConfig, RNN, lstm};
use candle_nn::{VarBuilder, VarMap};
use pr_lstm::bench::{Algorithm, Case, Effort, Entrant, Record, Work, peer};
use pr_lstm::random::{Purpose, Random};
use pr_lstm::{Error, Result};

/// The input is one-hot over so many.
const INPUT: usize = 3;
/// Tokens of a run of a stream.
const TOKENS: usize = 64;

fn main() -> Result<()> {
    let small = std::env::args().any(|argument| argument == "--small");
    let effort = if small { Effort::ONCE } else { Effort::FULL };
    let out = &mut stdout().lock();
    let text = format!("candle-nn {}, default features, on the CPU", candle_version());
    writeln!(out, "{}", Record::note("candle", text).to_json()).map_err(|source| Error::Io {
        action: "write to",
        path: "stdout".into(),
        source,
    })?;
    peer(stdin().lock(), out, effort, |case| {
        let work = match *case {
            Case::Scan { hidden, batch, time } => scan(hidden, batch, time),
            Case::Stream { hidden, .. } => stream(hidden),
            _ => return Ok(Vec::new()),
        };
        Ok(vec![Entrant::new("candle lstm f32", case, Algorithm::Lstm, work.map_err(failed)?)?])
    })
}

/// As `Cargo.lock` has it.
fn candle_version() -> &'static str {
    let lock = include_str!("../../../../Cargo.lock");
    let entry = lock.split("name = \"candle-nn\"\nversion = \"").nth(1);
    entry.and_then(|rest| rest.split('"').next()).unwrap_or("of an unknown version")
}

fn failed(error: candle_core::Error) -> Error {
    Error::Unavailable { what: "candle".into(), why: error.to_string() }
}

fn model(hidden: usize) -> candle_core::Result<LSTM> {
    let map = VarMap::new();
    let weights = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    lstm(INPUT, hidden, LSTMConfig::default(), weights)
}

/// Random one-hot rows, `[B, T, D]`.
fn input(batch: usize, time: usize) -> candle_core::Result<Tensor> {
    let mut random = Random::new(1, Purpose::Show, time as u64, 0);
    let mut x = vec![0.0f32; batch * time * INPUT];
    x.chunks_exact_mut(INPUT).for_each(|row| row[random.below(INPUT as u32) as usize] = 1.0);
    Tensor::from_vec(x, (batch, time, INPUT), &Device::Cpu)
}

fn scan(hidden: usize, batch: usize, time: usize) -> candle_core::Result<Work<'static>> {
    let (model, x) = (model(hidden)?, input(batch, time)?);
    Ok(Work::new(1, move || {
        let states = model.seq(&x).map_err(failed)?;
        assert_eq!(states.len(), time);
        std::hint::black_box(states);
        Ok(())
    }))
}

fn stream(hidden: usize) -> candle_core::Result<Work<'static>> {
    let (model, x) = (model(hidden)?, input(TOKENS, 1)?);
    let tokens = (0..TOKENS).map(|t| x.get(t)).collect::<candle_core::Result<Vec<Tensor>>>()?;
    Ok(Work::new(TOKENS, move || {
        let mut state = model.zero_state(1).map_err(failed)?;
        for token in &tokens {
            state = model.step(token, &state).map_err(failed)?;
        }
        std::hint::black_box(state);
        Ok(())
    }))
}
