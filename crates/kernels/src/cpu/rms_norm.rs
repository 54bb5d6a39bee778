//! `out = x · rsqrt(mean(x²) + eps) · weight` (arXiv 1910.07467)

use half::f16;

use super::Cpu;
use crate::host::{self, Shared};
use crate::{DType, Tensor};

/// Partial sums of squares: element i goes to lane `i % LANES`.
const LANES: usize = 16;

pub(super) fn rms_norm(cpu: &Cpu, x: &Tensor, weight: &Tensor, eps: f32, out: &Tensor) {
    let (_, d) = host::rows_of(x);
    assert_eq!(x.dims(), out.dims(), "rms_norm: shapes differ");
    assert_eq!(weight.elements(), d, "rms_norm: one weight an element of a row");
    let at = Shared::new(host::address(weight));
    match weight.dtype() {
        DType::F32 => norm(cpu, x, eps, out, |i| {
            // SAFETY: i < d, the number of weights, which may lie at any byte.
            unsafe { at.at(4 * i).cast::<f32>().read_unaligned() }
        }),
        DType::F16 => norm(cpu, x, eps, out, |i| {
            // SAFETY: as above.
            unsafe { at.at(2 * i).cast::<f16>().read_unaligned() }.to_f32()
        }),
        DType::Bf16 => norm(cpu, x, eps, out, |i| {
            // SAFETY: as above.
            f32::from_bits(u32::from(unsafe { at.at(2 * i).cast::<u16>().read_unaligned() }) << 16)
        }),
        dtype @ (DType::I32 | DType::U8) => panic!("rms_norm: a weight of {dtype}"),
    }
}

fn norm(cpu: &Cpu, x: &Tensor, eps: f32, out: &Tensor, weight: impl Fn(usize) -> f32 + Sync) {
    let (n, d) = host::rows_of(x);
    let (x, out) = (Shared::new(host::f32_address(x)), Shared::new(host::f32_address(out)));
    cpu.split(n, 8 * d, |range, _| {
        for row in range {
            // SAFETY: row `row` of x; it is written below at the earliest, if `out` is `x`.
            let rsqrt = 1.0 / (mean_of_squares(unsafe { x.slice(row * d, d) }) + eps).sqrt();
            let (x, out) = (x.at(row * d), out.at(row * d));
            for i in 0..d {
                // SAFETY: i is inside this row, which is this range's alone; x and out may be the same.
                unsafe { *out.add(i) = *x.add(i) * rsqrt * weight(i) };
            }
        }
    });
}

fn mean_of_squares(x: &[f32]) -> f32 {
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
    sums[0] / x.len() as f32
}
