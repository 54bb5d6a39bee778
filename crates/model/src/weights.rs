//! From tensors on disk to handles: checks every name and shape against the config, places the trunk, and notes where
//! the experts lie.
//!
//! A family is built twice from the same lines. First over [`Weights::measure`]: nothing is read, sizes and layouts
//! become known, and the plan is made from them. Then over [`Weights::load`], which places every tensor in a trunk
//! buffer and reads it. [`Weights::declare`] needs no checkpoint at all: it collects names and shapes.

use std::any::Any;
use std::ops::ControlFlow;
use std::ptr::NonNull;
use std::sync::Arc;

use outpour_kernels::{Activation, Buffer, DType, Format, Matrix, Ops, Tensor};
use outpour_store::checkpoint::{Checkpoint, StoredType, TensorInfo};
use outpour_store::layout::{ExpertLayout, Extent};
use outpour_store::read::{Completion, Read, Reader, Region, RegionMemory};
use outpour_store::{Result as StoreResult, StoreError};

use crate::config::ModelError;

/// Reads of the trunk in flight together.
const TRUNK_READS: usize = 16;
/// Parts of a routed expert here: gate, up, down.
const PARTS: usize = 3;

/// A tensor that a family asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Name on disk.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
}

/// The routed experts of one layer.
#[derive(Clone, Debug)]
pub struct ExpertsOf {
    /// Layer of the model.
    pub layer: usize,
    /// Name before `.experts`, such as `model.layers.0.mlp`.
    pub prefix: String,
    /// Experts in the layer.
    pub experts: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of an expert.
    pub width: usize,
    /// Between gate, up and down.
    pub activation: Activation,
}

/// What is needed to see a slot's bytes as an expert.
#[derive(Clone, Copy, Debug)]
pub struct ExpertShape {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of an expert.
    pub width: usize,
    /// Between gate, up and down.
    pub activation: Activation,
    /// How gate, up and down are stored.
    pub dtypes: [DType; PARTS],
}

/// Gives a family its weights.
pub struct Weights<'a> {
    checkpoint: Option<&'a Checkpoint>,
    trunk: Option<Buffer>,
    trunk_bytes: usize,
    reads: Vec<TrunkRead>,
    declared: Vec<Declared>,
    experts: Vec<(Option<ExpertShape>, Vec<Extent>)>,
}

struct TrunkRead {
    name: String,
    file: usize,
    offset: u64,
    bytes: usize,
    needed: usize,
    at: usize,
}

/// What a first pass found out.
pub struct Measured {
    /// Bytes of the trunk buffer.
    pub trunk_bytes: usize,
    /// Where the experts lie.
    pub layout: ExpertLayout,
    /// How to see them, by layer.
    pub shapes: Vec<Option<ExpertShape>>,
}

impl<'a> Weights<'a> {
    /// Collects names and shapes only.
    pub fn declare() -> Self {
        Weights::new(None, None)
    }

    /// Checks names, shapes and types, and adds up sizes.
    pub fn measure(checkpoint: &'a Checkpoint) -> Self {
        Weights::new(Some(checkpoint), None)
    }

    /// Places the trunk in `trunk`, which has the size that the measuring pass found.
    pub fn load(checkpoint: &'a Checkpoint, trunk: Buffer) -> Self {
        Weights::new(Some(checkpoint), Some(trunk))
    }

    fn new(checkpoint: Option<&'a Checkpoint>, trunk: Option<Buffer>) -> Self {
        Weights { checkpoint, trunk, trunk_bytes: 0, reads: Vec::new(), declared: Vec::new(), experts: Vec::new() }
    }

    /// Checks that the files hold no layer beyond the `layers` of the config.
    ///
    /// # Errors
    /// Names the first tensor of such a layer.
    pub fn check_layers(&self, layers: usize) -> Result<(), ModelError> {
        let beyond = format!("model.layers.{layers}.input_layernorm.weight");
        match self.checkpoint.is_some_and(|checkpoint| checkpoint.tensor(&beyond).is_some()) {
            true => Err(ModelError::Config(format!(
                "num_hidden_layers is {layers}, and the files hold {beyond} too; one of the two is another model's"
            ))),
            false => Ok(()),
        }
    }

