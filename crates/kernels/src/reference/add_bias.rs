//! `x[i] += bias` for every row

use crate::{Bias, Tensor, host, quant};

pub(super) fn add_bias(x: &Tensor, bias: &Bias) {
    let (n, d) = host::rows_of(x);
    let x = host::f32s_mut(x);
    for i in 0..n {
        for column in 0..d {
            x[i * d + column] += quant::value(&bias.values, bias.first + column * bias.step);
        }
    }
}
