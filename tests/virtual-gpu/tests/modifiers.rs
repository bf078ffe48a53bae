//! A modifier is obeyed or refused: none may be passed over in silence, since that would compute something
//! else than a card. Every modifier of the manual is put into every place of every instruction.

mod common;

use common::around;
use std::collections::HashMap;
use virtual_gpu::ptx::{lower, parse};

/// Instructions as nvcc writes them, one of each kind.
const INSTRUCTIONS: &[&str] = &[
    "abs.f32 %f1, %f2;",
    "abs.s32 %r1, %r2;",
    "activemask.b32 %r1;",
    "add.f64 %d1, %d2, %d3;",
    "add.rn.bf16x2 %r1, %r2, %r3;",
    "add.rn.f16x2 %r1, %r2, %r3;",
    "add.rn.f32 %f1, %f2, %f3;",
    "add.s16 %h1, %h2, %h3;",
    "add.s32 %r1, %r2, %r3;",
    "add.s64 %rd1, %rd2, %rd3;",
    "and.b32 %r1, %r2, %r3;",
    "and.pred %p1, %p2, %p3;",
    "atom.global.add.f32 %f1, [%rd0], %f2;",
    "atom.global.add.u32 %r1, [%rd0], %r2;",
    "atom.global.cas.b32 %r1, [%rd0], %r2, %r3;",
    "atom.relaxed.gpu.global.add.u32 %r1, [%rd0], %r2;",
    "bar.red.popc.u32 %r1, 0, %p1;",
    "bar.sync 0;",
    "bar.warp.sync -1;",
    "barrier.sync 0;",
    "bfe.u32 %r1, %r2, 4, 8;",
    "bfi.b32 %r1, %r2, %r3, 4, 8;",
    "bfind.u32 %r1, %r2;",
    "brev.b32 %r1, %r2;",
    "clz.b32 %r1, %r2;",
    "copysign.f32 %f1, %f2, %f3;",
    "cos.approx.f32 %f1, %f2;",
    "cp.async.ca.shared.global [%r1], [%rd0], 4;",
    "cp.async.cg.shared.global [%r1], [%rd0], 16;",
    "cp.async.commit_group;",
    "cp.async.wait_all;",
    "cp.async.wait_group 1;",
    "cvt.f32.bf16 %f1, %h1;",
    "cvt.f32.f16 %f1, %h1;",
    "cvt.f32.f32 %f1, %f2;",
    "cvt.rn.bf16.f32 %h1, %f1;",
    "cvt.rn.bf16x2.f32 %r1, %f1, %f2;",
    "cvt.rn.f16.f32 %h1, %f1;",
    "cvt.rn.f16x2.f32 %r1, %f1, %f2;",
    "cvt.rn.f32.s32 %f1, %r1;",
    "cvt.rn.f32.f64 %f1, %d1;",
    "cvt.rzi.s32.f32 %r1, %f1;",
    "cvt.s64.s32 %rd1, %r1;",
    "cvt.u16.u32 %h1, %r1;",
    "cvt.u32.u64 %r1, %rd1;",
    "cvta.to.global.u64 %rd1, %rd0;",
    "cvta.to.shared.u64 %rd1, %rd0;",
    "div.approx.f32 %f1, %f2, %f3;",
    "div.full.f32 %f1, %f2, %f3;",
    "div.rn.f32 %f1, %f2, %f3;",
    "div.u32 %r1, %r2, %r3;",
    "dp4a.u32.u32 %r1, %r2, %r3, %r4;",
    "ex2.approx.f32 %f1, %f2;",
    "ex2.approx.f16x2 %r1, %r2;",
    "fence.acq_rel.gpu;",
    "fma.rn.bf16x2 %r1, %r2, %r3, %r4;",
    "fma.rn.f32 %f1, %f2, %f3, %f4;",
    "fma.rn.f64 %d1, %d2, %d3, %d4;",
    "ld.acquire.gpu.global.u32 %r1, [%rd0];",
    "ld.const.f32 %f1, [%rd0];",
    "ld.global.f32 %f1, [%rd0];",
    "ld.global.nc.v4.f32 {%f1, %f2, %f3, %f4}, [%rd0];",
    "ld.param.u64 %rd1, [a];",
    "ld.shared.v4.f32 {%f1, %f2, %f3, %f4}, [%r1];",
    "ld.volatile.global.u32 %r1, [%rd0];",
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2, %r3, %r4}, [%r5];",
    "lg2.approx.f32 %f1, %f2;",
    "lop3.b32 %r1, %r2, %r3, %r4, 0x96;",
    "mad.lo.s32 %r1, %r2, %r3, %r4;",
    "mad.wide.u32 %rd1, %r1, %r2, %rd2;",
    "match.any.sync.b32 %r1, %r2, -1;",
    "max.bf16x2 %r1, %r2, %r3;",
    "max.f32 %f1, %f2, %f3;",
    "membar.gl;",
    "min.f64 %d1, %d2, %d3;",
    "min.s32 %r1, %r2, %r3;",
    "min.u16 %h1, %h2, %h3;",
    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f4, %f5, %f6, %f7}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%f0, %f1, %f2, %f3};",
    "mov.b32 %r1, {%h1, %h2};",
    "mov.b64 {%r1, %r2}, %rd1;",
    "mov.u32 %r1, %ctaid.x;",
    "mul.hi.u32 %r1, %r2, %r3;",
    "mul.rn.f32 %f1, %f2, %f3;",
    "mul.wide.s16 %r1, %h1, %h2;",
    "mul.wide.u32 %rd1, %r1, %r2;",
    "mul24.lo.u32 %r1, %r2, %r3;",
    "nanosleep.u32 20;",
    "neg.bf16x2 %r1, %r2;",
    "neg.f32 %f1, %f2;",
    "not.b32 %r1, %r2;",
    "popc.b32 %r1, %r2;",
    "prmt.b32 %r1, %r2, %r3, 0x5410;",
    "rcp.approx.ftz.f32 %f1, %f2;",
    "rcp.rn.f32 %f1, %f2;",
    "red.global.min.u32 [%rd0], %r1;",
    "red.release.gpu.global.add.u32 [%rd0], %r1;",
    "redux.sync.add.u32 %r1, %r2, -1;",
    "rem.u32 %r1, %r2, %r3;",
    "rsqrt.approx.f32 %f1, %f2;",
    "sad.u32 %r1, %r2, %r3, %r4;",
    "selp.b32 %r1, %r2, %r3, %p1;",
    "set.eq.u32.f32 %r1, %f1, %f2;",
    "setp.eq.u32 %p1, %r1, %r2;",
    "setp.lt.and.f32 %p1, %f1, %f2, %p2;",
    "shf.l.wrap.b32 %r1, %r2, %r3, %r4;",
    "shfl.sync.bfly.b32 %r1, %r2, 1, 31, -1;",
    "shl.b32 %r1, %r2, 4;",
    "shr.s64 %rd1, %rd2, 4;",
    "sin.approx.f32 %f1, %f2;",
    "slct.f32.s32 %f1, %f2, %f3, %r1;",
    "sqrt.approx.f32 %f1, %f2;",
    "sqrt.rn.f32 %f1, %f2;",
    "st.global.v2.b32 [%rd0], {%r1, %r2};",
    "st.release.gpu.global.u32 [%rd0], %r1;",
    "st.shared.f32 [%r1], %f1;",
    "sub.rn.f32 %f1, %f2, %f3;",
    "tanh.approx.bf16x2 %r1, %r2;",
    "tanh.approx.f32 %f1, %f2;",
    "testp.finite.f32 %p1, %f1;",
    "vote.sync.ballot.b32 %r1, %p1, -1;",
    "xor.b64 %rd1, %rd2, %rd3;",
];

