//! The driver under other settings: chips, memory, devices, versions. They are read once, so each case runs in a
//! process of its own, which is this program again with one of the ignored tests.

mod common;

use common::{around, kernel, shape};
use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUresult};
use cudarc::driver::{CudaContext, DriverError, PushKernelArg as _};
use cudarc::nvrtc::Ptx;

/// Runs the ignored test `name` under these settings.
fn under(name: &str, settings: &[(&str, &str)]) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--ignored", "--nocapture"]);
    for (setting, value) in settings {
        command.env(format!("PR_LSTM_VIRTUAL_GPU_{setting}"), value);
    }
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("1 passed"), "{name}: {text}");
}

fn code<T>(result: Result<T, DriverError>) -> CUresult {
    match result {
        Ok(_) => CUresult::CUDA_SUCCESS,
        Err(DriverError(code)) => code,
    }
}

fn context(ordinal: usize) -> Result<std::sync::Arc<CudaContext>, DriverError> {
    virtual_gpu::load().unwrap();
    CudaContext::new(ordinal)
}

#[test]
fn a_setting_that_is_not_understood_ends_the_program() {
    for (setting, value) in [("CHIP", "h100"), ("MEMORY", "12X"), ("COUNT", "two")] {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command
            .args(["little_memory", "--exact", "--ignored"])
            .env(format!("PR_LSTM_VIRTUAL_GPU_{setting}"), value);
        let out = command.output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr);
        let words = format!("PR_LSTM_VIRTUAL_GPU_{setting}: '{value}' is not understood");
        assert!(!out.status.success() && text.contains(&words), "{text}");
    }
}

#[test]
fn other_settings() {
    under("an_old_chip", &[("CHIP", "sm_75")]);
    under("a_small_chip", &[("CHIP", "sm_86"), ("SMS", "20")]);
    under("a_newer_chip", &[("CHIP", "sm_103")]);
    under("dependent_launches", &[("CHIP", "sm_90")]);
    under("an_old_driver", &[("DRIVER", "11080")]);
    under("little_memory", &[("MEMORY", "16M")]);
    under("three_devices", &[("COUNT", "3"), ("MEMORY", "64M")]);
    under("no_device", &[("COUNT", "0")]);
}

#[test]
#[ignore = "run by the test of this file in a process of its own"]
fn an_old_chip() {
    let context = context(0).unwrap();
    assert_eq!(context.compute_capability().unwrap(), (7, 5));
    let most = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN).unwrap();
    assert_eq!(most, 64 * 1024);
    // The driver's compiler does not read PTX of a newer chip; a binary of one is no image for this chip.
    assert_eq!(code(context.load_module(Ptx::from_src(around("")))), CUresult::CUDA_ERROR_INVALID_PTX);
    assert!(virtual_gpu::last_error().contains("sm_80 on a chip sm_75"));
    let old = around("").replace("sm_80", "sm_75");
    assert_eq!(code(context.load_module(Ptx::from_src(old))), CUresult::CUDA_SUCCESS);
}

#[test]
#[ignore = "run by the test of this file in a process of its own"]
fn a_small_chip() {
    let context = context(0).unwrap();
    assert_eq!(context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).unwrap(), 20);
    let f = kernel(&context, &around(""), "k");
    use cudarc::driver::sys::CUfunction_attribute_enum as F;
    let dynamic = F::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert_eq!(code(f.set_attribute(dynamic, 99 * 1024)), CUresult::CUDA_SUCCESS);
    assert_eq!(code(f.set_attribute(dynamic, 99 * 1024 + 1)), CUresult::CUDA_ERROR_INVALID_VALUE);
    let stream = context.new_stream().unwrap();
    let launch = |blocks, together: bool| {
        let (a, b) = (0u64, 0u64);
        let mut launch = stream.launch_builder(&f);
        launch.arg(&a).arg(&b);
        let shape = shape(blocks, 1024, 0);
        // SAFETY: the kernel touches no memory.
        code(unsafe { if together { launch.launch_cooperative(shape) } else { launch.launch(shape) } })
    };
    // 1536 threads of a multiprocessor hold one block of 1024.
    assert_eq!(launch(20, true), CUresult::CUDA_SUCCESS);
    assert_eq!(launch(21, true), CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
    assert_eq!(launch(21, false), CUresult::CUDA_SUCCESS);
}

