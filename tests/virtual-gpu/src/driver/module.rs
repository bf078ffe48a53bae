//! Modules from PTX, their functions and variables.

use super::errors::*;
use super::graph::{Unsafe, forbid};
use super::{Answer, Driver, Handle, answer, called, driver, healthy, put};
use crate::ptx::ir::Kernel;
use crate::ptx::lower::lower;
use crate::ptx::parse::{self, Space};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

/// A loaded module.
pub struct Module {
    /// Its context.
    pub context: Handle,
    ast: Arc<parse::Module>,
    text: Arc<str>,
    variables: Arc<HashMap<String, u64>>,
    sizes: HashMap<String, usize>,
    functions: HashMap<String, Handle>,
}

/// A kernel that a program looked up.
pub struct Function {
    /// Its context.
    pub context: Handle,
    /// Its module.
    pub module: Handle,
    /// The kernel.
    pub kernel: Arc<Kernel>,
    /// Dynamic shared memory that a launch may ask for.
    pub dynamic: u32,
}

/// What PTX asks of the chip: capability, and whether only that one will do.
fn target(text: &str) -> Option<(u32, bool)> {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    Some((digits.parse().ok()?, text.ends_with('a')))
}

fn load(out: *mut Handle, image: &[u8]) -> Answer {
    let (driver, context) = healthy()?;
    forbid(driver, context, Unsafe::Call)?;
    if image.starts_with(b"\x7fELF") || image.starts_with(&0xba55_ed50_u32.to_le_bytes()) {
        return Err(ERROR_NO_BINARY_FOR_GPU);
    }
    let Ok(text) = std::str::from_utf8(image) else { return Err(ERROR_INVALID_IMAGE) };
    if !text.contains(".version") {
        return Err(ERROR_INVALID_IMAGE);
    }
    let ast = parse::parse(text).map_err(|e| {
        driver.complain(&format!("PTX: {e}"));
        ERROR_INVALID_PTX
    })?;
    if ast.version > driver.config.ptx() {
        driver.complain(&format!(
            "PTX of version {:?}, the driver reads up to {:?}",
            ast.version,
            driver.config.ptx()
        ));
        return Err(ERROR_UNSUPPORTED_PTX_VERSION);
    }
    let capability = driver.config.chip.capability;
    match target(&ast.target) {
        Some((wanted, only)) if wanted > capability || (only && wanted != capability) => {
            // Text that the driver's compiler refuses, not an image that is missing.
            driver.complain(&format!("PTX for {} on a chip sm_{capability}", ast.target));
            return Err(ERROR_INVALID_PTX);
        }
        Some((_, true)) if ast.version < (8, 0) => {
            let (major, minor) = ast.version;
            driver.complain(&format!(
                "PTX for {} of version {major}.{minor}, 8.0 or newer is needed",
                ast.target
            ));
            return Err(ERROR_INVALID_PTX);
        }
        Some(_) => {}
        None => return Err(ERROR_INVALID_PTX),
    }
    let memory = driver.memory_of(context)?;
    let (mut variables, mut sizes) = (HashMap::new(), HashMap::new());
    for variable in ast.variables.iter().filter(|v| v.space == Space::Global) {
        let size = variable.size.max(1) as u64;
        let address = memory.allocate(size, context).ok_or(ERROR_OUT_OF_MEMORY)?;
        variables.insert(variable.name.clone(), address);
        sizes.insert(variable.name.clone(), variable.size);
    }
    for variable in ast.variables.iter().filter(|v| v.space == Space::Global) {
        let address = variables[&variable.name];
        let mut bytes = variable.init.clone();
        bytes.resize(variable.size, 0);
        for (at, name) in &variable.addresses {
            let Some(value) = variables.get(name) else { return Err(ERROR_INVALID_PTX) };
            bytes[*at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        // SAFETY: the allocation holds `variable.size` bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.pointer(address), bytes.len()) };
        // Variables without an initialiser are zero, as the language has it.
        memory.mark(address, variable.size as u64, true);
    }
    let mut state = driver.state();
    let handle = state.handle();
    let module = Module {
        context,
        ast: Arc::new(ast),
        text: text.into(),
        variables: Arc::new(variables),
        sizes,
        functions: HashMap::new(),
    };
    state.modules.insert(handle, module);
    drop(state);
    // SAFETY: the callers' promise.
    unsafe { put(out, handle) }
}

/// `cuModuleLoadData`.
///
/// # Safety
/// `image` must be a string that ends in 0, or an ELF or fat binary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(out: *mut Handle, image: *const c_void) -> u32 {
    let _call = called("cuModuleLoadData");
    if image.is_null() {
        return ERROR_INVALID_VALUE;
    }
    // SAFETY: at least four bytes, or a string that ends earlier; read one by one.
    let head: Vec<u8> = unsafe {
        let mut head = Vec::new();
        for n in 0..4 {
            let byte = *image.cast::<u8>().add(n);
            head.push(byte);
            if byte == 0 {
                break;
            }
        }
        head
    };
    if head == b"\x7fELF" || head == 0xba55_ed50_u32.to_le_bytes() {
        return answer(load(out, &head));
    }
    // SAFETY: the caller's promise.
    answer(load(out, unsafe { CStr::from_ptr(image.cast()) }.to_bytes()))
}

/// `cuModuleLoadDataEx`; its options change nothing here.
///
/// # Safety
/// As [`cuModuleLoadData`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    out: *mut Handle,
    image: *const c_void,
    _count: c_uint,
    _options: *mut c_uint,
    _values: *mut *mut c_void,
) -> u32 {
    let _call = called("cuModuleLoadDataEx");
    // SAFETY: the caller's promise.
    unsafe { cuModuleLoadData(out, image) }
}

