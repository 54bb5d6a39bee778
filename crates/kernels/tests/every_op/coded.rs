//! Codes with scales in tensors of their own: products and embeddings against `reference`, the same bits in every way to
//! compute them, and what a weight is worth.

use proptest::prelude::*;
use proptest::sample::select;

use outpour_kernels::quant::coded::WHOLE;
use outpour_kernels::reference::Reference;
use outpour_kernels::{Activation, Code, Coded, DType, Matrix, Mlp, MlpScratch, Ops, Second, Tensor};

use crate::affine::{activations, rounded_to_int8};
use crate::heads::assert_heads;
use crate::machine::*;
use crate::near::mlp_of_operations;
use crate::same_bits::assert_batch_invariant;
use crate::{cases, tails};

/// Of sums in f32 in another order, relative to the norm of their terms.
const REORDERED: f32 = 1e-5;

/// A way to store a matrix.
#[derive(Clone, Copy, Debug)]
struct Stored {
    coded: Coded,
    scales: DType,
    /// Whether it is every other row of a larger one.
    alternate: bool,
    tail: usize,
}

fn of(code: Code, block: [u32; 2], second: Second, scales: DType) -> Stored {
    Stored { coded: Coded { code, block, second }, scales, alternate: false, tail: 0 }
}

/// Every one that checkpoints have.
fn all() -> Vec<Stored> {
    vec![
        of(Code::E4m3, [128, 128], Second::None, DType::F32),
        of(Code::E4m3, [128, 128], Second::None, DType::Bf16),
        of(Code::E4m3, [128, 128], Second::None, DType::F8E8m0),
        of(Code::E4m3, [1, WHOLE], Second::None, DType::Bf16),
        of(Code::E4m3, [WHOLE, WHOLE], Second::None, DType::F32),
        of(Code::E4m3, [1, 32], Second::None, DType::F8E8m0),
        of(Code::E2m1, [1, 32], Second::None, DType::F8E8m0),
        of(Code::E2m1, [1, 16], Second::None, DType::F8E4m3),
        of(Code::E2m1, [1, 16], Second::Times, DType::F8E4m3),
        of(Code::E2m1, [1, 16], Second::Over, DType::F8E4m3),
        of(Code::Int4, [1, 32], Second::None, DType::Bf16),
        of(Code::Int4, [1, 128], Second::None, DType::F16),
        of(Code::Int4, [1, WHOLE], Second::None, DType::F32),
        of(Code::Int4, [1, 128], Second::Zeros, DType::Bf16),
        of(Code::Int8, [1, WHOLE], Second::None, DType::Bf16),
        of(Code::Int8, [1, 128], Second::None, DType::Bf16),
        of(Code::Signed8, [1, WHOLE], Second::None, DType::F32),
        of(Code::Signed8, [WHOLE, WHOLE], Second::None, DType::F32),
        of(Code::Gptq, [1, 128], Second::ZerosLessOne, DType::F16),
        of(Code::Gptq, [1, 32], Second::Zeros, DType::Bf16),
        of(Code::Awq, [1, 128], Second::Zeros, DType::F16),
        of(Code::Awq, [1, 64], Second::Zeros, DType::F16),
    ]
}

fn stored() -> impl Strategy<Value = Stored> {
    (select(all()), any::<bool>(), tails()).prop_map(|(stored, alternate, tail)| Stored { alternate, tail, ..stored })
}

