//! The router's choice: the `top_k` best scores of a row, and their weights

use std::cmp::Ordering;

use super::Cpu;
use super::gated_delta::softplus;
use crate::host::{self, Shared};
use crate::{Router, RouterGroups, RouterScore, Tensor, quant};

/// Below every score, whatever it is, in the order of `f32::total_cmp`.
const TAKEN: f32 = f32::from_bits(u32::MAX);

pub(super) fn route(cpu: &Cpu, logits: &Tensor, router: &Router, choice: &Tensor, weights: &Tensor) {
    let (n, experts) = host::rows_of(logits);
    let k = router.top_k;
    assert!(k <= experts, "route: {k} of {experts} experts");
    assert_eq!(host::rows_of(choice), (n, k), "route: choice does not fit");
    assert_eq!(host::rows_of(weights), (n, k), "route: weights do not fit");
    let groups = router.groups.map_or(0, |groups| groups.count);
    let logits = host::f32s(logits);
    let choice = Shared::new(host::i32s_mut(choice).as_mut_ptr());
    let weights = Shared::new(host::f32_address(weights));
    cpu.reserve_scratch(2 * experts + 2 * groups);
    cpu.split(n, experts * (32 + 4 * k), |range, worker| {
        let mut scratch = cpu.scratch_of(worker);
        let (scores, scratch) = scratch.split_at_mut(experts);
        let (biased, scratch) = scratch.split_at_mut(experts);
        for row in range {
            score(&logits[row * experts..][..experts], router, scores);
            for (expert, (biased, score)) in biased.iter_mut().zip(&*scores).enumerate() {
                // A sum with nothing too, as the reference does: it has no -0.
                *biased = score + router.bias.as_ref().map_or(0.0, |bias| quant::value(bias, expert));
            }
            if let Some(groups) = &router.groups {
                drop_groups(biased, groups, &mut scratch[..2 * groups.count]);
            }
            // SAFETY: row `row` of both outputs belongs to this range alone.
            let (choice, weights) = unsafe { (choice.slice_mut(row * k, k), weights.slice_mut(row * k, k)) };
            take_best(biased, choice);
            weigh_row(scores, router, choice, weights);
        }
    });
}

pub(super) fn weigh(cpu: &Cpu, logits: &Tensor, router: &Router, choice: &Tensor, weights: &Tensor) {
    let (n, experts) = host::rows_of(logits);
    let k = router.top_k;
    assert_eq!(host::rows_of(choice), (n, k), "weigh: choice does not fit");
    assert_eq!(host::rows_of(weights), (n, k), "weigh: weights do not fit");
    let (logits, choice) = (host::f32s(logits), host::i32s(choice));
    let weights = Shared::new(host::f32_address(weights));
    cpu.reserve_scratch(experts);
    cpu.split(n, 32 * experts, |range, worker| {
        let scores = &mut cpu.scratch_of(worker)[..experts];
        for row in range {
            score(&logits[row * experts..][..experts], router, scores);
            // SAFETY: row `row` of the weights belongs to this range alone.
            weigh_row(scores, router, &choice[row * k..][..k], unsafe { weights.slice_mut(row * k, k) });
        }
    });
}

fn score(logits: &[f32], router: &Router, scores: &mut [f32]) {
    let mut each = |of: &dyn Fn(f32) -> f32| scores.iter_mut().zip(logits).for_each(|(score, z)| *score = of(*z));
    match router.score {
        RouterScore::Softmax => softmax(logits, scores),
        RouterScore::SoftmaxOfChosen | RouterScore::SparseMixer { .. } => scores.copy_from_slice(logits),
        RouterScore::Sigmoid => each(&|z| 1.0 / (1.0 + (-z).exp())),
        RouterScore::SqrtSoftplus => each(&|z| softplus(z).sqrt()),
    }
}

fn softmax(logits: &[f32], scores: &mut [f32]) {
    scores.copy_from_slice(logits);
    softmax_in_place(scores);
}

