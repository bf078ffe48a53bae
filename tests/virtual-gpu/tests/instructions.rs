//! A tiny PTX for each family of instructions; what they must give is typed from the PTX manual.

mod common;

use common::{alone, around, device, kernel, shape};
use cudarc::driver::PushKernelArg as _;
use half::{bf16, f16};

/// Runs `body` on one warp: `%rd0` points to `input`, `%rd1` to 1024 words of result.
fn run(body: &str, input: &[u32]) -> Vec<u32> {
    let (context, stream) = device();
    let f = kernel(&context, &around(body), "k");
    let input = stream.clone_htod(input).unwrap();
    let mut output = stream.alloc_zeros::<u32>(1024).unwrap();
    let mut launch = stream.launch_builder(&f);
    launch.arg(&input).arg(&mut output);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(shape(1, 32, 0)) }.unwrap();
    stream.synchronize().unwrap_or_else(|e| panic!("{e}: {}", virtual_gpu::last_error()));
    stream.clone_dtoh(&output).unwrap()
}

/// The result of `operation`, which reads `%r1`, `%r2`, `%r3` and writes `%r4`, in one lane.
fn three(operation: &str, a: u32, b: u32, c: u32) -> u32 {
    let body = format!(
        "ld.global.u32 %r1, [%rd0];\nld.global.u32 %r2, [%rd0+4];\nld.global.u32 %r3, [%rd0+8];\n{operation}\n\
         setp.eq.u32 %p1, %r0, 0;\n@%p1 st.global.u32 [%rd1], %r4;"
    );
    run(&body, &[a, b, c])[0]
}

/// The same for floats: `%f1`, `%f2`, `%f3` to `%f4`.
fn float(operation: &str, a: f32, b: f32, c: f32) -> f32 {
    let whole =
        format!("mov.b32 %f1, %r1;\nmov.b32 %f2, %r2;\nmov.b32 %f3, %r3;\n{operation}\nmov.b32 %r4, %f4;");
    f32::from_bits(three(&whole, a.to_bits(), b.to_bits(), c.to_bits()))
}

#[test]
fn integers() {
    let _alone = alone();
    let minus = |v: i32| v as u32;
    let table: &[(&str, u32, u32, u32, u32)] = &[
        ("add.s32 %r4, %r1, %r2;", 7, minus(-9), 0, minus(-2)),
        ("sub.s32 %r4, %r1, %r2;", 7, 9, 0, minus(-2)),
        ("mul.lo.s32 %r4, %r1, %r2;", 0x10001, 0x10001, 0, 0x20001),
        ("mul.hi.u32 %r4, %r1, %r2;", 0xffff_ffff, 0xffff_ffff, 0, 0xffff_fffe),
        ("mul.hi.s32 %r4, %r1, %r2;", 0xffff_ffff, 0xffff_ffff, 0, 0),
        ("mad.lo.s32 %r4, %r1, %r2, %r3;", 3, 5, 7, 22),
        ("mul24.lo.u32 %r4, %r1, %r2;", 0xff00_0002, 3, 0, 6),
        ("div.s32 %r4, %r1, %r2;", minus(-7), 2, 0, minus(-3)),
        ("rem.s32 %r4, %r1, %r2;", minus(-7), 2, 0, minus(-1)),
        ("div.u32 %r4, %r1, %r2;", 100, 7, 0, 14),
        ("rem.u32 %r4, %r1, %r2;", 100, 7, 0, 2),
        ("min.s32 %r4, %r1, %r2;", minus(-7), 2, 0, minus(-7)),
        ("max.u32 %r4, %r1, %r2;", minus(-7), 2, 0, minus(-7)),
        ("abs.s32 %r4, %r1;", minus(-7), 0, 0, 7),
        ("and.b32 %r4, %r1, %r2;", 12, 10, 0, 8),
        ("or.b32 %r4, %r1, %r2;", 12, 10, 0, 14),
        ("xor.b32 %r4, %r1, %r2;", 12, 10, 0, 6),
        ("not.b32 %r4, %r1;", 12, 0, 0, !12),
        ("shl.b32 %r4, %r1, %r2;", 1, 33, 0, 0),
        ("shr.s32 %r4, %r1, %r2;", minus(-8), 40, 0, u32::MAX),
        ("shr.u32 %r4, %r1, %r2;", 0x8000_0000, 31, 0, 1),
        ("shf.l.wrap.b32 %r4, %r1, %r2, %r3;", 0x8000_0000, 1, 1, 3),
        ("shf.r.wrap.b32 %r4, %r1, %r2, %r3;", 2, 1, 1, 0x8000_0001),
        ("shf.l.clamp.b32 %r4, %r1, %r2, %r3;", 5, 1, 40, 5),
        ("prmt.b32 %r4, %r1, %r2, 0x5410;", 0x4444_2211, 0x8888_6655, 0, 0x6655_2211),
        ("prmt.b32 %r4, %r1, %r2, 0x000b;", 0x8000_0000, 0, 0, 0x0000_00ff),
        ("lop3.b32 %r4, %r1, %r2, %r3, 0x96;", 12, 10, 9, 12 ^ 10 ^ 9),
        ("lop3.b32 %r4, %r1, %r2, %r3, 0xca;", 12, 10, 5, (12 & 10) | (!12 & 5)),
        ("popc.b32 %r4, %r1;", 0xf0f0, 0, 0, 8),
        ("clz.b32 %r4, %r1;", 1, 0, 0, 31),
        ("brev.b32 %r4, %r1;", 1, 0, 0, 0x8000_0000),
        ("bfind.u32 %r4, %r1;", 0x100, 0, 0, 8),
        ("bfind.shiftamt.u32 %r4, %r1;", 0x100, 0, 0, 23),
        ("bfind.s32 %r4, %r1;", minus(-2), 0, 0, 0),
        ("bfe.u32 %r4, %r1, 4, 8;", 0xabcd, 0, 0, 0xbc),
        ("bfe.s32 %r4, %r1, 4, 8;", 0xabcd, 0, 0, 0xffff_ffbc),
        ("bfi.b32 %r4, %r1, %r2, 8, 4;", 0xf5, 0, 0, 0x500),
        ("sad.s32 %r4, %r1, %r2, %r3;", minus(-3), 4, 10, 17),
        ("dp4a.s32.s32 %r4, %r1, %r2, %r3;", 0xff01_0203, 0x0101_0101, 10, 15),
        ("selp.b32 %r4, %r1, %r2, %p0;", 1, 2, 0, 1),
    ];
    for &(operation, a, b, c, expected) in table {
        let whole = format!("setp.eq.s32 %p0, 1, 1;\n{operation}");
        assert_eq!(three(&whole, a, b, c), expected, "{operation}");
    }
}

