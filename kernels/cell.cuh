// A layer forward: gather, product, gates, in one launch; z does not reach memory.
//
// A block owns kTile rows by 32 units or, narrow, 16: the grid is [row tiles][units], so that blocks of the same rows run
// together and their rows come from L2 but once from further. Memory a block: its rows' inputs (kTile * K elements), its units' weights (once, from L2), the
// rows' c. A merge reads its two states by number and writes a third row; a unary layer reads what the merge left between
// them and updates c in place.
#pragma once
#include "common/arguments.cuh"
#include "common/gates.cuh"
#include "common/product.cuh"
#include "common/quads.cuh"

// Row numbers of a tile, [3][kTile] in shared memory: the inputs', then that which is written. Rows beyond the last one
// repeat it: they are computed and not written.
template <int kStates, int kTile>
__device__ inline void number_rows(uint32_t* numbers, const CellArguments& arguments, uint32_t start) {
    for (uint32_t i = threadIdx.x; i < kTile; i += Tile<kTile>::kThreads) {
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

// Keeps z = acc + b of four units for the way back. `kAdded`: b is in acc already.
template <class Storage, Added kAdded = Added::Not, int kGates>
__device__ inline void keep_z(const CellArguments& arguments, uint32_t row, uint32_t unit, const float (&acc)[kGates][4],
                              const float (&b)[kGates][4]) {
    const uint32_t units = arguments.units;
    auto* z = static_cast<typename Storage::Element*>(arguments.z) + size_t(row) * (Storage::kPlanes * kGates * units) + unit;
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
        float sum[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            sum[e] = kAdded != Added::Not ? acc[gate][e] : __fadd_rn(acc[gate][e], b[gate][e]);
        }
        Storage::store4(z + gate * units, kGates * units, sum);
    }
}

// Gates and states of a thread's quads Q, whose sums are `sums(part)`: of the units from `unit` on, of the rows from `first_row` on
// of the tile that begins with the launch's row `start`. `number(n, row)` is the number of a row of the tile: of its inputs, and as
// the third of what is written. Rows beyond the last are computed and not written. `bias`: that of the units, the next gate's
// `bias_step` on.
template <class Storage, Cell kCell, int kStates, bool kKeep, class Q, class Sums, class Number>
__device__ inline void finish_layer(const CellArguments& arguments, Sums sums, Number number, uint32_t start, uint32_t first_row,
                                    uint32_t unit, const float* bias, uint32_t bias_step) {
    using Element = typename Storage::Element;
    constexpr int kGates = gates_of(kCell, kStates), kParts = Q::kParts, kQuads = Q::kQuads, kAll = kParts * kQuads;
    constexpr int kFirst = Q::kFirst, kMost = Q::kMost;
    constexpr Added kAdded = Q::kAdded;
    static_assert(kParts == 1 || kAdded != Added::Not);
    const uint32_t units = arguments.units;
    // Quads of a row lie beside each other.
    float c_in[kAll][kStates + 1][4];
    const auto load_c = [&](int quad) {
        if constexpr (kCell == Cell::Lstm) {
            const uint32_t row = first_row + quad / kParts * Q::kStep, local = start + row, part = quad % kParts * kBlockUnits;
#pragma unroll
            for (int n = 0; n < kStates; ++n) {
                uint32_t from = local;
                if (kStates == 2 || !kKeep || !arguments.c_in_local) {
                    from = number(kStates == 2 ? n : 2, row);
                }
                const float* c = arguments.c_in + size_t(from) * units + unit;
                if (kStates == 1 && local >= arguments.rows) { // that is another row's, whose c is being written
                    c = arguments.bias + unit;
                }
                Ffma::load4(c_in[quad][n], c + part, 0);
            }
        }
    };
#pragma unroll
    for (int quad = 0; quad < kFirst; ++quad) {
        load_c(quad);
    }
    float b[kGates][4];
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
            Ffma::load4(b[gate], bias + (gate * bias_step + part * kBlockUnits), 0);
        }
        if constexpr (kAdded != Added::Not) {
            sums(part).add(b, [](int gate) { return kAdded == Added::Halves && is_sigmoid(kCell, gate); });
        }
    }
#pragma unroll
    for (int quad = 0; quad < kAll; ++quad) {
        const int part = quad % kParts;
        const uint32_t row = first_row + quad / kParts * Q::kStep, local = start + row, out = number(2, row);
        float acc[kGates][4], h[4], c[4];
        sums(part).read(acc, quad / kParts);
        apply_gates_of_four<kCell, kStates, Storage::kCoarse, kAdded>(h, c, acc, b, c_in[quad]);
        // After a store the compiler may hoist no load.
        constexpr auto loaded = [](int done) { return kFirst + 2 * done < done + kMost ? kFirst + 2 * done : done + kMost; };
#pragma unroll
        for (int next = loaded(quad); next < loaded(quad + 1) && next < kAll; ++next) {
            load_c(next);
        }
        if (local >= arguments.rows) {
            continue;
        }
        if constexpr (kCell == Cell::Lstm) {
            const uint32_t to = kKeep && arguments.c_out_local ? local : out;
            Ffma::store4(arguments.c_out + size_t(to) * units + unit + part * kBlockUnits, 0, c);
        }
        if constexpr (kKeep) {
            keep_z<Storage, kAdded>(arguments, local, unit + part * kBlockUnits, acc, b);
        }
        const uint32_t to = arguments.h_local ? local : out;
        Element* h_out = static_cast<Element*>(arguments.h_out) + size_t(to) * (Storage::kPlanes * units) + unit;
        Storage::store4(h_out + part * kBlockUnits, units, h);
    }
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
    const uint32_t start = blockIdx.y * kTile;
    const Operands<Storage> operands = {
        static_cast<const Element*>(arguments.input),
        static_cast<const Element*>(arguments.weights),
        numbers,
        arguments.segment,
        arguments.segment * kInputs,
        blockIdx.x * Tile<kTile>::kAcross,
        units / kBlockUnits,
    };
    Z z;
    z.run(shared_address(shared) + 3 * kTile * sizeof(uint32_t), operands,
          [&] { number_rows<kStates, kTile>(numbers, arguments, start); });

    const uint32_t unit = blockIdx.x * Tile<kTile>::kUnits + Z::unit();
    if (unit < units) {
        finish_layer<Storage, kCell, kStates, kKeep, Quads<Z::kQuads, Z::kQuadRows>>(
            arguments, [&](int) -> auto& { return z.sums; }, [&](int n, uint32_t row) { return numbers[n * kTile + row]; }, start, Z::row(0), unit,
            arguments.bias + unit, units);
    }
}
