//! AVX2 with FMA and F16C: sixteen lanes in two vectors.

use std::arch::x86_64::*;

use super::tile::{Lanes, kernels_of};

/// Two vectors side by side: two chains of multiply-adds for an output, so that a single row is read as fast as the
/// memory gives it.
#[derive(Clone, Copy)]
struct Avx2(__m256, __m256);

impl Lanes for Avx2 {
    const N: usize = 16;
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller has AVX2, here and below.
        unsafe { Self::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: AVX2.
        unsafe { Avx2(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const u8) -> Self {
        // SAFETY: AVX2, and sixteen f32 there.
        unsafe { Avx2(_mm256_loadu_ps(from.cast()), _mm256_loadu_ps(from.add(32).cast())) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: F16C, and sixteen f16 there.
        unsafe {
            let (low, high) = (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(16).cast()));
            Avx2(_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: AVX2, and sixteen bf16 there.
        unsafe {
            let (low, high) = (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(16).cast()));
            Avx2(widen_bf16(low), widen_bf16(high))
        }
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut u8) {
        // SAFETY: AVX2, and room for sixteen f32 there.
        unsafe {
            _mm256_storeu_ps(to.cast(), self.0);
            _mm256_storeu_ps(to.add(32).cast(), self.1);
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u8) {
        // SAFETY: F16C, and room for sixteen f16 there.
        unsafe {
            _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0));
            _mm_storeu_si128(to.add(16).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.1));
        }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: FMA.
        unsafe { Avx2(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
    }
    #[inline(always)]
    unsafe fn sums([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        // SAFETY: AVX2.
        unsafe {
            sums_of_four([
                _mm256_add_ps(a.0, a.1),
                _mm256_add_ps(b.0, b.1),
                _mm256_add_ps(c.0, c.1),
                _mm256_add_ps(d.0, d.1),
            ])
        }
    }
}

/// Eight bf16 as f32.
#[inline(always)]
unsafe fn widen_bf16(bits: __m128i) -> __m256 {
    // SAFETY: AVX2.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits))) }
}

/// The sums of four vectors: neighbours, pairs of neighbours, and the upper half onto the lower.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
pub(super) unsafe fn sums_of_four([a, b, c, d]: [__m256; 4]) -> [f32; 4] {
    // SAFETY: AVX2; the array has room for four f32.
    unsafe {
        let ab = _mm256_hadd_ps(a, b);
        let cd = _mm256_hadd_ps(c, d);
        let abcd = _mm256_hadd_ps(ab, cd);
        let sum = _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps::<1>(abcd));
        let mut sums = [0f32; 4];
        _mm_storeu_ps(sums.as_mut_ptr(), sum);
        sums
    }
}

// 2 × 3 pairs of accumulators and a pair of weights; activations come from memory.
kernels_of!(Avx2, dots: 2 by 3, by_one: 1, mix: 1, "avx2,fma,f16c");
