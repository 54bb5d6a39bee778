//! The router's choice: the `top_k` best scores of a row, and their weights

use std::cmp::Ordering;

use super::Cpu;
use crate::host::{self, Shared};
use crate::{Router, RouterScore, Tensor};

/// Below every score, whatever it is, in the order of `f32::total_cmp`.
const TAKEN: f32 = f32::from_bits(u32::MAX);

pub(super) fn route(cpu: &Cpu, logits: &Tensor, router: &Router, choice: &Tensor, weights: &Tensor) {
    let (n, experts) = host::rows_of(logits);
    let k = router.top_k;
    assert!(k <= experts, "route: {k} of {experts} experts");
    assert_eq!(host::rows_of(choice), (n, k), "route: choice does not fit");
    assert_eq!(host::rows_of(weights), (n, k), "route: weights do not fit");
    let logits = host::f32s(logits);
    let choice = Shared::new(host::i32s_mut(choice).as_mut_ptr());
    let weights = Shared::new(host::f32_address(weights));
    cpu.reserve_scratch(experts);
    cpu.split(n, experts * (32 + 4 * k), |range, worker| {
        let scores = &mut cpu.scratch_of(worker)[..experts];
        for row in range {
            match router.score {
                RouterScore::Softmax => softmax(&logits[row * experts..][..experts], scores),
            }
            // SAFETY: row `row` of both outputs belongs to this range alone.
            let (choice, weights) = unsafe { (choice.slice_mut(row * k, k), weights.slice_mut(row * k, k)) };
            take_best(scores, choice, weights);
            if router.renormalise {
                let sum: f32 = weights.iter().sum();
                weights.iter_mut().for_each(|weight| *weight /= sum);
            }
        }
    });
}

fn softmax(logits: &[f32], scores: &mut [f32]) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for (score, logit) in scores.iter_mut().zip(logits) {
        *score = (logit - max).exp();
    }
    let sum: f32 = scores.iter().sum();
    // Where a logit is no number, or infinite, no score is one. All get the same NaN, lest one of them be TAKEN.
    match sum.is_nan() {
        true => scores.fill(f32::NAN),
        false => scores.iter_mut().for_each(|score| *score /= sum),
    }
}

/// The best scores, descending, the lower index first among equals; marks them as taken.
fn take_best(scores: &mut [f32], choice: &mut [i32], weights: &mut [f32]) {
    for (choice, weight) in choice.iter_mut().zip(weights) {
        let mut best = 0;
        for i in 1..scores.len() {
            if scores[i].total_cmp(&scores[best]) == Ordering::Greater {
                best = i;
            }
        }
        (*choice, *weight) = (best as i32, scores[best]);
        scores[best] = TAKEN;
    }
}
