//! How `h` and weights are kept, and what sizes follow: the numbers that kernels and host agree on. Knows no driver.

use super::kernels::{Product, Tile};
use crate::backend::Dtype;
use crate::model::{Cell, Config, LinearRange};

/// Units of a packed block.
const BLOCK_UNITS: usize = 16;
/// `k` of a stage of a product.
const STAGE_K: usize = 32;
/// The same of a product with stationary weights.
const TEAM_STAGE_K: usize = 64;
/// Groups of 16 inputs of a packed block of the transposed product.
const TRANSPOSED_GROUPS: usize = 2;
/// Bytes of the numbers of a row of a block that walks the whole tree: four, of this tile and of the next.
const WALK_NUMBERS: usize = 2 * 4 * 4;
/// Columns of a block of a weight's gradient.
pub(super) const GRADIENT_COLUMNS: usize = 128;
/// Rows of a weight's gradient between two additions to memory.
pub(super) const GRADIENT_WINDOW: usize = 1024;
/// Most chunks of rows that a weight's gradient is cut into, and most numbers of all their partial sums where more than
/// one is cut.
const MOST_CHUNKS: usize = 32;
const MOST_PARTIAL: usize = 1 << 25;
/// Rows of a chunk of the tokens' gradient are a multiple of the first, and as many times the vocabulary as the second: the
/// partial sums are few beside `dz`. Most chunks.
const TOKEN_ROWS: usize = 128;
const ROWS_A_TOKEN: usize = 16;
const MOST_TOKEN_CHUNKS: usize = 64;
/// Columns of a block of it.
pub(super) const TOKEN_COLUMNS: usize = 256;
/// Where each part of a buffer begins.
pub(super) const ALIGNMENT: usize = 256;

/// How `h` and weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    /// bf16, products on tensor cores.
    Bf16,
    /// f16, products on tensor cores.
    F16,
    /// f32 as the exact sum of three bf16, six products on tensor cores.
    Split,
    /// f32, products by fused multiply-add.
    Ffma,
}

