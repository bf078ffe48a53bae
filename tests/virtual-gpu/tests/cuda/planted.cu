// Kernels with one planted bug each, and their mended twins (`ok_...`).
#include <cuda_bf16.h>
#include <stdint.h>
#include <stdio.h>

#define KERNEL extern "C" __global__ void

// Out of bounds in device memory: one element behind the last.
KERNEL bad_global_bounds(const float *in, float *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) out[i] = in[i];
}
KERNEL ok_global_bounds(const float *in, float *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = in[i];
}

// Out of bounds in shared memory.
KERNEL bad_shared_bounds(const float *in, float *out, int n) {
    __shared__ float tile[64];
    int i = threadIdx.x;
    tile[i + (n == 64 ? 1 : 0)] = in[i];
    __syncthreads();
    out[i] = tile[63 - i + (n == 64 ? 1 : 0)];
}
KERNEL ok_shared_bounds(const float *in, float *out, int n) {
    __shared__ float tile[64];
    int i = threadIdx.x;
    tile[i + (n == 65 ? 1 : 0)] = in[i];
    __syncthreads();
    out[i] = tile[63 - i + (n == 65 ? 1 : 0)];
}

// A vector load at an address that is no multiple of its size.
KERNEL bad_misaligned(const float *in, float *out, int n) {
    int i = threadIdx.x;
    float2 v = *(const float2 *)(in + i + 1);
    if (i < n) out[i] = __fadd_rn(v.x, v.y);
}
KERNEL ok_misaligned(const float *in, float *out, int n) {
    int i = threadIdx.x;
    float2 v = *(const float2 *)(in + 2 * (i / 2));
    if (i < n) out[i] = __fadd_rn(v.x, v.y);
}

// Shared memory that nobody wrote.
KERNEL bad_uninitialised_shared(const float *in, float *out, int n) {
    __shared__ float tile[64];
    int i = threadIdx.x;
    if (i < n - 1) tile[i] = in[i];
    __syncthreads();
    out[i] = tile[i];
}
KERNEL ok_uninitialised_shared(const float *in, float *out, int n) {
    __shared__ float tile[64];
    int i = threadIdx.x;
    if (i < n) tile[i] = in[i];
    __syncthreads();
    out[i] = tile[i];
}

// Device memory that nobody wrote: `out` is read before it is written.
KERNEL bad_uninitialised_global(const float *in, float *out, int n) {
    int i = threadIdx.x;
    out[i] = in[i] + out[i] * n;
}
KERNEL ok_uninitialised_global(const float *in, float *out, int n) {
    int i = threadIdx.x;
    out[i] = in[i] * n;
}

// Local memory that nobody wrote.
KERNEL bad_uninitialised_local(const float *in, float *out, int n) {
    float own[8];
    for (int k = 0; k < (n & 7); k++) own[k] = in[threadIdx.x] * k;
    out[threadIdx.x] = own[(int)in[0] + 5];
}
KERNEL ok_uninitialised_local(const float *in, float *out, int n) {
    float own[8];
    for (int k = 0; k < 8; k++) own[k] = in[threadIdx.x] * k;
    out[threadIdx.x] = own[((int)in[0] + 5 + n) & 7];
}

// A barrier left out between writing and reading a tile, several tiles one after another.
template <bool first, bool second> __device__ void tiles(const float *in, float *out, int n) {
    __shared__ float tile[64];
    int i = threadIdx.x;
    float sum = 0;
    for (int step = 0; step < 4; step++) {
        tile[i] = in[i] + step;
        if (first) __syncthreads();
        sum += tile[(i + 33) % 64];
        if (second) __syncthreads();
    }
    if (i < n) out[i] = sum;
}
KERNEL bad_missing_barrier(const float *in, float *out, int n) { tiles<false, true>(in, out, n); }
KERNEL bad_missing_second_barrier(const float *in, float *out, int n) { tiles<true, false>(in, out, n); }
KERNEL ok_missing_barrier(const float *in, float *out, int n) { tiles<true, true>(in, out, n); }

