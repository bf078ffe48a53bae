//! A block's shared memory: its bytes, and for every two of them who touched them last.

use super::alu::L32;

/// Times as a warp knows them.
#[derive(Clone, Debug)]
pub struct Clocks {
    /// What it has seen of each warp; its own entry is its own time.
    pub seen: Vec<u32>,
    /// Up to this time it has seen everything of everyone, itself excepted up to its last barrier.
    pub horizon: u32,
}

impl Clocks {
    /// At the start of a block of `warps` warps.
    pub fn new(warps: usize, own: usize) -> Clocks {
        let mut seen = vec![0; warps];
        seen[own] = 1;
        Clocks { seen, horizon: 0 }
    }

    /// Recomputes the horizon.
    pub fn settle(&mut self, own: usize) {
        self.horizon =
            self.seen.iter().enumerate().map(|(w, &c)| if w == own { c - 1 } else { c }).min().unwrap_or(0);
    }
}

/// The thread that touches memory.
pub struct Who<'a> {
    /// Its warp.
    pub warp: usize,
    /// Its lane.
    pub lane: usize,
    /// Its warp's times.
    pub clocks: &'a Clocks,
}

/// What is wrong with an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Never written.
    Unwritten,
    /// An asynchronous copy into it was not waited for.
    Pending,
    /// The thread (warp, lane) wrote it, and no barrier lies between.
    RacesWrite(usize, usize),
    /// A thread of the warp read it, and no barrier lies between.
    RacesRead(usize),
    /// A product of the warp, not yet waited for, reads it.
    InFlight(usize),
    /// The thread (warp, lane) wrote it without a fence between the proxies before the barrier.
    Unfenced(usize, usize),
}

const LOW: u8 = 1;
const HIGH: u8 = 2;
const BOTH: u8 = 3;
const PENDING: u8 = 4;
const SPLIT: u8 = 8;
const ATOMIC: u8 = 16;
const ALL_LANES: u8 = 0xff;
/// As a lane: all lanes of a warp as one. What they read is done for all of them once they go on.
pub const WHOLE: usize = 32;

#[derive(Clone, Copy, Default)]
struct Last {
    write_clock: u32,
    read_clock: u32,
    readers: u32,
    /// Fences of the writer's warp between the proxies before it wrote.
    fences: u32,
    writer: u16,
    read_lane: u8,
    bits: u8,
}

