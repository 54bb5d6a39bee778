//! A model on disk: checked, measured and planned, with nothing read yet.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outpour_kernels::cpu::{Cpu, CpuOptions};
use outpour_kernels::quant::Q8_BLOCK;
use outpour_kernels::reference::Reference;
use outpour_kernels::{DType, Ops, OpsError};
use outpour_model::blocks::moe::TOP_K;
use outpour_model::config::Config;
use outpour_model::packing::Affine;
use outpour_model::weights::{DeclaredKind, ExpertShape, Measured, StoredMatrix, Weights};
use outpour_model::{Facts, Model, ModelError, gguf, packing, registry};
use outpour_store::checkpoint::Checkpoint;
use outpour_store::layout::{ExpertId, ExpertLayout};
use outpour_store::pack::Manifest;
use outpour_store::packer::Packed;
use outpour_store::plan::{Ask, ClassNeeds, Needs, Plan, TrunkNeeds};
use outpour_store::read::{self, PATIENCE};
use serde_json::Value;

use crate::error::EngineError;
use crate::lookahead::LookaheadMode;
use crate::scratch::{Scratch, sweep_rows};

/// Which implementation of the operations runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Backend {
    /// Vector instructions and threads.
    #[default]
    Cpu,
    /// The plain definition of every operation.
    Reference,
}

/// How to load a model.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The whole memory of the process, in bytes.
    pub ram: usize,
    /// What the caller itself holds, such as a tokenizer, in bytes.
    pub beside: usize,
    /// Context length; see [`Ask::ctx`].
    pub ctx: Option<usize>,
    /// Prompt tokens computed together; see [`Ask::chunk`].
    pub prefill_chunk: Option<usize>,
    /// Threads that compute; by default the physical cores that the process may use, the fast ones where they differ.
    pub threads: Option<usize>,
    /// f32 inside products, and f32 keys and values.
    pub precise: bool,
    /// Which operations.
    pub backend: Backend,
    /// Whether experts are read before they are asked for.
    pub lookahead: LookaheadMode,
    /// How long a drive may say nothing while it is waited for.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            ram: usize::MAX >> 1,
            beside: 0,
            ctx: None,
            prefill_chunk: None,
            threads: None,
            precise: false,
            backend: Backend::Cpu,
            lookahead: LookaheadMode::Auto,
            patience: PATIENCE,
        }
    }
}
impl Options {
    /// Makes the backend.
    ///
    /// # Errors
    /// When this machine cannot run it.
    pub(crate) fn open_backend(&self) -> Result<Box<dyn Ops>, OpsError> {
        Ok(match self.backend {
            Backend::Cpu => {
                let threads = self.threads.unwrap_or(0);
                Box::new(Cpu::new(CpuOptions { threads, precise: self.precise, isa: None })?)
            }
            Backend::Reference => Box::new(Reference),
        })
    }
}

/// What of the numbers is chosen when a model is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numerics {
    /// f32 keys and values, and with [`Options::precise`] f32 inside products.
    pub precise: bool,
    /// How keys and values are stored; by default F16, or F32 if precise.
    pub kv: Option<DType>,
    /// Experts for each token where fewer are wanted than the model's router chooses. Their weights are made to sum to 1
    /// where the model does so with its own number.
    pub top_k: Option<usize>,
}

impl From<bool> for Numerics {
    fn from(precise: bool) -> Self {
        Numerics { precise, ..Numerics::default() }
    }
}

