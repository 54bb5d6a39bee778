//! A loaded model with its residency. It owns the loop over layers; between two layers it reports progress and may be
//! cancelled.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use outpour_kernels::cpu::{Cpu, CpuOptions};
use outpour_kernels::reference::Reference;
use outpour_kernels::{DType, Ops, OpsError, Tensor};
use outpour_model::blocks::moe::Choices;
use outpour_model::config::Config;
use outpour_model::experts::StreamStats;
use outpour_model::state::BlockPool;
use outpour_model::weights::{ExpertShape, Weights, allocate_region};
use outpour_model::{Batch, ExpertStream, Facts, Model, ModelError, RouteSink, Run, State, Workspace, registry};
use outpour_store::StoreError;
use outpour_store::checkpoint::Checkpoint;
use outpour_store::layout::ExpertLayout;
use outpour_store::plan::{Ask, ClassNeeds, Needs, Plan};
use outpour_store::read::{self, ReaderKind};
use outpour_store::residency::Residency;
use outpour_store::slab::Slab;

/// Positions whose logits are computed together at most.
const HEAD_ROWS: usize = 8;

/// What can go wrong with a loaded model.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Files, memory or reads.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The model's config, tensors or state.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The backend.
    #[error(transparent)]
    Ops(#[from] OpsError),
    /// More tokens than the context holds.
    #[error(
        "{tokens} tokens do not fit the context of {ctx}: shorten the prompt, or raise --ctx (this model allows {ctx_max})"
    )]
    ContextFull {
        /// Tokens of prompt and answer.
        tokens: usize,
        /// The context given.
        ctx: usize,
        /// The model's own.
        ctx_max: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token id {token} is outside the model's vocabulary of {vocab}: ids go from 0 to {}", vocab - 1)]
    TokenOutOfRange {
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// There is nothing to compute.
    #[error("the prompt is empty: give at least one token")]
    NoTokens,
    /// The observer asked to stop.
    #[error("stopped")]
    Cancelled,
    /// The operating system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
}

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
    /// Threads that compute; by default the physical cores that the process may use.
    pub threads: Option<usize>,
    /// f32 inside products, and f32 keys and values.
    pub precise: bool,
    /// Which operations.
    pub backend: Backend,
    /// Which reader.
    pub reader: ReaderKind,
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
            reader: ReaderKind::Auto,
        }
    }
}

/// A sequence of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceId(usize);

/// How far a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Tokens of the sequence that are computed, those of this batch not counted.
    pub tokens_done: usize,
    /// Tokens of the sequence.
    pub tokens_total: usize,
    /// Tokens of this batch.
    pub batch_tokens: usize,
    /// Layers of this batch that are computed.
    pub layers_done: usize,
    /// Layers of the model.
    pub layers: usize,
}

/// Watches the engine work. Every method has an empty default.
pub trait Observer {
    /// The router's choice of a layer: `[positions, top_k]`, in descending order of weight.
    fn routes(&mut self, _layer: usize, _positions: &[u32], _choice: &[i32], _weights: &[f32]) {}

    /// Logits `[vocab]` after the token at `position`; only of sequences that asked for all of them.
    fn logits(&mut self, _sequence: SequenceId, _position: usize, _logits: &[f32]) {}

    /// Told after every layer; [`ControlFlow::Break`] stops the batch, and its tokens stay pending.
    fn progress(&mut self, _progress: Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl Observer for () {}

struct Routes<'a>(&'a mut dyn Observer);

impl RouteSink for Routes<'_> {
    fn chosen(&mut self, layer: usize, positions: &[u32], choice: &[i32], weights: &[f32]) {
        self.0.routes(layer, positions, choice, weights);
    }
}

/// A model on disk, checked and measured, with nothing read yet.
pub struct Inspection {
    checkpoint: Arc<Checkpoint>,
    facts: Facts,
    /// Bytes of the trunk buffer.
    pub trunk_bytes: usize,
    /// Where the experts lie.
    pub layout: Arc<ExpertLayout>,
    shapes: Vec<Option<ExpertShape>>,
    /// Measures workspaces; its tensors have no memory.
    model: Box<dyn Model>,
    kv: DType,
}

