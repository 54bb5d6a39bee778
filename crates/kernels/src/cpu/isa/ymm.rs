//! Products of ggml's blocks and of codes with a lone activation row in vectors of 256 bits: as [`units`](super::units), for
//! processors without AVX-512's VBMI. Units are computed by eight groups.
//!
//! Everything here is inlined into functions that enable the instructions: those of [`Multiply::run`].

mod blocks;
mod codebooks;
mod codes;
pub(super) mod e4m3;
mod k_quants;
mod ternary;
mod transposed;

use std::arch::x86_64::*;

use super::affine::Ints;
use super::avx2::{Avx2, Words};
use super::tile::Lanes;
use super::unit_rows::{self, Source};
use super::{Dots, Packed, UnpackedDots};
use crate::quant::ggml::of_type;

/// How bytes are multiplied.
///
/// # Safety
/// All functions: the machine has the instructions.
pub(super) trait Multiply: Sized {
    /// Whether weights of eight bits are multiplied as q - 128, because the sums of the instruction's products hold no larger
    /// ones.
    const SIGNED: bool;
    /// Adds products of bytes, those of `w` without signs. [`Multiply::total`] makes them sums of four to a lane. Until then,
    /// weights of four bits may be added eight times, of five four times, of six twice.
    unsafe fn add(sums: __m256i, w: __m256i, x: __m256i) -> __m256i;
    /// See above.
    unsafe fn total(sums: __m256i) -> __m256i;
    /// The same of weights of eight bits, with a sign if that is how they are multiplied. Where sizes have six bits at most, two
    /// may be added.
    unsafe fn add_eight_bits(sums: __m256i, w: __m256i, x: __m256i) -> __m256i;
    /// The same of sizes, and bytes that have their signs: none is 0.
    unsafe fn add_signed(sums: __m256i, sizes: __m256i, signs: __m256i, x: __m256i) -> __m256i;
    /// Products of weights of eight bits by fours.
    #[inline(always)]
    unsafe fn eight_bits(w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { Self::total(Self::add_eight_bits(_mm256_setzero_si256(), w, x)) }
    }
    /// Does some work with the instructions.
    unsafe fn run(work: impl Work);
}

/// To be inlined into a function that enables instructions: all that it calls is `#[inline(always)]`.
///
/// # Safety
/// The machine has the instructions.
pub(super) trait Work {
    unsafe fn run(self);
}

/// AVX2: see `avx2`.
pub(super) struct Pairs;
/// AVX-VNNI: `vpdpbusd` as VEX encodes it.
pub(super) struct Vex;
/// `vpdpbusd` of 256 bits as AVX-512 encodes it, with its VNNI and VL.
pub(super) struct Evex;

impl Multiply for Pairs {
    const SIGNED: bool = true;
    #[inline(always)]
    unsafe fn add(sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: AVX2, here and below.
        unsafe { _mm256_add_epi16(sums, _mm256_maddubs_epi16(w, x)) }
    }
    #[inline(always)]
    unsafe fn total(sums: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_madd_epi16(sums, _mm256_set1_epi16(1)) }
    }
    #[inline(always)]
    unsafe fn add_eight_bits(sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: as above. The size of -128 is 128 without a sign.
        unsafe { Self::add(sums, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w)) }
    }
    #[inline(always)]
    unsafe fn add_signed(sums: __m256i, sizes: __m256i, signs: __m256i, x: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { Self::add(sums, sizes, _mm256_sign_epi8(x, signs)) }
    }
    #[inline(always)]
    unsafe fn run(work: impl Work) {
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn run(work: impl Work) {
            // SAFETY: the caller's promise.
            unsafe { work.run() }
        }
        // SAFETY: as above.
        unsafe { run(work) }
    }
}

