//! The gated delta rule, and the state that it carries from call to call.

use proptest::prelude::*;
use proptest::sample::select;

use outpour_kernels::reference::Reference;
use outpour_kernels::{Format, GatedDelta, Ops, Tensor};

use crate::machine::*;
use crate::{cases, formats, tails};

#[derive(Clone, Debug)]
struct Case {
    n: usize,
    k_heads: usize,
    group: usize,
    k_dim: usize,
    v_dim: usize,
    format: Format,
    tail: usize,
    per_channel: bool,
    /// Tiled heads, and decays as GGUF has them.
    gguf: bool,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let heads = (1usize..=3, select(vec![1usize, 2, 4]));
    let dims = (select(vec![8usize, 9, 16, 24, 128]), select(vec![8usize, 24, 40, 128]));
    (1usize..=70, heads, dims, formats(), tails(), any::<(bool, bool)>(), any::<u64>()).prop_map(
        |(n, (k_heads, group), (k_dim, v_dim), format, tail, (per_channel, gguf), seed)| Case {
            n,
            k_heads,
            group: if per_channel { 1 } else { group },
            per_channel,
            k_dim,
            v_dim,
            format,
            tail,
            gguf,
            seed,
        },
    )
}

struct Made {
    delta: GatedDelta,
    qkv: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
}

impl Case {
    fn make(&self) -> Made {
        let &Case { n, k_heads, k_dim, v_dim, per_channel, .. } = self;
        let (mut random, v_heads) = (Random(self.seed), k_heads * self.group);
        let decays = v_heads * if per_channel { k_dim } else { 1 };
        let steep = |values: Vec<f32>| values.into_iter().map(|x| 4.0 * x * x * x).collect::<Vec<f32>>();
        Made {
            qkv: random.tensor([n, 2 * k_heads * k_dim + v_heads * v_dim]),
            // Between -32 and 32: some beyond where softplus is linear.
            a: f32_tensor(&steep(random.values(n * decays)), [n, decays]),
            b: random.tensor([n, v_heads]),
            state: random.tensor([v_heads, k_dim, v_dim]),
            delta: GatedDelta {
                k_heads,
                v_heads,
                k_dim,
                v_dim,
                per_channel,
                tiled: self.gguf,
                a_log: decays_tensor(&mut random, [v_heads], self.format, self.tail, self.gguf),
                exponentiated: self.gguf,
                dt_bias: weight(&mut random, [decays], self.format, self.tail),
                bound: self.seed.is_multiple_of(3).then_some(-5.0),
            },
        }
    }
}

impl Made {
    /// The outputs, and the state afterwards, computed in calls of some lengths.
    fn run(&self, ops: &dyn Ops, lengths: &[usize]) -> (Tensor, Tensor) {
        let n = self.qkv.dim(0);
        let (out, state) = (empty([n, self.delta.v_heads, self.delta.v_dim]), copy(&self.state));
        let mut first = 0;
        for length in lengths {
            let rows = first..first + length;
            let [qkv, a, b, out] = [&self.qkv, &self.a, &self.b, &out].map(|tensor| tensor.rows(rows.clone()));
            ops.gated_delta(&qkv, &a, &b, &self.delta, &state, &out);
            first += length;
        }
        assert_eq!(first, n);
        (out, state)
    }

