//! Counter-based random numbers: a value is a function of (seed, purpose, step, sample, index) and of
//! nothing that was drawn before it, so that any of them can be made alone, in parallel, on any device.
//!
//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

/// What a stream of numbers is for; a part of the counter, so its values never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Initial weights: step 0, sample = index of the parameter.
    Weights = 1,
    /// The length of a training batch: sample 0.
    Length = 2,
    /// A training sample: step and sample as in the run.
    Train = 3,
    /// An evaluation sample: step = length.
    Evaluate = 4,
    /// A sample that a person asked to see: step = length.
    Show = 5,
}

/// Ten rounds of Philox4x32 of `counter` under `key`.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
    }
    counter
}

/// The numbers of one (seed, purpose, step, sample), read in order of index.
#[derive(Clone, Debug)]
pub struct Random {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

impl Random {
    /// The numbers of that place, from index 0. Steps beyond 2^32 wrap.
    pub fn new(seed: u64, purpose: Purpose, step: u64, sample: u32) -> Self {
        Random {
            key: [seed as u32, (seed >> 32) as u32],
            counter: [0, sample, step as u32, purpose as u32],
            block: [0; 4],
            used: 4,
        }
    }

    /// 32 uniform bits.
    pub fn bits(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox(self.counter, self.key);
            self.counter[0] += 1;
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// A uniform integer in `0..bound`, without bias (Lemire's multiplication with rejection).
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u64::from(self.bits()) * u64::from(bound);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }

    /// A uniform number in [0, 1) with 53 bits.
    pub fn unit(&mut self) -> f64 {
        let (high, low) = (self.bits() >> 5, self.bits() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// A standard normal number truncated at two standard deviations, by rejection from the uniform
    /// (as haiku's `TruncatedNormal` before its scale).
    pub fn truncated_normal(&mut self) -> f64 {
        loop {
            let x = 4.0 * self.unit() - 2.0;
            if self.unit() < (-0.5 * x * x).exp() {
                return x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors publish with Random123 (`kat_vectors`, philox4x32 10).
    #[test]
    fn known_answers() {
        let f = u32::MAX;
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([f; 4], [f; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn below_is_uniform_and_truncated_normal_has_its_moments() {
        let mut random = Random::new(7, Purpose::Show, 3, 1);
        let mut counts = [0u32; 5];
        (0..50_000).for_each(|_| counts[random.below(5) as usize] += 1);
        assert!(counts.iter().all(|&n| (9_600..10_400).contains(&n)), "{counts:?}");
        let draws: Vec<f64> = (0..50_000).map(|_| random.truncated_normal()).collect();
        let mean = draws.iter().sum::<f64>() / 50_000.0;
        let variance = draws.iter().map(|x| x * x).sum::<f64>() / 50_000.0;
        // Variance of N(0, 1) truncated at ±2: 1 - 4·φ(2)/(2Φ(2)-1) = 0.7737.
        assert!(mean.abs() < 0.02 && (variance - 0.7737).abs() < 0.02, "{mean} {variance}");
        assert!(draws.iter().all(|x| x.abs() <= 2.0));
    }
}
