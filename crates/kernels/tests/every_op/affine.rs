//! Affine-quantised weights: products and embeddings against `reference`, and the same bits in every way to compute them.

use proptest::prelude::*;
use proptest::sample::select;

use outpour_kernels::quant::{affine_q, element};
use outpour_kernels::reference::Reference;
use outpour_kernels::{Activation, DType, Format, Matrix, Mlp, MlpScratch, Ops, Tensor};

use crate::heads::assert_heads;
use crate::machine::*;
use crate::near::mlp_of_operations;
use crate::same_bits::assert_batch_invariant;
use crate::{cases, formats, tails};

/// Of sums in f32 in another order, relative to the norm of their terms.
const REORDERED: f32 = 1e-5;

/// What one group of weights is stored as.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    bits: usize,
    group: usize,
    scales: Format,
    tail: usize,
}

/// As most of MLX's checkpoints have it.
pub const USUAL: Stored = Stored { bits: 4, group: 64, scales: Format::Bf16, tail: 0 };

pub fn stored() -> impl Strategy<Value = Stored> {
    let (bits, groups) = (select(vec![2, 3, 4, 5, 6, 8]), select(vec![32, 64, 128]));
    (bits, groups, formats(), tails()).prop_map(|(bits, group, scales, tail)| Stored { bits, group, scales, tail })
}

/// Every combination of bits and groups.
fn every() -> impl Iterator<Item = Stored> {
    let bits = [2, 3, 4, 5, 6, 8].into_iter();
    bits.flat_map(|bits| [32, 64, 128].map(|group| Stored { bits, group, scales: Format::Bf16, tail: 3 }))
}

impl Stored {
    /// Random weights; scales of both signs, and biases about half of what the largest q makes.
    pub fn matrix(self, random: &mut Random, rows: usize, cols: usize) -> Matrix {
        let packed: Vec<u8> = (0..rows * cols * self.bits / 8).map(|_| random.next() as u8).collect();
        self.matrix_of(&packed, random, rows, cols)
    }

    fn matrix_of(self, packed: &[u8], random: &mut Random, rows: usize, cols: usize) -> Matrix {
        let (groups, largest) = (rows * cols / self.group, ((1 << self.bits) - 1) as f32);
        let scales: Vec<f32> = random.values(groups).iter().map(|value| value / largest).collect();
        let biases: Vec<f32> =
            random.values(groups).iter().zip(&scales).map(|(value, s)| value - s * largest / 2.0).collect();
        let numbers = |values: &[f32], tail| {
            bytes_tensor(&encode(values, self.scales), tail, [rows, cols / self.group], dtype_of(self.scales))
        };
        let data = bytes_tensor(packed, self.tail, [rows, packed.len() / rows], DType::U8);
        Matrix::affine(self.bits, self.group, data, numbers(&scales, self.tail + 1), numbers(&biases, self.tail))
    }
}

/// The size of the terms of every output, √Σ (x·(|scale·q| + |bias|))².
fn norms(x: &Tensor, w: &Matrix) -> Vec<f32> {
    let (Format::Affine { bits, group }, [Some(scales), Some(biases)]) = (w.format(), w.scales()) else {
        panic!("not quantised")
    };
    let scales = [scales, biases];
    let (bits, group, format) = (bits as usize, group as usize, Format::of(scales[0].dtype()).unwrap());
    let (data, scales) = (to_bytes(w.data()), scales.map(to_bytes));
    let rows: Vec<&[u8]> = data.chunks_exact(w.format().row_bytes(w.cols())).collect();
    let size = |r: usize, k: usize| {
        let [scale, bias] = scales.each_ref().map(|bytes| element(format, bytes, r * (w.cols() / group) + k / group));
        (scale * f32::from(affine_q(bits, rows[r], k))).abs() + bias.abs()
    };
    let sizes: Vec<f32> = (0..w.rows() * w.cols()).map(|i| size(i / w.cols(), i % w.cols())).collect();
    let norm = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| (x * w) * (x * w)).sum::<f32>().sqrt();
    let row = |x| sizes.chunks_exact(w.cols()).map(move |w| norm(x, w));
    to_f32(x).chunks_exact(w.cols()).flat_map(row).collect()
}