macro_rules! vnni {
    ($name:ty, $dpbusd:ident, $features:literal) => {
        impl Multiply for $name {
            const SIGNED: bool = false;
            #[inline(always)]
            unsafe fn add(sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
                // SAFETY: the caller's promise, here and below.
                unsafe { $dpbusd(sums, w, x) }
            }
            #[inline(always)]
            unsafe fn total(sums: __m256i) -> __m256i {
                sums
            }
            #[inline(always)]
            unsafe fn add_eight_bits(sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
                // SAFETY: as above.
                unsafe { Self::add(sums, w, x) }
            }
            #[inline(always)]
            unsafe fn add_signed(sums: __m256i, sizes: __m256i, signs: __m256i, x: __m256i) -> __m256i {
                // SAFETY: as above.
                unsafe { Self::add(sums, of_signed::<Self>(_mm256_sign_epi8(sizes, signs)), x) }
            }
            #[inline(always)]
            unsafe fn run(work: impl Work) {
                #[target_feature(enable = $features)]
                unsafe fn run(work: impl Work) {
                    // SAFETY: the caller's promise.
                    unsafe { work.run() }
                }
                // SAFETY: as above.
                unsafe { run(work) }
            }
        }
    };
}
vnni!(Vex, _mm256_dpbusd_avx_epi32, "avx2,fma,f16c,avxvnni");
vnni!(Evex, _mm256_dpbusd_epi32, "avx2,fma,f16c,avx512f,avx512vl,avx512vnni");

/// Computes a product with one activation row, or says that it cannot.
///
/// # Safety
/// The machine has the instructions, and the addresses hold what `UnpackedDots` says.
#[inline(always)]
pub(super) unsafe fn dots<M: Multiply>(d: &UnpackedDots) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        match d.weights {
            Packed::Ggml(format) => of_type!(format => of_blocks [M] (&d.dots)),
            Packed::Coded(rows, group) => codes::dots::<M>(&d.dots, rows, group),
        }
    }
}

#[inline(always)]
unsafe fn of_blocks<T: blocks::Unit, M: Multiply>(d: &Dots) -> bool {
    let fits = T::KNOWN && d.k >= unit_rows::GROUPS * T::GROUP;
    if fits {
        // SAFETY: the caller's promise.
        unsafe { rows::<M, _>(d, blocks::Blocks::<T, M>::new(d)) };
    }
    fits
}

/// Runs [`unit_rows::rows`] with the instructions.
unsafe fn rows<M: Multiply, S: Source<I = Words>>(d: &Dots, source: S) {
    struct All<'a, S>(&'a Dots, S);
    impl<S: Source> Work for All<'_, S> {
        #[inline(always)]
        unsafe fn run(self) {
            // SAFETY: the caller's promise.
            unsafe { unit_rows::rows(self.0, self.1) }
        }
    }
    // SAFETY: as above.
    unsafe { M::run(All(d, source)) }
}

#[inline(always)]
pub(super) unsafe fn load(from: *const u8) -> __m256i {
    // SAFETY: AVX2, and 32 bytes there.
    unsafe { _mm256_loadu_si256(from.cast()) }
}

/// Sixteen bytes in each half.
#[inline(always)]
unsafe fn two(low: *const u8, high: *const u8) -> __m256i {
    // SAFETY: AVX2, and 16 bytes at each.
    unsafe { _mm256_loadu2_m128i(high.cast(), low.cast()) }
}

/// The activations of vector `i`.
#[inline(always)]
pub(super) unsafe fn at(x: *const u8, i: usize) -> __m256i {
    // SAFETY: AVX2, and as many activations there.
    unsafe { load(x.add(32 * i)) }
}

/// The products of bytes with the activations of vector `i`, by fours.
#[inline(always)]
pub(super) unsafe fn product<M: Multiply>(w: __m256i, x: *const u8, i: usize) -> __m256i {
    // SAFETY: the instructions, and as many activations there.
    unsafe { M::total(M::add(_mm256_setzero_si256(), w, at(x, i))) }
}

/// The same of two vectors of each, added.
#[inline(always)]
pub(super) unsafe fn products<M: Multiply>(w: [__m256i; 2], x: *const u8, i: usize) -> __m256i {
    // SAFETY: as above.
    unsafe { M::total(M::add(M::add(_mm256_setzero_si256(), w[0], at(x, i)), w[1], at(x, i + 1))) }
}

/// Bytes with signs as they are multiplied.
#[inline(always)]
unsafe fn of_signed<M: Multiply>(bytes: __m256i) -> __m256i {
    // SAFETY: AVX2.
    unsafe { if M::SIGNED { bytes } else { _mm256_xor_si256(bytes, _mm256_set1_epi8(-128)) } }
}

/// Bytes without.
#[inline(always)]
pub(super) unsafe fn of_unsigned<M: Multiply>(bytes: __m256i) -> __m256i {
    // SAFETY: AVX2.
    unsafe { if M::SIGNED { _mm256_xor_si256(bytes, _mm256_set1_epi8(-128)) } else { bytes } }
}