    /// A matrix of the trunk, `[rows, cols]`.
    ///
    /// # Errors
    /// When it is missing, or has another shape or a type that is not supported.
    pub fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Matrix, ModelError> {
        Ok(Matrix::dense(self.tensor(name, &[rows, cols])?))
    }

    /// A vector of the trunk (norm weights).
    ///
    /// # Errors
    /// As [`Self::matrix`].
    pub fn vector(&mut self, name: &str, elements: usize) -> Result<Tensor, ModelError> {
        self.tensor(name, &[elements])
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        self.declared.push(Declared { name: name.to_owned(), shape: shape.to_vec() });
        let Some(checkpoint) = self.checkpoint else {
            let elements: usize = shape.iter().product();
            return Ok(Tensor::new(Buffer::unbacked(2 * elements), 0, shape, DType::Bf16));
        };
        let (info, dtype) = find(checkpoint, name, shape)?;
        let align = checkpoint.files()[info.file].align() as u64;
        let (start, end) = (info.offset / align * align, (info.offset + info.bytes).next_multiple_of(align));
        let at = self.trunk_bytes.next_multiple_of(align as usize);
        let within = (info.offset - start) as usize;
        self.trunk_bytes = at + (end - start) as usize;
        self.reads.push(TrunkRead {
            name: name.to_owned(),
            file: info.file,
            offset: start,
            bytes: (end - start) as usize,
            needed: within + info.bytes as usize,
            at,
        });
        Ok(match &self.trunk {
            Some(trunk) => Tensor::new(trunk.clone(), at + within, shape, dtype),
            None => Tensor::new(Buffer::unbacked(info.bytes as usize), 0, shape, dtype),
        })
    }

    /// Notes where a layer's experts lie. They may be stored one by one or stacked in a tensor of three dimensions,
    /// gate and up joined (gate first) or apart.
    ///
    /// # Errors
    /// When a tensor is missing, or has another shape or a type that is not supported.
    pub fn experts(&mut self, of: &ExpertsOf) -> Result<(), ModelError> {
        while self.experts.len() <= of.layer {
            self.experts.push((None, Vec::new()));
        }
        let Some(checkpoint) = self.checkpoint else {
            for expert in 0..of.experts {
                for (part, shape) in [
                    ("gate_proj", [of.width, of.hidden]),
                    ("up_proj", [of.width, of.hidden]),
                    ("down_proj", [of.hidden, of.width]),
                ] {
                    let name = format!("{}.experts.{expert}.{part}.weight", of.prefix);
                    self.declared.push(Declared { name, shape: shape.to_vec() });
                }
            }
            return Ok(());
        };
        let mut extents = vec![Extent { offset: 0, bytes: 0, file: 0 }; of.experts * PARTS];
        let mut dtypes = [DType::U8; PARTS];
        for stored in Stored::find(checkpoint, of)? {
            stored.locate(checkpoint, of, &mut extents, &mut dtypes)?;
        }
        let shape = ExpertShape { hidden: of.hidden, width: of.width, activation: of.activation, dtypes };
        self.experts[of.layer] = (Some(shape), extents);
        Ok(())
    }

    /// What was declared so far.
    pub fn declared(&self) -> &[Declared] {
        &self.declared
    }

    /// Sizes and layouts, for a model of so many layers.
    pub fn measured(self, layers: usize) -> Measured {
        let mut experts = self.experts;
        experts.resize_with(layers, || (None, Vec::new()));
        let (shapes, extents): (Vec<_>, Vec<_>) = experts.into_iter().unzip();
        let parts = |extents: Vec<Extent>| (if extents.is_empty() { 0 } else { PARTS }, extents);
        let files = self.checkpoint.map_or(&[][..], Checkpoint::files);
        let layout = ExpertLayout::new(extents.into_iter().map(parts).collect(), files);
        Measured { trunk_bytes: self.trunk_bytes, layout, shapes }
    }

