//! Codes with scales in tensors of their own, whose rows lie one behind the other.

// Lines are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::blocks::{E2M1_TABLE, of_table};
use super::{GROUPS, Source, four_lines, four_times, halves, load, neighbours, product, quarters, rows, transposed};
use crate::cpu::isa::Dots;
use crate::cpu::isa::avx512::Avx512;
use crate::cpu::isa::strips::codes::scales_and_biases;
use crate::cpu::isa::tile::Lanes;
use crate::cpu::isa::unit_rows::GROUPS_MAX;
use crate::quant::Code;
use crate::quant::coded::Rows;

/// See [`super::dots`].
#[inline(always)]
pub(super) unsafe fn dots(d: &Dots, codes: Rows, group: usize) -> bool {
    let fits = d.k >= GROUPS * group;
    // SAFETY: the caller's promise.
    unsafe {
        match (codes.coded.code, group) {
            _ if !fits => return false,
            (Code::E2m1, 32) => rows(d, Codes::<Floats<32>>::new(codes)),
            (Code::E2m1, 16) => rows(d, Codes::<Floats<16>>::new(codes)),
            (Code::Int4, 32) => rows(d, Codes::<Integers>::new(codes)),
            (Code::Int8, 32) => rows(d, Codes::<Bytes<0>>::new(codes)),
            (Code::Gptq | Code::Awq, 32) => return transposed::dots(d, &codes),
            (Code::Signed8, 32) => rows(d, Codes::<Bytes<-128>>::new(codes)),
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
    unsafe fn dots(w: *const u8, x: *const u8) -> __m512i;
}

/// E2M1, in groups of so many.
struct Floats<const GROUP: usize>;
/// Whole numbers of four bits.
struct Integers;
/// Of eight, with a sign bit turned or not.
struct Bytes<const SIGN: i8>;

static AS_THEY_ARE: [u8; 64] = four_times([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

impl<const GROUP: usize> Kind for Floats<GROUP> {
    const GROUP: usize = GROUP;
    const BITS: usize = 4;
    #[inline(always)]
    unsafe fn arrange(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { deal(x, GROUPS * GROUP) }
    }
    #[inline(always)]
    unsafe fn dots(w: *const u8, x: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe { if GROUP == 32 { of_lines(w, &E2M1_TABLE, x) } else { of_two_lines(w, &E2M1_TABLE, x) } }
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
    unsafe fn dots(w: *const u8, x: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe { of_lines(w, &AS_THEY_ARE, x) }
    }
}

impl<const SIGN: i8> Kind for Bytes<SIGN> {
    const GROUP: usize = 32;
    const BITS: usize = 8;
    #[inline(always)]
    unsafe fn dots(w: *const u8, x: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [_mm512_setzero_si512(); 8];
            for half in 0..2 {
                let lines = four_lines(w.add(256 * half));
                for i in 0..4 {
                    let line = _mm512_xor_si512(lines[i], _mm512_set1_epi8(SIGN));
                    sums[4 * half + i] = product(line, x, 4 * half + i);
                }
            }
            halves(sums)
        }
    }
}

/// Every other activation of each 128 first, for the lower four bits of a line, then the others.
#[inline(always)]
unsafe fn deal(x: *mut u8, count: usize) {
    // SAFETY: the instructions, and so many activations at `x`.
    unsafe {
        for x in (0..count).step_by(128).map(|at| x.wrapping_add(at)) {
            let (first, second, even) = (load(x), load(x.add(64)), load(EVEN.as_ptr()));
            let odd = _mm512_add_epi8(even, _mm512_set1_epi8(1));
            _mm512_storeu_si512(x.cast(), _mm512_permutex2var_epi8(first, even, second));
            _mm512_storeu_si512(x.add(64).cast(), _mm512_permutex2var_epi8(first, odd, second));
        }
    }
}

static EVEN: [u8; 64] = {
    let (mut even, mut i) = ([0; 64], 0);
    while i < 64 {
        even[i] = 2 * i as u8;
        i += 1;
    }
    even
};

/// Of groups of 32: four to a line, a quarter each.
#[inline(always)]
unsafe fn of_lines(w: *const u8, table: &[u8; 64], x: *const u8) -> __m512i {
    // SAFETY: the instructions, 256 bytes at `w` and their activations at `x`.
    unsafe {
        let mut sums = [_mm512_setzero_si512(); 4];
        let lines = four_lines(w);
        for i in 0..4 {
            sums[i] = of_table(lines[i], table, x, i);
        }
        quarters::<15>(sums)
    }
}

/// Of groups of 16: eight to a line.
#[inline(always)]
unsafe fn of_two_lines(w: *const u8, table: &[u8; 64], x: *const u8) -> __m512i {
    // SAFETY: the instructions, 128 bytes at `w` and their activations at `x`.
    unsafe { neighbours(of_table(load(w), table, x, 0), of_table(load(w.add(64)), table, x, 1)) }
}

/// Rows of codes; of one of them, scales and biases.
#[repr(align(64))]
struct Codes<'a, K> {
    scales: [f32; GROUPS_MAX],
    biases: [f32; GROUPS_MAX],
    /// The weight that the first of them begins with.
    first: usize,
    rows: Rows<'a>,
    of: PhantomData<K>,
}

impl<'a, K: Kind> Codes<'a, K> {
    #[inline(always)]
    fn new(rows: Rows<'a>) -> Self {
        Codes { scales: [0.0; GROUPS_MAX], biases: [0.0; GROUPS_MAX], first: 0, rows, of: PhantomData }
    }
}

impl<K: Kind> Source for Codes<'_, K> {
    type I = __m512i;
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
        // SAFETY: as above.
        unsafe { scales_and_biases::<Avx512>(&self.rows, row, k, K::GROUP, 0, scales, biases) };
    }
    #[inline(always)]
    unsafe fn dots(&self, row: usize, k: usize, x: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe { K::dots(self.at(row, k), x) }
    }
    #[inline(always)]
    unsafe fn scales(&self, _row: usize, k: usize) -> [Avx512; 2] {
        let g = (k - self.first) / K::GROUP;
        let (scales, biases) = (&self.scales[g..g + GROUPS], &self.biases[g..g + GROUPS]);
        // SAFETY: AVX-512; both are vectors.
        unsafe { [Avx512::load_f32(scales.as_ptr().cast()), Avx512::load_f32(biases.as_ptr().cast())] }
    }
}
