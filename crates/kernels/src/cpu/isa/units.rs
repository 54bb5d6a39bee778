//! Products of ggml's blocks and of codes with a lone activation row, where AVX-512 with VNNI and VBMI multiplies them as they
//! lie: sixteen groups at once, a unit, are unpacked in registers, in whatever order costs least, and the activations are put
//! into the same order beforehand.
//!
//! What a group adds, and in which order, is as `unpacked` describes: the same integers, the same scales and biases, the same bits.
//! Everything here is inlined into functions that enable the instructions.

mod blocks;
mod codebooks;
mod codes;
pub(super) mod e4m3;
mod k_quants;
mod looked_up;
mod ternary;
mod transposed;

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::affine::Ints;
use super::avx512::Avx512;
use super::lone::Terms;
use super::panel::{BLOCK, Place};
use super::tile::Lanes;
use super::unpacked::term;
use super::{Dots, Packed, UnpackedDots};
use crate::quant::ggml::of_type;

/// Groups of a unit: lanes of a vector.
const GROUPS: usize = 16;

/// Groups of a row whose terms are kept until they are added: rows are read from end to end where they have no more.
const GROUPS_MAX: usize = 256;

/// Places for a row's terms: no power of two, so that rows do not fall on each other in a cache.
const TERMS: usize = GROUPS_MAX + GROUPS;

/// Weights that units are taken from.
///
/// # Safety
/// All functions: the machine has the instructions; unit `k` of row `row` is inside the weights, and nothing else is read.
trait Source {
    /// Weights that share a scale: 16 or 32.
    const GROUP: usize;
    /// Puts the activations of a unit into the order in which `dots` takes them.
    unsafe fn arrange(_x: *mut u8) {}
    /// Says that units of weights `k..k + len` of a row come next.
    unsafe fn begin(&mut self, _row: usize, _k: usize, _len: usize) {}
    /// The dot product of each group of the unit from weight `k` on, with activations at `x`.
    unsafe fn dots(&self, row: usize, k: usize, x: *const u8) -> __m512i;
    /// The scale and the bias of each.
    unsafe fn scales(&self, row: usize, k: usize) -> [__m512; 2];
}

/// Computes a product with one activation row, or says that it cannot.
///
/// # Safety
/// The machine has AVX-512 with VNNI and VBMI, and the addresses hold what `UnpackedDots` says.
#[inline(always)]
pub(super) unsafe fn dots(d: &UnpackedDots) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        match d.weights {
            Packed::Ggml(format) => of_type!(format => of_blocks [] (&d.dots)),
            Packed::Coded(rows, group) => codes::dots(&d.dots, rows, group),
        }
    }
}

#[inline(always)]
unsafe fn of_blocks<T: blocks::Unit>(d: &Dots) -> bool {
    let fits = T::KNOWN && d.k >= GROUPS * T::GROUP;
    if fits {
        // SAFETY: the caller's promise.
        unsafe { T::multiply(d) };
    }
    fits
}

/// All rows, from the first byte of each to its last. The last unit of a row ends with it: where it meets the one before, some
/// groups are computed twice.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
unsafe fn rows<S: Source>(d: &Dots, mut source: S) {
    let (unit, mut terms, mut k) = (GROUPS * S::GROUP, Terms::<TERMS>::new(), 0);
    let mut x = Activations::new();
    while k < d.k {
        let len = part(d.k - k, unit);
        // SAFETY: the caller's promise; the part is a unit at least.
        unsafe {
            x.fill::<S>(d, k, len);
            for row in (0..d.rows).step_by(GROUPS) {
                let rows = GROUPS.min(d.rows - row);
                for lane in 0..rows {
                    source.begin(row + lane, k, len);
                    for i in 0..len.div_ceil(unit) {
                        let first = (i * unit).min(len - unit);
                        let dots = source.dots(row + lane, k + first, x.q.as_ptr().cast::<u8>().add(i * unit)).to_f32();
                        let [scale, bias] = source.scales(row + lane, k + first);
                        let (scale, bias, g) = (Avx512(scale), Avx512(bias), first / S::GROUP);
                        let (x_scale, x_sum) = (numbers(&x.scales, g), numbers(&x.sums, g));
                        terms.set(lane, g, term(dots, x_scale, scale, bias, x_sum));
                    }
                }
                terms.add::<__m512i>(d, Place { row, rows, k, len }, len / S::GROUP);
            }
        }
        k += len;
    }
}

