// Products of a team of four warps, 16 rows each by both packed blocks of units, by `wgmma`: for sm_90a alone. It reads shared
// memory by itself, through descriptors, and works on while its warps wait. The sums are taken to be those of `mma.sync`, 16 k
// at a time in order: no manual says so, and no card has been asked. PTX manual, section "Asynchronous warpgroup level matrix
// instructions".
#pragma once
#include "quads.cuh"
#include "storage.cuh"
#include "sums.cuh"
#include "team.cuh"

// What of shared memory a thread has written by itself or by copies is there for `wgmma`, once its team has met.
__device__ inline void publish_to_wgmma() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// What registers hold is there for the `wgmma`s that follow.
__device__ inline void begin_wgmma() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void end_wgmma() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ inline void await_wgmma() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

// How a matrix lies in shared memory: its start, two strides, and 1 for a swizzle of 128 bytes, 0 for none.
__device__ constexpr uint64_t wgmma_matrix(uint32_t start, uint32_t leading, uint32_t stride, uint32_t swizzle) {
    return uint64_t(start >> 4) | uint64_t(leading >> 4) << 16 | uint64_t(stride >> 4) << 32 | uint64_t(swizzle) << 62;
}

// z += a * b over a stage: [64 rows, 16 k], K-major, times [16 k, columns], whose columns lie beside each other, and then the k that
// follow. a, b, step: the operands' numbers. z holds numbers before: of what is undefined older compilers make a product wait for
// the one before it.
#define WGMMA_16(columns, type, registers, a, b) \
    "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type "." type " {" registers "}, " a ", " b ", add, 1, 1, 0, 1;\n\t"
#define WGMMA_NEXT_16(columns, type, registers, a, b, step)                                                               \
    "add.s64 in, " a ", 2;\n\t"                                                                                         \
    "add.s64 of, " b ", " step ";\n\t" WGMMA_16(columns, type, registers, "in", "of")
#define WGMMA(columns, type, registers, a, b, step, ...)                                                                  \
    asm volatile("{\n\t"                                                                                                \
                 ".reg .pred add;\n\t"                                                                                  \
                 ".reg .b64 in, of;\n\t"                                                                                \
                 "setp.eq.u32 add, 0, 0;\n\t" WGMMA_16(columns, type, registers, a, b)                                  \
                 WGMMA_NEXT_16(columns, type, registers, a, b, step)                                                      \
                 WGMMA_NEXT_16(columns, type, registers, "in", "of", step)                                                \
                 WGMMA_NEXT_16(columns, type, registers, "in", "of", step) "}"                                            \
                 : __VA_ARGS__                                                                                            \
                 : "l"(inputs), "l"(weights), "n"(kStep))
#define REGISTERS_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define REGISTERS_64                                                                                                      \
    REGISTERS_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, " \
                 "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "   \
                 "%56, %57, %58, %59, %60, %61, %62, %63"
#define REGISTERS_80                                                                                                      \
    REGISTERS_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define TILE(z, n) "+f"(z[n][0]), "+f"(z[n][1]), "+f"(z[n][2]), "+f"(z[n][3])
#define TILES_2(z, n) TILE(z, n), TILE(z, n + 1)
#define TILES_8(z) TILES_2(z, 0), TILES_2(z, 2), TILES_2(z, 4), TILES_2(z, 6)
#define TILES_10(z) TILES_8(z), TILES_2(z, 8)

template <class Storage, int kGates, int kStep>
__device__ inline void multiply_add_wgmma(Sums<Storage, kGates, 16> (&sums)[2], uint64_t inputs, uint64_t weights) {
    auto &z0 = sums[0].z[0], &z1 = sums[1].z[0];
    constexpr bool kBf16 = Storage::kIsBf16;
    if constexpr (kGates == 5 && kBf16) {
        WGMMA(160, "bf16", REGISTERS_80, "%80", "%81", "%82", TILES_10(z0), TILES_10(z1));
    } else if constexpr (kGates == 5) {
        WGMMA(160, "f16", REGISTERS_80, "%80", "%81", "%82", TILES_10(z0), TILES_10(z1));
    } else if constexpr (kGates == 4 && kBf16) {
        WGMMA(128, "bf16", REGISTERS_64, "%64", "%65", "%66", TILES_8(z0), TILES_8(z1));
    } else if constexpr (kGates == 4) {
        WGMMA(128, "f16", REGISTERS_64, "%64", "%65", "%66", TILES_8(z0), TILES_8(z1));
    } else if constexpr (kBf16) {
        static_assert(kGates == 1);
        WGMMA(32, "bf16", REGISTERS_16, "%16", "%17", "%18", TILES_2(z0, 0), TILES_2(z1, 0));
    } else {
        static_assert(kGates == 1);
        WGMMA(32, "f16", REGISTERS_16, "%16", "%17", "%18", TILES_2(z0, 0), TILES_2(z1, 0));
    }
}

