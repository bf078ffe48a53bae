//! Memory: taking, giving back, copying, setting.

use super::errors::*;
use super::graph::{Node, Unsafe, forbid, record};
use super::pinned::Waited;
use super::{Answer, Driver, Handle, answer, called, driver, healthy, put};
use crate::machine::global::Global;
use std::alloc::Layout;
use std::ffi::{c_uint, c_void};

/// `cuMemAlloc`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(out: *mut u64, size: usize) -> u32 {
    let _call = called("cuMemAlloc_v2");
    answer(healthy().and_then(|(driver, context)| {
        forbid(driver, context, Unsafe::Call)?;
        if size == 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        let address = driver.memory_of(context)?.allocate(size as u64, context);
        // SAFETY: the caller's promise.
        unsafe { put(out, address.ok_or(ERROR_OUT_OF_MEMORY)?) }
    }))
}

/// `cuMemFree`. Works after a failed launch too, so that a program can count what it took.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> u32 {
    let _call = called("cuMemFree_v2");
    answer(driver().and_then(|driver| {
        let context = super::current();
        forbid(driver, context, Unsafe::Call)?;
        if address == 0 {
            return Ok(());
        }
        // Giving memory back waits for what may use it.
        let _busy = driver.busy();
        for memory in &driver.memory {
            if memory.find(address).is_some_and(|a| a.start == address && a.context == context) {
                memory.free(address);
                return Ok(());
            }
        }
        Err(ERROR_INVALID_VALUE)
    }))
}

/// `cuMemGetInfo`.
///
/// # Safety
/// Both must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> u32 {
    let _call = called("cuMemGetInfo_v2");
    answer(healthy().and_then(|(driver, context)| {
        let (limit, used) = driver.memory_of(context)?.usage();
        // SAFETY: the caller's promise.
        unsafe {
            put(free, (limit - used) as usize)?;
            put(total, limit as usize)
        }
    }))
}

/// `cuMemHostAlloc`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(out: *mut *mut c_void, size: usize, _flags: c_uint) -> u32 {
    let _call = called("cuMemHostAlloc");
    answer(healthy().and_then(|(driver, context)| {
        forbid(driver, context, Unsafe::Call)?;
        let layout = Layout::from_size_align(size.max(1), 4096).map_err(|_| ERROR_INVALID_VALUE)?;
        // SAFETY: the size is not 0.
        let at = unsafe { std::alloc::alloc_zeroed(layout) };
        if at.is_null() {
            return Err(ERROR_OUT_OF_MEMORY);
        }
        driver.state().pinned.insert(at as u64, size.max(1));
        // SAFETY: the caller's promise.
        unsafe { put(out, at.cast()) }
    }))
}

/// `cuMemFreeHost`.
///
/// # Safety
/// Nothing may use the memory any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(at: *mut c_void) -> u32 {
    let _call = called("cuMemFreeHost");
    answer(driver().and_then(|driver| {
        let size = *driver.state().pinned.get(&(at as u64)).ok_or(ERROR_INVALID_VALUE)?;
        super::pinned::free(driver, super::current(), at as u64, size as u64)?;
        driver.state().pinned.remove(&(at as u64));
        let layout = Layout::from_size_align(size, 4096).map_err(|_| ERROR_INVALID_VALUE)?;
        // SAFETY: allocated above with the same layout, and taken out of the table just now.
        unsafe { std::alloc::dealloc(at.cast(), layout) };
        Ok(())
    }))
}

/// Checks that `size` bytes at `address` belong to one allocation of the context.
fn check(driver: &Driver, context: Handle, address: u64, size: u64, what: &str) -> Answer {
    let memory = driver.memory_of(context)?;
    match memory.find(address) {
        Some(a) if a.context == context && address + size <= a.end => Ok(()),
        Some(a) if a.context != context && address < a.end => {
            driver.complain(&format!("{what}: address {address:#x} belongs to another context"));
            Err(ERROR_INVALID_VALUE)
        }
        _ => {
            driver.complain(&format!("{what}: {size} bytes at {address:#x} are not inside one allocation"));
            Err(ERROR_INVALID_VALUE)
        }
    }
}

