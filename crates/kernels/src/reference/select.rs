//! The lightning indexer's choice: the best-scored entries of a cache (DeepSeek-V3.2, arXiv 2512.02556)

use super::attention::element;
use crate::{Past, PositionBlocks, Seen, Tensor, host};

pub(super) fn select(q: &Tensor, weights: &Tensor, keys: &Past, choice: &Tensor) {
    let Past { layout, blocks, seen: Seen::Ended { start, every } } = *keys else {
        panic!("select: among entries that have ended, not {:?}", keys.seen);
    };
    let &[n, heads, k_dim] = q.dims() else { panic!("select: q is [n, heads, k_dim], not {q:?}") };
    let top_k = choice.dim(1);
    assert_eq!((layout.heads, layout.k_dim), (1, k_dim), "select: keys of one head that fit q");
    assert_eq!((weights.dims(), choice.dim(0)), (&[n, heads][..], n), "select: weights and choice fit q");
    let (q, weights) = (host::f32s(q), host::f32s(weights));
    for i in 0..n {
        let key = |entry, d| element(layout, blocks, entry, layout.k_at, k_dim, 0, d);
        let dot = |h, entry| (0..k_dim).map(|d| q[(i * heads + h) * k_dim + d] * key(entry, d)).sum::<f32>();
        let score = |entry| (0..heads).map(|h| weights[i * heads + h] * dot(h, entry).max(0.0)).sum();
        let scores: Vec<f32> = (0..(start + i + 1) / every).map(score).collect();
        let mut order: Vec<usize> = (0..scores.len()).collect();
        // A stable sort: equal scores stay in the order of their entries.
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        order.truncate(top_k);
        order.sort_unstable();
        let row = &mut host::i32s_mut(choice)[i * top_k..][..top_k];
        row.fill(-1);
        row.iter_mut().zip(order).for_each(|(choice, entry)| *choice = entry as i32);
    }
}

pub(super) fn select_blocks(q: &Tensor, keys: &Past, by: PositionBlocks, choice: &Tensor) {
    let Past { layout, blocks, seen: Seen::Ended { start, every: 1 } } = *keys else {
        panic!("select_blocks: entries of one position each, not {:?}", keys.seen);
    };
    let &[n, heads, k_dim] = q.dims() else { panic!("select_blocks: q is [n, heads, k_dim], not {q:?}") };
    let &[choice_heads, choice_n, top_k] = choice.dims() else { panic!("select_blocks: choice is [heads, n, k]") };
    assert_eq!((layout.heads, layout.k_dim), (1, k_dim), "select_blocks: keys of one head that fit q");
    assert_eq!((choice_heads, choice_n), (heads, n), "select_blocks: choice fits q");
    let q = host::f32s(q);
    for i in 0..n {
        let end = start + i + 1;
        let count = end.div_ceil(by.every);
        for h in 0..heads {
            let key = |entry, d| element(layout, blocks, entry, layout.k_at, k_dim, 0, d);
            let dot = |entry| (0..k_dim).map(|d| q[(i * heads + h) * k_dim + d] * key(entry, d)).sum::<f32>();
            let best =
                |block| (block * by.every..end.min((block + 1) * by.every)).map(dot).fold(f32::NEG_INFINITY, f32::max);
            let score = |block| if block + by.local >= count { f32::INFINITY } else { best(block) };
            let scores: Vec<f32> = (0..count).map(score).collect();
            let mut order: Vec<usize> = (0..count).collect();
            // A stable sort: equal scores stay in the order of their blocks.
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            order.truncate(top_k);
            order.sort_unstable();
            let row = &mut host::i32s_mut(choice)[(h * n + i) * top_k..][..top_k];
            row.fill(-1);
            row.iter_mut().zip(order).for_each(|(choice, block)| *choice = block as i32);
        }
    }
}
