//! Words on their way to the device in pinned memory of the host: a recorded step begins by copying them, without the host
//! waiting, and they are written anew only once that step has ended.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaSlice, CudaStream, DriverError};

use super::launch::{self, PinnedWords};

/// As much as one copy takes.
#[derive(Debug)]
pub(super) struct Pinned {
    words: PinnedWords,
    read: CudaEvent,
    stream: Arc<CudaStream>,
}

impl Pinned {
    /// Room for so many words that this stream reads.
    pub(super) fn new(stream: &Arc<CudaStream>, len: usize) -> Result<Self, DriverError> {
        let words = PinnedWords::new(stream.context(), len)?;
        Ok(Pinned { words, read: stream.context().new_event(None)?, stream: Arc::clone(stream) })
    }

    /// The first `len` words, to write; waits until what the stream had to do when they were [handed over](Self::hand_over)
    /// is done.
    pub(super) fn write(&mut self, len: usize) -> Result<&mut [u32], DriverError> {
        if !self.read.try_is_complete()? {
            self.read.synchronize()?;
        }
        Ok(&mut self.words.as_mut_slice()[..len])
    }

    /// Enqueues, or records, a copy of the first `len` words. Where it is recorded, each replay copies what they are then.
    pub(super) fn copy(
        &self,
        stream: &CudaStream,
        len: usize,
        to: &mut CudaSlice<u32>,
    ) -> Result<(), DriverError> {
        launch::copy_pinned(stream, &self.words, len, to)
    }

    /// What the stream has to do by now may read the words.
    pub(super) fn hand_over(&self) -> Result<(), DriverError> {
        self.read.record(&self.stream)
    }
}

impl Drop for Pinned {
    /// The memory must not go while it is read. After an error there is nothing that reads it.
    fn drop(&mut self) {
        let _ = self.read.synchronize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend as _;
    use crate::backend::cuda::test_device;

    #[test]
    fn what_is_written_arrives_and_nothing_goes_before_its_copy() {
        let cuda = test_device();
        let mut memory = cuda.alloc::<u32>(5).expect("memory");
        let mut pinned = Pinned::new(cuda.stream(), 4).expect("pinned memory");
        for round in 1..4 {
            pinned.write(3).expect("no copy under way").copy_from_slice(&[round, 2 * round, 3 * round]);
            pinned.copy(cuda.stream(), 3, &mut memory).expect("a copy");
            pinned.hand_over().expect("an event");
        }
        // The virtual GPU tells of memory that was written or given back while it was copied.
        drop(pinned);
        let mut host = [u32::MAX; 5];
        cuda.download(memory.as_view(), &mut host).expect("a copy");
        assert_eq!(host, [3, 6, 9, 0, 0]);
    }
}
