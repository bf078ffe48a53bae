//! The driver: whether there is one, what it says of a device, and its errors in our words with their mend. Knows no
//! kernel.

use std::sync::Arc;

use cudarc::driver::sys::{CUdevice_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaStream, DriverError};

use super::launch;
use crate::error::{Error, Result};

/// The oldest chip that the kernels are written for.
const OLDEST_CHIP: u32 = 80;
/// The oldest driver that cudarc's calls are all in: CUDA 11.4.
const OLDEST_DRIVER: u32 = 11040;

/// What the driver says of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The device's number.
    pub ordinal: usize,
    /// Its name, as `NVIDIA H200`.
    pub name: String,
    /// Its compute capability: 90 for 9.0, which is sm_90.
    pub chip: u32,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of memory.
    pub memory: usize,
    /// The driver's version: 13000 for one of CUDA 13.0.
    pub driver: u32,
}

impl Device {
    fn of(context: &Arc<CudaContext>) -> Result<Self> {
        let name = device_name(context.ordinal());
        let asked = |what: &'static str| {
            let name = name.clone();
            move |error| failed(&name, what, error)
        };
        let (major, minor) = context.compute_capability().map_err(asked("ask for the chip"))?;
        let count = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = context.attribute(count).map_err(asked("ask for the multiprocessors"))?;
        Ok(Device {
            ordinal: context.ordinal(),
            name: context.name().map_err(asked("ask for the name"))?,
            chip: (10 * major + minor).unsigned_abs(),
            multiprocessors: multiprocessors.unsigned_abs(),
            memory: context.total_mem().map_err(asked("ask for the memory"))?,
            driver: launch::driver_version().map_err(asked("ask for the driver's version"))?,
        })
    }
}

/// The device as a user names it.
pub(super) fn device_name(ordinal: usize) -> String {
    format!("cuda:{ordinal}")
}

/// `13.0` of 13000.
pub(super) fn version(driver: u32) -> String {
    format!("{}.{}", driver / 1000, driver % 1000 / 10)
}

/// Devices that the driver finds.
///
/// # Errors
/// [`Error::Unavailable`] without a driver, with one that is too old, and without a device.
pub fn count() -> Result<usize> {
    let unavailable = |why: String| Error::Unavailable { what: "CUDA".into(), why };
    // cudarc would panic.
    if !launch::library_present() {
        let why = "no driver was found (libcuda.so): install NVIDIA's, or use cpu";
        return Err(unavailable(why.into()));
    }
    let driver = launch::driver_version().map_err(|error| failed("cuda", "ask for the version", error))?;
    if driver < OLDEST_DRIVER {
        return Err(unavailable(format!(
            "the driver is of CUDA {}, and at least {} is needed: update it, or use cpu",
            version(driver),
            version(OLDEST_DRIVER)
        )));
    }
    match CudaContext::device_count() {
        Ok(count) if count > 0 => Ok(count.unsigned_abs() as usize),
        Ok(_) | Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => {
            Err(unavailable("the driver finds no device (CUDA_VISIBLE_DEVICES may hide it): use cpu".into()))
        }
        Err(error) => Err(failed("cuda", "start the driver", error)),
    }
}

/// A device's context, and what the driver says of it.
pub(super) fn open(ordinal: usize) -> Result<Arc<CudaContext>> {
    let count = count()?;
    if ordinal >= count {
        return Err(Error::argument(
            "device",
            format!("a number below {count}, the devices there are"),
            ordinal,
        ));
    }
    let name = device_name(ordinal);
    launch::untracked_context(ordinal).map_err(|error| failed(&name, "make a context", error))
}

/// What the driver says of a context's device, if the kernels run on it.
pub(super) fn describe(context: &Arc<CudaContext>) -> Result<Device> {
    let device = Device::of(context)?;
    if device.chip < OLDEST_CHIP {
        return Err(Error::Unavailable {
            what: device_name(device.ordinal),
            why: format!(
                "{} is an sm_{} chip, and the kernels need sm_{OLDEST_CHIP} or newer: use another device, or cpu",
                device.name, device.chip
            ),
        });
    }
    Ok(device)
}

/// A failed call in our words.
pub(super) fn failed(device: &str, action: &str, error: DriverError) -> Error {
    use CUresult as E;
    let words = || {
        let name = error.error_name().ok().map(|name| name.to_string_lossy().into_owned());
        let text = error.error_string().ok().map(|text| text.to_string_lossy().into_owned());
        format!("{} ({})", text.unwrap_or_else(|| "unknown error".into()), name.unwrap_or_default())
    };
    let mend = match error.0 {
        E::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        | E::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT
        | E::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED => return in_capture(device, action),
        E::CUDA_ERROR_STREAM_CAPTURE_ISOLATION => return tracked(),
        E::CUDA_ERROR_ILLEGAL_ADDRESS
        | E::CUDA_ERROR_MISALIGNED_ADDRESS
        | E::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | E::CUDA_ERROR_LAUNCH_FAILED
        | E::CUDA_ERROR_LAUNCH_TIMEOUT
        | E::CUDA_ERROR_ECC_UNCORRECTABLE => {
            "; what ran before failed and the context is lost: start the program anew"
        }
        E::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | E::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "; the driver's parts are of different versions: install it anew, or restart the machine"
        }
        _ => "",
    };
    Error::Device { device: device.into(), action: action.into(), problem: format!("{}{mend}", words()) }
}

/// A call that a capture forbids.
pub(super) fn in_capture(device: &str, action: &str) -> Error {
    Error::Unavailable {
        what: format!("{device}: to {action}"),
        why: "a capture is in progress, which forbids to allocate, wait and copy from or to the host: do it before the \
              capture begins"
            .into(),
    }
}

/// A capture of memory whose uses cudarc tracks by events.
pub(super) fn tracked() -> Error {
    Error::Unavailable {
        what: "a capture".into(),
        why: "event tracking is on in the stream's context, whose events lie outside of the capture: call \
              `CudaContext::disable_event_tracking` before the stream and the buffers are made"
            .into(),
    }
}

/// Out of memory, or another error of an allocation.
pub(super) fn out_of_memory(stream: &CudaStream, bytes: usize, error: Option<DriverError>) -> Error {
    let device = device_name(stream.context().ordinal());
    match error {
        None | Some(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
            let free = match stream.context().mem_get_info() {
                Ok((free, total)) => format!("{free} of {total} bytes are free"),
                Err(_) => "it has not as much free".into(),
            };
            let mend = "take a smaller batch, shorter sequences or a smaller model, or free memory of others";
            Error::Unavailable {
                what: format!("memory of {bytes} bytes on {device}"),
                why: format!("{free}: {mend}"),
            }
        }
        Some(error) => failed(&device, "allocate", error),
    }
}
