//! Training with a loss of one's own: a siamese network whose two scans share their weights learns whether two
//! sequences of bits have the same parity.

use pr_lstm::random::{Purpose, Random};
use pr_lstm::{Adam, Config, Cpu, Outputs, Parameters, Result, Tape};

const BATCH: usize = 64;
const HIDDEN: usize = 16;

fn main() -> Result<()> {
    let config = Config::new(2, HIDDEN, 1);
    let mut params = Parameters::init(&config, Cpu::new(), 0)?;
    let mut adam = Adam { learning_rate: 3e-3, ..Adam::paper() }.build(&params)?;
    let mut tape = Tape::new(&params, BATCH, 8)?;
    let (mut first, mut last) = (0.0, 0.0);
    for step in 0..700 {
        let (left, right) = (draw(step, 0), draw(step, 1));
        let parity = |sequence: &Vec<u32>| sequence.iter().sum::<u32>() % 2;
        let same: Vec<bool> = left.iter().zip(&right).map(|(l, r)| parity(l) == parity(r)).collect();

        tape.clear();
        let h1 = tape.scan(&params, &left, Outputs::Last)?; // shared weights: gradients add
        let h2 = tape.scan(&params, &right, Outputs::Last)?;
        let same_back = same.clone();
        let loss = tape.custom(
            [h1, h2],
            move |[h1, h2]| vec![contrast(h1, h2, &same).0],
            move |[h1, h2], d_loss| {
                let d_h1: Vec<f32> = contrast(h1, h2, &same_back).1.iter().map(|d| d * d_loss[0]).collect();
                let d_h2 = d_h1.iter().map(|d| -d).collect();
                [d_h1, d_h2]
            },
        )?;
        last = tape.value(loss)?[0];
        if step == 0 {
            first = last;
        }
        if step % 100 == 0 {
            println!("step {step:>4}  loss {last:.4}");
        }
        let grads = tape.backward(loss)?;
        adam.step(&mut params, grads)?; // clip, Adam, repack
    }
    println!("from {first:.4} to {last:.4}; the tape holds {} bytes", tape.bytes());
    assert!(last < 0.5 * first, "it learned nothing");
    let path = std::env::temp_dir().join(format!("pr-lstm-siamese-{}.safetensors", std::process::id()));
    params.save(&path)?; // atomic
    let _ = std::fs::remove_file(path);
    Ok(())
}

/// Sequences of one step of one side: 1 to 8 bits each.
fn draw(step: u64, side: u32) -> Vec<Vec<u32>> {
    let sequence = |index| {
        let mut random = Random::new(0, Purpose::Train, step, 2 * index + side);
        (0..=random.below(8)).map(|_| random.below(2)).collect()
    };
    (0..BATCH as u32).map(sequence).collect()
}

/// Mean over pairs of `d²` where they are the same, of `max(0, 1 - d)²` where not, `d` the distance of `h1` and
/// `h2`; and the gradient for `h1`.
fn contrast(h1: &[f32], h2: &[f32], same: &[bool]) -> (f32, Vec<f32>) {
    let (mut loss, mut gradient) = (0.0, Vec::with_capacity(h1.len()));
    let pairs = h1.chunks_exact(HIDDEN).zip(h2.chunks_exact(HIDDEN)).zip(same);
    for ((h1, h2), &same) in pairs {
        let difference: Vec<f32> = h1.iter().zip(h2).map(|(a, b)| a - b).collect();
        let distance = difference.iter().map(|d| d * d).sum::<f32>().sqrt().max(1e-6);
        let margin = (1.0 - distance).max(0.0);
        loss += if same { distance * distance } else { margin * margin };
        let scale = if same { 2.0 } else { -2.0 * margin / distance };
        gradient.extend(difference.iter().map(|d| scale * d / BATCH as f32));
    }
    (loss / BATCH as f32, gradient)
}
