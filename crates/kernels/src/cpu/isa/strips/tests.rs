use std::mem::MaybeUninit;
use std::ptr::null_mut;

use super::super::affine::Bytes;
use super::super::portable::OneByOne;
use super::super::unpacked::{self, To};
use super::*;
use crate::quant::coded::{Coded, Rows, Second, WHOLE};
use crate::tensor::DType;
use crate::{Code, Format, GgmlType};

type Words = <OneByOne as Bytes>::I;
const LANES: usize = 8;

fn random_bytes(count: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    // No f16 among them is infinite or NaN.
    (0..count).map(|_| byte()).map(|byte| if byte & 0x7c == 0x7c { byte ^ 0x40 } else { byte }).collect()
}

/// Whether a place is unpacked side by side; if so, to what it is unpacked to row by row.
fn is_same(d: &UnpackedDots, at: Place) -> bool {
    let mut room = Box::new(MaybeUninit::uninit());
    let [strip, rows] = Panel::zeroed(&mut room);
    let group = d.weights.group();
    // SAFETY: plain Rust, and the caller's addresses hold what is said of them.
    unsafe {
        if !fill::<Words>(d, at, 0, strip) {
            return false;
        }
        unpacked::fill(d, at, To::side_by_side(LANES, 0), rows);
    }
    let bits = |of: &[f32]| of.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    for row in 0..at.rows {
        for k in 0..at.len {
            // SAFETY: a panel of so many weights.
            let u = unsafe { strip.q().add((k / 4 * LANES + row) * 4 + k % 4).read() };
            assert_eq!(u, rows.row(row)[k], "row {row}, weight {k}");
        }
        for g in 0..at.len / group {
            let number = g * LANES + row;
            let of = |panel: &mut Panel| panel.scales_and_biases().map(|of| bits(&of[number..=number]));
            assert_eq!(of(strip), of(rows), "row {row}, group {g}");
        }
    }
    true
}

fn dots(w: *const u8, w_stride: usize, rows: usize, k: usize) -> Dots {
    Dots { w, w_stride, rows, x: w, x_stride: 0, columns: 0, k, out: null_mut(), out_stride: 0 }
}

/// All rows of a panel and fewer, and parts that are no whole strips.
#[test]
fn blocks_are_what_they_are_row_by_row() {
    let mut known = 0;
    for blocks in GgmlType::ALL {
        let format = Format::Ggml(blocks);
        for (rows, len) in [(8, 512), (5, 256), (1, 32), (7, 160)] {
            if len % blocks.block_weights() != 0 {
                continue;
            }
            let k = 768 + len;
            let w = random_bytes(rows * format.row_bytes(k));
            let dots = dots(w.as_ptr(), format.row_bytes(k), rows, k);
            let d = UnpackedDots { dots, weights: Packed::Ggml(blocks) };
            known += usize::from(is_same(&d, Place { row: 0, rows, k: 768, len }));
        }
    }
    assert_eq!(known, 7 * 4 + 6 * 2);
}

#[test]
fn codes_are_what_they_are_row_by_row() {
    let (mut known, shape) = (0, [16, 768 + 160]);
    let coded = [
        Coded { code: Code::Int4, block: [1, 32], second: Second::None },
        Coded { code: Code::E2m1, block: [1, 16], second: Second::None },
        Coded { code: Code::E2m1, block: [1, 32], second: Second::None },
        Coded { code: Code::Int8, block: [1, WHOLE], second: Second::None },
        Coded { code: Code::Signed8, block: [4, 64], second: Second::None },
        Coded { code: Code::Gptq, block: [1, 32], second: Second::ZerosLessOne },
        Coded { code: Code::Awq, block: [1, 32], second: Second::Zeros },
    ];
    for coded in coded {
        let of = |i: usize| random_bytes(coded.shapes(shape[0], shape[1])[i].map_or(0, |[a, b]| 2 * a * b));
        let (data, scales, second) = (of(0), of(1), of(2));
        let group = coded.group(shape[1]).expect("a group of whole numbers");
        for (first, step) in [(1, 1), (1, 2), (8, 1)] {
            let rows = Rows {
                coded,
                data: &data,
                scales: &scales,
                scale_type: DType::F16,
                second: &second,
                shape,
                first,
                step,
            };
            let d = UnpackedDots { dots: dots(data.as_ptr(), 0, 7, shape[1]), weights: Packed::Coded(rows, group) };
            known += usize::from(is_same(&d, Place { row: 0, rows: 7, k: 768, len: 160 }));
        }
    }
    // GPTQ with rows that are not neighbours, and AWQ whose rows begin within a word, are unpacked row by row.
    assert_eq!(known, 3 * 5 + 2 + 1);
}
