//! What DeepSeek-V4 is made of beside attention: compression of positions, residual streams, experts chosen by a table.

use std::ops::Range;

use proptest::prelude::*;
use proptest::sample::select;

use outpour_kernels::reference::Reference;
use outpour_kernels::{Compress, DType, Hyper, Ops, Router, RouterScore, Tensor};

use crate::machine::*;
use crate::{cases, formats, tails};

/// A router over 12 experts, whose choice is made, and one that makes its own.
fn routers() -> impl Strategy<Value = Router> {
    use RouterScore::{Sigmoid, Softmax, SoftmaxOfChosen, SparseMixer, SqrtSoftplus};
    let scores = select(vec![Softmax, SoftmaxOfChosen, SparseMixer { jitter: 0.1 }, Sigmoid, SqrtSoftplus]);
    (scores, any::<bool>()).prop_map(|(score, renormalise)| Router { renormalise, scale: 1.5, ..Router::new(3, score) })
}

proptest! {
    #![proptest_config(cases(48))]

    /// Positions one by one, in pieces and all at once make the same bits; and the reference's entries nearly.
    #[test]
    fn compress(every in select(vec![1usize, 4, 16]), overlap: bool, d in select(vec![1usize, 24, 33]), n in 1usize..90,
                cut in 0usize..90, format in formats(), tail in tails(), seed: u64) {
        let mut random = Random(seed);
        let width = if overlap { 2 * d } else { d };
        let by = Compress { every, overlap, bias: weight(&mut random, [every, width], format, tail) };
        let (rows, gates) = (random.tensor([n, width]), random.tensor([n, width]));
        let run = |ops: &dyn Ops, parts: &[Range<usize>]| {
            let kept = empty([by.tail(), 2 * width]);
            let out = empty([n / every, d]);
            for part in parts {
                let entries = out.rows(part.start / every..part.end / every);
                ops.compress(&rows.rows(part.clone()), &gates.rows(part.clone()), &by, &kept, part.start, &entries);
            }
            (out, kept)
        };
        let cut = cut.min(n);
        let ones: Vec<Range<usize>> = (0..n).map(|i| i..i + 1).collect();
        let (expected, kept) = run(&Reference, &[0..0, 0..n]);
        prop_assert_eq!(to_bytes(&run(&Reference, &ones).0), to_bytes(&expected));
        for backend in backends() {
            let (whole, tail) = run(&backend.ops, &[0..0, 0..n]);
            assert_near(backend, &whole, &expected, |_| 1e-5);
            assert_same_bits(backend, "what is kept", &tail, &kept);
            assert_same_bits(backend, "two parts", &run(&backend.ops, &[0..cut, cut..n]).0, &whole);
            assert_same_bits(backend, "one by one", &run(&backend.ops, &ones).0, &whole);
        }
    }

    #[test]
    fn hyper_connections(streams in select(vec![1usize, 3, 4, 16]), d in select(vec![1usize, 24, 65]), n in 1usize..40,
                         mixed: bool, format in formats(), tail in tails(), seed: u64) {
        let mut random = Random(seed);
        let columns = if mixed { (2 + streams) * streams } else { 2 * streams };
        let hyper = Hyper {
            streams,
            iterations: 20,
            eps: 1e-6,
            behind: if mixed { [2.0, 0.0] } else { [1.5, 1e-6] },
            base: weight(&mut random, [columns], format, tail),
            scale: weight(&mut random, [3], format, tail),
        };
        let (logits, x, out) =
            (random.tensor([n, columns]), random.tensor([n, streams, d]), random.tensor([n, d]));
        let run = |ops: &dyn Ops, range: Range<usize>| {
            let of = |t: &Tensor| copy(&t.rows(range.clone()));
            let (weights, x, collapsed) = (of(&logits), of(&x), empty([range.len(), d]));
            ops.hyper_weights(&weights, &hyper);
            ops.hyper_collapse(&x, &weights, &collapsed);
            ops.hyper_expand(&of(&out), &weights, &x);
            [weights, collapsed, x]
        };
        let expected = run(&Reference, 0..n);
        for row in to_f32(&expected[0]).chunks(columns).filter(|_| mixed) {
            for to in 0..streams {
                let column: f32 = (0..streams).map(|from| row[(2 + from) * streams + to]).sum();
                prop_assert!((column - 1.0).abs() < 1e-4, "a column of the mixing matrix sums to {column}");
            }
        }
        for backend in backends() {
            let whole = run(&backend.ops, 0..n);
            for (got, expected) in whole.iter().zip(&expected) {
                assert_near(backend, got, expected, |_| 1e-5);
            }
            for row in 0..n {
                for (alone, whole) in run(&backend.ops, row..row + 1).iter().zip(&whole) {
                    assert_same_bits(backend, "alone", alone, &whole.rows(row..row + 1));
                }
            }
        }
    }

    /// What a router weighs its own choice with is what it says of that choice made by others.
    #[test]
    fn weigh(n in 1usize..20, router in routers(), seed: u64) {
        let logits = Random(seed).tensor([n, 12]);
        let (choice, expected) = (i32_tensor([n, 3]), empty([n, 3]));
        Reference.route(&logits, &router, &choice, &expected);
        let weights = empty([n, 3]);
        Reference.weigh(&logits, &router, &choice, &weights);
        prop_assert_eq!(to_bytes(&weights), to_bytes(&expected));
        for backend in backends() {
            let (of_route, of_weigh) = (empty([n, 3]), empty([n, 3]));
            backend.ops.route(&logits, &router, &i32_tensor([n, 3]), &of_route);
            backend.ops.weigh(&logits, &router, &choice, &of_weigh);
            assert_same_bits(backend, "weigh and route", &of_weigh, &of_route);
            assert_near(backend, &of_weigh, &expected, |_| 1e-6);
        }
    }

    #[test]
    fn look_up(rows in 1usize..30, n in 1usize..20, tail in tails(), narrow: bool, seed: u64) {
        let mut random = Random(seed);
        let number = |random: u64| if narrow { i64::from(random as i32) } else { random as i64 };
        let numbers: Vec<i64> = (0..rows * 3).map(|_| number(random.next())).collect();
        let width = if narrow { 4 } else { 8 };
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes().into_iter().take(width)).collect();
        let table = bytes_tensor(&bytes, tail, [rows, 3 * width], DType::U8);
        let ids: Vec<u32> = (0..n).map(|_| random.below(rows) as u32).collect();
        let expected: Vec<u8> = ids
            .iter()
            .flat_map(|&id| &numbers[id as usize * 3..][..3])
            .flat_map(|number| (number.rem_euclid(7) as i32).to_le_bytes())
            .collect();
        let every: Vec<&dyn Ops> = [&Reference as &dyn Ops].into_iter().chain(backends().iter().map(|b| &b.ops as _)).collect();
        for ops in every {
            let out = i32_tensor([n, 3]);
            ops.look_up(&table, 7, &ids, &out);
            prop_assert_eq!(to_bytes(&out), expected.clone());
        }
    }
}
