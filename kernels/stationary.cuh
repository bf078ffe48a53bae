// A layer forward of many rows, in one launch: the weights stay, the rows go past.
//
// A block keeps the weights of two packed blocks of units in shared memory. Its pairs of warps take tiles of 64 rows, each pair
// for itself: while one is at its gates another multiplies. The grid is [two packed blocks][blocks that share the rows]. Memory
// a tile: its inputs (64 * K elements) and c, from L2; a block's weights once, during its first tile. An input is in whole
// stages, two at least.
#pragma once
#include "cell.cuh"

constexpr int kPairThreads = 64, kPairTile = 64; // of a pair of warps, beside each other: a packed block each
constexpr int kPairs = 4, kStationaryThreads = kPairs * kPairThreads;
constexpr int kPairStageK = 64, kPairStages = 2; // of inputs
constexpr int kPairRowBytes = kPairStageK * 2, kPairStageBytes = kPairTile * kPairRowBytes;

// All threads of a pair of warps.
__device__ inline void pair_barrier() {
    asm volatile("bar.sync %0, %1;" ::"r"(1 + threadIdx.x / kPairThreads), "n"(kPairThreads) : "memory");
}

// Byte of a chunk of a row of a stage: eight consecutive rows, read by ldmatrix at one k, meet no bank twice.
__device__ inline uint32_t pair_chunk_at(uint32_t row, uint32_t chunk) { return row * kPairRowBytes + (chunk ^ row % 8) * kChunk; }

// A thread's share of the copies of a pair's inputs: two chunks of every eighth of its warp's rows.
template <class Storage>
struct PairCopier {
    static constexpr int kRows = 4;

    const char* rows[kRows];
    uint32_t to; // in a stage

    __device__ PairCopier() : to(keep<Storage>(pair_chunk_at(threadIdx.x / 32 % 2 * 32 + first_row(), threadIdx.x % 4))) {}

    // Of the warp's: rows of eight lanes beside each other are four apart, whose halves meet no bank twice.
    __device__ static uint32_t first_row() { return threadIdx.x / 8 % 4 + threadIdx.x / 4 % 2 * 4; }

    // Rows of `input`, which are [k]; `number(row)` is that of a row of this warp's half of the tile.
    template <class Number>
    __device__ void point(const void* input, uint32_t k, uint32_t stage, Number number) {
        const uint32_t at = stage * kPairRowBytes + threadIdx.x % 4 * kChunk;
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            const size_t row = number(first_row() + 8 * i);
            rows[i] = static_cast<const char*>(input) + row * k * sizeof(typename Storage::Element) + at;
        }
    }
    // Starts the copy of the next stage, if there is one.
    __device__ void copy(bool there, uint32_t stage) {
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            constexpr int kHalf = kPairRowBytes / 2;
            copy_chunk_if(there, stage + to + i * (8 * kPairRowBytes), rows[i]);
            copy_chunk_if(there, stage + (to ^ kHalf) + i * (8 * kPairRowBytes), rows[i] + kHalf);
            rows[i] += kPairRowBytes;
        }
    }
};

// Weights in shared memory, [two packed blocks][k][kStride]: without padding where swizzled halves of 32 bytes do.
template <class Storage, int kGates>
struct StationaryWeights {
    static constexpr int kChunks = 2 * kGates; // of a row
    static constexpr bool kSwizzled = kChunks % 4 == 2;
    static constexpr int kStride = kBlockUnits * kGates + (kSwizzled ? 0 : 8);
    static constexpr int kStageBytes = kPairStageK * kStride * 2;

    __device__ static uint32_t at(uint32_t row, uint32_t chunk) {
        return row * (kStride * 2) + (kSwizzled ? chunk ^ row / 4 % 2 : chunk) * kChunk;
    }
};

// A thread's share of their copies: chunks of a block's stage.
template <class Storage, int kGates>
struct StationaryCopier {
    using Weights = StationaryWeights<Storage, kGates>;
    static constexpr int kThreads = kStationaryThreads / 2, kParts = kPairStageK * Weights::kChunks / kThreads;

