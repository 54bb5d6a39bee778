//! Rotary position embedding (RoFormer, arXiv 2104.09864)

use super::Cpu;
use super::vectorised::Loop;
use crate::host::{self, Shared};
use crate::{Rope, RopePairs, Tensor};

pub(super) fn rope(cpu: &Cpu, x: &Tensor, positions: &[u32], rope: &Rope) {
    let &[n, heads, dim] = x.dims() else { panic!("rope: x is [n, heads, dim], not {x:?}") };
    let pairs = rope.inv_freq.len();
    assert_eq!(positions.len(), n, "rope: one position a row");
    assert!(rope.first + 2 * pairs <= dim, "rope: the rotated slice leaves the head");
    let x = Shared::new(host::f32_address(x));
    cpu.reserve_scratch(2 * pairs);
    // A sine and a cosine cost as much as a hundred bytes or more.
    cpu.split(n, pairs * (128 + 16 * heads), |range, worker| {
        let mut scratch = cpu.scratch_of(worker);
        let (cos, sin) = scratch[..2 * pairs].split_at_mut(pairs);
        for row in range {
            for (i, (cos, sin)) in cos.iter_mut().zip(&mut *sin).enumerate() {
                let angle = positions[row] as f32 * rope.frequency(i);
                (*cos, *sin) = (angle.cos() * rope.scale, angle.sin() * rope.scale);
            }
            // SAFETY: row `row` belongs to this range alone.
            let x = unsafe { x.slice_mut(row * heads * dim, heads * dim) };
            cpu.vectorised(Row { x, dim, first: rope.first, pairs: rope.pairs, cos, sin });
        }
    });
}

/// All heads of one row, with the cosine and the sine of each pair's angle.
struct Row<'a> {
    x: &'a mut [f32],
    dim: usize,
    first: usize,
    pairs: RopePairs,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Loop for Row<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let Row { x, dim, first, pairs, cos, sin } = self;
        for head in x.chunks_exact_mut(dim) {
            let turned = &mut head[first..][..2 * cos.len()];
            match pairs {
                RopePairs::Half => {
                    let (a, b) = turned.split_at_mut(cos.len());
                    for i in 0..cos.len() {
                        (a[i], b[i]) = (a[i] * cos[i] - b[i] * sin[i], b[i] * cos[i] + a[i] * sin[i]);
                    }
                }
                RopePairs::Interleaved => {
                    for (i, [a, b]) in turned.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                        (*a, *b) = (*a * cos[i] - *b * sin[i], *b * cos[i] + *a * sin[i]);
                    }
                }
            }
        }
    }
}
