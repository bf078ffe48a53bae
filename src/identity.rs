//! Numbers that are given out once in a process, so that a value of another tape or recording, or a stream of
//! other [`Streams`](crate::Streams), is told from one's own.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that nothing else got.
pub(crate) fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