/// A model on disk, checked and measured, with nothing read yet.
pub struct Inspection {
    pub(crate) checkpoint: Arc<Checkpoint>,
    /// config.json, with what [`Numerics`] change in it.
    config: Value,
    /// Experts for each token by the model's own config; 0 in a dense model.
    top_k_own: usize,
    facts: Facts,
    /// Bytes of the weights outside the experts.
    pub trunk: TrunkNeeds,
    /// Bytes of tables of which single rows are read, and which never are in memory as a whole.
    pub table_bytes: u64,
    /// File and first byte of the tensors of which single rows are read.
    row_tensors: Vec<(usize, u64)>,
    pub(crate) largest_tensor_bytes: usize,
    /// The trunk's matrices, by name.
    pub(crate) matrices: Vec<(String, StoredMatrix)>,
    /// Where the experts lie.
    pub layout: Arc<ExpertLayout>,
    pub(crate) shapes: Vec<Option<ExpertShape>>,
    /// Measures workspaces; its tensors have no memory.
    model: Box<dyn Model>,
    kv: DType,
}

impl Inspection {
    /// Opens a checkpoint and checks that every tensor that the model needs is there and fits.
    ///
    /// # Errors
    /// One line that names the file, key or tensor.
    pub fn open(path: &Path, numerics: impl Into<Numerics>) -> Result<Inspection, EngineError> {
        Inspection::open_mirrored(path, &[], numerics)
    }

    /// [`Inspection::open`] of a model that lies in the folders `mirrors` too, on other drives.
    ///
    /// # Errors
    /// As [`Inspection::open`], and when a mirror is none.
    pub fn open_mirrored(
        path: &Path,
        mirrors: &[PathBuf],
        numerics: impl Into<Numerics>,
    ) -> Result<Inspection, EngineError> {
        let numerics = numerics.into();
        let checkpoint = Arc::new(gguf::open(path, mirrors)?);
        let in_files = |error: ModelError| error.in_files_of(&checkpoint);
        let family = registry::family(&Config(checkpoint.config())).map_err(in_files)?;
        let text = Config(checkpoint.config()).text();
        let top_k_own = text.size_or_zero(text.spelling(TOP_K)).map_err(in_files)?;
        let mut config = checkpoint.config().clone();
        if let Some(top_k) = numerics.top_k {
            choose_fewer_experts(&mut config, text.spelling(TOP_K), top_k, top_k_own)?;
        }
        let kv = numerics.kv.unwrap_or(if numerics.precise { DType::F32 } else { DType::F16 });
        let mut weights = Weights::measure(&checkpoint);
        let model = family.model(&Config(&config), &mut weights, kv).map_err(in_files)?;
        let facts = model.facts().clone();
        let widths = model.state_layout().kv.iter().flatten().flat_map(|kv| [kv.k_dim, kv.v_dim]);
        if let Some(width) = widths.into_iter().find(|width| kv == DType::Q8 && !width.is_multiple_of(Q8_BLOCK)) {
            return Err(EngineError::Q8Width { width });
        }
        let unread: Vec<String> = gguf::unread(&checkpoint, weights.declared()).map(str::to_owned).collect();
        let Measured { trunk, table_bytes, row_tensors, largest_tensor_bytes, matrices, layout, shapes } =
            weights.measured(facts.layers);
        let inspection = Inspection {
            checkpoint,
            config,
            top_k_own,
            facts,
            trunk,
            table_bytes,
            row_tensors,
            largest_tensor_bytes,
            matrices,
            layout: Arc::new(layout),
            shapes,
            model,
            kv,
        };
        inspection.refuse_unread(&unread)?;
        Ok(inspection)
    }

    /// Refuses a GGUF file with a bias, a scale or an adapter that would change what the model says, and is not read.
    fn refuse_unread(&self, names: &[String]) -> Result<(), EngineError> {
        match names.iter().filter(|name| self.left_unread(name).is_none()).min() {
            None => Ok(()),
            Some(name) => Err(EngineError::Model(ModelError::Tensor(format!(
                "{}: tensor {name} is none that a model of this architecture is computed with here; take another conversion of it",
                self.checkpoint.gguf().map_or(self.checkpoint.dir(), |metadata| metadata.path()).display(),
            )))),
        }
    }

