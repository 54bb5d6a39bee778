//! GPTQ's and AWQ's codes: see [`by_word`].

// Vectors are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::{Multiply, Work, load, low_bits, upper};
use crate::cpu::isa::Dots;
use crate::cpu::isa::affine::Ints;
use crate::cpu::isa::avx2;
use crate::cpu::isa::by_word::{self, Group, Order, Strip, awq_in_order, nibbles};
use crate::cpu::isa::panel::BLOCK;
use crate::cpu::isa::unit_rows::GROUPS;
use crate::quant::Code;
use crate::quant::coded::Rows;

/// Rows of a vector of AWQ's words.
const AWQ_ROWS: usize = 64;

/// See [`super::dots`]; for groups of 32.
#[inline(always)]
pub(super) unsafe fn dots<M: Multiply>(d: &Dots, codes: &Rows) -> bool {
    struct Strips<'a, O>(&'a Dots, &'a Rows<'a>, PhantomData<O>);
    impl<O: Order> Work for Strips<'_, O> {
        #[inline(always)]
        unsafe fn run(self) {
            // SAFETY: the caller's promise.
            unsafe { by_word::strips::<O>(self.0, self.1) }
        }
    }
    let fits = by_word::fits(d, codes);
    if fits {
        // SAFETY: as above.
        unsafe {
            if codes.coded.code == Code::Gptq {
                M::run(Strips::<Gptq<M>>(d, codes, PhantomData));
            } else {
                M::run(Strips::<Awq<M>>(d, codes, PhantomData));
            }
        }
    }
    fits
}

struct Gptq<M>(PhantomData<M>);

impl<M: Multiply> Order for Gptq<M> {
    type I = avx2::Words;
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
                let mut sums = [_mm256_setzero_si256(); 2];
                for i in 0..4 {
                    let words = words.wrapping_add(i * stride);
                    avx2::Words::prefetch(words.wrapping_add(4 * stride));
                    let (even, odd) = (_mm256_set1_epi32(dealt[2 * i]), _mm256_set1_epi32(dealt[2 * i + 1]));
                    for half in 0..2 {
                        let w = load(words.add(32 * half));
                        sums[half] = M::add(M::add(sums[half], low_bits(w, 4), even), upper(w), odd);
                    }
                }
                strip.add(at, avx2::Words(M::total(sums[0]), M::total(sums[1])), &x);
            }
        }
    }
}

struct Awq<M>(PhantomData<M>);

impl<M: Multiply> Order for Awq<M> {
    type I = avx2::Words;
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
                let (mut low, mut high) = ([_mm256_setzero_si256(); 4], [_mm256_setzero_si256(); 4]);
                for four in 0..8 {
                    let words = codes.data.as_ptr().wrapping_add((BLOCK * g + 4 * four) * stride + (row + at) / 2);
                    let mut columns = [_mm256_setzero_si256(); 4];
                    for i in 0..4 {
                        let words = words.wrapping_add(i * stride);
                        avx2::Words::prefetch(words.wrapping_add(BLOCK * stride));
                        columns[i] = avx2::some_words(words, some / 8);
                    }
                    let x = _mm256_set1_epi32(x.q.add(4 * four).cast::<i32>().read_unaligned());
                    let bytes = interleaved(columns);
                    for i in 0..4 {
                        low[i] = M::add(low[i], low_bits(bytes[i], 4), x);
                        high[i] = M::add(high[i], upper(bytes[i]), x);
                    }
                }
                for pair in 0..2 {
                    let i = 2 * pair;
                    let [first, second] = [by_half(M::total(low[i]), M::total(high[i])), {
                        by_half(M::total(low[i + 1]), M::total(high[i + 1]))
                    }];
                    for half in 0..2 {
                        let at_vector = 32 * half + 16 * pair;
                        if at_vector < some {
                            strip.add(at + at_vector, avx2::Words(first[half], second[half]), &x);
                        }
                    }
                }
            }
        }
    }
}

/// Four columns' bytes side by side: vector i has those of word i of each half.
#[inline(always)]
unsafe fn interleaved([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    // SAFETY: AVX2.
    unsafe {
        let (ab, cd) = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
        let (ab_high, cd_high) = (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
        [
            _mm256_unpacklo_epi16(ab, cd),
            _mm256_unpackhi_epi16(ab, cd),
            _mm256_unpacklo_epi16(ab_high, cd_high),
            _mm256_unpackhi_epi16(ab_high, cd_high),
        ]
    }
}

/// Eight rows of the word in each half, from those in its lower four bits, 0, 4, 1, 5, and its upper, 2, 6, 3, 7.
#[inline(always)]
unsafe fn by_half(low: __m256i, high: __m256i) -> [__m256i; 2] {
    // SAFETY: AVX2.
    unsafe {
        let order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
        [
            _mm256_permutevar8x32_epi32(_mm256_permute2x128_si256::<0x20>(low, high), order),
            _mm256_permutevar8x32_epi32(_mm256_permute2x128_si256::<0x31>(low, high), order),
        ]
    }
}
