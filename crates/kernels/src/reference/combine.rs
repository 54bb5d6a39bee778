//! `into[token] += weight · parts[row]`, in the order given

use crate::{Contribution, Tensor, host};

pub(super) fn combine(parts: &Tensor, contributions: &[Contribution], into: &Tensor) {
    let (rows, hidden) = host::rows_of(parts);
    let (tokens, width) = host::rows_of(into);
    assert_eq!(hidden, width, "combine: shapes differ");
    let (parts, into) = (host::f32s(parts), host::f32s_mut(into));
    for &Contribution { token, row, weight } in contributions {
        let (token, row) = (token as usize, row as usize);
        assert!(token < tokens && row < rows, "combine: token {token} of {tokens}, row {row} of {rows}");
        for d in 0..hidden {
            into[token * hidden + d] += weight * parts[row * hidden + d];
        }
    }
}
