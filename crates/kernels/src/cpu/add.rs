//! `into += x`

use super::Cpu;
use crate::Tensor;
use crate::host::{self, Shared};

pub(super) fn add(cpu: &Cpu, x: &Tensor, into: &Tensor) {
    assert_eq!(x.dims(), into.dims(), "add: shapes differ");
    let (x, sums) = (host::f32s(x), Shared::new(host::f32_address(into)));
    cpu.split(x.len(), 12, |range, _| {
        // SAFETY: ranges are disjoint and inside `into`, which has the length of `x`.
        let sums = unsafe { sums.slice_mut(range.start, range.len()) };
        for (sum, x) in sums.iter_mut().zip(&x[range]) {
            *sum += x;
        }
    });
}
