//! Cells in bf16 on AMX: a tile is sixteen rows of 64 bytes, and one instruction adds the product of two of them,
//! `[16 rows, 32 k] · [32 k, 16 units]`, to a third, in f32. Sums do not depend on the other rows of a tile.
//! Intrinsics for it are unstable in Rust, `asm!` is not.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::OnceLock;

use half::bf16;

use super::BLOCK;
use super::cell::{CellForward, CellKernel, StatePlaces};
use super::lanes::Lanes;
use super::path::Kernel;
use super::product::Segments;
use super::stored::Stored;
use crate::model::Cell;

/// Rows of a tile.
const ROWS: usize = 16;
/// Elements of a tile's row.
const DEPTH: usize = 32;
/// Rows whose sums are made at once: two tiles, which share those of the weights.
const PAIR: usize = 2 * ROWS;
/// Most elements of a row that are gathered at once.
const GATHERED: usize = 2048;
/// Elements of all rows that are gathered at once: they stay in a core's cache while every block passes over them.
const ROOM: usize = PAIR * GATHERED;
/// Most rows that are gathered at once.
const GROUP: usize = 128;

/// Why the processor or the system does not let this process use AMX, if so; asked for once.
pub(super) fn unavailable() -> Option<&'static str> {
    static ANSWER: OnceLock<Option<&'static str>> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
        const TILE_STATE: u64 = 1 << 17 | 1 << 18;
        if !is_x86_feature_detected!("avx512f") || !is_x86_feature_detected!("xsave") {
            return Some("the processor lacks AVX-512");
        }
        let cpuid = |leaf| __cpuid_count(leaf, 0);
        if cpuid(0).eax < 7 || cpuid(7).edx & BF16_AND_TILES != BF16_AND_TILES {
            return Some("the processor lacks AMX with bf16");
        }
        // SAFETY: the processor has `xsave`, and a system that lets AVX-512 be used has enabled `xgetbv`.
        if unsafe { xgetbv() } & TILE_STATE != TILE_STATE {
            return Some("the system does not save the tiles of AMX");
        }
        if !permitted() {
            return Some("the system refuses this process the tiles of AMX");
        }
        None
    })
}

/// # Safety
/// The system has enabled the instruction.
#[target_feature(enable = "xsave")]
unsafe fn xgetbv() -> u64 {
    // SAFETY: as the caller says.
    unsafe { _xgetbv(0) }
}

/// Asks Linux for the tiles, for all threads of the process: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    let answer: i64;
    // SAFETY: a system call that reads and writes no memory.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => answer,
            in("rdi") 0x1023,
            in("rsi") 18,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer == 0
}

/// The tiles of this thread, of rows of 64 bytes, for as long as it lives.
struct Tiles {
    /// Rows whose sums are made at once: fewer than sixteen, which are one tile, or a pair.
    rows: usize,
    _of_this_thread: PhantomData<*mut ()>,
}

