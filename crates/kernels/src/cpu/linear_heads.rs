//! A matrix of its own for each head: `out[i][h] = W_h · x[i][h]`, and the same with `W_hᵀ`
//!
//! A task is some rows of x for one head: its weights are used as stored, or, where they are quantised, in f32 a row at a
//! time.

use super::Cpu;
use super::isa::{Dots, Mix};
use crate::host::{self, Shared};
use crate::{Format, Matrix, Tensor, quant};

/// Rows of x in a task: enough for the arithmetic to outweigh reading the weights.
const TASK_ROWS: usize = 64;

pub(super) fn linear_heads(cpu: &Cpu, x: &Tensor, w: &Matrix, first: usize, out: &Tensor) {
    let &[n, heads, cols] = x.dims() else { panic!("linear_heads: x is [n, heads, cols], not {x:?}") };
    let rows = out.dim(2);
    assert_eq!(out.dims(), [n, heads, rows], "linear_heads: out does not fit x");
    assert_eq!(cols, w.cols(), "linear_heads: x does not fit w");
    let (x, out) = (Shared::new(host::f32_address(x)), Shared::new(host::f32_address(out)));
    each_part(cpu, w, heads, n, first, rows, |part| {
        let dots = Dots {
            w: part.weights,
            w_stride: part.stride,
            rows: part.rows,
            x: x.at((part.tokens.start * heads + part.head) * cols).cast(),
            x_stride: 4 * heads * cols,
            columns: part.tokens.len(),
            k: cols,
            out: out.at((part.tokens.start * heads + part.head) * rows + part.row),
            out_stride: heads * rows,
        };
        // SAFETY: `part.rows` rows of weights, these tokens of this head in x, and outputs that are this part's alone.
        unsafe { (cpu.kernels.dots.of(part.format))(&dots) };
    });
}

pub(super) fn linear_heads_transposed(cpu: &Cpu, x: &Tensor, w: &Matrix, first: usize, out: &Tensor) {
    let &[n, heads, rows] = x.dims() else { panic!("linear_heads_transposed: x is [n, heads, r], not {x:?}") };
    let cols = w.cols();
    assert_eq!(out.dims(), [n, heads, cols], "linear_heads_transposed: out does not fit x and w");
    host::f32s_mut(out).fill(0.0);
    let (x, out) = (Shared::new(host::f32_address(x)), Shared::new(host::f32_address(out)));
    each_part(cpu, w, heads, n, first, rows, |part| {
        let mix = Mix {
            p: x.at((part.tokens.start * heads + part.head) * rows + part.row),
            p_stride: heads * rows,
            columns: part.tokens.len(),
            v: part.weights,
            v_stride: part.stride,
            terms: part.rows,
            dim: cols,
            out: out.at((part.tokens.start * heads + part.head) * cols),
            out_stride: heads * cols,
        };
        // SAFETY: as above; a task's parts, which add to the same outputs, come one after the other.
        unsafe { (cpu.kernels.mix.of(part.format))(&mix) };
    });
}

/// Rows of a head's weights, for some tokens.
struct Part {
    head: usize,
    tokens: std::ops::Range<usize>,
    /// The first of its rows within those of the head.
    row: usize,
    rows: usize,
    weights: *const u8,
    stride: usize,
    format: Format,
}

/// Calls `work` for every head and [`TASK_ROWS`] tokens: once with all rows, or for each row where they are quantised, always
/// in ascending order.
fn each_part(cpu: &Cpu, w: &Matrix, heads: usize, n: usize, first: usize, rows: usize, work: impl Fn(&Part) + Sync) {
    assert_eq!(w.rows() % heads, 0, "linear_heads: every head has as many rows of w");
    let stride = w.rows() / heads;
    assert!(first + rows <= stride, "linear_heads: rows {first} to {} of {stride}", first + rows);
    let plain = w.format().is_plain();
    if !plain {
        cpu.reserve_scratch(w.cols());
    }
    let row_bytes = w.format().row_bytes(w.cols());
    cpu.pool.run(heads * n.div_ceil(TASK_ROWS), &|task, worker| {
        let (head, begin) = (task % heads, task / heads * TASK_ROWS);
        let (tokens, row_of_w) = (begin..n.min(begin + TASK_ROWS), head * stride + first);
        if plain {
            let weights = host::address(w.data()).wrapping_add(row_of_w * row_bytes).cast_const();
            return work(&Part { head, tokens, row: 0, rows, weights, stride: row_bytes, format: w.format() });
        }
        let mut values = cpu.scratch_of(worker);
        let values = &mut values[..w.cols()];
        for row in 0..rows {
            quant::dequantise(w, row_of_w + row, values);
            let weights = values.as_ptr().cast();
            work(&Part { head, tokens: tokens.clone(), row, rows: 1, weights, stride: 0, format: Format::F32 });
        }
    });
}
