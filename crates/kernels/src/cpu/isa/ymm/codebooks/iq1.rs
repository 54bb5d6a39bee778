//! IQ1_S and IQ1_M.

use std::arch::x86_64::*;

use super::{
    OfWords, Weights, arrange_block, arrange_two, eight_times, entries, odd, of_16, of_32, shared, twice, two_f16,
    with_bits,
};
use crate::cpu::isa::avx2::{Avx2, Words};
use crate::cpu::isa::tile::Lanes;
use crate::cpu::isa::ymm::blocks::Unit;
use crate::cpu::isa::ymm::{Multiply, at, of_unsigned, only};
use crate::quant::ggml::codebooks::IQ1;
use crate::quant::ggml::types::{Iq1M, Iq1S};

/// IQ1's weights: eight times an entry, and 1 more or less.
struct Ternary {
    places: OfWords<2>,
    /// -1 or 1 for each entry, and 128 more where bytes are multiplied with a sign: entries have 128 more already.
    one: __m256i,
}

impl Ternary {
    /// `less` has all bits of the bytes of entries with less.
    #[inline(always)]
    unsafe fn new<M: Multiply>(places: OfWords<2>, less: __m256i) -> Self {
        // SAFETY: AVX2.
        let one = unsafe { _mm256_or_si256(less, _mm256_set1_epi8(1)) };
        // SAFETY: as above.
        Ternary { places, one: unsafe { of_unsigned::<M>(one) } }
    }
}

impl Weights for Ternary {
    #[inline(always)]
    unsafe fn add<M: Multiply>(&self, sums: __m256i, x: *const u8, i: usize) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe {
            let weights = _mm256_add_epi8(entries::<8>(&IQ1, &self.places, i), eight_times(self.one, i));
            M::add_eight_bits(sums, weights, at(x, i))
        }
    }
}

/// Of the word of each of IQ1_S's groups the lower byte, both, or the upper.
static PARTS: [[u8; 32]; 2] = {
    let (mut all, mut entry) = ([[0x80; 32]; 2], 0);
    while entry < 32 {
        let (group, to) = (entry / 4 * 2, entry % 16 * 2);
        all[entry / 16][to] = (group + entry % 4 / 3) as u8;
        if entry % 4 < 3 {
            all[entry / 16][to + 1] = group as u8 + 1;
        }
        entry += 1;
    }
    all
};

#[inline(always)]
unsafe fn iq1_s<M: Multiply>(w: *const u8) -> Ternary {
    // SAFETY: AVX2, and the block at `w`.
    unsafe {
        let words = twice(w.add(34));
        // From bits 0, 3 and 6 of the word, and from bit 1 of its upper byte.
        let places = with_bits(w.add(2), words, &PARTS, 0x0080_0004_0020_0100, 0x700);
        // The upper bytes of the words in the order of vectors, four times each.
        let upper = _mm256_setr_epi64x(
            0x0303_0303_0101_0101,
            0x0b0b_0b0b_0909_0909,
            0x0707_0707_0505_0505,
            0x0f0f_0f0f_0d0d_0d0d,
        );
        let less = _mm256_cmpgt_epi8(_mm256_setzero_si256(), _mm256_shuffle_epi8(words, upper));
        Ternary::new::<M>(places, less)
    }
}

impl Unit for Iq1S {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn arrange(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { arrange_two(x) }
    }
    #[inline(always)]
    unsafe fn dots<M: Multiply>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: as above.
        unsafe {
            let (a, b) = (iq1_s::<M>(w), iq1_s::<M>(w.add(50)));
            a.places.hide();
            b.places.hide();
            Words(of_32::<M, 14>(&a, x), of_32::<M, 14>(&b, x.add(256)))
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [Avx2; 2] {
        // SAFETY: as above.
        unsafe {
            let (a, b) = (w, w.add(50));
            let scales = Words(iq1_s_scales(a), iq1_s_scales(b));
            only(odd(two_f16(a, b), scales).mul(Avx2::splat(0.125)))
        }
    }
}

#[inline(always)]
unsafe fn iq1_s_scales(w: *const u8) -> __m256i {
    // SAFETY: AVX2, and the block at `w`.
    unsafe {
        let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(w.add(34).cast()));
        _mm256_and_si256(_mm256_srli_epi32::<12>(words), _mm256_set1_epi32(7))
    }
}

impl Unit for Iq1M {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn arrange(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { arrange_block(x) }
    }
    #[inline(always)]
    unsafe fn dots<M: Multiply>(w: *const u8, x: *const u8) -> Words {
        static PAIRS: [[u8; 32]; 2] = shared::<2>();
        // SAFETY: as above.
        unsafe {
            let high = twice(w.add(32));
            let places = with_bits(w, high, &PAIRS, 0x0010_0100_0010_0100, 0x700);
            // The fourth bits of both halves of each byte, of two entries.
            let (fourth, two_of_each) = (_mm256_set1_epi16(0x8008_u16.cast_signed()), _mm256_unpacklo_epi8(high, high));
            let others = _mm256_unpackhi_epi8(high, high);
            // Bytes 0 to 3 and 8 to 11, then those behind each.
            let signs = _mm256_blend_epi32::<0xf0>(
                _mm256_unpacklo_epi64(two_of_each, others),
                _mm256_unpackhi_epi64(two_of_each, others),
            );
            let less = _mm256_cmpeq_epi8(_mm256_and_si256(signs, fourth), fourth);
            let weights = Ternary::new::<M>(places, less);
            weights.places.hide();
            of_16::<M, 13>(&weights, x)
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [Avx2; 2] {
        // SAFETY: as above.
        unsafe {
            let words = w.add(48).cast::<u64>().read_unaligned();
            let d = (0..4).fold(0, |d, i| d | (words >> (16 * i + 12) & 15) << (4 * i)) as u16;
            let d = (&raw const d).cast();
            let scales = Words(iq1_m_scales(words, words >> 16), iq1_m_scales(words >> 32, words >> 48));
            only(odd(two_f16(d, d), scales).mul(Avx2::splat(0.125)))
        }
    }
}

/// Three bits four times in each of two words.
#[inline(always)]
unsafe fn iq1_m_scales(first: u64, second: u64) -> __m256i {
    // SAFETY: AVX2.
    unsafe {
        let both = _mm256_set_m128i(_mm_set1_epi32(second as i32), _mm_set1_epi32(first as i32));
        let three = _mm256_srlv_epi32(both, _mm256_setr_epi32(0, 3, 6, 9, 0, 3, 6, 9));
        _mm256_and_si256(three, _mm256_set1_epi32(7))
    }
}
