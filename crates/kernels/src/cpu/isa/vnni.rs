//! AVX-512 with VNNI and VBMI: sixteen blocks of a weight row, as they are stored, times those of an activation row.

// Lines are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

/// Vectors that sixteen blocks of activations fill.
const X_VECTORS: usize = 8;

/// Puts sixteen blocks of activations in the order in which [`row`] takes them: what the lowest bits of all bytes of a line of
/// weights are multiplied with, then the next.
///
/// # Safety
/// The machine has the instructions, and the blocks are at `x`.
#[inline(always)]
pub(super) unsafe fn arrange<const BITS: usize>(x: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut at = [_mm512_setzero_si512(); X_VECTORS];
        for i in 0..X_VECTORS {
            at[i] = _mm512_loadu_si512(x.add(64 * i).cast());
        }
        let arranged = match BITS {
            2 => {
                let ([a, b, c, d], [e, f, g, h]) =
                    (crumb_planes(at[0], at[1], at[2], at[3]), crumb_planes(at[4], at[5], at[6], at[7]));
                [a, b, c, d, e, f, g, h]
            }
            4 => {
                for i in (0..X_VECTORS).step_by(2) {
                    let (first, second) = (at[i], at[i + 1]);
                    at[i] = _mm512_shuffle_i32x4::<0x88>(first, second);
                    at[i + 1] = _mm512_shuffle_i32x4::<0xdd>(first, second);
                }
                at
            }
            _ => return,
        };
        for i in 0..X_VECTORS {
            _mm512_storeu_si512(x.add(64 * i).cast(), arranged[i]);
        }
    }
}

/// Lane b of the result is the dot product of block b; 0 from block 8 on, if only half of them are asked for.
///
/// # Safety
/// The machine has the instructions, and the blocks are at each address, arranged at `x`.
#[inline(always)]
pub(super) unsafe fn row<const BITS: usize, const HALF: bool>(w: *const u8, x: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        match BITS {
            2 => of_crumbs::<HALF>(w, x),
            4 => of_nibbles::<HALF>(w, x),
            _ => of_bytes::<BITS, HALF>(w, x),
        }
    }
}

#[inline(always)]
unsafe fn line(w: *const u8, i: usize) -> __m512i {
    // SAFETY: AVX-512, and line i at `w`.
    unsafe { _mm512_loadu_si512(w.add(64 * i).cast()) }
}

/// Of four bits: a line holds four blocks.
#[inline(always)]
unsafe fn of_nibbles<const HALF: bool>(w: *const u8, x: *const u8) -> __m512i {
    // SAFETY: the instructions, 256 bytes at `w` or half of them, and 512 at `x`.
    unsafe {
        let (zero, nibble) = (_mm512_setzero_si512(), _mm512_set1_epi8(15));
        let mut sums = [zero; 4];
        for i in 0..if HALF { 2 } else { 4 } {
            let w = line(w, i);
            let low = _mm512_dpbusd_epi32(zero, _mm512_and_si512(w, nibble), line(x, 2 * i));
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(w), nibble);
            sums[i] = _mm512_dpbusd_epi32(low, high, line(x, 2 * i + 1));
        }
        // Quarter q of line i is block 4i + q.
        in_order(small_sums_of_four(sums), _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15))
    }
}

/// [`sums_of_four`] of integers whose sums by two fit in 16 bits.
#[inline(always)]
unsafe fn small_sums_of_four([a, b, c, d]: [__m512i; 4]) -> __m512i {
    // SAFETY: AVX-512.
    unsafe {
        let one = _mm512_set1_epi16(1);
        let ab = _mm512_madd_epi16(_mm512_packs_epi32(a, b), one);
        let cd = _mm512_madd_epi16(_mm512_packs_epi32(c, d), one);
        _mm512_madd_epi16(_mm512_packs_epi32(ab, cd), one)
    }
}

/// Of eight bits, or of fewer that two instructions move to bytes of their own: a line of these holds two blocks.
#[inline(always)]
unsafe fn of_bytes<const BITS: usize, const HALF: bool>(w: *const u8, x: *const u8) -> __m512i {
    // SAFETY: the instructions, 64 · BITS bytes at `w` or half of them, and 512 at `x`.
    unsafe {
        let first = four_lines::<BITS>(w, x);
        let second = if HALF { _mm512_setzero_si512() } else { four_lines::<BITS>(w.add(32 * BITS), x.add(256)) };
        // Quarters 0 and 1 of line i are block 2i.
        let blocks =
            _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(first, second), _mm512_shuffle_i32x4::<0xdd>(first, second));
        in_order(blocks, _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15))
    }
}

/// Of bytes, each half of a block: of the first eight blocks, and of the second.
///
/// # Safety
/// As for [`row`], with a byte for each weight.
#[inline(always)]
pub(super) unsafe fn halves(w: *const u8, x: *const u8) -> [__m512i; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        [in_order(four_lines::<8>(w, x), order), in_order(four_lines::<8>(w.add(256), x.add(256)), order)]
    }
}

