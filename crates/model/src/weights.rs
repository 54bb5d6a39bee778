//! From tensors on disk to handles: checks every name and shape against the config, places the trunk, and notes where
//! the experts lie.
//!
//! A family is built twice from the same lines. First over [`Weights::measure`]: nothing is read, sizes and layouts
//! become known, and the plan is made from them. Then over [`Weights::load`], which places every tensor in a trunk
//! buffer and reads it, but for those of layers that are to be streamed ([`TrunkStream`]). [`Weights::declare`] needs no checkpoint at all: it collects names and shapes; and
//! [`Weights::fold`] lets tensors share a smaller buffer, to measure how long computing with such shapes takes.

pub(crate) mod coded;
mod experts;
mod method;
mod region;
mod rows;
pub(crate) mod said;
mod stored;
mod trunk;
mod vendor;

use std::ops::ControlFlow;
use std::path::Path;

use outpour_kernels::{Buffer, DType, GgmlType, Matrix, Ops, OpsError, RmsNorm, Tensor};
use outpour_store::checkpoint::{Checkpoint, StoredType, TensorInfo};
use outpour_store::layout::{ExpertLayout, Extent};
use outpour_store::plan::{TRUNK_ALIGN, TrunkNeeds, TrunkPlan};
use outpour_store::read::{Completion, Read, Reader};
use outpour_store::{Result as StoreResult, StoreError};
use serde_json::Value;

pub use experts::{ExpertShape, ExpertsOf, GateUp};
pub use region::{BackendRegion, allocate_region};
pub(crate) use rows::RowStream;
pub use stored::StoredMatrix;
pub(crate) use trunk::TrunkPlace;
pub use trunk::{RowTable, TrunkStream};

use crate::config::{Config, ModelError};
use crate::gguf;
use region::backend_region;
use rows::RowSource;
use trunk::{Of, Places, TrunkRead};

/// Reads of the trunk in flight together.
const TRUNK_READS: usize = 16;

/// What a family asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Name on disk; of experts, what their names begin with.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// What it is.
    pub kind: DeclaredKind,
}

/// What a family asked for: this, and not the name, says how it may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeclaredKind {
    /// A matrix `[rows, cols]`, which may be quantised.
    Matrix,
    /// The weight of a norm.
    Norm {
        /// Whether the release stores its distance from 1.
        plus_one: bool,
    },
    /// Anything else, always plain.
    Tensor,
    /// Whole numbers below this one: `[rows, columns]`.
    Table {
        /// They are at least 0.
        below: usize,
    },
    /// Gate, up and down of a layer's experts: `[experts, 3, width, hidden]`; where there is no gate, `[experts, 2, ..]`.
    Experts,
}

/// How a family's RMS norms are computed.
#[derive(Clone, Copy, Debug)]
pub struct Norms {
    /// Added to the mean of squares.
    pub eps: f32,
    /// Whether weights are stored as their distance from 1.
    pub plus_one: bool,
}

impl Norms {
    /// A norm over `elements`.
    ///
    /// # Errors
    /// When its weight is missing, or has another shape.
    pub fn load(self, weights: &mut Weights, name: &str, elements: usize) -> Result<RmsNorm, ModelError> {
        let weight = weights.norm(name, elements, self.plus_one)?;
        Ok(RmsNorm { weight: Some(weight), plus_one: self.plus_one, eps: self.eps })
    }
}

/// Gives a family its weights.
pub struct Weights<'a> {
    checkpoint: Option<&'a Checkpoint>,
    places: Places,
    reads: Vec<TrunkRead>,
    /// The embedding, where it can be read by row.
    rows: Option<RowSource>,
    /// Tables that are always read by row.
    row_tables: Vec<RowSource>,
    declared: Vec<Declared>,
    matrices: Vec<(String, StoredMatrix)>,
    experts: Vec<Option<(ExpertShape, Vec<Extent>)>>,
    tables: Vec<Table>,
}

/// A table of whole numbers, and what they are below.
pub struct Table {
    name: String,
    tensor: Tensor,
    /// Bytes of a number.
    width: usize,
    below: usize,
}

