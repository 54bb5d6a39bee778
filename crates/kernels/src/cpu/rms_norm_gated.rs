//! `out = x · rsqrt(mean(x²) + eps) · w · silu(gate)` (Gated DeltaNet, arXiv 2412.06464)

use super::Cpu;
use super::rms_norm::{rsqrt, widen};
use super::vectorised::{Loop, silu};
use crate::host::{self, Shared};
use crate::{RmsNorm, Tensor};

pub(super) fn rms_norm_gated(cpu: &Cpu, x: &Tensor, gate: &Tensor, norm: &RmsNorm, out: &Tensor) {
    let (n, d) = host::rows_of(x);
    assert_eq!(x.dims(), out.dims(), "rms_norm_gated: shapes differ");
    assert_eq!(x.elements(), gate.elements(), "rms_norm_gated: one gate an element");
    let (x, gate, out) = (Shared::new(host::f32_address(x)), host::f32s(gate), Shared::new(host::f32_address(out)));
    cpu.reserve_scratch(d);
    // The exponential costs as much as tens of bytes.
    cpu.split(n, 48 * d, |range, worker| {
        let weight = &mut cpu.scratch_of(worker)[..d];
        widen(cpu, norm, weight);
        for row in range {
            if x.at(0) != out.at(0) {
                // SAFETY: row `row` of two tensors that do not overlap.
                unsafe { out.at(row * d).copy_from_nonoverlapping(x.at(row * d), d) };
            }
            // SAFETY: this row is this range's alone; x is not used any more.
            let out = unsafe { out.slice_mut(row * d, d) };
            let rsqrt = rsqrt(out, norm.eps);
            cpu.vectorised(Row { rsqrt, weight, gate: &gate[row * d..][..d], out });
        }
    });
}

struct Row<'a> {
    rsqrt: f32,
    weight: &'a [f32],
    gate: &'a [f32],
    /// x before, in place.
    out: &'a mut [f32],
}

impl Loop for Row<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for ((out, weight), gate) in self.out.iter_mut().zip(self.weight).zip(self.gate) {
            *out = *out * self.rsqrt * weight * silu(*gate);
        }
    }
}
