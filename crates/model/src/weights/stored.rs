//! How a matrix lies on disk: plain, in the blocks of GGUF files, affine-quantised as MLX writes it (`X.weight` packed into
//! U32, `X.scales`, `X.biases`), or in codes (see [`coded`]).

use std::fmt;

use outpour_kernels::{DType, Format, GgmlType, Matrix, Tensor};
use outpour_store::checkpoint::{Checkpoint, StoredType};

use super::coded::{self, Scheme};
use super::{fits, missing, plain, resolve, said, wrong_shape, wrong_type};
use crate::config::ModelError;

/// A matrix's shape and storage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StoredMatrix {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// How its weights are stored.
    pub format: Format,
    /// Element type of a plain matrix, or of a quantised one's scales where they are tensors of their own.
    pub dtype: DType,
    /// What the tensors of a matrix of codes are called.
    pub scheme: Option<&'static Scheme>,
    /// Whether columns of a plain one lie behind each other, not rows.
    pub transposed: bool,
}

impl fmt::Display for StoredMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.format {
            Format::Affine { bits, group } => {
                write!(f, "MLX affine of {bits} bits in groups of {group} with {} scales", self.dtype)
            }
            Format::Ggml(blocks) => blocks.fmt(f),
            Format::Coded(coded) => {
                let known = coded::KNOWN.iter().find(|(_, code, group, scales)| {
                    (coded.code, coded.block, self.dtype) == (*code, [1, *group], *scales)
                });
                match known {
                    Some((name, ..)) => write!(f, "{name} ({coded} with {} scales)", self.dtype),
                    None => write!(f, "{coded} with {} scales", self.dtype),
                }
            }
            _ => self.dtype.fmt(f),
        }
    }
}

impl StoredMatrix {
    /// Whether there is a matrix of this name, in whatever form.
    pub fn is_there(checkpoint: &Checkpoint, name: &str) -> bool {
        resolve(checkpoint, name).is_some() || coded::schemes(checkpoint, name).next().is_some()
    }

    /// Whether a matrix of gate and up has their rows by turns.
    pub fn alternates(checkpoint: &Checkpoint, name: &str) -> bool {
        coded::schemes(checkpoint, name).any(|scheme| scheme.alternates)
    }

    /// How the matrix `name`, `[rows, cols]` behind the dimensions `stack`, is stored.
    ///
    /// # Errors
    /// When it is missing, or has another shape or a type that is not supported.
    pub fn find(
        checkpoint: &Checkpoint,
        name: &str,
        stack: &[usize],
        rows: usize,
        cols: usize,
    ) -> Result<Self, ModelError> {
        if let Some(stored) = coded::find(checkpoint, name, stack, rows, cols)? {
            return Ok(stored);
        }
        let (on_disk, info) = resolve(checkpoint, name).ok_or_else(|| missing(checkpoint, name))?;
        let path = checkpoint.files()[info.file].path();
        let shape = |last: usize| [stack, &[rows, last]].concat();
        let dtype = plain(&info.dtype).or(blocks(&info.dtype).map(|_| DType::U8));
        if let Some(dtype) = dtype {
            let format = Format::of(dtype).or(blocks(&info.dtype).map(Format::Ggml));
            let format = format.expect("invariant: plain types and blocks are formats");
            let stored = StoredMatrix { rows, cols, format, dtype, scheme: None, transposed: false };
            return if fits(checkpoint, &info.shape, &shape(cols)) {
                Ok(stored)
            } else {
                Err(wrong_shape(checkpoint, path, &on_disk, &info.shape, &shape(cols)))
            };
        }
        let scales = role(name, "scales").and_then(|scales| resolve(checkpoint, &scales));
        let biases = role(name, "biases").and_then(|biases| resolve(checkpoint, &biases));
        let (StoredType::U32, Some((scales_name, scales)), Some((biases_name, biases))) = (&info.dtype, scales, biases)
        else {
            return Err(wrong_type(checkpoint, path, &on_disk, &info.dtype));
        };
        let Some(dtype) = plain(&scales.dtype) else {
            return Err(wrong_type(checkpoint, path, &scales_name, &scales.dtype));
        };
        // The packed width gives the bits, the number of scales the group.
        let (packed, groups) = (info.shape.last().copied().unwrap_or(0), scales.shape.last().copied().unwrap_or(0));
        let (bits, group) = ((32 * packed).checked_div(cols).unwrap_or(0), cols.checked_div(groups).unwrap_or(0));
        let fits = bits * cols == 32 * packed && group * groups == cols;
        let Some(format) = Format::affine(bits, group).filter(|_| fits) else {
            return Err(wrong_shape(checkpoint, path, &on_disk, &info.shape, &shape(cols)));
        };
        for (name, shape_on_disk, last) in [
            (&on_disk, &info.shape, packed),
            (&scales_name, &scales.shape, groups),
            (&biases_name, &biases.shape, groups),
        ] {
            if *shape_on_disk != shape(last) {
                return Err(wrong_shape(checkpoint, path, name, shape_on_disk, &shape(last)));
            }
        }
        if biases.dtype != scales.dtype {
            return Err(wrong_type(checkpoint, path, &biases_name, &biases.dtype));
        }
        said::check_mlx(checkpoint, &on_disk, said::Mlx { mode: "affine", bits, group })?;
        Ok(StoredMatrix { rows, cols, format, dtype, scheme: None, transposed: false })
    }

