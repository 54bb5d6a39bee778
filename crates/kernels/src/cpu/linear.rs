//! `out = x · wᵀ`

use std::ops::Range;

use super::Cpu;
use super::isa::{AffineDots, Dots, Packed, UnpackedDots, group};
use super::pool::lock;
use super::widen::widen;
use crate::host::{self, Shared};
use crate::{Format, Matrix, Tensor};

/// Activation rows that are multiplied at once. Bounds the scratch of rounded activations, and is enough for the
/// arithmetic to outweigh reading the weights once for every so many rows.
pub(super) const ROWS_MAX: usize = 512;

/// Bytes of weights in one task: for few activation rows, a few microseconds of reading; for many, what stays in a
/// second-level cache while the activations pass.
const FEW_ROWS_BYTES: usize = 64 << 10;
const MANY_ROWS_BYTES: usize = 256 << 10;

/// How activations enter products with weights of some format.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Entry {
    /// As they are.
    F32,
    /// Rounded to bf16.
    Bf16,
    /// Rounded to int8, for quantised weights: see [`group::round`].
    Int8 { bits: usize, group: usize },
    /// In f32 with their groups' sums, for affine-quantised weights: see [`group::sum`].
    Summed { bits: usize, group: usize },
}

impl Entry {
    /// Bytes of a row of `cols` activations.
    pub(super) fn row_bytes(self, cols: usize) -> usize {
        match self {
            Entry::F32 => 4 * cols,
            Entry::Bf16 => 2 * cols,
            Entry::Int8 { group, .. } => group::rounded_bytes(cols, group),
            Entry::Summed { group, .. } => group::precise_bytes(cols, group),
        }
    }
}

/// Activations as they enter products: the input of a product, and what lies between the halves of an MLP.
#[derive(Default)]
pub(super) struct Entered {
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

/// Activations of a product, as they enter it, one row behind the other.
#[derive(Clone, Copy)]
pub(super) struct Input {
    pub at: Shared<u8>,
    pub row_bytes: usize,
    pub rows: usize,
}

/// Where outputs go: those of the first row of activations, one for each row of weights, and how far the next ones are.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub at: Shared<f32>,
    pub stride: usize,
}

pub(super) fn linear(cpu: &Cpu, x: &Tensor, w: &Matrix, out: &Tensor) {
    let (n, cols) = host::rows_of(x);
    assert_eq!(cols, w.cols(), "linear: x does not fit w");
    assert_eq!(host::rows_of(out), (n, w.rows()), "linear: out does not fit w");
    let (x, out) = (Shared::new(host::f32_address(x)), Shared::new(host::f32_address(out)));
    let entry = cpu.entry(w);
    let mut entered = lock(&cpu.entered);
    for rows in row_blocks(n) {
        let from = |row: usize| x.at((rows.start + row) * cols).cast_const();
        let at = match entry {
            Entry::F32 => Shared::new(x.at(rows.start * cols).cast()),
            _ => reserve(&mut entered.input, entry.row_bytes(cols) * rows.len()),
        };
        let input = Input { at, row_bytes: entry.row_bytes(cols), rows: rows.len() };
        if entry != Entry::F32 {
            // SAFETY: rows of x, and scratch for as many.
            unsafe { enter(cpu, entry, from, input, cols) };
        }
        multiply(cpu, w, input, Shared::new(out.at(rows.start * w.rows())));
    }
}

/// Makes an input of rows of f32 activations.
///
/// # Safety
/// `from` gives addresses of rows of `cols`, and `input` is room for all of them that no one else uses.
pub(super) unsafe fn enter(
    cpu: &Cpu,
    entry: Entry,
    from: impl Fn(usize) -> *const f32 + Sync,
    input: Input,
    cols: usize,
) {
    cpu.split(input.rows, 6 * cols, |range, _| {
        for row in range {
            // SAFETY: the row of both, the latter this range's alone.
            unsafe { enter_row(cpu, entry, from(row), input.at.at(row * input.row_bytes), cols) };
        }
    });
}

/// One row of them.
///
/// # Safety
/// `from` holds `cols` activations, `to` has room for `entry.row_bytes(cols)`, and the entry is one of this backend's.
pub(super) unsafe fn enter_row(cpu: &Cpu, entry: Entry, from: *const f32, to: *mut u8, cols: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let x = std::slice::from_raw_parts(from, cols);
        match entry {
            Entry::F32 => to.cast::<f32>().copy_from_nonoverlapping(from, cols),
            Entry::Bf16 => (cpu.kernels.bf16.expect("bf16 products").round)(from.cast(), to, cols),
            Entry::Int8 { bits, group } => (cpu.kernels.quantised.round)(x, bits, group, to),
            Entry::Summed { bits, group } => (cpu.kernels.quantised.sum)(x, bits, group, to),
        }
    }
}

/// The whole product of one block of rows: out is `[input.rows, w.rows]`.
pub(super) fn multiply(cpu: &Cpu, w: &Matrix, input: Input, out: Shared<f32>) {
    let chunk = rows_of_task(cpu, w.rows(), w.format().row_bytes(w.cols()), input.rows);
    reserve_widened(cpu, w);
    cpu.pool.run(w.rows().div_ceil(chunk), &|task, worker| {
        let rows = task * chunk..w.rows().min((task + 1) * chunk);
        let out = Output { at: Shared::new(out.at(rows.start)), stride: w.rows() };
        // SAFETY: the columns `rows` of the output are this task's alone.
        unsafe { product(cpu, worker, w, rows, input, out) };
    });
}

