// States in and out of the slots: the wanted h, states of an arena as f32 and back, copies within it. Elementwise; of the
// wanted h, four units a thread.
#pragma once
#include "common/arguments.cuh"
#include "common/index.cuh"
#include "common/storage.cuh"

template <class Storage>
__device__ inline void collect_hidden(const CollectArguments& arguments) {
    const auto [row, quad] = index_of(divide_up(arguments.hidden_size, 4));
    if (row >= arguments.rows) {
        return;
    }
    const uint32_t lane = row / arguments.count, entry = row - lane * arguments.count;
    const size_t slot_row = size_t(arguments.outputs[entry]) * arguments.width + lane;
    const auto* h = static_cast<const typename Storage::Element*>(arguments.h);
    float x[4];
    Storage::load4(x, h + slot_row * (Storage::kPlanes * arguments.units) + quad * 4, arguments.units);
    float* to = arguments.hidden + size_t(row) * arguments.hidden_size + quad * 4;
    if (arguments.hidden_size % 4 == 0 && reinterpret_cast<uintptr_t>(arguments.hidden) % 16 == 0) {
        Ffma::store4(to, 0, x);
        return;
    }
    for (uint32_t e = 0; e < 4 && quad * 4 + e < arguments.hidden_size; ++e) {
        to[e] = x[e];
    }
}

// `kRead`: the states become f32; else f32 become the states, padding 0.
template <class Storage, bool kRead>
__device__ inline void transfer_states(const StatesArguments& arguments) {
    const uint64_t thread = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const uint32_t entry = thread / arguments.units, unit = thread % arguments.units;
    if (entry >= arguments.count) {
        return;
    }
    const size_t row = arguments.slots[entry];
    auto* h = static_cast<typename Storage::Element*>(arguments.h) + row * (Storage::kPlanes * arguments.units) + unit;
    float* c = arguments.c == nullptr ? nullptr : arguments.c + row * arguments.units + unit;
    float* state = arguments.states + size_t(entry) * 2 * arguments.hidden_size + unit;
    const bool live = unit < arguments.hidden_size;
    if constexpr (kRead) {
        if (live) {
            state[0] = Storage::load(h, arguments.units);
            state[arguments.hidden_size] = c == nullptr ? 0.0f : *c;
        }
    } else {
        Storage::store(h, arguments.units, live ? state[0] : 0.0f);
        if (c != nullptr) {
            *c = live ? state[arguments.hidden_size] : 0.0f;
        }
    }
}

template <class Storage>
__device__ inline void copy_state(const CopyArguments& arguments) {
    const uint64_t thread = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const uint32_t entry = thread / arguments.units, unit = thread % arguments.units;
    if (entry >= arguments.count) {
        return;
    }
    const size_t from = arguments.pairs[2 * entry], to = arguments.pairs[2 * entry + 1];
    auto* h = static_cast<typename Storage::Element*>(arguments.h);
#pragma unroll
    for (int plane = 0; plane < Storage::kPlanes; ++plane) {
        const size_t at = size_t(plane) * arguments.units + unit, row = size_t(Storage::kPlanes) * arguments.units;
        h[to * row + at] = h[from * row + at];
    }
    if (arguments.c != nullptr) {
        arguments.c[to * arguments.units + unit] = arguments.c[from * arguments.units + unit];
    }
}
