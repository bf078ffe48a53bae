//! Read-out and cross entropy: what follows a pass.

use super::BLOCK;
use super::cell::At;
use super::lanes::Lanes;
use super::memory::{Index, Matrix};
use super::pack::PackedLinear;
use super::parallel;
use super::path::{CpuPath, Kernel};
use super::product::{Ahead, Product, ReluRows, Rows, Tile, for_each_tile};
use crate::model::LinearRange;

/// Rows or elements of one task.
const CHUNK: usize = 64;

/// `y = relu(hidden) · W + b`.
pub(super) fn readout(path: CpuPath, linear: &PackedLinear, outputs: usize, hidden: &[f32], y: &mut [f32]) {
    let width = linear.fan_in;
    let rows = hidden.len() / width;
    // SAFETY: `hidden` is only read.
    let x = unsafe { Matrix::read_only(hidden, width) };
    let input = ReluRows(Rows { x, index: Index::From(0), len: width });
    let y = At { matrix: Matrix::new(y, outputs), index: Index::From(0) };
    parallel::for_each(rows.div_ceil(CHUNK), |task| {
        let rows = task * CHUNK..rows.min((task + 1) * CHUNK);
        path.run(Readout { linear, input, outputs, y, rows });
    });
}

struct Readout<'a> {
    linear: &'a PackedLinear,
    input: ReluRows<'a>,
    outputs: usize,
    y: At<'a>,
    rows: std::ops::Range<usize>,
}

impl Kernel for Readout<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        for block in 0..self.linear.blocks {
            for half in (0..BLOCK).step_by(L::WIDTH) {
                let tile = ReadoutTile { job: &self, block, half };
                // SAFETY: the rows of `y` are this task's own.
                unsafe { for_each_tile::<L, 1>(self.rows.clone(), &tile) }
            }
        }
    }
}

struct ReadoutTile<'a, 'b> {
    job: &'a Readout<'b>,
    block: usize,
    half: usize,
}

impl Tile for ReadoutTile<'_, '_> {
    #[inline(always)]
    unsafe fn tile<L: Lanes, const M: usize>(&self, first: usize) {
        let &ReadoutTile { job, block, half } = self;
        let column = block * BLOCK + half;
        let live = job.outputs.saturating_sub(column).min(L::WIDTH);
        // SAFETY: rows of `y` have `outputs` elements, of which `live` are stored from `column` on.
        unsafe {
            let panel = job.linear.panel(block).as_ptr().add(half);
            let acc = job.input.multiply::<L, M, 1>(first, panel, Ahead::none(panel));
            let bias = L::load(job.linear.bias(block).as_ptr().add(half));
            for (m, [acc]) in acc.into_iter().enumerate() {
                let mut vector = [0.0f32; BLOCK];
                acc.add(bias).store(vector.as_mut_ptr());
                std::ptr::copy_nonoverlapping(
                    vector.as_ptr(),
                    job.y.row(first + m).wrapping_add(column),
                    live,
                );
            }
        }
    }
}

