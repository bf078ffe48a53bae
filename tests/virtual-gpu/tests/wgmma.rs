//! Products of warpgroups: values, layouts, and every way to get them wrong. The chip is an sm_90, whose settings are
//! read once, so the tests run in a process of their own, which is this program again with the ignored ones.

mod common;

use common::{alone, device, shape};
use cudarc::driver::{DriverError, PushKernelArg as _};
use cudarc::nvrtc::Ptx;
use half::{bf16, f16};

#[test]
fn on_an_sm_90() {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let out = command.arg("--ignored").env("PR_LSTM_VIRTUAL_GPU_CHIP", "sm_90").output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && !text.contains(" 0 passed"), "{text}");
}

/// Where a matrix of 16-bit numbers lies in shared memory.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Whether neighbours in memory are neighbours along M or N.
    trans: bool,
    /// Bytes of a row of the swizzle; 16 for none.
    swizzle: usize,
    /// Leading and stride byte offset.
    leading: usize,
    stride: usize,
    /// Bytes that the start lies behind the atom's.
    further: usize,
}

impl Layout {
    /// Byte of an element from the start, without the swizzle: CUTLASS's strides, T = 8 numbers.
    fn byte(&self, row: usize, k: usize) -> usize {
        let width = self.swizzle / 16;
        let (t, leading, stride) = (8, self.leading / 2, self.stride / 2);
        let element = match (self.trans, width) {
            // ((T,1,m),(8,k)):((1,T,SBO),(1T,LBO))
            (true, 1) => row % t + row / t * stride + k % 8 * t + k / 8 * leading,
            // ((T,W,m),(8,k)):((1,T,LBO),(WT,SBO))
            (true, w) => row % t + row / t % w * t + row / t / w * leading + k % 8 * w * t + k / 8 * stride,
            // ((8,m),(T,2)):((1T,SBO),(1,LBO))
            (false, 1) => row % 8 * t + row / 8 * stride + k % t + k / t * leading,
            // ((8,m),(T,2)):((WT,SBO),(1,T))
            (false, w) => row % 8 * w * t + row / 8 * stride + k % t + k / t * t,
        };
        2 * element + self.further
    }

    /// Swizzle<b,4,3> of an address.
    fn swizzled(&self, address: usize) -> usize {
        let bits = (self.swizzle / 16).ilog2();
        (0..bits).fold(address, |a, i| a ^ (address >> (7 + i) & 1) << (4 + i))
    }

    /// The descriptor of a matrix at address 0.
    fn descriptor(&self) -> u64 {
        let layout = [0u64, 3, 2, 1][(self.swizzle / 16).ilog2() as usize];
        layout << 62
            | (self.stride as u64 >> 4) << 32
            | (self.leading as u64 >> 4) << 16
            | self.further as u64 >> 4
    }

    /// Bytes of `rows` rows, and what follows them up to the next matrix.
    fn bytes(&self, rows: usize) -> usize {
        let last = (0..rows).flat_map(|row| (0..16).map(move |k| self.byte(row, k))).max().unwrap();
        (last + 1).next_multiple_of(1024)
    }
}

/// All layouts, with gaps between their parts.
fn layouts() -> Vec<Layout> {
    let k = |swizzle, leading, stride, further| Layout { trans: false, swizzle, leading, stride, further };
    let mn = |swizzle, leading, stride| Layout { trans: true, swizzle, leading, stride, further: 0 };
    vec![
        k(128, 16, 1024, 0),
        k(128, 0, 2048, 32),
        k(128, 16, 1024, 64),
        k(128, 16, 1024, 96),
        k(64, 16, 512, 0),
        k(64, 16, 1024, 32),
        k(32, 16, 256, 0),
        k(16, 128, 272, 0),
        k(16, 8208, 128, 0),
        mn(16, 128, 256),
        mn(16, 5136, 144),
        mn(32, 512, 256),
        mn(64, 512, 4096),
        mn(128, 2048, 1024),
        mn(128, 1024, 5120),
    ]
}

/// A kernel with `%r0` = tid, `%r1` = the address of the dynamic shared memory, which holds the first `bytes` of `a` (`%rd0`)
/// and is fenced for products; `%rd1` = `b`, the results. `%d` are accumulators of N columns.
fn text(n: usize, bytes: usize, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 s[];\n\
         .visible .entry k(.param .u64 a, .param .u64 b)\n{{\n.reg .pred %p<20>;\n.reg .b32 %r<60>;\n.reg .f32 %f<20>;\n\
         .reg .f32 %d<{}>;\n.reg .b64 %rd<20>;\nld.param.u64 %rd0, [a];\nld.param.u64 %rd1, [b];\nmov.u32 %r0, %tid.x;\n\
         mov.u32 %r1, s;\n{}{body}\nret;\n}}\n",
        n / 2,
        fill(bytes),
    )
}

