// Cross entropy over the last dimension of the logits, mean over rows, with the share of right answers; and its gradient, of
// few rows in the same launch.
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

// Of one row: its targets and what both ways need of it.
struct LossRow {
    const float* logits;
    uint32_t o, target, best;
    float sum, loss;

    __device__ LossRow(const LossArguments& arguments, uint32_t row)
        : logits(arguments.logits + size_t(row) * arguments.o), o(arguments.o), target(arguments.targets[row]),
          best(arg_max(logits, o)), sum(exponential_sum(logits, o, logits[best])),
          loss(__fsub_rn(logf(sum), __fsub_rn(logit(logits, target, o), logits[best]))) {}

    // d_logits += d_loss (softmax - one-hot) / rows; NaN where the row's loss is not finite, so that it reaches the norm.
    __device__ void add_gradient(float* d_logits, float scale) const {
        scale = isfinite(loss) ? scale : __int_as_float(0x7fffffff);
        for (uint32_t i = 0; i < o; ++i) {
            const float share = __fdiv_rn(expf(__fsub_rn(logits[i], logits[best])), sum);
            d_logits[i] = __fadd_rn(d_logits[i], __fmul_rn(scale, __fsub_rn(share, i == target ? 1.0f : 0.0f)));
        }
    }
};

__device__ inline float gradient_scale(const LossArguments& arguments) {
    return __fdiv_rn(arguments.d_loss[0], static_cast<float>(arguments.rows));
}

// With the gradient where there is a place for it.
extern "C" __global__ void __launch_bounds__(kLossThreads, 1) cross_entropy(const __grid_constant__ LossArguments arguments) {
    await_last_launch();
    __shared__ double scratch[kLossThreads];
    double loss = 0.0;
    uint32_t right = 0, counted = 0;
    const float scale = arguments.d_logits != nullptr ? gradient_scale(arguments) : 0.0f;
    for (uint32_t i = threadIdx.x; i < arguments.rows; i += kLossThreads) {
        const LossRow row(arguments, i);
        loss += row.loss;
        if (arguments.mask[i] != 0) {
            counted += 1;
            right += row.best == row.target && row.sum == row.sum; // a NaN among the logits makes the sum one
        }
        if (arguments.d_logits != nullptr) {
            row.add_gradient(arguments.d_logits + size_t(i) * row.o, scale);
        }
    }
    loss = block_sum<kLossThreads>(loss, scratch);
    const double all_right = block_sum<kLossThreads>(static_cast<double>(right), scratch);
    const double all_counted = block_sum<kLossThreads>(static_cast<double>(counted), scratch);
    if (threadIdx.x == 0) {
        arguments.metrics[0] = static_cast<float>(loss / arguments.rows);
        arguments.metrics[1] = static_cast<float>(all_right);
        arguments.metrics[2] = static_cast<float>(all_counted);
    }
}

extern "C" __global__ void cross_entropy_backward(const __grid_constant__ LossArguments arguments) {
    await_last_launch();
    const uint32_t row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row < arguments.rows) {
        LossRow(arguments, row).add_gradient(arguments.d_logits + size_t(row) * arguments.o, gradient_scale(arguments));
    }
}
