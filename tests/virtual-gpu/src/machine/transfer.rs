//! Atomics and what they tell other blocks; asynchronous copies; `ldmatrix`.

use super::Step;
use super::access::{Access, lanes};
use super::block::Block;
use super::load_store::copy_in;
use super::shared::{Act, wavefronts};
use super::warp::{Copy, Warp};
use crate::ptx::ir::{Address, AtomicOp, Guard, Num, Order, Slot};
use crate::ptx::lower::SHARED_BASE;
use crate::ptx::parse::Space;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

impl Block<'_> {
    /// `atom` and `red`.
    pub fn atomic(
        &mut self,
        warp: &mut Warp,
        mask: u32,
        space: Space,
        op: AtomicOp,
        num: Num,
        d: Option<Slot>,
        address: Address,
        b: Slot,
        c: Slot,
        order: Order,
    ) -> Step {
        let mut addresses = self.addresses(warp, address);
        let size = num.size();
        self.counters.atomics += u64::from(mask.count_ones());
        for (space, mask) in self.spaces(space, &mut addresses, mask) {
            if mask == 0 {
                continue;
            }
            match space {
                Space::Global | Space::Generic => {
                    self.global(warp, &addresses, mask, size, Access::Atomic)?;
                }
                Space::Shared => {
                    self.shared_access(warp, &addresses, mask, size, Act::Atomic)?;
                }
                _ => {
                    let lane = mask.trailing_zeros() as usize;
                    return Err(self.fault(
                        719,
                        warp,
                        lane,
                        "an atomic operation on local memory".to_owned(),
                    ));
                }
            }
            for lane in lanes(mask) {
                let (x, y) = if size == 8 {
                    (warp.planes.r64[b as usize][lane], warp.planes.r64[c as usize][lane])
                } else {
                    (
                        u64::from(warp.planes.r32[b as usize][lane]),
                        u64::from(warp.planes.r32[c as usize][lane]),
                    )
                };
                let step = |old: u64| atomic_step(op, num, old, x, y);
                let old = if space == Space::Shared {
                    let at = (addresses[lane] - u64::from(SHARED_BASE)) as usize;
                    let mut bytes = [0; 8];
                    bytes[..size].copy_from_slice(&self.shared.data[at..at + size]);
                    let old = u64::from_le_bytes(bytes);
                    self.shared.data[at..at + size].copy_from_slice(&step(old).to_le_bytes()[..size]);
                    old
                } else {
                    self.publish(warp, addresses[lane], order, false);
                    let at = self.launch.memory.pointer(addresses[lane]);
                    // SAFETY: inside an allocation and aligned, both checked above.
                    let old = unsafe {
                        match size {
                            8 => (*at.cast::<AtomicU64>())
                                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |v| Some(step(v)))
                                .unwrap_or(0),
                            4 => u64::from(
                                (*at.cast::<AtomicU32>())
                                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |v| {
                                        Some(step(u64::from(v)) as u32)
                                    })
                                    .unwrap_or(0),
                            ),
                            _ => u64::from(
                                (*at.cast::<AtomicU16>())
                                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |v| {
                                        Some(step(u64::from(v)) as u16)
                                    })
                                    .unwrap_or(0),
                            ),
                        }
                    };
                    self.hear(warp, addresses[lane], order);
                    old
                };
                if let Some(d) = d {
                    match size {
                        8 => warp.planes.r64[d as usize][lane] = old,
                        _ => warp.planes.r32[d as usize][lane] = old as u32,
                    }
                }
            }
        }
        self.watch(warp, mask, addresses[mask.trailing_zeros() as usize & 31], d);
        Ok(())
    }

    /// `cp.async`: the source is read now, the destination written when it is waited for.
    pub fn copy_async(
        &mut self,
        warp: &mut Warp,
        mask: u32,
        to: Address,
        from: Address,
        size: usize,
        source: Option<Slot>,
        skip: Guard,
    ) -> Step {
        let to = self.addresses(warp, to);
        let from = self.addresses(warp, from);
        let offsets = self.shared_access(warp, &to, mask, size, Act::Begin)?;
        let (taken, ideal) = wavefronts(&offsets, mask, size);
        self.counters.wavefronts += taken;
        self.counters.wavefronts_ideal += ideal;
        let mut copy = warp.spare.pop().unwrap_or_else(|| Copy {
            mask: 0,
            group: [0; 32],
            to: [0; 32],
            size: 0,
            data: Box::new([[0; 16]; 32]),
        });
        (copy.mask, copy.group, copy.to, copy.size) = (mask, warp.groups, offsets, size);
        let mut wanted = [size; 32];
        if let Some(slot) = source {
            for lane in lanes(mask) {
                let bytes = warp.planes.r32[slot as usize][lane] as usize;
                if bytes > size {
                    return Err(self.fault(719, warp, lane, format!("copies {bytes} bytes into {size}")));
                }
                wanted[lane] = bytes;
            }
        }
        if let Some((p, negated)) = skip {
            let ignored = warp.planes.pred[p as usize] ^ if negated { u32::MAX } else { 0 };
            lanes(mask & ignored).for_each(|lane| wanted[lane] = 0);
        }
        let full = lanes(mask).filter(|&l| wanted[l] == size).fold(0, |m, l| m | 1 << l);
        self.global(warp, &from, full, size, Access::Read)?;
        for lane in lanes(mask) {
            copy.data[lane] = [0; 16];
            if wanted[lane] == size {
                // SAFETY: as for loads.
                unsafe { copy_in(self.launch.memory.pointer(from[lane]), &mut copy.data[lane], size) };
            } else {
                if from[lane] as usize & (size - 1) != 0 {
                    return Err(self.fault(
                        716,
                        warp,
                        lane,
                        format!("misaligned: address {:#x} for {size} bytes", from[lane]),
                    ));
                }
                for byte in 0..wanted[lane] {
                    let mut one = from;
                    one[lane] += byte as u64;
                    self.global(warp, &one, 1 << lane, 1, Access::Read)?;
                    // SAFETY: as for loads.
                    copy.data[lane][byte] = unsafe { *self.launch.memory.pointer(one[lane]) };
                }
            }
        }
        warp.copies.push(copy);
        Ok(())
    }

    /// `ldmatrix`: lane `8·m + r` names row `r` of matrix `m`.
    pub fn load_matrix(
        &mut self,
        warp: &mut Warp,
        d: [Slot; 4],
        count: usize,
        trans: bool,
        address: Address,
    ) -> Step {
        let addresses = self.addresses(warp, address);
        let mask = if count == 4 { u32::MAX } else { (1 << (8 * count)) - 1 };
        let offsets = self.shared_access(warp, &addresses, mask, 16, Act::Read)?;
        let (taken, ideal) = wavefronts(&offsets, mask, 16);
        self.counters.wavefronts += taken;
        self.counters.wavefronts_ideal += ideal;
        for (matrix, &d) in d[..count].iter().enumerate() {
            let mut rows = [[0; 16]; 8];
            for (row, bytes) in rows.iter_mut().enumerate() {
                let at = offsets[8 * matrix + row] as usize;
                bytes.copy_from_slice(&self.shared.data[at..at + 16]);
            }
            warp.planes.r32[d as usize] = super::mma::fragment(&rows, trans);
        }
        Ok(())
    }
}

