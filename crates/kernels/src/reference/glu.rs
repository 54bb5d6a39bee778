//! `out = act(gate, up)`: gated linear units (arXiv 2002.05202)

use crate::{Activation, Tensor, host};

pub(super) fn glu(gate: &Tensor, up: &Tensor, activation: Activation, out: &Tensor) {
    assert_eq!(gate.dims(), up.dims(), "glu: shapes differ");
    assert_eq!(gate.dims(), out.dims(), "glu: shapes differ");
    for i in 0..out.elements() {
        let (gate, up) = (host::f32s(gate)[i], host::f32s(up)[i]);
        host::f32s_mut(out)[i] = match activation {
            Activation::SwiGlu => silu(gate) * up,
            Activation::SwiGluClamped { alpha, limit } => swiglu_clamped(gate, up, alpha, limit),
            Activation::SwiGluLimited { limit } => silu(gate.min(limit)) * up.clamp(-limit, limit),
            Activation::Silu => silu(gate),
            Activation::Relu2 => gate.max(0.0) * gate.max(0.0),
            Activation::GeGlu => gelu(gate) * up,
            Activation::Product => gate * up,
        };
    }
}

/// `z · sigmoid(z)`
pub(super) fn silu(z: f32) -> f32 {
    z / (1.0 + (-z).exp())
}

/// `z/2 · (1 + tanh(√(2/π) · (z + 0.044715·z³)))` (arXiv 1606.08415)
fn gelu(z: f32) -> f32 {
    let sqrt_2_over_pi = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
    0.5 * z * (1.0 + (sqrt_2_over_pi * (z + 0.044715 * z * z * z)).tanh())
}

fn swiglu_clamped(gate: f32, up: f32, alpha: f32, limit: f32) -> f32 {
    let (gate, up) = (gate.min(limit), up.clamp(-limit, limit));
    (up + 1.0) * (gate / (1.0 + (-alpha * gate).exp()))
}
