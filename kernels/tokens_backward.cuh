// The gradient of the leaf of tokens: dW of a token = sum of dz over its rows, db = sum of all dz. No one-hot is built.
#pragma once
#include "common/arguments.cuh"
#include "common/storage.cuh"

// A thread has four columns of one token, over one chunk of rows; beyond the last token, of all rows: that is db.
template <class Storage>
__device__ inline void token_gradient_of(const TokenGradientArguments& arguments) {
    const uint32_t column = (blockIdx.y * blockDim.x + threadIdx.x) * 4, token = blockIdx.x; // there may be many tokens
    if (column >= arguments.n) {
        return;
    }
    const uint32_t begin = blockIdx.z * arguments.chunk;
    const uint32_t end = min(arguments.rows - begin, arguments.chunk) + begin;
    float sum[4] = {};
    for (uint32_t row = begin; row < end; ++row) {
        const uint32_t entry = row / arguments.width, lane = row - entry * arguments.width;
        if (token == arguments.vocabulary || arguments.tokens[size_t(lane) * arguments.count + entry] == token) {
            float dz[4];
            Storage::load4(dz, static_cast<const typename Storage::Element*>(arguments.dz) + size_t(row) * (Storage::kPlanes * arguments.n) + column,
                           arguments.n);
            for (int e = 0; e < 4; ++e) {
                sum[e] = __fadd_rn(sum[e], dz[e]);
            }
        }
    }
    float* to = token == arguments.vocabulary ? arguments.b + size_t(blockIdx.z) * arguments.n
                                              : arguments.w + (size_t(blockIdx.z) * arguments.vocabulary + token) * arguments.n;
    Ffma::store4(to + column, 0, sum);
}
