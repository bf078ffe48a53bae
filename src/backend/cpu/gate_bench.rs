//! A gate's function alone over a slice, as the cells apply it to registers: for the benchmarks, which time it.

use super::Cpu;
use std::marker::PhantomData;

use half::bf16;

use super::lanes::Lanes;
use super::path::Kernel;
use super::stored::Stored;
use crate::backend::Dtype;

impl Cpu {
    /// `y = tanh(x)` or `σ(x)` as cells of this type have them, on this thread; what is beyond the last 16 whole numbers
    /// stays.
    pub(crate) fn gate(&self, tanh: bool, x: &[f32], y: &mut [f32]) {
        match self.dtype {
            Dtype::Bf16 => self.path.run(Apply::<bf16> { tanh, x, y, kept: PhantomData }),
            _ => self.path.run(Apply::<f32> { tanh, x, y, kept: PhantomData }),
        }
    }
}

struct Apply<'a, H> {
    tanh: bool,
    x: &'a [f32],
    y: &'a mut [f32],
    kept: PhantomData<H>,
}

impl<H: Stored> Kernel for Apply<'_, H> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        for (x, y) in self.x.chunks_exact(L::WIDTH).zip(self.y.chunks_exact_mut(L::WIDTH)) {
            // SAFETY: both chunks are as long as a vector.
            unsafe {
                let x = L::load(x.as_ptr());
                let gate = if self.tanh { H::tanh(x) } else { H::sigmoid(x) };
                gate.store(y.as_mut_ptr());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend as _;

    #[test]
    fn a_slice_gets_the_function_that_was_asked_for() {
        let x: Vec<f32> = (-64..64).map(|i| i as f32 / 8.0).collect();
        for (dtype, most) in [(Dtype::F32, 1e-6), (Dtype::Bf16, 1e-5)] {
            let cpu = Cpu::new().with_dtype(dtype).unwrap();
            for is_tanh in [false, true] {
                let mut y = vec![f32::NAN; x.len()];
                cpu.gate(is_tanh, &x, &mut y);
                for (x, y) in x.iter().zip(y) {
                    let expected = if is_tanh { x.tanh() } else { 1.0 / (1.0 + (-x).exp()) };
                    assert!(
                        (y - expected).abs() <= most,
                        "{dtype} tanh {is_tanh} of {x}: {y}, not {expected}"
                    );
                }
            }
        }
    }
}
