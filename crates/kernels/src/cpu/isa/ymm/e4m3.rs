//! E4M3 with a lone row of f32 activations: see [`e4m3_rows`].

// Vectors are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use crate::cpu::isa::Dots;
use crate::cpu::isa::avx2::Avx2;
use crate::cpu::isa::e4m3_rows::{self, Widen};
use crate::cpu::isa::tile::Lanes;
use crate::quant::coded::Rows;

/// Computes the product of rows of E4M3 with one row of f32 activations, or says that it cannot.
///
/// # Safety
/// The machine has AVX2, FMA and F16C; the addresses hold what `Dots` says, but for the weights, which are the rows'.
#[inline(always)]
pub(in crate::cpu::isa) unsafe fn dots(d: &Dots, codes: &Rows) -> bool {
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn rows(d: &Dots, codes: &Rows) {
        // SAFETY: the caller's promise, here and below.
        unsafe { e4m3_rows::rows::<ByHalves>(d, codes) }
    }
    let fits = e4m3_rows::fit(d, codes);
    if fits {
        // SAFETY: as above.
        unsafe { rows(d, codes) };
    }
    fits
}

/// As binary16, whose exponents are greater by 8: exactly, subnormal numbers too.
struct ByHalves;

impl Widen for ByHalves {
    type L = Avx2;
    const FACTOR: f32 = 256.0;
    #[inline(always)]
    unsafe fn add(mut sum: Avx2, w: *const u8, x: *const u8, scales: [f32; 2]) -> Avx2 {
        // SAFETY: as above, and as many activations.
        unsafe {
            for i in 0..4 {
                let wide = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(_mm_loadu_si128(w.add(16 * i).cast())));
                // The sign is in the two upper bits.
                let halves = _mm256_and_si256(wide, _mm256_set1_epi16(0xbf80_u16.cast_signed()));
                let size = _mm256_and_si256(wide, _mm256_set1_epi16(0x3f80));
                let nan = _mm256_cmpgt_epi16(size, _mm256_set1_epi16(0x3f00));
                let halves = _mm256_or_si256(halves, nan);
                let values = Avx2(
                    _mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
                    _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves)),
                );
                sum = sum.fma(Avx2::splat(scales[i / 2]).mul(values), Avx2::load_f32(x.add(64 * i)));
            }
            sum
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::coded::e4m3;

    #[test]
    fn every_number_is_widened_exactly() {
        if !std::arch::is_x86_feature_detected!("avx2") || !std::arch::is_x86_feature_detected!("f16c") {
            return;
        }
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn widened(w: &[u8; 64], lane: usize) -> f32 {
            let mut x = [0.0f32; 64];
            x[lane] = 1.0;
            let mut out = [0f32; 16];
            // SAFETY: 64 of each.
            unsafe {
                let sum = ByHalves::add(Avx2::zero(), w.as_ptr(), x.as_ptr().cast(), [ByHalves::FACTOR; 2]);
                sum.store_f32(out.as_mut_ptr().cast());
            }
            out[lane % 16]
        }
        for byte in 0..=255u8 {
            let w = [byte; 64];
            for lane in [0, 17, 40, 63] {
                // SAFETY: the machine was asked.
                let (found, expected) = (unsafe { widened(&w, lane) }, e4m3(byte));
                assert!(found == expected || found.is_nan() && expected.is_nan(), "{byte:#x}: {found}");
            }
        }
    }
}
