//! `out[i][c] = silu( Σ_j weight[c][j] · in[i − dilation · (kernel − 1 − j)][c] + bias[c] )`, or without silu, where `in` is x
//! preceded by `tail`

use super::Cpu;
use super::vectorised::{Loop, silu};
use crate::host::{self, Shared};
use crate::{CausalConv, Format, Tensor, quant};

/// Channels of one task: 1 KiB of every row.
const BLOCK: usize = 256;

pub(super) fn causal_conv(cpu: &Cpu, x: &Tensor, conv: &CausalConv, tail: &Tensor, out: &Tensor) {
    let &CausalConv { ref weight, ref bias, silu, dilation } = conv;
    let bias = bias.as_ref();
    let (n, channels) = host::rows_of(x);
    let &[rows, kernel] = weight.dims() else { panic!("causal_conv: weight is [channels, kernel], not {weight:?}") };
    assert_eq!(x.dims(), out.dims(), "causal_conv: shapes differ");
    assert_eq!(rows, channels, "causal_conv: one row of weights a channel");
    assert_eq!(tail.elements(), conv.tail() * channels, "causal_conv: tail is [dilation · (kernel - 1), channels]");
    let format = Format::of(weight.dtype()).expect("causal_conv: a weight of F32, F16 or BF16");
    let weights = Shared::new(host::address(weight));
    let (tail, out) = (Shared::new(host::f32_address(tail)), Shared::new(host::f32_address(out)));
    let x = host::f32s(x);
    cpu.reserve_scratch(2 * kernel * BLOCK);
    // The exponential costs as much as tens of bytes.
    cpu.split(channels.div_ceil(BLOCK), BLOCK * (4 * kernel + n * (48 + 4 * kernel)), |blocks, worker| {
        let mut scratch = cpu.scratch_of(worker);
        for block in blocks {
            let first = block * BLOCK;
            let len = BLOCK.min(channels - first);
            let (stored, weight) = scratch[..2 * kernel * len].split_at_mut(kernel * len);
            let from = weights.at(first * format.row_bytes(kernel));
            // SAFETY: the weights of channels `first..first + len`; a backend has only kernels that run here.
            unsafe { (cpu.kernels.widen.of(format))(from, stored.as_mut_ptr().cast(), stored.len()) };
            cpu.vectorised(Transpose { stored, weight: &mut *weight, kernel });
            cpu.vectorised(Block { n, channels, first, len, kernel, dilation, x, weight, bias, silu, tail, out });
        }
    });
}

/// Weights from `[len, kernel]` to `[kernel, len]`: for one row, as much work as the convolution.
struct Transpose<'a> {
    stored: &'a [f32],
    weight: &'a mut [f32],
    kernel: usize,
}

impl Loop for Transpose<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let len = self.stored.len() / self.kernel;
        // Four, as all models have: the compiler moves vectors where it knows the number.
        if self.kernel == 4 {
            let (first, rest) = self.weight.split_at_mut(len);
            let (second, rest) = rest.split_at_mut(len);
            let (third, last) = rest.split_at_mut(len);
            let (channels, _) = self.stored.as_chunks::<4>();
            for (c, channel) in channels.iter().enumerate() {
                (first[c], second[c], third[c], last[c]) = (channel[0], channel[1], channel[2], channel[3]);
            }
            return;
        }
        for (c, channel) in self.stored.chunks_exact(self.kernel).enumerate() {
            (0..self.kernel).for_each(|j| self.weight[j * len + c] = channel[j]);
        }
    }
}

/// Channels `first..first + len`, which no one else computes.
struct Block<'a> {
    n: usize,
    channels: usize,
    first: usize,
    len: usize,
    kernel: usize,
    dilation: usize,
    x: &'a [f32],
    /// `[kernel, len]`
    weight: &'a [f32],
    bias: Option<&'a Tensor>,
    silu: bool,
    tail: Shared<f32>,
    out: Shared<f32>,
}

impl Block<'_> {
    /// Input `i`, counted from the first of the tail.
    #[inline(always)]
    fn input(&self, i: usize) -> &[f32] {
        let before = (self.kernel - 1) * self.dilation;
        if i < before {
            // SAFETY: these channels of row i of the tail, written only when no input is read any more.
            unsafe { self.tail.slice(i * self.channels + self.first, self.len) }
        } else {
            &self.x[(i - before) * self.channels + self.first..][..self.len]
        }
    }

    /// Leaves the last inputs in the tail.
    #[inline(always)]
    fn keep_tail(&self) {
        for i in 0..(self.kernel - 1) * self.dilation {
            let to = self.tail.at(i * self.channels + self.first);
            // SAFETY: these channels of row i of the tail are this block's alone. Input i + n is not that row, and was
            // not written yet if it is one of the tail: rows are written in ascending order.
            unsafe { to.copy_from_nonoverlapping(self.input(i + self.n).as_ptr(), self.len) };
        }
    }
}

impl Loop for Block<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for i in 0..self.n {
            // SAFETY: these channels of row i of out are this block's alone.
            let out = unsafe { self.out.slice_mut(i * self.channels + self.first, self.len) };
            for ((out, x), weight) in out.iter_mut().zip(self.input(i)).zip(&self.weight[..self.len]) {
                *out = weight * x;
            }
            for j in 1..self.kernel {
                let weight = &self.weight[j * self.len..][..self.len];
                for ((out, x), weight) in out.iter_mut().zip(self.input(i + j * self.dilation)).zip(weight) {
                    *out += weight * x;
                }
            }
            if let Some(bias) = self.bias {
                out.iter_mut().enumerate().for_each(|(c, out)| *out += quant::value(bias, self.first + c));
            }
            if self.silu {
                out.iter_mut().for_each(|out| *out = silu(*out));
            }
        }
        self.keep_tail();
    }
}
