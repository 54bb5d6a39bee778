//! The IQ1, IQ2 and IQ3 types. Their codebooks' entries are loaded one by one; what is left, their signs and scales, and the places
//! where they lie, is unpacked in vectors.
//!
//! A block's weights are multiplied in eight vectors: vector i has weights `16 · (i % 4) + 128 · (i / 4)` and the fifteen behind
//! them in its lower half, and in its upper half those 64 further. What goes with each eight weights, an entry's signs for example,
//! is a byte of one vector in the same order: vector i takes bytes 2i and 2i + 1 of both halves.

// Vectors are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

mod iq1;

use std::arch::asm;
use std::arch::x86_64::*;

use super::blocks::Unit;
use super::{Multiply, at, f16, fours, load, only, two, whole};
use crate::cpu::isa::affine::Ints;
use crate::cpu::isa::avx2::{Avx2, Words};
use crate::cpu::isa::tile::Lanes;
use crate::quant::ggml::codebooks::{IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};
use crate::quant::ggml::types::{Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs};

/// Puts a block's activations into the order of its vectors.
#[inline(always)]
unsafe fn arrange_block(x: *mut u8) {
    for half in 0..2 {
        // SAFETY: AVX2, and 256 bytes at `x`.
        unsafe {
            let x = x.add(128 * half);
            let [a, b, c, d] = [at(x, 0), at(x, 1), at(x, 2), at(x, 3)];
            let to = x.cast::<__m256i>();
            _mm256_storeu_si256(to, _mm256_permute2x128_si256::<0x20>(a, c));
            _mm256_storeu_si256(to.add(1), _mm256_permute2x128_si256::<0x31>(a, c));
            _mm256_storeu_si256(to.add(2), _mm256_permute2x128_si256::<0x20>(b, d));
            _mm256_storeu_si256(to.add(3), _mm256_permute2x128_si256::<0x31>(b, d));
        }
    }
}

/// The same of two blocks.
#[inline(always)]
unsafe fn arrange_two(x: *mut u8) {
    // SAFETY: AVX2, and 512 bytes at `x`.
    unsafe {
        arrange_block(x);
        arrange_block(x.add(256));
    }
}

/// For vector i, byte 2i of each half eight times, then the next.
static EIGHTS: [[u8; 32]; 8] = {
    let (mut all, mut at) = ([[0; 32]; 8], 0);
    while at < 256 {
        all[at / 32][at % 32] = (at / 32 * 2 + at % 16 / 8) as u8;
        at += 1;
    }
    all
};

/// A block's bytes that go with eights of weights, those of vector i eight times each.
#[inline(always)]
unsafe fn eight_times(bytes: __m256i, i: usize) -> __m256i {
    // SAFETY: AVX2.
    unsafe { _mm256_shuffle_epi8(bytes, load(EIGHTS[i].as_ptr())) }
}

/// Bytes that are negative where bits of a block's signs say that vector i is, and positive elsewhere.
#[inline(always)]
unsafe fn signs_of(signs: __m256i, i: usize) -> __m256i {
    // SAFETY: AVX2. A bit above what lacks it to 128, or above 1 if it is 128, is negative.
    unsafe {
        let bits = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
        let below = _mm256_set1_epi64x(0x0140_6070_787c_7e7f);
        _mm256_add_epi8(_mm256_and_si256(eight_times(signs, i), bits), below)
    }
}

/// Where a block's entries lie in their codebook.
trait Places {
    /// # Safety
    /// The block has such an entry; places are inside the codebook.
    unsafe fn place(&self, entry: usize) -> usize;
}

/// `PER` of each eight bytes at an address.
struct OfBytes<const PER: usize>(*const u8);

impl<const PER: usize> Places for OfBytes<PER> {
    #[inline(always)]
    unsafe fn place(&self, entry: usize) -> usize {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(entry / PER * 8 + entry % PER).read().into() }
    }
}

/// Sixteen words of each vector.
#[repr(align(32))]
struct OfWords<const VECTORS: usize>([__m256i; VECTORS]);

