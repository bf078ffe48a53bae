//! Memory of the CPU backend: owned buffers on cache lines, and matrices that tasks share.

use std::marker::PhantomData;

use super::stored::Stored;
use crate::backend::Element;
use crate::error::Result;
use crate::room::lacking;

/// One cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; 64]);

// SAFETY: an array of bytes with a larger alignment and no padding; all zeros is a value.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above; every bit pattern is a value.
unsafe impl bytemuck::Pod for Line {}

/// Owned memory that starts on a cache line.
#[derive(Debug)]
pub struct CpuBuffer<T> {
    lines: Vec<Line>,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Element> CpuBuffer<T> {
    /// `len` zeros, if there is that much memory.
    pub(super) fn zeroed(len: usize) -> Result<Self> {
        let bytes = len.checked_mul(size_of::<T>());
        let lines = bytes.and_then(|bytes| bytemuck::allocation::try_zeroed_vec(bytes.div_ceil(64)).ok());
        let buffer = lines.map(|lines| CpuBuffer { lines, len, element: PhantomData });
        buffer.ok_or_else(|| lacking(len, size_of::<T>()))
    }

    /// The elements.
    pub fn as_slice(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    /// The elements, to write.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

/// A matrix whose elements different tasks of one kernel read and write: a pointer with its bounds.
///
/// The borrow of the memory lasts as long as the matrix; that two tasks never write the same element, nor one
/// reads what another writes, is for each kernel to say.
pub(super) struct Matrix<'a, T = f32> {
    start: *mut T,
    rows: usize,
    stride: usize,
    memory: PhantomData<&'a mut [T]>,
}

// Whatever `T` is.
impl<T> Clone for Matrix<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Matrix<'_, T> {}

// SAFETY: a matrix is a pointer into memory that outlives it; every access through it is unsafe and says why
// it does not race.
unsafe impl<T> Send for Matrix<'_, T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Matrix<'_, T> {}

impl<'a> Matrix<'a> {
    /// The memory as rows of `stride` elements.
    pub(super) fn new(memory: &'a mut [f32], stride: usize) -> Self {
        let rows = memory.len().checked_div(stride).unwrap_or(0);
        Matrix { start: memory.as_mut_ptr(), rows, stride, memory: PhantomData }
    }

    /// The same over memory that is only read.
    ///
    /// # Safety
    /// Nothing is written through the matrix.
    pub(super) unsafe fn read_only(memory: &'a [f32], stride: usize) -> Self {
        let rows = memory.len().checked_div(stride).unwrap_or(0);
        Matrix { start: memory.as_ptr().cast_mut(), rows, stride, memory: PhantomData }
    }

    /// The same memory, as many rows, as elements of another type that fit a f32.
    pub(super) fn of<T: Stored>(self) -> Matrix<'a, T> {
        let stride = self.stride * size_of::<f32>() / size_of::<T>();
        Matrix { start: self.start.cast(), rows: self.rows, stride, memory: PhantomData }
    }
}

impl<T> Matrix<'_, T> {
    /// Rows of the matrix.
    pub(super) fn rows(self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub(super) fn stride(self) -> usize {
        self.stride
    }

    /// The start of a row. The pointer is valid for `stride` elements if `row` is below the number of rows,
    /// which plans guarantee and debug builds check.
    #[inline(always)]
    pub(super) fn row(self, row: usize) -> *mut T {
        debug_assert!(row < self.rows, "row {row} of {}", self.rows);
        self.start.wrapping_add(row * self.stride)
    }
}

/// Asks for a cache line before it is needed, into the first level or the second; any address will do.
#[inline(always)]
pub(super) fn prefetch<T, const FIRST: bool>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which reads nothing; every x86-64 processor has it.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        if FIRST { _mm_prefetch::<_MM_HINT_T0>(at.cast()) } else { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Which row of a matrix a kernel's row `i` is.
#[derive(Clone, Copy)]
pub(super) enum Index<'a> {
    /// `first + i`.
    From(usize),
    /// `width` rows a slot, `i / width` the slot's place in the list.
    Slots { slots: &'a [u32], width: usize },
    /// A leaf's row of the input: leaf `first + i / width`, lane `i % width`, `time` input rows a lane.
    Input { width: usize, time: usize, first: usize },
}

impl Index<'_> {
    #[inline(always)]
    pub(super) fn row(self, i: usize) -> usize {
        match self {
            Index::From(first) => first + i,
            Index::Slots { slots, width: 1 } => slots[i] as usize,
            Index::Slots { slots, width } => slots[i / width] as usize * width + i % width,
            Index::Input { width, time, first } => (i % width) * time + first + i / width,
        }
    }
}
