// A layer forward of many rows, in one launch: the weights stay, the rows go past.
//
// A block keeps the weights of two packed blocks of units in shared memory. Its teams of warps take tiles of 64 rows, each team
// for itself: while one is at its gates another multiplies, as `Team` says: by mma.sync, or by wgmma. The grid is [two packed
// blocks][blocks that share the rows]. Memory a tile: its inputs (64 * K elements) and c, from L2; a block's weights once, during
// its first tile. An input is in whole stages, two at least.
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
    // `numbers`: [3][kTeamTile] in shared memory.
    __device__ void store(const CellArguments& arguments, uint32_t* numbers) const {
#pragma unroll
        for (int n = 0; n < 3; ++n) {
            if ((n != 1 || kStates == 2) && threadIdx.x % 32 < Rows::kOfWarp) {
                numbers[n * kTeamTile + row()] = number(arguments, n);
            }
        }
    }
};

template <class Team, int kStates>
struct Stationary {
    static constexpr int kInputs = kStates == 2 ? 2 : 1, kThreads = Team::kThreads, kNumbers = 3 * kTeamTile;

    const CellArguments& arguments;
    uint32_t* numbers;    // of the tile's rows
    uint32_t weights;     // in shared memory
    uint32_t here, other; // the team's ring: the stage that is multiplied, and the next
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
            inputs.copy(true, other);
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
#pragma unroll 1
        for (uint32_t left = stages; left > 0; --left) {
            // What is copied next is kTeamStages further.
            if (left == kTeamStages && !last) {
                const uint32_t number = next.number(arguments, 0);
                inputs.point(arguments.input, segment, 0, [&](uint32_t row) { return __shfl_sync(0xffffffffu, number, row); });
            }
            if (kInputs == 2 && left == stages_of_input + kTeamStages) {
                point(1, 0);
            }
            team.multiply(here, other, left > 1, [&] {
                wait_groups<0>();
                meet();
                inputs.copy(left > kTeamStages || !last, here); // nobody reads it any more
                if (kFirst) {
                    weight_copier.copy(left > kTeamStages);
                }
                end_group();
            });
            const uint32_t done = here;
            here = other;
            other = done;
        }
    }
};

template <class Team, Cell kCell, int kStates, bool kKeep>
__device__ inline void cell_stationary(const CellArguments& arguments) {
    static_assert(Team::kGates == gates_of(kCell, kStates));
    using S = Stationary<Team, kStates>;
    extern __shared__ __align__(1024) char memory[];
    const uint32_t team = threadIdx.x / Team::kThreads;
    uint32_t* numbers = reinterpret_cast<uint32_t*>(memory) + team * S::kNumbers;
    const uint32_t rings = shared_address(memory) + kTeams * S::kNumbers * sizeof(uint32_t);
    const uint32_t ring = rings + team * (kTeamStages * kTeamStageBytes);
    const uint32_t weights = rings + kTeams * kTeamStages * kTeamStageBytes;
    S product = {arguments, numbers, weights, ring, ring + kTeamStageBytes, (blockIdx.y * kTeams + team) * kTeamTile};
    product.next.fetch(arguments, product.start);
    bool first = true;
    do {
        product.next.store(arguments, numbers);
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
#pragma unroll
        for (int part = 0; part < Team::kParts; ++part) {
            finish_layer<typename Team::Storage, kCell, kStates, kKeep, Team::kQuads, 8, kKeep ? 1 : Team::kFirst,
                         kKeep ? (Team::kMost > 3 ? 3 : Team::kMost) : Team::kMost, Team::kAdded>(
                arguments, sums.part(part), [&](int n, uint32_t row) { return numbers[n * kTeamTile + row]; }, product.start,
                Team::row(thread), (blockIdx.x * 2 + Team::block(thread, part)) * kBlockUnits + thread % 4 * 4);
        }
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
