//! `x *= sigmoid(gate)`

use super::Cpu;
use super::vectorised::{Loop, sigmoid};
use crate::Tensor;
use crate::host::{self, Shared};

pub(super) fn sigmoid_gate(cpu: &Cpu, x: &Tensor, gate: &Tensor) {
    assert_eq!(x.elements(), gate.elements(), "sigmoid_gate: one gate an element");
    let (x, gate) = (Shared::new(host::f32_address(x)), host::f32s(gate));
    // The exponential costs as much as tens of bytes.
    cpu.split(gate.len(), 48, |range, _| {
        // SAFETY: the range is inside x, and no other worker's.
        let x = unsafe { x.slice_mut(range.start, range.len()) };
        cpu.vectorised(Part { x, gate: &gate[range] });
    });
}

struct Part<'a> {
    x: &'a mut [f32],
    gate: &'a [f32],
}

impl Loop for Part<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for (x, gate) in self.x.iter_mut().zip(self.gate) {
            *x *= sigmoid(*gate);
        }
    }
}
