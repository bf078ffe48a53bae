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
