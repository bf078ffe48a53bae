//! What the tests share.
#![allow(dead_code)]

use cudarc::driver::{CudaContext, CudaFunction, CudaStream, LaunchConfig};
use cudarc::nvrtc::Ptx;
use std::sync::{Arc, Mutex, MutexGuard};

/// Tests of one program share a device and its last error: one at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// The device, its stream, freshly made.
pub fn device() -> (Arc<CudaContext>, Arc<CudaStream>) {
    virtual_gpu::load().expect("the virtual GPU was built with the tests");
    let context = CudaContext::new(0).expect("a device");
    // SAFETY: the tests use one stream at a time.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().expect("a stream");
    (context, stream)
}

/// A kernel of a PTX text.
pub fn kernel(context: &Arc<CudaContext>, ptx: &str, name: &str) -> CudaFunction {
    let module = context.load_module(Ptx::from_src(ptx)).expect("the PTX loads");
    module.load_function(name).unwrap_or_else(|e| panic!("{e}: {}", virtual_gpu::last_error()))
}

/// Blocks and threads along one axis.
pub fn shape(blocks: u32, threads: u32, shared: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: shared }
}

/// A kernel around a body of PTX, with the pointers `%rd0` (in) and `%rd1` (out) and `%r0` = tid.
pub fn around(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 a, .param .u64 b)\n{{\n\
         .reg .pred %p<20>;\n.reg .b16 %h<40>;\n.reg .b32 %r<60>;\n.reg .f32 %f<60>;\n.reg .b64 %rd<60>;\n.reg .f64 %d<20>;\n\
         ld.param.u64 %rd0, [a];\nld.param.u64 %rd1, [b];\nmov.u32 %r0, %tid.x;\n{body}\nret;\n}}\n"
    )
}
