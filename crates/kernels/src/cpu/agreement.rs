//! `out[i] = sign(z) · √max(|z|, 1e-6)`, z being `x[i] · y[i] / √d` (Qwen4-Exp)

// Vectors are arrays indexed by lane; iterators over several of them would hide it.
#![allow(clippy::needless_range_loop)]

use super::Cpu;
use super::vectorised::{Loop, fma};
use crate::host::{self, Shared};
use crate::{Tensor, reference};

/// Partial sums: element i goes to lane `i % LANES`.
const LANES: usize = 16;

pub(super) fn agreement(cpu: &Cpu, x: &Tensor, y: &Tensor, out: &Tensor) {
    let (n, d) = host::rows_of(x);
    assert_eq!(x.dims(), y.dims(), "agreement: shapes differ");
    assert_eq!(out.elements(), n, "agreement: one number a row");
    let (x, y, out) = (host::f32s(x), host::f32s(y), Shared::new(host::f32_address(out)));
    cpu.split(n, 8 * d, |range, _| {
        // SAFETY: these rows of out are this range's alone.
        let out = unsafe { out.slice_mut(range.start, range.len()) };
        let [x, y] = [x, y].map(|all| &all[range.start * d..range.end * d]);
        cpu.vectorised(Rows { x, y, d, out });
    });
}

struct Rows<'a> {
    x: &'a [f32],
    y: &'a [f32],
    d: usize,
    out: &'a mut [f32],
}

impl Loop for Rows<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let root = (self.d as f32).sqrt();
        let rows = self.x.chunks_exact(self.d).zip(self.y.chunks_exact(self.d));
        for (out, (x, y)) in self.out.iter_mut().zip(rows) {
            let mut sums = [0f32; LANES];
            let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
            for (x, y) in x.iter().zip(y) {
                for i in 0..LANES {
                    sums[i] = fma::<FUSED>(x[i], y[i], sums[i]);
                }
            }
            for ((sum, x), y) in sums.iter_mut().zip(x_rest).zip(y_rest) {
                *sum = fma::<FUSED>(*x, *y, *sum);
            }
            *out = reference::signed_root(sums.iter().sum::<f32>() / root);
        }
    }
}
