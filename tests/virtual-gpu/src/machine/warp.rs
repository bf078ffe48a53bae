//! A warp's state: registers, lanes that parted, copies under way.

use super::alu::{L32, Planes};
use super::shared::Clocks;
use super::wgmma::Products;
use crate::ptx::ir::{Kernel, Special};
use std::sync::Arc;

/// Lanes at the same place.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// Where.
    pub pc: u32,
    /// Which.
    pub mask: u32,
    /// Whether they wait for others of the warp.
    pub parked: bool,
}

/// What a warp is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It can go on.
    #[default]
    Ready,
    /// It waits at the barrier.
    Waiting(u32),
    /// It has ended.
    Done,
}

/// Asynchronous copies that one instruction began, a lane each.
pub struct Copy {
    /// Lanes whose copy is still under way.
    pub mask: u32,
    /// The group that each lane's copy belongs to.
    pub group: L32,
    /// Where each goes, an offset in shared memory.
    pub to: L32,
    /// Bytes a lane.
    pub size: usize,
    /// The bytes.
    pub data: Box<[[u8; 16]; 32]>,
}

/// A warp.
#[derive(Default)]
pub struct Warp {
    /// Its number in the block.
    pub index: usize,
    /// Registers.
    pub planes: Planes,
    /// Lanes for which tracked registers are defined.
    pub defined: Vec<u32>,
    /// Where the running lanes are.
    pub pc: u32,
    /// The running lanes.
    pub mask: u32,
    /// Lanes elsewhere.
    pub rest: Vec<Group>,
    /// Lanes that exist.
    pub lanes: u32,
    /// Lanes that have ended.
    pub exited: u32,
    /// What it is doing.
    pub state: State,
    /// Instructions that it ran.
    pub instructions: u64,
    /// Waits for device memory among them.
    pub trips: u64,
    /// Times that it knows.
    pub clocks: Option<Clocks>,
    /// Copies under way.
    pub copies: Vec<Copy>,
    /// The group that each lane's next copy belongs to.
    pub groups: L32,
    /// Local memory, a lane after another.
    pub local: Vec<u8>,
    /// Which of its bytes were written.
    pub local_written: Vec<bool>,
    /// What it knows of all warps of the launch, block after block; empty if nothing.
    pub far: Arc<Vec<u32>>,
    /// The launch before, while it may still run: until `griddepcontrol.wait`.
    pub early: Option<u16>,
    /// What it knew at its last fence.
    pub fenced: Option<Arc<Vec<u32>>>,
    /// What it read of others since its last fence.
    pub heard: Vec<u32>,
    /// The address and the value that it read last of memory that others write, and how often in a row.
    pub watched: (u64, u32, u32),
    /// Its products of warpgroups.
    pub products: Products,
    /// Buffers of copies, kept for the next ones.
    pub spare: Vec<Copy>,
}

/// What fills a warp's special slots.
pub struct Frame {
    /// Grid in blocks.
    pub grid: [u32; 3],
    /// Block in threads.
    pub block: [u32; 3],
    /// The block's place in the grid.
    pub at: [u32; 3],
    /// Address of the dynamic shared memory.
    pub dynamic: u32,
    /// Its size.
    pub dynamic_size: u32,
    /// Shared memory in all.
    pub shared: u32,
    /// Multiprocessors.
    pub sms: u32,
    /// A number for `%smid`.
    pub sm: u32,
}

impl Warp {
    /// Makes it ready for a block.
    pub fn begin(&mut self, kernel: &Kernel, frame: &Frame, index: usize, warps: usize) {
        let threads = frame.block.iter().product::<u32>();
        self.index = index;
        let fresh = self.planes.r32.len() != kernel.planes[0] as usize;
        if fresh {
            self.planes.r32 = vec![[0; 32]; kernel.planes[0] as usize];
            self.planes.r64 = vec![[0; 32]; kernel.planes[1] as usize];
            self.planes.pred = vec![0; kernel.planes[2] as usize];
            for &(slot, value) in &kernel.constants32 {
                self.planes.r32[slot as usize] = [value; 32];
            }
            for &(slot, value) in &kernel.constants64 {
                self.planes.r64[slot as usize] = [value; 32];
            }
            self.local = vec![0xcd; kernel.local * 32];
        }
        self.defined.clear();
        self.defined.resize(kernel.tracked as usize, 0);
        for &t in &kernel.defined_from_start {
            self.defined[t as usize] = u32::MAX;
        }
        self.local_written.clear();
        self.local_written.resize(kernel.local * 32, false);
        let first = index as u32 * 32;
        let lanes = threads.saturating_sub(first).min(32);
        self.lanes = if lanes == 32 { u32::MAX } else { (1 << lanes) - 1 };
        (self.pc, self.mask, self.exited) = (0, self.lanes, 0);
        self.rest.clear();
        self.state = State::Ready;
        (self.instructions, self.trips) = (0, 0);
        self.clocks = Some(Clocks::new(warps, index));
        self.spare.append(&mut self.copies);
        self.groups = [0; 32];
        self.far = Arc::default();
        self.fenced = None;
        self.heard.clear();
        self.watched = (0, 0, 0);
        self.products.begin(kernel);
        for &(slot, special) in &kernel.specials {
            self.planes.r32[slot as usize] =
                std::array::from_fn(|lane| special_value(special, frame, first + lane as u32, lane as u32));
        }
    }
}

fn special_value(special: Special, f: &Frame, thread: u32, lane: u32) -> u32 {
    match special {
        Special::Tid(axis) => coordinates(thread, f.block)[axis as usize],
        Special::Ntid(axis) => f.block[axis as usize],
        Special::Ctaid(axis) => f.at[axis as usize],
        Special::Nctaid(axis) => f.grid[axis as usize],
        Special::Lane => lane,
        Special::Warp => thread / 32,
        Special::Nwarp => f.block.iter().product::<u32>().div_ceil(32),
        Special::Smid => f.sm,
        Special::Nsmid => f.sms,
        Special::Gridid | Special::Zero => 0,
        Special::LaneMask(0) => 1 << lane,
        Special::LaneMask(1) => (1 << lane) - 1,
        Special::LaneMask(2) => u32::MAX >> (31 - lane),
        Special::LaneMask(3) => u32::MAX << lane & !(1 << lane),
        Special::LaneMask(_) => u32::MAX << lane,
        Special::DynamicShared => f.dynamic_size,
        Special::DynamicBase => f.dynamic,
        Special::TotalShared => f.shared,
    }
}

/// The three coordinates of a linear number.
pub fn coordinates(linear: u32, size: [u32; 3]) -> [u32; 3] {
    [linear % size[0], linear / size[0] % size[1], linear / size[0] / size[1]]
}