impl Storage {
    /// The name of the image of kernels.
    pub(super) fn image(self) -> &'static str {
        match self {
            Storage::Bf16 => "bf16",
            Storage::F16 => "f16",
            Storage::Split => "split",
            Storage::Ffma => "ffma",
        }
    }

    /// The name of the image of kernels of a pass with a way back; None where there is none.
    pub(super) fn train_image(self) -> Option<&'static str> {
        match self {
            Storage::Bf16 => Some("train_bf16"),
            Storage::F16 => None,
            Storage::Split => Some("train_split"),
            Storage::Ffma => Some("train_ffma"),
        }
    }

    pub(super) fn dtype(self) -> Dtype {
        match self {
            Storage::Bf16 => Dtype::Bf16,
            Storage::F16 => Dtype::F16,
            Storage::Split | Storage::Ffma => Dtype::F32,
        }
    }

    /// The largest f32 that it rounds to a finite number.
    pub(super) fn largest(self) -> f32 {
        match self {
            // A step below half way from the largest number, 65504 or 2^128 - 2^120, to the next power of two.
            Storage::F16 => 65520.0f32.next_down(),
            Storage::Bf16 | Storage::Split => f32::from_bits(0x7f7f_7fff),
            Storage::Ffma => f32::MAX,
        }
    }

    /// What a pass over it is called.
    pub(super) fn path(self) -> &'static str {
        match self {
            Storage::Bf16 => "cuda bf16 wide",
            Storage::F16 => "cuda f16 wide",
            Storage::Split => "cuda f32 split wide",
            Storage::Ffma => "cuda f32 ffma wide",
        }
    }

    /// The widest tile that its products are made in.
    pub(super) fn widest(self) -> Tile {
        match self {
            Storage::Bf16 | Storage::F16 => Tile::Rows256,
            Storage::Split | Storage::Ffma => Tile::Rows64,
        }
    }

    /// Planes of elements that make a number.
    fn planes(self) -> usize {
        if self == Storage::Split { 3 } else { 1 }
    }

    /// Bytes of an element.
    fn element(self) -> usize {
        if self == Storage::Ffma { 4 } else { 2 }
    }

    /// Elements of a row of packed weights: the units of a packed block with all their gates; on tensor cores eight more, so
    /// that a row is an odd number of 16-byte pieces.
    pub(super) fn stride(self, gates: usize) -> usize {
        BLOCK_UNITS * gates + if self == Storage::Ffma { 0 } else { 8 }
    }

    /// Bytes of a row of `length` numbers.
    pub(super) fn row_bytes(self, length: usize) -> usize {
        self.planes() * self.element() * length
    }

    /// Bytes of shared memory of a layer's kernel: row numbers, and a ring of stages.
    pub(super) fn shared_bytes(self, gates: usize, tile: Tile) -> usize {
        let (stages, row) = match self {
            Storage::Bf16 | Storage::F16 => (4, STAGE_K * 2),
            Storage::Split => (2, STAGE_K * 2),
            // A chunk of padding.
            Storage::Ffma => (2, STAGE_K * 4 + 16),
        };
        let stages = if tile == Tile::Rows32 { stages + 2 } else { stages };
        let piece = self.planes() * STAGE_K * self.stride(gates) * self.element();
        let piece = piece + if self == Storage::Ffma { 64 } else { 0 };
        let stage = self.planes() * tile.rows() * row + tile.across() * piece;
        (3 * tile.rows() * 4).next_multiple_of(128) + stages * stage
    }

    /// The same with stationary weights: of four teams of warps row numbers and two stages of inputs, and all of two packed
    /// blocks, padded only where an even number of gates would have ldmatrix meet a bank twice. None where an input is less than
    /// two stages, or not whole ones.
    pub(super) fn stationary_shared_bytes(
        self,
        product: Product,
        gates: usize,
        units: usize,
        inputs: usize,
    ) -> Option<usize> {
        if self.planes() > 1
            || self == Storage::Ffma
            || !units.is_multiple_of(TEAM_STAGE_K)
            || units < 2 * TEAM_STAGE_K
        {
            return None;
        }
        let rows = Tile::Rows256.rows();
        let padded = product == Product::Mma && gates.is_multiple_of(2);
        let stride = BLOCK_UNITS * gates + if padded { 8 } else { 0 };
        let weights = Tile::Rows256.across() * inputs * units * stride;
        Some(3 * rows * 4 + (2 * rows * TEAM_STAGE_K + weights) * self.element())
    }

    /// The same of a transposed product.
    pub(super) fn transposed_shared_bytes(self, tile: Tile) -> usize {
        self.shared_bytes(TRANSPOSED_GROUPS, tile)
    }

    /// Elements of a plane of packed weights: so many blocks, of so many `k` each.
    fn packed_elements(self, blocks: usize, k: usize, gates: usize) -> usize {
        blocks * k.next_multiple_of(STAGE_K) * self.stride(gates)
    }

    /// Bytes of a row in shared memory that lies there whole.
    fn resident_row_bytes(self, k: usize) -> usize {
        self.planes() * (k * self.element()).next_multiple_of(128)
    }

    /// Inputs of a block of a weight's gradient.
    pub(super) fn gradient_inputs(self) -> usize {
        if self == Storage::Bf16 { 128 } else { 64 }
    }

    /// The same of a weight's gradient: row numbers, and a ring of stages of 32 rows of inputs and of `dz`.
    pub(super) fn gradient_shared_bytes(self) -> usize {
        let stages = if self == Storage::Bf16 { 4 } else { 2 };
        // A chunk of padding a row.
        let row = |length: usize| length * self.element() + 16;
        let stage = STAGE_K * (row(self.gradient_inputs()) + row(GRADIENT_COLUMNS));
        4 * GRADIENT_WINDOW + stages * self.planes() * stage
    }
}

/// The sizes of a model in a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub storage: Storage,
    /// `H`.
    pub hidden: usize,
    /// `H` rounded up to 16.
    pub units: usize,
    /// `D`.
    pub input: usize,
    /// `D` rounded up to 16.
    pub padded_input: usize,
    /// Bytes of `h` of a state.
    pub h_row: usize,
    /// Bytes of `c` of a state; 0 for the RNN.
    pub c_row: usize,
    /// Bytes of a row of dense input on its way to the leaves.
    pub input_row: usize,
}

impl Sizes {
    pub(super) fn new(config: &Config, storage: Storage) -> Self {
        let Config { cell, input, hidden, .. } = *config;
        let [units, padded_input] = [hidden, input].map(|size| size.next_multiple_of(16));
        Sizes {
            storage,
            hidden,
            units,
            input,
            padded_input,
            h_row: storage.row_bytes(units),
            c_row: if cell == Cell::Lstm { 4 * units } else { 0 },
            input_row: storage.row_bytes(padded_input),
        }
    }

    /// Numbers of the gradient of a layer's weights and bias, padded.
    pub(super) fn gradient_numbers(&self, gates: usize, inputs: usize) -> usize {
        (inputs + 1).saturating_mul(gates * self.units)
    }

