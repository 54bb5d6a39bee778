//! AVX-512: sixteen lanes, and with AVX512-BF16 products of bfloat16 pairs. With AMX, tiles of bytes beside them.

// A tile is indexed by column of fixed number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::affine::{Bytes, Ints, quantised_kernels_of, rounded_kernels_of};
use super::amx::Amx;
use super::avx2::{self, Words, sums_of_four};
use super::many::{NoTiles, Tiles};
use super::tile::{self, Lanes, Product, kernels_of};
use super::ymm::{self, Evex};
use super::{Bf16Kernels, Dots, Kernels, QuantisedKernels, UnpackedDots, avx_vnni, units, vnni};
use crate::quant::coded::Rows;

#[derive(Clone, Copy)]
pub(super) struct Avx512(pub(super) __m512);

impl Lanes for Avx512 {
    const N: usize = 16;
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller has AVX-512, here and below.
        Avx512(unsafe { _mm512_setzero_ps() })
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: AVX-512.
        Avx512(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const u8) -> Self {
        // SAFETY: AVX-512, and sixteen f32 there.
        Avx512(unsafe { _mm512_loadu_ps(from.cast()) })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: AVX-512, and sixteen f16 there.
        Avx512(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: AVX-512, and sixteen bf16 there.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut u8) {
        // SAFETY: AVX-512, and room for sixteen f32 there.
        unsafe { _mm512_storeu_ps(to.cast(), self.0) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u8) {
        // SAFETY: AVX-512, and room for sixteen f16 there.
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: AVX-512.
        Avx512(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: AVX-512.
        Avx512(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: AVX-512.
        Avx512(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn sums(four: [Self; 4]) -> [f32; 4] {
        // SAFETY: AVX-512.
        unsafe { sums_of_four([halves(four[0].0), halves(four[1].0), halves(four[2].0), halves(four[3].0)]) }
    }
    #[inline(always)]
    unsafe fn twice(self) -> Self {
        // SAFETY: AVX-512.
        unsafe {
            let order = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
            Avx512(_mm512_permutexvar_ps(order, self.0))
        }
    }
    #[inline(always)]
    fn ahead() -> usize {
        avx2::ahead_on_intel().unwrap_or(0)
    }
}

/// The upper half added to the lower.
#[inline(always)]
unsafe fn halves(v: __m512) -> __m256 {
    // SAFETY: AVX-512.
    unsafe { _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v)) }
}

impl Ints for __m512i {
    type F = Avx512;
    const WORDS: usize = 16;
    #[inline(always)]
    unsafe fn splat(value: i32) -> Self {
        // SAFETY: the caller has AVX-512, here and below.
        unsafe { _mm512_set1_epi32(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: AVX-512, and a vector there.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: AVX-512, and room for a vector there.
        unsafe { _mm512_storeu_si512(to.cast(), self) }
    }
    #[inline(always)]
    unsafe fn and(self, other: Self) -> Self {
        // SAFETY: AVX-512.
        unsafe { _mm512_and_si512(self, other) }
    }
    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        // SAFETY: AVX-512.
        unsafe { _mm512_or_si512(self, other) }
    }
    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: AVX-512.
        unsafe { _mm512_xor_si512(self, other) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: AVX-512.
        unsafe { _mm512_add_epi32(self, other) }
    }
    #[inline(always)]
    unsafe fn shl(self, bits: u32) -> Self {
        // SAFETY: AVX-512.
        unsafe { _mm512_sllv_epi32(self, _mm512_set1_epi32(bits as i32)) }
    }
    #[inline(always)]
    unsafe fn shr(self, bits: u32) -> Self {
        // SAFETY: AVX-512.
        unsafe { _mm512_srlv_epi32(self, _mm512_set1_epi32(bits as i32)) }
    }
    #[inline(always)]
    unsafe fn to_f32(self) -> Avx512 {
        // SAFETY: AVX-512.
        Avx512(unsafe { _mm512_cvtepi32_ps(self) })
    }
    #[inline(always)]
    unsafe fn as_f32(self) -> Avx512 {
        // SAFETY: AVX-512.
        Avx512(unsafe { _mm512_castsi512_ps(self) })
    }
    #[inline(always)]
    unsafe fn lower_f16(self) -> Avx512 {
        // SAFETY: AVX-512.
        Avx512(unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(self)) })
    }
    #[inline(always)]
    unsafe fn look_up(self, table: &[u8; 16]) -> Self {
        // SAFETY: AVX-512.
        unsafe { _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), self) }
    }
    #[inline(always)]
    unsafe fn unzip(self, other: Self) -> (Self, Self) {
        // SAFETY: AVX-512.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
            (_mm512_permutex2var_epi32(self, even, other), _mm512_permutex2var_epi32(self, odd, other))
        }
    }
    #[inline(always)]
    fn ahead() -> usize {
        // Zen 4 foresees so much that it reads a third less when it is asked.
        avx2::ahead_on_intel().unwrap_or(0)
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: a hint, which never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn transposed(rows: &[*const u8; 16], words: usize) -> [Self; 16] {
        // SAFETY: AVX-512; where there are fewer words than 16, the others are masked and not read.
        unsafe {
            let mask = (0xffff_u32 >> (16 - words)) as u16;
            let mut quarters = [[_mm512_setzero_si512(); 4]; 4];
            for i in 0..4 {
                quarters[i] = of_four([rows[4 * i], rows[4 * i + 1], rows[4 * i + 2], rows[4 * i + 3]], mask);
            }
            let [a, b, c, d] = quarters;
            let mut columns = [_mm512_setzero_si512(); 16];
            for j in 0..4 {
                let ab = _mm512_shuffle_i32x4::<0x44>(a[j], b[j]);
                let ab_high = _mm512_shuffle_i32x4::<0xee>(a[j], b[j]);
                let cd = _mm512_shuffle_i32x4::<0x44>(c[j], d[j]);
                let cd_high = _mm512_shuffle_i32x4::<0xee>(c[j], d[j]);
                columns[j] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
                columns[4 + j] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
                columns[8 + j] = _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high);
                columns[12 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high);
            }
            columns
        }
    }
}

