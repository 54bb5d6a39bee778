//! Codes with scales in tensors of their own, whose rows lie one behind the other.

// Lines are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::blocks::{E2M1_TABLE, of_table};
use super::{Multiply, halves, load, neighbours, of_signed, of_unsigned, rows, transposed, wholes};
use crate::cpu::isa::Dots;
use crate::cpu::isa::avx2::{Avx2, Words, nibble_planes};
use crate::cpu::isa::strips::codes::scales_and_biases;
use crate::cpu::isa::tile::Lanes;
use crate::cpu::isa::unit_rows::{GROUPS, GROUPS_MAX, Source};
use crate::quant::Code;
use crate::quant::coded::Rows;

/// See [`super::dots`].
#[inline(always)]
pub(super) unsafe fn dots<M: Multiply>(d: &Dots, codes: Rows, group: usize) -> bool {
    let fits = d.k >= GROUPS * group;
    // SAFETY: the caller's promise.
    unsafe {
        match (codes.coded.code, group) {
            _ if !fits => return false,
            (Code::E2m1, 32) => rows::<M, _>(d, Codes::<Floats<32>, M>::new(codes)),
            (Code::E2m1, 16) => rows::<M, _>(d, Codes::<Floats<16>, M>::new(codes)),
            (Code::Int4, 32) => rows::<M, _>(d, Codes::<Integers, M>::new(codes)),
            (Code::Int8, 32) => rows::<M, _>(d, Codes::<Bytes<false>, M>::new(codes)),
            (Code::Signed8, 32) => rows::<M, _>(d, Codes::<Bytes<true>, M>::new(codes)),
            (Code::Gptq | Code::Awq, 32) => return transposed::dots::<M>(d, &codes),
            _ => return false,
        }
    }
    true
}

/// Sixteen groups of a code: see [`Source`].
trait Kind {
    const GROUP: usize;
    const BITS: usize;
    unsafe fn arrange(_x: *mut u8) {}
    unsafe fn dots<M: Multiply>(w: *const u8, x: *const u8) -> Words;
}

/// E2M1, in groups of so many.
struct Floats<const GROUP: usize>;
/// Whole numbers of four bits.
struct Integers;
/// Of eight, with a sign or not.
struct Bytes<const SIGN: bool>;

static AS_THEY_ARE: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

impl<const GROUP: usize> Kind for Floats<GROUP> {
    const GROUP: usize = GROUP;
    const BITS: usize = 4;
    #[inline(always)]
    unsafe fn arrange(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { deal(x, GROUPS * GROUP) }
    }
    #[inline(always)]
    unsafe fn dots<M: Multiply>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: as above.
        unsafe {
            if GROUP == 32 {
                return of_lines::<M>(w, &E2M1_TABLE, x);
            }
            let (lines, mut sums) = (four_lines(w), [_mm256_setzero_si256(); 4]);
            for i in 0..4 {
                sums[i] = of_table::<M>(lines[i], &E2M1_TABLE, x, i);
            }
            neighbours(sums)
        }
    }
}

impl Kind for Integers {
    const GROUP: usize = 32;
    const BITS: usize = 4;
    #[inline(always)]
    unsafe fn arrange(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { deal(x, GROUPS * 32) }
    }
    #[inline(always)]
    unsafe fn dots<M: Multiply>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: as above.
        unsafe { of_lines::<M>(w, &AS_THEY_ARE, x) }
    }
}

impl<const SIGN: bool> Kind for Bytes<SIGN> {
    const GROUP: usize = 32;
    const BITS: usize = 8;
    #[inline(always)]
    unsafe fn dots<M: Multiply>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); 8]; 2];
            for four in 0..GROUPS / 4 {
                let lines = four_lines(w.add(128 * four));
                for i in 0..4 {
                    let w = if SIGN { of_signed::<M>(lines[i]) } else { of_unsigned::<M>(lines[i]) };
                    sums[four / 2][4 * (four % 2) + i] = M::eight_bits(w, super::at(x, 4 * four + i));
                }
            }
            Words(wholes::<17>(sums[0]), wholes::<17>(sums[1]))
        }
    }
}