// Lanes of one warp that talk through shared memory without a warp barrier.
template <bool sync> __device__ void neighbours(const float *in, float *out, int n) {
    __shared__ float tile[64];
    int i = threadIdx.x;
    tile[i] = in[i];
    if (sync) __syncwarp();
    if (i < n) out[i] = tile[i ^ 1];
}
KERNEL bad_missing_warp_barrier(const float *in, float *out, int n) { neighbours<false>(in, out, n); }
KERNEL ok_missing_warp_barrier(const float *in, float *out, int n) { neighbours<true>(in, out, n); }

// An asynchronous copy that is read before it was waited for, or waited for one group too few.
template <int keep> __device__ void copies(const float *in, float *out, int n) {
    __shared__ __align__(16) float tile[3][64];
    int i = threadIdx.x;
    for (int s = 0; s < 3; s++) {
        if (i < 16) {
            uint32_t to = (uint32_t)__cvta_generic_to_shared(&tile[s][4 * i]);
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(in + 4 * i) : "memory");
        }
        asm volatile("cp.async.commit_group;\n" ::: "memory");
    }
    if (keep < 3) asm volatile("cp.async.wait_group %0;\n" ::"n"(keep) : "memory");
    __syncthreads();
    float sum = tile[0][63 - i];
    if (n == 64) sum += tile[1][i];
    out[i] = sum;
}
KERNEL bad_missing_wait(const float *in, float *out, int n) { copies<3>(in, out, n); }
KERNEL bad_wait_of_one_group_less(const float *in, float *out, int n) { copies<2>(in, out, n); }
KERNEL ok_missing_wait(const float *in, float *out, int n) { copies<1>(in, out, n); }

// The wait is there, but no barrier after it: others' copies are not to be relied on.
KERNEL bad_missing_barrier_after_wait(const float *in, float *out, int n) {
    __shared__ __align__(16) float tile[64];
    int i = threadIdx.x;
    if (i < 16) {
        uint32_t to = (uint32_t)__cvta_generic_to_shared(&tile[4 * i]);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(in + 4 * i) : "memory");
    }
    asm volatile("cp.async.wait_all;\n" ::: "memory");
    if (i < n) out[i] = tile[i ^ 32];
}
KERNEL ok_missing_barrier_after_wait(const float *in, float *out, int n) {
    __shared__ __align__(16) float tile[64];
    int i = threadIdx.x;
    if (i < 16) {
        uint32_t to = (uint32_t)__cvta_generic_to_shared(&tile[4 * i]);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(in + 4 * i) : "memory");
    }
    asm volatile("cp.async.wait_all;\n" ::: "memory");
    __syncthreads();
    if (i < n) out[i] = tile[i ^ 32];
}

// A block reads what another block of the launch writes.
KERNEL bad_race_between_blocks(const float *in, float *out, int n) {
    int i = threadIdx.x;
    if (blockIdx.x == 0) out[i] = in[i];
    else out[64 + i] = out[i] * n;
}
KERNEL ok_race_between_blocks(const float *in, float *out, int n) {
    int i = threadIdx.x;
    if (blockIdx.x == 0) out[i] = in[i];
    else out[64 + i] = in[i] * n;
}

// Two blocks write the same place.
KERNEL bad_two_writers(const float *in, float *out, int n) {
    int i = threadIdx.x;
    out[i + (n == 64 ? 0 : 64) * blockIdx.x] = in[i] + blockIdx.x;
}
KERNEL ok_two_writers(const float *in, float *out, int n) {
    int i = threadIdx.x;
    out[i + (n == 64 ? 64 : 0) * blockIdx.x] = in[i] + blockIdx.x;
}

// Neighbouring blocks that share a word, but no half of it: no bug at all.
KERNEL ok_halves_of_a_word(const float *in, float *out, int n) {
    unsigned short *halves = (unsigned short *)out;
    int i = 65 * blockIdx.x + threadIdx.x;
    halves[i] = (unsigned short)in[threadIdx.x];
    if (threadIdx.x == 0) halves[i + 64] = (unsigned short)n;
}

