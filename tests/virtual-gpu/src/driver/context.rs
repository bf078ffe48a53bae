//! Contexts.

use super::errors::*;
use super::graph::{Unsafe, forbid};
use super::pinned::{self, Waited};
use super::{Answer, Context, Handle, answer, called, current, driver, healthy, put, set_current};
use std::ffi::{c_int, c_uint, c_void};

/// `cuDevicePrimaryCtxRetain`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(out: *mut Handle, device: c_int) -> u32 {
    let _call = called("cuDevicePrimaryCtxRetain");
    answer(driver().and_then(|driver| {
        if !(0..driver.config.count as c_int).contains(&device) {
            return Err(ERROR_INVALID_DEVICE);
        }
        let device = device as u32;
        let mut state = driver.state();
        let handle = match state.primary.get(&device) {
            Some(&handle) => handle,
            None => {
                let handle = state.handle();
                state.primary.insert(device, handle);
                state.contexts.insert(handle, Context { device, retained: 0, sticky: SUCCESS });
                handle
            }
        };
        state.contexts.get_mut(&handle).expect("a primary context is in the table").retained += 1;
        // SAFETY: the caller's promise.
        unsafe { put(out, handle) }
    }))
}

fn destroy(handle: Handle) -> Answer {
    let driver = driver()?;
    let mut state = driver.state();
    let context = state.contexts.remove(&handle).ok_or(ERROR_INVALID_CONTEXT)?;
    state.primary.retain(|_, h| *h != handle);
    state.streams.retain(|_, s| s.context != handle);
    state.events.retain(|_, e| e.context != handle);
    state.modules.retain(|_, m| m.context != handle);
    state.functions.retain(|_, f| f.context != handle);
    state.captures.retain(|_, c| c.context != handle);
    drop(state);
    let _busy = driver.busy();
    driver.memory[context.device as usize].free_all(handle);
    Ok(())
}

/// `cuDevicePrimaryCtxRelease`.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> u32 {
    let _call = called("cuDevicePrimaryCtxRelease_v2");
    answer(driver().and_then(|driver| {
        let mut state = driver.state();
        let handle = *state.primary.get(&(device as u32)).ok_or(ERROR_INVALID_CONTEXT)?;
        let context = state.contexts.get_mut(&handle).ok_or(ERROR_INVALID_CONTEXT)?;
        context.retained -= 1;
        let last = context.retained == 0;
        drop(state);
        if last { destroy(handle) } else { Ok(()) }
    }))
}

/// `cuDevicePrimaryCtxReset`.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxReset_v2(device: c_int) -> u32 {
    let _call = called("cuDevicePrimaryCtxReset_v2");
    answer(driver().and_then(|driver| {
        let handle = driver.state().primary.get(&(device as u32)).copied();
        handle.map_or(Ok(()), destroy)
    }))
}

/// `cuDevicePrimaryCtxGetState`.
///
/// # Safety
/// Both must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxGetState(
    device: c_int,
    flags: *mut c_uint,
    active: *mut c_int,
) -> u32 {
    let _call = called("cuDevicePrimaryCtxGetState");
    answer(driver().and_then(|driver| {
        let alive = driver.state().primary.contains_key(&(device as u32));
        // SAFETY: the caller's promise.
        unsafe {
            put(flags, 0)?;
            put(active, c_int::from(alive))
        }
    }))
}

fn create(out: *mut Handle, device: c_int) -> Answer {
    let driver = driver()?;
    if !(0..driver.config.count as c_int).contains(&device) {
        return Err(ERROR_INVALID_DEVICE);
    }
    let mut state = driver.state();
    let handle = state.handle();
    state.contexts.insert(handle, Context { device: device as u32, retained: 0, sticky: SUCCESS });
    set_current(handle);
    // SAFETY: the callers' promise.
    unsafe { put(out, handle) }
}

/// `cuCtxCreate`, second version.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v2(out: *mut Handle, _flags: c_uint, device: c_int) -> u32 {
    let _call = called("cuCtxCreate_v2");
    answer(create(out, device))
}

/// `cuCtxCreate`, fourth version, without parameters.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v4(
    out: *mut Handle,
    params: *const c_void,
    _flags: c_uint,
    device: c_int,
) -> u32 {
    let _call = called("cuCtxCreate_v4");
    if !params.is_null() {
        return ERROR_NOT_SUPPORTED;
    }
    answer(create(out, device))
}

/// `cuCtxDestroy`.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy_v2(context: Handle) -> u32 {
    let _call = called("cuCtxDestroy_v2");
    if current() == context {
        set_current(0);
    }
    answer(destroy(context))
}

/// `cuCtxSetCurrent`.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: Handle) -> u32 {
    let _call = called("cuCtxSetCurrent");
    answer(driver().and_then(|driver| {
        if context != 0 && !driver.state().contexts.contains_key(&context) {
            return Err(ERROR_INVALID_CONTEXT);
        }
        set_current(context);
        Ok(())
    }))
}

/// `cuCtxGetCurrent`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(out: *mut Handle) -> u32 {
    let _call = called("cuCtxGetCurrent");
    // SAFETY: the caller's promise.
    answer(driver().and_then(|_| unsafe { put(out, current()) }))
}

/// `cuCtxGetDevice`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice(out: *mut c_int) -> u32 {
    let _call = called("cuCtxGetDevice");
    answer(driver().and_then(|driver| {
        let device = driver.state().contexts.get(&current()).ok_or(ERROR_INVALID_CONTEXT)?.device;
        // SAFETY: the caller's promise.
        unsafe { put(out, device as c_int) }
    }))
}

/// `cuCtxSynchronize`.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> u32 {
    let _call = called("cuCtxSynchronize");
    answer(healthy().and_then(|(driver, context)| {
        forbid(driver, context, Unsafe::Whole)?;
        pinned::waited(driver, context, Waited::Whole)
    }))
}

/// `cuCtxSetFlags`: how the host waits makes no difference here.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetFlags(_flags: c_uint) -> u32 {
    let _call = called("cuCtxSetFlags");
    answer(healthy().map(|_| ()))
}

/// `cuCtxGetStreamPriorityRange`.
///
/// # Safety
/// Both must be null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> u32 {
    let _call = called("cuCtxGetStreamPriorityRange");
    answer(healthy().and_then(|_| {
        for (to, value) in [(least, 0), (greatest, -5)] {
            if !to.is_null() {
                // SAFETY: the caller's promise.
                unsafe { put(to, value)? };
            }
        }
        Ok(())
    }))
}