/// Words that some instruction of the manual takes after its name.
const MODIFIERS: &str = "rn rz rm rp rna rs rni rzi rmi rpi ftz sat satfinite relu approx full NaN xorsign abs oob noftz cc \
    hi lo wide carry scaled and or xor not eq ne lt le gt ge lo ls hi hs equ neu ltu leu gtu geu num nan all any uni ballot \
    sync aligned warp cta gpu sys cluster weak relaxed acquire release acq_rel sc volatile mmio nc ca cg cs cv lu wb wt \
    global shared shared::cta shared::cluster local param const generic v2 v4 v8 x1 x2 x4 trans row col satfinite \
    m8n8 m16n8k8 m16n8k16 m16n8k32 sp block_scale kind::mxf8f6f4 async bulk proxy tensor mbarrier mbarrier_init \
    mbarrier::complete_tx::bytes multicast::cluster noinc L1::evict_last L1::no_allocate L2::cache_hint L2::128B L2::evict_first \
    wrap clamp shiftamt f4e b4e rc8 ecl ecr rc16 up down bfly idx popc add min max inc dec exch cas red arrive \
    tid 2d im2col tile unified reuse pack::16b bf16 bf16x2 f16 f16x2 tf32 e4m3x2 f32 f64 s8 u8 s16 u16 u16x2 s32 u32 s64 u64 b8 b16 b32 \
    b64 b128 pred finite acquire::sync_restrict to";