    /// Bytes of shared memory of a block that walks the whole tree in tiles of so many rows: their numbers twice, weights of
    /// merge and unary layer, the rows' inputs, `h` and `c` between the two, biases.
    pub(super) fn walk_shared_bytes(&self, cell: Cell, tile: usize) -> usize {
        let Sizes { storage, units, c_row, .. } = *self;
        let (merge, unary) = (cell.gates(2), cell.gates(1));
        let elements = storage.packed_elements(self.unit_blocks(), 2 * units, merge)
            + storage.packed_elements(self.unit_blocks(), units, unary);
        let row = storage.resident_row_bytes(2 * units) + storage.resident_row_bytes(units) + c_row;
        tile * (WALK_NUMBERS + row) + storage.row_bytes(elements) + 4 * (merge + unary) * units
    }

    /// The same on the way back: numbers, both layers' weights transposed, a row of `dz`, and the gradient of `c` between.
    pub(super) fn walk_back_shared_bytes(&self, cell: Cell, tile: usize) -> usize {
        let Sizes { storage, units, c_row, .. } = *self;
        let (merge, unary) = (cell.gates(2) * units, cell.gates(1) * units);
        let elements = storage.packed_elements(transposed_blocks(units), unary, TRANSPOSED_GROUPS)
            + storage.packed_elements(transposed_blocks(2 * units), merge, TRANSPOSED_GROUPS);
        tile * (WALK_NUMBERS + storage.resident_row_bytes(merge) + c_row) + storage.row_bytes(elements)
    }

    /// Packed blocks of units.
    pub(super) fn unit_blocks(&self) -> usize {
        self.units.div_ceil(BLOCK_UNITS)
    }
}

/// Where a layer's weights lie in the buffer of packed ones, and their shape.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// In the flat parameters.
    pub from: LinearRange,
    /// Byte at which the packed weights begin: `[blocks of 16 units][stages][planes][32 k][stride]`.
    pub weights: usize,
    /// Byte at which the bias begins: `[gates, units]` f32.
    pub bias: usize,
    pub gates: usize,
    /// Inputs, one after another in `k`: 2 for a merge.
    pub segments: usize,
    /// Length of one.
    pub segment: usize,
    /// The same rounded up to 16.
    pub padded: usize,
    /// Stages of the packed weights.
    pub stages: usize,
    /// Rows of packed weights of one plane, times their length.
    pub elements: usize,
    /// Elements of the bias.
    pub bias_elements: usize,
    /// The weights for the way back, if there is one.
    pub transposed: Option<Transposed>,
    /// Bytes of a row of `z`.
    pub z_row: usize,
}

/// Where a layer's weights lie once more, transposed: `[blocks of 32 inputs][stages][planes][32 k][stride]`, `k` being
/// the columns of `W`, each gate padded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transposed {
    pub weights: usize,
    pub stages: usize,
    /// Rows of one plane, times their length.
    pub elements: usize,
    pub blocks: usize,
}

impl Layer {
    /// Places a layer at `end` of the buffer, and moves the end.
    pub(super) fn place(
        sizes: &Sizes,
        from: &LinearRange,
        segments: usize,
        backward: bool,
        end: &mut usize,
    ) -> Self {
        let gates = from.columns / sizes.hidden;
        let segment = from.fan_in / segments;
        let padded = segment.next_multiple_of(16);
        let blocks = sizes.unit_blocks();
        let stages = blocks * (segments * padded).div_ceil(STAGE_K);
        let elements = sizes.storage.packed_elements(blocks, segments * padded, gates);
        let bias_elements = gates * blocks * BLOCK_UNITS;
        let weights = *end;
        let bias = (weights + sizes.storage.row_bytes(elements)).next_multiple_of(ALIGNMENT);
        *end = (bias + 4 * bias_elements).next_multiple_of(ALIGNMENT);
        let transposed = backward.then(|| {
            let blocks = transposed_blocks(segments * padded);
            let stages = blocks * (gates * sizes.units).div_ceil(STAGE_K);
            let elements = sizes.storage.packed_elements(blocks, gates * sizes.units, TRANSPOSED_GROUPS);
            let weights = *end;
            *end = (weights + sizes.storage.row_bytes(elements)).next_multiple_of(ALIGNMENT);
            Transposed { weights, stages, elements, blocks }
        });
        Layer {
            from: from.clone(),
            weights,
            bias,
            gates,
            segments,
            segment,
            padded,
            stages,
            elements,
            bias_elements,
            transposed,
            z_row: sizes.storage.row_bytes(gates * sizes.units),
        }
    }
}

/// Packed blocks of the transposed product of so many inputs.
fn transposed_blocks(inputs: usize) -> usize {
    inputs.div_ceil(TRANSPOSED_GROUPS * BLOCK_UNITS)
}

