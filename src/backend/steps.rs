//! What training on batches of equal lengths asks of a device beside its passes: whether it takes a whole step in one call.
//! Knows no task.

use std::convert::Infallible;
use std::fmt::Debug;

use super::cpu::Cpu;
use super::{Backend, Pass};
use crate::error::Result;
use crate::model::Parameters;
use crate::optim::Optimizer;

/// A batch of sequences of one length, on the host.
#[derive(Clone, Copy, Debug)]
pub struct LengthBatch<'a> {
    /// What batches of the same shape have in common.
    pub length: usize,
    /// Tokens of a sequence.
    pub time: usize,
    /// Outputs of a sequence: its last positions.
    pub outputs: usize,
    /// `[batch, time]`, each below `D`.
    pub tokens: &'a [u32],
    /// `[batch, outputs]`, each below `O`.
    pub targets: &'a [u32],
    /// `[batch, outputs]`: 1 where a position counts for the accuracy, else 0.
    pub mask: &'a [u8],
}

// Who trains is behind a feature.
#[cfg_attr(not(feature = "tasks"), allow(dead_code))]
/// What no other crate implements, and nobody outside of this one calls.
pub trait Sealed: Sized {
    /// Training steps that are recorded once a length, and taken in one call from then on.
    type Steps: Send + Debug;

    /// Memory for steps of `batch` sequences of at most `time` tokens, of which the last `outputs` at most are read, with `z`
    /// kept or computed anew as the pass says; `None` where steps are taken call by call.
    fn steps(
        parameters: &Parameters<Self>,
        pass: Pass,
        batch: usize,
        time: usize,
        outputs: usize,
    ) -> Result<Option<Self::Steps>>
    where
        Self: Backend;

    /// Enqueues a step: the pass, its loss, the way back, Adam. Waits for nothing once its length is known.
    fn take(
        steps: &mut Self::Steps,
        batch: &LengthBatch<'_>,
        parameters: &mut Parameters<Self>,
        optimizer: &mut Optimizer<Self>,
    ) -> Result<()>
    where
        Self: Backend;

    /// Bytes on the device that the steps hold, the lists of those that are recorded left out.
    fn steps_bytes(steps: &Self::Steps) -> usize;

    /// `[loss, right among the counted, counted]` of the last step. Waits for the device.
    fn measured(steps: &Self::Steps) -> Result<[f32; 3]>;
}

/// The CPU takes steps call by call.
impl Sealed for Cpu {
    type Steps = Infallible;

    fn steps(_: &Parameters<Self>, _: Pass, _: usize, _: usize, _: usize) -> Result<Option<Infallible>> {
        Ok(None)
    }

    fn take(
        steps: &mut Infallible,
        _: &LengthBatch<'_>,
        _: &mut Parameters<Self>,
        _: &mut Optimizer<Self>,
    ) -> Result<()> {
        match *steps {}
    }

    fn steps_bytes(steps: &Infallible) -> usize {
        match *steps {}
    }

    fn measured(steps: &Infallible) -> Result<[f32; 3]> {
        match *steps {}
    }
}
