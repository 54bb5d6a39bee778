//! `x[i][h] *= by[0][h] · ln(position + 1) + by[1][h]`

use super::Cpu;
use crate::host::{self, Shared};
use crate::{Tensor, quant};

pub(super) fn scale_heads(cpu: &Cpu, x: &Tensor, positions: &[u32], [log, constant]: [&Tensor; 2]) {
    let &[n, heads, d] = x.dims() else { panic!("scale_heads: x is [n, heads, d], not {x:?}") };
    assert_eq!(positions.len(), n, "scale_heads: one position a row");
    assert_eq!((log.elements(), constant.elements()), (heads, heads), "scale_heads: one factor a head");
    let x = Shared::new(host::f32_address(x));
    cpu.split(n, 8 * heads * d, |range, _| {
        for row in range {
            let log_position = ((positions[row] + 1) as f32).ln();
            // SAFETY: row `row` is this range's alone.
            let x = unsafe { x.slice_mut(row * heads * d, heads * d) };
            for (head, x) in x.chunks_exact_mut(d).enumerate() {
                let factor = quant::value(log, head) * log_position + quant::value(constant, head);
                x.iter_mut().for_each(|x| *x *= factor);
            }
        }
    });
}
