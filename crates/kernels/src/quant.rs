//! Weight formats: how a matrix is stored, and what it is worth in f32.

pub mod coded;
pub mod ggml;

use std::ops::Range;

use crate::host;
use crate::tensor::{DType, Tensor};
pub use coded::{Code, Coded, Second};
pub use ggml::GgmlType;

/// How the elements of a weight matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One IEEE binary32 a weight.
    F32,
    /// One IEEE binary16 a weight.
    F16,
    /// One bfloat16 a weight.
    Bf16,
    /// MLX's affine quantisation: `w = scale · q + bias`, with one scale and one bias (each F32, F16 or BF16, in tensors
    /// of their own, `[rows, cols / group]`) for each `group` consecutive weights of a row, and q of `bits` bits,
    /// unsigned. A row's q's are one little-endian stream of bits: weight i in bits `bits·i ..`, the lowest first
    /// (mlx `python/src/ops.cpp`, `quantize`).
    Affine {
        /// 2, 3, 4, 5, 6 or 8.
        bits: u8,
        /// 32, 64 or 128.
        group: u8,
    },
    /// Blocks that hold their own scales.
    Ggml(GgmlType),
    /// Codes with scales in tensors of their own.
    Coded(Coded),
}

impl Format {
    /// The format of plain elements of this type, if weights may be stored so.
    pub fn of(dtype: DType) -> Option<Format> {
        match dtype {
            DType::F32 => Some(Format::F32),
            DType::F16 => Some(Format::F16),
            DType::Bf16 => Some(Format::Bf16),
            DType::I32 | DType::U8 | DType::Q8 | DType::F8E4m3 | DType::F8E8m0 => None,
        }
    }

    /// Affine quantisation, if these bits and this group exist.
    pub fn affine(bits: usize, group: usize) -> Option<Format> {
        let exists = matches!(bits, 2 | 3 | 4 | 5 | 6 | 8) && matches!(group, 32 | 64 | 128);
        exists.then_some(Format::Affine { bits: bits as u8, group: group as u8 })
    }

    /// Bytes of one row of `cols` weights, scales and biases not counted.
    pub const fn row_bytes(self, cols: usize) -> usize {
        match self {
            Format::F32 => 4 * cols,
            Format::F16 | Format::Bf16 => 2 * cols,
            Format::Affine { bits, .. } => cols * bits as usize / 8,
            Format::Ggml(blocks) => cols / blocks.block_weights() * blocks.block_bytes(),
            Format::Coded(coded) => cols * coded.bits() / 8,
        }
    }

    /// Whether a weight is a number by itself: F32, F16 or BF16.
    pub const fn is_plain(self) -> bool {
        matches!(self, Format::F32 | Format::F16 | Format::Bf16)
    }
}

/// A weight matrix `[rows, cols]` in some [`Format`], row-major: row `r` makes output `r` of a linear map.
#[derive(Clone, Debug)]
pub struct Matrix {
    format: Format,
    rows: usize,
    cols: usize,
    data: Tensor,
    /// Of an affine-quantised matrix: scales and biases, `[rows, cols / group]`. Of a coded one: scales, and what is second.
    scales: [Option<Tensor>; 2],
    /// Row r is row `first + step · r` of so many rows of data: of a coded or transposed matrix that shares it with another.
    first: usize,
    step: usize,
    data_rows: usize,
    /// Whether data is `[cols, data_rows]`: row r is then element `first + step · r` of each of its rows.
    transposed: bool,
    exact: bool,
}

impl Matrix {
    /// A matrix of plain elements: `tensor` is `[rows, cols]` of F32, F16 or BF16.
    ///
    /// # Panics
    /// On any other shape or type; a loader has checked both against the file.
    pub fn dense(tensor: Tensor) -> Self {
        let format = Format::of(tensor.dtype()).unwrap_or_else(|| panic!("{} is no weight format", tensor.dtype()));
        assert_eq!(tensor.dims().len(), 2, "a matrix has two dimensions");
        let [rows, cols] = [tensor.dim(0), tensor.dim(1)];
        Matrix {
            format,
            rows,
            cols,
            data: tensor,
            scales: [None, None],
            first: 0,
            step: 1,
            data_rows: rows,
            transposed: false,
            exact: false,
        }
    }

