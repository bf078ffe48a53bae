// A tile of z = [inputs] * W: kTile rows by 32 units with all their gates, in registers at the end.
//
// Four warps, 2 by 2: half the rows by 16 units each. Stages of 32 k run through a ring in shared memory: while one is
// multiplied, the next are on their way. Rows are gathered by number; a merge's two inputs are one long k. Sums run over
// k in order, in one accumulator: a row has the same bits in every tile and every launch.
#pragma once
#include "copy.cuh"
#include "mma.cuh"
#include "storage.cuh"

constexpr int kThreads = 128;

// Where a launch finds its operands.
template <class Storage>
struct Operands {
    const typename Storage::Element* input;   // rows of [planes, segment]
    const typename Storage::Element* weights; // of this block's units
    const uint32_t* rows;                     // in shared memory: [inputs][kTile], row numbers of `input`
    uint32_t segment;
    uint32_t k; // segment * inputs, a multiple of 16
};

// Copies of a stage that all products share: rows by number, weights as they lie.
template <class Storage, int kGates, int kTile, int kInputs>
struct Stage {
    using Element = typename Storage::Element;
    static constexpr int kPerChunk = kChunk / sizeof(Element);
    static constexpr int kRowChunks = kStageK / kPerChunk;
    // Tensor cores: rows unpadded, their chunks swizzled. FFMA: a chunk of padding.
    static constexpr int kRowBytes = kStageK * sizeof(Element) + (Storage::kTensor ? 0 : kChunk);
    static constexpr int kPlaneBytes = kTile * kRowBytes;
    static constexpr int kInputBytes = Storage::kPlanes * kPlaneBytes;
    static constexpr int kStride = Storage::stride(kGates);
    static constexpr int kPieceElements = Storage::kPlanes * kStageK * kStride;
    static constexpr int kPieceBytes = kPieceElements * sizeof(Element);
    static constexpr int kBytes = kInputBytes + kPieceBytes;

    // Byte offset of a chunk of a row. Eight consecutive rows, read by ldmatrix at one k, lie in eight different
    // 16-byte lanes of the 32 banks.
    __device__ static uint32_t chunk_at(uint32_t row, uint32_t chunk) {
        if constexpr (Storage::kTensor) {
            return row * kRowBytes + (chunk ^ (row >> 1 & 3)) * kChunk;
        } else {
            return row * kRowBytes + chunk * kChunk;
        }
    }

    // Starts the copy of a stage into `to`.
    __device__ static void copy(uint32_t to, const Operands<Storage>& operands, uint32_t stage) {
        const uint32_t chunk = threadIdx.x % kRowChunks;
        uint32_t k = stage * kStageK + chunk * kPerChunk;
        if (k < operands.k) {
            const uint32_t* rows = operands.rows;
            if (kInputs == 2 && k >= operands.segment) {
                k -= operands.segment;
                rows += kTile;
            }
#pragma unroll(Storage::kPlanes == 1 ? 4 : 1)
            for (int i = 0; i < kTile * kRowChunks / kThreads; ++i) {
                const uint32_t row = threadIdx.x / kRowChunks + i * (kThreads / kRowChunks);
                const Element* from = operands.input + size_t(rows[row]) * (Storage::kPlanes * operands.segment) + k;
#pragma unroll
                for (int plane = 0; plane < Storage::kPlanes; ++plane) {
                    copy_chunk(to + plane * kPlaneBytes + chunk_at(row, chunk), from + plane * operands.segment);
                }
            }
        }
        const char* piece = reinterpret_cast<const char*>(operands.weights + size_t(stage) * kPieceElements);
#pragma unroll
        for (int at = 0; at < kPieceBytes; at += kThreads * kChunk) {
            const uint32_t byte = at + threadIdx.x * kChunk;
            if (byte < kPieceBytes) {
                copy_chunk(to + kInputBytes + byte, piece + byte);
            }
        }
    }
};

