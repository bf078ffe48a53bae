//! The schedule of a sequential model: one step a time step, of the sequences that last so long. Knows no tree.
//!
//! Slot 0 is the state of zeros that every sequence starts from, written by nobody. A merge reads the slot of the
//! prefix before it on the left and the number of a leaf, an input row of which no state is made, on the right. In
//! every step the sequences that go on longest come first, so that row `i` of a step follows row `i` of the one before.

use super::planner::{Planner, Rows};
use super::{Outputs, Schedule};
use crate::error::Result;
use crate::room::reserve;

/// A sequence on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    sequence: usize,
    /// Steps to its last wanted output.
    steps: usize,
    /// Its first leaf, and its first output.
    leaf: usize,
    output: usize,
    /// Outputs passed so far.
    passed: usize,
    /// The slot of the prefix so far, and whether it must be kept.
    slot: u32,
    kept: bool,
}

impl Planner {
    /// Plans sequences of these lengths that have these outputs.
    pub(super) fn chains(
        &mut self,
        schedule: &mut Schedule,
        width: usize,
        lengths: &[usize],
        outputs: &Outputs,
        rows: Rows,
    ) -> Result<()> {
        let Planner { chains, free, .. } = self;
        chains.clear();
        reserve(chains, lengths.len())?;
        let (mut leaf, mut output) = (0, 0);
        for (sequence, &length) in lengths.iter().enumerate() {
            let count = outputs.count(length);
            let steps = outputs.position(length, count - 1) + 1;
            chains.push(Chain { sequence, steps, leaf, output, passed: 0, slot: ZERO, kept: true });
            (leaf, output) = (leaf + length, output + count);
        }
        let Schedule { leaves, left, right, out, step_ends, outputs: output_slots, .. } = schedule;
        leaves.clear();
        leaves.extend(0..leaf as u32);
        output_slots.clear();
        output_slots.resize(output, ZERO);
        for list in [&mut *left, &mut *right, &mut *out, &mut *step_ends] {
            list.clear();
            reserve(list, leaf)?;
        }
        free.clear();
        reserve(free, 2 * lengths.len())?;
        chains.sort_unstable_by_key(|chain| (std::cmp::Reverse(chain.steps), chain.sequence));
        let (mut next, mut going) = (ZERO + 1, chains.len());
        for time in 0..chains[0].steps {
            while chains[going - 1].steps <= time {
                going -= 1;
            }
            // All that the step writes is taken before anything that it reads is given back.
            let first = out.len();
            for chain in &chains[..going] {
                left.push(chain.slot);
                right.push((chain.leaf + time) as u32);
                out.push(free.pop().unwrap_or_else(|| {
                    next += 1;
                    next - 1
                }));
            }
            for (chain, &slot) in chains[..going].iter_mut().zip(&out[first..]) {
                if rows == Rows::Reuse && !chain.kept {
                    free.push(chain.slot);
                }
                chain.slot = slot;
                // The last step is that of an output, so there is one to come.
                chain.kept = outputs.position(lengths[chain.sequence], chain.passed) == time;
                if chain.kept {
                    output_slots[chain.output + chain.passed] = slot;
                    chain.passed += 1;
                }
            }
            step_ends.push(out.len() as u32);
        }
        (schedule.width, schedule.slots) = (width, next as usize);
        Ok(())
    }
}

/// The slot of the state that every sequence starts from.
const ZERO: u32 = 0;