/// Copies the first bytes of `a` to shared memory.
fn fill(bytes: usize) -> String {
    if bytes == 0 {
        return String::new();
    }
    format!(
        "shl.b32 %r2, %r0, 4;\nFILL:\nsetp.ge.u32 %p0, %r2, {bytes};\n@%p0 bra FILLED;\ncvt.u64.u32 %rd2, %r2;\n\
         add.s64 %rd2, %rd2, %rd0;\nld.global.v4.u32 {{%r3, %r4, %r5, %r6}}, [%rd2];\nadd.u32 %r7, %r2, %r1;\n\
         st.shared.v4.u32 [%r7], {{%r3, %r4, %r5, %r6}};\nadd.u32 %r2, %r2, 2048;\nbra FILL;\nFILLED:\n\
         fence.proxy.async;\nbar.sync 0;\n"
    )
}

/// Puts the descriptor of a matrix at `offset` in shared memory into `%rd<to>`.
fn descriptor(to: usize, offset: usize, layout: u64) -> String {
    format!(
        "add.u32 %r10, %r1, {offset};\nshr.u32 %r10, %r10, 4;\ncvt.u64.u32 %rd{to}, %r10;\n\
         add.s64 %rd{to}, %rd{to}, {};\n",
        layout as i64
    )
}

/// The accumulators `{%d0, …}`.
fn accumulators(n: usize) -> String {
    let all: Vec<String> = (0..n / 2).map(|i| format!("%d{i}")).collect();
    format!("{{{}}}", all.join(", "))
}

/// A product of the matrices of `%rd4` and `%rd5`.
fn product(n: usize, ty: &str, scale: &str, trans: [bool; 2]) -> String {
    let [a, b] = trans.map(u8::from);
    format!(
        "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{ty}.{ty} {}, %rd4, %rd5, {scale}, 1, 1, {a}, {b};\n",
        accumulators(n)
    )
}

const FENCE: &str = "wgmma.fence.sync.aligned;\n";
const COMMIT: &str = "wgmma.commit_group.sync.aligned;\n";
const WAIT: &str = "wgmma.wait_group.sync.aligned 0;\n";

/// Stores the accumulators behind each other, thread by thread.
fn stores(n: usize) -> String {
    let each: String = (0..n / 2).map(|i| format!("st.global.f32 [%rd3+{}], %d{i};\n", 4 * i)).collect();
    format!("mul.wide.u32 %rd2, %r0, {};\nadd.s64 %rd3, %rd1, %rd2;\n{each}", 2 * n)
}

/// Runs a kernel on so many threads; its results, or the error's words.
fn run(text: &str, threads: u32, shared: usize, input: &[u32], results: usize) -> Result<Vec<u32>, String> {
    use cudarc::driver::sys::CUfunction_attribute_enum as F;
    let (context, stream) = device();
    let words = |e: DriverError| format!("{e}: {}", virtual_gpu::last_error());
    let f = context.load_module(Ptx::from_src(text)).map_err(words)?.load_function("k").map_err(words)?;
    f.set_attribute(F::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared as i32).unwrap();
    let input = stream.clone_htod(input).unwrap();
    let mut output = stream.alloc_zeros::<u32>(results).unwrap();
    let mut launch = stream.launch_builder(&f);
    launch.arg(&input).arg(&mut output);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(shape(1, threads, shared as u32)) }.unwrap();
    stream.synchronize().map_err(words)?;
    Ok(stream.clone_dtoh(&output).unwrap())
}

/// Random numbers of 16 bits, their values, a quarter of them zero.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }

    fn float(&mut self) -> f32 {
        let scale = 2f32.powi((self.bits() % 9) as i32 - 4);
        (self.bits() % 20001) as f32 / 10000.0 * scale - scale
    }

    fn half(&mut self, ty: &str) -> (u16, f64) {
        let x = if self.bits().is_multiple_of(4) { 0.0 } else { self.float() };
        if ty == "f16" {
            (f16::from_f32(x).to_bits(), f16::from_f32(x).to_f64())
        } else {
            (bf16::from_f32(x).to_bits(), bf16::from_f32(x).to_f64())
        }
    }
}

/// The row and the column of the thread's accumulator.
fn place(thread: usize, i: usize) -> (usize, usize) {
    let (warp, lane) = (thread / 32, thread % 32);
    (16 * warp + lane / 4 + i / 2 % 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2)
}

