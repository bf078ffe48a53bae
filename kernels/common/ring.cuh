// The operands of a product on their way: stages of 32 k run through a ring in shared memory, while one is multiplied the next
// are copied. Rows are gathered by number; a merge's two inputs are one long k, what is beyond the last k is 0.
#pragma once
#include "copy.cuh"
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

    static constexpr int kParts = (S::kPieceBytes + kStep - 1) / kStep;

    const char* piece;
    uint32_t to; // in a stage
    bool tail;   // whether it has a share of the last part

    // What is beyond the last block is that block once more: multiplied and not written.
    __device__ explicit WeightCopier(const Operands<Storage>& operands) {
        const uint32_t across = threadIdx.x / kThreads, start = threadIdx.x % kThreads * kChunk;
        const size_t block_bytes = size_t(divide_up(operands.k, kStageK)) * S::kPieceBytes;
        const uint32_t block = min(operands.block + across, operands.blocks - 1);
        tail = (kParts - 1) * kStep + start < S::kPieceBytes;
        piece = reinterpret_cast<const char*>(operands.weights) + block * block_bytes + start;
        to = keep<Storage>(S::kInputBytes + across * S::kPieceStep + start);
    }

    // Starts the copy of the next stage, if there is one.
    __device__ void copy(bool there, uint32_t stage) {
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
            copy_chunk_if(part < kParts - 1 ? there : there && tail, stage + to + part * kStep, piece + part * kStep);
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

    // Starts the copy of the next stage, if there is one.
    __device__ void copy(bool there, uint32_t stage) {
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
                    copy_chunk_if(there, at, from);
                } else {
                    copy_chunk_or_zero(there, at, from, k < operands.k ? kChunk : 0);
                }
            }
            rows[i] += kStageK * S::kElement;
        }
        k += kStageK;
    }
};

// The ring. `number_rows` writes the row numbers, for all threads, once the first weights are on their way. Then come
// `begin(first stage)` and, for every stage in turn, `multiply(stage, next, copy, turn)`. That calls `copy()`, which starts
// the copy of a later stage, then `turn()`; only then may it read `next`, the next stage or, at the last, this one again.
template <class Storage, int kGates, int kTile, int kInputs, class NumberRows, class Begin, class Multiply>
__device__ inline void for_stages(uint32_t ring, const Operands<Storage>& operands, NumberRows number_rows, Begin begin,
                                  Multiply multiply) {
    using S = Stage<Storage, kGates, kTile>;
    constexpr int kStages = S::kStages, kBytes = S::kBytes;
    const uint32_t stages = divide_up(operands.k, kStageK);
    WeightCopier<Storage, kGates, kTile> weights(operands);
#pragma unroll
    for (uint32_t stage = 0; stage < kStages - 1; ++stage) {
        if (stage < stages) {
            weights.copy(true, ring + stage * kBytes);
        }
    }
    number_rows();
    await_last_launch();
    InputCopier<Storage, kGates, kTile, kInputs> inputs(operands);
#pragma unroll
    for (uint32_t stage = 0; stage < kStages - 1; ++stage) {
        if (stage < stages) {
            inputs.copy(true, ring + stage * kBytes);
        }
        end_group(); // the first has all those weights too
    }
    const auto await_stage = [] {
        wait_groups<kStages - 2>();
        __syncthreads(); // it is there for all, and nobody reads the one before
    };
    await_stage();
    begin(ring);
    uint32_t here = ring, before = ring + (kStages - 1) * kBytes;
#pragma unroll 1
    for (uint32_t left = stages; left > 0; --left) {
        const bool more = left > kStages - 1; // stages to copy
        const uint32_t next = here + kBytes == ring + kStages * kBytes ? ring : here + kBytes;
        multiply(
            here, left > 1 ? next : here,
            [&] {
                inputs.copy(more, before);
                weights.copy(more, before);
            },
            [&] {
                end_group();
                await_stage();
            });
        before = here;
        here = next;
    }
}
