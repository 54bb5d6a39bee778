//! Keys and values of consecutive positions, rounded into their blocks

use half::{bf16, f16};

use crate::{DType, KvLayout, Tensor, host, quant};

pub(super) fn kv_write(k: &Tensor, v: &Tensor, layout: &KvLayout, blocks: &[Tensor], start: usize) {
    let n = k.dim(0);
    assert_eq!(k.dims(), [n, layout.heads, layout.k_dim], "kv_write: keys do not fit the layout");
    assert!(layout.v_in_k || v.dims() == [n, layout.heads, layout.v_dim], "kv_write: values do not fit the layout");
    let both = [(k, layout.k_at, layout.k_dim), (v, layout.v_at, layout.v_dim)];
    for &(from, at, dim) in &both[..if layout.v_in_k { 1 } else { 2 }] {
        let from = host::f32s(from);
        for i in 0..n {
            let (block, slot) = ((start + i) / layout.block_tokens, (start + i) % layout.block_tokens);
            let to = host::bytes_mut(&blocks[block]);
            let row_bytes = layout.dtype.row_bytes(dim);
            for head in 0..layout.heads {
                let row = at + (head * layout.block_tokens + slot) * row_bytes;
                round(&from[(i * layout.heads + head) * dim..][..dim], layout.dtype, &mut to[row..][..row_bytes]);
            }
        }
    }
}

fn round(values: &[f32], dtype: DType, to: &mut [u8]) {
    match dtype {
        DType::F32 => each(values, to, |value| value.to_le_bytes()),
        DType::F16 => each(values, to, |value| f16::from_f32(value).to_le_bytes()),
        DType::Bf16 => each(values, to, |value| bf16::from_f32(value).to_le_bytes()),
        DType::Q8 => quant::q8_pack(values, to),
        DType::I32 | DType::U8 | DType::F8E4m3 | DType::F8E8m0 => panic!("keys and values are not stored as {dtype}"),
    }
}

fn each<const N: usize>(values: &[f32], to: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    values.iter().zip(to.chunks_exact_mut(N)).for_each(|(&value, to)| to.copy_from_slice(&bytes(value)));
}