/// How the rows of a weight's gradient are divided: by nothing but their number and the model's sizes, so that its bits do
/// not depend on the device. Windows of rows go round the chunks; a token's chunk is rows that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    /// Rows of one, at most.
    pub rows: usize,
    pub count: usize,
}

impl Chunks {
    /// Of so many rows, for a gradient of `numbers` numbers.
    pub(super) fn of(rows: usize, numbers: usize) -> Self {
        let chunk = rows.div_ceil(GRADIENT_WINDOW).div_ceil(Self::most(numbers)).max(1) * GRADIENT_WINDOW;
        Chunks { rows: chunk, count: rows.div_ceil(chunk) }
    }

    /// Chunks that as many rows or fewer are cut into, at most.
    pub(super) fn at_most(rows: usize, numbers: usize) -> usize {
        rows.div_ceil(GRADIENT_WINDOW).min(Self::most(numbers))
    }

    fn most(numbers: usize) -> usize {
        (MOST_PARTIAL / numbers.max(1)).clamp(1, MOST_CHUNKS)
    }

    /// Of so many rows of tokens; of its bias with a vocabulary of 1.
    pub(super) fn of_tokens(rows: usize, vocabulary: usize) -> Self {
        let chunk = rows.div_ceil(MOST_TOKEN_CHUNKS).max(ROWS_A_TOKEN * vocabulary);
        let chunk = chunk.next_multiple_of(TOKEN_ROWS);
        Chunks { rows: chunk, count: rows.div_ceil(chunk) }
    }

