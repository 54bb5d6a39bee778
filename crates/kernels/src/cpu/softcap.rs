//! `x = cap · tanh(x / cap)`

use super::Cpu;
use super::vectorised::{Loop, tanh};
use crate::Tensor;
use crate::host::{self, Shared};

pub(super) fn softcap(cpu: &Cpu, x: &Tensor, cap: f32) {
    let at = Shared::new(host::f32_address(x));
    // The hyperbolic tangent costs as much as tens of bytes.
    cpu.split(x.elements(), 48, |range, _| {
        // SAFETY: the range is inside x, and no other worker's.
        cpu.vectorised(Part { x: unsafe { at.slice_mut(range.start, range.len()) }, cap });
    });
}

struct Part<'a> {
    x: &'a mut [f32],
    cap: f32,
}

impl Loop for Part<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for x in self.x {
            *x = self.cap * tanh(*x / self.cap);
        }
    }
}
