// A team: warps of a block that take tiles of 64 rows by two packed blocks of units for themselves, and wait for each other alone.
// Its inputs go through a ring of their own in shared memory, of two stages of 64 k.
#pragma once
#include "copy.cuh"

constexpr int kTeams = 4, kTeamTile = 64;      // rows
constexpr int kTeamStageK = 64, kTeamStages = 2; // of inputs
constexpr int kTeamRowBytes = kTeamStageK * 2, kTeamStageBytes = kTeamTile * kTeamRowBytes;

// All threads of a team of so many.
template <int kThreads>
__device__ inline void team_barrier() {
    asm volatile("bar.sync %0, %1;" ::"r"(1 + threadIdx.x / kThreads), "n"(kThreads) : "memory");
}

// Byte of a chunk of a row of a stage: eight consecutive rows, read at one k, meet no bank twice. What a `wgmma` calls K-major
// with a swizzle of 128 bytes, where a stage begins at a multiple of 1024.
__device__ inline uint32_t team_chunk_at(uint32_t row, uint32_t chunk) { return row * kTeamRowBytes + (chunk ^ row % 8) * kChunk; }

// A chunk of a stage of weights, if there is one.
struct ChunkPlace {
    bool there;
    uint32_t row, chunk;
};

// A warp's part of a tile's rows.
template <int kThreads>
struct TeamRows {
    static constexpr int kOfWarp = kTeamTile / (kThreads / 32);

    __device__ static uint32_t first(uint32_t thread = threadIdx.x) { return thread % kThreads / 32 * kOfWarp; }
};

// A thread's share of the copies of its warp's rows: two chunks of every eighth of them.
template <class Storage, int kThreads>
struct TeamCopier {
    using Rows = TeamRows<kThreads>;
    static constexpr int kRows = Rows::kOfWarp / 8;

    const char* rows[kRows];
    uint32_t to; // in a stage

    __device__ TeamCopier() {
        uint32_t thread = threadIdx.x;
        asm volatile("" : "+r"(thread)); // or what follows from it is kept for all tiles
        to = keep<Storage>(team_chunk_at(Rows::first(thread) + first_row(thread), thread % 4));
    }

    // Of the warp's: rows of eight lanes beside each other are four apart, whose halves meet no bank twice.
    __device__ static uint32_t first_row(uint32_t thread = threadIdx.x) { return thread / 8 % 4 + thread / 4 % 2 * 4; }

    // Rows of `input`, which are [k]; `number(row)` is that of a row of this warp's.
    template <class Number>
    __device__ void point(const void* input, uint32_t k, uint32_t stage, Number number) {
        const uint32_t at = stage * kTeamRowBytes + threadIdx.x % 4 * kChunk;
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            const size_t row = number(first_row() + 8 * i);
            rows[i] = static_cast<const char*>(input) + row * k * sizeof(typename Storage::Element) + at;
        }
    }
    // Starts the copy of the next stage, if there is one.
    __device__ void copy(bool there, uint32_t stage) {
        copy_rows<0>(there, stage + to, stage + (to ^ kHalf));
    }

private:
    static constexpr int kHalf = kTeamRowBytes / 2;

    // The rows from the i-th on.
    template <int i>
    __device__ void copy_rows(bool there, uint32_t at, uint32_t half) {
        copy_chunks_if<i * 8 * kTeamRowBytes, kHalf>(there, at, half, rows[i]);
        rows[i] += kTeamRowBytes;
        if constexpr (i + 1 < kRows) {
            copy_rows<i + 1>(there, at, half);
        }
    }
};
