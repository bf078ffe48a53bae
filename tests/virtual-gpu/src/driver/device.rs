//! Start, versions, devices and what they have.

use super::errors::*;
use super::{Answer, answer, called, driver, put, start};
use crate::ptx::lower::SHARED_BASE;
use std::ffi::{c_char, c_int, c_uint};

/// `cuInit`.
#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: c_uint) -> u32 {
    let _call = called("cuInit");
    if flags != 0 {
        return ERROR_INVALID_VALUE;
    }
    if start().config.count == 0 { ERROR_NO_DEVICE } else { SUCCESS }
}

/// `cuDriverGetVersion`, which needs no `cuInit`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(out: *mut c_int) -> u32 {
    let _call = called("cuDriverGetVersion");
    // SAFETY: the caller's promise.
    answer(unsafe { put(out, start().config.driver as c_int) })
}

fn check(device: c_int) -> Answer {
    let driver = driver()?;
    if (0..driver.config.count as c_int).contains(&device) { Ok(()) } else { Err(ERROR_INVALID_DEVICE) }
}

/// `cuDeviceGetCount`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(out: *mut c_int) -> u32 {
    let _call = called("cuDeviceGetCount");
    // SAFETY: the caller's promise.
    answer(driver().and_then(|d| unsafe { put(out, d.config.count as c_int) }))
}

/// `cuDeviceGet`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(out: *mut c_int, ordinal: c_int) -> u32 {
    let _call = called("cuDeviceGet");
    // SAFETY: the caller's promise.
    answer(check(ordinal).and_then(|()| unsafe { put(out, ordinal) }))
}

/// `cuDeviceGetName`.
///
/// # Safety
/// `out` must be writable for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(out: *mut c_char, length: c_int, device: c_int) -> u32 {
    let _call = called("cuDeviceGetName");
    answer(check(device).and_then(|()| {
        let capability = driver()?.config.chip.capability;
        let name = format!("Virtual GPU sm_{capability}");
        if out.is_null() || length < 1 {
            return Err(ERROR_INVALID_VALUE);
        }
        let kept = name.len().min(length as usize - 1);
        // SAFETY: `kept + 1` is at most `length`.
        unsafe {
            std::ptr::copy_nonoverlapping(name.as_ptr().cast(), out, kept);
            *out.add(kept) = 0;
        }
        Ok(())
    }))
}

/// `cuDeviceGetUuid`.
///
/// # Safety
/// `out` must be writable for sixteen bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(out: *mut [u8; 16], device: c_int) -> u32 {
    let _call = called("cuDeviceGetUuid_v2");
    let mut uuid = *b"virtual-gpu-0000";
    uuid[15] += device as u8;
    // SAFETY: the caller's promise.
    answer(check(device).and_then(|()| unsafe { put(out, uuid) }))
}

/// The older name of [`cuDeviceGetUuid_v2`].
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid(out: *mut [u8; 16], device: c_int) -> u32 {
    let _call = called("cuDeviceGetUuid");
    // SAFETY: the caller's promise.
    unsafe { cuDeviceGetUuid_v2(out, device) }
}

/// `cuDeviceTotalMem`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(out: *mut usize, device: c_int) -> u32 {
    let _call = called("cuDeviceTotalMem_v2");
    // SAFETY: the caller's promise.
    answer(check(device).and_then(|()| unsafe { put(out, driver()?.config.memory as usize) }))
}

/// `cuDeviceGetAttribute`.
///
/// # Safety
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(out: *mut c_int, attribute: c_uint, device: c_int) -> u32 {
    let _call = called("cuDeviceGetAttribute");
    answer(check(device).and_then(|()| {
        let driver = driver()?;
        let chip = driver.config.chip;
        let value: u32 = match attribute {
            1..=3 => [1024, 1024, 64][attribute as usize - 1],
            4 => 0xffff,
            5 => 0x7fff_ffff,
            6 | 7 => 0xffff,
            8 => 48 * 1024,
            9 => 64 * 1024,
            10 => 32,
            11 => 0x7fff_ffff,
            12 | 82 => 65536,
            13 => 1_755_000,
            14 => 512,
            15 | 19 | 31 | 40 | 41 | 78 | 79 | 80 | 90 | 95 => 1,
            16 => chip.sms,
            17 | 18 | 20 | 32 | 34 | 35 | 50 => 0,
            33 => 1 + device as u32,
            36 => 2_619_000,
            37 => 5120,
            38 => chip.l2,
            39 => chip.threads_sm,
            75 => chip.capability / 10,
            76 => chip.capability % 10,
            81 => chip.shared_sm,
            // Managed memory, many boards, host atomics, pageable access, stream memory operations, pools.
            83..=86 | 88 | 89 | 91..=94 | 96 | 98..=105 | 107..=110 | 112..=119 => 0,
            87 => 2,
            97 => chip.shared_block,
            106 => chip.blocks_sm,
            111 => SHARED_BASE,
            _ => {
                driver.complain(&format!("cuDeviceGetAttribute of attribute {attribute} is not supported"));
                return Err(ERROR_INVALID_VALUE);
            }
        };
        // SAFETY: the caller's promise.
        unsafe { put(out, value as c_int) }
    }))
}

/// `cuDeviceComputeCapability`.
///
/// # Safety
/// Both must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceComputeCapability(
    major: *mut c_int,
    minor: *mut c_int,
    device: c_int,
) -> u32 {
    let _call = called("cuDeviceComputeCapability");
    answer(check(device).and_then(|()| {
        let capability = driver()?.config.chip.capability as c_int;
        // SAFETY: the caller's promise.
        unsafe {
            put(major, capability / 10)?;
            put(minor, capability % 10)
        }
    }))
}