impl Inspection {
    /// Opens a checkpoint and checks that every tensor that the model needs is there and fits.
    ///
    /// # Errors
    /// One line that names the file, key or tensor.
    pub fn open(path: &Path, precise: bool) -> Result<Inspection, EngineError> {
        let checkpoint = Arc::new(Checkpoint::open(path)?);
        let config = Config(checkpoint.config());
        let kv = if precise { DType::F32 } else { DType::F16 };
        let mut weights = Weights::measure(&checkpoint);
        let model = (registry::family(&config)?.build)(&config, &mut weights, kv)?;
        let facts = model.facts().clone();
        let measured = weights.measured(facts.layers);
        let (trunk_bytes, layout, shapes) = (measured.trunk_bytes, Arc::new(measured.layout), measured.shapes);
        Ok(Inspection { checkpoint, facts, trunk_bytes, layout, shapes, model, kv })
    }

    /// The files.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
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
        let class = |(class, &slot_bytes): (usize, &usize)| ClassNeeds {
            slot_bytes,
            experts: self.layout.experts_of_class(class),
            at_once: self.facts.top_k,
        };
        let state = self.model.state_layout();
        let needs = Needs {
            process: PROCESS_BYTES + options.beside + self.tables_bytes(),
            trunk: self.trunk_bytes,
            scratch: &|chunk| Scratch::bytes(&*self.model, chunk),
            classes: self.layout.classes().iter().enumerate().map(class).collect(),
            block_bytes: state.block_bytes,
            block_tokens: state.block_tokens,
            context_max: self.facts.context_max,
        };
        Ok(Plan::new(&needs, Ask { ram: options.ram, ctx: options.ctx, chunk: options.prefill_chunk })?)
    }

    /// Names and places of tensors, and the experts' layout and residency.
    fn tables_bytes(&self) -> usize {
        self.checkpoint.tensors().count() * TENSOR_ENTRY_BYTES + self.layout.experts_total() * EXPERT_ENTRY_BYTES
    }
}

/// Code, stacks, allocator and kernel tables of a process that runs a small model (measured: see EXPERIMENTS.md).
const PROCESS_BYTES: usize = 24 << 20;
/// A tensor's name, shape and place, with its share of the hash table (measured on 18,867 tensors).
const TENSOR_ENTRY_BYTES: usize = 320;
/// An expert's extents, slot and list entries.
const EXPERT_ENTRY_BYTES: usize = 160;

/// Buffers for activations, allocated once.
struct Scratch {
    x: Tensor,
    head_x: Tensor,
    logits: Tensor,
    workspace: Workspace,
    logits_host: Vec<f32>,
}

impl Scratch {
    fn parts(model: &dyn Model, chunk: usize) -> [usize; 4] {
        let facts = model.facts();
        let workspace = model.workspace_bytes(chunk).max(Workspace::f32_bytes(HEAD_ROWS * facts.hidden));
        let f32s = Workspace::f32_bytes;
        [f32s(chunk * facts.hidden), f32s(HEAD_ROWS * facts.hidden), f32s(HEAD_ROWS * facts.vocab), workspace]
    }

    /// Device buffers, the host's copy of the logits and what a backend rounds activations into.
    fn bytes(model: &dyn Model, chunk: usize) -> usize {
        let facts = model.facts();
        Self::parts(model, chunk).iter().sum::<usize>() + 4 * HEAD_ROWS * facts.vocab + model.workspace_bytes(chunk) / 4
    }

    fn new(model: &dyn Model, chunk: usize, ops: &dyn Ops) -> Result<Scratch, OpsError> {
        let facts = model.facts();
        let [x, head_x, logits, workspace] = Self::parts(model, chunk);
        let tensor = |bytes, shape: [usize; 2]| Ok::<_, OpsError>(Tensor::new(ops.alloc(bytes)?, 0, shape, DType::F32));
        Ok(Scratch {
            x: tensor(x, [chunk, facts.hidden])?,
            head_x: tensor(head_x, [HEAD_ROWS, facts.hidden])?,
            logits: tensor(logits, [HEAD_ROWS, facts.vocab])?,
            workspace: Workspace::new(ops.alloc(workspace)?),
            logits_host: vec![0.0; HEAD_ROWS * facts.vocab],
        })
    }
}

