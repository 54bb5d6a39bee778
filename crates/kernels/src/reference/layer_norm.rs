//! `out = (x − mean(x)) · rsqrt(var(x) + eps) · weight + bias` (arXiv 1607.06450)

use crate::{LayerNorm, Tensor, host, quant};

pub(super) fn layer_norm(x: &Tensor, norm: &LayerNorm, out: &Tensor) {
    let (n, d) = host::rows_of(x);
    assert_eq!(x.dims(), out.dims(), "layer_norm: shapes differ");
    assert_eq!((norm.weight.elements(), norm.bias.elements()), (d, d), "layer_norm: a weight and a bias an element");
    for row in 0..n {
        let x = host::f32s(x)[row * d..][..d].to_vec();
        let mean = x.iter().sum::<f32>() / d as f32;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / d as f32;
        let rsqrt = 1.0 / (variance + norm.eps).sqrt();
        for (i, out) in host::f32s_mut(out)[row * d..][..d].iter_mut().enumerate() {
            *out = (x[i] - mean) * rsqrt * quant::value(&norm.weight, i) + quant::value(&norm.bias, i);
        }
    }
}
