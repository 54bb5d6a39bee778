//! The K types.

// Parts are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::blocks::Unit;
use super::{Multiply, f16, halves, load, low_bits, product, two, upper, whole, wholes};
use crate::cpu::isa::avx2::{Avx2, Words};
use crate::cpu::isa::tile::Lanes;
use crate::cpu::isa::units::k_quants::packed_scales_and_mins;
use crate::quant::ggml::types::{Q2K, Q3K, Q4K, Q5K, Q6K};

/// Times a number in all lanes.
#[inline(always)]
unsafe fn times(of: Avx2, factor: __m256) -> Avx2 {
    // SAFETY: AVX2.
    unsafe { of.mul(Avx2(factor, factor)) }
}

/// Part `i` of two bits: in each half of 32 bytes, first the lowest.
#[inline(always)]
unsafe fn crumbs(q: &[__m256i; 2], i: usize) -> __m256i {
    // SAFETY: AVX2; what a constant says is what the compiler makes of it.
    unsafe {
        let q = q[i / 4];
        low_bits(
            match i % 4 {
                0 => q,
                1 => _mm256_srli_epi16::<2>(q),
                2 => _mm256_srli_epi16::<4>(q),
                _ => _mm256_srli_epi16::<6>(q),
            },
            2,
        )
    }
}

/// Bit `i` of each byte at bit `TO`, others beside it.
#[inline(always)]
unsafe fn bit_at<const TO: usize>(bytes: __m256i, i: usize) -> __m256i {
    // SAFETY: AVX2.
    unsafe {
        if i < TO {
            _mm256_sll_epi16(bytes, _mm_cvtsi32_si128((TO - i) as i32))
        } else {
            _mm256_srl_epi16(bytes, _mm_cvtsi32_si128((i - TO) as i32))
        }
    }
}

/// Adds one bit of each byte to others below it.
#[inline(always)]
unsafe fn with_bit<const TO: usize>(low: __m256i, bytes: __m256i, i: usize) -> __m256i {
    // SAFETY: AVX2.
    unsafe { _mm256_or_si256(low, _mm256_and_si256(bit_at::<TO>(bytes, i), _mm256_set1_epi8(1 << TO))) }
}

impl Unit for Q2K {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn dots<M: Multiply>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: the caller's promise, here and below.
        unsafe {
            let q = [load(w.add(16)), load(w.add(48))];
            let mut sums = [_mm256_setzero_si256(); 8];
            for i in 0..8 {
                sums[i] = product::<M>(crumbs(&q, i), x, i);
            }
            halves::<11>(sums)
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [Avx2; 2] {
        // SAFETY: as above.
        unsafe {
            let both = _mm_loadu_si128(w.cast());
            let (scales, mins) =
                (_mm_and_si128(both, _mm_set1_epi8(15)), _mm_and_si128(_mm_srli_epi16::<4>(both), _mm_set1_epi8(15)));
            [times(whole::<false>(scales), f16(w.add(80))), times(whole::<false>(mins), f16(w.add(82)))]
        }
    }
}

impl Unit for Q3K {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn dots<M: Multiply>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: the caller's promise, here and below.
        unsafe {
            let (third, q) = (load(w), [load(w.add(32)), load(w.add(64))]);
            let mut sums = [_mm256_setzero_si256(); 8];
            for i in 0..8 {
                sums[i] = product::<M>(with_bit::<2>(crumbs(&q, i), third, i), x, i);
            }
            halves::<12>(sums)
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [Avx2; 2] {
        // SAFETY: as above.
        unsafe {
            let low = _mm_loadl_epi64(w.add(96).cast());
            let low = _mm_and_si128(_mm_unpacklo_epi64(low, _mm_srli_epi16::<4>(low)), _mm_set1_epi8(15));
            // Two bits of each of four bytes, then the next two.
            let high = _mm_set1_epi32(w.add(104).cast::<i32>().read_unaligned());
            let high = _mm_and_si128(_mm_srlv_epi32(high, _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3));
            let scales = _mm_sub_epi8(_mm_or_si128(low, _mm_slli_epi16::<4>(high)), _mm_set1_epi8(32));
            super::only(times(whole::<true>(scales), f16(w.add(108))))
        }
    }
}

impl Unit for Q6K {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn dots<M: Multiply>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: the caller's promise, here and below.
        unsafe {
            let two_bits = _mm256_set1_epi8(0x30);
            let mut sums = [_mm256_setzero_si256(); 8];
            for half in 0..2 {
                let low = [load(w.add(64 * half)), load(w.add(64 * half + 32))];
                let high = load(w.add(128 + 32 * half));
                let high =
                    [_mm256_slli_epi16::<4>(high), _mm256_slli_epi16::<2>(high), high, _mm256_srli_epi16::<2>(high)];
                for part in 0..4 {
                    let q = low[part % 2];
                    let q = if part < 2 { low_bits(q, 4) } else { upper(q) };
                    let q = _mm256_or_si256(q, _mm256_and_si256(high[part], two_bits));
                    sums[4 * half + part] = product::<M>(q, x, 4 * half + part);
                }
            }
            halves::<15>(sums)
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [Avx2; 2] {
        // SAFETY: as above.
        unsafe {
            let scales = whole::<true>(_mm_loadu_si128(w.add(192).cast()));
            super::only(times(scales, f16(w.add(208))))
        }
    }
}

/// The scales and mins of two blocks, times d and dmin.
#[inline(always)]
unsafe fn scales_and_mins(a: *const u8, b: *const u8) -> [Avx2; 2] {
    // SAFETY: AVX2 with F16C, and sixteen bytes at each address.
    unsafe {
        let [scales, mins] = packed_scales_and_mins(two(a, b));
        let (d, dmin) = (Avx2(f16(a), f16(b)), Avx2(f16(a.add(2)), f16(b.add(2))));
        [whole::<false>(scales).mul(d), whole::<false>(mins).mul(dmin)]
    }
}

impl Unit for Q4K {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn dots<M: Multiply>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: the caller's promise, here and below.
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); 8]; 2];
            for b in 0..2 {
                for i in 0..4 {
                    let q = load(w.add(144 * b + 16 + 32 * i));
                    sums[b][2 * i] = product::<M>(low_bits(q, 4), x, 8 * b + 2 * i);
                    sums[b][2 * i + 1] = product::<M>(upper(q), x, 8 * b + 2 * i + 1);
                }
            }
            Words(wholes::<13>(sums[0]), wholes::<13>(sums[1]))
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [Avx2; 2] {
        // SAFETY: as above.
        unsafe { scales_and_mins(w, w.add(144)) }
    }
}

impl Unit for Q5K {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn dots<M: Multiply>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: the caller's promise, here and below.
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); 8]; 2];
            for b in 0..2 {
                let fifth = load(w.add(176 * b + 16));
                for i in 0..4 {
                    let q = load(w.add(176 * b + 48 + 32 * i));
                    let (low, high) =
                        (with_bit::<4>(low_bits(q, 4), fifth, 2 * i), with_bit::<4>(upper(q), fifth, 2 * i + 1));
                    sums[b][2 * i] = product::<M>(low, x, 8 * b + 2 * i);
                    sums[b][2 * i + 1] = product::<M>(high, x, 8 * b + 2 * i + 1);
                }
            }
            Words(wholes::<14>(sums[0]), wholes::<14>(sums[1]))
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [Avx2; 2] {
        // SAFETY: as above.
        unsafe { scales_and_mins(w, w.add(176)) }
    }
}
