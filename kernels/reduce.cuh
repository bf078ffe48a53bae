// The partial sums of a layer's gradient, added chunk after chunk to the flat gradient: the same bits run after run. A thread
// has four columns of a row, eight loads under way at once.
#pragma once
#include "common/arguments.cuh"
#include "common/storage.cuh"

constexpr int kReduceThreads = 128;
constexpr int kReduceLoads = 8;

// Adds the chunks of `kWide` neighbours, `step` numbers apart; one of 16 bytes is aligned to them.
template <int kWide>
__device__ inline void add_chunks(float* to, const float* partial, uint32_t chunks, size_t step) {
    float sum[kWide] = {};
    for (uint32_t first = 0; first < chunks; first += kReduceLoads) {
        float next[kReduceLoads][kWide] = {};
#pragma unroll
        for (int i = 0; i < kReduceLoads; ++i) {
            if (first + i < chunks) {
                const float* from = partial + (first + i) * step;
                if constexpr (kWide == 4) {
                    Ffma::load4(next[i], from, 0);
                } else {
                    next[i][0] = *from;
                }
            }
        }
#pragma unroll
        for (int i = 0; i < kReduceLoads; ++i) {
#pragma unroll
            for (int e = 0; e < kWide; ++e) {
                sum[e] = first + i < chunks ? __fadd_rn(sum[e], next[i][e]) : sum[e];
            }
        }
    }
    if constexpr (kWide == 4) {
        float before[4];
        Ffma::load4(before, to, 0);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            sum[e] = __fadd_rn(before[e], sum[e]);
        }
        Ffma::store4(to, 0, sum);
    } else {
        *to = __fadd_rn(*to, sum[0]);
    }
}

__device__ inline void reduce_gradient(const ReduceArguments& arguments) {
    const uint64_t thread = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const uint32_t columns = arguments.gates * arguments.hidden_size, quads = divide_up(columns, 4);
    const uint32_t inputs = arguments.segments * arguments.segment;
    const uint32_t row = thread / quads, first = thread % quads * 4;
    if (row > inputs) { // the last row is the bias
        return;
    }
    const bool bias = row == inputs;
    const uint32_t n = arguments.gates * arguments.units, chunks = bias ? arguments.bias_chunks : arguments.chunks;
    const size_t padded_row = size_t(row / arguments.segment) * arguments.padded + row % arguments.segment;
    const size_t step = bias ? n : size_t(arguments.segments) * arguments.padded * n;
    const float* partial = bias ? arguments.partial_b : arguments.partial_w + padded_row * n;
    float* to = bias ? arguments.b : arguments.w + size_t(row) * columns;
    const auto padded = [&](uint32_t column) {
        return column / arguments.hidden_size * arguments.units + column % arguments.hidden_size;
    };
    // Neighbours of one gate, and both their places in 16 bytes.
    if (arguments.hidden_size % 4 == 0 && reinterpret_cast<uintptr_t>(to) % 16 == 0) {
        add_chunks<4>(to + first, partial + padded(first), chunks, step);
        return;
    }
    for (uint32_t column = first; column < min(first + 4, columns); ++column) {
        add_chunks<1>(to + column, partial + padded(column), chunks, step);
    }
}
