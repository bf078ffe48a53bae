//! Loads and stores, with every check that a card does not make.

use super::alu::{L32, L64};
use super::block::Block;
use super::global::{Conflict, Who as GlobalWho};
use super::shared::{Act, Trouble, Who, wavefronts};
use super::warp::Warp;
use super::{Fault, Step};
use crate::ptx::ir::{Address, Num, Order, Slot};
use crate::ptx::lower::{LOCAL_WINDOW, SHARED_BASE, SHARED_WINDOW};
use crate::ptx::parse::Space;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const WINDOW: u64 = 1 << 32;

/// What an access to device memory does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Reads, perhaps through the constant path.
    Read(bool),
    /// Reads indivisibly.
    ReadStrong,
    /// Writes.
    Write,
    /// Writes indivisibly.
    WriteStrong,
}

/// Bytes of 32 lanes.
pub type Bytes = [[u8; 16]; 32];

/// The lanes of a mask, lowest first.
pub(super) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let lane = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        Some(lane)
    })
}

impl Block<'_> {
    pub(super) fn addresses(&self, warp: &Warp, a: Address) -> L64 {
        if a.wide {
            let base = &warp.planes.r64[a.base as usize];
            std::array::from_fn(|l| base[l].wrapping_add(a.offset as u64))
        } else {
            let base = &warp.planes.r32[a.base as usize];
            std::array::from_fn(|l| u64::from(base[l].wrapping_add(a.offset as u32)))
        }
    }

    /// The lanes whose generic address is in shared, local and device memory.
    fn sort(&self, addresses: &mut L64, mask: u32) -> [(Space, u32); 3] {
        let mut masks = [(Space::Shared, 0), (Space::Local, 0), (Space::Global, 0)];
        for lane in lanes(mask) {
            let address = addresses[lane];
            if (SHARED_WINDOW..SHARED_WINDOW + WINDOW).contains(&address) {
                addresses[lane] = address - SHARED_WINDOW;
                masks[0].1 |= 1 << lane;
            } else if (LOCAL_WINDOW..LOCAL_WINDOW + WINDOW).contains(&address) {
                masks[1].1 |= 1 << lane;
            } else {
                masks[2].1 |= 1 << lane;
            }
        }
        masks
    }

    pub(super) fn spaces(&self, space: Space, addresses: &mut L64, mask: u32) -> [(Space, u32); 3] {
        match space {
            Space::Generic => self.sort(addresses, mask),
            space => [(space, mask), (space, 0), (space, 0)],
        }
    }

    /// Checks an access to device memory and counts it.
    pub(super) fn global(
        &mut self,
        warp: &Warp,
        addresses: &L64,
        mask: u32,
        size: usize,
        deed: Deed,
    ) -> Step {
        self.count_sectors(addresses, mask, size, deed);
        let launch = self.launch;
        let reads = matches!(deed, Deed::Read(_) | Deed::ReadStrong);
        let own = (1u32 << size) - 1;
        // Neighbouring lanes that touch the same sixteen bytes are checked together.
        let (mut chunk, mut bytes, mut first) = (u64::MAX, 0u16, 0usize);
        for lane in lanes(mask) {
            let address = addresses[lane];
            if address as usize & (size - 1) != 0 {
                return Err(self.fault(
                    716,
                    warp,
                    lane,
                    format!("misaligned: address {address:#x} for {size} bytes"),
                ));
            }
            let inside = self.last.is_some_and(|a| address >= a.start && address + size as u64 <= a.end);
            if !inside {
                self.enter(warp, lane, address, size, reads)?;
            }
            let at = address & !15;
            let mine = (own << (address & 15)) as u16;
            if at == chunk {
                bytes |= mine;
            } else {
                if bytes != 0 {
                    self.global_chunk(warp, (first, addresses, mask), chunk, bytes, deed)?;
                }
                (chunk, bytes, first) = (at, mine, lane);
            }
        }
        if bytes != 0 {
            self.global_chunk(warp, (first, addresses, mask), chunk, bytes, deed)?;
        }
        let _ = launch;
        Ok(())
    }

    fn global_chunk(
        &mut self,
        warp: &Warp,
        lanes_of: (usize, &L64, u32),
        chunk: u64,
        bytes: u16,
        deed: Deed,
    ) -> Step {
        let memory = self.launch.memory;
        let who =
            GlobalWho { epoch: self.launch.epoch, block: self.number, clock: self.clock, seen: &self.seen };
        let outcome = match deed {
            Deed::Read(_) | Deed::ReadStrong => {
                let written = memory.bytes_written(chunk);
                if written & bytes != bytes {
                    let address = chunk + u64::from((bytes & !written).trailing_zeros());
                    let lane = lanes(lanes_of.2)
                        .find(|&l| lanes_of.1[l] <= address && address < lanes_of.1[l] + 16)
                        .unwrap_or(lanes_of.0);
                    return Err(self.fault(
                        719,
                        warp,
                        lane,
                        format!("reads global address {address:#x}, which was never written (uninitialised; is a barrier missing?)"),
                    ));
                }
                match deed {
                    Deed::Read(constant) => memory.note_read(chunk, bytes, &who, constant),
                    _ => Ok(()),
                }
            }
            Deed::Write | Deed::WriteStrong => {
                let outcome = memory.note_write(chunk, bytes, &who, deed == Deed::WriteStrong);
                memory.mark_bytes(chunk, bytes);
                outcome
            }
        };
        if let Err(conflict) = outcome {
            return Err(self.conflict(warp, lanes_of.0, chunk + u64::from(bytes.trailing_zeros()), conflict));
        }
        Ok(())
    }

    #[cold]
    fn conflict(&self, warp: &Warp, lane: usize, address: u64, conflict: Conflict) -> Box<Fault> {
        let block = |number: u32| {
            let [x, y, z] = super::warp::coordinates(number, self.launch.grid);
            format!("block ({x}, {y}, {z})")
        };
        let what = match conflict {
            Conflict::ReadOfWritten(b) => format!(
                "race between blocks: reads global address {address:#x}, which {} of the same launch wrote",
                block(b)
            ),
            Conflict::WriteOfRead(Some(b)) => format!(
                "race between blocks: writes global address {address:#x}, which {} of the same launch read",
                block(b)
            ),
            Conflict::WriteOfRead(None) => format!(
                "race between blocks: writes global address {address:#x}, which other blocks of the same launch read"
            ),
            Conflict::WriteOfWritten(b) => format!(
                "race between blocks: writes global address {address:#x}, which {} of the same launch wrote",
                block(b)
            ),
            Conflict::ConstantOfWritten(b) => format!(
                "ld.global.nc of global address {address:#x}, which {} of the same launch wrote",
                block(b)
            ),
            Conflict::WriteOfConstant => format!(
                "writes global address {address:#x}, which the same launch reads through ld.global.nc"
            ),
        };
        self.fault(719, warp, lane, what)
    }

    /// Finds the allocation that an address is in.
    #[cold]
    fn enter(&mut self, warp: &Warp, lane: usize, address: u64, size: usize, reads: bool) -> Step {
        let found = self.launch.memory.find(address);
        match found {
            Some(a) if address + size as u64 <= a.end && a.context == self.launch.context => {
                self.last = Some(a);
                Ok(())
            }
            found => {
                let verb = if reads { "reads" } else { "writes" };
                let near = match found {
                    Some(a) if address < a.end && a.context != self.launch.context => {
                        ", which belongs to another context".to_owned()
                    }
                    Some(a) => format!(
                        ", {} bytes behind an allocation of {} at {:#x}",
                        address.wrapping_sub(a.end) as i64,
                        a.end - a.start,
                        a.start
                    ),
                    None => String::new(),
                };
                Err(self.fault(
                    700,
                    warp,
                    lane,
                    format!("out of bounds: {verb} {size} bytes at global address {address:#x}{near}"),
                ))
            }
        }
    }

    fn count_sectors(&mut self, addresses: &L64, mask: u32, size: usize, deed: Deed) {
        let total = u64::from(mask.count_ones()) * size as u64;
        match deed {
            Deed::Read(_) | Deed::ReadStrong => self.counters.bytes_read += total,
            _ => self.counters.bytes_written += total,
        }
        let (mut sectors, mut previous, mut rising) = (0u64, u64::MAX, true);
        let (mut distinct, mut last_address) = (0u64, u64::MAX);
        for lane in lanes(mask) {
            let sector = addresses[lane] >> 5;
            if addresses[lane] != last_address {
                distinct += size as u64;
                last_address = addresses[lane];
            }
            if sector != previous {
                rising &= previous == u64::MAX || sector > previous;
                sectors += 1;
                previous = sector;
            }
        }
        if !rising {
            let mut all: Vec<u64> = lanes(mask).map(|l| addresses[l]).collect();
            all.sort_unstable();
            all.dedup();
            distinct = all.len() as u64 * size as u64;
            all.iter_mut().for_each(|a| *a >>= 5);
            all.dedup();
            sectors = all.len() as u64;
        }
        self.counters.sectors += sectors;
        self.counters.sectors_ideal += distinct.div_ceil(32);
    }

    /// Checks an access to shared memory; offsets into it come back.
    pub(super) fn shared_access(
        &mut self,
        warp: &Warp,
        addresses: &L64,
        mask: u32,
        size: usize,
        act: Act,
    ) -> Step<L32> {
        let mut offsets = [0u32; 32];
        let end = self.shared.data.len();
        let clocks = warp.clocks.as_ref().expect("a warp at work has clocks");
        for lane in lanes(mask) {
            let address = addresses[lane];
            let offset = address.wrapping_sub(u64::from(SHARED_BASE)) as usize;
            let verb = if act == Act::Read { "reads" } else { "writes" };
            if address as usize & (size - 1) != 0 {
                return Err(self.fault(
                    716,
                    warp,
                    lane,
                    format!("misaligned: shared address {address:#x} for {size} bytes"),
                ));
            }
            if offset >= end || offset + size > end {
                let there = offset as i64;
                return Err(self.fault(700, warp, lane, format!("out of bounds: {verb} {size} bytes at shared address {address:#x} (offset {there} of {end} bytes)")));
            }
            let who = Who { warp: warp.index, lane, clocks };
            if let Err(trouble) = self.shared.note(offset, size, act, &who) {
                return Err(self.trouble(warp, lane, offset, size, trouble, verb));
            }
            offsets[lane] = offset as u32;
        }
        Ok(offsets)
    }

    /// An error of an access to shared memory.
    #[cold]
    pub fn trouble(
        &self,
        warp: &Warp,
        lane: usize,
        offset: usize,
        size: usize,
        trouble: Trouble,
        verb: &str,
    ) -> Box<Fault> {
        let place =
            format!("{size} bytes at shared address {:#x} (offset {offset})", offset + SHARED_BASE as usize);
        let thread = |w: usize, l: usize| {
            let [x, y, z] = super::warp::coordinates((w * 32 + l) as u32, self.launch.block);
            format!("thread ({x}, {y}, {z})")
        };
        let what = match trouble {
            Trouble::Unwritten => {
                format!("{verb} {place}, never written (uninitialised; is a barrier missing?)")
            }
            Trouble::Pending => format!("{verb} {place} while a cp.async into it was not waited for"),
            Trouble::RacesWrite(w, l) => format!(
                "race in shared memory: {verb} {place}, which {} wrote with no barrier between",
                thread(w, l)
            ),
            Trouble::RacesRead(w) => {
                format!("race in shared memory: {verb} {place}, which warp {w} read with no barrier between")
            }
        };
        self.fault(719, warp, lane, what)
    }

    fn local(&mut self, warp: &mut Warp, addresses: &L64, mask: u32, size: usize, write: bool) -> Step<L32> {
        let mut places = [0; 32];
        let frame = self.launch.kernel.local;
        self.counters.local += u64::from(mask.count_ones()) * size as u64;
        for lane in lanes(mask) {
            let offset = addresses[lane].wrapping_sub(LOCAL_WINDOW) as usize;
            if addresses[lane] as usize & (size - 1) != 0 {
                return Err(self.fault(
                    716,
                    warp,
                    lane,
                    format!("misaligned: local address {:#x} for {size} bytes", addresses[lane]),
                ));
            }
            if offset >= frame || offset + size > frame {
                return Err(self.fault(
                    700,
                    warp,
                    lane,
                    format!(
                        "out of bounds: {size} bytes at offset {} of {frame} bytes of local memory",
                        offset as i64
                    ),
                ));
            }
            let at = lane * frame + offset;
            if write {
                warp.local_written[at..at + size].fill(true);
            } else if !warp.local_written[at..at + size].iter().all(|&w| w) {
                return Err(self.fault(
                    719,
                    warp,
                    lane,
                    format!(
                        "reads {size} bytes at offset {offset} of local memory, never written (uninitialised)"
                    ),
                ));
            }
            places[lane] = at as u32;
        }
        Ok(places)
    }

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
        for (space, mask) in self.spaces(space, &mut addresses, mask) {
            if mask == 0 {
                continue;
            }
            match space {
                Space::Global | Space::Generic => {
                    let deed = match order {
                        Order::Weak => Deed::Read(false),
                        Order::Constant => Deed::Read(true),
                        _ => Deed::ReadStrong,
                    };
                    self.global(warp, &addresses, mask, size, deed)?;
                    let memory = self.launch.memory;
                    for lane in lanes(mask) {
                        let from = memory.pointer(addresses[lane]);
                        // SAFETY: checked to be inside an allocation, which is inside the arena; other
                        // blocks that write it at the same time are reported as a race.
                        unsafe {
                            match (deed, size) {
                                (Deed::ReadStrong, 4) => {
                                    let v = (*from.cast::<AtomicU32>()).load(Ordering::SeqCst);
                                    data[lane][..4].copy_from_slice(&v.to_le_bytes());
                                }
                                (Deed::ReadStrong, 8) => {
                                    let v = (*from.cast::<AtomicU64>()).load(Ordering::SeqCst);
                                    data[lane][..8].copy_from_slice(&v.to_le_bytes());
                                }
                                _ => copy_in(from, &mut data[lane], size),
                            }
                        }
                    }
                    if deed == Deed::ReadStrong {
                        for lane in lanes(mask) {
                            self.hear(warp, addresses[lane], order);
                        }
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
        Ok(())
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
                    let deed = if order == Order::Weak { Deed::Write } else { Deed::WriteStrong };
                    self.global(warp, &addresses, mask, size, deed)?;
                    if deed == Deed::WriteStrong {
                        for lane in lanes(mask) {
                            self.publish(warp, addresses[lane], order);
                        }
                    }
                    let memory = self.launch.memory;
                    for lane in lanes(mask) {
                        let to = memory.pointer(addresses[lane]);
                        // SAFETY: as for loads.
                        unsafe {
                            match (deed, size) {
                                (Deed::WriteStrong, 4) => {
                                    let v = u32::from_le_bytes(data[lane][..4].try_into().expect("four"));
                                    (*to.cast::<AtomicU32>()).store(v, Ordering::SeqCst);
                                }
                                (Deed::WriteStrong, 8) => {
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