// The ring: `multiply(stage in shared memory, k of the stage)` for every stage in turn.
template <class Storage, class Stage, class Multiply>
__device__ inline void for_stages(uint32_t ring, const Operands<Storage>& operands, Multiply multiply) {
    constexpr int kStages = Storage::kStages;
    const uint32_t stages = divide_up(operands.k, kStageK);
#pragma unroll
    for (uint32_t stage = 0; stage < kStages - 1; ++stage) {
        if (stage < stages) {
            Stage::copy(ring + stage * Stage::kBytes, operands, stage);
        }
        end_group();
    }
    for (uint32_t stage = 0; stage < stages; ++stage) {
        wait_groups<kStages - 2>();
        __syncthreads(); // the stage is there for all, and nobody reads the one that is overwritten next
        const uint32_t next = stage + kStages - 1;
        if (next < stages) {
            Stage::copy(ring + next % kStages * Stage::kBytes, operands, next);
        }
        end_group();
        multiply(ring + stage % kStages * Stage::kBytes, min(operands.k - stage * kStageK, uint32_t(kStageK)));
    }
}

template <class Storage, int kGates, int kTile, int kInputs, bool kTensor = Storage::kTensor>
struct Product;

// On tensor cores: a warp has kTile/2 rows by 16 units.
template <class Storage, int kGates, int kTile, int kInputs>
struct Product<Storage, kGates, kTile, kInputs, true> {
    using Ring = Stage<Storage, kGates, kTile, kInputs>;
    static constexpr int kRowTiles = kTile / 2 / 16;
    static constexpr int kPairs = kGates; // of column tiles: 16 units * gates / 16

    float z[kRowTiles][2 * kPairs][4];
    // Where in a stage this lane's first rows of fragments lie.
    uint32_t input_at, weights_at;

    __device__ void run(uint32_t ring, const Operands<Storage>& operands, uint32_t live_units) {
#pragma unroll
        for (auto& row : z) {
            for (auto& tile : row) {
                tile[0] = tile[1] = tile[2] = tile[3] = 0.0f;
            }
        }
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        input_at = Ring::chunk_at(warp / 2 * (kTile / 2) + lane % 16, lane / 16);
        weights_at = Ring::kInputBytes + (lane % 16 * Ring::kStride + warp % 2 * (16 * kGates) + lane / 16 * 8) * 2;
        asm volatile("" : "+r"(input_at), "+r"(weights_at)); // kept, not computed again at every use
        const bool live = threadIdx.x / 32 % 2 * 16 < live_units; // else this warp's 16 units are padding
        for_stages<Storage, Ring>(ring, operands, [&](uint32_t stage, uint32_t k) {
            if (live) {
#pragma unroll(Storage::kPlanes == 1 ? 2 : 1)
                for (uint32_t step = 0; step < kStageK / 16; ++step) {
                    if (step * 16 < k) {
                        multiply(stage, step);
                    }
                }
            }
        });
    }

