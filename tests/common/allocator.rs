//! An allocator that counts, over all threads of the process: a test that wants it makes it the global one.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, counted.
pub struct Counting;

/// Bytes now held.
pub static LIVE: AtomicUsize = AtomicUsize::new(0);
/// Those of them that start on a cache line: the CPU's device memory. The others are the host's: lists, results.
pub static DEVICE: AtomicUsize = AtomicUsize::new(0);
/// Calls that got memory.
pub static CALLS: AtomicUsize = AtomicUsize::new(0);

impl Counting {
    fn got(layout: Layout) {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        CALLS.fetch_add(1, Ordering::Relaxed);
        if layout.align() == 64 {
            DEVICE.fetch_add(layout.size(), Ordering::Relaxed);
        }
    }

    fn gave(layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        if layout.align() == 64 {
            DEVICE.fetch_sub(layout.size(), Ordering::Relaxed);
        }
    }
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::got(layout);
        // SAFETY: as the caller vouches.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::got(layout);
        // SAFETY: as the caller vouches.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        Self::gave(layout);
        // SAFETY: as the caller vouches.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::gave(layout);
        // Its size was checked by whoever asks; the alignment stays.
        Self::got(Layout::from_size_align(size, layout.align()).unwrap_or(layout));
        // SAFETY: as the caller vouches.
        unsafe { System.realloc(memory, layout, size) }
    }
}
