//! Finds the instructions that touch registers in which `wgmma` accumulates.

use super::ir::{Class, Kernel, Op};
use super::touch::Touch;

/// Fills in `held` of the code of `kernel`, whose slots are final.
pub fn mark(kernel: &mut Kernel) {
    let mut accumulators = vec![false; kernel.planes[Class::R32 as usize] as usize];
    for code in &kernel.code {
        if let Op::Wgmma { d, .. } = &code.op {
            kernel.products = true;
            d.iter().for_each(|&slot| accumulators[slot as usize] = true);
        }
    }
    if !kernel.products {
        return;
    }
    for code in &mut kernel.code {
        let start = kernel.checks.len() as u32;
        if !matches!(code.op, Op::Wgmma { .. }) {
            code.op.touches(&mut |class, slot, touch| {
                if class == Class::R32 && accumulators[slot as usize] {
                    kernel.checks.extend([slot, u32::from(touch == Touch::Def)]);
                }
            });
        }
        code.held = (start, kernel.checks.len() as u32 - start);
    }
}
