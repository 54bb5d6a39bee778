//! NEON with products of bytes: `sdot` adds four in 32 bits, `smmla` those of eight for two weight rows by two activation rows.
//! Both in inline assembly: stable Rust has no names for them. Eight bits are multiplied as q - 128, as without them.

// A tile is indexed by column of fixed number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::aarch64::*;
use std::arch::asm;
use std::marker::PhantomData;

use super::affine::{Bytes, Ints, rounded_kernels_of};
use super::many::NoTiles;
use super::neon::{self, Words, signed};
use super::{Kernels, QuantisedKernels};

/// Adds products of four bytes to each lane.
#[inline(always)]
unsafe fn sdot(mut sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the caller has the instruction, which touches its registers only.
    unsafe {
        asm!("sdot {sums:v}.4s, {w:v}.16b, {x:v}.16b", sums = inout(vreg) sums, w = in(vreg) w, x = in(vreg) x,
             options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// The same, of four bytes of `x`, number `LANE`, with all of `w`.
#[inline(always)]
unsafe fn sdot_lane<const LANE: usize>(mut sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: as above.
    unsafe {
        asm!("sdot {sums:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]", sums = inout(vreg) sums, w = in(vreg) w,
             x = in(vreg) x, lane = const LANE, options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// Adds products of the eight bytes of each half of `w` with those of each half of `x`.
#[inline(always)]
unsafe fn smmla(mut sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: as above.
    unsafe {
        asm!("smmla {sums:v}.4s, {w:v}.16b, {x:v}.16b", sums = inout(vreg) sums, w = in(vreg) w, x = in(vreg) x,
             options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// How many activation rows are multiplied.
///
/// # Safety
/// As for [`Bytes::words`].
trait Many {
    unsafe fn words<const BITS: usize, const WORDS: usize, const C: usize>(
        w: *const u8,
        x: *const u8,
        rows: &[usize; C],
    ) -> [Words; C];
}

/// One by one, with `sdot`.
struct DotProd;

impl Many for DotProd {
    #[inline(always)]
    unsafe fn words<const BITS: usize, const WORDS: usize, const C: usize>(
        w: *const u8,
        x: *const u8,
        rows: &[usize; C],
    ) -> [Words; C] {
        // SAFETY: the words at `w`, and as many activations of each row, here and below.
        unsafe {
            let mut sums = [[vdupq_n_s32(0); 2]; C];
            for four in 0..WORDS / 4 {
                let mut xs = [vdupq_n_s8(0); C];
                for j in 0..C {
                    xs[j] = vld1q_s8(x.add(rows[j] + 16 * four).cast());
                }
                let w = w.add(128 * four);
                add_word::<BITS, 0, C>(&mut sums, w, &xs);
                add_word::<BITS, 1, C>(&mut sums, w, &xs);
                add_word::<BITS, 2, C>(&mut sums, w, &xs);
                add_word::<BITS, 3, C>(&mut sums, w, &xs);
            }
            let mut dots = [Words::splat(0); C];
            for j in 0..C {
                dots[j] = Words(vreinterpretq_u32_s32(sums[j][0]), vreinterpretq_u32_s32(sums[j][1]));
            }
            dots
        }
    }
}

/// Word `LANE` of four.
#[inline(always)]
unsafe fn add_word<const BITS: usize, const LANE: usize, const C: usize>(
    sums: &mut [[int32x4_t; 2]; C],
    w: *const u8,
    xs: &[int8x16_t; C],
) {
    // SAFETY: as above.
    unsafe {
        let w = w.add(32 * LANE);
        let w = [signed::<BITS>(vld1q_u8(w)), signed::<BITS>(vld1q_u8(w.add(16)))];
        for j in 0..C {
            sums[j][0] = sdot_lane::<LANE>(sums[j][0], w[0], xs[j]);
            sums[j][1] = sdot_lane::<LANE>(sums[j][1], w[1], xs[j]);
        }
    }
}

/// Two by two, with `smmla`.
struct I8mm;

impl Many for I8mm {
    #[inline(always)]
    unsafe fn words<const BITS: usize, const WORDS: usize, const C: usize>(
        w: *const u8,
        x: *const u8,
        rows: &[usize; C],
    ) -> [Words; C] {
        // SAFETY: as above.
        unsafe {
            if C % 2 == 1 {
                return DotProd::words::<BITS, WORDS, C>(w, x, rows);
            }
            // Of each two columns, the four pairs of weight rows.
            let mut sums = [[vdupq_n_s32(0); 4]; C];
            for two in 0..WORDS / 2 {
                let w = w.add(64 * two);
                let (a, b) = (signed::<BITS>(vld1q_u8(w)), signed::<BITS>(vld1q_u8(w.add(32))));
                let (c, d) = (signed::<BITS>(vld1q_u8(w.add(16))), signed::<BITS>(vld1q_u8(w.add(48))));
                // Two words of a row side by side.
                let pairs = [first(a, b), second(a, b), first(c, d), second(c, d)];
                for j in 0..C / 2 {
                    let (even, odd) = (x.add(rows[2 * j] + 8 * two).cast(), x.add(rows[2 * j + 1] + 8 * two).cast());
                    let x = vcombine_s8(vld1_s8(even), vld1_s8(odd));
                    for pair in 0..4 {
                        sums[j][pair] = smmla(sums[j][pair], pairs[pair], x);
                    }
                }
            }
            let mut dots = [Words::splat(0); C];
            for j in 0..C / 2 {
                // Lanes are row 0 with either column, then row 1.
                let [a, b, c, d] = sums[j];
                let (low, high) = (vuzp1q_s32(a, b), vuzp1q_s32(c, d));
                dots[2 * j] = Words(vreinterpretq_u32_s32(low), vreinterpretq_u32_s32(high));
                let (low, high) = (vuzp2q_s32(a, b), vuzp2q_s32(c, d));
                dots[2 * j + 1] = Words(vreinterpretq_u32_s32(low), vreinterpretq_u32_s32(high));
            }
            dots
        }
    }
}

/// The lower two words of both, in turn.
#[inline(always)]
unsafe fn first(a: int8x16_t, b: int8x16_t) -> int8x16_t {
    // SAFETY: every 64-bit Arm processor has these instructions, here and below.
    unsafe { vreinterpretq_s8_s32(vzip1q_s32(vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b))) }
}

/// The upper two.
#[inline(always)]
unsafe fn second(a: int8x16_t, b: int8x16_t) -> int8x16_t {
    // SAFETY: as above.
    unsafe { vreinterpretq_s8_s32(vzip2q_s32(vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b))) }
}

/// Products of bytes; of many activation rows by `M`.
struct Dot<M>(PhantomData<M>);

impl<M: Many> Bytes for Dot<M> {
    type I = Words;
    type Tiles = NoTiles;
    const SIGNED: bool = true;
    #[inline(always)]
    fn knows_rows(bits: usize) -> bool {
        matches!(bits, 4 | 8)
    }
    #[inline(always)]
    unsafe fn row<const BITS: usize, const HALF: bool>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: the caller's promise, and four blocks at each address, or eight.
        unsafe {
            let low = four::<BITS>(w, x);
            Words(low, if HALF { vdupq_n_u32(0) } else { four::<BITS>(w.add(16 * BITS), x.add(128)) })
        }
    }
    #[inline(always)]
    unsafe fn bytes<const BITS: usize>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: as above, and eight blocks of bytes at each address.
        unsafe {
            let ([a, b], [c, d]) = (four_of_bytes::<BITS>(w, x), four_of_bytes::<BITS>(w.add(128), x.add(128)));
            Words(vaddq_u32(a, b), vaddq_u32(c, d))
        }
    }
    #[inline(always)]
    unsafe fn halves<const BITS: usize>(w: *const u8, x: *const u8) -> [Words; 2] {
        // SAFETY: as above.
        unsafe {
            let ([a, b], [c, d]) = (four_of_bytes::<BITS>(w, x), four_of_bytes::<BITS>(w.add(128), x.add(128)));
            [Words(vzip1q_u32(a, b), vzip2q_u32(a, b)), Words(vzip1q_u32(c, d), vzip2q_u32(c, d))]
        }
    }
    #[inline(always)]
    unsafe fn words<const BITS: usize, const WORDS: usize, const C: usize>(
        w: *const u8,
        x: *const u8,
        rows: &[usize; C],
    ) -> [Words; C] {
        // SAFETY: the caller's promise.
        unsafe { M::words::<BITS, WORDS, C>(w, x, rows) }
    }
}

/// The sums of four vectors.
#[inline(always)]
unsafe fn sums_of_four([a, b, c, d]: [int32x4_t; 4]) -> uint32x4_t {
    // SAFETY: every 64-bit Arm processor has these instructions.
    unsafe { vreinterpretq_u32_s32(vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d))) }
}

/// Dot products of four blocks of bytes with those of activations: of each block's first half, and of its second.
#[inline(always)]
unsafe fn four_of_bytes<const BITS: usize>(w: *const u8, x: *const u8) -> [uint32x4_t; 2] {
    // SAFETY: four blocks at each address.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 4]; 2];
        for half in 0..2 {
            for b in 0..4 {
                let at = 32 * b + 16 * half;
                sums[half][b] = sdot(sums[half][b], signed::<BITS>(vld1q_u8(w.add(at))), vld1q_s8(x.add(at).cast()));
            }
        }
        [sums_of_four(sums[0]), sums_of_four(sums[1])]
    }
}

/// Dot products of four blocks of a weight row, of four or eight bits, with those of an activation row.
#[inline(always)]
unsafe fn four<const BITS: usize>(w: *const u8, x: *const u8) -> uint32x4_t {
    // SAFETY: as above.
    unsafe {
        if BITS == 8 {
            let [first, second] = four_of_bytes::<8>(w, x);
            return vaddq_u32(first, second);
        }
        let mut sums = [vdupq_n_s32(0); 4];
        for b in 0..4 {
            let w = vld1q_u8(w.add(16 * b));
            let x = x.add(32 * b).cast();
            sums[b] = sdot(sums[b], vreinterpretq_s8_u8(vandq_u8(w, vdupq_n_u8(15))), vld1q_s8(x));
            sums[b] = sdot(sums[b], vreinterpretq_s8_u8(vshrq_n_u8::<4>(w)), vld1q_s8(x.add(16)));
        }
        sums_of_four(sums)
    }
}

/// With `sdot`.
pub(super) fn with_dotprod() -> Kernels {
    let (rounded, unpacked, rows) = rounded_kernels_of!(Dot<DotProd>, 6 by 1, "neon,dotprod");
    let others = neon::kernels();
    Kernels { quantised: QuantisedKernels { rounded, unpacked, rows, ..others.quantised }, ..others }
}

/// With `smmla` too.
pub(super) fn with_i8mm() -> Kernels {
    let (rounded, unpacked, rows) = rounded_kernels_of!(Dot<I8mm>, 8 by 1, "neon,dotprod,i8mm");
    let others = neon::kernels();
    Kernels { quantised: QuantisedKernels { rounded, unpacked, rows, ..others.quantised }, ..others }
}
