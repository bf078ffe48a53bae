//! What a launch is told: the mirror of `kernels/common/arguments.cuh`, one struct by value a kernel. Addresses are those
//! of device memory; the fields are described there.

/// A layer and its gates: merge, unary, leaf.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct CellArguments {
    pub input: u64,
    pub c_in: u64,
    pub h_out: u64,
    pub c_out: u64,
    pub weights: u64,
    pub bias: u64,
    pub left: u64,
    pub right: u64,
    pub out: u64,
    pub width: u32,
    pub first: u32,
    pub rows: u32,
    pub count: u32,
    pub units: u32,
    pub segment: u32,
    pub h_local: u32,
    pub z: u64,
    pub c_in_local: u32,
    pub c_out_local: u32,
}

/// All steps in one launch.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct TreeArguments {
    pub merge: CellArguments,
    pub unary: CellArguments,
    pub step_ends: u64,
    pub steps: u32,
    pub lanes: u32,
    pub tile: u32,
}

/// What the gates of a layer need on the way back.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct GatesBackward {
    pub z: u64,
    pub c_in: u64,
    pub left: u64,
    pub right: u64,
    pub dc: u64,
    pub dc_places: u64,
    pub width: u32,
    pub first: u32,
    pub rows: u32,
    pub units: u32,
}

/// A layer's gates, after the gradients of its state were gathered from those who read it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct GatherArguments {
    pub gates: GatesBackward,
    pub h_places: u64,
    pub c_places: u64,
    pub reader_starts: u64,
    pub readers: u64,
    pub output_of: u64,
    pub d_hidden: u64,
    pub slot: u32,
    pub outputs: u32,
    pub hidden_size: u32,
}

/// `dz` of a layer times its weights transposed.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct TransposedArguments {
    pub dz: u64,
    pub weights: u64,
    pub k: u32,
    pub columns: u32,
    pub gates: GatesBackward,
    pub h_places: u64,
    pub d_input: u64,
    pub count: u32,
    pub input_size: u32,
}

/// All steps back in one launch.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct TreeBackwardArguments {
    pub unary: GatherArguments,
    pub merge: TransposedArguments,
    pub places: TransposedArguments,
    pub step_ends: u64,
    pub steps: u32,
    pub lanes: u32,
    pub tile: u32,
}

/// The gradient of a layer's weights, over a range of rows.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct WeightGradientArguments {
    pub input: u64,
    pub left: u64,
    pub right: u64,
    pub dz: u64,
    pub w: u64,
    pub b: u64,
    pub width: u32,
    pub first: u32,
    pub rows: u32,
    pub count: u32,
    pub segment: u32,
    pub segments: u32,
    pub n: u32,
    pub windows: u32,
    pub chunks: u32,
}

/// The same for the leaf of tokens.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct TokenGradientArguments {
    pub tokens: u64,
    pub dz: u64,
    pub w: u64,
    pub b: u64,
    pub width: u32,
    pub rows: u32,
    pub count: u32,
    pub vocabulary: u32,
    pub n: u32,
    pub chunk: u32,
    pub bias_chunk: u32,
    pub bias_chunks: u32,
}

/// The sum over chunks, into the flat gradient.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct ReduceArguments {
    pub partial_w: u64,
    pub partial_b: u64,
    pub w: u64,
    pub b: u64,
    pub chunks: u32,
    pub bias_chunks: u32,
    pub segments: u32,
    pub segment: u32,
    pub padded: u32,
    pub gates: u32,
    pub units: u32,
    pub hidden_size: u32,
}

/// The leaf by lookup of a token's row of `W`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct TokensArguments {
    pub tokens: u64,
    pub h_out: u64,
    pub c_out: u64,
    pub weights: u64,
    pub bias: u64,
    pub out: u64,
    pub bad: u64,
    pub width: u32,
    pub count: u32,
    pub rows: u32,
    pub units: u32,
    pub vocabulary: u32,
    pub z: u64,
}

/// Dense input as rows of the storage.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct InputArguments {
    pub x: u64,
    pub out: u64,
    pub rows: u32,
    pub d: u32,
    pub padded: u32,
    pub count: u32,
    pub first: u32,
    pub chunk: u32,
}

/// The weights of a layer, to be packed.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct PackLayer {
    pub w: u64,
    pub b: u64,
    pub packed: u64,
    pub transposed: u64,
    pub bias: u64,
    pub first: u32,
    pub gates: u32,
    pub segments: u32,
    pub segment: u32,
    pub padded: u32,
}

/// Layers, and the read-out.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct PackArguments {
    pub layers: [PackLayer; 4],
    pub readout: u64,
    pub packed_readout: u64,
    pub readout_len: u64,
    pub readout_first: u32,
    pub hidden_size: u32,
}

/// `h` of the outputs.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct CollectArguments {
    pub h: u64,
    pub outputs: u64,
    pub hidden: u64,
    pub width: u32,
    pub count: u32,
    pub rows: u32,
    pub units: u32,
    pub hidden_size: u32,
}

/// States of an arena, as f32 or back.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct StatesArguments {
    pub h: u64,
    pub c: u64,
    pub slots: u64,
    pub states: u64,
    pub count: u32,
    pub units: u32,
    pub hidden_size: u32,
}

/// States copied within an arena.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct CopyArguments {
    pub h: u64,
    pub c: u64,
    pub pairs: u64,
    pub count: u32,
    pub units: u32,
}

/// The read-out.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct ReadoutArguments {
    pub hidden: u64,
    pub w: u64,
    pub b: u64,
    pub y: u64,
    pub rows: u32,
    pub h: u32,
    pub o: u32,
}

/// The read-out backward.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct ReadoutBackwardArguments {
    pub hidden: u64,
    pub w: u64,
    pub d_y: u64,
    pub d_hidden: u64,
    pub partial: u64,
    pub d_w: u64,
    pub d_b: u64,
    pub rows: u32,
    pub h: u32,
    pub o: u32,
    pub chunk: u32,
    pub chunks: u32,
    pub gradient_blocks: u32,
}

/// Cross entropy, forward and backward.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct LossArguments {
    pub logits: u64,
    pub targets: u64,
    pub mask: u64,
    pub metrics: u64,
    pub d_loss: u64,
    pub d_logits: u64,
    pub rows: u32,
    pub o: u32,
}

/// Adam.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct AdamArguments {
    pub parameters: u64,
    pub gradient: u64,
    pub rate: u64,
    pub m: u64,
    pub v: u64,
    pub state: u64,
    pub norm: u64,
    pub sums: u64,
    pub factors: u64,
    pub arrived: u64,
    pub len: u64,
    pub clip: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f32,
}

/// The sum of two buffers.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct AddArguments {
    pub from: u64,
    pub to: u64,
    pub len: u64,
}