/// The weights of a row that come next, of so many that are left: none are left behind that are fewer than a unit.
fn part(left: usize, unit: usize) -> usize {
    let most = GROUPS_MAX / GROUPS * unit;
    match left {
        _ if left <= most => left,
        _ if left - most < unit => most - unit,
        _ => most,
    }
}

/// Activations `x[k..k + len]` as they are taken; written before they are read.
#[repr(align(64))]
struct Activations {
    /// Unit by unit, arranged.
    q: MaybeUninit<[u8; GROUPS_MAX * BLOCK]>,
    /// The scale of each group's, and their sum.
    scales: MaybeUninit<[f32; GROUPS_MAX]>,
    sums: MaybeUninit<[f32; GROUPS_MAX]>,
}

impl Activations {
    fn new() -> Self {
        Activations { q: MaybeUninit::uninit(), scales: MaybeUninit::uninit(), sums: MaybeUninit::uninit() }
    }

    #[inline(always)]
    unsafe fn fill<S: Source>(&mut self, d: &Dots, k: usize, len: usize) {
        let unit = GROUPS * S::GROUP;
        // SAFETY: the caller's row is what `round` makes for groups of so many weights; a part has at most `GROUPS_MAX`.
        unsafe {
            for i in 0..len.div_ceil(unit) {
                let from = d.x.add(k + (i * unit).min(len - unit));
                let to = self.q.as_mut_ptr().cast::<u8>().add(i * unit);
                std::ptr::copy_nonoverlapping(from, to, unit);
                S::arrange(to);
            }
            let scales = d.x.add(d.k).cast::<f32>();
            let sums = scales.add(d.k / BLOCK).add(k / S::GROUP);
            let (to_scales, to_sums) = (self.scales.as_mut_ptr().cast::<f32>(), self.sums.as_mut_ptr().cast::<f32>());
            for g in 0..len / S::GROUP {
                to_scales.add(g).write(scales.add((k + g * S::GROUP) / BLOCK).read_unaligned());
                to_sums.add(g).write(sums.add(g).read_unaligned());
            }
        }
    }
}

/// Those of a unit's groups, from group `first` on, which are filled.
#[inline(always)]
unsafe fn numbers(of: &MaybeUninit<[f32; GROUPS_MAX]>, first: usize) -> Avx512 {
    // SAFETY: the caller has the instructions; a vector is inside.
    unsafe { Avx512::load_f32(of.as_ptr().cast::<f32>().add(first).cast()) }
}

#[inline(always)]
unsafe fn load(from: *const u8) -> __m512i {
    // SAFETY: AVX-512, and 64 bytes there.
    unsafe { _mm512_loadu_si512(from.cast()) }
}

/// Four lines of weights, read in ascending order: from it processors foresee what is read next, and compilers keep to none. Read
/// from the last to the first, int8 took three times as long from memory, and as long as this from a cache.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn four_lines(w: *const u8) -> [__m512i; 4] {
    let (a, b, c, d): (__m512i, __m512i, __m512i, __m512i);
    // SAFETY: AVX-512, and 256 bytes there.
    unsafe {
        asm!(
            "vmovdqu64 {a}, [{w}]",
            "vmovdqu64 {b}, [{w} + 64]",
            "vmovdqu64 {c}, [{w} + 128]",
            "vmovdqu64 {d}, [{w} + 192]",
            w = in(reg) w,
            a = out(zmm_reg) a,
            b = out(zmm_reg) b,
            c = out(zmm_reg) c,
            d = out(zmm_reg) d,
            options(nostack, preserves_flags, readonly),
        );
    }
    [a, b, c, d]
}

