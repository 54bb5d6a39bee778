//! Blocks of ggml: products and embeddings against `reference`, and the same bits in every way to compute them.

use proptest::prelude::*;
use proptest::sample::select;

use outpour_kernels::reference::Reference;
use outpour_kernels::{Activation, DType, Format, GgmlType, Matrix, Mlp, MlpScratch, Ops, Tensor};

use crate::affine::{activations, assert_alone_and_together, rounded_to_int8};
use crate::heads::assert_heads;
use crate::machine::*;
use crate::near::mlp_of_operations;
use crate::same_bits::assert_batch_invariant;
use crate::{cases, formats, tails};

/// Of sums in f32 in another order, relative to the norm of their terms.
const REORDERED: f32 = 1e-5;

fn types() -> impl Strategy<Value = GgmlType> {
    select(GgmlType::ALL.to_vec())
}

/// Bytes at which a block has numbers of binary16.
fn halves(blocks: GgmlType) -> &'static [usize] {
    match blocks {
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4K | GgmlType::Q5K => &[0, 2],
        GgmlType::Q2K => &[80, 82],
        GgmlType::Q3K => &[108],
        GgmlType::Q6K => &[208],
        GgmlType::Tq1_0 => &[52],
        GgmlType::Tq2_0 => &[64],
        GgmlType::Iq1M | GgmlType::Mxfp4 => &[],
        _ => &[0],
    }
}

/// Random blocks; scales of both signs and moderate size.
fn random_blocks(blocks: GgmlType, random: &mut Random, rows: usize, cols: usize, tail: usize) -> Matrix {
    let bytes = (0..rows * Format::Ggml(blocks).row_bytes(cols)).map(|_| random.next() as u8).collect();
    blocks_of(blocks, bytes, [rows, cols], tail, || random.value() / 8.0)
}

/// Blocks of some bytes, with other scales.
fn blocks_of(
    blocks: GgmlType,
    mut bytes: Vec<u8>,
    [rows, cols]: [usize; 2],
    tail: usize,
    mut scale: impl FnMut() -> f32,
) -> Matrix {
    let row_bytes = Format::Ggml(blocks).row_bytes(cols);
    for block in bytes.chunks_exact_mut(blocks.block_bytes()) {
        for &at in halves(blocks) {
            block[at..at + 2].copy_from_slice(&half::f16::from_f32(scale()).to_le_bytes());
        }
        match blocks {
            GgmlType::Mxfp4 => block[0] = (124.0 + 32.0 * scale()) as u8,
            // Its scale lies in the upper bits of four words.
            GgmlType::Iq1M => {
                block[53] &= 15;
                block[55] = block[55] & 15 | 0x20;
            }
            _ => {}
        }
    }
    Matrix::ggml(blocks, bytes_tensor(&bytes, tail, [rows, row_bytes], DType::U8))
}

/// The values of a matrix of blocks.
fn values(w: &Matrix) -> Vec<f32> {
    let out = empty([w.rows(), w.cols()]);
    Reference.embed(w, &(0..w.rows() as u32).collect::<Vec<_>>(), &out);
    to_f32(&out)
}

/// The size of the terms of every output, where a weight's is that of the largest of 32: it is `scale · q - min` of two that
/// may both be larger.
fn norms(x: &Tensor, w: &Matrix) -> Vec<f32> {
    let largest = |group: &[f32]| [group.iter().fold(0f32, |max, w| max.max(w.abs())); 32];
    let sizes: Vec<f32> = values(w).chunks_exact(32).flat_map(largest).collect();
    let norm = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| (x * w) * (x * w)).sum::<f32>().sqrt();
    let row = |x| sizes.chunks_exact(w.cols()).map(move |w| norm(x, w));
    to_f32(x).chunks_exact(w.cols()).flat_map(row).collect()
}