/// What `mma.sync` gives for the same numbers, an accumulator a thread after another.
fn by_mma(n: usize, ty: &str, a: &[[u16; 16]], b: &[[u16; 16]], c: &dyn Fn(usize, usize) -> f32) -> Vec<u32> {
    let pair = |row: &[u16; 16], k: usize| u32::from(row[k]) | u32::from(row[k + 1]) << 16;
    let (mut input, words) = (Vec::new(), 4 + n / 8 * 6);
    for thread in 0..128 {
        let (group, quad) = (thread % 32 / 4, thread % 4);
        for i in 0..4 {
            input.push(pair(&a[thread / 32 * 16 + group + i % 2 * 8], 2 * quad + i / 2 * 8));
        }
        for tile in 0..n / 8 {
            (0..2).for_each(|i| input.push(pair(&b[8 * tile + group], 2 * quad + 8 * i)));
            for i in 4 * tile..4 * tile + 4 {
                let (row, column) = place(thread, i);
                input.push(c(row, column).to_bits());
            }
        }
    }
    let mut body = format!("mul.wide.u32 %rd2, %r0, {};\nadd.s64 %rd2, %rd0, %rd2;\n", 4 * words);
    (0..4).for_each(|i| body += &format!("ld.global.u32 %r{}, [%rd2+{}];\n", 10 + i, 4 * i));
    for tile in 0..n / 8 {
        let (at, d) = (16 + 24 * tile, 4 * tile);
        body += &format!("ld.global.u32 %r14, [%rd2+{at}];\nld.global.u32 %r15, [%rd2+{}];\n", at + 4);
        (0..4).for_each(|i| body += &format!("ld.global.f32 %f{i}, [%rd2+{}];\n", at + 8 + 4 * i));
        body += &format!(
            "mma.sync.aligned.m16n8k16.row.col.f32.{ty}.{ty}.f32 {{%d{d}, %d{}, %d{}, %d{}}}, {{%r10, %r11, %r12, %r13}}, {{%r14, %r15}}, {{%f0, %f1, %f2, %f3}};\n",
            d + 1,
            d + 2,
            d + 3
        );
    }
    run(&text(n, 0, &(body + &stores(n))), 128, 0, &input, 64 * n).unwrap()
}

/// A product of random numbers in these layouts: near the exact one, and the very bits of `mma.sync`.
fn check(n: usize, ty: &str, layouts: [Layout; 2], adds: bool) {
    let what = format!("n = {n}, {ty}, {layouts:?}, adds: {adds}");
    let mut random = Random(n as u64 + 1);
    let at = [0, layouts[0].bytes(64)];
    let bytes = at[1] + layouts[1].bytes(n);
    // NaN where no matrix is.
    let mut image = vec![0xffffu16; bytes / 2];
    let matrices = [(0, 64), (1, n)].map(|(i, rows)| {
        let mut matrix = (vec![[0u16; 16]; rows], vec![[0.0; 16]; rows]);
        for row in 0..rows {
            for k in 0..16 {
                let (bits, value) = random.half(ty);
                (matrix.0[row][k], matrix.1[row][k]) = (bits, value);
                // Shared memory begins at a multiple of 1024, so offsets are swizzled as addresses are.
                let to = &mut image[layouts[i].swizzled(at[i] + layouts[i].byte(row, k)) / 2];
                assert_eq!(*to, 0xffff, "{what}: two numbers at one place");
                *to = bits;
            }
        }
        matrix
    });
    let c = |row: usize, column: usize| {
        if adds { (row as f32 - 31.7) * (column as f32 + 0.37) / 57.0 } else { 0.0 }
    };
    let mut input: Vec<u32> =
        image.chunks(2).map(|pair| u32::from(pair[0]) | u32::from(pair[1]) << 16).collect();
    let mut body = String::new();
    if adds {
        for thread in 0..128 {
            for i in 0..n / 2 {
                let (row, column) = place(thread, i);
                input.push(c(row, column).to_bits());
            }
        }
        body += &format!("mul.wide.u32 %rd2, %r0, {};\nadd.s64 %rd2, %rd0, %rd2;\n", 2 * n);
        (0..n / 2).for_each(|i| body += &format!("ld.global.f32 %d{i}, [%rd2+{}];\n", bytes + 4 * i));
    }
    body += &descriptor(4, at[0], layouts[0].descriptor());
    body += &descriptor(5, at[1], layouts[1].descriptor());
    body += &format!("setp.ne.u32 %p1, {}, 0;\n", u32::from(adds));
    body += FENCE;
    body += &product(n, ty, "%p1", layouts.map(|l| l.trans));
    body += &[COMMIT, WAIT, &stores(n)].concat();
    let found =
        run(&text(n, bytes, &body), 128, bytes, &input, 64 * n).unwrap_or_else(|e| panic!("{what}: {e}"));
    let counts = virtual_gpu::counts();
    let [a, b] = &matrices;
    let expected = by_mma(n, ty, &a.0, &b.0, &c);
    for thread in 0..128 {
        for i in 0..n / 2 {
            let (row, column) = place(thread, i);
            let products = (0..16).map(|k| a.1[row][k] * b.1[column][k]);
            let exact = f64::from(c(row, column)) + products.clone().sum::<f64>();
            let size = f64::from(c(row, column).abs()) + products.map(f64::abs).sum::<f64>();
            let have = found[thread * n / 2 + i];
            let value = f64::from(f32::from_bits(have));
            assert!(
                (value - exact).abs() <= size * 2f64.powi(-20),
                "{what}, {row}, {column}: {value} for {exact}"
            );
            assert_eq!(have, expected[thread * n / 2 + i], "{what}, {row}, {column}");
        }
    }
    assert_eq!((counts["wgmma"], counts["wgmma_waits"], counts["mma"]), (n as f64 / 2.0, 4.0, 0.0), "{what}");
}

