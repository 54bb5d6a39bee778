//! ggml's blocks as units, and of them the types with one scale for a block of 32, and IQ4.

// Lines are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::{Multiply, halves, load, look_up, low_bits, of_signed, only, products, two, upper, wholes};
use crate::cpu::isa::Dots;
use crate::cpu::isa::affine::Ints;
use crate::cpu::isa::avx2::{Avx2, Words, nibble_planes};
use crate::cpu::isa::tile::Lanes;
use crate::cpu::isa::unit_rows::{GROUPS, Source};
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
    /// See [`Source::dots`]; of u, or of eight bits as they are multiplied.
    unsafe fn dots<M: Multiply>(_w: *const u8, _x: *const u8) -> Words {
        unreachable!("no units of such blocks")
    }
    /// The scales and, if there are any, the mins.
    unsafe fn scales(_w: *const u8) -> [Avx2; 2] {
        unreachable!("no units of such blocks")
    }
}

/// Rows of blocks.
pub(super) struct Blocks<T, M> {
    w: *const u8,
    stride: usize,
    of: PhantomData<(T, M)>,
}

impl<T: Block, M> Blocks<T, M> {
    pub(super) fn new(d: &Dots) -> Self {
        Blocks { w: d.w, stride: d.w_stride, of: PhantomData }
    }
}

impl<T: Unit, M: Multiply> Source for Blocks<T, M> {
    type I = Words;
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
    unsafe fn dots(&self, row: usize, k: usize, x: *const u8) -> Words {
        // SAFETY: as above.
        unsafe { T::dots::<M>(self.at(row, k), x) }
    }
    #[inline(always)]
    unsafe fn scales(&self, row: usize, k: usize) -> [Avx2; 2] {
        // SAFETY: as above.
        unsafe {
            let [scale, min] = T::scales(self.at(row, k));
            let base = if M::SIGNED && T::BITS == 8 { 128 } else { 0 };
            let zero = base - i16::from(T::OFFSET);
            let bias = scale.mul(Avx2::splat(f32::from(zero)));
            let bias = match (T::MINS, zero) {
                (true, 0) => negative(min),
                (true, _) => bias.add(negative(min)),
                (false, _) => bias,
            };
            [scale, bias]
        }
    }
}

#[inline(always)]
unsafe fn negative(of: Avx2) -> Avx2 {
    // SAFETY: AVX2.
    unsafe {
        let sign = _mm256_set1_ps(-0.0);
        Avx2(_mm256_xor_ps(of.0, sign), _mm256_xor_ps(of.1, sign))
    }
}

/// Sixteen bytes of blocks `2i` and `2i + 1`, from byte `at` of each on.
#[inline(always)]
unsafe fn line<T: Block>(w: *const u8, i: usize, at: usize) -> __m256i {
    // SAFETY: AVX2, and the blocks at `w`.
    unsafe {
        let w = w.add(2 * i * T::BYTES + at);
        two(w, w.add(T::BYTES))
    }
}

/// A number of binary16 of each of sixteen blocks.
#[inline(always)]
unsafe fn each_f16<T: Block>(w: *const u8, at: usize) -> Avx2 {
    // SAFETY: AVX2 with F16C, and the blocks at `w`.
    unsafe {
        let mut halves = [0i16; GROUPS];
        for i in 0..GROUPS {
            halves[i] = w.add(i * T::BYTES + at).cast::<i16>().read_unaligned();
        }
        Avx2::load_f16(halves.as_ptr().cast())
    }
}

/// Of a line of two groups, the lower four bits are the first halves' weights, the upper the second halves'.
#[inline(always)]
unsafe fn arrange_lines(x: *mut u8) {
    for i in 0..GROUPS / 2 {
        // SAFETY: AVX2, and 512 bytes at `x`.
        unsafe { nibble_planes(x.add(64 * i)) }
    }
}

/// The sums of line `i` of four bits each.
#[inline(always)]
unsafe fn of_bits<M: Multiply>(q: __m256i, x: *const u8, i: usize) -> __m256i {
    // SAFETY: the instructions, and the activations at `x`, here and below.
    unsafe { products::<M>([low_bits(q, 4), upper(q)], x, 2 * i) }
}

/// The same of a line that stands for what a table holds.
#[inline(always)]
pub(super) unsafe fn of_table<M: Multiply>(q: __m256i, table: &[u8; 16], x: *const u8, i: usize) -> __m256i {
    // SAFETY: as above.
    unsafe { products::<M>([look_up(low_bits(q, 4), table), look_up(upper(q), table)], x, 2 * i) }
}

/// The same where that has eight bits.
#[inline(always)]
unsafe fn of_iq4<M: Multiply>(q: __m256i, x: *const u8, i: usize) -> __m256i {
    let table = if M::SIGNED { &IQ4_SIGNED } else { &IQ4_VALUES };
    // SAFETY: as above.
    unsafe {
        let low = M::eight_bits(look_up(low_bits(q, 4), table), super::at(x, 2 * i));
        let high = M::eight_bits(look_up(upper(q), table), super::at(x, 2 * i + 1));
        _mm256_add_epi32(low, high)
    }
}

/// The numbers of IQ4 with their signs.
static IQ4_SIGNED: [u8; 16] = {
    let (mut table, mut i) = (IQ4_VALUES, 0);
    while i < 16 {
        table[i] ^= 0x80;
        i += 1;
    }
    table
};

