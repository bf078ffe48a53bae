//! What the environment says about the device.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a chip has.
#[derive(Clone, Copy, Debug)]
pub struct Chip {
    /// Compute capability, 80 for 8.0.
    pub capability: u32,
    /// Multiprocessors.
    pub sms: u32,
    /// Shared memory of one block at most, asked for by attribute.
    pub shared_block: u32,
    /// Shared memory of one multiprocessor.
    pub shared_sm: u32,
    /// Threads of one multiprocessor.
    pub threads_sm: u32,
    /// Blocks of one multiprocessor.
    pub blocks_sm: u32,
    /// Bytes of second-level cache.
    pub l2: u32,
}

const KIB: u32 = 1024;

const CHIPS: [Chip; 8] = [
    Chip {
        capability: 70,
        sms: 80,
        shared_block: 96 * KIB,
        shared_sm: 96 * KIB,
        threads_sm: 2048,
        blocks_sm: 32,
        l2: 6144 * KIB,
    },
    Chip {
        capability: 75,
        sms: 40,
        shared_block: 64 * KIB,
        shared_sm: 64 * KIB,
        threads_sm: 1024,
        blocks_sm: 16,
        l2: 4096 * KIB,
    },
    Chip {
        capability: 80,
        sms: 108,
        shared_block: 163 * KIB,
        shared_sm: 164 * KIB,
        threads_sm: 2048,
        blocks_sm: 32,
        l2: 40 * 1024 * KIB,
    },
    Chip {
        capability: 86,
        sms: 84,
        shared_block: 99 * KIB,
        shared_sm: 100 * KIB,
        threads_sm: 1536,
        blocks_sm: 16,
        l2: 6144 * KIB,
    },
    Chip {
        capability: 89,
        sms: 128,
        shared_block: 99 * KIB,
        shared_sm: 100 * KIB,
        threads_sm: 1536,
        blocks_sm: 24,
        l2: 72 * 1024 * KIB,
    },
    Chip {
        capability: 90,
        sms: 132,
        shared_block: 227 * KIB,
        shared_sm: 228 * KIB,
        threads_sm: 2048,
        blocks_sm: 32,
        l2: 50 * 1024 * KIB,
    },
    Chip {
        capability: 100,
        sms: 148,
        shared_block: 227 * KIB,
        shared_sm: 228 * KIB,
        threads_sm: 2048,
        blocks_sm: 32,
        l2: 126 * 1024 * KIB,
    },
    Chip {
        capability: 120,
        sms: 170,
        shared_block: 99 * KIB,
        shared_sm: 100 * KIB,
        threads_sm: 1536,
        blocks_sm: 24,
        l2: 96 * 1024 * KIB,
    },
];

/// The settings of this process.
pub struct Config {
    /// The chip.
    pub chip: Chip,
    /// Bytes of memory of each device.
    pub memory: u64,
    /// Devices.
    pub count: u32,
    /// What `cuDriverGetVersion` answers.
    pub driver: u32,
    /// Threads to run blocks on.
    pub threads: usize,
    /// How long a launch may take, in milliseconds; may change while the process runs.
    pub limit: AtomicU64,
    /// Seed of the shuffle, 0 for none; may change while the process runs.
    pub seed: AtomicU64,
    /// Whether multiplications and additions that a compiler may contract are errors.
    pub strict_float: AtomicBool,
}

/// The value of a setting; one that can't be read ends the program, which would test something else than meant.
fn read<T>(name: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    let text = std::env::var(format!("PR_LSTM_VIRTUAL_GPU_{name}")).ok().filter(|t| !t.is_empty())?;
    Some(parse(&text).unwrap_or_else(|| panic!("PR_LSTM_VIRTUAL_GPU_{name}: '{text}' is not understood")))
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.trim().parse().ok()
}

/// A size such as `4096`, `64M` or `8G`.
fn size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.trim().to_ascii_uppercase().as_str() {
        t if t.ends_with('G') => (t[..t.len() - 1].to_owned(), 1 << 30),
        t if t.ends_with('M') => (t[..t.len() - 1].to_owned(), 1 << 20),
        t if t.ends_with('K') => (t[..t.len() - 1].to_owned(), 1 << 10),
        t => (t.to_owned(), 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

impl Config {
    /// Reads the environment; a chip that is not known becomes the next lower one with its own number.
    pub fn from_environment() -> Config {
        let capability = read("CHIP", |t| t.strip_prefix("sm_").and_then(number)).unwrap_or(80);
        let mut chip = CHIPS[0];
        for known in CHIPS {
            if known.capability <= capability {
                chip = known;
            }
        }
        chip.capability = capability;
        chip.sms = read("SMS", number).unwrap_or(chip.sms).max(1);
        let memory = read("MEMORY", size).unwrap_or(4 << 30);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Config {
            chip,
            memory,
            count: read("COUNT", number).unwrap_or(1),
            driver: read("DRIVER", number).unwrap_or(13000),
            threads: read("THREADS", number).unwrap_or(cores),
            limit: AtomicU64::new(read("TIMEOUT", number).unwrap_or(120u64).saturating_mul(1000)),
            seed: AtomicU64::new(read("SEED", number).unwrap_or(0)),
            strict_float: AtomicBool::new(read("STRICT_FLOAT", number).unwrap_or(0u32) != 0),
        }
    }

    /// The newest PTX that the driver's version reads.
    pub fn ptx(&self) -> (u32, u32) {
        let (major, minor) = (self.driver / 1000, self.driver % 1000 / 10);
        match major {
            0..=10 => (6, 5),
            11 => (7, minor),
            12 => match minor {
                0..=5 => (8, minor),
                6 => (8, 5),
                7 => (8, 6),
                8 => (8, 7),
                _ => (8, 8),
            },
            major => (major - 4, minor),
        }
    }

    /// The seed now.
    pub fn seed(&self) -> u64 {
        self.seed.load(Ordering::Relaxed)
    }
}
