// The leaf of tokens: a row of W is looked up, no one-hot is built. The bits are those of the product with a one-hot row,
// which sums zeros and that row. A thread has four units; memory: a row of weights in, a state out.
#pragma once
#include "common/arguments.cuh"
#include "common/gates.cuh"
#include "common/index.cuh"
#include "common/storage.cuh"

template <class Storage, Cell kCell, bool kKeep>
__device__ inline void tokens_forward(const TokensArguments& arguments) {
    using Element = typename Storage::Element;
    constexpr int kGates = gates_of(kCell, 0);
    constexpr int kStride = Storage::stride(kGates);
    const uint32_t units = arguments.units;
    const auto [row, quad] = index_of(units / 4);
    const uint32_t unit = quad * 4;
    if (row >= arguments.rows) {
        return;
    }
    const uint32_t entry = row / arguments.width, lane = row - entry * arguments.width;
    const uint32_t input_row = lane * arguments.count + entry;
    const uint32_t token = arguments.tokens[input_row];
    const bool known = token < arguments.vocabulary;
    if (!known && unit == 0) {
        atomicMin(arguments.bad, input_row);
    }
    const uint32_t k = known ? token : 0;
    const uint32_t stages = divide_up(arguments.vocabulary, kStageK);
    const size_t plane = size_t(kStageK) * kStride;
    const Element* weights = static_cast<const Element*>(arguments.weights) +
                             (size_t(unit / kBlockUnits) * stages + k / kStageK) * Storage::kPlanes * plane +
                             k % kStageK * kStride;
    float h[4], c[4], z[kGates][4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        float acc[kGates], b[kGates];
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
            const int column = Storage::column(kGates, gate, unit % kBlockUnits + e);
            acc[gate] = known ? Storage::load(weights + column, plane) : __int_as_float(0x7fffffff);
            b[gate] = arguments.bias[gate * units + unit + e];
            z[gate][e] = __fadd_rn(acc[gate], b[gate]);
        }
        h[e] = apply_gates<kCell, 0, Storage::kCoarse>(acc, b, nullptr, c[e]);
    }
    if constexpr (kKeep) {
        auto* z_row = static_cast<Element*>(arguments.z) + size_t(row) * (Storage::kPlanes * kGates * units) + unit;
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
            Storage::store4(z_row + gate * units, kGates * units, z[gate]);
        }
    }
    const size_t out = size_t(arguments.out[entry]) * arguments.width + lane;
    if constexpr (kCell == Cell::Lstm) {
        *reinterpret_cast<float4*>(arguments.c_out + out * units + unit) = make_float4(c[0], c[1], c[2], c[3]);
    }
    Storage::store4(static_cast<Element*>(arguments.h_out) + out * (Storage::kPlanes * units) + unit, units, h);
}
