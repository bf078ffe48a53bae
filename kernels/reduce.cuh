// The partial sums of a layer's gradient, added chunk after chunk to the flat gradient: the same bits run after run.
#pragma once
#include "common/arguments.cuh"

__device__ inline void reduce_gradient(const ReduceArguments& arguments) {
    const uint64_t thread = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const uint32_t columns = arguments.gates * arguments.hidden_size, inputs = arguments.segments * arguments.segment;
    const uint32_t row = thread / columns, column = thread % columns;
    if (row > inputs) { // the last row is the bias
        return;
    }
    const uint32_t n = arguments.gates * arguments.units;
    const uint32_t padded_column = column / arguments.hidden_size * arguments.units + column % arguments.hidden_size;
    const size_t padded_row = size_t(row / arguments.segment) * arguments.padded + row % arguments.segment;
    const size_t step = row < inputs ? size_t(arguments.segments) * arguments.padded * n : n;
    const float* partial = row < inputs ? arguments.partial_w + padded_row * n : arguments.partial_b;
    float sum = 0.0f;
    for (uint32_t chunk = 0; chunk < arguments.chunks; ++chunk) {
        sum = __fadd_rn(sum, partial[chunk * step + padded_column]);
    }
    float* to = row < inputs ? arguments.w + size_t(row) * columns + column : arguments.b + column;
    *to = __fadd_rn(*to, sum);
}
