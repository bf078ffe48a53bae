// The gradient of the leaf of tokens: dW of a token = sum of dz over its rows, db = sum of all dz. No one-hot is built.
//
// A block owns 256 columns of one token, or of db, over one chunk of rows. Window by window it makes a list of its token's
// rows, in their order, and adds those rows, eight loads of a thread under way at once; row i of a list goes to the sum
// i % 4. So every row of dz is read twice in all, and the order of every sum depends on the tokens alone. `reduce` adds the
// chunks.
#pragma once
#include "common/arguments.cuh"
#include "common/storage.cuh"

constexpr int kTokenColumns = 256;                                 // of a block, four a thread
constexpr int kTokenSums = 4;                                      // of a column
constexpr int kTokenThreads = kTokenColumns / 4 * kTokenSums;
constexpr int kTokenWarps = kTokenThreads / 32;
constexpr int kTokenRounds = 4;                                    // rows of a window that a thread looks at
constexpr int kTokenWindow = kTokenThreads * kTokenRounds;
constexpr int kTokenLoads = 8;

// Lists the rows from `start` on, `rows` of them and at most a window, whose token this is, or all; returns how many.
__device__ inline uint32_t list_rows(uint32_t (&list)[kTokenWindow], uint32_t (&counts)[kTokenWarps],
                                     const TokenGradientArguments& arguments, bool all, uint32_t token, uint32_t start,
                                     uint32_t rows) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t first = start + warp * 32 * kTokenRounds + lane, end = start + rows; // a warp's rows follow each other
    uint32_t found[kTokenRounds];
#pragma unroll
    for (int round = 0; round < kTokenRounds; ++round) {
        const uint32_t row = first + 32 * round, entry = row / arguments.width;
        found[round] = row < end ? token : ~token;
        if (row < end && !all) {
            found[round] = arguments.tokens[size_t(row - entry * arguments.width) * arguments.count + entry];
        }
    }
    uint32_t count = 0;
#pragma unroll
    for (int round = 0; round < kTokenRounds; ++round) {
        found[round] = __ballot_sync(0xffffffffu, found[round] == token);
        count += __popc(found[round]);
    }
    if (lane == 0) {
        counts[warp] = count;
    }
    __syncthreads();
    uint32_t at = 0, total = 0;
#pragma unroll
    for (uint32_t w = 0; w < kTokenWarps; ++w) {
        at += w < warp ? counts[w] : 0;
        total += counts[w];
    }
#pragma unroll
    for (int round = 0; round < kTokenRounds; ++round) {
        if (found[round] >> lane & 1) {
            list[at + __popc(found[round] & ((1u << lane) - 1))] = first + 32 * round;
        }
        at += __popc(found[round]);
    }
    __syncthreads();
    return total;
}

template <class Storage>
__device__ inline void token_gradient_of(const TokenGradientArguments& arguments) {
    __shared__ uint32_t list[kTokenWindow];
    __shared__ uint32_t counts[kTokenWarps];
    __shared__ float4 sums[kTokenSums][kTokenColumns / 4];
    // The blocks of db, which have most to add, then those of the tokens, chunk after chunk.
    const bool bias = blockIdx.x < arguments.bias_chunks;
    const uint32_t block = blockIdx.x - (bias ? 0 : arguments.bias_chunks), token = block % arguments.vocabulary;
    const uint32_t chunk = bias ? block : block / arguments.vocabulary;
    const uint32_t chunk_rows = bias ? arguments.bias_chunk : arguments.chunk;
    const uint32_t begin = chunk * chunk_rows, end = min(arguments.rows - begin, chunk_rows) + begin;

    const uint32_t quad = threadIdx.x % (kTokenColumns / 4), column = blockIdx.y * kTokenColumns + quad * 4;
    const uint32_t which = threadIdx.x / (kTokenColumns / 4);
    const size_t row_length = size_t(Storage::kPlanes) * arguments.n;
    const auto* dz = static_cast<const typename Storage::Element*>(arguments.dz) + column;
    float sum[4] = {};
    for (uint32_t start = begin; start < end; start += kTokenWindow) {
        const uint32_t rows = list_rows(list, counts, arguments, bias, token, start, min(end - start, uint32_t(kTokenWindow)));
        for (uint32_t first = which; first < rows && column < arguments.n; first += kTokenSums * kTokenLoads) {
            float next[kTokenLoads][4];
#pragma unroll
            for (int i = 0; i < kTokenLoads; ++i) {
                const uint32_t at = min(first + i * kTokenSums, rows - 1); // no branch lies between the loads
                Storage::load4(next[i], dz + list[at] * row_length, arguments.n);
            }
#pragma unroll
            for (int i = 0; i < kTokenLoads; ++i) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    sum[e] = __fadd_rn(sum[e], first + i * kTokenSums < rows ? next[i][e] : 0.0f);
                }
            }
        }
    }
    sums[which][quad] = make_float4(sum[0], sum[1], sum[2], sum[3]);
    __syncthreads();
    if (which > 0 || column >= arguments.n) {
        return;
    }
    const float4 a = sums[0][quad], b = sums[1][quad], c = sums[2][quad], d = sums[3][quad];
    const auto four = [](float a, float b, float c, float d) { return __fadd_rn(__fadd_rn(a, b), __fadd_rn(c, d)); };
    float* to = bias ? arguments.b + size_t(chunk) * arguments.n
                     : arguments.w + (size_t(chunk) * arguments.vocabulary + token) * arguments.n;
    *reinterpret_cast<float4*>(to + column) =
        make_float4(four(a.x, b.x, c.x, d.x), four(a.y, b.y, c.y, d.y), four(a.z, b.z, c.z, d.z), four(a.w, b.w, c.w, d.w));
}
