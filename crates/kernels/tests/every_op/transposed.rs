//! Plain matrices whose columns lie one behind the other, and which may share their columns: products and embeddings against
//! `reference`, in every way to compute them.

use proptest::prelude::*;
use proptest::sample::select;

use outpour_kernels::reference::Reference;
use outpour_kernels::{Activation, DType, Format, Matrix, Mlp, MlpScratch, Ops, Tensor};

use crate::machine::*;
use crate::near::mlp_of_operations;
use crate::same_bits::assert_batch_invariant;
use crate::{cases, formats, tails, widths};

/// Which rows of what columns hold.
#[derive(Clone, Copy, Debug)]
enum Share {
    All,
    EveryOther(usize),
    Half(usize),
}

fn shares() -> impl Strategy<Value = Share> {
    select(vec![Share::All, Share::EveryOther(0), Share::EveryOther(1), Share::Half(0), Share::Half(1)])
}

/// A random matrix `[rows, cols]`, and the same with its rows one behind the other.
fn transposed(
    random: &mut Random,
    rows: usize,
    cols: usize,
    (format, share): (Format, Share),
    tail: usize,
) -> [Matrix; 2] {
    let width = if matches!(share, Share::All) { rows } else { 2 * rows };
    let values = random.values(cols * width);
    let matrix =
        |values: &[f32], shape: [usize; 2]| bytes_tensor(&encode(values, format), tail, shape, dtype_of(format));
    let whole = Matrix::transposed(matrix(&values, [cols, width]));
    let row = |r: usize| match share {
        Share::All => r,
        Share::EveryOther(first) => 2 * r + first,
        Share::Half(half) => half * rows + r,
    };
    let by_row: Vec<f32> =
        (0..rows).flat_map(|r| (0..cols).map(move |c| (c, r))).map(|(c, r)| values[c * width + row(r)]).collect();
    let by_column = match share {
        Share::All => whole,
        Share::EveryOther(first) => whole.every_other(first),
        Share::Half(half) => whole.some_rows(half * rows..(half + 1) * rows),
    };
    [by_column, Matrix::dense(matrix(&by_row, [rows, cols]))]
}

/// Of sums in f32 in another order, relative to the norm of their terms.
fn tolerances(x: &Tensor, w: &Matrix) -> Vec<f32> {
    let (x, weights) = (to_f32(x), dequantised(w));
    let norm = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| (x * w) * (x * w)).sum::<f32>().sqrt();
    x.chunks_exact(w.cols()).flat_map(|x| weights.chunks_exact(w.cols()).map(move |w| 1e-5 * norm(x, w))).collect()
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn linear(n in 1usize..=20, rows in select(vec![1usize, 7, 40, 257, 600]), cols in widths(), format in formats(),
              share in shares(), tail in tails(), seed: u64) {
        let mut random = Random(seed);
        let x = random.tensor([n, cols]);
        let [w, by_row] = transposed(&mut random, rows, cols, (format, share), tail);
        let (expected, same) = (empty([n, rows]), empty([n, rows]));
        Reference.linear(&x, &by_row, &expected);
        Reference.linear(&x, &w, &same);
        prop_assert_eq!(to_bytes(&same), to_bytes(&expected));
        let tolerances = tolerances(&x, &by_row);
        for backend in backends() {
            let out = empty([n, rows]);
            backend.ops.linear(&x, &w, &out);
            assert_near(backend, &out, &expected, |i| tolerances[i]);
        }
    }

    #[test]
    fn rows_have_the_same_bits_alone(n in 1usize..=30, cut in 0usize..30, rows in select(vec![1usize, 33, 300]),
                                     cols in widths(), format in formats(), share in shares(), seed: u64) {
        let mut random = Random(seed);
        let x = random.tensor([n, cols]);
        let [w, _] = transposed(&mut random, rows, cols, (format, share), 1);
        assert_batch_invariant(n, cut, |backend, range| {
            let out = empty([range.len(), rows]);
            backend.ops.linear(&x.rows(range), &w, &out);
            out
        });
    }

    #[test]
    fn embed(ids in prop::collection::vec(0u32..24, 1..30), cols in widths(), format in formats(), share in shares(), seed: u64) {
        let [table, by_row] = transposed(&mut Random(seed), 24, cols, (format, share), 3);
        let expected = empty([ids.len(), cols]);
        Reference.embed(&by_row, &ids, &expected);
        for backend in backends() {
            let out = empty([ids.len(), cols]);
            backend.ops.embed(&table, &ids, &out);
            assert_same_bits(backend, "embed", &out, &expected);
        }
    }

    /// gpt-oss's and Llama 4's experts: gate and up share their columns.
    #[test]
    fn mlp(tokens in 1usize..=9, hidden in widths(), width in select(vec![1usize, 7, 24, 96]), alternate: bool, seed: u64) {
        let mut random = Random(seed);
        let x = random.tensor([tokens, hidden]);
        let stored = |random: &mut Random, shape: [usize; 2]| {
            let values = random.values(shape[0] * shape[1]);
            Matrix::transposed(bytes_tensor(&encode(&values, Format::Bf16), 1, shape, DType::Bf16))
        };
        let both = stored(&mut random, [hidden, 2 * width]);
        let [gate, up] = match alternate {
            true => [both.clone().every_other(0), both.every_other(1)],
            false => [both.some_rows(0..width), both.some_rows(width..2 * width)],
        };
        let down = stored(&mut random, [width, hidden]);
        let mlp = Mlp { gate: Some(gate), up, down, biases: None, activation: Activation::SwiGlu };
        let rows: Vec<u32> = (0..tokens as u32).rev().collect();
        let scratch = || MlpScratch { x: empty([tokens, hidden]), gate: empty([tokens, width]), up: empty([tokens, width]) };
        for backend in backends() {
            let (out, composed) = (empty([tokens, hidden]), empty([tokens, hidden]));
            backend.ops.mlp(&x, &rows, &mlp, &scratch(), &out);
            mlp_of_operations(backend, &x, &rows, &mlp, &scratch(), &composed);
            assert_same_bits(backend, "mlp, composed", &out, &composed);
        }
    }
}