fn atomic_step(op: AtomicOp, num: Num, old: u64, x: u64, y: u64) -> u64 {
    let float = |f: fn(f64, f64) -> f64| match num {
        Num::F32 => {
            let (a, b) = (f32::from_bits(old as u32), f32::from_bits(x as u32));
            u64::from((f(f64::from(a), f64::from(b)) as f32).to_bits())
        }
        _ => f(f64::from_bits(old), f64::from_bits(x)).to_bits(),
    };
    match (op, num) {
        (AtomicOp::Add, Num::F32 | Num::F64) => float(|a, b| a + b),
        (AtomicOp::Add, _) => old.wrapping_add(x),
        (AtomicOp::And, _) => old & x,
        (AtomicOp::Or, _) => old | x,
        (AtomicOp::Xor, _) => old ^ x,
        (AtomicOp::Min, Num::S32) => u64::from((old as i32).min(x as i32) as u32),
        (AtomicOp::Max, Num::S32) => u64::from((old as i32).max(x as i32) as u32),
        (AtomicOp::Min, Num::S64) => (old as i64).min(x as i64) as u64,
        (AtomicOp::Max, Num::S64) => (old as i64).max(x as i64) as u64,
        (AtomicOp::Min, _) => old.min(x),
        (AtomicOp::Max, _) => old.max(x),
        (AtomicOp::Inc, _) => {
            if old >= x {
                0
            } else {
                old + 1
            }
        }
        (AtomicOp::Dec, _) => {
            if old == 0 || old > x {
                x
            } else {
                old - 1
            }
        }
        (AtomicOp::Exch, _) => x,
        (AtomicOp::Cas, _) => {
            if old == x {
                y
            } else {
                old
            }
        }
    }
}