#[test]
fn wide_integers_and_conversions() {
    let _alone = alone();
    let table: &[(&str, u32, u32, u32)] = &[
        (
            "mul.wide.s32 %rd4, %r1, %r2;\nshr.s64 %rd4, %rd4, 32;\ncvt.u32.u64 %r4, %rd4;",
            0xffff_ffff,
            5,
            0xffff_ffff,
        ),
        ("mul.wide.u32 %rd4, %r1, %r2;\nmov.b64 {%r5, %r4}, %rd4;", 0xffff_ffff, 5, 4),
        (
            "mov.b64 %rd4, {%r1, %r2};\nshl.b64 %rd4, %rd4, 4;\nmov.b64 {%r5, %r4}, %rd4;",
            0xf000_0000,
            1,
            0x1f,
        ),
        ("mov.b64 %rd4, {%r1, %r2};\nclz.b64 %r4, %rd4;", 0, 1, 31),
        ("mov.b64 %rd4, {%r1, %r2};\npopc.b64 %r4, %rd4;", 7, 1, 4),
        (
            "mov.b32 {%h1, %h2}, %r1;\nadd.s16 %h3, %h1, %h2;\nmov.b32 %r4, {%h3, %h1};",
            0x0001_ffff,
            0,
            0xffff_0000,
        ),
        ("cvt.u16.u32 %h1, %r1;\ncvt.s32.s16 %r4, %h1;", 0x1_8000, 0, 0xffff_8000),
        ("cvt.s8.s32 %h1, %r1;\ncvt.s32.s8 %r4, %h1;", 0x181, 0, 0xffff_ff81),
        ("mov.b32 %f1, %r1;\ncvt.rni.s32.f32 %r4, %f1;", 2.5f32.to_bits(), 0, 2),
        ("mov.b32 %f1, %r1;\ncvt.rzi.s32.f32 %r4, %f1;", (-2.9f32).to_bits(), 0, (-2i32) as u32),
        ("mov.b32 %f1, %r1;\ncvt.rmi.s32.f32 %r4, %f1;", (-2.1f32).to_bits(), 0, (-3i32) as u32),
        ("mov.b32 %f1, %r1;\ncvt.rzi.u32.f32 %r4, %f1;", 1e20f32.to_bits(), 0, u32::MAX),
        ("mov.b32 %f1, %r1;\ncvt.rzi.s32.f32 %r4, %f1;", f32::NAN.to_bits(), 0, 0),
        ("cvt.rn.f32.s32 %f1, %r1;\nmov.b32 %r4, %f1;", 0x0100_0001, 0, 16_777_216f32.to_bits()),
        ("cvt.rz.f32.u32 %f1, %r1;\nmov.b32 %r4, %f1;", 0x0100_0003, 0, 16_777_218f32.to_bits()),
        (
            "mov.b32 %f1, %r1;\nmov.b32 %f2, %r2;\ncvt.rn.bf16x2.f32 %r4, %f1, %f2;",
            1f32.to_bits(),
            3.1f32.to_bits(),
            0x3f80_4046,
        ),
        (
            "mov.b32 %f1, %r1;\nmov.b32 %f2, %r2;\ncvt.rn.f16x2.f32 %r4, %f1, %f2;",
            1f32.to_bits(),
            65504f32.to_bits(),
            0x3c00_7bff,
        ),
        ("mov.b32 %f1, %r1;\ncvt.rn.f16.f32 %h1, %f1;\ncvt.u32.u16 %r4, %h1;", 1e-7f32.to_bits(), 0, 2),
        (
            "cvt.u16.u32 %h1, %r1;\ncvt.f32.f16 %f1, %h1;\nmov.b32 %r4, %f1;",
            0x0001,
            0,
            2f32.powi(-24).to_bits(),
        ),
        (
            "mov.b32 %f1, %r1;\ncvt.f64.f32 %d1, %f1;\nfma.rn.f64 %d1, %d1, %d1, %d1;\ncvt.rn.f32.f64 %f2, %d1;\nmov.b32 %r4, %f2;",
            3f32.to_bits(),
            0,
            12f32.to_bits(),
        ),
        (
            "mov.b32 %f1, %r1;\ncvt.sat.f32.f32 %f2, %f1;\nmov.b32 %r4, %f2;",
            3f32.to_bits(),
            0,
            1f32.to_bits(),
        ),
    ];
    for &(operation, a, b, expected) in table {
        assert_eq!(three(operation, a, b, 0), expected, "{operation}");
    }
}

#[test]
fn floats() {
    let _alone = alone();
    let tiny = f32::from_bits(1);
    assert_eq!(float("add.rn.f32 %f4, %f1, %f2;", 1.5, 2.25, 0.0), 3.75);
    assert_eq!(
        float("fma.rn.f32 %f4, %f1, %f2, %f3;", 1.0 + 2f32.powi(-12), 1.0 + 2f32.powi(-12), -1.0),
        2f32.powi(-11) + 2f32.powi(-24)
    );
    assert_eq!(float("fma.rm.f32 %f4, %f1, %f2, %f3;", 1.0, 1.0, -2f32.powi(-60)), 1.0 - 2f32.powi(-24));
    assert_eq!(
        float("mul.rz.f32 %f4, %f1, %f2;", 1.0 + 2f32.powi(-23), 1.0 + 2f32.powi(-23), 0.0),
        1.0 + 2f32.powi(-22)
    );
    assert_eq!(float("add.rp.f32 %f4, %f1, %f2;", 1.0, 2f32.powi(-60), 0.0), 1.0 + 2f32.powi(-23));
    assert_eq!(float("mul.rn.ftz.f32 %f4, %f1, %f2;", tiny, 2.0, 0.0), 0.0);
    assert_eq!(float("mul.rn.f32 %f4, %f1, %f2;", tiny, 2.0, 0.0), f32::from_bits(2));
    assert_eq!(float("add.rn.sat.f32 %f4, %f1, %f2;", 1.5, 2.25, 0.0), 1.0);
    assert_eq!(float("min.f32 %f4, %f1, %f2;", f32::NAN, 2.0, 0.0), 2.0);
    assert!(float("max.NaN.f32 %f4, %f1, %f2;", f32::NAN, 2.0, 0.0).is_nan());
    assert_eq!(float("div.rn.f32 %f4, %f1, %f2;", 1.0, 3.0, 0.0), 1.0 / 3.0);
    assert_eq!(float("sqrt.rn.f32 %f4, %f1;", 2.0, 0.0, 0.0), 2f32.sqrt());
    assert_eq!(float("copysign.f32 %f4, %f1, %f2;", -1.0, 5.0, 0.0), -5.0);
    assert_eq!(float("neg.f32 %f4, %f1;", 2.0, 0.0, 0.0), -2.0);
    assert_eq!(float("abs.f32 %f4, %f1;", -2.0, 0.0, 0.0), 2.0);
}

#[test]
fn approximate_functions_are_as_coarse_as_a_card() {
    let _alone = alone();
    let (mut worst_tanh, mut worst_ex2) = (0f32, 0f32);
    for i in 0..12 {
        let x = 0.137 + 0.31 * i as f32;
        let t = float("tanh.approx.f32 %f4, %f1;", x, 0.0, 0.0);
        worst_tanh = worst_tanh.max((t / x.tanh() - 1.0).abs());
        let e = float("ex2.approx.f32 %f4, %f1;", x, 0.0, 0.0);
        worst_ex2 = worst_ex2.max((e / x.exp2() - 1.0).abs());
        let r = float("rcp.approx.ftz.f32 %f4, %f1;", x, 0.0, 0.0);
        assert!((r * x - 1.0).abs() <= 2f32.powi(-21));
        let l = float("lg2.approx.f32 %f4, %f1;", x, 0.0, 0.0);
        assert!((l - x.log2()).abs() <= 2f32.powi(-20));
    }
    assert!((2f32.powi(-13)..=2f32.powi(-11)).contains(&worst_tanh), "{worst_tanh}");
    assert!((2f32.powi(-25)..=2f32.powi(-21)).contains(&worst_ex2), "{worst_ex2}");
    assert_eq!(float("tanh.approx.f32 %f4, %f1;", 20.0, 0.0, 0.0), 1.0);
    assert_eq!(float("ex2.approx.ftz.f32 %f4, %f1;", 5.0, 0.0, 0.0), 32.0);
}

