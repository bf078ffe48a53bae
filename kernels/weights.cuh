// The gradient of a layer's weights: dW = sum over rows of inputᵀ dz, db = sum of dz.
//
// Rows come in windows of 1024, which go round the chunks: window i is added to chunk i % chunks, and how many chunks there
// are depends on the number of rows only. A block owns a tile of dW, kM inputs by 128 columns, of one chunk, and adds its
// windows to memory one by one, a tensor core's own sum truncating, the last first: so a launch may take a range of windows
// alone, once those above it were added. `reduce` adds the chunks in their order: no atomics, the same bits run after run,
// however the windows were divided among launches. Both operands lie row by row, and rows are k here, so tensor cores read both
// transposed. Memory a block: its rows' inputs and dz, of a row 128 dz and as many inputs, in f32 64.
#pragma once
#include "common/arguments.cuh"
#include "common/product.cuh"

constexpr int kThreads = 128;
constexpr int kN = 128;         // columns of a tile
constexpr int kWindow = 1024;   // rows of a window
constexpr int kGradientRows = 32; // rows of a stage

// A stage: rows of the inputs, then rows of dz, each padded by a chunk.
template <class Storage>
struct GradientStage {
    static constexpr int kElement = sizeof(typename Storage::Element);
    static constexpr int kPerChunk = kChunk / kElement;
    static constexpr int kM = Storage::kTensor && Storage::kPlanes == 1 ? 128 : 64;
    static constexpr int kStages = Storage::kTensor && Storage::kPlanes == 1 ? 4 : 2;
    static constexpr int kInputRow = kM * kElement + kChunk, kColumnRow = kN * kElement + kChunk;
    static constexpr int kInputPlane = kGradientRows * kInputRow, kColumnPlane = kGradientRows * kColumnRow;
    static constexpr int kColumnsAt = Storage::kPlanes * kInputPlane;
    static constexpr int kBytes = kColumnsAt + Storage::kPlanes * kColumnPlane;
};

// A thread's share of the copies of one operand: one chunk of some of a stage's rows, from rows of `length` numbers and
// `kWide` of them from column `first` on; zeros beyond the length and beyond the last row.
template <class Storage, int kWide, int kRowBytes, int kPlaneBytes>
struct RowCopier {
    using Element = typename Storage::Element;
    static constexpr int kChunks = kWide / GradientStage<Storage>::kPerChunk;
    static constexpr int kStep = kThreads / kChunks;

    const char* column; // of row 0
    uint32_t row, to;   // of the first copy: row of the stage, place in it
    uint32_t row_bytes, plane_bytes;
    bool live;

    __device__ RowCopier(const void* from, uint32_t length, uint32_t first)
        : row(keep<Storage>(threadIdx.x / kChunks)), row_bytes(Storage::kPlanes * length * sizeof(Element)),
          plane_bytes(length * sizeof(Element)) {
        const uint32_t chunk = threadIdx.x % kChunks, start = first + chunk * GradientStage<Storage>::kPerChunk;
        live = start < length;
        column = static_cast<const char*>(from) + (live ? start : 0) * sizeof(Element);
        to = keep<Storage>(row * kRowBytes + chunk * kChunk);
    }

    // Starts the copy of a stage of `rows` rows; `row_of` numbers them.
    template <class RowOf>
    __device__ void copy(uint32_t stage, uint32_t rows, RowOf row_of) const {
#pragma unroll
        for (int i = 0; i < kGradientRows / kStep; ++i) {
            const bool there = live && row + i * kStep < rows;
            const char* from = column + uint64_t(row_of(row + i * kStep)) * row_bytes; // not read if there is none
#pragma unroll
            for (int plane = 0; plane < Storage::kPlanes; ++plane) {
                copy_chunk_or_zero(true, stage + to + plane * kPlaneBytes + i * kStep * kRowBytes, from + plane * plane_bytes, there ? kChunk : 0);
            }
        }
    }
};

template <class Storage, bool kTensor = Storage::kTensor>
struct GradientTile;

// On tensor cores: four warps, 2 by 2.
template <class Storage>
struct GradientTile<Storage, true> {
    using S = GradientStage<Storage>;
    static constexpr int kRows = S::kM / 2; // of a warp, by 64 columns
    float dw[kRows / 16][8][4];
    uint32_t input_at, column_at;           // where in a stage this lane's first rows of fragments lie

    __device__ GradientTile() {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        // Four 8x8 matrices: inputs 0-7 and 8-15 of the first eight rows, then of the next.
        const uint32_t row = lane / 16 * 8 + lane % 8;
        input_at = keep<Storage>(row * S::kInputRow + (warp / 2 * kRows + lane / 8 % 2 * 8) * 2);
        column_at = keep<Storage>(S::kColumnsAt + lane % 16 * S::kColumnRow + (warp % 2 * 64 + lane / 16 * 8) * 2);
    }

