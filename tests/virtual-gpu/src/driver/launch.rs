//! Launches.

use super::errors::*;
use super::graph::{Node, record};
use super::module::occupancy;
use super::{Answer, Driver, Handle, answer, called, healthy, start};
use crate::counters::COLUMNS;
use crate::machine::launch::Launch;
use crate::ptx::ir::Kernel;
use std::collections::HashMap;
use std::ffi::{c_uint, c_void};
use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A launch with its arguments copied, now or in a graph.
#[derive(Clone)]
pub struct Call {
    /// The kernel.
    pub kernel: Arc<Kernel>,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads.
    pub block: [u32; 3],
    /// Dynamic shared memory.
    pub dynamic: u32,
    /// Arguments.
    pub params: Vec<u8>,
    /// Whether all blocks must live at once.
    pub cooperative: bool,
    /// Whether it may begin before the launch before it has ended (programmatic dependent launch).
    pub early: bool,
}

impl Call {
    /// Runs it in a stream. What goes wrong stays with the context.
    pub fn run(&self, driver: &Driver, context: Handle, stream: Handle) -> Answer {
        let _busy = driver.busy();
        let memory = driver.memory_of(context)?;
        let kernel = &self.kernel;
        let offset = kernel.static_shared.next_multiple_of(kernel.shared_align);
        let shared_size =
            if self.dynamic == 0 { kernel.static_shared } else { offset + self.dynamic as usize };
        let epoch = memory.begin_launch();
        let before = driver.state().latest.insert(stream, epoch).filter(|_| self.early);
        let launch = Launch {
            kernel,
            memory,
            context,
            params: &self.params,
            grid: self.grid,
            block: self.block,
            shared_size,
            dynamic_offset: offset.min(shared_size),
            epoch,
            before,
            cooperative: self.cooperative,
            sms: driver.config.chip.sms,
            seed: driver.config.seed(),
            threads_used: driver.config.threads,
            limit: Duration::from_millis(driver.config.limit.load(Ordering::Relaxed)),
            tells: Launch::kernel_tells(kernel),
            told: Mutex::new(HashMap::new()),
        };
        let begin = Instant::now();
        let result = match &kernel.bare_float {
            Some((line, op)) if driver.config.strict_float.load(Ordering::Relaxed) => {
                let text =
                    format!("kernel {}, PTX line {line}: '{op}' may be contracted into an FMA", kernel.name);
                Err(crate::machine::Fault { code: ERROR_LAUNCH_FAILED, text })
            }
            // A bug of the machine itself must not tear down the program that is tested.
            _ => {
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| launch.run())).unwrap_or_else(|_| {
                    let text = format!("kernel {}: the virtual GPU itself failed", kernel.name);
                    Err(crate::machine::Fault { code: ERROR_UNKNOWN, text })
                })
            }
        };
        let seconds = begin.elapsed().as_secs_f64();
        match result {
            Ok(counters) => {
                let row = format!(
                    "{}\t{}x{}x{}\t{}x{}x{}\t{}\t{}\t{seconds:.6}",
                    kernel.name,
                    self.grid[0],
                    self.grid[1],
                    self.grid[2],
                    self.block[0],
                    self.block[1],
                    self.block[2],
                    shared_size,
                    counters.row(),
                );
                write_report(&row);
                driver.remember(row.clone());
                *driver.report.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = row;
            }
            Err(fault) => {
                driver.complain(&fault.text);
                write_report(&format!("# error {}: {}", fault.code, fault.text));
                if let Some(context) = driver.state().contexts.get_mut(&context) {
                    context.sticky = fault.code;
                }
            }
        }
        Ok(())
    }
}

/// The header of the table of launches.
pub fn header() -> String {
    format!("kernel\tgrid\tblock\tshared\t{}\tseconds", COLUMNS.join("\t"))
}

fn write_report(row: &str) {
    let Ok(path) = std::env::var("PR_LSTM_VIRTUAL_GPU_REPORT") else { return };
    if let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) {
        let empty = file.metadata().is_ok_and(|m| m.len() == 0);
        let text = if empty { format!("{}\n{row}\n", header()) } else { format!("{row}\n") };
        let _ = file.write_all(text.as_bytes());
    }
}

/// Copies the arguments that a program points to.
///
/// # Safety
/// `given` must point to as many pointers as the kernel has parameters, each to its size.
unsafe fn arguments(kernel: &Kernel, given: *mut *mut c_void) -> Result<Vec<u8>, u32> {
    let mut out = vec![0u8; kernel.param_size];
    for (n, &(offset, size)) in kernel.params.iter().enumerate() {
        if given.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        // SAFETY: the caller's promise.
        unsafe {
            let from = *given.add(n);
            if from.is_null() {
                return Err(ERROR_INVALID_VALUE);
            }
            std::ptr::copy_nonoverlapping(from.cast::<u8>(), out.as_mut_ptr().add(offset), size);
        }
    }
    Ok(out)
}

