//! How files hold matrices of codes with scales of their own: a table of what their tensors are called, and of what type each
//! is. A format more is a row more.

use outpour_kernels::quant::coded::WHOLE;
use outpour_kernels::{Code, Coded, DType, Format, Second};
use outpour_store::checkpoint::{Checkpoint, TensorInfo};
use serde_json::Value;

use super::resolve;
use super::said;
use super::stored::StoredMatrix;
use super::vendor;
use crate::config::ModelError;

/// One way to hold a matrix.
#[derive(Debug, PartialEq)]
pub struct Scheme {
    /// What names of its tensors end in, behind that of the module: weights, scales, and what is second.
    pub parts: [&'static str; 3],
    /// Type of the weights.
    pub data: &'static str,
    /// Types of the scales, the usual one first, and what they stand for.
    scales: &'static [(&'static str, DType)],
    code: Code,
    blocks: Blocks,
    second: Second,
    /// Whether rows of gate and up alternate where one tensor holds both.
    pub alternates: bool,
    /// The formats of `synth` that hold matrices so.
    made: &'static [Made],
}

/// A format of `synth`.
#[derive(Debug, PartialEq)]
struct Made {
    name: &'static str,
    of: MadeOf,
    /// Weights that share a scale: of a row, or of as many rows and columns.
    group: u32,
    scales: DType,
}

/// Which matrices of a model a format holds so.
#[derive(Debug, PartialEq)]
enum MadeOf {
    All,
    Experts,
    /// What is no expert.
    Trunk,
}

impl Made {
    const fn all(name: &'static str, group: u32, scales: DType) -> Made {
        Made { name, of: MadeOf::All, group, scales }
    }

    const fn experts(name: &'static str, group: u32, scales: DType) -> Made {
        Made { name, of: MadeOf::Experts, group, scales }
    }

    fn is_of(&self, expert: bool) -> bool {
        self.of == MadeOf::All || (self.of == MadeOf::Experts) == expert
    }
}