fn code(body: &str) -> Result<String, String> {
    let module = parse::parse(&around(body))?;
    let mut kernel = lower::lower(&module, &HashMap::new(), "k")?;
    kernel.text = "".into();
    Ok(format!("{kernel:?}"))
}

/// What changes the speed and not the result, or only says what is so anyway.
fn harmless(op: &str, modifier: &str) -> bool {
    let memory = matches!(op.split('.').next().unwrap_or(""), "ld" | "st");
    let ordered = |words: &[&str]| op.split('.').any(|part| words.contains(&part));
    match modifier {
        "ca" | "cg" | "cs" | "cv" | "lu" | "wb" | "wt" | "weak" => memory,
        "L1::evict_last" | "L1::no_allocate" => memory,
        "L2::cache_hint" | "L2::128B" | "L2::evict_first" => {
            memory || op.starts_with("cp.async.c") || op.starts_with("atom") || op.starts_with("red.")
        }
        // A scope says whom an order reaches; what orders nothing reaches nobody.
        "cta" => {
            op.starts_with("bar")
                || ((memory || op.starts_with("atom.") || op.starts_with("red."))
                    && !ordered(&["acquire", "release", "acq_rel"]))
        }
        "gpu" | "sys" | "cluster" => memory || op.starts_with("atom.") || op.starts_with("red."),
        // Said twice, or as it is by default.
        "relaxed" | "volatile" | "mmio" => {
            ordered(&["relaxed", "volatile"]) || op.starts_with("atom.global") || op.starts_with("red.global")
        }
        "aligned" => op.starts_with("bar"),
        // To nearest is what it does without the word; a wider float holds every narrower one.
        "rn" => matches!(op, "add.f64" | "cvt.f32.bf16" | "cvt.f32.f16" | "cvt.f32.f32"),
        _ => false,
    }
}

#[test]
fn every_modifier_is_obeyed_or_refused() {
    let (mut refused, mut obeyed, mut silent) = (0, 0, Vec::new());
    for instruction in INSTRUCTIONS {
        let (op, operands) = instruction.split_once([' ', ';']).expect("operands or a semicolon");
        let before = code(instruction);
        if op.starts_with("slct") {
            assert!(before.is_err_and(|e| e.contains(op)), "refused by its name");
            continue;
        }
        let before = before.unwrap_or_else(|e| panic!("{instruction}: {e}"));
        let parts: Vec<&str> = op.split('.').collect();
        for modifier in MODIFIERS.split_whitespace() {
            for place in 1..=parts.len() {
                let mut with = parts.clone();
                with.insert(place, modifier);
                let with = with.join(".");
                match code(&format!("{with} {operands};")) {
                    Err(error) => {
                        assert!(error.contains(&with), "'{with}' is missing in: {error}");
                        refused += 1;
                    }
                    // A word that stood there before changes nothing when it is said again.
                    Ok(same) if same == before && parts.contains(&modifier) => {}
                    Ok(same) if same == before && !harmless(op, modifier) => silent.push(with),
                    Ok(_) => obeyed += 1,
                }
            }
        }
    }
    println!("{refused} refused, {obeyed} obeyed");
    assert!(silent.is_empty(), "{} passed over in silence: {}", silent.len(), silent.join(", "));
    assert!(refused > 10_000 && obeyed > 500, "{refused} refused, {obeyed} obeyed");
}
