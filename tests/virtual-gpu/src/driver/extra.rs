//! What only this driver has: its last error in words, counts, settings; and calls that it refuses by name.

use super::errors::*;
use super::{called, driver, start, take_calls};
use std::ffi::{CStr, c_char};
use std::sync::atomic::Ordering;

fn hand_over(text: &str, out: *mut c_char, length: usize) -> usize {
    if !out.is_null() && length > 0 {
        let kept = text.len().min(length - 1);
        // SAFETY: `kept + 1` is at most `length`, which the callers' callers promise.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr().cast(), out, kept);
            *out.add(kept) = 0;
        }
    }
    text.len()
}

/// Copies the last error's words, returns their length.
///
/// # Safety
/// `out` must be null or writable for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn virtual_gpu_last_error(out: *mut c_char, length: usize) -> usize {
    let text = driver().map(|d| d.message.lock().map(|m| m.clone()).unwrap_or_default());
    hand_over(&text.unwrap_or_default(), out, length)
}

/// Copies the table's header, a newline and the row of the last launch, returns their length.
///
/// # Safety
/// `out` must be null or writable for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn virtual_gpu_last_launch(out: *mut c_char, length: usize) -> usize {
    let row = driver().map(|d| d.report.lock().map(|r| r.clone()).unwrap_or_default());
    hand_over(&format!("{}\n{}", super::launch::header(), row.unwrap_or_default()), out, length)
}

/// Copies the calls since the last ask, a line each, name, tab, count, and returns their length.
///
/// # Safety
/// `out` must be null or writable for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn virtual_gpu_calls(out: *mut c_char, length: usize) -> usize {
    let text: String = take_calls().iter().map(|(name, count)| format!("{name}\t{count}\n")).collect();
    hand_over(&text, out, length)
}

/// Copies the table of all launches since they were last taken, returns its length; they are taken only if the
/// whole table fits.
///
/// # Safety
/// `out` must be null or writable for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn virtual_gpu_launches(out: *mut c_char, length: usize) -> usize {
    let Ok(driver) = driver() else { return hand_over("", out, length) };
    let mut rows = driver.launches.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let text = format!("{}\n{}", super::launch::header(), rows.join("\n"));
    if text.len() < length {
        rows.clear();
    }
    hand_over(&text, out, length)
}

/// Allocations of device memory that are alive, on all devices.
#[unsafe(no_mangle)]
pub extern "C" fn virtual_gpu_allocations() -> usize {
    driver().map_or(0, |d| d.memory.iter().map(crate::machine::global::Global::alive).sum())
}

/// Changes `seed`, `strict_float` or `timeout` (milliseconds) while the process runs; 1 for another name.
///
/// # Safety
/// `name` must be a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn virtual_gpu_set(name: *const c_char, value: u64) -> u32 {
    let config = &start().config;
    // SAFETY: the caller's promise.
    match unsafe { CStr::from_ptr(name) }.to_bytes() {
        b"seed" => config.seed.store(value, Ordering::Relaxed),
        b"timeout" => config.limit.store(value, Ordering::Relaxed),
        b"strict_float" => config.strict_float.store(value != 0, Ordering::Relaxed),
        _ => return ERROR_INVALID_VALUE,
    }
    SUCCESS
}

macro_rules! refused {
    ($($name:ident)*) => {
        $(
            /// Refused by name.
            #[unsafe(no_mangle)]
            pub extern "C" fn $name() -> u32 {
                let _call = called(stringify!($name));
                start().complain(concat!(stringify!($name), " is not supported"));
                ERROR_NOT_SUPPORTED
            }
        )*
    };
}

refused! {
    cuMemAllocAsync cuMemFreeAsync cuMemAllocFromPoolAsync cuMemAllocManaged cuMemAdvise cuMemAdvise_v2
    cuMemPrefetchAsync cuMemPrefetchAsync_v2 cuMemPoolCreate cuMemPoolDestroy cuMemPoolGetAttribute
    cuMemPoolSetAttribute cuMemPoolTrimTo cuDeviceGetDefaultMemPool cuDeviceGetMemPool cuDeviceSetMemPool
    cuMemcpyPeerAsync cuStreamAttachMemAsync cuImportExternalMemory cuDestroyExternalMemory
    cuExternalMemoryGetMappedBuffer cuCtxGetLimit cuCtxSetLimit cuCtxGetCacheConfig cuCtxSetCacheConfig
    cuCtxCreate_v3 cuOccupancyMaxPotentialBlockSizeWithFlags cuGetProcAddress_v2
    cuMemHostRegister_v2 cuMemHostUnregister cuMemHostGetDevicePointer_v2 cuPointerGetAttribute
    cuModuleLoadFatBinary cuProfilerStart cuProfilerStop cuGraphInstantiateWithParams cuStreamGetCaptureInfo_v2
    cuOccupancyMaxActiveClusters cuFuncGetModule cuLinkCreate_v2 cuTensorMapEncodeTiled
}