    /// Packs the model into the folder `out`: see [`packing::pack`].
    ///
    /// # Errors
    /// As [`packing::pack`].
    pub fn pack(
        &self,
        requantise: Option<Affine>,
        out: &Path,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Packed, EngineError> {
        let config = Config(self.checkpoint.config());
        let mut weights = Weights::declare();
        registry::family(&config)?.model(&config, &mut weights, self.kv)?;
        let experts = weights.declared().iter().filter(|declared| declared.kind == DeclaredKind::Experts);
        let names: Vec<String> = experts.map(|declared| declared.name.clone()).collect();
        let source = packing::Source {
            checkpoint: &self.checkpoint,
            layout: &self.layout,
            row_tensors: &self.row_tensors,
            shapes: &self.shapes,
            names: &names,
        };
        Ok(packing::pack(&source, requantise, out, progress)?)
    }

    /// The files.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Tensors that are not read: those of vision, and the heads for multi-token prediction.
    pub fn skipped(&self) -> [usize; 2] {
        let count = |of| self.checkpoint.tensors().filter(|(name, _)| self.left_unread(name) == Some(of)).count();
        [count(Unread::Vision), count(Unread::Mtp)]
    }

    /// Why a tensor is left unread, if it is: GGUF files have the heads for multi-token prediction as further layers.
    fn left_unread(&self, name: &str) -> Option<Unread> {
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        if layer.is_some_and(|layer| layer >= self.facts.layers) {
            Some(Unread::Mtp)
        } else {
            left_unread(name, self.facts.layers)
        }
    }

    /// How matrices are stored, and the bytes of all that are stored so: those of the trunk, and of experts.
    pub fn stored(&self) -> [BTreeMap<String, u64>; 2] {
        let mut all = [BTreeMap::new(), BTreeMap::new()];
        let mut add = |of: usize, stored: &StoredMatrix, count: usize| {
            *all[of].entry(stored.to_string()).or_default() += (stored.bytes() * count) as u64;
        };
        self.matrices.iter().for_each(|(_, stored)| add(0, stored, 1));
        for (layer, shape) in self.shapes.iter().enumerate() {
            let present = shape.iter().flat_map(ExpertShape::present);
            present.for_each(|(_, stored)| add(1, stored, self.layout.experts(layer)));
        }
        all
    }

    /// Weights of the model, and the bytes that they take as stored.
    ///
    /// # Errors
    /// As [`Inspection::open`].
    pub fn parameters(&self) -> Result<(u64, u64), EngineError> {
        let config = Config(self.checkpoint.config());
        let mut weights = Weights::declare();
        registry::family(&config)?.model(&config, &mut weights, self.kv)?;
        let elements = |shape: &[usize]| shape.iter().map(|&dim| dim as u64).product::<u64>();
        let read = self.checkpoint.tensors().filter(|(name, _)| self.left_unread(name).is_none());
        let bytes = read.map(|(_, info)| info.bytes).sum();
        Ok((weights.declared().iter().map(|tensor| elements(&tensor.shape)).sum(), bytes))
    }

    /// The model's numbers.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// How a sequence's state is laid out.
    pub fn model(&self) -> &dyn Model {
        &*self.model
    }

    /// Every buffer's size under these options.
    ///
    /// # Errors
    /// When the memory is too small.
    pub fn plan(&self, options: &Options) -> Result<Plan, EngineError> {
        let scratch = |chunk| Scratch::bytes(&*self.model, chunk);
        let sequence = |ctx, chunk| self.model.state_layout().slots(ctx, sweep_rows(&*self.model, chunk));
        let ask = Ask { ram: options.ram, ctx: options.ctx, chunk: options.prefill_chunk };
        let sweep = |chunk| sweep_rows(&*self.model, chunk);
        Ok(Plan::new(&self.needs(options, self.trunk.clone(), &scratch, &sweep, &sequence), ask)?)
    }

    /// Tokens of prompts that one sweep over the layers, and one read of each expert, serves under a plan: a chunk's where memory has
    /// no room for a layer's experts.
    pub fn sweep_tokens(&self, plan: &Plan) -> usize {
        let slots = |class: usize| plan.class_pieces[class] * (plan.piece_bytes / self.layout.classes()[class]);
        let mut sparse = (0..self.layout.layers()).filter(|&layer| self.layout.experts(layer) > 0);
        match sparse.all(|layer| slots(self.layout.class(layer)) >= self.layout.experts(layer)) {
            true => sweep_rows(&*self.model, plan.chunk),
            false => plan.chunk,
        }
    }

    /// What the model needs, with such a trunk; see [`Needs`] for `scratch`, `sweep` and `sequence`.
    pub(crate) fn needs<'a>(
        &self,
        options: &Options,
        trunk: TrunkNeeds,
        scratch: &'a dyn Fn(usize) -> usize,
        sweep: &'a dyn Fn(usize) -> usize,
        sequence: &'a dyn Fn(usize, usize) -> Vec<(usize, usize)>,
    ) -> Needs<'a> {
        let has = |layer: usize, class| self.layout.experts(layer) > 0 && self.layout.class(layer) == class;
        let of_class = |class| (0..self.layout.layers()).filter(move |&layer| has(layer, class));
        let class = |(class, &slot_bytes): (usize, &usize)| ClassNeeds {
            slot_bytes,
            experts: self.layout.experts_of_class(class),
            of_layer: of_class(class).map(|layer| self.layout.experts(layer)).max().unwrap_or(0),
            layers: of_class(class).count(),
            at_once: self.facts.top_k,
        };
        Needs {
            process: PROCESS_BYTES
                + options.beside
                + self.tables_bytes()
                + self.window_bytes()
                + (options.threads.unwrap_or(1) + READING_THREADS) * THREAD_BYTES,
            trunk,
            scratch,
            sweep,
            classes: self.layout.classes().iter().enumerate().map(class).collect(),
            sequence,
            context_max: self.facts.context_max,
        }
    }

    /// Page cache that reads in flight hold, where the file system refuses direct I/O.
    fn window_bytes(&self) -> usize {
        let direct = self.checkpoint.files().iter().all(|file| file.is_direct());
        if direct { 0 } else { read::BUFFERED_WINDOW_BYTES_MAX }
    }

    /// The matrices that every token goes through: those of the trunk, less the embedding unless it is the head too.
    pub(crate) fn products(&self) -> impl Iterator<Item = (&str, &StoredMatrix)> {
        let headed = self.matrices.iter().any(|(name, _)| name.ends_with("lm_head.weight"));
        let used = move |name: &str| !headed || !name.ends_with("embed_tokens.weight");
        self.matrices.iter().map(|(name, stored)| (name.as_str(), stored)).filter(move |(name, _)| used(name))
    }

    /// Bytes of weights that a token needs: those outside the experts, and those of its experts.
    pub fn token_bytes(&self) -> [u64; 2] {
        let trunk = self.products().map(|(_, stored)| stored.bytes() as u64).sum();
        let id = |layer: usize| ExpertId { layer: layer as u32, expert: 0 };
        let sparse = (0..self.layout.layers()).filter(|&layer| self.layout.experts(layer) > 0);
        [trunk, sparse.map(|layer| self.facts.top_k as u64 * self.layout.expert_bytes(id(layer))).sum()]
    }

    /// Bytes of memory to measure the drive with.
    pub fn probe_bytes(&self) -> usize {
        PROBE_EXPERTS * self.layout.classes().iter().max().copied().unwrap_or(0)
    }

    /// Builds the model over other weights of the same checkpoint.
    pub(crate) fn build(&self, weights: &mut Weights) -> Result<Box<dyn Model>, EngineError> {
        let config = Config(&self.config);
        Ok(registry::family(&config)?.model(&config, weights, self.kv)?)
    }

    /// What makes the output another one than the model's own, in words; `None` where nothing does.
    pub fn lossy(&self) -> Option<String> {
        let mut what = Vec::new();
        if self.facts.top_k < self.top_k_own {
            what.push(format!("{} of the {} experts that its router chooses", self.facts.top_k, self.top_k_own));
        }
        if self.kv == DType::Bf16 {
            what.push("keys and values rounded to the 8 bits of bf16".to_owned());
        }
        if self.kv == DType::Q8 {
            what.push(format!("keys and values rounded to 8 bits in blocks of {Q8_BLOCK}"));
        }
        if let Some(experts) = self.checkpoint.pack().and_then(Manifest::requantised) {
            what.push(format!("experts requantised to {experts} when they were packed"));
        }
        (!what.is_empty()).then(|| what.join(", and "))
    }

    /// Names the model and everything that changes the bits of its results.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn identity(&self, options: &Options, ops: &dyn Ops) -> Result<String, EngineError> {
        let bytes: u64 = self.checkpoint.files().iter().map(|file| file.bytes()).sum();
        let Facts { family, layers, hidden, vocab, .. } = self.facts;
        let backend = ops.describe();
        let backend = backend.split(',').next().unwrap_or_default();
        let mut numerics = if options.precise { "precise" } else { "default" }.to_owned();
        if self.facts.top_k < self.top_k_own {
            numerics += &format!(", {} of {} experts", self.facts.top_k, self.top_k_own);
        }
        let weights = self.checkpoint.fingerprint()?;
        Ok(format!(
            "{family} {layers}x{hidden} vocab {vocab} of {bytes} bytes {weights:016x}, {} on {backend}, {numerics}",
            self.kv
        ))
    }

    /// Names and places of tensors, and the experts' layout and residency.
    fn tables_bytes(&self) -> usize {
        let entries = self.checkpoint.tensors().count() * TENSOR_ENTRY_BYTES;
        entries + self.layout.experts_total() * EXPERT_ENTRY_BYTES + self.checkpoint.checksum_bytes()
    }
}

