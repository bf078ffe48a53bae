//! Who touched which bytes of device memory in the running launch, and whether two of them disturb each other.
//! It knows threads and times, not what the bytes are.
//!
//! Sixteen bytes are a chunk. One that a single access wrote, or read, or that only readers met in, is kept in
//! three words, which readers look at without a lock. Whatever is more than that becomes a list of records
//! in a table that is emptied with every launch.

use super::shared::Clocks;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const STRIPES: usize = 1024;
/// Stands for several blocks; no block has this number.
pub const MANY: u32 = 0xff_ffff;
/// Stands for several warps of a block.
const CROWD: u8 = 0xff;
/// Stands for several lanes of a warp.
const SEVERAL: u8 = 0xff;

/// The warp that touches memory, and what it knows to have happened.
pub struct Who<'a> {
    /// The launch, as the shadow counts them.
    pub epoch: u16,
    /// The block, numbered from 0.
    pub block: u32,
    /// The warp in its block.
    pub warp: usize,
    /// What it knows of the warps of its block.
    pub clocks: &'a Clocks,
    /// What it knows of all warps of the launch, block after block; empty if nothing.
    pub far: &'a [u32],
    /// Whether warps of this launch can learn anything of other blocks.
    pub tells: bool,
}

impl Who<'_> {
    fn knows(&self, record: &Record, lane: u8) -> bool {
        if record.block != self.block {
            let at = record.block as usize * self.clocks.seen.len() + usize::from(record.warp);
            return record.block != MANY
                && record.warp != CROWD
                && self.far.get(at).is_some_and(|&c| c >= record.clock);
        }
        if record.warp == CROWD {
            return self.clocks.horizon >= record.clock;
        }
        let warp = usize::from(record.warp);
        if warp == self.warp {
            (record.lane == lane && lane != SEVERAL) || record.clock < self.clocks.seen[warp]
        } else {
            self.clocks.seen[warp] >= record.clock
        }
    }
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deed {
    /// It writes.
    pub write: bool,
    /// It is indivisible: such ones may meet each other.
    pub strong: bool,
    /// It reads through the constant path.
    pub constant: bool,
}

/// Which bytes of a chunk are touched by which lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// A bit a byte.
    pub bytes: u16,
    /// The lane of the first of them.
    pub first: u8,
    /// Bytes from one lane's to the next one's, 16 for one lane alone; 0 where lanes do not rise with bytes, so
    /// that it can't be said whose a byte is.
    pub stride: u8,
}

impl Touched {
    /// The lane of every piece, with its bytes.
    fn pieces(self) -> impl Iterator<Item = (u8, u16)> {
        let start = self.bytes.trailing_zeros();
        let width = if self.stride == 0 { 16 } else { u32::from(self.stride) };
        let mask = (1u32 << width) - 1;
        (0..(16 - start).div_ceil(width)).filter_map(move |n| {
            let bytes = self.bytes & (mask << (start + n * width)) as u16;
            let lane = if self.stride == 0 { SEVERAL } else { self.first + n as u8 };
            (bytes != 0).then_some((lane, bytes))
        })
    }
}

/// How two threads of a launch disturbed each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What the earlier one did.
    pub before: Deed,
    /// What the later one does.
    pub now: Deed,
    /// The earlier one's block; several if `None`.
    pub block: Option<u32>,
    /// Its warp and lane, as far as known.
    pub thread: (Option<usize>, Option<usize>),
    /// The bytes of the chunk.
    pub bytes: u16,
}

/// An access that is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    block: u32,
    clock: u32,
    bytes: u16,
    warp: u8,
    lane: u8,
    deed: Deed,
}

impl Record {
    fn conflict(&self, now: Deed, bytes: u16) -> Conflict {
        let known = |v: u8| (v != CROWD).then_some(usize::from(v));
        Conflict {
            before: self.deed,
            now,
            block: (self.block != MANY).then_some(self.block),
            thread: (known(self.warp), known(self.lane)),
            bytes,
        }
    }

