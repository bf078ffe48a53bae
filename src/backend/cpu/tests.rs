//! The vectorised gates against f64 over all magnitudes, and the same bits on every path.

use super::CpuPath;
use super::lanes::Lanes;
use super::path::Kernel;
use super::{gates, gates_bf16};
use crate::random::{Purpose, Random};

/// What gates give of one number.
#[derive(Clone, Copy, Debug)]
struct Gates {
    sigmoid: f32,
    tanh: f32,
    /// `σ` and `σ'`.
    sigmoid_with: [f32; 2],
    /// `tanh` and `tanh'`.
    tanh_with: [f32; 2],
    relu: f32,
    /// Of cells in bf16.
    sigmoid_bf16: f32,
    tanh_bf16: f32,
}

impl Gates {
    fn all(self) -> [f32; 9] {
        let Gates { sigmoid, tanh, sigmoid_with: [s, ds], tanh_with: [t, dt], relu, .. } = self;
        [sigmoid, tanh, s, ds, t, dt, relu, self.sigmoid_bf16, self.tanh_bf16]
    }
}

/// Every gate of every number.
struct Apply<'a> {
    x: &'a [f32],
    y: &'a mut Vec<Gates>,
}

impl Kernel for Apply<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let store = |vector: L| {
            let mut lanes = [0.0f32; 16];
            // SAFETY: the array holds the widest vector.
            unsafe { vector.store(lanes.as_mut_ptr()) };
            lanes
        };
        for x in self.x.chunks(L::WIDTH) {
            let mut lanes = [0.0; 16];
            lanes[..x.len()].copy_from_slice(x);
            // SAFETY: as above.
            let vector = unsafe { L::load(lanes.as_ptr()) };
            let (sigmoid, tanh) = (store(gates::sigmoid(vector)), store(gates::tanh(vector)));
            let (s, ds) = gates::sigmoid_with_derivative(vector);
            let (t, dt) = gates::tanh_with_derivative(vector);
            let [s, ds, t, dt, relu] = [s, ds, t, dt, gates::relu(vector)].map(store);
            let bf16 = [gates_bf16::sigmoid(vector), gates_bf16::tanh(vector)].map(store);
            self.y.extend((0..x.len()).map(|i| Gates {
                sigmoid: sigmoid[i],
                tanh: tanh[i],
                sigmoid_with: [s[i], ds[i]],
                tanh_with: [t[i], dt[i]],
                relu: relu[i],
                sigmoid_bf16: bf16[0][i],
                tanh_bf16: bf16[1][i],
            }));
        }
    }
}

fn apply(path: CpuPath, x: &[f32]) -> Vec<Gates> {
    let mut y = Vec::new();
    path.run(Apply { x, y: &mut y });
    assert_eq!(y.len(), x.len());
    y
}

/// Every this many-th f32, by its bits: a prime, so that all mantissas are met.
const STRIDE: usize = 8191;

/// Both signs of every exponent, zero and subnormals among them, its ends and random numbers between, more where
/// gates bend; and every [`STRIDE`]th finite number there is.
fn magnitudes() -> Vec<f32> {
    let mut random = Random::new(11, Purpose::Show, 0, 0);
    let mut x = Vec::new();
    for exponent in 0..255u32 {
        let dense = (100..135).contains(&exponent); // 2^-27 to 2^7
        let ends = [0, 1, (1 << 23) - 1];
        let between = (0..if dense { 4000 } else { 100 }).map(|_| random.bits() >> 9);
        for mantissa in ends.into_iter().chain(between) {
            let magnitude = f32::from_bits(exponent << 23 | mantissa);
            x.extend([magnitude, -magnitude]);
        }
    }
    // Where the tables of cells in bf16 end.
    x.extend([7.625f32, 15.25].into_iter().flat_map(|x| [x, x.next_up()]).flat_map(|x| [x, -x]));
    x.extend((0..=u32::MAX).step_by(STRIDE).map(f32::from_bits).filter(|x| x.is_finite()));
    x
}

/// `|found - expected|` in units of the last place of an f32 as large as `expected`.
fn ulps(found: f32, expected: f64) -> f64 {
    let exponent = expected.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor();
    (f64::from(found) - expected).abs() / (exponent - 23.0).exp2()
}

/// Demands that the worst number is at most `most` away; NaN never passes.
fn assert_within(what: &str, x: &[f32], most: f64, error: impl Fn(usize) -> f64) {
    let mut worst = (0.0, 0.0);
    for (i, &x) in x.iter().enumerate() {
        let error = error(i);
        assert!(error <= most, "{what}({x:e}): error {error}, at most {most}");
        if error > worst.0 {
            worst = (error, x);
        }
    }
    println!("{what}: worst {:.3e} at {:e}", worst.0, worst.1);
}

