//! `x *= factor · by[0]`

use super::Cpu;
use crate::host::{self, Shared};
use crate::{Tensor, quant};

pub(super) fn scale(cpu: &Cpu, x: &Tensor, factor: f32, by: Option<&Tensor>) {
    let factor = by.map_or(factor, |by| factor * quant::value(by, 0));
    let at = Shared::new(host::f32_address(x));
    cpu.split(x.elements(), 8, |range, _| {
        // SAFETY: the range is inside x, and no other worker's.
        unsafe { at.slice_mut(range.start, range.len()) }.iter_mut().for_each(|x| *x *= factor);
    });
}
