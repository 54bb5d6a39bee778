//! A quantised matrix of its own for each head.

use outpour_kernels::reference::Reference;
use outpour_kernels::{ColumnRun, Matrix, Ops, Tensor};

use crate::affine::activations;
use crate::machine::*;
use crate::same_bits::assert_batch_invariant;

/// Of sums in f32 in another order, relative to the norm of their terms.
const REORDERED: f32 = 1e-5;

/// Rows `first..` of each head of `w`: products have the bits of [`Ops::linear`] with all of it, which is compared with
/// `reference` elsewhere, and transposed ones are near the reference's; both the same in pieces and by any threads.
pub fn assert_heads(random: &mut Random, w: &Matrix, heads: usize, first: usize, n: usize, cut: usize) {
    let (cols, stride) = (w.cols(), w.rows() / heads);
    let rows = stride - first;
    let x = match cols.is_multiple_of(32) {
        true => activations(random, n * heads, cols).reshape([n, heads, cols]),
        false => random.tensor([n, heads, cols]),
    };
    let of_heads = |backend: &Backend, x: &Tensor| {
        let out = empty([x.dim(0), heads, rows]);
        backend.ops.linear_heads(x, w, first, &out);
        out
    };
    for backend in backends_of_two_threads() {
        let (expected, all) = (empty([n, heads * rows]), empty([n * heads, w.rows()]));
        backend.ops.linear(&x.reshape([n * heads, cols]), w, &all);
        let own = |h: usize| ColumnRun { from: h * w.rows() + h * stride + first, to: h * rows, len: rows };
        let runs: Vec<ColumnRun> = (0..heads).map(own).collect();
        Reference.copy_columns(&all.reshape([n, heads * w.rows()]), &runs, &expected);
        assert_same_bits(backend, "heads", &of_heads(backend, &x), &expected.reshape([n, heads, rows]));
    }
    assert_batch_invariant(n, cut, |backend, range| of_heads(backend, &x.rows(range)));

    let q = random.tensor([n, heads, rows]);
    let transposed = |ops: &dyn Ops, q: &Tensor| {
        let out = empty([q.dim(0), heads, cols]);
        ops.linear_heads_transposed(q, w, first, &out);
        out
    };
    let (expected, norms) = (transposed(&Reference, &q), norms_of_transposed(&q, w, first));
    for backend in backends_of_two_threads() {
        assert_near(backend, &transposed(&backend.ops, &q), &expected, |i| REORDERED * norms[i]);
    }
    assert_batch_invariant(n, cut, |backend, range| transposed(&backend.ops, &q.rows(range)));
}

/// √Σ (q·w)² of every output of a transposed product.
fn norms_of_transposed(q: &Tensor, w: &Matrix, first: usize) -> Vec<f32> {
    let &[_, heads, rows] = q.dims() else { panic!("q is [n, heads, rows]") };
    let table = empty([w.rows(), w.cols()]);
    Reference.embed(w, &(0..w.rows() as u32).collect::<Vec<u32>>(), &table);
    let (weights, q) = (to_f32(&table), to_f32(q));
    let of_row = |(i, q): (usize, &[f32])| {
        let first = i % heads * (w.rows() / heads) + first;
        let mut sums = vec![0f32; w.cols()];
        for (q, weights) in q.iter().zip(weights[first * w.cols()..].chunks_exact(w.cols())) {
            sums.iter_mut().zip(weights).for_each(|(sum, w)| *sum += (q * w) * (q * w));
        }
        sums.into_iter().map(f32::sqrt).collect::<Vec<f32>>()
    };
    q.chunks_exact(rows).enumerate().flat_map(of_row).collect()
}
