//! `x[i][h] *= by[0][h] · ln(position + 1) + by[1][h]`

use crate::{Tensor, host, quant};

pub(super) fn scale_heads(x: &Tensor, positions: &[u32], [log, constant]: [&Tensor; 2]) {
    let &[n, heads, d] = x.dims() else { panic!("scale_heads: x is [n, heads, d], not {x:?}") };
    assert_eq!(positions.len(), n, "scale_heads: one position a row");
    assert_eq!((log.elements(), constant.elements()), (heads, heads), "scale_heads: one factor a head");
    for (i, x) in host::f32s_mut(x).iter_mut().enumerate() {
        let (row, head) = (i / d / heads, i / d % heads);
        *x *= quant::value(log, head) * ((positions[row] + 1) as f32).ln() + quant::value(constant, head);
    }
}
