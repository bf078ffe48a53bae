// Sums of products in registers, of some rows by a packed block of units.
#pragma once
#include "copy.cuh"
#include "mma.cuh"
#include "storage.cuh"

// z += a * b for two tiles of columns. Of three planes: six products, smallest first, in a sum that starts at 0 and is then
// added with one rounding: a tensor core's own sum truncates, a whole row of them would lose what the planes are there to
// keep.
template <class Storage>
__device__ inline void multiply_add_planes(float (&z0)[4], float (&z1)[4], const uint32_t (&a)[Storage::kPlanes][4],
                                           const uint32_t (&b)[Storage::kPlanes][4]) {
    if constexpr (Storage::kPlanes == 1) {
        Storage::multiply_add(z0, a[0], b[0][0], b[0][1]);
        Storage::multiply_add(z1, a[0], b[0][2], b[0][3]);
    } else {
        float sum[2][4] = {};
#pragma unroll
        for (int order = Storage::kPlanes - 1; order >= 0; --order) {
#pragma unroll
            for (int plane = 0; plane <= order; ++plane) {
                Storage::multiply_add(sum[0], a[order - plane], b[plane][0], b[plane][1]);
                Storage::multiply_add(sum[1], a[order - plane], b[plane][2], b[plane][3]);
            }
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            z0[i] = __fadd_rn(z0[i], sum[0][i]);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            z1[i] = __fadd_rn(z1[i], sum[1][i]);
        }
    }
}

// Sums of rows by a packed block of units with all their gates, in registers. On tensor cores they are a warp's, 16 rows at a
// time; else a thread's, some rows by four units.
template <class Storage, int kGates, int kRows, bool kTensor = Storage::kTensor>
struct Sums;

template <class Storage, int kGates, int kRows>
struct Sums<Storage, kGates, kRows, true> {
    static constexpr int kRowTiles = kRows / 16;
    static constexpr int kPairs = kGates; // of column tiles: 16 units * gates / 16
    static constexpr int kStride = Storage::stride(kGates);

    float z[kRowTiles][2 * kPairs][4];

    __device__ void clear() {
#pragma unroll
        for (auto& row : z) {
            for (auto& tile : row) {
                tile[0] = tile[1] = tile[2] = tile[3] = 0.0f;
            }
        }
    }

    // 16 k. `inputs` and `weights`: where this lane's first rows of fragments lie; the next plane of the inputs and the next
    // 16 rows lie so many bytes further.
    __device__ void multiply(uint32_t inputs, uint32_t next_plane, uint32_t next_rows, uint32_t weights) {
        if constexpr (Storage::kPlanes == 1) {
            uint32_t a[kRowTiles][4];
#pragma unroll
            for (int m = 0; m < kRowTiles; ++m) {
                load_matrices(a[m], inputs + m * next_rows);
            }
#pragma unroll
            for (int pair = 0; pair < kPairs; ++pair) {
                uint32_t b[4];
                load_weights(b, weights, 0, pair);
#pragma unroll
                for (int m = 0; m < kRowTiles; ++m) {
                    Storage::multiply_add(z[m][2 * pair], a[m], b[0], b[1]);
                    Storage::multiply_add(z[m][2 * pair + 1], a[m], b[2], b[3]);
                }
            }
        } else {
#pragma unroll
            for (int m = 0; m < kRowTiles; ++m) {
                uint32_t a[Storage::kPlanes][4];
#pragma unroll
                for (int plane = 0; plane < Storage::kPlanes; ++plane) {
                    load_matrices(a[plane], inputs + (plane * next_plane + m * next_rows));
                }
#pragma unroll
                for (int pair = 0; pair < kPairs; ++pair) {
                    uint32_t b[Storage::kPlanes][4];
#pragma unroll
                    for (int plane = 0; plane < Storage::kPlanes; ++plane) {
                        load_weights(b[plane], weights, plane, pair);
                    }
                    multiply_add_planes<Storage>(z[m][2 * pair], z[m][2 * pair + 1], a, b);
                }
            }
        }
    }

    __device__ static void load_weights(uint32_t (&b)[4], uint32_t weights, int plane, int pair) {
        load_matrices_transposed(b, weights + (plane * kStageK * kStride + pair * 16) * 2);
    }

    // Quads of units that a thread holds: of rows 8 apart.
    __device__ void read(float (&acc)[kGates][4], int quad) const {
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                acc[gate][e] = z[quad / 2][e / 2 * kGates + gate][quad % 2 * 2 + e % 2];
            }
        }
    }
    // b of a thread's units to all its rows. `halved(gate)`: the sum's half is kept.
    template <class Halved>
    __device__ void add(const float (&b)[kGates][4], Halved halved) {
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const float half = __fmul_rn(0.5f, b[gate][e]);
#pragma unroll
                for (int quad = 0; quad < 2 * kRowTiles; ++quad) {
                    float& sum = z[quad / 2][e / 2 * kGates + gate][quad % 2 * 2 + e % 2];
                    sum = halved(gate) ? __fmaf_rn(0.5f, sum, half) : __fadd_rn(sum, b[gate][e]);
                }
            }
        }
    }
};

template <class Storage, int kGates, int kRows>
struct Sums<Storage, kGates, kRows, false> {
    static constexpr int kStride = Storage::stride(kGates);

    float z[kRows][kGates][4];

    __device__ void clear() {
#pragma unroll
        for (auto& row : z) {
            for (auto& gate : row) {
                gate[0] = gate[1] = gate[2] = gate[3] = 0.0f;
            }
        }
    }

    // Four k. `inputs`: this thread's first row, whose next lies so many bytes further; `weights`: its units.
    __device__ void multiply(uint32_t inputs, uint32_t next_row, uint32_t weights) {
        float a[kRows][4];
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            load_shared(a[i], inputs + i * next_row);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
            for (int gate = 0; gate < kGates; ++gate) {
                float b[4];
                load_shared(b, weights + (j * kStride + gate * kBlockUnits) * 4);
#pragma unroll
                for (int i = 0; i < kRows; ++i) {
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        z[i][gate][e] = __fmaf_rn(a[i][j], b[e], z[i][gate][e]);
                    }
                }
            }
        }
    }

    __device__ void read(float (&acc)[kGates][4], int quad) const {
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                acc[gate][e] = z[quad][gate][e];
            }
        }
    }
};
