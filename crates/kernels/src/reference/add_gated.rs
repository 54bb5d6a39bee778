//! `into[i] += sigmoid(gate[i]) · x[i]`

use super::sigmoid_gate::sigmoid;
use crate::{Tensor, host};

pub(super) fn add_gated(x: &Tensor, gate: &Tensor, into: &Tensor) {
    let (n, d) = host::rows_of(x);
    assert_eq!(x.dims(), into.dims(), "add_gated: shapes differ");
    assert_eq!(gate.elements(), n, "add_gated: one gate a row");
    for row in 0..n {
        let gate = sigmoid(host::f32s(gate)[row]);
        for i in row * d..(row + 1) * d {
            host::f32s_mut(into)[i] += gate * host::f32s(x)[i];
        }
    }
}