    /// Reads the trunk. `progress` is told the bytes read so far and in all, and may break off.
    ///
    /// # Errors
    /// When a read fails.
    pub fn read_trunk(
        self,
        reader: &mut dyn Reader,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> StoreResult<ControlFlow<()>> {
        let (Some(checkpoint), Some(trunk)) = (self.checkpoint, self.trunk) else {
            return Ok(ControlFlow::Continue(()));
        };
        let region = backend_region(trunk)?;
        let total: u64 = self.reads.iter().map(|read| read.needed as u64).sum();
        let as_read = |(tag, read): (usize, &TrunkRead)| Read {
            tag: tag as u64,
            file: checkpoint.files()[read.file].clone(),
            offset: read.offset,
            bytes: read.bytes,
            needed: read.needed,
            region: region.clone(),
            at: read.at,
        };
        let reads: Vec<Read> = self.reads.iter().enumerate().map(as_read).collect();
        let failed = |read: &Read, why: std::io::Error| StoreError::Read {
            path: read.file.path().to_owned(),
            what: self.reads[read.tag as usize].name.clone(),
            offset: read.offset,
            bytes: read.bytes,
            why: why.to_string(),
        };
        let mut read_bytes = 0;
        let mut done: Vec<Completion> = Vec::new();
        // A bounded number at a time, so that progress is told.
        for some in reads.chunks(TRUNK_READS) {
            reader.submit(some).map_err(|why| failed(&some[0], why))?;
            while reader.in_flight() > 0 {
                reader.collect(true, &mut done).map_err(|why| failed(&some[0], why))?;
            }
            for completion in done.drain(..) {
                let read = &reads[completion.tag as usize];
                completion.result.map_err(|why| failed(read, why))?;
                read_bytes += read.needed as u64;
            }
            if progress(read_bytes, total).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// A tensor, checked for shape and type.
fn find<'c>(checkpoint: &'c Checkpoint, name: &str, shape: &[usize]) -> Result<(&'c TensorInfo, DType), ModelError> {
    let info = checkpoint.tensor(name).ok_or_else(|| {
        ModelError::Tensor(format!(
            "{}: has no tensor {name}; the download is incomplete, or config.json is another model's",
            checkpoint.dir().display()
        ))
    })?;
    let path = checkpoint.files()[info.file].path().display();
    if info.shape != shape {
        let problem = format!(
            "{path}: tensor {name} has the shape {:?}, and config.json says {shape:?}; one of the two is another model's",
            info.shape
        );
        return Err(ModelError::Tensor(problem));
    }
    let dtype = match info.dtype {
        StoredType::F32 => DType::F32,
        StoredType::F16 => DType::F16,
        StoredType::Bf16 => DType::Bf16,
        StoredType::Other(ref other) => {
            let problem = format!("{path}: tensor {name} has the type {other}; supported are BF16, F16 and F32");
            return Err(ModelError::Tensor(problem));
        }
    };
    Ok((info, dtype))
}

/// How some parts of a layer's experts are stored.
struct Stored {
    /// Name with `{}` for the expert's number; without, experts are stacked.
    name: String,
    /// The parts it holds, in order.
    parts: &'static [usize],
}

const GATE_UP: &[usize] = &[0, 1];
const GATE: &[usize] = &[0];
const UP: &[usize] = &[1];
const DOWN: &[usize] = &[2];

impl Stored {
    /// The tensors that hold gate, up and down, as they are named in this checkpoint.
    fn find(checkpoint: &Checkpoint, of: &ExpertsOf) -> Result<Vec<Stored>, ModelError> {
        let prefix = &of.prefix;
        let pick = |stem: &str, parts| {
            let names = [
                format!("{prefix}.experts.{{}}.{stem}.weight"),
                format!("{prefix}.experts.{stem}"),
                format!("{prefix}.experts.{stem}.weight"),
                format!("{prefix}.switch_mlp.{stem}.weight"),
            ];
            let found = names.into_iter().find(|name| checkpoint.tensor(&name.replace("{}", "0")).is_some());
            found.map(|name| Stored { name, parts })
        };
        let joined = pick("gate_up_proj", GATE_UP);
        let wanted = match joined {
            Some(joined) => vec![Some(joined), pick("down_proj", DOWN)],
            None => vec![pick("gate_proj", GATE), pick("up_proj", UP), pick("down_proj", DOWN)],
        };
        wanted.into_iter().collect::<Option<Vec<_>>>().ok_or_else(|| {
            let dir = checkpoint.dir().display();
            ModelError::Tensor(format!("{dir}: has no experts under {prefix}.experts; the download is incomplete, or config.json is another model's"))
        })
    }

    /// Fills in the extents and types of its parts.
    fn locate(
        &self,
        checkpoint: &Checkpoint,
        of: &ExpertsOf,
        extents: &mut [Extent],
        dtypes: &mut [DType; PARTS],
    ) -> Result<(), ModelError> {
        let (rows, cols) = if self.parts == DOWN { (of.hidden, of.width) } else { (of.width, of.hidden) };
        let all_rows = rows * self.parts.len();
        let one_by_one = self.name.contains("{}");
        for expert in 0..of.experts {
            let name = self.name.replace("{}", &expert.to_string());
            let stacked = [of.experts, all_rows, cols];
            let (info, dtype) = find(checkpoint, &name, if one_by_one { &stacked[1..] } else { &stacked })?;
            let bytes = Format::of(dtype).map_or(0, |format| format.row_bytes(cols) * rows);
            let Ok(extent_bytes) = u32::try_from(bytes) else {
                return Err(ModelError::Tensor(format!(
                    "tensor {name}: an expert of {bytes} bytes is larger than 4 GiB"
                )));
            };
            let first = if one_by_one { 0 } else { expert * bytes * self.parts.len() };
            for (i, &part) in self.parts.iter().enumerate() {
                if expert > 0 && dtypes[part] != dtype {
                    let other = dtypes[part];
                    let path = checkpoint.files()[info.file].path().display();
                    return Err(ModelError::Tensor(format!(
                        "{path}: tensor {name} has the type {dtype}, and expert 0 of its layer {other}; download it again"
                    )));
                }
                dtypes[part] = dtype;
                let offset = info.offset + (first + i * bytes) as u64;
                extents[expert * PARTS + part] = Extent { offset, bytes: extent_bytes, file: info.file as u32 };
            }
        }
        Ok(())
    }
}

/// Backend memory that a drive is read into.
pub struct BackendRegion {
    buffer: Buffer,
}

impl RegionMemory for BackendRegion {
    fn address(&self) -> NonNull<u8> {
        self.buffer.host().expect("invariant: checked when the region was made")
    }
    fn bytes(&self) -> usize {
        self.buffer.bytes()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl BackendRegion {
    /// The backend's handle.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }
}

/// Allocates memory that the drive can be read into.
///
/// # Errors
/// When the backend has none.
pub fn allocate_region(ops: &dyn Ops, bytes: usize) -> StoreResult<Arc<Region>> {
    let buffer = ops.alloc_host(bytes).map_err(|why| StoreError::Allocation { bytes, why: why.to_string() })?;
    backend_region(buffer)
}

fn backend_region(buffer: Buffer) -> StoreResult<Arc<Region>> {
    if buffer.host().is_none() {
        return Err(StoreError::Allocation {
            bytes: buffer.bytes(),
            why: "the backend's memory cannot be read into".into(),
        });
    }
    Ok(Region::new(BackendRegion { buffer }))
}