    const char* from; // of the next stage
    uint32_t to;

    __device__ StationaryCopier(uint32_t weights, const void* packed, uint32_t k) {
        const uint32_t half = threadIdx.x / kThreads;
        from = static_cast<const char*>(packed) + size_t(blockIdx.x * 2 + half) * k * (Storage::stride(kGates) * 2);
        to = weights + half * k * (Weights::kStride * 2);
    }

    // Starts the copy of the next stage, if there is one.
    __device__ void copy(bool there) {
        uint32_t thread = threadIdx.x % kThreads;
        asm volatile("" : "+r"(thread)); // or the places of all parts are kept in registers
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
            const uint32_t index = part * kThreads + thread, row = index / Weights::kChunks, chunk = index % Weights::kChunks;
            copy_chunk_if(there, to + Weights::at(row, chunk), from + (row * (Weights::kChunks + 1) + chunk) * kChunk);
        }
        from += kPairStageK * (Weights::kChunks + 1) * kChunk;
        to += Weights::kStageBytes;
    }
};

// The numbers of a tile's row, a thread's own: of what it reads, and of what is written. Slots are on their way until they are
// asked for.
template <int kStates>
struct PairRow {
    uint32_t slots[3], lane;

    // Rows beyond the last one repeat it.
    __device__ void fetch(const CellArguments& arguments, uint32_t start) {
        const uint32_t local = min(start + threadIdx.x % kPairThreads, arguments.rows - 1), row = arguments.first + local;
        const uint32_t entry = row / arguments.width;
        lane = row - entry * arguments.width;
        slots[0] = kStates == 2 ? arguments.left[entry] : local;
        slots[1] = kStates == 2 ? arguments.right[entry] : 0;
        slots[2] = arguments.out[entry];
    }
    __device__ uint32_t number(const CellArguments& arguments, int n) const {
        return kStates == 1 && n == 0 ? slots[0] : slots[n] * arguments.width + lane;
    }
    // `numbers`: [3][kPairTile] in shared memory.
    __device__ void store(const CellArguments& arguments, uint32_t* numbers) const {
#pragma unroll
        for (int n = 0; n < 3; ++n) {
            if (n != 1 || kStates == 2) {
                numbers[n * kPairTile + threadIdx.x % kPairThreads] = number(arguments, n);
            }
        }
    }
};

template <class Storage, Cell kCell, int kStates, bool kKeep>
struct Stationary {
    static constexpr int kGates = gates_of(kCell, kStates), kInputs = kStates == 2 ? 2 : 1, kNumbers = 3 * kPairTile;
    using Weights = StationaryWeights<Storage, kGates>;

    const CellArguments& arguments;
    uint32_t* numbers;     // of the tile's rows
    uint32_t weights;      // in shared memory
    uint32_t here, other;  // the pair's ring: the stage that is multiplied, and the next
    uint32_t start;        // of the tile
    PairRow<kStates> next; // of the next tile

    __device__ uint32_t step() const { return gridDim.y * (kPairs * kPairTile); }

