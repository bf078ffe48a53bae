// A tile of z = [inputs] * W: kTile rows by 32 units with all their gates, in registers at the end.
//
// Four warps, 2 by 2: half the rows by 16 units each. Stages of 32 k run through a ring in shared memory: while one is
// multiplied, the next are on their way. Rows are gathered by number; a merge's two inputs are one long k, what is beyond
// the last k is 0. Sums run over k in order, in one accumulator: a row has the same bits in every tile and every launch.
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

// A stage in shared memory: rows of the inputs, then the piece of weights as it lies in global memory.
template <class Storage, int kGates, int kTile>
struct Stage {
    static constexpr int kElement = sizeof(typename Storage::Element);
    static constexpr int kPerChunk = kChunk / kElement;
    static constexpr int kRowChunks = kStageK / kPerChunk;
    // Tensor cores: rows unpadded, their chunks swizzled. FFMA: a chunk of padding.
    static constexpr int kRowBytes = kStageK * kElement + (Storage::kTensor ? 0 : kChunk);
    static constexpr int kPlaneBytes = kTile * kRowBytes;
    static constexpr int kInputBytes = Storage::kPlanes * kPlaneBytes;
    static constexpr int kStride = Storage::stride(kGates);
    static constexpr int kPieceElements = Storage::kPlanes * kStageK * kStride;
    static constexpr int kPieceBytes = kPieceElements * kElement;
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
};

// A value of this lane that stays in a register; the compiler would rather compute it anew at every use, which is right
// only where registers are scarce.
template <class Storage>
__device__ inline uint32_t keep(uint32_t value) {
    return Storage::kPlanes == 1 ? __shfl_sync(0xffffffffu, value, threadIdx.x % 32) : value;
}

// A thread's share of the copies: one chunk of some rows, and some chunks of its warp's quarter of the piece. Pointers move
// on from stage to stage, so that a copy costs little more than itself.
template <class Storage, int kGates, int kTile, int kInputs>
struct Copier {
    using S = Stage<Storage, kGates, kTile>;
    static constexpr int kRowStep = kThreads / S::kRowChunks;
    static constexpr int kRows = kTile / kRowStep;
    static constexpr int kShare = S::kPieceBytes / (kThreads / 32);
    static constexpr int kMiddle = kShare / (32 * kChunk) / 2 * (32 * kChunk); // small offsets of both signs cost nothing
    static constexpr bool kPointers = Storage::kPlanes == 1 || kInputs == 1; // else found anew every stage, see `keep`

    const Operands<Storage>& operands;
    const char* rows[kRows];
    const char* piece;
    uint32_t k;                 // of the next chunk
    uint32_t rows_to, piece_to; // in a stage
    uint32_t tail;              // bytes of the share from this lane's first chunk on

    __device__ explicit Copier(const Operands<Storage>& operands)
        : operands(operands), k(keep<Storage>(threadIdx.x % S::kRowChunks * S::kPerChunk)) {
        const uint32_t share = threadIdx.x / 32 * kShare + threadIdx.x % 32 * kChunk;
        piece = reinterpret_cast<const char*>(operands.weights) + share + kMiddle;
        tail = keep<Storage>(kShare - threadIdx.x % 32 * kChunk);
        rows_to = keep<Storage>(S::chunk_at(threadIdx.x / S::kRowChunks, threadIdx.x % S::kRowChunks));
        piece_to = keep<Storage>(S::kInputBytes + share);
        if (kPointers) {
            point(operands.rows, k);
        }
    }

    __device__ void point(const uint32_t* numbers, uint32_t k_of_row) {
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            const size_t row = numbers[threadIdx.x / S::kRowChunks + i * kRowStep];
            rows[i] = reinterpret_cast<const char*>(operands.input + row * (Storage::kPlanes * operands.segment) + k_of_row);
        }
    }

    // Starts the copy of the next stage.
    __device__ void copy(uint32_t to) {
        if (!kPointers) {
            const bool second = kInputs == 2 && k >= operands.segment;
            point(operands.rows + (second ? kTile : 0), second ? k - operands.segment : k);
        } else if (kInputs == 2 && k - operands.segment < kStageK) { // once
            point(operands.rows + kTile, k - operands.segment);
        }
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
#pragma unroll
            for (int plane = 0; plane < Storage::kPlanes; ++plane) {
                // kRowStep rows on the swizzle is the same.
                const uint32_t at = to + rows_to + plane * S::kPlaneBytes + i * kRowStep * S::kRowBytes;
                const char* from = rows[i] + plane * operands.segment * S::kElement;
                if (kInputs == 2) { // whole stages
                    copy_chunk(at, from);
                } else {
                    copy_chunk_or_zero(at, from, k < operands.k ? kChunk : 0);
                }
            }
            rows[i] += kStageK * S::kElement;
        }
        k += kStageK;
