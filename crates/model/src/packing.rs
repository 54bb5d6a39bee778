//! What a pack of a model holds: the names, shapes and order of an expert's parts, and how they are requantised if asked.

use std::ops::ControlFlow;
use std::path::Path;

use outpour_kernels::quant::affine_pack;
use outpour_kernels::quant::coded::widen_to_bf16;
use outpour_kernels::{DType, Format};
use outpour_store::checkpoint::Checkpoint;
use outpour_store::layout::ExpertLayout;
use outpour_store::pack::AS_THEY_WERE;
use outpour_store::packer::{self, Convert, Job, Packed, PartSpec};

use crate::config::ModelError;
use crate::weights::{ExpertShape, GateUp, StoredMatrix, coded};

/// The matrices of an expert, in the order in which they are packed and used.
const MATRICES: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// Bits and group of MLX's affine quantisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affine {
    /// Bits of a weight.
    pub bits: usize,
    /// Weights that share a scale and a bias.
    pub group: usize,
}

/// A checked model that is to be packed.
pub struct Source<'a> {
    /// Its files.
    pub checkpoint: &'a Checkpoint,
    /// Where its experts lie.
    pub layout: &'a ExpertLayout,
    /// File and first byte of the tensors of which single rows are read.
    pub row_tensors: &'a [(usize, u64)],
    /// How they are stored, by layer.
    pub shapes: &'a [Option<ExpertShape>],
    /// What the names of a layer's experts begin with, for each layer that has some: `model.layers.0.mlp.experts`.
    pub names: &'a [String],
}

/// Packs a model into the folder `out`: as its experts are stored, or with those requantised that are BF16, F16 or F32, or in
/// codes of eight bits, such as FP8. `progress` is told bytes written and bytes in all, and may break off.
///
/// # Errors
/// As [`packer::pack`]; for GGUF files; and when experts are to be requantised that have fewer bits already, or whose rows are no
/// whole groups.
pub fn pack(
    source: &Source,
    requantise: Option<Affine>,
    out: &Path,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Packed, ModelError> {
    if source.checkpoint.gguf().is_some() {
        return Err(ModelError::Tensor(format!(
            "{}: is of GGUF files, which are not packed yet; they are read in place, or pack the model's safetensors",
            source.checkpoint.dir().display()
        )));
    }
    let mut names = source.names.iter();
    let layer = |shape: &Option<ExpertShape>| match (shape, shape.as_ref().and_then(|_| names.next())) {
        (Some(shape), Some(name)) => specs(name, shape, requantise),
        _ => Ok(Vec::new()),
    };
    let layers = source.shapes.iter().map(layer).collect::<Result<Vec<_>, _>>()?;
    let converting = requantise.map(|affine| {
        move |layer: usize, parts: &[Vec<u8>], made: &mut [Vec<u8>]| {
            let shape = source.shapes[layer].as_ref().expect("invariant: only layers with experts are converted");
            for ((m, stored), made) in shape.present().zip(made.chunks_exact_mut(3)) {
                let [q, scales, biases] = made else { unreachable!("invariant: chunks of three") };
                for part in [&mut *q, &mut *scales, &mut *biases] {
                    part.clear();
                }
                let parts = &parts[shape.first_part(m)..][..stored.parts()];
                let mut widened = Vec::new();
                let (dtype, values) = match stored.format {
                    Format::Coded(coded) => {
                        let part = |number: usize| parts.get(number).map_or(&[][..], Vec::as_slice);
                        let tensors = [part(0), part(1), part(2)];
                        widen_to_bf16(coded, [stored.rows, stored.cols], stored.dtype, tensors, &mut widened);
                        (DType::Bf16, &widened)
                    }
                    _ => (stored.dtype, &parts[0]),
                };
                affine_pack(affine.bits, affine.group, dtype, values, [q, scales, biases]);
            }
        }
    });
    let experts = match requantise {
        Some(Affine { bits, group }) => format!("affine{bits} in groups of {group}"),
        None => AS_THEY_WERE.to_owned(),
    };
    let convert = converting.as_ref().map(|converting| converting as &Convert);
    let Source { checkpoint, layout, row_tensors, .. } = *source;
    Ok(packer::pack(&Job { checkpoint, layout, experts, row_tensors, layers, convert }, out, progress)?)
}

/// The parts of one expert as they are packed.
fn specs(name: &str, shape: &ExpertShape, requantise: Option<Affine>) -> Result<Vec<PartSpec>, ModelError> {
    let mut specs = Vec::with_capacity(shape.parts());
    for (m, stored) in shape.present() {
        let joined = shape.gate_up != GateUp::Apart;
        let matrix = if joined && m == 0 { "gate_up_proj" } else { MATRICES[m] };
        let stored = match requantise {
            Some(affine) => requantised(&format!("{name}.{matrix}"), stored, affine)?,
            None => *stored,
        };
        let spec = |((part, ([rows, cols], view)), dtype): ((String, ([usize; 2], DType)), &str)| {
            // The operations see packed weights as bytes, files perhaps as words.
            let cols = cols * view.bytes() / coded::element_bytes(dtype);
            PartSpec { name: part, dtype: dtype.to_owned(), shape: [rows, cols] }
        };
        // As it was found: transformers' names of stacked matrices end in no `.weight`.
        let weight = if joined { "" } else { ".weight" };
        let weight = format!("{name}.{matrix}{weight}");
        specs.extend(stored.names(&weight).zip(stored.views()).zip(stored.types()).map(spec));
    }
    Ok(specs)
}

/// How a matrix is stored when it is requantised.
fn requantised(name: &str, stored: &StoredMatrix, affine: Affine) -> Result<StoredMatrix, ModelError> {
    let Affine { bits, group } = affine;
    let dtype = match stored.format {
        Format::Coded(coded) if coded.bits() == 8 => Some(DType::Bf16),
        format => format.is_plain().then_some(stored.dtype),
    };
    let Some(dtype) = dtype else {
        return Err(ModelError::Tensor(format!(
            "tensor {name} is stored in {stored} already, and is not quantised twice; leave --experts out, or give the release"
        )));
    };
    if stored.transposed {
        return Err(ModelError::Tensor(format!(
            "tensor {name} is stored transposed, and is packed as it is only; leave --experts out, or give an MLX export"
        )));
    }
    let format = Format::affine(bits, group).filter(|_| stored.cols.is_multiple_of(group));
    match format {
        Some(format) => Ok(StoredMatrix { format, dtype, scheme: None, ..*stored }),
        None => Err(ModelError::Tensor(format!(
            "tensor {name} has rows of {} weights, which are no whole groups of {group} of {bits} bits; give another --group",
            stored.cols
        ))),
    }
}
