//! Whether a schedule's slots are such that kernels stay in bounds and no two tasks meet in one row; every device asks.

use super::Pass;
use crate::error::{Error, Result};
use crate::model::{Config, Recurrence};
use crate::room::reserve;
use crate::tree::Schedule;

/// Checks schedules, and keeps its memory from one to the next.
#[derive(Debug, Default)]
pub(crate) struct ScheduleCheck {
    /// For each slot the last step that wrote it. Steps are numbered on from pass to pass, so that nothing has to be
    /// cleared.
    written: Vec<u64>,
    step: u64,
}

impl ScheduleCheck {
    /// Refuses a schedule of another recurrence, and one that would take kernels out of bounds, or let two tasks meet in one row: the planner makes
    /// none such, but counters and arenas are also made by hand.
    ///
    /// # Errors
    /// [`Error::Argument`] that names the slot; or if a pass backward is wanted of a schedule that reuses rows.
    pub(crate) fn check(&mut self, config: &Config, schedule: &Schedule, pass: Pass) -> Result<()> {
        if schedule.recurrence() != config.recurrence {
            let of = |recurrence: Recurrence| format!("one of a {} model", recurrence.name());
            let (expected, found) = (of(config.recurrence), of(schedule.recurrence()));
            return Err(Error::argument("schedule", expected, found));
        }
        if schedule.width() == 0 {
            return Err(Error::argument("schedule", "one that was planned", "an empty one"));
        }
        // A sequential model reads input rows on the right, and zeros in slot 0.
        let sequential = config.recurrence == Recurrence::Sequential;
        let wrong = |what: &str, slot: u32| {
            let expected =
                format!("slots below {}, none written twice in a step or written and read", schedule.slots());
            Err(Error::argument("schedule", expected, format!("{what} of slot {slot}")))
        };
        let ScheduleCheck { written, step: number } = self;
        if written.len() < schedule.slots() {
            reserve(written, schedule.slots() - written.len())?;
            written.resize(schedule.slots(), 0);
        }
        let written = &mut written[..schedule.slots()];
        *number += 1;
        let write = |written: &mut [u64], slot: u32, number: u64| match written.get_mut(slot as usize) {
            Some(last) if *last != number => {
                *last = number;
                true
            }
            _ => false,
        };
        for &leaf in schedule.leaves().iter().take_while(|_| !sequential) {
            if !write(written, leaf, *number) {
                return wrong("a leaf", leaf);
            }
        }
        if sequential {
            let inputs = schedule.leaves().len();
            let input = (0..).zip(schedule.leaves()).find(|(row, leaf)| row != *leaf).map(|(_, leaf)| *leaf);
            let read = schedule.right().iter().copied().find(|&leaf| leaf as usize >= inputs);
            if let Some(leaf) = input.or(read) {
                return Err(Error::argument("schedule", format!("input rows 0 to {inputs}"), leaf));
            }
            if let Some(zero) = schedule.out().iter().find(|out| **out == 0) {
                return wrong("a write", *zero);
            }
        }
        for step in schedule.steps() {
            *number += 1;
            for &out in step.out {
                if !write(written, out, *number) {
                    return wrong("a write", out);
                }
            }
            let right = if sequential { &[] } else { step.right };
            for &read in step.left.iter().chain(right) {
                if written.get(read as usize).is_none_or(|last| last == number) {
                    return wrong("a read", read);
                }
            }
        }
        if let Some(&output) = schedule.outputs().iter().find(|&&output| output as usize >= schedule.slots())
        {
            return wrong("an output", output);
        }
        let before = if sequential { &[0] } else { schedule.leaves() };
        let in_order = (0..).zip(before.iter().chain(schedule.out())).all(|(slot, &found)| slot == found);
        if pass.trains() && !in_order {
            return Err(Error::argument(
                "schedule",
                "one whose rows are kept (`Rows::Keep`)",
                "one that reuses rows",
            ));
        }
        Ok(())
    }
}

/// Refuses a slice of another length. The typed layer above has checked shapes already; here it is what keeps the
/// kernels' pointers in bounds, whoever calls.
pub(crate) fn check_len(name: &str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::argument(name, format!("{expected} elements"), found))
}
