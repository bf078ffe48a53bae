//! Loads and stores of every space and width; what may be accessed is decided elsewhere.

use super::Step;
use super::access::{Access, lanes};
use super::alu::L64;
use super::block::Block;
use super::shared::{Act, wavefronts};
use super::warp::Warp;
use crate::ptx::ir::{Address, Num, Order, Slot};
use crate::ptx::lower::SHARED_BASE;
use crate::ptx::parse::Space;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bytes of 32 lanes.
pub type Bytes = [[u8; 16]; 32];

impl Block<'_> {
    /// `ld`.
    pub fn load(
        &mut self,
        warp: &mut Warp,
        mask: u32,
        space: Space,
        num: Num,
        count: usize,
        d: [Slot; 4],
        address: Address,
        order: Order,
    ) -> Step {
        let mut addresses = self.addresses(warp, address);
        let size = num.size() * count;
        let mut data: Bytes = [[0; 16]; 32];
        let mut watch = None;
        for (space, mask) in self.spaces(space, &mut addresses, mask) {
            if mask == 0 {
                continue;
            }
            match space {
                Space::Global | Space::Generic => {
                    let access = match order {
                        Order::Weak => Access::Read,
                        Order::Constant => Access::ReadConstant,
                        _ => Access::ReadStrong,
                    };
                    self.global(warp, &addresses, mask, size, access)?;
                    let memory = self.launch.memory;
                    for lane in lanes(mask) {
                        let from = memory.pointer(addresses[lane]);
                        // SAFETY: checked to be inside an allocation, which is inside the arena; other
                        // blocks that write it at the same time are reported as a race.
                        unsafe {
                            match (access, size) {
                                (Access::ReadStrong, 4) => {
                                    let v = (*from.cast::<AtomicU32>()).load(Ordering::SeqCst);
                                    data[lane][..4].copy_from_slice(&v.to_le_bytes());
                                }
                                (Access::ReadStrong, 8) => {
                                    let v = (*from.cast::<AtomicU64>()).load(Ordering::SeqCst);
                                    data[lane][..8].copy_from_slice(&v.to_le_bytes());
                                }
                                _ => copy_in(from, &mut data[lane], size),
                            }
                        }
                    }
                    if access == Access::ReadStrong {
                        for lane in lanes(mask) {
                            self.hear(warp, addresses[lane], order);
                        }
                        watch = Some(addresses[mask.trailing_zeros() as usize]);
                    }
                }
                Space::Shared => {
                    let offsets = self.shared_access(warp, &addresses, mask, size, Act::Read)?;
                    let (taken, ideal) = wavefronts(&offsets, mask, size);
                    self.counters.wavefronts += taken;
                    self.counters.wavefronts_ideal += ideal;
                    for lane in lanes(mask) {
                        let at = offsets[lane] as usize;
                        data[lane][..size].copy_from_slice(&self.shared.data[at..at + size]);
                    }
                }
                Space::Local => {
                    let places = self.local(warp, &addresses, mask, size, false)?;
                    for lane in lanes(mask) {
                        let at = places[lane] as usize;
                        data[lane][..size].copy_from_slice(&warp.local[at..at + size]);
                    }
                }
                Space::Param => {
                    for lane in lanes(mask) {
                        let at = addresses[lane] as usize;
                        let Some(from) = self.launch.params.get(at..at + size) else {
                            return Err(self.fault(
                                700,
                                warp,
                                lane,
                                format!("out of bounds: {size} bytes at offset {at} of the arguments"),
                            ));
                        };
                        data[lane][..size].copy_from_slice(from);
                    }
                }
            }
        }
        for (n, &d) in d[..count].iter().enumerate() {
            let at = n * num.size();
            match num.size() {
                8 => {
                    let plane = &mut warp.planes.r64[d as usize];
                    for lane in lanes(mask) {
                        plane[lane] = u64::from_le_bytes(data[lane][at..at + 8].try_into().expect("eight"));
                    }
                }
                4 => {
                    let plane = &mut warp.planes.r32[d as usize];
                    for lane in lanes(mask) {
                        plane[lane] = u32::from_le_bytes(data[lane][at..at + 4].try_into().expect("four"));
                    }
                }
                2 => {
                    let plane = &mut warp.planes.r32[d as usize];
                    for lane in lanes(mask) {
                        let v = u16::from_le_bytes([data[lane][at], data[lane][at + 1]]);
                        plane[lane] = if num.signed() { v as i16 as i32 as u32 } else { u32::from(v) };
                    }
                }
                _ => {
                    let plane = &mut warp.planes.r32[d as usize];
                    for lane in lanes(mask) {
                        let v = data[lane][at];
                        plane[lane] = if num.signed() { v as i8 as i32 as u32 } else { u32::from(v) };
                    }
                }
            }
        }
        if let Some(address) = watch {
            self.watch(warp, mask, address, (size <= 4).then_some(d[0]));
        }
        Ok(())
    }

    /// A warp that reads the same value again and again waits for others: it lets them go first.
    pub(super) fn watch(&mut self, warp: &mut Warp, mask: u32, address: u64, d: Option<Slot>) {
        let Some(d) = d else { return };
        let value = warp.planes.r32.get(d as usize).map_or(0, |p| p[mask.trailing_zeros() as usize & 31]);
        let (place, before, times) = warp.watched;
        let again = place == address && before == value;
        warp.watched = (address, value, if again { times + 1 } else { 0 });
        self.yields |= again && times >= 4;
    }

    /// `st`.
    pub fn store(
        &mut self,
        warp: &mut Warp,
        mask: u32,
        space: Space,
        num: Num,
        count: usize,
        s: [Slot; 4],
        address: Address,
        order: Order,
    ) -> Step {
        let mut addresses = self.addresses(warp, address);
        let size = num.size() * count;
        let mut data: Bytes = [[0; 16]; 32];
        for (n, &s) in s[..count].iter().enumerate() {
            let at = n * num.size();
            for lane in lanes(mask) {
                match num.size() {
                    8 => data[lane][at..at + 8]
                        .copy_from_slice(&warp.planes.r64[s as usize][lane].to_le_bytes()),
                    width => {
                        let bytes = warp.planes.r32[s as usize][lane].to_le_bytes();
                        data[lane][at..at + width].copy_from_slice(&bytes[..width]);
                    }
                }
            }
        }
        for (space, mask) in self.spaces(space, &mut addresses, mask) {
            if mask == 0 {
                continue;
            }
            match space {
                Space::Global | Space::Generic => {
                    if let Some((lane, other)) = differing(&addresses, &data, mask, size) {
                        let text = format!(
                            "lanes {other} and {lane} write different values to global address {:#x} at once",
                            addresses[lane]
                        );
                        return Err(self.fault(719, warp, lane, text));
                    }
                    let access = if order == Order::Weak { Access::Write } else { Access::WriteStrong };
                    self.global(warp, &addresses, mask, size, access)?;
                    if access == Access::WriteStrong {
                        for lane in lanes(mask) {
                            self.publish(warp, addresses[lane], order, true);
                        }
                    }
                    let memory = self.launch.memory;
                    for lane in lanes(mask) {
                        let to = memory.pointer(addresses[lane]);
                        // SAFETY: as for loads.
                        unsafe {
                            match (access, size) {
                                (Access::WriteStrong, 4) => {
                                    let v = u32::from_le_bytes(data[lane][..4].try_into().expect("four"));
                                    (*to.cast::<AtomicU32>()).store(v, Ordering::SeqCst);
                                }
                                (Access::WriteStrong, 8) => {
                                    let v = u64::from_le_bytes(data[lane][..8].try_into().expect("eight"));
                                    (*to.cast::<AtomicU64>()).store(v, Ordering::SeqCst);
                                }
                                _ => std::ptr::copy_nonoverlapping(data[lane].as_ptr(), to, size),
                            }
                        }
                    }
                }
                Space::Shared => {
                    // Lane by lane: two lanes that write the same value to the same place are no race.
                    let mut offsets = [0; 32];
                    for lane in lanes(mask) {
                        let at = addresses[lane].wrapping_sub(u64::from(SHARED_BASE)) as usize;
                        let same = self
                            .shared
                            .data
                            .get(at..at.wrapping_add(size))
                            .is_some_and(|have| have == &data[lane][..size]);
                        match self.shared_access(warp, &addresses, 1 << lane, size, Act::Write) {
                            Ok(offset) => offsets[lane] = offset[lane],
                            Err(fault) => {
                                let twin =
                                    lanes(mask & ((1 << lane) - 1)).any(|l| addresses[l] == addresses[lane]);
                                if !(same && twin) {
                                    return Err(fault);
                                }
                                offsets[lane] = at as u32;
                            }
                        }
                        self.shared.data[at..at + size].copy_from_slice(&data[lane][..size]);
                    }
                    let (taken, ideal) = wavefronts(&offsets, mask, size);
                    self.counters.wavefronts += taken;
                    self.counters.wavefronts_ideal += ideal;
                }
                Space::Local => {
                    let places = self.local(warp, &addresses, mask, size, true)?;
                    for lane in lanes(mask) {
                        let at = places[lane] as usize;
                        warp.local[at..at + size].copy_from_slice(&data[lane][..size]);
                    }
                }
                Space::Param => {
                    let lane = mask.trailing_zeros() as usize;
                    return Err(self.fault(719, warp, lane, "a store into the arguments".to_owned()));
                }
            }
        }
        Ok(())
    }
}

/// Two lanes that write different values to one address.
fn differing(addresses: &L64, data: &Bytes, mask: u32, size: usize) -> Option<(usize, usize)> {
    let mut last = None;
    let rising = lanes(mask).all(|l| last.replace(addresses[l]).is_none_or(|before| before < addresses[l]));
    if rising {
        return None;
    }
    let mut order: Vec<usize> = lanes(mask).collect();
    order.sort_by_key(|&l| addresses[l]);
    let same = |w: &&[usize]| addresses[w[0]] == addresses[w[1]] && data[w[0]][..size] != data[w[1]][..size];
    order.windows(2).find(same).map(|w| (w[1], w[0]))
}

/// Copies `size` bytes, one of 1, 2, 4, 8, 16.
///
/// # Safety
/// `from` must be readable for `size` bytes.
#[inline(always)]
pub(super) unsafe fn copy_in(from: *const u8, to: &mut [u8; 16], size: usize) {
    // SAFETY: the caller's promise; `to` holds sixteen.
    unsafe {
        match size {
            16 => std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), 16),
            8 => std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), 8),
            4 => std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), 4),
            2 => std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), 2),
            _ => to[0] = *from,
        }
    }
}
