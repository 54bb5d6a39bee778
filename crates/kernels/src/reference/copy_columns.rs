//! `out[i][to..to + len] = x[i][from..from + len]`

use crate::{ColumnRun, Tensor, host};

pub(super) fn copy_columns(x: &Tensor, runs: &[ColumnRun], out: &Tensor) {
    let ((n, a), (rows, b)) = (host::rows_of(x), host::rows_of(out));
    assert_eq!(n, rows, "copy_columns: as many rows");
    for row in 0..n {
        for &ColumnRun { from, to, len } in runs {
            let x = &host::f32s(x)[row * a..][..a];
            let out = &mut host::f32s_mut(out)[row * b..][..b];
            out[to..to + len].copy_from_slice(&x[from..from + len]);
        }
    }
}