#[test]
#[ignore = "run by the test of this file in a process of its own"]
fn a_newer_chip() {
    let context = context(0).unwrap();
    assert_eq!(context.compute_capability().unwrap(), (10, 3));
    let load = |target: &str| code(context.load_module(Ptx::from_src(around("").replace("sm_80", target))));
    assert_eq!(load("sm_80"), CUresult::CUDA_SUCCESS);
    // PTX for one chip alone is for no other.
    assert_eq!(load("sm_90a"), CUresult::CUDA_ERROR_INVALID_PTX);
}

/// A launch that may begin before the one before it has ended reads its results only after it waited for it.
#[test]
#[ignore = "run by the test of this file in a process of its own"]
fn dependent_launches() {
    use cudarc::driver::{DevicePtr as _, sys};
    virtual_gpu::load().unwrap();
    let text = |body: &str| around(body).replace("sm_80", "sm_90");
    let first = "st.global.u32 [%rd1], %r0;\ngriddepcontrol.launch_dependents;";
    let use_it = "ld.global.u32 %r1, [%rd0];\nst.global.u32 [%rd1], %r1;";
    let wait = format!("griddepcontrol.wait;\n{use_it}");
    // One warp waits, a barrier tells the other.
    let tell = format!(
        "setp.gt.u32 %p1, %r0, 31;\n@%p1 bra B;\ngriddepcontrol.wait;\nB:\nbar.sync 0;\n@!%p1 bra E;\n{use_it}\nE:"
    );
    let over = "st.global.u32 [%rd0], 7;";
    let own = "ld.global.u32 %r1, [%rd1];\ngriddepcontrol.wait;\nst.global.u32 [%rd0], %r1;";
    for (second, programmatic, between, fails) in [
        (use_it, true, false, true),
        (over, true, false, true),
        (&wait, true, false, false),
        (&tell, true, false, false),
        (own, true, false, false),
        (use_it, false, false, false),
        (use_it, true, true, false),
    ] {
        let context = CudaContext::new(0).unwrap();
        // SAFETY: one stream.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        let f = kernel(&context, &text(first), "k");
        let mut buffer = stream.alloc_zeros::<u32>(4).unwrap();
        let out = stream.alloc_zeros::<u32>(4).unwrap();
        let (from, to) = (buffer.device_ptr(&stream).0, out.device_ptr(&stream).0);
        let mut launch = stream.launch_builder(&f);
        launch.arg(&from).arg(&from);
        // SAFETY: the kernel writes one word.
        unsafe { launch.launch(shape(1, 1, 0)) }.unwrap();
        if between {
            stream.memset_zeros(&mut buffer).unwrap();
        }
        // SAFETY: plain data of the driver's own types; pointers live until the call returns.
        let answer = unsafe {
            let module = std::ffi::CString::new(text(second)).unwrap();
            let (mut m, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
            sys::cuModuleLoadData(&mut m, module.as_ptr().cast()).result().unwrap();
            sys::cuModuleGetFunction(&mut function, m, c"k".as_ptr()).result().unwrap();
            let mut attribute: sys::CUlaunchAttribute = std::mem::zeroed();
            attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            attribute.value.programmaticStreamSerializationAllowed = i32::from(programmatic);
            let mut config: sys::CUlaunchConfig = std::mem::zeroed();
            (config.gridDimX, config.gridDimY, config.gridDimZ) = (1, 1, 1);
            (config.blockDimX, config.blockDimY, config.blockDimZ) =
                (if second == tell { 64 } else { 1 }, 1, 1);
            (config.hStream, config.attrs, config.numAttrs) = (stream.cu_stream(), &mut attribute, 1);
            let mut arguments = [(&raw const from).cast_mut().cast(), (&raw const to).cast_mut().cast()];
            sys::cuLaunchKernelEx(&config, function, arguments.as_mut_ptr(), std::ptr::null_mut()).result()
        };
        answer.unwrap();
        let result = code(stream.synchronize());
        if fails {
            assert_eq!(result, CUresult::CUDA_ERROR_LAUNCH_FAILED, "{second}");
            assert!(
                virtual_gpu::last_error().contains("griddepcontrol.wait is missing"),
                "{}",
                virtual_gpu::last_error()
            );
        } else {
            assert_eq!(result, CUresult::CUDA_SUCCESS, "{second}: {}", virtual_gpu::last_error());
        }
    }
}

#[test]
#[ignore = "run by the test of this file in a process of its own"]
fn an_old_driver() {
    let context = context(0).unwrap();
    let load = |version: &str| code(context.load_module(Ptx::from_src(around("").replace("8.0", version))));
    assert_eq!(load("7.8"), CUresult::CUDA_SUCCESS);
    assert_eq!(load("8.0"), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
}

#[test]
#[ignore = "run by the test of this file in a process of its own"]
fn little_memory() {
    let context = context(0).unwrap();
    let stream = context.new_stream().unwrap();
    assert_eq!(context.total_mem().unwrap(), 16 << 20);
    let half = stream.alloc_zeros::<u8>(8 << 20).unwrap();
    let more = stream.alloc_zeros::<u8>((8 << 20) + 1);
    assert_eq!(code(more), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    let rest = stream.alloc_zeros::<u8>(8 << 20).unwrap();
    assert_eq!(context.mem_get_info().unwrap().0, 0);
    drop((half, rest));
    // Much more than there is, in turn: what was given back can be had again.
    for _ in 0..40 {
        drop(stream.alloc_zeros::<u8>(15 << 20).unwrap());
    }
    assert_eq!(virtual_gpu::allocations(), 0);
}

#[test]
#[ignore = "run by the test of this file in a process of its own"]
fn three_devices() {
    let (first, third) = (context(0).unwrap(), context(2).unwrap());
    assert_eq!(code(context(3)), CUresult::CUDA_ERROR_INVALID_DEVICE);
    assert_eq!(CudaContext::device_count().unwrap(), 3);
    assert_ne!(first.uuid().unwrap().bytes, third.uuid().unwrap().bytes);
    let (here, there) = (first.new_stream().unwrap(), third.new_stream().unwrap());
    let f = kernel(&first, &around("ld.global.u32 %r1, [%rd0];\nst.global.u32 [%rd1], %r1;"), "k");
    let (own, other) = (here.alloc_zeros::<u32>(4).unwrap(), there.alloc_zeros::<u32>(4).unwrap());
    use cudarc::driver::DevicePtr as _;
    let launch = |from: u64| {
        let to = own.device_ptr(&here).0;
        let mut launch = here.launch_builder(&f);
        launch.arg(&from).arg(&to);
        // SAFETY: the driver checks every address.
        unsafe { launch.launch(shape(1, 1, 0)) }.unwrap();
        code(here.synchronize())
    };
    assert_eq!(launch(own.device_ptr(&here).0), CUresult::CUDA_SUCCESS);
    // Memory of another device is not there, and its context is none the worse for it.
    assert_eq!(launch(other.device_ptr(&there).0), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(code(there.synchronize()), CUresult::CUDA_SUCCESS);
}

#[test]
#[ignore = "run by the test of this file in a process of its own"]
fn no_device() {
    assert_eq!(code(context(0)), CUresult::CUDA_ERROR_NO_DEVICE);
}
