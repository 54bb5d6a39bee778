//! The IQ2 and IQ3 types. Their codebooks are looked up in registers: an entry is 16 bits, of which each two or four say a
//! size. Entries are taken in the order in which lanes are groups, so that nothing is left to add across them.

// Vectors are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::blocks::{Unit, only};
use super::{
    arrange_lanes, dot, either, f16, fields, load, look_up, neighbours, nibbles, odd, starts, two_f16, unsigned,
};
use crate::cpu::isa::affine::Ints;
use crate::quant::ggml::codebooks::{IQ2_S_CODES, IQ2_XS_CODES, IQ2_XXS_CODES, IQ3_S_CODES, IQ3_XXS_CODES, even_signs};
use crate::quant::ggml::types::{Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs};

/// What codes of some bits stand for, with a sign bit above them that adds or takes from 128.
const fn with_signs(values: &[u8], codes: usize) -> [u8; 64] {
    let (mut table, mut i) = ([128; 64], 0);
    while i < 64 {
        if i % codes < values.len() {
            let value = values[i % codes];
            table[i] = if (i / codes).is_multiple_of(2) { 128 + value } else { 128 - value };
        }
        i += 1;
    }
    table
}

static IQ2_TABLE: [u8; 64] = with_signs(&IQ2_XXS_CODES.values, 4);
static IQ3_XXS_TABLE: [u8; 64] = with_signs(&IQ3_XXS_CODES.values, 8);
static IQ3_S_TABLE: [u8; 64] = with_signs(&IQ3_S_CODES.values, 8);

/// Eight signs for seven of which the eighth makes the number even.
static EVEN_SIGNS: [u8; 128] = {
    let (mut signs, mut i) = ([0; 128], 0);
    while i < 128 {
        signs[i] = even_signs(i as u32);
        i += 1;
    }
    signs
};

/// All eight signs, of the lower seven bits of each byte.
#[inline(always)]
unsafe fn all_signs(seven: __m512i) -> __m512i {
    let table = EVEN_SIGNS.as_ptr();
    // SAFETY: AVX512-VBMI.
    unsafe { _mm512_permutex2var_epi8(load(table), seven, load(table.add(64))) }
}

/// The words where a bit is set.
#[inline(always)]
unsafe fn has(words: __m512i, bit: u32) -> u32 {
    // SAFETY: AVX-512.
    unsafe { _mm512_test_epi16_mask(words, _mm512_set1_epi16((1u32 << bit) as i16)) }
}

/// The entries of 16 bits, of 256 at `table`, at the places that the lower eight bits of each word say.
#[inline(always)]
unsafe fn of_256(table: *const u8, at: __m512i) -> __m512i {
    // SAFETY: AVX-512, and the entries at `table`.
    unsafe {
        let (sixth, seventh) = (has(at, 6), has(at, 7));
        let first = _mm512_permutex2var_epi16(load(table), at, load(table.add(64)));
        let second = _mm512_permutex2var_epi16(load(table.add(128)), at, load(table.add(192)));
        let third = _mm512_permutex2var_epi16(load(table.add(256)), at, load(table.add(320)));
        let last = _mm512_permutex2var_epi16(load(table.add(384)), at, load(table.add(448)));
        let low = _mm512_mask_mov_epi16(first, sixth, second);
        let high = _mm512_mask_mov_epi16(third, sixth, last);
        _mm512_mask_mov_epi16(low, seventh, high)
    }
}

/// The same of 512, where a mask says the ninth bit.
#[inline(always)]
unsafe fn of_512(table: *const u8, at: __m512i, ninth: u32) -> __m512i {
    // SAFETY: as above.
    unsafe { _mm512_mask_mov_epi16(of_256(table, at), ninth, of_256(table.add(512), at)) }
}

/// The same of 1024.
#[inline(always)]
unsafe fn of_1024(table: *const u8, at: __m512i, [ninth, tenth]: [u32; 2]) -> __m512i {
    // SAFETY: as above.
    unsafe { _mm512_mask_mov_epi16(of_512(table, at, ninth), tenth, of_512(table.add(1024), at, ninth)) }
}

/// Half `half` of the weights of the entries in word `word` of each lane, whose signs begin at bit `sign` of it: four to a lane.
#[inline(always)]
unsafe fn eights(entries: __m512i, word: i32, half: i32, signs: __m512i, sign: i32, table: &[u8; 64]) -> __m512i {
    // SAFETY: the instructions.
    unsafe {
        let code = 16 * word + 8 * half;
        let codes = fields(starts([code, 32 + code], 2), entries);
        // The sign is to be bit 2.
        let sign = sign + 4 * half - 2;
        let signs = fields(starts([sign, 32 + sign], 1), signs);
        look_up(either(codes, signs, _mm512_set1_epi8(3)), table)
    }
}