/// A copy of activations, rounded to int8 in blocks of so many.
pub fn rounded_to_int8(x: &Tensor, block: usize) -> Tensor {
    let rounded = |x: &[f32]| {
        let max = x.iter().fold(0f32, |max, x| max.max(x.abs()));
        let (scale, per_step) = if max == 0.0 { (0.0, 0.0) } else { (max / 127.0, 127.0 / max) };
        x.iter().map(|x| scale * (x * per_step).round_ties_even()).collect::<Vec<f32>>()
    };
    f32_tensor(&to_f32(x).chunks_exact(block).flat_map(rounded).collect::<Vec<f32>>(), x.dims())
}

/// Random activations, some blocks of which are zero and some large.
pub fn activations(random: &mut Random, n: usize, cols: usize) -> Tensor {
    let mut values = random.values(n * cols);
    for block in values.chunks_exact_mut(32) {
        let factor = [1.0, 1.0, 1.0, 0.0, 1e-3, 1e3][random.below(6)];
        block.iter_mut().for_each(|value| *value *= factor);
    }
    f32_tensor(&values, [n, cols])
}

/// Asserts that every backend's product is near what `reference` makes of the activations that it computes with: within
/// `tolerance` of the norm of its terms.
fn assert_linear(x: &Tensor, w: &Matrix, tolerance: f32) {
    let Format::Affine { group, .. } = w.format() else { panic!("{:?}", w.format()) };
    let shape = [x.dim(0), w.rows()];
    let rounded = rounded_to_int8(x, if group < 64 { 32 } else { 64 });
    let (exact, of_rounded) = (empty(shape), empty(shape));
    Reference.linear(x, w, &exact);
    Reference.linear(&rounded, w, &of_rounded);
    let norms = norms(x, w);
    for backend in backends() {
        let out = empty(shape);
        backend.ops.linear(x, w, &out);
        let expected = if backend.precise { &exact } else { &of_rounded };
        assert_near(backend, &out, expected, |i| tolerance * norms[i]);
    }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn linear(n in 1usize..=20, rows in 1usize..=70, groups in 1usize..=8, stored in stored(), seed: u64) {
        let mut random = Random(seed);
        let cols = groups * stored.group;
        assert_linear(&activations(&mut random, n, cols), &stored.matrix(&mut random, rows, cols), REORDERED);
    }

    #[test]
    fn embed(ids in prop::collection::vec(0u32..20, 1..30), groups in 1usize..=8, stored in stored(), seed: u64) {
        let (mut random, cols) = (Random(seed), groups * stored.group);
        let table = stored.matrix(&mut random, 20, cols);
        let expected = empty([ids.len(), cols]);
        Reference.embed(&table, &ids, &expected);
        for backend in backends() {
            let out = empty([ids.len(), cols]);
            backend.ops.embed(&table, &ids, &out);
            assert_same_bits(backend, "embed", &out, &expected);
        }
    }

    #[test]
    fn linear_heads(n in select(vec![1usize, 3, 66]), cut in 0usize..66, heads in 1usize..=3, rows in 1usize..=20,
                    first in 0usize..4, groups in 1usize..=4, stored in stored(), seed: u64) {
        let mut random = Random(seed);
        let w = stored.matrix(&mut random, heads * (first + rows), groups * stored.group);
        assert_heads(&mut random, &w, heads, first, n, cut);
    }

    #[test]
    fn linear_is_batch_invariant(n in 1usize..=30, cut in 0usize..30, rows in 1usize..=70, groups in 1usize..=8,
                                 stored in stored(), seed: u64) {
        let (mut random, cols) = (Random(seed), groups * stored.group);
        let (x, w) = (activations(&mut random, n, cols), stored.matrix(&mut random, rows, cols));
        assert_batch_invariant(n, cut, |backend, range| {
            let out = empty([range.len(), rows]);
            backend.ops.linear(&x.rows(range), &w, &out);
            out
        });
    }

    /// An MLP is the operations it is made of, bit for bit, in one part or several: with one way to store its weights,
    /// with three, and with plain ones among them.
    #[test]
    fn mlp(n in 1usize..=20, cut in 0usize..20, hidden in 1usize..=3, width in 1usize..=3, alike: bool, plain in 0usize..6,
           stored in (stored(), stored(), stored()), format in formats(), seed: u64) {
        let mut random = Random(seed);
        let (hidden, width) = (128 * hidden, 128 * width);
        let stored = if alike { [stored.0; 3] } else { [stored.0, stored.1, stored.2] };
        let mut make = |i: usize, rows, cols| {
            if plain == i { matrix(&mut random, rows, cols, format, 1) } else { stored[i].matrix(&mut random, rows, cols) }
        };
        let (gate, up, down) = (make(0, width, hidden), make(1, width, hidden), make(2, hidden, width));
        let mlp = Mlp { gate: Some(gate), up, down, biases: None, activation: Activation::SwiGlu };
        let x = activations(&mut random, n, hidden);
        let rows: Vec<u32> = (0..n).map(|_| random.below(n) as u32).collect();
        let scratch = MlpScratch { x: empty([n, hidden]), gate: empty([n, width]), up: empty([n, width]) };
        for backend in backends_of_two_threads() {
            let (out, composed) = (empty([n, hidden]), empty([n, hidden]));
            backend.ops.mlp(&x, &rows, &mlp, &scratch, &out);
            mlp_of_operations(backend, &x, &rows, &mlp, &scratch, &composed);
            assert_same_bits(backend, "mlp, composed", &out, &composed);
        }
        assert_batch_invariant(n, cut, |backend, range| {
            let out = empty([range.len(), hidden]);
            backend.ops.mlp(&x, &rows[range], &mlp, &scratch, &out);
            out
        });
    }
}

