//! A matrix of its own for each head: `out[i][h] = W_h · x[i][h]`, and the same with `W_hᵀ`
//!
//! A task is some rows of x for one head, so that quantised weights are unpacked once for all of them: for products as
//! everywhere, for transposed ones in f32. There, what is multiplied lies as far apart as all heads are wide, which few sets
//! of a cache would have to hold; so, unless rows of x are few, they and the weights are first laid side by side.

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
/// Rows of x from which on it pays to lay weights side by side.
const PANEL_ROWS_MIN: usize = 8;
/// Weights of a row that are laid side by side: with a head's rows they stay in a first-level cache.
const PANEL: usize = 64;
/// Rows of x that pass all panels before the next ones do: their outputs lie in no more pages than are found at once.
const PANEL_COLUMNS: usize = 16;

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
    let (x, out) = (Shared::new(host::f32_address(x)), Shared::new(host::f32_address(out)));
    let together = n.min(TASK_ROWS);
    let few = together < PANEL_ROWS_MIN;
    match few {
        true => cpu.reserve_scratch(WIDENED_ROWS * cols),
        false => cpu.reserve_scratch((rows + 1) * cols + together * rows),
    }
    cpu.pool.run(heads * n.div_ceil(TASK_ROWS), &|task, worker| {
        let (head, token, row_of_w) = (task % heads, task / heads * TASK_ROWS, task % heads * stride + first);
        let mix = Mix {
            p: x.at((token * heads + head) * rows),
            p_stride: heads * rows,
            columns: TASK_ROWS.min(n - token),
            v: host::address(w.data()),
            v_stride: w.format().row_bytes(cols),
            terms: rows,
            dim: cols,
            out: out.at((token * heads + head) * cols),
            out_stride: heads * cols,
        };
        // SAFETY: `rows` rows of weights, these tokens of this head in x, and outputs that are this task's alone.
        unsafe {
            match few {
                true => row_by_row(cpu, &mix, w, row_of_w, &mut cpu.scratch_of(worker)),
                false => in_panels(cpu, &mix, w, row_of_w, &mut cpu.scratch_of(worker)),
            }
        }
    });
}

/// `out[c] = Σ_t p[c][t] · w[first + t]`, reading the weights once, where they lie.
///
/// # Safety
/// As for [`Mix`], but for `v`; `scratch` holds [`WIDENED_ROWS`].
unsafe fn row_by_row(cpu: &Cpu, mix: &Mix, w: &Matrix, first: usize, scratch: &mut [f32]) {
    // SAFETY: outputs of these columns; rows of w are inside it, or widened; parts that add to the same outputs come one
    // after the other.
    unsafe {
        (0..mix.columns).for_each(|c| mix.out.add(c * mix.out_stride).write_bytes(0, mix.dim));
        if w.format().is_plain() {
            return (cpu.kernels.mix.of(w.format()))(&Mix { v: mix.v.add(first * mix.v_stride), ..*mix });
        }
        for row in (0..mix.terms).step_by(WIDENED_ROWS) {
            let terms = WIDENED_ROWS.min(mix.terms - row);
            for (i, values) in scratch[..terms * mix.dim].chunks_exact_mut(mix.dim).enumerate() {
                widen(cpu, w, first + row + i, values);
            }
            let (p, v) = (mix.p.add(row), scratch.as_ptr().cast());
            (cpu.kernels.mix.of(Format::F32))(&Mix { p, v, v_stride: 4 * mix.dim, terms, ..*mix });
        }
    }
}

/// The same bits as [`row_by_row`]'s, of weights and columns that are laid side by side first.
///
/// # Safety
/// As there; `scratch` holds the weights, a row more, and the columns.
unsafe fn in_panels(cpu: &Cpu, mix: &Mix, w: &Matrix, first: usize, scratch: &mut [f32]) {
    let (panels, rest) = scratch.split_at_mut(mix.terms * mix.dim);
    let (row, columns) = rest.split_at_mut(mix.dim);
    for t in 0..mix.terms {
        widen(cpu, w, first + t, row);
        for (panel, values) in panels.chunks_mut(mix.terms * PANEL).zip(row.chunks(PANEL)) {
            panel[t * values.len()..][..values.len()].copy_from_slice(values);
        }
    }
    let columns = &mut columns[..mix.terms * mix.columns];
    for (c, column) in columns.chunks_exact_mut(mix.terms).enumerate() {
        // SAFETY: a column has as many numbers as terms.
        unsafe { mix.p.add(c * mix.p_stride).copy_to_nonoverlapping(column.as_mut_ptr(), mix.terms) };
    }
    for (round, columns) in columns.chunks(mix.terms * PANEL_COLUMNS).enumerate() {
        for (i, panel) in panels.chunks(mix.terms * PANEL).enumerate() {
            let dim = panel.len() / mix.terms;
            // SAFETY: outputs of these columns, set to zero first; rows of a panel and columns lie one behind the other.
            unsafe {
                let part = Mix {
                    p: columns.as_ptr(),
                    p_stride: mix.terms,
                    columns: columns.len() / mix.terms,
                    v: panel.as_ptr().cast(),
                    v_stride: 4 * dim,
                    dim,
                    out: mix.out.add(round * PANEL_COLUMNS * mix.out_stride + i * PANEL),
                    ..*mix
                };
                (0..part.columns).for_each(|c| part.out.add(c * part.out_stride).write_bytes(0, dim));
                (cpu.kernels.mix.of(Format::F32))(&part);
            }
        }
    }
}

/// How many rows of w are a head's, of which `rows` from `first` on are used.
fn stride(w: &Matrix, heads: usize, first: usize, rows: usize) -> usize {
    assert!(!w.is_transposed(), "linear_heads: rows of w lie one behind the other");
    assert_eq!(w.rows() % heads, 0, "linear_heads: every head has as many rows of w");
    let stride = w.rows() / heads;
    assert!(first + rows <= stride, "linear_heads: rows {first} to {} of {stride}", first + rows);
    stride
}
