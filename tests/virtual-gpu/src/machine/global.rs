//! Device memory: one arena, allocations with gaps between them, and for every byte whether it was written
//! and for every sixteen bytes which block touched them last.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};

/// The first device address.
pub const BASE: u64 = 0x7000_0000_0000;
const ALIGN: u64 = 512;
const GAP: u64 = 512;
const STRIPES: usize = 1024;
const MANY: u32 = 0xff_ffff;

/// A piece of device memory that a program asked for.
#[derive(Clone, Copy, Debug)]
pub struct Allocation {
    /// Its first address.
    pub start: u64,
    /// The address after its last byte.
    pub end: u64,
    /// The context that owns it.
    pub context: u64,
}

/// Which block touches memory, and what it knows of others.
pub struct Who<'a> {
    /// The launch, as the shadow counts them.
    pub epoch: u16,
    /// The block, numbered from 0.
    pub block: u32,
    /// The block's own time.
    pub clock: u32,
    /// What it knows to have happened, a time a block; empty if it knows nothing.
    pub seen: &'a [u32],
}

impl Who<'_> {
    fn knows(&self, block: u32, clock: u32) -> bool {
        block == self.block || self.seen.get(block as usize).is_some_and(|&c| c >= clock)
    }

    fn knows_all(&self, clock: u32) -> bool {
        !self.seen.is_empty()
            && self.seen.iter().enumerate().all(|(b, &c)| c >= clock || b == self.block as usize)
    }
}

/// How two blocks of a launch disturbed each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Reads what the block wrote.
    ReadOfWritten(u32),
    /// Writes what the block read, or several did (`None`).
    WriteOfRead(Option<u32>),
    /// Writes what the block wrote.
    WriteOfWritten(u32),
    /// Reads through the constant path what the launch wrote.
    ConstantOfWritten(u32),
    /// Writes what the launch reads through the constant path.
    WriteOfConstant,
}

/// The last accesses to some bytes in one launch.
#[derive(Clone, Copy, Default)]
struct Last {
    writer: u32,
    write_clock: u32,
    write_epoch: u16,
    strong: bool,
    reader: u32,
    read_clock: u32,
    read_epoch: u16,
    constant: bool,
}

impl Last {
    fn read(&mut self, who: &Who<'_>, constant: bool) -> Result<(), Conflict> {
        if self.write_epoch == who.epoch {
            if constant {
                return Err(Conflict::ConstantOfWritten(self.writer));
            }
            if !who.knows(self.writer, self.write_clock) {
                return Err(Conflict::ReadOfWritten(self.writer));
            }
        }
        if self.read_epoch != who.epoch {
            (self.reader, self.read_clock, self.constant) = (who.block, who.clock, constant);
            self.read_epoch = who.epoch;
        } else {
            let ordered = self.reader != MANY && who.knows(self.reader, self.read_clock);
            self.reader = if ordered { who.block } else { MANY };
            self.read_clock = self.read_clock.max(who.clock);
            self.constant |= constant;
        }
        Ok(())
    }

    fn write(&mut self, who: &Who<'_>, strong: bool) -> Result<(), Conflict> {
        if self.read_epoch == who.epoch {
            if self.constant {
                return Err(Conflict::WriteOfConstant);
            }
            if self.reader == MANY {
                if !who.knows_all(self.read_clock) {
                    return Err(Conflict::WriteOfRead(None));
                }
            } else if !who.knows(self.reader, self.read_clock) {
                return Err(Conflict::WriteOfRead(Some(self.reader)));
            }
        }
        if self.write_epoch == who.epoch
            && !(strong && self.strong)
            && !who.knows(self.writer, self.write_clock)
        {
            return Err(Conflict::WriteOfWritten(self.writer));
        }
        self.read_epoch = who.epoch.wrapping_sub(1);
        (self.writer, self.write_clock, self.write_epoch) = (who.block, who.clock, who.epoch);
        self.strong = strong;
        Ok(())
    }
}

/// The shadow of sixteen bytes. `write` and `read` hold epoch (16 bits), bytes (16), flags (8), block (24).
struct Chunk {
    write: AtomicU64,
    read: AtomicU64,
    clocks: AtomicU64,
}

const SPLIT: u64 = 1 << 24;
const FLAG: u64 = 1 << 25;

fn pack(epoch: u16, bytes: u16, flags: u64, block: u32) -> u64 {
    u64::from(epoch) << 48 | u64::from(bytes) << 32 | flags | u64::from(block & MANY)
}

