//! Words on their way to the device in pinned memory of the host, behind an event: they are copied without the host
//! waiting, and written anew only once that copy has ended.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaSlice, CudaStream, DriverError};

use super::launch::{self, PinnedWords};

/// As much as one copy takes.
#[derive(Debug)]
pub(super) struct Pinned {
    words: PinnedWords,
    copied: CudaEvent,
    stream: Arc<CudaStream>,
}

impl Pinned {
    /// Room for so many words that are copied on this stream.
    pub(super) fn new(stream: &Arc<CudaStream>, len: usize) -> Result<Self, DriverError> {
        let words = PinnedWords::new(stream.context(), len)?;
        Ok(Pinned { words, copied: stream.context().new_event(None)?, stream: Arc::clone(stream) })
    }

    /// The first `len` words, to write; waits if their last copy has not ended yet.
    pub(super) fn write(&mut self, len: usize) -> Result<&mut [u32], DriverError> {
        self.settle()?;
        Ok(&mut self.words.as_mut_slice()[..len])
    }

    /// Enqueues a copy of the first `len` words.
    pub(super) fn copy(&mut self, len: usize, to: &mut CudaSlice<u32>) -> Result<(), DriverError> {
        launch::copy_pinned(&self.stream, &self.words, len, to)?;
        self.copied.record(&self.stream)
    }

    fn settle(&self) -> Result<(), DriverError> {
        match self.copied.try_is_complete()? {
            true => Ok(()),
            false => self.copied.synchronize(),
        }
    }
}

impl Drop for Pinned {
    /// The memory must not go while it is copied. After an error there is nothing that reads it.
    fn drop(&mut self) {
        let _ = self.copied.synchronize();
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
            pinned.copy(3, &mut memory).expect("a copy");
        }
        // The virtual GPU tells of memory that was written or given back while it was copied.
        drop(pinned);
        let mut host = [u32::MAX; 5];
        cuda.download(memory.as_view(), &mut host).expect("a copy");
        assert_eq!(host, [3, 6, 9, 0, 0]);
    }
}
