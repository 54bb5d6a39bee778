//! `out = x · wᵀ`

use crate::{Matrix, Tensor, host, quant};

const ROWS: usize = 8;

pub(super) fn linear(x: &Tensor, w: &Matrix, out: &Tensor) {
    let (n, cols) = host::rows_of(x);
    assert_eq!(cols, w.cols(), "linear: x does not fit w");
    assert_eq!(host::rows_of(out), (n, w.rows()), "linear: out does not fit w");
    let (x, out) = (host::f32s(x), host::f32s_mut(out));
    // Rows side by side: each output is a sum in the order of columns all the same, and eight are added at a time.
    let (mut row, mut weights) = (vec![0.0; cols], vec![[0.0; ROWS]; cols]);
    for first in (0..w.rows()).step_by(ROWS) {
        let rows = ROWS.min(w.rows() - first);
        for r in 0..rows {
            quant::dequantise(w, first + r, &mut row);
            weights.iter_mut().zip(&row).for_each(|(weights, &w)| weights[r] = w);
        }
        for i in 0..n {
            let mut sums = [0.0; ROWS];
            for (x, weights) in x[i * cols..][..cols].iter().zip(&weights) {
                sums.iter_mut().zip(weights).for_each(|(sum, w)| *sum += x * w);
            }
            out[i * w.rows() + first..][..rows].copy_from_slice(&sums[..rows]);
        }
    }
}