#undef TILES_10
#undef TILES_8
#undef TILES_2
#undef TILE
#undef REGISTERS_80
#undef REGISTERS_64
#undef REGISTERS_16
#undef WGMMA
#undef WGMMA_NEXT_16
#undef WGMMA_16

template <class StorageOf, int kGatesOf>
struct Wgmma {
    using Storage = StorageOf;
    static constexpr int kGates = kGatesOf, kThreads = 128;
    static constexpr bool kOwnRows = true; // a warp's rows are those that it copies

    // Both packed blocks, rows 8 apart. See quads.cuh.
    template <bool kKeep>
    struct Quads {
        static constexpr int kParts = 2, kQuads = 2, kStep = 8;
        static constexpr int kFirst = kKeep ? 1 : 4, kMost = kFirst;
        static constexpr Added kAdded = kKeep ? Added::Whole : Added::Halves;
    };

    // In shared memory, [k / 8][chunk of both blocks][k % 8]: blocks of 8 k by 8 columns, 128 bytes each.
    struct Weights {
        static constexpr int kChunks = 2 * kGates; // of a row of a block
        static constexpr int kColumnStep = 8 * kChunk, kStep = 2 * kChunks * kColumnStep; // from 8 columns, 8 k to the next
        static constexpr int kStageBytes = kTeamStageK / 8 * kStep;

        __device__ static uint32_t block(uint32_t block, uint32_t) { return block * kChunks * kColumnStep; }
        __device__ static uint32_t at(uint32_t row, uint32_t chunk) {
            return row / 8 * kStep + chunk * kColumnStep + row % 8 * kChunk;
        }
        // Copies of a stage of a block by half a block of threads: four chunks of a row at a time. Eight lanes beside each other
        // write 128 bytes, and lanes eight apart read a sector, which in every other row begins with an odd chunk.
        static constexpr int kCopies = (kChunks + 3) / 4;
        __device__ static ChunkPlace place(uint32_t thread, int copy) {
            const uint32_t row = thread / 32 * 8 + thread % 8, at = copy * 4 + thread / 8 % 4, chunk = at + row % 2;
            return {at < kChunks, row, chunk < kChunks ? chunk : 0};
        }
    };

    Sums<Storage, kGates, 16> sums[2]; // of a packed block each
    uint64_t piece; // the stage's weights

    // Of the block's teams. The compiler is told that it is a warp's, and keeps what follows from it, descriptors too, in uniform
    // registers.
    __device__ static uint32_t index() { return __shfl_sync(0xffffffffu, threadIdx.x / kThreads, 0); }
    __device__ static void publish() { publish_to_wgmma(); }

    __device__ void begin(uint32_t, uint32_t weights, uint32_t) {
        piece = wgmma_matrix(weights, Weights::kStep, Weights::kColumnStep, 0);
        sums[0].clear();
        sums[1].clear();
    }
    template <class Turn>
    __device__ void multiply(uint32_t stage, uint32_t, bool, Turn turn) {
        const uint64_t inputs = wgmma_matrix(stage, 0, 8 * kTeamRowBytes, 1);
        begin_wgmma();
        multiply_add_wgmma<Storage, kGates, 2 * Weights::kStep / 16>(sums, inputs, piece);
        end_wgmma();
        piece += Weights::kStageBytes >> 4;
        await_wgmma();
        turn();
    }

    __device__ auto& part(int part) { return sums[part]; }
    __device__ static uint32_t row(uint32_t thread) { return thread / 32 % 4 * 16 + thread % 32 / 4; }
    __device__ static uint32_t block(uint32_t) { return 0; }
};
