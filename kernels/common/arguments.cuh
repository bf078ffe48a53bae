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
    const float* bias;     // [gates, units]
    const uint32_t* left;  // slots of the earlier states; merge only
    const uint32_t* right; // slots of the later states; merge only
    const uint32_t* out;   // slots that are written
    uint32_t width, first, rows;
    uint32_t count;        // leaf: entries of `out`, input row = lane * count + entry
    uint32_t units;        // H rounded up to 16
    uint32_t segment;      // length of one input, rounded up to 16: K = segment * inputs
    uint32_t h_local;      // whether h_out is the buffer between two stages of a step
    // Of a pass with a way back only:
    void* z;               // [rows, gates * units], kept
    uint32_t c_in_local;   // whether c_in is that of a stage, [rows, units]
    uint32_t c_out_local;  // whether c_out is
};

// All steps in one launch. A block owns lanes and takes a step's rows in tiles.
struct TreeArguments {
    CellArguments merge, unary; // as of a launch of all rows; what is between them is written where it is kept, else null
    const uint32_t* step_ends;  // of each step among the merges
    uint32_t steps, lanes;      // lanes of a block
    uint32_t tile;              // rows, a multiple of 16
};

// What the gates of a layer need on the way back.
struct GatesBackward {
    void* z;               // [rows, gates * units]; becomes dz
    const float* c_in;     // merge: c of the slots; unary: [rows, units]
    const uint32_t* left;
    const uint32_t* right;
    float* dc;             // unary: [rows, units], gradient of its input's c; what a later layer left there is read first
    float* dc_places;      // merge: [merge rows, 2 * units], gradients of the states' c
    uint32_t width, first, rows, units;
};

// A layer's gates after the gradients of its state were gathered from those who read it.
struct GatherArguments {
    GatesBackward gates;
    const float* h_places;         // [merge rows, 2 * units]
    const float* c_places;
    const uint32_t* reader_starts; // of each slot in `readers`
    const uint32_t* readers;       // 2 * merge + side
    const uint32_t* output_of;     // of each slot, its output plus 1, or 0
    const float* d_hidden;         // [lanes * outputs, hidden_size]
    uint32_t slot;                 // of the list's first entry
    uint32_t outputs, hidden_size;
};

// dz of a layer times its weights transposed: the gradient of its input.
struct TransposedArguments {
    const void* dz;        // [rows, k]
    const void* weights;   // transposed and packed, see pack.cuh
    uint32_t k;            // gates * units
    uint32_t columns;      // padded inputs
    GatesBackward gates;   // of the layer before
    float* h_places;       // merge: [rows, columns]; of these rows
    float* d_input;        // leaf: [lanes * count, input size]; is added to
    uint32_t count, input_size;
};

// All steps back in one launch.
struct TreeBackwardArguments {
    GatherArguments unary;
    TransposedArguments merge;  // dz of the unary layer into the merge's gates
    TransposedArguments places; // dz of the merge into its places
    const uint32_t* step_ends;
    uint32_t steps, lanes;
    uint32_t tile;              // rows; by blocks of 32 units they are work for as many warps as there are, at most
};

// dW of a layer: inputs transposed times dz, over a range of rows, a window of 1024 after the other.
struct WeightGradientArguments {
    const void* input;      // rows of [segment]: h of slots; of the range [rows, units] of a stage, or dense input
    const uint32_t* left;   // null: row r of the range, or, with `count`, lane * count + entry
    const uint32_t* right;
    const void* dz;         // [rows, n], of the range
    float* w;               // [chunks, segments * segment, n]; of windows above is added to
    float* b;               // [chunks, n]; the same
    uint32_t width;
    uint32_t first, rows;   // the range; it begins with a window, and ends with one or with the layer's last row
    uint32_t count, segment, segments, n;
    uint32_t windows, chunks; // of all rows; window i belongs to chunk i % chunks
};

// dW of the leaf of tokens: the sum of the dz of a token's rows.
struct TokenGradientArguments {
    const uint32_t* tokens; // [lanes * count]
    const void* dz;         // [rows, n]
    float* w;               // [chunks, vocabulary, n]
    float* b;               // [bias_chunks, n]
    uint32_t width, rows, count, vocabulary, n;
    uint32_t chunk, bias_chunk, bias_chunks; // rows of a chunk of w and of b, and how many of b
};

// The sum over chunks, in their order, added to the gradient of W and b.
struct ReduceArguments {
    const float* partial_w; // [chunks, segments * padded, gates * units]
    const float* partial_b; // [bias_chunks, gates * units]
    float* w;               // [segments * segment, gates * hidden_size]
    float* b;               // [gates * hidden_size]
    uint32_t chunks, bias_chunks, segments, segment, padded, gates, units, hidden_size;
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
    void* z;                // [rows, gates * units], kept for a way back
};

// Dense input as rows of the storage: of every lane the entries from `first`, `chunk` of them.
struct InputArguments {
    const float* x;        // [lanes * count, d]
    void* out;             // [rows, planes * padded], rows = lanes * chunk
    uint32_t rows, d, padded;
    uint32_t count, first, chunk;
};

// The weights of a layer, to be packed: stages of `packed`, then of `transposed`, a block each.
struct PackLayer {
    const float* w;   // [segments * segment, gates * hidden_size]
    const float* b;   // [gates * hidden_size]
    void* packed;
    void* transposed; // for a way back
    float* bias;      // [gates, units]
    uint32_t first;   // block of the launch; beyond the last where there is no such layer
    uint32_t gates, segments, segment, padded; // length of a segment, and padded to 16
};

constexpr int kPackLayers = 4; // of a launch

// Layers, then the read-out as it is.
struct PackArguments {
    PackLayer layers[kPackLayers];
    const float* readout; // W, then b
    float* packed_readout;
    uint64_t readout_len;
    uint32_t readout_first; // block
    uint32_t hidden_size;
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

struct ReadoutBackwardArguments {
    const float* hidden; // [rows, h]
    const float* w;      // [h, o]
    const float* d_y;    // [rows, o]
    float* d_hidden;     // [rows, h]; is added to
    float* partial;      // [chunks, (h + 1) * o]: dW, then db; of more than one chunk
    float* d_w;          // [h, o]; is added to
    float* d_b;          // [o]; is added to
    uint32_t rows, h, o;
    uint32_t chunk, chunks; // rows of a chunk, and how many
    uint32_t gradient_blocks; // of dW and db
};

struct LossArguments {
    const float* logits; // [rows, o]
    const uint32_t* targets;
    const uint8_t* mask;
    float* metrics;      // loss, right among the counted, counted
    const float* d_loss; // [1]
    float* d_logits;     // [rows, o]; is added to; may be null on the way forward
    uint32_t rows, o;
};

struct AdamArguments {
    float* parameters; // [len]
    const float* gradient;
    const float* rate; // [1]
    float* m;
    float* v;
    uint64_t* state;   // steps taken, first bad step or 0
    float* norm;       // of the gradient before clipping
    double* sums;      // [kNormBlocks] of squares
    float* factors;    // [4]: of the gradient; corrections of m and v; whether to update
    uint32_t* arrived; // [1], 0: blocks whose sum is there
    uint64_t len;
    double clip;       // most norm, or infinity
    double beta1, beta2;
    float epsilon;
};

struct AddArguments {
    const float* from;
    float* to;
    uint64_t len;
};