unsafe fn launch(
    function: Handle,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic: u32,
    stream: Handle,
    given: *mut *mut c_void,
    [cooperative, early]: [bool; 2],
) -> Answer {
    let (driver, context) = healthy()?;
    let (kernel, blocks) = {
        let state = driver.state();
        let function = state.functions.get(&function).ok_or(ERROR_INVALID_HANDLE)?;
        if function.context != context {
            return Err(ERROR_INVALID_HANDLE);
        }
        let kernel = function.kernel.clone();
        let threads = block.iter().map(|&v| u64::from(v)).product::<u64>();
        let sizes = grid.iter().chain(&block).all(|&v| v > 0)
            && grid[0] <= 0x7fff_ffff
            && grid[1] <= 0xffff
            && grid[2] <= 0xffff
            && block[0] <= 1024
            && block[1] <= 1024
            && block[2] <= 64;
        if !sizes || threads > 1024 {
            return Err(ERROR_INVALID_VALUE);
        }
        if kernel.max_threads.is_some_and(|most| threads > u64::from(most)) {
            return Err(ERROR_INVALID_VALUE);
        }
        if dynamic > function.dynamic {
            return Err(ERROR_INVALID_VALUE);
        }
        let blocks = occupancy(driver, function, threads as u32, dynamic);
        (kernel, blocks)
    };
    let count = grid.iter().map(|&v| u64::from(v)).product::<u64>();
    if count >= 0xff_ffff {
        driver.complain(&format!(
            "kernel {}: {count} blocks are more than the virtual GPU numbers",
            kernel.name
        ));
        return Err(ERROR_NOT_SUPPORTED);
    }
    if blocks == 0 {
        return Err(ERROR_LAUNCH_OUT_OF_RESOURCES);
    }
    if cooperative && count > u64::from(blocks) * u64::from(driver.config.chip.sms) {
        return Err(ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
    }
    // SAFETY: the caller's promise.
    let params = unsafe { arguments(&kernel, given)? };
    let call = Call { kernel, grid, block, dynamic, params, cooperative, early };
    if record(driver, context, stream, || Node::Launch(call.clone()))? {
        return Ok(());
    }
    call.run(driver, context, stream)
}

/// `cuLaunchKernel`.
///
/// # Safety
/// `given` must point to the kernel's arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    dynamic: c_uint,
    stream: Handle,
    given: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> u32 {
    let _call = called("cuLaunchKernel");
    if !extra.is_null() {
        return ERROR_NOT_SUPPORTED;
    }
    // SAFETY: the caller's promise.
    answer(unsafe {
        launch(
            function,
            [grid_x, grid_y, grid_z],
            [block_x, block_y, block_z],
            dynamic,
            stream,
            given,
            [false; 2],
        )
    })
}

/// `cuLaunchCooperativeKernel`.
///
/// # Safety
/// `given` must point to the kernel's arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchCooperativeKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    dynamic: c_uint,
    stream: Handle,
    given: *mut *mut c_void,
) -> u32 {
    let _call = called("cuLaunchCooperativeKernel");
    // SAFETY: the caller's promise.
    answer(unsafe {
        launch(
            function,
            [grid_x, grid_y, grid_z],
            [block_x, block_y, block_z],
            dynamic,
            stream,
            given,
            [true, false],
        )
    })
}

/// `CUlaunchAttribute`: what it is, and up to 64 bytes of value.
#[repr(C, align(8))]
pub struct Attribute {
    id: u32,
    pad: u32,
    value: [u32; 16],
}

/// `CUlaunchConfig`.
#[repr(C)]
pub struct Shape {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    dynamic: c_uint,
    stream: Handle,
    attributes: *const Attribute,
    count: c_uint,
}

/// `cuLaunchKernelEx`.
///
/// # Safety
/// `shape` must point to a configuration with its attributes, `given` to the kernel's arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernelEx(
    shape: *const Shape,
    function: Handle,
    given: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> u32 {
    let _call = called("cuLaunchKernelEx");
    if !extra.is_null() {
        return ERROR_NOT_SUPPORTED;
    }
    if shape.is_null() {
        return ERROR_INVALID_VALUE;
    }
    // SAFETY: the caller's promise.
    let shape = unsafe { &*shape };
    let (mut cooperative, mut early) = (false, false);
    for n in 0..shape.count as usize {
        // SAFETY: as above.
        let Attribute { id, value, .. } = unsafe { &*shape.attributes.add(n) };
        match id {
            // Nothing, a hint to the cache, a way of waiting, a priority.
            0 | 1 | 3 | 8 => {}
            2 => cooperative = value[0] != 0,
            4 if value[..3] == [1; 3] => {}
            6 => early = value[0] != 0,
            id => {
                start().complain(&format!("cuLaunchKernelEx with attribute {id} is not supported"));
                return ERROR_NOT_SUPPORTED;
            }
        }
    }
    let Shape { grid, block, dynamic, stream, .. } = *shape;
    // SAFETY: the caller's promise.
    answer(unsafe { launch(function, grid, block, dynamic, stream, given, [cooperative, early]) })
}
