//! E4M3 with a lone row of f32 activations: see [`e4m3_rows`].

// Vectors are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::load;
use crate::cpu::isa::Dots;
use crate::cpu::isa::avx512::Avx512;
use crate::cpu::isa::e4m3_rows::{self, Widen};
use crate::cpu::isa::tile::Lanes;
use crate::quant::coded::Rows;

/// Computes the product of rows of E4M3 with one row of f32 activations, or says that it cannot.
///
/// # Safety
/// The machine has AVX-512 with VBMI; the addresses hold what `Dots` says, but for the weights, which are the rows'.
#[inline(always)]
pub(in crate::cpu::isa) unsafe fn dots(d: &Dots, codes: &Rows) -> bool {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
    unsafe fn rows(d: &Dots, codes: &Rows) {
        // SAFETY: the caller's promise, here and below.
        unsafe { e4m3_rows::rows::<ByTables>(d, codes) }
    }
    let fits = e4m3_rows::fit(d, codes);
    if fits {
        // SAFETY: as above.
        unsafe { rows(d, codes) };
    }
    fits
}

/// By tables of their upper halves.
struct ByTables;

impl Widen for ByTables {
    type L = Avx512;
    const FACTOR: f32 = 1.0;
    #[inline(always)]
    unsafe fn add(mut sum: Avx512, w: *const u8, x: *const u8, scales: [f32; 2]) -> Avx512 {
        // SAFETY: the caller's promise.
        unsafe {
            let values = widened(load(w));
            for j in 0..4 {
                sum = sum.fma(Avx512::splat(scales[j / 2]).mul(Avx512(values[j])), Avx512::load_f32(x.add(64 * j)));
            }
            sum
        }
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
