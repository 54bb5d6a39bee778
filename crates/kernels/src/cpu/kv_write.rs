//! Keys and values of consecutive positions, rounded into their blocks

use super::Cpu;
use crate::host;
use crate::quant::q8_pack;
use crate::{DType, Format, KvLayout, Tensor};

pub(super) fn kv_write(cpu: &Cpu, k: &Tensor, v: &Tensor, layout: &KvLayout, blocks: &[Tensor], start: usize) {
    let n = k.dim(0);
    assert_eq!(k.dims(), [n, layout.heads, layout.k_dim], "kv_write: keys do not fit the layout");
    assert!(layout.v_in_k || v.dims() == [n, layout.heads, layout.v_dim], "kv_write: values do not fit the layout");
    let narrow = Format::of(layout.dtype).map(|format| cpu.kernels.narrow.of(format));
    assert!(narrow.is_some() || layout.dtype == DType::Q8, "kv_write: keys and values of F32, F16, BF16 or Q8");
    let both = [(k, layout.k_at, layout.k_dim), (v, layout.v_at, layout.v_dim)];
    for &(from, at, dim) in &both[..if layout.v_in_k { 1 } else { 2 }] {
        let (from, row_bytes) = (host::f32s(from), layout.dtype.row_bytes(dim));
        let plane_bytes = layout.heads * layout.block_tokens * row_bytes;
        cpu.split(n, layout.heads * (row_bytes + 4 * dim), |range, _| {
            for i in range {
                let (block, slot) = ((start + i) / layout.block_tokens, (start + i) % layout.block_tokens);
                assert!(at + plane_bytes <= blocks[block].bytes(), "kv_write: the layout leaves its block");
                let to = host::address(&blocks[block]).wrapping_add(at + slot * row_bytes);
                for head in 0..layout.heads {
                    let from = &from[(i * layout.heads + head) * dim..][..dim];
                    let to = to.wrapping_add(head * layout.block_tokens * row_bytes);
                    match narrow {
                        // SAFETY: inside the block, as asserted, and each (position, head) is written by one worker.
                        Some(narrow) => unsafe { narrow(from.as_ptr().cast(), to, dim) },
                        // SAFETY: as above.
                        None => q8_pack(from, unsafe { std::slice::from_raw_parts_mut(to, row_bytes) }),
                    }
                }
            }
        });
    }
}
