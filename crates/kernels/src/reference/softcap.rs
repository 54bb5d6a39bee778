//! `x = cap · tanh(x / cap)`

use crate::{Tensor, host};

pub(super) fn softcap(x: &Tensor, cap: f32) {
    host::f32s_mut(x).iter_mut().for_each(|x| *x = cap * (*x / cap).tanh());
}