/// A copy or a fill, checked and ready to run, now or in a graph.
#[derive(Clone, Copy, Debug)]
pub enum Transfer {
    /// From this process to the device.
    ToDevice {
        /// Device address.
        to: u64,
        /// Host address.
        from: u64,
        /// Bytes.
        size: u64,
    },
    /// From the device to this process.
    ToHost {
        /// Host address.
        to: u64,
        /// Device address.
        from: u64,
        /// Bytes.
        size: u64,
    },
    /// Inside the device.
    Inside {
        /// Device address.
        to: u64,
        /// Device address.
        from: u64,
        /// Bytes.
        size: u64,
    },
    /// Filling with a pattern of one, two or four bytes.
    Fill {
        /// Device address.
        to: u64,
        /// The pattern.
        value: u32,
        /// Its width.
        width: u64,
        /// How many times.
        count: u64,
    },
}

impl Transfer {
    /// Whether it may run.
    pub fn check(&self, driver: &Driver, context: Handle) -> Answer {
        match *self {
            Transfer::ToDevice { to, from, size } => {
                if from == 0 && size != 0 {
                    return Err(ERROR_INVALID_VALUE);
                }
                check(driver, context, to, size, "cuMemcpyHtoD")
            }
            Transfer::ToHost { to, from, size } => {
                if to == 0 && size != 0 {
                    return Err(ERROR_INVALID_VALUE);
                }
                check(driver, context, from, size, "cuMemcpyDtoH")
            }
            Transfer::Inside { to, from, size } => {
                check(driver, context, to, size, "cuMemcpyDtoD")?;
                check(driver, context, from, size, "cuMemcpyDtoD")
            }
            Transfer::Fill { to, width, count, .. } => {
                if to % width != 0 {
                    return Err(ERROR_INVALID_VALUE);
                }
                check(driver, context, to, count * width, "cuMemset")
            }
        }
    }

    /// Runs it, once no kernel runs.
    ///
    /// # Safety
    /// Host addresses must be valid for the size.
    pub unsafe fn run(&self, driver: &Driver, memory: &Global) {
        let _busy = driver.busy();
        // SAFETY: device ranges were checked to be inside an allocation; host ranges are the caller's.
        unsafe {
            match *self {
                Transfer::ToDevice { to, from, size } => {
                    std::ptr::copy_nonoverlapping(from as *const u8, memory.pointer(to), size as usize);
                    memory.mark(to, size, true);
                }
                Transfer::ToHost { to, from, size } => {
                    std::ptr::copy_nonoverlapping(memory.pointer(from), to as *mut u8, size as usize);
                }
                Transfer::Inside { to, from, size } => {
                    std::ptr::copy(memory.pointer(from), memory.pointer(to), size as usize);
                    memory.copy_marks(to, from, size);
                }
                Transfer::Fill { to, value, width, count } => {
                    let at = memory.pointer(to);
                    let bytes = value.to_le_bytes();
                    if width == 1 {
                        std::ptr::write_bytes(at, bytes[0], count as usize);
                    } else {
                        for n in 0..count as usize {
                            std::ptr::copy_nonoverlapping(
                                bytes.as_ptr(),
                                at.add(n * width as usize),
                                width as usize,
                            );
                        }
                    }
                    memory.mark(to, count * width, true);
                }
            }
        }
    }

    /// Runs it on a stream, or puts it into the graph that the stream is captured into.
    unsafe fn submit(self, stream: Handle) -> Answer {
        let (driver, context) = healthy()?;
        let empty = matches!(
            self,
            Transfer::ToDevice { size: 0, .. }
                | Transfer::ToHost { size: 0, .. }
                | Transfer::Inside { size: 0, .. }
                | Transfer::Fill { count: 0, .. }
        );
        if empty {
            return Ok(());
        }
        self.check(driver, context)?;
        if record(driver, context, stream, || Node::Transfer(self))? {
            return Ok(());
        }
        driver.state().latest.remove(&stream);
        // SAFETY: checked above; the caller vouches for host memory.
        unsafe { self.start(driver, context, stream) }
    }

