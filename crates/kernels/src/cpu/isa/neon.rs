//! Advanced SIMD of 64-bit Arm: eight lanes in two vectors. Part of every 64-bit Arm processor.

// A tile is indexed by column of fixed number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::aarch64::*;

use super::affine::{Bytes, Ints};
use super::many::NoTiles;
use super::tile::{Lanes, kernels_of};

/// Two vectors side by side.
#[derive(Clone, Copy)]
pub(super) struct Neon(float32x4_t, float32x4_t);

impl Lanes for Neon {
    const N: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: every 64-bit Arm processor has these instructions, here and below.
        unsafe { Self::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: as above.
        unsafe { Neon(vdupq_n_f32(value), vdupq_n_f32(value)) }
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const u8) -> Self {
        // SAFETY: eight f32 there. Loaded as bytes, because they may lie at any.
        unsafe { Neon(vreinterpretq_f32_u8(vld1q_u8(from)), vreinterpretq_f32_u8(vld1q_u8(from.add(16)))) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: eight f16 there.
        unsafe {
            let halves = vreinterpretq_f16_u8(vld1q_u8(from));
            Neon(vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: eight bf16 there.
        unsafe {
            let bits = vreinterpretq_u16_u8(vld1q_u8(from));
            let (low, high) = (vshll_n_u16::<16>(vget_low_u16(bits)), vshll_high_n_u16::<16>(bits));
            Neon(vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high))
        }
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut u8) {
        // SAFETY: room for eight f32 there.
        unsafe {
            vst1q_u8(to, vreinterpretq_u8_f32(self.0));
            vst1q_u8(to.add(16), vreinterpretq_u8_f32(self.1));
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u8) {
        // SAFETY: room for eight f16 there.
        unsafe { vst1q_u8(to, vreinterpretq_u8_f16(vcvt_high_f16_f32(vcvt_f16_f32(self.0), self.1))) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { Neon(vfmaq_f32(self.0, a.0, b.0), vfmaq_f32(self.1, a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Neon(vaddq_f32(self.0, other.0), vaddq_f32(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Neon(vmulq_f32(self.0, other.0), vmulq_f32(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn sums(four: [Self; 4]) -> [f32; 4] {
        // SAFETY: as above; the array has room for four f32.
        unsafe {
            let [a, b, c, d] = [0, 1, 2, 3].map(|i: usize| vaddq_f32(four[i].0, four[i].1));
            let mut sums = [0f32; 4];
            vst1q_f32(sums.as_mut_ptr(), vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
            sums
        }
    }
}

/// Eight integers in two vectors.
#[derive(Clone, Copy)]
pub(super) struct Words(pub(super) uint32x4_t, pub(super) uint32x4_t);

impl Ints for Words {
    type F = Neon;
    const WORDS: usize = 8;
    #[inline(always)]
    unsafe fn splat(value: i32) -> Self {
        // SAFETY: every 64-bit Arm processor has these instructions, here and below.
        unsafe { Words(vdupq_n_u32(value as u32), vdupq_n_u32(value as u32)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: eight integers there. Loaded as bytes, because they may lie at any.
        unsafe { Words(vreinterpretq_u32_u8(vld1q_u8(from)), vreinterpretq_u32_u8(vld1q_u8(from.add(16)))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: room for eight integers there.
        unsafe {
            vst1q_u8(to, vreinterpretq_u8_u32(self.0));
            vst1q_u8(to.add(16), vreinterpretq_u8_u32(self.1));
        }
    }
    #[inline(always)]
    unsafe fn and(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Words(vandq_u32(self.0, other.0), vandq_u32(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Words(vorrq_u32(self.0, other.0), vorrq_u32(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Words(veorq_u32(self.0, other.0), veorq_u32(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Words(vaddq_u32(self.0, other.0), vaddq_u32(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn shl(self, bits: u32) -> Self {
        // SAFETY: as above.
        unsafe {
            let bits = vdupq_n_s32(bits as i32);
            Words(vshlq_u32(self.0, bits), vshlq_u32(self.1, bits))
        }
    }
    #[inline(always)]
    unsafe fn shr(self, bits: u32) -> Self {
        // SAFETY: as above. A negative shift is one to the right.
        unsafe {
            let bits = vdupq_n_s32(-(bits as i32));
            Words(vshlq_u32(self.0, bits), vshlq_u32(self.1, bits))
        }
    }
    #[inline(always)]
    unsafe fn to_f32(self) -> Neon {
        // SAFETY: as above.
        unsafe { Neon(vcvtq_f32_s32(vreinterpretq_s32_u32(self.0)), vcvtq_f32_s32(vreinterpretq_s32_u32(self.1))) }
    }
    #[inline(always)]
    unsafe fn as_f32(self) -> Neon {
        // SAFETY: as above.
        unsafe { Neon(vreinterpretq_f32_u32(self.0), vreinterpretq_f32_u32(self.1)) }
    }
    #[inline(always)]
    unsafe fn lower_f16(self) -> Neon {
        // SAFETY: as above.
        unsafe {
            let half = |words| vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(words)));
            Neon(half(self.0), half(self.1))
        }
    }
    #[inline(always)]
    unsafe fn look_up(self, table: &[u8; 16]) -> Self {
        // SAFETY: as above.
        unsafe {
            let table = vld1q_u8(table.as_ptr());
            let of = |words| vreinterpretq_u32_u8(vqtbl1q_u8(table, vreinterpretq_u8_u32(words)));
            Words(of(self.0), of(self.1))
        }
    }
    #[inline(always)]
    unsafe fn unzip(self, other: Self) -> (Self, Self) {
        // SAFETY: as above.
        unsafe {
            let even = Words(vuzp1q_u32(self.0, self.1), vuzp1q_u32(other.0, other.1));
            (even, Words(vuzp2q_u32(self.0, self.1), vuzp2q_u32(other.0, other.1)))
        }
    }
    #[inline(always)]
    unsafe fn prefetch(_at: *const u8) {}
    #[inline(always)]
    unsafe fn transposed(rows: &[*const u8; 16], words: usize) -> [Self; 16] {
        let mut columns = [[0u32; 8]; 8];
        for (i, column) in columns[..words].iter_mut().enumerate() {
            for (word, row) in column.iter_mut().zip(rows) {
                // SAFETY: as many words at each address, the caller's promise.
                *word = unsafe { row.cast::<u32>().add(i).read_unaligned() };
            }
        }
        // SAFETY: a column is eight integers.
        unsafe {
            let mut vectors = [Self::splat(0); 16];
            for i in 0..8 {
                vectors[i] = Self::load(columns[i].as_ptr().cast());
            }
            vectors
        }
    }
}

/// Products of bytes by widening multiplications: pairs of them are added in 16 bits, which hold 2 · 128 · 127. Eight bits
/// are multiplied as q - 128.
struct Widening;

impl Bytes for Widening {
    type I = Words;
    type Tiles = NoTiles;
    const SIGNED: bool = true;
    #[inline(always)]
    fn knows_rows(bits: usize) -> bool {
        matches!(bits, 4 | 8)
    }
    #[inline(always)]
    unsafe fn row<const BITS: usize, const HALF: bool>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: as above, and four blocks at each address, or eight.
        unsafe {
            let low = four::<BITS>(w, x);
            Words(low, if HALF { vdupq_n_u32(0) } else { four::<BITS>(w.add(16 * BITS), x.add(128)) })
        }
    }
    #[inline(always)]
    unsafe fn bytes<const BITS: usize>(w: *const u8, x: *const u8) -> Words {
        // SAFETY: as above, and eight blocks of bytes at each address.
        unsafe {
            let sum = |[first, second]: [uint32x4_t; 2]| vaddq_u32(first, second);
            Words(sum(four_of_bytes::<BITS>(w, x)), sum(four_of_bytes::<BITS>(w.add(128), x.add(128))))
        }
    }
    #[inline(always)]
    unsafe fn halves<const BITS: usize>(w: *const u8, x: *const u8) -> [Words; 2] {
        // SAFETY: as above.
        unsafe {
            let in_turn =
                |[first, second]: [uint32x4_t; 2]| Words(vzip1q_u32(first, second), vzip2q_u32(first, second));
            [in_turn(four_of_bytes::<BITS>(w, x)), in_turn(four_of_bytes::<BITS>(w.add(128), x.add(128)))]
        }
    }
    #[inline(always)]
    unsafe fn words<const BITS: usize, const WORDS: usize, const C: usize>(
        w: *const u8,
        x: *const u8,
        rows: &[usize; C],
    ) -> [Words; C] {
        // SAFETY: as above, the words at `w`, and as many activations of each row.
        unsafe {
            let mut sums = [[vdupq_n_s32(0); 2]; C];
            for word in 0..WORDS {
                let w = [signed::<BITS>(vld1q_u8(w.add(32 * word))), signed::<BITS>(vld1q_u8(w.add(32 * word + 16)))];
                for j in 0..C {
                    let x = vdupq_n_s32(x.add(rows[j] + 4 * word).cast::<i32>().read_unaligned());
                    let x = vreinterpretq_s8_s32(x);
                    for half in 0..2 {
                        let (w, sum) = (w[half], sums[j][half]);
                        let products = (vmull_s8(vget_low_s8(w), vget_low_s8(x)), vmull_high_s8(w, x));
                        sums[j][half] = vpadalq_s16(sum, vpaddq_s16(products.0, products.1));
                    }
                }
            }
            let mut dots = [Words::splat(0); C];
            for j in 0..C {
                dots[j] = Words(vreinterpretq_u32_s32(sums[j][0]), vreinterpretq_u32_s32(sums[j][1]));
            }
            dots
        }
    }
}

/// Bytes as they are multiplied.
#[inline(always)]
pub(super) unsafe fn signed<const BITS: usize>(w: uint8x16_t) -> int8x16_t {
    // SAFETY: every 64-bit Arm processor has these instructions.
    unsafe { vreinterpretq_s8_u8(if BITS == 8 { veorq_u8(w, vdupq_n_u8(128)) } else { w }) }
}

/// Dot products of four blocks of bytes with those of activations: of each block's first half, and of its second.
#[inline(always)]
unsafe fn four_of_bytes<const BITS: usize>(w: *const u8, x: *const u8) -> [uint32x4_t; 2] {
    // SAFETY: as above, and four blocks at each address.
    unsafe {
        let half = |at: usize| {
            let (w, x) = (signed::<BITS>(vld1q_u8(w.add(at))), vreinterpretq_s8_u8(vld1q_u8(x.add(at))));
            let products = vmull_s8(vget_low_s8(w), vget_low_s8(x));
            vpaddlq_s16(vmlal_high_s8(products, w, x))
        };
        let of = |at: usize| {
            let sums = vpaddq_s32(vpaddq_s32(half(at), half(at + 32)), vpaddq_s32(half(at + 64), half(at + 96)));
            vreinterpretq_u32_s32(sums)
        };
        [of(0), of(16)]
    }
}

/// Dot products of four blocks of a weight row, of four or eight bits, with those of an activation row.
#[inline(always)]
unsafe fn four<const BITS: usize>(w: *const u8, x: *const u8) -> uint32x4_t {
    // SAFETY: as above, and four blocks at each address.
    unsafe {
        if BITS == 8 {
            let [first, second] = four_of_bytes::<8>(w, x);
            return vaddq_u32(first, second);
        }
        // 16 bits hold 16 products with weights of four.
        let mut sums = [vdupq_n_s16(0); 4];
        for b in 0..4 {
            let w = vld1q_u8(w.add(16 * b));
            let x = [vreinterpretq_s8_u8(vld1q_u8(x.add(32 * b))), vreinterpretq_s8_u8(vld1q_u8(x.add(32 * b + 16)))];
            let low = vreinterpretq_s8_u8(vandq_u8(w, vdupq_n_u8(15)));
            let high = vreinterpretq_s8_u8(vshrq_n_u8::<4>(w));
            let products = vmull_s8(vget_low_s8(low), vget_low_s8(x[0]));
            let products = vmlal_high_s8(products, low, x[0]);
            sums[b] = vmlal_high_s8(vmlal_s8(products, vget_low_s8(high), vget_low_s8(x[1])), high, x[1]);
        }
        let [a, b, c, d] = sums;
        vreinterpretq_u32_s32(vpaddlq_s16(vpaddq_s16(vpaddq_s16(a, b), vpaddq_s16(c, d))))
    }
}

// 4 × 3 pairs of accumulators, three pairs of activations and one of weights fill the 32 registers. Four rows by one
// are eight chains of multiply-adds.
kernels_of!(Neon, dots: 4 by 3, by_one: 4, mix: 2, affine: Widening, 4 by 1, 4, "neon");
