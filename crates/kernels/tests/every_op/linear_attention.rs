//! Linear attention with decay, and the state that it carries from call to call.

use proptest::prelude::*;
use proptest::sample::select;

use outpour_kernels::reference::Reference;
use outpour_kernels::{Decay, Format, LinearAttention, Ops, Tensor};

use crate::cases;
use crate::machine::*;

#[derive(Clone, Debug)]
struct Case {
    n: usize,
    k_heads: usize,
    group: usize,
    k_dim: usize,
    v_dim: usize,
    selective: bool,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let heads = (1usize..=3, select(vec![1usize, 2, 4]));
    let dims = (select(vec![8usize, 9, 24, 128]), select(vec![7usize, 24, 64]));
    (1usize..=70, heads, dims, any::<bool>(), any::<u64>()).prop_map(
        |(n, (k_heads, group), (k_dim, v_dim), selective, seed)| Case {
            n,
            k_heads,
            group,
            k_dim,
            v_dim,
            selective,
            seed,
        },
    )
}

struct Made {
    attention: LinearAttention,
    /// q, k, v and dt.
    inputs: [Tensor; 4],
    state: Tensor,
}

impl Case {
    fn make(&self) -> Made {
        let &Case { n, k_heads, k_dim, v_dim, .. } = self;
        let (mut random, v_heads) = (Random(self.seed), k_heads * self.group);
        let gguf = self.seed.is_multiple_of(2);
        let a_log = decays_tensor(&mut random, [v_heads], Format::Bf16, 1, gguf);
        let mut vector = || weight(&mut random, [v_heads], Format::Bf16, 1);
        let decay = match self.selective {
            true => Decay::Selective { a_log, exponentiated: gguf, dt_bias: vector(), d: vector() },
            false => Decay::Rates((0..v_heads).map(|head| 0.5f32.powi(head as i32)).collect()),
        };
        Made {
            attention: LinearAttention { k_heads, v_heads, k_dim, v_dim, decay },
            inputs: [k_heads * k_dim, k_heads * k_dim, v_heads * v_dim, v_heads].map(|d| random.tensor([n, d])),
            state: random.tensor([v_heads, k_dim, v_dim]),
        }
    }
}

impl Made {
    /// The outputs, and the state afterwards, computed in calls of some lengths.
    fn run(&self, ops: &dyn Ops, lengths: &[usize]) -> (Tensor, Tensor) {
        let LinearAttention { v_heads, v_dim, .. } = self.attention;
        let n = self.inputs[0].dim(0);
        let (out, state) = (empty([n, v_heads, v_dim]), copy(&self.state));
        let mut first = 0;
        for length in lengths {
            let rows = first..first + length;
            let [q, k, v, dt] = self.inputs.each_ref().map(|tensor| tensor.rows(rows.clone()));
            let dt = matches!(self.attention.decay, Decay::Selective { .. }).then_some(&dt);
            ops.linear_attention([&q, &k, &v], dt, &self.attention, &state, &out.rows(rows));
            first += length;
        }
        (out, state)
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn linear_attention(case in case()) {
        let made = case.make();
        let (expected, after) = made.run(&Reference, &[case.n]);
        let largest = |t: &Tensor| to_f32(t).iter().fold(1f32, |largest, x| largest.max(x.abs()));
        let (of_out, of_state) = (1e-5 * largest(&expected), 1e-5 * largest(&after));
        for backend in backends() {
            let (out, state) = made.run(&backend.ops, &[case.n]);
            assert_near(backend, &out, &expected, |_| of_out);
            assert_near(backend, &state, &after, |_| of_state);
        }
    }

    /// By every number of threads, at once, in two calls and position by position.
    #[test]
    fn linear_attention_is_batch_invariant(case in case(), cut in 0usize..70) {
        let (made, cut) = (case.make(), cut.min(case.n));
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
}

/// The definition itself, where the numbers are easy to see: one head, k and v one wide.
#[test]
fn linear_attention_by_hand() {
    let attention = LinearAttention {
        k_heads: 1,
        v_heads: 1,
        k_dim: 1,
        v_dim: 1,
        decay: Decay::Rates(vec![std::f32::consts::LN_2]),
    };
    let row = |values: &[f32]| f32_tensor(values, [3, 1]);
    let every = std::iter::once(&Reference as &dyn Ops).chain(backends_of_two_threads().map(|b| &b.ops as _));
    for ops in every {
        let (state, out) = (f32_tensor(&[8.0], [1, 1, 1]), empty([3, 1, 1]));
        let (q, k, v) = (row(&[1.0, 1.0, 2.0]), row(&[1.0, 0.0, 1.0]), row(&[2.0, 5.0, -1.0]));
        ops.linear_attention([&q, &k, &v], None, &attention, &state, &out);
        for (got, expected) in to_f32(&out).into_iter().zip([6.0, 3.0, 1.0]) {
            assert!((got - expected).abs() < 1e-5, "{}: {got}, not {expected}", ops.describe());
        }
    }
}
