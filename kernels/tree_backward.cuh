// The whole tree backward in one launch, the steps in reverse: what tree.cuh is to the way forward.
//
// Of a tile of rows: the gradients of the states are gathered from their readers' places, and dz of the unary layer is left in
// shared memory, rounded to the storage; times W transposed it is the gradient of the merge's state, whose dz takes its place
// there; times W transposed that goes into the merge's own two places. Both dz also take the memory of z, for the gradients of
// the weights.
#pragma once
#include "backward.cuh"
#include "common/walk.cuh"

template <class Storage, Cell kCell>
__device__ inline void tree_backward(const TreeBackwardArguments& arguments) {
    constexpr int kMergeGates = gates_of(kCell, 2), kUnaryGates = gates_of(kCell, 1);
    constexpr bool kLstm = kCell == Cell::Lstm;
    const GatesBackward &unary = arguments.unary.gates, &merge = arguments.merge.gates;
    const uint32_t units = merge.units, blocks = units / kBlockUnits, width = merge.width, tile = arguments.tile;
    const uint32_t first_lane = blockIdx.x * arguments.lanes, lanes = min(arguments.lanes, width - first_lane);
    const uint32_t warp = threadIdx.x / 32;
    const uint32_t state_blocks = divide_up(units, kGroups * kBlockUnits), place_blocks = divide_up(2 * units, kGroups * kBlockUnits);

    extern __shared__ __align__(128) char shared[];
    SharedMemory memory{shared};
    uint32_t* numbers = reinterpret_cast<uint32_t*>(memory.take(2 * TileNumbers::Count * tile * sizeof(uint32_t)));
    uint32_t* next_numbers = numbers + TileNumbers::Count * tile;
    const ResidentWeights<Storage, kGroups> unary_weights(memory, state_blocks, kUnaryGates * units);
    const ResidentWeights<Storage, kGroups> merge_weights(memory, place_blocks, kMergeGates * units);
    const ResidentRows<Storage> dz(memory, tile, kMergeGates * units);
    const ResidentQuads dc_between(memory, kLstm ? tile : 0, units);

    dz.clear(tile);
    Walk<true> walk(arguments.step_ends, arguments.steps, lanes, tile), ahead = walk;
    const auto fetch = [&](TileNumbers& fetched) { fetched.fetch(ahead, merge.left, merge.right, nullptr, width, first_lane); };
    TileNumbers fetched;
    fetch(fetched);
    fetched.store(ahead, numbers);
    await_last_launch(); // a pass back begins with this launch: the one before may have packed the weights
    unary_weights.copy(arguments.merge.weights);
    merge_weights.copy(arguments.places.weights);
    end_group();
    wait_groups<0>();
    __syncthreads();
    while (!walk.done()) {
        const uint32_t here = walk.here(), row_tiles = divide_up(here, 16);
        ahead.next();
        fetch(fetched);
        // Eight rows by a block: a narrow step has work for all warps.
        for (uint32_t item = warp; item < row_tiles * kWarpQuads * blocks; item += kWalkWarps) {
            const uint32_t eight = item / blocks, block = item - eight * blocks, unit = block * kBlockUnits + warp_unit();
            const uint32_t row_tile = eight / kWarpQuads, quad_of_tile = eight % kWarpQuads;
            const uint32_t row = warp_row(row_tile, quad_of_tile), pass_row = numbers[TileNumbers::Row * tile + row];
            QuadBackward<Storage, kCell, 1> quad = {};
            float dc_in[2][4] = {};
            if (row < here) {
                const uint32_t entry = numbers[TileNumbers::Entry * tile + row], states[2] = {pass_row};
                quad.load(unary, pass_row, unit, states);
                float dh[4] = {}, dc[4] = {};
                gather_shares<kCell>(dh, dc, arguments.unary, arguments.unary.slot + entry, pass_row - entry * width, unit);
                quad.apply(dc_in, dh, dc);
                quad.store(unary, pass_row, unit);
            }
#pragma unroll
            for (int gate = 0; gate < kUnaryGates; ++gate) {
                dz.store4(row, gate * units + unit, quad.z[gate]);
            }
            if constexpr (kLstm) {
                Ffma::store4(dc_between.at(row_tile, block, quad_of_tile), 0, dc_in[0]);
            }
        }
        __syncthreads(); // dz of the unary layer is there
        {
            // A warp has one item at most: all products end before the first dz of the merge takes their operands' place.
            const uint32_t row_tile = warp / state_blocks, state_block = warp - row_tile * state_blocks;
            const bool live = row_tile < row_tiles;
            QuadBackward<Storage, kCell, 2> quads[kWarpQuads][kGroups];
            WarpProduct<Storage, kGroups> product;
            const auto for_quads = [&](auto work) {
#pragma unroll
                for (int i = 0; i < kWarpQuads; ++i) {
#pragma unroll
                    for (int group = 0; group < kGroups; ++group) {
                        const uint32_t block = state_block * kGroups + group;
                        if (live && block < blocks) {
                            work(i, group, warp_row(row_tile, i), block);
                        }
                    }
                }
            };
            // What the gates need is on its way during the product.
            for_quads([&](int i, int group, uint32_t row, uint32_t block) {
                if (row < here) {
                    const uint32_t states[3] = {numbers[TileNumbers::Left * tile + row], numbers[TileNumbers::Right * tile + row]};
                    quads[i][group].load(merge, numbers[TileNumbers::Row * tile + row], block * kBlockUnits + warp_unit(), states);
                }
            });
            if (live) {
                product.run(dz, row_tile, unary_weights, state_block);
            }
            __syncthreads();
            for_quads([&](int i, int group, uint32_t row, uint32_t block) {
                const uint32_t unit = block * kBlockUnits + warp_unit();
                QuadBackward<Storage, kCell, 2>& quad = quads[i][group];
                if (row < here) {
                    float dh[kGroups][4], dc[4] = {};
                    product.sums.read(dh, i);
                    if constexpr (kLstm) {
                        Ffma::load4(dc, dc_between.at(row_tile, block, i), 0);
                    }
                    quad.finish(merge, numbers[TileNumbers::Row * tile + row], unit, dh[group], dc);
                } else {
                    quad = {};
                }
#pragma unroll
                for (int gate = 0; gate < kMergeGates; ++gate) {
                    dz.store4(row, gate * units + unit, quad.z[gate]);
                }
            });
        }
        __syncthreads(); // dz of the merge is there
        for (uint32_t item = warp; item < row_tiles * place_blocks; item += kWalkWarps) {
            const uint32_t row_tile = item / place_blocks, block = item - row_tile * place_blocks;
            WarpProduct<Storage, kGroups> product;
            product.run(dz, row_tile, merge_weights, block);
#pragma unroll
            for (int i = 0; i < kWarpQuads; ++i) {
                const uint32_t row = warp_row(row_tile, i);
                if (row >= here) {
                    continue;
                }
                float acc[kGroups][4];
                product.sums.read(acc, i);
                const size_t to = size_t(numbers[TileNumbers::Row * tile + row]) * 2 * units;
#pragma unroll
                for (int group = 0; group < kGroups; ++group) {
                    const uint32_t column = (block * kGroups + group) * kBlockUnits + warp_unit();
                    Ffma::store4(arguments.places.h_places + to + column, 0, acc[group]);
                }
            }
        }
        fetched.store(ahead, next_numbers);
        __syncthreads(); // the places are there, and dz has been read
        walk = ahead;
        uint32_t* read = numbers;
        numbers = next_numbers;
        next_numbers = read;
    }
}