impl Table {
    /// Checks what it holds.
    ///
    /// # Errors
    /// Names it where that is something else.
    pub fn check(&self, ops: &dyn Ops) -> Result<(), ModelError> {
        let Table { name, tensor, width, below } = self;
        let mut bytes = vec![0; tensor.bytes()];
        ops.fetch(tensor, &mut bytes).wait();
        let wide = bytes.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
        let narrow = bytes.as_chunks::<4>().0.iter().map(|bytes| i64::from(i32::from_le_bytes(*bytes)));
        let outside = |number: &i64| !(0..*below as i64).contains(number);
        let numbers: Vec<i64> = if *width == 8 { wide.collect() } else { narrow.collect() };
        match numbers.into_iter().find(outside) {
            None => Ok(()),
            Some(number) => Err(ModelError::Tensor(format!(
                "tensor {name} names {number} of {below} experts; it is damaged: download it again"
            ))),
        }
    }
}

/// What a first pass found out.
pub struct Measured {
    /// Bytes of the trunk.
    pub trunk: TrunkNeeds,
    /// Bytes of tables of which single rows are read, in the files.
    pub table_bytes: u64,
    /// File and first byte of the tensors of which single rows are read, always or where memory is short.
    pub row_tensors: Vec<(usize, u64)>,
    /// Bytes of its largest tensor, rounding to alignment included: what [`Weights::fold`] needs at least.
    pub largest_tensor_bytes: usize,
    /// The trunk's matrices, by the names that the family asked for.
    pub matrices: Vec<(String, StoredMatrix)>,
    /// Where the experts lie.
    pub layout: ExpertLayout,
    /// How to see them, by layer.
    pub shapes: Vec<Option<ExpertShape>>,
}

impl<'a> Weights<'a> {
    /// Collects names and shapes only.
    pub fn declare() -> Self {
        Weights::new(None, Places::measure())
    }

    /// Checks names, shapes and types, and adds up sizes.
    pub fn measure(checkpoint: &'a Checkpoint) -> Self {
        Weights::new(Some(checkpoint), Places::measure())
    }

