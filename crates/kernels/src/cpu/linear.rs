//! `out = x · wᵀ`

use std::ops::Range;

use super::Cpu;
use super::isa::{Bf16Kernels, Dots};
use super::pool::lock;
use crate::host::{self, Shared};
use crate::{Format, Matrix, Tensor};

/// Activation rows that are multiplied at once. Bounds the scratch of rounded activations, and is enough for the
/// arithmetic to outweigh reading the weights once for every so many rows.
pub(super) const ROWS_MAX: usize = 512;

/// Bytes of weights in one task: for few activation rows, a few microseconds of reading; for many, what stays in a
/// second-level cache while the activations pass.
const FEW_ROWS_BYTES: usize = 64 << 10;
const MANY_ROWS_BYTES: usize = 256 << 10;

/// Activations rounded to bf16: the input of a product, and what lies between the halves of an MLP.
#[derive(Default)]
pub(super) struct Rounded {
    pub input: Vec<u8>,
    pub hidden: Vec<u8>,
}

/// Makes sure that `scratch` holds `len` bytes.
pub(super) fn reserve(scratch: &mut Vec<u8>, len: usize) -> Shared<u8> {
    if scratch.len() < len {
        scratch.resize(len, 0);
    }
    Shared::new(scratch.as_mut_ptr())
}

/// `0..n` in ranges of at most [`ROWS_MAX`].
pub(super) fn row_blocks(n: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(ROWS_MAX).map(move |first| first..n.min(first + ROWS_MAX))
}

/// Activations of a product, f32 or rounded to bf16, one row behind the other.
#[derive(Clone, Copy)]
pub(super) struct Input {
    pub at: Shared<u8>,
    pub row_bytes: usize,
    pub rows: usize,
}

pub(super) fn linear(cpu: &Cpu, x: &Tensor, w: &Matrix, out: &Tensor) {
    let (n, cols) = host::rows_of(x);
    assert_eq!(cols, w.cols(), "linear: x does not fit w");
    assert_eq!(host::rows_of(out), (n, w.rows()), "linear: out does not fit w");
    let (x, out) = (Shared::new(host::f32_address(x)), Shared::new(host::f32_address(out)));
    let mut rounded = lock(&cpu.rounded);
    for rows in row_blocks(n) {
        let plain = Input { at: Shared::new(x.at(rows.start * cols).cast()), row_bytes: 4 * cols, rows: rows.len() };
        let input = match cpu.bf16_for(w.format()) {
            Some(bf16) => {
                let input =
                    Input { at: reserve(&mut rounded.input, 2 * cols * rows.len()), row_bytes: 2 * cols, ..plain };
                cpu.split(rows.len(), 6 * cols, |range, _| {
                    let (from, to) = (plain.at.at(range.start * 4 * cols), input.at.at(range.start * 2 * cols));
                    // SAFETY: these rows of both are this range's alone.
                    unsafe { (bf16.round)(from, to, range.len() * cols) };
                });
                input
            }
            None => plain,
        };
        multiply(cpu, w, input, Shared::new(out.at(rows.start * w.rows())));
    }
}

/// The whole product of one block of rows: out is `[input.rows, w.rows]`.
fn multiply(cpu: &Cpu, w: &Matrix, input: Input, out: Shared<f32>) {
    let chunk = rows_of_task(cpu, w.rows(), w.format().row_bytes(w.cols()), input.rows);
    cpu.pool.run(w.rows().div_ceil(chunk), &|task, _| {
        let rows = task * chunk..w.rows().min((task + 1) * chunk);
        // SAFETY: the columns `rows` of the output are this task's alone.
        unsafe { product(cpu, w, rows, input, out) };
    });
}

/// Outputs `rows` of the product, for every row of the input.
///
/// # Safety
/// The input holds rows of `w.cols()` elements of the type that `w` is multiplied with, `out` is `[input.rows, w.rows]`, and no
/// one else uses its columns `rows`.
pub(super) unsafe fn product(cpu: &Cpu, w: &Matrix, rows: Range<usize>, input: Input, out: Shared<f32>) {
    let w_stride = w.format().row_bytes(w.cols());
    let dots = match cpu.bf16_for(w.format()) {
        Some(bf16) => bf16.dots,
        None => cpu.kernels.dots.of(w.format()),
    };
    assert!(rows.end <= w.rows());
    let block = Dots {
        w: host::address(w.data()).wrapping_add(rows.start * w_stride),
        w_stride,
        rows: rows.len(),
        x: input.at.at(0),
        x_stride: input.row_bytes,
        columns: input.rows,
        k: w.cols(),
        out: out.at(rows.start),
        out_stride: w.rows(),
    };
    // SAFETY: `rows` are rows of w, whose tensor holds them all; the rest is the caller's promise.
    unsafe { dots(&block) };
}

/// How many weight rows make a task. It decides who computes an output, never how.
pub(super) fn rows_of_task(cpu: &Cpu, rows: usize, row_bytes: usize, inputs: usize) -> usize {
    let bytes = if inputs <= 8 { FEW_ROWS_BYTES } else { MANY_ROWS_BYTES };
    let fair = rows.div_ceil(4 * cpu.threads());
    (bytes / row_bytes.max(1)).min(fair).max(4).next_multiple_of(4)
}

impl Cpu {
    /// The kernels that multiply weights of this format with rounded activations, if that is done.
    pub(super) fn bf16_for(&self, format: Format) -> Option<Bf16Kernels> {
        self.kernels.bf16.filter(|_| format == Format::Bf16 && !self.precise)
    }
}
