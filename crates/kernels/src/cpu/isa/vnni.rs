//! AVX-512 with VNNI and VBMI: a step of sixteen weight rows, as they are stored, times one activation row.

// A tile is indexed by row of fixed number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::affine::STEP_BLOCKS_MAX;

/// Vector b of the result holds the dot products of block b.
///
/// # Safety
/// The machine has the instructions, and a step is at each address.
#[inline(always)]
pub(super) unsafe fn sixteen<const BITS: usize>(rows: &[*const u8; 16], x: *const u8) -> [__m512i; STEP_BLOCKS_MAX] {
    // SAFETY: the caller's promise.
    unsafe {
        match BITS {
            2 => of_crumbs(rows, x),
            4 => of_nibbles(rows, x),
            _ => of_bytes::<BITS>(rows, x),
        }
    }
}

/// Four blocks of four bits.
#[inline(always)]
unsafe fn of_nibbles(rows: &[*const u8; 16], x: *const u8) -> [__m512i; STEP_BLOCKS_MAX] {
    // SAFETY: the instructions, 64 bytes at each row and 128 at `x`.
    unsafe {
        let (first, second) = (_mm512_loadu_si512(x.cast()), _mm512_loadu_si512(x.add(64).cast()));
        let x_low = _mm512_shuffle_i32x4::<0x88>(first, second);
        let x_high = _mm512_shuffle_i32x4::<0xdd>(first, second);
        let nibble = _mm512_set1_epi8(15);
        let mut fours = [_mm512_setzero_si512(); 4];
        for four in 0..4 {
            let mut sums = [_mm512_setzero_si512(); 4];
            for row in 0..4 {
                let w = _mm512_loadu_si512(rows[4 * four + row].cast());
                sums[row] = _mm512_dpbusd_epi32(sums[row], _mm512_and_si512(w, nibble), x_low);
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(w), nibble);
                sums[row] = _mm512_dpbusd_epi32(sums[row], high, x_high);
            }
            fours[four] = sums_of_four(sums);
        }
        let [a, b, c, d] = by_quarter(fours);
        let zero = _mm512_setzero_si512();
        [a, b, c, d, zero, zero, zero, zero]
    }
}

/// Two blocks of eight bits, or of fewer that two instructions move to bytes of their own: eight weights to each 64 bits.
#[inline(always)]
unsafe fn of_bytes<const BITS: usize>(rows: &[*const u8; 16], x: *const u8) -> [__m512i; STEP_BLOCKS_MAX] {
    // SAFETY: the caller's promise.
    unsafe {
        let fours = fours_of_bytes::<BITS>(rows, x);
        let (low, high) = (halves(fours[0], fours[1]), halves(fours[2], fours[3]));
        let mut dots = [_mm512_setzero_si512(); STEP_BLOCKS_MAX];
        dots[0] = _mm512_shuffle_i32x4::<0x88>(low, high);
        dots[1] = _mm512_shuffle_i32x4::<0xdd>(low, high);
        dots
    }
}

/// Two blocks of bytes, or, one by one, the halves of both.
///
/// # Safety
/// As for [`sixteen`], with 64 bytes at each address.
#[inline(always)]
pub(super) unsafe fn unpacked<const HALVES: bool>(rows: &[*const u8; 16], x: *const u8) -> [__m512i; STEP_BLOCKS_MAX] {
    // SAFETY: the caller's promise.
    unsafe {
        if !HALVES {
            return of_bytes::<8>(rows, x);
        }
        let [a, b, c, d] = by_quarter(fours_of_bytes::<8>(rows, x));
        let zero = _mm512_setzero_si512();
        [a, b, c, d, zero, zero, zero, zero]
    }
}

