//! What a caller of the backend must have right for the kernels' pointers to stay in bounds.

use super::plan::{CpuPlan, States};
use super::stored::Stored;
use super::{Cpu, CpuInput, CpuWeights};
use crate::backend::Labelled;
use crate::backend::check::check_len;
use crate::error::{Error, Result};
use crate::model::Config;

/// A workspace as f32, if it is large enough and aligned.
pub(super) fn floats<'a>(name: &str, bytes: &'a mut [u8], wanted: usize) -> Result<&'a mut [f32]> {
    let found = bytes.len();
    let floats = bytemuck::try_cast_slice_mut(&mut bytes[..found / 4 * 4]).map_err(|_| {
        Error::argument(name, "memory aligned to 4 bytes, as `Backend::alloc` gives it", "less")
    })?;
    if floats.len() < wanted {
        return Err(Error::argument(name, format!("at least {} bytes", wanted * 4), found));
    }
    Ok(&mut floats[..wanted])
}

/// Refuses weights, input or `hidden` that are not the plan's, and tokens that the weights do not have.
pub(super) fn check_pass(
    weights: &CpuWeights,
    plan: &CpuPlan,
    input: CpuInput<'_>,
    hidden: usize,
) -> Result<()> {
    let Config { input: vocabulary, hidden: width, .. } = plan.config;
    if weights.config != plan.config {
        let (expected, found) = (&plan.config, &weights.config);
        return Err(Error::argument("weights", format!("those of {expected:?}"), format!("{found:?}")));
    }
    if weights.dtype != plan.dtype {
        return Err(Error::argument("weights", format!("those of {}", plan.dtype), weights.dtype));
    }
    match input {
        CpuInput::Tokens(tokens) => {
            check_len("tokens", tokens.len(), plan.leaf_rows())?;
            if let Some(position) = tokens.iter().position(|&token| token as usize >= vocabulary) {
                return Err(Error::Token { sequence: 0, position, token: tokens[position], vocabulary });
            }
        }
        CpuInput::Dense(x) => check_len("dense input", x.len(), plan.leaf_rows() * vocabulary)?,
    }
    check_len("hidden", hidden, plan.schedule.outputs().len() * plan.schedule.width() * width)
}

/// Refuses labels that are not the logits'.
pub(super) fn check_labels(labelled: &Labelled<'_, Cpu>) -> Result<()> {
    let Labelled { logits, targets, mask } = labelled;
    let rows = targets.len().max(1);
    check_len("mask", mask.len(), targets.len())?;
    let classes = logits.len() / rows;
    if classes == 0 || logits.len() != classes * targets.len() {
        return Err(Error::argument("logits", format!("rows of equal length, {rows} of them"), logits.len()));
    }
    match targets.iter().find(|&&target| target as usize >= classes) {
        None => Ok(()),
        Some(target) => Err(Error::argument("targets", format!("below {classes}"), target)),
    }
}

/// Refuses slots that an arena does not have.
pub(super) fn check_slots<H: Stored>(
    states: &States<'_, H>,
    slots: impl IntoIterator<Item = u32>,
) -> Result<()> {
    let rows = states.h.rows();
    match slots.into_iter().find(|&slot| slot as usize >= rows) {
        None => Ok(()),
        Some(slot) => Err(Error::argument("slots", format!("below {rows}, the arena's slots"), slot)),
    }
}
