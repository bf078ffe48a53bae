// Weights, biases and dense input as the products want them, from f32. One thread an element that is written, so that
// padding is written too: it is 0.
#pragma once
#include "common/arguments.cuh"
#include "common/storage.cuh"

template <class Storage>
__device__ inline void pack_weights(const PackArguments& arguments) {
    const uint32_t stride = Storage::stride(arguments.gates);
    const uint32_t stages = divide_up(arguments.segments * arguments.padded, kStageK);
    const uint64_t thread = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const uint32_t column = thread % stride;
    const uint64_t k_row = thread / stride;
    const uint32_t k_in_stage = k_row % kStageK, stage = k_row / kStageK % stages;
    const uint64_t block = k_row / kStageK / stages;
    if (block >= divide_up(divide_up(arguments.units, 16) * 16, kBlockUnits)) {
        return;
    }
    const uint32_t k = stage * kStageK + k_in_stage;
    const uint32_t segment = k / arguments.padded, in_segment = k % arguments.padded;
    float w = 0.0f;
    if (column < arguments.gates * kBlockUnits) { // no padding
        const auto [gate, unit_of_block] = Storage::place(arguments.gates, column);
        const uint64_t unit = block * kBlockUnits + unit_of_block;
        if (unit < arguments.units && segment < arguments.segments && in_segment < arguments.segment) {
            const size_t row = size_t(segment) * arguments.segment + in_segment;
            w = arguments.w[(row * arguments.gates + gate) * arguments.units + unit];
        }
    }
    const size_t plane = size_t(kStageK) * stride;
    Storage::store(static_cast<typename Storage::Element*>(arguments.packed) +
                       (block * stages + stage) * Storage::kPlanes * plane + k_in_stage * stride + column,
                   plane, w);
}

// Weights for the way back: k is a column of W, gate after gate, each padded; the columns are the inputs, in blocks of
// `kGroups` groups of 32.
template <class Storage, int kGroups>
__device__ inline void pack_transposed_weights(const PackArguments& arguments) {
    const uint32_t stride = Storage::stride(kGroups);
    const uint32_t units = divide_up(arguments.units, 16) * 16;
    const uint32_t stages = divide_up(arguments.gates * units, kStageK);
    const uint64_t thread = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const uint32_t column = thread % stride;
    const uint64_t k_row = thread / stride;
    const uint32_t k_in_stage = k_row % kStageK, stage = k_row / kStageK % stages;
    const uint64_t block = k_row / kStageK / stages;
    if (block >= divide_up(arguments.segments * arguments.padded, kGroups * kBlockUnits)) {
        return;
    }
    const uint32_t k = stage * kStageK + k_in_stage;
    const uint32_t gate = k / units, unit = k % units;
    float w = 0.0f;
    if (column < kGroups * kBlockUnits) { // no padding
        const auto [group, input_of_group] = Storage::place(kGroups, column);
        const uint64_t input = (block * kGroups + group) * kBlockUnits + input_of_group;
        const uint64_t segment = input / arguments.padded, in_segment = input % arguments.padded;
        if (gate < arguments.gates && unit < arguments.units && segment < arguments.segments && in_segment < arguments.segment) {
            const size_t row = segment * arguments.segment + in_segment;
            w = arguments.w[(row * arguments.gates + gate) * arguments.units + unit];
        }
    }
    const size_t plane = size_t(kStageK) * stride;
    Storage::store(static_cast<typename Storage::Element*>(arguments.packed) +
                       (block * stages + stage) * Storage::kPlanes * plane + k_in_stage * stride + column,
                   plane, w);
}

__device__ inline void pack_bias_of(const PackBiasArguments& arguments) {
    const uint32_t padded = divide_up(arguments.units, kBlockUnits) * kBlockUnits;
    const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x;
    const uint32_t gate = thread / padded, unit = thread % padded;
    if (gate < arguments.gates) {
        arguments.packed[thread] = unit < arguments.units ? arguments.b[gate * arguments.units + unit] : 0.0f;
    }
}

template <class Storage>
__device__ inline void store_input(const InputArguments& arguments) {
    const uint64_t thread = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const uint64_t row = thread / arguments.padded;
    const uint32_t k = thread % arguments.padded;
    if (row < arguments.rows) {
        const uint64_t lane = row / arguments.chunk, entry = row % arguments.chunk;
        const uint64_t from = lane * arguments.count + arguments.first + entry;
        const float x = k < arguments.d ? arguments.x[from * arguments.d + k] : 0.0f;
        Storage::store(static_cast<typename Storage::Element*>(arguments.out) + row * (Storage::kPlanes * arguments.padded) + k,
                       arguments.padded, x);
    }
}