#[test]
#[ignore = "run by the test of this file in a process of its own"]
fn products_in_every_layout() {
    let _alone = alone();
    let all = layouts();
    for (turn, n) in [8, 32, 80, 160, 256].into_iter().enumerate() {
        for i in 0..all.len() {
            // Every layout of A, every one of B, and each with and without what was there.
            let pair = [all[i], all[(i * 2 + turn) % all.len()]];
            for (ty, adds) in [("bf16", i % 2 == 0), ("f16", i % 2 == 1)] {
                check(n, ty, pair, adds);
            }
        }
    }
}

/// What a sound kernel is made of, in order: 64 by 16 and 8 by 16 numbers without a swizzle, 2048 and 256 bytes.
fn sound() -> String {
    let a = Layout { trans: false, swizzle: 16, leading: 1024, stride: 128, further: 0 };
    let b = Layout { leading: 128, stride: 256, ..a };
    [
        "setp.ne.u32 %p1, 0, 0;\n",
        &descriptor(4, 0, a.descriptor()),
        &descriptor(5, 2048, b.descriptor()),
        FENCE,
        &product(8, "bf16", "%p1", [false; 2]),
        COMMIT,
        WAIT,
        &stores(8),
    ]
    .concat()
}

const BYTES: usize = 2048 + 256;

/// The sound kernel with some of its text replaced, on so many threads.
fn with(threads: u32, changes: &[(&str, &str)]) -> Result<Vec<u32>, String> {
    let mut body = text(8, BYTES, &sound());
    for (from, to) in changes {
        assert!(body.contains(from), "'{from}' is not in the kernel");
        body = body.replacen(from, to, 1);
    }
    run(&body, threads, BYTES, &[0x3f80_3f80; BYTES / 4], 64 * 8 * threads as usize / 128 + 64)
}

/// It fails in every order of the warps, with all these words.
fn caught_on(threads: u32, changes: &[(&str, &str)], words: &[&str]) {
    for seed in 0..6 {
        virtual_gpu::set("seed", seed);
        let error = with(threads, changes);
        virtual_gpu::set("seed", 0);
        let error = error.expect_err(&format!("seed {seed}: {changes:?}"));
        for word in ["kernel k", "PTX line", "thread ("].iter().chain(words) {
            assert!(error.contains(word), "seed {seed}: '{word}' is missing in: {error}");
        }
    }
}

fn caught(changes: &[(&str, &str)], words: &[&str]) {
    caught_on(128, changes, words);
}

/// It ends well in every order of the warps: each result is the sum of sixteen products of ones.
fn clean_on(threads: u32, changes: &[(&str, &str)]) {
    for seed in 0..6 {
        virtual_gpu::set("seed", seed);
        let found = with(threads, changes);
        virtual_gpu::set("seed", 0);
        let found = found.unwrap_or_else(|e| panic!("seed {seed}, {changes:?}: {e}"));
        assert!(found[..512].iter().all(|&v| v == 16f32.to_bits()), "{changes:?}");
    }
}

fn clean(changes: &[(&str, &str)]) {
    clean_on(128, changes);
}

/// Text and what follows it.
fn then(first: &str, second: &str) -> String {
    format!("{first}{second}")
}

const ONE: &str = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%d0, %d1, %d2, %d3}, %rd4, %rd5, %p1, 1, 1, 0, 0;\n";
const IN_FLIGHT: &str = "accumulator of a wgmma that was not waited for";
const TOUCHED: &str = "touched since the last wgmma.fence";

#[test]
#[ignore = "run by the test of this file in a process of its own"]
fn accumulators_belong_to_products_in_flight() {
    let _alone = alone();
    clean(&[]);
    let after = |what: &str| then(ONE, what);
    caught(&[(ONE, &after("mov.f32 %f1, %d3;\n"))], &[&format!("reads an {IN_FLIGHT}"), "mov.f32 %f1"]);
    caught(&[(ONE, &after("mov.f32 %d3, 0f00000000;\n"))], &[&format!("writes an {IN_FLIGHT}")]);
    clean(&[(ONE, &after("mov.f32 %f1, 0f00000000;\n"))]);
    // Not waited for: the newest group, and what is in no group yet.
    let reads = [&format!("reads an {IN_FLIGHT}")[..], "st.global.f32"];
    caught(&[(WAIT, "wgmma.wait_group.sync.aligned 1;\n")], &reads);
    caught(&[(COMMIT, ""), (WAIT, &then(WAIT, COMMIT))], &reads);
    clean(&[(COMMIT, &then(COMMIT, COMMIT)), (WAIT, "wgmma.wait_group.sync.aligned 1;\n")]);
    caught(&[(WAIT, ""), (&stores(8), "")], &["ends before a wgmma that was not waited for", "ret;"]);
    // Results that no one reads do not lend their registers to others meanwhile.
    let others = "mov.f32 %f1, 0f3f800000;\nadd.rn.f32 %f2, %f1, %f1;\nsetp.eq.u32 %p2, %r0, 0;\n@%p2 st.global.f32 [%rd1+2048], %f2;\n";
    let found = with(128, &[(ONE, &after(others)), (&stores(8), "")]).unwrap();
    assert_eq!(found[512], 2f32.to_bits());
    // Another product there, of the same accumulators in another order and of more of them.
    let turned = ONE.replace("%d0, %d1", "%d1, %d0");
    let more = ONE.replace("n8k", "n16k").replace("%d3}", "%d3, %f0, %f1, %f2, %f3}");
    for other in [&turned, &more] {
        let words = ["accumulates where a wgmma of other accumulators was not waited for"];
        caught(&[(ONE, &then(ONE, other))], &words);
        caught(&[(ONE, &[ONE, FENCE, other].concat())], &words);
    }
    // The same ones, and others beside them.
    clean(&[(ONE, &then(ONE, ONE))]);
    clean(&[(ONE, &[ONE, COMMIT, ONE].concat())]);
    clean(&[(ONE, &then(ONE, &ONE.replace("%d", "%f")))]);
}

