//! `σ` and `tanh` of cells whose `h` is kept in bf16: a quartic a segment, its coefficients looked up lane by lane, to 2^-20
//! in two thirds of the instructions of `gates.rs`. FMA, `+` and integers only, so that every instruction set gives the
//! same bits. NaN goes through.

use super::lanes::{ENTRIES, Lanes};

/// `σ(x)`, exactly 0 or 1 for `|x| > 15.25`.
#[inline(always)]
pub(super) fn sigmoid<L: Lanes>(x: L) -> L {
    SIGMOID.of(x).add(L::splat(0.5))
}

/// `tanh(x)`, exactly -1 or 1 for `|x| > 7.625`.
#[inline(always)]
pub(super) fn tanh<L: Lanes>(x: L) -> L {
    TANH.of(x)
}

static TANH: OddTable = OddTable::new(1.0);
/// Of `σ(x) - 1/2 = tanh(x/2)/2`.
static SIGMOID: OddTable = OddTable::new(0.5);

/// Coefficients of a quartic.
const COEFFICIENTS: usize = 5;

/// `scale · tanh(scale · x)` around the multiples of `width`, up to the segment where the function has its limit.
#[repr(C, align(64))]
struct OddTable {
    /// Of the powers 0 to 4 of what `|x|` lacks to the middle of its segment.
    coefficients: [[f32; ENTRIES]; COEFFICIENTS],
    width: f32,
}

impl OddTable {
    /// The quartics that meet the function at the Chebyshev nodes of their segments.
    const fn new(scale: f64) -> Self {
        // cos(π/10), cos(3π/10) and so on.
        const NODES: [f64; COEFFICIENTS] = [
            0.951_056_516_295_153_6,
            0.587_785_252_292_473_1,
            0.0,
            -0.587_785_252_292_473_1,
            -0.951_056_516_295_153_6,
        ];
        // `|x|` has the upper half of the first segment: (cos(π/8) - 1)/2 and so on. With 0 it is the quotient by `x`
        // that is met, so that small numbers are as exact as others.
        const FIRST: [f64; COEFFICIENTS] = [
            0.0,
            -0.038_060_233_744_356_6,
            -0.308_658_283_817_455_1,
            -0.691_341_716_182_544_9,
            -0.961_939_766_255_643_4,
        ];
        let width = 0.25 / scale;
        let mut coefficients = [[0.0; ENTRIES]; COEFFICIENTS];
        let mut segment = 0;
        while segment < ENTRIES - 1 {
            let middle = segment as f64 * width;
            let (mut nodes, mut values) = ([0.0; COEFFICIENTS], [0.0; COEFFICIENTS]);
            let mut i = 0;
            while i < COEFFICIENTS {
                nodes[i] = if segment == 0 { FIRST[i] } else { NODES[i] } * width / 2.0;
                values[i] = scale * tanh_f64(scale * (middle - nodes[i]));
                i += 1;
            }
            let quartic = interpolate(nodes, values);
            i = 0;
            while i < COEFFICIENTS {
                coefficients[i][segment] = quartic[i] as f32;
                i += 1;
            }
            segment += 1;
        }
        coefficients[0][segment] = scale as f32;
        OddTable { coefficients, width: width as f32 }
    }

    #[inline(always)]
    fn of<L: Lanes>(&self, x: L) -> L {
        const SHIFT: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to an integer
        // What rounds to the last segment.
        let most = (ENTRIES as f32 - 0.75) * self.width;
        let a = L::splat(-most).max(x.neg_abs());
        let shifted = a.fma(L::splat(-1.0 / self.width), L::splat(SHIFT));
        let s = shifted.sub(L::splat(SHIFT)).fma(L::splat(self.width), a);
        let [c0, c1, c2, c3, c4] = &self.coefficients;
        let y = shifted.lookup(c4).fma(s, shifted.lookup(c3)).fma(s, shifted.lookup(c2));
        y.fma(s, shifted.lookup(c1)).fma(s, shifted.lookup(c0)).copysign(x)
    }
}

/// The coefficients of the polynomial that has these values at these nodes, by Newton's divided differences.
const fn interpolate(nodes: [f64; COEFFICIENTS], values: [f64; COEFFICIENTS]) -> [f64; COEFFICIENTS] {
    let mut differences = values;
    let mut order = 1;
    while order < COEFFICIENTS {
        let mut i = COEFFICIENTS - 1;
        while i >= order {
            differences[i] = (differences[i] - differences[i - 1]) / (nodes[i] - nodes[i - order]);
            i -= 1;
        }
        order += 1;
    }
    // From the innermost bracket out: times (s - node), plus the next difference.
    let mut polynomial = [0.0; COEFFICIENTS];
    let mut n = COEFFICIENTS;
    while n > 0 {
        n -= 1;
        let mut power = COEFFICIENTS - 1;
        while power > 0 {
            polynomial[power] = polynomial[power - 1] - nodes[n] * polynomial[power];
            power -= 1;
        }
        polynomial[0] = differences[n] - nodes[n] * polynomial[0];
    }
    polynomial
}

/// `tanh(x)`, to about 1e-14: when a table is made, by the compiler.
const fn tanh_f64(x: f64) -> f64 {
    if x < 0.0 {
        return -tanh_f64(-x);
    }
    const HALVINGS: i32 = 7;
    // e^y of a small y by Taylor, then squared as often as y was halved.
    let y = 2.0 * x / (1 << HALVINGS) as f64;
    let (mut power, mut term, mut n) = (1.0, 1.0, 1);
    while n < 20 {
        term *= y / n as f64;
        power += term;
        n += 1;
    }
    let mut squarings = 0;
    while squarings < HALVINGS {
        power *= power;
        squarings += 1;
    }
    (power - 1.0) / (power + 1.0)
}