/// The outputs of rows `rows` of w, for every row of the input. The worker has room for [`reserve_widened`].
///
/// # Safety
/// The input holds rows of `w.cols()` elements of the type that `w` is multiplied with, and no one else uses these outputs.
pub(super) unsafe fn product(cpu: &Cpu, worker: usize, w: &Matrix, rows: Range<usize>, input: Input, out: Output) {
    let dots = dots(w, &rows, input, out);
    // SAFETY: `rows` are rows of w, whose tensors hold them all; the rest is the caller's promise.
    unsafe {
        match (cpu.entry(w), w.format()) {
            (Entry::F32, Format::Ggml(_) | Format::Coded(_)) => widened(cpu, worker, w, rows.start, &dots),
            (Entry::Int8 { group, .. }, Format::Coded(_)) => {
                let weights = Packed::Coded(w.coded_rows().expect("a coded matrix").from(rows.start), group);
                (cpu.kernels.quantised.unpacked)(&UnpackedDots { dots, weights });
            }
            (entry, Format::Affine { bits, group }) => {
                let dots = affine(w, rows.start, dots, bits.into(), group.into());
                let precise = matches!(entry, Entry::Summed { .. });
                (if precise { cpu.kernels.quantised.precise } else { cpu.kernels.quantised.rounded })(&dots);
            }
            (Entry::Int8 { .. }, Format::Ggml(blocks)) => {
                (cpu.kernels.quantised.unpacked)(&UnpackedDots { dots, weights: Packed::Ggml(blocks) });
            }
            (Entry::Bf16, _) => (cpu.kernels.bf16.expect("bf16 products").dots)(&dots),
            (_, plain) => (cpu.kernels.dots.of(plain))(&dots),
        }
    }
}

/// Rows of blocks or codes that are multiplied with f32 activations at once.
const WIDENED_ROWS: usize = 4;

/// A product of rows `rows` of w.
pub(super) fn dots(w: &Matrix, rows: &Range<usize>, input: Input, out: Output) -> Dots {
    assert!(rows.end <= w.rows());
    let w_stride = w.format().row_bytes(w.cols());
    Dots {
        w: host::address(w.data()).wrapping_add(rows.start * w_stride),
        w_stride,
        rows: rows.len(),
        x: input.at.at(0),
        x_stride: input.row_bytes,
        columns: input.rows,
        k: w.cols(),
        out: out.at.at(0),
        out_stride: out.stride,
    }
}

/// Makes room for [`WIDENED_ROWS`] of a matrix in every worker's scratch, where it is one whose rows are widened.
pub(super) fn reserve_widened(cpu: &Cpu, w: &Matrix) {
    if matches!((cpu.entry(w), w.format()), (Entry::F32, Format::Ggml(_) | Format::Coded(_))) {
        cpu.reserve_scratch(WIDENED_ROWS * w.cols());
    }
}

/// The product of blocks or codes from row `row` on with f32 activations: rows are widened to what they are worth, some at a
/// time.
///
/// # Safety
/// The addresses hold what `Dots` says, with f32 activations.
unsafe fn widened(cpu: &Cpu, worker: usize, w: &Matrix, row: usize, d: &Dots) {
    let mut scratch = cpu.scratch_of(worker);
    for first in (0..d.rows).step_by(WIDENED_ROWS) {
        let rows = WIDENED_ROWS.min(d.rows - first);
        for (i, values) in scratch[..rows * d.k].chunks_exact_mut(d.k).enumerate() {
            widen(cpu, w, row + first + i, values);
        }
        let (w, w_stride, out) = (scratch.as_ptr().cast(), 4 * d.k, d.out.wrapping_add(first));
        // SAFETY: these rows, widened, and their outputs.
        unsafe { (cpu.kernels.dots.of(Format::F32))(&Dots { w, w_stride, rows, out, ..*d }) };
    }
}

/// The product of a quantised matrix from row `row` on.
fn affine(w: &Matrix, row: usize, dots: Dots, bits: usize, group: usize) -> AffineDots {
    let scales = w.scales().map(|tensor| tensor.expect("an affine-quantised matrix has scales and biases"));
    let dtype = scales[0].dtype();
    let first = row * (w.cols() / group) * dtype.bytes();
    AffineDots {
        dots,
        bits,
        group,
        scales: scales.map(|tensor| host::address(tensor).wrapping_add(first).cast_const()),
        scale_format: Format::of(dtype).expect("scales are plain numbers"),
    }
}

/// How many weight rows make a task, a multiple of the 16 that quantised ones are computed by at most. It decides who
/// computes an output, never how.
pub(super) fn rows_of_task(cpu: &Cpu, rows: usize, row_bytes: usize, inputs: usize) -> usize {
    let bytes = if inputs <= 8 { FEW_ROWS_BYTES } else { MANY_ROWS_BYTES };
    let fair = rows.div_ceil(4 * cpu.threads());
    (bytes / row_bytes.max(1)).min(fair).max(1).next_multiple_of(16)
}

impl Cpu {
    /// How activations enter products with these weights.
    pub(super) fn entry(&self, w: &Matrix) -> Entry {
        let precise = self.precise || w.is_exact();
        match w.format() {
            Format::Affine { bits, group } if precise => Entry::Summed { bits: bits.into(), group: group.into() },
            Format::Affine { bits, group } => Entry::Int8 { bits: bits.into(), group: group.into() },
            Format::Ggml(blocks) if !precise => Entry::Int8 { bits: 8, group: blocks.group() },
            Format::Coded(coded) if !precise => match coded.group(w.cols()) {
                Some(group) => Entry::Int8 { bits: 8, group },
                None => Entry::F32,
            },
            Format::Bf16 if self.kernels.bf16.is_some() && !precise => Entry::Bf16,
            Format::F32 | Format::F16 | Format::Bf16 | Format::Ggml(_) | Format::Coded(_) => Entry::F32,
        }
    }
}
