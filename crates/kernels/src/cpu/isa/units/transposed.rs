//! GPTQ's and AWQ's codes: see [`by_word`].

// Vectors are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::{GROUPS, low_bits, upper};
use crate::cpu::isa::Dots;
use crate::cpu::isa::affine::Ints;
use crate::cpu::isa::by_word::{self, Group, Order, Strip, awq_in_order, nibbles};
use crate::cpu::isa::panel::BLOCK;
use crate::quant::Code;
use crate::quant::coded::Rows;

/// Rows of a vector of AWQ's words.
const AWQ_ROWS: usize = 128;

/// See [`super::dots`]; for groups of 32.
#[inline(always)]
pub(super) unsafe fn dots(d: &Dots, codes: &Rows) -> bool {
    let fits = by_word::fits(d, codes);
    if fits {
        // SAFETY: the caller's promise.
        unsafe { if codes.coded.code == Code::Gptq { strips::<Gptq>(d, codes) } else { strips::<Awq>(d, codes) } }
    }
    fits
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
unsafe fn strips<O: Order>(d: &Dots, codes: &Rows) {
    // SAFETY: the caller's promise.
    unsafe { by_word::strips::<O>(d, codes) }
}

struct Gptq;

impl Order for Gptq {
    type I = __m512i;
    #[inline(always)]
    unsafe fn zeros(of: u64) -> __m128i {
        // SAFETY: the caller has the instructions, here and below.
        unsafe { nibbles(of) }
    }
    #[inline(always)]
    unsafe fn add(d: &Dots, codes: &Rows, row: usize, rows: usize, g: usize, strip: &mut Strip) {
        let stride = 4 * codes.shape[0];
        // SAFETY: the rows' words are inside the weights; what is asked for ahead need not exist.
        unsafe {
            let x = Group::new(d, g);
            let dealt = x.dealt();
            for at in (0..rows).step_by(GROUPS) {
                let words = codes.data.as_ptr().wrapping_add(4 * g * stride + 4 * (row + at));
                let mut dots = _mm512_setzero_si512();
                for i in 0..4 {
                    let words = words.wrapping_add(i * stride);
                    __m512i::prefetch(words.wrapping_add(4 * stride));
                    let w = _mm512_loadu_si512(words.cast());
                    dots = _mm512_dpbusd_epi32(dots, low_bits(w, 4), _mm512_set1_epi32(dealt[2 * i]));
                    dots = _mm512_dpbusd_epi32(dots, low_bits(upper(w), 4), _mm512_set1_epi32(dealt[2 * i + 1]));
                }
                strip.add(at, dots, &x);
            }
        }
    }
}

struct Awq;

impl Order for Awq {
    type I = __m512i;
    #[inline(always)]
    unsafe fn zeros(of: u64) -> __m128i {
        // SAFETY: the caller has the instructions, here and below.
        unsafe { awq_in_order(nibbles(of)) }
    }
    #[inline(always)]
    unsafe fn add(d: &Dots, codes: &Rows, row: usize, rows: usize, g: usize, strip: &mut Strip) {
        let stride = codes.shape[0] / 2;
        for at in (0..rows).step_by(AWQ_ROWS) {
            let some = AWQ_ROWS.min(rows - at);
            // SAFETY: the rows' words are inside the weights, and others are not read; what is asked for ahead need not exist.
            unsafe {
                let x = Group::new(d, g);
                let mask = (0xffff_u32 >> (16 - some / 8)) as u16;
                let (mut low, mut high) = ([_mm512_setzero_si512(); 4], [_mm512_setzero_si512(); 4]);
                for four in 0..8 {
                    let words = codes.data.as_ptr().wrapping_add((BLOCK * g + 4 * four) * stride + (row + at) / 2);
                    let mut columns = [_mm512_setzero_si512(); 4];
                    for i in 0..4 {
                        let words = words.wrapping_add(i * stride);
                        __m512i::prefetch(words.wrapping_add(BLOCK * stride));
                        columns[i] = _mm512_maskz_loadu_epi32(mask, words.cast());
                    }
                    let x = _mm512_set1_epi32(x.q.add(4 * four).cast::<i32>().read_unaligned());
                    let bytes = interleaved(columns);
                    for i in 0..4 {
                        low[i] = _mm512_dpbusd_epi32(low[i], low_bits(bytes[i], 4), x);
                        high[i] = _mm512_dpbusd_epi32(high[i], low_bits(upper(bytes[i]), 4), x);
                    }
                }
                for pair in 0..2 {
                    let i = 2 * pair;
                    let dots = by_quarter([low[i], high[i], low[i + 1], high[i + 1]]);
                    for quarter in 0..4 {
                        let at_vector = 32 * quarter + 16 * pair;
                        if at_vector < some {
                            // Rows 0, 4, 1, 5, then 2, 6, 3, 7 of each eight.
                            let order = _mm512_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
                            strip.add(at + at_vector, _mm512_permutexvar_epi32(order, dots[quarter]), &x);
                        }
                    }
                }
            }
        }
    }
}

/// Four columns' bytes side by side: vector i has those of word i of each quarter.
#[inline(always)]
unsafe fn interleaved([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: AVX-512.
    unsafe {
        let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
        let (ab_high, cd_high) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
        [
            _mm512_unpacklo_epi16(ab, cd),
            _mm512_unpackhi_epi16(ab, cd),
            _mm512_unpacklo_epi16(ab_high, cd_high),
            _mm512_unpackhi_epi16(ab_high, cd_high),
        ]
    }
}

/// The first quarters of four vectors, their second ones, and so on.
#[inline(always)]
unsafe fn by_quarter([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: AVX-512.
    unsafe {
        let (ab, cd) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d));
        let (ab_high, cd_high) = (_mm512_shuffle_i32x4::<0xee>(a, b), _mm512_shuffle_i32x4::<0xee>(c, d));
        [
            _mm512_shuffle_i32x4::<0x88>(ab, cd),
            _mm512_shuffle_i32x4::<0xdd>(ab, cd),
            _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high),
            _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high),
        ]
    }
}
