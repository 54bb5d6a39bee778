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

/// Asserts that a row alone and among others gives the same bits, however small or large its activations are: those whose scales
/// are subnormal among them, and the largest that there are, with which outputs may be infinite.
pub fn assert_alone_and_together(w: &Matrix) {
    let mut random = Random(11);
    let (cols, rows) = (w.cols(), w.rows());
    let activations = random.values(16 * cols);
    let largest = activations.iter().fold(0f32, |max, x| max.max(x.abs()));
    for size in [1.5e-36, 4e-36, 1e-20, 1.0, 1e33, f32::MAX] {
        let x: Vec<f32> = activations.iter().map(|x| x / largest * size).collect();
        for backend in backends() {
            let together = empty([16, rows]);
            backend.ops.linear(&f32_tensor(&x, [16, cols]), w, &together);
            for (row, x) in x.chunks_exact(cols).enumerate() {
                let alone = empty([1, rows]);
                backend.ops.linear(&f32_tensor(x, [1, cols]), w, &alone);
                let same = |a: &f32, b: &f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                let (alone, together) = (to_f32(&alone), to_f32(&together.rows(row..row + 1)));
                let what = format!("{:?}, {size:e}, row {row}: {}", w.format(), backend.ops.describe());
                assert!(alone.iter().zip(&together).all(|(a, b)| same(a, b)), "{what}");
                assert!(size == f32::MAX || together.iter().all(|x| x.is_finite()), "{what}");
            }
        }
    }
}

#[test]
fn activations_of_any_size_are_the_same_alone_and_together() {
    for (group, scales) in [(32, Format::Bf16), (64, Format::Bf16), (128, Format::F16), (64, Format::F32)] {
        let stored = Stored { group, scales, ..USUAL };
        assert_alone_and_together(&stored.matrix(&mut Random(7), 40, 512));
    }
}

/// An output that has become -0, and then gains nothing, is the same alone and among others.
#[test]
fn signs_of_zero_are_the_same_alone_and_together() {
    let (rows, cols) = (40, 128);
    // q is 1 and then 0, with scales of which the first makes a term that is too small for an f32, and no biases.
    let packed: Vec<u8> = (0..rows).flat_map(|_| [[0x11u8; 32], [0; 32]]).flatten().collect();
    let scales: Vec<f32> = (0..rows).flat_map(|_| [-1e-12, -0.01]).collect();
    for format in [Format::Bf16, Format::F32] {
        let numbers = |values: &[f32]| bytes_tensor(&encode(values, format), 0, [rows, cols / 64], dtype_of(format));
        let data = bytes_tensor(&packed, 0, [rows, cols / 2], DType::U8);
        let w = Matrix::affine(4, 64, data, numbers(&scales), numbers(&vec![0.0; 2 * rows]));
        // The second sum times a bias of 0 is -0.
        let x: Vec<f32> = (0..16 * cols).map(|i| if i % cols < 64 { 1e-36 } else { -1e-36 }).collect();
        for backend in backends() {
            let (together, alone) = (empty([16, rows]), empty([1, rows]));
            backend.ops.linear(&f32_tensor(&x, [16, cols]), &w, &together);
            backend.ops.linear(&f32_tensor(&x[..cols], [1, cols]), &w, &alone);
            assert_same_bits(backend, "a sign of zero", &together.rows(0..1), &alone);
        }
    }
}

/// One panel's scales have few bits, those of another as many as an f32.
#[test]
fn scales_of_few_bits_beside_others_give_the_same_bits() {
    let mut random = Random(3);
    let (rows, cols) = (64, 512);
    let stored = Stored { scales: Format::F32, ..USUAL };
    let w = stored.matrix(&mut random, rows, cols);
    let [Some(scales), Some(biases)] = w.scales() else { panic!("an affine matrix") };
    let few: Vec<f32> = to_f32(scales)
        .chunks_exact(cols / 64)
        .enumerate()
        .flat_map(|(row, of)| of.iter().map(move |x| if row / 16 % 2 == 0 { bf16(*x) } else { *x }))
        .collect();
    let w = Matrix::affine(4, 64, w.data().clone(), f32_tensor(&few, [rows, cols / 64]), biases.clone());
    assert_one_product(&backends_of_one_order(false), &activations(&mut random, 40, cols), &w);
    assert_alone_and_together(&w);
}

fn bf16(value: f32) -> f32 {
    f32::from_bits(value.to_bits() & 0xffff_0000)
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