/// 32 bytes in both halves.
#[inline(always)]
unsafe fn twice(from: *const u8) -> __m512i {
    // SAFETY: AVX-512, and 32 bytes there.
    unsafe { _mm512_broadcast_i64x4(_mm256_loadu_si256(from.cast())) }
}

/// Adds the products of bytes, by fours, with the activations of vector `i`.
#[inline(always)]
unsafe fn dot(sum: __m512i, w: __m512i, x: *const u8, i: usize) -> __m512i {
    // SAFETY: AVX512-VNNI, and as many activations there.
    unsafe { _mm512_dpbusd_epi32(sum, w, load(x.add(64 * i))) }
}

/// The products of bytes with the activations of vector `i`.
#[inline(always)]
unsafe fn product(w: __m512i, x: *const u8, i: usize) -> __m512i {
    // SAFETY: as above.
    unsafe { dot(_mm512_setzero_si512(), w, x, i) }
}

/// The bits of `a` where `mask` has them, and those of `b` elsewhere.
#[inline(always)]
unsafe fn either(a: __m512i, b: __m512i, mask: __m512i) -> __m512i {
    // SAFETY: AVX-512.
    unsafe { _mm512_ternarylogic_epi64::<0xe4>(a, b, mask) }
}

/// The upper four bits of each byte; those above them are the next byte's.
#[inline(always)]
unsafe fn upper(bytes: __m512i) -> __m512i {
    // SAFETY: AVX-512.
    unsafe { _mm512_srli_epi16::<4>(bytes) }
}

#[inline(always)]
unsafe fn low_bits(bytes: __m512i, count: u32) -> __m512i {
    // SAFETY: AVX-512.
    unsafe { _mm512_and_si512(bytes, _mm512_set1_epi8(((1u32 << count) - 1) as i8)) }
}

/// The bytes of a table of 64 at the places that the lower six bits of each byte say.
#[inline(always)]
unsafe fn look_up(places: __m512i, table: &[u8; 64]) -> __m512i {
    // SAFETY: AVX512-VBMI.
    unsafe { _mm512_permutexvar_epi8(places, load(table.as_ptr())) }
}

/// A table of 16 four times, so that the upper bits of a place say nothing.
const fn four_times(table: [u8; 16]) -> [u8; 64] {
    let (mut four, mut i) = ([0; 64], 0);
    while i < 64 {
        four[i] = table[i % 16];
        i += 1;
    }
    four
}

/// Four bytes of each group of `4 · DWORDS` activations to a lane: vector i has the i-th four.
#[inline(always)]
unsafe fn arrange_lanes<const DWORDS: usize>(x: *mut u8) {
    // SAFETY: AVX-512, and sixteen groups at `x`.
    unsafe {
        let rows = std::array::from_fn(|group| x.cast_const().wrapping_add(4 * DWORDS * group));
        let columns = <__m512i as Ints>::transposed(&rows, DWORDS);
        for (i, column) in columns[..DWORDS].iter().enumerate() {
            _mm512_storeu_si512(x.add(64 * i).cast(), *column);
        }
    }
}

/// Puts lane `4j + i` to place `4i + j`.
#[inline(always)]
unsafe fn across(v: __m512i) -> __m512i {
    // SAFETY: AVX-512.
    unsafe {
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm512_permutexvar_epi32(order, v)
    }
}

/// Adds pairs of integers of both vectors, of 16 bits at most: in each quarter, those of the first, then those of the second.
#[inline(always)]
unsafe fn small_pairs(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: AVX-512.
    unsafe { _mm512_madd_epi16(_mm512_packs_epi32(a, b), _mm512_set1_epi16(1)) }
}

/// The same of integers of any size.
#[inline(always)]
unsafe fn pairs(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: AVX-512.
    unsafe {
        let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
        let (even, odd) = (_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xdd>(a, b));
        _mm512_add_epi32(_mm512_castps_si512(even), _mm512_castps_si512(odd))
    }
}

