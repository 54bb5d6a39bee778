//! Several products, or several MLPs, in one operation: the same bits as one by one, on every backend.

use proptest::prelude::*;
use proptest::sample::select;

use outpour_kernels::reference::Reference;
use outpour_kernels::{Activation, Matrix, Mlp, MlpJob, MlpScratch, Ops, Tensor};

use crate::affine::{Stored, USUAL, stored};
use crate::machine::*;
use crate::near::biases;
use crate::{cases, formats};

/// The backends, the reference among them.
fn every() -> impl Iterator<Item = &'static dyn Ops> {
    std::iter::once(&Reference as &dyn Ops).chain(backends().iter().map(|backend| &backend.ops as _))
}

fn scratch(rows: usize, hidden: usize, width: usize) -> MlpScratch {
    MlpScratch { x: empty([rows, hidden]), gate: empty([rows, width]), up: empty([rows, width]) }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn linears(n in 1usize..=12, rows in prop::collection::vec(1usize..=200, 0..=4), of in stored(), other in stored(),
               plain in 0usize..6, format in formats(), seed: u64) {
        const COLS: usize = 256;
        let mut random = Random(seed);
        let x = random.tensor([n, COLS]);
        let matrices: Vec<Matrix> = rows.iter().enumerate().map(|(i, &rows)| match i == plain {
            true => matrix(&mut random, rows, COLS, format, 1),
            false => (if i == 3 { other } else { of }).matrix(&mut random, rows, COLS),
        }).collect();
        for ops in every() {
            let outs: Vec<[Tensor; 2]> = rows.iter().map(|&rows| [empty([n, rows]), empty([n, rows])]).collect();
            let products: Vec<(&Matrix, &Tensor)> = matrices.iter().zip(&outs).map(|(w, [out, _])| (w, out)).collect();
            ops.linears(&x, &products);
            for (w, [out, alone]) in matrices.iter().zip(&outs) {
                ops.linear(&x, w, alone);
                prop_assert_eq!(to_bytes(out), to_bytes(alone), "{}", ops.describe());
            }
        }
    }

    /// Experts with rows of their own, in any order and with rows of nobody between them; with scratch for all of them, or for
    /// the largest only; alike or not; a token's several experts as in decoding among them.
    #[test]
    fn mlps(tokens in 1usize..=5, counts in prop::collection::vec(0usize..=9, 1..=6), turned: bool, roomy: bool,
            of in stored(), other in stored(), odd in 0usize..12, biased: bool,
            activation in select(vec![Activation::SwiGlu, Activation::Relu2]), seed: u64) {
        let mut random = Random(seed);
        let (hidden, width) = (256, 384);
        let x = random.tensor([tokens, hidden]);
        let mut jobs: Vec<MlpJob> = Vec::new();
        let mut end = 0;
        for (i, &count) in counts.iter().enumerate() {
            let mut make = |of: Stored, rows, cols| of.matrix(&mut random, rows, cols);
            let first = if i == odd { other } else { of };
            let gate = (activation != Activation::Relu2).then(|| make(first, width, hidden));
            let (up, down) = (make(of, width, hidden), make(if i + 6 == odd { other } else { of }, hidden, width));
            let biases = biased.then(|| biases(&mut random, width, hidden));
            jobs.push(MlpJob { mlp: Mlp { gate, up, down, biases, activation }, rows: end + 1..end + 1 + count });
            end += 1 + count;
        }
        if turned {
            jobs.reverse();
        }
        let of_rows: Vec<u32> = (0..end).map(|_| random.below(tokens) as u32).collect();
        let most = if roomy { end } else { counts.iter().max().copied().unwrap_or(0) };
        for ops in every() {
            let (parts, alone) = (empty([end, hidden]), empty([end, hidden]));
            ops.mlps(&x, &of_rows, &jobs, &scratch(most, hidden, width), &parts);
            for MlpJob { mlp, rows } in &jobs {
                let out = alone.rows(rows.clone());
                ops.mlp(&x, &of_rows[rows.clone()], mlp, &scratch(most, hidden, width), &out);
            }
            prop_assert_eq!(to_bytes(&parts), to_bytes(&alone), "{}", ops.describe());
        }
    }
}

/// Experts of a prompt: more rows than are computed together, so that the first ones are, one is on its own, and the last ones are.
#[test]
fn mlps_of_a_prompt() {
    let (tokens, hidden, width, counts) = (400, 64, 64, [130, 20, 300, 510, 7, 90]);
    let mut random = Random(5);
    let x = random.tensor([tokens, hidden]);
    let mut end = 0;
    let jobs: Vec<MlpJob> = counts
        .iter()
        .map(|&count| {
            let [gate, up, down] = [(); 3].map(|()| USUAL.matrix(&mut random, width, hidden));
            let mlp = Mlp { gate: Some(gate), up, down, biases: None, activation: Activation::SwiGlu };
            end += count;
            MlpJob { mlp, rows: end - count..end }
        })
        .collect();
    let of_rows: Vec<u32> = (0..end).map(|_| random.below(tokens) as u32).collect();
    let scratch = scratch(600, hidden, width);
    for ops in every() {
        let [parts, alone] = [(); 2].map(|()| empty([end, hidden]));
        ops.mlps(&x, &of_rows, &jobs, &scratch, &parts);
        for MlpJob { mlp, rows } in &jobs {
            ops.mlp(&x, &of_rows[rows.clone()], mlp, &scratch, &alone.rows(rows.clone()));
        }
        assert_eq!(to_bytes(&parts), to_bytes(&alone), "{}", ops.describe());
    }
}
