//! E4M3 with a lone row of f32 activations, widened in registers: the values, and the order in which an output adds its products,
//! are those of a row that is widened to f32 first.

// Vectors are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::load;
use crate::cpu::isa::Dots;
use crate::cpu::isa::affine::Ints;
use crate::cpu::isa::avx512::Avx512;
use crate::cpu::isa::tile::Lanes;
use crate::quant::coded::{Rows, WHOLE};

/// Weights that are widened at once.
const STEP: usize = 64;
/// Columns that share a scale at least.
const GROUP: usize = 32;
/// Rows at once: one chain of sums for each.
const ROWS: usize = 4;
/// Scales of a row that are looked up at once.
const SCALES: usize = 256;

/// Computes the product of rows of E4M3 with one row of f32 activations, or says that it cannot.
///
/// # Safety
/// The machine has AVX-512 with VBMI; the addresses hold what `Dots` says, but for the weights, which are the rows'.
#[inline(always)]
pub(in crate::cpu::isa) unsafe fn dots(d: &Dots, codes: &Rows) -> bool {
    let across = codes.coded.block[1];
    let fits =
        d.columns == 1 && d.k.is_multiple_of(STEP) && (across == WHOLE || (across as usize).is_multiple_of(GROUP));
    if fits {
        // SAFETY: the caller's promise.
        unsafe { rows(d, codes) };
    }
    fits
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
unsafe fn rows(d: &Dots, codes: &Rows) {
    let mut scales = [const { Scales::new() }; ROWS];
    let mut row = 0;
    // SAFETY: the caller's promise.
    unsafe {
        while row + ROWS <= d.rows {
            some_rows::<ROWS>(d, codes, row, &mut scales);
            row += ROWS;
        }
        while row < d.rows {
            some_rows::<1>(d, codes, row, &mut scales);
            row += 1;
        }
    }
}

/// A row's scales from some column on, one for each [`GROUP`]; those of the row of blocks that was asked for last.
struct Scales {
    of: [f32; SCALES],
    from: Option<(usize, usize)>,
}

impl Scales {
    const fn new() -> Self {
        Scales { of: [0.0; SCALES], from: None }
    }

    #[inline(always)]
    fn look_up(&mut self, codes: &Rows, row: usize, k: usize, len: usize) {
        let from = Some(((codes.first + codes.step * row) / codes.coded.block[0] as usize, k));
        if self.from != from {
            codes.blocks(row, k, len, |columns, scale, _| {
                self.of[columns.start / GROUP..columns.end.div_ceil(GROUP)].fill(scale);
            });
            self.from = from;
        }
    }
}

#[inline(always)]
unsafe fn some_rows<const R: usize>(d: &Dots, codes: &Rows, row: usize, scales: &mut [Scales; ROWS]) {
    // SAFETY: the caller's rows, each of whole steps, and as many activations.
    unsafe {
        let mut sums = [Avx512::zero(); R];
        let w = |i: usize| codes.data.as_ptr().wrapping_add((codes.first + codes.step * (row + i)) * codes.shape[1]);
        for k in (0..d.k).step_by(SCALES * GROUP) {
            let len = (SCALES * GROUP).min(d.k - k);
            for i in 0..R {
                scales[i].look_up(codes, row + i, k, len);
            }
            for at in (0..len).step_by(STEP) {
                let x = d.x.add(4 * (k + at));
                for i in 0..R {
                    let w = w(i).wrapping_add(k + at);
                    // Rows side by side are not foreseen: the next ones are asked for.
                    __m512i::prefetch(w.wrapping_add(R * codes.step * codes.shape[1]));
                    let values = widened(load(w));
                    for j in 0..4 {
                        let scale = Avx512::splat(scales[i].of[at / GROUP + j / 2]);
                        sums[i] = sums[i].fma(scale.mul(Avx512(values[j])), Avx512::load_f32(x.add(64 * j)));
                    }
                }
            }
        }
        let mut four = [Avx512::zero(); 4];
        four[..R].copy_from_slice(&sums);
        let totals = Avx512::sums(four);
        d.out.add(row).cast::<u8>().copy_from_nonoverlapping(totals.as_ptr().cast(), 4 * R);
    }
}

/// Sixty-four numbers as f32: their upper halves are looked up, and zeros put below them.
#[inline(always)]
unsafe fn widened(bytes: __m512i) -> [__m512; 4] {
    // SAFETY: AVX-512 with VBMI.
    unsafe {
        // Four bytes of each sixteen to each quarter, so that vectors are in order in the end.
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let bytes = _mm512_permutexvar_epi32(order, bytes);
        let (lower, upper) = (TABLES[0].as_ptr(), TABLES[1].as_ptr());
        let low = _mm512_permutex2var_epi8(load(lower), bytes, load(lower.add(64)));
        let high = _mm512_permutex2var_epi8(load(upper), bytes, load(upper.add(64)));
        // high | bytes & sign
        let high = _mm512_ternarylogic_epi64::<0xf8>(high, bytes, _mm512_set1_epi8(-128));
        let (first, second) = (_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high));
        let zero = _mm512_setzero_si512();
        [
            _mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, first)),
            _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, first)),
            _mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, second)),
            _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, second)),
        ]
    }
}

/// The lower and the upper bytes of all numbers without their signs, as bf16, which holds each of them.
static TABLES: [[u8; 128]; 2] = {
    let (mut tables, mut size) = ([[0; 128]; 2], 0);
    while size < 128 {
        let (exponent, mantissa) = (size as u16 >> 3, size as u16 & 7);
        let bf16 = match (exponent, mantissa) {
            (15, 7) => 0x7fc0,
            (0, 0) => 0,
            (0, _) => {
                // A multiple of 2^-9, from 1 to 7 of them.
                let power = mantissa.ilog2() as u16;
                (127 - 9 + power) << 7 | (mantissa << (7 - power)) & 0x7f
            }
            _ => (127 - 7 + exponent) << 7 | mantissa << 4,
        };
        tables[0][size] = bf16 as u8;
        tables[1][size] = (bf16 >> 8) as u8;
        size += 1;
    }
    tables
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::coded::e4m3;

    #[test]
    fn tables_hold_every_number() {
        for size in 0..128u8 {
            let bf16 = u16::from_le_bytes([TABLES[0][usize::from(size)], TABLES[1][usize::from(size)]]);
            assert_eq!(u32::from(bf16) << 16, e4m3(size).to_bits(), "{size:#x}");
        }
    }
}
