//! `out[i] = table[ids[i]] mod below`, whole numbers

use crate::{Tensor, host};

pub(crate) fn look_up(table: &Tensor, below: usize, ids: &[u32], out: &Tensor) {
    let (&[vocab, bytes], &[n, k]) = (table.dims(), out.dims()) else {
        panic!("look_up: table and out are matrices, not {table:?} and {out:?}")
    };
    assert_eq!(n, ids.len(), "look_up: a row of out for each id");
    let width = bytes / k;
    assert!(bytes == k * width && [4, 8].contains(&width), "look_up: table is [vocab, 4 · k] or [vocab, 8 · k]");
    let (table, out) = (host::bytes(table), host::i32s_mut(out));
    for (row, &id) in out.chunks_exact_mut(k).zip(ids) {
        assert!((id as usize) < vocab, "look_up: row {id} of {vocab}");
        let stored = &table[id as usize * bytes..][..bytes];
        for (out, number) in row.iter_mut().zip(stored.chunks_exact(width)) {
            *out = whole_number(number).rem_euclid(below as i64) as i32;
        }
    }
}

/// A whole number of 4 or 8 bytes.
fn whole_number(bytes: &[u8]) -> i64 {
    match (bytes.first_chunk::<4>(), bytes.first_chunk::<8>()) {
        (_, Some(bytes)) => i64::from_le_bytes(*bytes),
        (Some(bytes), None) => i32::from_le_bytes(*bytes).into(),
        (None, None) => unreachable!("invariant: numbers are 4 or 8 bytes wide"),
    }
}
