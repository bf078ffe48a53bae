// What the kernels share that walk the whole tree in one launch: a block owns lanes, and what they write no other block
// reads, so that a barrier of the block stands between two steps and no launch.
//
// All weights of its products are in shared memory from the beginning. A tile of a step's rows is brought there whole, and a
// warp multiplies 16 of them by a packed block. Sums run over k as in every product (product.cuh): the bits are the same.
#pragma once
#include "arguments.cuh"
#include "product.cuh"

constexpr uint32_t kWalkThreads = 256;
constexpr uint32_t kWalkWarps = kWalkThreads / 32;

// Shared memory dealt out from its start; the sizes are multiples of 128 bytes, but for the last.
struct SharedMemory {
    char* end;

    __device__ char* take(uint32_t bytes) {
        char* start = end;
        end += bytes;
        return start;
    }
};

// A layer's packed weights as they lie in global memory.
template <class Storage, int kGates>
struct ResidentWeights {
    static constexpr uint32_t kElement = sizeof(typename Storage::Element);
    static constexpr uint32_t kPieceBytes = Storage::kPlanes * kStageK * Storage::stride(kGates) * kElement;

    uint32_t start, blocks, stages;

    __device__ ResidentWeights(SharedMemory& memory, uint32_t blocks, uint32_t k) : blocks(blocks), stages(divide_up(k, kStageK)) {
        start = shared_address(memory.take(bytes()));
    }

    __device__ uint32_t bytes() const { return blocks * stages * kPieceBytes; }
    __device__ uint32_t block(uint32_t block) const { return start + block * stages * kPieceBytes; }

    // Starts the copy.
    __device__ void copy(const void* from) const {
        for (uint32_t at = threadIdx.x * kChunk; at < bytes(); at += kWalkThreads * kChunk) {
            copy_chunk(start + at, static_cast<const char*>(from) + at);
        }
    }
};

// Rows of inputs, [rows][planes][k], each plane whole 128 bytes. The chunks of eight are swizzled by the row such that neither
// ldmatrix, eight rows at one chunk, nor stores of four numbers, by eight rows of four quads, meet a bank twice.
template <class Storage>
struct ResidentRows {
    using Element = typename Storage::Element;
    static constexpr uint32_t kElement = sizeof(Element);

    char* start;
    uint32_t plane_bytes;

    __device__ ResidentRows(SharedMemory& memory, uint32_t rows, uint32_t k) : plane_bytes(divide_up(k * kElement, 128) * 128) {
        start = memory.take(rows * row_bytes());
    }

    __device__ uint32_t row_bytes() const { return Storage::kPlanes * plane_bytes; }
    __device__ static uint32_t swizzle(uint32_t row) { return (row & 1) << 2 | (row & 2) | (row >> 2 & 1); }
    // Byte of a chunk of the first plane.
    __device__ uint32_t at(uint32_t row, uint32_t chunk) const {
        return row * row_bytes() + (chunk ^ swizzle(row)) * kChunk;
    }

    __device__ void store4(uint32_t row, uint32_t k, const float (&x)[4]) const {
        const uint32_t byte = at(row, k / Storage::kPerChunk) + k % Storage::kPerChunk * kElement;
        Storage::store4(reinterpret_cast<Element*>(start + byte), plane_bytes / kElement, x);
    }

    // Sets all rows to 0: what no k is written to counts too where k ends within a stage.
    __device__ void clear(uint32_t rows) const {
        for (uint32_t at = threadIdx.x * kChunk; at < rows * row_bytes(); at += kWalkThreads * kChunk) {
            *reinterpret_cast<uint4*>(start + at) = make_uint4(0, 0, 0, 0);
        }
    }
};

// The quads of units of a warp's 16 rows by a packed block: two a thread, of rows 8 apart.
constexpr int kWarpQuads = 2;
__device__ inline uint32_t warp_row(uint32_t row_tile, uint32_t quad) { return row_tile * 16 + quad * 8 + threadIdx.x % 32 / 4; }
__device__ inline uint32_t warp_unit() { return threadIdx.x % 4 * 4; }

// Quads of f32, of all rows of a tile, for the thread that has the same place in a warp.
struct ResidentQuads {
    float* start;
    uint32_t blocks;

    __device__ ResidentQuads(SharedMemory& memory, uint32_t rows, uint32_t units)
        : start(reinterpret_cast<float*>(memory.take(rows * units * sizeof(float)))), blocks(units / kBlockUnits) {}

    __device__ float* at(uint32_t row_tile, uint32_t block, uint32_t quad) const {
        return start + (((row_tile * blocks + block) * kWarpQuads + quad) * 32 + threadIdx.x % 32) * 4;
    }
};

