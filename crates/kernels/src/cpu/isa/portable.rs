//! Plain Rust: eight lanes that the compiler vectorises as it can. Multiplies and adds are rounded separately.

use half::f16;

use super::tile::{self, Lanes, kernels_of};

#[derive(Clone, Copy)]
struct Plain([f32; 8]);

impl Lanes for Plain {
    const N: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> Self {
        Plain([0.0; 8])
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Plain([value; 8])
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const u8) -> Self {
        // SAFETY: the caller has eight f32 there.
        Plain(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller has eight f16 there.
        Plain(std::array::from_fn(|i| unsafe { tile::read_f16(from.add(2 * i)) }))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller has eight bf16 there.
        let bits = unsafe { from.cast::<[u16; 8]>().read_unaligned() };
        Plain(bits.map(|bits| f32::from_bits(u32::from(bits) << 16)))
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut u8) {
        // SAFETY: the caller has room for eight f32 there.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u8) {
        // SAFETY: the caller has room for eight f16 there.
        unsafe { to.cast::<[f16; 8]>().write_unaligned(self.0.map(f16::from_f32)) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] + a.0[i] * b.0[i]))
    }
    #[inline(always)]
    unsafe fn sums(four: [Self; 4]) -> [f32; 4] {
        four.map(|Plain(v)| ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])))
    }
}

kernels_of!(Plain, dots: 2 by 2, by_one: 1, mix: 1);