    /// Whether an access to the same bytes may never meet this one unordered.
    fn excludes(&self, now: Deed) -> bool {
        (self.deed.write || now.write) && !(self.deed.strong && now.strong)
    }
}

/// One access of a warp to a chunk, in few bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Compact {
    block: u32,
    clock: u32,
    warp: u8,
    touched: Touched,
    deed: Deed,
}

impl Compact {
    fn records(&self) -> impl Iterator<Item = Record> + use<> {
        let Compact { block, clock, warp, deed, touched } = *self;
        touched.pieces().map(move |(lane, bytes)| Record { block, clock, bytes, warp, lane, deed })
    }

    fn known(&self, who: &Who<'_>, now: Touched) -> bool {
        let whole = Record {
            block: self.block,
            clock: self.clock,
            bytes: 0,
            warp: self.warp,
            lane: SEVERAL,
            deed: self.deed,
        };
        let mine = self.block == who.block && usize::from(self.warp) == who.warp;
        // The same lanes at the same bytes: each meets its own earlier access only.
        (mine && self.touched == now && now.stride != 0) || who.knows(&whole, SEVERAL)
    }
}

/// The words of a chunk. `write` and `read` hold epoch (16 bits), bytes (16), flags (8), block (24); `inner` the
/// writer's and the reader's place in the block: warp (5 bits), first lane (5), stride (3), clock (19).
pub struct Chunk {
    write: AtomicU64,
    read: AtomicU64,
    inner: AtomicU64,
}

impl Chunk {
    /// Whether the launch of this number wrote any of these bytes, or, for a writer, read them.
    pub fn met(&self, epoch: u16, bytes: u16, write: bool) -> bool {
        let met = |word: &AtomicU64| {
            let word = word.load(Ordering::SeqCst);
            (word >> 48) as u16 == epoch && (word >> 32) as u16 & bytes != 0
        };
        met(&self.write) || (write && met(&self.read))
    }
}

const SPLIT: u64 = 1 << 24;
const CONSTANT: u64 = 1 << 25;
const STRONG: u64 = 1 << 26;
const WARPS: u64 = 1 << 27;
const CLOCKS: u32 = (1 << 19) - 1;

fn outer(epoch: u16, c: &Compact) -> u64 {
    let flag = |set: bool, flag: u64| if set { flag } else { 0 };
    u64::from(epoch) << 48
        | u64::from(c.touched.bytes) << 32
        | flag(c.deed.constant, CONSTANT)
        | flag(c.deed.strong, STRONG)
        | flag(c.warp == CROWD, WARPS)
        | u64::from(c.block & MANY)
}

fn inner(c: &Compact) -> u32 {
    let stride = if c.touched.stride == 0 { 0 } else { c.touched.stride.trailing_zeros() + 1 };
    u32::from(c.warp & 31) << 27 | u32::from(c.touched.first & 31) << 22 | stride << 19 | c.clock.min(CLOCKS)
}

fn decode(outer: u64, inner: u32, epoch: u16, write: bool) -> Option<Compact> {
    let bytes = (outer >> 32) as u16;
    if (outer >> 48) as u16 != epoch || bytes == 0 {
        return None;
    }
    let stride = inner >> 19 & 7;
    Some(Compact {
        block: outer as u32 & MANY,
        clock: inner & CLOCKS,
        warp: if outer & WARPS != 0 { CROWD } else { (inner >> 27) as u8 },
        touched: Touched {
            bytes,
            first: (inner >> 22 & 31) as u8,
            stride: if stride == 0 { 0 } else { 1 << (stride - 1) },
        },
        deed: Deed { write, strong: outer & STRONG != 0, constant: outer & CONSTANT != 0 },
    })
}

/// Numbers of chunks are spread well enough by one multiplication.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.write_u64(u64::from(b)));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

