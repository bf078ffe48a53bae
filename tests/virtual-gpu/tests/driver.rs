//! The driver's own manners: refusals, captures, graphs, memory, limits.

mod common;

use common::{alone, around, device, kernel, shape};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode as Mode};
use cudarc::driver::{CudaContext, DriverError, PushKernelArg as _, sys};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;

const PLANTED: &str = include_str!("cuda/planted.ptx");

fn code<T>(result: Result<T, DriverError>) -> CUresult {
    match result {
        Ok(_) => CUresult::CUDA_SUCCESS,
        Err(DriverError(code)) => code,
    }
}

#[test]
fn what_the_device_says_of_itself() {
    let _alone = alone();
    let (context, _stream) = device();
    assert_eq!(context.compute_capability().unwrap(), (8, 0));
    assert_eq!(context.name().unwrap(), "Virtual GPU sm_80");
    assert_eq!(context.total_mem().unwrap(), 4 << 30);
    assert!(!context.has_async_alloc());
    use sys::CUdevice_attribute as A;
    assert_eq!(context.attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).unwrap(), 108);
    let most = context.attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN).unwrap();
    assert_eq!(most, 163 * 1024);
    assert_eq!(code(CudaContext::new(7)), CUresult::CUDA_ERROR_INVALID_DEVICE);
}

