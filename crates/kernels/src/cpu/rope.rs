//! Rotary position embedding (RoFormer, arXiv 2104.09864)

use super::Cpu;
use crate::host::{self, Shared};
use crate::{Rope, RopePairs, Tensor};

pub(super) fn rope(cpu: &Cpu, x: &Tensor, positions: &[u32], rope: &Rope) {
    let &[n, heads, dim] = x.dims() else { panic!("rope: x is [n, heads, dim], not {x:?}") };
    let pairs = rope.inv_freq.len();
    assert_eq!(positions.len(), n, "rope: one position a row");
    assert!(rope.first + 2 * pairs <= dim, "rope: the rotated slice leaves the head");
    let x = Shared::new(host::f32_address(x));
    // A sine and a cosine cost as much as a hundred bytes or more.
    cpu.split(n, pairs * (128 + 16 * heads), |range, _| {
        for row in range {
            // SAFETY: row `row` belongs to this range alone.
            let x = unsafe { x.slice_mut(row * heads * dim, heads * dim) };
            rope_row(x, dim, positions[row] as f32, rope);
        }
    });
}

/// Turns all heads of one row; each angle's sine and cosine are computed once for all of them.
fn rope_row(x: &mut [f32], dim: usize, position: f32, rope: &Rope) {
    let pairs = rope.inv_freq.len();
    for i in 0..pairs {
        let angle = position * rope.frequency(i);
        let (cos, sin) = (angle.cos() * rope.scale, angle.sin() * rope.scale);
        let (first, second) = match rope.pairs {
            RopePairs::Half => (i, i + pairs),
            RopePairs::Interleaved => (2 * i, 2 * i + 1),
        };
        for head in x.chunks_exact_mut(dim) {
            let (a, b) = (head[rope.first + first], head[rope.first + second]);
            head[rope.first + first] = a * cos - b * sin;
            head[rope.first + second] = b * cos + a * sin;
        }
    }
}
