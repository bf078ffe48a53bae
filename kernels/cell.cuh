// A layer forward: gather, product, gates, in one launch; z does not reach memory.
//
// A block owns kTile rows by 32 units: the grid is [row tiles][unit blocks], so that blocks of the same rows run together
// and their rows come from L2 but once from further. Memory a block: its rows' inputs (kTile * K elements), its units' weights (once, from L2), the
// rows' c. A merge reads its two states by number and writes a third row; a unary layer reads what the merge left between
// them and updates c in place.
#pragma once
#include "common/arguments.cuh"
#include "common/gates.cuh"
#include "common/product.cuh"

// Row numbers of a tile, [3][kTile] in shared memory: the inputs', then that which is written. Rows beyond the last one
// repeat it: they are computed and not written.
template <int kStates, int kTile>
__device__ inline void number_rows(uint32_t* numbers, const CellArguments& arguments, uint32_t start) {
    for (uint32_t i = threadIdx.x; i < kTile; i += kThreads) {
        const uint32_t local = min(start + i, arguments.rows - 1);
        const uint32_t row = arguments.first + local;
        const uint32_t entry = row / arguments.width, lane = row - entry * arguments.width;
        if constexpr (kStates == 2) {
            numbers[i] = arguments.left[entry] * arguments.width + lane;
            numbers[kTile + i] = arguments.right[entry] * arguments.width + lane;
        } else {
            numbers[i] = kStates == 1 ? local : lane * arguments.count + entry;
        }
        numbers[2 * kTile + i] = arguments.out[entry] * arguments.width + lane;
    }
    __syncthreads();
}

// `kKeep`: z is kept for the way back.
template <class Storage, Cell kCell, int kStates, int kTile, bool kKeep>
__device__ inline void cell_forward(const CellArguments& arguments) {
    using Element = typename Storage::Element;
    constexpr int kGates = gates_of(kCell, kStates);
    constexpr int kInputs = kStates == 2 ? 2 : 1;
    using Z = Product<Storage, kGates, kTile, kInputs>;
    extern __shared__ __align__(128) char shared[];
    uint32_t* numbers = reinterpret_cast<uint32_t*>(shared);

    const uint32_t units = arguments.units;
    const uint32_t unit_blocks = divide_up(units, kBlockUnits);
    const uint32_t block = blockIdx.x, start = blockIdx.y * kTile;
    number_rows<kStates, kTile>(numbers, arguments, start);

    const uint32_t k = arguments.segment * kInputs;
    const size_t block_elements = size_t(divide_up(k, kStageK)) * Z::Ring::kPieceElements;
    const Operands<Storage> operands = {
        static_cast<const Element*>(arguments.input),
        static_cast<const Element*>(arguments.weights) + block * block_elements,
        numbers,
        arguments.segment,
        k,
    };
    Z z;
    z.run(shared_address(shared) + 3 * kTile * sizeof(uint32_t), operands, units - block * kBlockUnits);

    z.for_each([&](uint32_t row, uint32_t unit_of_block, const float(&acc)[kGates][4]) {
        const uint32_t unit = block * kBlockUnits + unit_of_block;
        if (start + row >= arguments.rows || unit >= units) {
            return;
        }
        float4 b[kGates], c_in[kStates + 1];
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
            b[gate] = *reinterpret_cast<const float4*>(arguments.bias + gate * unit_blocks * kBlockUnits + unit);
        }
        const uint32_t out = numbers[2 * kTile + row];
        if constexpr (kCell == Cell::Lstm) {
#pragma unroll
            for (int n = 0; n < kStates; ++n) {
                const uint32_t stage_row = kKeep && arguments.c_in_local ? start + row : out;
                const uint32_t from = kStates == 2 ? numbers[n * kTile + row] : stage_row;
                c_in[n] = *reinterpret_cast<const float4*>(arguments.c_in + size_t(from) * units + unit);
            }
        }
        float h[4], c[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            float acc_of_unit[kGates], b_of_unit[kGates], c_of_unit[kStates + 1];
#pragma unroll
            for (int gate = 0; gate < kGates; ++gate) {
                acc_of_unit[gate] = acc[gate][e];
                b_of_unit[gate] = reinterpret_cast<const float*>(&b[gate])[e];
            }
#pragma unroll
            for (int n = 0; n < kStates; ++n) {
                c_of_unit[n] = reinterpret_cast<const float*>(&c_in[n])[e];
            }
            h[e] = apply_gates<kCell, kStates, Storage::kCoarse>(acc_of_unit, b_of_unit, c_of_unit, c[e]);
        }
        if constexpr (kCell == Cell::Lstm) {
            const uint32_t to = kKeep && arguments.c_out_local ? start + row : out;
            *reinterpret_cast<float4*>(arguments.c_out + size_t(to) * units + unit) = make_float4(c[0], c[1], c[2], c[3]);
        }
        if constexpr (kKeep) {
            auto* z_row = static_cast<Element*>(arguments.z) + size_t(start + row) * (Storage::kPlanes * kGates * units);
#pragma unroll
            for (int gate = 0; gate < kGates; ++gate) {
                const float* b_of_gate = reinterpret_cast<const float*>(&b[gate]);
                float sum[4];
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    sum[e] = __fadd_rn(acc[gate][e], b_of_gate[e]);
                }
                Storage::store4(z_row + gate * units + unit, kGates * units, sum);
            }
        }
        const uint32_t to = arguments.h_local ? start + row : out;
        Storage::store4(static_cast<Element*>(arguments.h_out) + size_t(to) * (Storage::kPlanes * units) + unit, units, h);
    });
}
