// Adam as the paper uses it, on the flat parameters: the sum of squares of the gradient by blocks of fixed spans, of which the
// last to end decides for all; then every element is updated. A norm that is not finite is remembered with its step and nothing is
// written from there on; the step number lives here, so that a captured graph counts.
#include "common/arguments.cuh"
#include "common/order.cuh"
#include "common/sum.cuh"

constexpr int kAdamThreads = 256;
constexpr int kNormBlocks = kAdamThreads; // a thread of the last one each
constexpr int kNormLoads = 8; // of a thread under way at once

// 1 - beta^step by repeated squaring.
__device__ inline double correction(double beta, uint64_t step) {
    double power = 1.0;
    for (double square = beta; step > 0; step >>= 1, square *= square) {
        power *= step & 1 ? square : 1.0;
    }
    return 1.0 - power;
}

// The sums of squares; then the block that ends last, which is told by a count that is 0 again after it, decides.
extern "C" __global__ void __launch_bounds__(kAdamThreads) gradient_norm(const __grid_constant__ AdamArguments arguments) {
    await_last_launch();
    __shared__ double scratch[kAdamThreads];
    __shared__ bool last;
    const uint64_t span = (arguments.len + kNormBlocks - 1) / kNormBlocks, begin = blockIdx.x * span;
    const uint64_t end = min(begin + span, arguments.len);
    double sum = 0.0;
    for (uint64_t first = begin + threadIdx.x; first < end; first += kNormLoads * kAdamThreads) {
        float next[kNormLoads];
#pragma unroll
        for (int i = 0; i < kNormLoads; ++i) {
            next[i] = first + i * kAdamThreads < end ? arguments.gradient[first + i * kAdamThreads] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < kNormLoads; ++i) {
            const double g = next[i];
            sum += g * g;
        }
    }
    sum = block_sum<kAdamThreads>(sum, scratch);
    if (threadIdx.x == 0) {
        arguments.sums[blockIdx.x] = sum;
        __threadfence();
        last = atomicInc(arguments.arrived, kNormBlocks - 1) == kNormBlocks - 1;
        __threadfence();
    }
    __syncthreads();
    if (!last) {
        return;
    }
    const double norm = sqrt(block_sum<kNormBlocks>(arguments.sums[threadIdx.x], scratch));
    if (threadIdx.x > 0) {
        return;
    }
    const float reported = static_cast<float>(norm); // beyond f32 is as bad as infinity
    const uint64_t step = arguments.state[0] + 1;
    const bool good = arguments.state[1] == 0 && isfinite(reported);
    arguments.norm[0] = reported;
    if (good) {
        arguments.state[0] = step;
    } else if (arguments.state[1] == 0) {
        arguments.state[1] = step;
    }
    arguments.factors[0] = norm > arguments.clip ? static_cast<float>(arguments.clip / norm) : 1.0f;
    arguments.factors[1] = static_cast<float>(correction(arguments.beta1, step));
    arguments.factors[2] = static_cast<float>(correction(arguments.beta2, step));
    arguments.factors[3] = good ? 1.0f : 0.0f;
}

// Four numbers of a buffer from `first` on, in one piece if that is `wide`; beyond the end they are 0, and not written.
__device__ inline void load_numbers(float (&x)[4], const float* from, uint64_t first, uint64_t len, bool wide) {
    if (wide) {
        const float4 v = *reinterpret_cast<const float4*>(from + first);
        x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
        return;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        x[e] = first + e < len ? from[first + e] : 0.0f;
    }
}

__device__ inline void store_numbers(float* to, const float (&x)[4], uint64_t first, uint64_t len, bool wide) {
    if (wide) {
        *reinterpret_cast<float4*>(to + first) = make_float4(x[0], x[1], x[2], x[3]);
        return;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        if (first + e < len) {
            to[first + e] = x[e];
        }
    }
}

// A thread has four parameters. The products and sums in the order of the CPU, so that from one gradient come the CPU's bits.
extern "C" __global__ void __launch_bounds__(kAdamThreads) update(const __grid_constant__ AdamArguments arguments) {
    await_last_launch();
    const uint64_t first = (uint64_t(blockIdx.x) * kAdamThreads + threadIdx.x) * 4, len = arguments.len;
    if (first >= len) {
        return;
    }
    const auto place = [](const float* at) { return reinterpret_cast<uintptr_t>(at); };
    const auto places = place(arguments.parameters) | place(arguments.gradient) | place(arguments.m) | place(arguments.v);
    const bool wide = places % 16 == 0 && first + 4 <= len;
    float parameters[4], gradient[4], m[4], v[4];
    load_numbers(gradient, arguments.gradient, first, len, wide);
    load_numbers(m, arguments.m, first, len, wide);
    load_numbers(v, arguments.v, first, len, wide);
    load_numbers(parameters, arguments.parameters, first, len, wide);
    if (arguments.factors[3] == 0.0f) {
        return;
    }
    const float beta1 = static_cast<float>(arguments.beta1), beta2 = static_cast<float>(arguments.beta2);
    const float rest1 = static_cast<float>(1.0 - arguments.beta1), rest2 = static_cast<float>(1.0 - arguments.beta2);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        const float g = __fmul_rn(gradient[e], arguments.factors[0]);
        m[e] = __fadd_rn(__fmul_rn(beta1, m[e]), __fmul_rn(rest1, g));
        v[e] = __fadd_rn(__fmul_rn(beta2, v[e]), __fmul_rn(__fmul_rn(rest2, g), g));
        const float root = __fadd_rn(__fsqrt_rn(__fdiv_rn(v[e], arguments.factors[2])), arguments.epsilon);
        const float rate = __fdiv_rn(__fmul_rn(arguments.rate[0], __fdiv_rn(m[e], arguments.factors[1])), root);
        parameters[e] = __fsub_rn(parameters[e], rate);
    }
    store_numbers(arguments.m, m, first, len, wide);
    store_numbers(arguments.v, v, first, len, wide);
    store_numbers(arguments.parameters, parameters, first, len, wide);
}
