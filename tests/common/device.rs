//! The device of the CUDA suite: the virtual GPU, or with `PR_LSTM_TEST_GPU=real` the machine's own. One test has it at
//! a time; what only the virtual driver can tell is left out on a card.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pr_lstm::backend::Backend as _;
use pr_lstm::cuda::{Cuda, F32Path};
use pr_lstm::reference::{round_bf16, round_f16};
use pr_lstm::{Dtype, Error};
use virtual_gpu::Launched;

/// How a state and a weight are kept: a path of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    Bf16,
    F16,
    /// f32 as three planes of bf16, on tensor cores.
    Split,
    /// f32 by multiply and add.
    Ffma,
}

impl Storage {
    pub const ALL: [Storage; 4] = [Storage::Bf16, Storage::F16, Storage::Split, Storage::Ffma];
    /// Every way, in every tile.
    pub const TILES: [(Storage, usize); 10] = [
        (Storage::Bf16, 32),
        (Storage::Bf16, 64),
        (Storage::Bf16, 128),
        (Storage::F16, 32),
        (Storage::F16, 64),
        (Storage::F16, 128),
        (Storage::Split, 32),
        (Storage::Split, 64),
        (Storage::Ffma, 32),
        (Storage::Ffma, 64),
    ];

    /// Those that models can be trained in.
    pub const TRAINED: [Storage; 3] = [Storage::Bf16, Storage::Split, Storage::Ffma];

    /// What storing does to a number.
    pub fn round(self) -> fn(f64) -> f64 {
        match self {
            Storage::Bf16 => round_bf16,
            Storage::F16 => round_f16,
            // What is given is f32, and what rounding h to it does is within the tolerance.
            Storage::Split | Storage::Ffma => |x| x,
        }
    }

    /// The relative error of a value at the worst position of time, at most (DESIGN, section 5).
    pub fn tolerance(self) -> f64 {
        match self {
            Storage::Bf16 => 2e-2,
            Storage::F16 => 5e-3,
            Storage::Split | Storage::Ffma => 1e-4,
        }
    }

    /// The relative error in norm of the gradient of a parameter, at most: [`Tolerances::cuda`] says why.
    ///
    /// [`Tolerances::cuda`]: pr_lstm::verify::Tolerances::cuda
    pub fn gradient_tolerance(self) -> f64 {
        match self {
            Storage::Bf16 => 5e-2,
            _ => self.tolerance(),
        }
    }

    /// Bits of a whole number that it keeps exactly.
    pub fn bits(self) -> u32 {
        match self {
            Storage::Bf16 => 8,
            Storage::F16 => 11,
            Storage::Split | Storage::Ffma => 24,
        }
    }
}

/// The device, taken by one test. When it is given back every allocation must be gone.
pub struct Device {
    real: bool,
    _alone: MutexGuard<'static, ()>,
}

impl Device {
    /// Waits until no other test has it.
    pub fn take() -> Device {
        static ONE: Mutex<()> = Mutex::new(());
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let real = std::env::var("PR_LSTM_TEST_GPU").is_ok_and(|value| value == "real");
        if !real {
            virtual_gpu::load().expect("the virtual GPU was built with the tests");
        }
        let device = Device { real, _alone: alone };
        device.launches();
        device.calls();
        device
    }

    /// A handle of its own, with this way to keep numbers.
    pub fn backend(&self, storage: Storage) -> Cuda {
        let cuda = Cuda::new(0).expect("a device");
        match storage {
            Storage::Bf16 => cuda.with_dtype(Dtype::Bf16),
            Storage::F16 => cuda.with_dtype(Dtype::F16),
            Storage::Split => cuda.with_f32_path(F32Path::Split),
            Storage::Ffma => cuda.with_f32_path(F32Path::Ffma),
        }
        .expect("kernels")
    }

    /// The same with every layer in tiles of so many rows; none, and a word, where the chip has too little shared memory.
    pub fn tiled(&self, storage: Storage, tile: usize) -> Option<Cuda> {
        match self.backend(storage).with_tile(tile) {
            Err(error @ Error::Unavailable { .. }) => {
                println!("left out: {error}");
                None
            }
            cuda => Some(cuda.expect("a tile")),
        }
    }

    /// Whether the driver tells of launches and counts them; says so where it does not.
    pub fn is_virtual(&self) -> bool {
        if self.real {
            println!("on a card: what only the virtual driver can tell is left out");
        }
        !self.real
    }

    /// Launches since this was last asked; none on a card.
    pub fn launches(&self) -> Vec<Launched> {
        if self.real { Vec::new() } else { virtual_gpu::launches() }
    }

    /// Blocks of the launches of kernels whose name begins so, since launches were last asked for. On a card 0.
    pub fn blocks(&self, kernel: &str) -> u64 {
        let of_kernel = |launch: &Launched| launch.kernel.starts_with(kernel);
        self.launches().iter().filter(|launch| of_kernel(launch)).map(|launch| u64::from(launch.blocks)).sum()
    }

    /// Calls of the driver since this was last asked, by name; none on a card.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        if self.real { BTreeMap::new() } else { virtual_gpu::calls() }
    }

    /// Runs something with blocks and warps in an order drawn from a seed. On a card just runs it.
    pub fn shuffled<T>(&self, seed: u64, run: impl FnOnce() -> T) -> T {
        self.with("seed", seed, run)
    }

    /// Runs something while a kernel with a bare product or sum is refused. On a card just runs it.
    pub fn strict<T>(&self, run: impl FnOnce() -> T) -> T {
        self.with("strict_float", 1, run)
    }

    fn with<T>(&self, setting: &'static str, value: u64, run: impl FnOnce() -> T) -> T {
        /// Sets it back even where the test fails.
        struct Restore(&'static str);
        impl Drop for Restore {
            fn drop(&mut self) {
                virtual_gpu::set(self.0, 0);
            }
        }
        if self.real {
            return run();
        }
        assert!(virtual_gpu::set(setting, value), "the virtual GPU has no {setting}");
        let _restore = Restore(setting);
        run()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !self.real && !std::thread::panicking() {
            assert_eq!(virtual_gpu::allocations(), 0, "allocations were not freed");
        }
    }
}
