//! Counts turned into time: *modelled*, calibrated on an H200 on 2026-11-26 for the kernels of [`H200`]'s table. Knows launches
//! by what they counted, and no kernel.
//!
//! An SM works on as many blocks as its registers and shared memory let live together. Four warps, one a scheduler, are done
//! after their serial chain, that of the longest: its instructions, which stand in line, its waits for device memory, its
//! barriers, the products of its warpgroup. All warps beside them, of the same block or of others, add their time on the busiest pipe. A launch takes as many
//! such times as it has waves, and the gap to the launch before it. There is no first-level cache and no memory behind the second: a kernel that reads the same sectors again
//! and again is slower here than on a card, one whose data lies in neither cache faster.

use crate::host::Launched;

/// A card: sizes, and the rates that time is modelled by. Rates are those of an SM and a clock.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    /// Its name.
    pub name: &'static str,
    /// Multiprocessors.
    pub sms: f64,
    /// Clocks a second.
    pub clock: f64,
    /// Clocks of one `mma.sync` of 16 by 8 by 16 numbers of 16 bits.
    pub mma: f64,
    /// Clocks of 16 by 8 by 16 numbers of a `wgmma`.
    pub wgmma: f64,
    /// Reads and writes of the banks of shared memory: 128 bytes each.
    pub wavefronts: f64,
    /// Special functions.
    pub special: f64,
    /// Bytes of second-level cache.
    pub l2: f64,
    /// Instructions of warps. PTX is counted, not what ptxas made of it.
    pub issue: f64,
    /// Clocks of a warp from one instruction to the next.
    pub step: f64,
    /// Clocks of a warp from an `mma.sync` to the next instruction.
    pub mma_step: f64,
    /// Clocks of a wait for device memory.
    pub trip: f64,
    /// Clocks until a block has its first operands, and after its last instruction.
    pub fill: f64,
    /// Clocks of a barrier of a block.
    pub barrier: f64,
    /// Clocks of a wait for asynchronous copies that have come, and until shared memory has answered what follows it.
    pub stage: f64,
    /// Clocks of a wait for products of a `wgmma`, with the fences about it.
    pub wgmma_wait: f64,
    /// Seconds from a launch to the next, in a graph.
    pub gap: f64,
    /// Registers.
    pub registers: u32,
    /// Bytes of shared memory.
    pub shared: u32,
    /// Threads.
    pub threads: u32,
    /// Blocks.
    pub blocks: u32,
    /// FLOP a second by the data sheet: dense products of 16-bit numbers.
    pub peak: f64,
}

/// Schedulers of an SM, each with a quarter of its pipes.
const SCHEDULERS: f64 = 4.0;

/// FLOP of one `mma` of 16 by 8 by 16.
pub const MMA_FLOP: f64 = 2.0 * 16.0 * 8.0 * 16.0;

/// Measured on a card by `benches/constants.rs`: `clock` (under products of matrices), `mma`, `l2` and `gap`. Fitted to these
/// times of a profiler that emptied the caches before each launch, of H = 256 in bf16 at commit 7181fcb: `step` to `stage`. The
/// profiler's times have some 1.5 µs before and after the kernel's own.
///
/// | kernel | blocks | card, µs | model, µs |
/// |---|---|---|---|
/// | merge_lstm_128 | 1024 | 86.9 | 86.4 |
/// | unary_lstm_128 | 1024 | 51.6 | 50.9 |
/// | merge_lstm_64, z kept | 16 | 12.5, in a graph about 9 | 11.1 |
/// | unary_lstm_64, z kept | 16 | 8.5 | 7.5 |
/// | into_merge_lstm_64 | 4 | 30.0 | 29.4 |
/// | into_places_64 | 8 | 15.8 | 15.6 |
/// | into_merge_lstm_128 | 40 | 66.3 | 50.4 |
/// | into_places_128 | 80 | 22.5 | 21.4 |
/// | weight_gradient | 120 | 105.4 | 90.4 |
/// | token_gradient | 24 | 634 | 766 |
///
/// The last has blocks of eight warps; its figure is from before they were charged for each other, some 7 % more since.
///
/// Not measured: `wgmma`, the data sheet's 4096 FLOP an SM and clock (989.4 TFLOP/s of 132 SMs at 1.83 GHz), and
/// `wgmma_wait`, a guess. `benches/constants.rs` asks a card for both.
pub const H200: Card = Card {
    name: "H200",
    sms: 132.0,
    clock: 1.78e9,
    mma: 1.549,
    wgmma: 1.0,
    wavefronts: 1.0,
    special: 16.0,
    l2: 31.6,
    issue: 4.0,
    step: 3.0,
    mma_step: 6.5,
    trip: 450.0,
    fill: 2000.0,
    barrier: 30.0,
    stage: 200.0,
    wgmma_wait: 100.0,
    gap: 0.84e-6,
    registers: 1 << 16,
    shared: 228 << 10,
    threads: 2048,
    blocks: 32,
    peak: 989.4e12,
};

