//! Weights that are codes of four or eight bits, with scales in tensors of their own: how safetensors files hold weights
//! that FP8 training, GPTQ, AWQ, compressed-tensors, modelopt and MLX's float modes made.
//!
//! Whatever the code, a weight is `scale · (u − zero)`, with a whole number u of at most eight bits; but for E4M3, whose
//! numbers are no whole ones, and which is widened to f32.

use std::fmt;

use super::{Format, element};
use crate::tensor::DType;

/// What one weight is stored as, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// A byte: four bits of exponent, three of mantissa, no infinity (OCP FP8; arXiv 2209.05433).
    E4m3,
    /// Four bits, the lower half of a byte first: two of exponent, one of mantissa (OCP MX 1.0).
    E2m1,
    /// Four bits, the lower half of a byte first: q + 8.
    Int4,
    /// A byte: q + 128.
    Int8,
    /// A byte in two's complement.
    Signed8,
    /// Four bits, in words of eight consecutive columns of a row, the lowest first; words are `[cols / 8, rows]` (GPTQ).
    Gptq,
    /// Four bits, in words of eight consecutive rows of a column, rows 0, 2, 4, 6, 1, 3, 5, 7 from the lowest on; words are
    /// `[cols, rows / 8]` (AWQ, its "gemm" order).
    Awq,
}

/// A second tensor that scales or shifts weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Second {
    /// None.
    None,
    /// One f32 that multiplies all scales.
    Times,
    /// One f32 that divides all scales.
    Over,
    /// Four bits for each scale, packed as the weights of a column are: the u that is worth 0.
    Zeros,
    /// The same less 1.
    ZerosLessOne,
}

/// A whole row, or all rows, of one scale: a block of [`Coded`] without an end.
pub const WHOLE: u32 = u32::MAX;

/// How weights are coded and scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Coded {
    /// What a weight is stored as.
    pub code: Code,
    /// Rows and columns of the blocks that share a scale, the first of which begins with the matrix; the last may be cut off.
    pub block: [u32; 2],
    /// What comes on top.
    pub second: Second,
}

/// Most u's that are unpacked at once.
const PART: usize = 128;

impl Coded {
    /// Whether words lie column by column: scales and zeros then do too.
    pub const fn is_transposed(self) -> bool {
        matches!(self.code, Code::Gptq | Code::Awq)
    }

    /// Bits of a weight as stored.
    pub const fn bits(self) -> usize {
        match self.code {
            Code::E4m3 | Code::Int8 | Code::Signed8 => 8,
            Code::E2m1 | Code::Int4 | Code::Gptq | Code::Awq => 4,
        }
    }

    /// Weights that share a scale in products with whole numbers, 16 or 32; `None` where there are none such.
    pub(crate) fn group(self, cols: usize) -> Option<usize> {
        let group = if self.block[1] == WHOLE || self.block[1].is_multiple_of(32) { 32 } else { 16 };
        let whole = self.block[1] == WHOLE || (self.block[1] as usize).is_multiple_of(group);
        (self.code != Code::E4m3 && whole && cols.is_multiple_of(32)).then_some(group)
    }

    /// Bits that u may have: 4, 5, 6 or 8; in groups of 16, no 5.
    pub(crate) const fn unpacked_bits(self) -> usize {
        match self.code {
            Code::E2m1 if self.block[1].is_multiple_of(32) => 5,
            Code::E2m1 => 6,
            Code::Int4 | Code::Gptq | Code::Awq => 4,
            Code::E4m3 | Code::Int8 | Code::Signed8 => 8,
        }
    }

    /// The u that is worth 0, unless [`Second`] says another.
    pub(crate) const fn zero(self) -> i16 {
        match self.code {
            Code::E2m1 => E2M1_ZERO as i16,
            Code::Int4 | Code::Gptq | Code::Awq => 8,
            Code::Int8 | Code::Signed8 => 128,
            Code::E4m3 => 0,
        }
    }

    /// Scales down and across a matrix.
    fn grid(self, rows: usize, cols: usize) -> [usize; 2] {
        [rows.div_ceil(self.block[0] as usize), cols.div_ceil(self.block[1] as usize)]
    }