/// Four rows' words, as many as the mask has bits: their words 4i + j lie in quarter i of vector j.
#[inline(always)]
unsafe fn of_four(rows: [*const u8; 4], mask: u16) -> [__m512i; 4] {
    // SAFETY: AVX-512, and the words of the mask at each address.
    unsafe {
        let a = _mm512_maskz_loadu_epi32(mask, rows[0].cast());
        let b = _mm512_maskz_loadu_epi32(mask, rows[1].cast());
        let c = _mm512_maskz_loadu_epi32(mask, rows[2].cast());
        let d = _mm512_maskz_loadu_epi32(mask, rows[3].cast());
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ab_high, cd_high),
            _mm512_unpackhi_epi64(ab_high, cd_high),
        ]
    }
}

/// Products of bytes without VNNI: see the same of AVX2. There is no `vpsignb`: the activation's sign is moved by a masked
/// subtraction from zero.
struct InPairs;

impl Bytes for InPairs {
    type I = __m512i;
    type Tiles = NoTiles;
    const SIGNED: bool = true;
    #[inline(always)]
    fn hidden(value: usize) -> usize {
        hidden(value)
    }
    #[inline(always)]
    fn knows_rows(_bits: usize) -> bool {
        true
    }
    #[inline(always)]
    unsafe fn arrange<const BITS: usize>(x: *mut u8) {
        // SAFETY: the caller's promise, here and below.
        unsafe { avx2::InPairs::arrange::<BITS>(x) }
    }
    #[inline(always)]
    unsafe fn row<const BITS: usize, const HALF: bool>(w: *const u8, x: *const u8) -> __m512i {
        // SAFETY: as above. Half as wide, weights are taken apart in fewer instructions: bytes are not moved across quarters.
        unsafe { both(avx2::InPairs::row::<BITS, HALF>(w, x)) }
    }
    #[inline(always)]
    unsafe fn bytes<const BITS: usize>(w: *const u8, x: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe { both(avx2::InPairs::bytes::<BITS>(w, x)) }
    }
    #[inline(always)]
    unsafe fn halves<const BITS: usize>(w: *const u8, x: *const u8) -> [__m512i; 2] {
        // SAFETY: as above.
        unsafe {
            let [first, second] = avx2::InPairs::halves::<BITS>(w, x);
            [both(first), both(second)]
        }
    }
    #[inline(always)]
    unsafe fn units(d: &UnpackedDots) -> bool {
        // SAFETY: as above.
        unsafe { ymm::dots::<ymm::Pairs>(d) }
    }
    #[inline(always)]
    unsafe fn e4m3(d: &Dots, rows: &Rows) -> bool {
        // SAFETY: as above.
        unsafe { ymm::e4m3::dots(d, rows) }
    }
    #[inline(always)]
    unsafe fn words<const BITS: usize, const WORDS: usize, const C: usize>(
        w: *const u8,
        x: *const u8,
        rows: &[usize; C],
    ) -> [__m512i; C] {
        let pairs = match BITS {
            2..=4 => WORDS,
            5 => 4,
            6 => 2,
            _ => 1,
        };
        // SAFETY: AVX-512, the words at `w`, and as many activations of each row.
        unsafe {
            let (one, half) = (_mm512_set1_epi16(1), _mm512_set1_epi8(-128));
            let mut dots = [_mm512_setzero_si512(); C];
            for first in (0..WORDS).step_by(pairs) {
                let mut sums = [_mm512_setzero_si512(); C];
                for word in first..first + pairs {
                    let mut w = __m512i::load(w.add(64 * word));
                    let mut negative = 0;
                    if BITS == 8 {
                        w = _mm512_xor_si512(w, half);
                        negative = _mm512_movepi8_mask(w);
                        w = _mm512_abs_epi8(w);
                    }
                    for j in 0..C {
                        let mut x = broadcast(x.add(rows[j] + 4 * word));
                        if BITS == 8 {
                            x = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
                        }
                        sums[j] = _mm512_add_epi16(sums[j], _mm512_maddubs_epi16(w, x));
                    }
                }
                for j in 0..C {
                    dots[j] = _mm512_add_epi32(dots[j], _mm512_madd_epi16(sums[j], one));
                }
            }
            dots
        }
    }
}

