//! The router's choice: the `top_k` best scores of a row, and their weights

use super::gated_delta::softplus;
use crate::{Router, RouterGroups, RouterScore, Tensor, host, quant};

pub(super) fn route(logits: &Tensor, router: &Router, choice: &Tensor, weights: &Tensor) {
    let (n, experts) = host::rows_of(logits);
    let k = router.top_k;
    assert!(k <= experts, "route: {k} of {experts} experts");
    assert_eq!(host::rows_of(choice), (n, k), "route: choice does not fit");
    assert_eq!(host::rows_of(weights), (n, k), "route: weights do not fit");
    let (logits, choice, weights) = (host::f32s(logits), host::i32s_mut(choice), host::f32s_mut(weights));
    for row in 0..n {
        let logits = &logits[row * experts..][..experts];
        let scores = scores(logits, router);
        let bias = |expert| router.bias.as_ref().map_or(0.0, |bias| quant::value(bias, expert));
        let biased: Vec<f32> = scores.iter().enumerate().map(|(expert, score)| score + bias(expert)).collect();
        let mut order: Vec<usize> = match &router.groups {
            None => (0..experts).collect(),
            Some(groups) => kept(&biased, groups),
        };
        // A stable sort: equal scores stay in the order of their indices.
        order.sort_by(|&a, &b| biased[b].total_cmp(&biased[a]));
        let choice = &mut choice[row * k..][..k];
        choice.iter_mut().zip(order).for_each(|(choice, expert)| *choice = expert as i32);
        weigh_row(&scores, router, choice, &mut weights[row * k..][..k]);
    }
}

pub(super) fn weigh(logits: &Tensor, router: &Router, choice: &Tensor, weights: &Tensor) {
    let (n, experts) = host::rows_of(logits);
    let k = router.top_k;
    assert_eq!(host::rows_of(choice), (n, k), "weigh: choice does not fit");
    assert_eq!(host::rows_of(weights), (n, k), "weigh: weights do not fit");
    let (logits, choice, weights) = (host::f32s(logits), host::i32s(choice), host::f32s_mut(weights));
    for row in 0..n {
        let scores = scores(&logits[row * experts..][..experts], router);
        weigh_row(&scores, router, &choice[row * k..][..k], &mut weights[row * k..][..k]);
    }
}

fn scores(logits: &[f32], router: &Router) -> Vec<f32> {
    match router.score {
        RouterScore::Softmax => softmax(logits),
        RouterScore::SoftmaxOfChosen | RouterScore::SparseMixer { .. } => logits.to_vec(),
        RouterScore::Sigmoid => logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
        RouterScore::SqrtSoftplus => logits.iter().map(|&logit| softplus(logit).sqrt()).collect(),
    }
}

/// The weights of the chosen experts of one row.
fn weigh_row(scores: &[f32], router: &Router, choice: &[i32], weights: &mut [f32]) {
    let chosen: Vec<f32> = choice.iter().map(|&expert| scores[expert as usize]).collect();
    let chosen = match router.score {
        RouterScore::SoftmaxOfChosen => softmax(&chosen),
        RouterScore::SparseMixer { jitter } => {
            (0..choice.len()).map(|slot| among_near(scores, &choice[..=slot], jitter)).collect()
        }
        _ => chosen,
    };
    let sum = if router.renormalise { chosen.iter().sum::<f32>() + router.eps } else { 1.0 };
    for (slot, &expert) in choice.iter().enumerate() {
        let own = router.expert_scale.as_ref().map_or(1.0, |scale| quant::value(scale, expert as usize));
        weights[slot] = chosen[slot] / sum * router.scale * own;
    }
}

/// The last of the chosen ones' share of a softmax over those near it that were not chosen before.
fn among_near(logits: &[f32], choice: &[i32], jitter: f32) -> f32 {
    let [before @ .., own] = choice else { return f32::NAN };
    let own = *own as usize;
    let near = |z: f32| logits[own] - z <= 2.0 * jitter * z.abs().max(logits[own]);
    let counts = |e: &usize| *e == own || !before.contains(&(*e as i32)) && near(logits[*e]);
    let sum: f32 = (0..logits.len()).filter(counts).map(|e| (logits[e] - logits[own]).exp()).sum();
    1.0 / sum
}

/// Experts of the best groups, in the order of their indices.
fn kept(scores: &[f32], groups: &RouterGroups) -> Vec<usize> {
    assert_eq!(scores.len() % groups.count, 0, "route: groups of one size");
    let size = scores.len() / groups.count;
    let of_group = |group: usize| {
        let mut scores = scores[group * size..][..size].to_vec();
        scores.sort_by(|a, b| b.total_cmp(a));
        scores[..groups.best.min(size)].iter().sum::<f32>()
    };
    let of_groups: Vec<f32> = (0..groups.count).map(of_group).collect();
    let mut order: Vec<usize> = (0..groups.count).collect();
    order.sort_by(|&a, &b| of_groups[b].total_cmp(&of_groups[a]));
    let kept = &order[..groups.keep];
    (0..scores.len()).filter(|expert| kept.contains(&(expert / size))).collect()
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f32> = logits.iter().map(|logit| (logit - max).exp()).collect();
    let sum: f32 = exp.iter().sum();
    if sum.is_nan() {
        // Where a logit is no number, or infinite, no score is one, and no expert is better than another.
        return vec![f32::NAN; logits.len()];
    }
    exp.iter().map(|exp| exp / sum).collect()
}
