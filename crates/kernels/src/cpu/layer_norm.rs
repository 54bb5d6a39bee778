//! `out = (x − mean(x)) · rsqrt(var(x) + eps) · weight + bias` (arXiv 1607.06450)

use super::Cpu;
use crate::host::{self, Shared};
use crate::{LayerNorm, Tensor, quant};

pub(super) fn layer_norm(cpu: &Cpu, x: &Tensor, norm: &LayerNorm, out: &Tensor) {
    let (n, d) = host::rows_of(x);
    assert_eq!(x.dims(), out.dims(), "layer_norm: shapes differ");
    assert_eq!((norm.weight.elements(), norm.bias.elements()), (d, d), "layer_norm: a weight and a bias an element");
    let (x, out) = (Shared::new(host::f32_address(x)), Shared::new(host::f32_address(out)));
    cpu.split(n, 32 * d, |range, _| {
        for row in range {
            // SAFETY: row `row` of x; it is written below at the earliest, if `out` is `x`.
            let values = unsafe { x.slice(row * d, d) };
            let mean = values.iter().sum::<f32>() / d as f32;
            let variance = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / d as f32;
            let rsqrt = 1.0 / (variance + norm.eps).sqrt();
            for i in 0..d {
                let (weight, bias) = (quant::value(&norm.weight, i), quant::value(&norm.bias, i));
                // SAFETY: i is inside this row, which is this range's alone; x and out may be the same.
                unsafe { *out.at(row * d + i) = (*x.at(row * d + i) - mean) * rsqrt * weight + bias };
            }
        }
    });
}
