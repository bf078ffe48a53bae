//! What a card computes where the manual leaves it open, against what the virtual GPU does. `card/numerics.cu` wrote the
//! files on an H200 (sm_90, CUDA 13.0).

mod common;

use common::{alone, around, device, kernel, shape};
use cudarc::driver::PushKernelArg as _;

const PRODUCTS: &[u8] = include_bytes!("card/h200-mma.bin");
const TANHS: &[u8] = include_bytes!("card/h200-tanh.bin");

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
}

/// Words of a trial: A, B, C and D, each lane by lane.
const TRIAL: usize = 32 * (4 + 2 + 4 + 4);

/// Runs `body` on so many blocks of a warp, which write as many words each.
fn run(body: &str, input: &[u32], blocks: usize, words: usize) -> Vec<u32> {
    let (context, stream) = device();
    let f = kernel(&context, &around(body), "k");
    let input = stream.clone_htod(input).unwrap();
    let mut output = stream.alloc_zeros::<u32>(blocks * words).unwrap();
    let mut launch = stream.launch_builder(&f);
    launch.arg(&input).arg(&mut output);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(shape(blocks as u32, 32, 0)) }.unwrap();
    stream.synchronize().unwrap_or_else(|e| panic!("{e}: {}", virtual_gpu::last_error()));
    stream.clone_dtoh(&output).unwrap()
}

#[test]
fn products_are_those_of_an_h200() {
    let _alone = alone();
    let trials = words(PRODUCTS);
    let (bf16, f16) = trials.split_at(trials.len() / 2);
    for (name, trials) in [("bf16", bf16), ("f16", f16)] {
        let body = format!(
            "mov.u32 %r1, %ctaid.x;\n\
             mul.wide.u32 %rd2, %r1, {bytes};\nadd.s64 %rd2, %rd0, %rd2;\n\
             mul.wide.u32 %rd3, %r0, 16;\nadd.s64 %rd4, %rd2, %rd3;\n\
             mul.wide.u32 %rd5, %r0, 8;\nadd.s64 %rd5, %rd2, %rd5;\n\
             ld.global.v4.u32 {{%r2, %r3, %r4, %r5}}, [%rd4];\n\
             ld.global.v2.u32 {{%r6, %r7}}, [%rd5+512];\n\
             ld.global.v4.f32 {{%f0, %f1, %f2, %f3}}, [%rd4+768];\n\
             mma.sync.aligned.m16n8k16.row.col.f32.{name}.{name}.f32 {{%f4, %f5, %f6, %f7}}, {{%r2, %r3, %r4, %r5}}, {{%r6, %r7}}, {{%f0, %f1, %f2, %f3}};\n\
             mul.wide.u32 %rd6, %r1, 512;\nadd.s64 %rd6, %rd1, %rd6;\nadd.s64 %rd6, %rd6, %rd3;\n\
             st.global.v4.f32 [%rd6], {{%f4, %f5, %f6, %f7}};",
            bytes = 4 * TRIAL
        );
        let count = trials.len() / TRIAL;
        assert_eq!(count, 32, "eight kinds of four");
        let found = run(&body, trials, count, 128);
        for (number, (trial, found)) in trials.chunks(TRIAL).zip(found.chunks(128)).enumerate() {
            for (place, (card, found)) in trial[TRIAL - 128..].iter().zip(found).enumerate() {
                let (kind, number, lane, i) = (number / 4, number % 4, place / 4, place % 4);
                assert_eq!(found, card, "{name}, trial {number} of kind {kind}, lane {lane}, register {i}");
            }
        }
    }
}

/// The manual lets tanh.approx err by 2^-11 of the result, and the virtual one does; the card errs far less.
#[test]
fn tanh_is_within_the_manuals_bound_of_an_h200() {
    let _alone = alone();
    let pairs = words(TANHS);
    let (mut x, card): (Vec<u32>, Vec<f32>) =
        pairs.chunks(2).map(|pair| (pair[0], f32::from_bits(pair[1]))).unzip();
    let blocks = x.len().div_ceil(32);
    x.resize(32 * blocks, 0);
    let body = "mov.u32 %r1, %ctaid.x;\nshl.b32 %r1, %r1, 5;\nadd.u32 %r1, %r1, %r0;\nmul.wide.u32 %rd2, %r1, 4;\n\
                add.s64 %rd3, %rd0, %rd2;\nadd.s64 %rd4, %rd1, %rd2;\n\
                ld.global.f32 %f0, [%rd3];\ntanh.approx.f32 %f1, %f0;\nst.global.f32 [%rd4], %f1;";
    let found = run(body, &x, blocks, 32);
    let (mut coarse, mut largest) = (0, 0f64);
    for ((x, card), found) in x.iter().zip(card).zip(found) {
        let (x, found) = (f32::from_bits(*x), f32::from_bits(found));
        let error = f64::from((found - card).abs());
        assert!(
            error <= f64::from(card.abs()) * (2f64.powi(-11) + 1.2e-5),
            "tanh({x}): {found}, the card's {card}"
        );
        largest = largest.max((f64::from(card) - f64::from(x).tanh()).abs());
        coarse += i32::from(error > f64::from(card.abs()) * 2f64.powi(-13));
    }
    assert!(coarse > 300, "{coarse}: the virtual one is not coarse");
    assert!(largest < 7.99e-6, "{largest}: the card's are written down as closer");
}
