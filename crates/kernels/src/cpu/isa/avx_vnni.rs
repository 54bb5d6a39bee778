//! AVX2 with VNNI: `vpdpbusd` of 256 bits adds four products of bytes in 32 bits.

// A tile is indexed by column of fixed number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::affine::{Bytes, Ints, rounded_kernels_of};
use super::avx2::{self, InPairs, Words, in_turn, spread, sums_of_eight};
use super::many::NoTiles;
use super::ymm::{self, Evex, Multiply, Vex};
use super::{Dots, Kernels, QuantisedKernels, UnpackedDots};
use crate::quant::coded::Rows;

/// Products of bytes by [`Vex`] or [`Evex`].
struct Vnni<M>(PhantomData<M>);

impl<M: Multiply> Bytes for Vnni<M> {
    type I = Words;
    type Tiles = NoTiles;
    const SIGNED: bool = M::SIGNED;
    #[inline(always)]
    fn knows_rows(_bits: usize) -> bool {
        true
    }
    #[inline(always)]
    unsafe fn arrange<const BITS: usize>(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { InPairs::arrange::<BITS>(x) }
    }
    #[inline(always)]
    unsafe fn row<const BITS: usize, const HALF: bool>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: as above, eight blocks at each address, or sixteen.
        unsafe {
            let low = eight::<M, BITS>(w, x);
            Words(low, if HALF { _mm256_setzero_si256() } else { eight::<M, BITS>(w.add(32 * BITS), x.add(256)) })
        }
    }
    #[inline(always)]
    unsafe fn bytes<const BITS: usize>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: as above.
        unsafe { Self::row::<8, false>(w, x) }
    }
    #[inline(always)]
    unsafe fn halves<const BITS: usize>(w: *const u8, x: *const u8) -> [Words; 2] {
        // SAFETY: as above.
        unsafe {
            let (first, second) = (blocks::<M, 8>(w, x), blocks::<M, 8>(w.add(256), x.add(256)));
            [in_turn(sums_of_eight(first)), in_turn(sums_of_eight(second))]
        }
    }
    #[inline(always)]
    unsafe fn units(d: &UnpackedDots) -> bool {
        // SAFETY: as above.
        unsafe { ymm::dots::<M>(d) }
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
        // SAFETY: as above.
        let [dots] = unsafe { Self::words_of::<BITS, WORDS, C, 1>(&[w], x, rows, [[Words::splat(0); C]]) };
        dots
    }
    const SHIFTED: bool = !M::SIGNED;
    #[inline(always)]
    unsafe fn words_of<const BITS: usize, const WORDS: usize, const C: usize, const P: usize>(
        w: &[*const u8; P],
        x: *const u8,
        rows: &[usize; C],
        mut sums: [[Words; C]; P],
    ) -> [[Words; C]; P] {
        // SAFETY: as above, the words of each panel, and as many activations of each row.
        unsafe {
            for word in 0..WORDS {
                for i in 0..P {
                    let w = Words::load(w[i].add(64 * word));
                    for j in 0..C {
                        let x = _mm256_set1_epi32(x.add(rows[j] + 4 * word).cast::<i32>().read_unaligned());
                        sums[i][j].0 = M::add(sums[i][j].0, w.0, x);
                        sums[i][j].1 = M::add(sums[i][j].1, w.1, x);
                    }
                }
            }
            sums
        }
    }
}

/// Eight blocks of a weight row times those of an activation row, arranged as for AVX2: lane b holds the dot product of block b.
///
/// # Safety
/// The machine has the instructions, and eight blocks are at each address.
#[inline(always)]
pub(super) unsafe fn eight<M: Multiply, const BITS: usize>(w: *const u8, x: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        match BITS {
            2 => {
                let mut sums = [_mm256_setzero_si256(); 2];
                for i in 0..2 {
                    let w = ymm::load(w.add(32 * i));
                    let parts = [w, _mm256_srli_epi16::<2>(w), _mm256_srli_epi16::<4>(w), _mm256_srli_epi16::<6>(w)];
                    for part in 0..4 {
                        sums[i] = M::add(sums[i], ymm::low_bits(parts[part], 2), ymm::at(x, 4 * i + part));
                    }
                }
                // Lanes 2b and 2b + 1 of vector i are block 4i + b.
                _mm256_permute4x64_epi64::<0xd8>(_mm256_hadd_epi32(M::total(sums[0]), M::total(sums[1])))
            }
            4 => {
                let mut sums = [_mm256_setzero_si256(); 4];
                for i in 0..4 {
                    let w = ymm::load(w.add(32 * i));
                    sums[i] = ymm::products::<M>([ymm::low_bits(w, 4), ymm::upper(w)], x, 2 * i);
                }
                // Half h of vector i is block 2i + h.
                _mm256_permutevar8x32_epi32(ymm::fours::<14>(sums), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
            }
            3 => ymm::wholes::<12>(blocks::<M, BITS>(w, x)),
            5 => ymm::wholes::<14>(blocks::<M, BITS>(w, x)),
            6 => ymm::wholes::<15>(blocks::<M, BITS>(w, x)),
            _ => ymm::wholes::<17>(blocks::<M, BITS>(w, x)),
        }
    }
}

/// The products of eight blocks of more bits, by fours.
#[inline(always)]
unsafe fn blocks<M: Multiply, const BITS: usize>(w: *const u8, x: *const u8) -> [__m256i; 8] {
    // SAFETY: the caller's promise, here and below.
    let mut sums = unsafe { [_mm256_setzero_si256(); 8] };
    for b in 0..8 {
        // SAFETY: as above.
        unsafe {
            sums[b] = if BITS == 8 {
                M::eight_bits(ymm::of_unsigned::<M>(ymm::load(w.add(32 * b))), ymm::at(x, b))
            } else {
                ymm::product::<M>(spread::<BITS>(w.add(4 * BITS * b)), x, b)
            };
        }
    }
    sums
}

/// The kernels of this instruction set: as VEX encodes it where the processor knows that, or as AVX-512 does.
pub(super) fn kernels() -> Kernels {
    let others = avx2::kernels();
    let (rounded, unpacked, rows) = if std::arch::is_x86_feature_detected!("avxvnni") {
        rounded_kernels_of!(Vnni<Vex>, 4 by 1, "avx2,fma,f16c,avxvnni")
    } else {
        rounded_kernels_of!(Vnni<Evex>, 4 by 1, "avx2,fma,f16c,avx512f,avx512vl,avx512vnni")
    };
    Kernels { quantised: QuantisedKernels { rounded, unpacked, rows, ..others.quantised }, ..others }
}