// Half of the threads do not come to the barrier.
KERNEL bad_barrier(const float *in, float *out, int n) {
    __shared__ float tile[64];
    int i = threadIdx.x;
    tile[i] = in[i];
    if (i >= n - 32) return;
    __syncthreads();
    out[i] = tile[63 - i];
}
KERNEL ok_barrier(const float *in, float *out, int n) {
    __shared__ float tile[64];
    int i = threadIdx.x;
    tile[i] = in[i];
    __syncthreads();
    if (i >= n - 32) return;
    out[i] = tile[63 - i];
}

// A barrier in one branch of a warp only.
KERNEL bad_barrier_in_a_branch(const float *in, float *out, int n) {
    __shared__ float tile[64];
    int i = threadIdx.x;
    tile[i] = in[i];
    if (i & 1) {
        __syncthreads();
        tile[i] += n;
    }
    out[i] = tile[i];
}

// Memory that the launch writes, read through the constant path.
KERNEL bad_constant_path(const float *in, float *out, int n) {
    int i = threadIdx.x;
    out[i] = in[i];
    __syncthreads();
    out[64 + i] = __ldg(out + (n - 1 - i));
}
KERNEL ok_constant_path(const float *in, float *out, int n) {
    int i = threadIdx.x;
    out[i] = in[i];
    __syncthreads();
    out[64 + i] = __ldg(in + (n - 1 - i));
}

// A grid barrier of our own (cooperative launch): phases in which each block reads what another wrote.
template <bool fence, bool wait> __device__ void phases(const float *in, float *out, int n) {
    unsigned *count = (unsigned *)(out + 4096);
    int i = threadIdx.x, b = blockIdx.x, blocks = gridDim.x;
    out[64 * b + i] = in[i];
    for (int phase = 1; phase <= 3; phase++) {
        __syncthreads();
        if (i == 0) {
            if (fence) asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(count) : "memory");
            else asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(count) : "memory");
            unsigned seen = 0;
            while (wait && seen < phase * blocks) asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(count) : "memory");
        }
        __syncthreads();
        float *from = out + (phase & 1 ? 0 : 2048), *to = out + (phase & 1 ? 2048 : 0);
        to[64 * b + i] = from[64 * ((b + 1) % blocks) + i] + n;
    }
}
KERNEL bad_grid_barrier_without_release(const float *in, float *out, int n) { phases<false, true>(in, out, n); }
KERNEL bad_grid_barrier_without_wait(const float *in, float *out, int n) { phases<true, false>(in, out, n); }
KERNEL ok_grid_barrier(const float *in, float *out, int n) { phases<true, true>(in, out, n); }

// The same with fences and relaxed operations, as cooperative groups do it.
KERNEL ok_grid_barrier_with_fences(const float *in, float *out, int n) {
    unsigned *count = (unsigned *)(out + 4096);
    int i = threadIdx.x, b = blockIdx.x, blocks = gridDim.x;
    out[64 * b + i] = in[i];
    __syncthreads();
    if (i == 0) {
        __threadfence();
        atomicAdd(count, 1);
        while (*(volatile unsigned *)count < blocks) {}
        __threadfence();
    }
    __syncthreads();
    out[2048 + 64 * b + i] = out[64 * ((b + 1) % blocks) + i] + n;
}

// One thread writes device memory, another of its block reads it, with no barrier between; in the same warp, too.
template <bool sync, int other> __device__ void through_memory(const float *in, float *out, int n) {
    int i = threadIdx.x;
    float sum = 0;
    for (int step = 0; step < 3; step++) {
        out[i] = in[i] + step;
        if (sync) __syncthreads();
        sum += out[i ^ other];
        if (sync) __syncthreads();
    }
    out[n + i] = sum;
}
KERNEL bad_memory_without_barrier(const float *in, float *out, int n) { through_memory<false, 32>(in, out, n); }
KERNEL bad_memory_without_warp_barrier(const float *in, float *out, int n) { through_memory<false, 1>(in, out, n); }
// Lanes in another order than the bytes: no lane reads what it wrote itself.
KERNEL bad_memory_between_lanes(const float *in, float *out, int n) {
    int i = threadIdx.x;
    out[i ^ 1] = in[i];
    out[n + i] = out[i ^ 2];
}
KERNEL ok_memory_with_barrier(const float *in, float *out, int n) { through_memory<true, 33>(in, out, n); }

