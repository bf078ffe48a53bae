//! Which instruction set a pass runs on: detected once, or forced. All give the same bits.

#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use super::lanes::{Lanes, Plain};
use crate::error::{Error, Result};

/// An instruction set of the CPU backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CpuPath {
    /// Portable code: the definition of the arithmetic.
    Plain,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512F.
    Avx512,
}

impl CpuPath {
    /// Every path, slowest first.
    pub const ALL: [CpuPath; 3] = [CpuPath::Plain, CpuPath::Avx2, CpuPath::Avx512];

    /// The path's name: `plain`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self {
            CpuPath::Plain => "plain",
            CpuPath::Avx2 => "avx2",
            CpuPath::Avx512 => "avx512",
        }
    }

    /// Whether this processor can run it.
    pub fn is_available(self) -> bool {
        match self {
            CpuPath::Plain => true,
            #[cfg(target_arch = "x86_64")]
            CpuPath::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            CpuPath::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The fastest path of this processor.
    pub fn detect() -> Self {
        CpuPath::ALL.into_iter().rev().find(|path| path.is_available()).unwrap_or(CpuPath::Plain)
    }

    /// This path, if the processor can run it.
    pub(super) fn checked(self) -> Result<Self> {
        if self.is_available() {
            return Ok(self);
        }
        Err(Error::Unavailable {
            what: format!("CPU path {}", self.name()),
            why: format!("this processor lacks it; its fastest path is {}", CpuPath::detect().name()),
        })
    }

    /// Runs a kernel compiled for this path.
    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) {
        match self {
            CpuPath::Plain => kernel.run::<Plain>(),
            // SAFETY: a `Cpu` holds a path only after `checked` or `detect` found the instruction set.
            #[cfg(target_arch = "x86_64")]
            CpuPath::Avx2 => unsafe { run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            CpuPath::Avx512 => unsafe { run_avx512(kernel) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => kernel.run::<Plain>(),
        }
    }
}

/// A piece of work written over any [`Lanes`]; `run` is inlined into a function compiled for the path.
pub(super) trait Kernel {
    fn run<L: Lanes>(self);
}

/// # Safety
/// The processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2<K: Kernel>(kernel: K) {
    kernel.run::<Avx2>()
}

/// # Safety
/// The processor has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn run_avx512<K: Kernel>(kernel: K) {
    kernel.run::<Avx512>()
}