/// `cuModuleLoad`.
///
/// # Safety
/// `path` must be a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoad(out: *mut Handle, path: *const c_char) -> u32 {
    let _call = called("cuModuleLoad");
    // SAFETY: the caller's promise.
    let path = unsafe { CStr::from_ptr(path) }.to_string_lossy().into_owned();
    match std::fs::read(path) {
        Ok(image) => answer(load(out, &image)),
        Err(_) => ERROR_FILE_NOT_FOUND,
    }
}

/// `cuModuleUnload`.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: Handle) -> u32 {
    let _call = called("cuModuleUnload");
    answer(driver().and_then(|driver| {
        let mut state = driver.state();
        let removed = state.modules.remove(&module).ok_or(ERROR_INVALID_HANDLE)?;
        state.functions.retain(|_, f| f.module != module);
        drop(state);
        let _busy = driver.busy();
        let memory = driver.memory_of(removed.context)?;
        removed.variables.values().for_each(|&a| {
            memory.free(a);
        });
        Ok(())
    }))
}

/// `cuModuleGetFunction`. A kernel with an instruction that is not supported is refused here, by name.
///
/// # Safety
/// `out` must be writable, `name` a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(out: *mut Handle, module: Handle, name: *const c_char) -> u32 {
    let _call = called("cuModuleGetFunction");
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    answer(healthy().and_then(|(driver, context)| {
        let (ast, text, variables) = {
            let state = driver.state();
            let module = state.modules.get(&module).ok_or(ERROR_INVALID_HANDLE)?;
            if let Some(&handle) = module.functions.get(&name) {
                drop(state);
                // SAFETY: the caller's promise.
                return unsafe { put(out, handle) };
            }
            (module.ast.clone(), module.text.clone(), module.variables.clone())
        };
        if !ast.functions.iter().any(|f| f.entry && f.name == name) {
            return Err(ERROR_NOT_FOUND);
        }
        let mut kernel = lower(&ast, &variables, &name).map_err(|e| {
            driver.complain(&format!("kernel {name}: {e}"));
            ERROR_NOT_SUPPORTED
        })?;
        kernel.text = text;
        let mut state = driver.state();
        let handle = state.handle();
        let dynamic = (48 * 1024u32).saturating_sub(kernel.static_shared as u32);
        state.functions.insert(handle, Function { context, module, kernel: Arc::new(kernel), dynamic });
        if let Some(module) = state.modules.get_mut(&module) {
            module.functions.insert(name.clone(), handle);
        }
        drop(state);
        // SAFETY: the caller's promise.
        unsafe { put(out, handle) }
    }))
}