fn softmax_in_place(scores: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|score| *score = (*score - max).exp());
    let sum: f32 = scores.iter().sum();
    // Where a logit is no number, or infinite, no score is one. All get the same NaN, lest one of them be TAKEN.
    match sum.is_nan() {
        true => scores.fill(f32::NAN),
        false => scores.iter_mut().for_each(|score| *score /= sum),
    }
}

/// Marks the experts of all but the best groups as taken. `scratch` has room for two numbers a group.
fn drop_groups(scores: &mut [f32], groups: &RouterGroups, scratch: &mut [f32]) {
    assert_eq!(scores.len() % groups.count, 0, "route: groups of one size");
    let size = scores.len() / groups.count;
    let (of_groups, kept) = scratch.split_at_mut(groups.count);
    for (score, group) in of_groups.iter_mut().zip(scores.chunks_exact(size)) {
        *score = sum_of_best(group, groups.best.min(size));
    }
    kept.fill(0.0);
    for _ in 0..groups.keep {
        let best = best(of_groups);
        (of_groups[best], kept[best]) = (TAKEN, 1.0);
    }
    for (group, kept) in scores.chunks_exact_mut(size).zip(kept) {
        if *kept == 0.0 {
            group.fill(TAKEN);
        }
    }
}

/// The sum of the `count` highest, the highest first.
fn sum_of_best(scores: &[f32], count: usize) -> f32 {
    let mut sum = 0.0;
    let mut last: Option<(f32, usize)> = None;
    for _ in 0..count {
        // The next one in the order of falling scores and then of rising indices.
        let after = |i: usize| {
            last.is_none_or(|(score, at)| match scores[i].total_cmp(&score) {
                Ordering::Less => true,
                Ordering::Equal => i > at,
                Ordering::Greater => false,
            })
        };
        let next = (0..scores.len())
            .filter(|&i| after(i))
            .reduce(|a, b| if scores[b].total_cmp(&scores[a]) == Ordering::Greater { b } else { a });
        let Some(next) = next else { break };
        sum += scores[next];
        last = Some((scores[next], next));
    }
    sum
}

fn best(scores: &[f32]) -> usize {
    let mut best = 0;
    for i in 1..scores.len() {
        if scores[i].total_cmp(&scores[best]) == Ordering::Greater {
            best = i;
        }
    }
    best
}

/// The best scores, descending, the lower index first among equals; marks them as taken.
fn take_best(scores: &mut [f32], choice: &mut [i32]) {
    for choice in choice {
        let best = best(scores);
        *choice = best as i32;
        scores[best] = TAKEN;
    }
}

/// The weights of the chosen experts.
fn weigh_row(scores: &[f32], router: &Router, choice: &[i32], weights: &mut [f32]) {
    weights.iter_mut().zip(choice).for_each(|(weight, &expert)| *weight = scores[expert as usize]);
    match router.score {
        RouterScore::SoftmaxOfChosen => softmax_in_place(weights),
        RouterScore::SparseMixer { jitter } => {
            for (slot, weight) in weights.iter_mut().enumerate() {
                *weight = among_near(scores, &choice[..slot], choice[slot], jitter);
            }
        }
        _ => {}
    }
    let sum = if router.renormalise { weights.iter().sum::<f32>() + router.eps } else { 1.0 };
    for (weight, &expert) in weights.iter_mut().zip(choice) {
        let own = router.expert_scale.as_ref().map_or(1.0, |scale| quant::value(scale, expert as usize));
        *weight = *weight / sum * router.scale * own;
    }
}

/// An expert's share of a softmax over those whose logits come near its own, but for those chosen before.
fn among_near(logits: &[f32], before: &[i32], expert: i32, jitter: f32) -> f32 {
    let own = logits[expert as usize];
    let mut sum = 0.0;
    for (e, &z) in (0..).zip(logits) {
        let near = own - z <= 2.0 * jitter * z.abs().max(own);
        if e == expert || near && !before.contains(&e) {
            sum += (z - own).exp();
        }
    }
    1.0 / sum
}
