//! AVX2 with FMA and F16C: sixteen lanes in two vectors.

// A tile is indexed by column of fixed number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::hint::black_box;
use std::sync::LazyLock;

use super::affine::{Bytes, Ints};
use super::many::NoTiles;
use super::tile::{Lanes, kernels_of};
use super::{Dots, UnpackedDots, ymm};
use crate::quant::coded::Rows;

/// Two vectors side by side: two chains of multiply-adds for an output, so that a single row is read as fast as the
/// memory gives it.
#[derive(Clone, Copy)]
pub(super) struct Avx2(pub(super) __m256, pub(super) __m256);

impl Lanes for Avx2 {
    const N: usize = 16;
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller has AVX2, here and below.
        unsafe { Self::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: AVX2.
        unsafe { Avx2(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const u8) -> Self {
        // SAFETY: AVX2, and sixteen f32 there.
        unsafe { Avx2(_mm256_loadu_ps(from.cast()), _mm256_loadu_ps(from.add(32).cast())) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: F16C, and sixteen f16 there.
        unsafe {
            let (low, high) = (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(16).cast()));
            Avx2(_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: AVX2, and sixteen bf16 there.
        unsafe {
            let (low, high) = (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(16).cast()));
            Avx2(widen_bf16(low), widen_bf16(high))
        }
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut u8) {
        // SAFETY: AVX2, and room for sixteen f32 there.
        unsafe {
            _mm256_storeu_ps(to.cast(), self.0);
            _mm256_storeu_ps(to.add(32).cast(), self.1);
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u8) {
        // SAFETY: F16C, and room for sixteen f16 there.
        unsafe {
            _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0));
            _mm_storeu_si128(to.add(16).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.1));
        }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: FMA.
        unsafe { Avx2(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: AVX2.
        unsafe { Avx2(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: AVX2.
        unsafe { Avx2(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn sums([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        // SAFETY: AVX2.
        unsafe {
            sums_of_four([
                _mm256_add_ps(a.0, a.1),
                _mm256_add_ps(b.0, b.1),
                _mm256_add_ps(c.0, c.1),
                _mm256_add_ps(d.0, d.1),
            ])
        }
    }
    #[inline(always)]
    unsafe fn twice(self) -> Self {
        // SAFETY: AVX2.
        unsafe {
            let (low, high) = (_mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3), _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7));
            Avx2(_mm256_permutevar8x32_ps(self.0, low), _mm256_permutevar8x32_ps(self.0, high))
        }
    }
    #[inline(always)]
    fn ahead() -> usize {
        ahead_on_intel().unwrap_or(0)
    }
}

/// Sixteen integers in two vectors.
#[derive(Clone, Copy)]
pub(super) struct Words(pub(super) __m256i, pub(super) __m256i);

/// Whether Intel made the processor.
pub(super) fn is_intel() -> bool {
    static IS_INTEL: LazyLock<bool> = LazyLock::new(|| {
        let maker = __cpuid(0);
        [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
    });
    *IS_INTEL
}

/// [`Ints::ahead`] and [`Lanes::ahead`] there, for vectors of any width: measured on Sapphire Rapids.
pub(super) fn ahead_on_intel() -> Option<usize> {
    is_intel().then_some(4096)
}

impl Ints for Words {
    type F = Avx2;
    const WORDS: usize = 8;
    #[inline(always)]
    unsafe fn splat(value: i32) -> Self {
        // SAFETY: the caller has AVX2, here and below.
        unsafe { Words(_mm256_set1_epi32(value), _mm256_set1_epi32(value)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: AVX2, and sixteen integers there.
        unsafe { Words(_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: AVX2, and room for sixteen integers there.
        unsafe {
            _mm256_storeu_si256(to.cast(), self.0);
            _mm256_storeu_si256(to.add(32).cast(), self.1);
        }
    }
    #[inline(always)]
    unsafe fn and(self, other: Self) -> Self {
        // SAFETY: AVX2.
        unsafe { Words(_mm256_and_si256(self.0, other.0), _mm256_and_si256(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        // SAFETY: AVX2.
        unsafe { Words(_mm256_or_si256(self.0, other.0), _mm256_or_si256(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: AVX2.
        unsafe { Words(_mm256_xor_si256(self.0, other.0), _mm256_xor_si256(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: AVX2.
        unsafe { Words(_mm256_add_epi32(self.0, other.0), _mm256_add_epi32(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn shl(self, bits: u32) -> Self {
        // SAFETY: AVX2.
        unsafe {
            let bits = _mm256_set1_epi32(bits as i32);
            Words(_mm256_sllv_epi32(self.0, bits), _mm256_sllv_epi32(self.1, bits))
        }
    }
    #[inline(always)]
    unsafe fn shr(self, bits: u32) -> Self {
        // SAFETY: AVX2.
        unsafe {
            let bits = _mm256_set1_epi32(bits as i32);
            Words(_mm256_srlv_epi32(self.0, bits), _mm256_srlv_epi32(self.1, bits))
        }
    }
    #[inline(always)]
    unsafe fn to_f32(self) -> Avx2 {
        // SAFETY: AVX2.
        unsafe { Avx2(_mm256_cvtepi32_ps(self.0), _mm256_cvtepi32_ps(self.1)) }
    }
    #[inline(always)]
    unsafe fn as_f32(self) -> Avx2 {
        // SAFETY: AVX2.
        unsafe { Avx2(_mm256_castsi256_ps(self.0), _mm256_castsi256_ps(self.1)) }
    }
    #[inline(always)]
    unsafe fn lower_f16(self) -> Avx2 {
        // SAFETY: AVX2 with F16C. Halves of each quarter are side by side, and quarters are put in order.
        unsafe {
            let low = _mm256_set1_epi32(0xffff);
            let halves = _mm256_packus_epi32(_mm256_and_si256(self.0, low), _mm256_and_si256(self.1, low));
            let halves = _mm256_permute4x64_epi64::<0xd8>(halves);
            Avx2(
                _mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
                _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves)),
            )
        }
    }
    #[inline(always)]
    unsafe fn look_up(self, table: &[u8; 16]) -> Self {
        // SAFETY: AVX2.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            Words(_mm256_shuffle_epi8(table, self.0), _mm256_shuffle_epi8(table, self.1))
        }
    }
    #[inline(always)]
    unsafe fn unzip(self, other: Self) -> (Self, Self) {
        // SAFETY: AVX2.
        unsafe {
            let ((a, b), (c, d)) = (unzip(self), unzip(other));
            (Words(a, c), Words(b, d))
        }
    }
    #[inline(always)]
    fn ahead() -> usize {
        ahead_on_intel().unwrap_or(1024)
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: a hint, which never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn transposed(rows: &[*const u8; 16], words: usize) -> [Self; 16] {
        // SAFETY: as many words at each address, the caller's promise.
        unsafe {
            let (low, high) = (transposed(&rows[..8], words), transposed(&rows[8..], words));
            let mut columns = [Words::splat(0); 16];
            for i in 0..8 {
                columns[i] = Words(low[i], high[i]);
            }
            columns
        }
    }
}

/// Up to eight words of each of eight rows: vector i holds the i-th of each.
#[inline(always)]
unsafe fn transposed(rows: &[*const u8], words: usize) -> [__m256i; 8] {
    // SAFETY: AVX2; where there are fewer words than 8, the others are masked and not read.
    unsafe {
        let (a, b) = (of_four(&rows[..4], words), of_four(&rows[4..], words));
        let mut columns = [_mm256_setzero_si256(); 8];
        for i in 0..4 {
            columns[i] = _mm256_permute2x128_si256::<0x20>(a[i], b[i]);
            columns[4 + i] = _mm256_permute2x128_si256::<0x31>(a[i], b[i]);
        }
        columns
    }
}

/// The first words at an address, of eight.
#[inline(always)]
pub(super) unsafe fn some_words(from: *const u8, words: usize) -> __m256i {
    // SAFETY: AVX2, and as many words there: others are masked and not read.
    unsafe {
        if words == 8 {
            return _mm256_loadu_si256(from.cast());
        }
        let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(words as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        _mm256_maskload_epi32(from.cast(), mask)
    }
}

/// Four rows' first words: their words 4i + j lie in half i of vector j.
#[inline(always)]
unsafe fn of_four(rows: &[*const u8], words: usize) -> [__m256i; 4] {
    // SAFETY: AVX2, and as many words at each address.
    unsafe {
        let (a, b) = (some_words(rows[0], words), some_words(rows[1], words));
        let (c, d) = (some_words(rows[2], words), some_words(rows[3], words));
        let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab, cd),
            _mm256_unpackhi_epi64(ab, cd),
            _mm256_unpacklo_epi64(ab_high, cd_high),
            _mm256_unpackhi_epi64(ab_high, cd_high),
        ]
    }
}

/// `vpmaddubsw` multiplies bytes and adds pairs in 16 bits. They hold eight pairs of products with weights of four bits,
/// four with five, two with six. Eight bits are multiplied as q - 128, its size unsigned and its sign moved to the
/// activation: 2 · 128 · 127 just fits.
pub(super) struct InPairs;

impl Bytes for InPairs {
    type I = Words;
    type Tiles = NoTiles;
    const SIGNED: bool = true;
    #[inline(always)]
    fn knows_rows(_bits: usize) -> bool {
        true
    }
    #[inline(always)]
    unsafe fn arrange<const BITS: usize>(x: *mut u8) {
        // SAFETY: AVX2, and sixteen blocks at `x`.
        unsafe {
            match BITS {
                2 => {
                    for i in 0..4 {
                        crumb_planes(x.add(128 * i));
                    }
                }
                4 => {
                    for i in 0..8 {
                        nibble_planes(x.add(64 * i));
                    }
                }
                _ => {}
            }
        }
    }
    #[inline(always)]
    unsafe fn row<const BITS: usize, const HALF: bool>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: AVX2, and eight blocks at each address, or sixteen.
        unsafe {
            let low = eight::<BITS>(w, x);
            Words(low, if HALF { _mm256_setzero_si256() } else { eight::<BITS>(w.add(32 * BITS), x.add(256)) })
        }
    }
    #[inline(always)]
    unsafe fn bytes<const BITS: usize>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: AVX2, and sixteen blocks of bytes at each address.
        unsafe {
            let ([a, b], [c, d]) = (eight_of_bytes::<BITS>(w, x), eight_of_bytes::<BITS>(w.add(256), x.add(256)));
            Words(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d))
        }
    }
    #[inline(always)]
    unsafe fn halves<const BITS: usize>(w: *const u8, x: *const u8) -> [Words; 2] {
        // SAFETY: as above.
        unsafe { [in_turn(eight_of_bytes::<BITS>(w, x)), in_turn(eight_of_bytes::<BITS>(w.add(256), x.add(256)))] }
    }
    #[inline(always)]
    unsafe fn units(d: &UnpackedDots) -> bool {
        // SAFETY: AVX2, FMA and F16C, and the rest is the caller's promise.
        unsafe { ymm::dots::<ymm::Pairs>(d) }
    }
    #[inline(always)]
    unsafe fn e4m3(d: &Dots, rows: &Rows) -> bool {
        // SAFETY: as above.
        unsafe { ymm::e4m3::dots(d, rows) }
    }
    #[inline(always)]
    unsafe fn words<const BITS: usize, const WORDS: usize, const C: usize>(
        w: *const u8,
        x: *const u8,
        rows: &[usize; C],
    ) -> [Words; C] {
        let words = match BITS {
            2..=4 => WORDS,
            5 => 4,
            6 => 2,
            _ => 1,
        };
        let in_loop = words > 1 && words < WORDS;
        // SAFETY: AVX2, the words at `w`, and as many activations of each row.
        unsafe {
            let one = _mm256_set1_epi16(1);
            let mut dots = [Words::splat(0); C];
            let (mut first, end) = (0, if in_loop { black_box(WORDS) } else { WORDS });
            while first < end {
                let sums = words_of_block::<BITS, C>(w, x, rows, first, words);
                for j in 0..C {
                    dots[j].0 = _mm256_add_epi32(dots[j].0, _mm256_madd_epi16(sums[j].0, one));
                    dots[j].1 = _mm256_add_epi32(dots[j].1, _mm256_madd_epi16(sums[j].1, one));
                }
                first += words;
            }
            dots
        }
    }
}

/// Some words' products, added in 16 bits. Loops over words hide how often they run: a compiler that knows keeps a whole
/// block of weights in registers that do not exist.
#[inline(always)]
unsafe fn words_of_block<const BITS: usize, const C: usize>(
    w: *const u8,
    x: *const u8,
    rows: &[usize; C],
    first: usize,
    words: usize,
) -> [Words; C] {
    // SAFETY: AVX2, and the rest is the caller's promise.
    unsafe {
        let half = _mm256_set1_epi8(-128);
        let mut sums = [Words::splat(0); C];
        let end = if words > 2 { black_box(first + words) } else { first + words };
        for word in first..end {
            let mut w = Words::load(w.add(64 * word));
            if BITS == 8 {
                w = Words(_mm256_xor_si256(w.0, half), _mm256_xor_si256(w.1, half));
            }
            for j in 0..C {
                let x = _mm256_set1_epi32(x.add(rows[j] + 4 * word).cast::<i32>().read_unaligned());
                sums[j].0 = _mm256_add_epi16(sums[j].0, products::<BITS>(w.0, x));
                sums[j].1 = _mm256_add_epi16(sums[j].1, products::<BITS>(w.1, x));
            }
        }
        sums
    }
}

/// Pairs of products, in 16 bits. Weights of eight bits are signed.
#[inline(always)]
unsafe fn products<const BITS: usize>(w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: AVX2.
    unsafe {
        if BITS == 8 {
            _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
        } else {
            _mm256_maddubs_epi16(w, x)
        }
    }
}

/// The even lanes of both halves, and the odd ones.
#[inline(always)]
unsafe fn unzip(v: Words) -> (__m256i, __m256i) {
    // SAFETY: AVX2.
    unsafe {
        let Avx2(low, high) = v.as_f32();
        let even = _mm256_castps_si256(_mm256_shuffle_ps::<0x88>(low, high));
        let odd = _mm256_castps_si256(_mm256_shuffle_ps::<0xdd>(low, high));
        (_mm256_permute4x64_epi64::<0xd8>(even), _mm256_permute4x64_epi64::<0xd8>(odd))
    }
}

/// The lanes of two vectors, one of each in turn.
#[inline(always)]
pub(super) unsafe fn in_turn([first, second]: [__m256i; 2]) -> Words {
    // SAFETY: AVX2.
    unsafe {
        let (low, high) = (_mm256_unpacklo_epi32(first, second), _mm256_unpackhi_epi32(first, second));
        Words(_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high))
    }
}

/// Two blocks of activations: what the lower nibbles of a vector of weights are multiplied with, and what the upper.
///
/// # Safety
/// The machine has AVX2, and the blocks are at `x`.
#[inline(always)]
pub(super) unsafe fn nibble_planes(x: *mut u8) {
    // SAFETY: AVX2, and 64 bytes at `x`.
    unsafe {
        let (first, second) = (_mm256_loadu_si256(x.cast()), _mm256_loadu_si256(x.add(32).cast()));
        _mm256_storeu_si256(x.cast(), _mm256_permute2x128_si256::<0x20>(first, second));
        _mm256_storeu_si256(x.add(32).cast(), _mm256_permute2x128_si256::<0x31>(first, second));
    }
}

/// Four blocks of activations: what the lowest two bits of all bytes are multiplied with, the next, and so on; eight bytes of
/// each block.
#[inline(always)]
unsafe fn crumb_planes(x: *mut u8) {
    // SAFETY: AVX2, and 128 bytes at `x`.
    unsafe {
        let (a, b) = (_mm256_loadu_si256(x.cast()), _mm256_loadu_si256(x.add(32).cast()));
        let (c, d) = (_mm256_loadu_si256(x.add(64).cast()), _mm256_loadu_si256(x.add(96).cast()));
        let (even, odd) = (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
        let (even_high, odd_high) = (_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
        _mm256_storeu_si256(x.cast(), _mm256_permute2x128_si256::<0x20>(even, even_high));
        _mm256_storeu_si256(x.add(32).cast(), _mm256_permute2x128_si256::<0x20>(odd, odd_high));
        _mm256_storeu_si256(x.add(64).cast(), _mm256_permute2x128_si256::<0x31>(even, even_high));
        _mm256_storeu_si256(x.add(96).cast(), _mm256_permute2x128_si256::<0x31>(odd, odd_high));
    }
}

/// Eight blocks of a weight row times those of an activation row, arranged: lane b holds the dot product of block b.
#[inline(always)]
unsafe fn eight<const BITS: usize>(w: *const u8, x: *const u8) -> __m256i {
    // SAFETY: AVX2, and eight blocks at each address: the caller's promise.
    unsafe {
        match BITS {
            2 => eight_of_crumbs(w, x),
            4 => eight_of_nibbles(w, x),
            8 => {
                let [first, second] = eight_of_bytes::<8>(w, x);
                _mm256_add_epi32(first, second)
            }
            _ => {
                let mut sums = [_mm256_setzero_si256(); 8];
                let one = _mm256_set1_epi16(1);
                for b in 0..8 {
                    let x = _mm256_loadu_si256(x.add(32 * b).cast());
                    sums[b] = _mm256_madd_epi16(products::<BITS>(spread::<BITS>(w.add(4 * BITS * b)), x), one);
                }
                let [first, second] = sums_of_eight(sums);
                _mm256_add_epi32(first, second)
            }
        }
    }
}

/// The dot products of eight blocks of bytes with those of activations: of each block's first half, and of its second.
#[inline(always)]
unsafe fn eight_of_bytes<const BITS: usize>(w: *const u8, x: *const u8) -> [__m256i; 2] {
    // SAFETY: AVX2, and eight blocks at each address: the caller's promise.
    unsafe {
        let mut sums = [_mm256_setzero_si256(); 8];
        let one = _mm256_set1_epi16(1);
        for b in 0..8 {
            let mut w = _mm256_loadu_si256(w.add(32 * b).cast());
            if BITS == 8 {
                w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
            }
            sums[b] = _mm256_madd_epi16(products::<BITS>(w, _mm256_loadu_si256(x.add(32 * b).cast())), one);
        }
        sums_of_eight(sums)
    }
}

/// Of four bits: a vector holds two blocks. The products of four are added up to pairs in 16 bits, which hold 16 of them.
#[inline(always)]
unsafe fn eight_of_nibbles(w: *const u8, x: *const u8) -> __m256i {
    // SAFETY: AVX2, 128 bytes at `w` and 256 at `x`.
    unsafe {
        let nibble = _mm256_set1_epi8(15);
        let mut sums = [_mm256_setzero_si256(); 4];
        for i in 0..4 {
            let w = _mm256_loadu_si256(w.add(32 * i).cast());
            let x = x.add(64 * i);
            let low = _mm256_maddubs_epi16(_mm256_and_si256(w, nibble), _mm256_loadu_si256(x.cast()));
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(w), nibble);
            sums[i] = _mm256_add_epi16(low, _mm256_maddubs_epi16(high, _mm256_loadu_si256(x.add(32).cast())));
        }
        let [a, b, c, d] = sums;
        let ab = _mm256_add_epi16(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let cd = _mm256_add_epi16(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        let sum = _mm256_add_epi16(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
        // Lane i of half h is block 2i + h.
        let blocks = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
        _mm256_permutevar8x32_epi32(blocks, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
    }
}

/// Of two bits: a vector holds four blocks.
#[inline(always)]
unsafe fn eight_of_crumbs(w: *const u8, x: *const u8) -> __m256i {
    // SAFETY: AVX2, 64 bytes at `w` and 256 at `x`.
    unsafe {
        let crumb = _mm256_set1_epi8(3);
        let mut sums = [_mm256_setzero_ps(); 2];
        for i in 0..2 {
            let w = _mm256_loadu_si256(w.add(32 * i).cast());
            let mut xs = [_mm256_setzero_si256(); 4];
            for plane in 0..4 {
                xs[plane] = _mm256_loadu_si256(x.add(128 * i + 32 * plane).cast());
            }
            let lowest = _mm256_maddubs_epi16(_mm256_and_si256(w, crumb), xs[0]);
            let second = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<2>(w), crumb), xs[1]);
            let third = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<4>(w), crumb), xs[2]);
            let last = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<6>(w), crumb), xs[3]);
            let sum = _mm256_add_epi16(_mm256_add_epi16(lowest, second), _mm256_add_epi16(third, last));
            sums[i] = _mm256_castsi256_ps(sum);
        }
        let even = _mm256_castps_si256(_mm256_shuffle_ps::<0x88>(sums[0], sums[1]));
        let odd = _mm256_castps_si256(_mm256_shuffle_ps::<0xdd>(sums[0], sums[1]));
        // Lanes 2i and 2i + 1 of half h are blocks 4i + 2h and the next.
        let blocks = _mm256_madd_epi16(_mm256_add_epi16(even, odd), _mm256_set1_epi16(1));
        _mm256_permutevar8x32_epi32(blocks, _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7))
    }
}

/// A block of 3, 5 or 6 bits, each weight in a byte of its own. Two neighbours lie in two bytes: these are moved to 16 bits,
/// and by a multiplication to the top of them.
#[inline(always)]
pub(super) unsafe fn spread<const BITS: usize>(row: *const u8) -> __m256i {
    // SAFETY: AVX2, and 4 · BITS bytes at `row`, of which nothing behind them is read.
    unsafe {
        let halves = if BITS == 3 {
            _mm256_broadcastsi128_si256(_mm_insert_epi32::<2>(
                _mm_loadl_epi64(row.cast()),
                row.add(8).cast::<i32>().read_unaligned(),
            ))
        } else {
            _mm256_loadu2_m128i(row.add(4 * BITS - 16).cast(), row.cast())
        };
        let fields = const { Fields::of(BITS) };
        let pairs = _mm256_shuffle_epi8(halves, _mm256_loadu_si256(fields.bytes.as_ptr().cast()));
        let pairs = _mm256_mullo_epi16(pairs, _mm256_loadu_si256(fields.factors.as_ptr().cast()));
        let mask = (1 << BITS) - 1;
        let first = _mm256_srl_epi16(pairs, _mm_cvtsi32_si128(16 - 2 * BITS as i32));
        let second = _mm256_srl_epi16(pairs, _mm_cvtsi32_si128(8 - BITS as i32));
        let first = _mm256_and_si256(first, _mm256_set1_epi16(mask));
        _mm256_or_si256(first, _mm256_and_si256(second, _mm256_set1_epi16(mask << 8)))
    }
}

/// Where the pairs of neighbours of a block begin, in the two halves that [`spread`] loads.
struct Fields {
    bytes: [u8; 32],
    factors: [u16; 16],
}

impl Fields {
    const fn of(bits: usize) -> Fields {
        let mut fields = Fields { bytes: [0; 32], factors: [0; 16] };
        let mut pair = 0;
        while pair < 16 {
            // Bits before the half's 16 weights: the upper half ends where the block does.
            let before = if pair < 8 {
                0
            } else if bits == 3 {
                48
            } else {
                128 - 16 * bits
            };
            let at = before + pair % 8 * 2 * bits;
            fields.bytes[2 * pair] = (at / 8) as u8;
            fields.bytes[2 * pair + 1] = (at / 8 + 1) as u8;
            fields.factors[pair] = 1 << (16 - 2 * bits - at % 8);
            pair += 1;
        }
        fields
    }
}

/// The sums of the four integers in the lower halves of eight vectors, and of those in the upper.
#[inline(always)]
pub(super) unsafe fn sums_of_eight(v: [__m256i; 8]) -> [__m256i; 2] {
    // SAFETY: AVX2.
    unsafe {
        let mut fours = [_mm256_setzero_si256(); 2];
        for half in 0..2 {
            let [a, b, c, d] = [v[4 * half], v[4 * half + 1], v[4 * half + 2], v[4 * half + 3]];
            let ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            fours[half] = _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
        }
        let [a, b] = fours;
        [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)]
    }
}

/// Eight bf16 as f32.
#[inline(always)]
unsafe fn widen_bf16(bits: __m128i) -> __m256 {
    // SAFETY: AVX2.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits))) }
}

/// The sums of four vectors: neighbours, pairs of neighbours, and the upper half onto the lower.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
pub(super) unsafe fn sums_of_four([a, b, c, d]: [__m256; 4]) -> [f32; 4] {
    // SAFETY: AVX2; the array has room for four f32.
    unsafe {
        let ab = _mm256_hadd_ps(a, b);
        let cd = _mm256_hadd_ps(c, d);
        let abcd = _mm256_hadd_ps(ab, cd);
        let sum = _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps::<1>(abcd));
        let mut sums = [0f32; 4];
        _mm_storeu_ps(sums.as_mut_ptr(), sum);
        sums
    }
}

// 2 × 3 pairs of accumulators and a pair of weights; activations come from memory.
kernels_of!(Avx2, dots: 2 by 3, by_one: 1, mix: 1, affine: InPairs, 4 by 1, 2, "avx2,fma,f16c");
