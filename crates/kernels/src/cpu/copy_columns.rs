//! `out[i][to..to + len] = x[i][from..from + len]`

use super::Cpu;
use crate::host::{self, Shared};
use crate::{ColumnRun, Tensor};

pub(super) fn copy_columns(cpu: &Cpu, x: &Tensor, runs: &[ColumnRun], out: &Tensor) {
    let ((n, a), (rows, b)) = (host::rows_of(x), host::rows_of(out));
    assert_eq!(n, rows, "copy_columns: as many rows");
    let (x, out) = (host::f32s(x), Shared::new(host::f32_address(out)));
    let columns: usize = runs.iter().map(|run| run.len).sum();
    cpu.split(n, 8 * columns, |range, _| {
        for row in range {
            // SAFETY: row `row` of out is this range's alone.
            let out = unsafe { out.slice_mut(row * b, b) };
            let x = &x[row * a..][..a];
            for &ColumnRun { from, to, len } in runs {
                out[to..to + len].copy_from_slice(&x[from..from + len]);
            }
        }
    });
}
