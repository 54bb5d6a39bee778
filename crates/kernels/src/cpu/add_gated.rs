//! `into[i] += sigmoid(gate[i]) · x[i]`

use super::Cpu;
use super::vectorised::sigmoid;
use crate::Tensor;
use crate::host::{self, Shared};

/// Split over columns, since there may be a single row.
pub(super) fn add_gated(cpu: &Cpu, x: &Tensor, gate: &Tensor, into: &Tensor) {
    let (n, d) = host::rows_of(x);
    assert_eq!(x.dims(), into.dims(), "add_gated: shapes differ");
    assert_eq!(gate.elements(), n, "add_gated: one gate a row");
    let (x, gate, sums) = (host::f32s(x), host::f32s(gate), Shared::new(host::f32_address(into)));
    cpu.split(d, 12 * n, |columns, _| {
        for (row, gate) in gate.iter().enumerate() {
            let (gate, at) = (sigmoid(*gate), row * d + columns.start);
            // SAFETY: these columns of `into`, which has the shape of `x`, are this worker's alone.
            let sums = unsafe { sums.slice_mut(at, columns.len()) };
            for (sum, x) in sums.iter_mut().zip(&x[at..]) {
                *sum += gate * x;
            }
        }
    });
}