    __device__ void clear() {
#pragma unroll
        for (auto& row : dw) {
            for (auto& tile : row) {
                tile[0] = tile[1] = tile[2] = tile[3] = 0.0f;
            }
        }
    }

    __device__ void multiply(uint32_t stage) {
#pragma unroll(Storage::kPlanes == 1 ? 2 : 1)
        for (int step = 0; step < kGradientRows / 16; ++step) {
            const uint32_t inputs = stage + input_at + step * 16 * S::kInputRow;
            const uint32_t columns = stage + column_at + step * 16 * S::kColumnRow;
            // One plane: all inputs at hand while the columns pass; three: the other way, for fewer registers.
            constexpr int kHeld = Storage::kPlanes == 1 ? kRows / 16 : 1;
#pragma unroll
            for (int group = 0; group < kRows / 16; group += kHeld) {
                uint32_t a[kHeld][Storage::kPlanes][4];
#pragma unroll
                for (int m = 0; m < kHeld; ++m) {
#pragma unroll
                    for (int plane = 0; plane < Storage::kPlanes; ++plane) {
                        load_matrices_transposed(a[m][plane], inputs + plane * S::kInputPlane + (group + m) * 32);
                    }
                }
#pragma unroll
                for (int pair = 0; pair < 4; ++pair) {
                    uint32_t b[Storage::kPlanes][4];
#pragma unroll
                    for (int plane = 0; plane < Storage::kPlanes; ++plane) {
                        load_matrices_transposed(b[plane], columns + plane * S::kColumnPlane + pair * 32);
                    }
#pragma unroll
                    for (int m = 0; m < kHeld; ++m) {
                        multiply_add_planes<Storage>(dw[group + m][2 * pair], dw[group + m][2 * pair + 1], a[m], b);
                    }
                }
            }
        }
    }

    // Calls f(input of the tile, first of two columns, dw, dw of the next column).
    template <class F>
    __device__ void for_each(F f) const {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
        for (int m = 0; m < kRows / 16; ++m) {
#pragma unroll
            for (int tile = 0; tile < 8; ++tile) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    f(warp / 2 * kRows + m * 16 + half * 8 + lane / 4, warp % 2 * 64 + tile * 8 + lane % 4 * 2,
                      dw[m][tile][2 * half], dw[m][tile][2 * half + 1]);
                }
            }
        }
    }
};

// By fused multiply-add: a thread has eight inputs by eight columns.
template <class Storage>
struct GradientTile<Storage, false> {
    using S = GradientStage<Storage>;
    float dw[8][8];

    __device__ void clear() {
#pragma unroll
        for (auto& row : dw) {
            for (float& x : row) {
                x = 0.0f;
            }
        }
    }

    __device__ void multiply(uint32_t stage) {
        const uint32_t input_at = threadIdx.x / 16 * 32, column_at = S::kColumnsAt + threadIdx.x % 16 * 16;
#pragma unroll 4
        for (int row = 0; row < kGradientRows; ++row) {
            float x[8], dz[8];
            load_shared(x, stage + input_at + row * S::kInputRow);
            load_shared(x + 4, stage + input_at + row * S::kInputRow + 16);
            load_shared(dz, stage + column_at + row * S::kColumnRow);
            load_shared(dz + 4, stage + column_at + row * S::kColumnRow + 256);
#pragma unroll
            for (int i = 0; i < 8; ++i) {
#pragma unroll
                for (int j = 0; j < 8; ++j) {
                    dw[i][j] = __fmaf_rn(x[i], dz[j], dw[i][j]);
                }
            }
        }
    }

    template <class F>
    __device__ void for_each(F f) const {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
#pragma unroll
            for (int j = 0; j < 8; j += 2) {
                f(threadIdx.x / 16 * 8 + i, threadIdx.x % 16 * 4 + j / 4 * 64 + j % 4, dw[i][j], dw[i][j + 1]);
            }
        }
    }
};

// Adds the rows of a column of a stage, from shared address `at` on, in order.
template <class Storage>
__device__ inline void add_column(float& sum, uint32_t at) {
    using S = GradientStage<Storage>;
    using Element = typename Storage::Element;
    const auto* column = static_cast<const Element*>(__cvta_shared_to_generic(at));
#pragma unroll 16
    for (int row = 0; row < kGradientRows; ++row) {
        sum = __fadd_rn(sum, Storage::load(column + row * (S::kColumnRow / sizeof(Element)), S::kColumnPlane / sizeof(Element)));
    }
}

