//! Plain Rust: eight lanes that the compiler vectorises as it can. Multiplies and adds are rounded separately.

use half::f16;

use super::affine::{Bytes, Ints};
use super::many::NoTiles;
use super::tile::{self, Lanes, kernels_of};

#[derive(Clone, Copy)]
pub(super) struct Plain([f32; 8]);

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
    unsafe fn add(self, other: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] * other.0[i]))
    }
    #[inline(always)]
    unsafe fn sums(four: [Self; 4]) -> [f32; 4] {
        four.map(|Plain(v)| ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])))
    }
}

#[derive(Clone, Copy)]
pub(super) struct Words([u32; 8]);

impl Ints for Words {
    type F = Plain;
    const WORDS: usize = 8;
    #[inline(always)]
    unsafe fn splat(value: i32) -> Self {
        Words([value as u32; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller has eight integers there.
        Words(unsafe { from.cast::<[u32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller has room for eight integers there.
        unsafe { to.cast::<[u32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn and(self, other: Self) -> Self {
        Words(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }
    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        Words(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }
    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        Words(std::array::from_fn(|i| self.0[i] ^ other.0[i]))
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Words(std::array::from_fn(|i| self.0[i].wrapping_add(other.0[i])))
    }
    #[inline(always)]
    unsafe fn shl(self, bits: u32) -> Self {
        Words(self.0.map(|word| word << bits))
    }
    #[inline(always)]
    unsafe fn shr(self, bits: u32) -> Self {
        Words(self.0.map(|word| word >> bits))
    }
    #[inline(always)]
    unsafe fn to_f32(self) -> Plain {
        Plain(self.0.map(|word| word as i32 as f32))
    }
    #[inline(always)]
    unsafe fn as_f32(self) -> Plain {
        Plain(self.0.map(f32::from_bits))
    }
    #[inline(always)]
    unsafe fn lower_f16(self) -> Plain {
        Plain(self.0.map(|word| f16::from_bits(word as u16).to_f32()))
    }
    #[inline(always)]
    unsafe fn look_up(self, table: &[u8; 16]) -> Self {
        Words(self.0.map(|word| u32::from_le_bytes(word.to_le_bytes().map(|at| table[usize::from(at)]))))
    }
    #[inline(always)]
    unsafe fn unzip(self, other: Self) -> (Self, Self) {
        let lane = |i: usize| if i < 8 { self.0[i] } else { other.0[i - 8] };
        (Words(std::array::from_fn(|i| lane(2 * i))), Words(std::array::from_fn(|i| lane(2 * i + 1))))
    }
    #[inline(always)]
    unsafe fn prefetch(_at: *const u8) {}
    #[inline(always)]
    unsafe fn transposed(rows: &[*const u8; 16], words: usize) -> [Self; 16] {
        // SAFETY: as many little-endian words at each address, the caller's promise.
        let word = |row: usize, i: usize| unsafe { u32::from_le_bytes(rows[row].cast::<[u8; 4]>().add(i).read()) };
        std::array::from_fn(|i| Words(std::array::from_fn(|row| if i < words { word(row, i) } else { 0 })))
    }
}

/// Products of bytes, one by one.
pub(super) struct OneByOne;

impl Bytes for OneByOne {
    type I = Words;
    type Tiles = NoTiles;
    const SIGNED: bool = false;
    #[inline(always)]
    unsafe fn words<const BITS: usize, const WORDS: usize, const C: usize>(
        w: *const u8,
        x: *const u8,
        rows: &[usize; C],
    ) -> [Words; C] {
        let mut dots = [[0i32; 8]; C];
        for word in 0..WORDS {
            // SAFETY: as many words at `w`: the caller's promise.
            let Words(w) = unsafe { Words::load(w.add(32 * word)) };
            for (j, dots) in dots.iter_mut().enumerate() {
                // SAFETY: the caller has as many activations of each row.
                let x = unsafe { x.add(rows[j] + 4 * word).cast::<[i8; 4]>().read() }.map(i32::from);
                let byte = |w: u32, i: usize| (w >> (8 * i) & 0xff) as i32;
                (0..8).for_each(|lane| dots[lane] += (0..4).map(|i| byte(w[lane], i) * x[i]).sum::<i32>());
            }
        }
        dots.map(|dots| Words(dots.map(i32::cast_unsigned)))
    }
}

kernels_of!(Plain, dots: 2 by 2, by_one: 1, mix: 1, affine: OneByOne, 2 by 1, 2);
