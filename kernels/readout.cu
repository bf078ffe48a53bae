// The read-out, y = relu(hidden) * W + b, in f32: a block has 32 rows by 16 columns, a thread four columns of a row.
// One accumulator an output, k ascending, the bias last: the bits of the CPU. Its way back, rows of dW cut into chunks that are
// added in their order. And the sum of two buffers.
#include "common/arguments.cuh"
#include "common/order.cuh"
#include "common/storage.cuh"

constexpr int kRows = 32;
constexpr int kColumns = 16;
constexpr int kStep = 32; // k at a time in shared memory

extern "C" __global__ void __launch_bounds__(128) readout(const __grid_constant__ ReadoutArguments arguments) {
    await_last_launch();
    __shared__ float x[kRows][kStep + 1];
    __shared__ float w[kStep][kColumns];
    const uint32_t column_tiles = divide_up(arguments.o, kColumns);
    const uint32_t start = blockIdx.x / column_tiles * kRows, first = blockIdx.x % column_tiles * kColumns;
    const uint32_t row = threadIdx.x / 4, column = threadIdx.x % 4 * 4;
    float y[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint32_t k0 = 0; k0 < arguments.h; k0 += kStep) {
        for (uint32_t i = threadIdx.x; i < kRows * kStep; i += 128) {
            const uint32_t r = start + i / kStep, k = k0 + i % kStep;
            float h = 0.0f;
            if (r < arguments.rows && k < arguments.h) {
                h = arguments.hidden[size_t(r) * arguments.h + k];
            }
            x[i / kStep][i % kStep] = h < 0.0f ? 0.0f : h; // NaN stays
        }
        for (uint32_t i = threadIdx.x; i < kStep * kColumns; i += 128) {
            const uint32_t k = k0 + i / kColumns, j = first + i % kColumns;
            w[i / kColumns][i % kColumns] = k < arguments.h && j < arguments.o ? arguments.w[size_t(k) * arguments.o + j] : 0.0f;
        }
        __syncthreads();
        const uint32_t steps = min(arguments.h - k0, uint32_t(kStep));
        for (uint32_t k = 0; k < steps; ++k) {
            for (int j = 0; j < 4; ++j) {
                y[j] = __fmaf_rn(x[row][k], w[k][column + j], y[j]);
            }
        }
        __syncthreads();
    }
    if (start + row < arguments.rows) {
        for (int j = 0; j < 4; ++j) {
            const uint32_t o = first + column + j;
            if (o < arguments.o) {
                arguments.y[size_t(start + row) * arguments.o + o] = __fadd_rn(y[j], arguments.b[o]);
            }
        }
    }
}

// d_hidden: a thread an element.
extern "C" __global__ void readout_d_hidden(const __grid_constant__ ReadoutBackwardArguments arguments) {
    await_last_launch();
    const uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const uint32_t row = i / arguments.h, k = i % arguments.h;
    if (row < arguments.rows && arguments.hidden[i] > 0.0f) {
        float d = 0.0f;
        for (uint32_t o = 0; o < arguments.o; ++o) {
            d = __fmaf_rn(arguments.w[size_t(k) * arguments.o + o], arguments.d_y[size_t(row) * arguments.o + o], d);
        }
        arguments.d_hidden[i] = __fadd_rn(arguments.d_hidden[i], d);
    }
}

// dW and db of a chunk of rows: a thread an element.
extern "C" __global__ void readout_gradient(const __grid_constant__ ReadoutBackwardArguments arguments) {
    await_last_launch();
    const uint32_t elements = (arguments.h + 1) * arguments.o;
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x, k = i / arguments.o, o = i % arguments.o;
    if (i >= elements) {
        return;
    }
    const uint32_t begin = blockIdx.y * arguments.chunk, end = min(arguments.rows - begin, arguments.chunk) + begin;
    float sum = 0.0f;
    for (uint32_t row = begin; row < end; ++row) {
        const float x = k == arguments.h ? 1.0f : arguments.hidden[size_t(row) * arguments.h + k];
        if (!(x <= 0.0f)) { // NaN stays
            sum = __fmaf_rn(x, arguments.d_y[size_t(row) * arguments.o + o], sum);
        }
    }
    arguments.partial[size_t(blockIdx.y) * elements + i] = sum;
}

extern "C" __global__ void readout_reduce(const __grid_constant__ ReadoutBackwardArguments arguments) {
    await_last_launch();
    const uint32_t elements = (arguments.h + 1) * arguments.o, i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= elements) {
        return;
    }
    float sum = 0.0f;
    for (uint32_t chunk = 0; chunk < arguments.chunks; ++chunk) {
        sum = __fadd_rn(sum, arguments.partial[size_t(chunk) * elements + i]);
    }
    float* to = i < arguments.h * arguments.o ? arguments.d_w + i : arguments.d_b + (i - arguments.h * arguments.o);
    *to = __fadd_rn(*to, sum);
}

extern "C" __global__ void add(const __grid_constant__ AddArguments arguments) {
    await_last_launch();
    const uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < arguments.len) {
        arguments.to[i] = __fadd_rn(arguments.to[i], arguments.from[i]);
    }
}
