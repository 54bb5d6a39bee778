//! ggml's blocks as units, and of them the types with one scale for a block of 32, and IQ4.

// Lines are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::k_quants::six_bits;
use super::{
    GROUPS, Source, dot, four_times, halves, load, look_up, low_bits, product, quarters, rows, starts, two_f16,
    two_fields, upper,
};
use crate::cpu::isa::Dots;
use crate::cpu::isa::avx512::Avx512;
use crate::quant::coded::e2m1_table;
use crate::quant::ggml::types::{Iq4Nl, Iq4Xs, Mxfp4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
use crate::quant::ggml::{Block, IQ4_VALUES};

/// Sixteen groups of a type's blocks: see [`Source`].
///
/// # Safety
/// All functions: the machine has the instructions, and the blocks are at `w`.
pub(super) trait Unit: Block {
    /// Whether the other functions are there.
    const KNOWN: bool = false;
    /// See [`Source::arrange`].
    unsafe fn arrange(_x: *mut u8) {}
    /// See [`Source::dots`]; of u.
    unsafe fn dots(_w: *const u8, _x: *const u8) -> __m512i {
        unreachable!("no units of such blocks")
    }
    /// The scales and, if there are any, the mins.
    unsafe fn scales(_w: *const u8) -> [__m512; 2] {
        unreachable!("no units of such blocks")
    }
    /// Computes a product with one activation row of whole units.
    unsafe fn multiply(d: &Dots)
    where
        Self: Sized,
    {
        // SAFETY: the caller's promise.
        unsafe { rows(d, Blocks::<Self>::new(d)) }
    }
}

/// Rows of blocks.
pub(super) struct Blocks<T> {
    w: *const u8,
    stride: usize,
    of: PhantomData<T>,
}

impl<T: Block> Blocks<T> {
    pub(super) fn new(d: &Dots) -> Self {
        Blocks { w: d.w, stride: d.w_stride, of: PhantomData }
    }
}

impl<T: Unit> Source for Blocks<T> {
    type I = __m512i;
    const GROUP: usize = T::GROUP;
    const BYTES: usize = GROUPS * T::GROUP / T::WEIGHTS * T::BYTES;
    #[inline(always)]
    fn at(&self, row: usize, k: usize) -> *const u8 {
        self.w.wrapping_add(row * self.stride + k / T::WEIGHTS * T::BYTES)
    }
    #[inline(always)]
    unsafe fn arrange(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { T::arrange(x) }
    }
    #[inline(always)]
    unsafe fn dots(&self, row: usize, k: usize, x: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe { T::dots(self.at(row, k), x) }
    }
    #[inline(always)]
    unsafe fn scales(&self, row: usize, k: usize) -> [Avx512; 2] {
        // SAFETY: as above.
        unsafe { scales_and_biases::<T>(self.at(row, k)) }
    }
}

/// The scales and the biases.
#[inline(always)]
pub(super) unsafe fn scales_and_biases<T: Unit>(w: *const u8) -> [Avx512; 2] {
    // SAFETY: AVX-512, and the blocks at `w`.
    unsafe {
        let [scale, min] = T::scales(w);
        let bias = _mm512_mul_ps(scale, _mm512_set1_ps(f32::from(-i16::from(T::OFFSET))));
        let bias = match (T::MINS, T::OFFSET) {
            (true, 0) => negative(min),
            (true, _) => _mm512_sub_ps(bias, min),
            (false, _) => bias,
        };
        [Avx512(scale), Avx512(bias)]
    }
}

/// The q's of four blocks from block `4i` on: sixteen bytes of each.
#[inline(always)]
unsafe fn line<T: Block>(w: *const u8, i: usize, at: usize) -> __m512i {
    // SAFETY: AVX-512, and the blocks at `w`.
    unsafe {
        let w = w.add(4 * i * T::BYTES + at);
        let (a, b) = (_mm_loadu_si128(w.cast()), _mm_loadu_si128(w.add(T::BYTES).cast()));
        let (c, d) = (_mm_loadu_si128(w.add(2 * T::BYTES).cast()), _mm_loadu_si128(w.add(3 * T::BYTES).cast()));
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(_mm256_set_m128i(b, a)), _mm256_set_m128i(d, c))
    }
}

/// A number of binary16 of each of sixteen blocks, byte `AT` of each and the next.
#[inline(always)]
unsafe fn each_f16<T: Block, const AT: usize>(w: *const u8) -> __m512 {
    // SAFETY: AVX-512, and the blocks at `w`.
    unsafe {
        let spans = const { Spans::of(T::BYTES, AT) };
        let mut halves = _mm256_setzero_si256();
        for span in &spans.0 {
            if span.lanes != 0 {
                let (first, second) = (load(w.add(span.start)), load(w.add(span.start + 64)));
                let places = load(span.places.as_ptr().cast());
                let found = _mm512_castsi512_si256(_mm512_permutex2var_epi16(first, places, second));
                halves = _mm256_mask_blend_epi16(span.lanes, halves, found);
            }
        }
        _mm512_cvtph_ps(halves)
    }
}

