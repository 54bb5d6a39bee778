//! Rotary position embedding (RoFormer, arXiv 2104.09864)

use crate::{Rope, RopePairs, Tensor, host};

pub(super) fn rope(x: &Tensor, positions: &[u32], rope: &Rope) {
    let &[n, heads, dim] = x.dims() else { panic!("rope: x is [n, heads, dim], not {x:?}") };
    let pairs = rope.inv_freq.len();
    assert_eq!(positions.len(), n, "rope: one position a row");
    assert!(rope.first + 2 * pairs <= dim, "rope: the rotated slice leaves the head");
    let x = host::f32s_mut(x);
    for row in 0..n {
        for head in 0..heads {
            let slice = &mut x[(row * heads + head) * dim + rope.first..][..2 * pairs];
            for i in 0..pairs {
                let angle = positions[row] as f32 * rope.frequency(i);
                let (cos, sin) = (angle.cos() * rope.scale, angle.sin() * rope.scale);
                let (first, second) = match rope.pairs {
                    RopePairs::Half => (i, i + pairs),
                    RopePairs::Interleaved => (2 * i, 2 * i + 1),
                };
                let (a, b) = (slice[first], slice[second]);
                slice[first] = a * cos - b * sin;
                slice[second] = b * cos + a * sin;
            }
        }
    }
}
