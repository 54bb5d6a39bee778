//! Every operation of every backend that this machine can run, against `reference`, by property test; and bit for bit
//! against itself, computed in other pieces and by other numbers of threads.

mod affine;
mod attention;
mod causal_conv;
mod coded;
mod gated_delta;
mod gates;
mod ggml;
mod heads;
mod linear_attention;
mod machine;
mod near;
mod same_bits;
mod select;
mod selective_scan;
mod streams;
mod together;
mod transposed;

use proptest::prelude::*;
use proptest::sample::select;

use outpour_kernels::Format;

/// Widths that are no multiple of a vector, and some that are.
pub fn widths() -> impl Strategy<Value = usize> {
    select(vec![1, 7, 24, 31, 32, 33, 96, 128, 1000])
}

/// Of weights.
pub fn formats() -> impl Strategy<Value = Format> {
    select(vec![Format::F32, Format::F16, Format::Bf16])
}

/// Bytes between a tensor's end and the end of readable memory: they move its beginning to odd bytes.
pub fn tails() -> impl Strategy<Value = usize> {
    select(vec![0, 1, 2, 3, 5])
}

/// Bounded, so that the whole file takes seconds; a failing case prints its values, and no file is written.
pub fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}