fn choose_fewer_experts(config: &mut Value, key: &str, top_k: usize, own: usize) -> Result<(), EngineError> {
    if !(1..=own).contains(&top_k) {
        return Err(EngineError::TopK { top_k, own });
    }
    let has_text = config.get("text_config").is_some_and(Value::is_object);
    let text = if has_text { &mut config["text_config"] } else { config };
    text[key] = top_k.into();
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Unread {
    Vision,
    Mtp,
}

/// The layer that a tensor is of.
fn layer_of(name: &str) -> Option<usize> {
    name.split_once("layers.")?.1.split('.').next()?.parse().ok()
}

/// Why a tensor of a language model's checkpoint is left unread, if it is, by its name.
fn left_unread(name: &str, layers: usize) -> Option<Unread> {
    let has = |part: &str| name.starts_with(part) || name.contains(&format!(".{part}"));
    if has("visual.") || has("vision_tower.") {
        Some(Unread::Vision)
    } else if has("mtp.") || layer_of(name).is_some_and(|layer| layer >= layers) {
        Some(Unread::Mtp)
    } else {
        None
    }
}

/// Code, stacks, allocator and kernel tables of a process that runs a small model (measured: see EXPERIMENTS.md).
const PROCESS_BYTES: usize = 16 << 20;
/// Experts in flight together while the drive is measured.
pub const PROBE_EXPERTS: usize = 8;
/// Stack and scratch of a thread that computes.
const THREAD_BYTES: usize = 256 << 10;
/// The thread that keeps the drive at work.
const READING_THREADS: usize = 1;
/// A tensor's name, shape and place, with its share of the hash table (measured on 18,867 tensors).
const TENSOR_ENTRY_BYTES: usize = 320;
/// An expert's extents, slot, places in three queues and cell of the residency's map.
const EXPERT_ENTRY_BYTES: usize = 184;
