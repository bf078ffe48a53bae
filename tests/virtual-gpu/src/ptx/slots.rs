//! Gives registers that are never alive together the same slot, so that a warp's planes stay in the cache,
//! and estimates how many registers a thread needs.

use super::flow::blocks;
use super::ir::{Class, Kernel, Op, Slot};
use super::touch::Touch;

const CLASSES: [Class; 3] = [Class::R32, Class::R64, Class::Pred];

/// Renames the slots of `kernel`, which must be arranged and checked already.
pub fn compact(kernel: &mut Kernel) {
    let base = [0, kernel.planes[0], kernel.planes[0] + kernel.planes[1]];
    let total = (base[2] + kernel.planes[2]) as usize;
    let id = |class: Class, slot: Slot| (base[class as usize] + slot) as usize;
    let mut fixed = vec![false; total];
    kernel.constants32.iter().for_each(|&(s, _)| fixed[id(Class::R32, s)] = true);
    kernel.constants64.iter().for_each(|&(s, _)| fixed[id(Class::R64, s)] = true);
    kernel.specials.iter().for_each(|&(s, _)| fixed[id(Class::R32, s)] = true);
    // Accumulators stay where they are: what is in flight ends in them after their last use, too.
    let mut accumulators = vec![false; total];
    for code in &kernel.code {
        if let Op::Wgmma { d, .. } = &code.op {
            d.iter().for_each(|&s| accumulators[id(Class::R32, s)] = true);
        }
    }
    (0..total).filter(|&i| accumulators[i]).for_each(|i| fixed[i] = true);
    let blocks = blocks(&kernel.code);
    let words = total.div_ceil(64);
    let (mut used, mut killed) =
        (vec![vec![0u64; words]; blocks.len()], vec![vec![0u64; words]; blocks.len()]);
    for (b, block) in blocks.iter().enumerate() {
        for code in &kernel.code[block.start..block.end] {
            if let Some((p, _)) = code.guard {
                let i = id(Class::Pred, p);
                if killed[b][i / 64] >> (i % 64) & 1 == 0 {
                    used[b][i / 64] |= 1 << (i % 64);
                }
            }
            code.op.touches(&mut |class, slot, touch| {
                let i = id(class, slot);
                let bit = 1u64 << (i % 64);
                // A guarded write keeps the old value of some lanes: it does not kill, and it reads.
                if touch != Touch::Def || code.guard.is_some() {
                    if killed[b][i / 64] & bit == 0 {
                        used[b][i / 64] |= bit;
                    }
                } else {
                    killed[b][i / 64] |= bit;
                }
            });
        }
    }
    // Lanes may be in different places, but each writes its own part of a slot only, so what is right for one
    // thread alone is right for all.
    let (mut into, mut out) = (used.clone(), vec![vec![0u64; words]; blocks.len()]);
    let mut changed = true;
    while changed {
        changed = false;
        for b in (0..blocks.len()).rev() {
            for w in 0..words {
                let after = blocks[b].next.iter().fold(0, |m, &n| m | into[n][w]);
                let before = used[b][w] | after & !killed[b][w];
                changed |= after != out[b][w] || before != into[b][w];
                (out[b][w], into[b][w]) = (after, before);
            }
        }
    }
    let (mut first, mut last) = (vec![usize::MAX; total], vec![0usize; total]);
    let mut see = |i: usize, at: usize| {
        first[i] = first[i].min(at);
        last[i] = last[i].max(at);
    };
    for (b, block) in blocks.iter().enumerate() {
        for w in 0..words {
            for (set, at) in [(into[b][w], block.start), (out[b][w], block.end)] {
                let mut rest = set;
                while rest != 0 {
                    see(w * 64 + rest.trailing_zeros() as usize, at);
                    rest &= rest - 1;
                }
            }
        }
        for (at, code) in kernel.code[block.start..block.end].iter().enumerate() {
            let at = block.start + at;
            if let Some((p, _)) = code.guard {
                see(id(Class::Pred, p), at);
            }
            code.op.touches(&mut |class, slot, _| see(id(class, slot), at));
        }
    }
    let mut renamed = vec![u32::MAX; total];
    let mut need = accumulators.iter().filter(|&&a| a).count() as u32;
    for class in CLASSES {
        let range = base[class as usize] as usize
            ..base[class as usize] as usize + kernel.planes[class as usize] as usize;
        let mut next = 0;
        for i in range.clone().filter(|&i| fixed[i]) {
            renamed[i] = next;
            next += 1;
        }
        let mut order: Vec<usize> = range.filter(|&i| !fixed[i] && first[i] != usize::MAX).collect();
        order.sort_unstable_by_key(|&i| (first[i], i));
        let mut free: Vec<u32> = Vec::new();
        let mut alive: std::collections::BinaryHeap<std::cmp::Reverse<(usize, u32)>> = Default::default();
        let mut most = 0;
        for i in order {
            while let Some(&std::cmp::Reverse((end, slot))) = alive.peek() {
                if end >= first[i] {
                    break;
                }
                alive.pop();
                free.push(slot);
            }
            let slot = free.pop().unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            renamed[i] = slot;
            alive.push(std::cmp::Reverse((last[i], slot)));
            most = most.max(alive.len() as u32);
        }
        kernel.planes[class as usize] = next.max(1);
        need += match class {
            Class::R32 => most,
            Class::R64 => 2 * most,
            Class::Pred => 0,
        };
    }
    let rename = |class: Class, slot: &mut Slot| {
        let new = renamed[id(class, *slot)];
        if new != u32::MAX {
            *slot = new;
        }
    };
    for code in &mut kernel.code {
        if let Some((p, _)) = &mut code.guard {
            rename(Class::Pred, p);
        }
        code.op.visit(&mut |class, slot, _| rename(class, slot));
    }
    kernel.constants32.iter_mut().for_each(|(s, _)| rename(Class::R32, s));
    kernel.constants64.iter_mut().for_each(|(s, _)| rename(Class::R64, s));
    kernel.specials.iter_mut().for_each(|(s, _)| rename(Class::R32, s));
    kernel.registers = (need + 8).clamp(16, 255);
}
