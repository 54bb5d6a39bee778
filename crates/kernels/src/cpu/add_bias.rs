//! `x[i] += bias` for every row

use std::ops::Range;

use super::Cpu;
use crate::host::{self, Shared};
use crate::{Bias, Tensor, quant};

pub(super) fn add_bias(cpu: &Cpu, x: &Tensor, bias: &Bias) {
    let (n, d) = host::rows_of(x);
    let x = Shared::new(host::f32_address(x));
    cpu.split(n, 16 * d, |rows, _| {
        for row in rows {
            // SAFETY: this row is this range's alone.
            add_bias_at(unsafe { x.slice_mut(row * d, d) }, bias, 0..d);
        }
    });
}

/// Adds the values for the columns that a part of a row is of.
pub(super) fn add_bias_at(part: &mut [f32], bias: &Bias, columns: Range<usize>) {
    for (x, column) in part.iter_mut().zip(columns) {
        *x += quant::value(&bias.values, bias.first + column * bias.step);
    }
}
