// The cell: from z = acc + b of all gates to the state, and back from the state's gradient to that of z. Every operation
// says how it rounds, so that a compiler's choice of what to fuse cannot make two kernels differ.
//
//   c = sigma(i) tanh(g) + sum_n sigma(f_n) c_n        h = sigma(o) tanh(c)         gates in the order i g o f_1 .. f_N
//   RNN: h = relu(z), the leaf h = z
#pragma once

enum class Cell { Lstm, Rnn };

// Gates of a cell with `states` inputs.
__host__ __device__ constexpr int gates_of(Cell cell, int states) { return cell == Cell::Lstm ? 3 + states : 1; }

// Whether a gate is sigma of its z, else its tanh or, of an RNN, its relu.
__host__ __device__ constexpr bool is_sigmoid(Cell cell, int gate) { return cell == Cell::Lstm && gate != 1; }

// What `acc` holds: sums of products, z = acc + b, or z / 2 of the gates that are sigmas and z of the others.
enum class Added { Not, Whole, Halves };

template <bool kCoarse>
__device__ inline float tanh_of(float x) {
    if constexpr (kCoarse) {
        float y;
        asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
        return y;
    } else {
        return tanhf(x);
    }
}

// sigma(x) = 1/2 + 1/2 tanh(x/2), one special function; (acc + b) / 2 is one rounding, as acc + b would be.
template <bool kCoarse, Added kAdded = Added::Not>
__device__ inline float sigmoid_of(float acc, float b) {
    const float half = kAdded == Added::Halves  ? acc
                       : kAdded == Added::Whole ? __fmul_rn(0.5f, acc)
                                                : __fmaf_rn(0.5f, acc, __fmul_rn(0.5f, b));
    return __fmaf_rn(0.5f, tanh_of<kCoarse>(half), 0.5f);
}

// One unit. `acc` and `b` hold a gate each, `c_in` the c of the states; returns h.
template <Cell kCell, int kStates, bool kCoarse, Added kAdded = Added::Not>
__device__ inline float apply_gates(const float* acc, const float* b, const float* c_in, float& c) {
    const auto sum = [&](int gate) { return kAdded != Added::Not ? acc[gate] : __fadd_rn(acc[gate], b[gate]); };
    const auto sigmoid = [&](int gate) { return sigmoid_of<kCoarse, kAdded>(acc[gate], b[gate]); };
    if constexpr (kCell == Cell::Lstm) {
        const float i = sigmoid(0), g = tanh_of<kCoarse>(sum(1)), o = sigmoid(2);
        c = __fmul_rn(i, g);
#pragma unroll
        for (int n = 0; n < kStates; ++n) {
            c = __fmaf_rn(sigmoid(3 + n), c_in[n], c);
        }
        return __fmul_rn(o, tanh_of<kCoarse>(c));
    } else {
        const float z = sum(0);
        c = 0.0f;
        return kStates > 0 && z < 0.0f ? 0.0f : z; // NaN stays
    }
}

// Four units of a row; `c_in` has a place more than there are states, so that a leaf's is an array too.
template <Cell kCell, int kStates, bool kCoarse, Added kAdded = Added::Not>
__device__ inline void apply_gates_of_four(float (&h)[4], float (&c)[4], const float (&acc)[gates_of(kCell, kStates)][4],
                                           const float (&b)[gates_of(kCell, kStates)][4], const float (&c_in)[kStates + 1][4]) {
    constexpr int kGates = gates_of(kCell, kStates);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        float acc_of_unit[kGates], b_of_unit[kGates], c_of_unit[kStates + 1];
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
            acc_of_unit[gate] = acc[gate][e];
            b_of_unit[gate] = b[gate][e];
        }
#pragma unroll
        for (int n = 0; n < kStates; ++n) {
            c_of_unit[n] = c_in[n][e];
        }
        h[e] = apply_gates<kCell, kStates, kCoarse, kAdded>(acc_of_unit, b_of_unit, c_of_unit, c[e]);
    }
}

// The way back, one unit: from z and the c of the states, given the gradients of h and c, to dz and, in `dc_in`, to the
// gradients of the states' c. The activations are computed again: a 16-bit sigma of 0.999 would be 1, its derivative 0.
//
//   dc += dh sigma(o) (1 - tanh(c)^2)      do = dh tanh(c) sigma'(o)      df_n = dc c_n sigma'(f_n)     dc_n = dc sigma(f_n)
//   di = dc tanh(g) sigma'(i)              dg = dc sigma(i) (1 - tanh(g)^2)
template <Cell kCell, int kStates, bool kCoarse>
__device__ inline void gates_backward(const float* z, const float* c_in, float dh, float dc, float* dz, float* dc_in) {
    if constexpr (kCell == Cell::Lstm) {
        const auto slope = [](float s) { return __fmaf_rn(-s, s, s); };          // sigma' = sigma - sigma^2
        const auto bend = [](float t) { return __fmaf_rn(-t, t, 1.0f); };        // tanh' = 1 - tanh^2
        const float i = sigmoid_of<kCoarse>(z[0], 0.0f), g = tanh_of<kCoarse>(z[1]), o = sigmoid_of<kCoarse>(z[2], 0.0f);
        float c = __fmul_rn(i, g), f[kStates + 1];
#pragma unroll
        for (int n = 0; n < kStates; ++n) {
            f[n] = sigmoid_of<kCoarse>(z[3 + n], 0.0f);
            c = __fmaf_rn(f[n], c_in[n], c);
        }
        const float t = tanh_of<kCoarse>(c);
        dc = __fmaf_rn(__fmul_rn(dh, o), bend(t), dc);
        dz[0] = __fmul_rn(__fmul_rn(dc, g), slope(i));
        dz[1] = __fmul_rn(__fmul_rn(dc, i), bend(g));
        dz[2] = __fmul_rn(__fmul_rn(dh, t), slope(o));
#pragma unroll
        for (int n = 0; n < kStates; ++n) {
            dz[3 + n] = __fmul_rn(__fmul_rn(dc, c_in[n]), slope(f[n]));
            dc_in[n] = __fmul_rn(dc, f[n]);
        }
    } else {
        dz[0] = kStates > 0 && z[0] <= 0.0f ? 0.0f : dh; // relu'(0) = 0
    }
}
