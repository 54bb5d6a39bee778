//! `out[i] = x[rows[i]]`

use super::Cpu;
use crate::Tensor;
use crate::host::{self, Shared};

pub(super) fn gather(cpu: &Cpu, x: &Tensor, rows: &[u32], out: &Tensor) {
    let (n, width) = host::rows_of(x);
    assert_eq!(host::rows_of(out), (rows.len(), width), "gather: shapes differ");
    let (x, out) = (host::f32s(x), Shared::new(host::f32_address(out)));
    cpu.split(rows.len(), 8 * width, |range, _| {
        for i in range {
            let row = rows[i] as usize;
            assert!(row < n, "gather: row {row} of {n}");
            // SAFETY: row i of `out` belongs to this range alone.
            unsafe { out.slice_mut(i * width, width) }.copy_from_slice(&x[row * width..][..width]);
        }
    });
}
