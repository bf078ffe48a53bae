//! A gate's function alone over a slice, as the cells apply it to registers: for the benchmarks, which time it.

use super::Cpu;
use super::gates::{sigmoid, tanh};
use super::lanes::Lanes;
use super::path::Kernel;

impl Cpu {
    /// `y = tanh(x)` or `σ(x)`, on this thread; what is beyond the last 16 whole numbers stays.
    pub(crate) fn gate(&self, tanh: bool, x: &[f32], y: &mut [f32]) {
        self.path.run(Apply { tanh, x, y });
    }
}

struct Apply<'a> {
    tanh: bool,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        for (x, y) in self.x.chunks_exact(L::WIDTH).zip(self.y.chunks_exact_mut(L::WIDTH)) {
            // SAFETY: both chunks are as long as a vector.
            unsafe {
                let x = L::load(x.as_ptr());
                let gate = if self.tanh { tanh(x) } else { sigmoid(x) };
                gate.store(y.as_mut_ptr());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_gets_the_function_that_was_asked_for() {
        let x: Vec<f32> = (-64..64).map(|i| i as f32 / 8.0).collect();
        for is_tanh in [false, true] {
            let mut y = vec![f32::NAN; x.len()];
            Cpu::new().gate(is_tanh, &x, &mut y);
            for (x, y) in x.iter().zip(y) {
                let expected = if is_tanh { x.tanh() } else { 1.0 / (1.0 + (-x).exp()) };
                assert!((y - expected).abs() <= 1e-6, "tanh {is_tanh} of {x}: {y}, not {expected}");
            }
        }
    }
}
