// A tile of z = [inputs] * W: kTile rows by some packed blocks of units with all their gates, in registers at the end. Sums run
// over k in order, in one accumulator: a row has the same bits in every tile and every launch.
#pragma once
#include "ring.cuh"
#include "sums.cuh"

// Products of a warp, a stage after the other, kRows by a packed block, whose fragments are read while others are multiplied: the
// first ones of the next stage, too. A stage is kSteps times 16 k: rows of kRowBytes, in which a step flips bits of the swizzled
// chunk, and rows of weights, kStride apart.
template <class Storage, int kGates, int kRows, int kSteps, int kRowBytes, int kStride>
struct ReadAhead {
    static constexpr int kRowTiles = kRows / 16, kPairs = kGates, kAll = kSteps * kPairs; // pairs of column tiles, of a stage
    // Where registers are scarce a pair is read during the pair before, else during the step before.
    static constexpr bool kScarce = kRowTiles == 4;
    static constexpr int kAhead = kScarce ? 1 : kPairs;

    uint32_t a[kScarce ? 1 : 2][kRowTiles][4], b[2 * kAhead][4];
    uint32_t inputs_at, weights_at; // of this lane's first rows of fragments, in a stage

    __device__ ReadAhead(uint32_t inputs_at, uint32_t weights_at)
        : inputs_at(keep<Storage>(inputs_at)), weights_at(keep<Storage>(weights_at)) {}

    // `rows`, `piece`: where in shared memory a stage of this warp's rows and of its weights begin.
    __device__ void begin(uint32_t rows, uint32_t piece) {
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
            read_inputs(rows, 0, m);
        }
#pragma unroll
        for (int at = 0; at < kAhead; ++at) {
            read_weights(piece, at);
        }
    }

    // Calls `copy` once there is work for the tensor cores, and `turn` before it reads the next stage.
    template <class Copy, class Turn>
    __device__ void multiply(Sums<Storage, kGates, kRows>& sums, uint32_t rows, uint32_t piece, uint32_t next_rows, uint32_t next_piece,
                             Copy copy, Turn turn) {
#pragma unroll
        for (int at = 0; at < kAll; ++at) {
            const int step = at / kPairs, pair = at % kPairs, next_step = (step + 1) % kSteps;
            const uint32_t rows_of_next = next_step > 0 ? rows : next_rows;
            if (at == kAll - kAhead) {
                turn();
            }
            read_weights(at + kAhead < kAll ? piece : next_piece, (at + kAhead) % kAll);
#pragma unroll
            for (int m = 0; m < kRowTiles && !kScarce && pair == 0; ++m) {
                read_inputs(rows_of_next, next_step, m);
            }
#pragma unroll
            for (int m = 0; m < kRowTiles; ++m) {
                const auto &rows_now = a[kScarce ? 0 : step % 2][m], &weights_now = b[at % (2 * kAhead)];
                Storage::multiply_add(sums.z[m][2 * pair], rows_now, weights_now[0], weights_now[1]);
                Storage::multiply_add(sums.z[m][2 * pair + 1], rows_now, weights_now[2], weights_now[3]);
                if (kScarce && pair == kPairs - 1) { // the last that needs them
                    read_inputs(rows_of_next, next_step, m);
                }
            }
            if (at == 0) {
                copy();
            }
        }
    }

private:
    __device__ void read_inputs(uint32_t rows, int step, int m) {
        load_matrices(a[kScarce ? 0 : step % 2][m], rows + (inputs_at ^ step * (2 * kChunk)) + m * (16 * kRowBytes));
    }
    __device__ void read_weights(uint32_t piece, int at) {
        const int row = at / kPairs * 16, column = at % kPairs * 16;
        load_matrices_transposed(b[at % (2 * kAhead)], piece + weights_at + (row * kStride + column) * 2);
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
        const uint32_t warp = threadIdx.x / 32;
        const uint32_t rows_at = warp / kAcross * (kWarpRows * Ring::kRowBytes);
        const uint32_t piece_at = Ring::kInputBytes + warp % kAcross * Ring::kPieceStep;
        // Where in both this lane's first rows of fragments lie.
        const uint32_t input_at = Ring::chunk_at(threadIdx.x % 16, threadIdx.x / 16 % 2);
        const uint32_t weights_at = (threadIdx.x % 16 * Ring::kStride + threadIdx.x / 16 % 2 * 8) * 2;
        if constexpr (Storage::kPlanes == 1) {
            ReadAhead<Storage, kGates, kWarpRows, kStageK / 16, Ring::kRowBytes, Ring::kStride> ahead(input_at, weights_at);
            for_stages<Storage, kGates, kTile, kInputs>(
                ring, operands, number_rows, [&](uint32_t stage) { ahead.begin(stage + rows_at, stage + piece_at); },
                [&](uint32_t stage, uint32_t next, auto copy, auto turn) {
                    ahead.multiply(sums, stage + rows_at, stage + piece_at, next + rows_at, next + piece_at, copy, turn);
                });
        } else {
            for_stages<Storage, kGates, kTile, kInputs>(
                ring, operands, number_rows, [](uint32_t) {},
                [&](uint32_t stage, uint32_t, auto copy, auto turn) {
                    copy();
#pragma unroll 1
                    for (uint32_t step = 0; step < 2; ++step) {
                        // A step is two chunks: it flips a bit of the swizzled chunk.
                        sums.multiply(stage + rows_at + (input_at ^ step * (2 * kChunk)), Ring::kPlaneBytes, 16 * Ring::kRowBytes,
                                      stage + piece_at + weights_at + step * (16 * Ring::kStride * 2));
                    }
                    turn();
                });
        }
    }

    // Quads of units that this thread holds: rows of the tile by four units of the block.
    static constexpr int kQuads = kWarpRows / 8, kQuadRows = 8;
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
        for_stages<Storage, kGates, kTile, kInputs>(
            ring, operands, number_rows, [](uint32_t) {},
            [&](uint32_t stage, uint32_t, auto copy, auto turn) {
                copy();
                for (uint32_t chunk = 0; chunk < kStageK / 4; ++chunk) {
                    sums.multiply(stage + Ring::chunk_at(row, chunk), 16 * Ring::kRowBytes, stage + piece + chunk * (4 * Ring::kStride * 4));
                }
                turn();
            });
    }

    static constexpr int kQuads = kRows, kQuadRows = 16;
    __device__ static uint32_t row(int quad) { return threadIdx.x / (kUnits / 4) + quad * 16; }
    __device__ static uint32_t unit() { return threadIdx.x % (kUnits / 4) * 4; }
    __device__ void read(float (&acc)[kGates][4], int quad) const { sums.read(acc, quad); }
};