#[test]
fn halves() {
    let _alone = alone();
    let pair =
        |a: f32, b: f32| u32::from(f16::from_f32(a).to_bits()) | u32::from(f16::from_f32(b).to_bits()) << 16;
    let bpair = |a: f32, b: f32| {
        u32::from(bf16::from_f32(a).to_bits()) | u32::from(bf16::from_f32(b).to_bits()) << 16
    };
    assert_eq!(three("add.rn.f16x2 %r4, %r1, %r2;", pair(0.125, 0.0), pair(0.125, -0.75), 0), 0xba00_3400);
    assert_eq!(three("add.rn.f16x2 %r4, %r1, %r2;", pair(1.0, 2.0), pair(0.5, -4.0), 0), pair(1.5, -2.0));
    assert_eq!(
        three("fma.rn.bf16x2 %r4, %r1, %r2, %r3;", bpair(2.0, 3.0), bpair(4.0, 5.0), bpair(1.0, -1.0)),
        bpair(9.0, 14.0)
    );
    assert_eq!(three("max.bf16x2 %r4, %r1, %r2;", bpair(2.0, -3.0), bpair(4.0, -5.0), 0), bpair(4.0, -3.0));
    assert_eq!(three("neg.f16x2 %r4, %r1;", pair(2.0, -3.0), 0, 0), pair(-2.0, 3.0));
}

#[test]
fn comparisons_join_predicates() {
    let _alone = alone();
    let body = "setp.lt.s32 %p1, %r1, %r2;\nsetp.ge.and.u32 %p2|%p3, %r1, %r2, %p1;\nxor.pred %p4, %p2, %p3;\n\
                selp.u32 %r4, 1, 0, %p2;\nselp.u32 %r5, 2, 0, %p3;\nselp.u32 %r6, 4, 0, %p4;\n\
                add.u32 %r4, %r4, %r5;\nadd.u32 %r4, %r4, %r6;";
    assert_eq!(three(body, -1i32 as u32, 1, 0), 1 + 4);
    assert_eq!(three(body, 1, 1, 0), 0);
    let unordered = "mov.b32 %f1, %r1;\nmov.b32 %f2, %r2;\nsetp.ltu.f32 %p1, %f1, %f2;\nsetp.ne.f32 %p2, %f1, %f2;\n\
                     selp.u32 %r4, 1, 0, %p1;\nselp.u32 %r5, 2, 0, %p2;\nadd.u32 %r4, %r4, %r5;";
    assert_eq!(three(unordered, f32::NAN.to_bits(), 0, 0), 1);
}

#[test]
fn shuffles_votes_and_matches() {
    let _alone = alone();
    let store = "mul.wide.u32 %rd2, %r0, 4;\nadd.s64 %rd3, %rd1, %rd2;\nst.global.u32 [%rd3], %r4;";
    let lanes = |operation: &str| run(&format!("{operation}\n{store}"), &[0])[..32].to_vec();
    let each = |f: &dyn Fn(u32) -> u32| (0..32).map(f).collect::<Vec<u32>>();
    let all = "0xffffffff";
    assert_eq!(
        lanes(&format!("shfl.sync.up.b32 %r4|%p1, %r0, 1, 0, {all};")),
        each(&|l| l.saturating_sub(1))
    );
    assert_eq!(
        lanes(&format!("shfl.sync.down.b32 %r4, %r0, 2, 31, {all};")),
        each(&|l| if l < 30 { l + 2 } else { l })
    );
    assert_eq!(lanes(&format!("shfl.sync.bfly.b32 %r4, %r0, 5, 31, {all};")), each(&|l| l ^ 5));
    assert_eq!(lanes(&format!("shfl.sync.idx.b32 %r4, %r0, 3, 0x1c1f, {all};")), each(&|l| l & 28 | 3));
    // Segments of eight: c = (32 - 8) << 8 | clamp.
    assert_eq!(
        lanes(&format!("shfl.sync.down.b32 %r4, %r0, 1, 0x181f, {all};")),
        each(&|l| if l % 8 == 7 { l } else { l + 1 })
    );
    assert_eq!(
        lanes(&format!("setp.lt.u32 %p1, %r0, 5;\nvote.sync.ballot.b32 %r4, %p1, {all};")),
        vec![31; 32]
    );
    assert_eq!(
        lanes(&format!("and.b32 %r5, %r0, 1;\nmatch.any.sync.b32 %r4, %r5, {all};")),
        each(&|l| 0x5555_5555 << (l & 1))
    );
    assert_eq!(lanes(&format!("redux.sync.add.s32 %r4, %r0, {all};")), vec![496; 32]);
    // Lanes that part meet again at a warp-wide operation.
    let parted = format!(
        "setp.lt.u32 %p1, %r0, 7;\nmov.u32 %r5, 100;\n@%p1 bra A;\nmov.u32 %r5, 200;\nbra B;\nA:\nadd.u32 %r5, %r5, %r0;\nB:\n\
         shfl.sync.bfly.b32 %r4, %r5, 31, 31, {all};"
    );
    assert_eq!(lanes(&parted), each(&|l| if 31 - l < 7 { 131 - l } else { 200 }));
}

#[test]
fn loops_and_tables() {
    let _alone = alone();
    let store = "mul.wide.u32 %rd2, %r0, 4;\nadd.s64 %rd3, %rd1, %rd2;\nst.global.u32 [%rd3], %r4;";
    let body = format!(
        "mov.u32 %r4, 0;\nmov.u32 %r5, 0;\nL:\nsetp.ge.u32 %p1, %r5, %r0;\n@%p1 bra E;\nadd.u32 %r5, %r5, 1;\nadd.u32 %r4, %r4, %r5;\nbra L;\nE:\n\
         and.b32 %r6, %r0, 3;\nts: .branchtargets X0, X1, X2, X1;\nbrx.idx %r6, ts;\nX2:\nadd.u32 %r4, %r4, 1000;\nX1:\nadd.u32 %r4, %r4, 100;\nX0:\n{store}"
    );
    let expected: Vec<u32> = (0..32).map(|l| l * (l + 1) / 2 + [0, 100, 1100, 100][l as usize % 4]).collect();
    assert_eq!(run(&body, &[0])[..32], expected);
}

#[test]
fn atomics() {
    let _alone = alone();
    let body = "atom.global.add.u32 %r4, [%rd1], 1;\nred.global.max.u32 [%rd1+4], %r0;\natom.global.cas.b32 %r5, [%rd1+8], 0, 77;\n\
                cvt.rn.f32.u32 %f1, %r0;\nred.global.add.f32 [%rd1+12], %f1;\natom.global.exch.b32 %r6, [%rd1+16], %r0;\n\
                mul.wide.u32 %rd2, %r0, 4;\nadd.s64 %rd3, %rd1, %rd2;\nst.global.u32 [%rd3+256], %r4;";
    let out = run(body, &[0]);
    assert_eq!(out[..5], [32, 31, 77, 496f32.to_bits(), 31]);
    assert_eq!(out[64..96], (0..32).collect::<Vec<u32>>());
}