#[test]
#[ignore = "run by the test of this file in a process of its own"]
fn registers_are_fenced() {
    let _alone = alone();
    caught(&[(FENCE, "")], &[TOUCHED, "wgmma.mma_async"]);
    let zero = "mov.f32 %d2, 0f00000000;\n";
    caught(&[(FENCE, &then(FENCE, zero))], &[TOUCHED]);
    clean(&[(FENCE, &then(zero, FENCE))]);
    let again = |between: &str| [COMMIT, WAIT, between, ONE, COMMIT, WAIT].concat();
    let waited = then(COMMIT, WAIT);
    for touch in [zero, "mov.f32 %f1, %d2;\n"] {
        caught(&[(&waited, &again(touch))], &[TOUCHED]);
        clean(&[(&waited, &again(&then(touch, FENCE)))]);
    }
    clean(&[(&waited, &again(""))]);
    // After a product of another shape, too.
    let turned = then(&ONE.replace("%d0, %d1", "%d1, %d0"), &then(COMMIT, WAIT));
    caught(&[(&waited, &again(&turned))], &[TOUCHED]);
    clean(&[(&waited, &again(&[FENCE, &turned, FENCE].concat()))]);
}

#[test]
#[ignore = "run by the test of this file in a process of its own"]
fn registers_that_are_added_to_were_written() {
    let _alone = alone();
    caught(
        &[("setp.ne.u32 %p1, 0, 0;", "setp.ne.u32 %p1, 1, 0;")],
        &["register that was never written", "wgmma"],
    );
    caught(&[("setp.ne.u32 %p1, 0, 0;", "")], &["register that was never written", "wgmma"]);
    let first = &descriptor(4, 0, 0)[..20];
    caught(&[(first, "add.u32 %r11, %r20, 0;\nadd.u32 %r10, %r1, 0")], &["register that was never written"]);
    // What the first one wrote, the second adds to.
    let second = then("setp.ne.u32 %p1, 1, 0;\n", ONE);
    let found = with(128, &[(ONE, &then(ONE, &second))]).unwrap();
    assert!(found[..512].iter().all(|&v| v == 32f32.to_bits()));
    let found = with(128, &[(ONE, &then(ONE, &ONE.replace("%p1", "!%p1")))]).unwrap();
    assert!(found[..512].iter().all(|&v| v == 32f32.to_bits()));
}

#[test]
#[ignore = "run by the test of this file in a process of its own"]
fn a_warpgroup_is_whole() {
    let _alone = alone();
    let few = "setp.lt.u32 %p2, %r0, 100;\n";
    for one in [FENCE, ONE, COMMIT] {
        let missing = ["lanes 0x0000000f wait here for lanes 0xfffffff0, which wait at line", "sync.aligned"];
        caught(&[(one, &format!("{few}@%p2 {one}"))], &missing);
    }
    caught(
        &[(WAIT, &format!("{few}@%p2 {WAIT}"))],
        &[&format!("reads an {IN_FLIGHT}"), "thread (100, 0, 0)"],
    );
    caught(&[(FENCE, &format!("{few}@!%p2 exit;\n{FENCE}"))], &["which have ended"]);
    caught_on(96, &[], &["is in no whole warpgroup of four"]);
    caught_on(
        110,
        &[("%r2, %r2, 2048;", "%r2, %r2, 1760;")],
        &["wait here for lanes 0xffffc000, which have ended"],
    );
    let ninety_six = "setp.lt.u32 %p2, %r0, 96;\n";
    caught(
        &[(ONE, &format!("{ninety_six}@%p2 {ONE}")), (&stores(8), "")],
        &["warp 3 has ended without this wgmma of its warpgroup", "wgmma.mma_async"],
    );
    let group = "the warps of a warpgroup begin different products";
    caught(&[(ONE, &format!("{ninety_six}@!%p2 sub.s64 %rd5, %rd5, 16;\n{ONE}"))], &[group]);
    caught(&[(ONE, &format!("{ninety_six}@%p2 {ONE}@!%p2 {ONE}"))], &[group]);
    caught(
        &[(ONE, &format!("{few}@!%p2 sub.s64 %rd5, %rd5, 16;\n{ONE}"))],
        &["lanes give different descriptors", "thread (100, 0, 0)"],
    );
    caught(
        &[(
            ONE,
            &format!(
                "mov.f32 %d0, 0f00000000;\nmov.f32 %d1, %d0;\nmov.f32 %d2, %d0;\nmov.f32 %d3, %d0;\n{FENCE}setp.gt.u32 %p1, %r0, 99;\n{ONE}"
            ),
        )],
        &["lanes differ in scale-d", "thread (100, 0, 0)"],
    );
}

