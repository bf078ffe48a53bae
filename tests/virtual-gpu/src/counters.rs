//! What a launch did, counted.

use std::fmt::Write as _;

/// Counts of one launch, or of a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Instructions of warps.
    pub instructions: u64,
    /// The same, times the lanes that took part.
    pub lane_instructions: u64,
    /// `mma.sync` operations of m16n8k16; one of m16n8k8 counts half, so this counts halves.
    pub mma_halves: u64,
    /// Special functions of lanes: `tanh`, `ex2`, `rcp`, `lg2`, `sqrt`, `sin`, `cos`.
    pub special: u64,
    /// Reads and writes of the shared memory's banks.
    pub wavefronts: u64,
    /// The same at best.
    pub wavefronts_ideal: u64,
    /// Sectors of 32 bytes of device memory.
    pub sectors: u64,
    /// The same at best.
    pub sectors_ideal: u64,
    /// Bytes asked of device memory by loads and asynchronous copies.
    pub bytes_read: u64,
    /// Bytes written to device memory.
    pub bytes_written: u64,
    /// Barriers of blocks that warps passed.
    pub barriers: u64,
    /// Waits of warps for asynchronous copies.
    pub copy_waits: u64,
    /// Atomic operations of lanes.
    pub atomics: u64,
    /// Bytes of local memory read and written.
    pub local: u64,
    /// Instructions of the warp that has most.
    pub most_instructions: u64,
    /// Waits for device memory of the warp that has most, as few as a compiler can make of its loads.
    pub most_trips: u64,
    /// Products of 16 by 8 by 16 of `wgmma`: a warp's quarter of one of 64 by N by 16 is N / 8.
    pub wgmma: u64,
    /// Waits of warps for them.
    pub wgmma_waits: u64,
}

/// The names of the columns, in the order of [`Counters::row`].
pub const COLUMNS: [&str; 18] = [
    "instructions",
    "lane_instructions",
    "mma",
    "special",
    "wavefronts",
    "wavefronts_ideal",
    "sectors",
    "sectors_ideal",
    "bytes_read",
    "bytes_written",
    "barriers",
    "copy_waits",
    "atomics",
    "local_bytes",
    "most_instructions",
    "most_trips",
    "wgmma",
    "wgmma_waits",
];

impl Counters {
    /// Adds another part.
    pub fn add(&mut self, other: &Counters) {
        self.instructions += other.instructions;
        self.lane_instructions += other.lane_instructions;
        self.mma_halves += other.mma_halves;
        self.special += other.special;
        self.wavefronts += other.wavefronts;
        self.wavefronts_ideal += other.wavefronts_ideal;
        self.sectors += other.sectors;
        self.sectors_ideal += other.sectors_ideal;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.barriers += other.barriers;
        self.copy_waits += other.copy_waits;
        self.atomics += other.atomics;
        self.local += other.local;
        self.most_instructions = self.most_instructions.max(other.most_instructions);
        self.most_trips = self.most_trips.max(other.most_trips);
        self.wgmma += other.wgmma;
        self.wgmma_waits += other.wgmma_waits;
    }

    /// The counts in the order of [`COLUMNS`], separated by tabs.
    pub fn row(&self) -> String {
        let mut out = String::new();
        let mma = self.mma_halves as f64 / 2.0;
        let _ = write!(out, "{}\t{}\t{mma}", self.instructions, self.lane_instructions);
        for v in [
            self.special,
            self.wavefronts,
            self.wavefronts_ideal,
            self.sectors,
            self.sectors_ideal,
            self.bytes_read,
            self.bytes_written,
            self.barriers,
            self.copy_waits,
            self.atomics,
            self.local,
            self.most_instructions,
            self.most_trips,
            self.wgmma,
            self.wgmma_waits,
        ] {
            let _ = write!(out, "\t{v}");
        }
        out
    }
}
