//! How fast the virtual GPU is. Prints; run it with `--ignored --nocapture`.

mod common;

use common::{alone, device, kernel};
use cudarc::driver::{LaunchConfig, PushKernelArg as _};

#[test]
#[ignore = "prints the speed of the interpreter and asserts nothing: run by hand"]
fn a_product_of_1024_rows() {
    let _alone = alone();
    let (context, stream) = device();
    let f = kernel(&context, include_str!("cuda/gemm.ptx"), "gemm");
    let (m, n, k) = (1024i32, 1280i32, 512i32);
    let a = stream.alloc_zeros::<u16>((m * k) as usize).unwrap();
    let b = stream.alloc_zeros::<u16>((k * n) as usize).unwrap();
    let mut c = stream.alloc_zeros::<f32>((m * n) as usize).unwrap();
    let grid_dim = (n as u32 / 64, m as u32 / 64, 1);
    for _ in 0..3 {
        let mut launch = stream.launch_builder(&f);
        launch.arg(&a).arg(&b).arg(&mut c).arg(&m).arg(&n).arg(&k);
        let config = LaunchConfig { grid_dim, block_dim: (128, 1, 1), shared_mem_bytes: 16384 };
        let begin = std::time::Instant::now();
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.launch(config) }.unwrap();
        stream.synchronize().unwrap();
        let (seconds, counts) = (begin.elapsed().as_secs_f64(), virtual_gpu::counts());
        println!(
            "{seconds:.3} s: {:.2} G lane-instructions, {:.1} M mma, {:.1} M warp instructions a second",
            counts["lane_instructions"] / seconds / 1e9,
            counts["mma"] / seconds / 1e6,
            counts["instructions"] / seconds / 1e6
        );
    }
}