/// Which weights share a scale.
#[derive(Debug, PartialEq)]
enum Blocks {
    /// One of these, by the scales' shape.
    Of(&'static [[u32; 2]]),
    /// Those that config.json says, or where it says none 128×128, or all of a matrix.
    Config,
    /// A row's, so many as the number of scales says.
    Groups,
}

const NUMBERS: &[(&str, DType)] = &[("BF16", DType::Bf16), ("F16", DType::F16), ("F32", DType::F32)];
const HALVES: &[(&str, DType)] = &[("F16", DType::F16), ("BF16", DType::Bf16), ("F32", DType::F32)];
const FP8_SCALES: &[(&str, DType)] =
    &[("F32", DType::F32), ("F16", DType::F16), ("BF16", DType::Bf16), ("F8_E8M0", DType::F8E8m0)];
const POWERS: &[(&str, DType)] = &[("U8", DType::F8E8m0), ("F8_E8M0", DType::F8E8m0)];
const FP8: &[(&str, DType)] = &[("F8_E4M3", DType::F8E4m3)];

/// What people call a code in groups of a row, with scales of such a type.
pub const KNOWN: [(&str, Code, u32, DType); 3] = [
    ("MXFP4", Code::E2m1, 32, DType::F8E8m0),
    ("NVFP4", Code::E2m1, 16, DType::F8E4m3),
    ("MXFP8", Code::E4m3, 32, DType::F8E8m0),
];

/// What is supported, for people.
pub const SUPPORTED: &str = "MLX's quantisations, FP8 E4M3 with scales, MXFP4, NVFP4, compressed-tensors' int4 and int8, GPTQ, AWQ and Quark's uint4 of four bits";

/// All of them; the first whose tensors are there and of its types is taken.
static SCHEMES: &[Scheme] = &[
    // DeepSeek-V3's FP8, and transformers' `fp8`.
    Scheme {
        parts: [".weight", ".weight_scale_inv", ""],
        scales: FP8_SCALES,
        blocks: Blocks::Config,
        made: &[Made::all("fp8", 128, DType::F32), Made::all("fp8-e8m0", 128, DType::F8E8m0)],
        ..Scheme::of("F8_E4M3", Code::E4m3)
    },
    // compressed-tensors' `nvfp4-pack-quantized` and `mxfp4-pack-quantized`.
    Scheme {
        parts: [".weight_packed", ".weight_scale", ".weight_global_scale"],
        scales: FP8,
        blocks: Blocks::Of(&[[1, 16]]),
        second: Second::Over,
        made: &[Made::all("ct-nvfp4", 16, DType::F8E4m3)],
        ..Scheme::of("U8", Code::E2m1)
    },
    Scheme {
        parts: [".weight_packed", ".weight_scale", ""],
        scales: POWERS,
        blocks: Blocks::Of(&[[1, 32]]),
        made: &[Made::all("ct-mxfp4", 32, DType::F8E8m0), Made::experts("mxfp4", 32, DType::F8E8m0)],
        ..Scheme::of("U8", Code::E2m1)
    },
    // Quark's MXFP4.
    Scheme {
        parts: [".weight", ".weight_scale", ""],
        scales: POWERS,
        blocks: Blocks::Of(&[[1, 32]]),
        ..Scheme::of("U8", Code::E2m1)
    },
    // modelopt's NVFP4.
    Scheme {
        parts: [".weight", ".weight_scale", ".weight_scale_2"],
        scales: FP8,
        blocks: Blocks::Of(&[[1, 16]]),
        second: Second::Times,
        made: &[Made::experts("nvfp4", 16, DType::F8E4m3)],
        ..Scheme::of("U8", Code::E2m1)
    },
    // FP8 of compressed-tensors (`float-quantized`, `mxfp8-quantized`) and modelopt.
    Scheme {
        parts: [".weight", ".weight_scale", ""],
        scales: FP8_SCALES,
        blocks: Blocks::Of(&[[1, WHOLE], [WHOLE, WHOLE], [128, 128], [1, 32]]),
        made: &[Made::all("fp8-row", WHOLE, DType::F32)],
        ..Scheme::of("F8_E4M3", Code::E4m3)
    },
    Scheme {
        parts: [".weight", ".weight_scale", ""],
        scales: POWERS,
        blocks: Blocks::Of(&[[1, 32]]),
        made: &[Made::all("ct-mxfp8", 32, DType::F8E8m0)],
        ..Scheme::of("F8_E4M3", Code::E4m3)
    },
    // compressed-tensors' `pack-quantized`, in four bits or eight.
    Scheme {
        parts: [".weight_packed", ".weight_scale", ".weight_zero_point"],
        second: Second::Zeros,
        ..Scheme::of("I32", Code::Int4)
    },
    Scheme {
        parts: [".weight_packed", ".weight_scale", ""],
        made: &[Made::experts("int4", 32, DType::Bf16)],
        ..Scheme::of("I32", Code::Int4)
    },
    Scheme { parts: [".weight_packed", ".weight_scale", ""], ..Scheme::of("I32", Code::Int8) },
    // Its `int-quantized`: a value of any number of bits is a byte.
    Scheme {
        parts: [".weight", ".weight_scale", ""],
        made: &[Made::all("int8", WHOLE, DType::Bf16)],
        ..Scheme::of("I8", Code::Signed8)
    },
    Scheme {
        parts: [".weight", ".weight_scale", ""],
        blocks: Blocks::Of(&[[WHOLE, WHOLE]]),
        ..Scheme::of("I8", Code::Signed8)
    },
    Scheme {
        parts: [".qweight", ".scales", ".qzeros"],
        scales: HALVES,
        second: Second::ZerosLessOne,
        made: &[Made::all("gptq", 128, DType::F16)],
        ..Scheme::of("I32", Code::Gptq)
    },
    Scheme {
        parts: [".qweight", ".scales", ".qzeros"],
        scales: HALVES,
        second: Second::Zeros,
        made: &[Made::all("gptq_v2", 128, DType::F16)],
        ..Scheme::of("I32", Code::Gptq)
    },
    Scheme {
        parts: [".qweight", ".scales", ".qzeros"],
        scales: HALVES,
        second: Second::Zeros,
        made: &[Made::all("awq", 128, DType::F16)],
        ..Scheme::of("I32", Code::Awq)
    },
    // Quark's uint4 in groups: AWQ's words under other names.
    Scheme {
        parts: [".weight", ".weight_scale", ".weight_zero_point"],
        second: Second::Zeros,
        ..Scheme::of("I32", Code::Awq)
    },
    // gpt-oss.
    Scheme {
        parts: ["_blocks", "_scales", ""],
        scales: POWERS,
        blocks: Blocks::Of(&[[1, 32]]),
        alternates: true,
        made: &[Made::experts("mxfp4", 32, DType::F8E8m0)],
        ..Scheme::of("U8", Code::E2m1)
    },
    // MLX's modes `mxfp4`, `nvfp4` and `mxfp8`.
    Scheme {
        parts: [".weight", ".scales", ""],
        scales: POWERS,
        blocks: Blocks::Of(&[[1, 32]]),
        made: &[Made::all("mlx-mxfp4", 32, DType::F8E8m0)],
        ..Scheme::of("U32", Code::E2m1)
    },
    Scheme {
        parts: [".weight", ".scales", ""],
        scales: &[("U8", DType::F8E4m3)],
        blocks: Blocks::Of(&[[1, 16]]),
        made: &[Made::all("mlx-nvfp4", 16, DType::F8E4m3)],
        ..Scheme::of("U32", Code::E2m1)
    },
    Scheme {
        parts: [".weight", ".scales", ""],
        scales: POWERS,
        blocks: Blocks::Of(&[[1, 32]]),
        made: &[Made::all("mlx-mxfp8", 32, DType::F8E8m0)],
        ..Scheme::of("U32", Code::E4m3)
    },
    // DeepSeek-V4's: experts in four bits, the rest in FP8.
    Scheme {
        parts: [".weight", ".scale", ""],
        scales: &[("F8_E8M0", DType::F8E8m0), ("U8", DType::F8E8m0)],
        blocks: Blocks::Of(&[[1, 32]]),
        made: &[Made::experts("deepseek-v4", 32, DType::F8E8m0)],
        ..Scheme::of("I8", Code::E2m1)
    },
    Scheme {
        parts: [".weight", ".scale", ""],
        scales: FP8_SCALES,
        blocks: Blocks::Config,
        made: &[Made { name: "deepseek-v4", of: MadeOf::Trunk, group: 128, scales: DType::F8E8m0 }],
        ..Scheme::of("F8_E4M3", Code::E4m3)
    },
];

impl Scheme {
    /// Codes in words of this type, in groups of a row with a number each.
    const fn of(data: &'static str, code: Code) -> Scheme {
        let (parts, blocks, second) = ([""; 3], Blocks::Groups, Second::None);
        Scheme { parts, data, scales: NUMBERS, code, blocks, second, alternates: false, made: &[] }
    }