// The barrier before the next write is missing: what others still read is overwritten.
template <bool sync> __device__ void overwritten(const float *in, float *out, int n) {
    int i = threadIdx.x;
    float sum = 0;
    for (int step = 0; step < 3; step++) {
        sum += in[i ^ 32];
        if (sync) __syncthreads();
        ((float *)in)[i] = sum;
        __syncthreads();
    }
    out[i] = sum + n;
}
KERNEL bad_memory_overwritten(const float *in, float *out, int n) { overwritten<false>(in, out, n); }
KERNEL ok_memory_overwritten(const float *in, float *out, int n) { overwritten<true>(in, out, n); }

// Every thread changes what is its own, in accesses of different widths: no bug, and no barrier needed.
KERNEL ok_memory_of_one_thread(const float *in, float *out, int n) {
    int i = threadIdx.x;
    volatile float *a = (float *)in;
    for (int step = 0; step < 3; step++) a[i] = a[i] + n;
    float4 *four = (float4 *)(out + 4 * i);
    for (int k = 0; k < 4; k++) out[4 * i + k] = a[i] + k;
    float4 v = *four;
    v.x += v.w;
    *four = v;
    unsigned short *halves = (unsigned short *)(out + 512 + i);
    halves[1] = n;
    halves[0] = i;
    *(unsigned *)halves += 1;
}

// Two lanes write different values to one place at once.
KERNEL bad_lanes_at_one_place(const float *in, float *out, int n) { out[threadIdx.x & (n - 2)] = in[threadIdx.x]; }
KERNEL ok_lanes_at_one_place(const float *in, float *out, int n) { out[threadIdx.x & (n - 2)] = n; }

// Atomic operations in shared memory, and a plain read of their sum with and without a barrier.
template <bool sync> __device__ void counted(const float *in, float *out, int n) {
    __shared__ unsigned count;
    int i = threadIdx.x;
    if (i == 0) count = 0;
    __syncthreads();
    atomicAdd(&count, (unsigned)in[i]);
    if (sync) __syncthreads();
    out[i] = count + n;
}
KERNEL bad_shared_atomics(const float *in, float *out, int n) { counted<false>(in, out, n); }
KERNEL ok_shared_atomics(const float *in, float *out, int n) { counted<true>(in, out, n); }

// A resident kernel: blocks that live together walk many steps, with a barrier of our own whose epoch only grows.
// `before`, `after`: the block's own barriers around it. `how`: 0 release and acquire, 1 both for the block only,
// 2 relaxed with fences, 3 relaxed with fences for the block only, 4 acquire left out, 5 a plain store as release.
template <bool before, bool after, int how> __device__ void resident(const float *in, float *out, int n) {
    unsigned *count = (unsigned *)(out + 4096);
    int i = threadIdx.x, b = blockIdx.x, blocks = gridDim.x;
    out[64 * b + i] = in[i];
    for (int step = 1; step <= 6; step++) {
        if (before) __syncthreads();
        if (i == 0) {
            unsigned seen = 0;
            if (how == 2) __threadfence();
            if (how == 3) __threadfence_block();
            if (how == 1) asm volatile("red.release.cta.global.add.u32 [%0], 1;" ::"l"(count) : "memory");
            else if (how == 2 || how == 3) asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(count) : "memory");
            else asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(count) : "memory");
            while (seen < step * blocks) {
                if (how == 0) asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(count) : "memory");
                else if (how == 1) asm volatile("ld.acquire.cta.global.u32 %0, [%1];" : "=r"(seen) : "l"(count) : "memory");
                else asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(count) : "memory");
            }
            if (how == 2) __threadfence();
            if (how == 3) __threadfence_block();
        }
        if (after) __syncthreads();
        float *from = out + (step & 1 ? 0 : 2048), *to = out + (step & 1 ? 2048 : 0);
        to[64 * b + i] = from[64 * ((b + step) % blocks) + (i ^ 32)] + n;
    }
}
KERNEL bad_grid_barrier_before_the_block(const float *in, float *out, int n) { resident<false, true, 0>(in, out, n); }
KERNEL bad_grid_barrier_without_the_block(const float *in, float *out, int n) { resident<true, false, 0>(in, out, n); }
KERNEL bad_grid_barrier_of_a_block(const float *in, float *out, int n) { resident<true, true, 1>(in, out, n); }
KERNEL bad_grid_barrier_with_block_fences(const float *in, float *out, int n) { resident<true, true, 3>(in, out, n); }
KERNEL bad_grid_barrier_without_acquire(const float *in, float *out, int n) { resident<true, true, 4>(in, out, n); }
KERNEL ok_grid_barrier_resident(const float *in, float *out, int n) { resident<true, true, 0>(in, out, n); }
KERNEL ok_grid_barrier_resident_with_fences(const float *in, float *out, int n) { resident<true, true, 2>(in, out, n); }

