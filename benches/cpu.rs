//! The CPU's benchmarks under Criterion: the cases of `pr_lstm::bench`, this crate's contenders and plain products.
//!
//! `cargo bench --bench cpu`, or `-- step/h256` for a part. Criterion tells the rate as elements a second: an element is a
//! floating-point operation. After each case a line a contender tells FLOPs, GFLOP/s and the share of the plain products
//! of the same shapes, measured in the same run. As a test it runs every small case once.

mod products;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use pr_lstm::bench::{Case, Contender, Line, Record, Timing, Work, threads};

const SAMPLES: usize = 10;

fn main() {
    let small = !std::env::args().any(|argument| argument == "--bench");
    let mut criterion = Criterion::default()
        .sample_size(SAMPLES)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut left_out = Vec::new();
    for case in Case::all(small) {
        let lines = run(&mut criterion, &case, &mut left_out);
        for line in &lines {
            let gemm = line.gemm().and_then(|gemm| lines.iter().find(|other| other.contender == gemm));
            let share = line.rate().zip(gemm.and_then(Line::rate)).map(|(rate, gemm)| 100.0 * rate / gemm);
            let share = share.map_or(String::new(), |share| format!("  {share:.0} % of gemm"));
            println!("{}{share}", Record::Line(line.clone()));
        }
    }
    criterion.final_summary();
}

/// Every contender of a case that the command line's filter lets pass: what it took. One that this machine has not is told
/// of once.
fn run(criterion: &mut Criterion, case: &Case, left_out: &mut Vec<Contender>) -> Vec<Line> {
    let mut lines = Vec::new();
    for contender in Contender::of(case) {
        if let Err(error) = contender.check() {
            if !left_out.contains(&contender) {
                println!("left out: {contender}: {error}");
                left_out.push(contender);
            }
            continue;
        }
        let gflop = known(case.gflop(contender.algorithm));
        lines.extend(bench(criterion, case, &contender.to_string(), gflop, || contender.work(case)));
    }
    for &algorithm in case.algorithms() {
        let (name, products) = (products::name(algorithm), known(case.products(algorithm)));
        if let Some(gflop) = known(case.gflop(algorithm)) {
            let work = || Ok(products::work(products.clone()));
            lines.extend(bench(criterion, case, name, Some(gflop), work));
        }
    }
    lines
}

/// Of a case that is valid.
fn known<T>(result: pr_lstm::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

/// Has Criterion time one contender, whose work is made only if the filter lets it pass.
fn bench(
    criterion: &mut Criterion,
    case: &Case,
    contender: &str,
    gflop: Option<f64>,
    work: impl Fn() -> pr_lstm::Result<Work<'static>>,
) -> Option<Line> {
    let name = case.to_string();
    let (group, shape) = name.split_once('/').unwrap_or((&name, ""));
    let mut group = criterion.benchmark_group(group);
    group.sampling_mode(SamplingMode::Flat);
    if let Some(gflop) = gflop {
        group.throughput(Throughput::Elements((gflop * 1e9) as u64));
    }
    let (mut ready, mut samples) = (None, Vec::new());
    group.bench_function(BenchmarkId::new(shape, contender), |bencher| {
        let work = ready.get_or_insert_with(|| known(work()));
        bencher.iter_custom(|iterations| {
            let start = Instant::now();
            (0..iterations).for_each(|_| known(work.run()));
            let elapsed = start.elapsed().div_f64(work.units() as f64);
            samples.push(elapsed.as_secs_f64().max(1e-9) / iterations as f64);
            elapsed
        });
    });
    group.finish();
    // The first ones warm up; there are none where the filter let nothing pass.
    let last = samples.len().saturating_sub(SAMPLES);
    let samples = samples.get_mut(last..).filter(|samples| !samples.is_empty())?;
    let Timing { median, fastest, samples } = Timing::of(samples);
    let contender = contender.to_owned();
    Some(Line { case: name, contender, seconds: median, fastest, samples, gflop, threads: threads() })
}