    /// Places the trunk as planned, with the sizes that the measuring pass found.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn load(
        checkpoint: &'a Checkpoint,
        needs: &TrunkNeeds,
        plan: &TrunkPlan,
        ops: &dyn Ops,
    ) -> Result<Self, OpsError> {
        Ok(Weights::new(Some(checkpoint), Places::load(needs, plan, ops)?))
    }

    /// Places the trunk in `trunk`, which holds its largest tensor at least: what does not fit behind the last one begins at
    /// the start again, over what lies there. Shapes and types are the checkpoint's, values are whatever the buffer holds.
    pub fn fold(checkpoint: &'a Checkpoint, trunk: Buffer) -> Self {
        Weights::new(Some(checkpoint), Places::fold(trunk))
    }

    fn new(checkpoint: Option<&'a Checkpoint>, places: Places) -> Self {
        Weights {
            checkpoint,
            places,
            reads: Vec::new(),
            rows: None,
            row_tables: Vec::new(),
            declared: Vec::new(),
            matrices: Vec::new(),
            experts: Vec::new(),
            tables: Vec::new(),
        }
    }

    /// The dimensions of a tensor on disk, if it is there.
    pub fn shape_of(&self, name: &str) -> Option<&'a [usize]> {
        Some(&resolve(self.checkpoint?, name)?.1.shape)
    }

    /// Whether the tensors are those of GGUF files: see [`gguf`] for what differs.
    pub fn are_gguf(&self) -> bool {
        self.checkpoint.is_some_and(|checkpoint| checkpoint.gguf().is_some())
    }

    /// Checks that the files hold no layer beyond the `layers` of the config. GGUF files say themselves how many there are, and
    /// may hold heads for multi-token prediction behind them.
    ///
    /// # Errors
    /// Names the first tensor of such a layer.
    pub fn check_layers(&self, layers: usize) -> Result<(), ModelError> {
        let beyond = format!("model.layers.{layers}.input_layernorm.weight");
        match self.shape_of(&beyond).is_some() && !self.are_gguf() {
            true => Err(ModelError::Config(format!(
                "num_hidden_layers is {layers}, and the files hold {beyond} too; one of the two is another model's"
            ))),
            false => Ok(()),
        }
    }

    /// A matrix of the trunk, `[rows, cols]`, plain or quantised.
    ///
    /// # Errors
    /// When it is missing, or has another shape or a type that is not supported.
    pub fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Matrix, ModelError> {
        match self.checkpoint {
            None => Ok(Matrix::dense(self.plain(name, &[rows, cols], DeclaredKind::Matrix)?)),
            Some(checkpoint) => {
                self.matrix_stored(Of::named(name), name, StoredMatrix::find(checkpoint, name, &[], rows, cols)?)
            }
        }
    }

    /// The table of embeddings, `[vocab, hidden]`: as [`Self::matrix`], but where memory is short and it is not `tied`, the head
    /// too, it stays on the drive, and has no bytes here.
    ///
    /// # Errors
    /// As [`Self::matrix`].
    pub fn embedding(&mut self, name: &str, vocab: usize, hidden: usize, tied: bool) -> Result<Matrix, ModelError> {
        let Some(checkpoint) = self.checkpoint.filter(|_| !tied) else { return self.matrix(name, vocab, hidden) };
        let stored = StoredMatrix::find(checkpoint, name, &[], vocab, hidden)?;
        let place = |name: String| resolve(checkpoint, &name).map(|(_, info)| (info.file, info.offset));
        let places: Option<Vec<(usize, u64)>> = stored.names(name).map(place).collect();
        self.rows = places.and_then(|places| RowSource::new(&stored, &places, checkpoint.files()));
        self.matrix_stored(if self.rows.is_some() { Of::Embedding } else { Of::Model }, name, stored)
    }

    /// A table `[rows, cols]` that stays on the drive, of which single rows are read: in so many tensors `{prefix}.shard_N.weight`,
    /// one behind the other, of as many rows as the files say.
    ///
    /// # Errors
    /// When a tensor is missing, or has another shape or a type that has no single rows.
    pub fn row_table(&mut self, prefix: &str, shards: usize, rows: usize, cols: usize) -> Result<RowTable, ModelError> {
        let even = rows.div_ceil(shards);
        let name = |shard: usize| format!("{prefix}.shard_{shard}.weight");
        let Some(checkpoint) = self.checkpoint else {
            for (shard, first) in (0..rows).step_by(even).enumerate() {
                self.declare_one(&name(shard), &[even.min(rows - first), cols], DeclaredKind::Matrix);
            }
            return Ok(RowTable::Number(0));
        };
        let (mut table, mut first): (Option<RowSource>, usize) = (None, 0);
        for name in (0..shards).map(name) {
            let some =
                self.shape_of(&name).and_then(|shape| shape.first()).map_or(even, |&rows| rows).min(rows - first);
            if some == 0 {
                break;
            }
            let more = self.row_source(checkpoint, &name, some, cols)?;
            table = match table {
                None => Some(more),
                Some(before) => Some(before.and(more).ok_or_else(|| {
                    ModelError::Tensor(format!(
                        "{name} is stored in another form than the parts before; download it again"
                    ))
                })?),
            };
            first += some;
        }
        let Some(table) = table.filter(|_| first == rows) else {
            return Err(ModelError::Tensor(format!(
                "{prefix} has {first} rows in the files, and by config.json {rows}; one of the two is another model's"
            )));
        };
        self.row_tables.push(table);
        Ok(RowTable::Number(self.row_tables.len() - 1))
    }

    fn row_source(
        &self,
        checkpoint: &Checkpoint,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<RowSource, ModelError> {
        let stored = StoredMatrix::find(checkpoint, name, &[], rows, cols)?;
        let place = |name: String| resolve(checkpoint, &name).map(|(_, info)| (info.file, info.offset));
        let places: Option<Vec<(usize, u64)>> = stored.names(name).map(place).collect();
        places
            .and_then(|places| RowSource::new(&stored, &places, checkpoint.files()))
            .ok_or_else(|| ModelError::Tensor(format!("{name}: rows of {stored} cannot be read one by one")))
    }

    /// What reads rows of the tables through memory of its own, and nothing else: the rest is in place, as with [`Self::fold`].
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn tables_only(self, ops: &dyn Ops) -> StoreResult<TrunkStream> {
        let bytes: usize = self.row_tables.iter().map(RowSource::window_bytes).sum();
        if bytes == 0 {
            return Ok(TrunkStream::default());
        }
        let buffer = ops.alloc_host(bytes).map_err(|error| StoreError::Other(error.to_string()))?;
        TrunkStream::of_tables(self.row_tables, &buffer)
    }

    /// Whether the files have a matrix of this name, in whatever form.
    pub fn has_matrix(&self, name: &str) -> bool {
        self.checkpoint.is_some_and(|checkpoint| StoredMatrix::is_there(checkpoint, name))
    }

    /// Matrices `[count, rows, cols]` of the trunk, which are in the files: one of `count · rows` rows.
    ///
    /// # Errors
    /// As [`Self::matrix`], and in a form whose matrices cannot lie behind each other.
    pub fn stack(&mut self, name: &str, count: usize, rows: usize, cols: usize) -> Result<Matrix, ModelError> {
        let checkpoint = self.checkpoint.expect("invariant: has_matrix came first");
        let stored = StoredMatrix { rows: count * rows, ..StoredMatrix::find(checkpoint, name, &[count], rows, cols)? };
        match stored.first_rows(rows) {
            Some(_) => self.matrix_stored(Of::named(name), name, stored),
            None => Err(ModelError::Tensor(format!("{name}: a stack of matrices is not supported in {stored}"))),
        }
    }

    fn matrix_stored(&mut self, of: Of, name: &str, stored: StoredMatrix) -> Result<Matrix, ModelError> {
        self.matrices.push((name.to_owned(), stored));
        let mut parts = [None, None, None];
        for (part, (name, (shape, dtype))) in parts.iter_mut().zip(stored.names(name).zip(stored.views())) {
            *part = Some(self.tensor_stored(of, &name, &shape, dtype)?);
        }
        Ok(stored.matrix(parts))
    }

    /// The weight of a norm, `[elements]`.
    ///
    /// # Errors
    /// As [`Self::matrix`].
    pub fn norm(&mut self, name: &str, elements: usize, plus_one: bool) -> Result<Tensor, ModelError> {
        self.plain(name, &[elements], DeclaredKind::Norm { plus_one })
    }

    /// A vector of the trunk.
    ///
    /// # Errors
    /// As [`Self::matrix`].
    pub fn vector(&mut self, name: &str, elements: usize) -> Result<Tensor, ModelError> {
        self.tensor(name, &[elements])
    }

    /// A plain tensor of the trunk.
    ///
    /// # Errors
    /// As [`Self::matrix`].
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        self.plain(name, shape, DeclaredKind::Tensor)
    }

    /// The weight of a depthwise convolution, `[channels, kernel]`: `[channels, 1, kernel]` as released, `[channels, kernel, 1]` in
    /// MLX's exports.
    ///
    /// # Errors
    /// As [`Self::matrix`].
    pub fn convolution(&mut self, name: &str, channels: usize, kernel: usize) -> Result<Tensor, ModelError> {
        let mlx = self.shape_of(name) == Some(&[channels, kernel, 1][..]);
        let shape = if mlx { [channels, kernel, 1] } else { [channels, 1, kernel] };
        Ok(self.tensor(name, &shape)?.reshape([channels, kernel]))
    }

    /// A table `[rows, columns]` of integers below another one, as bytes `[rows, 8 · columns]`, or, of GGUF files, `[rows, 4 · columns]`.
    ///
    /// # Errors
    /// When it is missing, or has another shape or type.
    pub fn table(&mut self, name: &str, rows: usize, columns: usize, below: usize) -> Result<Tensor, ModelError> {
        self.declare_one(name, &[rows, columns], DeclaredKind::Table { below });
        let Some(checkpoint) = self.checkpoint else {
            return Ok(Tensor::new(Buffer::unbacked(rows * 8 * columns), 0, [rows, 8 * columns], DType::U8));
        };
        let (on_disk, info) = resolve(checkpoint, name).ok_or_else(|| missing(checkpoint, name))?;
        let path = checkpoint.files()[info.file].path();
        if info.shape != [rows, columns] {
            return Err(wrong_shape(checkpoint, path, &on_disk, &info.shape, &[rows, columns]));
        }
        let (of, width) = if self.are_gguf() { ("I32", 4) } else { ("I64", 8) };
        if info.dtype != StoredType::Other(of.into()) {
            return Err(ModelError::Tensor(format!(
                "{}: tensor {on_disk} has the type {}, and a table is {of}",
                path.display(),
                info.dtype
            )));
        }
        // Of no layer: it is checked once, so it stays.
        let tensor = self.place(Of::Model, name, info, &[rows, width * columns], DType::U8);
        self.tables.push(Table { name: on_disk, tensor: tensor.clone(), width, below });
        Ok(tensor)
    }

    /// The tables, to be checked once the trunk was read.
    pub fn take_tables(&mut self) -> Vec<Table> {
        std::mem::take(&mut self.tables)
    }

    fn plain(&mut self, name: &str, shape: &[usize], kind: DeclaredKind) -> Result<Tensor, ModelError> {
        self.declare_one(name, shape, kind);
        let Some(checkpoint) = self.checkpoint else {
            let elements: usize = shape.iter().product();
            return Ok(Tensor::new(Buffer::unbacked(2 * elements), 0, shape, DType::Bf16));
        };
        let (info, dtype) = find(checkpoint, name, shape)?;
        Ok(self.place(Of::named(name), name, info, shape, dtype))
    }

    /// A part of a quantised matrix, which is bytes to us.
    fn tensor_stored(&mut self, of: Of, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor, ModelError> {
        let checkpoint = self.checkpoint.expect("invariant: only a checkpoint has stored tensors");
        let (_, info) = resolve(checkpoint, name).ok_or_else(|| missing(checkpoint, name))?;
        Ok(self.place(of, name, info, shape, dtype))
    }

    /// Gives a tensor its place in the trunk, and notes its read.
    fn place(&mut self, of: Of, name: &str, info: &TensorInfo, shape: &[usize], dtype: DType) -> Tensor {
        let align = self.checkpoint.map_or(1, |checkpoint| checkpoint.files()[info.file].align()) as u64;
        let (start, end) = (info.offset / align * align, (info.offset + info.bytes).next_multiple_of(align));
        let within = (info.offset - start) as usize;
        let bytes = (end - start) as usize;
        let (buffer, at) = self.places.place(of, bytes, align as usize);
        self.reads.push(TrunkRead {
            name: name.to_owned(),
            of,
            file: info.file,
            offset: start,
            bytes,
            needed: within + info.bytes as usize,
            at,
        });
        match buffer {
            Some(buffer) => Tensor::new(buffer, at + within, shape, dtype),
            None => Tensor::new(Buffer::unbacked(info.bytes as usize), 0, shape, dtype),
        }
    }

    /// Notes where a layer's experts lie. They may be stored one by one or stacked in a tensor of three dimensions,
    /// gate and up joined (gate first) or apart.
    ///
    /// # Errors
    /// When a tensor is missing, or has another shape or a type that is not supported.
    pub fn experts(&mut self, of: &ExpertsOf) -> Result<(), ModelError> {
        if self.experts.len() <= of.layer {
            self.experts.resize_with(of.layer + 1, || None);
        }
        let Some(checkpoint) = self.checkpoint else {
            let name = format!("{}.experts", of.prefix);
            self.declare_one(&name, &[of.experts, of.matrices(), of.width, of.hidden], DeclaredKind::Experts);
            return Ok(());
        };
        self.experts[of.layer] = Some(experts::locate(checkpoint, of)?);
        Ok(())
    }

    fn declare_one(&mut self, name: &str, shape: &[usize], kind: DeclaredKind) {
        self.declared.push(Declared { name: name.to_owned(), shape: shape.to_vec(), kind });
    }

    /// What was declared so far.
    pub fn declared(&self) -> &[Declared] {
        &self.declared
    }

    /// Sizes and layouts, for a model of so many layers.
    pub fn measured(self, layers: usize) -> Measured {
        let mut experts = self.experts;
        experts.resize_with(layers, || None);
        let of_layer = |experts: Option<(ExpertShape, Vec<Extent>)>| match experts {
            Some((shape, extents)) => (Some(shape), (shape.parts(), extents)),
            None => (None, (0, Vec::new())),
        };
        let (shapes, extents) = experts.into_iter().map(of_layer).unzip();
        let files = self.checkpoint.map_or(&[][..], Checkpoint::files);
        let row_tensors = self.rows.iter().chain(&self.row_tables).flat_map(RowSource::tensors).collect();
        let rows = self.rows.map_or(0, |rows| rows.window_bytes().next_multiple_of(TRUNK_ALIGN));
        let tables: usize = self.row_tables.iter().map(RowSource::window_bytes).sum();
        let tables = tables.next_multiple_of(TRUNK_ALIGN);
        Measured {
            trunk: TrunkNeeds { rows, tables, ..self.places.needs(layers) },
            table_bytes: self.row_tables.iter().map(RowSource::bytes).sum(),
            row_tensors,
            largest_tensor_bytes: self.reads.iter().map(|read| read.bytes).max().unwrap_or(0),
            matrices: self.matrices,
            layout: ExpertLayout::new(extents, files),
            shapes,
        }
    }

    /// Reads what of the trunk stays in memory, and says how to read the rest. `progress` is told the bytes read so far and in
    /// all, and may break off.
    ///
    /// # Errors
    /// When a read fails.
    pub fn read_trunk(
        self,
        reader: &mut dyn Reader,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> StoreResult<ControlFlow<(), TrunkStream>> {
        let Some(checkpoint) = self.checkpoint else { return Ok(ControlFlow::Continue(TrunkStream::default())) };
        let (resident, streamed) = self.places.divide(self.reads);
        let stream = TrunkStream::new(&self.places, streamed, self.rows, self.row_tables)?;
        let Some(region) = self.places.resident().map(backend_region).transpose()? else {
            return Ok(ControlFlow::Continue(stream));
        };
        let total: u64 = resident.iter().map(|read| read.needed as u64).sum();
        let reads: Vec<Read> =
            resident.iter().zip(0..).map(|(read, tag)| read.read(checkpoint.files(), &region, tag)).collect();
        let failed = |read: &Read, why: std::io::Error| resident[read.tag as usize].failed(checkpoint.files(), &why);
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
        Ok(ControlFlow::Continue(stream))
    }
}

/// A tensor under the name it has on disk: multimodal checkpoints put the language model's tensors under a prefix of
/// their own, `model.language_model.` as released or `language_model.` in MLX's exports.
fn resolve<'c>(checkpoint: &'c Checkpoint, name: &str) -> Option<(String, &'c TensorInfo)> {
    let found = |name: String| checkpoint.tensor(&name).map(|info| (name, info));
    if checkpoint.gguf().is_some() {
        return gguf::on_disk(name).find_map(found);
    }
    let wrapped = name.strip_prefix("model.").map(|rest| format!("model.language_model.{rest}"));
    let names = [Some(name.to_owned()), wrapped, Some(format!("language_model.{name}"))];
    names.into_iter().flatten().find_map(found)
}