/// Two blocks' 32 bytes each.
#[inline(always)]
unsafe fn of_both([a, b]: [*const u8; 2]) -> __m512i {
    // SAFETY: AVX-512, and as many bytes there.
    unsafe {
        let (a, b) = (_mm256_loadu_si256(a.cast()), _mm256_loadu_si256(b.cast()));
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b)
    }
}

/// `d · (scale + ½) · factor`
#[inline(always)]
unsafe fn halved(d: __m512, scales: __m512, factor: f32) -> [__m512; 2] {
    // SAFETY: AVX-512.
    unsafe {
        let scales = _mm512_add_ps(_mm512_set1_ps(0.5), scales);
        only(_mm512_mul_ps(_mm512_mul_ps(d, scales), _mm512_set1_ps(factor)))
    }
}

/// The upper four bits of each lane.
#[inline(always)]
unsafe fn top(lanes: __m512i) -> __m512 {
    // SAFETY: AVX-512.
    unsafe { _mm512_cvtepi32_ps(_mm512_srli_epi32::<28>(lanes)) }
}

/// The sums of groups of 32, of four entries of eight: in each lane, entries 0 and 2, and 1 and 3. `signs` are as for
/// [`eights`], those of entry e from bit `8e` on.
#[inline(always)]
unsafe fn of_four_entries(entries: [__m512i; 2], signs: __m512i, table: &[u8; 64], x: *const u8) -> __m512i {
    // SAFETY: the instructions, and activations by lanes at `x`.
    unsafe {
        let mut sums = [_mm512_setzero_si512(); 2];
        for entry in 0..4 {
            for half in 0..2 {
                let of = entries[entry % 2];
                let weights = eights(of, entry as i32 / 2, half as i32, signs, 8 * entry as i32, table);
                sums[half] = dot(sums[half], weights, x, 2 * entry + half);
            }
        }
        _mm512_add_epi32(sums[0], sums[1])
    }
}

/// The sums of groups of 16, of two entries of eight in each lane.
#[inline(always)]
unsafe fn of_two_entries(entries: __m512i, signs: __m512i, x: *const u8) -> __m512i {
    // SAFETY: as above.
    unsafe {
        let mut sums = [_mm512_setzero_si512(); 2];
        for entry in 0..2 {
            for half in 0..2 {
                let weights = eights(entries, entry as i32, half as i32, signs, 16 * entry as i32, &IQ2_TABLE);
                sums[half] = dot(sums[half], weights, x, 2 * entry + half);
            }
        }
        _mm512_add_epi32(sums[0], sums[1])
    }
}

/// The lanes of two blocks of eight times `entries, signs`: the entries, or the signs.
#[inline(always)]
unsafe fn every_other(w: *const u8, first: i32) -> __m512i {
    // SAFETY: AVX-512, and the blocks at `w`.
    unsafe {
        let (even, odd) = load(w.add(2)).unzip(load(w.add(68)));
        if first == 0 { even } else { odd }
    }
}

/// Four bytes of eight signs of four times seven bits.
const SEVENS: i64 = starts([0, 32], 7);

impl Unit for Iq2Xxs {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn arrange(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { arrange_lanes::<8>(x) }
    }
    #[inline(always)]
    unsafe fn dots(w: *const u8, x: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let (table, at) = (IQ2_XXS_CODES.packed(), every_other(w, 0));
            let entries = [of_256(table, at), of_256(table, _mm512_srli_epi16::<8>(at))];
            of_four_entries(entries, all_signs(fields(SEVENS, every_other(w, 1))), &IQ2_TABLE, x)
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe { halved(two_f16([w, w.add(66)]), top(every_other(w, 1)), 0.25) }
    }
}

impl Unit for Iq2Xs {
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
            let q = load(w.add(2));
            let entries = of_512(IQ2_XS_CODES.packed(), q, has(q, 8));
            of_two_entries(entries, all_signs(_mm512_srli_epi16::<9>(q)), x)
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe { halved(f16(w), unsigned(nibbles(w.add(66).cast::<u64>().read_unaligned())), 0.25) }
    }
}

impl Unit for Iq2S {
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
            let q = _mm512_cvtepu8_epi16(_mm256_loadu_si256(w.add(2).cast()));
            let signs = _mm512_cvtepu8_epi16(_mm256_loadu_si256(w.add(34).cast()));
            // Two bits for each word: bits 8 and 9 of what is moved.
            let high = _mm512_set1_epi64(w.add(66).cast::<i64>().read_unaligned());
            let high = _mm512_multishift_epi64_epi8(load(PAIRS_OF_BITS.as_ptr()), high);
            let entries = of_1024(IQ2_S_CODES.packed(), q, [has(high, 8), has(high, 9)]);
            of_two_entries(entries, signs, x)
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe { halved(f16(w), unsigned(nibbles(w.add(74).cast::<u64>().read_unaligned())), 0.25) }
    }
}

