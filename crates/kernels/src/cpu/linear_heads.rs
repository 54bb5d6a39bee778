//! A matrix of its own for each head: `out[i][h] = W_h · x[i][h]`, and the same with `W_hᵀ`
//!
//! A task is some rows of x for one head, so that quantised weights are unpacked once for all of them: for products as
//! everywhere, for transposed ones in f32, some rows at a time.

use super::Cpu;
use super::isa::Mix;
use super::linear::{Entry, Input, Output, dots, enter_row, product, reserve_widened, rows_of_task};
use super::widen::widen;
use crate::host::{self, Shared};
use crate::{Format, Matrix, Tensor};

/// Rows of x in a task: enough for the arithmetic to outweigh reading the weights.
const TASK_ROWS: usize = 64;
/// Rows of weights that are widened at once: of latent vectors they stay in a first-level cache.
const WIDENED_ROWS: usize = 8;

pub(super) fn linear_heads(cpu: &Cpu, x: &Tensor, w: &Matrix, first: usize, out: &Tensor) {
    let &[n, heads, cols] = x.dims() else { panic!("linear_heads: x is [n, heads, cols], not {x:?}") };
    let rows = out.dim(2);
    assert_eq!(out.dims(), [n, heads, rows], "linear_heads: out does not fit x");
    assert_eq!(cols, w.cols(), "linear_heads: x does not fit w");
    let stride = stride(w, heads, first, rows);
    let (x, out) = (Shared::new(host::f32_address(x)), Shared::new(host::f32_address(out)));
    let entry = if w.format().is_plain() { Entry::F32 } else { cpu.entry(w) };
    match entry {
        Entry::F32 => reserve_widened(cpu, w),
        _ => cpu.reserve_scratch((entry.row_bytes(cols) * TASK_ROWS.min(n)).div_ceil(4)),
    }
    let row_bytes = w.format().row_bytes(cols);
    let chunk = rows_of_task(cpu, heads * rows, row_bytes, n.min(TASK_ROWS)).min(rows.max(1));
    let chunks = rows.div_ceil(chunk);
    cpu.pool.run(chunks * heads * n.div_ceil(TASK_ROWS), &|task, worker| {
        let (chunk_of_head, head, block) = (task % chunks, task / chunks % heads, task / chunks / heads);
        let tokens = block * TASK_ROWS..n.min((block + 1) * TASK_ROWS);
        let outputs = chunk_of_head * chunk..rows.min((chunk_of_head + 1) * chunk);
        let of_w = head * stride + first + outputs.start..head * stride + first + outputs.end;
        let row_of_x = |token: usize| x.at((token * heads + head) * cols).cast_const();
        let at = Shared::new(out.at((tokens.start * heads + head) * rows + outputs.start));
        let to = Output { at, stride: heads * rows };
        // SAFETY: these tokens of this head in x, these rows of w, and outputs that are this task's alone.
        unsafe {
            if entry == Entry::F32 {
                let at = Shared::new(row_of_x(tokens.start).cast_mut().cast());
                let input = Input { at, row_bytes: 4 * heads * cols, rows: tokens.len() };
                return match w.format().is_plain() {
                    true => (cpu.kernels.dots.of(w.format()))(&dots(w, &of_w, input, to)),
                    false => product(cpu, worker, w, of_w, input, to),
                };
            }
            let mut entered = cpu.scratch_of(worker);
            let at = Shared::new(entered.as_mut_ptr().cast::<u8>());
            let input = Input { at, row_bytes: entry.row_bytes(cols), rows: tokens.len() };
            for (i, token) in tokens.enumerate() {
                enter_row(cpu, entry, row_of_x(token), at.at(i * input.row_bytes), cols);
            }
            product(cpu, worker, w, of_w, input, to);
        }
    });
}

pub(super) fn linear_heads_transposed(cpu: &Cpu, x: &Tensor, w: &Matrix, first: usize, out: &Tensor) {
    let &[n, heads, rows] = x.dims() else { panic!("linear_heads_transposed: x is [n, heads, r], not {x:?}") };
    let cols = w.cols();
    assert_eq!(out.dims(), [n, heads, cols], "linear_heads_transposed: out does not fit x and w");
    let stride = stride(w, heads, first, rows);
    host::f32s_mut(out).fill(0.0);
    let (x, out) = (Shared::new(host::f32_address(x)), Shared::new(host::f32_address(out)));
    let (plain, row_bytes) = (w.format().is_plain(), w.format().row_bytes(cols));
    if !plain {
        cpu.reserve_scratch(WIDENED_ROWS * cols);
    }
    cpu.pool.run(heads * n.div_ceil(TASK_ROWS), &|task, worker| {
        let (head, token, row_of_w) = (task % heads, task / heads * TASK_ROWS, task % heads * stride + first);
        let mix = Mix {
            p: x.at((token * heads + head) * rows),
            p_stride: heads * rows,
            columns: TASK_ROWS.min(n - token),
            v: host::address(w.data()).wrapping_add(row_of_w * row_bytes),
            v_stride: row_bytes,
            terms: rows,
            dim: cols,
            out: out.at((token * heads + head) * cols),
            out_stride: heads * cols,
        };
        if plain {
            // SAFETY: `rows` rows of weights, these tokens of this head in x, and outputs that are this task's alone.
            return unsafe { (cpu.kernels.mix.of(w.format()))(&mix) };
        }
        let mut values = cpu.scratch_of(worker);
        for row in (0..rows).step_by(WIDENED_ROWS) {
            let terms = WIDENED_ROWS.min(rows - row);
            for (i, values) in values[..terms * cols].chunks_exact_mut(cols).enumerate() {
                widen(cpu, w, row_of_w + row + i, values);
            }
            let (p, v) = (mix.p.wrapping_add(row), values.as_ptr().cast());
            // SAFETY: as above, of some rows, which are widened; parts that add to the same outputs come one after the other.
            unsafe { (cpu.kernels.mix.of(Format::F32))(&Mix { p, v, v_stride: 4 * cols, terms, ..mix }) };
        }
    });
}

/// How many rows of w are a head's, of which `rows` from `first` on are used.
fn stride(w: &Matrix, heads: usize, first: usize, rows: usize) -> usize {
    assert!(!w.is_transposed(), "linear_heads: rows of w lie one behind the other");
    assert_eq!(w.rows() % heads, 0, "linear_heads: every head has as many rows of w");
    let stride = w.rows() / heads;
    assert!(first + rows <= stride, "linear_heads: rows {first} to {} of {stride}", first + rows);
    stride
}