/// The dot products of each sixteen of two blocks: of four rows to a vector, of a sixteen to a quarter.
#[inline(always)]
unsafe fn fours_of_bytes<const BITS: usize>(rows: &[*const u8; 16], x: *const u8) -> [__m512i; 4] {
    // SAFETY: the instructions, and 64 weights or activations at each address; masked bytes are not read.
    unsafe {
        let x = _mm512_loadu_si512(x.cast());
        let fields = const { Fields::of(BITS) };
        let (bytes, shifts) = (_mm512_loadu_si512(fields.bytes.as_ptr().cast()), _mm512_set1_epi64(fields.shifts));
        let mask = _mm512_set1_epi8(((1u32 << BITS) - 1) as i8);
        let mut fours = [_mm512_setzero_si512(); 4];
        for four in 0..4 {
            let mut sums = [_mm512_setzero_si512(); 4];
            for row in 0..4 {
                let row_at = rows[4 * four + row];
                let w = if BITS == 8 {
                    _mm512_loadu_si512(row_at.cast())
                } else {
                    let w = _mm512_maskz_loadu_epi8(!0 >> (64 - 8 * BITS), row_at.cast());
                    let w = _mm512_multishift_epi64_epi8(shifts, _mm512_permutexvar_epi8(bytes, w));
                    _mm512_and_si512(w, mask)
                };
                sums[row] = _mm512_dpbusd_epi32(sums[row], w, x);
            }
            fours[four] = sums_of_four(sums);
        }
        fours
    }
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

/// Eight blocks of two bits.
#[inline(always)]
unsafe fn of_crumbs(rows: &[*const u8; 16], x: *const u8) -> [__m512i; STEP_BLOCKS_MAX] {
    // SAFETY: the instructions, 64 bytes at each row and 256 at `x`.
    unsafe {
        let xs = crumb_planes(x);
        let crumb = _mm512_set1_epi8(3);
        // Of each quarter, the first block of four rows and the second.
        let mut fours = [[_mm512_setzero_si512(); 4]; 2];
        for four in 0..4 {
            let mut pairs = [_mm512_setzero_ps(); 2];
            for pair in 0..2 {
                let mut sums = [_mm512_setzero_si512(); 2];
                for i in 0..2 {
                    let w = _mm512_loadu_si512(rows[4 * four + 2 * pair + i].cast());
                    let sum = _mm512_dpbusd_epi32(sums[i], _mm512_and_si512(w, crumb), xs[0]);
                    let sum = _mm512_dpbusd_epi32(sum, _mm512_and_si512(_mm512_srli_epi16::<2>(w), crumb), xs[1]);
                    let sum = _mm512_dpbusd_epi32(sum, _mm512_and_si512(_mm512_srli_epi16::<4>(w), crumb), xs[2]);
                    sums[i] = _mm512_dpbusd_epi32(sum, _mm512_and_si512(_mm512_srli_epi16::<6>(w), crumb), xs[3]);
                }
                let (a, b) = (_mm512_castsi512_ps(sums[0]), _mm512_castsi512_ps(sums[1]));
                let even = _mm512_castps_si512(_mm512_shuffle_ps::<0x88>(a, b));
                let odd = _mm512_castps_si512(_mm512_shuffle_ps::<0xdd>(a, b));
                pairs[pair] = _mm512_castsi512_ps(_mm512_add_epi32(even, odd));
            }
            fours[0][four] = _mm512_castps_si512(_mm512_shuffle_ps::<0x88>(pairs[0], pairs[1]));
            fours[1][four] = _mm512_castps_si512(_mm512_shuffle_ps::<0xdd>(pairs[0], pairs[1]));
        }
        let ([a, c, e, g], [b, d, f, h]) = (by_quarter(fours[0]), by_quarter(fours[1]));
        [a, b, c, d, e, f, g, h]
    }
}

/// What the lowest two bits of all bytes are multiplied with, the next, and so on: eight bytes of each block.
#[inline(always)]
unsafe fn crumb_planes(x: *const u8) -> [__m512i; 4] {
    // SAFETY: the instructions, and 256 bytes at `x`.
    unsafe {
        let (a, b) = (_mm512_loadu_si512(x.cast()), _mm512_loadu_si512(x.add(64).cast()));
        let (c, d) = (_mm512_loadu_si512(x.add(128).cast()), _mm512_loadu_si512(x.add(192).cast()));
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

/// The sums of neighbouring quarters of two vectors.
#[inline(always)]
unsafe fn halves(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: AVX-512.
    unsafe { _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b)) }
}

/// Four vectors' first quarters, their second ones, and so on.
#[inline(always)]
unsafe fn by_quarter([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: AVX-512.
    unsafe {
        let (ab, cd) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d));
        let (ab_high, cd_high) = (_mm512_shuffle_i32x4::<0xee>(a, b), _mm512_shuffle_i32x4::<0xee>(c, d));
        [
            _mm512_shuffle_i32x4::<0x88>(ab, cd),
            _mm512_shuffle_i32x4::<0xdd>(ab, cd),
            _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high),
            _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high),
        ]
    }
}
