// How numbers are kept, h and weights alike: an element, and how many planes of them make a number.
//
//   Bf16, F16   one plane of 16 bits, products on tensor cores
//   Split       an f32 as the sum of three bf16, exactly: 24 bits are 3 times 8; products on tensor cores, six of the nine,
//               what is left out is below 2^-24 of the product
//   Ffma        an f32, products by fused multiply-add
//
// A row of length n is [planes, n]. The packed weights of a layer are
//
//   [blocks of 16 units][stages of 32 k][planes][32 k][stride]
//
// a stage one contiguous piece that lies in shared memory as it does in global memory. `column` places gate and unit in a
// row. On tensor cores a tile of 8 columns is one gate of 8 units, and the units are dealt out such that a thread of a
// warp, which gets two columns of every tile, holds all gates of four consecutive units. The eight columns of padding
// make a row an odd number of 16-byte chunks, so that ldmatrix meets no bank twice.
#pragma once
#include <cstdint>

#include "mma.cuh"

constexpr int kBlockUnits = 16; // units of a packed block, those of a warp on tensor cores
constexpr int kStageK = 32;     // k of a stage

__host__ __device__ constexpr uint32_t divide_up(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

// Two f32 rounded to 16 bits, the first in the low half.
__device__ inline uint32_t to_bf16x2(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
__device__ inline uint32_t to_f16x2(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
__device__ inline float from_bf16(uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }
__device__ inline float from_f16(uint16_t bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

// Where tensor cores want a gate's column of a unit of the block.
__device__ constexpr int tensor_column(int gates, int gate, int unit) {
    const int thread = unit / 4, octet = unit % 4 / 2, parity = unit % 2;
    return (octet * gates + gate) * 8 + thread * 2 + parity;
}

// The other way round: whose column this is.
struct Place {
    uint32_t gate, unit;
};

__device__ constexpr Place tensor_place(uint32_t gates, uint32_t column) {
    const uint32_t tile = column / 8;
    return {tile % gates, column % 8 / 2 * 4 + tile / gates * 2 + column % 2};
}

// One plane of 16 bits.
template <class Format>
struct Narrow {
    using Element = uint16_t;
    static constexpr bool kTensor = true;
    static constexpr bool kCoarse = true; // 16 bits do not see what tanh.approx loses
    static constexpr bool kIsBf16 = Format::kIsBf16;
    static constexpr int kPlanes = 1;
    static constexpr int kStages = 4;
    static constexpr int kPerChunk = 8; // elements of 16 bytes

    __host__ __device__ static constexpr int stride(int gates) { return kBlockUnits * gates + 8; }
    __device__ static constexpr int column(int gates, int gate, int unit) { return tensor_column(gates, gate, unit); }
    __device__ static constexpr Place place(uint32_t gates, uint32_t column) { return tensor_place(gates, column); }

    __device__ static float load(const Element* at, size_t) { return Format::widen(*at); }
    __device__ static void load4(float (&x)[4], const Element* at, size_t) {
        const uint2 pairs = *reinterpret_cast<const uint2*>(at);
        Format::widen_pair(pairs.x, x[0], x[1]);
        Format::widen_pair(pairs.y, x[2], x[3]);
    }
    __device__ static void store(Element* at, size_t, float x) { *at = static_cast<Element>(Format::pair(x, 0.0f)); }
    __device__ static void store4(Element* at, size_t, const float (&x)[4]) {
        *reinterpret_cast<uint2*>(at) = make_uint2(Format::pair(x[0], x[1]), Format::pair(x[2], x[3]));
    }
    // 16 bytes a plane.
    __device__ static void store_chunk(Element* at, size_t, const float (&x)[kPerChunk]) {
        *reinterpret_cast<uint4*>(at) = make_uint4(Format::pair(x[0], x[1]), Format::pair(x[2], x[3]), Format::pair(x[4], x[5]),
                                                   Format::pair(x[6], x[7]));
    }
    __device__ static void multiply_add(float (&z)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        Format::multiply_add(z, a, b0, b1);
    }
};

struct Bf16Format {
    static constexpr bool kIsBf16 = true;
    __device__ static float widen(uint16_t bits) { return from_bf16(bits); }
    __device__ static void widen_pair(uint32_t pair, float& low, float& high) {
        low = __uint_as_float(pair << 16);
        high = __uint_as_float(pair & 0xffff0000u);
    }
    __device__ static uint32_t pair(float low, float high) { return to_bf16x2(low, high); }
    __device__ static void multiply_add(float (&z)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        multiply_add_bf16(z, a, b0, b1);
    }
};
struct F16Format {
    static constexpr bool kIsBf16 = false;
    __device__ static float widen(uint16_t bits) { return from_f16(bits); }
    __device__ static void widen_pair(uint32_t pair, float& low, float& high) {
        low = from_f16(static_cast<uint16_t>(pair));
        high = from_f16(static_cast<uint16_t>(pair >> 16));
    }
    __device__ static uint32_t pair(float low, float high) { return to_f16x2(low, high); }
    __device__ static void multiply_add(float (&z)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        multiply_add_f16(z, a, b0, b1);
    }
};
using Bf16 = Narrow<Bf16Format>;
using F16 = Narrow<F16Format>;

struct Split {
    using Element = uint16_t;
    static constexpr bool kTensor = true;
    static constexpr bool kCoarse = false;
    static constexpr int kPlanes = 3;
    static constexpr int kStages = 2;
    static constexpr int kPerChunk = 8;

    __host__ __device__ static constexpr int stride(int gates) { return kBlockUnits * gates + 8; }
    __device__ static constexpr int column(int gates, int gate, int unit) { return tensor_column(gates, gate, unit); }
    __device__ static constexpr Place place(uint32_t gates, uint32_t column) { return tensor_place(gates, column); }

    // Exact, in whichever order.
    __device__ static float load(const Element* at, size_t plane) {
        return __fadd_rn(__fadd_rn(from_bf16(at[2 * plane]), from_bf16(at[plane])), from_bf16(at[0]));
    }
    __device__ static void load4(float (&x)[4], const Element* at, size_t plane) {
        x[0] = x[1] = x[2] = x[3] = 0.0f;
#pragma unroll
        for (int p = kPlanes - 1; p >= 0; --p) {
            float part[4];
            Bf16::load4(part, at + p * plane, 0);
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                x[e] = __fadd_rn(x[e], part[e]);
            }
        }
    }
    __device__ static void store(Element* at, size_t plane, float x) {
        for (int p = 0; p < kPlanes; ++p) {
            const uint16_t part = static_cast<uint16_t>(to_bf16x2(x, 0.0f));
            at[p * plane] = part;
            x = __fsub_rn(x, from_bf16(part));
        }
    }
    __device__ static void store4(Element* at, size_t plane, const float (&values)[4]) {
        float x[4] = {values[0], values[1], values[2], values[3]};
        for (int p = 0; p < kPlanes; ++p) {
            const uint2 parts = make_uint2(to_bf16x2(x[0], x[1]), to_bf16x2(x[2], x[3]));
            *reinterpret_cast<uint2*>(at + p * plane) = parts;
            x[0] = __fsub_rn(x[0], __uint_as_float(parts.x << 16));
            x[1] = __fsub_rn(x[1], __uint_as_float(parts.x & 0xffff0000u));
            x[2] = __fsub_rn(x[2], __uint_as_float(parts.y << 16));
            x[3] = __fsub_rn(x[3], __uint_as_float(parts.y & 0xffff0000u));
        }
    }
    __device__ static void store_chunk(Element* at, size_t plane, const float (&values)[kPerChunk]) {
        float x[kPerChunk];
#pragma unroll
        for (int e = 0; e < kPerChunk; ++e) {
            x[e] = values[e];
        }
#pragma unroll
        for (int p = 0; p < kPlanes; ++p) {
            uint32_t parts[kPerChunk / 2];
#pragma unroll
            for (int e = 0; e < kPerChunk; e += 2) {
                parts[e / 2] = to_bf16x2(x[e], x[e + 1]);
                x[e] = __fsub_rn(x[e], __uint_as_float(parts[e / 2] << 16));
                x[e + 1] = __fsub_rn(x[e + 1], __uint_as_float(parts[e / 2] & 0xffff0000u));
            }
            *reinterpret_cast<uint4*>(at + p * plane) = make_uint4(parts[0], parts[1], parts[2], parts[3]);
        }
    }
    __device__ static void multiply_add(float (&z)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        multiply_add_bf16(z, a, b0, b1);
    }
};

struct Ffma {
    using Element = float;
    static constexpr bool kTensor = false;
    static constexpr bool kCoarse = false;
    static constexpr int kPlanes = 1;
    static constexpr int kStages = 2;
    static constexpr int kPerChunk = 4;

    __host__ __device__ static constexpr int stride(int gates) { return kBlockUnits * gates; }
    __device__ static constexpr int column(int, int gate, int unit) { return gate * kBlockUnits + unit; }
    __device__ static constexpr Place place(uint32_t, uint32_t column) { return {column / kBlockUnits, column % kBlockUnits}; }

    __device__ static float load(const Element* at, size_t) { return *at; }
    __device__ static void load4(float (&x)[4], const Element* at, size_t) {
        const float4 v = *reinterpret_cast<const float4*>(at);
        x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    }
    __device__ static void store(Element* at, size_t, float x) { *at = x; }
    __device__ static void store4(Element* at, size_t, const float (&x)[4]) {
        *reinterpret_cast<float4*>(at) = make_float4(x[0], x[1], x[2], x[3]);
    }
    __device__ static void store_chunk(Element* at, size_t, const float (&x)[kPerChunk]) { store4(at, 0, x); }
};
