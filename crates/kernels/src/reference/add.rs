//! `into += x`

use crate::{Tensor, host};

pub(super) fn add(x: &Tensor, into: &Tensor) {
    assert_eq!(x.dims(), into.dims(), "add: shapes differ");
    for (into, x) in host::f32s_mut(into).iter_mut().zip(host::f32s(x)) {
        *into += x;
    }
}
