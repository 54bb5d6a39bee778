//! Advanced SIMD of 64-bit Arm: eight lanes in two vectors. Part of every 64-bit Arm processor.

use std::arch::aarch64::*;

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

// 4 × 3 pairs of accumulators, three pairs of activations and one of weights fill the 32 registers. Four rows by one
// are eight chains of multiply-adds.
kernels_of!(Neon, dots: 4 by 3, by_one: 4, mix: 2, "neon");