    // 16 k of a stage.
    __device__ void multiply(uint32_t stage, uint32_t step) {
        if constexpr (Storage::kPlanes == 1) {
            uint32_t a[kRowTiles][4];
#pragma unroll
            for (int m = 0; m < kRowTiles; ++m) {
                load_inputs(a[m], stage, step, 0, m);
            }
#pragma unroll
            for (int pair = 0; pair < kPairs; ++pair) {
                uint32_t b[4];
                load_weights(b, stage, step, 0, pair);
#pragma unroll
                for (int m = 0; m < kRowTiles; ++m) {
                    Storage::multiply_add(z[m][2 * pair], a[m], b[0], b[1]);
                    Storage::multiply_add(z[m][2 * pair + 1], a[m], b[2], b[3]);
                }
            }
        } else {
            // Six products, smallest first, in a sum that starts at 0 and is then added with one rounding: a tensor core's
            // own sum truncates, a whole row of them would lose what the planes are there to keep.
#pragma unroll
            for (int m = 0; m < kRowTiles; ++m) {
                uint32_t a[Storage::kPlanes][4];
#pragma unroll
                for (int plane = 0; plane < Storage::kPlanes; ++plane) {
                    load_inputs(a[plane], stage, step, plane, m);
                }
#pragma unroll
                for (int pair = 0; pair < kPairs; ++pair) {
                    uint32_t b[Storage::kPlanes][4];
#pragma unroll
                    for (int plane = 0; plane < Storage::kPlanes; ++plane) {
                        load_weights(b[plane], stage, step, plane, pair);
                    }
                    float sum[2][4] = {};
#pragma unroll
                    for (int order = Storage::kPlanes - 1; order >= 0; --order) {
#pragma unroll
                        for (int plane = 0; plane <= order; ++plane) {
                            Storage::multiply_add(sum[0], a[order - plane], b[plane][0], b[plane][1]);
                            Storage::multiply_add(sum[1], a[order - plane], b[plane][2], b[plane][3]);
                        }
                    }
#pragma unroll
                    for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            z[m][2 * pair + tile][i] = __fadd_rn(z[m][2 * pair + tile][i], sum[tile][i]);
                        }
                    }
                }
            }
        }
    }

    // Fragments of 16 rows by 16 k, and of 16 k by two tiles of columns.
    __device__ void load_inputs(uint32_t (&a)[4], uint32_t stage, uint32_t step, int plane, int m) const {
        // A step is two chunks: it flips a bit of the swizzled chunk.
        const uint32_t at = stage + (input_at ^ step * (2 * kChunk));
        load_matrices(a, at + (plane * Ring::kPlaneBytes + m * 16 * Ring::kRowBytes));
    }
    __device__ void load_weights(uint32_t (&b)[4], uint32_t stage, uint32_t step, int plane, int pair) const {
        const uint32_t at = stage + weights_at + step * (16 * Ring::kStride * 2);
        load_matrices_transposed(b, at + (plane * kStageK * Ring::kStride + pair * 16) * 2);
    }

    // Calls f(row of the tile, first of four units of the block, acc[gate][unit]) for all that this thread holds.
    template <class F>
    __device__ void for_each(F f) const {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const uint32_t unit = warp % 2 * 16 + lane % 4 * 4;
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float acc[kGates][4];
#pragma unroll
                for (int gate = 0; gate < kGates; ++gate) {
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        acc[gate][e] = z[m][e / 2 * kGates + gate][half * 2 + e % 2];
                    }
                }
                f(warp / 2 * (kTile / 2) + m * 16 + half * 8 + lane / 4, unit, acc);
            }
        }
    }
};

// By fused multiply-add, as the CPU does it: a thread has four rows by four units.
template <class Storage, int kGates, int kTile, int kInputs>
struct Product<Storage, kGates, kTile, kInputs, false> {
    using Ring = Stage<Storage, kGates, kTile, kInputs>;
    static constexpr int kRows = kTile / 16;

    float z[kRows][kGates][4];

    __device__ void run(uint32_t ring, const Operands<Storage>& operands, uint32_t) {
#pragma unroll
        for (auto& row : z) {
            for (auto& gate : row) {
                gate[0] = gate[1] = gate[2] = gate[3] = 0.0f;
            }
        }
        const uint32_t unit = threadIdx.x % 8 * 4, row = threadIdx.x / 8;
        for_stages<Storage, Ring>(ring, operands, [&](uint32_t stage, uint32_t k) {
            for (uint32_t chunk = 0; chunk * 4 < k; ++chunk) {
                float4 a[kRows];
#pragma unroll
                for (int i = 0; i < kRows; ++i) {
                    a[i] = load(stage + Ring::chunk_at(row + i * 16, chunk));
                }
#pragma unroll
                for (int j = 0; j < 4; ++j) {
#pragma unroll
                    for (int gate = 0; gate < kGates; ++gate) {
                        const uint32_t at = (chunk * 4 + j) * Ring::kStride + gate * kBlockUnits + unit;
                        const float4 b = load(stage + Ring::kInputBytes + at * 4);
#pragma unroll
                        for (int i = 0; i < kRows; ++i) {
                            const float x = j == 0 ? a[i].x : j == 1 ? a[i].y : j == 2 ? a[i].z : a[i].w;
                            z[i][gate][0] = __fmaf_rn(x, b.x, z[i][gate][0]);
                            z[i][gate][1] = __fmaf_rn(x, b.y, z[i][gate][1]);
                            z[i][gate][2] = __fmaf_rn(x, b.z, z[i][gate][2]);
                            z[i][gate][3] = __fmaf_rn(x, b.w, z[i][gate][3]);
                        }
                    }
                }
            }
        });
    }

    template <class F>
    __device__ void for_each(F f) const {
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            f(threadIdx.x / 8 + i * 16, threadIdx.x % 8 * 4, z[i]);
        }
    }

    __device__ static float4 load(uint32_t address) {
        float4 v;
        asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                     : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                     : "r"(address)
                     : "memory");
        return v;
    }
};