    /// Whether a matrix of this shape can be stored so: with whole words, and a zero for each scale.
    pub fn fits(self, rows: usize, cols: usize) -> bool {
        let zeros = matches!(self.second, Second::Zeros | Second::ZerosLessOne);
        let words = match self.code {
            Code::E4m3 | Code::Int8 | Code::Signed8 => true,
            Code::E2m1 | Code::Int4 => cols.is_multiple_of(2),
            Code::Gptq => cols.is_multiple_of(8),
            Code::Awq => rows.is_multiple_of(8),
        };
        words && (!zeros || rows.is_multiple_of(8) && self.block[0] == 1) && self.block.iter().all(|&size| size > 0)
    }

    /// Shapes of its tensors: data in bytes, scales of any type, and, in bytes or as one f32, what is second.
    pub fn shapes(self, rows: usize, cols: usize) -> [Option<[usize; 2]>; 3] {
        let [down, across] = self.grid(rows, cols);
        let data = match self.code {
            Code::E4m3 | Code::Int8 | Code::Signed8 => [rows, cols],
            Code::E2m1 | Code::Int4 => [rows, cols / 2],
            Code::Gptq => [cols / 8, 4 * rows],
            Code::Awq => [cols, rows / 2],
        };
        let scales = if self.is_transposed() { [across, down] } else { [down, across] };
        let second = match self.second {
            Second::None => None,
            Second::Times | Second::Over => Some([1, 1]),
            Second::Zeros | Second::ZerosLessOne if self.is_transposed() => Some([across, rows / 2]),
            Second::Zeros | Second::ZerosLessOne => Some([rows / 8, 4 * across]),
        };
        [Some(data), Some(scales), second]
    }

    /// The type of what is second.
    pub fn second_type(self) -> Option<DType> {
        match self.second {
            Second::None => None,
            Second::Times | Second::Over => Some(DType::F32),
            Second::Zeros | Second::ZerosLessOne => Some(DType::U8),
        }
    }
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = match self.code {
            Code::E4m3 => "FP8 E4M3",
            Code::E2m1 => "FP4 E2M1",
            Code::Int4 => "int4",
            Code::Int8 | Code::Signed8 => "int8",
            Code::Gptq => "GPTQ int4",
            Code::Awq => "AWQ int4",
        };
        match self.block {
            [WHOLE, WHOLE] => write!(f, "{code} with one scale"),
            [1, WHOLE] => write!(f, "{code} with a scale for each row"),
            [1, cols] => write!(f, "{code} in groups of {cols}"),
            [rows, cols] => write!(f, "{code} in blocks of {rows}×{cols}"),
        }
    }
}

/// The u of [`Code::E2m1`] that is worth 0: u is twice the number, and as much more.
pub(crate) const E2M1_ZERO: u8 = 12;

/// A scale's value: F32, F16, BF16, E4M3 or E8M0.
#[inline(always)]
fn scale_of(dtype: DType, bytes: &[u8], index: usize) -> f32 {
    match dtype {
        DType::F8E4m3 => e4m3(bytes[index]),
        DType::F8E8m0 => e8m0(bytes[index]),
        DType::F32 => element(Format::F32, bytes, index),
        DType::F16 => element(Format::F16, bytes, index),
        _ => element(Format::Bf16, bytes, index),
    }
}

/// A power of two: `2^(byte − 127)`; 255 is NaN.
#[inline(always)]
pub(crate) fn e8m0(byte: u8) -> f32 {
    f32::from_bits(match byte {
        0 => 0x0040_0000,
        255 => 0x7fc0_0000,
        exponent => u32::from(exponent) << 23,
    })
}

/// A number of E4M3, exactly.
#[inline(always)]
pub fn e4m3(byte: u8) -> f32 {
    let (sign, size) = (u32::from(byte & 0x80) << 24, u32::from(byte & 0x7f));
    let normal = (size << 20) + (120 << 23);
    // A subnormal is what its mantissa makes of the smallest normal number, 2^-6, beyond that number.
    let subnormal = (f32::from_bits((size << 20) + (121 << 23)) - f32::from_bits(121 << 23)).to_bits();
    let bits = if size < 8 { subnormal } else { normal };
    f32::from_bits(sign | if size == 0x7f { 0x7fc0_0000 } else { bits })
}

