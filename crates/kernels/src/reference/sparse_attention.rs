//! `out = softmax(scale · q·Kᵀ) · V` over the entries of several caches that a query sees

use super::attention::element;
use crate::{Attend, Past, Seen, Tensor, host, quant};

pub(super) fn sparse_attention(q: &Tensor, attend: &Attend, pasts: &[Past], out: &Tensor) {
    let &[n, q_heads, k_dim] = q.dims() else { panic!("sparse_attention: q is [n, q_heads, k_dim], not {q:?}") };
    let (heads, v_dim) = (pasts[0].layout.heads, pasts[0].layout.v_dim);
    let fits = |past: &Past| (past.layout.heads, past.layout.k_dim, past.layout.v_dim) == (heads, k_dim, v_dim);
    assert!(pasts.iter().all(fits), "sparse_attention: caches of other shapes");
    assert_eq!(out.dims(), [n, q_heads, v_dim], "sparse_attention: out does not fit q and the caches");
    let (q, out) = (host::f32s(q), host::f32s_mut(out));
    for i in 0..n {
        let seen: Vec<(&Past, usize)> =
            pasts.iter().flat_map(|past| entries(past, i).into_iter().map(move |entry| (past, entry))).collect();
        for h in 0..q_heads {
            let head = h / (q_heads / heads);
            let q = &q[(i * q_heads + h) * k_dim..][..k_dim];
            let key =
                |past: &Past, entry, d| element(past.layout, past.blocks, entry, past.layout.k_at, k_dim, head, d);
            let v_width = |past: &Past| if past.layout.v_in_k { k_dim } else { v_dim };
            let value = |past: &Past, entry, d| {
                element(past.layout, past.blocks, entry, past.layout.v_at, v_width(past), head, d)
            };
            let score = |(past, entry): &(&Past, usize)| {
                attend.scale * (0..k_dim).map(|d| q[d] * key(past, *entry, d)).sum::<f32>()
            };
            let scores: Vec<f32> = seen.iter().map(score).collect();
            let sink = attend.sinks.as_ref().map(|sinks| quant::value(sinks, h));
            let max = scores.iter().copied().chain(sink).fold(f32::NEG_INFINITY, f32::max);
            let exp: Vec<f32> = scores.iter().map(|score| (score - max).exp()).collect();
            let sum: f32 = exp.iter().copied().chain(sink.map(|sink| (sink - max).exp())).sum();
            for d in 0..v_dim {
                let mixed: f32 = seen.iter().zip(&exp).map(|((past, entry), exp)| exp * value(past, *entry, d)).sum();
                out[(i * q_heads + h) * v_dim + d] = mixed / sum;
            }
        }
    }
}

/// The entries that query `i` sees.
fn entries(past: &Past, i: usize) -> Vec<usize> {
    match past.seen {
        Seen::Window { start, window } => ((start + i + 1).saturating_sub(window)..start + i + 1).collect(),
        Seen::Ended { start, every } => (0..(start + i + 1) / every).collect(),
        Seen::Chosen(choice) => {
            let k = choice.dim(1);
            let row = &host::i32s(choice)[i * k..][..k];
            row.iter().take_while(|entry| **entry >= 0).map(|&entry| entry as usize).collect()
        }
    }
}