/// The device's memory.
pub struct Global {
    data: *mut u8,
    written: *const AtomicU16,
    shadow: *const Chunk,
    arena: u64,
    limit: u64,
    state: RwLock<State>,
    splits: Vec<Mutex<HashMap<u64, [Last; 8]>>>,
    epoch: AtomicU32,
}

#[derive(Default)]
struct State {
    allocations: BTreeMap<u64, Allocation>,
    used: u64,
    next: u64,
}

// SAFETY: the pointers are to mappings that live as long as the value and are never moved; what is shared
// between threads behind them is atomic, or device memory, whose races the shadow reports.
unsafe impl Send for Global {}
// SAFETY: as above.
unsafe impl Sync for Global {}

fn map(bytes: u64) -> *mut u8 {
    // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no memory of ours.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    assert!(at != libc::MAP_FAILED, "no address space for {bytes} bytes of device memory");
    at.cast()
}

impl Global {
    /// Memory of `limit` bytes.
    pub fn new(limit: u64) -> Global {
        // Addresses are not reused soon, so that a stale one is noticed.
        let arena = (limit * 4).max(1 << 30).next_multiple_of(4096);
        Global {
            data: map(arena),
            written: map(arena / 8).cast(),
            shadow: map(arena / 16 * size_of::<Chunk>() as u64).cast(),
            arena,
            limit,
            state: RwLock::new(State { next: ALIGN, ..State::default() }),
            splits: (0..STRIPES).map(|_| Mutex::new(HashMap::new())).collect(),
            epoch: AtomicU32::new(0),
        }
    }

    /// Bytes in all and bytes in use.
    pub fn usage(&self) -> (u64, u64) {
        (self.limit, self.state.read().expect("memory").used)
    }

    /// Allocations alive.
    pub fn alive(&self) -> usize {
        self.state.read().expect("memory").allocations.len()
    }

    /// Takes `size` bytes for `context`; `None` if there is not that much.
    pub fn allocate(&self, size: u64, context: u64) -> Option<u64> {
        let mut state = self.state.write().expect("memory");
        let taken = size.checked_next_multiple_of(ALIGN)?;
        if taken > self.limit - state.used {
            return None;
        }
        let fits = |state: &State, at: u64| -> Result<(), u64> {
            // The allocation before must end a gap ahead, the one after begin a gap behind.
            if let Some((_, before)) = state.allocations.range(..BASE + at + taken + GAP).next_back()
                && before.end + GAP > BASE + at
            {
                return Err((before.end - BASE + GAP).next_multiple_of(ALIGN));
            }
            Ok(())
        };
        let mut at = state.next;
        let mut wrapped = false;
        loop {
            if at + taken + GAP > self.arena {
                if wrapped {
                    return None;
                }
                (at, wrapped) = (ALIGN, true);
            }
            match fits(&state, at) {
                Ok(()) => break,
                Err(next) => at = next,
            }
        }
        state.next = (at + taken + GAP).next_multiple_of(ALIGN);
        state.used += taken;
        let start = BASE + at;
        state.allocations.insert(start, Allocation { start, end: start + size, context });
        Some(start)
    }

    /// Gives an allocation back; `false` if none begins there.
    pub fn free(&self, address: u64) -> bool {
        let mut state = self.state.write().expect("memory");
        let Some(allocation) = state.allocations.remove(&address) else { return false };
        let size = (allocation.end - allocation.start).next_multiple_of(ALIGN);
        state.used -= size;
        self.mark(allocation.start, size, false);
        let (from, to) = ((address - BASE).next_multiple_of(4096), (address - BASE + size) & !4095);
        if to > from {
            // SAFETY: whole pages inside our own mapping, which nothing refers to any more.
            unsafe {
                libc::madvise(self.data.add(from as usize).cast(), (to - from) as usize, libc::MADV_DONTNEED)
            };
        }
        true
    }

    /// Gives back all that a context owns.
    pub fn free_all(&self, context: u64) {
        let all: Vec<u64> = {
            let state = self.state.read().expect("memory");
            state.allocations.values().filter(|a| a.context == context).map(|a| a.start).collect()
        };
        all.into_iter().for_each(|a| {
            self.free(a);
        });
    }

    /// The allocation that holds `address`, or the last one before it.
    pub fn find(&self, address: u64) -> Option<Allocation> {
        let state = self.state.read().expect("memory");
        state.allocations.range(..=address).next_back().map(|(_, a)| *a)
    }

