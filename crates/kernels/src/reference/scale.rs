//! `x *= factor · by[0]`

use crate::{Tensor, host, quant};

pub(super) fn scale(x: &Tensor, factor: f32, by: Option<&Tensor>) {
    let factor = by.map_or(factor, |by| factor * quant::value(by, 0));
    host::f32s_mut(x).iter_mut().for_each(|x| *x *= factor);
}
