// A layer backward, from the gradient of its state to that of its input, in two kinds of launches.
//
// Gather: the state's gradient is the sum over those who read it, each of whom wrote its share into a place of its own, in
// their fixed order; the gates follow at once. Elementwise, a thread has four units.
//
// Transposed product: dz times the weights transposed is the gradient of the layer's input, and the gates of the layer
// before follow in the epilogue; a merge's goes into its own two places. A block owns kTile rows by 128 columns. In both, dz
// takes the memory of z. Nothing is added into memory that another row owns.
#pragma once
#include "common/arguments.cuh"
#include "common/gates.cuh"
#include "common/product.cuh"

constexpr int kGroups = 4; // groups of 32 columns of a block of the transposed product

// The gates of four units of a row: z becomes dz, the gradients of the states' c are written.
template <class Storage, Cell kCell, int kStates>
__device__ inline void quad_backward(const GatesBackward& arguments, uint32_t row, uint32_t unit, const float (&dh)[4],
                                     const float (&dc)[4]) {
    constexpr int kGates = gates_of(kCell, kStates);
    const uint32_t units = arguments.units;
    auto* z_row = static_cast<typename Storage::Element*>(arguments.z) + size_t(row) * (Storage::kPlanes * kGates * units) + unit;
    float z[kGates][4], c_in[kStates + 1][4], dc_in[kStates + 1][4];
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
        Storage::load4(z[gate], z_row + gate * units, kGates * units);
    }
    if constexpr (kCell == Cell::Lstm && kStates == 1) {
        Ffma::load4(c_in[0], arguments.c_in + size_t(row) * units + unit, 0);
    }
    if constexpr (kCell == Cell::Lstm && kStates == 2) {
        const uint32_t pass_row = arguments.first + row, entry = pass_row / arguments.width;
        const uint32_t lane = pass_row - entry * arguments.width;
        const size_t left = size_t(arguments.left[entry]) * arguments.width + lane;
        const size_t right = size_t(arguments.right[entry]) * arguments.width + lane;
        Ffma::load4(c_in[0], arguments.c_in + left * units + unit, 0);
        Ffma::load4(c_in[1], arguments.c_in + right * units + unit, 0);
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        float z_of_unit[kGates], dz[kGates], c_of_unit[kStates + 1], dc_of_unit[kStates + 1];
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
            z_of_unit[gate] = z[gate][e];
        }
#pragma unroll
        for (int n = 0; n < kStates; ++n) {
            c_of_unit[n] = c_in[n][e];
        }
        gates_backward<kCell, kStates, Storage::kCoarse>(z_of_unit, c_of_unit, dh[e], dc[e], dz, dc_of_unit);
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
            z[gate][e] = dz[gate];
        }
#pragma unroll
        for (int n = 0; n < kStates; ++n) {
            dc_in[n][e] = dc_of_unit[n];
        }
    }
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
        Storage::store4(z_row + gate * units, kGates * units, z[gate]);
    }
    if constexpr (kCell == Cell::Lstm && kStates == 1) {
        Ffma::store4(arguments.dc + size_t(row) * units + unit, 0, dc_in[0]);
    }
    if constexpr (kCell == Cell::Lstm && kStates == 2) {
        float* places = arguments.dc_places + size_t(arguments.first + row) * 2 * units + unit;
        Ffma::store4(places, 0, dc_in[0]);
        Ffma::store4(places + units, 0, dc_in[1]);
    }
}

