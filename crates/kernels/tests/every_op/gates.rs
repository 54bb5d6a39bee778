//! What is multiplied by a sigmoid or a silu, and columns that are moved.

use proptest::prelude::*;
use proptest::sample::select;

use outpour_kernels::reference::Reference;
use outpour_kernels::{ColumnRun, Format, Ops};

use crate::machine::*;
use crate::same_bits::assert_batch_invariant;
use crate::{cases, formats, tails, widths};

/// Of a few roundings and an exponential within 2 ulp.
pub const ROUNDED: f32 = 1e-6;

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn rms_norm_gated(n in 1usize..=20, heads in 1usize..=3, d in widths(), format in formats(), tail in tails(),
                      in_place: bool, seed: u64) {
        let mut random = Random(seed);
        let (x, gate) = (random.tensor([n, heads, d]), wide(&mut random, n * heads * d));
        let (norm, expected) = (norm(&mut random, d, format, tail), empty([n, heads, d]));
        Reference.rms_norm_gated(&x, &gate, &norm, &expected);
        let values = to_f32(&expected);
        for backend in backends() {
            let out = if in_place { copy(&x) } else { empty([n, heads, d]) };
            backend.ops.rms_norm_gated(if in_place { &out } else { &x }, &gate, &norm, &out);
            assert_near(backend, &out, &expected, |i| 4.0 * ROUNDED * values[i].abs());
        }
    }

    #[test]
    fn rms_norm_gated_is_batch_invariant(n in 1usize..=20, cut in 0usize..20, heads in 1usize..=3, d in widths(),
                                         format in formats(), seed: u64) {
        let mut random = Random(seed);
        let (x, gate) = (random.tensor([n, heads, d]), random.tensor([n, heads * d]));
        let norm = norm(&mut random, d, format, 1);
        assert_batch_invariant(n, cut, |backend, range| {
            let out = empty([range.len(), heads, d]);
            backend.ops.rms_norm_gated(&x.rows(range.clone()), &gate.rows(range), &norm, &out);
            out
        });
    }

    #[test]
    fn sigmoid_gate(n in 1usize..=9, d in select(vec![1usize, 31, 1000, 9000]), seed: u64) {
        let mut random = Random(seed);
        let (x, gate) = (random.tensor([n, d]), wide(&mut random, n * d));
        let expected = copy(&x);
        Reference.sigmoid_gate(&expected, &gate);
        let values = to_f32(&expected);
        for backend in backends() {
            let out = copy(&x);
            backend.ops.sigmoid_gate(&out, &gate);
            assert_near(backend, &out, &expected, |i| ROUNDED * values[i].abs());
        }
        let gate = gate.reshape([n, d]);
        assert_batch_invariant(n, n / 2, |backend, range| {
            let out = copy(&x.rows(range.clone()));
            backend.ops.sigmoid_gate(&out, &gate.rows(range));
            out
        });
    }

    #[test]
    fn scale_clamp_and_softcap(n in 1usize..=9, d in select(vec![1usize, 31, 1000, 9000]), own: bool, seed: u64) {
        let mut random = Random(seed);
        let (x, by) = (random.tensor([n, d]), own.then(|| weight(&mut random, [1], Format::Bf16, 1)));
        let [scaled, clamped, capped] = [copy(&x), copy(&x), copy(&x)];
        Reference.scale(&scaled, 1.75, by.as_ref());
        Reference.clamp(&clamped, 0.6);
        prop_assert!(to_f32(&clamped).iter().zip(to_f32(&x)).all(|(to, x)| *to == x || x.abs() > 0.6 && *to == x.signum() * 0.6));
        Reference.softcap(&capped, 0.7);
        prop_assert!(to_f32(&capped).iter().all(|x| x.abs() <= 0.7));
        for backend in backends() {
            let out = copy(&x);
            backend.ops.scale(&out, 1.75, by.as_ref());
            assert_same_bits(backend, "scale", &out, &scaled);
            let out = copy(&x);
            backend.ops.clamp(&out, 0.6);
            assert_same_bits(backend, "clamp", &out, &clamped);
            let out = copy(&x);
            backend.ops.softcap(&out, 0.7);
            let sizes = to_f32(&capped);
            assert_near(backend, &out, &capped, |i| 5e-7 * sizes[i].abs());
            backend.ops.zero(&out);
            prop_assert!(to_bytes(&out).iter().all(|&byte| byte == 0));
        }
        assert_batch_invariant(n, n / 2, |backend, range| {
            let out = copy(&x.rows(range));
            backend.ops.softcap(&out, 0.7);
            out
        });
    }

    #[test]
    fn add_gated(n in 1usize..=30, cut in 0usize..30, d in select(vec![1usize, 31, 1000, 9000]), seed: u64) {
        let mut random = Random(seed);
        let (x, into, gate) = (random.tensor([n, d]), random.tensor([n, d]), wide(&mut random, n).reshape([n, 1]));
        let expected = copy(&into);
        Reference.add_gated(&x, &gate, &expected);
        for backend in backends() {
            let out = copy(&into);
            backend.ops.add_gated(&x, &gate, &out);
            // Both terms are at most 2 in size.
            assert_near(backend, &out, &expected, |_| 2.0 * ROUNDED);
        }
        assert_batch_invariant(n, cut, |backend, range| {
            let out = copy(&into.rows(range.clone()));
            backend.ops.add_gated(&x.rows(range.clone()), &gate.rows(range), &out);
            out
        });
    }

    #[test]
    fn agreement(n in 1usize..=30, cut in 0usize..30, d in select(vec![1usize, 31, 1000, 9000]), seed: u64) {
        let mut random = Random(seed);
        let (x, y, expected) = (random.tensor([n, d]), random.tensor([n, d]), empty([n, 1]));
        Reference.agreement(&x, &y, &expected);
        // A root is steep at 0: what is under it is compared, of terms that are at most 1 in size.
        let under = |root: &f32| root * root.abs();
        for backend in backends() {
            let out = empty([n, 1]);
            backend.ops.agreement(&x, &y, &out);
            for (got, expected) in to_f32(&out).iter().zip(to_f32(&expected)) {
                prop_assert!((under(got) - under(&expected)).abs() < 3e-6 + ROUNDED * (d as f32).sqrt(), "{got} not {expected}");
            }
        }
        assert_batch_invariant(n, cut, |backend, range| {
            let out = empty([range.len(), 1]);
            backend.ops.agreement(&x.rows(range.clone()), &y.rows(range), &out);
            out
        });
    }

    /// Columns that no run names stay as they are.
    #[test]
    fn copy_columns(n in 1usize..=40, a in select(vec![1usize, 31, 1000]), b in select(vec![1usize, 40, 1200]),
                    count in 0usize..=5, seed: u64) {
        let mut random = Random(seed);
        let runs: Vec<ColumnRun> = (0..count).map(|_| {
            let len = random.below(a.min(b) + 1);
            ColumnRun { from: random.below(a - len + 1), to: random.below(b - len + 1), len }
        }).collect();
        let (x, into) = (random.tensor([n, a]), random.tensor([n, b]));
        let expected = copy(&into);
        Reference.copy_columns(&x, &runs, &expected);
        for backend in backends() {
            let out = copy(&into);
            backend.ops.copy_columns(&x, &runs, &out);
            assert_same_bits(backend, "copy_columns", &out, &expected);
        }
    }
}

