//! Products of ggml's blocks and of codes with a lone activation row, where AVX-512 with VNNI and VBMI multiplies them as they
//! lie: sixteen groups at once, a unit, are unpacked in registers, in whatever order costs least, and the activations are put
//! into the same order beforehand.
//!
//! What a group adds, and in which order, is as `unpacked` describes: the same integers, the same scales and biases, the same bits.
//! Everything here is inlined into functions that enable the instructions.

mod blocks;
mod codebooks;
mod codes;
pub(super) mod e4m3;
pub(super) mod k_quants;
mod looked_up;
mod ternary;
mod transposed;

use std::arch::asm;
use std::arch::x86_64::*;

use super::affine::Ints;
use super::unit_rows::{self, GROUPS, Source};
use super::{Dots, Packed, UnpackedDots};
use crate::quant::ggml::of_type;

/// Computes a product with one activation row, or says that it cannot.
///
/// # Safety
/// The machine has AVX-512 with VNNI and VBMI, and the addresses hold what `UnpackedDots` says.
#[inline(always)]
pub(super) unsafe fn dots(d: &UnpackedDots) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        match d.weights {
            Packed::Ggml(format) => of_type!(format => of_blocks [] (&d.dots)),
            Packed::Coded(rows, group) => codes::dots(&d.dots, rows, group),
        }
    }
}

#[inline(always)]
unsafe fn of_blocks<T: blocks::Unit>(d: &Dots) -> bool {
    let fits = T::KNOWN && d.k >= GROUPS * T::GROUP;
    if fits {
        // SAFETY: the caller's promise.
        unsafe { T::multiply(d) };
    }
    fits
}

/// Runs [`unit_rows::rows`] with the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
unsafe fn rows<S: Source<I = __m512i>>(d: &Dots, source: S) {
    // SAFETY: the caller's promise.
    unsafe { unit_rows::rows(d, source) }
}

#[inline(always)]
unsafe fn load(from: *const u8) -> __m512i {
    // SAFETY: AVX-512, and 64 bytes there.
    unsafe { _mm512_loadu_si512(from.cast()) }
}

/// Four lines of weights, read in ascending order: from it processors foresee what is read next, and compilers keep to none. Read
/// from the last to the first, int8 took three times as long from memory, and as long as this from a cache.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn four_lines(w: *const u8) -> [__m512i; 4] {
    let (a, b, c, d): (__m512i, __m512i, __m512i, __m512i);
    // SAFETY: AVX-512, and 256 bytes there.
    unsafe {
        asm!(
            "vmovdqu64 {a}, [{w}]",
            "vmovdqu64 {b}, [{w} + 64]",
            "vmovdqu64 {c}, [{w} + 128]",
            "vmovdqu64 {d}, [{w} + 192]",
            w = in(reg) w,
            a = out(zmm_reg) a,
            b = out(zmm_reg) b,
            c = out(zmm_reg) c,
            d = out(zmm_reg) d,
            options(nostack, preserves_flags, readonly),
        );
    }
    [a, b, c, d]
}

/// 32 bytes in both halves.
#[inline(always)]
unsafe fn twice(from: *const u8) -> __m512i {
    // SAFETY: AVX-512, and 32 bytes there.
    unsafe { _mm512_broadcast_i64x4(_mm256_loadu_si256(from.cast())) }
}

/// Adds the products of bytes, by fours, with the activations of vector `i`.
#[inline(always)]
unsafe fn dot(sum: __m512i, w: __m512i, x: *const u8, i: usize) -> __m512i {
    // SAFETY: AVX512-VNNI, and as many activations there.
    unsafe { _mm512_dpbusd_epi32(sum, w, load(x.add(64 * i))) }
}

/// The products of bytes with the activations of vector `i`.
#[inline(always)]
unsafe fn product(w: __m512i, x: *const u8, i: usize) -> __m512i {
    // SAFETY: as above.
    unsafe { dot(_mm512_setzero_si512(), w, x, i) }
}

/// The bits of `a` where `mask` has them, and those of `b` elsewhere.
#[inline(always)]
unsafe fn either(a: __m512i, b: __m512i, mask: __m512i) -> __m512i {
    // SAFETY: AVX-512.
    unsafe { _mm512_ternarylogic_epi64::<0xe4>(a, b, mask) }
}

/// The upper four bits of each byte; those above them are the next byte's.
#[inline(always)]
unsafe fn upper(bytes: __m512i) -> __m512i {
    // SAFETY: AVX-512.
    unsafe { _mm512_srli_epi16::<4>(bytes) }
}

#[inline(always)]
unsafe fn low_bits(bytes: __m512i, count: u32) -> __m512i {
    // SAFETY: AVX-512.
    unsafe { _mm512_and_si512(bytes, _mm512_set1_epi8(((1u32 << count) - 1) as i8)) }
}

/// The bytes of a table of 64 at the places that the lower six bits of each byte say.
#[inline(always)]
unsafe fn look_up(places: __m512i, table: &[u8; 64]) -> __m512i {
    // SAFETY: AVX512-VBMI.
    unsafe { _mm512_permutexvar_epi8(places, load(table.as_ptr())) }
}

/// A table of 16 four times, so that the upper bits of a place say nothing.
const fn four_times(table: [u8; 16]) -> [u8; 64] {
    let (mut four, mut i) = ([0; 64], 0);
    while i < 64 {
        four[i] = table[i % 16];
        i += 1;
    }
    four
}

