//! TQ1_0 and TQ2_0. A group is a lane: words are moved to the lanes of their groups, of which each takes two bits of every byte
//! where they lie, so that sums are multiplied with 1, 4, 16 or 64, and nothing is left to add across lanes.

// Blocks are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::blocks::{Unit, only};
use super::{arrange_lanes, dot, load, two_f16};
use crate::quant::ggml::types::{Tq1_0, Tq2_0};

/// Which two bits of each byte a lane takes, and how far its sums are to be shifted for it.
pub(super) struct Crumbs {
    masks: [u32; 16],
    shifts: [u32; 16],
}

impl Crumbs {
    /// Numbers of two bits, the lowest first, for each lane.
    pub(super) const fn of(numbers: [u32; 16]) -> Self {
        let (mut masks, mut shifts, mut lane) = ([0; 16], [0; 16], 0);
        while lane < 16 {
            shifts[lane] = 2 * numbers[lane];
            masks[lane] = 0x0303_0303 << shifts[lane];
            lane += 1;
        }
        Crumbs { masks, shifts }
    }

    /// These bits alone.
    #[inline(always)]
    pub(super) unsafe fn of_words(&self, words: __m512i) -> __m512i {
        // SAFETY: AVX-512.
        unsafe { _mm512_and_si512(words, load(self.masks.as_ptr().cast())) }
    }

    /// Sums of them as those of whole numbers below four.
    #[inline(always)]
    pub(super) unsafe fn shifted(&self, sums: __m512i) -> __m512i {
        // SAFETY: AVX-512.
        unsafe { _mm512_srav_epi32(sums, load(self.shifts.as_ptr().cast())) }
    }
}

/// Places of words, each lane's `by` further.
#[inline(always)]
pub(super) unsafe fn places(first: &[u32; 16], by: usize) -> __m512i {
    // SAFETY: AVX-512.
    unsafe { _mm512_add_epi32(load(first.as_ptr().cast()), _mm512_set1_epi32(by as i32)) }
}

/// Of two blocks, in each half of 32 bytes four groups.
static TQ2_CRUMBS: Crumbs = Crumbs::of([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]);
static TQ2_WORDS: [u32; 16] = [0, 0, 0, 0, 8, 8, 8, 8, 16, 16, 16, 16, 24, 24, 24, 24];

impl Unit for Tq2_0 {
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
            let (a, b) = (load(w), load(w.add(66)));
            let mut sums = [_mm512_setzero_si512(); 2];
            for i in 0..8 {
                let words = _mm512_permutex2var_epi32(a, places(&TQ2_WORDS, i), b);
                sums[i % 2] = dot(sums[i % 2], TQ2_CRUMBS.of_words(words), x, i);
            }
            TQ2_CRUMBS.shifted(_mm512_add_epi32(sums[0], sums[1]))
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe { only(two_f16([w.add(64), w.add(66 + 64)])) }
    }
}

/// Ternary digits `first..first + count` of a byte, two bits for each.
const fn digits(first: u32, count: u32) -> [u8; 256] {
    let (mut table, mut byte) = ([0; 256], 0);
    while byte < 256 {
        let mut i = 0;
        while i < count {
            let rest = (byte as u8).wrapping_mul(3u8.pow(first + i)) as u16;
            table[byte] |= ((rest * 3) >> 8 << (2 * i)) as u8;
            i += 1;
        }
        byte += 1;
    }
    table
}

static FOUR_DIGITS: [u8; 256] = digits(0, 4);
static FIFTH_DIGIT: [u8; 256] = digits(4, 1);

/// What a table has at the place that each byte says.
#[inline(always)]
unsafe fn of_256_bytes(table: &[u8; 256], at: __m512i) -> __m512i {
    let table = table.as_ptr();
    // SAFETY: AVX512-VBMI.
    unsafe {
        let low = _mm512_permutex2var_epi8(load(table), at, load(table.add(64)));
        let high = _mm512_permutex2var_epi8(load(table.add(128)), at, load(table.add(192)));
        _mm512_mask_mov_epi8(low, _mm512_movepi8_mask(at), high)
    }
}

/// Lanes are the first halves of a block's eight groups, then the second. Groups 0 to 3 are the first digits of words 0 to 7,
/// group 4 is their fifth; groups 5 and 6 are the first digits of words 8 to 11, group 7 their fifth and then word 12's digits,
/// which stand behind the other fifth digits, one for each word.
static TQ1_CRUMBS: Crumbs = Crumbs::of([0, 1, 2, 3, 0, 0, 2, 0, 0, 1, 2, 3, 0, 1, 3, 0]);
static TQ1_WORDS: [u32; 16] = [0, 0, 0, 0, 16, 8, 8, 24, 4, 4, 4, 4, 20, 8, 8, 28];

impl Unit for Tq1_0 {
    const KNOWN: bool = true;
    /// Word i of the halves of a block's groups, for i from 0 to 3; then those of the second block.
    #[inline(always)]
    unsafe fn arrange(x: *mut u8) {
        // SAFETY: 512 bytes at `x`.
        unsafe {
            let from = x.cast::<[[u32; 64]; 2]>().read_unaligned();
            for to in 0..128 {
                let (block, i, half, group) = (to / 64, to / 16 % 4, to / 8 % 2, to % 8);
                x.cast::<u32>().add(to).write_unaligned(from[block][8 * group + 4 * half + i]);
            }
        }
    }
    #[inline(always)]
    unsafe fn dots(w: *const u8, x: *const u8) -> __m512i {
        // SAFETY: the caller's promise, here and below; masked bytes are not read.
        unsafe {
            let mut sums = [_mm512_setzero_si512(); 2];
            for b in 0..2 {
                let bytes = _mm512_maskz_loadu_epi8((1 << 52) - 1, w.add(54 * b).cast());
                let (four, fifth) = (of_256_bytes(&FOUR_DIGITS, bytes), of_256_bytes(&FIFTH_DIGIT, bytes));
                let each = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 6);
                let fifth = _mm512_mask_srlv_epi32(fifth, 0xf000, _mm512_shuffle_epi32::<0>(four), each);
                for i in 0..4 {
                    let words = _mm512_permutex2var_epi32(four, places(&TQ1_WORDS, i), fifth);
                    sums[b] = dot(sums[b], TQ1_CRUMBS.of_words(words), x, 4 * b + i);
                }
                sums[b] = TQ1_CRUMBS.shifted(sums[b]);
            }
            let [a, b] = sums;
            _mm512_add_epi32(_mm512_shuffle_i64x2::<0x44>(a, b), _mm512_shuffle_i64x2::<0xee>(a, b))
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe { only(two_f16([w.add(52), w.add(54 + 52)])) }
    }
}
