//! `out[i] = table[ids[i]]`

use crate::{Matrix, Tensor, host, quant};

pub(super) fn embed(table: &Matrix, ids: &[u32], out: &Tensor) {
    let hidden = table.cols();
    assert_eq!(host::rows_of(out), (ids.len(), hidden), "embed: shapes differ");
    let (bytes, out) = (host::bytes(table.data()), host::f32s_mut(out));
    for (i, &id) in ids.iter().enumerate() {
        let id = id as usize;
        assert!(id < table.rows(), "embed: token {id} of a vocabulary of {}", table.rows());
        for c in 0..hidden {
            out[i * hidden + c] = quant::element(table.format(), bytes, id * hidden + c);
        }
    }
}
