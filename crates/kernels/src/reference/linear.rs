//! `out = x · wᵀ`

use crate::{Matrix, Tensor, host, quant};

pub(super) fn linear(x: &Tensor, w: &Matrix, out: &Tensor) {
    let (n, cols) = host::rows_of(x);
    assert_eq!(cols, w.cols(), "linear: x does not fit w");
    assert_eq!(host::rows_of(out), (n, w.rows()), "linear: out does not fit w");
    let (x, out) = (host::f32s(x), host::f32s_mut(out));
    let mut weights = vec![0.0; cols];
    for r in 0..w.rows() {
        quant::dequantise(w, r, &mut weights);
        for i in 0..n {
            out[i * w.rows() + r] = x[i * cols..][..cols].iter().zip(&weights).map(|(x, w)| x * w).sum();
        }
    }
}
