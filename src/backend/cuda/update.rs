//! What follows a pass in training, as launches: the read-out backward, cross entropy, Adam.

use std::sync::PoisonError;

use cudarc::driver::{CudaView, CudaViewMut};

use super::arguments::{AdamArguments, LossArguments, ReadoutBackwardArguments};
use super::launch::Span;
use super::training::{ADAM_BYTES, NORM_BLOCKS, Training};
use super::weights::ReadoutPartial;
use super::{Cuda, CudaWeights};
use crate::backend::check::check_len;
use crate::backend::{AdamBuffers, Labelled};
use crate::error::{Error, Result};
use crate::model::Config;
use crate::optim::Adam;

/// Rows of a chunk of the read-out's gradient are a multiple of this.
const READOUT_ROWS: usize = 256;
/// Threads of the one block of the loss; of as many rows at most, it finds the gradient too.
const LOSS_THREADS: usize = 256;
/// Elements of a block of the read-out's gradient.
const READOUT_COLUMNS: usize = 32;

impl Cuda {
    /// Adds to `d_hidden`, `[n, H]`, and to the read-out's part of the flat gradient.
    pub(super) fn readout_gradient(
        &self,
        weights: &CudaWeights,
        hidden: &CudaView<'_, f32>,
        d_y: &CudaView<'_, f32>,
        d_hidden: &mut CudaViewMut<'_, f32>,
        gradient: &mut CudaViewMut<'_, f32>,
    ) -> Result<()> {
        let Config { hidden: h, output: o, .. } = weights.config;
        let rows = hidden.len() / h;
        check_len("hidden", hidden.len(), rows * h)?;
        check_len("d_y", d_y.len(), rows * o)?;
        check_len("d_hidden", d_hidden.len(), hidden.len())?;
        check_len("gradient", gradient.len(), weights.layout.len())?;
        self.own("weights", &weights.buffer)?;
        self.own("hidden", hidden)?;
        self.own("d_y", d_y)?;
        self.own("d_hidden", d_hidden)?;
        self.own("gradient", gradient)?;
        self.fits("hidden", rows)?;
        let Some(ReadoutPartial { chunks, sums }) = &weights.readout_partial else {
            return Err(Error::argument("weights", "those of a training pass", "those of inference"));
        };
        let kernels = &self.training()?.kernels;
        self.recordable()?;
        let stream = self.stream();
        let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
        let (packed, _packed) = Span::of(&weights.buffer, stream);
        let (hidden, _hidden) = Span::of(hidden, stream);
        let (d_y, _d_y) = Span::of(d_y, stream);
        let (d_hidden, _d_hidden) = Span::of_mut(d_hidden, stream);
        let (gradient, _gradient) = Span::of_mut(gradient, stream);
        let (partial, _partial) = Span::of_mut(&mut *sums, stream);
        let flat = |range: &std::ops::Range<usize>| gradient.at(4 * range.start, 4 * range.len());
        let chunk = rows.div_ceil(READOUT_ROWS).div_ceil(*chunks).max(1) * READOUT_ROWS;
        let chunks = rows.div_ceil(chunk);
        let elements = (h + 1) * o;
        let gradient_blocks = elements.div_ceil(READOUT_COLUMNS) * chunks;
        let arguments = ReadoutBackwardArguments {
            hidden: hidden.address(),
            w: packed.at(weights.readout[0], 4 * h * o),
            d_y: d_y.address(),
            d_hidden: d_hidden.address(),
            partial: partial.at(0, 4 * chunks * elements),
            d_w: flat(&weights.layout.readout.w),
            d_b: flat(&weights.layout.readout.b),
            rows: rows as u32,
            h: h as u32,
            o: o as u32,
            chunk: chunk as u32,
            chunks: chunks as u32,
            gradient_blocks: gradient_blocks as u32,
        };
        let action = "run the read-out backward";
        let blocks = [gradient_blocks + (rows * h).div_ceil(256), 1, 1];
        self.launch(action, &kernels.readout_backward, &arguments, blocks, 256, 0)?;
        match chunks {
            0 | 1 => Ok(()),
            _ => self.threads(action, &kernels.readout_reduce, &arguments, elements, 128),
        }
    }

    /// `[loss, right among the counted, counted]`.
    pub(super) fn loss(
        &self,
        labelled: &Labelled<'_, Self>,
        metrics: &mut CudaViewMut<'_, f32>,
    ) -> Result<()> {
        check_len("metrics", metrics.len(), 3)?;
        self.own("metrics", metrics)?;
        let kernel = &self.training()?.kernels.cross_entropy;
        let (metrics, _metrics) = Span::of_mut(metrics, self.stream());
        self.over_labels(labelled, |arguments| {
            let arguments = LossArguments { metrics: metrics.address(), ..arguments };
            self.launch("find the cross entropy", kernel, &arguments, [1; 3], LOSS_THREADS as u32, 0)
        })
    }

    /// Adds to `d_logits`, `[n, O]`.
    pub(super) fn loss_backward(
        &self,
        labelled: &Labelled<'_, Self>,
        d_loss: &CudaView<'_, f32>,
        d_logits: &mut CudaViewMut<'_, f32>,
    ) -> Result<()> {
        check_len("d_loss", d_loss.len(), 1)?;
        check_len("d_logits", d_logits.len(), labelled.logits.len())?;
        self.own("d_loss", d_loss)?;
        self.own("d_logits", d_logits)?;
        let kernel = &self.training()?.kernels.cross_entropy_backward;
        let (d_loss, _d_loss) = Span::of(d_loss, self.stream());
        let (d_logits, _d_logits) = Span::of_mut(d_logits, self.stream());
        self.over_labels(labelled, |arguments| {
            let (d_loss, d_logits) = (d_loss.address(), d_logits.address());
            let arguments = LossArguments { d_loss, d_logits, ..arguments };
            self.elementwise("run the cross entropy backward", kernel, &arguments, arguments.rows as usize)
        })
    }