    /// A matrix of plain elements whose columns lie one behind the other: `tensor` is `[cols, rows]` of F32, F16 or BF16. It is
    /// multiplied with activations in f32; products by head take none.
    ///
    /// # Panics
    /// As [`Matrix::dense`].
    pub fn transposed(tensor: Tensor) -> Self {
        let by_row = Matrix::dense(tensor);
        Matrix { rows: by_row.cols, cols: by_row.rows, data_rows: by_row.cols, transposed: true, ..by_row }
    }

    /// An affine-quantised matrix: `data` is U8 `[rows, cols · bits / 8]`, scales and biases are `[rows, cols / group]` of
    /// one type, F32, F16 or BF16.
    ///
    /// # Panics
    /// When the shapes do not fit each other; a loader has checked them against the file.
    pub fn affine(bits: usize, group: usize, data: Tensor, scales: Tensor, biases: Tensor) -> Self {
        let format = Format::affine(bits, group)
            .unwrap_or_else(|| panic!("no affine format of {bits} bits in groups of {group}"));
        let (rows, cols) = (scales.dim(0), scales.dim(1) * group);
        assert_eq!(data.dims(), [rows, format.row_bytes(cols)], "packed weights do not fit their scales");
        assert_eq!(data.dtype(), DType::U8, "packed weights are bytes");
        assert_eq!(scales.dims(), biases.dims(), "biases do not fit their scales");
        assert!(scales.dtype() == biases.dtype() && Format::of(scales.dtype()).is_some(), "scales are plain numbers");
        Matrix {
            format,
            rows,
            cols,
            data,
            scales: [Some(scales), Some(biases)],
            first: 0,
            step: 1,
            data_rows: rows,
            transposed: false,
            exact: false,
        }
    }

    /// A matrix of blocks: `data` is U8 `[rows, bytes of a row]`.
    ///
    /// # Panics
    /// When a row is no number of whole blocks; a loader has checked it against the file.
    pub fn ggml(blocks: GgmlType, data: Tensor) -> Self {
        assert_eq!(data.dtype(), DType::U8, "blocks are bytes");
        assert!(data.dim(1).is_multiple_of(blocks.block_bytes()), "a row of {blocks} is whole blocks");
        let (rows, cols) = (data.dim(0), data.dim(1) / blocks.block_bytes() * blocks.block_weights());
        let format = Format::Ggml(blocks);
        Matrix {
            format,
            rows,
            cols,
            data,
            scales: [None, None],
            first: 0,
            step: 1,
            data_rows: rows,
            transposed: false,
            exact: false,
        }
    }

    /// A matrix of codes: data, scales and what is second have the shapes of [`Coded::shapes`]; scales are F32, F16, BF16, or
    /// F8_E4M3 or F8_E8M0.
    ///
    /// # Panics
    /// When they have not; a loader has checked them against the file.
    pub fn coded(coded: Coded, [rows, cols]: [usize; 2], data: Tensor, scales: Tensor, second: Option<Tensor>) -> Self {
        assert!(coded.fits(rows, cols), "no {coded} of {rows}×{cols}");
        let dims = [Some(data.dims()), Some(scales.dims()), second.as_ref().map(Tensor::dims)];
        assert_eq!(dims, coded.shapes(rows, cols).each_ref().map(|shape| shape.as_ref().map(|dims| &dims[..])));
        assert_eq!(data.dtype(), DType::U8, "codes are bytes");
        assert_eq!(second.as_ref().map(Tensor::dtype), coded.second_type(), "what is second has its type");
        let is_scale = Format::of(scales.dtype()).is_some() || matches!(scales.dtype(), DType::F8E4m3 | DType::F8E8m0);
        assert!(is_scale, "scales are numbers");
        let format = Format::Coded(coded);
        Matrix {
            format,
            rows,
            cols,
            data,
            scales: [Some(scales), second],
            first: 0,
            step: 1,
            data_rows: rows,
            transposed: false,
            exact: false,
        }
    }

    /// Every other row of a coded or transposed matrix, from row `first` on, 0 or 1.
    ///
    /// # Panics
    /// For any other matrix, or an odd number of rows.
    pub fn every_other(self, first: usize) -> Self {
        assert!(self.shares_data() && self.step == 1 && first < 2 && self.rows.is_multiple_of(2));
        Matrix { rows: self.rows / 2, first, step: 2, ..self }
    }

