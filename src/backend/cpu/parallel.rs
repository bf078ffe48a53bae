//! Independent tasks over the caller's rayon pool, or one after another without the feature `rayon`.
//! How many tasks there are depends on shapes only, so that results do not depend on the threads.

/// Runs `task(i)` for every `i` below `tasks`, in any order, on any thread of the current pool.
pub(super) fn for_each(tasks: usize, task: impl Fn(usize) + Sync + Send) {
    #[cfg(feature = "rayon")]
    if tasks > 1 {
        use rayon::prelude::*;
        return (0..tasks).into_par_iter().with_max_len(1).for_each(task);
    }
    (0..tasks).for_each(task);
}

/// Runs `work` on a thread of the current pool, so that each [`for_each`] in it starts from inside: many short ones would
/// each wait for the pool to wake up.
pub(super) fn inside(work: impl FnOnce() + Send) {
    #[cfg(feature = "rayon")]
    if rayon::current_thread_index().is_none() {
        rayon::join(work, || ());
        return;
    }
    work();
}

/// The current worker's index in its pool; 0 outside of one.
pub(super) fn worker() -> usize {
    #[cfg(feature = "rayon")]
    if let Some(index) = rayon::current_thread_index() {
        return index;
    }
    0
}
