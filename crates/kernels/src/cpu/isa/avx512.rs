//! AVX-512: sixteen lanes, and with AVX512-BF16 products of bfloat16 pairs.

use std::arch::x86_64::*;

use super::avx2::sums_of_four;
use super::tile::{self, Lanes, Product, kernels_of};
use super::{Bf16Kernels, Dots, Kernels};

#[derive(Clone, Copy)]
struct Avx512(__m512);

impl Lanes for Avx512 {
    const N: usize = 16;
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller has AVX-512, here and below.
        Avx512(unsafe { _mm512_setzero_ps() })
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: AVX-512.
        Avx512(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const u8) -> Self {
        // SAFETY: AVX-512, and sixteen f32 there.
        Avx512(unsafe { _mm512_loadu_ps(from.cast()) })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: AVX-512, and sixteen f16 there.
        Avx512(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: AVX-512, and sixteen bf16 there.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut u8) {
        // SAFETY: AVX-512, and room for sixteen f32 there.
        unsafe { _mm512_storeu_ps(to.cast(), self.0) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u8) {
        // SAFETY: AVX-512, and room for sixteen f16 there.
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: AVX-512.
        Avx512(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }
    #[inline(always)]
    unsafe fn sums(four: [Self; 4]) -> [f32; 4] {
        // SAFETY: AVX-512.
        unsafe { sums_of_four([halves(four[0].0), halves(four[1].0), halves(four[2].0), halves(four[3].0)]) }
    }
}

/// The upper half added to the lower.
#[inline(always)]
unsafe fn halves(v: __m512) -> __m256 {
    // SAFETY: AVX-512.
    unsafe { _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v)) }
}

/// Weights and activations of bf16: `vdpbf16ps` multiplies 32 pairs and adds two products to each lane. It takes
/// subnormal numbers for zero, as does the rounding of the activations.
#[derive(Clone, Copy)]
struct Pairs;

impl Product for Pairs {
    const STEP: usize = 32;
    const W_BYTES: usize = 2;
    const X_BYTES: usize = 2;
    type Sum = Avx512;
    type W = __m512bh;
    type X = __m512bh;
    #[inline(always)]
    unsafe fn w(from: *const u8) -> __m512bh {
        // SAFETY: AVX-512, and 32 bf16 there.
        unsafe { std::mem::transmute(_mm512_loadu_si512(from.cast())) }
    }
    #[inline(always)]
    unsafe fn x(from: *const u8) -> __m512bh {
        // SAFETY: as above.
        unsafe { Self::w(from) }
    }
    #[inline(always)]
    unsafe fn add(sum: Avx512, w: __m512bh, x: __m512bh) -> Avx512 {
        // SAFETY: AVX512-BF16.
        Avx512(unsafe { _mm512_dpbf16_ps(sum.0, w, x) })
    }
}

// 4 × 6 accumulators, six activations and a weight fill 31 of the 32 registers.
kernels_of!(Avx512, dots: 4 by 6, by_one: 1, mix: 4, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c");

/// The same, with products of bf16 pairs.
pub(super) fn with_bf16() -> Kernels {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
    unsafe fn dots(d: &Dots) {
        // SAFETY: the caller's promise.
        unsafe { tile::dots::<Pairs, 4, 6, 1>(d) }
    }
    Kernels { bf16: Some(Bf16Kernels { dots, round }), ..kernels() }
}

/// Rounds `n` f32 to bf16, to nearest even.
///
/// # Safety
/// The machine has AVX512-BF16, and the addresses hold `n` elements.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
unsafe fn round(from: *const u8, to: *mut u8, n: usize) {
    let whole = n - n % 16;
    // SAFETY: whole vectors are inside both ranges; the rest goes through padded copies.
    unsafe {
        for i in (0..whole).step_by(16) {
            round_vector(from.add(4 * i), to.add(2 * i));
        }
        if whole < n {
            let mut rounded = [0u8; 32];
            round_vector(tile::padded(from.add(4 * whole), 4 * (n - whole)).as_ptr(), rounded.as_mut_ptr());
            std::ptr::copy_nonoverlapping(rounded.as_ptr(), to.add(2 * whole), 2 * (n - whole));
        }
    }
}

#[inline(always)]
unsafe fn round_vector(from: *const u8, to: *mut u8) {
    // SAFETY: AVX512-BF16, sixteen f32 to read and room for sixteen bf16: the caller's promise.
    unsafe {
        let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(from.cast()));
        _mm256_storeu_si256(to.cast(), std::mem::transmute::<__m256bh, __m256i>(rounded));
    }
}