/// Two halves of a vector.
#[inline(always)]
unsafe fn both(Words(low, high): Words) -> __m512i {
    // SAFETY: AVX-512.
    unsafe { _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high) }
}

/// Products of bytes with VNNI: `vpdpbusd` adds four in 32 bits. With many activation rows, by `T`. With VBMI or without it.
struct Vnni<T, const VBMI: bool>(PhantomData<T>);

impl<T: Tiles, const VBMI: bool> Bytes for Vnni<T, VBMI> {
    type I = __m512i;
    type Tiles = T;
    const SIGNED: bool = false;
    #[inline(always)]
    fn knows_rows(_bits: usize) -> bool {
        true
    }
    #[inline(always)]
    unsafe fn arrange<const BITS: usize>(x: *mut u8) {
        // SAFETY: AVX-512, and sixteen blocks at `x`.
        unsafe { vnni::arrange::<BITS>(x) }
    }
    #[inline(always)]
    unsafe fn row<const BITS: usize, const HALF: bool>(w: *const u8, x: *const u8) -> __m512i {
        // SAFETY: AVX-512 with VNNI, and VBMI if it is said so, and sixteen blocks at each address.
        unsafe {
            if VBMI || matches!(BITS, 2 | 4 | 8) {
                return vnni::row::<BITS, HALF>(w, x);
            }
            let low = avx_vnni::eight::<Evex, BITS>(w, x);
            if HALF {
                return both(Words(low, _mm256_setzero_si256()));
            }
            both(Words(low, avx_vnni::eight::<Evex, BITS>(w.add(32 * BITS), x.add(256))))
        }
    }
    #[inline(always)]
    unsafe fn bytes<const BITS: usize>(w: *const u8, x: *const u8) -> __m512i {
        // SAFETY: AVX-512 with VNNI, and sixteen blocks of bytes at each address.
        unsafe { vnni::row::<8, false>(w, x) }
    }
    #[inline(always)]
    unsafe fn halves<const BITS: usize>(w: *const u8, x: *const u8) -> [__m512i; 2] {
        // SAFETY: AVX-512 with VNNI, and sixteen blocks of bytes at each address.
        unsafe { vnni::halves(w, x) }
    }
    #[inline(always)]
    unsafe fn units(d: &UnpackedDots) -> bool {
        // SAFETY: AVX-512 with VNNI, and VBMI if it is said so, and the rest is the caller's promise.
        unsafe { if VBMI { units::dots(d) } else { ymm::dots::<Evex>(d) } }
    }
    #[inline(always)]
    unsafe fn e4m3(d: &Dots, rows: &Rows) -> bool {
        // SAFETY: as above.
        unsafe { if VBMI { units::e4m3::dots(d, rows) } else { ymm::e4m3::dots(d, rows) } }
    }
    #[inline(always)]
    fn hidden(value: usize) -> usize {
        hidden(value)
    }
    #[inline(always)]
    unsafe fn words<const BITS: usize, const WORDS: usize, const C: usize>(
        w: *const u8,
        x: *const u8,
        rows: &[usize; C],
    ) -> [__m512i; C] {
        // SAFETY: the caller's promise.
        let [dots] = unsafe { Self::words_of::<BITS, WORDS, C, 1>(&[w], x, rows, [[__m512i::splat(0); C]]) };
        dots
    }
    const SHIFTED: bool = true;
    #[inline(always)]
    unsafe fn words_of<const BITS: usize, const WORDS: usize, const C: usize, const P: usize>(
        w: &[*const u8; P],
        x: *const u8,
        rows: &[usize; C],
        mut sums: [[__m512i; C]; P],
    ) -> [[__m512i; C]; P] {
        // SAFETY: AVX512-VNNI, the words of each panel, and as many activations of each row.
        unsafe {
            for word in 0..WORDS {
                let mut words = [_mm512_setzero_si512(); P];
                for i in 0..P {
                    words[i] = __m512i::load(w[i].add(64 * word));
                }
                for j in 0..C {
                    let x = broadcast(x.add(rows[j] + 4 * word));
                    for i in 0..P {
                        sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], words[i], x);
                    }
                }
            }
            sums
        }
    }
}

