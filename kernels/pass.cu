// The kernels of a pass forward, for one storage: the one list of what is instantiated. build.rs compiles it once a storage.
#include "cell.cuh"
#include "common/kernel.cuh"
#include "common/team_mma.cuh"
#include "pack.cuh"
#include "states.cuh"
#include "stationary.cuh"
#include "tokens.cuh"
#include "tree.cuh"

#define LAYER(name, cell, states, tile) TILED(name, tile, CellArguments, cell_forward<Storage, cell, states, tile, false>)
#define LAYERS(tile)                                   \
    LAYER(leaf_lstm_##tile, Cell::Lstm, 0, tile)       \
    LAYER(leaf_rnn_##tile, Cell::Rnn, 0, tile)         \
    LAYER(merge_lstm_##tile, Cell::Lstm, 2, tile)      \
    LAYER(merge_rnn_##tile, Cell::Rnn, 2, tile)        \
    LAYER(unary_lstm_##tile, Cell::Lstm, 1, tile)      \
    LAYER(unary_rnn_##tile, Cell::Rnn, 1, tile)

LAYERS(32)
LAYERS(64)
#if PR_LSTM_STORAGE < 2 // f32 was no faster so
LAYERS(128)
STATIONARY(256, PairMma, false)
#endif

ALONE(tree_lstm, kWalkThreads, TreeArguments, tree_forward<Storage, Cell::Lstm, false>)
ALONE(tree_rnn, kWalkThreads, TreeArguments, tree_forward<Storage, Cell::Rnn, false>)
KERNEL(tokens_lstm, TokensArguments, tokens_forward<Storage, Cell::Lstm, false>)
KERNEL(tokens_rnn, TokensArguments, tokens_forward<Storage, Cell::Rnn, false>)
KERNEL(input, InputArguments, store_input<Storage>)
BLOCKS(pack, kPackThreads, 4, PackArguments, pack_layers<Storage>)
KERNEL(collect, CollectArguments, collect_hidden<Storage>)
KERNEL(read_states, StatesArguments, transfer_states<Storage, true>)
KERNEL(write_states, StatesArguments, transfer_states<Storage, false>)
KERNEL(copy_states, CopyArguments, copy_state<Storage>)
