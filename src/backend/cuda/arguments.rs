//! What a launch is told: the mirror of `kernels/common/arguments.cuh`, one struct by value a kernel. Addresses are those
//! of device memory; the fields are described there.

/// A layer and its gates: merge, unary, leaf.
#[derive(Clone, Copy, Debug)]
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

/// The weights of a layer.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct PackArguments {
    pub w: u64,
    pub packed: u64,
    pub units: u32,
    pub gates: u32,
    pub segments: u32,
    pub segment: u32,
    pub padded: u32,
}

/// The bias of a layer.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct PackBiasArguments {
    pub b: u64,
    pub packed: u64,
    pub units: u32,
    pub gates: u32,
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

/// The sum of two buffers.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct AddArguments {
    pub from: u64,
    pub to: u64,
    pub len: u64,
}