/// A sequence's work.
#[derive(Default)]
struct Sequence {
    /// Tokens whose state is not computed yet.
    pending: Vec<u32>,
    /// How many of them are done.
    done: usize,
    /// Whether the observer wants the logits of every position.
    all_logits: bool,
    /// Logits after the last token.
    logits: Vec<f32>,
    /// Whether `logits` are those.
    ready: bool,
}

/// What the engine has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Streaming of experts.
    pub stream: StreamStats,
    /// Time in batches of several tokens.
    pub prefill_time: Duration,
    /// Their tokens.
    pub prefill_tokens: usize,
    /// Time in batches of one token a sequence.
    pub decode_time: Duration,
    /// Their tokens.
    pub decode_tokens: usize,
}

/// A loaded model.
pub struct Engine {
    ops: Box<dyn Ops>,
    model: Box<dyn Model>,
    checkpoint: Arc<Checkpoint>,
    plan: Plan,
    experts: ExpertStream,
    blocks: BlockPool,
    scratch: Scratch,
    choices: Choices,
    batch: Batch,
    wanted: Vec<u32>,
    states: Vec<State>,
    sequences: Vec<Option<Sequence>>,
    stats: Stats,
    identity: String,
}

impl Engine {
    /// Loads a model: plans, allocates, and reads the trunk. `progress` is told bytes read and bytes in all.
    ///
    /// # Errors
    /// When the memory is too small, or a file cannot be read.
    pub fn load(
        inspection: Inspection,
        options: &Options,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Engine, EngineError> {
        let plan = inspection.plan(options)?;
        let Inspection { checkpoint, layout, shapes, trunk_bytes, kv, .. } = inspection;
        let ops = open_backend(options)?;
        let mut reader = read::open(options.reader).map_err(|source| EngineError::System {
            what: "--reader uring cannot be used here, try --reader pread",
            source,
        })?;

        let config = Config(checkpoint.config());
        let mut weights = Weights::load(&checkpoint, ops.alloc_host(trunk_bytes)?);
        let model = (registry::family(&config)?.build)(&config, &mut weights, kv)?;
        weights.read_trunk(&mut *reader, progress)?;

        let mut sizes = layout.classes().to_vec();
        sizes.push(model.state_layout().block_bytes);
        let slab = Slab::new(plan.pieces(), plan.piece_bytes, &sizes, |bytes| allocate_region(&*ops, bytes))?;
        let residency = Residency::new(slab, layout.clone(), &plan.class_pieces);
        let identity = identity(&checkpoint, model.facts(), kv, options, &*ops);
        let scratch = Scratch::new(&*model, plan.chunk, &*ops)?;
        Ok(Engine {
            experts: ExpertStream::new(checkpoint.clone(), layout, shapes, residency, reader),
            ops,
            model,
            checkpoint,
            blocks: BlockPool::default(),
            scratch,
            choices: Choices::default(),
            batch: Batch::default(),
            wanted: Vec::new(),
            states: Vec::new(),
            sequences: Vec::new(),
            stats: Stats::default(),
            plan,
            identity,
        })
    }

    /// The model's numbers.
    pub fn facts(&self) -> &Facts {
        self.model.facts()
    }

    /// Every buffer's size.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        Stats { stream: self.experts.stats(), ..self.stats }
    }

    /// Backend and reader, for people.
    pub fn describe(&self) -> String {
        format!("{}; {}", self.ops.describe(), self.experts.describe_reader())
    }

