//! Hyper-connections: several residual streams, mixed by weights that are made of them (arXiv 2409.19606; DeepSeek-V4)

use super::Cpu;
use super::vectorised::Loop;
use crate::host::{self, Shared};
use crate::reference;
use crate::{Hyper, STREAMS_MAX, Tensor};

pub(super) fn hyper_weights(cpu: &Cpu, weights: &Tensor, hyper: &Hyper) {
    // A token has a few dozen numbers: what defines them is fast enough, but for the exponentials of many tokens.
    cpu.split(weights.dim(0), 4096, |range, _| reference::hyper_weights(&weights.rows(range), hyper));
}

pub(super) fn hyper_collapse(cpu: &Cpu, x: &Tensor, weights: &Tensor, out: &Tensor) {
    let &[n, streams, d] = x.dims() else { panic!("hyper_collapse: x is [n, streams, d], not {x:?}") };
    let columns = weights.dim(1);
    assert_eq!(out.dims(), [n, d], "hyper_collapse: out does not fit x");
    let (x, weights, out) = (host::f32s(x), host::f32s(weights), Shared::new(host::f32_address(out)));
    cpu.split(n, 4 * (streams + 1) * d, |range, _| {
        for row in range {
            // SAFETY: row `row` of out is this range's alone.
            let out = unsafe { out.slice_mut(row * d, d) };
            out.fill(0.0);
            for (x, weight) in x[row * streams * d..][..streams * d].chunks_exact(d).zip(&weights[row * columns..]) {
                out.iter_mut().zip(x).for_each(|(out, x)| *out += weight * x);
            }
        }
    });
}

pub(super) fn hyper_expand(cpu: &Cpu, out: &Tensor, weights: &Tensor, x: &Tensor) {
    let &[n, streams, d] = x.dims() else { panic!("hyper_expand: x is [n, streams, d], not {x:?}") };
    let columns = weights.dim(1);
    assert!(streams <= STREAMS_MAX, "hyper_expand: {streams} streams, at most {STREAMS_MAX}");
    let mixes = columns == (2 + streams) * streams;
    assert!(out.dims() == [n, d] && (mixes || columns == 2 * streams), "hyper_expand: out and weights fit x");
    let (out, weights, x) = (host::f32s(out), host::f32s(weights), Shared::new(host::f32_address(x)));
    cpu.split(n, 8 * (streams + 1) * d, |range, _| {
        for row in range {
            // SAFETY: row `row` of x is this range's alone.
            let x = unsafe { x.slice_mut(row * streams * d, streams * d) };
            let weights = &weights[row * columns..][..columns];
            if !mixes {
                for (x, weight) in x.chunks_exact_mut(d).zip(&weights[streams..]) {
                    x.iter_mut().zip(&out[row * d..]).for_each(|(x, out)| *x += weight * out);
                }
                continue;
            }
            cpu.vectorised(Mixed { out: &out[row * d..][..d], weights, streams, x });
        }
    });
}

/// One token's streams, x `[streams, d]`, by its weights.
struct Mixed<'a> {
    out: &'a [f32],
    weights: &'a [f32],
    streams: usize,
    x: &'a mut [f32],
}

impl Loop for Mixed<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        const LANES: usize = 16;
        let (d, streams) = (self.out.len(), self.streams);
        let mut c = 0;
        while c < d {
            // Lanes beyond the columns are zeros.
            let n = LANES.min(d - c);
            let mut out = [0.0; LANES];
            out[..n].copy_from_slice(&self.out[c..][..n]);
            let mut old = [[0.0; LANES]; STREAMS_MAX];
            (0..streams).for_each(|s| old[s][..n].copy_from_slice(&self.x[s * d + c..][..n]));
            for to in 0..streams {
                let mut mixed = [0.0; LANES];
                for (s, old) in old[..streams].iter().enumerate() {
                    let weight = self.weights[(2 + s) * streams + to];
                    (0..LANES).for_each(|i| mixed[i] += weight * old[i]);
                }
                let weight = self.weights[streams + to];
                (0..LANES).for_each(|i| mixed[i] += weight * out[i]);
                self.x[to * d + c..][..n].copy_from_slice(&mixed[..n]);
            }
            c += n;
        }
    }
}