impl Last {
    #[inline(always)]
    fn after_write(&self, who: &Who<'_>) -> Result<(), Trouble> {
        if self.write_clock > who.clocks.horizon {
            let (warp, lane) = (self.writer as usize >> 5, self.writer as usize & 31);
            let fine = if warp == who.warp {
                lane == who.lane || self.write_clock < who.clocks.seen[warp]
            } else {
                who.clocks.seen[warp] >= self.write_clock
            };
            if !fine {
                return Err(Trouble::RacesWrite(warp, lane));
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn read(&mut self, who: &Who<'_>, wanted: u8) -> Result<(), Trouble> {
        if self.bits & PENDING != 0 {
            return Err(Trouble::Pending);
        }
        if self.bits & wanted != wanted {
            return Err(Trouble::Unwritten);
        }
        self.after_write(who)?;
        let own = who.clocks.seen[who.warp];
        if self.read_clock <= who.clocks.horizon {
            self.readers = 1 << who.warp;
            self.read_lane = who.lane as u8;
            self.read_clock = own;
        } else {
            if self.readers == 1 << who.warp && self.read_clock < own {
                // A warp barrier since: earlier readings of this warp come before all that it does now.
                self.read_lane = who.lane as u8;
            } else if self.readers != 1 << who.warp {
                self.read_lane = ALL_LANES;
            } else if self.read_lane == WHOLE as u8 {
                self.read_lane = who.lane as u8;
            } else if who.lane != WHOLE && self.read_lane != who.lane as u8 {
                self.read_lane = ALL_LANES;
            }
            self.readers |= 1 << who.warp;
            self.read_clock = self.read_clock.max(own);
        }
        Ok(())
    }

    #[inline(always)]
    fn writable(&self, who: &Who<'_>) -> Result<(), Trouble> {
        if self.bits & PENDING != 0 {
            return Err(Trouble::Pending);
        }
        self.after_write(who)?;
        self.after_reads(who)
    }

    #[inline(always)]
    fn after_reads(&self, who: &Who<'_>) -> Result<(), Trouble> {
        if self.read_clock > who.clocks.horizon {
            for warp in 0..who.clocks.seen.len() {
                if self.readers >> warp & 1 == 0 {
                    continue;
                }
                let fine = if warp == who.warp {
                    self.read_lane == who.lane as u8
                        || self.read_lane == WHOLE as u8
                        || self.read_clock < who.clocks.seen[warp]
                } else {
                    who.clocks.seen[warp] >= self.read_clock
                };
                if !fine {
                    return Err(Trouble::RacesRead(warp));
                }
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn wrote(&mut self, who: &Who<'_>, bits: u8, fences: u32) {
        self.fences = fences;
        self.writer = (who.warp << 5 | who.lane) as u16;
        self.write_clock = who.clocks.seen[who.warp];
        self.bits = (self.bits & !(PENDING | ATOMIC)) | bits;
    }
}

/// Shared memory of one block.
#[derive(Default)]
pub struct Shared {
    /// The bytes.
    pub data: Vec<u8>,
    chunks: Vec<Last>,
    parts: Vec<[Last; 8]>,
    /// Products in flight that read a chunk, and the warp of the last of them.
    flights: Vec<(u32, u16)>,
    /// Fences between the proxies of every warp: when, and which lanes.
    fences: Vec<Vec<(u32, u32)>>,
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Begins an asynchronous copy into it.
    Begin,
    /// Ends one.
    End,
    /// Reads and writes at once.
    Atomic,
}

impl Shared {
    /// Empties it for the next block.
    pub fn reset(&mut self, size: usize, warps: usize) {
        self.data.clear();
        self.data.resize(size, 0xcd);
        let chunks = size.div_ceil(16);
        self.chunks.clear();
        self.chunks.resize(chunks, Last::default());
        self.parts.resize(chunks, [Last::default(); 8]);
        self.flights.clear();
        self.flights.resize(chunks, (0, 0));
        self.fences.resize(warps, Vec::new());
        self.fences.iter_mut().for_each(Vec::clear);
    }

    /// A `fence.proxy.async` of lanes of a warp at its time `clock`.
    pub fn fence(&mut self, warp: usize, clock: u32, lanes: u32) {
        self.fences[warp].push((clock, lanes));
    }

    /// A product of a warp begins to read the sixteen bytes at `offset`.
    pub fn begin_product(&mut self, offset: usize, who: &Who<'_>) -> Result<(), Trouble> {
        self.note(offset, 16, Act::Read, who)?;
        let chunk = &self.chunks[offset >> 4];
        let parts = &self.parts[offset >> 4];
        let parts = if chunk.bits & SPLIT == 0 { std::slice::from_ref(chunk) } else { parts };
        for part in parts {
            let (warp, lane) = (part.writer as usize >> 5, part.writer as usize & 31);
            let after = &self.fences[warp][part.fences as usize..];
            let fence = after.iter().find(|fence| fence.1 >> lane & 1 == 1);
            // That of another warp must lie before the barrier between the two.
            if !fence.is_some_and(|fence| warp == who.warp || fence.0 <= who.clocks.seen[warp]) {
                return Err(Trouble::Unfenced(warp, lane));
            }
        }
        let flight = &mut self.flights[offset >> 4];
        *flight = (flight.0 + 1, who.warp as u16);
        Ok(())
    }

    /// It has read them.
    pub fn end_product(&mut self, offset: usize, who: &Who<'_>) -> Result<(), Trouble> {
        self.flights[offset >> 4].0 -= 1;
        self.note(offset, 16, Act::Read, who)
    }

    /// Notes an access to `size` bytes at `offset`; both lie inside, and do not cross sixteen bytes.
    #[inline(always)]
    pub fn note(&mut self, offset: usize, size: usize, act: Act, who: &Who<'_>) -> Result<(), Trouble> {
        let flight = self.flights[offset >> 4];
        if flight.0 != 0 && act != Act::Read {
            return Err(Trouble::InFlight(usize::from(flight.1)));
        }
        let fences = self.fences[who.warp].len() as u32;
        let chunk = &mut self.chunks[offset >> 4];
        if size == 16 && chunk.bits & SPLIT == 0 {
            return Self::step(chunk, BOTH, act, who, fences);
        }
        self.note_parts(offset, size, act, who, fences)
    }

    #[inline(always)]
    fn step(last: &mut Last, half: u8, act: Act, who: &Who<'_>, fences: u32) -> Result<(), Trouble> {
        match act {
            Act::Read => last.read(who, half),
            Act::Write => {
                last.writable(who)?;
                last.wrote(who, half, fences);
                Ok(())
            }
            Act::Begin => {
                last.writable(who)?;
                last.bits |= PENDING;
                Ok(())
            }
            Act::End => {
                last.wrote(who, half, fences);
                Ok(())
            }
            Act::Atomic => {
                if last.bits & PENDING != 0 {
                    return Err(Trouble::Pending);
                }
                if last.bits & half != half {
                    return Err(Trouble::Unwritten);
                }
                // Atomic operations may meet each other, and nothing else.
                if last.bits & ATOMIC == 0 {
                    last.after_write(who)?;
                }
                last.after_reads(who)?;
                last.wrote(who, half | ATOMIC, fences);
                Ok(())
            }
        }
    }

    fn note_parts(
        &mut self,
        offset: usize,
        size: usize,
        act: Act,
        who: &Who<'_>,
        fences: u32,
    ) -> Result<(), Trouble> {
        let index = offset >> 4;
        let chunk = &mut self.chunks[index];
        let parts = &mut self.parts[index];
        if chunk.bits & SPLIT == 0 {
            *parts = [*chunk; 8];
            chunk.bits |= SPLIT;
        }
        let first = offset >> 1 & 7;
        if size == 1 {
            return Self::step(&mut parts[first], if offset & 1 == 0 { LOW } else { HIGH }, act, who, fences);
        }
        for part in &mut parts[first..first + size / 2] {
            Self::step(part, BOTH, act, who, fences)?;
        }
        if size == 16 && matches!(act, Act::Write | Act::Begin | Act::End) {
            // One history again.
            *chunk = parts[0];
            if parts.iter().any(|p| p.readers != chunk.readers || p.read_clock != chunk.read_clock) {
                for part in parts.iter() {
                    chunk.readers |= part.readers;
                    chunk.read_clock = chunk.read_clock.max(part.read_clock);
                }
                chunk.read_lane = ALL_LANES;
            }
            chunk.bits &= !SPLIT;
        }
        Ok(())
    }
}

/// How often the banks must be read to serve lanes of `size` bytes, and how often at best.
pub fn wavefronts(addresses: &L32, mask: u32, size: usize) -> (u64, u64) {
    if mask == 0 {
        return (0, 0);
    }
    let group = match size {
        16 => 8,
        8 => 16,
        _ => 32,
    };
    let (mut taken, mut ideal) = (0, 0);
    for first in (0..32).step_by(group) {
        let lanes = mask >> first & if group == 32 { u32::MAX } else { (1 << group) - 1 };
        if lanes == 0 {
            continue;
        }
        // Distinct units of `unit` bytes by the banks that hold them.
        let unit = size.max(4);
        let banks = 128 / unit;
        let shift = unit.trailing_zeros();
        let (mut used, mut single) = (0u32, true);
        for lane in 0..group {
            if lanes >> lane & 1 == 1 {
                let bit = 1 << ((addresses[first + lane] >> shift) as usize % banks);
                single &= used & bit == 0;
                used |= bit;
            }
        }
        if single {
            taken += 1;
            ideal += 1;
            continue;
        }
        let mut seen = [[u32::MAX; 32]; 32];
        let mut counts = [0usize; 32];
        let mut most = 0;
        let mut distinct = 0;
        for lane in 0..group {
            if lanes >> lane & 1 == 0 {
                continue;
            }
            let word = addresses[first + lane] / unit as u32;
            let bank = word as usize % banks;
            let have = counts[bank];
            if !seen[bank][..have].contains(&word) {
                seen[bank][have] = word;
                counts[bank] += 1;
                distinct += 1;
                most = most.max(counts[bank]);
            }
        }
        taken += most as u64;
        ideal += (distinct as u64 * unit as u64).div_ceil(128);
    }
    (taken, ideal)
}
