// A layer backward, from the gradient of its state to that of its input, in two kinds of launches.
//
// Gather: the state's gradient is the sum over those who read it, each of whom wrote its share into a place of its own, in
// their fixed order; the gates follow at once. Elementwise, a thread has four units.
//
// Transposed product: dz times the weights transposed is the gradient of the layer's input, and the gates of the layer
// before follow in the epilogue; a merge's goes into its own two places. A block owns kTile rows by 64
// columns or, narrow, 32 of them. In both, dz takes the memory of z. Nothing is added into memory that another row owns.
#pragma once
#include "common/arguments.cuh"
#include "common/gates.cuh"
#include "common/index.cuh"
#include "common/product.cuh"

constexpr int kGroups = 2; // groups of 16 columns of a packed block of the transposed product

// What the gates of four units of a row need, but for the gradient of h.
template <class Storage, Cell kCell, int kStates>
struct QuadBackward {
    static constexpr int kGates = gates_of(kCell, kStates);

    float z[kGates][4], c_in[kStates + 1][4];

    // `states`: rows of the states' c.
    __device__ void load(const GatesBackward& arguments, uint32_t row, uint32_t unit, const uint32_t (&states)[kStates + 1]) {
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
            Storage::load4(z[gate], z_of(arguments, row, unit) + gate * arguments.units, kGates * arguments.units);
        }
        if constexpr (kCell == Cell::Lstm) {
#pragma unroll
            for (int n = 0; n < kStates; ++n) {
                Ffma::load4(c_in[n], arguments.c_in + size_t(states[n]) * arguments.units + unit, 0);
            }
        }
    }

    // z becomes dz; `dc_in` are the gradients of the states' c.
    __device__ void apply(float (&dc_in)[kStates + 1][4], const float (&dh)[4], const float (&dc)[4]) {
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
    }

    __device__ void store(const GatesBackward& arguments, uint32_t row, uint32_t unit) const {
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
            Storage::store4(z_of(arguments, row, unit) + gate * arguments.units, kGates * arguments.units, z[gate]);
        }
    }

    // z becomes dz, the gradients of the states' c are written.
    __device__ void finish(const GatesBackward& arguments, uint32_t row, uint32_t unit, const float (&dh)[4], const float (&dc)[4]) {
        const uint32_t units = arguments.units;
        float dc_in[kStates + 1][4];
        apply(dc_in, dh, dc);
        store(arguments, row, unit);
        if constexpr (kCell == Cell::Lstm && kStates == 1) {
            Ffma::store4(arguments.dc + size_t(row) * units + unit, 0, dc_in[0]);
        }
        if constexpr (kCell == Cell::Lstm && kStates == 2) {
            float* places = arguments.dc_places + size_t(arguments.first + row) * 2 * units + unit;
            Ffma::store4(places, 0, dc_in[0]);
            Ffma::store4(places + units, 0, dc_in[1]);
        }
    }

    __device__ static typename Storage::Element* z_of(const GatesBackward& arguments, uint32_t row, uint32_t unit) {
        return static_cast<typename Storage::Element*>(arguments.z) + size_t(row) * (Storage::kPlanes * kGates * arguments.units) + unit;
    }
};

// Rows of the c of a row's states.
template <int kStates>
__device__ inline void rows_of_states(uint32_t (&states)[kStates + 1], const GatesBackward& arguments, uint32_t row) {
    if constexpr (kStates == 1) {
        states[0] = row;
    }
    if constexpr (kStates == 2) {
        const uint32_t pass_row = arguments.first + row, entry = pass_row / arguments.width;
        const uint32_t lane = pass_row - entry * arguments.width;
        states[0] = arguments.left[entry] * arguments.width + lane;
        states[1] = arguments.right[entry] * arguments.width + lane;
    }
}

// Adds what a state's readers left in their places, in their order, and the gradient of its output if it is one.
template <Cell kCell>
__device__ inline void gather_shares(float (&dh)[4], float (&dc)[4], const GatherArguments& arguments, uint32_t slot, uint32_t lane,
                                     uint32_t unit) {
    const uint32_t width = arguments.gates.width, units = arguments.gates.units;
    const uint32_t output = arguments.output_of[slot], end = arguments.reader_starts[slot + 1];
    // Some readers' numbers, then their shares, are on their way together.
    constexpr int kAtOnce = 4;
    for (uint32_t first = arguments.reader_starts[slot]; first < end; first += kAtOnce) {
        uint32_t readers[kAtOnce];
        float h[kAtOnce][4], c[kAtOnce][4];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
            if (first + i < end) {
                readers[i] = arguments.readers[first + i];
            }
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
            if (first + i < end) {
                const size_t place = (size_t(readers[i] / 2) * width + lane) * 2 * units + readers[i] % 2 * units + unit;
                Ffma::load4(h[i], arguments.h_places + place, 0);
                if constexpr (kCell == Cell::Lstm) {
                    Ffma::load4(c[i], arguments.c_places + place, 0);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
            if (first + i < end) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    dh[e] = __fadd_rn(dh[e], h[i][e]);
                    if constexpr (kCell == Cell::Lstm) {
                        dc[e] = __fadd_rn(dc[e], c[i][e]);
                    }
                }
            }
        }
    }
    if (output > 0) {
        const size_t from = (size_t(lane) * arguments.outputs + output - 1) * arguments.hidden_size;
        for (int e = 0; e < 4; ++e) {
            if (unit + e < arguments.hidden_size) {
                dh[e] = __fadd_rn(dh[e], arguments.d_hidden[from + unit + e]);
            }
        }
    }
}