    /// Where the bytes at `address` are in this process. The caller has checked that they are allocated.
    #[inline(always)]
    pub fn pointer(&self, address: u64) -> *mut u8 {
        let offset = address.wrapping_sub(BASE);
        assert!(offset < self.arena, "address outside the arena");
        // SAFETY: the offset is inside the mapping.
        unsafe { self.data.add(offset as usize) }
    }

    #[inline(always)]
    fn written_word(&self, offset: u64) -> &AtomicU16 {
        debug_assert!(offset < self.arena);
        // SAFETY: a bit a byte: the word for an offset inside the arena is inside its mapping.
        unsafe { &*self.written.add((offset >> 4) as usize) }
    }

    #[inline(always)]
    fn chunk(&self, offset: u64) -> &Chunk {
        debug_assert!(offset < self.arena);
        // SAFETY: one a sixteen bytes of the arena, inside its mapping; zero bytes are a valid value.
        unsafe { &*self.shadow.add((offset >> 4) as usize) }
    }

    /// Marks bytes as written, or as never written.
    pub fn mark(&self, address: u64, size: u64, written: bool) {
        let (mut at, end) = (address - BASE, address - BASE + size);
        // Whole words at once, the ends bit by bit.
        let (from, to) = (at.next_multiple_of(16), end & !15);
        if to > from {
            let first: *mut u8 = self.written.cast_mut().cast();
            // SAFETY: a bit a byte: the words of a range inside the arena are inside their mapping. No kernel
            // runs while the host marks memory.
            unsafe {
                std::ptr::write_bytes(
                    first.add((from / 8) as usize),
                    if written { 0xff } else { 0 },
                    ((to - from) / 8) as usize,
                );
            }
        }
        while at < end {
            if to > from && at == from {
                at = to;
                continue;
            }
            let bits = (end - at).min(16 - at % 16);
            let mask = (((1u32 << bits) - 1) << (at % 16)) as u16;
            let word = self.written_word(at);
            if written {
                word.fetch_or(mask, Ordering::Relaxed);
            } else {
                word.fetch_and(!mask, Ordering::Relaxed);
            }
            at += bits;
        }
    }

    /// Copies the marks of `size` bytes.
    pub fn copy_marks(&self, to: u64, from: u64, size: u64) {
        for at in 0..size {
            let written = self.bytes_written((from + at) & !15) >> ((from + at) % 16) & 1 == 1;
            self.mark(to + at, 1, written);
        }
    }

    /// Which of the sixteen bytes at `address` (a multiple of 16) were written.
    #[inline(always)]
    pub fn bytes_written(&self, address: u64) -> u16 {
        self.written_word(address - BASE).load(Ordering::Relaxed)
    }

    /// Marks some of the sixteen bytes at `address` as written.
    #[inline(always)]
    pub fn mark_bytes(&self, address: u64, bytes: u16) {
        let word = self.written_word(address - BASE);
        if word.load(Ordering::Relaxed) & bytes != bytes {
            word.fetch_or(bytes, Ordering::Relaxed);
        }
    }

    /// A number for a new launch, never 0.
    pub fn begin_launch(&self) -> u16 {
        for stripe in &self.splits {
            stripe.lock().expect("shadow").clear();
        }
        let epoch = self.epoch.fetch_add(1, Ordering::Relaxed) % 0xfffe + 1;
        if epoch == 1 && self.epoch.load(Ordering::Relaxed) > 1 {
            // The numbers begin again: forget the old ones.
            let bytes = self.arena / 16 * size_of::<Chunk>() as u64;
            // SAFETY: our own mapping; it reads as zero afterwards, which is a valid value.
            unsafe { libc::madvise(self.shadow.cast_mut().cast(), bytes as usize, libc::MADV_DONTNEED) };
        }
        epoch as u16
    }

    /// Notes that a block reads some of the sixteen bytes at `address`.
    #[inline(always)]
    pub fn note_read(&self, address: u64, bytes: u16, who: &Who<'_>, constant: bool) -> Result<(), Conflict> {
        let offset = address - BASE;
        let chunk = self.chunk(offset);
        let (write, read) = (chunk.write.load(Ordering::SeqCst), chunk.read.load(Ordering::SeqCst));
        let mine = read as u32 & MANY;
        if (write >> 48) as u16 != who.epoch
            && (read >> 48) as u16 == who.epoch
            && (read >> 32) as u16 & bytes == bytes
            && read & SPLIT == 0
            && (mine == MANY || mine == who.block)
            && (!constant || read & FLAG != 0)
            && who.seen.is_empty()
        {
            return Ok(());
        }
        self.note(offset, bytes, Kind::Read { constant }, who)
    }

