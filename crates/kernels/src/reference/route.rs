//! The router's choice: the `top_k` best scores of a row, and their weights

use crate::{Router, RouterScore, Tensor, host};

pub(super) fn route(logits: &Tensor, router: &Router, choice: &Tensor, weights: &Tensor) {
    let (n, experts) = host::rows_of(logits);
    let k = router.top_k;
    assert!(k <= experts, "route: {k} of {experts} experts");
    assert_eq!(host::rows_of(choice), (n, k), "route: choice does not fit");
    assert_eq!(host::rows_of(weights), (n, k), "route: weights do not fit");
    let (logits, choice, weights) = (host::f32s(logits), host::i32s_mut(choice), host::f32s_mut(weights));
    for row in 0..n {
        let scores = match router.score {
            RouterScore::Softmax => softmax(&logits[row * experts..][..experts]),
        };
        let mut order: Vec<usize> = (0..experts).collect();
        // A stable sort: equal scores stay in the order of their indices.
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let chosen = &order[..k];
        let sum = if router.renormalise { chosen.iter().map(|&e| scores[e]).sum() } else { 1.0 };
        for (slot, &expert) in chosen.iter().enumerate() {
            choice[row * k + slot] = expert as i32;
            weights[row * k + slot] = scores[expert] / sum;
        }
    }
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
