//! Adam's update of flat parameters. Elementwise but for the norm, whose sum is cut by the length only: the same bits
//! for any number of threads and on every path. Knows nothing of layers.

use std::sync::atomic::{AtomicU64, Ordering};

use super::lanes::Lanes;
use super::memory::Matrix;
use super::parallel;
use super::path::{CpuPath, Kernel};
use crate::backend::{AdamBuffers, cpu::Cpu};
use crate::optim::Adam;

/// Elements of one task.
const CHUNK: usize = 1 << 14;
/// Sums of squares that are added up at last, and running sums of each: enough for a core's adders.
const SUMS: usize = 64;
const RUNNING: usize = 16;

/// One update; see [`Backend::adam`](crate::backend::Backend::adam).
pub(super) fn adam(path: CpuPath, config: &Adam, buffers: AdamBuffers<'_, Cpu>) {
    let AdamBuffers { parameters, gradient, rate, m, v, state, norm } = buffers;
    let global = norm_of(path, gradient);
    norm[0] = global as f32;
    let step = state[0] + 1;
    // In f32, as it is reported: one beyond its range is as bad as infinity.
    if state[1] != 0 || !norm[0].is_finite() {
        state[1] = if state[1] == 0 { step } else { state[1] };
        return;
    }
    state[0] = step;
    let scale = match config.clip {
        Some(most) if global > most => most / global,
        _ => 1.0,
    };
    let correction = |beta: f64| 1.0 - beta.powf(step as f64);
    let factors = Factors {
        scale: scale as f32,
        beta: [config.beta1, config.beta2].map(|beta| beta as f32),
        rest: [config.beta1, config.beta2].map(|beta| (1.0 - beta) as f32),
        correction: [config.beta1, config.beta2].map(|beta| correction(beta) as f32),
        rate: rate[0],
        epsilon: config.epsilon as f32,
    };
    let len = parameters.len();
    let [parameters, m, v] = [parameters, m, v].map(|memory| Matrix::new(memory, 1));
    parallel::for_each(len.div_ceil(CHUNK), |task| {
        let (first, count) = (task * CHUNK, CHUNK.min(len - task * CHUNK));
        // SAFETY: elements of the three buffers, which are this task's own.
        let [parameters, m, v] = [parameters, m, v]
            .map(|memory| unsafe { std::slice::from_raw_parts_mut(memory.row(first), count) });
        path.run(Update { parameters, gradient: &gradient[first..][..count], m, v, factors });
    });
}

/// The root of the sum of all squares.
fn norm_of(path: CpuPath, gradient: &[f32]) -> f64 {
    let sums: [AtomicU64; SUMS] = std::array::from_fn(|_| AtomicU64::new(0));
    let part = gradient.len().div_ceil(SUMS).max(1);
    parallel::for_each(gradient.len().div_ceil(part), |task| {
        let gradient = &gradient[task * part..gradient.len().min((task + 1) * part)];
        let mut sum = 0.0;
        path.run(SquareSum { gradient, sum: &mut sum });
        sums[task].store(sum.to_bits(), Ordering::Relaxed);
    });
    sums.iter().map(|sum| f64::from_bits(sum.load(Ordering::Relaxed))).sum::<f64>().sqrt()
}

/// The sum of squares, compiled for a path; written without lanes, since it is in f64.
struct SquareSum<'a> {
    gradient: &'a [f32],
    sum: &'a mut f64,
}

impl Kernel for SquareSum<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let square = |g: f32| f64::from(g) * f64::from(g);
        let mut running = [0.0; RUNNING];
        let (whole, rest) = self.gradient.as_chunks::<RUNNING>();
        for chunk in whole {
            for (sum, &g) in running.iter_mut().zip(chunk) {
                *sum += square(g);
            }
        }
        for (sum, &g) in running.iter_mut().zip(rest) {
            *sum += square(g);
        }
        *self.sum = running.iter().sum();
    }
}

/// What is the same for all elements; of pairs the first is for the first moment.
#[derive(Clone, Copy)]
struct Factors {
    scale: f32,
    beta: [f32; 2],
    rest: [f32; 2],
    correction: [f32; 2],
    rate: f32,
    epsilon: f32,
}

/// The update of some elements, compiled for a path; written without lanes, since roots and quotients are rounded alike
/// everywhere.
struct Update<'a> {
    parameters: &'a mut [f32],
    gradient: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    factors: Factors,
}

impl Kernel for Update<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Update { parameters, gradient, m, v, factors } = self;
        let Factors { scale, beta, rest, correction, rate, epsilon } = factors;
        for (((p, &g), m), v) in parameters.iter_mut().zip(gradient).zip(m).zip(v) {
            let g = g * scale;
            *m = beta[0] * *m + rest[0] * g;
            *v = beta[1] * *v + rest[1] * g * g;
            *p -= rate * (*m / correction[0]) / ((*v / correction[1]).sqrt() + epsilon);
        }
    }
}