    /// Outputs and state by the formula, in f64.
    fn in_f64(&self) -> (Vec<f64>, Vec<f64>) {
        let GatedDelta { k_heads, v_heads, k_dim, v_dim, .. } = self.delta;
        let doubles = |tensor: &Tensor| to_f32(tensor).into_iter().map(f64::from).collect::<Vec<f64>>();
        let (qkv, a, b, mut state) = (doubles(&self.qkv), doubles(&self.a), doubles(&self.b), doubles(&self.state));
        let element = |w: &Tensor, h| {
            let format = Format::of(w.dtype()).expect("a plain format");
            f64::from(outpour_kernels::quant::element(format, &to_bytes(w), h))
        };
        let unit = |x: &[f64]| {
            let norm = (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
            x.iter().map(|x| x / norm).collect::<Vec<f64>>()
        };
        let mut out = Vec::new();
        for (i, row) in qkv.chunks_exact(self.qkv.dim(1)).enumerate() {
            for (h, s) in state.chunks_exact_mut(k_dim * v_dim).enumerate() {
                let key_head = if self.delta.tiled { h % k_heads } else { h * k_heads / v_heads };
                let q = unit(&row[key_head * k_dim..][..k_dim]);
                let k = unit(&row[(k_heads + key_head) * k_dim..][..k_dim]);
                let v = &row[2 * k_heads * k_dim + h * v_dim..][..v_dim];
                let of_head = self.delta.decays() / v_heads;
                let decay = |r: usize| {
                    let at = h * of_head + r % of_head;
                    let step = a[i * v_heads * of_head + at] + element(&self.delta.dt_bias, at);
                    let a = element(&self.delta.a_log, h);
                    let rate = if self.delta.exponentiated { -a } else { a.exp() };
                    match self.delta.bound {
                        None => (-rate * step.exp().ln_1p()).exp(),
                        Some(bound) => (f64::from(bound) / (1.0 + (-rate * step).exp())).exp(),
                    }
                };
                let decays: Vec<f64> = (0..k_dim).map(decay).collect();
                let beta = 1.0 / (1.0 + (-b[i * v_heads + h]).exp());
                for c in 0..v_dim {
                    let column = s[c..].iter().step_by(v_dim);
                    let mut column: Vec<f64> = column.zip(&decays).map(|(s, decay)| s * decay).collect();
                    let recalled: f64 = column.iter().zip(&k).map(|(s, k)| s * k).sum();
                    column.iter_mut().zip(&k).for_each(|(s, k)| *s += k * beta * (v[c] - recalled));
                    let mixed: f64 = column.iter().zip(&q).map(|(s, q)| s * q).sum();
                    out.push(mixed / (k_dim as f64).sqrt());
                    column.into_iter().enumerate().for_each(|(r, value)| s[r * v_dim + c] = value);
                }
            }
        }
        (out, state)
    }
}

/// Asserts that no element is further off than `tolerance` times the largest of them.
#[track_caller]
fn assert_near_f64(ops: &dyn Ops, what: &str, got: &Tensor, expected: &[f64], tolerance: f64) {
    let largest = expected.iter().fold(0f64, |largest, x| largest.max(x.abs()));
    assert_eq!(got.elements(), expected.len());
    for (i, (got, expected)) in to_f32(got).into_iter().zip(expected).enumerate() {
        let error = (f64::from(got) - expected).abs();
        let near = error <= tolerance * largest;
        assert!(near, "{}: {what} {i}: {got:e}, not {expected:e}, of at most {largest:e}", ops.describe());
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn gated_delta(case in case()) {
        let made = case.make();
        let (expected, after) = made.run(&Reference, &[case.n]);
        for backend in backends() {
            let (out, state) = made.run(&backend.ops, &[case.n]);
            // Sums of at most 128 products in another order: queries have the length 128^-½, keys 1, states some 2.
            assert_near(backend, &out, &expected, |_| 2e-6);
            assert_near(backend, &state, &after, |_| 1e-5);
        }
    }

    #[test]
    fn gated_delta_by_the_formula(case in case()) {
        let made = case.make();
        let (out, state) = made.in_f64();
        let every = std::iter::once(&Reference as &dyn Ops).chain(backends_of_two_threads().map(|b| &b.ops as _));
        for ops in every {
            let (got, after) = made.run(ops, &[case.n]);
            assert_near_f64(ops, "output", &got, &out, 1e-5);
            assert_near_f64(ops, "state", &after, &state, 1e-5);
        }
    }

    #[test]
    fn gated_delta_is_batch_invariant(case in case(), cut in 0usize..70) {
        assert_same_in_pieces(&case, cut.min(case.n));
    }
}

/// By every number of threads, at once, in two calls and position by position.
fn assert_same_in_pieces(case: &Case, cut: usize) {
    let made = case.make();
    for backends in backends_alike() {
        let (whole, after) = made.run(&backends[0].ops, &[case.n]);
        for backend in backends {
            for lengths in [vec![case.n], vec![cut, case.n - cut], vec![1; case.n]] {
                let (out, state) = made.run(&backend.ops, &lengths);
                assert_same_bits(backend, "in pieces", &out, &whole);
                assert_same_bits(backend, "state, in pieces", &state, &after);
            }
        }
    }
}

/// Beyond what is prepared at once, with work for several tasks a thread.
#[test]
fn many_positions() {
    let case = Case {
        n: 200,
        k_heads: 2,
        group: 4,
        k_dim: 128,
        v_dim: 128,
        format: Format::F32,
        tail: 1,
        per_channel: false,
        gguf: false,
        seed: 5,
    };
    assert_same_in_pieces(&case, 131);
    let made = case.make();
    let (out, state) = made.in_f64();
    for backend in backends_of_two_threads() {
        let (got, after) = made.run(&backend.ops, &[case.n]);
        assert_near_f64(&backend.ops, "output", &got, &out, 1e-5);
        assert_near_f64(&backend.ops, "state", &after, &state, 1e-5);
    }
}