    /// The name of a part of the matrix `name`, which ends in `.weight`, or is that of stacked experts and does not.
    pub fn part(&self, name: &str, part: usize) -> Option<String> {
        let suffix = self.parts[part];
        match (name.strip_suffix(".weight"), suffix.strip_prefix(".weight")) {
            (Some(module), _) if suffix.starts_with('.') => Some(format!("{module}{suffix}")),
            (None, Some(suffix)) => Some(format!("{name}{suffix}")),
            (None, None) if suffix.starts_with('_') => Some(format!("{name}{suffix}")),
            _ => None,
        }
    }

    /// Types of its tensors in files, where scales are of this type.
    pub fn types(&self, scales: DType) -> [&'static str; 3] {
        let scales = self.scales.iter().find(|(_, dtype)| *dtype == scales).map_or("", |(name, _)| name);
        [self.data, scales, if matches!(self.second, Second::Times | Second::Over) { "F32" } else { "I32" }]
    }

    /// Its tensors, if all are there and the weights have its type.
    fn tensors<'c>(&self, checkpoint: &'c Checkpoint, name: &str) -> Option<Vec<(String, &'c TensorInfo)>> {
        let parts = (0..3).filter(|&part| !self.parts[part].is_empty());
        let tensors = parts.map(|part| resolve(checkpoint, &self.part(name, part)?)).collect::<Option<Vec<_>>>()?;
        (tensors[0].1.dtype.to_string() == self.data && self.scale_type(tensors[1].1).is_some()).then_some(tensors)
    }

