//! Streams and events.

use super::errors::*;
use super::graph::{Unsafe, follow, forbid};
use super::pinned::{self, Waited};
use super::{Handle, answer, called, driver, healthy, put};
use std::ffi::{c_int, c_uint, c_void};
use std::time::Instant;

/// A stream.
pub struct Stream {
    /// Its context.
    pub context: Handle,
    /// Whether it goes its own way beside the legacy stream.
    pub apart: bool,
    /// The capture that it takes part in.
    pub capture: Option<u64>,
    /// Its priority.
    pub priority: c_int,
}

/// An event.
pub struct Event {
    /// Its context.
    pub context: Handle,
    /// Whether it keeps time.
    pub timed: bool,
    /// When it was recorded.
    pub at: Option<Instant>,
    /// The capture in which it was recorded, and from which stream.
    pub captured: Option<(u64, Handle)>,
}

/// `cuStreamCreate`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(out: *mut Handle, flags: c_uint) -> u32 {
    let _call = called("cuStreamCreate");
    // SAFETY: the caller's promise.
    unsafe { cuStreamCreateWithPriority(out, flags, 0) }
}

/// `cuStreamCreateWithPriority`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(out: *mut Handle, flags: c_uint, priority: c_int) -> u32 {
    let _call = called("cuStreamCreateWithPriority");
    answer(healthy().and_then(|(driver, context)| {
        if flags > 1 {
            return Err(ERROR_INVALID_VALUE);
        }
        let mut state = driver.state();
        let handle = state.handle();
        state.streams.insert(
            handle,
            Stream { context, apart: flags == 1, capture: None, priority: priority.clamp(-5, 0) },
        );
        // SAFETY: the caller's promise.
        unsafe { put(out, handle) }
    }))
}

/// `cuStreamDestroy`. Works after a failed launch too.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: Handle) -> u32 {
    let _call = called("cuStreamDestroy_v2");
    answer(driver().and_then(|driver| {
        let mut state = driver.state();
        let removed = state.streams.remove(&stream).ok_or(ERROR_INVALID_HANDLE)?;
        if let Some(capture) = removed.capture {
            state.captures.remove(&capture);
        }
        Ok(())
    }))
}

/// `cuStreamSynchronize`.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: Handle) -> u32 {
    let _call = called("cuStreamSynchronize");
    answer(healthy().and_then(|(driver, context)| {
        forbid(driver, context, Unsafe::Stream(stream))?;
        pinned::waited(driver, context, Waited::Stream(stream))
    }))
}

/// `cuStreamQuery`.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: Handle) -> u32 {
    let _call = called("cuStreamQuery");
    cuStreamSynchronize(stream)
}

/// `cuStreamGetPriority`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetPriority(stream: Handle, out: *mut c_int) -> u32 {
    let _call = called("cuStreamGetPriority");
    answer(healthy().and_then(|(driver, _)| {
        let priority = driver.state().streams.get(&stream).map_or(0, |s| s.priority);
        // SAFETY: the caller's promise.
        unsafe { put(out, priority) }
    }))
}

/// `cuStreamGetCtx`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCtx(stream: Handle, out: *mut Handle) -> u32 {
    let _call = called("cuStreamGetCtx");
    answer(healthy().and_then(|(driver, context)| {
        let owner = match stream {
            0..=2 => context,
            stream => driver.state().streams.get(&stream).ok_or(ERROR_INVALID_HANDLE)?.context,
        };
        // SAFETY: the caller's promise.
        unsafe { put(out, owner) }
    }))
}

/// `cuStreamWaitEvent`. Streams run eagerly, so only captures care.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, _flags: c_uint) -> u32 {
    let _call = called("cuStreamWaitEvent");
    answer(healthy().and_then(|(driver, context)| {
        let mut state = driver.state();
        let captured = state.events.get(&event).ok_or(ERROR_INVALID_HANDLE)?.captured;
        follow(&mut state, context, stream, captured)
    }))
}