type Table = HashMap<u64, Vec<Record>, BuildHasherDefault<Spread>>;

/// The lists of chunks that words do not suffice for.
pub struct History {
    stripes: Vec<Mutex<Table>>,
}

impl Default for History {
    fn default() -> History {
        History { stripes: (0..STRIPES).map(|_| Mutex::default()).collect() }
    }
}

impl History {
    /// Forgets the last launch.
    pub fn clear(&self) {
        for stripe in &self.stripes {
            let mut stripe = stripe.lock().expect("history");
            if !stripe.is_empty() {
                *stripe = Table::default();
            }
        }
    }

    /// Notes an access to chunk `index`.
    #[inline(always)]
    pub fn note(
        &self,
        chunk: &Chunk,
        index: u64,
        touched: Touched,
        deed: Deed,
        who: &Who<'_>,
    ) -> Result<(), Conflict> {
        if !deed.write && !who.tells {
            // What was never written in this launch, and is noted already.
            let (write, read) = (chunk.write.load(Ordering::SeqCst), chunk.read.load(Ordering::SeqCst));
            let block = read as u32 & MANY;
            let flag = if deed.constant { CONSTANT } else { 0 } | if deed.strong { STRONG } else { 0 };
            if (write >> 48) as u16 != who.epoch
                && (read >> 48) as u16 == who.epoch
                && (read >> 32) as u16 & touched.bytes == touched.bytes
                && read & (SPLIT | CONSTANT | STRONG) == flag
            {
                if block == MANY {
                    return Ok(());
                }
                if block == who.block {
                    let clock = who.clocks.seen[who.warp];
                    let mine = Compact { block, clock, warp: who.warp as u8, touched, deed };
                    let have = chunk.inner.load(Ordering::Relaxed) as u32;
                    let crowd = read & WARPS != 0 && have & CLOCKS >= clock.min(CLOCKS);
                    if crowd
                        || (read & WARPS == 0 && have == inner(&mine) && (read >> 32) as u16 == touched.bytes)
                    {
                        return Ok(());
                    }
                }
            }
        }
        self.enter(chunk, index, touched, deed, who)
    }

    fn enter(
        &self,
        chunk: &Chunk,
        index: u64,
        touched: Touched,
        deed: Deed,
        who: &Who<'_>,
    ) -> Result<(), Conflict> {
        let mut stripe = self.stripes[index as usize % STRIPES].lock().expect("history");
        let now = Compact {
            block: who.block,
            clock: who.clocks.seen[who.warp],
            warp: who.warp as u8,
            touched,
            deed,
        };
        let (write, read) = (chunk.write.load(Ordering::SeqCst), chunk.read.load(Ordering::SeqCst));
        let split = (read >> 48) as u16 == who.epoch && read & SPLIT != 0;
        if !split {
            let words = chunk.inner.load(Ordering::Relaxed);
            let mut writer = decode(write, (words >> 32) as u32, who.epoch, true);
            let mut reader = decode(read, words as u32, who.epoch, false);
            if !who.tells && simple(&mut writer, &mut reader, now, who) {
                let none = u64::from(who.epoch.wrapping_sub(1)) << 48;
                chunk.inner.store(
                    u64::from(writer.as_ref().map_or(0, inner)) << 32
                        | u64::from(reader.as_ref().map_or(0, inner)),
                    Ordering::Relaxed,
                );
                chunk.write.store(writer.map_or(none, |c| outer(who.epoch, &c)), Ordering::SeqCst);
                chunk.read.store(reader.map_or(none, |c| outer(who.epoch, &c)), Ordering::SeqCst);
                return Ok(());
            }
            let list = writer.iter().chain(&reader).flat_map(Compact::records).collect();
            stripe.insert(index, list);
            let mark = u64::from(who.epoch) << 48 | 0xffff << 32 | SPLIT | u64::from(MANY);
            if writer.is_some() {
                chunk.write.store(mark, Ordering::SeqCst);
            }
            chunk.read.store(mark, Ordering::SeqCst);
        }
        if deed.write {
            let mark = u64::from(who.epoch) << 48 | 0xffff << 32 | SPLIT | u64::from(MANY);
            chunk.write.store(mark, Ordering::SeqCst);
        }
        let list = stripe.entry(index).or_default();
        now.records().try_for_each(|record| remember(list, record, who))
    }
}

