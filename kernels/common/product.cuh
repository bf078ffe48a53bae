// A tile of z = [inputs] * W: kTile rows by some packed blocks of units with all their gates, in registers at the end.
//
// Stages of 32 k run through a ring in shared memory: while one is multiplied, the next are on their way. Rows are gathered
// by number; a merge's two inputs are one long k, what is beyond the last k is 0. Sums run over k in order, in one
// accumulator: a row has the same bits in every tile and every launch.
#pragma once
#include "copy.cuh"
#include "mma.cuh"
#include "order.cuh"
#include "storage.cuh"

// What a block of threads owns, by its rows. 64 and 128: two packed blocks of units, four warps, 2 by 2. 32, for narrow
// steps, where what counts is how soon a block is done: one, two warps, and more stages on their way.
template <int kTile>
struct Tile {
    static constexpr bool kNarrow = kTile == 32;
    static constexpr int kAcross = kNarrow ? 1 : 2; // packed blocks, and warps beside each other
    static constexpr int kUnits = kAcross * kBlockUnits;
    static constexpr int kThreads = kNarrow ? 64 : 128;
    static constexpr int kWarpRows = kTile / (kThreads / 32 / kAcross);
};

// Where a launch finds its operands.
template <class Storage>
struct Operands {
    const typename Storage::Element* input;   // rows of [planes, segment]
    const typename Storage::Element* weights; // all that are packed
    const uint32_t* rows;                     // in shared memory: [inputs][kTile], row numbers of `input`
    uint32_t segment;
    uint32_t k;     // segment * inputs, a multiple of 16
    uint32_t block; // the first packed block of this tile
    uint32_t blocks;
};

// A stage in shared memory: rows of the inputs, then of every packed block a piece of weights as it lies in global memory.
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
    static constexpr int kPieceBytes = Storage::kPlanes * kStageK * kStride * kElement;
    // FFMA: a warp reads two pieces at once, half of all banks each.
    static constexpr int kPieceStep = kPieceBytes + (Storage::kTensor ? 0 : 4 * kChunk);
    static constexpr int kBytes = kInputBytes + Tile<kTile>::kAcross * kPieceStep;
    static constexpr int kStages = Storage::kStages + (Tile<kTile>::kNarrow ? 2 : 0);

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

// A thread's share of the copies of weights: every so manieth chunk of a piece. Its pointer moves on from stage to stage, so
// that a copy costs little more than itself.
template <class Storage, int kGates, int kTile>
struct WeightCopier {
    using S = Stage<Storage, kGates, kTile>;
    static constexpr int kThreads = Tile<kTile>::kThreads / Tile<kTile>::kAcross; // of a piece
    static constexpr int kStep = kThreads * kChunk;

    const char* piece;
    uint32_t to; // in a stage
    bool live, tail;

    __device__ explicit WeightCopier(const Operands<Storage>& operands) {
        const uint32_t across = threadIdx.x / kThreads, start = threadIdx.x % kThreads * kChunk;
        const size_t block_bytes = size_t(divide_up(operands.k, kStageK)) * S::kPieceBytes;
        live = operands.block + across < operands.blocks;
        tail = live && S::kPieceBytes / kStep * kStep + start < S::kPieceBytes;
        piece = reinterpret_cast<const char*>(operands.weights) + (operands.block + (live ? across : 0)) * block_bytes + start;
        to = keep<Storage>(S::kInputBytes + across * S::kPieceStep + start);
    }

    // Starts the copy of the next stage.
    __device__ void copy(uint32_t stage) {
#pragma unroll
        for (int at = 0; at < S::kPieceBytes; at += kStep) {
            if (at + kStep <= S::kPieceBytes ? live : tail) {
                copy_chunk(stage + to + at, piece + at);
            }
        }
        piece += S::kPieceBytes;
    }
};

// A thread's share of the copies of inputs: one chunk of some rows.
template <class Storage, int kGates, int kTile, int kInputs>
struct InputCopier {
    using S = Stage<Storage, kGates, kTile>;
    static constexpr int kRowStep = Tile<kTile>::kThreads / S::kRowChunks;
    static constexpr int kRows = kTile / kRowStep;
    static constexpr bool kPointers = Storage::kPlanes == 1 || kInputs == 1; // else found anew every stage, see `keep`

    const Operands<Storage>& operands;
    const char* rows[kRows];
    uint32_t k;  // of the next chunk
    uint32_t to; // in a stage

