//! `out = x · rsqrt(mean(x²) + eps) · w` (arXiv 1910.07467)

use crate::{Format, RmsNorm, Tensor, host, quant};

pub(super) fn rms_norm(x: &Tensor, norm: &RmsNorm, out: &Tensor) {
    let (n, d) = host::rows_of(x);
    assert_eq!(x.dims(), out.dims(), "rms_norm: shapes differ");
    for row in 0..n {
        let normed = normed(&host::f32s(x)[row * d..][..d], norm);
        host::f32s_mut(out)[row * d..][..d].copy_from_slice(&normed);
    }
}

/// One row of it.
pub(super) fn normed(x: &[f32], norm: &RmsNorm) -> Vec<f32> {
    let d = x.len();
    assert_eq!(norm.weight.elements(), d, "rms_norm: one weight an element of a row");
    let format = Format::of(norm.weight.dtype()).expect("rms_norm: a weight of F32, F16 or BF16");
    let weight = |i| {
        let stored = quant::element(format, host::bytes(&norm.weight), i);
        if norm.plus_one { 1.0 + stored } else { stored }
    };
    let mean = x.iter().map(|x| x * x).sum::<f32>() / d as f32;
    let rsqrt = 1.0 / (mean + norm.eps).sqrt();
    (0..d).map(|i| x[i] * rsqrt * weight(i)).collect()
}