    // z of a tile; at the end, where there is a next one, its first stages are there or on their way. During the first tile, in
    // which all pairs go together, the weights come.
    template <bool kFirst>
    __device__ void multiply(Sums<Storage, kGates, kPairTile>& sums) {
        const uint32_t segment = arguments.segment, stages_of_input = segment / kPairStageK, stages = kInputs * stages_of_input;
        const bool last = start + step() >= arguments.rows;
        StationaryCopier<Storage, kGates> weight_copier(weights, arguments.weights, stages * kPairStageK);
        PairCopier<Storage> inputs;
        const auto point = [&](uint32_t input, uint32_t stage) {
            const uint32_t* of = numbers + input * kPairTile + threadIdx.x / 32 % 2 * 32;
            inputs.point(arguments.input, segment, stage, [&](uint32_t row) { return of[row]; });
        };
        const auto await_all = [] {
            if (kFirst) {
                __syncthreads();
            } else {
                pair_barrier();
            }
        };
        if (kFirst) {
            weight_copier.copy(true);
            weight_copier.copy(true);
            await_last_launch();
            point(0, 0);
            inputs.copy(true, here);
            end_group(); // those weights too
            inputs.copy(true, other);
            end_group();
            wait_groups<1>();
            await_all();
        } else {
            point(0, kPairStages);
        }
        if (!last) {
            next.fetch(arguments, start + step());
        }
        const uint32_t lane = threadIdx.x % 32;
        ReadAhead<Storage, kGates, kPairTile, kPairStageK / 16, kPairRowBytes, Weights::kStride> ahead(
            pair_chunk_at(lane % 16, lane / 16), Weights::at(lane % 16, lane / 16));
        uint32_t piece = weights + threadIdx.x / 32 % 2 * (stages * Weights::kStageBytes);
        ahead.begin(here, piece);
        sums.clear();
#pragma unroll 1
        for (uint32_t left = stages; left > 0; --left) {
            const uint32_t next_piece = left > 1 ? piece + Weights::kStageBytes : piece;
            // What is copied next is kPairStages further.
            if (left == kPairStages && !last) {
                const uint32_t number = next.number(arguments, 0);
                inputs.point(arguments.input, segment, 0, [&](uint32_t row) { return __shfl_sync(0xffffffffu, number, row); });
            }
            if (kInputs == 2 && left == stages_of_input + kPairStages) {
                point(1, 0);
            }
            ahead.multiply(
                sums, here, piece, other, next_piece, [] {},
                [&] {
                    wait_groups<0>();
                    await_all();
                    inputs.copy(left > kPairStages || !last, here); // nobody reads it any more
                    if (kFirst) {
                        weight_copier.copy(left > kPairStages);
                    }
                    end_group();
                });
            const uint32_t done = here;
            here = other;
            other = done;
            piece = next_piece;
        }
    }
};

template <class Storage, Cell kCell, int kStates, bool kKeep>
__device__ inline void cell_stationary(const CellArguments& arguments) {
    using S = Stationary<Storage, kCell, kStates, kKeep>;
    extern __shared__ __align__(128) char shared[];
    const uint32_t pair = threadIdx.x / kPairThreads;
    uint32_t* numbers = reinterpret_cast<uint32_t*>(shared) + pair * S::kNumbers;
    const uint32_t rings = shared_address(shared) + kPairs * S::kNumbers * sizeof(uint32_t);
    const uint32_t ring = rings + pair * (kPairStages * kPairStageBytes);
    const uint32_t weights = rings + kPairs * kPairStages * kPairStageBytes;
    S product = {arguments, numbers, weights, ring, ring + kPairStageBytes, (blockIdx.y * kPairs + pair) * kPairTile};
    product.next.fetch(arguments, product.start);
    bool first = true;
    do {
        product.next.store(arguments, numbers);
        pair_barrier();
        Sums<Storage, S::kGates, kPairTile> sums;
        if (first) { // without rows, too: its threads copy weights
            product.template multiply<true>(sums);
        } else {
            product.template multiply<false>(sums);
        }
        first = false;
        uint32_t thread = threadIdx.x;
        asm volatile("" : "+r"(thread)); // or what follows from it takes registers of the product
        finish_layer<Storage, kCell, kStates, kKeep, kPairTile / 8, 8, kKeep ? 1 : 2, kKeep ? 3 : 5>(
            arguments, sums, [&](int n, uint32_t row) { return numbers[n * kPairTile + row]; }, product.start, thread % 32 / 4,
            (blockIdx.x * 2 + thread / 32 % 2) * kBlockUnits + thread % 4 * 4);
        pair_barrier(); // nobody reads these row numbers any more
        product.start += product.step();
    } while (product.start < arguments.rows);
}
