//! `out[i] = table[ids[i]] mod below`, whole numbers

use crate::{Tensor, host};

pub(crate) fn look_up(table: &Tensor, below: usize, ids: &[u32], out: &Tensor) {
    let &[vocab, bytes] = table.dims() else { panic!("look_up: table is [vocab, 8 · k], not {table:?}") };
    assert_eq!(out.dims(), [ids.len(), bytes / 8], "look_up: out fits ids and table");
    let (table, out) = (host::bytes(table), host::i32s_mut(out));
    for (row, &id) in out.chunks_exact_mut(bytes / 8).zip(ids) {
        assert!((id as usize) < vocab, "look_up: row {id} of {vocab}");
        let stored = &table[id as usize * bytes..][..bytes];
        for (out, number) in row.iter_mut().zip(stored.as_chunks::<8>().0) {
            *out = i64::from_le_bytes(*number).rem_euclid(below as i64) as i32;
        }
    }
}