/// The same of four bits and a fifth: 32 of each block, sixteen for the lower and sixteen for the upper bits of the line, at the
/// beginning of each half of `fifth`.
#[inline(always)]
unsafe fn of_five_bits<M: Multiply>(q: __m256i, fifth: __m256i, x: *const u8, i: usize) -> __m256i {
    // SAFETY: as above.
    unsafe {
        let bits = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
        let first = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
        let second = _mm256_add_epi8(first, _mm256_set1_epi8(2));
        let sixteen = _mm256_set1_epi8(16);
        let low = _mm256_and_si256(_mm256_shuffle_epi8(fifth, first), bits);
        let high = _mm256_and_si256(_mm256_shuffle_epi8(fifth, second), bits);
        let low = _mm256_and_si256(_mm256_cmpeq_epi8(low, bits), sixteen);
        let high = _mm256_and_si256(_mm256_cmpeq_epi8(high, bits), sixteen);
        products::<M>([_mm256_or_si256(low_bits(q, 4), low), _mm256_or_si256(upper(q), high)], x, 2 * i)
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
            unsafe fn dots<M: Multiply>($w: *const u8, $x: *const u8) -> Words {
                // SAFETY: as above.
                unsafe {
                    let mut sums = [_mm256_setzero_si256(); 8];
                    for $i in 0..8 {
                        let $q = line::<$type>($w, $i, $at);
                        sums[$i] = $sums;
                    }
                    halves::<$bits>(sums)
                }
            }
            #[inline(always)]
            unsafe fn scales($w: *const u8) -> [Avx2; 2] {
                // SAFETY: as above.
                unsafe { $scales }
            }
        }
    };
}

lines!(Q4_0, q: 2, |w, q, x, i| of_bits::<M>(q, x, i), 14, only(each_f16::<Q4_0>(w, 0)));
lines!(Q4_1, q: 4, |w, q, x, i| of_bits::<M>(q, x, i), 14,
       [each_f16::<Q4_1>(w, 0), negative(each_f16::<Q4_1>(w, 2))]);
lines!(Q5_0, q: 6, |w, q, x, i| of_five_bits::<M>(q, line::<Q5_0>(w, i, 2), x, i), 15, only(each_f16::<Q5_0>(w, 0)));
lines!(Q5_1, q: 8, |w, q, x, i| of_five_bits::<M>(q, line::<Q5_1>(w, i, 4), x, i), 15,
       [each_f16::<Q5_1>(w, 0), negative(each_f16::<Q5_1>(w, 2))]);
lines!(Iq4Nl, q: 2, |w, q, x, i| of_iq4::<M>(q, x, i), 17, only(each_f16::<Iq4Nl>(w, 0)));
lines!(Mxfp4, q: 1, |w, q, x, i| of_table::<M>(q, &E2M1_TABLE, x, i), 15, only(halves_of_powers(w)));

pub(super) static E2M1_TABLE: [u8; 16] = e2m1_table();

/// Half of the power of two that each block begins with.
#[inline(always)]
unsafe fn halves_of_powers(w: *const u8) -> Avx2 {
    // SAFETY: AVX2, and the blocks at `w`.
    unsafe {
        let mut exponents = [0i32; GROUPS];
        for i in 0..GROUPS {
            exponents[i] = w.add(i * Mxfp4::BYTES).read().into();
        }
        let exponents = Words::load(exponents.as_ptr().cast());
        Words(half_of_power(exponents.0), half_of_power(exponents.1)).as_f32()
    }
}

#[inline(always)]
unsafe fn half_of_power(exponents: __m256i) -> __m256i {
    // SAFETY: AVX2.
    unsafe {
        let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(exponents, _mm256_set1_epi32(1)));
        let subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), exponents);
        let is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), exponents);
        _mm256_blendv_epi8(normal, subnormal, is_small)
    }
}

impl Unit for Q8_0 {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn dots<M: Multiply>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: the caller's promise, here and below.
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); 8]; 2];
            for i in 0..GROUPS {
                let w = of_signed::<M>(load(w.add(i * Self::BYTES + 2)));
                sums[i / 8][i % 8] = M::eight_bits(w, super::at(x, i));
            }
            Words(wholes::<17>(sums[0]), wholes::<17>(sums[1]))
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [Avx2; 2] {
        // SAFETY: as above.
        unsafe { only(each_f16::<Q8_0>(w, 0)) }
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
    unsafe fn dots<M: Multiply>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: as above.
        unsafe {
            let mut sums = [_mm256_setzero_si256(); 8];
            for i in 0..8 {
                sums[i] = of_iq4::<M>(load(w.add(i / 4 * Self::BYTES + 8 + 32 * (i % 4))), x, i);
            }
            halves::<17>(sums)
        }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [Avx2; 2] {
        // SAFETY: as above.
        unsafe { only(Avx2(iq4_xs_scales(w), iq4_xs_scales(w.add(Self::BYTES)))) }
    }
}

/// d, the upper two bits of eight scales, the lower four.
#[inline(always)]
unsafe fn iq4_xs_scales(w: *const u8) -> __m256 {
    // SAFETY: AVX2 with F16C, and a block at `w`.
    unsafe {
        let high = _mm256_set1_epi32(w.add(2).cast::<u16>().read_unaligned().into());
        let low = _mm256_set1_epi32(w.add(4).cast::<i32>().read_unaligned());
        let high = _mm256_srlv_epi32(high, _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
        let low = _mm256_srlv_epi32(low, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
        let high = _mm256_slli_epi32::<4>(_mm256_and_si256(high, _mm256_set1_epi32(3)));
        let scales = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)), high);
        let scales = _mm256_cvtepi32_ps(_mm256_sub_epi32(scales, _mm256_set1_epi32(32)));
        _mm256_mul_ps(super::f16(w), scales)
    }
}