/// Puts an access into a chunk that has one writer and one reader at most; `false` where that is too little, and
/// where something may be wrong.
fn simple(writer: &mut Option<Compact>, reader: &mut Option<Compact>, now: Compact, who: &Who<'_>) -> bool {
    let bytes = now.touched.bytes;
    let within = |c: &Compact| c.touched.bytes & !bytes == 0;
    let apart = |c: &Compact| c.touched.bytes & bytes == 0;
    if now.deed.write {
        let fits = |c: &Option<Compact>| {
            c.is_none_or(|c| within(&c) && !c.deed.constant && c.known(who, now.touched))
        };
        // A writer beside a reader of other bytes is two records in two words.
        let beside = reader.is_none_or(|r| apart(&r));
        if !fits(writer) || !(beside || fits(reader)) {
            return false;
        }
        if !beside {
            *reader = None;
        }
        *writer = Some(now);
        return true;
    }
    let clear = writer.is_none_or(|w| apart(&w) || (!now.deed.constant && w.known(who, now.touched)));
    if !clear {
        return false;
    }
    let Some(r) = reader else {
        *reader = Some(now);
        return true;
    };
    if r.deed != now.deed {
        return false;
    }
    let same = r.touched.bytes == bytes;
    if r.block == MANY {
        return bytes & !r.touched.bytes == 0;
    }
    if r.block != who.block {
        if same {
            (r.block, r.warp, r.touched.stride) = (MANY, CROWD, 0);
        }
        return same;
    }
    if within(r) && r.known(who, now.touched) {
        *r = now;
    } else if same {
        (r.warp, r.touched.stride, r.clock) = (CROWD, 0, r.clock.max(now.clock));
    } else {
        return false;
    }
    true
}

/// Puts one thread's access into a list, unless it disturbs another.
fn remember(list: &mut Vec<Record>, now: Record, who: &Who<'_>) -> Result<(), Conflict> {
    for r in list.iter() {
        if r.bytes & now.bytes == 0 {
            continue;
        }
        let constant = (r.deed.constant && now.deed.write) || (r.deed.write && now.deed.constant);
        if constant || (r.excludes(now.deed) && !who.knows(r, now.lane)) {
            return Err(r.conflict(now.deed, now.bytes & r.bytes));
        }
    }
    let mut covered = false;
    list.retain_mut(|r| {
        if r.bytes & now.bytes == 0 {
            return true;
        }
        // What comes after this access comes after all that this one comes after.
        if (now.deed.write || (!r.deed.write && r.deed == now.deed)) && who.knows(r, now.lane) {
            r.bytes &= !now.bytes;
            return r.bytes != 0;
        }
        if r.deed == now.deed && !covered {
            if r.bytes & now.bytes == now.bytes && r.block == MANY {
                covered = true;
            } else if r.bytes == now.bytes && r.block != who.block && !who.tells {
                // Without a word between blocks, it is enough that there are several.
                (r.block, r.warp, r.lane) = (MANY, CROWD, SEVERAL);
                covered = true;
            } else if r.bytes == now.bytes
                && r.block == who.block
                && r.clock == now.clock
                && r.warp == now.warp
            {
                r.lane = SEVERAL;
                covered = true;
            } else if r.bytes == now.bytes && r.block == who.block && !now.deed.write && !who.tells {
                (r.warp, r.lane) = (CROWD, SEVERAL);
                r.clock = r.clock.max(now.clock);
                covered = true;
            }
        }
        true
    });
    if !covered {
        list.push(now);
    }
    Ok(())
}