/// Widens E4M3: `values = scale · bytes`. Plain Rust, inlined into functions that enable instructions, which make vectors of it.
#[inline(always)]
pub(crate) fn widen_e4m3(bytes: &[u8], scale: f32, values: &mut [f32]) {
    values.iter_mut().zip(bytes).for_each(|(value, &byte)| *value = scale * e4m3(byte));
}

/// The nibbles of a word, the lowest first, a byte to each.
#[inline(always)]
fn spread(word: [u8; 4]) -> [u8; 8] {
    let word = u64::from(u32::from_le_bytes(word));
    let pairs = (word | word << 16) & 0x0000_ffff_0000_ffff;
    let bytes = (pairs | pairs << 8) & 0x00ff_00ff_00ff_00ff;
    ((bytes | bytes << 4) & 0x0f0f_0f0f_0f0f_0f0f).to_le_bytes()
}

/// The nibbles of bytes, the lower first, each as `of` makes it: in two passes, of which the compiler makes vectors.
#[inline(always)]
fn nibbles(bytes: &[u8], u: &mut [u8], of: impl Fn(u8) -> u8) {
    let ((words, last), (eights, rest)) = (bytes.as_chunks(), u.as_chunks_mut());
    eights.iter_mut().zip(words).for_each(|(eight, word)| *eight = spread(*word));
    for (pair, &byte) in rest.as_chunks_mut::<2>().0.iter_mut().zip(last) {
        *pair = [byte & 15, byte >> 4];
    }
    u.iter_mut().for_each(|u| *u = of(*u));
}

/// The u's of all E2M1 numbers.
pub(crate) const fn e2m1_table() -> [u8; 16] {
    let (sizes, mut table, mut i) = ([0, 1, 2, 3, 4, 6, 8, 12], [0; 16], 0);
    while i < 16 {
        table[i] = if i < 8 { E2M1_ZERO + sizes[i] } else { E2M1_ZERO - sizes[i % 8] };
        i += 1;
    }
    table
}

/// The u of an E2M1 number: 12 and twice 0, ½, 1, 1½, 2, 3, 4, 6 or their negatives. By comparisons, of which the compiler
/// makes vectors.
#[inline(always)]
pub(crate) fn e2m1(nibble: u8) -> u8 {
    let size = nibble & 7;
    let doubled = size + u8::from(size == 5) + 2 * u8::from(size == 6) + 5 * u8::from(size == 7);
    if nibble & 8 == 0 { E2M1_ZERO + doubled } else { E2M1_ZERO - doubled }
}

/// Which of a word's nibbles holds row `row` of eight, in AWQ's order.
pub(crate) const fn awq_nibble(row: usize) -> usize {
    if row.is_multiple_of(2) { row / 2 } else { 4 + row / 2 }
}

/// A little-endian word.
#[inline(always)]
pub(crate) fn word(bytes: &[u8], index: usize) -> u32 {
    let bytes = bytes[4 * index..].first_chunk().expect("a matrix holds whole words");
    u32::from_le_bytes(*bytes)
}

/// Rows of a coded matrix: its tensors' bytes, and which of their rows are its own.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub coded: Coded,
    pub data: &'a [u8],
    pub scales: &'a [u8],
    pub scale_type: DType,
    /// Empty where there is none.
    pub second: &'a [u8],
    /// Rows and columns of the tensors.
    pub shape: [usize; 2],
    /// Row r is theirs `first + step · r`.
    pub first: usize,
    pub step: usize,
}

/// Appends what a matrix `[rows, cols]` of codes is worth, rounded to bfloat16, little-endian, row by row: as releases hold
/// it that were not quantised. Its tensors' bytes are those of [`Coded::shapes`]; scales are of type `scale_type`, and what
/// is second is empty where there is none.
pub fn widen_to_bf16(
    coded: Coded,
    [rows, cols]: [usize; 2],
    scale_type: DType,
    [data, scales, second]: [&[u8]; 3],
    values: &mut Vec<u8>,
) {
    let matrix = Rows { coded, data, scales, scale_type, second, shape: [rows, cols], first: 0, step: 1 };
    let mut row_values = vec![0.0; cols];
    for row in 0..rows {
        matrix.dequantise(row, &mut row_values, widen_e4m3);
        values.extend(row_values.iter().flat_map(|&value| half::bf16::from_f32(value).to_le_bytes()));
    }
}