template <class Storage, Cell kCell, int kStates>
__device__ inline void gather_backward(const GatherArguments& arguments) {
    const GatesBackward& gates = arguments.gates;
    const auto [row, place_of_quad] = index_of(gates.units / 4);
    const uint32_t unit = place_of_quad * 4;
    if (row >= gates.rows) {
        return;
    }
    const uint32_t pass_row = gates.first + row, entry = pass_row / gates.width, lane = pass_row - entry * gates.width;
    const uint32_t slot = arguments.slot + entry;
    uint32_t states[kStates + 1];
    rows_of_states<kStates>(states, gates, row);
    QuadBackward<Storage, kCell, kStates> quad;
    quad.load(gates, row, unit, states);
    float dh[4] = {}, dc[4] = {};
    gather_shares<kCell>(dh, dc, arguments, slot, lane, unit);
    quad.finish(gates, row, unit, dh, dc);
}

// What the epilogue does with the gradient of the input.
enum class Into { Unary, Merge, Places, Input };

template <class Storage, Cell kCell, Into kInto, int kTile>
__device__ inline void transposed_product(const TransposedArguments& arguments) {
    using Element = typename Storage::Element;
    using Z = Product<Storage, kGroups, kTile, 1>;
    extern __shared__ __align__(128) char shared[];
    uint32_t* numbers = reinterpret_cast<uint32_t*>(shared);
    constexpr bool kToGates = kInto == Into::Unary || kInto == Into::Merge;
    constexpr int kStates = kInto == Into::Merge ? 2 : 1; // of the layer before
    constexpr bool kMerge = kInto == Into::Merge && kCell == Cell::Lstm;
    const GatesBackward& gates = arguments.gates;
    const uint32_t start = blockIdx.y * kTile;
    const Operands<Storage> operands = {
        static_cast<const Element*>(arguments.dz),
        static_cast<const Element*>(arguments.weights),
        numbers,
        arguments.k,
        arguments.k,
        blockIdx.x * Tile<kTile>::kAcross,
        divide_up(arguments.columns, kGroups * kBlockUnits),
    };
    Z z;
    z.run(shared_address(shared) + 3 * kTile * sizeof(uint32_t), operands, [&] {
        for (uint32_t i = threadIdx.x; i < kTile; i += Tile<kTile>::kThreads) {
            numbers[i] = min(start + i, gates.rows - 1);
            if constexpr (kMerge) {
                uint32_t states[kStates + 1];
                rows_of_states<kStates>(states, gates, numbers[i]);
                numbers[kTile + i] = states[0];
                numbers[2 * kTile + i] = states[1];
            }
        }
        __syncthreads();
    });

    // A group's columns of this thread: four of the block's.
    const uint32_t first_column = (operands.block + Z::unit() / kBlockUnits) * (kGroups * kBlockUnits) + Z::unit() % kBlockUnits;
#pragma unroll
    for (int i = 0; i < Z::kQuads; ++i) {
        const uint32_t row = start + Z::row(i);
        if (row >= gates.rows) {
            continue;
        }
        float acc[kGroups][4];
        z.read(acc, i);
        if constexpr (kToGates) {
            uint32_t states[kStates + 1] = {row};
            if constexpr (kMerge) {
                states[0] = numbers[kTile + Z::row(i)];
                states[1] = numbers[2 * kTile + Z::row(i)];
            }
            // All groups are loaded together: after a store the compiler may hoist no load.
            QuadBackward<Storage, kCell, kStates> quads[kGroups];
            float dc[kGroups][4] = {};
#pragma unroll
            for (int group = 0; group < kGroups; ++group) {
                const uint32_t column = first_column + group * kBlockUnits;
                if (column < arguments.columns) {
                    quads[group].load(gates, row, column, states);
                    if constexpr (kCell == Cell::Lstm) {
                        Ffma::load4(dc[group], gates.dc + size_t(row) * gates.units + column, 0);
                    }
                }
            }
#pragma unroll
            for (int group = 0; group < kGroups; ++group) {
                const uint32_t column = first_column + group * kBlockUnits;
                if (column < arguments.columns) {
                    quads[group].finish(gates, row, column, acc[group], dc[group]);
                }
            }
        } else {
#pragma unroll
            for (int group = 0; group < kGroups; ++group) {
                const uint32_t column = first_column + group * kBlockUnits;
                if (column >= arguments.columns) {
                    continue;
                }
                if constexpr (kInto == Into::Places) {
                    Ffma::store4(arguments.h_places + size_t(row) * arguments.columns + column, 0, acc[group]);
                } else {
                    const uint32_t pass_row = gates.first + row, entry = pass_row / gates.width;
                    const size_t to = size_t(pass_row - entry * gates.width) * arguments.count + entry;
                    for (int e = 0; e < 4; ++e) {
                        if (column + e < arguments.input_size) {
                            float& d = arguments.d_input[to * arguments.input_size + column + e];
                            d = __fadd_rn(d, acc[group][e]);
                        }
                    }
                }
            }
        }
    }
}
