//! `out[i] = sign(z) · √max(|z|, 1e-6)`, z being `x[i] · y[i] / √d` (Qwen4-Exp)

use crate::{Tensor, host};

pub(super) fn agreement(x: &Tensor, y: &Tensor, out: &Tensor) {
    let (n, d) = host::rows_of(x);
    assert_eq!(x.dims(), y.dims(), "agreement: shapes differ");
    assert_eq!(out.elements(), n, "agreement: one number a row");
    let (x, y) = (host::f32s(x), host::f32s(y));
    for row in 0..n {
        let product: f32 = (row * d..(row + 1) * d).map(|i| x[i] * y[i]).sum();
        host::f32s_mut(out)[row] = signed_root(product / (d as f32).sqrt());
    }
}

/// `sign(z) · √max(|z|, 1e-6)`
pub(crate) fn signed_root(z: f32) -> f32 {
    if z == 0.0 { 0.0 } else { z.abs().max(1e-6).sqrt().copysign(z) }
}