/// Two vectors of sixteen blocks, and which of their words are numbers that [`each_f16`] looks for.
#[derive(Clone, Copy)]
struct Span {
    /// The first byte.
    start: usize,
    /// A place for each block, of which those of some are asked for.
    places: [u16; 32],
    lanes: u16,
}

struct Spans([Span; 4]);

impl Spans {
    const BYTES: usize = 128;

    const fn of(block_bytes: usize, at: usize) -> Spans {
        // Pairs of blocks: lanes of 32 bits are chosen by an instruction that needs no mask.
        let blocks = ((Spans::BYTES - 2 - at) / block_bytes + 1) & !1;
        assert!(4 * blocks >= GROUPS && block_bytes.is_multiple_of(2) && at.is_multiple_of(2));
        let mut spans = [Span { start: 0, places: [0; 32], lanes: 0 }; 4];
        let mut block = 0;
        while block < GROUPS {
            let span = &mut spans[block / blocks];
            let (first, last) = (block / blocks * blocks * block_bytes, GROUPS * block_bytes - Spans::BYTES);
            span.start = if first < last { first } else { last };
            span.places[block] = ((block * block_bytes + at - span.start) / 2) as u16;
            span.lanes |= 1 << block;
            block += 1;
        }
        Spans(spans)
    }
}

/// Of a line of four groups, the lower four bits are the first halves' weights, the upper the second halves'.
#[inline(always)]
pub(super) unsafe fn arrange_lines(x: *mut u8) {
    // SAFETY: AVX-512, and 512 bytes at `x`.
    unsafe {
        for i in 0..4 {
            let x = x.add(128 * i);
            let (first, second) = (load(x), load(x.add(64)));
            _mm512_storeu_si512(x.cast(), _mm512_shuffle_i32x4::<0x88>(first, second));
            _mm512_storeu_si512(x.add(64).cast(), _mm512_shuffle_i32x4::<0xdd>(first, second));
        }
    }
}

/// The sums of a line that stands for what a table holds.
#[inline(always)]
pub(super) unsafe fn of_table(q: __m512i, table: &[u8; 64], x: *const u8, i: usize) -> __m512i {
    // SAFETY: the instructions, and the activations at `x`.
    unsafe { dot(product(look_up(q, table), x, 2 * i), look_up(upper(q), table), x, 2 * i + 1) }
}

/// The same of four bits as they are.
#[inline(always)]
unsafe fn of_bits(q: __m512i, x: *const u8, i: usize) -> __m512i {
    // SAFETY: as above.
    unsafe { dot(product(low_bits(q, 4), x, 2 * i), low_bits(upper(q), 4), x, 2 * i + 1) }
}

/// The same with a fifth bit: 32 of each block, sixteen for the lower and sixteen for the upper bits of the line, at the
/// beginning of each quarter of `fifth`.
#[inline(always)]
unsafe fn of_five_bits(q: __m512i, fifth: __m512i, x: *const u8, i: usize) -> __m512i {
    // SAFETY: as above.
    unsafe {
        let bits = _mm512_set1_epi64(0x8040_2010_0804_0201_u64.cast_signed());
        let first = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
        let second = _mm512_add_epi8(first, _mm512_set1_epi8(2));
        let low = _mm512_test_epi8_mask(_mm512_shuffle_epi8(fifth, first), bits);
        let high = _mm512_test_epi8_mask(_mm512_shuffle_epi8(fifth, second), bits);
        let (lower, upper, sixteen) = (low_bits(q, 4), low_bits(upper(q), 4), _mm512_set1_epi8(16));
        let lower = _mm512_mask_add_epi8(lower, low, lower, sixteen);
        let upper = _mm512_mask_add_epi8(upper, high, upper, sixteen);
        dot(product(lower, x, 2 * i), upper, x, 2 * i + 1)
    }
}

/// Makes a [`Unit`] of a type whose blocks of 32 are lines: where their q's begin, the sums of line `$i` and what bits these have,
/// and the scales.
macro_rules! lines {
    ($type:ty, q: $at:literal, |$w:ident, $q:ident, $x:ident, $i:ident| $sums:expr, $bits:literal, $scales:expr) => {
        impl Unit for $type {
            const KNOWN: bool = true;
            #[inline(always)]
            unsafe fn arrange(x: *mut u8) {
                // SAFETY: the caller's promise, here and below.
                unsafe { arrange_lines(x) }
            }
            #[inline(always)]
            unsafe fn dots($w: *const u8, $x: *const u8) -> __m512i {
                // SAFETY: as above.
                unsafe {
                    let mut sums = [_mm512_setzero_si512(); 4];
                    for $i in 0..4 {
                        let $q = line::<$type>($w, $i, $at);
                        sums[$i] = $sums;
                    }
                    quarters::<$bits>(sums)
                }
            }
            #[inline(always)]
            unsafe fn scales($w: *const u8) -> [__m512; 2] {
                // SAFETY: as above.
                unsafe { $scales }
            }
        }
    };
}

