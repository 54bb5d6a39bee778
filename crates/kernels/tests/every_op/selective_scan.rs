//! Mamba's selective scan, and the state that it carries from call to call.

use proptest::prelude::*;
use proptest::sample::select;

use outpour_kernels::reference::Reference;
use outpour_kernels::{Format, Ops, SelectiveScan, Tensor};

use crate::machine::*;
use crate::{cases, formats, tails};

#[derive(Clone, Debug)]
struct Case {
    n: usize,
    channels: usize,
    k: usize,
    format: Format,
    tail: usize,
    gguf: bool,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let channels = select(vec![1usize, 7, 64, 100, 300]);
    (1usize..=70, channels, select(vec![1usize, 6, 16]), formats(), tails(), any::<bool>(), any::<u64>())
        .prop_map(|(n, channels, k, format, tail, gguf, seed)| Case { n, channels, k, format, tail, gguf, seed })
}

struct Made {
    scan: SelectiveScan,
    /// x, dt, b and c.
    inputs: [Tensor; 4],
    state: Tensor,
}

impl Case {
    fn make(&self) -> Made {
        let &Case { n, channels, k, format, tail, gguf, .. } = self;
        let mut random = Random(self.seed);
        Made {
            scan: SelectiveScan {
                a_log: decays_tensor(&mut random, [channels, k], format, tail, gguf),
                exponentiated: gguf,
                dt_bias: weight(&mut random, [channels], format, tail),
                d: weight(&mut random, [channels], format, tail),
            },
            inputs: [channels, channels, k, k].map(|d| random.tensor([n, d])),
            state: random.tensor([k, channels]),
        }
    }
}

impl Made {
    /// The outputs, and the state afterwards, computed in calls of some lengths.
    fn run(&self, ops: &dyn Ops, lengths: &[usize]) -> (Tensor, Tensor) {
        let (out, state) = (empty(self.inputs[0].dims()), copy(&self.state));
        let mut first = 0;
        for length in lengths {
            let rows = first..first + length;
            let [x, dt, b, c] = self.inputs.each_ref().map(|tensor| tensor.rows(rows.clone()));
            ops.selective_scan([&x, &dt], [&b, &c], &self.scan, &state, &out.rows(rows));
            first += length;
        }
        (out, state)
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn selective_scan(case in case()) {
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
    fn selective_scan_is_batch_invariant(case in case(), cut in 0usize..70) {
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

/// The definition itself, where the numbers are easy to see: Δ is ln 2, a rate 1 halves the state, and one of 0 keeps it.
#[test]
fn selective_scan_by_hand() {
    check_by_hand(&[0.0, f32::NEG_INFINITY], false);
    check_by_hand(&[-1.0, 0.0], true);
}

fn check_by_hand(a_log: &[f32], exponentiated: bool) {
    let scan = SelectiveScan {
        a_log: f32_tensor(a_log, [1, 2]),
        exponentiated,
        dt_bias: f32_tensor(&[0.25], [1]),
        d: f32_tensor(&[3.0], [1]),
    };
    let every = std::iter::once(&Reference as &dyn Ops).chain(backends_of_two_threads().map(|b| &b.ops as _));
    for ops in every {
        let (state, out) = (f32_tensor(&[8.0, 1.0], [2, 1]), empty([2, 1]));
        let per_ln_2 = 1.0 / std::f32::consts::LN_2;
        let (x, dt) = (f32_tensor(&[0.0, 2.0 * per_ln_2], [2, 1]), f32_tensor(&[-0.25; 2], [2, 1]));
        let (b, c) = (f32_tensor(&[5.0, 5.0, 1.0, 2.0], [2, 2]), f32_tensor(&[1.0, 10.0, 1.0, 1.0], [2, 2]));
        ops.selective_scan([&x, &dt], [&b, &c], &scan, &state, &out);
        // 8 / 2 + 10 · 1, then (4 / 2 + 1 · 2) + (1 + 2 · 2) + 3 · x.
        for (got, expected) in to_f32(&out).into_iter().zip([14.0, 9.0 + 6.0 * per_ln_2]) {
            assert!((got - expected).abs() < 1e-5, "{}: {got}, not {expected}", ops.describe());
        }
    }
}
