// The kernels of a pass with a way back, for one storage: the layers forward with z kept, then the way back. f16 has none:
// its gradients would want their loss scaled.
#include "backward.cuh"
#include "cell.cuh"
#include "common/kernel.cuh"
#include "common/team_mma.cuh"
#include "reduce.cuh"
#include "stationary.cuh"
#include "tokens.cuh"
#include "tokens_backward.cuh"
#include "tree.cuh"
#include "tree_backward.cuh"
#include "weights.cuh"

#define CELL(cell, Kind, tile)                                                                              \
    TILED(leaf_##cell##_##tile, tile, CellArguments, cell_forward<Storage, Kind, 0, tile, true>)                  \
    TILED(merge_##cell##_##tile, tile, CellArguments, cell_forward<Storage, Kind, 2, tile, true>)                 \
    TILED(unary_##cell##_##tile, tile, CellArguments, cell_forward<Storage, Kind, 1, tile, true>)                 \
    TILED(into_unary_##cell##_##tile, tile, TransposedArguments, transposed_product<Storage, Kind, Into::Unary, tile>) \
    TILED(into_merge_##cell##_##tile, tile, TransposedArguments, transposed_product<Storage, Kind, Into::Merge, tile>)
#define LAYERS(tile)                                                                                              \
    CELL(lstm, Cell::Lstm, tile)                                                                                  \
    CELL(rnn, Cell::Rnn, tile)                                                                                    \
    TILED(into_places_##tile, tile, TransposedArguments, transposed_product<Storage, Cell::Rnn, Into::Places, tile>)    \
    TILED(into_input_##tile, tile, TransposedArguments, transposed_product<Storage, Cell::Rnn, Into::Input, tile>)
#define OF_A_CELL(cell, Kind)                                                                \
    ALONE(tree_##cell, kWalkThreads, TreeArguments, tree_forward<Storage, Kind, true>)                   \
    ALONE(tree_backward_##cell, kWalkThreads, TreeBackwardArguments, tree_backward<Storage, Kind>)       \
    KERNEL(tokens_##cell, TokensArguments, tokens_forward<Storage, Kind, true>)              \
    KERNEL(gather_leaf_##cell, GatherArguments, gather_backward<Storage, Kind, 0>)           \
    KERNEL(gather_unary_##cell, GatherArguments, gather_backward<Storage, Kind, 1>)          \
    KERNEL(gather_merge_##cell, GatherArguments, gather_backward<Storage, Kind, 2>)

LAYERS(32)
LAYERS(64)
#if PR_LSTM_STORAGE == 0 // f32 was no faster so
LAYERS(128)
STATIONARY(256, PairMma, true)
#endif
OF_A_CELL(lstm, Cell::Lstm)
OF_A_CELL(rnn, Cell::Rnn)

TILED(weight_gradient, 128, WeightGradientArguments, weight_gradient_of<Storage>)
BLOCKS(token_gradient, kTokenThreads, 4, TokenGradientArguments, token_gradient_of<Storage>)
BLOCKS(reduce, kReduceThreads, 8, ReduceArguments, reduce_gradient)
