//! GPTQ's and AWQ's codes, whose words lie column by column: lanes are rows as they lie, so that no sum is left to add across them.
//! Outputs grow group by group over a strip of rows.

// Vectors are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::{GROUPS, low_bits, nibbles, upper};
use crate::cpu::isa::Dots;
use crate::cpu::isa::affine::Ints;
use crate::cpu::isa::avx512::Avx512;
use crate::cpu::isa::panel::BLOCK;
use crate::cpu::isa::tile::{Bf16, F16, F32, Lanes, convert};
use crate::cpu::isa::unpacked::term;
use crate::quant::coded::Rows;
use crate::quant::{Code, Second};
use crate::tensor::DType;

/// Rows whose outputs grow together.
const STRIP: usize = 512;
/// Rows of a vector of AWQ's words.
const AWQ_ROWS: usize = 128;

/// See [`super::dots`]; for groups of 32.
#[inline(always)]
pub(super) unsafe fn dots(d: &Dots, codes: &Rows) -> bool {
    let plain = matches!(codes.scale_type, DType::F32 | DType::F16 | DType::Bf16);
    let whole = d.rows.is_multiple_of(GROUPS) && codes.first.is_multiple_of(8) && codes.step == 1;
    let fits = plain && whole && codes.coded.block[0] == 1;
    if fits {
        // SAFETY: the caller's promise.
        unsafe { if codes.coded.code == Code::Gptq { strips::<Gptq>(d, codes) } else { strips::<Awq>(d, codes) } }
    }
    fits
}

/// An order of words.
trait Words {
    /// Adds group `g` of `rows` rows from row `row` on to a strip.
    unsafe fn add(d: &Dots, codes: &Rows, row: usize, rows: usize, g: usize, strip: &mut Strip);
    /// Zeros of sixteen rows, four bits each, in the order of the rows.
    unsafe fn zeros(of: u64) -> __m128i;
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
unsafe fn strips<W: Words>(d: &Dots, codes: &Rows) {
    for row in (0..d.rows).step_by(STRIP) {
        let (rows, mut of) = (STRIP.min(d.rows - row), None);
        let mut strip = Strip { scales: [0.0; STRIP], biases: [0.0; STRIP], sums: [0.0; STRIP] };
        for g in 0..d.k / BLOCK {
            let block = g * BLOCK / codes.coded.block[1] as usize;
            // SAFETY: rows, block and group are the weights'.
            unsafe {
                if of != Some(block) {
                    strip.scale::<W>(codes, codes.first + row, rows, block);
                    of = Some(block);
                }
                W::add(d, codes, codes.first + row, rows, g, &mut strip);
            }
        }
        // SAFETY: these rows' outputs.
        unsafe { d.out.add(row).cast::<u8>().copy_from_nonoverlapping(strip.sums.as_ptr().cast(), 4 * rows) };
    }
}

/// Outputs of some rows, and the scales and biases of a block of each.
#[repr(align(64))]
struct Strip {
    scales: [f32; STRIP],
    biases: [f32; STRIP],
    sums: [f32; STRIP],
}

impl Strip {
    #[inline(always)]
    unsafe fn scale<W: Words>(&mut self, codes: &Rows, row: usize, rows: usize, block: usize) {
        let first = block * codes.shape[0] + row;
        let bytes = codes.scale_type.bytes();
        let stored = codes.scales[first * bytes..][..rows * bytes].as_ptr();
        let to = self.scales.as_mut_ptr().cast();
        // SAFETY: AVX-512; as many scales there.
        unsafe {
            match codes.scale_type {
                DType::F32 => convert::<Avx512, F32, F32>(stored, to, rows),
                DType::F16 => convert::<Avx512, F16, F32>(stored, to, rows),
                _ => convert::<Avx512, Bf16, F32>(stored, to, rows),
            }
        }
        let less = match codes.coded.second {
            Second::Zeros => 0,
            Second::ZerosLessOne => 1,
            _ => {
                let zero = f32::from(-codes.coded.zero());
                return self.biases.iter_mut().zip(&self.scales).for_each(|(bias, scale)| *bias = scale * zero);
            }
        };
        for at in (0..rows).step_by(GROUPS) {
            let of = codes.second[(first + at) / 2..].first_chunk().expect("a zero for each scale");
            // SAFETY: AVX-512; a vector of each.
            unsafe {
                let zeros = _mm512_cvtepu8_epi32(W::zeros(u64::from_le_bytes(*of)));
                let zeros = _mm512_add_epi32(zeros, _mm512_set1_epi32(less));
                let negative = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_setzero_si512(), zeros));
                let scales = _mm512_loadu_ps(self.scales[at..at + GROUPS].as_ptr());
                _mm512_storeu_ps(self.biases[at..at + GROUPS].as_mut_ptr(), _mm512_mul_ps(scales, negative));
            }
        }
    }

    /// Adds a group's terms of sixteen rows.
    #[inline(always)]
    unsafe fn add(&mut self, at: usize, dots: __m512i, x: &Group) {
        let (scales, biases) = (&self.scales[at..at + GROUPS], &self.biases[at..at + GROUPS]);
        let sums = self.sums[at..at + GROUPS].as_mut_ptr().cast::<u8>();
        // SAFETY: AVX-512; a vector of each.
        unsafe {
            let (scale, bias) = (Avx512::load_f32(scales.as_ptr().cast()), Avx512::load_f32(biases.as_ptr().cast()));
            let term = term(dots.to_f32(), Avx512::splat(x.scale), scale, bias, Avx512::splat(x.sum));
            Avx512::load_f32(sums).add(term).store_f32(sums);
        }
    }
}

