//! `out = x · rsqrt(mean(x²) + eps) · weight` (arXiv 1910.07467)

use crate::{Format, Tensor, host, quant};

pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32, out: &Tensor) {
    let (n, d) = host::rows_of(x);
    assert_eq!(x.dims(), out.dims(), "rms_norm: shapes differ");
    assert_eq!(weight.elements(), d, "rms_norm: one weight an element of a row");
    let format = Format::of(weight.dtype()).expect("rms_norm: a weight of F32, F16 or BF16");
    let weight = host::bytes(weight);
    for row in 0..n {
        let x = host::f32s(x)[row * d..][..d].to_vec();
        let out = &mut host::f32s_mut(out)[row * d..][..d];
        let mean = x.iter().map(|x| x * x).sum::<f32>() / d as f32;
        let rsqrt = 1.0 / (mean + eps).sqrt();
        for i in 0..d {
            out[i] = x[i] * rsqrt * quant::element(format, weight, i);
        }
    }
}
