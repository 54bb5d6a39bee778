//! IQ1_S and IQ1_M, whose codebook of 2048 entries is too large to be looked up in registers: a row's entries are copied from a
//! table, one after the other, in the order in which they are multiplied, before its units are computed. A load of a vector right
//! behind the stores of its parts would wait for them.

// Groups are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::blocks::{Unit, only, scales_and_biases};
use super::{Source, dot, f16, fields, load, neighbours, odd, rows, starts, two_f16, two_fields};
use crate::cpu::isa::Dots;
use crate::cpu::isa::avx512::Avx512;
use crate::cpu::isa::panel::BLOCK;
use crate::cpu::isa::unit_rows::{GROUPS, GROUPS_MAX};
use crate::quant::ggml::codebooks::IQ1;
use crate::quant::ggml::types::{Iq1M, Iq1S};

/// Weights of an entry.
const WEIGHTS: usize = 8;

/// Entries of a block.
const ENTRIES: usize = 32;

/// Eight times a weight's -1, 0 or 1, plus 127; where nothing is taken from a group or an entry, two more.
static LESS: [u64; 2048] = {
    let (mut table, mut entry) = ([0; 2048], 0);
    while entry < 2048 {
        table[entry] = IQ1[entry] - 0x0101_0101_0101_0101;
        entry += 1;
    }
    table
};

/// Blocks of entries: see [`Unit`].
trait Entries: Unit {
    /// Of a block, the entries' places in the table, in order.
    unsafe fn places(w: *const u8) -> __m512i;
    /// Where among a block's 32 an entry is multiplied: eight to a vector.
    fn slot(entry: usize) -> usize;
    /// The dot products of each group, with entries in their slots.
    unsafe fn of_entries(w: *const u8, entries: *const u8, x: *const u8) -> __m512i;
}

/// Rows of such blocks.
struct LookedUp<T> {
    w: *const u8,
    stride: usize,
    /// The first weight of those whose entries are here.
    k: usize,
    entries: Kept,
    of: PhantomData<T>,
}

#[repr(align(64))]
struct Kept(MaybeUninit<[u64; GROUPS_MAX * BLOCK / WEIGHTS]>);

#[repr(align(64))]
struct Indices(MaybeUninit<[u16; GROUPS_MAX * BLOCK / WEIGHTS]>);

impl<T: Entries> LookedUp<T> {
    fn new(d: &Dots) -> Self {
        LookedUp { w: d.w, stride: d.w_stride, k: 0, entries: Kept(MaybeUninit::uninit()), of: PhantomData }
    }
}

