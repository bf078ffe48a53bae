//! A launch: its blocks over the threads of this machine.

use super::block::Block;
use super::global::Global;
use super::{Fault, Step};
use crate::counters::Counters;
use crate::ptx::ir::{Kernel, Op};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a strong write leaves for those that read it.
#[derive(Clone)]
pub struct Told {
    /// The warp that wrote, among all of the launch; `u32::MAX` for several.
    pub by: u32,
    /// What it knew of all warps of the launch.
    pub times: Arc<Vec<u32>>,
}

/// A kernel with its arguments and its sizes.
pub struct Launch<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Device memory.
    pub memory: &'a Global,
    /// The context whose memory may be touched.
    pub context: u64,
    /// Arguments, as the kernel lays them out.
    pub params: &'a [u8],
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads a block.
    pub block: [u32; 3],
    /// Shared memory of a block in bytes.
    pub shared_size: usize,
    /// Where in it the dynamic part begins.
    pub dynamic_offset: usize,
    /// The launch's number in the shadow of memory.
    pub epoch: u16,
    /// The launch before in the stream, if this one may begin before it has ended.
    pub before: Option<u16>,
    /// Whether all blocks live at once.
    pub cooperative: bool,
    /// Multiprocessors of the chip.
    pub sms: u32,
    /// For the shuffle of blocks and warps; 0 keeps their order.
    pub seed: u64,
    /// Threads of this machine to use.
    pub threads_used: usize,
    /// How long it may take.
    pub limit: Duration,
    /// Whether blocks can tell each other anything: the kernel has fences, releases or acquires.
    pub tells: bool,
    /// What warps told each other through which address.
    pub told: Mutex<HashMap<u64, Told>>,
}

impl Launch<'_> {
    /// Threads in a block.
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// Blocks in the grid.
    pub fn blocks(&self) -> u32 {
        self.grid.iter().product()
    }

    /// Whether a kernel has what orders memory between blocks.
    pub fn kernel_tells(kernel: &Kernel) -> bool {
        use crate::ptx::ir::Order::{Acquire, AcquireRelease, Release};
        kernel.code.iter().any(|c| match &c.op {
            Op::Fence => true,
            Op::Load { order, .. } | Op::Store { order, .. } | Op::Atomic { order, .. } => {
                matches!(order, Acquire | Release | AcquireRelease)
            }
            _ => false,
        })
    }

    /// Runs all blocks; the counts, or what went wrong first.
    pub fn run(&self) -> Result<Counters, Fault> {
        let count = self.blocks();
        let workers = if self.kernel.ordered { 1 } else { self.threads_used.clamp(1, count as usize) };
        let mut order: Vec<u32> = Vec::new();
        if self.seed != 0 {
            order = (0..count).collect();
            let mut x = self.seed | 1;
            for i in (1..order.len()).rev() {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                order.swap(i, (x % (i as u64 + 1)) as usize);
            }
        }
        let next = AtomicU32::new(0);
        let stop = AtomicBool::new(false);
        let deadline = Instant::now() + self.limit;
        let work = |worker: usize| -> Step<Counters> {
            let result = if self.cooperative {
                self.together(worker, workers, &stop, deadline)
            } else {
                self.one_by_one(&order, &next, &stop, deadline)
            };
            if result.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            result
        };
        let mut total = Counters::default();
        let results: Vec<Step<Counters>> = if workers == 1 {
            vec![work(0)]
        } else {
            std::thread::scope(|scope| {
                let work = &work;
                let handles: Vec<_> = (0..workers).map(|w| scope.spawn(move || work(w))).collect();
                handles
                    .into_iter()
                    .map(|h| {
                        h.join().unwrap_or_else(|_| {
                            let text = format!("kernel {}: the virtual GPU itself failed", self.kernel.name);
                            Err(Box::new(Fault { code: 999, text }))
                        })
                    })
                    .collect()
            })
        };
        for result in results {
            total.add(&result.map_err(|f| *f)?);
        }
        Ok(total)
    }

    fn late(&self, block: &Block<'_>) -> Box<Fault> {
        let warp = block.warps.iter().find(|w| w.state == super::warp::State::Ready);
        let line = warp.map_or(0, |w| self.kernel.code[w.pc as usize].line);
        let thread = warp.map(|w| (w.index * 32) as u32 + w.mask.trailing_zeros() % 32);
        block.fault_at(
            702,
            line,
            thread,
            format!(
                "still running after {:?}: a loop that does not end, or blocks that wait for each other",
                self.limit
            ),
        )
    }

    fn one_by_one(
        &self,
        order: &[u32],
        next: &AtomicU32,
        stop: &AtomicBool,
        deadline: Instant,
    ) -> Step<Counters> {
        let mut block = Block::new(self);
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= self.blocks() || stop.load(Ordering::Relaxed) {
                return Ok(block.counters);
            }
            block.begin(order.get(index as usize).copied().unwrap_or(index));
            let mut rounds = 0u32;
            while !block.round(100_000)? {
                rounds += 1;
                if rounds.is_multiple_of(16) {
                    if stop.load(Ordering::Relaxed) {
                        return Ok(block.counters);
                    }
                    if Instant::now() > deadline {
                        return Err(self.late(&block));
                    }
                }
            }
        }
    }

    /// All blocks of a worker at once, a turn each.
    fn together(
        &self,
        worker: usize,
        workers: usize,
        stop: &AtomicBool,
        deadline: Instant,
    ) -> Step<Counters> {
        let mut blocks: Vec<Block<'_>> = (worker as u32..self.blocks())
            .step_by(workers)
            .map(|number| {
                let mut block = Block::new(self);
                block.begin(number);
                block
            })
            .collect();
        let mut total = Counters::default();
        let mut random = self.seed | 1;
        while !blocks.is_empty() {
            let mut at = 0;
            while at < blocks.len() {
                if self.seed != 0 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let other = at + (random % (blocks.len() - at) as u64) as usize;
                    blocks.swap(at, other);
                }
                if blocks[at].round(4000)? {
                    total.add(&blocks[at].counters);
                    blocks.swap_remove(at);
                } else {
                    at += 1;
                }
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
            if let Some(block) = blocks.first()
                && Instant::now() > deadline
            {
                return Err(self.late(block));
            }
        }
        Ok(total)
    }
}