    __device__ explicit InputCopier(const Operands<Storage>& operands)
        : operands(operands), k(keep<Storage>(threadIdx.x % S::kRowChunks * S::kPerChunk)) {
        to = keep<Storage>(S::chunk_at(threadIdx.x / S::kRowChunks, threadIdx.x % S::kRowChunks));
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
    __device__ void copy(uint32_t stage) {
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
                const uint32_t at = stage + to + plane * S::kPlaneBytes + i * kRowStep * S::kRowBytes;
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
    }
};

// The ring: `multiply(stage in shared memory, half of its k)` for every stage in turn. `number_rows` writes the row numbers,
// for all threads, once the first weights are on their way.
template <class Storage, int kGates, int kTile, int kInputs, class NumberRows, class Multiply>
__device__ inline void for_stages(uint32_t ring, const Operands<Storage>& operands, NumberRows number_rows, Multiply multiply) {
    using S = Stage<Storage, kGates, kTile>;
    constexpr int kStages = S::kStages, kBytes = S::kBytes;
    const uint32_t stages = divide_up(operands.k, kStageK);
    WeightCopier<Storage, kGates, kTile> weights(operands);
#pragma unroll
    for (uint32_t stage = 0; stage < kStages - 1; ++stage) {
        if (stage < stages) {
            weights.copy(ring + stage * kBytes);
        }
    }
    number_rows();
    await_last_launch();
    InputCopier<Storage, kGates, kTile, kInputs> inputs(operands);
#pragma unroll
    for (uint32_t stage = 0; stage < kStages - 1; ++stage) {
        if (stage < stages) {
            inputs.copy(ring + stage * kBytes);
        }
        end_group(); // the first has all those weights too
    }
    // Unrolled around the ring, so that places in it are constants.
#pragma unroll 1
    for (uint32_t left = stages; left > 0;) {
#pragma unroll
        for (uint32_t slot = 0; slot < kStages; ++slot) {
            if (left > 0) {
                wait_groups<kStages - 2>();
                __syncthreads(); // the stage is there for all, and nobody reads the one that is overwritten next
                const auto copy_next = [&] {
                    if (left > kStages - 1) {
                        const uint32_t next = ring + (slot + kStages - 1) % kStages * kBytes;
                        inputs.copy(next);
                        weights.copy(next);
                    }
                    end_group();
                };
                if constexpr (Storage::kPlanes == 1 && !Tile<kTile>::kNarrow) { // copies are many: first some work for the tensor cores
                    multiply(ring + slot * kBytes, 0);
                    copy_next();
                    multiply(ring + slot * kBytes, 1);
                } else {
                    copy_next();
#pragma unroll(Storage::kPlanes == 1 ? 2 : 1)
                    for (uint32_t half = 0; half < 2; ++half) {
                        multiply(ring + slot * kBytes, half);
                    }
                }
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

// Sums of rows by a packed block of units with all their gates, in registers. On tensor cores they are a warp's, 16 rows at a
// time; else a thread's, some rows by four units.
template <class Storage, int kGates, int kRows, bool kTensor = Storage::kTensor>
struct Sums;

template <class Storage, int kGates, int kRows>
struct Sums<Storage, kGates, kRows, true> {
    static constexpr int kRowTiles = kRows / 16;
    static constexpr int kPairs = kGates; // of column tiles: 16 units * gates / 16
    static constexpr int kStride = Storage::stride(kGates);

    float z[kRowTiles][2 * kPairs][4];

    __device__ void clear() {
#pragma unroll
        for (auto& row : z) {
            for (auto& tile : row) {
                tile[0] = tile[1] = tile[2] = tile[3] = 0.0f;
            }
        }
    }

    // 16 k. `inputs` and `weights`: where this lane's first rows of fragments lie; the next plane of the inputs and the next
    // 16 rows lie so many bytes further.
    __device__ void multiply(uint32_t inputs, uint32_t next_plane, uint32_t next_rows, uint32_t weights) {
        if constexpr (Storage::kPlanes == 1) {
            uint32_t a[kRowTiles][4];
#pragma unroll
            for (int m = 0; m < kRowTiles; ++m) {
                load_matrices(a[m], inputs + m * next_rows);
            }
#pragma unroll
            for (int pair = 0; pair < kPairs; ++pair) {
                uint32_t b[4];
                load_weights(b, weights, 0, pair);
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
                    load_matrices(a[plane], inputs + (plane * next_plane + m * next_rows));
                }
#pragma unroll
                for (int pair = 0; pair < kPairs; ++pair) {
                    uint32_t b[Storage::kPlanes][4];
#pragma unroll
                    for (int plane = 0; plane < Storage::kPlanes; ++plane) {
                        load_weights(b[plane], weights, plane, pair);
                    }
                    multiply_add_planes<Storage>(z[m][2 * pair], z[m][2 * pair + 1], a, b);
                }
            }
        }
    }

    __device__ static void load_weights(uint32_t (&b)[4], uint32_t weights, int plane, int pair) {
        load_matrices_transposed(b, weights + (plane * kStageK * kStride + pair * 16) * 2);
    }

    // Quads of units that a thread holds: of rows 8 apart.
    __device__ void read(float (&acc)[kGates][4], int quad) const {
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                acc[gate][e] = z[quad / 2][e / 2 * kGates + gate][quad % 2 * 2 + e % 2];
            }
        }
    }
};

template <class Storage, int kGates, int kRows>
struct Sums<Storage, kGates, kRows, false> {
    static constexpr int kStride = Storage::stride(kGates);

    float z[kRows][kGates][4];

    __device__ void clear() {
#pragma unroll
        for (auto& row : z) {
            for (auto& gate : row) {
                gate[0] = gate[1] = gate[2] = gate[3] = 0.0f;
            }
        }
    }

    // Four k. `inputs`: this thread's first row, whose next lies so many bytes further; `weights`: its units.
    __device__ void multiply(uint32_t inputs, uint32_t next_row, uint32_t weights) {
        float a[kRows][4];
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            load_shared(a[i], inputs + i * next_row);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
            for (int gate = 0; gate < kGates; ++gate) {
                float b[4];
                load_shared(b, weights + (j * kStride + gate * kBlockUnits) * 4);
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

    __device__ void read(float (&acc)[kGates][4], int quad) const {
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                acc[gate][e] = z[quad][gate][e];
            }
        }
    }
};

template <class Storage, int kGates, int kTile, int kInputs, bool kTensor = Storage::kTensor>
struct Product;

// On tensor cores: a warp has kWarpRows rows by 16 units.
template <class Storage, int kGates, int kTile, int kInputs>
struct Product<Storage, kGates, kTile, kInputs, true> {
    using Ring = Stage<Storage, kGates, kTile>;
    static constexpr int kAcross = Tile<kTile>::kAcross, kWarpRows = Tile<kTile>::kWarpRows;

    Sums<Storage, kGates, kWarpRows> sums;

    template <class NumberRows>
    __device__ void run(uint32_t ring, const Operands<Storage>& operands, NumberRows number_rows) {
        sums.clear();
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        // Where in a stage this lane's first rows of fragments lie.
        const uint32_t input_at = keep<Storage>(Ring::chunk_at(warp / kAcross * kWarpRows + lane % 16, lane / 16));
        const uint32_t piece = Ring::kInputBytes + warp % kAcross * Ring::kPieceStep;
        const uint32_t weights_at = keep<Storage>(piece + (lane % 16 * Ring::kStride + lane / 16 * 8) * 2);
        const bool live = keep<Storage>(operands.block + warp % kAcross < operands.blocks); // else there are no such units
        for_stages<Storage, kGates, kTile, kInputs>(ring, operands, number_rows, [&](uint32_t stage, uint32_t step) {
            if (live) {
                // A step is two chunks: it flips a bit of the swizzled chunk.
                sums.multiply(stage + (input_at ^ step * (2 * kChunk)), Ring::kPlaneBytes, 16 * Ring::kRowBytes,
                              stage + weights_at + step * (16 * Ring::kStride * 2));
            }
        });
    }

    // Quads of units that this thread holds: rows of the tile by four units of the block.
    static constexpr int kQuads = kWarpRows / 8;
    __device__ static uint32_t row(int quad) {
        return threadIdx.x / 32 / kAcross * kWarpRows + quad * 8 + threadIdx.x % 32 / 4;
    }
    __device__ static uint32_t unit() { return threadIdx.x / 32 % kAcross * 16 + threadIdx.x % 4 * 4; }
    __device__ void read(float (&acc)[kGates][4], int quad) const { sums.read(acc, quad); }
};

// By fused multiply-add, as the CPU does it: a thread has every 16th row by four units.
template <class Storage, int kGates, int kTile, int kInputs>
struct Product<Storage, kGates, kTile, kInputs, false> {
    using Ring = Stage<Storage, kGates, kTile>;
    static constexpr int kUnits = Tile<kTile>::kUnits;
    static constexpr int kRows = kTile / 16;

    Sums<Storage, kGates, kRows> sums;

    template <class NumberRows>
    __device__ void run(uint32_t ring, const Operands<Storage>& operands, NumberRows number_rows) {
        sums.clear();
        const uint32_t unit = Product::unit(), row = Product::row(0);
        const uint32_t piece = Ring::kInputBytes + unit / kBlockUnits * Ring::kPieceStep + unit % kBlockUnits * 4;
        const bool live = operands.block + unit / kBlockUnits < operands.blocks; // else there are no such units
        for_stages<Storage, kGates, kTile, kInputs>(ring, operands, number_rows, [&](uint32_t stage, uint32_t half) {
            constexpr uint32_t kChunks = kStageK / 2 / 4;
            for (uint32_t chunk = half * kChunks; live && chunk < (half + 1) * kChunks; ++chunk) {
                sums.multiply(stage + Ring::chunk_at(row, chunk), 16 * Ring::kRowBytes,
                              stage + piece + chunk * (4 * Ring::kStride * 4));
            }
        });
    }

    static constexpr int kQuads = kRows;
    __device__ static uint32_t row(int quad) { return threadIdx.x / (kUnits / 4) + quad * 16; }
    __device__ static uint32_t unit() { return threadIdx.x % (kUnits / 4) * 4; }
    __device__ void read(float (&acc)[kGates][4], int quad) const { sums.read(acc, quad); }
};