/// Four bytes of each group of `4 · DWORDS` activations to a lane: vector i has the i-th four.
#[inline(always)]
unsafe fn arrange_lanes<const DWORDS: usize>(x: *mut u8) {
    // SAFETY: AVX-512, and sixteen groups at `x`.
    unsafe {
        let rows = std::array::from_fn(|group| x.cast_const().wrapping_add(4 * DWORDS * group));
        let columns = <__m512i as Ints>::transposed(&rows, DWORDS);
        for (i, column) in columns[..DWORDS].iter().enumerate() {
            _mm512_storeu_si512(x.add(64 * i).cast(), *column);
        }
    }
}

/// Puts lane `4j + i` to place `4i + j`.
#[inline(always)]
unsafe fn across(v: __m512i) -> __m512i {
    // SAFETY: AVX-512.
    unsafe {
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm512_permutexvar_epi32(order, v)
    }
}

/// Adds pairs of integers of both vectors, of 16 bits at most: in each quarter, those of the first, then those of the second.
#[inline(always)]
unsafe fn small_pairs(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: AVX-512.
    unsafe { _mm512_madd_epi16(_mm512_packs_epi32(a, b), _mm512_set1_epi16(1)) }
}

/// The same of integers of any size.
#[inline(always)]
unsafe fn pairs(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: AVX-512.
    unsafe {
        let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
        let (even, odd) = (_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xdd>(a, b));
        _mm512_add_epi32(_mm512_castps_si512(even), _mm512_castps_si512(odd))
    }
}

/// The sums of the quarters of four vectors, of integers of `BITS` bits and a sign at most, one vector's behind the other's.
#[inline(always)]
unsafe fn quarters<const BITS: u32>([a, b, c, d]: [__m512i; 4]) -> __m512i {
    // SAFETY: AVX-512.
    unsafe {
        across(match BITS {
            ..15 => small_pairs(small_pairs(a, b), small_pairs(c, d)),
            15 => pairs(small_pairs(a, b), small_pairs(c, d)),
            _ => pairs(pairs(a, b), pairs(c, d)),
        })
    }
}

/// The sums of the halves of eight vectors, of integers of any size, one vector's behind the other's.
#[inline(always)]
unsafe fn halves([a, b, c, d, e, f, g, h]: [__m512i; 8]) -> __m512i {
    // SAFETY: AVX-512.
    unsafe {
        let (first, second) = (pairs(pairs(a, b), pairs(c, d)), pairs(pairs(e, f), pairs(g, h)));
        let (even, odd) = (_mm512_shuffle_i32x4::<0x88>(first, second), _mm512_shuffle_i32x4::<0xdd>(first, second));
        // Quarter i of their sum is the lower or the upper half of four vectors.
        let order = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
        _mm512_permutexvar_epi32(order, _mm512_add_epi32(even, odd))
    }
}

/// The sums of two neighbouring lanes, the second vector's behind the first's.
#[inline(always)]
unsafe fn neighbours(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: AVX-512.
    unsafe {
        let (even, odd) = a.unzip(b);
        _mm512_add_epi32(even, odd)
    }
}

/// Whole numbers of a byte each, as f32.
#[inline(always)]
unsafe fn unsigned(bytes: __m128i) -> __m512 {
    // SAFETY: AVX-512.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)) }
}

#[inline(always)]
unsafe fn signed(bytes: __m128i) -> __m512 {
    // SAFETY: AVX-512.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)) }
}

/// An f16 in all lanes.
#[inline(always)]
unsafe fn f16(from: *const u8) -> __m512 {
    // SAFETY: AVX-512, and two bytes there.
    unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(from.cast::<i16>().read_unaligned())) }
}

/// One in the lower half of all lanes, another in the upper.
#[inline(always)]
unsafe fn two_f16([a, b]: [*const u8; 2]) -> __m512 {
    // SAFETY: AVX-512, and two bytes at each.
    unsafe {
        let (a, b) = (a.cast::<i16>().read_unaligned(), b.cast::<i16>().read_unaligned());
        _mm512_cvtph_ps(_mm256_set_m128i(_mm_set1_epi16(b), _mm_set1_epi16(a)))
    }
}

/// For each eight bytes, where the bits begin that are moved to them.
const fn starts(low: [i32; 2], step: i32) -> i64 {
    let (mut starts, mut byte) = (0, 0);
    while byte < 8 {
        let start = low[byte / 4] + step * (byte % 4) as i32;
        starts |= ((start & 63) as i64) << (8 * byte);
        byte += 1;
    }
    starts
}

/// Moves bits of each eight bytes to each of them: see [`starts`].
#[inline(always)]
unsafe fn fields(starts: i64, of: __m512i) -> __m512i {
    // SAFETY: AVX512-VBMI.
    unsafe { _mm512_multishift_epi64_epi8(_mm512_set1_epi64(starts), of) }
}

/// The same of sixteen bytes, with other places for the second eight.
#[inline(always)]
unsafe fn two_fields(first: i64, second: i64, of: __m128i) -> __m128i {
    // SAFETY: AVX512-VBMI and VL.
    unsafe { _mm_multishift_epi64_epi8(_mm_set_epi64x(second, first), of) }
}

/// Twice a number and 1.
#[inline(always)]
unsafe fn odd(of: __m512i) -> __m512 {
    // SAFETY: AVX-512.
    unsafe { _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_add_epi32(of, of), _mm512_set1_epi32(1))) }
}

/// Sixteen times four bits, the lowest first, a byte to each.
#[inline(always)]
unsafe fn nibbles(of: u64) -> __m128i {
    // SAFETY: AVX512-VBMI and VL.
    unsafe {
        let spread = two_fields(starts([0, 16], 4), starts([32, 48], 4), _mm_set1_epi64x(of as i64));
        _mm_and_si128(spread, _mm_set1_epi8(15))
    }
}
