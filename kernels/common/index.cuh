// Threads numbered through, as rows and places in them.
#pragma once
#include <cstdint>

struct Index {
    uint32_t row, place;
};

// This thread's row and place, of rows of `length` threads. A 64-bit division takes a hundred instructions, and a launch of
// that many threads is rare.
__device__ inline Index index_of(uint32_t length) {
    const uint64_t thread = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (thread <= 0xffffffffu) {
        const uint32_t narrow = static_cast<uint32_t>(thread), row = narrow / length;
        return {row, narrow - row * length};
    }
    return {static_cast<uint32_t>(thread / length), static_cast<uint32_t>(thread % length)};
}
