//! `σ` and `tanh`, values and derivatives, vectorised. No division and no table: an exponential by polynomial,
//! and a reciprocal on [1, 2] by a quadratic and two Newton steps. FMA, `+`, `·` and integer shifts only, so
//! that every instruction set gives the same bits. NaN goes through.

use super::lanes::Lanes;

/// What `exp` of a number `y ≤ 0` gives: `e^y` and `e^y - 1`, each to about an ulp.
struct Exp<L> {
    value: L,
    minus_one: L,
}

/// `e^y` for `y ≤ 0`; below -87 it saturates there.
#[inline(always)]
fn exp_of_negative<L: Lanes>(y: L) -> Exp<L> {
    const SHIFT: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to an integer
    let y = L::splat(-87.0).max(y);
    let shifted = y.fma(L::splat(std::f32::consts::LOG2_E), L::splat(SHIFT));
    let n = shifted.sub(L::splat(SHIFT));
    // ln 2 in two parts, the first with few enough bits that n times it is exact
    let r = n.fma(L::splat(-355.0 / 512.0), y);
    let r = n.fma(L::splat(2.121_944_4e-4), r);
    // e^r - 1 = r + r²·q(r) on |r| ≤ ln 2 / 2, q by Chebyshev interpolation (5e-10 absolute in p)
    let q = L::splat(1.989_933_4e-4);
    let q = q.fma(r, L::splat(1.393_368_8e-3));
    let q = q.fma(r, L::splat(8.333_298e-3));
    let q = q.fma(r, L::splat(4.166_646_5e-2));
    let q = q.fma(r, L::splat(0.166_666_67));
    let q = q.fma(r, L::splat(0.5));
    let p = r.mul(r).fma(q, r);
    let scale = shifted.exp2_of_shifted();
    Exp { value: scale.fma(p, scale), minus_one: scale.fma(p, scale.sub(L::splat(1.0))) }
}

/// `1/d` for `d` in [1, 2], to about an ulp.
#[inline(always)]
fn reciprocal<L: Lanes>(d: L) -> L {
    // The quadratic of least relative error on [1, 2], 1/99; each Newton step squares the error.
    let y = d.fma(L::splat(32.0 / 99.0), L::splat(-48.0 / 33.0)).fma(d, L::splat(70.0 / 33.0));
    let y = y.fma(d.fnma(y, L::splat(1.0)), y);
    y.fma(d.fnma(y, L::splat(1.0)), y)
}

/// `σ(x)`.
#[inline(always)]
pub(super) fn sigmoid<L: Lanes>(x: L) -> L {
    let e = exp_of_negative(x.neg_abs()).value;
    let r = reciprocal(e.add(L::splat(1.0)));
    x.if_negative(e.mul(r), r)
}

/// `tanh(x)`.
#[inline(always)]
pub(super) fn tanh<L: Lanes>(x: L) -> L {
    let a = x.neg_abs();
    let e = exp_of_negative(a.add(a)).minus_one;
    let r = reciprocal(e.add(L::splat(2.0)));
    e.mul(r).copysign(x)
}

/// `σ(x)` and `σ'(x)`, each to about an ulp however saturated (never `σ·(1 - σ)`).
#[inline(always)]
pub(super) fn sigmoid_with_derivative<L: Lanes>(x: L) -> (L, L) {
    let e = exp_of_negative(x.neg_abs()).value;
    let r = reciprocal(e.add(L::splat(1.0)));
    let er = e.mul(r);
    (x.if_negative(er, r), er.mul(r))
}

/// `tanh(x)` and `tanh'(x)`, each to about an ulp however saturated (never `1 - tanh²`).
#[inline(always)]
pub(super) fn tanh_with_derivative<L: Lanes>(x: L) -> (L, L) {
    let a = x.neg_abs();
    let e = exp_of_negative(a.add(a));
    let r = reciprocal(e.minus_one.add(L::splat(2.0)));
    let two_r = r.add(r);
    (e.minus_one.mul(r).copysign(x), e.value.mul(two_r).mul(two_r))
}

/// `max(x, 0)`; NaN stays.
#[inline(always)]
pub(super) fn relu<L: Lanes>(x: L) -> L {
    L::splat(0.0).max(x)
}
