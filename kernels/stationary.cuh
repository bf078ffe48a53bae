// A layer forward of many rows, in one launch: the weights stay, the rows go past.
//
// A block keeps the weights of two packed blocks of units in shared memory. Its teams of warps take tiles of 64 rows, each team
// for itself: while one is at its gates another multiplies, as `Team` says: by mma.sync, or by wgmma. The grid is [two packed
// blocks][blocks that share the rows]. Memory a tile: its inputs (64 * K elements) and c, from L2; a block's weights once, during
// its first tile, and its bias where there is room for it. An input is in whole stages, two at least.
#pragma once
#include "cell.cuh"
#include "common/kernel.cuh"
#include "common/team.cuh"

template <class Team>
constexpr int kStationaryThreads = kTeams * Team::kThreads;

// A thread's share of the copies of weights: chunks of a packed block's stage.
template <class Team>
struct StationaryCopier {
    using Weights = typename Team::Weights;
    static constexpr int kThreads = kStationaryThreads<Team> / 2, kRowBytes = Team::Storage::stride(Team::kGates) * 2;

    const char* from; // of the next stage
    uint32_t to;

    __device__ StationaryCopier(uint32_t weights, const void* packed, uint32_t k) {
        const uint32_t block = threadIdx.x / kThreads;
        from = static_cast<const char*>(packed) + size_t(blockIdx.x * 2 + block) * k * kRowBytes;
        to = weights + Weights::block(block, k);
    }

    // Starts the copy of the next stage, if there is one.
    __device__ void copy(bool there) {
        uint32_t thread = threadIdx.x % kThreads;
        asm volatile("" : "+r"(thread)); // or the places of all copies are kept in registers
#pragma unroll
        for (int copy = 0; copy < Weights::kCopies; ++copy) {
            const auto [mine, row, chunk] = Weights::place(thread, copy);
            copy_chunk_if(there && mine, to + Weights::at(row, chunk), from + (row * kRowBytes + chunk * kChunk));
        }
        from += kTeamStageK * kRowBytes;
        to += Weights::kStageBytes;
    }
};

// The numbers of a tile's row, one of this warp's: of what it reads, and of what is written. Slots are on their way until they
// are asked for.
template <int kStates, int kThreads>
struct TeamRow {
    using Rows = TeamRows<kThreads>;

    uint32_t slots[3], lane;

    // Of the tile.
    __device__ static uint32_t row(uint32_t thread = threadIdx.x) { return Rows::first(thread) + thread % Rows::kOfWarp; }

    // Rows beyond the last one repeat it.
    __device__ void fetch(const CellArguments& arguments, uint32_t start) {
        uint32_t thread = threadIdx.x;
        asm volatile("" : "+r"(thread)); // or what follows from it is kept for all tiles
        const uint32_t local = min(start + row(thread), arguments.rows - 1), at = arguments.first + local;
        const uint32_t entry = at / arguments.width;
        lane = at - entry * arguments.width;
        slots[0] = kStates == 2 ? arguments.left[entry] : local;
        slots[1] = kStates == 2 ? arguments.right[entry] : 0;
        slots[2] = arguments.out[entry];
    }
    __device__ uint32_t number(const CellArguments& arguments, int n) const {
        return kStates == 1 && n == 0 ? slots[0] : slots[n] * arguments.width + lane;
    }
    // The first of them to `numbers`: [kNumbers][kTeamTile] in shared memory.
    template <int kNumbers>
    __device__ void store(const CellArguments& arguments, uint32_t* numbers) const {
#pragma unroll
        for (int n = 0; n < kNumbers; ++n) {
            if ((n != 1 || kStates == 2) && threadIdx.x % 32 < Rows::kOfWarp) {
                numbers[n * kTeamTile + row()] = number(arguments, n);
            }
        }
    }
};

// Units of a block, and what its shared memory begins with: numbers of rows and, where these leave room, the bias.
constexpr int kUnits = 2 * kBlockUnits, kFirstBytes = kTeams * 3 * kTeamTile * sizeof(uint32_t);
static_assert(kFirstBytes % 1024 == 0); // the rings come next

// Starts to copy the bias of the block's units: to [gates][kUnits] in shared memory.
template <int kGates>
__device__ inline void copy_bias(float* bias, const CellArguments& arguments) {
    constexpr int kChunks = kUnits * sizeof(float) / kChunk; // of a gate
    const uint32_t gate = threadIdx.x / kChunks, unit = threadIdx.x % kChunks * (kChunk / sizeof(float));
    if (gate < kGates) {
        copy_chunk(shared_address(bias + gate * kUnits + unit), arguments.bias + gate * arguments.units + blockIdx.x * kUnits + unit);
    }
}

template <class Team, int kStates>
struct Stationary {
    static constexpr int kInputs = kStates == 2 ? 2 : 1, kThreads = Team::kThreads, kNumbers = Team::kOwnRows ? 2 : 3;

    const CellArguments& arguments;
    uint32_t* numbers;    // of the tile's rows
    uint32_t weights;     // in shared memory
    uint32_t here, both;  // the team's ring: the place of the stage that is multiplied, and the sum of both places
    uint32_t start;       // of the tile
    TeamRow<kStates, kThreads> next; // of the next tile

    __device__ uint32_t step() const { return gridDim.y * (kTeams * kTeamTile); }

