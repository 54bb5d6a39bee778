//! TQ1_0 and TQ2_0.

// Parts are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::blocks::Unit;
use super::{Multiply, f16, load, low_bits, only, product, wholes};
use crate::cpu::isa::avx2::{Avx2, Words};
use crate::quant::ggml::types::{Tq1_0, Tq2_0};

impl Unit for Tq2_0 {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn dots<M: Multiply>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: the caller's promise, here and below.
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); 8]; 2];
            for b in 0..2 {
                for half in 0..2 {
                    let q = load(w.add(66 * b + 32 * half));
                    let parts = [q, _mm256_srli_epi16::<2>(q), _mm256_srli_epi16::<4>(q), _mm256_srli_epi16::<6>(q)];
                    for part in 0..4 {
                        let group = 4 * half + part;
                        sums[b][group] = product::<M>(low_bits(parts[part], 2), x, 8 * b + group);
                    }
                }
            }
            Words(wholes::<11>(sums[0]), wholes::<11>(sums[1]))
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [Avx2; 2] {
        // SAFETY: as above.
        unsafe { only(Avx2(f16(w.add(64)), f16(w.add(66 + 64)))) }
    }
}

/// The highest ternary digit of bytes that are less by 128 than the digits as a fraction of 256.
#[inline(always)]
unsafe fn digit(less: __m256i) -> __m256i {
    // SAFETY: AVX2.
    unsafe {
        let one = _mm256_cmpgt_epi8(less, _mm256_set1_epi8((85 - 128_i32) as i8));
        let two = _mm256_cmpgt_epi8(less, _mm256_set1_epi8((170 - 128_i32) as i8));
        _mm256_sub_epi8(_mm256_sub_epi8(_mm256_setzero_si256(), one), two)
    }
}

/// Times three: the next digit is the highest. What is less by 128 stays so, for three times 128 is 128 and 256.
#[inline(always)]
unsafe fn next(less: __m256i) -> __m256i {
    // SAFETY: AVX2.
    unsafe { _mm256_add_epi8(_mm256_add_epi8(less, less), less) }
}

#[inline(always)]
unsafe fn next_of_half(less: __m128i) -> __m128i {
    // SAFETY: AVX2.
    unsafe { _mm_add_epi8(_mm_add_epi8(less, less), less) }
}

/// The digits of a block's groups: five of 32 bytes are a group each; of sixteen bytes two digits are one, but for the fifth,
/// behind which are four of each of the last four bytes.
#[inline(always)]
unsafe fn digits(w: *const u8) -> [__m256i; 8] {
    // SAFETY: AVX2, and the block at `w`.
    unsafe {
        let mut groups = [_mm256_setzero_si256(); 8];
        let mut first = _mm256_xor_si256(load(w), _mm256_set1_epi8(-128));
        for group in 0..5 {
            groups[group] = digit(first);
            first = next(first);
        }
        let half = _mm_xor_si128(_mm_loadu_si128(w.add(32).cast()), _mm_set1_epi8(-128));
        let fifth = next(next(_mm256_set_m128i(next_of_half(half), half)));
        groups[5] = digit(_mm256_set_m128i(next_of_half(half), half));
        groups[6] = digit(fifth);
        let last = _mm_xor_si128(_mm_set1_epi32(w.add(48).cast::<i32>().read_unaligned()), _mm_set1_epi8(-128));
        let second = next_of_half(last);
        let third = next_of_half(second);
        let low = _mm_blend_epi32::<0b0010>(last, second);
        let high = _mm_blend_epi32::<0b1000>(third, next_of_half(third));
        let last = _mm_blend_epi32::<0b1100>(low, high);
        groups[7] = digit(_mm256_set_m128i(last, _mm256_castsi256_si128(next(next(fifth)))));
        groups
    }
}

/// The sums of a block's groups.
#[inline(always)]
unsafe fn tq1_0<M: Multiply>(w: *const u8, x: *const u8) -> __m256i {
    // SAFETY: the instructions, the block at `w` and its activations at `x`.
    unsafe {
        let mut sums = digits(w);
        for group in 0..8 {
            sums[group] = product::<M>(sums[group], x, group);
        }
        wholes::<11>(sums)
    }
}

impl Unit for Tq1_0 {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn dots<M: Multiply>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: the caller's promise, here and below.
        unsafe { Words(tq1_0::<M>(w, x), tq1_0::<M>(w.add(54), x.add(256))) }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [Avx2; 2] {
        // SAFETY: as above.
        unsafe { only(Avx2(f16(w.add(52)), f16(w.add(54 + 52)))) }
    }
}
