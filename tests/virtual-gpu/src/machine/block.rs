//! A block: its warps in turn, its barriers, and what it says when something is wrong.

use super::global::Allocation;
use super::launch::Launch;
use super::order;
use super::shared::Shared;
use super::warp::{Frame, State, Warp, coordinates};
use super::wgmma::Begun;
use super::{Fault, Step};
use crate::counters::Counters;
use crate::ptx::ir::{BarKind, Op};
use crate::ptx::lower::SHARED_BASE;
use std::sync::Arc;

/// A barrier of a block.
#[derive(Clone, Copy, Default)]
pub struct Barrier {
    /// Warps that arrived.
    pub warps: u32,
    /// Threads that arrived.
    pub threads: u32,
    /// Threads that are waited for.
    pub expected: u32,
    /// Lanes whose predicate was true.
    pub count: u32,
    /// Whether all were true.
    pub all: bool,
}

/// Why a warp stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// It used up its turn.
    Turn,
    /// It waits.
    Barrier,
    /// It ended.
    Done,
}

/// A block at work.
pub struct Block<'a> {
    /// The launch it belongs to.
    pub launch: &'a Launch<'a>,
    /// Its number in the grid.
    pub number: u32,
    /// Its place in the grid.
    pub at: [u32; 3],
    /// Its shared memory.
    pub shared: Shared,
    /// Its warps.
    pub warps: Vec<Warp>,
    /// Its barriers.
    pub barriers: [Barrier; 16],
    /// What it did.
    pub counters: Counters,
    /// The allocation that was touched last.
    pub last: Option<Allocation>,
    /// State of the shuffle; 0 if warps take turns in order.
    pub random: u64,
    /// Barriers that a warp said it was at, and went on, and what it knew then.
    pub arrivals: Vec<(u32, Vec<u32>)>,
    /// A barrier that `bar.arrive` completed.
    pub arrived_last: Option<u32>,
    /// Whether the running warp lets others go first.
    pub yields: bool,
    /// The products that each warpgroup began.
    pub begun: Vec<Vec<Begun>>,
}