fn missing(checkpoint: &Checkpoint, name: &str) -> ModelError {
    ModelError::Tensor(match checkpoint.gguf() {
        None => format!(
            "{}: has no tensor {name}; the download is incomplete, or config.json is another model's{}",
            checkpoint.dir().display(),
            suspects(checkpoint, name, &[])
        ),
        Some(metadata) => format!(
            "{}: has no tensor {}; the download is incomplete, or it was converted with --fuse-qkv, by a llama.cpp that kept experts \
             apart, or for another program: convert the model again",
            metadata.path().display(),
            gguf::on_disk(name).next().as_deref().unwrap_or(name)
        ),
    })
}

fn wrong_type(checkpoint: &Checkpoint, path: &Path, name: &str, dtype: &StoredType) -> ModelError {
    let path = path.display();
    let scales = coded::scales_beside(name, &dtype.to_string());
    if !scales.is_empty() {
        return ModelError::Tensor(format!(
            "{path}: tensor {name} has the type {dtype}, and no scales of a known type beside it (as {}); the download is incomplete, or it is quantised in a way that is not supported",
            scales.join(" or ")
        ));
    }
    let blocks: Vec<&str> = GgmlType::ALL.into_iter().map(GgmlType::name).collect();
    if checkpoint.gguf().is_some() {
        return ModelError::Tensor(format!(
            "{path}: tensor {name} has the type {dtype}; supported are F32, F16, BF16, {}: take another quantisation of the model",
            blocks.join(", ")
        ));
    }
    let said::Settings { file, said } = said::settings(checkpoint);
    let said = said["quant_method"].as_str().map(|method| format!(" ({file} says {method})")).unwrap_or_default();
    ModelError::Tensor(format!(
        "{path}: tensor {name} has the type {dtype}{said}; supported are BF16, F16 and F32, {}",
        coded::SUPPORTED
    ))
}

