// Adam as the paper uses it, on the flat parameters: the sum of squares of the gradient by blocks of fixed spans, then one
// thread decides, then every element is updated. A norm that is not finite is remembered with its step and nothing is
// written from there on; the step number lives here, so that a captured graph counts.
#include "common/arguments.cuh"
#include "common/order.cuh"
#include "common/sum.cuh"

constexpr int kAdamThreads = 256;
constexpr int kNormBlocks = 256;

extern "C" __global__ void __launch_bounds__(kAdamThreads) square_sums(const __grid_constant__ AdamArguments arguments) {
    await_last_launch();
    __shared__ double scratch[kAdamThreads];
    const uint64_t span = (arguments.len + kNormBlocks - 1) / kNormBlocks, begin = blockIdx.x * span;
    const uint64_t end = min(begin + span, arguments.len);
    double sum = 0.0;
    for (uint64_t i = begin + threadIdx.x; i < end; i += kAdamThreads) {
        const double g = arguments.gradient[i];
        sum += g * g;
    }
    sum = block_sum<kAdamThreads>(sum, scratch);
    if (threadIdx.x == 0) {
        arguments.sums[blockIdx.x] = sum;
    }
}

// 1 - beta^step by repeated squaring.
__device__ inline double correction(double beta, uint64_t step) {
    double power = 1.0;
    for (double square = beta; step > 0; step >>= 1, square *= square) {
        power *= step & 1 ? square : 1.0;
    }
    return 1.0 - power;
}

// One block.
extern "C" __global__ void __launch_bounds__(kNormBlocks) decide(const __grid_constant__ AdamArguments arguments) {
    await_last_launch();
    __shared__ double scratch[kNormBlocks];
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

// The products and sums in the order of the CPU, so that from one gradient come the CPU's bits.
extern "C" __global__ void update(const __grid_constant__ AdamArguments arguments) {
    await_last_launch();
    const uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= arguments.len || arguments.factors[3] == 0.0f) {
        return;
    }
    const float beta1 = static_cast<float>(arguments.beta1), beta2 = static_cast<float>(arguments.beta2);
    const float rest1 = static_cast<float>(1.0 - arguments.beta1), rest2 = static_cast<float>(1.0 - arguments.beta2);
    const float g = __fmul_rn(arguments.gradient[i], arguments.factors[0]);
    const float m = __fadd_rn(__fmul_rn(beta1, arguments.m[i]), __fmul_rn(rest1, g));
    const float v = __fadd_rn(__fmul_rn(beta2, arguments.v[i]), __fmul_rn(__fmul_rn(rest2, g), g));
    arguments.m[i] = m;
    arguments.v[i] = v;
    const float root = __fadd_rn(__fsqrt_rn(__fdiv_rn(v, arguments.factors[2])), arguments.epsilon);
    const float rate = __fdiv_rn(__fmul_rn(arguments.rate[0], __fdiv_rn(m, arguments.factors[1])), root);
    arguments.parameters[i] = __fsub_rn(arguments.parameters[i], rate);
}
