// Products of a team of two warps, a packed block of units each, by `mma.sync`.
#pragma once
#include "product.cuh"
#include "quads.cuh"
#include "team.cuh"

template <class StorageOf, int kGatesOf>
struct PairMma {
    using Storage = StorageOf;
    static constexpr int kGates = kGatesOf, kThreads = 64;
    static constexpr bool kOwnRows = false; // a warp has all of the tile's rows

    // Rows 8 apart. See quads.cuh.
    template <bool kKeep>
    struct Quads : ::Quads<kTeamTile / 8, 8> {
        static constexpr int kFirst = kKeep ? 1 : 2, kMost = kKeep ? 3 : 5;
    };

    // In shared memory, [two packed blocks][k][kStride]: without padding where swizzled halves of 32 bytes do.
    struct Weights {
        static constexpr int kChunks = 2 * kGates; // of a row
        static constexpr bool kSwizzled = kChunks % 4 == 2;
        static constexpr int kStride = kBlockUnits * kGates + (kSwizzled ? 0 : 8);
        static constexpr int kStageBytes = kTeamStageK * kStride * 2;

        __device__ static uint32_t block(uint32_t block, uint32_t k) { return block * k * (kStride * 2); }
        __device__ static uint32_t at(uint32_t row, uint32_t chunk) {
            return row * (kStride * 2) + (kSwizzled ? chunk ^ row / 4 % 2 : chunk) * kChunk;
        }
        // Copies of a stage of a block by half a block of threads: chunks as they lie in global memory.
        static constexpr int kCopies = kTeamStageK * kChunks / (kTeams * kThreads / 2);
        __device__ static ChunkPlace place(uint32_t thread, int copy) {
            const uint32_t at = copy * (kTeams * kThreads / 2) + thread;
            return {true, at / kChunks, at % kChunks};
        }
    };

    Sums<Storage, kGates, kTeamTile> sums;
    ReadAhead<Storage, kGates, kTeamTile, kTeamStageK / 16, kTeamRowBytes, Weights::kStride> ahead;
    uint32_t piece; // the stage's weights

    __device__ PairMma()
        : ahead(team_chunk_at(threadIdx.x % 16, threadIdx.x % 32 / 16), Weights::at(threadIdx.x % 16, threadIdx.x % 32 / 16)) {}

    // Of the block's teams.
    __device__ static uint32_t index() { return threadIdx.x / kThreads; }
    // Copies of this thread that have come are read by ldmatrix as they are.
    __device__ static void publish() {}

    // `stage`: the first of inputs, there for all. `weights`, of both blocks: k of them.
    __device__ void begin(uint32_t stage, uint32_t weights, uint32_t k) {
        piece = weights + Weights::block(threadIdx.x / 32 % 2, k);
        ahead.begin(stage, piece);
        sums.clear();
    }
    // The products of a stage. Calls `turn` once it has read all of it, and then reads the next, if there is one.
    template <class Turn>
    __device__ void multiply(uint32_t stage, uint32_t next, bool more, Turn turn) {
        const uint32_t next_piece = more ? piece + Weights::kStageBytes : piece;
        ahead.multiply(sums, stage, piece, next, next_piece, [] {}, turn);
        piece = next_piece;
    }

    __device__ auto& part(int) { return sums; }
    // Of a thread's sums: the first row of the tile, and the packed block of the two.
    __device__ static uint32_t row(uint32_t thread) { return thread % 32 / 4; }
    __device__ static uint32_t block(uint32_t thread) { return thread / 32 % 2; }
};
