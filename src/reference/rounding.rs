//! What a narrower floating-point type does to a number, for an oracle that rounds where a fast path does.

/// The nearest f32, ties to even.
pub fn round_f32(x: f64) -> f64 {
    f64::from(x as f32)
}

/// The nearest bf16 (8 significant bits, the exponents of f32), ties to even.
pub fn round_bf16(x: f64) -> f64 {
    round(x, 8, -126, 127)
}

/// The nearest f16 (11 significant bits, exponents -14 to 15), ties to even.
pub fn round_f16(x: f64) -> f64 {
    round(x, 11, -14, 15)
}

/// The nearest number of so many significant bits; below `2^smallest` they are spaced evenly (subnormal), at
/// `2^(largest + 1)` and above they are infinite.
fn round(x: f64, bits: i32, smallest: i32, largest: i32) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    // The exponent field; a subnormal f64 is far below the smallest of any narrower type.
    let exponent = ((x.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(smallest);
    let spacing = 2f64.powi(exponent - (bits - 1));
    let rounded = (x / spacing).round_ties_even() * spacing;
    if rounded.abs() >= 2f64.powi(largest) * 2.0 { f64::INFINITY.copysign(x) } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_general_rule_gives_f32() {
        let mut x = 1e-46;
        while x < 1e39 {
            for x in [x, -x, x * 1.000_000_06] {
                assert_eq!(round(x, 24, -126, 127).to_bits(), round_f32(x).to_bits(), "{x}");
            }
            x *= 1.37;
        }
        assert!(round_bf16(f64::NAN).is_nan());
        assert_eq!(round_bf16(f64::NEG_INFINITY), f64::NEG_INFINITY);
    }

    #[test]
    fn known_values_of_bf16_and_f16() {
        assert_eq!(round_bf16(1.0 + 1.0 / 256.0), 1.0); // a tie, to even
        assert_eq!(round_bf16(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0); // a tie, to even
        assert_eq!(round_bf16(-3.2), -3.203_125);
        assert_eq!(round_f16(0.1), 0.099_975_585_937_5);
        assert_eq!(round_f16(65_519.0), 65_504.0);
        assert_eq!(round_f16(65_520.0), f64::INFINITY);
        assert_eq!(round_f16(3e-8), 2f64.powi(-24)); // subnormal
        assert_eq!(round_f16(2e-8), 0.0);
    }
}
