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

    /// Bytes of `rows` rows, and what follows the last one in its atom.
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

/// A kernel of 128 threads, or another number, with `%r0` = tid, `%r1` = the address of the dynamic shared memory, which is filled
/// with the first `bytes` of `a` (`%rd0`) and given to the products; `%rd1` = `b`, the results.
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