#[test]
fn memory_of_every_width() {
    let _alone = alone();
    let body = "setp.ne.u32 %p1, %r0, 0;\n@%p1 bra E;\nld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd0];\nld.global.s8 %r5, [%rd0+16];\n\
                ld.global.u8 %r6, [%rd0+16];\nld.global.s16 %r7, [%rd0+16];\nld.global.v2.u16 {%h1, %h2}, [%rd0+16];\nld.global.u64 %rd4, [%rd0+16];\n\
                st.global.v4.u32 [%rd1], {%r4, %r3, %r2, %r1};\nst.global.u32 [%rd1+16], %r5;\nst.global.u32 [%rd1+20], %r6;\nst.global.u32 [%rd1+24], %r7;\n\
                st.global.v2.u16 [%rd1+28], {%h2, %h1};\nst.global.u64 [%rd1+32], %rd4;\nst.global.u8 [%rd1+40], %r5;\nE:";
    let out = run(body, &[1, 2, 3, 4, 0x1234_8efe, 5]);
    assert_eq!(out[..11], [4, 3, 2, 1, 0xffff_fffe, 0xfe, 0xffff_8efe, 0x8efe_1234, 0x1234_8efe, 5, 0xfe]);
}

/// Lanes whose words lie three apart, so that some share sixteen bytes: each reads what it wrote itself.
#[test]
fn a_lane_meets_its_own_words_at_any_distance() {
    let _alone = alone();
    for distance in 1..=9 {
        let body = format!(
            "mul.lo.u32 %r1, %r0, {};\ncvt.u64.u32 %rd2, %r1;\nadd.s64 %rd3, %rd1, %rd2;\n\
             ld.global.u32 %r2, [%rd3];\nadd.u32 %r2, %r2, %r0;\nst.global.u32 [%rd3], %r2;\n\
             ld.global.u32 %r2, [%rd3];\nadd.u32 %r2, %r2, 1;\nst.global.u32 [%rd3], %r2;",
            4 * distance
        );
        let found = run(&body, &[0]);
        for lane in 0..32 {
            assert_eq!(found[lane * distance], lane as u32 + 1, "lane {lane}, {distance} words apart");
        }
    }
}

#[test]
fn functions_are_called() {
    let _alone = alone();
    let text = around(
        "{\n.param .b32 p0;\n.param .b32 p1;\n.param .b32 back;\nst.param.b32 [p0], %r0;\nst.param.b32 [p1], 10;\ncall.uni (back), plus, (p0, p1);\n\
         ld.param.b32 %r4, [back];\n}\nmul.wide.u32 %rd2, %r0, 4;\nadd.s64 %rd3, %rd1, %rd2;\nst.global.u32 [%rd3], %r4;",
    );
    let function = ".func (.param .b32 r) plus(.param .b32 a, .param .b32 b)\n{\n.reg .b32 %r<4>;\n.reg .pred %p<2>;\nld.param.u32 %r1, [a];\nld.param.u32 %r2, [b];\n\
                    setp.lt.u32 %p1, %r1, 3;\n@%p1 bra Z;\nadd.u32 %r2, %r2, 1;\nZ:\nadd.u32 %r3, %r1, %r2;\nst.param.b32 [r], %r3;\nret;\n}\n.visible .entry";
    let text = text.replace(".visible .entry", function);
    let (context, stream) = device();
    let f = kernel(&context, &text, "k");
    let input = stream.clone_htod(&[0u32]).unwrap();
    let mut output = stream.alloc_zeros::<u32>(32).unwrap();
    let mut launch = stream.launch_builder(&f);
    launch.arg(&input).arg(&mut output);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(shape(1, 32, 0)) }.unwrap();
    let out = stream.clone_dtoh(&output).unwrap_or_else(|e| panic!("{e}: {}", virtual_gpu::last_error()));
    assert_eq!(out, (0..32).map(|l| l + 10 + u32::from(l >= 3)).collect::<Vec<u32>>());
}

/// The manual's figures for m16n8k16: `(row, column)` of A's eight values in lane `l`.
fn a_place(l: usize, i: usize) -> (usize, usize) {
    let row = if i < 2 || (4..6).contains(&i) { l >> 2 } else { (l >> 2) + 8 };
    let column = (l % 4) * 2 + (i & 1) + if i >= 4 { 8 } else { 0 };
    (row, column)
}

/// `(row, column)` of B's four values.
fn b_place(l: usize, i: usize) -> (usize, usize) {
    ((l % 4) * 2 + (i & 1) + if i >= 2 { 8 } else { 0 }, l >> 2)
}

/// `(row, column)` of C's and D's four values.
fn c_place(l: usize, i: usize) -> (usize, usize) {
    (if i < 2 { l >> 2 } else { (l >> 2) + 8 }, (l % 4) * 2 + (i & 1))
}

#[test]
fn a_matrix_product_by_the_manual() {
    let _alone = alone();
    for (name, k16, half) in
        [("bf16", true, false), ("f16", true, true), ("bf16", false, false), ("f16", false, true)]
    {
        let depth = if k16 { 16 } else { 8 };
        let bits =
            |v: f32| u32::from(if half { f16::from_f32(v).to_bits() } else { bf16::from_f32(v).to_bits() });
        let a = |r: usize, k: usize| ((r * 5 + k * 3) % 11) as f32 - 5.0;
        let b = |k: usize, c: usize| ((k * 7 + c * 2) % 13) as f32 - 6.0;
        let c = |r: usize, col: usize| (r * 8 + col) as f32;
        let mut input = Vec::new();
        for l in 0..32 {
            for r in 0..4 {
                // For k = 8, A's registers are rows l/4 and l/4 + 8 of the first eight columns.
                let places = [a_place(l, 2 * r), a_place(l, 2 * r + 1)];
                input.push(bits(a(places[0].0, places[0].1)) | bits(a(places[1].0, places[1].1)) << 16);
            }
            for r in 0..2 {
                let places = [b_place(l, 2 * r), b_place(l, 2 * r + 1)];
                input.push(bits(b(places[0].0, places[0].1)) | bits(b(places[1].0, places[1].1)) << 16);
            }
            (0..4).for_each(|i| input.push(c(c_place(l, i).0, c_place(l, i).1).to_bits()));
        }
        let loads: String =
            (0..10).map(|i| format!("ld.global.u32 %r{}, [%rd3+{}];\n", i + 1, 4 * i)).collect();
        let (shape, fa, fb) = if k16 {
            ("m16n8k16", "{%r1, %r2, %r3, %r4}", "{%r5, %r6}")
        } else {
            ("m16n8k8", "{%r1, %r2}", "{%r5}")
        };
        let floats: String = (0..4).map(|i| format!("mov.b32 %f{i}, %r{};\n", i + 7)).collect();
        let body = format!(
            "mul.wide.u32 %rd2, %r0, 40;\nadd.s64 %rd3, %rd0, %rd2;\n{loads}{floats}\
             mma.sync.aligned.{shape}.row.col.f32.{name}.{name}.f32 {{%f4, %f5, %f6, %f7}}, {fa}, {fb}, {{%f0, %f1, %f2, %f3}};\n\
             mul.wide.u32 %rd2, %r0, 16;\nadd.s64 %rd3, %rd1, %rd2;\nst.global.v4.f32 [%rd3], {{%f4, %f5, %f6, %f7}};"
        );
        let out = run(&body, &input);
        for l in 0..32 {
            for i in 0..4 {
                let (row, column) = c_place(l, i);
                let expected = c(row, column) + (0..depth).map(|k| a(row, k) * b(k, column)).sum::<f32>();
                assert_eq!(f32::from_bits(out[4 * l + i]), expected, "{name} {shape} lane {l} value {i}");
            }
        }
    }
}

