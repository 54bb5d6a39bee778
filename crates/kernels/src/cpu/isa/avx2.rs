//! AVX2 with FMA and F16C: sixteen lanes in two vectors.

use std::arch::x86_64::*;

use super::affine::{Bytes, Ints};
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
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: AVX2.
        unsafe { Avx2(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
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

/// Sixteen integers in two vectors.
#[derive(Clone, Copy)]
struct Words(__m256i, __m256i);

impl Ints for Words {
    type F = Avx2;
    const WORDS: usize = 8;
    #[inline(always)]
    unsafe fn splat(value: i32) -> Self {
        // SAFETY: the caller has AVX2, here and below.
        unsafe { Words(_mm256_set1_epi32(value), _mm256_set1_epi32(value)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: AVX2, and sixteen integers there.
        unsafe { Words(_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: AVX2, and room for sixteen integers there.
        unsafe {
            _mm256_storeu_si256(to.cast(), self.0);
            _mm256_storeu_si256(to.add(32).cast(), self.1);
        }
    }
    #[inline(always)]
    unsafe fn and(self, other: Self) -> Self {
        // SAFETY: AVX2.
        unsafe { Words(_mm256_and_si256(self.0, other.0), _mm256_and_si256(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        // SAFETY: AVX2.
        unsafe { Words(_mm256_or_si256(self.0, other.0), _mm256_or_si256(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn shl(self, bits: u32) -> Self {
        // SAFETY: AVX2.
        unsafe {
            let bits = _mm256_set1_epi32(bits as i32);
            Words(_mm256_sllv_epi32(self.0, bits), _mm256_sllv_epi32(self.1, bits))
        }
    }
    #[inline(always)]
    unsafe fn shr(self, bits: u32) -> Self {
        // SAFETY: AVX2.
        unsafe {
            let bits = _mm256_set1_epi32(bits as i32);
            Words(_mm256_srlv_epi32(self.0, bits), _mm256_srlv_epi32(self.1, bits))
        }
    }
    #[inline(always)]
    unsafe fn to_f32(self) -> Avx2 {
        // SAFETY: AVX2.
        unsafe { Avx2(_mm256_cvtepi32_ps(self.0), _mm256_cvtepi32_ps(self.1)) }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: a hint, which never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn transposed(rows: &[*const u8; 16], words: usize) -> [Self; 16] {
        // SAFETY: as many words at each address, the caller's promise.
        unsafe {
            let (low, high) = (transposed(&rows[..8], words), transposed(&rows[8..], words));
            let mut columns = [Words::splat(0); 16];
            for i in 0..8 {
                columns[i] = Words(low[i], high[i]);
            }
            columns
        }
    }
}

/// Up to eight words of each of eight rows: vector i holds the i-th of each.
#[inline(always)]
unsafe fn transposed(rows: &[*const u8], words: usize) -> [__m256i; 8] {
    // SAFETY: AVX2; where there are fewer words than 8, the others are masked and not read.
    unsafe {
        let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(words as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        let (a, b) = (of_four(&rows[..4], mask), of_four(&rows[4..], mask));
        let mut columns = [_mm256_setzero_si256(); 8];
        for i in 0..4 {
            columns[i] = _mm256_permute2x128_si256::<0x20>(a[i], b[i]);
            columns[4 + i] = _mm256_permute2x128_si256::<0x31>(a[i], b[i]);
        }
        columns
    }
}

/// Four rows' words that the mask selects: their words 4i + j lie in half i of vector j.
#[inline(always)]
unsafe fn of_four(rows: &[*const u8], mask: __m256i) -> [__m256i; 4] {
    // SAFETY: AVX2, and the words of the mask at each address.
    unsafe {
        let a = _mm256_maskload_epi32(rows[0].cast(), mask);
        let b = _mm256_maskload_epi32(rows[1].cast(), mask);
        let c = _mm256_maskload_epi32(rows[2].cast(), mask);
        let d = _mm256_maskload_epi32(rows[3].cast(), mask);
        let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab, cd),
            _mm256_unpackhi_epi64(ab, cd),
            _mm256_unpacklo_epi64(ab_high, cd_high),
            _mm256_unpackhi_epi64(ab_high, cd_high),
        ]
    }
}

/// `vpmaddubsw` adds pairs in 16 bits. They hold 2 · 63 · 127, and also 2 · 128 · 127: eight bits are multiplied in two
/// parts, the uppermost and the others.
struct InPairs;

impl Bytes for InPairs {
    type I = Words;
    #[inline(always)]
    unsafe fn dot<const EIGHT: bool>(sum: Words, w: Words, x: *const u8) -> Words {
        // SAFETY: AVX2, and four bytes at `x`.
        unsafe {
            let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
            Words(add_dot::<EIGHT>(sum.0, w.0, x), add_dot::<EIGHT>(sum.1, w.1, x))
        }
    }
}

#[inline(always)]
unsafe fn add_dot<const EIGHT: bool>(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: AVX2.
    unsafe {
        let (top, one) = (_mm256_set1_epi8(-128), _mm256_set1_epi16(1));
        let lower = if EIGHT { _mm256_andnot_si256(top, w) } else { w };
        let sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(lower, x), one));
        if EIGHT {
            let upper = _mm256_maddubs_epi16(_mm256_and_si256(w, top), x);
            _mm256_add_epi32(sum, _mm256_madd_epi16(upper, one))
        } else {
            sum
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
kernels_of!(Avx2, dots: 2 by 3, by_one: 1, mix: 1, affine: InPairs, 2, 2, "avx2,fma,f16c");
