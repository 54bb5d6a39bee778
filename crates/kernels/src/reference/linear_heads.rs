//! A matrix of its own for each head: `out[i][h] = W_h · x[i][h]`, and the same with `W_hᵀ`

use crate::{Matrix, Tensor, host, quant};

pub(super) fn linear_heads(x: &Tensor, w: &Matrix, first: usize, out: &Tensor) {
    let &[n, heads, cols] = x.dims() else { panic!("linear_heads: x is [n, heads, cols], not {x:?}") };
    let rows = out.dim(2);
    assert_eq!(out.dims(), [n, heads, rows], "linear_heads: out does not fit x");
    assert_eq!(cols, w.cols(), "linear_heads: x does not fit w");
    let (x, out) = (host::f32s(x), host::f32s_mut(out));
    each_row(w, heads, first, rows, |h, r, weights| {
        for i in 0..n {
            let x = &x[(i * heads + h) * cols..][..cols];
            out[(i * heads + h) * rows + r] = x.iter().zip(weights).map(|(x, w)| x * w).sum();
        }
    });
}

pub(super) fn linear_heads_transposed(x: &Tensor, w: &Matrix, first: usize, out: &Tensor) {
    let &[n, heads, rows] = x.dims() else { panic!("linear_heads_transposed: x is [n, heads, r], not {x:?}") };
    let cols = w.cols();
    assert_eq!(out.dims(), [n, heads, cols], "linear_heads_transposed: out does not fit x and w");
    let (x, out) = (host::f32s(x), host::f32s_mut(out));
    out.fill(0.0);
    each_row(w, heads, first, rows, |h, r, weights| {
        for i in 0..n {
            let x = x[(i * heads + h) * rows + r];
            let out = &mut out[(i * heads + h) * cols..][..cols];
            out.iter_mut().zip(weights).for_each(|(out, w)| *out += x * w);
        }
    });
}

/// Calls `work` with head, number and values of `rows` rows of each head, in order.
fn each_row(w: &Matrix, heads: usize, first: usize, rows: usize, mut work: impl FnMut(usize, usize, &[f32])) {
    assert_eq!(w.rows() % heads, 0, "linear_heads: every head has as many rows of w");
    let stride = w.rows() / heads;
    assert!(first + rows <= stride, "linear_heads: rows {first} to {} of {stride}", first + rows);
    let mut weights = vec![0.0; w.cols()];
    for h in 0..heads {
        for r in 0..rows {
            quant::dequantise(w, h * stride + first + r, &mut weights);
            work(h, r, &weights);
        }
    }
}