/// `cuModuleGetGlobal`.
///
/// # Safety
/// `address` and `size` must be null or writable, `name` a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetGlobal_v2(
    address: *mut u64,
    size: *mut usize,
    module: Handle,
    name: *const c_char,
) -> u32 {
    let _call = called("cuModuleGetGlobal_v2");
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    answer(healthy().and_then(|(driver, _)| {
        let state = driver.state();
        let module = state.modules.get(&module).ok_or(ERROR_INVALID_HANDLE)?;
        let at = *module.variables.get(&name).ok_or(ERROR_NOT_FOUND)?;
        // SAFETY: the caller's promise.
        unsafe {
            if !address.is_null() {
                put(address, at)?;
            }
            if !size.is_null() {
                put(size, module.sizes[&name])?;
            }
        }
        Ok(())
    }))
}

/// Registers a thread, as far as PTX tells.
pub fn registers(kernel: &Kernel) -> u32 {
    let bound = kernel.max_threads.map_or(255, |t| (65536 / t.max(1) / 8 * 8).clamp(16, 255));
    kernel.registers.min(bound)
}

/// Blocks of the kernel that one multiprocessor holds at once.
pub fn occupancy(driver: &Driver, function: &Function, threads: u32, dynamic: u32) -> u32 {
    let chip = driver.config.chip;
    let warps = threads.div_ceil(32).max(1);
    if threads == 0 || threads > 1024 {
        return 0;
    }
    let by_threads = chip.threads_sm / (warps * 32);
    let by_registers = 65536 / (registers(&function.kernel).next_multiple_of(8) * 32 * warps);
    let shared = function.kernel.static_shared as u32 + dynamic;
    let reserved = if chip.capability >= 80 { 1024 } else { 0 };
    if shared > chip.shared_block {
        return 0;
    }
    let by_shared = chip.shared_sm / (shared.next_multiple_of(128) + reserved).max(1);
    chip.blocks_sm.min(by_threads).min(by_registers).min(by_shared)
}

/// `cuFuncGetAttribute`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(out: *mut c_int, attribute: c_uint, function: Handle) -> u32 {
    let _call = called("cuFuncGetAttribute");
    answer(healthy().and_then(|(driver, _)| {
        let state = driver.state();
        let function = state.functions.get(&function).ok_or(ERROR_INVALID_HANDLE)?;
        let kernel = &function.kernel;
        let value = match attribute {
            0 => {
                let by_registers = 65536 / (registers(kernel).next_multiple_of(8) * 32) * 32;
                kernel.max_threads.unwrap_or(1024).min(by_registers)
            }
            1 => kernel.static_shared as u32,
            2 => 0,
            3 => kernel.local as u32,
            4 => registers(kernel),
            5 | 6 => driver.config.chip.capability,
            7 => 0,
            8 => function.dynamic,
            // SAFETY: the caller's promise.
            9 => return unsafe { put(out, -1) },
            _ => {
                driver.complain(&format!("cuFuncGetAttribute of attribute {attribute} is not supported"));
                return Err(ERROR_INVALID_VALUE);
            }
        };
        // SAFETY: the caller's promise.
        unsafe { put(out, value as c_int) }
    }))
}

