// The weights of all layers as the products want them, with their biases, and the read-out as it is, from the flat f32: one
// launch. And dense input as rows of the storage.
//
// Packed weights are stages of 32 k, see storage.cuh; what is padded is 0. A block makes one stage: it reads W in lines of 16 or
// 32 neighbours, many under way at once, into shared memory, and writes the stage in pieces of 16 bytes as it lies. The first
// stage of a block of units brings their biases.
#pragma once
#include "common/arguments.cuh"
#include "common/index.cuh"
#include "common/storage.cuh"

constexpr int kPackThreads = 256;
constexpr int kPackWarps = kPackThreads / 32;
constexpr int kPackLoads = 10;
constexpr int kCopied = 4; // numbers of the read-out that a thread copies
constexpr int kTransposedGroups = 2; // groups of 16 inputs of a packed block of the transposed product
// In shared memory a group of 16 columns takes 17 numbers, and a k of a transposed stage an odd number of them: lanes that
// read along a row or write down a column meet no bank twice.
constexpr int kGroup = kBlockUnits + 1;
constexpr int kTransposedRow = kTransposedGroups * kGroup + 1;
constexpr int kMostTile = kStageK * 5 * kGroup; // a merge's, of five gates

// A lane's `count` numbers from global to shared memory, `step` and `to_step` apart; from `live` on they are 0.
__device__ inline void read_lines(float* to, uint32_t to_step, const float* from, size_t step, uint32_t live, uint32_t count) {
    for (uint32_t first = 0; first < count; first += kPackLoads) {
        float next[kPackLoads];
#pragma unroll
        for (int i = 0; i < kPackLoads; ++i) {
            next[i] = first + i < live ? from[(first + i) * step] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < kPackLoads; ++i) {
            if (first + i < count) {
                to[(first + i) * to_step] = next[i];
            }
        }
    }
}

// How many of `count` inputs from number `input` on, which do not cross a multiple of 16, are there; `row` is W's row of
// the first.
__device__ inline uint32_t live_inputs(const PackLayer& layer, uint32_t input, uint32_t count, size_t& row) {
    const uint32_t segment = input / layer.padded, in_segment = input - segment * layer.padded;
    row = size_t(segment) * layer.segment + in_segment;
    return segment < layer.segments && in_segment < layer.segment ? min(layer.segment - in_segment, count) : 0;
}

// Writes a stage from shared memory, whose rows are `row` numbers apart.
template <class Storage>
__device__ inline void write_stage(typename Storage::Element* to, const float* tile, uint32_t groups, uint32_t row) {
    constexpr int kPerChunk = Storage::kPerChunk;
    const uint32_t stride = Storage::stride(groups), chunks = stride / kPerChunk;
    for (uint32_t i = threadIdx.x; i < kStageK * chunks; i += kPackThreads) {
        const uint32_t k = i / chunks, chunk = i - k * chunks;
        float x[kPerChunk] = {};
        if (chunk < groups * kBlockUnits / kPerChunk) { // no padding
#pragma unroll
            for (int e = 0; e < kPerChunk; ++e) {
                const auto [group, of_group] = Storage::place(groups, chunk * kPerChunk + e);
                x[e] = tile[k * row + group * kGroup + of_group];
            }
        }
        Storage::store_chunk(to + i * kPerChunk, kStageK * stride, x);
    }
}

template <class Storage>
__device__ inline void pack_layers(const PackArguments& arguments) {
    using Element = typename Storage::Element;
    __shared__ float tile[kMostTile];
    if (blockIdx.x >= arguments.readout_first) {
        const size_t first = size_t(blockIdx.x - arguments.readout_first) * kPackThreads * kCopied + threadIdx.x;
        float next[kCopied];
#pragma unroll
        for (int i = 0; i < kCopied; ++i) {
            const size_t at = first + i * kPackThreads;
            next[i] = at < arguments.readout_len ? arguments.readout[at] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < kCopied; ++i) {
            const size_t at = first + i * kPackThreads;
            if (at < arguments.readout_len) {
                arguments.packed_readout[at] = next[i];
            }
        }
        return;
    }
    PackLayer layer = arguments.layers[0];
#pragma unroll
    for (int i = 1; i < kPackLayers; ++i) {
        if (blockIdx.x >= arguments.layers[i].first) {
            layer = arguments.layers[i];
        }
    }
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t hidden_size = arguments.hidden_size, units = divide_up(hidden_size, 16) * 16;
    const uint32_t unit_blocks = units / kBlockUnits, gates = layer.gates;
    const uint32_t block_stages = divide_up(layer.segments * layer.padded, kStageK);
    const uint32_t block = blockIdx.x - layer.first;
    size_t row;
    if (block < unit_blocks * block_stages) {
        // k is an input, columns are units of a block with all their gates; sixteen lanes read two k.
        const uint32_t unit_block = block / block_stages, stage = block % block_stages;
        const uint32_t unit = unit_block * kBlockUnits + threadIdx.x % kBlockUnits, line = threadIdx.x / kBlockUnits;
        const uint32_t rows = kStageK * kBlockUnits / kPackThreads, live = live_inputs(layer, stage * kStageK + line * rows, rows, row);
        read_lines(tile + line * rows * gates * kGroup + threadIdx.x % kBlockUnits, kGroup, layer.w + row * gates * hidden_size + unit,
                   hidden_size, unit < hidden_size ? live * gates : 0, rows * gates);
        __syncthreads();
        const size_t elements = size_t(Storage::kPlanes) * kStageK * Storage::stride(gates);
        write_stage<Storage>(static_cast<Element*>(layer.packed) + block * elements, tile, gates, gates * kGroup);
        if (stage == 0 && line < gates) {
            layer.bias[line * units + unit] = unit < hidden_size ? layer.b[line * hidden_size + unit] : 0.0f;
        }
        return;
    }
    // For the way back: k is a column of W, gate after gate, each padded; the columns are the inputs. A warp reads four.
    const uint32_t transposed_stages = divide_up(gates * units, kStageK), transposed = block - unit_blocks * block_stages;
    const uint32_t input_block = transposed / transposed_stages, k = transposed % transposed_stages * kStageK + lane;
    const uint32_t gate = k / units, unit = k - gate * units;
    const uint32_t columns = kTransposedGroups * kBlockUnits / kPackWarps;
    const uint32_t live = live_inputs(layer, input_block * kTransposedGroups * kBlockUnits + warp * columns, columns, row);
    read_lines(tile + lane * kTransposedRow + warp * columns / kBlockUnits * kGroup + warp * columns % kBlockUnits, 1,
               layer.w + (row * gates + gate) * hidden_size + unit, size_t(gates) * hidden_size,
               gate < gates && unit < hidden_size ? live : 0, columns);
    __syncthreads();
    const size_t elements = size_t(Storage::kPlanes) * kStageK * Storage::stride(kTransposedGroups);
    write_stage<Storage>(static_cast<Element*>(layer.transposed) + transposed * elements, tile, kTransposedGroups, kTransposedRow);
}

template <class Storage>
__device__ inline void store_input(const InputArguments& arguments) {
    const auto [row, k] = index_of(arguments.padded);
    if (row < arguments.rows) {
        const uint32_t lane = row / arguments.chunk, entry = row - lane * arguments.chunk;
        const size_t from = size_t(lane) * arguments.count + arguments.first + entry;
        const float x = k < arguments.d ? arguments.x[from * arguments.d + k] : 0.0f;
        Storage::store(static_cast<typename Storage::Element*>(arguments.out) + size_t(row) * (Storage::kPlanes * arguments.padded) + k,
                       arguments.padded, x);
    }
}
