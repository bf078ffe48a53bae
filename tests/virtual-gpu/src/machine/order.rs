//! What a warp learns of the warps of other blocks: fences, releases and acquires, each worth to its own warp
//! only, until a barrier of the block spreads it. It moves times around and touches no memory.

use super::block::Block;
use super::launch::Told;
use super::warp::Warp;
use crate::ptx::ir::Order;
use std::sync::Arc;

/// The later of each two times; the longer list's where the other has none.
pub fn join(have: &mut Vec<u32>, other: &[u32]) {
    if have.len() < other.len() {
        have.resize(other.len(), 0);
    }
    for (have, &new) in have.iter_mut().zip(other) {
        *have = (*have).max(new);
    }
}

impl Block<'_> {
    /// The place of this block's first warp among all of the launch.
    fn base(&self) -> usize {
        self.number as usize * self.warps.len()
    }

    /// What a strong read of `address` tells the warp of others.
    pub(super) fn hear(&mut self, warp: &mut Warp, address: u64, order: Order) {
        if !self.launch.tells {
            return;
        }
        let told = self.launch.told.lock().expect("what warps told").get(&address).cloned();
        let Some(Told { times: told, .. }) = told else { return };
        if matches!(order, Order::Acquire | Order::AcquireRelease) {
            self.learn(warp, &told);
        } else {
            // Known once a fence follows.
            join(&mut warp.heard, &told);
        }
    }

    /// What a strong write to `address` tells others of this warp. `over`: it is a plain store, which puts an end
    /// to what was told there before; what an atomic operation finds, it hands on.
    pub(super) fn publish(&mut self, warp: &mut Warp, address: u64, order: Order, over: bool) {
        if !self.launch.tells {
            return;
        }
        let news = match order {
            Order::Release | Order::AcquireRelease => Some(self.tell(warp)),
            _ => warp.fenced.clone(),
        };
        let by = (self.base() + warp.index) as u32;
        let mut told = self.launch.told.lock().expect("what warps told");
        match (news, over) {
            (Some(times), true) => {
                told.insert(address, Told { by, times });
            }
            // The warp that released may store again; another one's store hides what was told.
            (None, true) => {
                if told.get(&address).is_some_and(|t| t.by != by) {
                    told.remove(&address);
                }
            }
            (Some(times), false) => match told.get_mut(&address) {
                Some(have) => {
                    have.by = if have.by == by { by } else { u32::MAX };
                    join(Arc::make_mut(&mut have.times), &times);
                }
                None => {
                    told.insert(address, Told { by, times });
                }
            },
            (None, false) => {}
        }
    }

    /// A fence: what was heard is known, and what is known may be told.
    pub(super) fn fence(&mut self, warp: &mut Warp) {
        if !self.launch.tells {
            return;
        }
        let heard = std::mem::take(&mut warp.heard);
        self.learn(warp, &heard);
        warp.fenced = Some(self.tell(warp));
    }

    /// Learns what another warp knew.
    fn learn(&mut self, warp: &mut Warp, told: &[u32]) {
        if told.is_empty() {
            return;
        }
        let (base, count) = (self.base(), self.warps.len());
        join(Arc::make_mut(&mut warp.far), told);
        let clocks = warp.clocks.as_mut().expect("a warp at work has clocks");
        for (index, (have, &new)) in clocks.seen.iter_mut().zip(&told[base..base + count]).enumerate() {
            if index != warp.index {
                *have = (*have).max(new);
            }
        }
        clocks.settle(warp.index);
    }

    /// What this warp knows, itself included; its later accesses are not covered.
    fn tell(&mut self, warp: &mut Warp) -> Arc<Vec<u32>> {
        let (base, count) = (self.base(), self.warps.len());
        let mut out = Vec::with_capacity(self.launch.blocks() as usize * count);
        out.extend_from_slice(&warp.far);
        out.resize(self.launch.blocks() as usize * count, 0);
        let clocks = warp.clocks.as_mut().expect("a warp at work has clocks");
        for (have, &new) in out[base..base + count].iter_mut().zip(&clocks.seen) {
            *have = (*have).max(new);
        }
        clocks.seen[warp.index] += 1;
        clocks.settle(warp.index);
        Arc::new(out)
    }
}