#pragma unroll
        for (int at = 0; at < kShare; at += 32 * kChunk) {
            if (at + 32 * kChunk <= kShare || at < int(tail)) {
                copy_chunk(to + piece_to + at, piece + (at - kMiddle));
            }
        }
        piece += S::kPieceBytes;
    }
};

// The ring: `multiply(stage in shared memory)` for every stage in turn.
template <class Storage, int kGates, int kTile, int kInputs, class Multiply>
__device__ inline void for_stages(uint32_t ring, const Operands<Storage>& operands, Multiply multiply) {
    constexpr int kStages = Storage::kStages, kBytes = Stage<Storage, kGates, kTile>::kBytes;
    const uint32_t stages = divide_up(operands.k, kStageK);
    Copier<Storage, kGates, kTile, kInputs> copier(operands);
#pragma unroll
    for (uint32_t stage = 0; stage < kStages - 1; ++stage) {
        if (stage < stages) {
            copier.copy(ring + stage * kBytes);
        }
        end_group();
    }
    // Unrolled around the ring, so that places in it are constants.
#pragma unroll 1
    for (uint32_t left = stages; left > 0;) {
#pragma unroll
        for (uint32_t slot = 0; slot < kStages; ++slot) {
            if (left > 0) {
                wait_groups<kStages - 2>();
                __syncthreads(); // the stage is there for all, and nobody reads the one that is overwritten next
                if (left > kStages - 1) {
                    copier.copy(ring + (slot + kStages - 1) % kStages * kBytes);
                }
                end_group();
                multiply(ring + slot * kBytes);
                --left;
            }
        }
    }
}

// z += a * b for two tiles of columns. Of three planes: six products, smallest first, in a sum that starts at 0 and is then
// added with one rounding: a tensor core's own sum truncates, a whole row of them would lose what the planes are there to
// keep.
template <class Storage>
__device__ inline void multiply_add_planes(float (&z0)[4], float (&z1)[4], const uint32_t (&a)[Storage::kPlanes][4],
                                           const uint32_t (&b)[Storage::kPlanes][4]) {
    if constexpr (Storage::kPlanes == 1) {
        Storage::multiply_add(z0, a[0], b[0][0], b[0][1]);
        Storage::multiply_add(z1, a[0], b[0][2], b[0][3]);
    } else {
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
        for (int i = 0; i < 4; ++i) {
            z0[i] = __fadd_rn(z0[i], sum[0][i]);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            z1[i] = __fadd_rn(z1[i], sum[1][i]);
        }
    }
}

template <class Storage, int kGates, int kTile, int kInputs, bool kTensor = Storage::kTensor>
struct Product;

// On tensor cores: a warp has kTile/2 rows by 16 units.
template <class Storage, int kGates, int kTile, int kInputs>
struct Product<Storage, kGates, kTile, kInputs, true> {
    using Ring = Stage<Storage, kGates, kTile>;
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
        const uint32_t column = warp % 2 * (16 * kGates) + lane / 16 * 8;
        input_at = keep<Storage>(Ring::chunk_at(warp / 2 * (kTile / 2) + lane % 16, lane / 16));
        weights_at = keep<Storage>(Ring::kInputBytes + (lane % 16 * Ring::kStride + column) * 2);
        const bool live = keep<Storage>(warp % 2 * 16 < live_units); // else this warp's 16 units are padding
        for_stages<Storage, kGates, kTile, kInputs>(ring, operands, [&](uint32_t stage) {
            if (live) {
#pragma unroll(Storage::kPlanes == 1 ? 2 : 1)
                for (uint32_t step = 0; step < kStageK / 16; ++step) {
                    multiply(stage, step);
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
                    multiply_add_planes<Storage>(z[m][2 * pair], z[m][2 * pair + 1], a, b);
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
    using Ring = Stage<Storage, kGates, kTile>;
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
        for_stages<Storage, kGates, kTile, kInputs>(ring, operands, [&](uint32_t stage) {
            for (uint32_t chunk = 0; chunk < kStageK / 4; ++chunk) {
                float a[kRows][4];
#pragma unroll
                for (int i = 0; i < kRows; ++i) {
                    load_shared(a[i], stage + Ring::chunk_at(row + i * 16, chunk));
                }
#pragma unroll
                for (int j = 0; j < 4; ++j) {
#pragma unroll
                    for (int gate = 0; gate < kGates; ++gate) {
                        const uint32_t at = (chunk * 4 + j) * Ring::kStride + gate * kBlockUnits + unit;
                        float b[4];
                        load_shared(b, stage + Ring::kInputBytes + at * 4);
#pragma unroll
                        for (int i = 0; i < kRows; ++i) {
#pragma unroll
                            for (int e = 0; e < 4; ++e) {
                                z[i][gate][e] = __fmaf_rn(a[i][j], b[e], z[i][gate][e]);
                            }
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
};
