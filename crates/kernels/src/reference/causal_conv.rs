//! `out[i][c] = silu( Σ_j weight[c][j] · in[i − dilation · (kernel − 1 − j)][c] + bias[c] )`, or without silu, where `in` is x
//! preceded by `tail`

use super::glu::silu;
use crate::{CausalConv, Format, Tensor, host, quant};

pub(super) fn causal_conv(x: &Tensor, conv: &CausalConv, tail: &Tensor, out: &Tensor) {
    let CausalConv { weight, bias, dilation, .. } = conv;
    let (n, channels) = host::rows_of(x);
    let &[rows, kernel] = weight.dims() else { panic!("causal_conv: weight is [channels, kernel], not {weight:?}") };
    assert_eq!(x.dims(), out.dims(), "causal_conv: shapes differ");
    assert_eq!(rows, channels, "causal_conv: one row of weights a channel");
    assert_eq!(tail.elements(), conv.tail() * channels, "causal_conv: tail is [dilation · (kernel - 1), channels]");
    let format = Format::of(weight.dtype()).expect("causal_conv: a weight of F32, F16 or BF16");
    let weight = |c, j| quant::element(format, host::bytes(weight), c * kernel + j);
    let input = [host::f32s(tail), host::f32s(x)].concat();
    for i in 0..n {
        for c in 0..channels {
            let sum: f32 = (0..kernel).map(|j| weight(c, j) * input[(i + j * dilation) * channels + c]).sum();
            let sum = bias.as_ref().map_or(sum, |bias| sum + quant::value(bias, c));
            host::f32s_mut(out)[i * channels + c] = if conv.silu { silu(sum) } else { sum };
        }
    }
    host::f32s_mut(tail).copy_from_slice(&input[n * channels..]);
}