/// See [`Bytes::hidden`].
#[inline(always)]
fn hidden(value: usize) -> usize {
    let mut hidden = value;
    // SAFETY: no instruction.
    unsafe { asm!("/* {} */", inout(reg) hidden, options(pure, nomem, nostack, preserves_flags)) };
    hidden
}

/// Four bytes in all lanes.
#[inline(always)]
unsafe fn broadcast(x: *const u8) -> __m512i {
    // SAFETY: AVX-512, and four bytes at `x`.
    unsafe { _mm512_set1_epi32(x.cast::<i32>().read_unaligned()) }
}

/// Weights and activations of bf16: `vdpbf16ps` multiplies 32 pairs and adds two products to each lane. It takes
/// subnormal numbers for zero, as does the rounding of the activations.
#[derive(Clone, Copy)]
struct Pairs;

impl Product for Pairs {
    const STEP: usize = 32;
    const W_BYTES: usize = 2;
    const X_BYTES: usize = 2;
    type Sum = Avx512;
    type W = __m512bh;
    type X = __m512bh;
    #[inline(always)]
    unsafe fn w(from: *const u8) -> __m512bh {
        // SAFETY: AVX-512, and 32 bf16 there.
        unsafe { std::mem::transmute(_mm512_loadu_si512(from.cast())) }
    }
    #[inline(always)]
    unsafe fn x(from: *const u8) -> __m512bh {
        // SAFETY: as above.
        unsafe { Self::w(from) }
    }
    #[inline(always)]
    unsafe fn add(sum: Avx512, w: __m512bh, x: __m512bh) -> Avx512 {
        // SAFETY: AVX512-BF16.
        Avx512(unsafe { _mm512_dpbf16_ps(sum.0, w, x) })
    }
}