/// `cuLaunchHostFunc`: runs at once.
#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchHostFunc(
    stream: Handle,
    function: extern "C" fn(*mut c_void),
    data: *mut c_void,
) -> u32 {
    let _call = called("cuLaunchHostFunc");
    answer(healthy().and_then(|(driver, _)| {
        if driver.state().streams.get(&stream).is_some_and(|s| s.capture.is_some()) {
            driver.complain("cuLaunchHostFunc in a capture is not supported");
            return Err(ERROR_NOT_SUPPORTED);
        }
        function(data);
        Ok(())
    }))
}

/// `cuEventCreate`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(out: *mut Handle, flags: c_uint) -> u32 {
    let _call = called("cuEventCreate");
    answer(healthy().and_then(|(driver, context)| {
        let mut state = driver.state();
        let handle = state.handle();
        state.events.insert(handle, Event { context, timed: flags & 2 == 0, at: None, captured: None });
        // SAFETY: the caller's promise.
        unsafe { put(out, handle) }
    }))
}

/// `cuEventDestroy`. Works after a failed launch too.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: Handle) -> u32 {
    let _call = called("cuEventDestroy_v2");
    answer(
        driver()
            .and_then(|driver| driver.state().events.remove(&event).map(|_| ()).ok_or(ERROR_INVALID_HANDLE)),
    )
}

/// `cuEventRecord`.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> u32 {
    let _call = called("cuEventRecord");
    answer(healthy().and_then(|(driver, context)| {
        let mut state = driver.state();
        let capture = match stream {
            0..=2 => None,
            stream => {
                let stream = state.streams.get(&stream).ok_or(ERROR_INVALID_HANDLE)?;
                if stream.context != context {
                    return Err(ERROR_INVALID_CONTEXT);
                }
                stream.capture
            }
        };
        let recorded = state.events.get_mut(&event).ok_or(ERROR_INVALID_HANDLE)?;
        recorded.captured = capture.map(|c| (c, stream));
        if capture.is_none() {
            recorded.at = Some(Instant::now());
            pinned::record(&mut state, stream, event);
        }
        Ok(())
    }))
}

fn settled(event: Handle) -> Result<(), u32> {
    let (driver, context) = healthy()?;
    let mut state = driver.state();
    let captured = state.events.get(&event).ok_or(ERROR_INVALID_HANDLE)?.captured;
    if let Some((capture, _)) = captured {
        if let Some(capture) = state.captures.get_mut(&capture) {
            capture.invalid = true;
        }
        return Err(ERROR_CAPTURED_EVENT);
    }
    drop(state);
    pinned::waited(driver, context, Waited::Event(event))
}

/// `cuEventSynchronize`.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: Handle) -> u32 {
    let _call = called("cuEventSynchronize");
    answer(settled(event))
}

/// `cuEventQuery`.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: Handle) -> u32 {
    let _call = called("cuEventQuery");
    answer(settled(event))
}

/// `cuEventElapsedTime`: time that passed here, not on a card.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(out: *mut f32, start: Handle, end: Handle) -> u32 {
    let _call = called("cuEventElapsedTime");
    answer(settled(start).and_then(|()| settled(end)).and_then(|()| {
        let driver = driver()?;
        let state = driver.state();
        let of = |event: Handle| match state.events.get(&event) {
            Some(Event { timed: true, at: Some(at), .. }) => Ok(*at),
            _ => Err(ERROR_INVALID_HANDLE),
        };
        let passed = of(end)?.saturating_duration_since(of(start)?);
        // SAFETY: the caller's promise.
        unsafe { put(out, passed.as_secs_f32() * 1e3) }
    }))
}

/// `cuEventElapsedTime`, second version.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(out: *mut f32, start: Handle, end: Handle) -> u32 {
    let _call = called("cuEventElapsedTime_v2");
    // SAFETY: the caller's promise.
    unsafe { cuEventElapsedTime(out, start, end) }
}
