//! The images of kernels in this program, and which of them a device takes: the cubin for its chip, or PTX that its driver
//! compiles. Knows no kernel's arguments.

use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaModule, DriverError};
use cudarc::nvrtc::Ptx;

use super::driver::{Device, device_name, failed, version};
use crate::error::{Error, Result};

/// The kernels of one storage, compiled.
struct Image {
    name: &'static str,
    /// Plain PTX for compute_80.
    ptx: &'static str,
    /// Made from that PTX: the chip, 80 for sm_80, and its cubin.
    cubins: &'static [(u32, &'static [u8])],
}

// `static IMAGES: &[Image]`, written by build.rs.
include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

impl Image {
    fn find(name: &str) -> Option<&'static Image> {
        IMAGES.iter().find(|image| image.name == name)
    }

    /// The PTX's version, `8.0`.
    fn ptx_version(&self) -> &'static str {
        let line = self.ptx.lines().find_map(|line| line.strip_prefix(".version"));
        line.map_or("unknown", str::trim)
    }

    /// The cubin that runs on a chip: of its generation, not newer.
    fn cubin(&self, chip: u32) -> Option<(u32, &'static [u8])> {
        let runs = |cubin: &&(u32, _)| cubin.0 / 10 == chip / 10 && cubin.0 <= chip;
        self.cubins.iter().filter(runs).max_by_key(|cubin| cubin.0).copied()
    }

    /// What there is of it: `cubins for sm_80, sm_90 and PTX 8.0`.
    fn contents(&self) -> String {
        let chips: Vec<String> = self.cubins.iter().map(|(chip, _)| format!("sm_{chip}")).collect();
        let cubins =
            if chips.is_empty() { "no cubin".into() } else { format!("cubins for {}", chips.join(", ")) };
        format!("{cubins} and PTX {} for compute_80", self.ptx_version())
    }
}

/// A module of kernels on a device, and what it was made from: `cubin sm_90` or `PTX 8.0`.
pub(super) struct Loaded {
    pub module: Arc<CudaModule>,
    pub from: String,
}

/// Loads an image.
///
/// # Errors
/// [`Error::Unavailable`] that names the image, the chip and the mend, if this build has none that the device takes.
pub(super) fn load(context: &Arc<CudaContext>, device: &Device, name: &str) -> Result<Loaded> {
    let unavailable = |why: String| Error::Unavailable {
        what: format!(
            "the image `{name}` of kernels for {} (sm_{})",
            device_name(device.ordinal),
            device.chip
        ),
        why,
    };
    let Some(image) = Image::find(name) else {
        let why = "this build has no kernels, since it was made for documentation only: build it with nvcc";
        return Err(unavailable(why.into()));
    };
    if let Some((chip, cubin)) = image.cubin(device.chip) {
        match context.load_module(Ptx::from_binary(cubin.to_vec())) {
            Ok(module) => return Ok(Loaded { module, from: format!("cubin sm_{chip}") }),
            // An older driver may not know the cubin's format and still compile the PTX.
            Err(DriverError(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU | CUresult::CUDA_ERROR_INVALID_IMAGE)) => {
            }
            Err(error) => return Err(failed(&device_name(device.ordinal), "load kernels", error)),
        }
    }
    match context.load_module(Ptx::from_src(image.ptx)) {
        Ok(module) => Ok(Loaded { module, from: format!("PTX {}", image.ptx_version()) }),
        Err(DriverError(CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION)) => Err(unavailable(format!(
            "the driver, of CUDA {}, is too old for its PTX {}: update the driver, or build with \
             PR_LSTM_CUDA_ARCHS=sm_{}",
            version(device.driver),
            image.ptx_version(),
            device.chip
        ))),
        Err(DriverError(
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
            | CUresult::CUDA_ERROR_INVALID_PTX
            | CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND
            | CUresult::CUDA_ERROR_JIT_COMPILATION_DISABLED,
        )) => Err(unavailable(format!(
            "this build has {}, and the driver, of CUDA {}, takes none of them: build with PR_LSTM_CUDA_ARCHS=sm_{}",
            image.contents(),
            version(device.driver),
            device.chip
        ))),
        Err(error) => Err(failed(&device_name(device.ordinal), "compile kernels", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chip_takes_the_newest_cubin_of_its_generation() {
        let image = Image {
            name: "test",
            ptx: "// made by hand\n.version 7.4\n.target sm_80\n",
            cubins: &[(80, b"80"), (86, b"86"), (90, b"90")],
        };
        let chips = [(80, Some(80)), (87, Some(86)), (89, Some(86)), (90, Some(90)), (100, None), (75, None)];
        for (chip, expected) in chips {
            assert_eq!(image.cubin(chip).map(|cubin| cubin.0), expected, "sm_{chip}");
        }
        assert_eq!(image.contents(), "cubins for sm_80, sm_86, sm_90 and PTX 7.4 for compute_80");
    }
}
