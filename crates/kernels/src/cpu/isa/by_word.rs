//! GPTQ's and AWQ's codes, whose words lie column by column, with a lone activation row: lanes are rows as they lie, so that no sum
//! is left to add across them. Outputs grow group by group over a strip of rows. Everything here is inlined into functions that
//! enable the instructions.

use std::arch::x86_64::*;

use super::Dots;
use super::affine::{Ints, term};
use super::panel::BLOCK;
use super::tile::{Bf16, F16, F32, Lanes, convert};
use super::unit_rows::GROUPS;
use crate::quant::Second;
use crate::quant::coded::Rows;
use crate::tensor::DType;

/// Rows whose outputs grow together.
const STRIP: usize = 512;

/// Whether a product is one that [`strips`] computes.
pub(super) fn fits(d: &Dots, codes: &Rows) -> bool {
    let plain = matches!(codes.scale_type, DType::F32 | DType::F16 | DType::Bf16);
    let whole = d.rows.is_multiple_of(GROUPS) && codes.first.is_multiple_of(8) && codes.step == 1;
    plain && whole && codes.coded.block[0] == 1
}

/// An order of words.
///
/// # Safety
/// All functions: the machine has the instructions, and the rows are the weights'.
pub(super) trait Order {
    /// Sixteen integers.
    type I: Ints;
    /// Adds group `g` of `rows` rows from row `row` on to a strip.
    unsafe fn add(d: &Dots, codes: &Rows, row: usize, rows: usize, g: usize, strip: &mut Strip);
    /// Zeros of sixteen rows, four bits each, in the order of the rows.
    unsafe fn zeros(of: u64) -> __m128i;
}

/// All outputs; for groups of 32.
///
/// # Safety
/// The machine has the instructions, and the addresses hold what `Dots` says, but for the weights, which are the rows'.
#[inline(always)]
pub(super) unsafe fn strips<O: Order>(d: &Dots, codes: &Rows) {
    for row in (0..d.rows).step_by(STRIP) {
        let (rows, mut of) = (STRIP.min(d.rows - row), None);
        let mut strip = Strip { scales: [0.0; STRIP], biases: [0.0; STRIP], sums: [0.0; STRIP] };
        for g in 0..d.k / BLOCK {
            let block = g * BLOCK / codes.coded.block[1] as usize;
            // SAFETY: rows, block and group are the weights'.
            unsafe {
                if of != Some(block) {
                    strip.scale::<O>(codes, codes.first + row, rows, block);
                    of = Some(block);
                }
                O::add(d, codes, codes.first + row, rows, g, &mut strip);
            }
        }
        // SAFETY: these rows' outputs.
        unsafe { d.out.add(row).cast::<u8>().copy_from_nonoverlapping(strip.sums.as_ptr().cast(), 4 * rows) };
    }
}

/// Outputs of some rows, and the scales and biases of a block of each.
#[repr(align(64))]
pub(super) struct Strip {
    scales: [f32; STRIP],
    biases: [f32; STRIP],
    sums: [f32; STRIP],
}

impl Strip {
    #[inline(always)]
    unsafe fn scale<O: Order>(&mut self, codes: &Rows, row: usize, rows: usize, block: usize) {
        let first = block * codes.shape[0] + row;
        let bytes = codes.scale_type.bytes();
        let stored = codes.scales[first * bytes..][..rows * bytes].as_ptr();
        let to = self.scales.as_mut_ptr().cast();
        // SAFETY: the caller has the instructions; as many scales there.
        unsafe {
            match codes.scale_type {
                DType::F32 => convert::<<O::I as Ints>::F, F32, F32>(stored, to, rows),
                DType::F16 => convert::<<O::I as Ints>::F, F16, F32>(stored, to, rows),
                _ => convert::<<O::I as Ints>::F, Bf16, F32>(stored, to, rows),
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
            // SAFETY: AVX2; sixteen numbers.
            unsafe {
                let mut zeros = [0u8; GROUPS];
                _mm_storeu_si128(zeros.as_mut_ptr().cast(), O::zeros(u64::from_le_bytes(*of)));
                let range = at..at + GROUPS;
                for (i, (bias, scale)) in self.biases[range.clone()].iter_mut().zip(&self.scales[range]).enumerate() {
                    *bias = scale * -((i32::from(zeros[i]) + less) as f32);
                }
            }
        }
    }

    /// Adds a group's terms of sixteen rows.
    ///
    /// # Safety
    /// The machine has the instructions.
    #[inline(always)]
    pub(super) unsafe fn add<I: Ints>(&mut self, at: usize, dots: I, x: &Group) {
        let (scales, biases) = (&self.scales[at..at + GROUPS], &self.biases[at..at + GROUPS]);
        let sums = self.sums[at..at + GROUPS].as_mut_ptr().cast::<u8>();
        // SAFETY: the caller's promise; a vector of each.
        unsafe {
            let (scale, bias) = (I::F::load_f32(scales.as_ptr().cast()), I::F::load_f32(biases.as_ptr().cast()));
            let term = term(dots, scale, bias, I::F::splat(x.sum));
            I::F::load_f32(sums).fma(term, I::F::splat(x.scale)).store_f32(sums);
        }
    }
}

/// Activations of a group.
pub(super) struct Group {
    pub q: *const u8,
    scale: f32,
    sum: f32,
}

impl Group {
    /// Group `g`.
    ///
    /// # Safety
    /// The activations are there.
    #[inline(always)]
    pub(super) unsafe fn new(d: &Dots, g: usize) -> Self {
        // SAFETY: the caller's row is what `round` makes for groups of 32.
        unsafe {
            let scales = d.x.add(d.k).cast::<f32>();
            let (scale, sum) = (scales.add(g).read_unaligned(), scales.add(d.k / BLOCK + g).read_unaligned());
            Group { q: d.x.add(g * BLOCK), scale, sum }
        }
    }

    /// Of each eight activations, every other one, for the lower four bits of each byte, then the others.
    ///
    /// # Safety
    /// The machine has AVX2.
    #[inline(always)]
    pub(super) unsafe fn dealt(&self) -> [i32; 8] {
        // SAFETY: AVX2, and 32 activations.
        unsafe {
            let order =
                _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
            std::mem::transmute::<__m256i, [i32; 8]>(_mm256_shuffle_epi8(_mm256_loadu_si256(self.q.cast()), order))
        }
    }
}

/// Sixteen times four bits, the lowest first, a byte to each.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
pub(super) unsafe fn nibbles(of: u64) -> __m128i {
    // SAFETY: AVX2.
    unsafe {
        let words = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(of.cast_signed()));
        _mm_and_si128(_mm_or_si128(words, _mm_slli_epi16::<4>(words)), _mm_set1_epi8(15))
    }
}

/// AWQ's nibbles of two words as rows 0 to 15.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
pub(super) unsafe fn awq_in_order(nibbles: __m128i) -> __m128i {
    // SAFETY: AVX2.
    unsafe { _mm_shuffle_epi8(nibbles, _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15)) }
}