/// Every other activation of each 64 first, for the lower four bits of a line, then the others.
#[inline(always)]
unsafe fn deal(x: *mut u8, count: usize) {
    // SAFETY: AVX2, and so many activations at `x`.
    unsafe {
        let order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
        for x in (0..count).step_by(64).map(|at| x.wrapping_add(at)) {
            for half in 0..2 {
                let x = x.add(32 * half);
                let dealt = _mm256_permute4x64_epi64::<0xd8>(_mm256_shuffle_epi8(load(x), order));
                _mm256_storeu_si256(x.cast(), dealt);
            }
            nibble_planes(x);
        }
    }
}

/// Four lines of weights, read in ascending order: see the same of [`units`](crate::cpu::isa::units).
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn four_lines(w: *const u8) -> [__m256i; 4] {
    let (a, b, c, d): (__m256i, __m256i, __m256i, __m256i);
    // SAFETY: AVX, and 128 bytes there.
    unsafe {
        asm!(
            "vmovdqu {a}, [{w}]",
            "vmovdqu {b}, [{w} + 32]",
            "vmovdqu {c}, [{w} + 64]",
            "vmovdqu {d}, [{w} + 96]",
            w = in(reg) w,
            a = out(ymm_reg) a,
            b = out(ymm_reg) b,
            c = out(ymm_reg) c,
            d = out(ymm_reg) d,
            options(nostack, preserves_flags, readonly),
        );
    }
    [a, b, c, d]
}

/// Of groups of 32: two to a line, a half each.
#[inline(always)]
unsafe fn of_lines<M: Multiply>(w: *const u8, table: &[u8; 16], x: *const u8) -> Words {
    // SAFETY: the instructions, 256 bytes at `w` and their activations at `x`.
    unsafe {
        let mut sums = [_mm256_setzero_si256(); 8];
        for half in 0..2 {
            let lines = four_lines(w.add(128 * half));
            for i in 0..4 {
                sums[4 * half + i] = of_table::<M>(lines[i], table, x, 4 * half + i);
            }
        }
        halves::<15>(sums)
    }
}

/// Rows of codes; of one of them, scales and biases.
#[repr(align(64))]
struct Codes<'a, K, M> {
    scales: [f32; GROUPS_MAX],
    biases: [f32; GROUPS_MAX],
    /// The weight that the first of them begins with.
    first: usize,
    rows: Rows<'a>,
    of: PhantomData<(K, M)>,
}

impl<'a, K: Kind, M> Codes<'a, K, M> {
    #[inline(always)]
    fn new(rows: Rows<'a>) -> Self {
        Codes { scales: [0.0; GROUPS_MAX], biases: [0.0; GROUPS_MAX], first: 0, rows, of: PhantomData }
    }
}

impl<K: Kind, M: Multiply> Source for Codes<'_, K, M> {
    type I = Words;
    const GROUP: usize = K::GROUP;
    const BYTES: usize = GROUPS * K::GROUP * K::BITS / 8;
    #[inline(always)]
    fn at(&self, row: usize, k: usize) -> *const u8 {
        let index = (self.rows.first + self.rows.step * row) * self.rows.shape[1] + k;
        self.rows.data.as_ptr().wrapping_add(index * K::BITS / 8)
    }
    #[inline(always)]
    unsafe fn arrange(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { K::arrange(x) }
    }
    #[inline(always)]
    unsafe fn begin(&mut self, row: usize, k: usize, len: usize) {
        self.first = k;
        let groups = len / K::GROUP;
        let (scales, biases) = (&mut self.scales[..groups], &mut self.biases[..groups]);
        let base = if M::SIGNED && K::BITS == 8 { 128 } else { 0 };
        // SAFETY: as above.
        unsafe { scales_and_biases::<Avx2>(&self.rows, row, k, K::GROUP, base, scales, biases) };
    }
    #[inline(always)]
    unsafe fn dots(&self, row: usize, k: usize, x: *const u8) -> Words {
        // SAFETY: as above.
        unsafe { K::dots::<M>(self.at(row, k), x) }
    }
    #[inline(always)]
    unsafe fn scales(&self, _row: usize, k: usize) -> [Avx2; 2] {
        let g = (k - self.first) / K::GROUP;
        let (scales, biases) = (&self.scales[g..g + GROUPS], &self.biases[g..g + GROUPS]);
        // SAFETY: AVX2; both are vectors.
        unsafe { [Avx2::load_f32(scales.as_ptr().cast()), Avx2::load_f32(biases.as_ptr().cast())] }
    }
}