template <class Storage>
__device__ inline void weight_gradient_of(const WeightGradientArguments& arguments) {
    using Element = typename Storage::Element;
    using S = GradientStage<Storage>;
    extern __shared__ __align__(128) char shared[];
    uint32_t* numbers = reinterpret_cast<uint32_t*>(shared); // [kWindow] rows of `input`
    const uint32_t ring = shared_address(shared) + kWindow * sizeof(uint32_t);

    await_last_launch();
    const uint32_t tiles = divide_up(arguments.segment, S::kM); // of a segment
    const uint32_t segment = blockIdx.y / tiles, first_input = blockIdx.y % tiles * S::kM;
    const uint32_t first_column = blockIdx.x * kN;
    const uint32_t base = arguments.first / kWindow; // windows below the range
    const uint32_t last = divide_up(arguments.rows, uint32_t(kWindow)) - 1 - blockIdx.z; // window of the range
    const uint32_t chunk = (base + last) % arguments.chunks;
    float* const w = arguments.w + (size_t(chunk) * arguments.segments + segment) * arguments.segment * arguments.n;

    const RowCopier<Storage, S::kM, S::kInputRow, S::kInputPlane> inputs(arguments.input, arguments.segment, first_input);
    const RowCopier<Storage, kN, S::kColumnRow, S::kColumnPlane> columns(arguments.dz, arguments.n, first_column);
    GradientTile<Storage> tile;
    for (uint32_t left = last + 1; left > 0; left -= min(left, arguments.chunks)) {
        const uint32_t start = (left - 1) * kWindow, rows = min(arguments.rows - start, uint32_t(kWindow));
        const bool add = base + left - 1 + arguments.chunks < arguments.windows; // one above is there
        for (uint32_t i = threadIdx.x; i < divide_up(rows, kGradientRows) * kGradientRows; i += kThreads) {
            if (i >= rows) {
                numbers[i] = 0;
                continue;
            }
            const uint32_t row = arguments.first + start + i, entry = row / arguments.width, lane = row - entry * arguments.width;
            const uint32_t* slots = segment == 0 ? arguments.left : arguments.right;
            numbers[i] = slots != nullptr ? slots[entry] * arguments.width + lane
                                          : arguments.count > 0 ? lane * arguments.count + entry : start + i;
        }
        __syncthreads();
        const auto copy = [&](uint32_t stage, uint32_t to) {
            const uint32_t first = stage * kGradientRows;
            inputs.copy(to, rows - first, [&](uint32_t row) { return numbers[first + row]; });
            columns.copy(to + S::kColumnsAt, rows - first, [&](uint32_t row) { return start + first + row; });
        };
        const uint32_t stages = divide_up(rows, kGradientRows);
#pragma unroll
        for (uint32_t stage = 0; stage < S::kStages - 1; ++stage) {
            if (stage < stages) {
                copy(stage, ring + stage * S::kBytes);
            }
            end_group();
        }
        tile.clear();
        float db = 0.0f; // of a column a thread
#pragma unroll 1
        for (uint32_t first = 0; first < stages; first += S::kStages) {
#pragma unroll
            for (uint32_t slot = 0; slot < S::kStages; ++slot) {
                if (first + slot < stages) {
                    wait_groups<S::kStages - 2>();
                    __syncthreads();
                    const uint32_t next = first + slot + S::kStages - 1;
                    if (next < stages) {
                        copy(next, ring + (slot + S::kStages - 1) % S::kStages * S::kBytes);
                    }
                    end_group();
                    tile.multiply(ring + slot * S::kBytes);
                    if (blockIdx.y == 0) {
                        add_column<Storage>(db, ring + slot * S::kBytes + S::kColumnsAt + sizeof(Element) * threadIdx.x);
                    }
                }
            }
        }
        __syncthreads(); // before the row numbers and the ring are written anew
        uint32_t first_row = first_input;
        asm volatile("" : "+r"(first_row)); // or the places of all elements are kept in registers over the loop
        tile.for_each([&](uint32_t row, uint32_t column, float first, float second) {
            if (first_input + row < arguments.segment && first_column + column < arguments.n) {
                float* to = w + size_t(first_row + row) * arguments.n + first_column + column;
                if (add) {
                    first = __fadd_rn(to[0], first);
                    second = __fadd_rn(to[1], second);
                }
                *reinterpret_cast<float2*>(to) = make_float2(first, second);
            }
        });
        if (blockIdx.y == 0 && first_column + threadIdx.x < arguments.n) {
            float* to = arguments.b + size_t(chunk) * arguments.n + first_column + threadIdx.x;
            *to = add ? __fadd_rn(*to, db) : db;
        }
    }
}