/// Whether a tensor's shape is the one expected.
fn fits(checkpoint: &Checkpoint, on_disk: &[usize], expected: &[usize]) -> bool {
    on_disk == expected || checkpoint.gguf().is_some() && gguf::same_shape(on_disk, expected)
}

fn wrong_shape(checkpoint: &Checkpoint, path: &Path, name: &str, shape: &[usize], expected: &[usize]) -> ModelError {
    let path = path.display();
    let differs = |(i, size): (usize, &usize)| (shape.get(i) != Some(size)).then_some(*size);
    let sizes: Vec<usize> = expected.iter().enumerate().filter_map(differs).collect();
    let who = if checkpoint.gguf().is_some() { "the file's metadata say" } else { "config.json says" };
    let suspects = suspects(checkpoint, name, &sizes);
    ModelError::Tensor(format!(
        "{path}: tensor {name} has the shape {shape:?}, and {who} {expected:?}; one of the two is another model's{suspects}"
    ))
}

/// Keys of config.json by which families ask for tensors whose names end so, or for other shapes of them.
const ASKED_BY: [(&str, &[&str]); 5] = [
    ("_proj.bias", &["attention_bias", "qkv_bias"]),
    ("sink_bias", &["add_full_attention_sink_bias", "add_swa_attention_sink_bias"]),
    (".gate.weight", &["decoder_sparse_step", "mlp_only_layers", "first_k_dense_replace"]),
    (".mlp.gate_proj.weight", &["decoder_sparse_step", "mlp_only_layers", "first_k_dense_replace"]),
    ("_proj.weight", &["attention_k_eq_v"]),
];

