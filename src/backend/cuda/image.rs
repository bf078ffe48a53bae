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
    /// Plain PTX: the oldest chip that it is for, 80 for compute_80, and its text; ascending. That of `wgmma` is for its chip alone,
    /// and asked for nowhere else.
    ptx: &'static [(u32, &'static str)],
    /// Made from that PTX: the chip, 80 for sm_80, and its cubin.
    cubins: &'static [(u32, &'static [u8])],
}

// `static IMAGES: &[Image]`, written by build.rs.
include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

impl Image {
    /// The PTX that runs on a chip: the newest that isn't newer.
    fn ptx(&self, chip: u32) -> (u32, &'static str) {
        let runs = |ptx: &&(u32, _)| ptx.0 <= chip;
        self.ptx.iter().rfind(runs).or(self.ptx.first()).copied().unwrap_or((chip, ""))
    }

    /// The cubin that runs on a chip: of its generation, not newer.
    fn cubin(&self, chip: u32) -> Option<(u32, &'static [u8])> {
        let runs = |cubin: &&(u32, _)| cubin.0 / 10 == chip / 10 && cubin.0 <= chip;
        self.cubins.iter().filter(runs).max_by_key(|cubin| cubin.0).copied()
    }

    /// What there is of it: `cubins for sm_80, sm_90 and PTX 7.0 for compute_80, PTX 7.8 for compute_90`.
    fn contents(&self) -> String {
        let chips: Vec<String> = self.cubins.iter().map(|(chip, _)| format!("sm_{chip}")).collect();
        let cubins =
            if chips.is_empty() { "no cubin".into() } else { format!("cubins for {}", chips.join(", ")) };
        let ptx = self.ptx.iter().map(|(chip, text)| format!("PTX {} for compute_{chip}", ptx_version(text)));
        format!("{cubins} and {}", ptx.collect::<Vec<_>>().join(", "))
    }

    /// Loads the cubin for the device's chip, else the PTX.
    fn load(&self, context: &Arc<CudaContext>, device: &Device) -> Result<Loaded> {
        use CUresult as E;
        let (chip, name) = (device.chip, device_name(device.ordinal));
        let unavailable = |why: String| {
            let what = format!("the image `{}` of kernels for {name} (sm_{chip})", self.name);
            Err(Error::Unavailable { what, why })
        };
        if let Some((made_for, cubin)) = self.cubin(chip) {
            match context.load_module(Ptx::from_binary(cubin.to_vec())) {
                Ok(module) => return Ok(Loaded { module, from: format!("cubin sm_{made_for}") }),
                // An older driver may not know the cubin's format and still compile the PTX.
                Err(DriverError(
                    E::CUDA_ERROR_NO_BINARY_FOR_GPU
                    | E::CUDA_ERROR_INVALID_IMAGE
                    | E::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
                )) => {}
                Err(error) => return Err(failed(&name, "load kernels", error)),
            }
        }
        let text = self.ptx(chip).1;
        let (ptx, driver) = (ptx_version(text), version(device.driver));
        match context.load_module(Ptx::from_src(text)) {
            Ok(module) => Ok(Loaded { module, from: format!("PTX {ptx}") }),
            Err(DriverError(E::CUDA_ERROR_UNSUPPORTED_PTX_VERSION)) => unavailable(format!(
                "the driver, of CUDA {driver}, is too old for PTX {ptx}: update the driver, or build with \
                 PR_LSTM_CUDA_ARCHS=sm_{chip}"
            )),
            Err(DriverError(
                E::CUDA_ERROR_NO_BINARY_FOR_GPU
                | E::CUDA_ERROR_INVALID_PTX
                | E::CUDA_ERROR_JIT_COMPILER_NOT_FOUND
                | E::CUDA_ERROR_JIT_COMPILATION_DISABLED,
            )) => unavailable(format!(
                "this build has {}, and the driver, of CUDA {driver}, takes none of them: build with \
                 PR_LSTM_CUDA_ARCHS=sm_{chip}",
                self.contents()
            )),
            Err(error) => Err(failed(&name, "compile kernels", error)),
        }
    }
}