    fn scale_type(&self, scales: &TensorInfo) -> Option<DType> {
        let name = scales.dtype.to_string();
        self.scales.iter().find(|(stored, _)| *stored == name).map(|(_, dtype)| *dtype)
    }

    /// How a matrix of these tensors is stored, or the first part that does not fit, and the shape it should have.
    fn stored(
        &'static self,
        config: &Value,
        tensors: &[(String, &TensorInfo)],
        stack: &[usize],
        rows: usize,
        cols: usize,
    ) -> Result<StoredMatrix, (usize, [usize; 2])> {
        let dtype = self.scale_type(tensors[1].1).expect("invariant: a scheme's scales have a type of its own");
        let mut misfit = None;
        for coded in self.coded(config, cols, tensors[1].1).into_iter().filter(|coded| coded.fits(rows, cols)) {
            let stored =
                StoredMatrix { rows, cols, format: Format::Coded(coded), dtype, scheme: Some(self), transposed: false };
            let shapes = tensors.iter().zip(stored.views()).map(|((_, info), ([rows, cols], dtype))| {
                // Weights are bytes to us, and may be words in the file.
                let element = info.bytes as usize / info.shape.iter().product::<usize>().max(1);
                (info, [rows, cols * dtype.bytes() / element.max(1)])
            });
            match shapes.enumerate().find(|(_, (info, shape))| !fits(&info.shape, stack, *shape)) {
                None => return Ok(stored),
                Some((part, (_, shape))) => misfit = misfit.or(Some((part, shape))),
            }
        }
        Err(misfit.unwrap_or((0, [rows, cols])))
    }

    /// Ways in which the weights may be coded, of which the scales' shape tells one.
    fn coded(&self, config: &Value, cols: usize, scales: &TensorInfo) -> Vec<Coded> {
        let coded = |block| Coded { code: self.code, block, second: self.second };
        // Where both are possible, the config tells.
        let less_one = !vendor::zeros_as_they_are(config);
        if self.code == Code::Gptq && less_one != (self.second == Second::ZerosLessOne) {
            return Vec::new();
        }
        match self.blocks {
            Blocks::Of(blocks) => {
                // A group of one row is never cut off.
                let whole =
                    |[down, across]: &[u32; 2]| *down > 1 || *across == WHOLE || cols.is_multiple_of(*across as usize);
                blocks.iter().copied().filter(whole).map(coded).collect()
            }
            Blocks::Config => {
                let sizes = &config["weight_block_size"];
                let size = |i: usize| sizes[i].as_u64().and_then(|size| u32::try_from(size).ok()).unwrap_or(0);
                match sizes.is_null() {
                    true => vec![coded([128, 128]), coded([WHOLE, WHOLE])],
                    false => vec![coded([size(0), size(1)])],
                }
            }
            Blocks::Groups => {
                // One of each row may be a list of rows.
                let across = match (coded([1, 1]).is_transposed(), scales.shape.len()) {
                    (true, _) => scales.shape.iter().nth_back(1),
                    (false, 1) => None,
                    (false, _) => scales.shape.last(),
                };
                let across = across.copied().unwrap_or(1).max(1);
                let group = if across == 1 { WHOLE } else { u32::try_from(cols / across).unwrap_or(0) };
                vec![coded([1, group])]
            }
        }
    }
}

/// Bytes of an element of a type that a header names.
pub fn element_bytes(dtype: &str) -> usize {
    match dtype {
        "U8" | "I8" | "F8_E4M3" | "F8_E8M0" => 1,
        "BF16" | "F16" => 2,
        "I64" => 8,
        _ => 4,
    }
}