/// Names the keys of config.json, or of a GGUF file, that may be wrong where a tensor is not as they say: those that ask for it, and
/// those of one of `sizes`.
fn suspects(checkpoint: &Checkpoint, name: &str, sizes: &[usize]) -> String {
    let is_one = |value: &Value| value.as_u64().is_some_and(|size| sizes.contains(&(size as usize)));
    let named = |keys: Vec<&str>| match keys.is_empty() {
        true => String::new(),
        false => format!(" (see {} there)", keys.join(", ")),
    };
    if let Some(metadata) = checkpoint.gguf() {
        let keys = metadata.values().filter(|(key, value)| is_one(value) && !key.starts_with("general."));
        let keys = keys.filter(|(key, _)| !key.starts_with("tokenizer.") && !key.starts_with("split."));
        return named(keys.map(|(key, _)| key).collect());
    }
    let config = Config(checkpoint.config()).text();
    let asking =
        ASKED_BY.iter().filter(|(ending, _)| name.ends_with(ending)).flat_map(|(_, keys)| keys.iter().copied());
    let keys = config.0.as_object().into_iter().flatten();
    let of_size = keys.filter(|(_, value)| is_one(value));
    named(of_size.map(|(key, _)| key.as_str()).chain(asking.filter(|key| config.has(key))).collect())
}

/// A plain tensor, checked for shape and type.
fn find<'c>(checkpoint: &'c Checkpoint, name: &str, shape: &[usize]) -> Result<(&'c TensorInfo, DType), ModelError> {
    let (name, info) = resolve(checkpoint, name).ok_or_else(|| missing(checkpoint, name))?;
    let path = checkpoint.files()[info.file].path();
    if !fits(checkpoint, &info.shape, shape) {
        return Err(wrong_shape(checkpoint, path, &name, &info.shape, shape));
    }
    match plain(&info.dtype) {
        Some(dtype) => Ok((info, dtype)),
        None => Err(wrong_type(checkpoint, path, &name, &info.dtype)),
    }
}

/// The element type of plain weights.
fn plain(dtype: &StoredType) -> Option<DType> {
    match dtype {
        StoredType::F32 => Some(DType::F32),
        StoredType::F16 => Some(DType::F16),
        StoredType::Bf16 => Some(DType::Bf16),
        StoredType::U32 | StoredType::Blocks(_) | StoredType::Other(_) => None,
    }
}