#[test]
fn matrices_are_loaded_by_the_manual() {
    let _alone = alone();
    // Four 8×8 matrices; element (m, r, c) is 256 m + 16 r + c. Lane l stores row l % 8 of matrix l / 8.
    for (count, trans) in [(1, false), (2, false), (4, false), (1, true), (2, true), (4, true)] {
        let stores: String = (0..4)
            .map(|w| {
                format!(
                    "shl.b32 %r5, %r0, 1;\nand.b32 %r6, %r0, 7;\nshr.u32 %r7, %r0, 3;\nshl.b32 %r7, %r7, 8;\nshl.b32 %r6, %r6, 4;\nadd.u32 %r7, %r7, %r6;\n\
                     add.u32 %r7, %r7, {};\nadd.u32 %r8, %r7, 1;\nshl.b32 %r8, %r8, 16;\nor.b32 %r8, %r8, %r7;\nshl.b32 %r9, %r0, 4;\nadd.u32 %r9, %r9, %r10;\nst.shared.u32 [%r9+{}], %r8;\n",
                    2 * w,
                    4 * w
                )
            })
            .collect();
        let registers: Vec<String> = (0..count).map(|i| format!("%r{}", 20 + i)).collect();
        let write: String =
            (0..count).map(|i| format!("st.global.u32 [%rd3+{}], %r{};\n", 4 * i, 20 + i)).collect();
        let body = format!(
            ".shared .align 16 .b8 tile[512];\nmov.u32 %r10, tile;\n{stores}bar.sync 0;\nshl.b32 %r9, %r0, 4;\nadd.u32 %r9, %r9, %r10;\n\
             ldmatrix.sync.aligned.m8n8.x{count}{}.shared.b16 {{{}}}, [%r9];\nmul.wide.u32 %rd2, %r0, 16;\nadd.s64 %rd3, %rd1, %rd2;\n{write}",
            if trans { ".trans" } else { "" },
            registers.join(", ")
        );
        let out = run(&body, &[0]);
        for lane in 0..32 {
            for m in 0..count {
                let place = |half: usize| {
                    let (row, column) = (lane / 4, 2 * (lane % 4) + half);
                    let (row, column) = if trans { (column, row) } else { (row, column) };
                    (256 * m + 16 * row + column) as u32
                };
                assert_eq!(
                    out[4 * lane + m],
                    place(0) | place(1) << 16,
                    "x{count} trans {trans} lane {lane} matrix {m}"
                );
            }
        }
    }
}

/// As many as a compiler needs at least, by the warp's way through the code.
#[test]
fn waits_for_memory_are_counted() {
    let _alone = alone();
    let trips = |body: &str| {
        run(&format!("mul.wide.u32 %rd9, %r0, 4;\nadd.s64 %rd9, %rd1, %rd9;\n{body}"), &[0; 64]);
        virtual_gpu::counts()["most_trips"]
    };
    let use_ = "add.u32 %r9, %r1, %r2;\nst.global.u32 [%rd9], %r9;";
    let nothing = "add.u32 %r8, %r0, 1;\n".repeat(20);
    for (what, body, expected) in [
        ("none", "st.global.u32 [%rd9], %r0;".into(), 0.0),
        ("side by side", format!("ld.global.u32 %r1, [%rd0];\nadd.u32 %r3, %r1, 1;\nld.global.u32 %r2, [%rd0+4];\n{use_}"), 1.0),
        (
            "an address from memory",
            format!("ld.global.u32 %r1, [%rd0];\ncvt.u64.u32 %rd2, %r1;\nadd.s64 %rd2, %rd0, %rd2;\nld.global.u32 %r2, [%rd2];\n{use_}"),
            2.0,
        ),
        ("stored between", format!("ld.global.u32 %r1, [%rd0];\nst.global.u32 [%rd9], %r1;\nld.global.u32 %r2, [%rd0];\n{use_}"), 2.0),
        (
            "something else stored between",
            format!("ld.global.u32 %r1, [%rd0];\nst.global.u32 [%rd9], %r0;\nld.global.u32 %r2, [%rd0];\n{use_}"),
            1.0,
        ),
        (
            "a barrier between",
            format!(".shared .b32 word;\nld.global.u32 %r1, [%rd0];\nst.shared.u32 [word], %r1;\nbar.sync 0;\nld.global.u32 %r2, [%rd0];\n{use_}"),
            2.0,
        ),
        (
            "a load, and three turns of a loop",
            "ld.global.u32 %r4, [%rd0];\nmov.u32 %r1, 0;\nmov.u32 %r3, 0;\nL:\nld.global.u32 %r2, [%rd0];\nadd.u32 %r1, %r1, %r2;\nadd.u32 %r3, %r3, 1;\n\
             setp.lt.u32 %p1, %r3, 3;\n@%p1 bra L;\nadd.u32 %r1, %r1, %r4;\nst.global.u32 [%rd9], %r1;"
                .into(),
            4.0,
        ),
        (
            "a branch on what was loaded",
            format!("ld.global.u32 %r1, [%rd0];\nmov.u32 %r2, 0;\nsetp.ne.u32 %p1, %r1, 0;\n@%p1 bra L;\nld.global.u32 %r2, [%rd0+4];\nL:\n{use_}"),
            2.0,
        ),
        (
            "a short branch on something else",
            format!("setp.gt.u32 %p1, %r0, 99;\nld.global.u32 %r1, [%rd0];\nadd.u32 %r3, %r1, 1;\n@%p1 bra L;\nadd.u32 %r3, %r3, 1;\nL:\nld.global.u32 %r2, [%rd0+4];\n{use_}"),
            1.0,
        ),
        (
            "a long branch on something else",
            format!("setp.gt.u32 %p1, %r0, 99;\nld.global.u32 %r1, [%rd0];\nadd.u32 %r3, %r1, 1;\n@%p1 bra L;\n{nothing}L:\nld.global.u32 %r2, [%rd0+4];\n{use_}"),
            2.0,
        ),
    ] {
        assert_eq!(trips(&body), expected, "{what}");
    }
    // The warp that has most counts, here the second of two, and not their sum.
    let (context, stream) = device();
    let body = "setp.lt.u32 %p1, %r0, 32;\n@%p1 ret;\nld.global.u32 %r1, [%rd0];\nst.global.u32 [%rd1], %r1;";
    let f = kernel(&context, &around(body), "k");
    let (input, mut output) =
        (stream.clone_htod(&[0u32; 64]).unwrap(), stream.alloc_zeros::<u32>(64).unwrap());
    let mut launch = stream.launch_builder(&f);
    launch.arg(&input).arg(&mut output);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(shape(1, 64, 0)) }.unwrap();
    stream.synchronize().unwrap();
    let counts = virtual_gpu::counts();
    assert_eq!((counts["most_trips"], counts["most_instructions"], counts["instructions"]), (1.0, 8.0, 13.0));
}

/// Runs `body` on one warp and expects it to fail.
fn fails(body: &str) -> String {
    let (context, stream) = device();
    let f = kernel(&context, &around(body), "k");
    let input = stream.clone_htod(&[0u32; 64]).unwrap();
    let mut output = stream.alloc_zeros::<u32>(64).unwrap();
    let mut launch = stream.launch_builder(&f);
    launch.arg(&input).arg(&mut output);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(shape(1, 32, 0)) }.unwrap();
    stream.synchronize().expect_err(body);
    virtual_gpu::last_error()
}

