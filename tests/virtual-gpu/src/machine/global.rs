//! Device memory: one arena, allocations with gaps between them, for every byte whether it was written, and a
//! place for the history of every sixteen bytes, of which it knows nothing more.

use super::history::{Chunk, Conflict, Deed, History, Touched, Who};
use std::collections::BTreeMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

/// The first address of the first device, and how far the next one's is: no address is good for two of them.
const FIRST: u64 = 0x7000_0000_0000;
const DEVICE: u64 = 1 << 40;
const ALIGN: u64 = 512;
const GAP: u64 = 512;

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

/// The device's memory.
pub struct Global {
    base: u64,
    data: *mut u8,
    written: *const AtomicU16,
    shadow: *const Chunk,
    arena: u64,
    limit: u64,
    state: RwLock<State>,
    history: History,
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

/// Gives the whole pages between two offsets of a mapping back to the system: they read as zero afterwards.
fn release(mapping: *mut u8, from: u64, to: u64) {
    let (from, to) = (from.next_multiple_of(4096), to & !4095);
    if to > from {
        // SAFETY: whole pages inside our own mapping, of memory that was given back: nothing refers to them.
        unsafe {
            libc::madvise(mapping.add(from as usize).cast(), (to - from) as usize, libc::MADV_DONTNEED)
        };
    }
}

impl Global {
    /// Memory of `limit` bytes, of the device of this number.
    pub fn new(device: u32, limit: u64) -> Global {
        // Addresses are not reused soon, so that a stale one is noticed.
        let arena = (limit * 4).max(1 << 30).next_multiple_of(4096);
        assert!(arena < DEVICE, "more memory than there are addresses for");
        Global {
            base: FIRST + u64::from(device) * DEVICE,
            data: map(arena),
            written: map(arena / 8).cast(),
            shadow: map(arena / 16 * size_of::<Chunk>() as u64).cast(),
            arena,
            limit,
            state: RwLock::new(State { next: ALIGN, ..State::default() }),
            history: History::default(),
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
            if let Some((_, before)) = state.allocations.range(..self.base + at + taken + GAP).next_back()
                && before.end + GAP > self.base + at
            {
                return Err((before.end - self.base + GAP).next_multiple_of(ALIGN));
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
        let start = self.base + at;
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
        let (from, to) = (address - self.base, address - self.base + size);
        let chunk = size_of::<Chunk>() as u64;
        release(self.data, from, to);
        release(self.written.cast_mut().cast(), from / 8, to / 8);
        release(self.shadow.cast_mut().cast(), from / 16 * chunk, to / 16 * chunk);
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
        let offset = address.wrapping_sub(self.base);
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
        let (mut at, end) = (address - self.base, address - self.base + size);
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
        self.written_word(address - self.base).load(Ordering::Relaxed)
    }

    /// Marks some of the sixteen bytes at `address` as written.
    #[inline(always)]
    pub fn mark_bytes(&self, address: u64, bytes: u16) {
        let word = self.written_word(address - self.base);
        if word.load(Ordering::Relaxed) & bytes != bytes {
            word.fetch_or(bytes, Ordering::Relaxed);
        }
    }

    /// A number for a new launch, never 0.
    pub fn begin_launch(&self) -> u16 {
        self.history.clear();
        let epoch = self.epoch.fetch_add(1, Ordering::Relaxed) % 0xfffe + 1;
        if epoch == 1 && self.epoch.load(Ordering::Relaxed) > 1 {
            // The numbers begin again: forget the old ones.
            let bytes = self.arena / 16 * size_of::<Chunk>() as u64;
            // SAFETY: our own mapping; it reads as zero afterwards, which is a valid value.
            unsafe { libc::madvise(self.shadow.cast_mut().cast(), bytes as usize, libc::MADV_DONTNEED) };
        }
        epoch as u16
    }

    /// Whether an earlier launch wrote some of the sixteen bytes at `address`, or, for a writer, read them.
    pub fn met(&self, address: u64, epoch: u16, bytes: u16, write: bool) -> bool {
        self.chunk(address - self.base).met(epoch, bytes, write)
    }

    /// Notes an access to some of the sixteen bytes at `address`.
    #[inline(always)]
    pub fn note(&self, address: u64, touched: Touched, deed: Deed, who: &Who<'_>) -> Result<(), Conflict> {
        let offset = address - self.base;
        self.history.note(self.chunk(offset), offset >> 4, touched, deed, who)
    }
}
