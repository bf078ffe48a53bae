// Cross entropy over the last dimension of the logits, mean over rows, with the share of right answers; and its gradient.
// One block sums all rows in one fixed order: there are few beside what a pass costs.
#include "common/arguments.cuh"
#include "common/order.cuh"
#include "common/sum.cuh"

constexpr int kLossThreads = 256;

// The largest logit's place, the first of them; NaN never wins over a number.
__device__ inline uint32_t arg_max(const float* logits, uint32_t o) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < o; ++i) {
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}

// NaN for a target that is no class: targets lie on the device, where nobody can check them.
__device__ inline float logit(const float* logits, uint32_t target, uint32_t o) {
    return target < o ? logits[target] : __int_as_float(0x7fffffff);
}

__device__ inline float exponential_sum(const float* logits, uint32_t o, float most) {
    float sum = 0.0f;
    for (uint32_t i = 0; i < o; ++i) {
        sum = __fadd_rn(sum, expf(__fsub_rn(logits[i], most)));
    }
    return sum;
}

extern "C" __global__ void __launch_bounds__(kLossThreads) cross_entropy(const __grid_constant__ LossArguments arguments) {
    await_last_launch();
    __shared__ double scratch[kLossThreads];
    double loss = 0.0, right = 0.0, counted = 0.0;
    for (uint32_t row = threadIdx.x; row < arguments.rows; row += kLossThreads) {
        const float* logits = arguments.logits + size_t(row) * arguments.o;
        const uint32_t target = arguments.targets[row], best = arg_max(logits, arguments.o);
        const float sum = exponential_sum(logits, arguments.o, logits[best]);
        loss += __fsub_rn(logf(sum), __fsub_rn(logit(logits, target, arguments.o), logits[best]));
        if (arguments.mask[row] != 0) {
            counted += 1.0;
            right += best == target && sum == sum ? 1.0 : 0.0; // a NaN among the logits makes the sum one
        }
    }
    loss = block_sum<kLossThreads>(loss, scratch);
    right = block_sum<kLossThreads>(right, scratch);
    counted = block_sum<kLossThreads>(counted, scratch);
    if (threadIdx.x == 0) {
        arguments.metrics[0] = static_cast<float>(loss / arguments.rows);
        arguments.metrics[1] = static_cast<float>(right);
        arguments.metrics[2] = static_cast<float>(counted);
    }
}

// d_logits += d_loss (softmax - one-hot) / rows; NaN where the row's loss is not finite, so that it reaches the norm.
extern "C" __global__ void cross_entropy_backward(const __grid_constant__ LossArguments arguments) {
    await_last_launch();
    const uint32_t row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= arguments.rows) {
        return;
    }
    const float* logits = arguments.logits + size_t(row) * arguments.o;
    float* d_logits = arguments.d_logits + size_t(row) * arguments.o;
    const uint32_t target = arguments.targets[row];
    const float most = logits[arg_max(logits, arguments.o)];
    const float sum = exponential_sum(logits, arguments.o, most);
    const float loss = __fsub_rn(logf(sum), __fsub_rn(logit(logits, target, arguments.o), most));
    float scale = __fdiv_rn(arguments.d_loss[0], static_cast<float>(arguments.rows));
    if (!isfinite(loss)) {
        scale = __int_as_float(0x7fffffff);
    }
    for (uint32_t o = 0; o < arguments.o; ++o) {
        const float share = __fdiv_rn(expf(__fsub_rn(logits[o], most)), sum);
        const float d = __fmul_rn(scale, __fsub_rn(share, o == target ? 1.0f : 0.0f));
        d_logits[o] = __fadd_rn(d_logits[o], d);
    }
}