impl<'a> Block<'a> {
    /// A block with no place yet.
    pub fn new(launch: &'a Launch<'a>) -> Block<'a> {
        let count = launch.threads().div_ceil(32) as usize;
        Block {
            launch,
            number: 0,
            at: [0; 3],
            shared: Shared::default(),
            warps: (0..count).map(|_| Warp::default()).collect(),
            barriers: [Barrier::default(); 16],
            counters: Counters::default(),
            last: None,
            random: 0,
            arrivals: Vec::new(),
            arrived_last: None,
            yields: false,
            begun: vec![Vec::new(); count / 4],
        }
    }

    /// Becomes the block `number` of the grid, before its first instruction.
    pub fn begin(&mut self, number: u32) {
        let launch = self.launch;
        self.number = number;
        self.at = coordinates(number, launch.grid);
        self.shared.reset(launch.shared_size, self.warps.len());
        self.barriers = [Barrier::default(); 16];
        self.begun.iter_mut().for_each(Vec::clear);
        self.arrivals.clear();
        let frame = Frame {
            grid: launch.grid,
            block: launch.block,
            at: self.at,
            dynamic: SHARED_BASE + launch.dynamic_offset as u32,
            dynamic_size: (launch.shared_size - launch.dynamic_offset) as u32,
            shared: launch.shared_size as u32,
            sms: launch.sms,
            sm: number % launch.sms.max(1),
        };
        let count = self.warps.len();
        for (index, warp) in self.warps.iter_mut().enumerate() {
            warp.begin(launch.kernel, &frame, index, count);
            warp.early = launch.before;
        }
        self.random = match launch.seed {
            0 => 0,
            seed => (seed ^ u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1,
        };
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    /// Runs every warp for one turn of at most `turn` instructions; `true` once all have ended.
    pub fn round(&mut self, turn: u64) -> Step<bool> {
        let mut order: Vec<usize> = (0..self.warps.len()).collect();
        if self.random != 0 {
            for i in (1..order.len()).rev() {
                let j = self.draw(i as u64 + 1) as usize;
                order.swap(i, j);
            }
        }
        let mut moved = false;
        for index in order {
            if self.warps[index].state != State::Ready {
                continue;
            }
            moved = true;
            let turn = if self.random != 0 { 1 + self.draw(300) } else { turn };
            let mut warp = std::mem::take(&mut self.warps[index]);
            let pause = self.run(&mut warp, turn);
            self.warps[index] = warp;
            if pause? == Pause::Barrier
                && let State::Waiting(id) = self.warps[index].state
            {
                self.complete(id);
            }
            if let Some(id) = self.arrived_last.take() {
                self.complete(id);
            }
        }
        if self.warps.iter().all(|w| w.state == State::Done) {
            self.products_of_all()?;
            return Ok(true);
        }
        if !moved {
            return Err(self.stuck());
        }
        Ok(false)
    }

    /// Ends a barrier that all have reached.
    pub fn complete(&mut self, id: u32) {
        let barrier = self.barriers[id as usize];
        if barrier.threads < barrier.expected || barrier.expected == 0 {
            return;
        }
        let members: Vec<usize> = (0..self.warps.len()).filter(|w| barrier.warps >> w & 1 == 1).collect();
        // Everyone knows what everyone knew.
        let count = self.warps.len();
        let mut joined = vec![0; count];
        let waits = |warp: &Warp| warp.state == State::Waiting(id);
        for warp in members.iter().map(|&w| &self.warps[w]).filter(|warp| waits(warp)) {
            order::join(&mut joined, &warp.clocks.as_ref().expect("a warp at work has clocks").seen);
        }
        for arrival in self.arrivals.extract_if(.., |arrival| arrival.0 == id) {
            order::join(&mut joined, &arrival.1);
        }
        // What some learned of other blocks, all of them know now.
        let mut far = self.warps[members[0]].far.clone();
        for &w in &members[1..] {
            if !Arc::ptr_eq(&far, &self.warps[w].far) {
                order::join(Arc::make_mut(&mut far), &self.warps[w].far);
            }
        }
        // Likewise that the launch before has ended.
        let waited = members.iter().any(|&w| self.warps[w].early.is_none());
        let latest = joined.iter().copied().max().unwrap_or(0);
        for &w in members.iter().filter(|&&w| members.len() == count && waits(&self.warps[w])) {
            joined[w] = latest;
        }
        for &w in &members {
            let warp = &mut self.warps[w];
            if !waits(warp) {
                // It only said that it was there.
                continue;
            }
            let clocks = warp.clocks.as_mut().expect("a warp at work has clocks");
            clocks.seen.copy_from_slice(&joined);
            clocks.seen[w] = latest + 1;
            clocks.settle(w);
            warp.far = far.clone();
            if waited {
                warp.early = None;
            }
            if let Op::Barrier { kind, d, .. } = &self.launch.kernel.code[warp.pc as usize].op {
                let mask = warp.mask;
                let bit = |yes: bool| if yes { u32::MAX } else { 0 };
                match kind {
                    BarKind::Popc => {
                        for lane in 0..32 {
                            if mask >> lane & 1 == 1 {
                                warp.planes.r32[*d as usize][lane] = barrier.count;
                            }
                        }
                    }
                    BarKind::And | BarKind::Or => {
                        let value = if *kind == BarKind::And { barrier.all } else { barrier.count > 0 };
                        let old = warp.planes.pred[*d as usize];
                        warp.planes.pred[*d as usize] = old & !mask | bit(value) & mask;
                    }
                    BarKind::Sync | BarKind::Arrive => {}
                }
            }
            warp.state = State::Ready;
            warp.pc += 1;
        }
        self.barriers[id as usize] = Barrier::default();
    }

    fn stuck(&self) -> Box<Fault> {
        let mut text = String::new();
        for (id, barrier) in self.barriers.iter().enumerate() {
            if barrier.threads == 0 {
                continue;
            }
            let waiting = self.warps.iter().find(|w| w.state == State::Waiting(id as u32));
            let line = waiting.map_or(0, |w| self.launch.kernel.code[w.pc as usize].line);
            let missing = self.warps.iter().find(|w| barrier.warps >> w.index & 1 == 0 || w.exited != 0);
            let who = missing.map_or(String::new(), |w| {
                let lane = if barrier.warps >> w.index & 1 == 0 { 0 } else { w.exited.trailing_zeros() };
                let at = coordinates(w.index as u32 * 32 + lane, self.launch.block);
                let doing = match w.state {
                    State::Waiting(other) if other != id as u32 => format!("waits at barrier {other}"),
                    _ => "has ended".to_owned(),
                };
                format!("; thread ({}, {}, {}) {doing}", at[0], at[1], at[2])
            });
            text += &format!(
                "barrier {id} at line {line} was reached by {} of {} threads{who}. ",
                barrier.threads, barrier.expected
            );
        }
        let line = self
            .warps
            .iter()
            .find(|w| matches!(w.state, State::Waiting(_)))
            .map_or(0, |w| self.launch.kernel.code[w.pc as usize].line);
        self.fault_at(719, line, None, format!("barrier not reached by all threads: {}", text.trim_end()))
    }

    /// An error with its place.
    pub fn fault_at(&self, code: u32, line: u32, thread: Option<u32>, what: String) -> Box<Fault> {
        let kernel = self.launch.kernel;
        let source = kernel.text.lines().nth(line.wrapping_sub(1) as usize).unwrap_or("").trim();
        let thread = thread.map_or(String::new(), |t| {
            let at = coordinates(t, self.launch.block);
            format!(", thread ({}, {}, {})", at[0], at[1], at[2])
        });
        let [x, y, z] = self.at;
        let text = format!(
            "kernel {}, PTX line {line} `{source}`, block ({x}, {y}, {z}){thread}: {what}",
            kernel.name
        );
        Box::new(Fault { code, text })
    }

    /// An error of one lane of a warp at its current instruction.
    #[cold]
    pub fn fault(&self, code: u32, warp: &Warp, lane: usize, what: String) -> Box<Fault> {
        let line = self.launch.kernel.code[warp.pc as usize].line;
        self.fault_at(code, line, Some((warp.index * 32 + lane) as u32), what)
    }
}