    /// The same of a plain matrix that is stored as `[cols, rows]`.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn find_transposed(
        checkpoint: &Checkpoint,
        name: &str,
        stack: &[usize],
        rows: usize,
        cols: usize,
    ) -> Result<Self, ModelError> {
        let stored = StoredMatrix::find(checkpoint, name, stack, cols, rows)?;
        if !stored.format.is_plain() {
            return Err(ModelError::Tensor(format!(
                "tensor {name} is stored as {stored} with its columns first; supported so are BF16, F16 and F32"
            )));
        }
        Ok(StoredMatrix { rows, cols, transposed: true, ..stored })
    }

    /// Shape and type of its tensors, as the operations see them: weights, or packed weights, scales and biases or what else is
    /// second.
    pub fn views(&self) -> impl Iterator<Item = ([usize; 2], DType)> + use<> {
        let [weights, scales, second] = match self.format {
            Format::Affine { group, .. } => {
                let scales = Some(([self.rows, self.cols / group as usize], self.dtype));
                [Some(([self.rows, self.format.row_bytes(self.cols)], DType::U8)), scales, scales]
            }
            Format::Ggml(_) => [Some(([self.rows, self.format.row_bytes(self.cols)], DType::U8)), None, None],
            Format::Coded(coded) => {
                let [data, scales, second] = coded.shapes(self.rows, self.cols);
                [data.zip(Some(DType::U8)), scales.zip(Some(self.dtype)), second.zip(coded.second_type())]
            }
            _ if self.transposed => [Some(([self.cols, self.rows], self.dtype)), None, None],
            _ => [Some(([self.rows, self.cols], self.dtype)), None, None],
        };
        [weights, scales, second].into_iter().flatten().take(if self.rows == 0 { 0 } else { 3 })
    }

    /// Names of its tensors, given that of its weights.
    pub fn names(&self, weight: &str) -> impl Iterator<Item = String> {
        let (scheme, weight) = (self.scheme, weight.to_owned());
        (0..self.parts()).map(move |part| match (scheme, part) {
            (Some(scheme), _) => scheme.part(&weight, part).unwrap_or_default(),
            (None, 0) => weight.clone(),
            (None, _) => role(&weight, ["scales", "biases"][part - 1]).unwrap_or_default(),
        })
    }

    /// Types of its tensors in files.
    pub fn types(&self) -> impl Iterator<Item = &'static str> + use<> {
        let plain = match self.dtype {
            DType::F32 => "F32",
            DType::F16 => "F16",
            _ => "BF16",
        };
        let types = match (self.scheme, self.format) {
            (Some(scheme), _) => scheme.types(self.dtype),
            (None, Format::Affine { .. }) => ["U32", plain, plain],
            (None, _) => [plain; 3],
        };
        types.into_iter().take(self.parts())
    }

    /// Bytes of each of its tensors.
    pub fn part_bytes(&self) -> impl Iterator<Item = usize> + use<> {
        self.views().map(|([rows, cols], dtype)| rows * cols * dtype.bytes())
    }

    /// Its bytes, as stored.
    pub fn bytes(&self) -> usize {
        self.part_bytes().sum()
    }

    /// Number of its tensors; none of a matrix that is not there, and has no rows.
    pub fn parts(&self) -> usize {
        self.views().count()
    }

    /// Its first `rows` rows by themselves, where those of several matrices lie behind each other; `None` where they share what
    /// cannot be shared.
    pub fn first_rows(self, rows: usize) -> Option<Self> {
        let part = StoredMatrix { rows, ..self };
        let (whole, parts) = (self.rows / rows, part.part_bytes());
        let divides = parts.zip(self.part_bytes()).all(|(part, all)| whole * part == all);
        let by_rows = !self.transposed && !matches!(self.format, Format::Coded(coded) if coded.is_transposed());
        (whole == 1 || divides && by_rows).then_some(part)
    }

    /// The handle over its tensors, which have the shapes and types that [`Self::views`] gives.
    pub fn matrix(&self, parts: [Option<Tensor>; 3]) -> Matrix {
        match (self.format, parts) {
            (Format::Affine { bits, group }, [Some(data), Some(scales), Some(biases)]) => {
                Matrix::affine(bits as usize, group as usize, data, scales, biases)
            }
            (Format::Coded(coded), [Some(data), Some(scales), second]) => {
                Matrix::coded(coded, [self.rows, self.cols], data, scales, second)
            }
            (Format::Ggml(blocks), [Some(data), ..]) => Matrix::ggml(blocks, data),
            (_, [Some(data), ..]) if self.transposed => Matrix::transposed(data),
            (_, [Some(data), ..]) => Matrix::dense(data),
            (_, [None, ..]) => unreachable!("invariant: a matrix has weights"),
        }
    }
}

/// The blocks of a stored type, where there are products with them.
fn blocks(dtype: &StoredType) -> Option<GgmlType> {
    let StoredType::Blocks(stored) = dtype else { return None };
    let blocks = GgmlType::named(stored.name)?;
    let size = (blocks.block_weights(), blocks.block_bytes());
    assert_eq!(size, (stored.weights, stored.bytes), "invariant: {blocks} is one type for files and products");
    Some(blocks)
}

/// The name of an affine-quantised matrix's scales or biases.
fn role(weight: &str, kind: &str) -> Option<String> {
    weight.strip_suffix(".weight").map(|stem| format!("{stem}.{kind}"))
}