#[test]
fn gates_are_accurate_over_all_magnitudes() {
    let x = magnitudes();
    let y = apply(CpuPath::detect(), &x);
    let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    assert_within("tanh, ulps", &x, 4.0, |i| ulps(y[i].tanh, wide[i].tanh()));
    assert_within("sigmoid, absolute", &x, 2f64.powi(-23), |i| {
        (f64::from(y[i].sigmoid) - sigmoid(wide[i])).abs()
    });

    // e^-87 is about the smallest normal number: from there on derivatives stay where they are.
    let sigmoid_derivative = |x: f64| sigmoid(x) * sigmoid(-x);
    let tanh_derivative = |x: f64| 4.0 * sigmoid(2.0 * x) * sigmoid(-2.0 * x);
    let derivative = |found: f32, expected: f64, saturated: bool| match saturated {
        false => ulps(found, expected),
        true if found >= 0.0 && f64::from(found) <= 4.0 * 1.7e-38 => 0.0,
        true => f64::INFINITY,
    };
    assert_within("sigmoid', ulps", &x, 8.0, |i| {
        derivative(y[i].sigmoid_with[1], sigmoid_derivative(wide[i]), x[i].abs() > 87.0)
    });
    assert_within("tanh', ulps", &x, 8.0, |i| {
        derivative(y[i].tanh_with[1], tanh_derivative(wide[i]), x[i].abs() > 43.5)
    });

    for (x, y) in x.iter().zip(&y) {
        assert_eq!(y.sigmoid_with[0].to_bits(), y.sigmoid.to_bits(), "sigmoid({x:e}) beside its derivative");
        assert_eq!(y.tanh_with[0].to_bits(), y.tanh.to_bits(), "tanh({x:e}) beside its derivative");
        assert!((0.0..=1.0).contains(&y.sigmoid) && y.tanh.abs() <= 1.0, "{x:e}: {y:?}");
        assert_eq!(y.relu, x.max(0.0), "relu({x:e})");
    }
}

#[test]
fn gates_of_cells_in_bf16_are_as_accurate_as_bf16_deserves() {
    let x = magnitudes();
    let y = apply(CpuPath::detect(), &x);
    let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    assert_within("tanh in bf16, absolute", &x, 2f64.powi(-20), |i| {
        (f64::from(y[i].tanh_bf16) - wide[i].tanh()).abs()
    });
    // A thousandth of what rounding to bf16 may do.
    assert_within("tanh in bf16, relative", &x, 2e-6, |i| match wide[i] {
        0.0 => f64::from(y[i].tanh_bf16),
        x => (f64::from(y[i].tanh_bf16) / x.tanh() - 1.0).abs(),
    });
    assert_within("sigmoid in bf16, absolute", &x, 2f64.powi(-21), |i| {
        (f64::from(y[i].sigmoid_bf16) - 1.0 / (1.0 + (-wide[i]).exp())).abs()
    });
    for (x, y) in x.iter().zip(&y) {
        assert!((0.0..=1.0).contains(&y.sigmoid_bf16) && y.tanh_bf16.abs() <= 1.0, "{x:e}: {y:?}");
        if x.abs() > 7.625 {
            assert_eq!(y.tanh_bf16, 1f32.copysign(*x), "tanh({x:e})");
        }
        if x.abs() > 15.25 {
            assert_eq!(y.sigmoid_bf16, if *x < 0.0 { 0.0 } else { 1.0 }, "sigmoid({x:e})");
        }
    }
}

#[test]
fn gates_of_special_numbers() {
    let x = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN];
    for path in CpuPath::ALL.into_iter().filter(|path| path.is_available()) {
        let y = apply(path, &x);
        let tanh: Vec<u32> = y.iter().map(|y| y.tanh.to_bits()).collect();
        assert_eq!(tanh[..4], [0.0f32, -0.0, 1.0, -1.0].map(f32::to_bits), "{path:?}");
        let tanh: Vec<u32> = y.iter().map(|y| y.tanh_bf16.to_bits()).collect();
        assert_eq!(tanh[..4], [0.0f32, -0.0, 1.0, -1.0].map(f32::to_bits), "{path:?} in bf16");
        let sigmoid: Vec<f32> = y.iter().map(|y| y.sigmoid_bf16).collect();
        assert_eq!(sigmoid[..4], [0.5, 0.5, 1.0, 0.0], "{path:?} in bf16");
        assert_eq!([y[0].sigmoid, y[1].sigmoid, y[2].sigmoid], [0.5, 0.5, 1.0], "{path:?}");
        assert!((0.0..2e-38).contains(&y[3].sigmoid), "{path:?}: σ(-∞) is {}", y[3].sigmoid);
        let at_zero = [y[0].sigmoid_with[1], y[1].sigmoid_with[1], y[0].tanh_with[1], y[1].tanh_with[1]];
        assert_eq!(at_zero, [0.25, 0.25, 1.0, 1.0], "{path:?}");
        for y in &y[2..4] {
            let [ds, dt] = [y.sigmoid_with[1], y.tanh_with[1]];
            assert!((0.0..2e-38).contains(&ds) && (0.0..7e-38).contains(&dt), "{path:?}: {y:?}");
        }
        assert_eq!([y[2].relu, y[3].relu], [f32::INFINITY, 0.0]);
        for y in &y[4..] {
            assert!(y.all().into_iter().all(f32::is_nan), "{path:?}: of NaN {y:?}");
        }
    }
}

#[test]
fn gates_have_the_same_bits_on_every_path() {
    let x = magnitudes();
    let expected = apply(CpuPath::Plain, &x);
    for path in CpuPath::ALL {
        if !path.is_available() {
            println!("{path:?} skipped: this processor lacks it");
            continue;
        }
        for ((x, found), expected) in x.iter().zip(apply(path, &x)).zip(&expected) {
            let [found_bits, expected_bits] = [found, *expected].map(|y| y.all().map(f32::to_bits));
            assert_eq!(found_bits, expected_bits, "{path:?} of {x:e}: {found:?}, plain {expected:?}");
        }
    }
}