/// The version of PTX, `8.0`.
fn ptx_version(text: &'static str) -> &'static str {
    text.lines().find_map(|line| line.strip_prefix(".version")).map_or("unknown", str::trim)
}

/// A module of kernels on a device, and what it was made from: `cubin sm_90` or `PTX 8.0`.
pub(super) struct Loaded {
    pub module: Arc<CudaModule>,
    pub from: String,
}

/// Whether this build has such an image.
pub(super) fn has(name: &str) -> bool {
    IMAGES.iter().any(|image| image.name == name)
}

/// Loads an image of this build.
///
/// # Errors
/// [`Error::Unavailable`] that names the image, the chip and the mend, if this build has none that the device takes.
pub(super) fn load(context: &Arc<CudaContext>, device: &Device, name: &str) -> Result<Loaded> {
    match IMAGES.iter().find(|image| image.name == name) {
        Some(image) => image.load(context, device),
        None => Err(Error::Unavailable {
            what: format!("the image `{name}` of kernels"),
            why: "this build has none, since it was made for documentation only: build it with nvcc".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::driver;
    use super::*;

    #[test]
    fn a_chip_takes_the_newest_cubin_of_its_generation() {
        let image = Image {
            name: "test",
            ptx: &[
                (80, "// made by hand\n.version 7.4\n.target sm_80\n"),
                (90, "// made by hand\n.version 7.8\n.target sm_90\n"),
            ],
            cubins: &[(80, b"80"), (86, b"86"), (90, b"90")],
        };
        let chips = [(80, Some(80)), (87, Some(86)), (89, Some(86)), (90, Some(90)), (100, None), (75, None)];
        for (chip, expected) in chips {
            assert_eq!(image.cubin(chip).map(|cubin| cubin.0), expected, "sm_{chip}");
        }
        for (chip, expected) in [(75, 80), (80, 80), (89, 80), (90, 90), (120, 90)] {
            assert_eq!(image.ptx(chip).0, expected, "sm_{chip}");
        }
        let expected = "cubins for sm_80, sm_86, sm_90 and PTX 7.4 for compute_80, PTX 7.8 for compute_90";
        assert_eq!(image.contents(), expected);
    }

    #[test]
    fn what_a_device_does_not_take_is_told_with_its_mend() {
        if std::env::var("PR_LSTM_TEST_GPU").is_ok_and(|value| value == "real") {
            return;
        }
        virtual_gpu::load().expect("the virtual GPU was built with the tests");
        let context = driver::open(0).expect("a device");
        let device = driver::describe(&context).expect("a device");
        let load = |ptx, cubins| {
            Image { name: "test", ptx, cubins }.load(&context, &device).map(|loaded| loaded.from)
        };
        let good: &[_] =
            &[(80, ".version 7.4\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\nret;\n}\n")];
        let cubins: &[(u32, &[u8])] = &[(80, b"\x7fELF, and so on, to the end")];
        assert_eq!(load(good, cubins).expect("the PTX"), "PTX 7.4");
        let refused = |ptx, words: &[&str]| {
            let error = load(ptx, cubins).expect_err("not for this device").to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        };
        let newer: &[_] = &[(80, ".version 9.9\n.target sm_80\n.address_size 64\n")];
        refused(
            newer,
            &["`test`", "cuda:0 (sm_80)", "CUDA 13.0", "too old for PTX 9.9", "update the driver"],
        );
        let other: &[_] = &[(80, ".version 7.4\n.target sm_90\n.address_size 64\n")];
        refused(other, &["cubins for sm_80 and PTX 7.4", "takes none", "PR_LSTM_CUDA_ARCHS=sm_80"]);
        assert_eq!(load(good, &[]).expect("the PTX"), "PTX 7.4");
    }
}