#[test]
fn registers_that_were_never_written() {
    let _alone = alone();
    let word = |body: &str, words: &[&str]| {
        let error = fails(body);
        for w in ["register that was never written", "kernel k", "PTX line"].iter().chain(words) {
            assert!(error.contains(w), "'{w}' is missing in: {error}");
        }
    };
    word("add.u32 %r1, %r2, 1;\nst.global.u32 [%rd1], %r1;", &["add.u32", "thread (0, 0, 0)"]);
    word("st.global.f32 [%rd1], %f1;", &["st.global.f32"]);
    word("ld.global.u32 %r1, [%rd2];", &["ld.global.u32"]);
    word("@%p1 st.global.u32 [%rd1], %r0;", &["@%p1 st.global.u32"]);
    word(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f4, %f5, %f6, %f7}, {%r0, %r0, %r0, %r0}, {%r0, %r0}, {%f0, %f1, %f2, %f3};",
        &["mma.sync"],
    );
    // Written by some lanes only, in one branch only, and moved before it is used.
    word(
        "setp.lt.u32 %p1, %r0, 5;\n@%p1 mov.u32 %r1, 7;\nmov.u32 %r2, %r1;\nadd.u32 %r3, %r2, 1;",
        &["add.u32 %r3", "thread (5, 0, 0)"],
    );
    word(
        "setp.lt.u32 %p1, %r0, 5;\n@%p1 bra A;\nmov.u32 %r1, 7;\nA:\nxor.b32 %r2, %r1, 1;",
        &["xor.b32", "thread (0, 0, 0)"],
    );
    // A loop may leave a register unwritten in its first round.
    word(
        "mov.u32 %r1, 0;\nL:\nadd.u32 %r3, %r1, %r2;\nmov.u32 %r2, 1;\nadd.u32 %r1, %r1, 1;\nsetp.lt.u32 %p1, %r1, 3;\n@%p1 bra L;",
        &["add.u32 %r3"],
    );
    // The same where every lane that reads has written: nothing is wrong.
    let fine = "setp.lt.u32 %p1, %r0, 5;\n@%p1 mov.u32 %r1, 7;\n@!%p1 mov.u32 %r1, 8;\nmov.u32 %r4, %r1;\n\
                setp.eq.u32 %p2, %r0, 0;\n@%p2 mov.u32 %r5, 9;\n@%p2 add.u32 %r4, %r4, %r5;\n@%p2 st.global.u32 [%rd1], %r4;";
    assert_eq!(run(fine, &[0])[0], 16);
}

#[test]
fn lanes_that_name_each_other() {
    let _alone = alone();
    let store = "mul.wide.u32 %rd2, %r0, 4;\nadd.s64 %rd3, %rd1, %rd2;\nst.global.u32 [%rd3], %r4;";
    // Two halves of a warp sum for themselves in one instruction.
    let halves = "setp.lt.u32 %p1, %r0, 16;\nselp.b32 %r5, 0xffff, 0xffff0000, %p1;\nredux.sync.add.u32 %r4, %r0, %r5;";
    let out = run(&format!("{halves}\n{store}"), &[0]);
    assert!(out[..16].iter().all(|&v| v == 120) && out[16..32].iter().all(|&v| v == 376), "{:?}", &out[..32]);
    let alone = "mov.u32 %r5, 0xfffe;\nredux.sync.add.u32 %r4, %r0, %r5;";
    assert!(fails(alone).contains("names the lanes 0x0000fffe, and is none of them"));
    let apart = "setp.lt.u32 %p1, %r0, 3;\nselp.b32 %r5, 0xffffffff, 0xfffffffe, %p1;\nbar.warp.sync %r5;";
    assert!(fails(apart).contains("lane 3 names 0xfffffffe"));
    let ended = "setp.eq.u32 %p1, %r0, 3;\n@%p1 exit;\nshfl.sync.bfly.b32 %r4, %r0, 1, 31, -1;";
    assert!(fails(ended).contains("which have ended"));
}

#[test]
fn arguments_are_read_by_offset() {
    let _alone = alone();
    let (context, stream) = device();
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Arguments {
        out: u64,
        numbers: [u32; 27],
        half: u16,
        byte: u8,
    }
    // SAFETY: plain numbers, laid out as the kernel reads them.
    unsafe impl cudarc::driver::DeviceRepr for Arguments {}
    let text = |body: &str| {
        format!(
            ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .align 8 .b8 a[120])\n{{\n.reg .b32 %r<20>;\n\
             .reg .b64 %rd<20>;\n.reg .b16 %h<4>;\n.reg .f32 %f<4>;\nld.param.u64 %rd1, [a];\n{body}\nret;\n}}\n"
        )
    };
    let body = "ld.param.v2.u32 {%r1, %r2}, [a+8];\nld.param.f32 %f1, [a+16];\nld.param.u16 %h1, [a+116];\nld.param.s8 %r4, [a+118];\n\
                mov.b64 %rd2, a;\nmov.u32 %r5, 3;\nmul.wide.u32 %rd3, %r5, 4;\nadd.s64 %rd4, %rd2, %rd3;\nld.param.u32 %r6, [%rd4+8];\n\
                cvt.u32.u16 %r3, %h1;\nst.global.v4.u32 [%rd1], {%r1, %r2, %r3, %r4};\nst.global.u32 [%rd1+16], %r6;\nst.global.f32 [%rd1+20], %f1;";
    let f = kernel(&context, &text(body), "k");
    let out = stream.alloc_zeros::<u32>(8).unwrap();
    let address = {
        use cudarc::driver::DevicePtr as _;
        out.device_ptr(&stream).0
    };
    let arguments =
        Arguments { out: address, numbers: std::array::from_fn(|i| 100 + i as u32), half: 65000, byte: 0x85 };
    let mut launch = stream.launch_builder(&f);
    launch.arg(&arguments);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(shape(1, 1, 0)) }.unwrap();
    stream.synchronize().unwrap_or_else(|e| panic!("{e}: {}", virtual_gpu::last_error()));
    assert_eq!(stream.clone_dtoh(&out).unwrap()[..6], [100, 101, 65000, 0xffff_ff85, 103, 102]);
    let behind =
        context.load_module(cudarc::nvrtc::Ptx::from_src(text("ld.param.u64 %rd2, [a+116];"))).unwrap();
    behind.load_function("k").unwrap_err();
    assert!(virtual_gpu::last_error().contains("8 bytes at offset 116 of the arguments"));
    assert_eq!(size_of_val(&arguments.numbers) + 8, 116);
}