/// For the upper byte of word i, bit 2i.
static PAIRS_OF_BITS: [u8; 64] = {
    let (mut places, mut i) = ([0; 64], 0);
    while i < 64 {
        places[i] = i as u8 & !1;
        i += 1;
    }
    places
};

/// Of groups of eight entries of four: in each vector, entries e and e + 2 of eight groups.
#[inline(always)]
unsafe fn arrange_fours(x: *mut u8) {
    // SAFETY: AVX-512, and sixteen groups at `x`.
    unsafe {
        let rows = std::array::from_fn(|group| x.cast_const().wrapping_add(32 * group));
        let entries = <__m512i as Ints>::transposed(&rows, 8);
        let in_turn = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        for half in 0..2 {
            let in_turn = _mm512_add_epi32(in_turn, _mm512_set1_epi32(8 * half as i32));
            for i in 0..4 {
                let first = 4 * (i / 2) + i % 2;
                let both = _mm512_permutex2var_epi32(entries[first], in_turn, entries[first + 2]);
                _mm512_storeu_si512(x.add(64 * (4 * half + i)).cast(), both);
            }
        }
    }
}

/// The sums of eight groups of eight entries of four, in two lanes each: `entries` are, of each eight bytes, those of even number,
/// and of odd; `signs` are 32 bits in each eight bytes.
#[inline(always)]
unsafe fn of_eight_entries(
    entries: [__m512i; 2],
    signs: __m512i,
    table: &[u8; 64],
    x: *const u8,
    half: usize,
) -> __m512i {
    // SAFETY: the instructions, and activations in the order of `arrange_fours` at `x`.
    unsafe {
        let mut sum = _mm512_setzero_si512();
        for i in 0..4 {
            let (code, first) = (32 * (i as i32 / 2), 4 * (i as i32 / 2) + i as i32 % 2);
            let codes = fields(starts([code, code + 16], 4), entries[i % 2]);
            // The sign is to be bit 3.
            let signs = fields(starts([4 * first - 3, 4 * (first + 2) - 3], 1), signs);
            let weights = look_up(either(codes, signs, _mm512_set1_epi8(7)), table);
            sum = dot(sum, weights, x, 4 * half + i);
        }
        sum
    }
}

impl Unit for Iq3Xxs {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn arrange(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { arrange_fours(x) }
    }
    #[inline(always)]
    unsafe fn dots(w: *const u8, x: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let table = IQ3_XXS_CODES.packed();
            let signs = all_signs(fields(SEVENS, of_both([w.add(66), w.add(98 + 66)])));
            let signs = [_mm512_castsi512_si256(signs), _mm512_extracti64x4_epi64::<1>(signs)];
            let mut sums = [_mm512_setzero_si512(); 2];
            for b in 0..2 {
                let q = load(w.add(98 * b + 2));
                let entries = [of_256(table, q), of_256(table, _mm512_srli_epi16::<8>(q))];
                sums[b] = of_eight_entries(entries, _mm512_cvtepu32_epi64(signs[b]), &IQ3_XXS_TABLE, x, b);
            }
            neighbours(sums[0], sums[1])
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe { halved(two_f16([w, w.add(98)]), top(of_both([w.add(66), w.add(98 + 66)])), 0.5) }
    }
}

impl Unit for Iq3S {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn arrange(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { arrange_fours(x) }
    }
    #[inline(always)]
    unsafe fn dots(w: *const u8, x: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let table = IQ3_S_CODES.packed();
            let mut sums = [_mm512_setzero_si512(); 2];
            for b in 0..2 {
                let w = w.add(110 * b);
                let q = load(w.add(2));
                let ninth = _mm512_movm_epi8(w.add(66).cast::<u64>().read_unaligned());
                let entries =
                    [of_512(table, q, has(ninth, 0)), of_512(table, _mm512_srli_epi16::<8>(q), has(ninth, 8))];
                let signs = _mm512_cvtepu32_epi64(_mm256_loadu_si256(w.add(74).cast()));
                sums[b] = of_eight_entries(entries, signs, &IQ3_S_TABLE, x, b);
            }
            neighbours(sums[0], sums[1])
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe {
            let (a, b) = (w, w.add(110));
            let both = [a, b].map(|w| u64::from(w.wrapping_add(106).cast::<u32>().read_unaligned()));
            let scales = _mm512_cvtepu8_epi32(nibbles(both[0] | both[1] << 32));
            only(_mm512_mul_ps(two_f16([a, b]), odd(scales)))
        }
    }
}
