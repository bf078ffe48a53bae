//! Captures and graphs.

use super::errors::*;
use super::launch::Call;
use super::memory::Transfer;
use super::{Answer, Driver, Handle, State, answer, called, driver, healthy, put};
use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::{c_uint, c_ulonglong};
use std::sync::Arc;
use std::thread::ThreadId;

/// What a graph repeats.
#[derive(Clone)]
pub enum Node {
    /// A launch.
    Launch(Call),
    /// A copy or a fill.
    Transfer(Transfer),
}

/// A capture under way.
pub struct Capture {
    /// Its context.
    pub context: Handle,
    /// The stream in which it began.
    pub origin: Handle,
    /// Streams that took part and have work that the origin did not wait for.
    pub loose: HashSet<Handle>,
    /// What was captured.
    pub nodes: Vec<Node>,
    /// Whether something forbidden happened.
    pub invalid: bool,
    /// 0 global, 1 thread-local, 2 relaxed.
    pub mode: c_uint,
    /// The thread that began it.
    pub thread: ThreadId,
}

/// A graph, or an instance of one.
pub struct Graph {
    nodes: Arc<Vec<Node>>,
    context: Handle,
    instance: bool,
}

/// A call that a capture may forbid.
pub enum Unsafe {
    /// One that may wait for the device: taking memory, copying without a stream, loading.
    Call,
    /// Waiting for a stream.
    Stream(Handle),
    /// Waiting for the whole context.
    Whole,
}

thread_local! {
    static MODE: Cell<c_uint> = const { Cell::new(0) };
}

