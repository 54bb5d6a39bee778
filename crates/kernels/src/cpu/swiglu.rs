//! `out = silu(gate) · up`

use super::Cpu;
use crate::Tensor;
use crate::host::{self, Shared};

pub(super) fn swiglu(cpu: &Cpu, gate: &Tensor, up: &Tensor, out: &Tensor) {
    assert_eq!(gate.dims(), up.dims(), "swiglu: shapes differ");
    assert_eq!(gate.dims(), out.dims(), "swiglu: shapes differ");
    let [gate_at, up_at, out_at] = [gate, up, out].map(|tensor| Shared::new(host::f32_address(tensor)));
    // The exponential costs as much as tens of bytes.
    cpu.split(out.elements(), 48, |range, _| {
        let [gate, up, out] = [gate_at, up_at, out_at].map(|at| at.at(range.start));
        // SAFETY: the range is inside all three, and no other worker's.
        unsafe { swiglu_at(gate, up, out, range.len()) };
    });
}

/// `n` elements of it.
///
/// # Safety
/// All three addresses hold `n` elements that no one else writes; `out` may be `gate` or `up`.
pub(super) unsafe fn swiglu_at(gate: *const f32, up: *const f32, out: *mut f32, n: usize) {
    for i in 0..n {
        // SAFETY: i < n, the caller's promise.
        unsafe { *out.add(i) = silu(*gate.add(i)) * *up.add(i) };
    }
}

fn silu(z: f32) -> f32 {
    z / (1.0 + (-z).exp())
}
