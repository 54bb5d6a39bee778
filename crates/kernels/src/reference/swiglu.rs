//! `out = silu(gate) · up`

use crate::{Tensor, host};

pub(super) fn swiglu(gate: &Tensor, up: &Tensor, out: &Tensor) {
    assert_eq!(gate.dims(), up.dims(), "swiglu: shapes differ");
    assert_eq!(gate.dims(), out.dims(), "swiglu: shapes differ");
    for i in 0..out.elements() {
        let (gate, up) = (host::f32s(gate)[i], host::f32s(up)[i]);
        host::f32s_mut(out)[i] = silu(gate) * up;
    }
}

/// `z · sigmoid(z)`
pub(super) fn silu(z: f32) -> f32 {
    z / (1.0 + (-z).exp())
}