impl Stored {
    /// Random codes, and scales that make weights of moderate size.
    fn matrix(self, random: &mut Random, rows: usize, cols: usize) -> Matrix {
        let code_max = match self.coded.code {
            Code::E4m3 => 448.0,
            Code::E2m1 => 6.0,
            Code::Int8 | Code::Signed8 => 128.0,
            Code::Int4 | Code::Gptq | Code::Awq => 8.0,
        };
        let data = |random: &mut Random, n: usize| -> Vec<u8> {
            let byte = |_| match (random.next() as u8, self.coded.code) {
                // No NaN.
                (byte, Code::E4m3) if byte & 0x7f == 0x7f => 0x7e,
                (byte, _) => byte,
            };
            (0..n).map(byte).collect()
        };
        // E4M3 has no numbers that are as small as the others' scales.
        let scale = |value: f32| if self.scales == DType::F8E4m3 { value } else { value / code_max };
        let rows = if self.alternate { 2 * rows } else { rows };
        let mut tensor =
            |shape: [usize; 2], dtype: DType, tail: usize, data: &dyn Fn(&mut Random, usize) -> Vec<u8>| {
                let bytes = data(random, shape[0] * shape[1]);
                bytes_tensor(&bytes, tail, shape, dtype)
            };
        let [Some(data_shape), Some(scales_shape), second] = self.coded.shapes(rows, cols) else {
            panic!("data and scales have shapes")
        };
        let data = tensor(data_shape, DType::U8, self.tail, &data);
        let scales = tensor(scales_shape, self.scales, self.tail + 1, &|random, n| {
            (0..n).flat_map(|_| stored_scale(scale(random.value()), self.scales)).collect()
        });
        let second = second.zip(self.coded.second_type()).map(|(shape, dtype)| match dtype {
            DType::F32 => tensor(shape, dtype, self.tail, &|_, _| 1.5f32.to_le_bytes().to_vec()),
            _ => tensor(shape, dtype, self.tail + 2, &|random, n| (0..n).map(|_| random.next() as u8).collect()),
        });
        let matrix = Matrix::coded(self.coded, [rows, cols], data, scales, second);
        if self.alternate { matrix.every_other(random.below(2)) } else { matrix }
    }
}

/// A scale as it is stored, of about this size.
fn stored_scale(value: f32, dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => value.to_le_bytes().to_vec(),
        DType::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
        DType::Bf16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
        // Between 2^-7 and 1.875 either way.
        DType::F8E4m3 => vec![(value.to_bits() >> 24) as u8 & 0x80 | ((value.to_bits() >> 10) as u8 & 0x3f)],
        DType::F8E8m0 => vec![((value.abs().log2().max(-12.0)) + 127.0) as u8],
        other => panic!("no scale is of {other}"),
    }
}

/// The values of a matrix.
fn values(w: &Matrix) -> Vec<f32> {
    let out = empty([w.rows(), w.cols()]);
    Reference.embed(w, &(0..w.rows() as u32).collect::<Vec<_>>(), &out);
    to_f32(&out)
}

/// The size of the terms of every output, where a weight's is that of the largest of 32, and of what its zero is: it is
/// `scale · u - scale · zero`, and both may be larger.
fn norms(x: &Tensor, w: &Matrix) -> Vec<f32> {
    let largest = |group: &[f32]| {
        let max = group.iter().fold(0f32, |max, w| max.max(w.abs()));
        vec![16.0 * max; group.len()]
    };
    let sizes: Vec<f32> = values(w).chunks(32).flat_map(largest).collect();
    let norm = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| (x * w) * (x * w)).sum::<f32>().sqrt();
    let row = |x| sizes.chunks_exact(w.cols()).map(move |w| norm(x, w));
    to_f32(x).chunks_exact(w.cols()).flat_map(row).collect()
}

/// Asserts that every backend's product is near what `reference` makes of the activations that it computes with: rounded
/// ones where weights are whole numbers.
fn assert_linear(x: &Tensor, w: &Matrix, whole: bool, tolerance: f32) {
    let shape = [x.dim(0), w.rows()];
    let (exact, of_rounded) = (empty(shape), empty(shape));
    Reference.linear(x, w, &exact);
    if whole {
        Reference.linear(&rounded_to_int8(x, 32), w, &of_rounded);
    }
    let norms = norms(x, w);
    for backend in backends() {
        let out = empty(shape);
        backend.ops.linear(x, w, &out);
        let expected = if backend.precise || !whole { &exact } else { &of_rounded };
        assert_near(backend, &out, expected, |i| tolerance * norms[i]);
    }
}

/// Columns of whole groups; where weights are no whole numbers, or the last group is 16 wide, others too.
fn cols(stored: Stored, count: usize) -> usize {
    match stored.coded {
        Coded { code: Code::E4m3, block: [_, WHOLE | 128], .. } => 24 * count + 8,
        Coded { block: [_, 16], .. } => 48 * count,
        Coded { block: [_, WHOLE], .. } => 32 * count,
        Coded { block: [_, cols], .. } => cols as usize * count,
    }
}