    /// A new, empty sequence.
    pub fn open_sequence(&mut self) -> SequenceId {
        let sequence = Sequence { logits: vec![0.0; self.facts().vocab], ..Sequence::default() };
        let free = self.sequences.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.sequences.push(None);
            self.states.push(State::default());
            self.sequences.len() - 1
        });
        self.sequences[index] = Some(sequence);
        self.states[index] = State::default();
        SequenceId(index)
    }

    /// Ends a sequence and gives its memory back to the experts.
    pub fn close_sequence(&mut self, id: SequenceId) {
        self.states[id.0] = State::default();
        self.sequences[id.0] = None;
        self.blocks.reclaim(self.experts.residency());
    }

    fn sequence(&mut self, id: SequenceId) -> &mut Sequence {
        self.sequences[id.0].as_mut().expect("invariant: a SequenceId is used between open and close only")
    }

    /// Tokens whose state is computed.
    pub fn tokens_done(&self, id: SequenceId) -> usize {
        self.states[id.0].tokens()
    }

    /// Adds tokens to a sequence's work. With `all_logits`, the observer is shown the logits of each of them.
    ///
    /// # Errors
    /// When they are no tokens of the model, or do not fit the context.
    pub fn enqueue(&mut self, id: SequenceId, tokens: &[u32], all_logits: bool) -> Result<(), EngineError> {
        let vocab = self.facts().vocab;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab) {
            return Err(EngineError::TokenOutOfRange { token, vocab });
        }
        let (ctx, ctx_max) = (self.plan.ctx, self.facts().context_max);
        let computed = self.states[id.0].tokens();
        let sequence = self.sequence(id);
        let total = computed + sequence.pending.len() - sequence.done + tokens.len();
        if total > ctx {
            return Err(EngineError::ContextFull { tokens: total, ctx, ctx_max });
        }
        sequence.pending.drain(..sequence.done);
        sequence.done = 0;
        sequence.pending.extend_from_slice(tokens);
        sequence.all_logits = all_logits;
        sequence.ready &= tokens.is_empty();
        Ok(())
    }

    /// Logits `[vocab]` after a sequence's last token, when all its work is done.
    pub fn logits(&self, id: SequenceId) -> Option<&[f32]> {
        let sequence = self.sequences[id.0].as_ref()?;
        sequence.ready.then_some(&sequence.logits)
    }

    /// Forgets a sequence's tokens from position `tokens` on, and all its work.
    pub fn truncate(&mut self, id: SequenceId, tokens: usize) {
        self.states[id.0].truncate(tokens, self.model.state_layout());
        self.blocks.reclaim(self.experts.residency());
        let sequence = self.sequence(id);
        sequence.pending.clear();
        sequence.done = 0;
        sequence.ready = false;
    }

    /// A second sequence with the same past.
    pub fn fork(&mut self, id: SequenceId) -> SequenceId {
        let state = self.states[id.0].fork();
        let fork = self.open_sequence();
        self.states[fork.0] = state;
        fork
    }

    /// Writes a sequence's state.
    ///
    /// # Errors
    /// When `out` does.
    pub fn save(&self, id: SequenceId, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        self.states[id.0].save(&self.identity, self.model.state_layout(), &*self.ops, out)
    }

    /// Reads a sequence's state back, in place of the one it has.
    ///
    /// # Errors
    /// When it is damaged, or of another model or other numerics.
    pub fn restore(&mut self, id: SequenceId, input: &mut dyn std::io::Read) -> Result<(), EngineError> {
        self.truncate(id, 0);
        let (layout, ctx) = (self.model.state_layout(), self.plan.ctx);
        let residency = self.experts.residency();
        self.states[id.0] = State::load(&self.identity, layout, &self.blocks, residency, &*self.ops, ctx, input)?;
        Ok(())
    }

    /// Computes the next batch: a chunk of the first sequence that has work. Returns whether there was any.
    ///
    /// # Errors
    /// When an expert cannot be read, a file changed, or the observer stopped it. The batch's tokens stay pending, and
    /// every sequence is as it was before.
    pub fn tick(&mut self, observer: &mut dyn Observer) -> Result<bool, EngineError> {
        let has_work = |sequence: &Option<Sequence>| sequence.as_ref().is_some_and(|s| s.done < s.pending.len());
        let Some(index) = self.sequences.iter().position(has_work) else { return Ok(false) };
        let began = std::time::Instant::now();
        let start = self.states[index].tokens();
        let tokens = self.fill_batch(index, start);
        let residency = self.experts.residency();
        self.states[index].reserve(start + tokens, self.model.state_layout(), &self.blocks, residency, &*self.ops)?;
        let computed = self.forward(index, observer);
        let computed = computed.and_then(|()| Ok(self.checkpoint.check_unchanged()?));
        if let Err(error) = computed {
            self.experts.abandon();
            self.scratch.workspace.clear();
            return Err(error);
        }
        self.states[index].advance(tokens);
        self.head(index, observer);
        let took = began.elapsed();
        if tokens > 1 {
            self.stats.prefill_tokens += tokens;
            self.stats.prefill_time += took;
        } else {
            self.stats.decode_tokens += tokens;
            self.stats.decode_time += took;
        }
        Ok(true)
    }

    /// Puts a sequence's next tokens into the batch; returns how many.
    fn fill_batch(&mut self, index: usize, start: usize) -> usize {
        let sequence = self.sequences[index].as_ref().expect("invariant: the sequence has work");
        let left = &sequence.pending[sequence.done..];
        let tokens = left.len().min(self.plan.chunk);
        self.batch.clear();
        self.batch.push(index, start, &left[..tokens]);
        tokens
    }

    fn forward(&mut self, index: usize, observer: &mut dyn Observer) -> Result<(), EngineError> {
        let facts = self.model.facts();
        let sequence = self.sequences[index].as_ref().expect("invariant: the sequence has work");
        let tokens_done = self.states[index].tokens();
        let tokens_total = tokens_done + sequence.pending.len() - sequence.done;
        let x = self.scratch.x.rows(0..self.batch.len());
        self.model.embed(&*self.ops, &self.batch, &x);
        for layer in 0..facts.layers {
            let mut run = Run {
                ops: &*self.ops,
                workspace: &mut self.scratch.workspace,
                experts: &mut self.experts,
                choices: &mut self.choices,
                routes: &mut Routes(observer),
            };
            self.model.layer(layer, &self.batch, &mut self.states, &x, &mut run)?;
            let batch_tokens = self.batch.len();
            let progress =
                Progress { tokens_done, tokens_total, batch_tokens, layers_done: layer + 1, layers: facts.layers };
            if observer.progress(progress).is_break() {
                return Err(EngineError::Cancelled);
            }
        }
        Ok(())
    }

    /// Logits of the batch's rows that are wanted.
    fn head(&mut self, index: usize, observer: &mut dyn Observer) {
        let vocab = self.model.facts().vocab;
        let rows = self.batch.len();
        let sequence = self.sequences[index].as_mut().expect("invariant: the sequence has work");
        sequence.done += rows;
        let last = sequence.done == sequence.pending.len();
        let first = if sequence.all_logits { 0 } else { rows - 1 };
        if !last && !sequence.all_logits {
            return;
        }
        self.wanted.clear();
        self.wanted.extend(first as u32..rows as u32);
        for some in self.wanted.chunks(HEAD_ROWS) {
            let x = self.scratch.head_x.rows(0..some.len());
            let logits = self.scratch.logits.rows(0..some.len());
            self.ops.gather(&self.scratch.x, some, &x);
            self.model.head(&*self.ops, &mut self.scratch.workspace, &x, &logits);
            let host = &mut self.scratch.logits_host[..some.len() * vocab];
            self.ops.fetch(&logits, bytemuck::cast_slice_mut(host)).wait();
            for (&row, logits) in some.iter().zip(host.chunks(vocab)) {
                if sequence.all_logits {
                    observer.logits(SequenceId(index), self.batch.positions[row as usize] as usize, logits);
                }
                if last && row as usize == rows - 1 {
                    sequence.logits.copy_from_slice(logits);
                    sequence.ready = true;
                }
            }
        }
    }
}

fn open_backend(options: &Options) -> Result<Box<dyn Ops>, EngineError> {
    let threads = options.threads.unwrap_or(0);
    Ok(match options.backend {
        Backend::Cpu => Box::new(Cpu::new(CpuOptions { threads, precise: options.precise, isa: None })?),
        Backend::Reference => Box::new(Reference::default()),
    })
}

/// Names the model and everything that changes the bits of a state.
fn identity(checkpoint: &Checkpoint, facts: &Facts, kv: DType, options: &Options, ops: &dyn Ops) -> String {
    let bytes: u64 = checkpoint.files().iter().map(|file| file.bytes()).sum();
    let Facts { family, layers, hidden, vocab, .. } = facts;
    let backend = ops.describe();
    let backend = backend.split(',').next().unwrap_or_default();
    let numerics = if options.precise { "precise" } else { "default" };
    format!("{family} {layers}x{hidden} vocab {vocab} of {bytes} bytes, {kv} on {backend}, {numerics}")
}