impl<const VECTORS: usize> OfWords<VECTORS> {
    /// Here they are in memory for the compiler too: it would take them out of the vectors again, which costs more than loads.
    #[inline(always)]
    unsafe fn hide(&self) {
        // SAFETY: nothing is done.
        unsafe { asm!("/* {0} */", in(reg) self, options(nostack, preserves_flags)) };
    }
}

impl<const VECTORS: usize> Places for OfWords<VECTORS> {
    #[inline(always)]
    unsafe fn place(&self, entry: usize) -> usize {
        // SAFETY: the caller's promise.
        unsafe { self.0.as_ptr().cast::<u16>().add(entry).read().into() }
    }
}

/// Two entries of eight weights to each half.
#[inline(always)]
unsafe fn two_and_two(table: &[u64], places: [usize; 4]) -> __m256i {
    // SAFETY: AVX2, and the entries in the table.
    unsafe {
        let [a, b, c, d] = places.map(|place| table.as_ptr().add(place).cast::<f64>());
        let (low, high) = (_mm_loadh_pd(_mm_load_sd(a), b), _mm_loadh_pd(_mm_load_sd(c), d));
        _mm256_castpd_si256(_mm256_set_m128d(high, low))
    }
}

/// A vector's entries, of eight weights or of four.
#[inline(always)]
unsafe fn entries<const WEIGHTS: usize>(table: &[u64], places: &impl Places, i: usize) -> __m256i {
    let (first, upper) = ((16 * (i % 4) + 128 * (i / 4)) / WEIGHTS, 64 / WEIGHTS);
    let second = first + upper;
    // SAFETY: the caller has AVX2, and a block's places.
    unsafe {
        let a = [places.place(first), places.place(first + 1), places.place(second), places.place(second + 1)];
        if WEIGHTS == 8 {
            return two_and_two(table, a);
        }
        let b = [places.place(first + 2), places.place(first + 3), places.place(second + 2), places.place(second + 3)];
        let (a, b) = (_mm256_castsi256_ps(two_and_two(table, a)), _mm256_castsi256_ps(two_and_two(table, b)));
        // The upper half of each entry is empty.
        _mm256_castps_si256(_mm256_shuffle_ps::<0x88>(a, b))
    }
}

/// A block's weights.
///
/// # Safety
/// All functions: the machine has the instructions, and there are a block's activations.
trait Weights {
    /// Adds the products of vector i: see [`Multiply::add`].
    unsafe fn add<M: Multiply>(&self, sums: __m256i, x: *const u8, i: usize) -> __m256i;
}

/// Entries of `WEIGHTS` sizes each, and a sign for each size.
struct Signed<'a, P, const WEIGHTS: usize> {
    table: &'a [u64],
    places: P,
    signs: __m256i,
}

impl<P: Places, const WEIGHTS: usize> Weights for Signed<'_, P, WEIGHTS> {
    #[inline(always)]
    unsafe fn add<M: Multiply>(&self, sums: __m256i, x: *const u8, i: usize) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe {
            let sizes = entries::<WEIGHTS>(self.table, &self.places, i);
            M::add_signed(sums, sizes, signs_of(self.signs, i), at(x, i))
        }
    }
}

/// Fours of sums, see [`fours`], of integers of `BITS` bits as bytes with a sign make them.
#[inline(always)]
unsafe fn fours_of<M: Multiply, const BITS: u32>(sums: [__m256i; 4]) -> __m256i {
    // SAFETY: AVX2.
    unsafe { if M::SIGNED { fours::<BITS>(sums) } else { fours::<17>(sums) } }
}