    /// The rows of a range.
    ///
    /// # Panics
    /// When it has not so many.
    pub fn some_rows(&self, rows: Range<usize>) -> Self {
        assert!(rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        let some = Matrix { rows: rows.len(), first: self.first + self.step * rows.start, ..self.clone() };
        if self.shares_data() {
            return some;
        }
        let of = |tensor: &Tensor| tensor.rows(rows.clone());
        let scales = self.scales.each_ref().map(|scales| scales.as_ref().map(of));
        Matrix { data: of(&self.data), scales, first: 0, data_rows: rows.len(), ..some }
    }

    /// Whether some of its rows are seen through all of its data: scales may be of blocks of rows, and columns are of all rows.
    fn shares_data(&self) -> bool {
        self.transposed || matches!(self.format, Format::Coded(_))
    }

    /// The same matrix, multiplied with activations in f32 always: for the small ones whose outputs decide much, such as
    /// routers, gates and decays.
    pub fn exact(self) -> Self {
        Matrix { exact: true, ..self }
    }

    /// Whether activations are not to be rounded.
    pub fn is_exact(&self) -> bool {
        self.exact
    }

    /// Whether its columns lie one behind the other, not its rows.
    pub fn is_transposed(&self) -> bool {
        self.transposed
    }

    /// The columns of a transposed matrix.
    pub(crate) fn columns(&self) -> Option<Columns> {
        self.transposed.then_some(Columns { first: self.first, step: self.step, width: self.data_rows })
    }

    /// How its weights are stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Outputs of the linear map.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs of the linear map.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The stored weights, at any byte offset.
    pub fn data(&self) -> &Tensor {
        &self.data
    }

    /// Scales and biases of an affine-quantised matrix, each `[rows, cols / group]`; scales and what is second of a coded one
    /// (see [`Coded::shapes`]). At any byte offset.
    pub fn scales(&self) -> [Option<&Tensor>; 2] {
        self.scales.each_ref().map(Option::as_ref)
    }

    /// The rows of a coded matrix.
    pub(crate) fn coded_rows(&self) -> Option<coded::Rows<'_>> {
        let (Format::Coded(coded), [Some(scales), second]) = (self.format, &self.scales) else { return None };
        Some(coded::Rows {
            coded,
            data: host::bytes(&self.data),
            scales: host::bytes(scales),
            scale_type: scales.dtype(),
            second: second.as_ref().map_or(&[], host::bytes),
            shape: [self.data_rows, self.cols],
            first: self.first,
            step: self.step,
        })
    }

    /// Bytes as stored; of tensors shared with another matrix, its share.
    pub fn bytes(&self) -> usize {
        let all = self.data.bytes() + self.scales.iter().flatten().map(Tensor::bytes).sum::<usize>();
        (all as u128 * self.rows as u128 / self.data_rows.max(1) as u128) as usize
    }
}

/// How columns of a transposed matrix lie one behind the other: element r is element `first + step · r` of each `width`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns {
    pub first: usize,
    pub step: usize,
    pub width: usize,
}

/// The q of weight `index` in a row of affine-quantised weights.
pub fn affine_q(bits: usize, row: &[u8], index: usize) -> u8 {
    let (byte, shift) = (index * bits / 8, index * bits % 8);
    let next = row.get(byte + 1).copied().unwrap_or(0);
    let pair = u16::from_le_bytes([row[byte], next]);
    ((pair >> shift) & ((1 << bits) - 1)) as u8
}

/// The smallest scale that [`affine_pack`] gives, as in MLX.
const AFFINE_SCALE_MIN: f32 = 1e-7;

