// Kernels that do one thing each, for the constants of a model of a GPU's time. No traffic but what is measured.
#include <cstdint>

constexpr int kChains = 8; // independent sums a warp: more than the tensor core's latency wants

// Every warp: `rounds` times kChains products of 16x8x16 in bf16. A block's clocks go to `clocks`.
extern "C" __global__ void __launch_bounds__(256) hmma(float* sums, unsigned long long* clocks, uint32_t rounds) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t one = 0x3c003c00u + lane; // small, and not 0: a card draws less for zeros
    float z[kChains][4] = {};
    __syncthreads();
    const long long start = clock64();
    for (uint32_t round = 0; round < rounds; ++round) {
#pragma unroll
        for (int chain = 0; chain < kChains; ++chain) {
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                         "{%0, %1, %2, %3};"
                         : "+f"(z[chain][0]), "+f"(z[chain][1]), "+f"(z[chain][2]), "+f"(z[chain][3])
                         : "r"(one), "r"(one + 1), "r"(one + 2), "r"(one + 3), "r"(one + chain), "r"(one - chain));
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        clocks[blockIdx.x] = clock64() - start;
    }
    float sum = 0.0f;
#pragma unroll
    for (int chain = 0; chain < kChains; ++chain) {
        sum += z[chain][0] + z[chain][1] + z[chain][2] + z[chain][3];
    }
    sums[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// The whole grid reads `chunks` of 16 bytes `rounds` times, past L1; neighbours in neighbouring threads.
extern "C" __global__ void __launch_bounds__(256) l2(const uint4* from, uint32_t* to, unsigned long long* clocks,
                                                     uint32_t chunks, uint32_t rounds) {
    const uint32_t threads = gridDim.x * blockDim.x, thread = blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t seen = 0;
    __syncthreads();
    const long long start = clock64();
    for (uint32_t round = 0; round < rounds; ++round) {
#pragma unroll 8
        for (uint32_t i = thread; i < chunks; i += threads) {
            uint4 v;
            asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                         : "l"(from + i));
            seen += v.x ^ v.y ^ v.z ^ v.w;
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        clocks[blockIdx.x] = clock64() - start;
    }
    to[thread] = seen;
}

// A cooperative grid meets `rounds` times. `arrived` only grows: it starts at 0 and ends at rounds * blocks.
extern "C" __global__ void __launch_bounds__(256) barrier(uint32_t* arrived, uint32_t rounds) {
    for (uint32_t round = 1; round <= rounds; ++round) {
        __syncthreads();
        if (threadIdx.x == 0) {
            asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(arrived) : "memory");
            uint32_t now;
            do {
                asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(arrived) : "memory");
            } while (now < round * gridDim.x);
        }
        __syncthreads();
    }
}

// A launch that does nothing but count itself: launches of a stream wait for each other.
extern "C" __global__ void nothing(uint32_t* launches) {
    if (threadIdx.x == 0) {
        *launches += 1;
    }
}
