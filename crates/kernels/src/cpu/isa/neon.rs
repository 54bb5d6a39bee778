//! Advanced SIMD of 64-bit Arm: four lanes. Part of every 64-bit Arm processor.

use std::arch::aarch64::*;

use super::tile::{Lanes, kernels_of};

#[derive(Clone, Copy)]
struct Neon(float32x4_t);

impl Lanes for Neon {
    const N: usize = 4;
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: every 64-bit Arm has these instructions, here and below.
        Neon(unsafe { vdupq_n_f32(0.0) })
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vdupq_n_f32(value) })
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const u8) -> Self {
        // SAFETY: four f32 there. Loaded as bytes: vld1q_f32 would want them aligned.
        Neon(unsafe { vreinterpretq_f32_u8(vld1q_u8(from)) })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: four f16 there.
        Neon(unsafe { vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from))) })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: four bf16 there.
        Neon(unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(vld1_u8(from)))) })
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut u8) {
        // SAFETY: room for four f32 there.
        unsafe { vst1q_u8(to, vreinterpretq_u8_f32(self.0)) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u8) {
        // SAFETY: room for four f16 there.
        unsafe { vst1_u8(to, vreinterpret_u8_f16(vcvt_f16_f32(self.0))) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vfmaq_f32(self.0, a.0, b.0) })
    }
    #[inline(always)]
    unsafe fn sums([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        // SAFETY: as above; the array has room for four f32.
        unsafe {
            let sums = vpaddq_f32(vpaddq_f32(a.0, b.0), vpaddq_f32(c.0, d.0));
            let mut out = [0f32; 4];
            vst1q_f32(out.as_mut_ptr(), sums);
            out
        }
    }
}

// 4 × 4 accumulators, four activations and a weight: enough to hide the latency of a multiply-add on all cores.
kernels_of!(Neon, columns: 4, rows_by_one: 4, "neon");