    // z of a tile; at the end, where there is a next one, its first stages are there or on their way. During the first tile, in
    // which all teams go together, the weights come.
    template <bool kFirst>
    __device__ void multiply(Team& team) {
        const uint32_t segment = arguments.segment, stages_of_input = segment / kTeamStageK, stages = kInputs * stages_of_input;
        const bool last = start + step() >= arguments.rows;
        StationaryCopier<Team> weight_copier(weights, arguments.weights, stages * kTeamStageK);
        TeamCopier<typename Team::Storage, kThreads> inputs;
        const auto point = [&](uint32_t input, uint32_t stage) {
            const uint32_t* of = numbers + input * kTeamTile + TeamRows<kThreads>::first();
            inputs.point(arguments.input, segment, stage, [&](uint32_t row) { return of[row]; });
        };
        const auto meet = [] {
            Team::publish();
            if (kFirst) {
                __syncthreads();
            } else {
                team_barrier<kThreads>();
            }
        };
        if (kFirst) {
            weight_copier.copy(true);
            weight_copier.copy(true);
            await_last_launch();
            point(0, 0);
            inputs.copy(true, here);
            end_group(); // those weights too
            inputs.copy(true, both - here);
            end_group();
            wait_groups<1>();
            meet();
        } else {
            point(0, kTeamStages);
        }
        if (!last) {
            next.fetch(arguments, start + step());
        }
        team.begin(here, weights, stages * kTeamStageK);
        // What is copied is kTeamStages further: what is left of the first input, the second, and the next tile's first stages.
        const uint32_t second = stages_of_input + kTeamStages;
#pragma unroll 1
        for (uint32_t left = stages; left > 0;) {
            const uint32_t until = kInputs == 2 && left > second ? second : left > kTeamStages ? kTeamStages : 0;
            const bool there = until > 0 || !last;
            if (kInputs == 2 && until == kTeamStages) {
                point(1, 0);
            }
            if (until == 0 && there) {
                const uint32_t number = next.number(arguments, 0);
                inputs.point(arguments.input, segment, 0, [&](uint32_t row) { return __shfl_sync(0xffffffffu, number, row); });
            }
#pragma unroll 1
            for (; left > until; --left) {
                team.multiply(here, both - here, left > 1, [&] {
                    wait_groups<0>();
                    meet();
                    inputs.copy(there, here); // nobody reads it any more
                    if (kFirst) {
                        weight_copier.copy(until > 0);
                    }
                    end_group();
                });
                here = both - here;
            }
        }
    }
};

template <class Team, Cell kCell, int kStates, bool kKeep>
__device__ inline void cell_stationary(const CellArguments& arguments) {
    static_assert(Team::kGates == gates_of(kCell, kStates));
    using S = Stationary<Team, kStates>;
    extern __shared__ __align__(1024) char memory[];
    const uint32_t team = Team::index();
    uint32_t* numbers = reinterpret_cast<uint32_t*>(memory) + team * (S::kNumbers * kTeamTile);
    float* own_bias = reinterpret_cast<float*>(memory) + kTeams * S::kNumbers * kTeamTile;
    const uint32_t rings = shared_address(memory) + kFirstBytes;
    const uint32_t ring = rings + team * (kTeamStages * kTeamStageBytes);
    const uint32_t weights = rings + kTeams * kTeamStages * kTeamStageBytes;
    S product = {arguments, numbers, weights, ring, 2 * ring + kTeamStageBytes, (blockIdx.y * kTeams + team) * kTeamTile};
    product.next.fetch(arguments, product.start);
    if (Team::kOwnRows) {
        static_assert(!Team::kOwnRows || (S::kNumbers * kTeams * kTeamTile + Team::kGates * kUnits) * sizeof(float) <= kFirstBytes);
        copy_bias<Team::kGates>(own_bias, arguments);
    }
    bool first = true;
    do {
        product.next.template store<S::kNumbers>(arguments, numbers);
        const uint32_t out = product.next.number(arguments, 2);
        team_barrier<Team::kThreads>();
        Team sums;
        if (first) { // without rows, too: its threads copy weights
            product.template multiply<true>(sums);
        } else {
            product.template multiply<false>(sums);
        }
        first = false;
        uint32_t thread = threadIdx.x;
        asm volatile("" : "+r"(thread)); // or what follows from it takes registers of the product
        const uint32_t unit = Team::block(thread) * kBlockUnits + thread % 4 * 4, of_all = blockIdx.x * kUnits + unit;
        finish_layer<typename Team::Storage, kCell, kStates, kKeep, typename Team::template Quads<kKeep>>(
            arguments, [&](int part) -> auto& { return sums.part(part); },
            [&](int n, uint32_t row) {
                return n < S::kNumbers ? numbers[n * kTeamTile + row]
                                       : __shfl_sync(0xffffffffu, out, row % TeamRows<Team::kThreads>::kOfWarp);
            },
            product.start, Team::row(thread), of_all, Team::kOwnRows ? own_bias + unit : arguments.bias + of_all,
            Team::kOwnRows ? kUnits : arguments.units);
        team_barrier<Team::kThreads>(); // nobody reads these row numbers any more
        product.start += product.step();
    } while (product.start < arguments.rows);
}

// All layers of a storage by teams of this kind.
#define STATIONARY(name, Team, keep)                                          \
    STATIONARY_LAYER(merge_lstm_##name, Team, Cell::Lstm, 2, keep)            \
    STATIONARY_LAYER(merge_rnn_##name, Team, Cell::Rnn, 2, keep)              \
    STATIONARY_LAYER(unary_lstm_##name, Team, Cell::Lstm, 1, keep)            \
    STATIONARY_LAYER(unary_rnn_##name, Team, Cell::Rnn, 1, keep)
#define STATIONARY_LAYER(name, Team, cell, states, keep)                                                                 \
    ALONE(name, (kStationaryThreads<Team<Storage, gates_of(cell, states)>>), CellArguments,                              \
          cell_stationary<Team<Storage, gates_of(cell, states)>, cell, states, keep>)
