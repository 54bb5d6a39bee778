//! Advanced SIMD of 64-bit Arm: eight lanes in two vectors. Part of every 64-bit Arm processor.

use std::arch::aarch64::*;

use super::affine::{Bytes, Ints};
use super::tile::{Lanes, kernels_of};

/// Two vectors side by side.
#[derive(Clone, Copy)]
struct Neon(float32x4_t, float32x4_t);

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
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Neon(vmulq_f32(self.0, other.0), vmulq_f32(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { Neon(vfmaq_f32(self.0, a.0, b.0), vfmaq_f32(self.1, a.1, b.1)) }
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
struct Words(uint32x4_t, uint32x4_t);

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

/// Products of bytes by widening multiplications: pairs of them are added in 16 bits, which hold 2 · 127 · 127. Of eight
/// bits the uppermost is multiplied apart.
struct Widening;

impl Bytes for Widening {
    type I = Words;
    #[inline(always)]
    unsafe fn dot<const EIGHT: bool>(sum: Words, w: Words, x: *const u8) -> Words {
        // SAFETY: as above, and four bytes at `x`.
        unsafe {
            let x = vreinterpretq_s8_s32(vdupq_n_s32(x.cast::<i32>().read_unaligned()));
            Words(add_dot::<EIGHT>(sum.0, w.0, x), add_dot::<EIGHT>(sum.1, w.1, x))
        }
    }
}

#[inline(always)]
unsafe fn add_dot<const EIGHT: bool>(sum: uint32x4_t, w: uint32x4_t, x: int8x16_t) -> uint32x4_t {
    // SAFETY: every 64-bit Arm processor has these instructions.
    unsafe {
        let (sum, w) = (vreinterpretq_s32_u32(sum), vreinterpretq_u8_u32(w));
        let sum = if EIGHT {
            let upper = vpaddlq_s16(pairs(vshrq_n_u8::<7>(w), x));
            vaddq_s32(vpadalq_s16(sum, pairs(vandq_u8(w, vdupq_n_u8(127)), x)), vshlq_n_s32::<7>(upper))
        } else {
            vpadalq_s16(sum, pairs(w, x))
        };
        vreinterpretq_u32_s32(sum)
    }
}

/// Sums of pairs of products; `w` is below 128.
#[inline(always)]
unsafe fn pairs(w: uint8x16_t, x: int8x16_t) -> int16x8_t {
    // SAFETY: as above.
    unsafe {
        let w = vreinterpretq_s8_u8(w);
        vpaddq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)), vmull_high_s8(w, x))
    }
}

// 4 × 3 pairs of accumulators, three pairs of activations and one of weights fill the 32 registers. Four rows by one
// are eight chains of multiply-adds.
kernels_of!(Neon, dots: 4 by 3, by_one: 4, mix: 2, affine: Widening, 4, 4, "neon");