/// The sums of a block's groups of 32.
#[inline(always)]
unsafe fn of_32<M: Multiply, const BITS: u32>(weights: &impl Weights, x: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [_mm256_setzero_si256(); 4];
        for i in 0..4 {
            let first = weights.add::<M>(sums[i], x, 2 * i);
            sums[i] = M::total(weights.add::<M>(first, x, 2 * i + 1));
        }
        // Vectors 2i and 2i + 1 are groups 0 and 2, 1 and 3, 4 and 6, 5 and 7.
        _mm256_permute4x64_epi64::<0xd8>(fours_of::<M, BITS>(sums))
    }
}

/// The sums of a block's groups of 16.
#[inline(always)]
unsafe fn of_16<M: Multiply, const BITS: u32>(weights: &impl Weights, x: *const u8) -> Words {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 4]; 2];
        for i in 0..8 {
            sums[i / 4][i % 4] = M::total(weights.add::<M>(_mm256_setzero_si256(), x, i));
        }
        // Vector i is groups i and 4 + i, and behind them 8 + i and 12 + i.
        Words(fours_of::<M, BITS>(sums[0]), fours_of::<M, BITS>(sums[1]))
    }
}

/// Bytes of four groups, or of what has as many bytes, into the order of vectors.
#[inline(always)]
unsafe fn in_order(bytes: __m256i) -> __m256i {
    // SAFETY: AVX2.
    unsafe { _mm256_permute4x64_epi64::<0xd8>(bytes) }
}

/// Eight signs in each byte, where seven are in its lower bits: the eighth makes their number even.
#[inline(always)]
unsafe fn all_signs(seven: __m256i) -> __m256i {
    // SAFETY: AVX2.
    unsafe {
        // The parity of four bits, at the highest.
        let odd =
            _mm256_broadcastsi128_si256(_mm_set_epi64x(0x0080_8000_8000_0080, 0x8000_0080_0080_8000_u64.cast_signed()));
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(seven), _mm256_set1_epi8(7));
        let parity = _mm256_xor_si256(_mm256_shuffle_epi8(odd, seven), _mm256_shuffle_epi8(odd, high));
        _mm256_or_si256(seven, parity)
    }
}

/// All signs of four entries, of seven bits of each from the lowest bit of a word on.
#[inline(always)]
unsafe fn four_signs(words: __m256i) -> __m256i {
    // SAFETY: AVX2.
    unsafe {
        let low = _mm256_and_si256(words, _mm256_set1_epi32(0x3fff));
        let high = _mm256_and_si256(_mm256_slli_epi32::<2>(words), _mm256_set1_epi32(0x3fff_0000));
        let both = _mm256_or_si256(low, high);
        let even = _mm256_and_si256(both, _mm256_set1_epi16(0x7f));
        let odd = _mm256_and_si256(_mm256_slli_epi16::<1>(both), _mm256_set1_epi16(0x7f00));
        all_signs(_mm256_or_si256(even, odd))
    }
}

/// `d · (scale + ½) · factor`
#[inline(always)]
unsafe fn halved(d: Avx2, scales: Avx2, factor: f32) -> [Avx2; 2] {
    // SAFETY: AVX2.
    unsafe { only(d.mul(Avx2::splat(0.5).add(scales)).mul(Avx2::splat(factor))) }
}

/// `d · (1 + 2 · scale)`
#[inline(always)]
unsafe fn odd(d: Avx2, scales: Words) -> Avx2 {
    // SAFETY: AVX2.
    unsafe {
        let one = _mm256_set1_epi32(1);
        let (a, b) = (_mm256_add_epi32(scales.0, scales.0), _mm256_add_epi32(scales.1, scales.1));
        d.mul(Words(_mm256_add_epi32(a, one), _mm256_add_epi32(b, one)).to_f32())
    }
}

/// The f16 that each of two blocks has at an address.
#[inline(always)]
unsafe fn two_f16(a: *const u8, b: *const u8) -> Avx2 {
    // SAFETY: AVX2 with F16C, and two bytes at each.
    unsafe { Avx2(f16(a), f16(b)) }
}