/// Adds to `d_hidden`, and to the read-out's `W` and `b` in `gradient`, rows in order.
pub(super) fn readout_backward(
    range: &LinearRange,
    parameters: &PackedLinear,
    hidden: &[f32],
    d_y: &[f32],
    d_hidden: &mut [f32],
    gradient: &mut [f32],
) {
    let (h, outputs) = (range.fan_in, range.columns);
    let weight = |k: usize, o: usize| parameters.panel(o / BLOCK)[k * BLOCK + o % BLOCK];
    let rows = hidden.len() / h;
    let d_hidden = Matrix::new(d_hidden, h);
    parallel::for_each(rows.div_ceil(CHUNK), |task| {
        for row in task * CHUNK..rows.min((task + 1) * CHUNK) {
            // SAFETY: a row of `h` elements, which is this task's own.
            let d_hidden = unsafe { std::slice::from_raw_parts_mut(d_hidden.row(row), h) };
            let (hidden, d_y) = (&hidden[row * h..][..h], &d_y[row * outputs..][..outputs]);
            for (k, d) in d_hidden.iter_mut().enumerate() {
                if hidden[k] > 0.0 {
                    *d += d_y.iter().enumerate().fold(0.0, |sum, (o, d_y)| sum + weight(k, o) * d_y);
                }
            }
        }
    });
    let (w, b) = gradient[range.w.start..range.b.end].split_at_mut(range.w.len());
    let w = Matrix::new(w, outputs);
    parallel::for_each(h.div_ceil(CHUNK), |task| {
        for (hidden, d_y) in hidden.chunks_exact(h).zip(d_y.chunks_exact(outputs)) {
            let inputs = task * CHUNK..h.min((task + 1) * CHUNK);
            for (k, &hidden) in inputs.clone().zip(&hidden[inputs]) {
                if hidden > 0.0 {
                    // SAFETY: a row of `outputs` elements, which is this task's own.
                    let w = unsafe { std::slice::from_raw_parts_mut(w.row(k), outputs) };
                    w.iter_mut().zip(d_y).for_each(|(w, d_y)| *w += hidden * d_y);
                }
            }
        }
    });
    for d_y in d_y.chunks_exact(outputs) {
        b.iter_mut().zip(d_y).for_each(|(b, d_y)| *b += d_y);
    }
}

/// The first of the largest; NaN never wins over a number.
fn arg_max(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, o| if logits[o] > logits[best] { o } else { best })
}

/// A class's logit less the largest, and the sum of the exponentials of all.
fn softmax_parts(logits: &[f32]) -> (impl Fn(usize) -> f64, f64) {
    let most = f64::from(logits[arg_max(logits)]);
    let log = move |o: usize| f64::from(logits[o]) - most;
    let sum = (0..logits.len()).map(|o| log(o).exp()).sum();
    (log, sum)
}

/// Cross entropy, mean over rows: `[loss, right among the counted, counted]`.
pub(super) fn cross_entropy(logits: &[f32], targets: &[u32], mask: &[u8], metrics: &mut [f32]) {
    let (rows, outputs) = (targets.len(), logits.len() / targets.len());
    let (mut loss, mut right, mut counted) = (0.0f64, 0u32, 0u32);
    for (logits, (&target, &mask)) in logits.chunks_exact(outputs).zip(targets.iter().zip(mask)) {
        let (log, sum) = softmax_parts(logits);
        loss += sum.ln() - log(target as usize);
        if mask != 0 {
            let best = arg_max(logits);
            counted += 1;
            right += u32::from(best == target as usize && logits.iter().all(|logit| !logit.is_nan()));
        }
    }
    metrics.copy_from_slice(&[(loss / rows as f64) as f32, right as f32, counted as f32]);
}

/// Adds `d_loss · (softmax - one-hot) / rows` to `d_logits`; NaN where a row's loss is not finite.
pub(super) fn cross_entropy_backward(logits: &[f32], targets: &[u32], d_loss: f32, d_logits: &mut [f32]) {
    let (rows, outputs) = (targets.len(), logits.len() / targets.len());
    let scale = f64::from(d_loss) / rows as f64;
    let rows = logits.chunks_exact(outputs).zip(d_logits.chunks_exact_mut(outputs));
    for ((logits, d_logits), &target) in rows.zip(targets) {
        let (log, sum) = softmax_parts(logits);
        // A loss that is not finite has no gradient: NaN reaches the norm, and Adam writes nothing.
        let loss = (sum.ln() - log(target as usize)) as f32;
        let scale = if loss.is_finite() { scale } else { f64::NAN };
        for (o, d) in d_logits.iter_mut().enumerate() {
            *d += (scale * (log(o).exp() / sum - f64::from(u8::from(o == target as usize)))) as f32;
        }
    }
}