// 16 rows by a packed block: z = rows * W.
template <class Storage, int kGates>
struct WarpProduct {
    Sums<Storage, kGates, Storage::kTensor ? 16 : kWarpQuads> sums;

    __device__ void run(const ResidentRows<Storage>& rows, uint32_t row_tile, const ResidentWeights<Storage, kGates>& weights,
                        uint32_t block) {
        constexpr uint32_t kStride = Storage::stride(kGates), kElement = sizeof(typename Storage::Element);
        sums.clear();
        const uint32_t lane = threadIdx.x % 32;
        const uint32_t row = row_tile * 16 + (Storage::kTensor ? lane % 16 : lane / 4);
        const uint32_t inputs = shared_address(rows.start) + row * rows.row_bytes(), swizzle = rows.swizzle(row);
        const uint32_t first = Storage::kTensor ? lane % 16 * kStride + lane / 16 * 8 : warp_unit();
        uint32_t piece = weights.block(block) + first * kElement;
#pragma unroll 1
        for (uint32_t stage = 0; stage < weights.stages; ++stage) {
            if constexpr (Storage::kTensor) {
#pragma unroll
                for (uint32_t half = 0; half < 2; ++half) {
                    const uint32_t chunk = (stage * 4 + half * 2) ^ (lane / 16 ^ swizzle);
                    sums.multiply(inputs + chunk * kChunk, rows.plane_bytes, 0, piece + half * (16 * kStride * kElement));
                }
            } else {
#pragma unroll 2
                for (uint32_t chunk = 0; chunk < kStageK / 4; ++chunk) {
                    const uint32_t at = (stage * (kStageK / 4) + chunk) ^ swizzle;
                    sums.multiply(inputs + at * kChunk, 8 * rows.row_bytes(), piece + chunk * (4 * kStride * kElement));
                }
            }
            piece += weights.kPieceBytes;
        }
    }
};

// Tiles of the rows of each step, of the block's lanes, from the first step to the last or back. Where the next step ends is
// fetched a step ahead: nobody waits for it.
template <bool kBack>
struct Walk {
    const uint32_t* ends;
    uint32_t steps, lanes, tile;
    uint32_t step = 0;          // in the order of the walk
    uint32_t near, far, beyond; // borders of this step among the merges, and of the next
    uint32_t start = 0;         // of the tile among the step's rows

    __device__ Walk(const uint32_t* ends, uint32_t steps, uint32_t lanes, uint32_t tile)
        : ends(ends), steps(steps), lanes(lanes), tile(tile), near(kBack ? ends[steps - 1] : 0), far(border(0)), beyond(border(1)) {}

    // Where a step ends that is walked from the other border.
    __device__ uint32_t border(uint32_t of) const {
        if (kBack) {
            return of + 1 < steps ? ends[steps - 2 - of] : 0;
        }
        return of < steps ? ends[of] : 0;
    }

    __device__ bool done() const { return step == steps; }
    __device__ uint32_t first() const { return kBack ? far : near; }
    __device__ uint32_t rows() const { return (kBack ? near - far : far - near) * lanes; }
    // Rows of the tile.
    __device__ uint32_t here() const { return min(rows() - start, tile); }
    __device__ bool ends_step() const { return start + tile >= rows(); }

    __device__ void next() {
        start += tile;
        if (start >= rows()) {
            start = 0;
            ++step;
            near = far;
            far = beyond;
            beyond = border(step + 1);
        }
    }
};

// Row numbers of a tile, one to a thread of the last warps, which narrow steps leave idle. Rows beyond the last repeat it.
struct TileNumbers {
    enum Of { Left, Right, Out, Entry = Out, Row, Count }; // `Row` is the merge's among all of the pass

    uint32_t values[Count];

    __device__ static uint32_t index() { return kWalkThreads - 1 - threadIdx.x; }

    // `out`: null, and the third are the entries of the lists.
    template <bool kBack>
    __device__ void fetch(const Walk<kBack>& walk, const uint32_t* left, const uint32_t* right, const uint32_t* out, uint32_t width,
                          uint32_t first_lane) {
        if (index() < walk.tile && !walk.done()) {
            const uint32_t local = min(walk.start + index(), walk.rows() - 1), merge = local / walk.lanes;
            const uint32_t entry = walk.first() + merge, lane = first_lane + local - merge * walk.lanes;
            values[Left] = left[entry] * width + lane;
            values[Right] = right[entry] * width + lane;
            values[Out] = out == nullptr ? entry : out[entry] * width + lane;
            values[Row] = entry * width + lane;
        }
    }

    template <bool kBack>
    __device__ void store(const Walk<kBack>& walk, uint32_t* numbers) const {
        if (index() < walk.tile && !walk.done()) {
#pragma unroll
            for (int n = 0; n < Count; ++n) {
                numbers[n * walk.tile + index()] = values[n];
            }
        }
    }
};