impl Tiles {
    /// For jobs of so many rows.
    ///
    /// # Safety
    /// [`unavailable`] said None.
    unsafe fn configure(rows: usize) -> Self {
        #[repr(C, align(64))]
        struct Config([u8; 64]);
        let mut config = Config([0; 64]);
        config.0[0] = 1; // the palette
        for tile in 0..8 {
            config.0[16 + 2 * tile] = 64; // bytes of a row
            // The upper rows and their sums may be fewer.
            config.0[48 + tile] = if matches!(tile, 0 | 3) { rows.min(ROWS) } else { ROWS } as u8;
        }
        // SAFETY: as the caller says.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &config, out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _, options(nostack, readonly, preserves_flags))
        };
        Tiles { rows: if rows > ROWS { PAIR } else { rows }, _of_this_thread: PhantomData }
    }

    /// Sums of `self.rows` rows and sixteen units over `steps` tiles of the weights. Sums begin at 0 if `fresh`, else
    /// with what is there.
    ///
    /// # Safety
    /// `x` has as many rows of `32 · steps` bf16, `x_row` bytes apart, `weights` `16 · steps` rows of sixteen pairs,
    /// `sums` as many rows of sixteen f32, `wide` bytes apart both.
    #[inline(always)]
    unsafe fn product(
        &self,
        x: (*const bf16, usize),
        weights: *const f32,
        wide: usize,
        steps: usize,
        sums: *mut f32,
        fresh: bool,
    ) {
        let (x, x_row) = x;
        let lower = x.wrapping_byte_add(ROWS * x_row);
        let lower_sums = sums.wrapping_byte_add(ROWS * wide);
        // SAFETY: as the caller says; tiles are configured.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "test {fresh:e}, {fresh:e}",
                "jnz 2f",
                "tileloadd tmm0, [{sums} + {wide}]",
                "test {two:e}, {two:e}",
                "jz 2f",
                "tileloadd tmm1, [{lower_sums} + {wide}]",
                "2:",
                "tileloadd tmm2, [{weights} + {wide}]",
                "tileloadd tmm3, [{x} + {x_row}]",
                "tdpbf16ps tmm0, tmm3, tmm2",
                "test {two:e}, {two:e}",
                "jz 3f",
                "tileloadd tmm4, [{lower} + {x_row}]",
                "tdpbf16ps tmm1, tmm4, tmm2",
                "add {lower}, 64",
                "3:",
                "add {x}, 64",
                "add {weights}, {step}",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {wide}], tmm0",
                "test {two:e}, {two:e}",
                "jz 4f",
                "tilestored [{lower_sums} + {wide}], tmm1",
                "4:",
                fresh = in(reg) u32::from(fresh),
                two = in(reg) u32::from(self.rows > ROWS),
                x = inout(reg) x => _,
                lower = inout(reg) lower => _,
                x_row = in(reg) x_row,
                weights = inout(reg) weights => _,
                step = in(reg) wide * ROWS,
                steps = inout(reg) steps => _,
                sums = in(reg) sums,
                lower_sums = in(reg) lower_sums,
                wide = in(reg) wide,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: they were configured on this thread, which they cannot leave. Without it every switch of threads
        // would save them.
        unsafe {
            asm!("tilerelease", out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _, options(nostack, nomem, preserves_flags))
        };
    }
}

/// A cell over states in bf16, as a kernel.
pub(super) struct AmxKernel<'a, 'b, const S: usize, const N: usize>(
    pub CellKernel<'a, 'b, Segments<'b, bf16, S>, N, bf16>,
);

impl<const S: usize, const N: usize> Kernel for AmxKernel<'_, '_, S, N> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        // SAFETY: a `Cpu` holds this path only if AMX is there; whoever makes the kernel vouches for its job.
        unsafe {
            match self.0.cell {
                Cell::Rnn => self.cell::<L, 1>(),
                Cell::Lstm if const { N == 1 } => self.cell::<L, 4>(),
                Cell::Lstm => self.cell::<L, 5>(),
            }
        }
    }
}

/// Rows of inputs side by side.
#[repr(C, align(64))]
struct Room(MaybeUninit<[bf16; ROOM]>);

/// Sums of a block of 32 rows, gate after gate, for at most five gates.
#[repr(C, align(64))]
struct Sums([f32; PAIR * 5 * BLOCK]);

