// What `wgmma` alone does: a stage of inputs times a stage of weights, over and over, as an LSTM's merge has them. No traffic but what
// is measured, so that its fences have nothing else to wait for: those of a layer may cost more. A block is one warpgroup.
#include "common/team_wgmma.cuh"

using Team = Wgmma<Bf16, 5>;

// `rounds` times the products of a stage, each round waited for. A block's clocks go to `clocks`, a sum of every thread's to `sums`.
extern "C" __global__ void __launch_bounds__(Team::kThreads) wgmma(float* sums, unsigned long long* clocks, uint32_t rounds) {
    __shared__ __align__(1024) uint32_t memory[(kTeamStageBytes + Team::Weights::kStageBytes) / 4];
    for (uint32_t i = threadIdx.x; i < sizeof(memory) / 4; i += Team::kThreads) {
        memory[i] = 0x3c003c00u + i % 32; // small, and not 0: a card draws less for zeros
    }
    const uint32_t stage = shared_address(memory);
    Team::publish();
    __syncthreads();
    Team team;
    team.begin(stage, stage + kTeamStageBytes, kTeamStageK);
    const uint64_t weights = team.piece;
    const long long start = clock64();
#pragma unroll 1
    for (uint32_t round = 0; round < rounds; ++round) {
        team.piece = weights;
        team.multiply(stage, stage, false, [] { Team::publish(); });
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        clocks[blockIdx.x] = clock64() - start;
    }
    float sum = 0.0f;
#pragma unroll
    for (int gate = 0; gate < 2 * Team::kGates; ++gate) {
        const float(&z)[4] = team.sums[gate / Team::kGates].z[0][gate];
        sum += z[0] + z[1] + z[2] + z[3];
    }
    sums[blockIdx.x * Team::kThreads + threadIdx.x] = sum;
}
