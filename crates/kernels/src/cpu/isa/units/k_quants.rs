//! The K types.

// Lines are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::blocks::Unit;
use super::ternary::{Crumbs, places};
use super::{
    arrange_lanes, dot, either, f16, load, low_bits, product, quarters, signed, small_pairs, starts, twice, two_fields,
    unsigned, upper,
};
use crate::quant::ggml::types::{Q2K, Q3K, Q4K, Q5K, Q6K};

/// Sixteen-bit shifts of both halves: of two neighbouring parts of 32 weights.
#[inline(always)]
unsafe fn by_halves(low: i16, high: i16) -> __m512i {
    // SAFETY: AVX-512.
    unsafe { _mm512_inserti64x4::<1>(_mm512_set1_epi16(low), _mm256_set1_epi16(high)) }
}

/// Rotations of both halves' eight bytes to the left.
#[inline(always)]
unsafe fn rotated(bytes: __m512i, low: i64, high: i64) -> __m512i {
    // SAFETY: AVX-512.
    unsafe {
        let by = _mm512_inserti64x4::<1>(_mm512_set1_epi64(low & 63), _mm256_set1_epi64x(high & 63));
        _mm512_rolv_epi64(bytes, by)
    }
}

/// Weights 64i.. of two bits, with those of other parts above them.
#[inline(always)]
unsafe fn crumbs(q: *const u8, i: usize) -> __m512i {
    // SAFETY: AVX-512, and 64 bytes at `q`.
    unsafe {
        let shifts = if i.is_multiple_of(2) { by_halves(0, 2) } else { by_halves(4, 6) };
        _mm512_srlv_epi16(twice(q.add(32 * (i / 2))), shifts)
    }
}

/// A group is a lane: of each half of 32 bytes, two of each two bits.
static Q2_CRUMBS: Crumbs = Crumbs::of([0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 1, 1, 2, 2, 3, 3]);
static Q2_WORDS: [u32; 16] = [0, 4, 0, 4, 0, 4, 0, 4, 8, 12, 8, 12, 8, 12, 8, 12];

impl Unit for Q2K {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn arrange(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { arrange_lanes::<4>(x) }
    }
    #[inline(always)]
    unsafe fn dots(w: *const u8, x: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let (q, mut sums) = (load(w.add(16)), _mm512_setzero_si512());
            for i in 0..4 {
                let words = _mm512_permutexvar_epi32(places(&Q2_WORDS, i), q);
                sums = dot(sums, Q2_CRUMBS.of_words(words), x, i);
            }
            Q2_CRUMBS.shifted(sums)
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe {
            let both = _mm512_cvtepu8_epi32(_mm_loadu_si128(w.cast()));
            // All multiples of d and dmin that there are: permutations see four bits of their places.
            let numbers = _mm512_cvtepi32_ps(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
            let (scales, mins) = (_mm512_mul_ps(f16(w.add(80)), numbers), _mm512_mul_ps(f16(w.add(82)), numbers));
            [_mm512_permutexvar_ps(both, scales), _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(both), mins)]
        }
    }
}