/// What keeps a launch from being faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// Tensor cores.
    Mma,
    /// Shared memory.
    Shared,
    /// Special functions.
    Special,
    /// The second-level cache.
    L2,
    /// Instructions.
    Issue,
    /// The serial chain of one block.
    Chain,
    /// The gap between launches.
    Gap,
}

/// The time of a launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Modelled {
    /// Blocks that live together on an SM.
    pub together: u32,
    /// Times that an SM takes as many: the last time it may be fewer.
    pub waves: u32,
    /// Seconds, the gap included.
    pub seconds: f64,
    /// What most of them go to.
    pub bound: Bound,
}

impl Card {
    /// FLOP a second that `mma.sync` reaches at most.
    pub fn mma_flops(&self) -> f64 {
        self.sms * self.clock * MMA_FLOP / self.mma
    }

    /// Blocks that live together on an SM. The driver keeps 1 KiB of shared memory a block; registers are given out to warps by
    /// 256.
    pub fn together(&self, threads: u32, shared: u32, registers: u32) -> u32 {
        let warps = threads.div_ceil(32);
        let by_registers = self.registers / (warps * (32 * registers).next_multiple_of(256)).max(1);
        let by_shared = self.shared / (shared + 1024);
        by_registers.min(by_shared).min(self.threads / (32 * warps)).min(self.blocks)
    }