/// The upper four bits of each lane.
#[inline(always)]
unsafe fn top(a: __m256i, b: __m256i) -> Avx2 {
    // SAFETY: AVX2.
    unsafe { Avx2(_mm256_cvtepi32_ps(_mm256_srli_epi32::<28>(a)), _mm256_cvtepi32_ps(_mm256_srli_epi32::<28>(b))) }
}

/// Sixteen times four bits, the lowest first, a byte to each.
#[inline(always)]
unsafe fn nibbles(of: u64) -> __m128i {
    // SAFETY: AVX2.
    unsafe {
        let of = _mm_cvtsi64_si128(of.cast_signed());
        _mm_and_si128(_mm_unpacklo_epi8(of, _mm_srli_epi16::<4>(of)), _mm_set1_epi8(15))
    }
}

/// What a block of IQ2_XXS has beside its entries: a word of each group, in the order of vectors.
#[inline(always)]
unsafe fn odd_words(w: *const u8) -> __m256i {
    // SAFETY: AVX2, and the block at `w`.
    unsafe {
        let (a, b) = (_mm256_castsi256_ps(load(w.add(2))), _mm256_castsi256_ps(load(w.add(34))));
        _mm256_castps_si256(_mm256_shuffle_ps::<0xdd>(a, b))
    }
}

#[inline(always)]
unsafe fn iq2_xxs(w: *const u8) -> Signed<'static, OfBytes<4>, 8> {
    // SAFETY: AVX2, and the block at `w`.
    unsafe { Signed { table: &IQ2_XXS, places: OfBytes(w.add(2)), signs: four_signs(odd_words(w)) } }
}

impl Unit for Iq2Xxs {
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
            let (a, b) = (iq2_xxs(w), iq2_xxs(w.add(66)));
            Words(of_32::<M, 16>(&a, x), of_32::<M, 16>(&b, x.add(256)))
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [Avx2; 2] {
        // SAFETY: as above.
        unsafe {
            let (a, b) = (w, w.add(66));
            halved(two_f16(a, b), top(in_order(odd_words(a)), in_order(odd_words(b))), 0.25)
        }
    }
}