impl Rows<'_> {
    /// The same from row `row` on.
    pub fn from(self, row: usize) -> Self {
        Rows { first: self.first + self.step * row, ..self }
    }

    /// The u's of columns `k..` of a row; not of E4M3. k is a multiple of 8.
    #[inline(always)]
    pub fn unpack(&self, row: usize, k: usize, u: &mut [u8]) {
        let [rows, cols] = self.shape;
        let (row, len) = (self.first + self.step * row, u.len());
        let of_row = |bits: usize| &self.data[(row * cols + k) * bits / 8..][..len * bits / 8];
        match self.coded.code {
            Code::E4m3 | Code::Int8 => u.copy_from_slice(of_row(8)),
            Code::Signed8 => u.iter_mut().zip(of_row(8)).for_each(|(u, byte)| *u = byte ^ 0x80),
            Code::E2m1 => nibbles(of_row(4), u, e2m1),
            Code::Int4 => nibbles(of_row(4), u, |nibble| nibble),
            Code::Gptq => {
                for (i, u) in u.chunks_mut(8).enumerate() {
                    let word = word(self.data, (k / 8 + i) * rows + row);
                    u.iter_mut().enumerate().for_each(|(j, u)| *u = (word >> (4 * j)) as u8 & 15);
                }
            }
            Code::Awq => {
                let shift = 4 * awq_nibble(row % 8);
                for (i, u) in u.iter_mut().enumerate() {
                    *u = (word(self.data, (k + i) * (rows / 8) + row / 8) >> shift) as u8 & 15;
                }
            }
        }
    }

    /// The u's of columns `k..k + len` of `count` rows from `row` on, each behind `stride` bytes of `u`: as [`Self::unpack`],
    /// in the order in which they are stored.
    #[inline(always)]
    pub fn unpack_all(&self, row: usize, count: usize, k: usize, len: usize, u: &mut [u8], stride: usize) {
        let [rows, first] = [self.shape[0], self.first + self.step * row];
        match self.coded.code {
            Code::Gptq if self.step == 1 => {
                for i in 0..len / 8 {
                    let words = &self.data[4 * ((k / 8 + i) * rows + first)..][..4 * count];
                    for lane in 0..count {
                        let word = word(words, lane).to_le_bytes();
                        u[lane * stride + 8 * i..][..8].copy_from_slice(&spread(word));
                    }
                }
            }
            Code::Awq if self.step == 1 && first.is_multiple_of(8) => {
                for i in 0..len {
                    let words = &self.data[(k + i) * (rows / 2) + first / 2..];
                    for eight in 0..count.div_ceil(8) {
                        let word = word(words, eight);
                        for lane in 8 * eight..count.min(8 * eight + 8) {
                            u[lane * stride + i] = (word >> (4 * awq_nibble(lane % 8))) as u8 & 15;
                        }
                    }
                }
            }
            _ => (0..count).for_each(|lane| self.unpack(row + lane, k, &mut u[lane * stride..][..len])),
        }
    }

    /// Calls `each` with the columns of every block of `k..k + len` of a row, counted from k, and their scale and zero. The
    /// scale is that of u; of E4M3, of the numbers.
    #[inline(always)]
    pub fn blocks(&self, row: usize, k: usize, len: usize, mut each: impl FnMut(std::ops::Range<usize>, f32, i16)) {
        let ([rows, cols], row) = (self.shape, self.first + self.step * row);
        let [down, across] = self.coded.grid(rows, cols);
        let [block_rows, block_cols] = self.coded.block.map(|size| size as usize);
        let (row_of_scales, mut at) = (row / block_rows, k);
        while at < k + len {
            let block = at / block_cols;
            let end = ((block + 1) * block_cols).min(k + len);
            let index =
                if self.coded.is_transposed() { block * down + row_of_scales } else { row_of_scales * across + block };
            let scale = scale_of(self.scale_type, self.scales, index);
            let scale = match self.coded.second {
                Second::Times => scale * element(Format::F32, self.second, 0),
                Second::Over => scale / element(Format::F32, self.second, 0),
                _ => scale,
            };
            let scale = if self.coded.code == Code::E2m1 { 0.5 * scale } else { scale };
            each(at - k..end - k, scale, self.zero(row, block, across));
            at = end;
        }
    }

    /// The scales of a row's groups from column k on, and the biases that belong to `u - base`, as many as there is room for.
    #[inline(always)]
    pub fn scales_and_biases(
        &self,
        row: usize,
        k: usize,
        group: usize,
        base: u8,
        scales: &mut [f32],
        biases: &mut [f32],
    ) {
        if self.scales_in_line(row, k, group, scales) {
            let zero = f32::from(i16::from(base) - self.coded.zero());
            return biases.iter_mut().zip(scales).for_each(|(bias, scale)| *bias = *scale * zero);
        }
        self.blocks(row, k, scales.len() * group, |range, scale, zero| {
            let groups = range.start / group..range.end.div_ceil(group);
            scales[groups.clone()].fill(scale);
            biases[groups].fill(scale * f32::from(i16::from(base) - zero));
        });
    }

    /// The scales of columns `k..k + len` of a row as they are stored, where they lie side by side, are of these columns alone, and
    /// there are no zeros; [`Self::finish_scales`] makes them those of u.
    #[inline(always)]
    pub fn stored_scales(&self, row: usize, k: usize, len: usize) -> Option<&[u8]> {
        let Coded { block: [down, across], second, .. } = self.coded;
        let (across, bytes) = (across as usize, self.scale_type.bytes());
        let has_zeros = matches!(second, Second::Zeros | Second::ZerosLessOne);
        let in_line = down == 1 && k.is_multiple_of(across) && len.is_multiple_of(across);
        if has_zeros || self.coded.is_transposed() || !in_line {
            return None;
        }
        let first = (self.first + self.step * row) * self.coded.grid(1, self.shape[1])[1] + k / across;
        Some(&self.scales[first * bytes..][..len / across * bytes])
    }

    /// Makes scales as they are stored those of u.
    #[inline(always)]
    pub fn finish_scales(&self, scales: &mut [f32]) {
        let half = if self.coded.code == Code::E2m1 { 0.5 } else { 1.0 };
        match self.coded.second {
            Second::Times => {
                let times = element(Format::F32, self.second, 0);
                scales.iter_mut().for_each(|scale| *scale = *scale * times * half);
            }
            Second::Over => {
                let over = element(Format::F32, self.second, 0);
                scales.iter_mut().for_each(|scale| *scale = *scale / over * half);
            }
            _ => scales.iter_mut().for_each(|scale| *scale *= half),
        }
    }

    /// The scales of u of a row's blocks from column k on, as many as there is room for, where they are of `group` columns, lie side
    /// by side and have no zeros of their own; `false` where [`Self::blocks`] has to be asked. A loop for each type of scale, of
    /// which the compiler makes vectors.
    #[inline(always)]
    pub fn scales_in_line(&self, row: usize, k: usize, group: usize, scales: &mut [f32]) -> bool {
        if self.coded.block[1] != group as u32 {
            return false;
        }
        let Some(stored) = self.stored_scales(row, k, scales.len() * group) else { return false };
        macro_rules! fill {
            ($dtype:expr) => {
                scales.iter_mut().enumerate().for_each(|(i, scale)| *scale = scale_of($dtype, stored, i))
            };
        }
        match self.scale_type {
            DType::F8E4m3 => fill!(DType::F8E4m3),
            DType::F8E8m0 => fill!(DType::F8E8m0),
            DType::F32 => fill!(DType::F32),
            DType::F16 => fill!(DType::F16),
            _ => fill!(DType::Bf16),
        }
        self.finish_scales(scales);
        true
    }

    /// The u that is worth 0 in a block of a row of the tensors.
    #[inline(always)]
    fn zero(&self, row: usize, block: usize, across: usize) -> i16 {
        let less = match self.coded.second {
            Second::Zeros => 0,
            Second::ZerosLessOne => 1,
            _ => return self.coded.zero(),
        };
        let (word_at, nibble) = match self.coded.code {
            Code::Gptq => (block * (self.shape[0] / 8) + row / 8, row % 8),
            Code::Awq => (block * (self.shape[0] / 8) + row / 8, awq_nibble(row % 8)),
            _ => (row / 8 * across + block, row % 8),
        };
        ((word(self.second, word_at) >> (4 * nibble)) & 15) as i16 + less
    }

    /// What a row is worth: u less its zero is exact, and so is what E4M3 is widened to; the product is rounded.
    /// `widen` is [`widen_e4m3`], perhaps with more instructions.
    pub fn dequantise(&self, row: usize, values: &mut [f32], widen: impl Fn(&[u8], f32, &mut [f32])) {
        let cols = self.shape[1];
        assert_eq!(values.len(), cols, "a row of {cols} weights");
        let bytes = (self.first + self.step * row) * cols;
        let mut u = [0; PART];
        for (part, values) in values.chunks_mut(PART).enumerate() {
            let (k, len) = (part * PART, values.len());
            if self.coded.code != Code::E4m3 {
                self.unpack(row, k, &mut u[..len]);
            }
            self.blocks(row, k, len, |range, scale, zero| {
                if self.coded.code == Code::E4m3 {
                    return widen(&self.data[bytes + k + range.start..][..range.len()], scale, &mut values[range]);
                }
                for (value, &u) in values[range.clone()].iter_mut().zip(&u[range]) {
                    *value = scale * f32::from(i16::from(u) - zero);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the format's definition: sign, exponent with a bias of 7, mantissa of three bits; no infinities, one NaN.
    #[test]
    fn e4m3_is_what_its_definition_says() {
        for byte in 0..=255u8 {
            let (sign, exponent, mantissa) = (byte >> 7, i32::from(byte >> 3 & 15), f64::from(byte & 7));
            let size = match (exponent, byte & 7) {
                (15, 7) => f64::NAN,
                (0, _) => mantissa / 8.0 * 2f64.powi(-6),
                _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
            };
            let expected = if sign == 1 { -size } else { size };
            let found = f64::from(e4m3(byte));
            assert!(found == expected || found.is_nan() && expected.is_nan(), "{byte:#x}: {found}, not {expected}");
            assert_eq!(found.is_sign_negative(), sign == 1, "{byte:#x}");
        }
    }

    #[test]
    fn e8m0_is_a_power_of_two() {
        for byte in 0..255u8 {
            assert_eq!(f64::from(e8m0(byte)), 2f64.powi(i32::from(byte) - 127), "{byte}");
        }
        assert!(e8m0(255).is_nan());
    }

    #[test]
    fn e2m1_is_doubled_around_twelve() {
        let sizes = [0, 1, 2, 3, 4, 6, 8, 12];
        for nibble in 0..16u8 {
            let size = sizes[usize::from(nibble & 7)];
            assert_eq!(e2m1(nibble), if nibble < 8 { 12 + size } else { 12 - size });
            assert_eq!(e2m1_table()[usize::from(nibble)], e2m1(nibble));
        }
    }

    #[test]
    fn a_word_is_spread_as_its_nibbles_are_read_one_by_one() {
        let data: Vec<u8> = (0..16 * 24 / 2).map(|i| (i * 37 + 11) as u8).collect();
        let scales = vec![0; 2 * 16 * 24];
        for code in [Code::Gptq, Code::Awq] {
            let coded = Coded { code, block: [1, 8], second: Second::None };
            let rows = Rows {
                coded,
                data: &data,
                scales: &scales,
                scale_type: DType::F16,
                second: &[],
                shape: [16, 24],
                first: 0,
                step: 1,
            };
            let mut all = [0; 16 * 32];
            rows.unpack_all(0, 13, 8, 16, &mut all, 32);
            for row in 0..13 {
                let mut u = [0; 16];
                rows.unpack(row, 8, &mut u);
                assert_eq!(all[32 * row..][..16], u, "{code:?}, row {row}");
            }
        }
    }
}
