// What a launch is told: one struct by value a kernel. The host's mirror is src/backend/cuda/arguments.rs.
//
// A state is a row of h, [planes * units] elements of the storage, and, for the LSTM, a row of c, [units] f32; `units` is H
// rounded up to 16, and what is beyond H is 0. Lists name slots; a slot is `width` rows. The rows of a launch are numbered
// slot by slot: row r is lane (first + r) % width of entry (first + r) / width of a list.
#pragma once
#include <cstdint>

// A layer and its gates: merge, unary, leaf (dense input).
struct CellArguments {
    const void* input;     // merge: h of the slots; unary: [rows, units]; leaf: [lanes * count, segment]; planes of each
    const float* c_in;     // c of the slots; not read by leaf and RNN
    void* h_out;           // h of the slots, or [rows, units] if h_local
    float* c_out;          // c of the slots; not written by the RNN
    const void* weights;   // packed, see storage.cuh
    const float* bias;     // [gates, unit blocks * 32]
    const uint32_t* left;  // slots of the earlier states; merge only
    const uint32_t* right; // slots of the later states; merge only
    const uint32_t* out;   // slots that are written
    uint32_t width, first, rows;
    uint32_t count;        // leaf: entries of `out`, input row = lane * count + entry
    uint32_t units;        // H rounded up to 16
    uint32_t segment;      // length of one input, rounded up to 16: K = segment * inputs
    uint32_t h_local;      // whether h_out is the buffer between two stages of a step
};

// The leaf by lookup of a token's row of W.
struct TokensArguments {
    const uint32_t* tokens; // [lanes * count]
    void* h_out;
    float* c_out;
    const void* weights;
    const float* bias;
    const uint32_t* out;
    uint32_t* bad;          // becomes the least input row whose token is not below `vocabulary`
    uint32_t width, count, rows, units, vocabulary;
};

// Dense input as rows of the storage: of every lane the entries from `first`, `chunk` of them.
struct InputArguments {
    const float* x;        // [lanes * count, d]
    void* out;             // [rows, planes * padded], rows = lanes * chunk
    uint32_t rows, d, padded;
    uint32_t count, first, chunk;
};

// The weights of a layer, from [segments * segment, gates * units].
struct PackArguments {
    const float* w;
    void* packed;
    uint32_t units, gates, segments, segment, padded; // H, not padded; length of a segment, and padded to 16
};

struct PackBiasArguments {
    const float* b; // [gates * units]
    float* packed;  // [gates, unit blocks * 32]
    uint32_t units, gates;
};

// h of the outputs.
struct CollectArguments {
    const void* h;
    const uint32_t* outputs;
    float* hidden; // [lanes * count, hidden_size]
    uint32_t width, count, rows, units, hidden_size;
};

// States of an arena, as f32.
struct StatesArguments {
    void* h;
    float* c; // null for the RNN
    const uint32_t* slots;
    float* states; // [count, 2, hidden_size]: h, c
    uint32_t count, units, hidden_size;
};

struct CopyArguments {
    void* h;
    float* c; // null for the RNN
    const uint32_t* pairs; // from, to
    uint32_t count, units;
};

struct ReadoutArguments {
    const float* hidden; // [rows, h]
    const float* w;      // [h, o]
    const float* b;      // [o]
    float* y;            // [rows, o]
    uint32_t rows, h, o;
};

struct AddArguments {
    const float* from;
    float* to;
    uint64_t len;
};
