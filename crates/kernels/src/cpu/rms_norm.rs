//! `out = x · rsqrt(mean(x²) + eps) · w` (arXiv 1910.07467)

use super::Cpu;
use super::vectorised::Loop;
use crate::host::{self, Shared};
use crate::{Format, RmsNorm, Tensor};

/// Partial sums of squares: element i goes to lane `i % LANES`.
const LANES: usize = 16;

pub(super) fn rms_norm(cpu: &Cpu, x: &Tensor, norm: &RmsNorm, out: &Tensor) {
    let (n, d) = host::rows_of(x);
    assert_eq!(x.dims(), out.dims(), "rms_norm: shapes differ");
    let (x, out) = (Shared::new(host::f32_address(x)), Shared::new(host::f32_address(out)));
    let groups = groups(norm, d);
    cpu.reserve_scratch(groups * d);
    cpu.split(n, 8 * d, |range, worker| {
        let weights = &mut cpu.scratch_of(worker)[..groups * d];
        widen(cpu, norm, weights);
        for row in range {
            let weight = &weights[row % groups * d..][..d];
            // SAFETY: row `row` of both, which is this range's alone; they are the same or do not overlap.
            let row = unsafe {
                std::ptr::copy(x.at(row * d), out.at(row * d), d);
                out.slice_mut(row * d, d)
            };
            cpu.vectorised(Row { row, weight, eps: norm.eps });
        }
    });
}

/// A row, to be divided by its root mean square and multiplied with the weights.
struct Row<'a> {
    row: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl Loop for Row<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let rsqrt = rsqrt(self.row, self.eps);
        for (x, weight) in self.row.iter_mut().zip(self.weight) {
            *x = *x * rsqrt * weight;
        }
    }
}

/// Rows that have weights of their own.
fn groups(norm: &RmsNorm, d: usize) -> usize {
    let weights = norm.weight.as_ref().map_or(d, Tensor::elements);
    assert!(weights > 0 && weights.is_multiple_of(d), "rms_norm: one weight an element of a row");
    weights / d
}

/// The factors of a norm, in f32.
pub(super) fn widen(cpu: &Cpu, norm: &RmsNorm, weight: &mut [f32]) {
    let Some(stored) = &norm.weight else { return weight.fill(1.0) };
    assert_eq!(stored.elements(), weight.len(), "rms_norm: one weight an element of a row");
    let format = Format::of(stored.dtype()).expect("rms_norm: a weight of F32, F16 or BF16");
    // SAFETY: as many elements in both, and a backend has only kernels that run here.
    unsafe { (cpu.kernels.widen.of(format))(host::address(stored), weight.as_mut_ptr().cast(), weight.len()) };
    if norm.plus_one {
        weight.iter_mut().for_each(|weight| *weight += 1.0);
    }
}

/// `rsqrt(mean(x²) + eps)`
#[inline(always)]
pub(super) fn rsqrt(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt()
}

/// `Σx²`, always in the same order.
#[inline(always)]
pub(super) fn sum_of_squares(x: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            sums[i] += chunk[i] * chunk[i];
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += x * x;
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
        half /= 2;
    }
    sums[0]
}