lines!(Q4_0, q: 2, |w, q, x, i| of_bits(q, x, i), 14, only(each_f16::<Q4_0, 0>(w)));
lines!(Q4_1, q: 4, |w, q, x, i| of_bits(q, x, i), 14, [each_f16::<Q4_1, 0>(w), negative(each_f16::<Q4_1, 2>(w))]);
lines!(Q5_0, q: 6, |w, q, x, i| of_five_bits(q, line::<Q5_0>(w, i, 2), x, i), 15, only(each_f16::<Q5_0, 0>(w)));
lines!(Q5_1, q: 8, |w, q, x, i| of_five_bits(q, line::<Q5_1>(w, i, 4), x, i), 15,
       [each_f16::<Q5_1, 0>(w), negative(each_f16::<Q5_1, 2>(w))]);
lines!(Iq4Nl, q: 2, |w, q, x, i| of_table(q, &IQ4_TABLE, x, i), 16, only(each_f16::<Iq4Nl, 0>(w)));
lines!(Mxfp4, q: 1, |w, q, x, i| of_table(q, &E2M1_TABLE, x, i), 15, only(halves_of_powers(w)));

static IQ4_TABLE: [u8; 64] = four_times(IQ4_VALUES);
pub(super) static E2M1_TABLE: [u8; 64] = four_times(e2m1_table());

/// Scales without mins.
#[inline(always)]
pub(super) unsafe fn only(scales: __m512) -> [__m512; 2] {
    // SAFETY: AVX-512.
    unsafe { [scales, _mm512_setzero_ps()] }
}

#[inline(always)]
unsafe fn negative(of: __m512) -> __m512 {
    // SAFETY: AVX-512.
    unsafe { _mm512_xor_ps(of, _mm512_set1_ps(-0.0)) }
}

/// Half of the power of two that each block begins with.
#[inline(always)]
unsafe fn halves_of_powers(w: *const u8) -> __m512 {
    // SAFETY: AVX-512, and the blocks at `w`.
    unsafe {
        let mut exponents = [0u8; GROUPS];
        for i in 0..GROUPS {
            exponents[i] = w.add(i * Mxfp4::BYTES).read();
        }
        let exponents = _mm512_cvtepu8_epi32(_mm_loadu_si128(exponents.as_ptr().cast()));
        let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(exponents, _mm512_set1_epi32(1)));
        let subnormal = _mm512_sllv_epi32(_mm512_set1_epi32(0x0020_0000), exponents);
        let is_small = _mm512_cmplt_epi32_mask(exponents, _mm512_set1_epi32(2));
        _mm512_castsi512_ps(_mm512_mask_blend_epi32(is_small, normal, subnormal))
    }
}

impl Unit for Q8_0 {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn dots(w: *const u8, x: *const u8) -> __m512i {
        // SAFETY: the caller's promise, here and below.
        unsafe {
            let mut sums = [_mm512_setzero_si512(); 8];
            for i in 0..8 {
                let w = w.add(2 * i * Self::BYTES + 2);
                let (a, b) = (_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(w.add(Self::BYTES).cast()));
                let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
                sums[i] = product(_mm512_xor_si512(both, _mm512_set1_epi8(-128)), x, i);
            }
            halves(sums)
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe { only(each_f16::<Q8_0, 0>(w)) }
    }
}

impl Unit for Iq4Xs {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn arrange(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { arrange_lines(x) }
    }
    #[inline(always)]
    unsafe fn dots(w: *const u8, x: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let mut sums = [_mm512_setzero_si512(); 4];
            for i in 0..4 {
                let q = load(w.add(i / 2 * Self::BYTES + 8 + 64 * (i % 2)));
                sums[i] = of_table(q, &IQ4_TABLE, x, i);
            }
            quarters::<16>(sums)
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe {
            let (a, b) = (w, w.add(Self::BYTES));
            // d, the upper two bits of the scales, the lower four.
            let both = _mm_set_epi64x(b.cast::<i64>().read_unaligned(), a.cast::<i64>().read_unaligned());
            let (low, high) = (starts([32, 48], 4), starts([12, 20], 2));
            let scales = six_bits(two_fields(low, low, both), two_fields(high, high, both));
            only(_mm512_mul_ps(two_f16([a, b]), scales))
        }
    }
}
