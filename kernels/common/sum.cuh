// The sum over the threads of a block, in one fixed order.
#pragma once

// Every thread gives `x`, all get the sum; `kSize` threads, a power of two. `scratch` is shared, [kSize].
template <int kSize, class T>
__device__ inline T block_sum(T x, T* scratch) {
    scratch[threadIdx.x] = x;
    __syncthreads();
#pragma unroll
    for (int step = kSize / 2; step > 0; step /= 2) {
        if (threadIdx.x < step) {
            scratch[threadIdx.x] += scratch[threadIdx.x + step];
        }
        __syncthreads();
    }
    const T sum = scratch[0];
    __syncthreads();
    return sum;
}
