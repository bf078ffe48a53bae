// What a file of kernels is compiled for, and how it names one. build.rs compiles it once a storage, PR_LSTM_STORAGE.
#pragma once
#include "order.cuh"
#include "product.cuh"
#include "walk.cuh"

#if PR_LSTM_STORAGE == 0
using Storage = Bf16;
#elif PR_LSTM_STORAGE == 1
using Storage = F16;
#elif PR_LSTM_STORAGE == 2
using Storage = Split;
#elif PR_LSTM_STORAGE == 3
using Storage = Ffma;
#else
#error "PR_LSTM_STORAGE is 0 (bf16), 1 (f16), 2 (split) or 3 (ffma)"
#endif

#define KERNEL(name, Arguments, ...)                                                                 \
    extern "C" __global__ void name(const __grid_constant__ Arguments arguments) {                   \
        await_last_launch();                                                                         \
        __VA_ARGS__(arguments);                                                                      \
    }
// In tiles of rows, two blocks a multiprocessor. They wait by themselves.
#define TILED(name, tile, Arguments, ...)                                                                        \
    extern "C" __global__ void __launch_bounds__(Tile<tile>::kThreads, 2) name(const __grid_constant__ Arguments arguments) { \
        __VA_ARGS__(arguments);                                                                                  \
    }
// With a multiprocessor to themselves. They wait by themselves.
#define ALONE(name, threads, Arguments, ...)                                                                           \
    extern "C" __global__ void __launch_bounds__(threads, 1) name(const __grid_constant__ Arguments arguments) {  \
        __VA_ARGS__(arguments);                                                                                       \
    }
// Of so many threads, so many blocks a multiprocessor: registers enough for all loads that are to be under way at once.
#define BLOCKS(name, threads, blocks, Arguments, ...)                                                                 \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Arguments arguments) { \
        await_last_launch();                                                                                          \
        __VA_ARGS__(arguments);                                                                                       \
    }
