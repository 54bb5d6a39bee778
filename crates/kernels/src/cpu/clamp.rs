//! `x = min(max(x, -limit), limit)`

use super::Cpu;
use crate::Tensor;
use crate::host::{self, Shared};

pub(super) fn clamp(cpu: &Cpu, x: &Tensor, limit: f32) {
    let at = Shared::new(host::f32_address(x));
    cpu.split(x.elements(), 8, |range, _| {
        // SAFETY: the range is inside x, and no other worker's.
        unsafe { at.slice_mut(range.start, range.len()) }.iter_mut().for_each(|x| *x = x.clamp(-limit, limit));
    });
}