#[test]
#[ignore = "run by the test of this file in a process of its own"]
fn shared_memory_is_there_and_written() {
    let _alone = alone();
    let b = Layout { trans: false, swizzle: 16, leading: 128, stride: 256, further: 0 };
    let sound = descriptor(5, 2048, b.descriptor());
    let of = |offset: usize, layout: Layout| descriptor(5, offset, layout.descriptor());
    caught(
        &[(&sound, &of(2048 + 16, b))],
        &["out of bounds: reads 16 bytes at shared address 0xd00 (offset 2304 of 2304 bytes)"],
    );
    clean(&[(&sound, &of(2048 - 16, b))]);
    let far = Layout { leading: 1 << 17, ..b };
    caught(&[(&sound, &of(2048, far))], &["out of bounds", "offset 133120 of 2304"]);
    let before = format!("{sound}sub.s64 %rd5, %rd5, 160;\n");
    caught(&[(&sound, &before)], &["out of bounds", "offset -512 of"]);
    caught(
        &[(&format!("%r2, {BYTES};"), "%r2, 2288;")],
        &["reads 16 bytes at shared address 0xcf0", "never written (uninitialised"],
    );
    // Half of the last sixteen bytes.
    let half = format!("%r2, {};", BYTES - 16);
    let rest = "FILLED:\nsetp.eq.u32 %p3, %r0, 0;\n@%p3 st.shared.u64 [%r1+2288], 0x3f803f803f803f80;\n";
    caught(&[(&format!("%r2, {BYTES};"), &half), ("FILLED:\n", rest)], &["0xcf0", "never written"]);
}

#[test]
#[ignore = "run by the test of this file in a process of its own"]
fn descriptors_are_what_they_can_be() {
    let _alone = alone();
    let b = Layout { trans: false, swizzle: 16, leading: 128, stride: 256, further: 0 };
    let sound = descriptor(5, 2048, b.descriptor());
    let with = |offset: usize, bits: u64| {
        format!("{}or.b64 %rd5, %rd5, {bits};\n", descriptor(5, offset, b.descriptor()))
    };
    caught(
        &[(&sound, &with(2048, 3 << 49))],
        &["the descriptor of B, 0x", "has the base offset 3, which is not supported"],
    );
    for bit in [14, 15, 30, 31, 46, 47, 48, 52, 61] {
        caught(
            &[(&sound, &with(2048, 1 << bit))],
            &["the descriptor of B, 0x", "has bits that mean nothing"],
        );
    }
    for (layout, row) in [(1u64, 128), (2, 64), (3, 32)] {
        let atom = 8 * row;
        let words = [&format!("not in the first {row} bytes of {atom}")[..]];
        caught(&[(&sound, &with(1024 + row, layout << 62))], &words);
        caught(&[(&sound, &with(1024 + atom - 16, layout << 62))], &words);
        caught(
            &[(&sound, &with(1024 + row - 16, layout << 62))],
            &[&format!("too late for 32 bytes in a row of {row}")],
        );
        clean(&[(&sound, &with(1024 + row - 32, layout << 62))]);
    }
    // 64 rows along a row of 128 bytes: A may not begin later.
    let a = descriptor(4, 0, Layout { leading: 1024, stride: 128, ..b }.descriptor());
    let turned = ONE.replace("1, 1, 0, 0", "1, 1, 1, 0");
    let later =
        |bytes: usize| format!("{}or.b64 %rd4, %rd4, {};\n", descriptor(4, bytes, 64 << 32), 1u64 << 62);
    caught(
        &[(&a, &later(16)), (ONE, &turned)],
        &["the descriptor of A, 0x", "too late for 128 bytes in a row of 128"],
    );
    clean(&[(&a, &later(0)), (ONE, &turned)]);
}

