//! The clock: several works, sample by sample in turn, so that a machine's drift hits all alike.

use std::time::{Duration, Instant};

use super::Work;
use crate::error::Result;

/// How long is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Samples of each work; at least one is taken.
    pub samples: usize,
    /// A sample repeats its work until it has lasted so long.
    pub sample: Duration,
    /// What a work runs before it is timed; once at least.
    pub warm_up: Duration,
    /// No sample is begun after so long, but the first three of each work.
    pub most: Duration,
}

impl Effort {
    /// Enough for a figure that one may quote.
    pub const FULL: Effort = Effort {
        samples: 20,
        sample: Duration::from_millis(5),
        warm_up: Duration::from_millis(200),
        most: Duration::from_secs(10),
    };
    /// Once, to see that it runs.
    pub const ONCE: Effort =
        Effort { samples: 1, sample: Duration::ZERO, warm_up: Duration::ZERO, most: Duration::ZERO };
}

/// Times of a work, in seconds of one of its units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// The median of the samples.
    pub median: f64,
    /// The fastest sample.
    pub fastest: f64,
    /// How many there were.
    pub samples: usize,
}

impl Timing {
    /// Of at least one sample.
    pub fn of(samples: &mut [f64]) -> Self {
        samples.sort_unstable_by(f64::total_cmp);
        let middle = samples.len() / 2;
        let median = if samples.len() % 2 == 1 {
            samples[middle]
        } else {
            (samples[middle - 1] + samples[middle]) / 2.0
        };
        Timing { median, fastest: samples[0], samples: samples.len() }
    }
}

/// Samples each work in turn, after each was warmed up; the timings are in the order of the works.
///
/// # Errors
/// The works' own.
pub fn measure(works: &mut [Work<'_>], effort: Effort) -> Result<Vec<Timing>> {
    let mut repeats = Vec::with_capacity(works.len());
    for work in works.iter_mut() {
        let (mut runs, start) = (1, Instant::now());
        while work.run().map(|()| start.elapsed() < effort.warm_up)? {
            runs += 1;
        }
        let run = start.elapsed().as_secs_f64() / f64::from(runs);
        repeats.push((effort.sample.as_secs_f64() / run.max(1e-9)).ceil().max(1.0) as u32);
    }
    let mut samples = vec![Vec::with_capacity(effort.samples); works.len()];
    let start = Instant::now();
    for round in 0..effort.samples.max(1) {
        if round >= 3 && start.elapsed() > effort.most {
            break;
        }
        for ((work, &repeats), samples) in works.iter_mut().zip(&repeats).zip(&mut samples) {
            let start = Instant::now();
            for _ in 0..repeats {
                work.run()?;
            }
            samples.push(a_unit(start.elapsed(), repeats, work.units()));
        }
    }
    Ok(samples.iter_mut().map(|samples| Timing::of(samples)).collect())
}

/// Seconds of a unit, of `units` in each of `repeats` runs. A clock may stand still for a run of nothing; no time is zero.
fn a_unit(elapsed: Duration, repeats: u32, units: usize) -> f64 {
    elapsed.as_secs_f64().max(1e-9) / f64::from(repeats) / units as f64
}

/// Threads that the CPU backend works on.
pub fn threads() -> usize {
    #[cfg(feature = "rayon")]
    return rayon::current_num_threads();
    #[cfg(not(feature = "rayon"))]
    1
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::error::Error;

    #[test]
    fn a_timing_is_the_median_and_the_fastest() {
        let timing = Timing::of(&mut [5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!(timing, Timing { median: 3.0, fastest: 1.0, samples: 5 });
    }

    #[test]
    fn works_take_turns_after_each_was_warmed_up() {
        let order = RefCell::new(String::new());
        let mut works = ['a', 'b'].map(|name| {
            let order = &order;
            Work::new(1, move || {
                order.borrow_mut().push(name);
                Ok(())
            })
        });
        let timings = measure(&mut works, Effort { samples: 3, ..Effort::ONCE }).expect("they run");
        drop(works);
        assert_eq!(order.into_inner(), "abababab"); // the first two warm up
        assert!(timings.iter().all(|timing| timing.samples == 3 && timing.fastest > 0.0));
    }

    #[test]
    fn a_unit_takes_its_share_of_a_run_and_a_failure_is_passed_on() {
        assert_eq!(a_unit(Duration::from_secs(12), 3, 8), 0.5);
        assert!(a_unit(Duration::ZERO, 3, 8) > 0.0);
        let mut failing = [Work::new(1, || Err(Error::argument("a", "b", "c")))];
        assert!(measure(&mut failing, Effort::ONCE).is_err());
    }
}