    /// Runs it in a stream.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    pub unsafe fn start(&self, driver: &Driver, context: Handle, stream: Handle) -> Answer {
        // SAFETY: the caller's promise, here and below.
        unsafe {
            if let Transfer::ToDevice { from, size, .. } = *self {
                super::pinned::begin(driver, context, stream, from, size)?;
            }
            self.run(driver, driver.memory_of(context)?);
        }
        Ok(())
    }

    /// Runs it at once, which waits for the device.
    unsafe fn wait(self) -> Answer {
        let (driver, context) = healthy()?;
        forbid(driver, context, Unsafe::Call)?;
        // SAFETY: the caller's promise.
        unsafe { self.submit(0)? };
        super::pinned::waited(driver, context, Waited::Stream(0))
    }
}

/// `cuMemcpyHtoD`.
///
/// # Safety
/// `from` must be readable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, size: usize) -> u32 {
    let _call = called("cuMemcpyHtoD_v2");
    // SAFETY: the caller's promise.
    answer(unsafe { Transfer::ToDevice { to, from: from as u64, size: size as u64 }.wait() })
}

/// `cuMemcpyHtoDAsync`.
///
/// # Safety
/// `from` must stay readable for `size` bytes until the stream is done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    size: usize,
    stream: Handle,
) -> u32 {
    let _call = called("cuMemcpyHtoDAsync_v2");
    // SAFETY: the caller's promise.
    answer(unsafe { Transfer::ToDevice { to, from: from as u64, size: size as u64 }.submit(stream) })
}

/// `cuMemcpyDtoH`.
///
/// # Safety
/// `to` must be writable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, size: usize) -> u32 {
    let _call = called("cuMemcpyDtoH_v2");
    // SAFETY: the caller's promise.
    answer(unsafe { Transfer::ToHost { to: to as u64, from, size: size as u64 }.wait() })
}

/// `cuMemcpyDtoHAsync`.
///
/// # Safety
/// `to` must stay writable for `size` bytes until the stream is done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    size: usize,
    stream: Handle,
) -> u32 {
    let _call = called("cuMemcpyDtoHAsync_v2");
    // SAFETY: the caller's promise.
    answer(unsafe { Transfer::ToHost { to: to as u64, from, size: size as u64 }.submit(stream) })
}

/// `cuMemcpyDtoD`.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, size: usize) -> u32 {
    let _call = called("cuMemcpyDtoD_v2");
    // SAFETY: no host memory.
    answer(unsafe { Transfer::Inside { to, from, size: size as u64 }.wait() })
}

/// `cuMemcpyDtoDAsync`.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, size: usize, stream: Handle) -> u32 {
    let _call = called("cuMemcpyDtoDAsync_v2");
    // SAFETY: no host memory.
    answer(unsafe { Transfer::Inside { to, from, size: size as u64 }.submit(stream) })
}

/// `cuMemsetD8`.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(to: u64, value: u8, count: usize) -> u32 {
    let _call = called("cuMemsetD8_v2");
    // SAFETY: no host memory.
    answer(unsafe { Transfer::Fill { to, value: u32::from(value), width: 1, count: count as u64 }.wait() })
}

/// `cuMemsetD8Async`.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Handle) -> u32 {
    let _call = called("cuMemsetD8Async");
    // SAFETY: no host memory.
    answer(unsafe {
        Transfer::Fill { to, value: u32::from(value), width: 1, count: count as u64 }.submit(stream)
    })
}

/// `cuMemsetD16Async`.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: Handle) -> u32 {
    let _call = called("cuMemsetD16Async");
    // SAFETY: no host memory.
    answer(unsafe {
        Transfer::Fill { to, value: u32::from(value), width: 2, count: count as u64 }.submit(stream)
    })
}

/// `cuMemsetD32Async`.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Handle) -> u32 {
    let _call = called("cuMemsetD32Async");
    // SAFETY: no host memory.
    answer(unsafe { Transfer::Fill { to, value, width: 4, count: count as u64 }.submit(stream) })
}