/// Asserts that every backend's product is near what `reference` makes of the activations that it computes with.
fn assert_linear(x: &Tensor, w: &Matrix, tolerance: f32) {
    let shape = [x.dim(0), w.rows()];
    let (exact, of_rounded, rounded) = (empty(shape), empty(shape), rounded_to_int8(x, 32));
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

/// Some columns, a multiple of the type's blocks, several of them where they are small.
fn cols(blocks: GgmlType, count: usize) -> usize {
    if blocks.block_weights() == 32 { 32 * (1 + 5 * count) } else { 256 * count }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn linear(n in 1usize..=20, rows in 1usize..=40, count in 1usize..=5, blocks in types(), tail in tails(), seed: u64) {
        let (mut random, cols) = (Random(seed), cols(blocks, count));
        let w = random_blocks(blocks, &mut random, rows, cols, tail);
        assert_linear(&activations(&mut random, n, cols), &w, REORDERED);
    }

    #[test]
    fn embed(ids in prop::collection::vec(0u32..20, 1..30), count in 1usize..=3, blocks in types(), tail in tails(),
             seed: u64) {
        let (mut random, cols) = (Random(seed), cols(blocks, count));
        let table = random_blocks(blocks, &mut random, 20, cols, tail);
        let expected = empty([ids.len(), cols]);
        Reference.embed(&table, &ids, &expected);
        for backend in backends() {
            let out = empty([ids.len(), cols]);
            backend.ops.embed(&table, &ids, &out);
            assert_same_bits(backend, "embed", &out, &expected);
        }
    }

    #[test]
    fn linear_heads(n in 1usize..=9, cut in 0usize..9, heads in 1usize..=3, rows in 1usize..=20, first in 0usize..4,
                    blocks in types(), tail in tails(), seed: u64) {
        let mut random = Random(seed);
        let w = random_blocks(blocks, &mut random, heads * (first + rows), cols(blocks, 1), tail);
        assert_heads(&mut random, &w, heads, first, n, cut);
    }

    #[test]
    fn linear_is_batch_invariant(n in 1usize..=30, cut in 0usize..30, rows in 1usize..=40, count in 1usize..=3,
                                 blocks in types(), tail in tails(), seed: u64) {
        let (mut random, cols) = (Random(seed), cols(blocks, count));
        let w = random_blocks(blocks, &mut random, rows, cols, tail);
        let x = activations(&mut random, n, cols);
        assert_batch_invariant(n, cut, |backend, range| {
            let out = empty([range.len(), rows]);
            backend.ops.linear(&x.rows(range), &w, &out);
            out
        });
    }

    /// An MLP is the operations it is made of, bit for bit, in one part or several, with one type or three, and with plain
    /// weights among them.
    #[test]
    fn mlp(n in 1usize..=12, cut in 0usize..12, alike: bool, plain in 0usize..6, blocks in (types(), types(), types()),
           format in formats(), seed: u64) {
        let mut random = Random(seed);
        let (hidden, width) = (256, 512);
        let blocks = if alike { [blocks.0; 3] } else { [blocks.0, blocks.1, blocks.2] };
        let mut make = |i: usize, rows, cols| match plain == i {
            true => matrix(&mut random, rows, cols, format, 1),
            false => random_blocks(blocks[i], &mut random, rows, cols, 3),
        };
        let (gate, up, down) = (make(0, width, hidden), make(1, width, hidden), make(2, hidden, width));
        let mlp = Mlp { gate: Some(gate), up, down, activation: Activation::SwiGlu, biases: None };
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

/// Every type in rows that are unpacked in several parts, and more rows than are computed at once.
#[test]
fn large_linear() {
    let mut random = Random(5);
    for blocks in GgmlType::ALL {
        for (n, rows, cols) in [(1, 37, 2304), (3, 200, 256), (15, 16, 1280)] {
            let w = random_blocks(blocks, &mut random, rows, cols, 1);
            assert_linear(&activations(&mut random, n, cols), &w, REORDERED);
        }
    }
    // Of rows that are computed in several parts, the last of them short.
    for blocks in GgmlType::ALL {
        let (x, w) = (activations(&mut random, 2, 4352), random_blocks(blocks, &mut random, 17, 4352, 1));
        assert_batch_invariant(2, 1, |backend, range| {
            let out = empty([range.len(), 17]);
            backend.ops.linear(&x.rows(range), &w, &out);
            out
        });
    }
    let w = random_blocks(GgmlType::Q6K, &mut random, 40, 768, 5);
    let x = activations(&mut random, 530, 768);
    assert_linear(&x, &w, REORDERED);
    assert_batch_invariant(530, 517, |backend, range| {
        let out = empty([range.len(), 40]);
        backend.ops.linear(&x.rows(range), &w, &out);
        out
    });
}

/// Of rows enough for tiles, and some behind them.
#[test]
fn instruction_sets_give_the_same_bits() {
    let mut random = Random(9);
    for blocks in GgmlType::ALL {
        let fewer_bits = [GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q4K, GgmlType::Q5K, GgmlType::Q6K, GgmlType::Q2K];
        let backends = backends_of_one_order(!fewer_bits.contains(&blocks));
        for (n, rows, cols) in [(16, 16, 256), (37, 41, 1280), (150, 20, 768)] {
            let (x, w) = (activations(&mut random, n, cols), random_blocks(blocks, &mut random, rows, cols, 1));
            assert_one_product(&backends, &x, &w);
        }
    }
}

/// The largest products of bytes in every lane, which overflow 16 bits where an instruction adds pairs of them: the lowest q
/// of eight bits, -128, among them.
#[test]
fn the_largest_products_do_not_overflow() {
    for blocks in GgmlType::ALL {
        for q in [0x00u8, 0x80, 0x7f, 0x77, 0xff] {
            // As many columns as a lone row takes at once.
            let bytes = vec![q; 20 * Format::Ggml(blocks).row_bytes(1024)];
            let w = blocks_of(blocks, bytes, [20, 1024], 0, || 0.125);
            for sign in [1.0, -1.0] {
                // Terms of one sign add up to 32 times their norm.
                for n in [1, 3, 16] {
                    // With a scale of one bit weights of zero add up to zero, however a type holds them.
                    let x = if values(&w).iter().all(|value| *value == 0.0) { 127.0 / 64.0 } else { 1.5 };
                    assert_linear(&f32_tensor(&vec![x * sign; n * 1024], [n, 1024]), &w, 32.0 * REORDERED);
                }
            }
        }
    }
}

#[test]
fn activations_of_any_size_are_the_same_alone_and_together() {
    for blocks in [GgmlType::Q4_0, GgmlType::Q8_0, GgmlType::Q6K, GgmlType::Q4K] {
        assert_alone_and_together(&random_blocks(blocks, &mut Random(7), 40, 512, 0));
    }
}

/// Numbers that are not finite are not lost when activations are rounded.
#[test]
fn nan_and_infinity_reach_the_outputs() {
    for blocks in [GgmlType::Q4K, GgmlType::Q6K, GgmlType::Q8_0] {
        let w = random_blocks(blocks, &mut Random(1), 3, 256, 0);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1.0; 256];
            x[70] = bad;
            for backend in backends() {
                let out = empty([1, 3]);
                backend.ops.linear(&f32_tensor(&x, [1, 256]), &w, &out);
                assert!(to_f32(&out).iter().all(|x| !x.is_finite()), "{}: {:?}", backend.ops.describe(), to_f32(&out));
            }
        }
    }
}
