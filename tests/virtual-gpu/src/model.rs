//! Counts turned into time: *modelled, uncalibrated*, never measured, until a card has set the constants of the one table
//! below. Knows launches by what they counted, and no kernel.
//!
//! An SM works on as many blocks as its registers and shared memory let live together. Its time is the larger of the total of
//! its busiest pipe over these blocks and of the longest serial chain of one block: its busiest pipe, with the latencies that
//! nothing hides. A launch takes as many such times as it has waves, and the gap to the launch before it. There is no
//! first-level cache and no memory behind the second: a kernel that reads the same sectors again and again is slower here than
//! on a card, one whose data lies in neither cache faster.

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
    /// Reads and writes of the banks of shared memory: 128 bytes each.
    pub wavefronts: f64,
    /// Special functions.
    pub special: f64,
    /// Bytes of second-level cache.
    pub l2: f64,
    /// Instructions of warps. PTX is counted, not what ptxas made of it.
    pub issue: f64,
    /// Clocks until the first operands of a block have come.
    pub fill: f64,
    /// Clocks to look up the rows of a block that has barriers.
    pub gather: f64,
    /// Clocks of a barrier of a block.
    pub barrier: f64,
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
    /// FLOP of one clock by the data sheet: dense products of 16-bit numbers.
    pub peak: f64,
}

/// FLOP of one `mma` of 16 by 8 by 16.
pub const MMA_FLOP: f64 = 2.0 * 16.0 * 8.0 * 16.0;

/// The table of constants, none of them calibrated.
pub const H200: Card = Card {
    name: "H200",
    sms: 132.0,
    clock: 1.83e9,
    mma: 4096.0 / 2540.0,
    wavefronts: 1.0,
    special: 16.0,
    l2: 25.0,
    issue: 4.0,
    fill: 800.0,
    gather: 800.0,
    barrier: 30.0,
    gap: 1.2e-6,
    registers: 1 << 16,
    shared: 228 << 10,
    threads: 2048,
    blocks: 32,
    peak: 4096.0,
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
    /// FLOP a second by the data sheet.
    pub fn peak_flops(&self) -> f64 {
        self.sms * self.clock * self.peak
    }

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
        let pipes = [
            (Bound::Mma, of_a_block("mma") * self.mma),
            (Bound::Shared, of_a_block("wavefronts") / self.wavefronts),
            (Bound::Special, of_a_block("special") / self.special),
            (Bound::L2, 32.0 * of_a_block("sectors") / self.l2),
            (Bound::Issue, of_a_block("instructions") / self.issue),
        ];
        let (pipe, busiest) = pipes.into_iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        let barriers = of_a_block("barriers") / f64::from(launch.threads.div_ceil(32));
        let gather = if barriers > 0.0 { self.gather } else { 0.0 };
        let chain = busiest + self.fill + gather + barriers * self.barrier;
        let clocks = |blocks: u32| (f64::from(blocks) * busiest).max(chain);
        // Whole waves, then what is left, spread over the SMs.
        let whole = launch.blocks / (self.sms as u32 * together);
        let left = (launch.blocks % (self.sms as u32 * together)).div_ceil(self.sms as u32);
        let rest = if left > 0 { clocks(left) } else { 0.0 };
        let busy = (f64::from(whole) * clocks(together) + rest) / self.clock;
        let part = |blocks: u32| if f64::from(blocks) * busiest > chain { pipe } else { Bound::Chain };
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
        fill: 100.0,
        gather: 50.0,
        barrier: 10.0,
        l2: 32.0,
        gap: 1e-6,
        ..H200
    };

    /// Counts of a block, times the blocks.
    fn launch(blocks: u32, of_a_block: &[(&str, f64)]) -> Launched {
        let names = ["mma", "wavefronts", "special", "sectors", "instructions", "barriers"];
        let zeros = names.map(|name| (name.to_owned(), 0.0));
        let counts = of_a_block.iter().map(|(name, count)| ((*name).to_owned(), count * f64::from(blocks)));
        let kernel = "k".into();
        Launched {
            kernel,
            blocks,
            threads: 128,
            shared: 50 << 10,
            counts: zeros.into_iter().chain(counts).collect(),
        }
    }

    #[test]
    fn the_data_sheet_and_the_ceiling() {
        assert!((H200.peak_flops() / 1e12 - 989.0).abs() < 1.0, "{}", H200.peak_flops());
        assert!((H200.mma_flops() / 1e12 - 613.0).abs() < 1.0, "{}", H200.mma_flops());
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
        // Nothing else on the SM: 40 clocks, and the latencies. Three barriers of four warps add 30, and the look-up.
        close(seconds(&launch(2, &[("mma", 20.0)])), (141.0, 1, Bound::Chain));
        close(seconds(&launch(2, &[("mma", 20.0), ("barriers", 12.0)])), (221.0, 1, Bound::Chain));
        // Ten blocks: a wave of four an SM, then one an SM, whose chain is all there is.
        close(seconds(&launch(10, &[("mma", 500.0)])), (4000.0 + 1100.0 + 1.0, 2, Bound::Mma));
        // Eleven: two of an SM in the second wave.
        close(seconds(&launch(11, &[("mma", 500.0)])), (4000.0 + 2000.0 + 1.0, 2, Bound::Mma));
        let idle = Card { fill: 0.0, ..CARD }.model(&launch(1, &[("mma", 0.25)]), 32).expect("it fits");
        assert_eq!(idle.bound, Bound::Gap);
        assert_eq!(CARD.model(&launch(0, &[]), 32), None);
        assert_eq!(CARD.model(&Launched { shared: 1 << 20, ..launch(1, &[]) }, 32), None);
    }

    #[test]
    fn more_blocks_count_as_those_that_were_counted() {
        let counted = launch(4, &[("mma", 20.0), ("sectors", 7.0)]);
        let more = counted.with_blocks(10);
        assert_eq!((more.blocks, more.counts["mma"], more.counts["sectors"]), (10, 200.0, 70.0));
        assert_eq!(CARD.model(&more, 32), CARD.model(&launch(10, &[("mma", 20.0), ("sectors", 7.0)]), 32));
    }
}