/// The sums of each quarter q of lines i of bytes, in lanes 4q + i.
#[inline(always)]
unsafe fn four_lines<const BITS: usize>(w: *const u8, x: *const u8) -> __m512i {
    // SAFETY: the instructions, and 256 weights and activations; masked bytes are not read.
    unsafe {
        let fields = const { Fields::of(BITS) };
        let (bytes, shifts) = (_mm512_loadu_si512(fields.bytes.as_ptr().cast()), _mm512_set1_epi64(fields.shifts));
        let mask = _mm512_set1_epi8(((1u32 << BITS) - 1) as i8);
        let mut sums = [_mm512_setzero_si512(); 4];
        for i in 0..4 {
            let w = if BITS == 8 {
                line(w, i)
            } else {
                let w = _mm512_maskz_loadu_epi8(!0 >> (64 - 8 * BITS), w.add(8 * BITS * i).cast());
                let w = _mm512_multishift_epi64_epi8(shifts, _mm512_permutexvar_epi8(bytes, w));
                _mm512_and_si512(w, mask)
            };
            sums[i] = _mm512_dpbusd_epi32(sums[i], w, line(x, i));
        }
        sums_of_four(sums)
    }
}

/// Of two bits: a line holds eight blocks.
#[inline(always)]
unsafe fn of_crumbs<const HALF: bool>(w: *const u8, x: *const u8) -> __m512i {
    // SAFETY: the instructions, 128 bytes at `w` or half of them, and 512 at `x`.
    unsafe {
        let crumb = _mm512_set1_epi8(3);
        let mut sums = [_mm512_setzero_ps(); 2];
        for i in 0..if HALF { 1 } else { 2 } {
            let w = line(w, i);
            let sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_and_si512(w, crumb), line(x, 4 * i));
            let second = _mm512_and_si512(_mm512_srli_epi16::<2>(w), crumb);
            let sum = _mm512_dpbusd_epi32(sum, second, line(x, 4 * i + 1));
            let third = _mm512_and_si512(_mm512_srli_epi16::<4>(w), crumb);
            let sum = _mm512_dpbusd_epi32(sum, third, line(x, 4 * i + 2));
            let last = _mm512_and_si512(_mm512_srli_epi16::<6>(w), crumb);
            sums[i] = _mm512_castsi512_ps(_mm512_dpbusd_epi32(sum, last, line(x, 4 * i + 3)));
        }
        // Lanes 2b and 2b + 1 of line i are block 8i + b.
        let even = _mm512_castps_si512(_mm512_shuffle_ps::<0x88>(sums[0], sums[1]));
        let odd = _mm512_castps_si512(_mm512_shuffle_ps::<0xdd>(sums[0], sums[1]));
        let order = _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
        in_order(_mm512_add_epi32(even, odd), order)
    }
}

/// The lanes of a vector in another order.
#[inline(always)]
unsafe fn in_order(v: __m512i, order: __m512i) -> __m512i {
    // SAFETY: AVX-512.
    unsafe { _mm512_permutexvar_epi32(order, v) }
}

/// Where eight weights of 3, 5 or 6 bits lie: for each byte of the unpacked, the byte to move to it, so that each 64 bits hold
/// their eight weights; and the first bit of each of these.
struct Fields {
    bytes: [u8; 64],
    shifts: i64,
}

impl Fields {
    const fn of(bits: usize) -> Fields {
        let mut fields = Fields { bytes: [0; 64], shifts: 0 };
        let mut at = 0;
        while at < 64 {
            fields.bytes[at] = (at / 8 * bits + at % 8) as u8 % 64;
            at += 1;
        }
        let mut weight = 0;
        while weight < 8 {
            fields.shifts |= ((weight * bits) as i64) << (8 * weight);
            weight += 1;
        }
        fields
    }
}

/// What the lowest two bits of all bytes are multiplied with, the next, and so on: eight bytes of each block.
#[inline(always)]
unsafe fn crumb_planes(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> [__m512i; 4] {
    // SAFETY: the instructions.
    unsafe {
        let (first, last) =
            (_mm512_setr_epi64(0, 4, 8, 12, 1, 5, 9, 13), _mm512_setr_epi64(2, 6, 10, 14, 3, 7, 11, 15));
        let (ab, cd) = (_mm512_permutex2var_epi64(a, first, b), _mm512_permutex2var_epi64(c, first, d));
        let (ab_last, cd_last) = (_mm512_permutex2var_epi64(a, last, b), _mm512_permutex2var_epi64(c, last, d));
        [
            _mm512_shuffle_i64x2::<0x44>(ab, cd),
            _mm512_shuffle_i64x2::<0xee>(ab, cd),
            _mm512_shuffle_i64x2::<0x44>(ab_last, cd_last),
            _mm512_shuffle_i64x2::<0xee>(ab_last, cd_last),
        ]
    }
}

/// The sums of the four integers of each quarter of four vectors, side by side in that quarter.
#[inline(always)]
unsafe fn sums_of_four([a, b, c, d]: [__m512i; 4]) -> __m512i {
    // SAFETY: AVX-512.
    unsafe {
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
    }
}
