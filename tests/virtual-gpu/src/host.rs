//! For tests: finding the library, loading it, and asking what only it can say.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, c_char, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The library as cargo built it, beside the running test or program.
fn built() -> io::Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let places = exe.ancestors().skip(1).take(3).flat_map(|p| [p.to_owned(), p.join("deps")]);
    for place in places {
        let exact = place.join("libvirtual_gpu.so");
        if exact.is_file() {
            return Ok(exact);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no libvirtual_gpu.so near {}", exe.display())))
}

/// A folder that holds the driver under the names `libcuda.so` and `libcuda.so.1`, for `LD_LIBRARY_PATH`.
///
/// # Errors
/// The library was not built, or the folder can't be written.
pub fn directory() -> io::Result<PathBuf> {
    let built = built()?;
    let folder = built.parent().unwrap_or(Path::new(".")).join("virtual-gpu");
    std::fs::create_dir_all(&folder)?;
    for name in ["libcuda.so", "libcuda.so.1"] {
        let link = folder.join(name);
        if std::fs::read_link(&link).ok().as_deref() != Some(&*built) {
            // Tests run side by side: the link appears whole or not at all.
            let fresh = folder.join(format!(".{name}.{}", std::process::id()));
            let _ = std::fs::remove_file(&fresh);
            std::os::unix::fs::symlink(&built, &fresh)?;
            std::fs::rename(&fresh, &link)?;
        }
    }
    Ok(folder)
}

struct Library(*mut c_void);

// SAFETY: a handle of the dynamic linker may be used from any thread.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

static LIBRARY: OnceLock<Library> = OnceLock::new();

/// Loads the driver into this process, so that a later look for `libcuda.so` finds it. May be called often.
///
/// # Errors
/// The library was not built, or the dynamic linker refuses it.
pub fn load() -> io::Result<PathBuf> {
    let folder = directory()?;
    if LIBRARY.get().is_some() {
        return Ok(folder);
    }
    let path = CString::new(folder.join("libcuda.so").as_os_str().as_bytes())?;
    // SAFETY: a path that ends in 0; the library's start-up code is Rust's own.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() {
        return Err(io::Error::other(format!("the dynamic linker refuses {}", path.to_string_lossy())));
    }
    let _ = LIBRARY.set(Library(handle));
    Ok(folder)
}

/// The address of one of the library's own calls.
fn call(name: &str) -> Option<*mut c_void> {
    let library = LIBRARY.get()?;
    let name = CString::new(name).ok()?;
    // SAFETY: the handle stays open; the name ends in 0.
    let at = unsafe { libc::dlsym(library.0, name.as_ptr()) };
    (!at.is_null()).then_some(at)
}

fn words(name: &str) -> String {
    let Some(at) = call(name) else { return String::new() };
    // SAFETY: both calls of this kind have this type.
    let f: unsafe extern "C" fn(*mut c_char, usize) -> usize = unsafe { std::mem::transmute(at) };
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        // SAFETY: the buffer is as long as we say.
        let length = unsafe { f(buffer.as_mut_ptr().cast(), buffer.len()) };
        if length < buffer.len() {
            buffer.truncate(length);
            return String::from_utf8_lossy(&buffer).into_owned();
        }
        buffer.resize(2 * length, 0);
    }
}

/// The words of the last error.
pub fn last_error() -> String {
    words("virtual_gpu_last_error")
}

/// The counts of the last launch by the names of [`crate::counters::COLUMNS`].
pub fn counts() -> HashMap<String, f64> {
    table(&words("virtual_gpu_last_launch")).pop().map(|launch| launch.counts).unwrap_or_default()
}

/// One launch that ended well.
#[derive(Clone, Debug)]
pub struct Launched {
    /// The kernel's name.
    pub kernel: String,
    /// Blocks, those along y and z counted.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory of a block.
    pub shared: u32,
    /// Counts by the names of [`crate::counters::COLUMNS`].
    pub counts: HashMap<String, f64>,
}

impl Launched {
    /// The launch with so many blocks that count what these count on average.
    #[must_use]
    pub fn with_blocks(&self, blocks: u32) -> Launched {
        let more = |name: &str| {
            if name.starts_with("most_") { 1.0 } else { f64::from(blocks) / f64::from(self.blocks) }
        };
        let counts = self.counts.iter().map(|(name, count)| (name.clone(), count * more(name))).collect();
        Launched { blocks, counts, ..self.clone() }
    }

    /// The launch if its blocks went on `turns` times longer, by what `next` counts beside it that goes on once.
    #[must_use]
    pub fn continued(&self, next: &Launched, turns: usize) -> Launched {
        let longer = |(name, count): (&String, &f64)| {
            (name.clone(), count + turns as f64 * (next.counts[name] - count))
        };
        Launched { counts: self.counts.iter().map(longer).collect(), ..self.clone() }
    }
}

/// All launches that ended well since this was last called, in their order.
pub fn launches() -> Vec<Launched> {
    table(&words("virtual_gpu_launches"))
}

/// The rows of a table of launches.
fn table(text: &str) -> Vec<Launched> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    let launched = |line: &str| {
        let values: Vec<&str> = line.split('\t').collect();
        let pairs = names.iter().zip(&values);
        // `2x3x1`, or one number.
        let product = |column: usize| {
            values
                .get(column)
                .map_or(0, |sizes| sizes.split('x').filter_map(|n| n.parse::<u32>().ok()).product())
        };
        Launched {
            kernel: values[0].to_owned(),
            blocks: product(1),
            threads: product(2),
            shared: product(3),
            counts: pairs.filter_map(|(n, v)| Some(((*n).to_owned(), v.parse().ok()?))).collect(),
        }
    };
    lines.filter(|line| !line.is_empty()).map(launched).collect()
}

/// The program's calls of the driver since this was asked last, by name: how often each was made, failed ones
/// included. `cudarc` makes `cuCtxGetCurrent` and `cuCtxSetCurrent` before most others. Nodes of a graph are
/// no calls: a replay is one `cuGraphLaunch`.
pub fn calls() -> BTreeMap<String, u64> {
    let text = words("virtual_gpu_calls");
    let pairs = text.lines().filter_map(|line| line.split_once('\t'));
    pairs.filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?))).collect()
}

/// Allocations of device memory that are alive.
pub fn allocations() -> usize {
    let Some(at) = call("virtual_gpu_allocations") else { return 0 };
    // SAFETY: the call has this type.
    let f: extern "C" fn() -> usize = unsafe { std::mem::transmute(at) };
    f()
}

/// Sets `seed`, `strict_float` or `timeout` (in milliseconds) of the loaded driver; `false` for another name.
pub fn set(name: &str, value: u64) -> bool {
    let (Some(at), Ok(name)) = (call("virtual_gpu_set"), CString::new(name)) else { return false };
    // SAFETY: the call has this type.
    let f: unsafe extern "C" fn(*const c_char, u64) -> u32 = unsafe { std::mem::transmute(at) };
    // SAFETY: the name ends in 0.
    unsafe { f(name.as_ptr(), value) == 0 }
}
