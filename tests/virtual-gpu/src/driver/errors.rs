//! Error codes of the driver, their names and their meanings.

use super::called;
use std::ffi::{CStr, c_char};

macro_rules! errors {
    ($($code:literal $name:ident $text:literal;)*) => {
        $(#[doc = $text] pub const $name: u32 = $code;)*

        fn lookup(code: u32) -> Option<(&'static CStr, &'static CStr)> {
            match code {
                $($code => Some((
                    match CStr::from_bytes_with_nul(concat!("CUDA_", stringify!($name), "\0").as_bytes()) {
                        Ok(s) => s,
                        Err(_) => c"",
                    },
                    match CStr::from_bytes_with_nul(concat!($text, "\0").as_bytes()) {
                        Ok(s) => s,
                        Err(_) => c"",
                    },
                )),)*
                _ => None,
            }
        }
    };
}

errors! {
    0 SUCCESS "no error";
    1 ERROR_INVALID_VALUE "invalid argument";
    2 ERROR_OUT_OF_MEMORY "out of memory";
    3 ERROR_NOT_INITIALIZED "initialization error";
    100 ERROR_NO_DEVICE "no CUDA-capable device is detected";
    101 ERROR_INVALID_DEVICE "invalid device ordinal";
    200 ERROR_INVALID_IMAGE "device kernel image is invalid";
    201 ERROR_INVALID_CONTEXT "invalid device context";
    209 ERROR_NO_BINARY_FOR_GPU "no kernel image is available for execution on the device";
    218 ERROR_INVALID_PTX "a PTX JIT compilation failed";
    222 ERROR_UNSUPPORTED_PTX_VERSION "the provided PTX was compiled with an unsupported toolchain.";
    301 ERROR_FILE_NOT_FOUND "file not found";
    400 ERROR_INVALID_HANDLE "invalid resource handle";
    401 ERROR_ILLEGAL_STATE "the operation cannot be performed in the present state";
    500 ERROR_NOT_FOUND "named symbol not found";
    600 ERROR_NOT_READY "device not ready";
    700 ERROR_ILLEGAL_ADDRESS "an illegal memory access was encountered";
    701 ERROR_LAUNCH_OUT_OF_RESOURCES "too many resources requested for launch";
    702 ERROR_LAUNCH_TIMEOUT "the launch timed out and was terminated";
    709 ERROR_CONTEXT_IS_DESTROYED "context is destroyed";
    716 ERROR_MISALIGNED_ADDRESS "misaligned address";
    719 ERROR_LAUNCH_FAILED "unspecified launch failure";
    720 ERROR_COOPERATIVE_LAUNCH_TOO_LARGE "too many blocks in cooperative launch";
    801 ERROR_NOT_SUPPORTED "operation not supported";
    900 ERROR_STREAM_CAPTURE_UNSUPPORTED "operation not permitted when stream is capturing";
    901 ERROR_STREAM_CAPTURE_INVALIDATED "operation failed due to a previous error during capture";
    902 ERROR_STREAM_CAPTURE_MERGE "operation would result in a merge of separate capture sequences";
    903 ERROR_STREAM_CAPTURE_UNMATCHED "capture was not ended in the same stream as it began";
    904 ERROR_STREAM_CAPTURE_UNJOINED "capturing stream has unjoined work";
    905 ERROR_STREAM_CAPTURE_ISOLATION "dependency created on uncaptured work in another stream";
    906 ERROR_STREAM_CAPTURE_IMPLICIT "operation would make the legacy stream depend on a capturing blocking stream";
    907 ERROR_CAPTURED_EVENT "operation not permitted on an event last recorded in a capturing stream";
    908 ERROR_STREAM_CAPTURE_WRONG_THREAD "attempt to terminate a thread-local capture sequence from another thread";
    999 ERROR_UNKNOWN "unknown error";
}

/// `cuGetErrorName`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: u32, out: *mut *const c_char) -> u32 {
    let _call = called("cuGetErrorName");
    let name = lookup(code).map(|(name, _)| name.as_ptr());
    // SAFETY: the caller's promise.
    unsafe { *out = name.unwrap_or(std::ptr::null()) };
    if name.is_some() { SUCCESS } else { ERROR_INVALID_VALUE }
}

/// `cuGetErrorString`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(code: u32, out: *mut *const c_char) -> u32 {
    let _call = called("cuGetErrorString");
    let text = lookup(code).map(|(_, text)| text.as_ptr());
    // SAFETY: the caller's promise.
    unsafe { *out = text.unwrap_or(std::ptr::null()) };
    if text.is_some() { SUCCESS } else { ERROR_INVALID_VALUE }
}