#[test]
fn copies_fill_up_with_zeros_and_end_by_groups() {
    let _alone = alone();
    // Every lane copies 16 bytes of which `source` come from memory; what was there before is 0xff.
    let copy = |to: &str, from: &str, size: &str| {
        format!("cp.async.cg.shared.global [{to}], [{from}], 16, {size};\n")
    };
    let body = format!(
        ".shared .align 16 .b8 tile[1024];\nmov.u32 %r10, tile;\nshl.b32 %r1, %r0, 4;\nadd.u32 %r2, %r10, %r1;\nmov.u32 %r3, -1;\n\
         st.shared.v4.u32 [%r2], {{%r3, %r3, %r3, %r3}};\nmul.wide.u32 %rd2, %r0, 16;\nadd.s64 %rd3, %rd0, %rd2;\nand.b32 %r4, %r0, 15;\n\
         setp.gt.u32 %p1, %r0, 15;\nselp.b32 %r4, 16, %r4, %p1;\n{}cp.async.commit_group;\ncp.async.wait_group 0;\n\
         ld.shared.v4.u32 {{%r5, %r6, %r7, %r8}}, [%r2];\nadd.s64 %rd4, %rd1, %rd2;\nst.global.v4.u32 [%rd4], {{%r5, %r6, %r7, %r8}};",
        copy("%r2", "%rd3", "%r4")
    );
    let input: Vec<u32> = (0..128).map(|i| 0x0101_0101 * (i + 1)).collect();
    let out = run(&body, &input);
    for lane in 0..32 {
        let kept = if lane > 15 { 16 } else { lane % 16 };
        for byte in 0..16 {
            let (word, shift) = (4 * lane + byte / 4, 8 * (byte % 4));
            let expected = if byte < kept { input[word] >> shift & 255 } else { 0 };
            assert_eq!(out[word] >> shift & 255, expected, "lane {lane}, byte {byte}");
        }
    }
    // A source of no bytes is not touched, be it where it may; one that is ignored, likewise.
    let nowhere = "mov.u64 %rd3, 0x123456780;\n";
    for form in [
        "cp.async.ca.shared.global [%r2], [%rd3], 4, 0;\n",
        "setp.eq.u32 %p2, 1, 1;\ncp.async.ca.shared.global [%r2], [%rd3], 4, %p2;\n",
    ] {
        let body = format!(
            ".shared .align 16 .b8 tile[1024];\nmov.u32 %r10, tile;\nshl.b32 %r1, %r0, 2;\nadd.u32 %r2, %r10, %r1;\n{nowhere}{form}cp.async.wait_all;\n\
             ld.shared.u32 %r5, [%r2];\nadd.u32 %r5, %r5, 7;\nmul.wide.u32 %rd2, %r0, 4;\nadd.s64 %rd4, %rd1, %rd2;\nst.global.u32 [%rd4], %r5;"
        );
        assert_eq!(run(&body, &[0])[..32], [7; 32], "{form}");
    }
    assert!(fails(&body.replace("selp.b32 %r4, 16", "selp.b32 %r4, 17")).contains("copies 17 bytes into 16"));
    // Two of three groups are done after `wait_group 1`: the third may not be read, the second may.
    let groups = |read: u32, wait: &str| {
        format!(
            ".shared .align 16 .b8 tile[64];\nmov.u32 %r10, tile;\nsetp.ne.u32 %p1, %r0, 0;\n@%p1 bra E;\n{}cp.async.commit_group;\n{}cp.async.commit_group;\n{}\
             cp.async.commit_group;\n{wait}\nld.shared.u32 %r5, [%r10+{}];\nst.global.u32 [%rd1], %r5;\nE:",
            copy("%r10", "%rd0", "16"),
            copy("%r10+16", "%rd0+16", "16"),
            copy("%r10+32", "%rd0+32", "16"),
            16 * read
        )
    };
    assert_eq!(run(&groups(1, "cp.async.wait_group 1;"), &input)[0], input[4]);
    assert_eq!(run(&groups(2, "cp.async.wait_all;"), &input)[0], input[8]);
    for (read, wait) in
        [(2, "cp.async.wait_group 1;"), (1, "cp.async.wait_group 2;"), (0, "cp.async.wait_group 3;")]
    {
        assert!(
            fails(&groups(read, wait)).contains("a cp.async into it was not waited for"),
            "{read} {wait}"
        );
    }
    // What was not committed belongs to no group that could be waited for.
    let loose = groups(2, "cp.async.wait_group 0;").replacen(
        "cp.async.commit_group;\ncp.async.wait",
        "cp.async.wait",
        1,
    );
    assert!(fails(&loose).contains("a cp.async into it was not waited for"));
}

#[test]
fn corners_of_numbers() {
    let _alone = alone();
    let (nan, tiny, inf) = (f32::NAN, f32::from_bits(3), f32::INFINITY);
    let same = |a: f32, b: f32| assert_eq!(a.to_bits(), b.to_bits(), "{a} {b}");
    // A NaN gives way to a number; only of two is it the answer, and then the canonical one.
    for op in ["min", "max"] {
        same(float(&format!("{op}.f32 %f4, %f1, %f2;"), 2.0, nan, 0.0), 2.0);
        same(float(&format!("{op}.f32 %f4, %f1, %f2;"), nan, -inf, 0.0), -inf);
        same(float(&format!("{op}.f32 %f4, %f1, %f2;"), -nan, nan, 0.0), f32::from_bits(0x7fff_ffff));
        same(float(&format!("{op}.NaN.f32 %f4, %f1, %f2;"), 2.0, -nan, 0.0), f32::from_bits(0x7fff_ffff));
    }
    same(float("min.f32 %f4, %f1, %f2;", 0.0, -0.0, 0.0), -0.0);
    same(float("max.f32 %f4, %f1, %f2;", -0.0, 0.0, 0.0), 0.0);
    same(float("min.ftz.f32 %f4, %f1, %f2;", tiny, 1.0, 0.0), 0.0);
    same(float("min.f32 %f4, %f1, %f2;", tiny, 1.0, 0.0), tiny);
    // Flushing keeps the sign; saturation makes zero of a NaN.
    same(float("mul.rn.ftz.f32 %f4, %f1, %f2;", -tiny, 1.0, 0.0), -0.0);
    same(float("add.rn.sat.f32 %f4, %f1, %f2;", nan, 1.0, 0.0), 0.0);
    same(float("ex2.approx.ftz.f32 %f4, %f1;", tiny, 0.0, 0.0), 1.0);
    same(float("ex2.approx.ftz.f32 %f4, %f1;", -130.0, 0.0, 0.0), 0.0);
    same(float("ex2.approx.ftz.f32 %f4, %f1;", -inf, 0.0, 0.0), 0.0);
    same(float("ex2.approx.ftz.f32 %f4, %f1;", 128.0, 0.0, 0.0), inf);
    same(float("rcp.approx.ftz.f32 %f4, %f1;", -tiny, 0.0, 0.0), -inf);
    same(float("rcp.approx.ftz.f32 %f4, %f1;", inf, 0.0, 0.0), 0.0);
    same(float("rcp.approx.ftz.f32 %f4, %f1;", 2f32.powi(127), 0.0, 0.0), 0.0);
    same(float("tanh.approx.f32 %f4, %f1;", -inf, 0.0, 0.0), -1.0);
    same(float("tanh.approx.f32 %f4, %f1;", -0.0, 0.0, 0.0), -0.0);
    assert!(float("tanh.approx.f32 %f4, %f1;", nan, 0.0, 0.0).is_nan());
    // The quick division loses divisors above 2^126, the one over the full range does not.
    same(float("div.approx.f32 %f4, %f1, %f2;", 2f32.powi(126), 2f32.powi(127), 0.0), 0.0);
    same(float("div.full.f32 %f4, %f1, %f2;", 2f32.powi(126), 2f32.powi(127), 0.0), 0.5);
    // Narrowing: ties to even, overflow to infinity, NaN to 0x7fff; the second source is the lower half.
    let table: &[(&str, f32, f32, u32)] = &[
        ("cvt.rn.bf16x2.f32", f32::from_bits(0x3f80_8000), f32::from_bits(0x3f81_8000), 0x3f80_3f82),
        ("cvt.rn.bf16x2.f32", f32::MAX, nan, 0x7f80_7fff),
        ("cvt.rz.bf16x2.f32", f32::MAX, -1.999, 0x7f7f_bfff),
        ("cvt.rn.relu.bf16x2.f32", -1.0, 2.0, 0x0000_4000),
        ("cvt.rn.f16x2.f32", 65519.0, 65520.0, 0x7bff_7c00),
        ("cvt.rn.f16x2.f32", f32::from_bits(0x3300_0000), f32::from_bits(0x3300_0001), 0x0000_0001),
        ("cvt.rn.f16x2.f32", 1.0 + 2f32.powi(-11), 1.0 + 3.0 * 2f32.powi(-11), 0x3c00_3c02),
    ];
    for &(op, high, low, expected) in table {
        let body = format!("mov.b32 %f1, %r1;\nmov.b32 %f2, %r2;\n{op} %r4, %f1, %f2;");
        assert_eq!(three(&body, high.to_bits(), low.to_bits(), 0), expected, "{op} {high} {low}");
    }
    // One rounding, not two: the product lies between two neighbours, and a rest of 2^-60 decides.
    let b = |v: f32| u32::from(bf16::from_f32(v).to_bits());
    let (x, y, rest) = (b(1.0 + 2f32.powi(-7)), b(1.5), b(-(2f32.powi(-60))));
    assert_eq!(three("fma.rn.bf16x2 %r4, %r1, %r2, %r3;", x, y, rest), b(1.5 + 2f32.powi(-7)));
    assert_eq!(three("fma.rn.bf16x2 %r4, %r1, %r2, %r3;", x, y, 0), b(1.5 + 2f32.powi(-6)));
}