#[test]
fn images_that_are_not_for_this_chip() {
    let _alone = alone();
    let (context, _stream) = device();
    let load = |text: &str| code(context.load_module(Ptx::from_src(text)));
    let mut elf = b"\x7fELF".to_vec();
    elf.extend_from_slice(&[1; 60]);
    let binary = context.load_module(Ptx::from_binary(elf));
    assert_eq!(code(binary), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    let text = around("");
    assert_eq!(load(&text), CUresult::CUDA_SUCCESS);
    assert_eq!(load(&text.replace("sm_80", "sm_90")), CUresult::CUDA_ERROR_INVALID_PTX);
    assert_eq!(load(&text.replace("8.0", "9.9")), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    assert_eq!(load(&text.replace("ret;", "ret")), CUresult::CUDA_ERROR_INVALID_PTX);
    let module = context.load_module(Ptx::from_src(text)).unwrap();
    assert_eq!(code(module.load_function("other")), CUresult::CUDA_ERROR_NOT_FOUND);
}

#[test]
fn an_unknown_instruction_is_named() {
    let _alone = alone();
    let (context, _stream) = device();
    let text = around("wgmma.fence.sync.aligned;");
    let module = context.load_module(Ptx::from_src(text)).unwrap();
    assert_eq!(code(module.load_function("k")), CUresult::CUDA_ERROR_NOT_SUPPORTED);
    let error = virtual_gpu::last_error();
    assert!(error.contains("wgmma.fence.sync.aligned") && error.contains("line "), "{error}");
}

#[test]
fn memory_ends_and_comes_back() {
    let _alone = alone();
    let (context, stream) = device();
    let (free, total) = context.mem_get_info().unwrap();
    assert_eq!(free, total);
    // SAFETY: never touched.
    let big = unsafe { stream.alloc::<u8>(3 << 30) }.unwrap();
    let second = stream.alloc_zeros::<u8>(2 << 30);
    assert_eq!(code(second), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    drop(big);
    assert_eq!(context.mem_get_info().unwrap().0, total);
}

#[test]
fn limits_of_a_launch() {
    let _alone = alone();
    let (context, stream) = device();
    let f = kernel(&context, &around(""), "k");
    let (a, b) = (0u64, 0u64);
    let launch = |config, together: bool| {
        let mut launch = stream.launch_builder(&f);
        launch.arg(&a).arg(&b);
        // SAFETY: the kernel touches no memory.
        code(unsafe { if together { launch.launch_cooperative(config) } else { launch.launch(config) } })
    };
    assert_eq!(launch(shape(1, 1024, 0), false), CUresult::CUDA_SUCCESS);
    assert_eq!(launch(shape(1, 1025, 0), false), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(shape(0, 32, 0), false), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(shape(1, 32, 100_000), false), CUresult::CUDA_ERROR_INVALID_VALUE);
    use sys::CUfunction_attribute_enum as F;
    let dynamic = F::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert_eq!(code(f.set_attribute(dynamic, 200_000)), CUresult::CUDA_ERROR_INVALID_VALUE);
    f.set_attribute(dynamic, 100_000).unwrap();
    assert_eq!(launch(shape(1, 32, 100_000), false), CUresult::CUDA_SUCCESS);
    let each = f.occupancy_max_active_blocks_per_multiprocessor(128, 100_000, None).unwrap();
    assert_eq!(each, 1);
    assert_eq!(launch(shape(108, 32, 100_000), true), CUresult::CUDA_SUCCESS);
    let many = launch(shape(109, 32, 100_000), true);
    assert_eq!(many, CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
    stream.synchronize().unwrap();
}

#[test]
fn a_graph_repeats_what_was_captured() {
    let _alone = alone();
    let (context, stream) = device();
    let f = kernel(&context, PLANTED, "ok_uninitialised_global");
    let input: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let mut input = stream.clone_htod(&input).unwrap();
    let mut output = stream.alloc_zeros::<f32>(64).unwrap();
    let n = 3i32;
    stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    let mut launch = stream.launch_builder(&f);
    launch.arg(&input).arg(&mut output).arg(&n);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(shape(1, 64, 0)) }.unwrap();
    let status = stream.capture_status().unwrap();
    assert_eq!(status, sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().expect("a graph");
    assert_eq!(stream.clone_dtoh(&output).unwrap(), vec![0.0; 64], "captured, not run");
    graph.upload().unwrap();
    graph.launch().unwrap();
    assert_eq!(stream.clone_dtoh(&output).unwrap()[10], 30.0);
    stream.memcpy_htod(&[2f32; 64], &mut input).unwrap();
    graph.launch().unwrap();
    assert_eq!(stream.clone_dtoh(&output).unwrap(), vec![6.0; 64]);
}

#[test]
fn a_capture_forbids_what_a_card_does() {
    let _alone = alone();
    let (context, stream) = device();
    let mut buffer = stream.alloc_zeros::<f32>(64).unwrap();
    let begin = |mode| stream.begin_capture(mode).unwrap();
    let end = || code(stream.end_capture(CUgraphInstantiate_flags(0)));
    let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    let spoiled = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;

    begin(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL);
    assert_eq!(code(stream.synchronize()), unsupported);
    assert_eq!(code(stream.memset_zeros(&mut buffer)), spoiled);
    assert_eq!(end(), spoiled);

    begin(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL);
    // SAFETY: never touched.
    assert_eq!(code(unsafe { stream.alloc::<f32>(16) }), unsupported);
    assert_eq!(end(), spoiled);

    begin(Mode::CU_STREAM_CAPTURE_MODE_RELAXED);
    // SAFETY: never touched.
    let taken = unsafe { stream.alloc::<f32>(16) };
    assert_eq!(code(stream.memset_zeros(&mut buffer)), CUresult::CUDA_SUCCESS);
    assert_eq!(end(), CUresult::CUDA_SUCCESS);
    drop(taken.unwrap());

    begin(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    let other = Arc::clone(&context);
    std::thread::spawn(move || {
        let stream = other.default_stream();
        drop(stream.alloc_zeros::<f32>(16).expect("another thread may allocate"));
    })
    .join()
    .unwrap();
    assert_eq!(end(), CUresult::CUDA_SUCCESS);

    // Another stream takes part through events, and must be joined again.
    begin(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL);
    let outside = context.new_event(None).unwrap();
    assert_eq!(code(stream.wait(&outside)), CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    assert_eq!(end(), spoiled);
    let second = context.new_stream().unwrap();
    begin(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL);
    second.join(&stream).unwrap();
    second.memset_zeros(&mut buffer).unwrap();
    assert_eq!(end(), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    begin(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL);
    second.join(&stream).unwrap();
    second.memset_zeros(&mut buffer).unwrap();
    stream.join(&second).unwrap();
    assert_eq!(end(), CUresult::CUDA_SUCCESS);
    stream.synchronize().unwrap();
}

/// What the host does between two copies from pinned memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Between {
    WaitForEvent,
    AskEvent,
    WaitForStream,
    WaitForAnotherStream,
    WaitForAnEarlierEvent,
    Nothing,
    GiveBack,
}

#[test]
fn pinned_memory_is_written_once_its_copy_has_ended() {
    use Between::*;
    let _alone = alone();
    for between in [
        WaitForEvent,
        AskEvent,
        WaitForStream,
        WaitForAnotherStream,
        WaitForAnEarlierEvent,
        Nothing,
        GiveBack,
    ] {
        let (context, stream) = device();
        let other = context.new_stream().unwrap();
        let [early, event] = [(); 2].map(|()| context.new_event(None).unwrap());
        // SAFETY: written before it is read.
        let mut pinned = unsafe { context.alloc_pinned::<u32>(64) }.unwrap();
        pinned.as_mut_slice().unwrap().fill(7);
        let mut memory = stream.alloc_zeros::<u32>(64).unwrap();
        let copy = |pinned: *const u32, memory: &mut cudarc::driver::CudaSlice<u32>| {
            use cudarc::driver::DevicePtrMut as _;
            let (to, _guard) = memory.device_ptr_mut(&stream);
            // SAFETY: both are of 64 words; whether the host leaves them alone is what is tested.
            unsafe {
                let words = std::slice::from_raw_parts(pinned, 64);
                cudarc::driver::result::memcpy_htod_async(to, words, stream.cu_stream())
            }
        };
        let start = pinned.as_mut_ptr().unwrap();
        early.record(&stream).unwrap();
        copy(start, &mut memory).unwrap();
        event.record(&stream).unwrap();
        match between {
            WaitForEvent => event.synchronize().unwrap(),
            AskEvent => assert!(event.is_complete()),
            WaitForStream => stream.synchronize().unwrap(),
            WaitForAnotherStream => other.synchronize().unwrap(),
            WaitForAnEarlierEvent => early.synchronize().unwrap(),
            Nothing => {}
            GiveBack => {
                // It waits for an event of its own, which is not recorded behind this copy.
                drop(pinned);
                assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
                assert!(virtual_gpu::last_error().contains("given back while it was copied"));
                continue;
            }
        }
        // SAFETY: the last of the words, which live on.
        unsafe { start.add(63).write(8) };
        let second = code(copy(start, &mut memory));
        if [WaitForEvent, AskEvent, WaitForStream].contains(&between) {
            assert_eq!(second, CUresult::CUDA_SUCCESS, "{between:?}");
            assert_eq!(stream.clone_dtoh(&memory).unwrap()[62..], [7, 8]);
        } else {
            assert_eq!(second, CUresult::CUDA_ERROR_LAUNCH_FAILED, "{between:?}");
            let error = virtual_gpu::last_error();
            assert!(error.contains("written before the copy from it had ended"), "{error}");
        }
        // The memory is given back after its last copy.
        let _ = stream.synchronize();
    }
}

#[test]
fn errors_have_names() {
    let _alone = alone();
    let (_context, _stream) = device();
    let error = DriverError(CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
    assert_eq!(error.error_name().unwrap().to_str(), Ok("CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE"));
    assert_eq!(error.error_string().unwrap().to_str(), Ok("too many blocks in cooperative launch"));
}

#[test]
fn a_program_finds_the_driver_and_reports_its_launches() {
    let _alone = alone();
    let (context, stream) = device();
    let f = kernel(&context, &around(""), "k");
    let path = std::env::temp_dir().join(format!("virtual-gpu-report-{}", std::process::id()));
    // SAFETY: tests run one at a time, and nothing else of this program reads the variable.
    unsafe { std::env::set_var("PR_LSTM_VIRTUAL_GPU_REPORT", &path) };
    let (a, b) = (0u64, 0u64);
    for _ in 0..2 {
        let mut launch = stream.launch_builder(&f);
        launch.arg(&a).arg(&b);
        // SAFETY: the kernel touches no memory.
        unsafe { launch.launch(shape(3, 64, 0)) }.unwrap();
    }
    // SAFETY: as above.
    unsafe { std::env::remove_var("PR_LSTM_VIRTUAL_GPU_REPORT") };
    let table = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let lines: Vec<Vec<&str>> = table.lines().map(|l| l.split('\t').collect()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0][..5], ["kernel", "grid", "block", "shared", "instructions"]);
    assert_eq!(lines[1][..5], ["k", "3x1x1", "64x1x1", "0", "24"]);
    let folder = virtual_gpu::directory().unwrap();
    assert!(folder.join("libcuda.so").exists() && folder.join("libcuda.so.1").exists());
}

#[test]
fn calls_are_counted_by_name() {
    let _alone = alone();
    let (context, stream) = device();
    let f = kernel(&context, &around(""), "k");
    let buffer = stream.alloc_zeros::<f32>(64).unwrap();
    virtual_gpu::calls();
    let (a, b) = (0u64, 0u64);
    for _ in 0..3 {
        let mut launch = stream.launch_builder(&f);
        launch.arg(&a).arg(&b);
        // SAFETY: the kernel touches no memory.
        unsafe { launch.launch(shape(1, 32, 0)) }.unwrap();
    }
    let mut calls = virtual_gpu::calls();
    // Which context is current is asked and said before every call.
    calls.retain(|name, _| !name.starts_with("cuCtx"));
    assert_eq!(calls.into_iter().collect::<Vec<_>>(), [("cuLaunchKernel".to_owned(), 3)]);
    assert_eq!(virtual_gpu::calls().len(), 0, "an ask begins anew");
    drop(buffer);
    stream.synchronize().unwrap();
    // Memory that was not taken in a stream's order is given back once the stream is done.
    let mut calls = virtual_gpu::calls();
    calls.retain(|name, _| !name.starts_with("cuCtx"));
    let expected = [("cuMemFree_v2".to_owned(), 1), ("cuStreamSynchronize".to_owned(), 2)];
    assert_eq!(calls.into_iter().collect::<Vec<_>>(), expected);
    // A call that this driver answers through another one is one call.
    // SAFETY: a stream that is alive.
    unsafe { sys::cuStreamQuery(stream.cu_stream()).result() }.unwrap();
    assert_eq!(virtual_gpu::calls().into_iter().collect::<Vec<_>>(), [("cuStreamQuery".to_owned(), 1)]);
}