/// Every bit width and group in rows that are unpacked in several parts, and more rows than are computed at once.
#[test]
fn large_linear() {
    let mut random = Random(5);
    for stored in every() {
        for (n, rows, groups) in [(1, 37, 2304 / stored.group), (3, 600, 1), (15, 16, 1152 / stored.group)] {
            let cols = groups * stored.group;
            assert_linear(&activations(&mut random, n, cols), &stored.matrix(&mut random, rows, cols), REORDERED);
        }
    }
    let stored = Stored { bits: 4, group: 64, scales: Format::F16, tail: 5 };
    let (x, w) = (activations(&mut random, 530, 1088), stored.matrix(&mut random, 100, 1088));
    assert_linear(&x, &w, REORDERED);
    assert_batch_invariant(530, 517, |backend, range| {
        let out = empty([range.len(), 100]);
        backend.ops.linear(&x.rows(range), &w, &out);
        out
    });
}

/// Of rows enough for tiles, and some behind them; with scales of few bits, and of as many as an f32 has.
#[test]
fn instruction_sets_give_the_same_bits() {
    let mut random = Random(9);
    for stored in every().chain([32, 64, 128].map(|group| Stored { group, scales: Format::F32, ..USUAL })) {
        let backends = backends_of_one_order(stored.bits == 8);
        for (n, rows, cols) in [(16, 16, 128), (37, 41, 1152), (300, 20, 1152), (63, 100, 2304)] {
            let (x, w) = (activations(&mut random, n, cols), stored.matrix(&mut random, rows, cols));
            assert_one_product(&backends, &x, &w);
        }
    }
}

/// The largest products of bytes in every lane, which overflow 16 bits where an instruction adds pairs of them.
#[test]
fn the_largest_products_do_not_overflow() {
    let mut random = Random(1);
    for stored in every() {
        for sign in [1.0, -1.0] {
            // As many columns as a lone row takes at once.
            let packed = vec![0xff; 20 * 2048 * stored.bits / 8];
            let w = stored.matrix_of(&packed, &mut random, 20, 2048);
            // Terms of one sign add up to 46 times their norm.
            for n in [1, 3, 16] {
                assert_linear(&f32_tensor(&vec![1.5 * sign; n * 2048], [n, 2048]), &w, 46.0 * REORDERED);
            }
        }
    }
}

/// Numbers that are not finite are not lost when activations are rounded.
#[test]
fn nan_and_infinity_reach_the_outputs() {
    let w = USUAL.matrix(&mut Random(1), 3, 128);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = vec![1.0; 128];
        x[70] = bad;
        for backend in backends() {
            let out = empty([1, 3]);
            backend.ops.linear(&f32_tensor(&x, [1, 128]), &w, &out);
            assert!(to_f32(&out).iter().all(|x| !x.is_finite()), "{}: {:?}", backend.ops.describe(), to_f32(&out));
        }
    }
}
