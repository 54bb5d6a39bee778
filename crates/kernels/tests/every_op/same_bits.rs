//! Batch invariance: a row has the same bits alone, among others, in other pieces, and with other numbers of threads.

use std::ops::Range;

use proptest::prelude::*;
use proptest::sample::select;

use outpour_kernels::{Activation, Contribution, Mlp, MlpScratch, Ops, Router, RouterScore, Tensor};

use crate::machine::*;
use crate::near::contributions;
use crate::{cases, formats, tails, widths};

/// Computes rows with `run` in every way and compares with all rows at once on one thread.
pub fn assert_batch_invariant(n: usize, cut: usize, run: impl Fn(&Backend, Range<usize>) -> Tensor) {
    for backends in backends_alike() {
        let whole = run(&backends[0], 0..n);
        for backend in backends {
            assert_same_bits(backend, "threads", &run(backend, 0..n), &whole);
            let cut = cut.min(n);
            for rows in [0..cut, cut..n] {
                if !rows.is_empty() {
                    assert_same_bits(backend, "two parts", &run(backend, rows.clone()), &whole.rows(rows));
                }
            }
        }
        for row in 0..n {
            let alone = run(&backends[row % backends.len()], row..row + 1);
            assert_same_bits(&backends[row % backends.len()], "alone", &alone, &whole.rows(row..row + 1));
        }
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn linear(n in 1usize..=30, cut in 0usize..30, rows in 1usize..=70, cols in widths(), format in formats(),
              tail in tails(), seed: u64) {
        let mut random = Random(seed);
        let (x, w) = (random.tensor([n, cols]), matrix(&mut random, rows, cols, format, tail));
        assert_batch_invariant(n, cut, |backend, range| {
            let out = empty([range.len(), rows]);
            backend.ops.linear(&x.rows(range), &w, &out);
            out
        });
    }

    #[test]
    fn mlp(n in 1usize..=20, cut in 0usize..20, hidden in widths(), width in select(vec![1, 7, 24, 33, 96]),
           formats in (formats(), formats(), formats()), tail in tails(), seed: u64) {
        let mut random = Random(seed);
        let x = random.tensor([n, hidden]);
        let rows: Vec<u32> = (0..n).map(|_| random.below(n) as u32).collect();
        let mlp = Mlp {
            gate: Some(matrix(&mut random, width, hidden, formats.0, tail)),
            up: matrix(&mut random, width, hidden, formats.1, tail),
            down: matrix(&mut random, hidden, width, formats.2, tail),
            biases: None, activation: Activation::SwiGlu,
        };
        let scratch = MlpScratch { x: empty([n, hidden]), gate: empty([n, width]), up: empty([n, width]) };
        assert_batch_invariant(n, cut, |backend, range| {
            let out = empty([range.len(), hidden]);
            backend.ops.mlp(&x, &rows[range], &mlp, &scratch, &out);
            out
        });
    }

    #[test]
    fn rms_norm(n in 1usize..=30, cut in 0usize..30, d in widths(), format in formats(), tail in tails(), seed: u64) {
        let mut random = Random(seed);
        let (x, norm) = (random.tensor([n, d]), norm(&mut random, d, format, tail));
        assert_batch_invariant(n, cut, |backend, range| {
            let out = empty([range.len(), d]);
            backend.ops.rms_norm(&x.rows(range), &norm, &out);
            out
        });
    }

    #[test]
    fn route(n in 1usize..=30, cut in 0usize..30, experts in select(vec![8usize, 60, 512]),
             score in select(vec![RouterScore::Softmax, RouterScore::SparseMixer { jitter: 0.1 }]), seed: u64) {
        let logits = Random(seed).tensor([n, experts]);
        let router = Router { renormalise: true, ..Router::new(8, score) };
        assert_batch_invariant(n, cut, |backend, range| {
            let (choice, weights) = (i32_tensor([range.len(), 8]), empty([range.len(), 8]));
            backend.ops.route(&logits.rows(range), &router, &choice, &weights);
            weights
        });
    }

    #[test]
    fn linear_heads(n in 1usize..=80, cut in 0usize..80, heads in 1usize..=4, cols in widths(), rows in 1usize..=20,
                    format in formats(), tail in tails(), seed: u64) {
        let mut random = Random(seed);
        let w = matrix(&mut random, heads * (rows + 3), cols, format, tail);
        let (x, q) = (random.tensor([n, heads, cols]), random.tensor([n, heads, rows]));
        assert_batch_invariant(n, cut, |backend, range| {
            let out = empty([range.len(), heads, rows]);
            backend.ops.linear_heads(&x.rows(range), &w, 3, &out);
            out
        });
        assert_batch_invariant(n, cut, |backend, range| {
            let out = empty([range.len(), heads, cols]);
            backend.ops.linear_heads_transposed(&q.rows(range), &w, 3, &out);
            out
        });
    }

    /// A token's sum is the same whoever else's experts are combined at once.
    #[test]
    fn combine(n in 1usize..=20, cut in 0usize..20, hidden in widths(), count in 0usize..200, seed: u64) {
        let mut random = Random(seed);
        let (parts, into) = (random.tensor([30, hidden]), random.tensor([n, hidden]));
        let all = contributions(&mut random, count, n, 30);
        assert_batch_invariant(n, cut, |backend, range| {
            let moved = |c: &Contribution| Contribution { token: c.token - range.start as u32, ..*c };
            let ours = all.iter().filter(|c| range.contains(&(c.token as usize))).map(moved).collect::<Vec<_>>();
            let out = f32_tensor(&to_f32(&into.rows(range.clone())), [range.len(), hidden]);
            backend.ops.combine(&parts, &ours, &out);
            out
        });
    }
}

/// Enough rows and weights for several blocks and tasks: prefill, decode, and what lies between.
#[test]
fn large_linear() {
    let mut random = Random(7);
    for format in [outpour_kernels::Format::Bf16, outpour_kernels::Format::F16] {
        let (x, w) = (random.tensor([530, 200]), matrix(&mut random, 100, 200, format, 1));
        assert_batch_invariant(530, 517, |backend, range| {
            let out = empty([range.len(), 100]);
            backend.ops.linear(&x.rows(range), &w, &out);
            out
        });
    }
}
