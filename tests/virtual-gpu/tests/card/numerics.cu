// Writes down what a card computes where the manual leaves it open: mma.sync of 16-bit numbers, tanh.approx.f32.
//
//     nvcc -O2 -arch=sm_90 -o numerics numerics.cu && ./numerics h200-mma.bin h200-tanh.bin
//
// The first file holds trials, bf16 before f16, four of each kind; the second pairs of x and tanh.approx(x). Prints the
// errors of tanh.approx over every f32. ../card.rs compares.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define CHECK(call)                                                                  \
    do {                                                                             \
        const cudaError_t error = (call);                                            \
        if (error != cudaSuccess) {                                                  \
            fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(error));           \
            exit(1);                                                                 \
        }                                                                            \
    } while (0)

// The registers of a warp: D = A B + C.
struct Trial {
    uint32_t a[32][4], b[32][2], c[32][4], d[32][4];
};

template <bool kHalf>
__global__ void multiply(Trial* trials) {
    Trial& trial = trials[blockIdx.x];
    const uint32_t* a = trial.a[threadIdx.x];
    const uint32_t* b = trial.b[threadIdx.x];
    const uint32_t* c = trial.c[threadIdx.x];
    uint32_t* d = trial.d[threadIdx.x];
#define MULTIPLY(type)                                                                                        \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 "                               \
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"                                  \
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])                                             \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]),    \
                   "r"(c[2]), "r"(c[3]))
    if (kHalf) {
        MULTIPLY("f16");
    } else {
        MULTIPLY("bf16");
    }
}

__device__ float tanh_approx(float x) {
    float y;
    asm volatile("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__global__ void tanhs(float2* pairs, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) {
        pairs[i].y = tanh_approx(pairs[i].x);
    }
}

struct Errors {
    unsigned long long absolute, relative; // the greatest, as bits of doubles
    uint32_t not_odd, not_monotonic, beyond_one, tiny_and_changed;
};

// Every f32 that is not negative, and its negative.
__global__ void all_tanhs(Errors* errors) {
    double absolute = 0, relative = 0;
    for (uint32_t bits = blockIdx.x * blockDim.x + threadIdx.x; bits <= 0x7f800000; bits += gridDim.x * blockDim.x) {
        const float x = __uint_as_float(bits), y = tanh_approx(x);
        const double exact = tanh(double(x)), error = fabs(y - exact);
        absolute = fmax(absolute, error);
        if (exact > 1e-37) {
            relative = fmax(relative, error / exact);
        } else if (error != 0) {
            atomicAdd(&errors->tiny_and_changed, 1);
        }
        if (tanh_approx(-x) != -y) {
            atomicAdd(&errors->not_odd, 1);
        }
        if (bits < 0x7f800000 && tanh_approx(__uint_as_float(bits + 1)) < y) {
            atomicAdd(&errors->not_monotonic, 1);
        }
        if (y > 1.0f) {
            atomicAdd(&errors->beyond_one, 1);
        }
    }
    atomicMax(&errors->absolute, __double_as_longlong(absolute));
    atomicMax(&errors->relative, __double_as_longlong(relative));
}

static uint64_t next() {
    static uint64_t state = 0x9e3779b97f4a7c15;
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}
static double uniform() { return (next() >> 11) * (1.0 / (1ull << 53)); }
static double normal() {
    const double radius = sqrt(-2 * log(uniform() + 1e-300));
    return radius * cos(6.283185307179586 * uniform());
}
static uint16_t to16(bool half, float x) {
    uint16_t bits;
    if (half) {
        const __half h = __float2half(x);
        memcpy(&bits, &h, 2);
    } else {
        const __nv_bfloat16 h = __float2bfloat16(x);
        memcpy(&bits, &h, 2);
    }
    return bits;
}
static float from16(bool half, uint16_t bits) {
    if (half) {
        __half h;
        memcpy(&h, &bits, 2);
        return __half2float(h);
    }
    __nv_bfloat16 h;
    memcpy(&h, &bits, 2);
    return __bfloat162float(h);
}

enum Kind { kUsual, kWide, kWideOfZero, kCancelling, kOfLarge, kAnyBits, kTiny, kSparse, kKinds };

// 2 to a whole power, as often any of those up to `range`.
static double power(double range) { return exp2(round((uniform() * 2 - 1) * range)); }

// An element of A or B.
static float factor(bool half, int kind) {
    const double range = half ? 6 : 20;
    double x;
    switch (kind) {
    case kWide:
    case kWideOfZero:
        x = normal();
        return x * power(range);
    case kAnyBits:
        return from16(half, next() & 0xffff);
    case kTiny:
        x = normal();
        return x * exp2(half ? -12 - round(uniform() * 12) : -60 - round(uniform() * 70));
    case kSparse:
        return uniform() < 0.9 ? 0 : normal();
    default:
        return normal();
    }
}