/// Quantises plain little-endian `values` of type `dtype`, whole groups of them, as MLX does on the CPU: q's are put behind
/// `packed`, and each group's scale and bias, rounded to `dtype`, behind `scales` and `biases`. The end of the group that
/// is farther from 0 is met exactly, and so is 0 where it lies between (mlx `backend/cpu/quantized.cpp`).
///
/// # Panics
/// When there are no such bits or group, or `values` are no plain numbers or no whole groups.
pub fn affine_pack(
    bits: usize,
    group: usize,
    dtype: DType,
    values: &[u8],
    [packed, scales, biases]: [&mut Vec<u8>; 3],
) {
    let format = Format::of(dtype).expect("values are plain numbers");
    assert!(Format::affine(bits, group).is_some(), "no affine format of {bits} bits in groups of {group}");
    assert!(values.len().is_multiple_of(group * dtype.bytes()), "whole groups are quantised");
    let last = ((1 << bits) - 1) as f32;
    let mut memory = [0.0; 128];
    let floats = &mut memory[..group];
    for values in values.chunks_exact(group * dtype.bytes()) {
        floats.iter_mut().enumerate().for_each(|(i, float)| *float = element(format, values, i));
        let least = floats.iter().copied().fold(f32::INFINITY, f32::min);
        let most = floats.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let step = ((most - least) / last).max(AFFINE_SCALE_MIN);
        let (edge, scale) = if least.abs() > most.abs() { (least, step) } else { (most, -step) };
        // The scale is changed a little, so that 0 is a multiple of it away from the edge.
        let q_of_0 = (edge / scale).round_ties_even();
        let (scale, bias) = if q_of_0 != 0.0 { (edge / q_of_0, edge) } else { (scale, 0.0) };
        pack_bits(bits, floats, |float| ((float - bias) / scale).max(0.0).min(last), packed);
        put(format, scale, scales);
        put(format, bias, biases);
    }
}

/// Appends the nearest whole numbers to what `q` gives, which is at least 0 and below 256, in `bits` bits each.
fn pack_bits(bits: usize, floats: &[f32], q: impl Fn(f32) -> f32, packed: &mut Vec<u8>) {
    /// Added to a number below 2^22, rounds it to a whole one, ties to even, that the lowest bits then hold.
    const ROUND: f32 = 8_388_608.0;
    for eight in floats.chunks_exact(8) {
        let mut word = 0;
        for (i, &float) in eight.iter().enumerate() {
            word |= u64::from((q(float) + ROUND).to_bits() & 0xff) << (i * bits);
        }
        packed.extend_from_slice(&word.to_le_bytes()[..bits]);
    }
}

/// Appends a number in a plain format.
fn put(format: Format, value: f32, bytes: &mut Vec<u8>) {
    match format {
        Format::F16 => bytes.extend_from_slice(&half::f16::from_f32(value).to_le_bytes()),
        Format::Bf16 => bytes.extend_from_slice(&half::bf16::from_f32(value).to_le_bytes()),
        _ => bytes.extend_from_slice(&value.to_le_bytes()),
    }
}

/// The value of element `index` of plain little-endian `bytes` in `format`, in f32. Exact for all three formats.
///
/// # Panics
/// For a quantised format, whose values need their scales.
pub fn element(format: Format, bytes: &[u8], index: usize) -> f32 {
    match format {
        Format::F32 => {
            let b = &bytes[4 * index..4 * index + 4];
            f32::from_le_bytes([b[0], b[1], b[2], b[3]])
        }
        Format::F16 => half::f16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).to_f32(),
        Format::Bf16 => half::bf16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).to_f32(),
        Format::Affine { .. } | Format::Ggml(_) | Format::Coded(_) => {
            panic!("a quantised weight has no value without its scale")
        }
    }
}

/// Element `index` of a plain tensor.
pub(crate) fn value(tensor: &Tensor, index: usize) -> f32 {
    let format = Format::of(tensor.dtype()).expect("plain weights are F32, F16 or BF16");
    element(format, host::bytes(tensor), index)
}

/// Values of a block of [`DType::Q8`].
pub const Q8_BLOCK: usize = 32;
/// Bytes of one: a scale of binary16, then the values divided by it, one signed byte each.
pub const Q8_BLOCK_BYTES: usize = 2 + Q8_BLOCK;

/// Stores values as [`DType::Q8`], block by block: the scale is a 127th of the largest value's size, rounded to binary16;
/// quotients are rounded to the nearest, halves away from zero. Values are multiples of [`Q8_BLOCK`].
pub fn q8_pack(values: &[f32], to: &mut [u8]) {
    assert_eq!(values.len() / Q8_BLOCK * Q8_BLOCK_BYTES, to.len(), "whole blocks are packed");
    for (values, to) in values.chunks_exact(Q8_BLOCK).zip(to.chunks_exact_mut(Q8_BLOCK_BYTES)) {
        let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let scale = half::f16::from_f32(largest / 127.0);
        to[..2].copy_from_slice(&scale.to_le_bytes());
        let scale = scale.to_f32();
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for (value, to) in values.iter().zip(&mut to[2..]) {
            *to = (value * inverse).round().clamp(-127.0, 127.0) as i8 as u8;
        }
    }
}