/// The sums of the quarters of four vectors, of integers of `BITS` bits and a sign at most, one vector's behind the other's.
#[inline(always)]
unsafe fn quarters<const BITS: u32>([a, b, c, d]: [__m512i; 4]) -> __m512i {
    // SAFETY: AVX-512.
    unsafe {
        across(match BITS {
            ..15 => small_pairs(small_pairs(a, b), small_pairs(c, d)),
            15 => pairs(small_pairs(a, b), small_pairs(c, d)),
            _ => pairs(pairs(a, b), pairs(c, d)),
        })
    }
}

/// The sums of the halves of eight vectors, of integers of any size, one vector's behind the other's.
#[inline(always)]
unsafe fn halves([a, b, c, d, e, f, g, h]: [__m512i; 8]) -> __m512i {
    // SAFETY: AVX-512.
    unsafe {
        let (first, second) = (pairs(pairs(a, b), pairs(c, d)), pairs(pairs(e, f), pairs(g, h)));
        let (even, odd) = (_mm512_shuffle_i32x4::<0x88>(first, second), _mm512_shuffle_i32x4::<0xdd>(first, second));
        // Quarter i of their sum is the lower or the upper half of four vectors.
        let order = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
        _mm512_permutexvar_epi32(order, _mm512_add_epi32(even, odd))
    }
}

/// The sums of two neighbouring lanes, the second vector's behind the first's.
#[inline(always)]
unsafe fn neighbours(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: AVX-512.
    unsafe {
        let (even, odd) = a.unzip(b);
        _mm512_add_epi32(even, odd)
    }
}

/// Whole numbers of a byte each, as f32.
#[inline(always)]
unsafe fn unsigned(bytes: __m128i) -> __m512 {
    // SAFETY: AVX-512.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)) }
}

#[inline(always)]
unsafe fn signed(bytes: __m128i) -> __m512 {
    // SAFETY: AVX-512.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)) }
}

/// An f16 in all lanes.
#[inline(always)]
unsafe fn f16(from: *const u8) -> __m512 {
    // SAFETY: AVX-512, and two bytes there.
    unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(from.cast::<i16>().read_unaligned())) }
}

/// One in the lower half of all lanes, another in the upper.
#[inline(always)]
unsafe fn two_f16([a, b]: [*const u8; 2]) -> __m512 {
    // SAFETY: AVX-512, and two bytes at each.
    unsafe {
        let (a, b) = (a.cast::<i16>().read_unaligned(), b.cast::<i16>().read_unaligned());
        _mm512_cvtph_ps(_mm256_set_m128i(_mm_set1_epi16(b), _mm_set1_epi16(a)))
    }
}

/// For each eight bytes, where the bits begin that are moved to them.
const fn starts(low: [i32; 2], step: i32) -> i64 {
    let (mut starts, mut byte) = (0, 0);
    while byte < 8 {
        let start = low[byte / 4] + step * (byte % 4) as i32;
        starts |= ((start & 63) as i64) << (8 * byte);
        byte += 1;
    }
    starts
}

/// Moves bits of each eight bytes to each of them: see [`starts`].
#[inline(always)]
unsafe fn fields(starts: i64, of: __m512i) -> __m512i {
    // SAFETY: AVX512-VBMI.
    unsafe { _mm512_multishift_epi64_epi8(_mm512_set1_epi64(starts), of) }
}

/// The same of sixteen bytes, with other places for the second eight.
#[inline(always)]
unsafe fn two_fields(first: i64, second: i64, of: __m128i) -> __m128i {
    // SAFETY: AVX512-VBMI and VL.
    unsafe { _mm_multishift_epi64_epi8(_mm_set_epi64x(second, first), of) }
}

/// Twice a number and 1.
#[inline(always)]
unsafe fn odd(of: __m512i) -> __m512 {
    // SAFETY: AVX-512.
    unsafe { _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_add_epi32(of, of), _mm512_set1_epi32(1))) }
}

/// Sixteen times four bits, the lowest first, a byte to each.
#[inline(always)]
unsafe fn nibbles(of: u64) -> __m128i {
    // SAFETY: AVX512-VBMI and VL.
    unsafe {
        let spread = two_fields(starts([0, 16], 4), starts([32, 48], 4), _mm_set1_epi64x(of as i64));
        _mm_and_si128(spread, _mm_set1_epi8(15))
    }
}
