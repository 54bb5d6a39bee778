//! `out = x · rsqrt(mean(x²) + eps) · w · silu(gate)` (Gated DeltaNet, arXiv 2412.06464)

use super::glu::silu;
use super::rms_norm::normed;
use crate::{RmsNorm, Tensor, host};

pub(super) fn rms_norm_gated(x: &Tensor, gate: &Tensor, norm: &RmsNorm, out: &Tensor) {
    let (n, d) = host::rows_of(x);
    assert_eq!(x.dims(), out.dims(), "rms_norm_gated: shapes differ");
    assert_eq!(x.elements(), gate.elements(), "rms_norm_gated: one gate an element");
    for row in 0..n {
        let normed = normed(&host::f32s(x)[row * d..][..d], row, norm);
        for (i, normed) in normed.into_iter().enumerate() {
            host::f32s_mut(out)[row * d + i] = normed * silu(host::f32s(gate)[row * d + i]);
        }
    }
}
