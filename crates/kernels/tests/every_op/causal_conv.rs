//! The causal convolution, and the inputs that it keeps between calls.

use proptest::prelude::*;
use proptest::sample::select;

use outpour_kernels::reference::Reference;
use outpour_kernels::{CausalConv, Format, Ops, Tensor};

use crate::machine::*;
use crate::{cases, formats, tails};

#[derive(Clone, Debug)]
struct Case {
    n: usize,
    channels: usize,
    kernel: usize,
    dilation: usize,
    format: Format,
    tail: usize,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let channels = select(vec![1usize, 7, 24, 100, 256, 777]);
    (1usize..=70, channels, 2usize..=4, 1usize..=3, formats(), tails(), any::<u64>()).prop_map(
        |(n, channels, kernel, dilation, format, tail, seed)| Case {
            n,
            channels,
            kernel,
            dilation,
            format,
            tail,
            seed,
        },
    )
}

/// Inputs, weights, and the inputs before.
struct Made {
    x: Tensor,
    conv: CausalConv,
    tail: Tensor,
}

impl Case {
    fn make(&self) -> Made {
        let mut random = Random(self.seed);
        Made {
            x: random.tensor([self.n, self.channels]),
            conv: CausalConv {
                weight: weight(&mut random, [self.channels, self.kernel], self.format, self.tail),
                bias: self.seed.is_multiple_of(2).then(|| weight(&mut random, [self.channels], self.format, self.tail)),
                silu: !self.seed.is_multiple_of(3),
                dilation: self.dilation,
            },
            tail: random.tensor([(self.kernel - 1) * self.dilation, self.channels]),
        }
    }
}

impl Made {
    /// The outputs, and the tail afterwards, computed in calls of some lengths.
    fn run(&self, ops: &dyn Ops, lengths: &[usize]) -> (Tensor, Tensor) {
        let (out, tail) = (empty(self.x.dims()), copy(&self.tail));
        let mut first = 0;
        for length in lengths {
            let rows = first..first + length;
            ops.causal_conv(&self.x.rows(rows.clone()), &self.conv, &tail, &out.rows(rows));
            first += length;
        }
        assert_eq!(first, self.x.dim(0));
        (out, tail)
    }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn causal_conv(case in case()) {
        let made = case.make();
        let (expected, kept) = made.run(&Reference, &[case.n]);
        let values = to_f32(&expected);
        for backend in backends() {
            let (out, tail) = made.run(&backend.ops, &[case.n]);
            // The sums are the same; the exponential is within 2 ulp.
            assert_near(backend, &out, &expected, |i| 1e-6 * values[i].abs());
            assert_same_bits(backend, "tail", &tail, &kept);
        }
    }

    #[test]
    fn causal_conv_is_batch_invariant(case in case(), cut in 0usize..70) {
        let (made, cut) = (case.make(), cut.min(case.n));
        for backends in backends_alike() {
            let (whole, kept) = made.run(&backends[0].ops, &[case.n]);
            for backend in backends {
                for lengths in [vec![case.n], vec![cut, case.n - cut], vec![1; case.n]] {
                    let (out, tail) = made.run(&backend.ops, &lengths);
                    assert_same_bits(backend, "in pieces", &out, &whole);
                    assert_same_bits(backend, "tail, in pieces", &tail, &kept);
                }
            }
        }
    }
}

/// The definition itself: position by position from f64 sums, with zeros before the first.
#[test]
fn causal_conv_by_the_formula() {
    by_the_formula(6, 1);
    by_the_formula(14, 3);
}

fn by_the_formula(n: usize, dilation: usize) {
    let (channels, kernel) = (5, 4);
    let before = dilation * (kernel - 1);
    let mut random = Random(3);
    let weight = weight(&mut random, [channels, kernel], Format::F32, 0);
    let bias = Some(f32_tensor(&[0.25; 5], [channels]));
    let conv = CausalConv { weight, bias, silu: true, dilation };
    let made = Made { x: random.tensor([n, channels]), conv, tail: f32_tensor(&vec![0.0; 5 * before], [before, 5]) };
    let (x, w) = (to_f32(&made.x), to_f32(&made.conv.weight));
    let every: Vec<&dyn Ops> =
        std::iter::once(&Reference as &dyn Ops).chain(backends().iter().map(|b| &b.ops as _)).collect();
    for ops in every {
        let (out, tail) = made.run(ops, &[n]);
        for (i, out) in to_f32(&out).into_iter().enumerate() {
            let (row, c) = (i / channels, i % channels);
            let ago = |back: usize| if back > row { 0.0 } else { f64::from(x[(row - back) * channels + c]) };
            let sum: f64 = (0..kernel).map(|j| f64::from(w[c * kernel + j]) * ago(dilation * (kernel - 1 - j))).sum();
            let sum = sum + 0.25;
            let expected = sum / (1.0 + (-sum).exp());
            assert!((f64::from(out) - expected).abs() < 1e-6, "{}: {out:e}, not {expected:e}", ops.describe());
        }
        assert_eq!(to_f32(&tail), x[(n - before) * channels..], "{}", ops.describe());
    }
}