#[test]
#[ignore = "run by the test of this file in a process of its own"]
fn shared_memory_is_read_until_the_wait() {
    let _alone = alone();
    let (first, last) = ("setp.eq.u32 %p2, %r0, 0;\n@%p2 ", "setp.eq.u32 %p2, %r0, 127;\n@%p2 ");
    let store = "st.shared.u32 [%r1+2048], 0;\n";
    let barrier = "bar.sync 0;\n";
    let race = "race in shared memory";
    for thread in [first, last] {
        let write = then(thread, store);
        // Before the product without a barrier, and while it reads, a barrier or not.
        caught(&[(FENCE, &[&write, "fence.proxy.async;\n", FENCE].concat())], &[race]);
        caught(&[(COMMIT, &then(&write, COMMIT))], &[race]);
        caught(&[(COMMIT, &[barrier, &write, COMMIT].concat())], &[race, "which a wgmma of warp"]);
        caught(&[(COMMIT, &[barrier, &write, barrier, COMMIT].concat())], &[race, "which a wgmma of warp"]);
        // After the own wait, with no barrier after that of others.
        caught(&[(WAIT, &[WAIT, &write].concat())], &[race]);
        caught(&[(WAIT, &[barrier, WAIT, &write].concat())], &[race]);
        clean(&[(WAIT, &[WAIT, barrier, &write].concat())]);
    }
    // Rows of A that the own warp alone reads, from another of its lanes than the first: after the wait it may.
    let own = "setp.eq.u32 %p2, %r0, 5;\n@%p2 st.shared.u32 [%r1], 0;\n";
    caught(&[(COMMIT, &then(own, COMMIT))], &[race, "thread (5, 0, 0)", "which a wgmma of warp 0"]);
    caught(&[(COMMIT, &["bar.warp.sync -1;\n", own, COMMIT].concat())], &[race, "which a wgmma of warp 0"]);
    clean(&[(WAIT, &then(WAIT, own))]);
    // Copies and atomic operations.
    let copy = "cp.async.ca.shared.global [%r1+2048], [%rd0], 4;\n";
    let ended = "cp.async.wait_all;\n";
    let atomic = "red.shared.add.u32 [%r1+2048], 1;\n";
    for write in [&[first, copy, ended].concat(), &then(first, atomic)] {
        caught(&[(COMMIT, &[barrier, write, COMMIT].concat())], &[race, "which a wgmma of warp"]);
        clean(&[(WAIT, &[WAIT, barrier, write].concat())]);
    }
    // Of two groups the first has ended, whose B lies elsewhere.
    let second = [
        &descriptor(5, 1792, 16 << 32 | 8 << 16)[..],
        ONE,
        COMMIT,
        "wgmma.wait_group.sync.aligned 1;\n",
        barrier,
    ];
    let write = |at: usize| format!("{first}st.shared.u32 [%r1+{at}], 0;\n");
    let both = then(COMMIT, &second.concat());
    clean(&[(COMMIT, &then(&both, &write(2048)))]);
    caught(&[(COMMIT, &then(&both, &write(1792)))], &[race, "which a wgmma of warp"]);
    // Another warp, told by the four when they have begun, or when they have ended.
    let tell = "setp.lt.u32 %p3, %r0, 128;\n@%p3 bra OURS;\nbar.sync 1, 160;\nst.shared.u32 [%r1+2048], 0;\nexit;\nOURS:\n";
    let told = "bar.arrive 1, 160;\n";
    let by_160 = ("%r2, %r2, 2048;", "%r2, %r2, 2560;");
    let other = ("setp.ne.u32 %p1, 0, 0;\n", &then(tell, "setp.ne.u32 %p1, 0, 0;\n")[..]);
    caught_on(160, &[by_160, other, (COMMIT, &then(COMMIT, told))], &[race]);
    clean_on(160, &[by_160, other, (WAIT, &then(WAIT, told))]);
}

#[test]
#[ignore = "run by the test of this file in a process of its own"]
fn what_others_wrote_is_handed_to_the_product() {
    let _alone = alone();
    let fence = "fence.proxy.async;\n";
    let whole = then(fence, "bar.sync 0;\n");
    let words = [
        "reads 16 bytes at shared address 0x",
        "with no fence.proxy.async between before the barrier",
        "which thread (",
    ];
    caught(&[(fence, "")], &words);
    caught(&[(&whole, "bar.sync 0;\nfence.proxy.async;\n")], &words);
    caught(&[(&whole, "bar.sync 0;\nfence.proxy.async;\nbar.warp.sync -1;\n")], &words);
    clean(&[(&whole, "bar.sync 0;\nfence.proxy.async;\nbar.sync 0;\n")]);
    clean(&[(fence, "fence.proxy.async.shared::cta;\n")]);
    clean(&[(&whole, &then(&whole, &whole))]);
    // Later fences do not undo it.
    clean(&[(ONE, &then(fence, ONE))]);
    // By others than who wrote.
    let one = "setp.ne.u32 %p4, %r0, 77;\n@%p4 fence.proxy.async;\n";
    caught(&[(fence, one)], &[words[0], words[1], "which thread (77, 0, 0) wrote"]);
    // Before the last write.
    caught(
        &[
            ("add.u32 %r7,", "fence.proxy.async;\nadd.u32 %r7,"),
            ("FILLED:\nfence.proxy.async;\n", "FILLED:\n"),
        ],
        &words,
    );
    // A word of sixteen bytes.
    let word = "bar.sync 0;\nsetp.eq.u32 %p2, %r0, 40;\n@%p2 st.shared.u16 [%r1+2054], 0x3f80;\n";
    caught(
        &[(&whole, &[&whole, word, "bar.sync 0;\n"].concat())],
        &[words[0], words[1], "which thread (40, 0, 0) wrote"],
    );
    // After the barrier, however long before another warp reads.
    let (of_first, late) = (word.replace("40", "7"), "bar.sync 0;\nfence.proxy.async;\n");
    caught(
        &[(&whole, &[&whole, &of_first, late].concat())],
        &[words[0], words[1], "which thread (7, 0, 0) wrote"],
    );
    clean(&[(&whole, &[&whole[..], &of_first, &whole].concat())]);
    clean(&[(&whole, &[&whole, word, &whole].concat())]);
    // Copies count when they have ended.
    let store = "st.shared.v4.u32 [%r7], {%r3, %r4, %r5, %r6};\n";
    let copied = |after: &str| {
        with(128, &[(store, "cp.async.cg.shared.global [%r7], [%rd2], 16;\n"), (&whole, after)])
    };
    let error = copied("fence.proxy.async;\ncp.async.wait_all;\nbar.sync 0;\n").unwrap_err();
    assert!(error.contains(words[1]), "{error}");
    let error = copied("fence.proxy.async;\nbar.sync 0;\n").unwrap_err();
    assert!(error.contains("while a cp.async into it was not waited for"), "{error}");
    copied("cp.async.wait_all;\nfence.proxy.async;\nbar.sync 0;\n").unwrap();
}

