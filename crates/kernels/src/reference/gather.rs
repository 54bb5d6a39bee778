//! `out[i] = x[rows[i]]`

use crate::{Tensor, host};

pub(super) fn gather(x: &Tensor, rows: &[u32], out: &Tensor) {
    let (n, width) = host::rows_of(x);
    assert_eq!(host::rows_of(out), (rows.len(), width), "gather: shapes differ");
    let (x, out) = (host::f32s(x), host::f32s_mut(out));
    for (i, &row) in rows.iter().enumerate() {
        let row = row as usize;
        assert!(row < n, "gather: row {row} of {n}");
        out[i * width..][..width].copy_from_slice(&x[row * width..][..width]);
    }
}
