// The read-out, y = relu(hidden) * W + b, in f32. One accumulator an output, k ascending, the bias last: the bits of the CPU,
// whatever the tile. A block brings its rows of hidden and its columns of W into shared memory, all loads of a step of k
// under way at once, and those of the next step while it multiplies. Two tiles: 4 rows by 4 columns, which spread few
// outputs over many blocks, and 32 rows by 16 columns. Its way back in one launch, dW and d_hidden; many rows of dW are
// cut into chunks that another adds in their order. And the sum of two buffers.
#include "common/arguments.cuh"
#include "common/order.cuh"
#include "common/storage.cuh"
#include "reduce.cuh"

constexpr int kReadoutThreads = 128;

// A tile of rows and columns, `kEach` columns a thread; `kStep` k at a time.
template <int kRows, int kColumns, int kEach, int kStep>
__device__ inline void readout_of(const ReadoutArguments& arguments) {
    constexpr int kXs = kRows * kStep / kReadoutThreads, kWs = kStep * kColumns / kReadoutThreads; // of a thread
    __shared__ float x[kRows][kStep + 1];
    __shared__ float w[kStep][kColumns];
    const uint32_t column_tiles = divide_up(arguments.o, kColumns);
    const uint32_t start = blockIdx.x / column_tiles * kRows, first = blockIdx.x % column_tiles * kColumns;
    float next_x[kXs], next_w[kWs];
    const auto fetch = [&](uint32_t k0) {
#pragma unroll
        for (int i = 0; i < kXs; ++i) {
            const uint32_t at = threadIdx.x + i * kReadoutThreads, row = start + at / kStep, k = k0 + at % kStep;
            next_x[i] = row < arguments.rows && k < arguments.h ? arguments.hidden[size_t(row) * arguments.h + k] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < kWs; ++i) {
            const uint32_t at = threadIdx.x + i * kReadoutThreads, k = k0 + at / kColumns, o = first + at % kColumns;
            next_w[i] = k < arguments.h && o < arguments.o ? arguments.w[size_t(k) * arguments.o + o] : 0.0f;
        }
    };
    const uint32_t row = threadIdx.x / (kColumns / kEach), column = threadIdx.x % (kColumns / kEach) * kEach;
    float y[kEach] = {}, b[kEach];
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
        b[j] = first + column + j < arguments.o ? arguments.b[first + column + j] : 0.0f;
    }
    fetch(0);
    for (uint32_t k0 = 0; k0 < arguments.h; k0 += kStep) {
#pragma unroll
        for (int i = 0; i < kXs; ++i) {
            const uint32_t at = threadIdx.x + i * kReadoutThreads;
            x[at / kStep][at % kStep] = next_x[i] < 0.0f ? 0.0f : next_x[i]; // NaN stays
        }
#pragma unroll
        for (int i = 0; i < kWs; ++i) {
            const uint32_t at = threadIdx.x + i * kReadoutThreads;
            w[at / kColumns][at % kColumns] = next_w[i];
        }
        __syncthreads();
        if (k0 + kStep < arguments.h) {
            fetch(k0 + kStep);
        }
        if (row < kRows) {
            const uint32_t steps = min(arguments.h - k0, uint32_t(kStep));
#pragma unroll(32 / kEach)
            for (uint32_t k = 0; k < steps; ++k) {
#pragma unroll
                for (int j = 0; j < kEach; ++j) {
                    y[j] = __fmaf_rn(x[row][k], w[k][column + j], y[j]);
                }
            }
        }
        __syncthreads();
    }
    if (row < kRows && start + row < arguments.rows) {
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
            const uint32_t o = first + column + j;
            if (o < arguments.o) {
                arguments.y[size_t(start + row) * arguments.o + o] = __fadd_rn(y[j], b[j]);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(kReadoutThreads) readout(const __grid_constant__ ReadoutArguments arguments) {
    await_last_launch();
    readout_of<4, 4, 1, 256>(arguments);
}

extern "C" __global__ void __launch_bounds__(kReadoutThreads) readout_wide(const __grid_constant__ ReadoutArguments arguments) {
    await_last_launch();
    readout_of<32, 16, 4, 32>(arguments);
}

constexpr int kGradientColumns = 32; // elements of dW and db of a block
constexpr int kGradientSums = 8;     // of an element, a warp each
constexpr int kGradientLoads = 8;    // rows of a thread under way at once
constexpr int kBackwardThreads = kGradientColumns * kGradientSums;

// dW and db, of one chunk of rows: row i of it goes to the sum i % 8. Of the only chunk they are added where they belong.
__device__ inline void readout_gradient(const ReadoutBackwardArguments& arguments, uint32_t block) {
    __shared__ float sums[kGradientSums][kGradientColumns];
    const uint32_t elements = (arguments.h + 1) * arguments.o, blocks = divide_up(elements, kGradientColumns);
    const uint32_t chunk = block / blocks, lane = threadIdx.x % 32, which = threadIdx.x / 32;
    const uint32_t i = block % blocks * kGradientColumns + lane, k = i / arguments.o, o = i - k * arguments.o;
    const uint32_t begin = chunk * arguments.chunk, end = min(arguments.rows - begin, arguments.chunk) + begin;
    float sum = 0.0f;
    for (uint32_t first = begin + which; first < end && i < elements; first += kGradientSums * kGradientLoads) {
        float x[kGradientLoads], d[kGradientLoads];
#pragma unroll
        for (int n = 0; n < kGradientLoads; ++n) {
            const uint32_t row = first + n * kGradientSums;
            x[n] = row < end && k < arguments.h ? arguments.hidden[size_t(row) * arguments.h + k] : 1.0f;
            d[n] = row < end ? arguments.d_y[size_t(row) * arguments.o + o] : 0.0f;
        }
#pragma unroll
        for (int n = 0; n < kGradientLoads; ++n) {
            sum = x[n] <= 0.0f ? sum : __fmaf_rn(x[n], d[n], sum); // NaN stays
        }
    }
    sums[which][lane] = sum;
    __syncthreads();
    if (which > 0 || i >= elements) {
        return;
    }
    float all[kGradientSums];
#pragma unroll
    for (int n = 0; n < kGradientSums; ++n) {
        all[n] = sums[n][lane];
    }
#pragma unroll
    for (int step = kGradientSums / 2; step > 0; step /= 2) {
#pragma unroll
        for (int n = 0; n < step; ++n) {
            all[n] = __fadd_rn(all[n], all[n + step]);
        }
    }
    if (arguments.chunks > 1) {
        arguments.partial[size_t(chunk) * elements + i] = all[0];
        return;
    }
    float* to = k < arguments.h ? arguments.d_w + i : arguments.d_b + o;
    *to = __fadd_rn(*to, all[0]);
}

// Blocks of dW and db, then d_hidden, a thread an element.
extern "C" __global__ void __launch_bounds__(kBackwardThreads, 4)
readout_backward(const __grid_constant__ ReadoutBackwardArguments arguments) {
    await_last_launch();
    if (blockIdx.x < arguments.gradient_blocks) {
        readout_gradient(arguments, blockIdx.x);
        return;
    }
    const uint64_t i = uint64_t(blockIdx.x - arguments.gradient_blocks) * kBackwardThreads + threadIdx.x;
    const uint32_t row = i / arguments.h, k = i % arguments.h;
    if (row < arguments.rows) {
        const float hidden = arguments.hidden[i], before = arguments.d_hidden[i];
        float d = 0.0f;
#pragma unroll 4
        for (uint32_t o = 0; o < arguments.o; ++o) {
            d = __fmaf_rn(arguments.w[size_t(k) * arguments.o + o], arguments.d_y[size_t(row) * arguments.o + o], d);
        }
        if (hidden > 0.0f) {
            arguments.d_hidden[i] = __fadd_rn(before, d);
        }
    }
}

extern "C" __global__ void __launch_bounds__(kReduceThreads, 8)
readout_reduce(const __grid_constant__ ReadoutBackwardArguments arguments) {
    await_last_launch();
    const uint32_t elements = (arguments.h + 1) * arguments.o, i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < elements) {
        float* to = i < arguments.h * arguments.o ? arguments.d_w + i : arguments.d_b + (i - arguments.h * arguments.o);
        add_chunks<1>(to, arguments.partial + i, arguments.chunks, elements);
    }
}

extern "C" __global__ void add(const __grid_constant__ AddArguments arguments) {
    await_last_launch();
    const uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < arguments.len) {
        arguments.to[i] = __fadd_rn(arguments.to[i], arguments.from[i]);
    }
}