    /// Numbers of the partial sums of as many rows of tokens or fewer, at most, where `dz` has `n` columns.
    pub(super) fn most_token_numbers(rows: usize, vocabulary: usize, n: usize) -> usize {
        let most = |vocabulary: usize| {
            let least = (ROWS_A_TOKEN * vocabulary).next_multiple_of(TOKEN_ROWS);
            rows.div_ceil(least).min(MOST_TOKEN_CHUNKS)
        };
        (most(vocabulary).saturating_mul(vocabulary) + most(1)).saturating_mul(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_what_the_kernels_lay_out() {
        use Tile::{Rows32, Rows64, Rows128};
        // A merge on 128 rows with a ring of four stages of 32 k, two packed blocks beside each other.
        assert_eq!(Storage::Bf16.shared_bytes(5, Rows128), 1536 + 4 * (128 * 64 + 2 * 32 * 88 * 2));
        assert_eq!(Storage::Split.shared_bytes(5, Rows64), 768 + 2 * 3 * (64 * 64 + 2 * 32 * 88 * 2));
        assert_eq!(Storage::Ffma.shared_bytes(4, Rows64), 768 + 2 * (64 * 144 + 2 * (32 * 64 * 4 + 64)));
        assert_eq!(Storage::F16.shared_bytes(1, Rows64), 768 + 4 * (64 * 64 + 2 * 32 * 24 * 2));
        assert_eq!(Storage::Bf16.shared_bytes(5, Rows32), 384 + 6 * (32 * 64 + 32 * 88 * 2));
        assert_eq!(Storage::Split.shared_bytes(4, Rows32), 384 + 4 * 3 * (32 * 64 + 32 * 72 * 2));
        assert_eq!(Storage::Ffma.shared_bytes(4, Rows32), 384 + 4 * (32 * 144 + 32 * 64 * 4 + 64));
        assert_eq!(Storage::Bf16.stationary_shared_bytes(Product::Mma, 5, 256, 2), Some(227 << 10));
        assert_eq!(
            Storage::F16.stationary_shared_bytes(Product::Mma, 4, 128, 1),
            Some(4 * (768 + 2 * 8192) + 2 * 128 * 72 * 2)
        );
        assert_eq!(Storage::F16.stationary_shared_bytes(Product::Mma, 4, 64, 1), None);
        // Without padding an LSTM's unary layers are larger.
        let unary = |product| Storage::Bf16.stationary_shared_bytes(product, 4, 640, 1);
        assert_eq!(unary(Product::Wgmma), Some(227 << 10));
        assert_eq!(unary(Product::Mma), Some((227 << 10) + 2 * 640 * 8 * 2));
        assert_eq!(Storage::Bf16.stationary_shared_bytes(Product::Wgmma, 1, 160, 2), None);
        assert_eq!(Storage::Split.stationary_shared_bytes(Product::Wgmma, 5, 256, 2), None);
        assert_eq!(Storage::Bf16.transposed_shared_bytes(Rows128), 1536 + 4 * (128 * 64 + 2 * 32 * 40 * 2));
        assert_eq!(Storage::Bf16.gradient_shared_bytes(), 4096 + 4 * 32 * (272 + 272));
        assert_eq!(Storage::Split.gradient_shared_bytes(), 4096 + 2 * 3 * 32 * (144 + 272));
        assert_eq!(Storage::Ffma.gradient_shared_bytes(), 4096 + 2 * 32 * (272 + 528));
    }

    #[test]
    fn chunks_have_every_row_and_are_few() {
        for numbers in [1, 655_360, 20 << 20, 1 << 30] {
            let mut most = 0;
            for rows in (1..40).chain([1023, 1024, 1025, 32_768, 32_769, 34_816, 1 << 20, (1 << 31) - 1]) {
                let Chunks { rows: chunk, count } = Chunks::of(rows, numbers);
                assert!(chunk.is_multiple_of(GRADIENT_WINDOW) && (count - 1) * chunk < rows);
                assert!(rows <= count * chunk && count <= MOST_CHUNKS);
                assert!(count == 1 || count * numbers <= MOST_PARTIAL);
                assert!(count <= Chunks::at_most(rows, numbers) && most <= Chunks::at_most(rows, numbers));
                most = Chunks::at_most(rows, numbers);
            }
        }
        assert_eq!(Chunks::of(34_816, 1), Chunks { rows: 2048, count: 17 });
        assert_eq!(Chunks::of(0, 1).count, 0);
    }

    #[test]
    fn chunks_of_tokens_have_every_row_and_few_numbers() {
        for vocabulary in [1, 3, 8, 9, 300, 1 << 20] {
            let (mut most, n) = (0, 48);
            for rows in (1..4000).step_by(7).chain([8192, 8193, 131_072, 1 << 20, (1 << 31) - 1]) {
                let cuts = [vocabulary, 1].map(|vocabulary| Chunks::of_tokens(rows, vocabulary));
                for Chunks { rows: chunk, count } in cuts {
                    assert!(chunk.is_multiple_of(TOKEN_ROWS) && count <= MOST_TOKEN_CHUNKS);
                    assert!((count - 1) * chunk < rows && rows <= count * chunk);
                }
                let numbers = (cuts[0].count * vocabulary + cuts[1].count) * n;
                // Beside one sum of each token at most a sixteenth of `dz` twice.
                assert!(numbers <= (vocabulary + 1) * n + rows * n / 8, "{rows} rows, {vocabulary} tokens");
                let of_rows = Chunks::most_token_numbers(rows, vocabulary, n);
                assert!(numbers <= of_rows && most <= of_rows);
                most = of_rows;
            }
        }
        assert_eq!(Chunks::of_tokens(5248, 3), Chunks { rows: 128, count: 41 });
        assert_eq!(Chunks::of_tokens(5248, 300), Chunks { rows: 4864, count: 2 });
    }

    #[test]
    fn the_largest_number_is_the_last_that_stays_finite() {
        use crate::reference::{round_bf16, round_f16};
        for (storage, round) in [(Storage::F16, round_f16 as fn(f64) -> f64), (Storage::Bf16, round_bf16)] {
            let largest = storage.largest();
            assert!(round(largest.into()).is_finite(), "{storage:?}");
            assert!(round(largest.next_up().into()).is_infinite(), "{storage:?}");
        }
    }

    #[test]
    fn layers_do_not_overlap() {
        for storage in [Storage::Bf16, Storage::F16, Storage::Split, Storage::Ffma] {
            let config = Config::new(5, 137, 2).unary_layers(2);
            let (layout, sizes) = (config.layout().expect("a layout"), Sizes::new(&config, storage));
            assert_eq!((sizes.units, sizes.unit_blocks(), sizes.padded_input), (144, 9, 16));
            let mut end = 0;
            for (range, segments) in
                [(&layout.leaf, 1), (&layout.merge, 2), (&layout.unary[0], 1), (&layout.unary[1], 1)]
            {
                let start = end;
                let layer = Layer::place(&sizes, range, segments, true, &mut end);
                let transposed = layer.transposed.expect("a way back");
                assert_eq!((layer.weights, layer.segments * layer.segment), (start, range.fan_in));
                assert!(layer.bias >= layer.weights + storage.row_bytes(layer.elements));
                assert!(transposed.weights >= layer.bias + 4 * layer.bias_elements);
                assert!(end >= transposed.weights + storage.row_bytes(transposed.elements));
                for at in [layer.weights, layer.bias, transposed.weights] {
                    assert_eq!(at % ALIGNMENT, 0);
                }
            }
        }
    }
}
