//! Which instruction set a pass runs on: detected once, or forced. In f32 all give the same bits.

#[cfg(target_arch = "aarch64")]
use super::lanes::Neon;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use super::lanes::{Lanes, Plain};
use crate::backend::Dtype;
use crate::error::{Error, Result};

/// An instruction set of the CPU backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CpuPath {
    /// Portable code: the definition of the arithmetic.
    Plain,
    /// AArch64 with NEON.
    Neon,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512F.
    Avx512,
    /// The same with AVX-512-BF16, which multiplies pairs of bf16.
    Avx512Bf16,
    /// The same with AMX, which multiplies tiles of bf16; on Linux.
    Amx,
}

impl CpuPath {
    /// Every path, slowest first.
    pub const ALL: [CpuPath; 6] =
        [CpuPath::Plain, CpuPath::Neon, CpuPath::Avx2, CpuPath::Avx512, CpuPath::Avx512Bf16, CpuPath::Amx];

    /// The path's name, as `avx512` or `amx`.
    pub fn name(self) -> &'static str {
        match self {
            CpuPath::Plain => "plain",
            CpuPath::Neon => "neon",
            CpuPath::Avx2 => "avx2",
            CpuPath::Avx512 => "avx512",
            CpuPath::Avx512Bf16 => "avx512-bf16",
            CpuPath::Amx => "amx",
        }
    }

    /// Whether it computes in this type: all in bf16, those without instructions for it by f32 arithmetic on rounded
    /// numbers; only these in f32.
    pub fn computes(self, dtype: Dtype) -> bool {
        match dtype {
            Dtype::F32 => !matches!(self, CpuPath::Avx512Bf16 | CpuPath::Amx),
            Dtype::Bf16 => true,
            Dtype::F16 => false,
        }
    }

    /// Why this processor or system cannot run it; None if it can.
    pub fn unavailable(self) -> Option<&'static str> {
        #[cfg(target_arch = "x86_64")]
        let lacking = match self {
            CpuPath::Plain => None,
            CpuPath::Neon => Some("the processor is no AArch64"),
            CpuPath::Avx2 => {
                let has = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
                (!has).then_some("the processor lacks AVX2 with FMA")
            }
            CpuPath::Avx512 => {
                (!is_x86_feature_detected!("avx512f")).then_some("the processor lacks AVX-512")
            }
            CpuPath::Avx512Bf16 => {
                let has = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
                (!has).then_some("the processor lacks AVX-512-BF16")
            }
            #[cfg(target_os = "linux")]
            CpuPath::Amx => super::amx::unavailable(),
            #[cfg(not(target_os = "linux"))]
            CpuPath::Amx => Some("it is made for Linux"),
        };
        #[cfg(target_arch = "aarch64")]
        let lacking = match self {
            CpuPath::Plain | CpuPath::Neon => None,
            _ => Some("the processor is no x86-64"),
        };
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let lacking = (self != CpuPath::Plain).then_some("the processor is no x86-64 and no AArch64");
        lacking
    }

    /// Whether this processor can run it.
    pub fn is_available(self) -> bool {
        self.unavailable().is_none()
    }

    /// The fastest path of this processor in f32.
    pub fn detect() -> Self {
        Self::fastest(Dtype::F32)
    }

    /// The fastest path of this processor in a type of which there is one.
    pub fn fastest(dtype: Dtype) -> Self {
        let mut paths = CpuPath::ALL.into_iter().rev();
        paths.find(|path| path.computes(dtype) && path.is_available()).unwrap_or(CpuPath::Plain)
    }

    /// This path, if the processor can run it in this type.
    pub(super) fn checked(self, dtype: Dtype) -> Result<Self> {
        let fastest = || format!("the fastest path in {dtype} is {}", CpuPath::fastest(dtype).name());
        let why = match self.unavailable() {
            None if self.computes(dtype) => return Ok(self),
            None => format!("it does not compute in {dtype}; {}", fastest()),
            Some(lacking) => format!("{lacking}; {}", fastest()),
        };
        Err(Error::Unavailable { what: format!("CPU path {}", self.name()), why })
    }

    /// Runs a kernel that uses AMX, compiled for no other path.
    ///
    /// # Safety
    /// A `Cpu` holds [`CpuPath::Amx`].
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    pub(super) unsafe fn run_with_tiles<K: Kernel>(kernel: K) {
        // SAFETY: AMX was found to be there, and AVX-512 with it.
        unsafe { run_avx512(kernel) }
    }

    /// Runs a kernel compiled for this path.
    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) {
        match self {
            // SAFETY: a `Cpu` holds a path only after `checked` or `fastest` found the instruction set.
            #[cfg(target_arch = "x86_64")]
            CpuPath::Avx2 => unsafe { run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            CpuPath::Avx512Bf16 if const { K::PAIRS } => unsafe { run_avx512_bf16(kernel) },
            // SAFETY: as above. What neither pairs nor tiles do is done in f32.
            #[cfg(target_arch = "x86_64")]
            CpuPath::Avx512 | CpuPath::Avx512Bf16 | CpuPath::Amx => unsafe { run_avx512(kernel) },
            #[cfg(target_arch = "aarch64")]
            CpuPath::Neon => kernel.run::<Neon>(),
            _ => kernel.run::<Plain>(),
        }
    }
}

/// A piece of work written over any [`Lanes`]; `run` is inlined into a function compiled for the path.
pub(super) trait Kernel {
    /// Whether it multiplies pairs of bf16; others are not compiled for what multiplies them.
    const PAIRS: bool = false;

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
    kernel.run::<Avx512<false>>()
}

/// # Safety
/// The processor has AVX-512F and AVX-512-BF16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn run_avx512_bf16<K: Kernel>(kernel: K) {
    kernel.run::<Avx512<true>>()
}
