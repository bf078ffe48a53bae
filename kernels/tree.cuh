// The whole tree forward in one launch: for small models and few lanes, where a launch a layer costs more than its arithmetic.
//
// A block owns `lanes` of the batch and walks every step (common/walk.cuh). Of a tile of rows: the states are gathered into
// shared memory; the merge leaves h, rounded to the storage, and c there; the unary layer writes the state. From L2 come
// states only, weights once. Row numbers of a tile are fetched during the one before, the next tile's states of the same step
// during the unary layer; c is on its way during the product.
#pragma once
#include "cell.cuh"
#include "common/walk.cuh"

template <class Storage, Cell kCell, bool kKeep>
__device__ inline void tree_forward(const TreeArguments& arguments) {
    using Element = typename Storage::Element;
    constexpr int kMergeGates = gates_of(kCell, 2), kUnaryGates = gates_of(kCell, 1);
    constexpr bool kLstm = kCell == Cell::Lstm;
    const CellArguments &merge = arguments.merge, &unary = arguments.unary;
    const uint32_t units = merge.units, blocks = units / kBlockUnits, width = merge.width, tile = arguments.tile;
    const uint32_t first_lane = blockIdx.x * arguments.lanes, lanes = min(arguments.lanes, width - first_lane);
    const uint32_t warp = threadIdx.x / 32;

    extern __shared__ __align__(128) char shared[];
    SharedMemory memory{shared};
    uint32_t* numbers = reinterpret_cast<uint32_t*>(memory.take(2 * TileNumbers::Count * tile * sizeof(uint32_t)));
    uint32_t* next_numbers = numbers + TileNumbers::Count * tile;
    const ResidentWeights<Storage, kMergeGates> merge_weights(memory, blocks, 2 * units);
    const ResidentWeights<Storage, kUnaryGates> unary_weights(memory, blocks, units);
    const ResidentRows<Storage> inputs(memory, tile, 2 * units), between(memory, tile, units);
    const ResidentQuads c_between(memory, kLstm ? tile : 0, units);
    float* merge_bias = reinterpret_cast<float*>(memory.take(kMergeGates * units * sizeof(float)));
    float* unary_bias = reinterpret_cast<float*>(memory.take(kUnaryGates * units * sizeof(float)));

    merge_weights.copy(merge.weights);
    unary_weights.copy(unary.weights);
    for (uint32_t i = threadIdx.x; i < kMergeGates * units; i += kWalkThreads) {
        merge_bias[i] = merge.bias[i];
    }
    for (uint32_t i = threadIdx.x; i < kUnaryGates * units; i += kWalkThreads) {
        unary_bias[i] = unary.bias[i];
    }
    between.clear(tile);
    Walk<false> walk(arguments.step_ends, arguments.steps, lanes, tile), ahead = walk;
    const auto fetch = [&](TileNumbers& fetched) {
        fetched.fetch(ahead, merge.left, merge.right, merge.out, width, first_lane);
    };
    TileNumbers fetched;
    fetch(fetched);
    fetched.store(ahead, numbers);
    __syncthreads();
    await_last_launch();

    // A thread copies one chunk of some rows; those of the last ones that fill no row have none.
    const uint32_t chunks = 2 * units / Storage::kPerChunk, copied_at_once = kWalkThreads / chunks;
    const uint32_t copied_row = threadIdx.x / chunks, chunk = threadIdx.x - copied_row * chunks;
    const uint32_t k = chunk * Storage::kPerChunk, side = k >= units;
    const auto gather = [&](const uint32_t* of, uint32_t rows) {
        const uint32_t inputs_at = shared_address(inputs.start);
        for (uint32_t row = copied_row; copied_row < copied_at_once && row < divide_up(rows, 16) * 16; row += copied_at_once) {
            const size_t number = of[(side ? TileNumbers::Right : TileNumbers::Left) * tile + row];
            const Element* from = static_cast<const Element*>(merge.input) + number * (Storage::kPlanes * units) + (k - side * units);
#pragma unroll
            for (int plane = 0; plane < Storage::kPlanes; ++plane) {
                copy_chunk(inputs_at + inputs.at(row, chunk) + plane * inputs.plane_bytes, from + plane * units);
            }
        }
        end_group();
    };
    gather(numbers, walk.here());
    while (!walk.done()) {
        const uint32_t here = walk.here(), items = divide_up(here, 16) * blocks;
        ahead.next();
        fetch(fetched);
        wait_groups<0>();
        __syncthreads(); // the inputs are there, and the unary layer before has read what is between
        for (uint32_t item = warp; item < items; item += kWalkWarps) {
            const uint32_t row_tile = item / blocks, block = item - row_tile * blocks, unit = block * kBlockUnits + warp_unit();
            float c_in[kWarpQuads][3][4], b[kMergeGates][4];
            if constexpr (kLstm) {
#pragma unroll
                for (int quad = 0; quad < kWarpQuads; ++quad) {
#pragma unroll
                    for (int n = 0; n < 2; ++n) {
                        const size_t from = numbers[n * tile + warp_row(row_tile, quad)];
                        Ffma::load4(c_in[quad][n], merge.c_in + from * units + unit, 0);
                    }
                }
            }
            WarpProduct<Storage, kMergeGates> product;
            product.run(inputs, row_tile, merge_weights, block);
#pragma unroll
            for (int gate = 0; gate < kMergeGates; ++gate) {
                Ffma::load4(b[gate], merge_bias + gate * units + unit, 0);
            }
#pragma unroll
            for (int quad = 0; quad < kWarpQuads; ++quad) {
                const uint32_t row = warp_row(row_tile, quad);
                float acc[kMergeGates][4], h[4], c[4];
                product.sums.read(acc, quad);
                apply_gates_of_four<kCell, 2, Storage::kCoarse>(h, c, acc, b, c_in[quad]);
                between.store4(row, unit, h);
                if constexpr (kLstm) {
                    Ffma::store4(c_between.at(row_tile, block, quad), 0, c);
                }
                if (kKeep && row < here) {
                    const size_t to = numbers[TileNumbers::Row * tile + row];
                    keep_z<Storage>(merge, to, unit, acc, b);
                    Storage::store4(static_cast<Element*>(merge.h_out) + to * (Storage::kPlanes * units) + unit, units, h);
                    if constexpr (kLstm) {
                        Ffma::store4(merge.c_out + to * units + unit, 0, c);
                    }
                }
            }
        }
        fetched.store(ahead, next_numbers);
        __syncthreads(); // what is between is there, and the inputs have been read
        if (!walk.ends_step()) {
            gather(next_numbers, ahead.here());
        }
        for (uint32_t item = warp; item < items; item += kWalkWarps) {
            const uint32_t row_tile = item / blocks, block = item - row_tile * blocks, unit = block * kBlockUnits + warp_unit();
            WarpProduct<Storage, kUnaryGates> product;
            product.run(between, row_tile, unary_weights, block);
            float b[kUnaryGates][4];
#pragma unroll
            for (int gate = 0; gate < kUnaryGates; ++gate) {
                Ffma::load4(b[gate], unary_bias + gate * units + unit, 0);
            }
#pragma unroll
            for (int quad = 0; quad < kWarpQuads; ++quad) {
                const uint32_t row = warp_row(row_tile, quad);
                float acc[kUnaryGates][4], h[4], c[4], c_in[2][4];
                if constexpr (kLstm) {
                    Ffma::load4(c_in[0], c_between.at(row_tile, block, quad), 0);
                }
                product.sums.read(acc, quad);
                apply_gates_of_four<kCell, 1, Storage::kCoarse>(h, c, acc, b, c_in);
                if (row >= here) {
                    continue;
                }
                const size_t to = numbers[TileNumbers::Out * tile + row];
                if constexpr (kLstm) {
                    Ffma::store4(unary.c_out + to * units + unit, 0, c);
                }
                if constexpr (kKeep) {
                    keep_z<Storage>(unary, numbers[TileNumbers::Row * tile + row], unit, acc, b);
                }
                Storage::store4(static_cast<Element*>(unary.h_out) + to * (Storage::kPlanes * units) + unit, units, h);
            }
        }
        if (walk.ends_step() && !ahead.done()) {
            __syncthreads(); // the states that the next step reads are there
            gather(next_numbers, ahead.here());
        }
        walk = ahead;
        uint32_t* read = numbers;
        numbers = next_numbers;
        next_numbers = read;
    }
}