/// Whether activations are rounded for it.
fn whole(stored: Stored, cols: usize) -> bool {
    stored.coded.code != Code::E4m3 && cols.is_multiple_of(32)
}

fn rows(stored: Stored, rows: usize) -> usize {
    if stored.coded.fits(rows, 32) { rows } else { rows.next_multiple_of(8) }
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn linear(n in 1usize..=20, r in 1usize..=150, count in 1usize..=20, stored in stored(), seed: u64) {
        let (mut random, cols, rows) = (Random(seed), cols(stored, count), rows(stored, r));
        let w = stored.matrix(&mut random, rows, cols);
        assert_linear(&activations_of(&mut random, n, cols), &w, whole(stored, cols), REORDERED);
    }

    #[test]
    fn embed(ids in prop::collection::vec(0u32..24, 1..30), count in 1usize..=8, stored in stored(), seed: u64) {
        let (mut random, cols) = (Random(seed), cols(stored, count));
        let table = stored.matrix(&mut random, 24, cols);
        let expected = empty([ids.len(), cols]);
        Reference.embed(&table, &ids, &expected);
        for backend in backends() {
            let out = empty([ids.len(), cols]);
            backend.ops.embed(&table, &ids, &out);
            assert_same_bits(backend, "embed", &out, &expected);
        }
    }

    #[test]
    fn linear_heads(n in 1usize..=9, cut in 0usize..9, heads in 1usize..=3, r in 1usize..=20, first in 0usize..4,
                    stored in stored(), seed: u64) {
        let (mut random, cols) = (Random(seed), cols(stored, 2));
        let w = stored.matrix(&mut random, heads * rows(stored, first + r), cols);
        assert_heads(&mut random, &w, heads, first, n, cut);
    }

    #[test]
    fn linear_is_batch_invariant(n in 1usize..=30, cut in 0usize..30, r in 1usize..=70, count in 1usize..=20,
                                 stored in stored(), seed: u64) {
        let (mut random, cols, rows) = (Random(seed), cols(stored, count), rows(stored, r));
        let (x, w) = (activations_of(&mut random, n, cols), stored.matrix(&mut random, rows, cols));
        assert_batch_invariant(n, cut, |backend, range| {
            let out = empty([range.len(), rows]);
            backend.ops.linear(&x.rows(range), &w, &out);
            out
        });
    }

    /// An MLP is the operations it is made of, bit for bit, in one part or several, with one way to store it or three.
    #[test]
    fn mlp(n in 1usize..=12, cut in 0usize..12, alike: bool, stored in (stored(), stored(), stored()), seed: u64) {
        let mut random = Random(seed);
        let (hidden, width) = (256, 384);
        let stored = if alike { [stored.0; 3] } else { [stored.0, stored.1, stored.2] };
        let mut make = |i: usize, rows, cols| stored[i].matrix(&mut random, rows, cols);
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

/// Activations of any number of columns.
fn activations_of(random: &mut Random, n: usize, cols: usize) -> Tensor {
    if cols.is_multiple_of(32) { activations(random, n, cols) } else { random.tensor([n, cols]) }
}

/// Every way in rows that are unpacked in several parts, and more rows than are computed at once.
#[test]
fn large_linear() {
    let mut random = Random(5);
    for stored in all() {
        for (n, r, columns) in [(1, 37, 2304), (3, 200, 256), (15, 16, 1280)] {
            let w = stored.matrix(&mut random, rows(stored, r), columns);
            assert_linear(&activations(&mut random, n, columns), &w, whole(stored, columns), REORDERED);
        }
    }
}

/// Rows that are computed in several parts, and more of them than one strip of a transposed matrix, alone and together.
#[test]
fn large_linear_is_batch_invariant() {
    let mut random = Random(6);
    for stored in all() {
        for (rows, columns) in [(528, 384), (16, 8320)] {
            let (x, w) = (activations(&mut random, 2, columns), stored.matrix(&mut random, rows, columns));
            assert_batch_invariant(2, 1, |backend, range| {
                let out = empty([range.len(), rows]);
                backend.ops.linear(&x.rows(range), &w, &out);
                out
            });
        }
    }
}

/// More rows of activations than are multiplied at once, and so many that they pass in parts.
#[test]
fn many_rows_are_batch_invariant_and_near_reference() {
    let mut random = Random(7);
    for stored in all() {
        for (n, cut, r, columns) in [(530, 515, 20, 256), (305, 17, 3, 1024)] {
            let rows = rows(stored, r);
            let (x, w) = (activations(&mut random, n, columns), stored.matrix(&mut random, rows, columns));
            assert_linear(&x, &w, whole(stored, columns), REORDERED);
            assert_batch_invariant(n, cut, |backend, range| {
                let out = empty([range.len(), rows]);
                backend.ops.linear(&x.rows(range), &w, &out);
                out
            });
        }
    }
}

/// What instruction sets of one order of additions make is the same.
#[test]
fn instruction_sets_give_the_same_bits() {
    let mut random = Random(9);
    for stored in all() {
        let backends = backends_of_one_order(stored.coded.code != Code::Int4);
        for (n, r, columns) in [(1, 40, 1280), (16, 16, 256), (37, 41, 1280), (150, 20, 768)] {
            if whole(stored, columns) {
                let w = stored.matrix(&mut random, rows(stored, r), columns);
                assert_one_product(&backends, &activations(&mut random, n, columns), &w);
            }
        }
    }
}

/// The largest products of bytes in every lane, which overflow 16 bits where an instruction adds pairs of them.
#[test]
fn the_largest_products_do_not_overflow() {
    // As many columns as a lone row takes at once.
    const SHAPE: [usize; 2] = [24, 1024];
    for (code, block, second) in [
        (Code::Int8, [1, WHOLE], Second::None),
        (Code::Signed8, [1, WHOLE], Second::None),
        (Code::Int4, [1, 32], Second::None),
        (Code::E2m1, [1, 32], Second::None),
        (Code::E2m1, [1, 16], Second::None),
        (Code::Gptq, [1, 128], Second::ZerosLessOne),
        (Code::Awq, [1, 128], Second::Zeros),
    ] {
        let coded = Coded { code, block, second };
        let [Some(data), Some(scales), zeros] = coded.shapes(SHAPE[0], SHAPE[1]) else { panic!("data and scales") };
        for byte in [0x00, 0x7f, 0x80, 0x77, 0xff] {
            let ones: Vec<u8> = (0..scales[0] * scales[1]).flat_map(|_| 1f32.to_le_bytes()).collect();
            let bytes =
                |byte: u8, shape: [usize; 2]| bytes_tensor(&vec![byte; shape[0] * shape[1]], 0, shape, DType::U8);
            let scales = bytes_tensor(&ones, 0, scales, DType::F32);
            let w = Matrix::coded(coded, SHAPE, bytes(byte, data), scales, zeros.map(|shape| bytes(0, shape)));
            for sign in [1.0, -1.0] {
                for n in [1, 3, 16] {
                    // What is 0 is worth it to less than its u.
                    let x = f32_tensor(&vec![1.5 * sign; n * SHAPE[1]], [n, SHAPE[1]]);
                    let (expected, size) = (empty([n, SHAPE[0]]), 1.5 * 256.0 * SHAPE[1] as f32);
                    Reference.linear(&x, &w, &expected);
                    for backend in backends() {
                        let out = empty([n, SHAPE[0]]);
                        backend.ops.linear(&x, &w, &out);
                        assert_near(backend, &out, &expected, |_| 1e-6 * size);
                    }
                }
            }
        }
    }
}

/// Numbers that are not finite are not lost when activations are rounded.
#[test]
fn nan_and_infinity_reach_the_outputs() {
    for stored in all() {
        let w = stored.matrix(&mut Random(1), 8, 256);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1.0; 256];
            x[70] = bad;
            for backend in backends() {
                let out = empty([1, 8]);
                backend.ops.linear(&f32_tensor(&x, [1, 256]), &w, &out);
                let finite = to_f32(&out).iter().filter(|x| x.is_finite()).count();
                // An infinity times a weight of 0 is NaN: nothing is finite either way.
                assert_eq!(finite, 0, "{}: {stored:?}", backend.ops.describe());
            }
        }
    }
}
