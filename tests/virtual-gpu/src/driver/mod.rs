//! The driver's calls. A call that is not here does not exist, or answers "not supported" with its name.
//!
//! Streams run eagerly: a launch has ended when the call returns, but what went wrong in it shows, as with
//! a card, in the calls that follow, until the context is destroyed.

pub mod context;
pub mod device;
pub mod errors;
pub mod extra;
pub mod graph;
pub mod launch;
pub mod memory;
pub mod module;
pub mod pinned;
pub mod stream;

use crate::config::Config;
use crate::machine::global::Global;
use errors::*;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, OnceLock};

/// A handle, as the program sees it.
pub type Handle = u64;
/// The answer of a call.
pub type Answer = Result<(), u32>;

/// A context.
pub struct Context {
    /// Its device.
    pub device: u32,
    /// How often the primary context was retained; 0 for one made by `cuCtxCreate`.
    pub retained: u32,
    /// The error that a launch left behind.
    pub sticky: u32,
}

/// All that programs hold handles of.
#[derive(Default)]
pub struct State {
    /// Contexts by handle.
    pub contexts: HashMap<Handle, Context>,
    /// The primary context of each device.
    pub primary: HashMap<u32, Handle>,
    /// Modules by handle.
    pub modules: HashMap<Handle, module::Module>,
    /// Functions by handle.
    pub functions: HashMap<Handle, module::Function>,
    /// Streams by handle.
    pub streams: HashMap<Handle, stream::Stream>,
    /// Events by handle.
    pub events: HashMap<Handle, stream::Event>,
    /// Captures under way.
    pub captures: HashMap<u64, graph::Capture>,
    /// Graphs and their instances.
    pub graphs: HashMap<Handle, graph::Graph>,
    /// Pinned host memory: address to size.
    pub pinned: HashMap<u64, usize>,
    /// Copies from there that may be under way.
    pub copies: Vec<pinned::Copy>,
    /// The latest launch of each stream that the host did not wait for, and nothing but launches came after.
    pub latest: HashMap<Handle, u16>,
    /// The last handle given out.
    pub handles: Handle,
}

impl State {
    /// A new handle.
    pub fn handle(&mut self) -> Handle {
        self.handles += 0x40;
        0x5eed_0000_0000 + self.handles
    }
}

/// Launches that are kept for a test that asks for them.
const MOST_LAUNCHES: usize = 1 << 20;

/// The driver.
pub struct Driver {
    /// Settings.
    pub config: Config,
    /// Memory of each device.
    pub memory: Vec<Global>,
    state: Mutex<State>,
    busy: Mutex<()>,
    /// The last error's words.
    pub message: Mutex<String>,
    /// Name and counts of the last launch.
    pub report: Mutex<String>,
    /// The same of every launch since a test last asked.
    pub launches: Mutex<Vec<String>>,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();

thread_local! {
    static CURRENT: Cell<Handle> = const { Cell::new(0) };
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

static CALLS: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

/// A call of the program, until it is dropped.
#[must_use]
pub struct Called(());

/// Counts a call of the program under its name; calls that it makes in turn are not the program's.
pub fn called(name: &'static str) -> Called {
    if DEPTH.replace(DEPTH.get() + 1) == 0 {
        *CALLS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).entry(name).or_default() += 1;
    }
    Called(())
}

impl Drop for Called {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// The program's calls by name since this was asked last.
pub fn take_calls() -> BTreeMap<&'static str, u64> {
    std::mem::take(&mut *CALLS.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// The driver, if `cuInit` was called.
pub fn driver() -> Result<&'static Driver, u32> {
    DRIVER.get().ok_or(ERROR_NOT_INITIALIZED)
}

/// The driver, made if need be.
pub fn start() -> &'static Driver {
    DRIVER.get_or_init(|| {
        let config = Config::from_environment();
        let memory = (0..config.count).map(|device| Global::new(device, config.memory)).collect();
        Driver {
            config,
            memory,
            state: Mutex::default(),
            busy: Mutex::default(),
            message: Mutex::default(),
            report: Mutex::default(),
            launches: Mutex::default(),
        }
    })
}

impl Driver {
    /// The tables.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// One launch, copy or fill at a time, whatever thread it comes from.
    pub fn busy(&self) -> MutexGuard<'_, ()> {
        self.busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The memory of a context's device.
    pub fn memory_of(&self, context: Handle) -> Result<&Global, u32> {
        let device = self.state().contexts.get(&context).ok_or(ERROR_INVALID_CONTEXT)?.device;
        Ok(&self.memory[device as usize])
    }

    /// Keeps a launch's row for a test that asks; a program that never asks does not fill memory with them.
    pub fn remember(&self, row: String) {
        let mut rows = self.launches.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if rows.len() < MOST_LAUNCHES {
            rows.push(row);
        }
    }

    /// Remembers and prints what went wrong.
    pub fn complain(&self, text: &str) {
        eprintln!("virtual GPU: {text}");
        *self.message.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = text.to_owned();
    }
}

/// The current context of this thread, whatever its state.
pub fn current() -> Handle {
    CURRENT.get()
}

/// Sets the current context of this thread.
pub fn set_current(context: Handle) {
    CURRENT.set(context);
}

/// The current context, if it is alive and no launch failed in it.
pub fn healthy() -> Result<(&'static Driver, Handle), u32> {
    let driver = driver()?;
    let context = current();
    if context == 0 {
        return Err(ERROR_INVALID_CONTEXT);
    }
    match driver.state().contexts.get(&context) {
        None => Err(ERROR_CONTEXT_IS_DESTROYED),
        Some(c) if c.sticky != SUCCESS => Err(c.sticky),
        Some(_) => Ok((driver, context)),
    }
}

/// An answer as its code.
pub fn answer(result: Answer) -> u32 {
    result.err().unwrap_or(SUCCESS)
}

/// Writes through a pointer that a program handed in.
///
/// # Safety
/// `to` must be null or writable.
pub unsafe fn put<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return Err(ERROR_INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    unsafe { to.write(value) };
    Ok(())
}
