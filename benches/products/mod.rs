//! The products of a case and nothing else, by the crate `gemm` on all threads: what the rest is measured against.

use std::hint::black_box;

use gemm::{Parallelism, gemm};
use pr_lstm::Error;
use pr_lstm::bench::{Algorithm, Product, Work};

/// As [`Line::gemm`](pr_lstm::bench::Line::gemm) asks for it.
pub fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Tree => "gemm",
        Algorithm::TreeLast => "gemm last",
        Algorithm::Lstm => "gemm lstm",
    }
}

/// One product after another, row-major, over the same three matrices.
pub fn work(products: Vec<Product>) -> Work<'static> {
    let largest = |len: fn(&Product) -> usize| products.iter().map(len).max().unwrap_or(0);
    let left = vec![0.046f32; largest(|product| product.rows * product.inner)];
    let right = vec![0.046f32; largest(|product| product.inner * product.columns)];
    let mut result = vec![f32::NAN; largest(|product| product.rows * product.columns)];
    Work::new(1, move || {
        for &Product { rows, inner, columns } in &products {
            // SAFETY: the matrices are as long as the largest product's, `result` is nobody else's, and what stood in it
            // is not read.
            unsafe {
                gemm(
                    rows,
                    columns,
                    inner,
                    result.as_mut_ptr(),
                    1,
                    columns as isize,
                    false,
                    left.as_ptr(),
                    1,
                    inner as isize,
                    right.as_ptr(),
                    1,
                    columns as isize,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    Parallelism::Rayon(0),
                );
            }
        }
        if black_box(&result)[0].is_nan() {
            return Err(Error::NotFinite { tensor: "result".into(), index: 0, value: f64::NAN });
        }
        Ok(())
    })
}