/// Gates between -60 and 60, most of them small.
fn wide(random: &mut Random, n: usize) -> outpour_kernels::Tensor {
    let values: Vec<f32> = (0..n).map(|_| random.value().powi(3) * 7.5).collect();
    f32_tensor(&values, [n])
}

/// The definition itself, where the numbers are easy to see.
#[test]
fn columns_runs_and_gates_by_hand() {
    let x = f32_tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3]);
    let out = f32_tensor(&[0.0; 8], [2, 4]);
    let runs = [ColumnRun { from: 1, to: 0, len: 2 }, ColumnRun { from: 0, to: 3, len: 1 }];
    let every: Vec<&dyn Ops> =
        std::iter::once(&Reference as &dyn Ops).chain(backends().iter().map(|b| &b.ops as _)).collect();
    for ops in every {
        ops.copy_columns(&x, &runs, &out);
        assert_eq!(to_f32(&out), [2.0, 3.0, 0.0, 1.0, 5.0, 6.0, 0.0, 4.0], "{}", ops.describe());
        let into = f32_tensor(&[1.0; 6], [2, 3]);
        ops.add_gated(&x, &f32_tensor(&[0.0, -200.0], [2, 1]), &into);
        assert_eq!(to_f32(&into), [1.5, 2.0, 2.5, 1.0, 1.0, 1.0], "{}", ops.describe());
        let roots = f32_tensor(&[0.0; 4], [4, 1]);
        let [x, y] = [
            [1.0, 2.0, 2.0, 0.0, 0.0, 0.0, -3.0, 1.0, 0.0, 0.0, 1e-9, 0.0, 0.0, 0.0, 0.0, 0.0],
            [2.0, 2.0, 1.0, 5.0, 1.0, 9.0, 2.0, -2.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0],
        ];
        ops.agreement(&f32_tensor(&x, [4, 4]), &f32_tensor(&y, [4, 4]), &roots);
        assert_eq!(to_f32(&roots), [2.0, -2.0, 1e-3, 0.0], "{}", ops.describe());
        ops.sigmoid_gate(&into, &f32_tensor(&[0.0, 200.0, f32::INFINITY, 0.0, -200.0, f32::NEG_INFINITY], [6]));
        assert_eq!(to_f32(&into), [0.75, 2.0, 2.5, 0.5, 0.0, 0.0], "{}", ops.describe());
    }
}