/// Activations of a group.
struct Group {
    q: *const u8,
    scale: f32,
    sum: f32,
}

impl Group {
    #[inline(always)]
    unsafe fn new(d: &Dots, g: usize) -> Self {
        // SAFETY: the caller's row is what `round` makes for groups of 32.
        unsafe {
            let scales = d.x.add(d.k).cast::<f32>();
            let (scale, sum) = (scales.add(g).read_unaligned(), scales.add(d.k / BLOCK + g).read_unaligned());
            Group { q: d.x.add(g * BLOCK), scale, sum }
        }
    }
}

struct Gptq;

impl Words for Gptq {
    #[inline(always)]
    unsafe fn zeros(of: u64) -> __m128i {
        // SAFETY: the caller has the instructions, here and below.
        unsafe { nibbles(of) }
    }
    #[inline(always)]
    unsafe fn add(d: &Dots, codes: &Rows, row: usize, rows: usize, g: usize, strip: &mut Strip) {
        let stride = 4 * codes.shape[0];
        // SAFETY: the rows' words are inside the weights; what is asked for ahead need not exist.
        unsafe {
            let x = Group::new(d, g);
            // Of each eight columns, every other one, for the lower four bits of each byte, then the others.
            let order =
                _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
            let dealt = _mm256_shuffle_epi8(_mm256_loadu_si256(x.q.cast()), order);
            let dealt = std::mem::transmute::<__m256i, [i32; 8]>(dealt);
            for at in (0..rows).step_by(GROUPS) {
                let words = codes.data.as_ptr().wrapping_add(4 * g * stride + 4 * (row + at));
                let mut dots = _mm512_setzero_si512();
                for i in 0..4 {
                    let words = words.wrapping_add(i * stride);
                    __m512i::prefetch(words.wrapping_add(4 * stride));
                    let w = _mm512_loadu_si512(words.cast());
                    dots = _mm512_dpbusd_epi32(dots, low_bits(w, 4), _mm512_set1_epi32(dealt[2 * i]));
                    dots = _mm512_dpbusd_epi32(dots, low_bits(upper(w), 4), _mm512_set1_epi32(dealt[2 * i + 1]));
                }
                strip.add(at, dots, &x);
            }
        }
    }
}

struct Awq;

impl Words for Awq {
    #[inline(always)]
    unsafe fn zeros(of: u64) -> __m128i {
        // SAFETY: the caller has the instructions, here and below.
        unsafe { _mm_shuffle_epi8(nibbles(of), _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15)) }
    }
    #[inline(always)]
    unsafe fn add(d: &Dots, codes: &Rows, row: usize, rows: usize, g: usize, strip: &mut Strip) {
        let stride = codes.shape[0] / 2;
        for at in (0..rows).step_by(AWQ_ROWS) {
            let some = AWQ_ROWS.min(rows - at);
            // SAFETY: the rows' words are inside the weights, and others are not read; what is asked for ahead need not exist.
            unsafe {
                let x = Group::new(d, g);
                let mask = (0xffff_u32 >> (16 - some / 8)) as u16;
                let (mut low, mut high) = ([_mm512_setzero_si512(); 4], [_mm512_setzero_si512(); 4]);
                for four in 0..8 {
                    let words = codes.data.as_ptr().wrapping_add((BLOCK * g + 4 * four) * stride + (row + at) / 2);
                    let mut columns = [_mm512_setzero_si512(); 4];
                    for i in 0..4 {
                        let words = words.wrapping_add(i * stride);
                        __m512i::prefetch(words.wrapping_add(BLOCK * stride));
                        columns[i] = _mm512_maskz_loadu_epi32(mask, words.cast());
                    }
                    let x = _mm512_set1_epi32(x.q.add(4 * four).cast::<i32>().read_unaligned());
                    let bytes = interleaved(columns);
                    for i in 0..4 {
                        low[i] = _mm512_dpbusd_epi32(low[i], low_bits(bytes[i], 4), x);
                        high[i] = _mm512_dpbusd_epi32(high[i], low_bits(upper(bytes[i]), 4), x);
                    }
                }
                for pair in 0..2 {
                    let i = 2 * pair;
                    let dots = by_quarter([low[i], high[i], low[i + 1], high[i + 1]]);
                    for quarter in 0..4 {
                        let at_vector = 32 * quarter + 16 * pair;
                        if at_vector < some {
                            // Rows 0, 4, 1, 5, then 2, 6, 3, 7 of each eight.
                            let order = _mm512_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
                            strip.add(at + at_vector, _mm512_permutexvar_epi32(order, dots[quarter]), &x);
                        }
                    }
                }
            }
        }
    }
}

/// Four columns' bytes side by side: vector i has those of word i of each quarter.
#[inline(always)]
unsafe fn interleaved([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: AVX-512.
    unsafe {
        let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
        let (ab_high, cd_high) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
        [
            _mm512_unpacklo_epi16(ab, cd),
            _mm512_unpackhi_epi16(ab, cd),
            _mm512_unpacklo_epi16(ab_high, cd_high),
            _mm512_unpackhi_epi16(ab_high, cd_high),
        ]
    }
}

/// The first quarters of four vectors, their second ones, and so on.
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
