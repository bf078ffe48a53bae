//! Whether an access to memory may be: every check that a card does not make.

use super::alu::{L32, L64};
use super::block::Block;
use super::history::{Conflict, Deed, Touched, Who as GlobalWho};
use super::shared::{Act, Trouble, Who};
use super::warp::Warp;
use super::{Fault, Step};
use crate::ptx::ir::Address;
use crate::ptx::lower::{LOCAL_WINDOW, SHARED_BASE, SHARED_WINDOW};
use crate::ptx::parse::Space;

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
            // Lane and address must rise together, in even steps, for it to be known whose a byte is.
            let (lanes, bytes) = (lane as u64 - u64::from(touched.first), address.wrapping_sub(start));
            let step = bytes / lanes.max(1);
            let even = step < 16 && step.is_power_of_two() && step >= size as u64 && step * lanes == bytes;
            let even = even && (touched.stride == 16 || u64::from(touched.stride) == step);
            if at == chunk && even {
                touched.stride = step as u8;
                touched.bytes |= mine;
            } else if at == chunk && (touched.stride == 0 || touched.bytes & mine != 0) {
                touched.stride = 0;
                touched.bytes |= mine;
            } else {
                // Another chunk, or another's bytes of the same one.
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
        if let Some(before) = warp.early
            && memory.met(chunk, before, touched.bytes, access.writes())
        {
            let (lane, address) = at(touched.bytes);
            let does = if access.writes() { "writes" } else { "reads" };
            let text = format!(
                "{does} global address {address:#x} while the launch before may still be using it: griddepcontrol.wait is missing"
            );
            return Err(self.fault(719, warp, lane, text));
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
            Trouble::InFlight(w) => format!(
                "race in shared memory: {verb} {place}, which a wgmma of warp {w} that was not waited for reads"
            ),
            Trouble::Unfenced(w, l) => format!(
                "{verb} {place}, which {} wrote with no fence.proxy.async between before the barrier",
                thread(w, l)
            ),
        };
        self.fault(719, warp, lane, what)
    }

    pub(super) fn local(
        &mut self,
        warp: &mut Warp,
        addresses: &L64,
        mask: u32,
        size: usize,
        write: bool,
    ) -> Step<L32> {
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
}