/// Names of the formats that `synth` makes.
pub fn made() -> impl Iterator<Item = &'static str> {
    let all = SCHEMES.iter().filter(|scheme| !scheme.alternates).flat_map(|scheme| scheme.made);
    all.filter(|made| made.of != MadeOf::Trunk).map(|made| made.name)
}

/// How a matrix is stored in one of them, of an `expert` or another one; `None` where it is not. With `alternate`, in the form in which
/// rows of gate and up alternate, where there is one.
pub fn as_made(name: &str, expert: bool, alternate: bool, rows: usize, cols: usize) -> Option<StoredMatrix> {
    let in_scheme = |scheme: &'static Scheme| {
        let mut all = scheme.made.iter().filter(|made| made.name == name && made.is_of(expert));
        all.next().map(|made| (scheme, made))
    };
    let (scheme, made) =
        SCHEMES.iter().filter_map(in_scheme).min_by_key(|(scheme, _)| scheme.alternates != alternate)?;
    let down = if scheme.blocks == Blocks::Config { made.group } else { 1 };
    let coded = Coded { code: scheme.code, block: [down, made.group], second: scheme.second };
    // Blocks of several rows may be cut off.
    let whole = down > 1 || made.group == WHOLE || cols.is_multiple_of(made.group as usize);
    (whole && coded.fits(rows, cols)).then_some(StoredMatrix {
        rows,
        cols,
        format: Format::Coded(coded),
        dtype: made.scales,
        scheme: Some(scheme),
        transposed: false,
    })
}

/// Names of what would be scales of a tensor of codes of this type, whose own name ends in `.weight`.
pub fn scales_beside(name: &str, dtype: &str) -> Vec<String> {
    let schemes = SCHEMES.iter().filter(|scheme| scheme.data == dtype && scheme.parts[0] == ".weight");
    let mut names: Vec<String> = schemes.filter_map(|scheme| scheme.part(name, 1)).collect();
    names.dedup();
    names
}

/// Schemes of which there is a coded matrix of this name: their shapes tell which it is.
pub fn schemes(checkpoint: &Checkpoint, name: &str) -> impl Iterator<Item = &'static Scheme> {
    SCHEMES.iter().filter(|scheme| scheme.tensors(checkpoint, name).is_some())
}

/// How the coded matrix `name`, `[rows, cols]` behind the dimensions `stack`, is stored; `None` if it is none.
///
/// # Errors
/// When its tensors have other shapes, or config.json says what is not supported.
pub fn find(
    checkpoint: &Checkpoint,
    name: &str,
    stack: &[usize],
    rows: usize,
    cols: usize,
) -> Result<Option<StoredMatrix>, ModelError> {
    let config = said::settings(checkpoint).said;
    let mut misfit = None;
    for scheme in schemes(checkpoint, name) {
        let tensors = scheme.tensors(checkpoint, name).expect("invariant: a scheme of this name");
        if scheme.blocks == Blocks::Config {
            said::check_block_size(checkpoint, name)?;
        }
        match scheme.stored(config, &tensors, stack, rows, cols) {
            Ok(stored) => {
                said::check(checkpoint, name, &tensors[0].0, &stored)?;
                return Ok(Some(stored));
            }
            Err((part, shape)) => {
                let (name, info) = &tensors[part];
                let path = checkpoint.files()[info.file].path().display();
                misfit.get_or_insert(ModelError::Tensor(format!(
                    "{path}: tensor {name} has the shape {:?}, and a matrix of {rows}×{cols} in {:?} would have {:?}; its bits or groups are not supported, or config.json is another model's",
                    info.shape,
                    scheme.code,
                    [stack, &shape].concat()
                )));
            }
        }
    }
    misfit.map_or(Ok(None), Err)
}

/// Whether a tensor's dimensions are `stack` and these two; the last may be several, and ones are left out at will.
fn fits(on_disk: &[usize], stack: &[usize], [rows, cols]: [usize; 2]) -> bool {
    match on_disk.strip_prefix(stack) {
        Some([]) => rows * cols == 1,
        Some([first, rest @ ..]) => *first == rows && rest.iter().product::<usize>() == cols,
        None => false,
    }
}
