//! `out = x · rsqrt(mean(x²) + eps) · w` (arXiv 1910.07467)

use crate::{RmsNorm, Tensor, host, quant};

pub(super) fn rms_norm(x: &Tensor, norm: &RmsNorm, out: &Tensor) {
    let (n, d) = host::rows_of(x);
    assert_eq!(x.dims(), out.dims(), "rms_norm: shapes differ");
    for row in 0..n {
        let normed = normed(&host::f32s(x)[row * d..][..d], row, norm);
        host::f32s_mut(out)[row * d..][..d].copy_from_slice(&normed);
    }
}

/// One row of it.
pub(super) fn normed(x: &[f32], row: usize, norm: &RmsNorm) -> Vec<f32> {
    let d = x.len();
    let weight = |i: usize| {
        let Some(weight) = &norm.weight else { return 1.0 };
        assert_eq!(weight.elements() % d, 0, "rms_norm: one weight an element of a row");
        let stored = quant::value(weight, row * d % weight.elements() + i);
        if norm.plus_one { 1.0 + stored } else { stored }
    };
    let mean = x.iter().map(|x| x * x).sum::<f32>() / d as f32;
    let rsqrt = 1.0 / (mean + norm.eps).sqrt();
    (0..d).map(|i| x[i] * rsqrt * weight(i)).collect()
}
