//! `x = min(max(x, -limit), limit)`

use crate::{Tensor, host};

pub(super) fn clamp(x: &Tensor, limit: f32) {
    host::f32s_mut(x).iter_mut().for_each(|x| *x = x.clamp(-limit, limit));
}
