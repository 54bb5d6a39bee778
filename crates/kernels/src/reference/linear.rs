//! `out = x · wᵀ`

use crate::{Matrix, Tensor, host, quant};

pub(super) fn linear(x: &Tensor, w: &Matrix, out: &Tensor) {
    let (n, cols) = host::rows_of(x);
    assert_eq!(cols, w.cols(), "linear: x does not fit w");
    assert_eq!(host::rows_of(out), (n, w.rows()), "linear: out does not fit w");
    let (x, out) = (host::f32s(x), host::f32s_mut(out));
    let mut weights = vec![0.0; cols];
    for r in 0..w.rows() {
        dequantise(w, r, &mut weights);
        for i in 0..n {
            out[i * w.rows() + r] = x[i * cols..][..cols].iter().zip(&weights).map(|(x, w)| x * w).sum();
        }
    }
}

/// Row `row` of a matrix, in f32.
pub(super) fn dequantise(w: &Matrix, row: usize, values: &mut [f32]) {
    let row_bytes = w.format().row_bytes(w.cols());
    let bytes = &host::bytes(w.data())[row * row_bytes..][..row_bytes];
    let scales = w.scales().map(|scales| scales.each_ref().map(|tensor| host::bytes(tensor)));
    quant::dequantise_row(w, row, bytes, scales, values);
}
