//! `out = act(gate, up)`

use super::Cpu;
use super::vectorised::{Loop, exp, sigmoid, silu};
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
        match self.activation {
            Activation::SwiGlu => self.each(|gate, up| silu(gate) * up),
            Activation::SwiGluClamped { alpha, limit } => self.each(|gate, up| {
                let (gate, up) = (gate.min(limit), up.clamp(-limit, limit));
                (up + 1.0) * (gate / (1.0 + exp(-alpha * gate)))
            }),
            Activation::SwiGluLimited { limit } => {
                self.each(|gate, up| silu(gate.min(limit)) * up.clamp(-limit, limit));
            }
            Activation::Silu => self.each(|gate, _| silu(gate)),
            Activation::Relu2 => self.each(|gate, _| gate.max(0.0) * gate.max(0.0)),
            Activation::GeGlu => self.each(|gate, up| gelu(gate) * up),
            Activation::Product => self.each(|gate, up| gate * up),
        }
    }
}

impl Part {
    /// By copies of some elements: compilers make no vectors of a loop whose output may be its input.
    #[inline(always)]
    fn each(&self, of: impl Fn(f32, f32) -> f32) {
        const AT_ONCE: usize = 32;
        let mut i = 0;
        while i < self.n {
            let n = AT_ONCE.min(self.n - i);
            let (mut gate, mut up) = ([0f32; AT_ONCE], [0f32; AT_ONCE]);
            // SAFETY: the promise of `glu_at`: n more elements are there.
            unsafe {
                gate.as_mut_ptr().copy_from_nonoverlapping(self.gate.add(i), n);
                up.as_mut_ptr().copy_from_nonoverlapping(self.up.add(i), n);
            }
            for at in 0..AT_ONCE {
                gate[at] = of(gate[at], up[at]);
            }
            // SAFETY: as above.
            unsafe { self.out.add(i).copy_from_nonoverlapping(gate.as_ptr(), n) };
            i += n;
        }
    }
}

/// `½z · (1 + tanh u)`, which is `z · sigmoid(2u)`.
#[inline(always)]
fn gelu(z: f32) -> f32 {
    let sqrt_2_over_pi = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
    z * sigmoid(2.0 * sqrt_2_over_pi * (z + 0.044715 * z * z * z))
}