    /// Models a launch whose threads have so many registers; none if not one block fits.
    pub fn model(&self, launch: &Launched, registers: u32) -> Option<Modelled> {
        let together = self.together(launch.threads, launch.shared, registers);
        if together == 0 || launch.blocks == 0 {
            return None;
        }
        let of_a_block = |name: &str| launch.counts[name] / f64::from(launch.blocks);
        // Launches that were counted before there were any have no such columns.
        let products =
            |name: &str| launch.counts.get(name).map_or(0.0, |count| count / f64::from(launch.blocks));
        let wgmma = products("wgmma") * self.wgmma;
        let pipes = [
            (Bound::Mma, of_a_block("mma") * self.mma + wgmma),
            (Bound::Shared, of_a_block("wavefronts") / self.wavefronts),
            (Bound::Special, of_a_block("special") / self.special),
            (Bound::L2, 32.0 * of_a_block("sectors") / self.l2),
            (Bound::Issue, of_a_block("instructions") / self.issue),
        ];
        let (pipe, busiest) = pipes.into_iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        let warps = f64::from(launch.threads.div_ceil(32));
        let of_a_warp = |name: &str| of_a_block(name) / warps;
        // The four warps of a warpgroup share the tensor cores, which take as long for each as for all.
        let of_products = wgmma / warps * SCHEDULERS + products("wgmma_waits") / warps * self.wgmma_wait;
        let chain = self.fill
            + (launch.counts["most_instructions"] - of_a_warp("mma")) * self.step
            + of_a_warp("mma") * self.mma_step
            + launch.counts["most_trips"] * self.trip
            + of_a_warp("barriers") * self.barrier
            + of_a_warp("copy_waits") * self.stage
            + of_products;
        // A block's part beside its first four warps, and the other blocks.
        let beside = 1.0 - SCHEDULERS / warps.max(SCHEDULERS);
        let others = |blocks: u32| (f64::from(blocks - 1) + beside) * busiest;
        let clocks = |blocks: u32| (f64::from(blocks) * busiest).max(chain + others(blocks));
        // Whole waves, then what is left, spread over the SMs.
        let whole = launch.blocks / (self.sms as u32 * together);
        let left = (launch.blocks % (self.sms as u32 * together)).div_ceil(self.sms as u32);
        let rest = if left > 0 { clocks(left) } else { 0.0 };
        let busy = (f64::from(whole) * clocks(together) + rest) / self.clock;
        let part = |blocks: u32| {
            if (busiest * (1.0 - beside)).max(others(blocks)) > chain { pipe } else { Bound::Chain }
        };
        Some(Modelled {
            together,
            waves: whole + u32::from(left > 0),
            seconds: busy + self.gap,
            bound: if self.gap > busy { Bound::Gap } else { part(if whole > 0 { together } else { left }) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two SMs of 1 MHz, with numbers that can be followed by hand.
    const CARD: Card = Card {
        name: "test",
        sms: 2.0,
        clock: 1e6,
        mma: 2.0,
        wgmma: 0.5,
        step: 2.0,
        mma_step: 3.0,
        trip: 50.0,
        fill: 100.0,
        barrier: 10.0,
        stage: 20.0,
        wgmma_wait: 7.0,
        l2: 32.0,
        gap: 1e-6,
        ..H200
    };

    /// Counts of a block, times the blocks, but for those of a warp.
    fn launch(blocks: u32, of_a_block: &[(&str, f64)]) -> Launched {
        let zeros = crate::counters::COLUMNS.map(|name| (name.to_owned(), 0.0)).into_iter();
        let counts = of_a_block.iter().map(|(name, count)| {
            let of = if name.starts_with("most_") { 1.0 } else { f64::from(blocks) };
            ((*name).to_owned(), count * of)
        });
        let kernel = "k".into();
        Launched { kernel, blocks, threads: 128, shared: 50 << 10, counts: zeros.chain(counts).collect() }
    }

    #[test]
    fn the_ceiling_is_what_the_card_reached() {
        assert!((H200.mma_flops() / 1e12 - 622.0).abs() < 1.0, "{}", H200.mma_flops());
    }

    #[test]
    fn blocks_that_live_together() {
        // The tiles of KERNELS: two blocks of 128 rows by registers and by shared memory, three of 64 rows by shared memory.
        for (threads, shared, registers, expected) in [
            (128, 108 << 10, 248, 2),
            (128, 0, 248, 2),
            (128, 72 << 10, 168, 3),
            (256, 0, 32, 8),
            (128, 0, 32, 16),
            (32, 0, 16, 32),
            (1024, 0, 64, 1),
            (1024, 0, 65, 0),
            (128, 228 << 10, 32, 0),
        ] {
            let found = H200.together(threads, shared, registers);
            assert_eq!(found, expected, "{threads} threads, {shared} bytes, {registers} registers");
        }
    }

    #[test]
    fn each_pipe_may_be_the_busiest() {
        // 1000 clocks a block, four blocks on an SM, 16 blocks: two waves of 4000 clocks.
        for (count, amount, bound) in [
            ("mma", 500.0, Bound::Mma),
            ("wavefronts", 1000.0, Bound::Shared),
            ("special", 16000.0, Bound::Special),
            ("sectors", 1000.0, Bound::L2),
            ("instructions", 4000.0, Bound::Issue),
        ] {
            let all = ["mma", "wavefronts", "special", "sectors", "instructions"].map(|name| (name, 100.0));
            let counts: Vec<_> =
                all.into_iter().filter(|one| one.0 != count).chain([(count, amount)]).collect();
            let modelled = CARD.model(&launch(16, &counts), 32).expect("it fits");
            assert_eq!((modelled.together, modelled.waves, modelled.bound), (4, 2, bound), "{count}");
            assert!((modelled.seconds - 8001e-6).abs() < 1e-12, "{count}: {}", modelled.seconds);
        }
    }

    #[test]
    fn a_chain_a_part_of_a_wave_and_a_gap() {
        let seconds = |launch: &Launched| {
            let Modelled { seconds, waves, bound, .. } = CARD.model(launch, 32).expect("it fits");
            (seconds * 1e6, waves, bound)
        };
        let close = |(found, waves, bound): (f64, u32, Bound), expected: (f64, u32, Bound)| {
            assert!((found - expected.0).abs() < 1e-6, "{found} for {expected:?}");
            assert_eq!((waves, bound), (expected.1, expected.2));
        };
        // A block an SM: 25 instructions and 5 products of each warp, and the fill.
        let small = [("mma", 20.0), ("most_instructions", 30.0)];
        close(seconds(&launch(2, &small)), (100.0 + 50.0 + 15.0 + 1.0, 1, Bound::Chain));
        // Two waits for memory, three barriers and two waits for copies of four warps each.
        let waits = [("most_trips", 2.0), ("barriers", 12.0), ("copy_waits", 8.0)];
        let with_waits = launch(2, &[&small[..], &waits].concat());
        close(seconds(&with_waits), (165.0 + 100.0 + 30.0 + 40.0 + 1.0, 1, Bound::Chain));
        // Two blocks an SM: the other's 40 clocks of products.
        close(seconds(&launch(4, &small)), (165.0 + 40.0 + 1.0, 1, Bound::Chain));
        // Ten blocks: a wave of four an SM, then one an SM.
        close(seconds(&launch(10, &[("mma", 500.0)])), (4000.0 + 1000.0 + 1.0, 2, Bound::Mma));
        // Eleven: two of an SM in the second wave.
        close(seconds(&launch(11, &[("mma", 500.0)])), (4000.0 + 2000.0 + 1.0, 2, Bound::Mma));
        let idle = Card { fill: 0.0, ..CARD }.model(&launch(1, &[("mma", 0.25)]), 32).expect("it fits");
        assert_eq!(idle.bound, Bound::Gap);
        assert_eq!(CARD.model(&launch(0, &[]), 32), None);
        assert_eq!(CARD.model(&Launched { shared: 1 << 20, ..launch(1, &[]) }, 32), None);
    }

    #[test]
    fn products_of_warpgroups() {
        let seconds = |launch: &Launched| {
            let Modelled { seconds, bound, .. } = CARD.model(launch, 32).expect("it fits");
            (seconds * 1e6, bound)
        };
        let close = |(found, bound): (f64, Bound), expected: (f64, Bound)| {
            assert!((found - expected.0).abs() < 1e-6, "{found} for {expected:?}");
            assert_eq!(bound, expected.1);
        };
        // A block an SM: the fill, 30 instructions, and 320 products of half a clock, through which all four warps wait.
        let products = [("wgmma", 320.0), ("most_instructions", 30.0)];
        close(seconds(&launch(2, &products)), (100.0 + 60.0 + 160.0 + 1.0, Bound::Chain));
        // Two waits of each warp.
        let waits = launch(2, &[&products[..], &[("wgmma_waits", 8.0)]].concat());
        close(seconds(&waits), (320.0 + 14.0 + 1.0, Bound::Chain));
        // Two warpgroups with as much: the other's products.
        let two = [("wgmma", 640.0), ("most_instructions", 30.0)];
        close(seconds(&Launched { threads: 256, ..launch(2, &two) }), (320.0 + 160.0 + 1.0, Bound::Chain));
        // Both kinds share a pipe: 1000 products of half a clock and 250 of two, four blocks an SM.
        let both = launch(8, &[("wgmma", 1000.0), ("mma", 250.0)]);
        close(seconds(&both), (4000.0 + 1.0, Bound::Mma));
        // Launches from before there were any.
        let mut old = launch(4, &[("mma", 20.0), ("most_instructions", 30.0)]);
        let new = CARD.model(&old, 32);
        old.counts.retain(|name, _| !name.starts_with("wgmma"));
        assert_eq!(CARD.model(&old, 32), new);
    }

    #[test]
    fn warps_of_a_block_are_in_each_others_way_as_those_of_two() {
        let of_four = [("mma", 500.0), ("most_instructions", 700.0), ("barriers", 8.0)];
        let of_eight = [("mma", 1000.0), ("most_instructions", 700.0), ("barriers", 16.0)];
        let seconds = |launch: &Launched| CARD.model(launch, 200).expect("it fits").seconds;
        let (two, mut one) = (launch(4, &of_four), launch(2, &of_eight));
        one.threads = 256;
        assert_eq!(CARD.together(two.threads, two.shared, 200), 2);
        assert_eq!(CARD.together(one.threads, one.shared, 200), 1);
        assert!((seconds(&one) - seconds(&two)).abs() < 1e-12, "{} {}", seconds(&one), seconds(&two));
    }

    #[test]
    fn more_blocks_count_as_those_that_were_counted() {
        let counts = [("mma", 20.0), ("sectors", 7.0), ("most_instructions", 30.0), ("most_trips", 2.0)];
        let counted = launch(4, &counts);
        let more = counted.with_blocks(10);
        assert_eq!((more.blocks, more.counts["mma"], more.counts["sectors"]), (10, 200.0, 70.0));
        let longer = counted.continued(&counted.with_blocks(6), 3);
        assert_eq!((longer.blocks, longer.counts["mma"], longer.counts["most_trips"]), (4, 200.0, 2.0));
        assert_eq!(CARD.model(&more, 32), CARD.model(&launch(10, &counts), 32));
    }
}