#[test]
fn integers_of_sixteen_bits_are_of_sixteen_bits() {
    let _alone = alone();
    let table: &[(&str, u32, u32)] = &[
        // What a load extended, and what an immediate says with a sign, is cut to size.
        ("mov.b16 %h1, -1;\nsetp.eq.u16 %p1, %h1, 0xffff;\nselp.u32 %r4, 1, 0, %p1;", 0, 1),
        (
            "ld.global.s16 %h1, [%rd0];\nmov.b16 %h2, 0x8000;\nsetp.eq.u16 %p1, %h1, %h2;\nselp.u32 %r4, 1, 0, %p1;",
            0x8000,
            1,
        ),
        ("ld.global.s16 %h1, [%rd0];\nshr.u16 %h2, %h1, 4;\ncvt.u32.u16 %r4, %h2;", 0x8000, 0x800),
        (
            "ld.global.s16 %h1, [%rd0];\nmov.b16 %h2, 3;\nmax.u16 %h3, %h1, %h2;\ncvt.u32.u16 %r4, %h3;",
            0x8000,
            0x8000,
        ),
        (
            "ld.global.s16 %h1, [%rd0];\nmov.b16 %h2, 3;\ndiv.u16 %h3, %h1, %h2;\ncvt.u32.u16 %r4, %h3;",
            0x8001,
            0x2aab,
        ),
        ("cvt.u16.u32 %h1, %r1;\nmul.wide.s16 %r4, %h1, %h1;", 0xffff_fffe, 4),
        ("cvt.u16.u32 %h1, %r1;\nmad.wide.u16 %r4, %h1, %h1, -1;", 0xffff, 0xfffe_0000),
        ("cvt.rn.sat.f32.s32 %f1, %r1;\nmov.b32 %r4, %f1;", 7, 0x3f80_0000),
        ("cvt.rn.sat.f32.s32 %f1, %r1;\nmov.b32 %r4, %f1;", 0xffff_fff0, 0),
    ];
    for &(operation, a, expected) in table {
        assert_eq!(three(operation, a, 0, 0), expected, "{operation}");
    }
}

#[test]
fn more_of_the_integers() {
    let _alone = alone();
    let table: &[(&str, u32, u32, u32, u32)] = &[
        ("prmt.b32 %r4, %r1, %r2, %r3;", 0x3322_1100, 0x7766_5544, 0x7531, 0x7755_3311),
        ("prmt.b32 %r4, %r1, %r2, %r3;", 0x3322_1180, 0x7766_5544, 0x7718, 0x7777_11ff),
        ("prmt.b32.f4e %r4, %r1, %r2, %r3;", 0x3322_1100, 0x7766_5544, 1, 0x4433_2211),
        ("prmt.b32.b4e %r4, %r1, %r2, %r3;", 0x3322_1100, 0x7766_5544, 1, 0x6677_0011),
        ("prmt.b32.rc8 %r4, %r1, %r2, %r3;", 0x3322_1100, 0, 2, 0x2222_2222),
        ("prmt.b32.ecl %r4, %r1, %r2, %r3;", 0x3322_1100, 0, 2, 0x3322_2222),
        ("prmt.b32.ecr %r4, %r1, %r2, %r3;", 0x3322_1100, 0, 2, 0x2222_1100),
        ("prmt.b32.rc16 %r4, %r1, %r2, %r3;", 0x3322_1100, 0, 1, 0x3322_3322),
        ("shf.l.wrap.b32 %r4, %r1, %r2, %r3;", 0x8000_0001, 0x1234_5678, 36, 0x2345_6788),
        ("shf.r.clamp.b32 %r4, %r1, %r2, %r3;", 1, 0xabcd_ef01, 32, 0xabcd_ef01),
        ("shf.r.wrap.b32 %r4, %r1, %r2, %r3;", 1, 0xabcd_ef01, 32, 1),
        ("lop3.b32 %r4, %r1, %r2, %r3, 0xf0;", 0x1234, 0x5678, 0x9abc, 0x1234),
        ("lop3.b32 %r4, %r1, %r2, %r3, 0xcc;", 0x1234, 0x5678, 0x9abc, 0x5678),
        ("lop3.b32 %r4, %r1, %r2, %r3, 0xaa;", 0x1234, 0x5678, 0x9abc, 0x9abc),
        ("div.u32 %r4, %r1, %r2;", 0xffff_fffe, 0x7fff_ffff, 0, 2),
        ("rem.u32 %r4, %r1, %r2;", 0xffff_fffe, 0xffff_ffff, 0, 0xffff_fffe),
        ("mul.wide.u32 %rd4, %r1, %r2;\nmov.b64 {%r4, %r5}, %rd4;", 0xffff_ffff, 0xffff_ffff, 0, 1),
        ("mul.wide.s32 %rd4, %r1, %r2;\nmov.b64 {%r5, %r4}, %rd4;", 0xffff_ffff, 5, 0, 0xffff_ffff),
        (
            "mov.b64 %rd5, {%r3, %r3};\nmad.wide.u32 %rd4, %r1, %r2, %rd5;\nmov.b64 {%r5, %r4}, %rd4;",
            0xffff_ffff,
            0xffff_ffff,
            2,
            0,
        ),
        (
            "mov.b64 %rd5, {%r3, %r3};\nmad.wide.s32 %rd4, %r1, %r2, %rd5;\nmov.b64 {%r5, %r4}, %rd4;",
            0xffff_ffff,
            1,
            0,
            0xffff_ffff,
        ),
        ("red.global.min.u32 [%rd1+8], %r0;\natom.global.min.u32 %r4, [%rd1+8], 7;", 0, 0, 0, 0),
        (
            "atom.global.max.u32 %r5, [%rd1+8], %r1;\natom.global.min.u32 %r4, [%rd1+8], %r2;\nld.global.u32 %r4, [%rd1+8];",
            0xffff_fff0,
            9,
            0,
            9,
        ),
        (
            "atom.global.max.s32 %r5, [%rd1+8], %r1;\nld.volatile.global.u32 %r4, [%rd1+8];",
            0xffff_fff0,
            0,
            0,
            0,
        ),
        ("atom.global.inc.u32 %r5, [%rd1+8], 3;\nld.volatile.global.u32 %r4, [%rd1+8];", 0, 0, 0, 0),
    ];
    for &(operation, a, b, c, expected) in table {
        // Atomic operations of one lane, whose plain reading afterwards is its own.
        let operation = if operation.contains("global") {
            format!("setp.ne.u32 %p3, %r0, 0;\n@%p3 exit;\n{operation}")
        } else {
            operation.to_owned()
        };
        let expected = if operation.contains(".inc.") { 1 } else { expected };
        assert_eq!(three(&operation, a, b, c), expected, "{operation}");
    }
}
