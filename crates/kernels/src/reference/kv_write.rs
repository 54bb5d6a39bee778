//! Keys and values of consecutive positions, rounded into their blocks

use half::{bf16, f16};

use crate::{DType, KvLayout, Tensor, host};

pub(super) fn kv_write(k: &Tensor, v: &Tensor, layout: &KvLayout, blocks: &[Tensor], start: usize) {
    let n = k.dim(0);
    assert_eq!(k.dims(), [n, layout.heads, layout.k_dim], "kv_write: keys do not fit the layout");
    assert_eq!(v.dims(), [n, layout.heads, layout.v_dim], "kv_write: values do not fit the layout");
    for (from, at, dim) in [(k, layout.k_at, layout.k_dim), (v, layout.v_at, layout.v_dim)] {
        let from = host::f32s(from);
        for i in 0..n {
            let (block, slot) = ((start + i) / layout.block_tokens, (start + i) % layout.block_tokens);
            let to = host::bytes_mut(&blocks[block]);
            for head in 0..layout.heads {
                for d in 0..dim {
                    let index = (head * layout.block_tokens + slot) * dim + d;
                    let value = from[(i * layout.heads + head) * dim + d];
                    round(value, layout.dtype, &mut to[at..], index);
                }
            }
        }
    }
}

fn round(value: f32, dtype: DType, to: &mut [u8], index: usize) {
    let bytes = dtype.bytes();
    let to = &mut to[index * bytes..][..bytes];
    match dtype {
        DType::F32 => to.copy_from_slice(&value.to_le_bytes()),
        DType::F16 => to.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
        DType::Bf16 => to.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
        DType::I32 | DType::U8 => panic!("keys and values are not stored as {dtype}"),
    }
}