impl<const S: usize, const N: usize> AmxKernel<'_, '_, S, N> {
    #[inline(always)]
    unsafe fn cell<L: Lanes, const G: usize>(&self) {
        let CellKernel { job, rows, blocks, .. } = &self.0;
        let depth = 2 * job.linear.panel_rows();
        // Long rows are gathered piece by piece, for every block anew.
        let piece = depth.min(GATHERED);
        let group = if piece < depth { PAIR } else { GROUP.min(ROOM / piece / PAIR * PAIR) };
        let mut room = Room(MaybeUninit::uninit());
        let room = room.0.as_mut_ptr().cast::<bf16>();
        let mut sums = Sums([0.0; PAIR * 5 * BLOCK]);
        let mut places = [StatePlaces::NONE; GROUP];
        let wide = G * BLOCK * size_of::<f32>();
        // SAFETY: the room holds a group of rows of a piece; the panel is a whole one; the rows are the task's own.
        unsafe {
            let tiles = Tiles::configure(rows.len());
            for first in rows.clone().step_by(group) {
                let group = first..rows.end.min(first + group);
                if piece == depth {
                    gather(&job.input, group.clone(), 0..depth, room, tiles.rows);
                }
                for (place, row) in places.iter_mut().zip(group.clone()) {
                    *place = job.places(row);
                }
                for block in blocks.clone() {
                    let panel = job.linear.panel(block).as_ptr();
                    for pair in group.clone().step_by(PAIR) {
                        let pair = pair..group.end.min(pair + PAIR);
                        let places = &places[pair.start - group.start..pair.end - group.start];
                        for place in places {
                            place.fetch(block);
                        }
                        for from in (0..depth).step_by(piece) {
                            let elements = from..depth.min(from + piece);
                            let x = match piece == depth {
                                true => room.wrapping_add((pair.start - group.start) * piece),
                                false => {
                                    gather(&job.input, pair.clone(), elements.clone(), room, tiles.rows);
                                    room
                                }
                            };
                            for gate in 0..G {
                                let weights = panel.wrapping_add((from / 2 * G + gate) * BLOCK);
                                let sums = sums.0.as_mut_ptr().add(gate * BLOCK);
                                let row_bytes = elements.len() * size_of::<bf16>();
                                let steps = elements.len() / DEPTH;
                                tiles.product((x, row_bytes), weights, wide, steps, sums, from == 0);
                            }
                        }
                        states::<L, S, N, G>(job, &mut sums, block, places);
                    }
                }
            }
        }
    }
}

/// From the sums of rows to their states.
///
/// # Safety
/// As [`CellForward::run`].
#[inline(always)]
unsafe fn states<L: Lanes, const S: usize, const N: usize, const G: usize>(
    job: &CellForward<'_, Segments<'_, bf16, S>, N, bf16>,
    sums: &mut Sums,
    block: usize,
    places: &[StatePlaces<N, bf16>],
) {
    let halves = || (0..BLOCK).step_by(L::WIDTH);
    // SAFETY: passed on; a row of sums has `G` blocks.
    unsafe {
        for (place, sums) in places.iter().zip(sums.0.chunks_exact_mut(G * BLOCK)) {
            for half in halves() {
                let acc: [L; G] = std::array::from_fn(|g| L::load(sums[g * BLOCK + half..].as_ptr()));
                if const { G == 1 } {
                    job.rnn_state([acc[0]], block, half, place);
                } else {
                    let [c, o] = job.lstm_c(acc, block, half, place);
                    c.store(sums[half..].as_mut_ptr());
                    o.store(sums[BLOCK + half..].as_mut_ptr());
                }
            }
        }
        if const { G == 1 } {
            return;
        }
        for (place, sums) in places.iter().zip(sums.0.chunks_exact(G * BLOCK)) {
            for half in halves() {
                let (c, o) = (L::load(sums[half..].as_ptr()), L::load(sums[BLOCK + half..].as_ptr()));
                job.lstm_h([c, o], block, half, place);
            }
        }
    }
}

/// Copies a range of the elements of rows to `room`, row after row, and zeros for what is missing of a multiple of `whole`.
///
/// # Safety
/// The rows are readable, no task writes them, and the room holds them.
#[inline(always)]
unsafe fn gather<const S: usize>(
    input: &Segments<'_, bf16, S>,
    rows: Range<usize>,
    elements: Range<usize>,
    room: *mut bf16,
    whole: usize,
) {
    let padded = bf16::row_of(input.len);
    let mut to = room;
    for row in rows.clone() {
        for (segment, index) in input.index.iter().enumerate() {
            let start = segment * padded;
            let (from, end) = (elements.start.max(start), elements.end.min(start + padded));
            if from < end {
                let x = input.h.row(index.row(row)).wrapping_add(from - start);
                // SAFETY: as the caller says; rows of `h` are padded.
                unsafe { x.copy_to_nonoverlapping(to, end - from) };
                to = to.wrapping_add(end - from);
            }
        }
    }
    let missing = rows.len().next_multiple_of(whole) - rows.len();
    // SAFETY: as the caller says; all bits 0 are a bf16.
    unsafe { to.write_bytes(0, missing * elements.len()) };
}