/// Reads back what [`q8_pack`] stored.
pub fn q8_unpack(from: &[u8], values: &mut [f32]) {
    assert_eq!(values.len() / Q8_BLOCK * Q8_BLOCK_BYTES, from.len(), "whole blocks are unpacked");
    for (from, values) in from.chunks_exact(Q8_BLOCK_BYTES).zip(values.chunks_exact_mut(Q8_BLOCK)) {
        let scale = half::f16::from_le_bytes([from[0], from[1]]).to_f32();
        for (&from, value) in from[2..].iter().zip(values) {
            *value = scale * f32::from(from as i8);
        }
    }
}

/// All of some plain values, as [`element`] gives each.
fn plain(format: Format, bytes: &[u8], values: &mut [f32]) {
    match format {
        Format::Bf16 => {
            let pairs = bytes.as_chunks::<2>().0.iter().zip(values);
            pairs.for_each(|(&bytes, value)| *value = half::bf16::from_le_bytes(bytes).to_f32());
        }
        _ => values.iter_mut().enumerate().for_each(|(i, value)| *value = element(format, bytes, i)),
    }
}

/// Row `row` of a matrix in f32. Of a quantised one, `scale · q + bias`, rounded after the product and after the sum.
pub(crate) fn dequantise(w: &Matrix, row: usize, values: &mut [f32]) {
    assert!(row < w.rows && values.len() == w.cols, "a row of {} weights, below {}", w.cols, w.rows);
    if let Some(rows) = w.coded_rows() {
        return rows.dequantise(row, values, coded::widen_e4m3);
    }
    if let Some(Columns { first, step, width }) = w.columns() {
        let (bytes, at) = (host::bytes(&w.data), first + step * row);
        return values.iter_mut().enumerate().for_each(|(i, value)| *value = element(w.format, bytes, i * width + at));
    }
    let row_bytes = w.format.row_bytes(w.cols);
    let bytes = &host::bytes(&w.data)[row * row_bytes..][..row_bytes];
    if let Format::Ggml(blocks) = w.format {
        return blocks.dequantise(bytes, values);
    }
    let (Format::Affine { bits, group }, [Some(scales), Some(biases)]) = (w.format, &w.scales) else {
        return plain(w.format, bytes, values);
    };
    let (bits, group) = (usize::from(bits), usize::from(group));
    let format = Format::of(scales.dtype()).expect("scales are plain numbers");
    let (scales, biases, groups) = (host::bytes(scales), host::bytes(biases), w.cols / group);
    for (g, values) in values.chunks_exact_mut(group).enumerate() {
        let at = row * groups + g;
        let (scale, bias) = (element(format, scales, at), element(format, biases, at));
        for (i, value) in values.iter_mut().enumerate() {
            *value = scale * f32::from(affine_q(bits, bytes, g * group + i)) + bias;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q8_is_within_half_a_step_of_the_value() {
        let mut values: Vec<f32> = (0..96).map(|i| ((i * i * 37 + 11 * i) % 201) as f32 / 50.0 - 2.0).collect();
        values[40] = 1000.0;
        values[64..].fill(0.0);
        let mut packed = vec![0xff; 3 * Q8_BLOCK_BYTES];
        q8_pack(&values, &mut packed);
        let mut unpacked = vec![f32::NAN; 96];
        q8_unpack(&packed, &mut unpacked);
        for (block, (values, unpacked)) in values.chunks(32).zip(unpacked.chunks(32)).enumerate() {
            let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            for (value, unpacked) in values.iter().zip(unpacked) {
                // Half a step, and what rounding the scale to 11 bits adds to the largest value.
                let off = (value - unpacked).abs();
                assert!(off <= largest * (0.5 / 127.0 + 1.0 / 2048.0), "block {block}: {unpacked} for {value}");
            }
        }
        assert_eq!(unpacked[64..], [0.0; 32]);
    }
}