/// The lower bits of each byte.
#[inline(always)]
pub(super) unsafe fn low_bits(bytes: __m256i, count: u32) -> __m256i {
    // SAFETY: AVX2.
    unsafe { _mm256_and_si256(bytes, _mm256_set1_epi8(((1u32 << count) - 1) as i8)) }
}

/// The upper four bits of each.
#[inline(always)]
pub(super) unsafe fn upper(bytes: __m256i) -> __m256i {
    // SAFETY: AVX2.
    unsafe { low_bits(_mm256_srli_epi16::<4>(bytes), 4) }
}

/// What a table has at the place that each byte, below 16, says.
#[inline(always)]
unsafe fn look_up(places: __m256i, table: &[u8; 16]) -> __m256i {
    // SAFETY: AVX2.
    unsafe { _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), places) }
}

/// Adds pairs of integers of both vectors: in each half, those of the first, then those of the second.
#[inline(always)]
unsafe fn pairs<const SMALL: bool>(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: AVX2. Small ones have 15 bits and a sign at most.
    unsafe {
        if SMALL { _mm256_madd_epi16(_mm256_packs_epi32(a, b), _mm256_set1_epi16(1)) } else { _mm256_hadd_epi32(a, b) }
    }
}

/// Fours of sums of both halves of four vectors of integers of `BITS` bits and a sign.
#[inline(always)]
pub(super) unsafe fn fours<const BITS: u32>([a, b, c, d]: [__m256i; 4]) -> __m256i {
    // SAFETY: AVX2.
    unsafe {
        match BITS {
            ..15 => pairs::<true>(pairs::<true>(a, b), pairs::<true>(c, d)),
            15 => pairs::<false>(pairs::<true>(a, b), pairs::<true>(c, d)),
            _ => pairs::<false>(pairs::<false>(a, b), pairs::<false>(c, d)),
        }
    }
}

/// The sums of the halves of eight vectors, one vector's behind the other's: sixteen groups.
#[inline(always)]
unsafe fn halves<const BITS: u32>([a, b, c, d, e, f, g, h]: [__m256i; 8]) -> Words {
    // SAFETY: AVX2.
    unsafe {
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        Words(
            _mm256_permutevar8x32_epi32(fours::<BITS>([a, b, c, d]), order),
            _mm256_permutevar8x32_epi32(fours::<BITS>([e, f, g, h]), order),
        )
    }
}

/// The sums of eight vectors: eight groups.
#[inline(always)]
pub(super) unsafe fn wholes<const BITS: u32>([a, b, c, d, e, f, g, h]: [__m256i; 8]) -> __m256i {
    // SAFETY: AVX2.
    unsafe {
        let (first, second) = (fours::<BITS>([a, b, c, d]), fours::<BITS>([e, f, g, h]));
        let (low, high) =
            (_mm256_permute2x128_si256::<0x20>(first, second), _mm256_permute2x128_si256::<0x31>(first, second));
        _mm256_add_epi32(low, high)
    }
}

/// The sums of pairs of lanes of four vectors, one vector's behind the other's.
#[inline(always)]
unsafe fn neighbours([a, b, c, d]: [__m256i; 4]) -> Words {
    // SAFETY: AVX2.
    unsafe {
        Words(
            _mm256_permute4x64_epi64::<0xd8>(_mm256_hadd_epi32(a, b)),
            _mm256_permute4x64_epi64::<0xd8>(_mm256_hadd_epi32(c, d)),
        )
    }
}

/// An f16 in all lanes.
#[inline(always)]
unsafe fn f16(from: *const u8) -> __m256 {
    // SAFETY: AVX2 with F16C, and two bytes there.
    unsafe { _mm256_cvtph_ps(_mm_set1_epi16(from.cast::<i16>().read_unaligned())) }
}

/// Whole numbers of eight bits, with or without a sign.
#[inline(always)]
unsafe fn whole<const SIGN: bool>(bytes: __m128i) -> Avx2 {
    // SAFETY: AVX2.
    unsafe {
        let next = _mm_unpackhi_epi64(bytes, bytes);
        if SIGN {
            Words(_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(next)).to_f32()
        } else {
            Words(_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(next)).to_f32()
        }
    }
}

/// Scales without mins.
#[inline(always)]
unsafe fn only(scales: Avx2) -> [Avx2; 2] {
    // SAFETY: AVX2.
    unsafe { [scales, Avx2::zero()] }
}