template <class Storage, Cell kCell, int kStates>
__device__ inline void gather_backward(const GatherArguments& arguments) {
    const GatesBackward& gates = arguments.gates;
    const uint32_t quads = gates.units / 4;
    const uint64_t thread = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const uint32_t row = thread / quads, unit = thread % quads * 4;
    if (row >= gates.rows) {
        return;
    }
    const uint32_t pass_row = gates.first + row, entry = pass_row / gates.width, lane = pass_row - entry * gates.width;
    const uint32_t slot = arguments.slot + entry;
    float dh[4] = {}, dc[4] = {};
    for (uint32_t i = arguments.reader_starts[slot]; i < arguments.reader_starts[slot + 1]; ++i) {
        const uint32_t reader = arguments.readers[i];
        const size_t place = (size_t(reader / 2) * gates.width + lane) * 2 * gates.units + reader % 2 * gates.units + unit;
        float share[4];
        Ffma::load4(share, arguments.h_places + place, 0);
        for (int e = 0; e < 4; ++e) {
            dh[e] = __fadd_rn(dh[e], share[e]);
        }
        if constexpr (kCell == Cell::Lstm) {
            Ffma::load4(share, arguments.c_places + place, 0);
            for (int e = 0; e < 4; ++e) {
                dc[e] = __fadd_rn(dc[e], share[e]);
            }
        }
    }
    const uint32_t output = arguments.output_of[slot];
    if (output > 0) {
        const size_t from = (size_t(lane) * arguments.outputs + output - 1) * arguments.hidden_size;
        for (int e = 0; e < 4; ++e) {
            if (unit + e < arguments.hidden_size) {
                dh[e] = __fadd_rn(dh[e], arguments.d_hidden[from + unit + e]);
            }
        }
    }
    quad_backward<Storage, kCell, kStates>(gates, row, unit, dh, dc);
}

// What the epilogue does with the gradient of the input.
enum class Into { Unary, Merge, Places, Input };

template <class Storage, Cell kCell, Into kInto, int kTile>
__device__ inline void transposed_product(const TransposedArguments& arguments) {
    using Element = typename Storage::Element;
    using Z = Product<Storage, kGroups, kTile, 1>;
    extern __shared__ __align__(128) char shared[];
    uint32_t* numbers = reinterpret_cast<uint32_t*>(shared);
    const GatesBackward& gates = arguments.gates;
    const uint32_t block = blockIdx.x, start = blockIdx.y * kTile;
    for (uint32_t i = threadIdx.x; i < kTile; i += kThreads) {
        numbers[i] = min(start + i, gates.rows - 1);
    }
    __syncthreads();
    const size_t block_elements = size_t(divide_up(arguments.k, kStageK)) * Z::Ring::kPieceElements;
    const Operands<Storage> operands = {
        static_cast<const Element*>(arguments.dz),
        static_cast<const Element*>(arguments.weights) + block * block_elements,
        numbers,
        arguments.k,
        arguments.k,
    };
    Z z;
    z.run(shared_address(shared) + 3 * kTile * sizeof(uint32_t), operands, kBlockUnits);

    z.for_each([&](uint32_t tile_row, uint32_t unit_of_group, const float(&acc)[kGroups][4]) {
        const uint32_t row = start + tile_row;
        if (row >= gates.rows) {
            return;
        }
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
            const uint32_t column = (block * kGroups + group) * kBlockUnits + unit_of_group;
            if (column >= arguments.columns) {
                continue;
            }
            if constexpr (kInto == Into::Places) {
                Ffma::store4(arguments.h_places + size_t(row) * arguments.columns + column, 0, acc[group]);
            } else if constexpr (kInto == Into::Input) {
                const uint32_t pass_row = gates.first + row, entry = pass_row / gates.width;
                const size_t to = size_t(pass_row - entry * gates.width) * arguments.count + entry;
                for (int e = 0; e < 4; ++e) {
                    if (column + e < arguments.input_size) {
                        float& d = arguments.d_input[to * arguments.input_size + column + e];
                        d = __fadd_rn(d, acc[group][e]);
                    }
                }
            } else {
                float dc[4] = {};
                if constexpr (kCell == Cell::Lstm) {
                    Ffma::load4(dc, gates.dc + size_t(row) * gates.units + column, 0);
                }
                quad_backward<Storage, kCell, kInto == Into::Merge ? 2 : 1>(gates, row, column, acc[group], dc);
            }
        }
    });
}
