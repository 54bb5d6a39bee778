//! `x *= sigmoid(gate)`

use crate::{Tensor, host};

pub(super) fn sigmoid_gate(x: &Tensor, gate: &Tensor) {
    assert_eq!(x.elements(), gate.elements(), "sigmoid_gate: one gate an element");
    for (x, gate) in host::f32s_mut(x).iter_mut().zip(host::f32s(gate)) {
        *x *= sigmoid(*gate);
    }
}

/// `1 / (1 + e^-z)`
pub(super) fn sigmoid(z: f32) -> f32 {
    1.0 / (1.0 + (-z).exp())
}
