//! `x = cap · tanh(x / cap)`

use super::Cpu;
use crate::Tensor;
use crate::host::{self, Shared};

pub(super) fn softcap(cpu: &Cpu, x: &Tensor, cap: f32) {
    let at = Shared::new(host::f32_address(x));
    // The hyperbolic tangent costs as much as tens of bytes.
    cpu.split(x.elements(), 64, |range, _| {
        // SAFETY: the range is inside x, and no other worker's.
        unsafe { at.slice_mut(range.start, range.len()) }.iter_mut().for_each(|x| *x = cap * (*x / cap).tanh());
    });
}