    /// Notes that a block writes some of the sixteen bytes at `address`; `strong` ones may meet each other.
    #[inline(always)]
    pub fn note_write(&self, address: u64, bytes: u16, who: &Who<'_>, strong: bool) -> Result<(), Conflict> {
        self.note(address - BASE, bytes, Kind::Write { strong }, who)
    }

    fn note(&self, offset: u64, bytes: u16, kind: Kind, who: &Who<'_>) -> Result<(), Conflict> {
        let chunk = self.chunk(offset);
        let mut stripe = self.splits[(offset >> 4) as usize % STRIPES].lock().expect("shadow");
        let (write, read) = (chunk.write.load(Ordering::SeqCst), chunk.read.load(Ordering::SeqCst));
        let clocks = chunk.clocks.load(Ordering::Relaxed);
        let (wrote, was_read) = ((write >> 48) as u16 == who.epoch, (read >> 48) as u16 == who.epoch);
        let none = who.epoch.wrapping_sub(1);
        let last = Last {
            writer: write as u32 & MANY,
            write_clock: (clocks >> 32) as u32,
            write_epoch: none,
            strong: write & FLAG != 0,
            reader: read as u32 & MANY,
            read_clock: clocks as u32,
            read_epoch: none,
            constant: read & FLAG != 0,
        };
        let write_bytes = if wrote { (write >> 32) as u16 } else { 0 };
        let read_bytes = if was_read { (read >> 32) as u16 } else { 0 };
        if !(was_read && read & SPLIT != 0) {
            // Bytes whose history is one and the same stay together; a block alone with the sixteen does too.
            let alone = (write_bytes == 0 || last.writer == who.block)
                && (read_bytes == 0 || last.reader == who.block);
            let same = (write_bytes == 0 || write_bytes == bytes) && (read_bytes == 0 || read_bytes == bytes);
            if alone || same {
                let mut next = last;
                if write_bytes & bytes != 0 {
                    next.write_epoch = who.epoch;
                }
                if read_bytes & bytes != 0 {
                    next.read_epoch = who.epoch;
                }
                let read_flag = |l: &Last| if l.constant { FLAG } else { 0 };
                match kind {
                    Kind::Read { constant } => {
                        next.read(who, constant)?;
                        next.constant |= read_bytes != 0 && last.constant;
                        let value = pack(who.epoch, read_bytes | bytes, read_flag(&next), next.reader);
                        chunk.read.store(value, Ordering::SeqCst);
                    }
                    Kind::Write { strong } => {
                        next.write(who, strong)?;
                        let flag = if next.strong { FLAG } else { 0 };
                        let value = pack(who.epoch, write_bytes | bytes, flag, next.writer);
                        chunk.write.store(value, Ordering::SeqCst);
                        if was_read {
                            let value = pack(who.epoch, read_bytes & !bytes, read_flag(&last), last.reader);
                            chunk.read.store(value, Ordering::SeqCst);
                        }
                    }
                }
                let clocks = u64::from(next.write_clock) << 32 | u64::from(next.read_clock);
                chunk.clocks.store(clocks, Ordering::Relaxed);
                return Ok(());
            }
            let mut parts = [last; 8];
            for (n, part) in parts.iter_mut().enumerate() {
                let two = 3u16 << (2 * n);
                if write_bytes & two != 0 {
                    part.write_epoch = who.epoch;
                }
                if read_bytes & two != 0 {
                    part.read_epoch = who.epoch;
                }
            }
            stripe.insert(offset >> 4, parts);
            chunk.read.store(pack(who.epoch, 0xffff, SPLIT, MANY), Ordering::SeqCst);
            chunk.write.store(pack(who.epoch, 0xffff, SPLIT, MANY), Ordering::SeqCst);
        }
        let parts = stripe.entry(offset >> 4).or_default();
        for (n, part) in parts.iter_mut().enumerate() {
            if bytes >> (2 * n) & 3 != 0 {
                match kind {
                    Kind::Read { constant } => part.read(who, constant)?,
                    Kind::Write { strong } => part.write(who, strong)?,
                }
            }
        }
        Ok(())
    }
}

/// What [`Global::note`] notes.
#[derive(Clone, Copy)]
enum Kind {
    Read { constant: bool },
    Write { strong: bool },
}