// 4 × 6 accumulators, six activations and a weight fill 31 of the 32 registers.
kernels_of!(Avx512, dots: 4 by 6, by_one: 1, mix: 4, affine: InPairs, 8 by 1, 8, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c");

/// With VNNI, VBMI and products of bf16 pairs.
pub(super) fn with_bf16() -> Kernels {
    Kernels { bf16: Some(bf16()), ..with_vbmi() }
}

/// With VNNI and VBMI.
pub(super) fn with_vbmi() -> Kernels {
    let quantised = quantised_kernels_of!(Vnni<NoTiles, true>, rounded: 6 by 2, precise: 8, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c");
    Kernels { quantised, ..kernels() }
}

/// With VNNI.
pub(super) fn with_vnni() -> Kernels {
    let (rounded, unpacked, rows) = rounded_kernels_of!(Vnni<NoTiles, false>, 6 by 2, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c");
    let others = kernels();
    Kernels { quantised: QuantisedKernels { rounded, unpacked, rows, ..others.quantised }, ..others }
}

/// With VNNI and products of bf16 pairs.
pub(super) fn with_vnni_and_bf16() -> Kernels {
    Kernels { bf16: Some(bf16()), ..with_vnni() }
}

fn bf16() -> Bf16Kernels {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
    unsafe fn dots(d: &Dots) {
        // SAFETY: the caller's promise.
        unsafe { tile::dots::<Pairs, 4, 6, 1>(d) }
    }
    Bf16Kernels { dots, round }
}

/// As with all of these, with tiles for many rows of rounded activations.
pub(super) fn with_tiles() -> Kernels {
    let (rounded, unpacked, rows) = rounded_kernels_of!(Vnni<Amx, true>, 6 by 2, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c");
    let others = with_bf16();
    Kernels { quantised: QuantisedKernels { rounded, unpacked, rows, ..others.quantised }, ..others }
}

/// Rounds `n` f32 to bf16, to nearest even.
///
/// # Safety
/// The machine has AVX512-BF16, and the addresses hold `n` elements.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
unsafe fn round(from: *const u8, to: *mut u8, n: usize) {
    let whole = n - n % 16;
    // SAFETY: whole vectors are inside both ranges; the rest goes through padded copies.
    unsafe {
        for i in (0..whole).step_by(16) {
            round_vector(from.add(4 * i), to.add(2 * i));
        }
        if whole < n {
            let mut rounded = [0u8; 32];
            round_vector(tile::padded(from.add(4 * whole), 4 * (n - whole)).as_ptr(), rounded.as_mut_ptr());
            std::ptr::copy_nonoverlapping(rounded.as_ptr(), to.add(2 * whole), 2 * (n - whole));
        }
    }
}

#[inline(always)]
unsafe fn round_vector(from: *const u8, to: *mut u8) {
    // SAFETY: AVX512-BF16, sixteen f32 to read and room for sixteen bf16: the caller's promise.
    unsafe {
        let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(from.cast()));
        _mm256_storeu_si256(to.cast(), std::mem::transmute::<__m256bh, __m256i>(rounded));
    }
}
