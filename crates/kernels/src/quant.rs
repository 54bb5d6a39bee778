//! Weight formats: how a matrix is stored, and what it is worth in f32.

use crate::tensor::{DType, Tensor};

/// How the elements of a weight matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One IEEE binary32 a weight.
    F32,
    /// One IEEE binary16 a weight.
    F16,
    /// One bfloat16 a weight.
    Bf16,
}

impl Format {
    /// The format of plain elements of this type, if weights may be stored so.
    pub fn of(dtype: DType) -> Option<Format> {
        match dtype {
            DType::F32 => Some(Format::F32),
            DType::F16 => Some(Format::F16),
            DType::Bf16 => Some(Format::Bf16),
            DType::I32 | DType::U8 => None,
        }
    }

    /// Bytes of one row of `cols` weights.
    pub const fn row_bytes(self, cols: usize) -> usize {
        match self {
            Format::F32 => 4 * cols,
            Format::F16 | Format::Bf16 => 2 * cols,
        }
    }
}

/// A weight matrix `[rows, cols]` in some [`Format`], row-major: row `r` makes output `r` of a linear map.
#[derive(Clone, Debug)]
pub struct Matrix {
    format: Format,
    rows: usize,
    cols: usize,
    data: Tensor,
}

impl Matrix {
    /// A matrix of plain elements: `tensor` is `[rows, cols]` of F32, F16 or BF16.
    ///
    /// # Panics
    /// On any other shape or type; a loader has checked both against the file.
    pub fn dense(tensor: Tensor) -> Self {
        let format = Format::of(tensor.dtype()).unwrap_or_else(|| panic!("{} is no weight format", tensor.dtype()));
        assert_eq!(tensor.dims().len(), 2, "a matrix has two dimensions");
        Matrix { format, rows: tensor.dim(0), cols: tensor.dim(1), data: tensor }
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

    /// The stored bytes, at any byte offset.
    pub fn data(&self) -> &Tensor {
        &self.data
    }

    /// Bytes as stored.
    pub fn bytes(&self) -> usize {
        self.data.bytes()
    }
}

/// The value of element `index` of plain little-endian `bytes` in `format`, in f32. Exact for all three formats.
pub fn element(format: Format, bytes: &[u8], index: usize) -> f32 {
    match format {
        Format::F32 => {
            let b = &bytes[4 * index..4 * index + 4];
            f32::from_le_bytes([b[0], b[1], b[2], b[3]])
        }
        Format::F16 => half::f16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).to_f32(),
        Format::Bf16 => half::bf16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).to_f32(),
    }
}