// An element of C, to which `sum` is added.
static float summand(bool half, int kind, double sum) {
    const double range = half ? 12 : 40;
    double x;
    switch (kind) {
    case kWide:
        x = normal();
        return x * power(range);
    case kWideOfZero:
        return 0;
    case kCancelling:
        return -sum * (1 + normal() * 1e-6);
    case kOfLarge:
        x = normal();
        return x * exp2(10 + round(uniform() * 20));
    case kAnyBits: {
        const uint32_t bits = next();
        float any;
        memcpy(&any, &bits, 4);
        return any;
    }
    case kTiny:
        x = normal();
        return x * exp2(-126 - round(uniform() * 23));
    case kSparse:
        x = normal();
        return x * power(12);
    default:
        return normal();
    }
}

static Trial trial_of(bool half, int kind) {
    float a[16][16], b[16][8], c[16][8];
    for (auto& row : a) {
        for (float& x : row) {
            x = from16(half, to16(half, factor(half, kind)));
        }
    }
    for (auto& row : b) {
        for (float& x : row) {
            x = from16(half, to16(half, factor(half, kind)));
        }
    }
    for (int i = 0; i < 16; ++i) {
        for (int j = 0; j < 8; ++j) {
            double sum = 0;
            for (int k = 0; k < 16; ++k) {
                sum += double(a[i][k]) * b[k][j];
            }
            c[i][j] = summand(half, kind, sum);
        }
    }
    Trial trial = {};
    for (int lane = 0; lane < 32; ++lane) {
        const int group = lane / 4, quad = lane % 4;
        for (int i = 0; i < 4; ++i) {
            for (int j = 0; j < 2; ++j) {
                trial.a[lane][i] |= uint32_t(to16(half, a[group + i % 2 * 8][2 * quad + j + i / 2 * 8])) << (16 * j);
            }
            memcpy(&trial.c[lane][i], &c[group + i / 2 * 8][2 * quad + i % 2], 4);
        }
        for (int i = 0; i < 2; ++i) {
            for (int j = 0; j < 2; ++j) {
                trial.b[lane][i] |= uint32_t(to16(half, b[2 * quad + j + i * 8][group])) << (16 * j);
            }
        }
    }
    return trial;
}

template <class T>
static void write(const char* path, const std::vector<T>& values) {
    FILE* file = fopen(path, "wb");
    if (file == nullptr || fwrite(values.data(), sizeof(T), values.size(), file) != values.size() || fclose(file) != 0) {
        perror(path);
        exit(1);
    }
}

int main(int argc, char** argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: numerics PRODUCTS TANHS\n");
        return 1;
    }
    constexpr int kEach = 24, kKept = 4; // the others came to the same
    std::vector<Trial> trials;
    for (const bool half : {false, true}) {
        for (int kind = 0; kind < kKinds; ++kind) {
            for (int n = 0; n < kEach; ++n) {
                const Trial trial = trial_of(half, kind);
                if (n < kKept) {
                    trials.push_back(trial);
                }
            }
        }
    }
    Trial* on_card;
    CHECK(cudaMalloc(&on_card, trials.size() * sizeof(Trial)));
    CHECK(cudaMemcpy(on_card, trials.data(), trials.size() * sizeof(Trial), cudaMemcpyHostToDevice));
    multiply<false><<<kKinds * kKept, 32>>>(on_card);
    multiply<true><<<kKinds * kKept, 32>>>(on_card + kKinds * kKept);
    CHECK(cudaMemcpy(trials.data(), on_card, trials.size() * sizeof(Trial), cudaMemcpyDeviceToHost));
    write(argv[1], trials);

    constexpr int kTanhs = 1 << 15, kOneOf = 16;
    std::vector<float2> pairs;
    for (const float x : {0.0f, -0.0f, INFINITY, -INFINITY, 1e-38f, 1e-45f, 1e-20f, 1e-4f, 0.001f, 100.0f, 3.4e38f}) {
        pairs.push_back({x, 0});
    }
    for (int i = 0; i < kTanhs; ++i) {
        const float x = i < kTanhs / 2 ? (uniform() * 2 - 1) * 10 : normal() * power(20);
        if (i > 0 && i % kOneOf == 0) {
            pairs.push_back({x, 0});
        }
    }
    const int count = pairs.size();
    float2* pairs_on_card;
    CHECK(cudaMalloc(&pairs_on_card, count * sizeof(float2)));
    CHECK(cudaMemcpy(pairs_on_card, pairs.data(), count * sizeof(float2), cudaMemcpyHostToDevice));
    tanhs<<<(count + 255) / 256, 256>>>(pairs_on_card, count);
    CHECK(cudaMemcpy(pairs.data(), pairs_on_card, count * sizeof(float2), cudaMemcpyDeviceToHost));
    write(argv[2], pairs);

    Errors* errors;
    CHECK(cudaMallocManaged(&errors, sizeof(Errors)));
    memset(errors, 0, sizeof(Errors));
    all_tanhs<<<1024, 256>>>(errors);
    CHECK(cudaDeviceSynchronize());
    double absolute, relative;
    memcpy(&absolute, &errors->absolute, 8);
    memcpy(&relative, &errors->relative, 8);
    printf("tanh.approx over every f32: errors up to %.3g (2^%.2f), relative %.3g (2^%.2f)\n", absolute, log2(absolute), relative,
           log2(relative));
    printf("not odd %u, not monotonic %u, beyond one %u, tiny and changed %u\n", errors->not_odd, errors->not_monotonic,
           errors->beyond_one, errors->tiny_and_changed);
}
