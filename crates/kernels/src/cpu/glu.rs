//! `out = act(gate, up)`

use super::Cpu;
use super::vectorised::{Loop, exp, silu};
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
        unsafe { glu_at(cpu, gate, up, activation, out, range.len()) };
    });
}

/// `n` elements of it.
///
/// # Safety
/// All three addresses hold `n` elements that no one else writes; `out` may be `gate` or `up`.
pub(super) unsafe fn glu_at(
    cpu: &Cpu,
    gate: *const f32,
    up: *const f32,
    activation: Activation,
    out: *mut f32,
    n: usize,
) {
    cpu.vectorised(Part { gate, up, activation, out, n });
}

/// See [`glu_at`].
struct Part {
    gate: *const f32,
    up: *const f32,
    activation: Activation,
    out: *mut f32,
    n: usize,
}

impl Loop for Part {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        // SAFETY: the promise of `glu_at`, for i < n.
        let (gate, up) = (|i: usize| unsafe { *self.gate.add(i) }, |i: usize| unsafe { *self.up.add(i) });
        // SAFETY: the same.
        let to = |i: usize, value: f32| unsafe { *self.out.add(i) = value };
        match self.activation {
            Activation::SwiGlu => (0..self.n).for_each(|i| to(i, silu(gate(i)) * up(i))),
            Activation::SwiGluClamped { alpha, limit } => (0..self.n).for_each(|i| {
                let (gate, up) = (gate(i).min(limit), up(i).clamp(-limit, limit));
                to(i, (up + 1.0) * (gate / (1.0 + exp(-alpha * gate))));
            }),
            Activation::SwiGluLimited { limit } => {
                (0..self.n).for_each(|i| to(i, silu(gate(i).min(limit)) * up(i).clamp(-limit, limit)));
            }
            Activation::Silu => (0..self.n).for_each(|i| to(i, silu(gate(i)))),
            Activation::Relu2 => (0..self.n).for_each(|i| to(i, gate(i).max(0.0) * gate(i).max(0.0))),
            Activation::GeGlu => (0..self.n).for_each(|i| to(i, gelu(gate(i)) * up(i))),
            Activation::Product => (0..self.n).for_each(|i| to(i, gate(i) * up(i))),
        }
    }
}

#[inline(always)]
fn gelu(z: f32) -> f32 {
    let sqrt_2_over_pi = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
    0.5 * z * (1.0 + (sqrt_2_over_pi * (z + 0.044715 * z * z * z)).tanh())
}
