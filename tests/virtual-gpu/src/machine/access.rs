//! Loads and stores, with every check that a card does not make.

use super::alu::{L32, L64};
use super::block::Block;
use super::history::{Conflict, Deed, Touched, Who as GlobalWho};
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
pub enum Access {
    /// Reads.
    Read,
    /// Reads through the constant path.
    ReadConstant,
    /// Reads indivisibly.
    ReadStrong,
    /// Writes.
    Write,
    /// Writes indivisibly.
    WriteStrong,
    /// Reads and writes at once.
    Atomic,
}

impl Access {
    fn reads(self) -> bool {
        !matches!(self, Access::Write | Access::WriteStrong)
    }

    fn writes(self) -> bool {
        matches!(self, Access::Write | Access::WriteStrong | Access::Atomic)
    }

    fn deed(self) -> Deed {
        Deed {
            write: self.writes(),
            strong: matches!(self, Access::ReadStrong | Access::WriteStrong | Access::Atomic),
            constant: self == Access::ReadConstant,
        }
    }
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
        access: Access,
    ) -> Step {
        self.count_sectors(addresses, mask, size, access);
        let own = (1u32 << size) - 1;
        // Neighbouring lanes that touch the same sixteen bytes are checked together.
        let mut touched = Touched { bytes: 0, first: 0, stride: 16 };
        let (mut chunk, mut start) = (u64::MAX, 0);
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
                self.enter(warp, lane, address, size, access.reads())?;
            }
            let at = address & !15;
            let mine = (own << (address & 15)) as u16;
            if at == chunk {
                // Lane and address must rise together, in even steps, for it to be known whose a byte is.
                let (lanes, bytes) = (lane as u64 - u64::from(touched.first), address.wrapping_sub(start));
                let step = bytes / lanes;
                let even =
                    step < 16 && step.is_power_of_two() && step >= size as u64 && step * lanes == bytes;
                if !even || !(touched.stride == 16 || u64::from(touched.stride) == step) {
                    touched.stride = 0;
                } else if touched.stride != 0 {
                    touched.stride = step as u8;
                }
                touched.bytes |= mine;
            } else {
                if touched.bytes != 0 {
                    self.global_chunk(warp, addresses, mask, chunk, touched, access)?;
                }
                (chunk, start) = (at, address);
                touched = Touched { bytes: mine, first: lane as u8, stride: 16 };
            }
        }
        if touched.bytes != 0 {
            self.global_chunk(warp, addresses, mask, chunk, touched, access)?;
        }
        Ok(())
    }

    fn global_chunk(
        &mut self,
        warp: &Warp,
        addresses: &L64,
        mask: u32,
        chunk: u64,
        touched: Touched,
        access: Access,
    ) -> Step {
        let memory = self.launch.memory;
        let at = |bytes: u16| {
            let address = chunk + u64::from(bytes.trailing_zeros());
            let lane = lanes(mask).find(|&l| addresses[l] <= address && address < addresses[l] + 16);
            (lane.unwrap_or(usize::from(touched.first)), address)
        };
        if access.reads() {
            let missing = touched.bytes & !memory.bytes_written(chunk);
            if missing != 0 {
                let (lane, address) = at(missing);
                return Err(self.fault(
                    719,
                    warp,
                    lane,
                    format!("reads global address {address:#x}, which was never written (uninitialised; is a barrier missing?)"),
                ));
            }
        }
        let who = GlobalWho {
            epoch: self.launch.epoch,
            block: self.number,
            warp: warp.index,
            clocks: warp.clocks.as_ref().expect("a warp at work has clocks"),
            far: &warp.far,
            tells: self.launch.tells,
        };
        let outcome = memory.note(chunk, touched, access.deed(), &who);
        if access.writes() {
            memory.mark_bytes(chunk, touched.bytes);
        }
        if let Err(conflict) = outcome {
            let (lane, address) = at(conflict.bytes);
            return Err(self.conflict(warp, lane, address, conflict));
        }
        Ok(())
    }

    #[cold]
    fn conflict(&self, warp: &Warp, lane: usize, address: u64, c: Conflict) -> Box<Fault> {
        let place = |number: u32, [x, y, z]: [u32; 3]| {
            let [a, b, c] = super::warp::coordinates(number, [x, y, z]);
            format!("({a}, {b}, {c})")
        };
        let within = c.block == Some(self.number);
        let who = match (c.block, c.thread) {
            (Some(_), (Some(w), Some(l))) if within => {
                format!("thread {}", place((w * 32 + l) as u32, self.launch.block))
            }
            (Some(_), (Some(w), None)) if within => format!("warp {w}"),
            (Some(_), _) if within => "other warps".to_owned(),
            (Some(b), _) => format!("block {}", place(b, self.launch.grid)),
            (None, _) => "other blocks".to_owned(),
        };
        let did = if c.before.write { "wrote" } else { "read" };
        let does = if c.now.write { "writes" } else { "reads" };
        let what = if c.now.constant {
            format!("ld.global.nc of global address {address:#x}, which {who} of the same launch wrote")
        } else if c.before.constant {
            format!("writes global address {address:#x}, which the same launch reads through ld.global.nc")
        } else if within {
            format!(
                "race in global memory: {does} global address {address:#x}, which {who} {did} with no barrier between"
            )
        } else {
            format!(
                "race between blocks: {does} global address {address:#x}, which {who} of the same launch {did}"
            )
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

    fn count_sectors(&mut self, addresses: &L64, mask: u32, size: usize, access: Access) {
        let total = u64::from(mask.count_ones()) * size as u64;
        if access.writes() {
            self.counters.bytes_written += total;
        } else {
            self.counters.bytes_read += total;
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