/// Fails, and spoils captures, if `what` may not happen now.
pub fn forbid(driver: &Driver, context: Handle, what: Unsafe) -> Answer {
    let mut state = driver.state();
    if let Unsafe::Stream(_) | Unsafe::Whole = what {
        // The host waits: what was launched has ended.
        state.latest.clear();
    }
    if let Unsafe::Stream(stream) = what {
        if stream <= 2 {
            return legacy(&mut state, context, stream);
        }
        let stream = state.streams.get(&stream).ok_or(ERROR_INVALID_HANDLE)?;
        if stream.context != context {
            return Err(ERROR_INVALID_CONTEXT);
        }
        if let Some(capture) = stream.capture {
            if let Some(capture) = state.captures.get_mut(&capture) {
                capture.invalid = true;
            }
            return Err(ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        return Ok(());
    }
    let here = std::thread::current().id();
    let relaxed = MODE.get() == 2;
    let whole = matches!(what, Unsafe::Whole);
    let mut found = false;
    for capture in state.captures.values_mut().filter(|c| c.context == context) {
        let concerned = match capture.mode {
            _ if whole => true,
            _ if relaxed => false,
            0 => true,
            1 => capture.thread == here,
            _ => false,
        };
        if concerned {
            capture.invalid = true;
            found = true;
        }
    }
    if found { Err(ERROR_STREAM_CAPTURE_UNSUPPORTED) } else { Ok(()) }
}

/// The legacy stream waits for all blocking streams, which a capture forbids.
fn legacy(state: &mut State, context: Handle, stream: Handle) -> Answer {
    if stream == 2 {
        return Ok(());
    }
    let blocking: Vec<u64> = state
        .streams
        .values()
        .filter(|s| s.context == context && !s.apart)
        .filter_map(|s| s.capture)
        .collect();
    if blocking.is_empty() {
        return Ok(());
    }
    for capture in blocking {
        if let Some(capture) = state.captures.get_mut(&capture) {
            capture.invalid = true;
        }
    }
    Err(ERROR_STREAM_CAPTURE_IMPLICIT)
}

/// Puts work into the capture of its stream; `false` if the stream is not captured and the work must run.
pub fn record(
    driver: &Driver,
    context: Handle,
    stream: Handle,
    node: impl FnOnce() -> Node,
) -> Result<bool, u32> {
    let mut state = driver.state();
    if stream <= 2 {
        return legacy(&mut state, context, stream).map(|()| false);
    }
    let entry = state.streams.get(&stream).ok_or(ERROR_INVALID_HANDLE)?;
    if entry.context != context {
        return Err(ERROR_INVALID_CONTEXT);
    }
    let Some(id) = entry.capture else { return Ok(false) };
    let capture = state.captures.get_mut(&id).ok_or(ERROR_STREAM_CAPTURE_INVALIDATED)?;
    if capture.invalid {
        return Err(ERROR_STREAM_CAPTURE_INVALIDATED);
    }
    capture.nodes.push(node());
    if stream != capture.origin {
        capture.loose.insert(stream);
    }
    Ok(true)
}

/// A stream waits for an event.
pub fn follow(state: &mut State, context: Handle, stream: Handle, captured: Option<(u64, Handle)>) -> Answer {
    if stream <= 2 {
        return match captured {
            Some((id, _)) => {
                if let Some(capture) = state.captures.get_mut(&id) {
                    capture.invalid = true;
                }
                Err(ERROR_STREAM_CAPTURE_IMPLICIT)
            }
            None => Ok(()),
        };
    }
    let entry = state.streams.get_mut(&stream).ok_or(ERROR_INVALID_HANDLE)?;
    if entry.context != context {
        return Err(ERROR_INVALID_CONTEXT);
    }
    match (entry.capture, captured) {
        (None, None) => Ok(()),
        (Some(id), None) => {
            if let Some(capture) = state.captures.get_mut(&id) {
                capture.invalid = true;
            }
            Err(ERROR_STREAM_CAPTURE_ISOLATION)
        }
        (Some(own), Some((id, _))) if own != id => {
            for id in [own, id] {
                if let Some(capture) = state.captures.get_mut(&id) {
                    capture.invalid = true;
                }
            }
            Err(ERROR_STREAM_CAPTURE_MERGE)
        }
        (_, Some((id, from))) => {
            let capture = state.captures.get_mut(&id).ok_or(ERROR_CAPTURED_EVENT)?;
            if stream == capture.origin {
                capture.loose.remove(&from);
            } else {
                capture.loose.insert(stream);
            }
            entry.capture = Some(id);
            Ok(())
        }
    }
}

/// `cuStreamBeginCapture`.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: Handle, mode: c_uint) -> u32 {
    let _call = called("cuStreamBeginCapture_v2");
    answer(healthy().and_then(|(driver, context)| {
        if mode > 2 {
            return Err(ERROR_INVALID_VALUE);
        }
        if stream <= 2 {
            // The legacy stream can't be captured; the per-thread stream could, but not here.
            return Err(ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        let mut state = driver.state();
        let id = state.handle();
        let entry = state.streams.get_mut(&stream).ok_or(ERROR_INVALID_HANDLE)?;
        if entry.context != context {
            return Err(ERROR_INVALID_CONTEXT);
        }
        if entry.capture.is_some() {
            return Err(ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        entry.capture = Some(id);
        let capture = Capture {
            context,
            origin: stream,
            loose: HashSet::new(),
            nodes: Vec::new(),
            invalid: false,
            mode,
            thread: std::thread::current().id(),
        };
        state.captures.insert(id, capture);
        Ok(())
    }))
}

/// `cuStreamEndCapture`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: Handle, out: *mut Handle) -> u32 {
    let _call = called("cuStreamEndCapture");
    answer(healthy().and_then(|(driver, context)| {
        let mut state = driver.state();
        let entry = state.streams.get(&stream).ok_or(ERROR_INVALID_HANDLE)?;
        let id = entry.capture.ok_or(ERROR_ILLEGAL_STATE)?;
        let capture = state.captures.get(&id).ok_or(ERROR_ILLEGAL_STATE)?;
        if capture.origin != stream {
            return Err(ERROR_STREAM_CAPTURE_UNMATCHED);
        }
        if capture.mode != 2 && capture.thread != std::thread::current().id() {
            return Err(ERROR_STREAM_CAPTURE_WRONG_THREAD);
        }
        let capture = state.captures.remove(&id).ok_or(ERROR_ILLEGAL_STATE)?;
        state.streams.values_mut().filter(|s| s.capture == Some(id)).for_each(|s| s.capture = None);
        // SAFETY: the caller's promise, here and below.
        unsafe { put(out, 0)? };
        if capture.invalid {
            return Err(ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        if !capture.loose.is_empty() {
            return Err(ERROR_STREAM_CAPTURE_UNJOINED);
        }
        let handle = state.handle();
        state.graphs.insert(handle, Graph { nodes: Arc::new(capture.nodes), context, instance: false });
        // SAFETY: as above.
        unsafe { put(out, handle) }
    }))
}

/// `cuStreamIsCapturing`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: Handle, out: *mut c_uint) -> u32 {
    let _call = called("cuStreamIsCapturing");
    answer(healthy().and_then(|(driver, context)| {
        let mut state = driver.state();
        let status = if stream <= 2 {
            legacy(&mut state, context, stream)?;
            0
        } else {
            let capture = state.streams.get(&stream).ok_or(ERROR_INVALID_HANDLE)?.capture;
            capture.map_or(0, |id| if state.captures.get(&id).is_none_or(|c| c.invalid) { 2 } else { 1 })
        };
        // SAFETY: the caller's promise.
        unsafe { put(out, status) }
    }))
}

/// `cuThreadExchangeStreamCaptureMode`.
///
/// # Safety
/// `mode` must be readable and writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuThreadExchangeStreamCaptureMode(mode: *mut c_uint) -> u32 {
    let _call = called("cuThreadExchangeStreamCaptureMode");
    if mode.is_null() {
        return ERROR_INVALID_VALUE;
    }
    // SAFETY: the caller's promise.
    unsafe { *mode = MODE.replace(*mode) };
    SUCCESS
}

/// `cuGraphInstantiateWithFlags`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    out: *mut Handle,
    graph: Handle,
    flags: c_ulonglong,
) -> u32 {
    let _call = called("cuGraphInstantiateWithFlags");
    answer(healthy().and_then(|(driver, _)| {
        // Freed on launch (1) and node priorities (8) mean nothing here; launching from the device (4) is
        // not supported, and never goes with the first.
        if flags & !(1 | 2 | 8) != 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        let mut state = driver.state();
        let graph = state.graphs.get(&graph).filter(|g| !g.instance).ok_or(ERROR_INVALID_HANDLE)?;
        let instance = Graph { nodes: graph.nodes.clone(), context: graph.context, instance: true };
        let handle = state.handle();
        state.graphs.insert(handle, instance);
        // SAFETY: the caller's promise.
        unsafe { put(out, handle) }
    }))
}

/// `cuGraphLaunch`.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(instance: Handle, stream: Handle) -> u32 {
    let _call = called("cuGraphLaunch");
    answer(healthy().and_then(|(driver, context)| {
        let nodes = {
            let state = driver.state();
            let graph = state.graphs.get(&instance).filter(|g| g.instance).ok_or(ERROR_INVALID_HANDLE)?;
            if graph.context != context {
                return Err(ERROR_INVALID_CONTEXT);
            }
            if state.streams.get(&stream).is_some_and(|s| s.capture.is_some()) {
                drop(state);
                driver.complain("a graph launched into a capture is not supported");
                return Err(ERROR_NOT_SUPPORTED);
            }
            graph.nodes.clone()
        };
        for node in nodes.iter() {
            match node {
                Node::Launch(call) => call.run(driver, context, stream)?,
                Node::Transfer(transfer) => {
                    driver.state().latest.remove(&stream);
                    // The memory may have been given back since the capture.
                    if transfer.check(driver, context).is_err() {
                        if let Some(context) = driver.state().contexts.get_mut(&context) {
                            context.sticky = ERROR_ILLEGAL_ADDRESS;
                        }
                        return Ok(());
                    }
                    // SAFETY: checked; the caller of the capture vouched for host memory.
                    unsafe { transfer.start(driver, context, stream)? };
                }
            }
            if healthy().is_err() {
                return Ok(());
            }
        }
        Ok(())
    }))
}

/// `cuGraphUpload`: nothing to do.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphUpload(instance: Handle, _stream: Handle) -> u32 {
    let _call = called("cuGraphUpload");
    answer(
        healthy().and_then(|(driver, _)| {
            driver.state().graphs.get(&instance).map(|_| ()).ok_or(ERROR_INVALID_HANDLE)
        }),
    )
}

/// `cuGraphDestroy`.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: Handle) -> u32 {
    let _call = called("cuGraphDestroy");
    answer(
        driver()
            .and_then(|driver| driver.state().graphs.remove(&graph).map(|_| ()).ok_or(ERROR_INVALID_HANDLE)),
    )
}

/// `cuGraphExecDestroy`.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(instance: Handle) -> u32 {
    let _call = called("cuGraphExecDestroy");
    cuGraphDestroy(instance)
}

/// `cuGraphGetNodes`, the number only.
///
/// # Safety
/// `count` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphGetNodes(graph: Handle, nodes: *mut Handle, count: *mut usize) -> u32 {
    let _call = called("cuGraphGetNodes");
    if !nodes.is_null() {
        return ERROR_NOT_SUPPORTED;
    }
    answer(driver().and_then(|driver| {
        let length = driver.state().graphs.get(&graph).ok_or(ERROR_INVALID_HANDLE)?.nodes.len();
        // SAFETY: the caller's promise.
        unsafe { put(count, length) }
    }))
}
