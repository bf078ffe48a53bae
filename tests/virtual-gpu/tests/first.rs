//! The driver through unmodified `cudarc`: vectors, and a product with `cp.async`, `ldmatrix` and `mma.sync`.

mod common;

use common::{alone, device, kernel, shape};
use cudarc::driver::{LaunchConfig, PushKernelArg as _};
use half::bf16;

const GEMM: &str = include_str!("cuda/gemm.ptx");

#[test]
fn vectors_are_added() {
    let _alone = alone();
    let (context, stream) = device();
    let f = kernel(&context, GEMM, "vector_add");
    let n = 1000;
    let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let b: Vec<f32> = (0..n).map(|i| (i * i) as f32).collect();
    let (da, db) = (stream.clone_htod(&a).unwrap(), stream.clone_htod(&b).unwrap());
    let mut dc = stream.alloc_zeros::<f32>(n as usize).unwrap();
    let mut launch = stream.launch_builder(&f);
    launch.arg(&da).arg(&db).arg(&mut dc).arg(&n);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(shape(8, 128, 0)) }.unwrap();
    stream.synchronize().unwrap_or_else(|e| panic!("{e}: {}", virtual_gpu::last_error()));
    let c = stream.clone_dtoh(&dc).unwrap();
    assert!((0..n as usize).all(|i| c[i] == a[i] + b[i]));
    assert_eq!(virtual_gpu::counts()["sectors"], 3.0 * 125.0);
}

fn product(m: usize, n: usize, k: usize) {
    let (context, stream) = device();
    let f = kernel(&context, GEMM, "gemm");
    let small = |i: usize| bf16::from_f32(((i * 2654435761) >> 7) as u32 as f32 % 7.0 - 3.0);
    let a: Vec<bf16> = (0..m * k).map(small).collect();
    let b: Vec<bf16> = (0..k * n).map(|i| small(i + 12345)).collect();
    let (da, db) = (stream.clone_htod(&a).unwrap(), stream.clone_htod(&b).unwrap());
    // SAFETY: poisoned right below.
    let mut dc = unsafe { stream.alloc::<f32>(m * n) }.unwrap();
    stream.memcpy_htod(&vec![f32::NAN; m * n], &mut dc).unwrap();
    let config = LaunchConfig {
        grid_dim: (n as u32 / 64, m.div_ceil(64) as u32, 1),
        block_dim: (128, 1, 1),
        shared_mem_bytes: 2 * (64 + 64) * 32 * 2,
    };
    let mut launch = stream.launch_builder(&f);
    let (mi, ni, ki) = (m as i32, n as i32, k as i32);
    launch.arg(&da).arg(&db).arg(&mut dc).arg(&mi).arg(&ni).arg(&ki);
    virtual_gpu::launches();
    let begin = std::time::Instant::now();
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(config) }.unwrap();
    stream.synchronize().unwrap_or_else(|e| panic!("{e}: {}", virtual_gpu::last_error()));
    let seconds = begin.elapsed().as_secs_f64();
    let c = stream.clone_dtoh(&dc).unwrap();
    for row in 0..m {
        for column in 0..n {
            let sum: f32 = (0..k).map(|i| a[row * k + i].to_f32() * b[i * n + column].to_f32()).sum();
            assert_eq!(c[row * n + column], sum, "row {row}, column {column}");
        }
    }
    let counts = virtual_gpu::counts();
    let launches = virtual_gpu::launches();
    assert_eq!(launches.len(), 1, "{launches:?}");
    assert_eq!(
        (&*launches[0].kernel, launches[0].blocks, &launches[0].counts),
        ("gemm", (n / 64 * m.div_ceil(64)) as u32, &counts)
    );
    println!(
        "{m}×{n}×{k}: {seconds:.3} s, {:.2} G lane-instructions a second; {counts:?}",
        counts["lane_instructions"] / seconds / 1e9
    );
    assert_eq!(counts["mma"], (m.div_ceil(64) * 4 * (n / 8) * (k / 16)) as f64);
    assert_eq!(counts["wavefronts"], counts["wavefronts_ideal"]);
    assert_eq!(counts["sectors"], counts["sectors_ideal"]);
}

#[test]
fn a_product_of_small_integers_is_exact() {
    let _alone = alone();
    product(64, 64, 32);
    product(130, 128, 160);
    product(512, 512, 512);
}

#[test]
fn a_product_is_the_same_in_shuffled_orders() {
    let _alone = alone();
    virtual_gpu::load().unwrap();
    for seed in 1..11 {
        virtual_gpu::set("seed", seed);
        product(130, 64, 96);
    }
    virtual_gpu::set("seed", 0);
}
