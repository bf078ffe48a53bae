//! What a training step takes on a GPU by the paper's protocol: `parity_check`, 128 sequences of 1 to 40 symbols, R = 1, with
//! everything from the samples to Adam.
//!
//! `cargo bench --features gpu-benches --bench training`, or by the script of `scripts/gpu-bundle`. Prints a table in
//! Markdown. On the virtual GPU it takes a few small steps, and prints no figure.

mod card;

use std::error::Error;
use std::time::Instant;

use card::Card;
use pr_lstm::Dtype;
use pr_lstm::backend::Backend as _;
use pr_lstm::cuda::Cuda;
use pr_lstm::tasks::Task;
use pr_lstm::train::{Settings, Trainer};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How many steps are taken: until every length has its graph, then for the mean, then one by one.
struct Steps {
    warm: u64,
    timed: u64,
    apart: u64,
}

/// Mean seconds of a step, and the median of those of the greatest length, each waited for.
fn measure(settings: Settings, cuda: Cuda, steps: &Steps) -> Result<[f64; 2]> {
    let longest = settings.max_length;
    let mut trainer = Trainer::new(settings, cuda)?;
    let mut take = |count: u64| -> Result<f64> {
        let start = Instant::now();
        let mut loss = f32::NAN;
        for left in (0..count).rev() {
            loss = trainer.step(left == 0)?.map_or(loss, |measured| measured.loss);
        }
        let seconds = start.elapsed().as_secs_f64();
        if loss.is_finite() { Ok(seconds / count as f64) } else { Err(format!("the loss was {loss}").into()) }
    };
    take(steps.warm)?;
    let mean = take(steps.timed)?;
    let mut of_the_longest = Vec::new();
    for _ in 0..steps.apart {
        let start = Instant::now();
        let measured = trainer.step(true)?;
        if measured.is_some_and(|measured| measured.length == longest) {
            of_the_longest.push(start.elapsed().as_secs_f64());
        }
    }
    of_the_longest.sort_by(f64::total_cmp);
    Ok([mean, of_the_longest.get(of_the_longest.len() / 2).copied().unwrap_or(f64::NAN)])
}

fn main() -> Result<()> {
    let Card { context, name, is_virtual } = Card::open()?;
    let paper = Settings::paper(Task::ParityCheck);
    let (steps, hidden, paper) = match is_virtual {
        true => {
            (Steps { warm: 2, timed: 2, apart: 1 }, vec![16], Settings { batch: 2, max_length: 3, ..paper })
        }
        false => (Steps { warm: 800, timed: 2000, apart: 400 }, vec![64, 256], paper),
    };

    let Settings { batch, max_length, .. } = paper;
    println!(
        "| training step ({name}; B = {batch}, 1 to {max_length} symbols) | mean | {max_length} symbols, waited for |"
    );
    println!("|---|---|---|");
    for hidden in hidden {
        for dtype in [Dtype::Bf16, Dtype::F32] {
            let cuda = Cuda::on(&context.new_stream()?)?.with_dtype(dtype)?;
            let taken = measure(Settings { hidden, ..paper.clone() }, cuda, &steps)?;
            let [mean, longest] = taken.map(|seconds| match is_virtual {
                true => "virtual, not measured".into(),
                false => format!("{:.1} µs", seconds * 1e6),
            });
            println!("| H = {hidden}, {dtype} | {mean} | {longest} |");
        }
    }
    Ok(())
}
