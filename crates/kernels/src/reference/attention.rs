//! `out = softmax(scale · q·Kᵀ) · V`, causal (arXiv 1706.03762), grouped heads (arXiv 2305.13245)

use crate::{Attend, DType, Format, KvLayout, Tensor, host, quant};

pub(super) fn attention(q: &Tensor, attend: &Attend, layout: &KvLayout, blocks: &[Tensor], start: usize, out: &Tensor) {
    let &[n, q_heads, k_dim] = q.dims() else { panic!("attention: q is [n, q_heads, k_dim], not {q:?}") };
    let v_dim = layout.v_dim;
    assert_eq!(k_dim, layout.k_dim, "attention: q does not fit the layout");
    assert_eq!(out.dims(), [n, q_heads, v_dim], "attention: out does not fit q and the layout");
    assert_eq!(q_heads % layout.heads, 0, "attention: every kv head serves as many query heads");
    let (q, out) = (host::f32s(q), host::f32s_mut(out));
    let v_width = if layout.v_in_k { k_dim } else { v_dim };
    for i in 0..n {
        for h in 0..q_heads {
            let head = h / (q_heads / layout.heads);
            let q = &q[(i * q_heads + h) * k_dim..][..k_dim];
            let end = start + i + 1;
            let seen = end.saturating_sub(attend.window.unwrap_or(end))..end;
            let score =
                |p| (0..k_dim).map(|d| q[d] * element(layout, blocks, p, layout.k_at, k_dim, head, d)).sum::<f32>();
            let scores: Vec<f32> = seen.clone().map(|p| attend.scale * score(p)).collect();
            let sink = attend.sinks.as_ref().map(|sinks| quant::value(sinks, h));
            let max = scores.iter().copied().chain(sink).fold(f32::NEG_INFINITY, f32::max);
            let exp: Vec<f32> = scores.iter().map(|score| (score - max).exp()).collect();
            let sum: f32 = exp.iter().copied().chain(sink.map(|sink| (sink - max).exp())).sum();
            for d in 0..v_dim {
                let value = |p| element(layout, blocks, p, layout.v_at, v_width, head, d);
                let mixed: f32 = seen.clone().zip(&exp).map(|(p, exp)| exp * value(p)).sum();
                out[(i * q_heads + h) * v_dim + d] = mixed / sum;
            }
        }
    }
}

/// Element `d` of what head `head` stored of a position, `width` elements wide, from byte `at` of a block on.
pub(super) fn element(
    layout: &KvLayout,
    blocks: &[Tensor],
    position: usize,
    at: usize,
    width: usize,
    head: usize,
    d: usize,
) -> f32 {
    let (block, slot) = (position / layout.block_tokens, position % layout.block_tokens);
    let row_bytes = layout.dtype.row_bytes(width);
    let row = at + (head * layout.block_tokens + slot) * row_bytes;
    let row = &host::bytes(&blocks[block])[row..][..row_bytes];
    match Format::of(layout.dtype) {
        Some(format) => quant::element(format, row, d),
        None => {
            assert_eq!(layout.dtype, DType::Q8, "attention: keys and values of F32, F16, BF16 or Q8");
            let (block, mut values) = (d / quant::Q8_BLOCK, [0.0; quant::Q8_BLOCK]);
            quant::q8_unpack(&row[block * quant::Q8_BLOCK_BYTES..][..quant::Q8_BLOCK_BYTES], &mut values);
            values[d % quant::Q8_BLOCK]
        }
    }
}