#[test]
#[ignore = "run by the test of this file in a process of its own"]
fn what_is_not_there_has_a_name() {
    let _alone = alone();
    let refused = |changes: &[(&str, &str)], words: &[&str]| {
        let error = with(128, changes).expect_err(&format!("{changes:?}"));
        for word in words {
            assert!(error.contains(word), "'{word}' is missing in: {error}");
        }
    };
    let instead = |from: &str, to: &str, words: &[&str]| {
        assert!(ONE.contains(from), "{from}");
        refused(&[(ONE, &ONE.replace(from, to))], &[&["line ", "wgmma.mma_async"], words].concat());
    };
    instead("1, 1, 0, 0", "-1, 1, 0, 0", &["imm-scale-a -1 is not supported"]);
    instead("1, 1, 0, 0", "1, -1, 0, 0", &["imm-scale-b -1 is not supported"]);
    instead("1, 1, 0, 0", "1, 1, 2, 0", &["0 or 1 was expected"]);
    instead(
        "%rd4, %rd5, %p1, 1, 1, 0, 0",
        "{%r0, %r0, %r0, %r0}, %rd5, %p1, 1, 1, 0",
        &["A in registers is not supported"],
    );
    instead("%p1, 1, 1, 0, 0", "%p1, 1, 1", &["eight operands were expected"]);
    instead("m64n8k16", "m64n12k16", &["shape not supported"]);
    instead("m64n8k16", "m64n264k16", &["shape not supported"]);
    instead("m64n8k16", "m64n8k8", &["shape not supported"]);
    instead("m64n8k16", "m64n16k16", &["another length than the shape says"]);
    instead("%d0, %d1", "%d0, %d0", &["named twice"]);
    instead("f32.bf16.bf16", "f32.tf32.tf32", &["type not supported", "tf32"]);
    instead("f32.bf16.bf16", "f16.f16.f16", &["instruction not supported", ".f16.f16.f16"]);
    instead("mma_async", "mma_async.sp", &["instruction not supported", "mma_async.sp"]);
    refused(
        &[("fence.proxy.async;", "fence.proxy.tensormap::generic.acquire.gpu [%rd0], 128;")],
        &["fence.proxy.tensormap", "not supported"],
    );
    refused(
        &[("fence.proxy.async;", "fence.proxy.async.global;")],
        &["fence.proxy.async.global", "not supported"],
    );
    // PTX that is not for this chip alone.
    refused(&[("sm_90a", "sm_90")], &["needs .target sm_90a, not sm_90", "wgmma"]);
    refused(&[("sm_90a", "sm_80")], &["needs .target sm_90 or newer, not sm_80", "fence.proxy.async"]);
    refused(&[("8.0", "7.8")], &["INVALID_PTX", "sm_90a of version 7.8, 8.0 or newer is needed"]);
    clean(&[("8.0", "8.4")]);
}

#[test]
#[ignore = "run by the test of this file in a process of its own"]
fn products_are_counted() {
    let _alone = alone();
    for n in [8, 32, 160] {
        let layout = Layout { trans: false, swizzle: 128, leading: 0, stride: 1024, further: 32 };
        let bytes = layout.bytes(64) + layout.bytes(n);
        let counts = |products: usize| {
            let one = product(n, "f16", "%p1", [false; 2]);
            let body = [
                "setp.ne.u32 %p1, 0, 0;\n",
                &descriptor(4, 0, layout.descriptor()),
                &descriptor(5, layout.bytes(64), layout.descriptor()),
                FENCE,
                &one.repeat(products),
                COMMIT,
                WAIT,
                WAIT,
            ]
            .concat();
            run(&text(n, bytes, &body), 128, bytes, &vec![0; bytes / 4], 4).unwrap();
            virtual_gpu::counts()
        };
        let (none, three) = (counts(0), counts(3));
        let more = |name: &str| three[name] - none[name];
        // A product of 64 by N by 16: 64 rows and N rows of 32 bytes, 128 a wavefront.
        let wavefronts = 3 * (64 + n) * 32 / 128;
        assert_eq!((more("wavefronts"), more("wavefronts_ideal")), (wavefronts as f64, wavefronts as f64));
        assert_eq!((three["wgmma"], three["wgmma_waits"], three["mma"]), (3.0 * n as f64 / 2.0, 8.0, 0.0));
        assert_eq!(more("instructions"), 12.0);
    }
}