// A block hands its row to the next by a flag; another thread's relaxed store to the flag takes the release back.
template <int how> __device__ void handed_on(const float *in, float *out, int n) {
    unsigned *flags = (unsigned *)(out + 4096);
    int i = threadIdx.x, b = blockIdx.x;
    float v = in[i];
    if (b > 0) {
        if (i == 0) {
            unsigned seen = 0;
            // Not even by chance the value that was released.
            while (how == 2 && seen != 2) asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flags + b - 1) : "memory");
            seen = 0;
            while (seen != (how == 2 || how == 3 ? 2 : 1)) asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flags + b - 1) : "memory");
        }
        __syncthreads();
        v += out[64 * (b - 1) + 63 - i];
    }
    out[64 * b + i] = v;
    __syncthreads();
    if (i == 0) {
        if (how != 1) asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(flags + b) : "memory");
        else asm volatile("st.relaxed.gpu.global.u32 [%0], 1;" ::"l"(flags + b) : "memory");
    }
    if (how == 2 && i == 32) {
        unsigned seen = 0;
        while (seen != 1) asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flags + b) : "memory");
        asm volatile("st.relaxed.gpu.global.u32 [%0], 2;" ::"l"(flags + b) : "memory");
    }
    if (how == 4 && i < 32) out[64 * b + i] = v;
    // The thread that released may store again: what reads the later value has still been told.
    if (how == 3 && i == 0) asm volatile("st.relaxed.gpu.global.u32 [%0], 2;" ::"l"(flags + b) : "memory");
}
KERNEL bad_grid_flag_without_release(const float *in, float *out, int n) { handed_on<1>(in, out, n); }
KERNEL bad_grid_flag_too_early(const float *in, float *out, int n) { handed_on<4>(in, out, n); }
KERNEL bad_grid_flag_taken_back(const float *in, float *out, int n) { handed_on<2>(in, out, n); }
KERNEL ok_grid_flag_stored_again(const float *in, float *out, int n) { handed_on<3>(in, out, n); }
KERNEL ok_grid_flag(const float *in, float *out, int n) { handed_on<0>(in, out, n); }

// A loop that does not end.
KERNEL bad_endless(const float *in, float *out, int n) {
    while (*(volatile const float *)in >= 0) {}
    out[threadIdx.x] = n;
}

// printf is not there.
KERNEL bad_printf(const float *in, float *out, int n) {
    out[threadIdx.x] = in[threadIdx.x];
    if (n == 64) printf("x");
}

// A product and a sum that a compiler may contract.
KERNEL bad_bare_float(const float *in, float *out, int n) { out[threadIdx.x] = in[threadIdx.x] * n; }
KERNEL ok_bare_float(const float *in, float *out, int n) { out[threadIdx.x] = __fmul_rn(in[threadIdx.x], n); }