/// `cuFuncSetAttribute`.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: Handle, attribute: c_uint, value: c_int) -> u32 {
    let _call = called("cuFuncSetAttribute");
    answer(healthy().and_then(|(driver, _)| {
        let most = driver.config.chip.shared_block;
        let mut state = driver.state();
        let function = state.functions.get_mut(&function).ok_or(ERROR_INVALID_HANDLE)?;
        match attribute {
            8 => {
                let room = most.saturating_sub(function.kernel.static_shared as u32);
                if value < 0 || value as u32 > room {
                    return Err(ERROR_INVALID_VALUE);
                }
                function.dynamic = value as u32;
                Ok(())
            }
            9 if (-1..=100).contains(&value) => Ok(()),
            _ => Err(ERROR_INVALID_VALUE),
        }
    }))
}

/// `cuFuncSetCacheConfig`: a preference, which changes nothing here.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetCacheConfig(function: Handle, _config: c_uint) -> u32 {
    let _call = called("cuFuncSetCacheConfig");
    answer(healthy().and_then(|(driver, _)| {
        driver.state().functions.get(&function).map(|_| ()).ok_or(ERROR_INVALID_HANDLE)
    }))
}

/// `cuOccupancyMaxActiveBlocksPerMultiprocessor`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    out: *mut c_int,
    function: Handle,
    threads: c_int,
    dynamic: usize,
) -> u32 {
    let _call = called("cuOccupancyMaxActiveBlocksPerMultiprocessor");
    // SAFETY: the caller's promise.
    unsafe { cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(out, function, threads, dynamic, 0) }
}

/// `cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    out: *mut c_int,
    function: Handle,
    threads: c_int,
    dynamic: usize,
    _flags: c_uint,
) -> u32 {
    let _call = called("cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags");
    answer(healthy().and_then(|(driver, _)| {
        let state = driver.state();
        let function = state.functions.get(&function).ok_or(ERROR_INVALID_HANDLE)?;
        if threads <= 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        let blocks = occupancy(driver, function, threads as u32, dynamic as u32);
        // SAFETY: the caller's promise.
        unsafe { put(out, blocks as c_int) }
    }))
}

/// `cuOccupancyMaxPotentialBlockSize`, without a function of the block's size.
///
/// # Safety
/// Both results must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxPotentialBlockSize(
    grid: *mut c_int,
    block: *mut c_int,
    function: Handle,
    by_size: Option<extern "C" fn(c_int) -> usize>,
    dynamic: usize,
    limit: c_int,
) -> u32 {
    let _call = called("cuOccupancyMaxPotentialBlockSize");
    answer(healthy().and_then(|(driver, _)| {
        let state = driver.state();
        let function = state.functions.get(&function).ok_or(ERROR_INVALID_HANDLE)?;
        let most = function.kernel.max_threads.unwrap_or(1024).min(1024);
        let most = if limit > 0 { most.min(limit as u32) } else { most };
        let (mut best, mut size) = (0, 0);
        for threads in (32..=most).step_by(32) {
            let bytes = by_size.map_or(dynamic, |f| f(threads as c_int));
            let active = occupancy(driver, function, threads, bytes as u32) * threads;
            if active >= best {
                (best, size) = (active, threads);
            }
        }
        let blocks = best.checked_div(size).unwrap_or(0) * driver.config.chip.sms;
        // SAFETY: the caller's promise.
        unsafe {
            put(grid, blocks as c_int)?;
            put(block, size as c_int)
        }
    }))
}

/// `cuOccupancyAvailableDynamicSMemPerBlock`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    out: *mut usize,
    function: Handle,
    blocks: c_int,
    _threads: c_int,
) -> u32 {
    let _call = called("cuOccupancyAvailableDynamicSMemPerBlock");
    answer(healthy().and_then(|(driver, _)| {
        let state = driver.state();
        let function = state.functions.get(&function).ok_or(ERROR_INVALID_HANDLE)?;
        if blocks <= 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        let chip = driver.config.chip;
        let each = (chip.shared_sm / blocks as u32).saturating_sub(1024).min(chip.shared_block);
        let left = each.saturating_sub(function.kernel.static_shared as u32);
        // SAFETY: the caller's promise.
        unsafe { put(out, left as usize) }
    }))
}