impl<T: Entries> Source for LookedUp<T> {
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
    unsafe fn begin(&mut self, row: usize, k: usize, len: usize) {
        // SAFETY: as above; places are below 2048, slots below 32, and there is room for as many weights as are asked for.
        unsafe {
            let (w, blocks) = (self.at(row, k), len / T::WEIGHTS);
            let mut indices = Indices(MaybeUninit::uninit());
            let indices = indices.0.as_mut_ptr().cast::<u16>();
            for block in 0..blocks {
                _mm512_storeu_si512(indices.add(ENTRIES * block).cast(), T::places(w.add(block * T::BYTES)));
            }
            self.k = k;
            let to = self.entries.0.as_mut_ptr().cast::<u64>();
            for block in 0..blocks {
                let (indices, to) = (indices.add(ENTRIES * block), to.add(ENTRIES * block));
                for entry in 0..ENTRIES {
                    let index = usize::from(indices.add(entry).read());
                    // Volatile, or compilers make a gather of these, which takes twice as long.
                    to.add(T::slot(entry)).write(LESS.as_ptr().add(index).read_volatile());
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn dots(&self, row: usize, k: usize, x: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe { T::of_entries(self.at(row, k), self.entries.0.as_ptr().cast::<u8>().add(k - self.k), x) }
    }
    #[inline(always)]
    unsafe fn scales(&self, row: usize, k: usize) -> [Avx512; 2] {
        // SAFETY: as above.
        unsafe { scales_and_biases::<T>(self.at(row, k)) }
    }
}

/// Adds the products of eight entries, of which a mask says from which nothing is taken.
#[inline(always)]
unsafe fn of_eight(sum: __m512i, entries: *const u8, more: u8, x: *const u8, i: usize) -> __m512i {
    // SAFETY: the instructions, and entries and activations there.
    unsafe {
        let entries = load(entries.add(64 * i));
        // No byte runs over.
        let entries = _mm512_mask_add_epi64(entries, more, entries, _mm512_set1_epi8(2));
        dot(sum, entries, x, i)
    }
}

/// Puts eights of activations into the slots of their entries.
#[inline(always)]
unsafe fn arrange_entries<T: Entries>(x: *mut u8, blocks: usize) {
    // SAFETY: as many blocks of activations at `x`.
    unsafe {
        for block in 0..blocks {
            let x = x.cast::<[u64; ENTRIES]>().add(block);
            let (from, mut to) = (x.read_unaligned(), [0; ENTRIES]);
            for entry in 0..ENTRIES {
                to[T::slot(entry)] = from[entry];
            }
            x.write_unaligned(to);
        }
    }
}

/// The lower eight bits of a block's places.
#[inline(always)]
unsafe fn low(w: *const u8) -> __m512i {
    // SAFETY: AVX-512, and 32 bytes at `w`.
    unsafe { _mm512_cvtepu8_epi16(_mm256_loadu_si256(w.cast())) }
}

/// With three more bits of what is above them.
#[inline(always)]
unsafe fn with(low: __m512i, high: __m512i) -> __m512i {
    // SAFETY: AVX-512.
    unsafe {
        let three = _mm512_and_si512(high, _mm512_set1_epi16(7));
        _mm512_or_si512(low, _mm512_slli_epi16::<8>(three))
    }
}

/// Eight groups' upper three bits of four places, three bits of a scale and a sign.
#[inline(always)]
unsafe fn words(w: *const u8) -> __m128i {
    // SAFETY: 16 bytes at `w`.
    unsafe { _mm_loadu_si128(w.add(34).cast()) }
}

impl Unit for Iq1S {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn arrange(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { arrange_entries::<Self>(x, 2) }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_set_m128i(words(w.add(50)), words(w)));
            let scales = _mm512_and_si512(_mm512_srli_epi32::<12>(words), _mm512_set1_epi32(7));
            only(_mm512_mul_ps(_mm512_mul_ps(two_f16([w, w.add(50)]), odd(scales)), _mm512_set1_ps(0.125)))
        }
    }
    unsafe fn multiply(d: &Dots) {
        // SAFETY: as above.
        unsafe { rows(d, LookedUp::<Self>::new(d)) }
    }
}

impl Entries for Iq1S {
    #[inline(always)]
    unsafe fn places(w: *const u8) -> __m512i {
        // SAFETY: AVX512-VBMI, and the block at `w`.
        unsafe {
            // Each word to four, from bit 0, 3, 6 and 9 of it on.
            let high =
                _mm512_maskz_permutexvar_epi16(!0, load(QUARTER_OF.as_ptr().cast()), _mm512_castsi128_si512(words(w)));
            with(low(w.add(2)), _mm512_srlv_epi16(high, _mm512_set1_epi64(0x0009_0006_0003_0000)))
        }
    }
    /// Vector i has entry i of each group.
    #[inline(always)]
    fn slot(entry: usize) -> usize {
        entry % 4 * 8 + entry / 4
    }
    #[inline(always)]
    unsafe fn of_entries(w: *const u8, entries: *const u8, x: *const u8) -> __m512i {
        // SAFETY: the instructions, two blocks at `w`, and their entries and activations.
        unsafe {
            let mut sums = [_mm512_setzero_si512(); 2];
            for b in 0..2 {
                let more = !_mm_movepi16_mask(words(w.add(50 * b)));
                for i in 0..4 {
                    sums[b] = of_eight(sums[b], entries, more, x, 4 * b + i);
                }
            }
            neighbours(sums[0], sums[1])
        }
    }
}

/// A fourth of each number.
static QUARTER_OF: [u16; 32] = {
    let (mut quarters, mut i) = ([0; 32], 0);
    while i < 32 {
        quarters[i] = i as u16 / 4;
        i += 1;
    }
    quarters
};

impl Unit for Iq1M {
    const KNOWN: bool = true;
    #[inline(always)]
    unsafe fn arrange(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { arrange_entries::<Self>(x, 1) }
    }
    #[inline(always)]
    unsafe fn scales(w: *const u8) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe {
            let words = w.add(48).cast::<u64>().read_unaligned();
            let d = (0..4).fold(0, |d, i| d | (words >> (16 * i + 12) & 15) << (4 * i)) as u16;
            let scales = two_fields(starts([0, 16], 3), starts([32, 48], 3), _mm_set1_epi64x(words as i64));
            let scales = odd(_mm512_cvtepu8_epi32(_mm_and_si128(scales, _mm_set1_epi8(7))));
            only(_mm512_mul_ps(_mm512_mul_ps(f16((&raw const d).cast()), scales), _mm512_set1_ps(0.125)))
        }
    }
    unsafe fn multiply(d: &Dots) {
        // SAFETY: as above.
        unsafe { rows(d, LookedUp::<Self>::new(d)) }
    }
}

impl Entries for Iq1M {
    #[inline(always)]
    unsafe fn places(w: *const u8) -> __m512i {
        // SAFETY: AVX512-VBMI, and the block at `w`.
        unsafe {
            // Four bits for each word: of each four words, in the lowest.
            let high = _mm512_cvtepu16_epi64(_mm_loadu_si128(w.add(32).cast()));
            with(low(w), fields(starts([0, 8], 2), high))
        }
    }
    /// Vectors have the first entries of eight groups, those of the other eight, and then the second entries.
    #[inline(always)]
    fn slot(entry: usize) -> usize {
        entry % 2 * 16 + entry / 2
    }
    #[inline(always)]
    unsafe fn of_entries(w: *const u8, entries: *const u8, x: *const u8) -> __m512i {
        // SAFETY: the instructions, a block at `w`, and its entries and activations.
        unsafe {
            let high = _mm_loadu_si128(w.add(32).cast());
            let more = [_mm_testn_epi8_mask(high, _mm_set1_epi8(8)), !_mm_movepi8_mask(high)];
            let mut sums = [_mm512_setzero_si512(); 2];
            for i in 0..4 {
                sums[i % 2] = of_eight(sums[i % 2], entries, (more[i / 2] >> (8 * (i % 2))) as u8, x, i);
            }
            neighbours(sums[0], sums[1])
        }
    }
}
