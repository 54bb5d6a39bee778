//! Hyper-connections: several residual streams, mixed by weights that are made of them (arXiv 2409.19606; DeepSeek-V4)

use crate::{Hyper, STREAMS_MAX, Tensor, host, quant};

pub(crate) fn hyper_weights(weights: &Tensor, hyper: &Hyper) {
    let (n, columns) = host::rows_of(weights);
    let streams = hyper.streams;
    assert!(streams <= STREAMS_MAX, "hyper_weights: {streams} streams, at most {STREAMS_MAX}");
    let fits = [streams, 2 * streams, (2 + streams) * streams].contains(&columns);
    assert!(fits, "hyper_weights: weights of {streams} streams");
    for row in 0..n {
        let weights = &mut host::f32s_mut(weights)[row * columns..][..columns];
        let mut logits = [0.0; (2 + STREAMS_MAX) * STREAMS_MAX];
        logits[..columns].copy_from_slice(weights);
        let logit = |i: usize, part: usize| logits[i] * quant::value(&hyper.scale, part) + quant::value(&hyper.base, i);
        let (before, rest) = weights.split_at_mut(streams);
        before.iter_mut().enumerate().for_each(|(i, weight)| *weight = sigmoid(logit(i, 0)) + hyper.eps);
        if rest.is_empty() {
            continue;
        }
        let (behind, matrix) = rest.split_at_mut(streams);
        let [factor, added] = hyper.behind;
        behind.iter_mut().enumerate().for_each(|(i, weight)| *weight = factor * sigmoid(logit(streams + i, 1)) + added);
        if matrix.is_empty() {
            continue;
        }
        for (i, from) in matrix.chunks_exact_mut(streams).enumerate() {
            from.iter_mut().enumerate().for_each(|(j, weight)| *weight = logit((2 + i) * streams + j, 2));
            let max = from.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            from.iter_mut().for_each(|weight| *weight = (*weight - max).exp());
            let sum: f32 = from.iter().sum();
            from.iter_mut().for_each(|weight| *weight = *weight / sum + hyper.eps);
        }
        columns_to_one(matrix, streams, hyper.eps);
        for _ in 1..hyper.iterations {
            rows_to_one(matrix, streams, hyper.eps);
            columns_to_one(matrix, streams, hyper.eps);
        }
    }
}

fn sigmoid(z: f32) -> f32 {
    1.0 / (1.0 + (-z).exp())
}

fn rows_to_one(matrix: &mut [f32], streams: usize, eps: f32) {
    for row in matrix.chunks_exact_mut(streams) {
        let sum = row.iter().sum::<f32>() + eps;
        row.iter_mut().for_each(|weight| *weight /= sum);
    }
}

fn columns_to_one(matrix: &mut [f32], streams: usize, eps: f32) {
    for column in 0..streams {
        let sum = matrix.iter().skip(column).step_by(streams).sum::<f32>() + eps;
        matrix.iter_mut().skip(column).step_by(streams).for_each(|weight| *weight /= sum);
    }
}

pub(super) fn hyper_collapse(x: &Tensor, weights: &Tensor, out: &Tensor) {
    let &[n, streams, d] = x.dims() else { panic!("hyper_collapse: x is [n, streams, d], not {x:?}") };
    let columns = weights.dim(1);
    assert_eq!(out.dims(), [n, d], "hyper_collapse: out does not fit x");
    let (x, weights) = (host::f32s(x), host::f32s(weights));
    for i in 0..n * d {
        let (row, c) = (i / d, i % d);
        let part = |s: usize| weights[row * columns + s] * x[(row * streams + s) * d + c];
        host::f32s_mut(out)[i] = (0..streams).map(part).sum();
    }
}

pub(super) fn hyper_expand(out: &Tensor, weights: &Tensor, x: &Tensor) {
    let &[n, streams, d] = x.dims() else { panic!("hyper_expand: x is [n, streams, d], not {x:?}") };
    let columns = weights.dim(1);
    let mixes = columns == (2 + streams) * streams;
    assert!(out.dims() == [n, d] && (mixes || columns == 2 * streams), "hyper_expand: out and weights fit x");
    let (out, weights) = (host::f32s(out), host::f32s(weights));
    for (i, out) in out.iter().enumerate() {
        let (row, c) = (i / d, i % d);
        let x = &mut host::f32s_mut(x)[row * streams * d..][..streams * d];
        let weight = |i: usize| weights[row * columns + i];
        let mixed = |to: usize| match mixes {
            true => (0..streams).map(|s| weight((2 + s) * streams + to) * x[s * d + c]).sum::<f32>(),
            false => x[to * d + c],
        };
        let new: Vec<f32> = (0..streams).map(|to| weight(streams + to) * out + mixed(to)).collect();
        new.iter().enumerate().for_each(|(to, new)| x[to * d + c] = *new);
    }
}