    /// Both of them, the gradient of the loss being `d_loss`; the same bits.
    pub(super) fn loss_and_gradient(
        &self,
        labelled: &Labelled<'_, Self>,
        metrics: &mut CudaViewMut<'_, f32>,
        d_loss: &CudaView<'_, f32>,
        d_logits: &mut CudaViewMut<'_, f32>,
    ) -> Result<()> {
        if labelled.targets.len() > LOSS_THREADS {
            self.loss(labelled, metrics)?;
            return self.loss_backward(labelled, d_loss, d_logits);
        }
        check_len("metrics", metrics.len(), 3)?;
        check_len("d_loss", d_loss.len(), 1)?;
        check_len("d_logits", d_logits.len(), labelled.logits.len())?;
        self.own("metrics", metrics)?;
        self.own("d_loss", d_loss)?;
        self.own("d_logits", d_logits)?;
        let kernel = &self.training()?.kernels.cross_entropy;
        let (metrics, _metrics) = Span::of_mut(metrics, self.stream());
        let (d_loss, _d_loss) = Span::of(d_loss, self.stream());
        let (d_logits, _d_logits) = Span::of_mut(d_logits, self.stream());
        self.over_labels(labelled, |arguments| {
            let [metrics, d_loss, d_logits] = [metrics, d_loss, d_logits].map(Span::address);
            let arguments = LossArguments { metrics, d_loss, d_logits, ..arguments };
            self.launch("find the cross entropy", kernel, &arguments, [1; 3], LOSS_THREADS as u32, 0)
        })
    }

    /// Launches with the labels' arguments, if they are the logits'. Targets lie on the device: one that is not below `O`
    /// gives a loss of NaN there.
    fn over_labels(
        &self,
        labelled: &Labelled<'_, Self>,
        launch: impl FnOnce(LossArguments) -> Result<()>,
    ) -> Result<()> {
        let Labelled { logits, targets, mask } = labelled;
        let rows = targets.len();
        check_len("mask", mask.len(), rows)?;
        let classes = logits.len() / rows.max(1);
        if classes == 0 || logits.len() != classes * rows {
            let expected = format!("rows of equal length, {rows} of them");
            return Err(Error::argument("logits", expected, logits.len()));
        }
        self.own("logits", logits)?;
        self.own("targets", targets)?;
        self.own("mask", mask)?;
        self.fits("logits", rows)?;
        self.recordable()?;
        let (logits, _logits) = Span::of(logits, self.stream());
        let (targets, _targets) = Span::of(targets, self.stream());
        let (mask, _mask) = Span::of(mask, self.stream());
        launch(LossArguments {
            logits: logits.address(),
            targets: targets.address(),
            mask: mask.address(),
            rows: rows as u32,
            o: classes as u32,
            ..Default::default()
        })
    }

    /// Global norm, clipping and Adam's update.
    pub(super) fn adam_update(&self, config: &Adam, buffers: AdamBuffers<'_, Self>) -> Result<()> {
        let AdamBuffers { mut parameters, gradient, rate, mut m, mut v, mut state, mut norm } = buffers;
        let len = parameters.len();
        for (name, found) in [("gradient", gradient.len()), ("m", m.len()), ("v", v.len())] {
            check_len(name, found, len)?;
        }
        check_len("state", state.len(), 2)?;
        check_len("norm", norm.len(), 1)?;
        check_len("rate", rate.len(), 1)?;
        self.own("rate", &rate)?;
        self.own("gradient", &gradient)?;
        self.own("state", &state)?;
        for (name, memory) in [("parameters", &parameters), ("m", &m), ("v", &v), ("norm", &norm)] {
            self.own(name, memory)?;
        }
        let Training { kernels, adam } = self.training()?;
        self.recordable()?;
        let stream = self.stream();
        let mut scratch = adam.lock().unwrap_or_else(PoisonError::into_inner);
        let (scratch, _scratch) = Span::of_mut(&mut *scratch, stream);
        let (parameters, _parameters) = Span::of_mut(&mut parameters, stream);
        let (gradient, _gradient) = Span::of(&gradient, stream);
        let (rate, _rate) = Span::of(&rate, stream);
        let (m, _m) = Span::of_mut(&mut m, stream);
        let (v, _v) = Span::of_mut(&mut v, stream);
        let (state, _state) = Span::of_mut(&mut state, stream);
        let (norm, _norm) = Span::of_mut(&mut norm, stream);
        let arguments = AdamArguments {
            parameters: parameters.address(),
            gradient: gradient.address(),
            m: m.address(),
            v: v.address(),
            state: state.address(),
            norm: norm.address(),
            sums: scratch.at(0, 8 * NORM_BLOCKS),
            factors: scratch.at(8 * NORM_BLOCKS, 4 * 4),
            arrived: scratch.at(ADAM_BYTES - 4, 4),
            len: len as u64,
            clip: config.clip.unwrap_or(f64::INFINITY),
            beta1: config.beta1,
            beta2: config.beta2,
            rate: rate.address(),
            epsilon: config.epsilon as f32,
        };
        self.launch(
            "find the norm",
            &kernels.gradient_norm,
            &arguments,
            [NORM_BLOCKS, 1, 1],
            NORM_BLOCKS as u32,
            0,
        )?;
        self.elementwise("update the parameters", &kernels.update, &arguments, len.div_ceil(4))
    }

    /// Refuses more rows than a kernel counts.
    fn fits(&self, name: &str, rows: usize) -> Result<()> {
        match u32::try_from(rows) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::argument(name, "fewer than 2^32 rows", rows)),
        }
    }
}
