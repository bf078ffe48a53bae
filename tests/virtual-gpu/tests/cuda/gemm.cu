// C = A·B with the instructions that the library's kernels use: cp.async in two stages, ldmatrix, mma.sync.
#include <cuda_bf16.h>
#include <stdint.h>

extern "C" __global__ void vector_add(const float *a, const float *b, float *c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = __fadd_rn(a[i], b[i]);
}

__device__ __forceinline__ void copy16(uint32_t to, const void *from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

constexpr int BM = 64, BN = 64, BK = 32;

// A: [M, K], B: [K, N], C: [M, N]; K a multiple of 32, N of 64, any M.
extern "C" __global__ void __launch_bounds__(128)
gemm(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c, int m, int n, int k) {
    extern __shared__ __align__(128) unsigned char memory[];
    __nv_bfloat16 *as = (__nv_bfloat16 *)memory;
    __nv_bfloat16 *bs = as + 2 * BM * BK;
    int t = threadIdx.x, warp = t / 32, lane = t % 32;
    int row0 = blockIdx.y * BM, column0 = blockIdx.x * BN;
    float sum[2][4][4] = {};
    auto load = [&](int stage, int k0) {
#pragma unroll
        for (int i = t; i < BM * BK / 8; i += 128) {
            int r = i / (BK / 8), x = i % (BK / 8);
            bool inside = row0 + r < m;
            auto to = as + stage * BM * BK + r * BK + (x ^ ((r >> 1) & 3)) * 8;
            copy16((uint32_t)__cvta_generic_to_shared(to), a + (size_t)(inside ? row0 + r : 0) * k + k0 + x * 8,
                   inside ? 16 : 0);
        }
#pragma unroll
        for (int i = t; i < BK * BN / 8; i += 128) {
            int r = i / (BN / 8), x = i % (BN / 8);
            auto to = bs + stage * BK * BN + r * BN + (x ^ (r & 7)) * 8;
            copy16((uint32_t)__cvta_generic_to_shared(to), b + (size_t)(k0 + r) * n + column0 + x * 8, 16);
        }
        asm volatile("cp.async.commit_group;\n" ::: "memory");
    };
    load(0, 0);
    int steps = k / BK;
    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) {
            load((step + 1) & 1, (step + 1) * BK);
            asm volatile("cp.async.wait_group 1;\n" ::: "memory");
        } else {
            asm volatile("cp.async.wait_group 0;\n" ::: "memory");
        }
        __syncthreads();
        auto at = as + (step & 1) * BM * BK, bt = bs + (step & 1) * BK * BN;
#pragma unroll
        for (int kk = 0; kk < BK; kk += 16) {
            uint32_t fa[2][4], fb[4][2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                int r = (warp / 2) * 32 + i * 16 + lane % 16, x = kk / 8 + lane / 16;
                auto from = (uint32_t)__cvta_generic_to_shared(at + r * BK + (x ^ ((r >> 1) & 3)) * 8);
                asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                             : "=r"(fa[i][0]), "=r"(fa[i][1]), "=r"(fa[i][2]), "=r"(fa[i][3]) : "r"(from));
            }
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int r = kk + lane % 16, x = (warp % 2) * 4 + j * 2 + lane / 16;
                auto from = (uint32_t)__cvta_generic_to_shared(bt + r * BN + (x ^ (r & 7)) * 8);
                asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                             : "=r"(fb[2 * j][0]), "=r"(fb[2 * j][1]), "=r"(fb[2 * j + 1][0]), "=r"(fb[2 * j + 1][1]) : "r"(from));
            }
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                                 : "+f"(sum[i][j][0]), "+f"(sum[i][j][1]), "+f"(sum[i][j][2]), "+f"(sum[i][j][3])
                                 : "r"(fa[i][0]), "r"(fa[i][1]), "r"(fa[i][2]), "r"(fa[i][3]), "r"(fb[j][0]), "r"(fb[j][1]));
        }
        __syncthreads();
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int h = 0; h < 2; h++) {
                int r = row0 + (warp / 2) * 32 + i * 16 + lane / 4 + h * 8;
                int x = column0 + (warp % 2) * 32 + j * 8 + (lane % 4) * 2;
                if (r < m) *(float2 *)(c + (size_t)r * n + x) = make_float2(sum[i][j][2 * h], sum[i][j][2 * h + 1]);
            }
}