impl Unit for Q3K {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn dots(w: *const u8, x: *const u8) -> __m512i {
        // SAFETY: the caller's promise, here and below.
        unsafe {
            let (third, two) = (twice(w), _mm512_set1_epi8(3));
            let mut sums = [_mm512_setzero_si512(); 4];
            for i in 0..4 {
                // Bit 2i of the lower half's bytes goes to bit 2, and bit 2i + 1 of the upper's.
                let third = rotated(third, 2 - 2 * i as i64, 1 - 2 * i as i64);
                sums[i] = product(low_bits(either(crumbs(w.add(32), i), third, two), 3), x, i);
            }
            quarters::<14>(sums)
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe {
            let low = _mm_set1_epi64x(w.add(96).cast::<i64>().read_unaligned());
            let high = _mm_set1_epi64x(w.add(104).cast::<u32>().read_unaligned().into());
            let low = two_fields(starts([0, 32], 8), starts([4, 36], 8), low);
            // Two bits of each of four bytes, then the next two, moved to bits 4 and 5.
            let high = two_fields(starts([-4, -2], 8), starts([0, 2], 8), high);
            [_mm512_mul_ps(f16(w.add(108)), six_bits(low, high)), _mm512_setzero_ps()]
        }
    }
}

/// Scales of four lower bits and two upper ones, less 32.
#[inline(always)]
pub(super) unsafe fn six_bits(low: __m128i, high: __m128i) -> __m512 {
    // SAFETY: AVX-512.
    unsafe {
        let scales = _mm_ternarylogic_epi64::<0xe4>(low, high, _mm_set1_epi8(15));
        signed(_mm_sub_epi8(_mm_and_si128(scales, _mm_set1_epi8(63)), _mm_set1_epi8(32)))
    }
}

impl Unit for Q6K {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn dots(w: *const u8, x: *const u8) -> __m512i {
        // SAFETY: the caller's promise, here and below.
        unsafe {
            let four = _mm512_set1_epi8(15);
            let mut sums = [_mm512_setzero_si512(); 4];
            for half in 0..2 {
                let (low, high) = (load(w.add(64 * half)), twice(w.add(128 + 32 * half)));
                let first = either(low, _mm512_sllv_epi16(high, by_halves(4, 2)), four);
                let second = either(upper(low), _mm512_srlv_epi16(high, by_halves(0, 2)), four);
                sums[2 * half] = product(low_bits(first, 6), x, 2 * half);
                sums[2 * half + 1] = product(low_bits(second, 6), x, 2 * half + 1);
            }
            quarters::<15>(sums)
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe {
            let scales = signed(_mm_loadu_si128(w.add(192).cast()));
            [_mm512_mul_ps(f16(w.add(208)), scales), _mm512_setzero_ps()]
        }
    }
}

/// Of every 64 bytes of q's, the lower four bits are weights of the first and the third group of four, the upper those of the
/// second and the fourth.
#[inline(always)]
unsafe fn arrange_nibbles(x: *mut u8) {
    // SAFETY: AVX-512, and 512 bytes at `x`.
    unsafe {
        for i in 0..4 {
            let x = x.add(128 * i);
            let (first, second) = (load(x), load(x.add(64)));
            _mm512_storeu_si512(x.cast(), _mm512_shuffle_i64x2::<0x44>(first, second));
            _mm512_storeu_si512(x.add(64).cast(), _mm512_shuffle_i64x2::<0xee>(first, second));
        }
    }
}

/// A block's sums from those of its lower and upper q's, line by line: in each quarter, half of a group of each.
#[inline(always)]
unsafe fn of_block(low: [__m512i; 2], high: [__m512i; 2]) -> __m512i {
    // SAFETY: AVX-512.
    unsafe { small_pairs(small_pairs(low[0], high[0]), small_pairs(low[1], high[1])) }
}

/// The groups of two blocks in order.
#[inline(always)]
unsafe fn of_two_blocks(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: AVX-512.
    unsafe {
        let sums = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let order = _mm512_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
        _mm512_permutexvar_epi32(order, sums)
    }
}

/// Scales and mins of six bits of two blocks, the first sixteen bytes of which are the halves of `both`: a byte to each.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
pub(in crate::cpu::isa) unsafe fn packed_scales_and_mins(both: __m256i) -> [__m128i; 2] {
    // SAFETY: AVX2.
    unsafe {
        // Scales 0 to 3, 4 to 7, mins 0 to 3, 4 to 7: their lower bits, or all.
        let low = _mm256_shuffle_epi8(
            both,
            _mm256_broadcastsi128_si256(_mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15)),
        );
        let low = _mm256_srlv_epi32(low, _mm256_broadcastsi128_si256(_mm_setr_epi32(0, 0, 0, 4)));
        let low = _mm256_and_si256(
            low,
            _mm256_broadcastsi128_si256(_mm_setr_epi32(0x3f3f_3f3f, 0x0f0f_0f0f, 0x3f3f_3f3f, 0x0f0f_0f0f)),
        );
        let none = -1;
        let high = _mm_setr_epi8(none, none, none, none, 4, 5, 6, 7, none, none, none, none, 8, 9, 10, 11);
        let high = _mm256_srli_epi32::<2>(_mm256_shuffle_epi8(both, _mm256_broadcastsi128_si256(high)));
        let all = _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(0x30)));
        let all = _mm256_permute4x64_epi64::<0b11_01_10_00>(all);
        [_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all)]
    }
}

/// The same times d and dmin.
#[inline(always)]
unsafe fn scales_and_mins(a: *const u8, b: *const u8) -> [__m512; 2] {
    // SAFETY: AVX-512, and sixteen bytes at each address.
    unsafe {
        let both = _mm256_set_m128i(_mm_loadu_si128(b.cast()), _mm_loadu_si128(a.cast()));
        let [scales, mins] = packed_scales_and_mins(both);
        let d = _mm512_cvtph_ps(_mm256_shuffle_epi8(both, _mm256_set1_epi16(0x0100)));
        let dmin = _mm512_cvtph_ps(_mm256_shuffle_epi8(both, _mm256_set1_epi16(0x0302)));
        [_mm512_mul_ps(d, unsigned(scales)), _mm512_mul_ps(dmin, unsigned(mins))]
    }
}

impl Unit for Q4K {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn arrange(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { arrange_nibbles(x) }
    }
    #[inline(always)]
    unsafe fn dots(w: *const u8, x: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let mut blocks = [_mm512_setzero_si512(); 2];
            for b in 0..2 {
                let (mut low, mut high) = ([_mm512_setzero_si512(); 2], [_mm512_setzero_si512(); 2]);
                for i in 0..2 {
                    let q = load(w.add(144 * b + 16 + 64 * i));
                    low[i] = product(low_bits(q, 4), x, 4 * b + 2 * i);
                    high[i] = product(low_bits(upper(q), 4), x, 4 * b + 2 * i + 1);
                }
                blocks[b] = of_block(low, high);
            }
            of_two_blocks(blocks[0], blocks[1])
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe { scales_and_mins(w, w.add(144)) }
    }
}

impl Unit for Q5K {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn arrange(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { arrange_nibbles(x) }
    }
    #[inline(always)]
    unsafe fn dots(w: *const u8, x: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let four = _mm512_set1_epi8(15);
            let mut blocks = [_mm512_setzero_si512(); 2];
            for b in 0..2 {
                let fifth = twice(w.add(176 * b + 16));
                let (mut low, mut high) = ([_mm512_setzero_si512(); 2], [_mm512_setzero_si512(); 2]);
                for i in 0..2 {
                    let (q, group) = (load(w.add(176 * b + 48 + 64 * i)), 4 * i as i64);
                    // Bits of groups 4i and 4i + 2, then 4i + 1 and 4i + 3, go to bit 4.
                    let first = either(q, rotated(fifth, 4 - group, 2 - group), four);
                    let second = either(upper(q), rotated(fifth, 3 - group, 1 - group), four);
                    low[i] = product(low_bits(first, 5), x, 4 * b + 2 * i);
                    high[i] = product(low_bits(second, 5), x, 4 * b + 2 * i + 1);
                }
                blocks[b] = of_block(low, high);
            }
            of_two_blocks(blocks[0], blocks[1])
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe { scales_and_mins(w, w.add(176)) }
    }
}
