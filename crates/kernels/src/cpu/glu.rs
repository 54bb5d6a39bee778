//! `out = act(gate, up)`

use super::Cpu;
use crate::host::{self, Shared};
use crate::{Activation, Tensor};

pub(super) fn glu(cpu: &Cpu, gate: &Tensor, up: &Tensor, activation: Activation, out: &Tensor) {
    assert_eq!(gate.dims(), up.dims(), "glu: shapes differ");
    assert_eq!(gate.dims(), out.dims(), "glu: shapes differ");
    let [gate_at, up_at, out_at] = [gate, up, out].map(|tensor| Shared::new(host::f32_address(tensor)));
    // The exponential costs as much as tens of bytes.
    cpu.split(out.elements(), 48, |range, _| {
        let [gate, up, out] = [gate_at, up_at, out_at].map(|at| at.at(range.start));
        // SAFETY: the range is inside all three, and no other worker's.
        unsafe { glu_at(gate, up, activation, out, range.len()) };
    });
}

/// `n` elements of it.
///
/// # Safety
/// All three addresses hold `n` elements that no one else writes; `out` may be `gate` or `up`.
pub(super) unsafe fn glu_at(gate: *const f32, up: *const f32, activation: Activation, out: *mut f32, n: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match activation {
            Activation::SwiGlu => each(gate, up, out, n, |gate, up| silu(gate) * up),
            Activation::SwiGluClamped { alpha, limit } => each(gate, up, out, n, |gate, up| {
                let (gate, up) = (gate.min(limit), up.clamp(-limit, limit));
                (up + 1.0) * (gate / (1.0 + (-alpha * gate).exp()))
            }),
            Activation::SwiGluLimited { limit } => {
                each(gate, up, out, n, |gate, up| silu(gate.min(limit)) * up.clamp(-limit, limit));
            }
            Activation::Silu => each(gate, up, out, n, |gate, _| silu(gate)),
            Activation::Relu2 => each(gate, up, out, n, |gate, _| gate.max(0.0) * gate.max(0.0)),
            Activation::GeGlu => each(gate, up, out, n, |gate, up| gelu(gate) * up),
            Activation::Product => each(gate, up, out, n, |gate, up| gate * up),
        }
    }
}

/// # Safety
/// As [`glu_at`].
unsafe fn each(gate: *const f32, up: *const f32, out: *mut f32, n: usize, act: impl Fn(f32, f32) -> f32) {
    for i in 0..n {
        // SAFETY: i < n, the caller's promise.
        unsafe { *out.add(i) = act(*gate.add(i), *up.add(i)) };
    }
}

fn gelu(z: f32) -> f32 {
    let sqrt_2_over_pi = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
    0.5 * z * (1.0 + (sqrt_2_over_pi * (z + 0.044715 * z * z * z)).tanh())
}

fn silu(z: f32) -> f32 {
    z / (1.0 + (-z).exp())
}
