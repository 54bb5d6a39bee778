//! `out[i] = table[ids[i]]`

use crate::{Matrix, Tensor, host, quant};

pub(super) fn embed(table: &Matrix, ids: &[u32], out: &Tensor) {
    let hidden = table.cols();
    assert_eq!(host::rows_of(out), (ids.len(), hidden), "embed: shapes differ");
    let out = host::f32s_mut(out);
    for (i, &id) in ids.iter().enumerate() {
        let id = id as usize;
        assert!(id < table.rows(), "embed: token {id} of a vocabulary of {}", table.rows());
        quant::dequantise(table, id, &mut out[i * hidden..][..hidden]);
    }
}