impl Unit for Iq2Xs {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn arrange(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { arrange_block(x) }
    }
    #[inline(always)]
    unsafe fn dots<M: Multiply>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: as above.
        unsafe {
            let q = [load(w.add(2)), load(w.add(34))];
            let signs = all_signs(_mm256_packus_epi16(_mm256_srli_epi16::<9>(q[0]), _mm256_srli_epi16::<9>(q[1])));
            let nine = _mm256_set1_epi16(511);
            let places = OfWords([_mm256_and_si256(q[0], nine), _mm256_and_si256(q[1], nine)]);
            let weights = Signed::<_, 8> { table: &IQ2_XS, places, signs };
            weights.places.hide();
            of_16::<M, 15>(&weights, x)
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [Avx2; 2] {
        // SAFETY: as above.
        unsafe { halved(two_f16(w, w), whole::<false>(nibbles(w.add(66).cast::<u64>().read_unaligned())), 0.25) }
    }
}

/// Places of 32 entries whose lower eight bits are at `low`. Above them are bits of `mask` of sixteen bytes at `high`, which `table`
/// moves to words and `factors` to where they belong.
#[inline(always)]
unsafe fn with_bits(low: *const u8, high: __m256i, table: &[[u8; 32]; 2], factors: i64, mask: i16) -> OfWords<2> {
    // SAFETY: AVX2, and 32 bytes at `low`.
    unsafe {
        let (factors, mask) = (_mm256_set1_epi64x(factors), _mm256_set1_epi16(mask));
        let mut places = [_mm256_setzero_si256(); 2];
        for i in 0..2 {
            let low = _mm256_cvtepu8_epi16(_mm_loadu_si128(low.add(16 * i).cast()));
            let high = _mm256_mullo_epi16(_mm256_shuffle_epi8(high, load(table[i].as_ptr())), factors);
            places[i] = _mm256_or_si256(low, _mm256_and_si256(high, mask));
        }
        OfWords(places)
    }
}

/// For entries 16i and those behind it, `PER` of which share a byte, that byte as a word.
const fn shared<const PER: usize>() -> [[u8; 32]; 2] {
    let (mut all, mut entry) = ([[0x80; 32]; 2], 0);
    while entry < 32 {
        all[entry / 16][entry % 16 * 2] = (entry / PER) as u8;
        entry += 1;
    }
    all
}

/// 16 bytes in both halves.
#[inline(always)]
unsafe fn twice(from: *const u8) -> __m256i {
    // SAFETY: AVX2, and 16 bytes there.
    unsafe { two(from, from) }
}

impl Unit for Iq2S {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn arrange(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { arrange_block(x) }
    }
    #[inline(always)]
    unsafe fn dots<M: Multiply>(w: *const u8, x: *const u8) -> Words {
        static FOURS: [[u8; 32]; 2] = shared::<4>();
        // SAFETY: as above.
        unsafe {
            // Eight bytes of pairs of bits, and the scales.
            let (high, signs) = (twice(w.add(66)), in_order(load(w.add(34))));
            let places = with_bits(w.add(2), high, &FOURS, 0x0004_0010_0040_0100, 0x300);
            let weights = Signed::<_, 8> { table: &IQ2_S, places, signs };
            weights.places.hide();
            of_16::<M, 15>(&weights, x)
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [Avx2; 2] {
        // SAFETY: as above.
        unsafe { halved(two_f16(w, w), whole::<false>(nibbles(w.add(74).cast::<u64>().read_unaligned())), 0.25) }
    }
}

#[inline(always)]
unsafe fn iq3_xxs(w: *const u8) -> Signed<'static, OfBytes<8>, 4> {
    // SAFETY: AVX2, and the block at `w`.
    unsafe { Signed { table: &IQ3_XXS, places: OfBytes(w.add(2)), signs: four_signs(in_order(load(w.add(66)))) } }
}

impl Unit for Iq3Xxs {
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
            let (a, b) = (iq3_xxs(w), iq3_xxs(w.add(98)));
            Words(of_32::<M, 16>(&a, x), of_32::<M, 16>(&b, x.add(256)))
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [Avx2; 2] {
        // SAFETY: as above.
        unsafe {
            let (a, b) = (w, w.add(98));
            halved(two_f16(a, b), top(load(a.add(66)), load(b.add(66))), 0.5)
        }
    }
}

#[inline(always)]
unsafe fn iq3_s(w: *const u8) -> Signed<'static, OfWords<4>, 4> {
    // SAFETY: AVX2, and the block at `w`.
    unsafe {
        let each = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, i16::MIN);
        let mut places = [_mm256_setzero_si256(); 4];
        for i in 0..4 {
            let low = _mm256_cvtepu8_epi16(_mm_loadu_si128(w.add(2 + 16 * i).cast()));
            let bits = _mm256_set1_epi16(w.add(66 + 2 * i).cast::<i16>().read_unaligned());
            let ninth = _mm256_cmpeq_epi16(_mm256_and_si256(bits, each), each);
            places[i] = _mm256_or_si256(low, _mm256_and_si256(ninth, _mm256_set1_epi16(256)));
        }
        Signed { table: &IQ3_S, places: OfWords(places), signs: in_order(load(w.add(74))) }
    }
}

impl Unit for Iq3S {
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
            let (a, b) = (iq3_s(w), iq3_s(w.add(110)));
            a.places.hide();
            b.places.hide();
            Words(of_32::<M, 16>(&a, x), of_32::<M, 16>(&b, x.add(256)))
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [Avx2; 2] {
        // SAFETY: as above.
        unsafe {
            let (a, b) = (w, w.add(110));
            let both = [a, b].map(|w| u64::from(w.add(106).cast::<u32>().read_unaligned()));
            let scales = nibbles(both[0] | both[1] << 32);
            let scales = Words(_mm256_cvtepu8_epi32(scales), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(scales)));
            only(odd(two_f16(a, b), scales))
        }
    }
}
