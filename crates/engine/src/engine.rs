//! A loaded model with its residency. It owns the loop over layers; between two layers it reports progress and may be
//! cancelled.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outpour_kernels::Ops;
use outpour_model::blocks::moe::Choices;
use outpour_model::experts::StreamStats;
use outpour_model::state::BlockPool;
use outpour_model::weights::{Weights, allocate_region};
use outpour_model::{Batch, ExpertStream, Facts, Model, Run, State};
use outpour_store::checkpoint::Checkpoint;
use outpour_store::plan::Plan;
use outpour_store::probe::{Flow, ReadSpeed};
use outpour_store::read::{Reader, Region};
use outpour_store::residency::Residency;
use outpour_store::slab::Slab;

use crate::error::EngineError;
use crate::inspection::{Inspection, Options, PROBE_EXPERTS};
use crate::observe::{LayerCost, Observer, Progress, Routes, SequenceId};
use crate::scratch::{HEAD_ROWS, Scratch};

/// What tokens are enqueued for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Work {
    /// A prompt, of which the last logits are wanted.
    #[default]
    Prompt,
    /// A prompt, of which the observer is shown the logits of every position.
    PromptWithLogits,
    /// A generated token.
    Step,
}

/// A sequence's work.
#[derive(Default)]
struct Sequence {
    /// Tokens whose state is not computed yet.
    pending: Vec<u32>,
    /// How many of them are done.
    done: usize,
    /// What the pending tokens are.
    work: Work,
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
    /// Time of prompts.
    pub prefill_time: Duration,
    /// Their tokens.
    pub prefill_tokens: usize,
    /// Time of generated tokens.
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
    guess: Vec<i32>,
    batch: Batch,
    wanted: Vec<u32>,
    states: Vec<State>,
    sequences: Vec<Option<Sequence>>,
    stats: Stats,
    identity: String,
}

impl Engine {
    /// Loads a model: plans, allocates, and reads the trunk through `reader`, which then serves the experts. `progress`
    /// is told bytes read and bytes in all, and may break off.
    ///
    /// # Errors
    /// When the memory is too small, or a file cannot be read; [`EngineError::Cancelled`] when `progress` broke off.
    pub fn load(
        inspection: Inspection,
        options: &Options,
        mut reader: Box<dyn Reader>,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Engine, EngineError> {
        let plan = inspection.plan(options)?;
        let ops = options.open_backend()?;
        let identity = inspection.identity(options, &*ops);

        let mut weights = Weights::load(&inspection.checkpoint, ops.alloc_host(inspection.trunk_bytes)?);
        let model = inspection.build(&mut weights)?;
        if weights.read_trunk(&mut *reader, progress)?.is_break() {
            return Err(EngineError::Cancelled);
        }

        let Inspection { checkpoint, layout, shapes, .. } = inspection;
        let mut sizes = layout.classes().to_vec();
        sizes.extend(model.state_layout().slot_bytes());
        let slab = Slab::new(plan.pieces, plan.piece_bytes, &sizes, |bytes| allocate_region(&*ops, bytes))?;
        let residency = Residency::new(slab, layout.clone(), &plan.class_pieces, model.facts().top_k);
        let scratch = Scratch::new(&*model, plan.chunk, &*ops)?;
        Ok(Engine {
            experts: ExpertStream::new(checkpoint.clone(), layout, shapes, residency, reader),
            ops,
            model,
            checkpoint,
            blocks: BlockPool::default(),
            scratch,
            choices: Choices::default(),
            guess: Vec::new(),
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

    /// Experts that memory has room for now, beside the contexts.
    pub fn expert_slots(&mut self) -> usize {
        self.experts.residency().expert_slots()
    }

    /// Bytes of the plan's scratch that are no buffers of the backend's: see [`Plan::buffers`].
    pub fn scratch_beside_buffers(&self) -> usize {
        Scratch::beside_buffers(&*self.model, self.plan.chunk)
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.ops.threads()
    }

    /// Names the model's shape and everything that changes the bits of its results.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Backend and reader, for people.
    pub fn describe(&self) -> String {
        format!("{}; {}", self.ops.describe(), self.experts.describe_reader())
    }

    /// Drops every expert from memory: what comes next starts cold.
    pub fn drop_experts(&mut self) {
        self.experts.residency().clear();
    }

    /// Memory to measure the drive with; the caller has counted its [`Inspection::probe_bytes`] in [`Options::beside`].
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn probe_memory(&self, bytes: usize) -> Result<Arc<Region>, EngineError> {
        Ok(allocate_region(&*self.ops, bytes)?)
    }

    /// How fast the drive gives experts of this model, several at a time, into `memory`; what is resident stays.
    ///
    /// # Errors
    /// When a read failed.
    pub fn probe_drive(&mut self, memory: &Arc<Region>, budget: Duration, seed: u64) -> Result<ReadSpeed, EngineError> {
        let flow = Flow::Steady(PROBE_EXPERTS);
        Ok(self.experts.probe(std::slice::from_ref(memory), flow, budget, seed)?)
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

    /// Adds tokens to a sequence's work.
    ///
    /// # Errors
    /// When they are no tokens of the model, or do not fit the context.
    pub fn enqueue(&mut self, id: SequenceId, tokens: &[u32], work: Work) -> Result<(), EngineError> {
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
        sequence.work = work;
        sequence.ready &= tokens.is_empty();
        Ok(())
    }

    /// Logits `[vocab]` after a sequence's last token, when all its work is done.
    pub fn logits(&self, id: SequenceId) -> Option<&[f32]> {
        let sequence = self.sequences[id.0].as_ref()?;
        sequence.ready.then_some(&sequence.logits)
    }

    /// Forgets a sequence's tokens from position `tokens` on, and all its work. Returns how many tokens are left: fewer than
    /// asked for where the model has recurrent states.
    pub fn truncate(&mut self, id: SequenceId, tokens: usize) -> usize {
        let left = self.states[id.0].truncate(tokens, self.model.state_layout());
        self.blocks.reclaim(self.experts.residency());
        let sequence = self.sequence(id);
        sequence.pending.clear();
        sequence.done = 0;
        sequence.ready = false;
        left
    }

    /// A second sequence with the same past, and the same logits if they are there. Pending work is not copied.
    ///
    /// # Errors
    /// When no memory is left for a copy of its recurrent states.
    pub fn fork(&mut self, id: SequenceId) -> Result<SequenceId, EngineError> {
        let layout = self.model.state_layout();
        let state = self.states[id.0].fork(layout, &self.blocks, self.experts.residency(), &*self.ops)?;
        let fork = self.open_sequence();
        self.states[fork.0] = state;
        if let Some(logits) = self.logits(id).map(<[f32]>::to_vec) {
            let sequence = self.sequence(fork);
            (sequence.logits, sequence.ready) = (logits, true);
        }
        Ok(fork)
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
    /// When an expert cannot be read, a file changed, or the observer stopped it. The batch's tokens stay pending, and the
    /// sequence is as it was before; one with recurrent states, which have moved on in some layers, is empty.
    pub fn tick(&mut self, observer: &mut dyn Observer) -> Result<bool, EngineError> {
        let has_work = |sequence: &Option<Sequence>| sequence.as_ref().is_some_and(|s| s.done < s.pending.len());
        let Some(index) = self.sequences.iter().position(has_work) else { return Ok(false) };
        let began = Instant::now();
        let start = self.states[index].tokens();
        let tokens = self.fill_batch(index, start);
        let residency = self.experts.residency();
        self.states[index].reserve(start + tokens, self.model.state_layout(), &self.blocks, residency, &*self.ops)?;
        let computed = self.forward(index, observer);
        let computed = computed.and_then(|()| Ok(self.checkpoint.check_unchanged()?));
        if let Err(error) = computed {
            self.experts.abandon();
            self.scratch.workspace.clear();
            self.states[index].abandon(self.model.state_layout());
            return Err(error);
        }
        self.states[index].advance(tokens);
        self.head(index, observer);
        let took = began.elapsed();
        if self.sequences[index].as_ref().is_some_and(|sequence| sequence.work == Work::Step) {
            self.stats.decode_tokens += tokens;
            self.stats.decode_time += took;
        } else {
            self.stats.prefill_tokens += tokens;
            self.stats.prefill_time += took;
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
            let (began, stream_before) = (Instant::now(), self.experts.stats());
            let mut run = Run {
                ops: &*self.ops,
                workspace: &mut self.scratch.workspace,
                experts: &mut self.experts,
                choices: &mut self.choices,
                routes: &mut Routes(observer),
            };
            self.model.layer(layer, &self.batch, &mut self.states, &x, &mut run)?;
            if layer + 1 < facts.layers && observer.wants_guesses() {
                let (ops, workspace) = (&*self.ops, &mut self.scratch.workspace);
                self.model.guess(layer + 1, ops, workspace, &x, &mut self.guess);
                observer.guess(layer + 1, &self.batch.positions, &self.guess);
            }
            let batch_tokens = self.batch.len();
            let stream = self.experts.stats().since(&stream_before);
            observer.layer(&LayerCost { layer, batch_tokens, time: began.elapsed(), stream });
            let progress =
                Progress { tokens_done, tokens_total, batch_tokens, layers_done: layer + 1, layers: facts.layers };
            // A recurrent state cannot go back, so a single token is finished first.
            let may_stop = batch_tokens > 1 || self.model.state_layout().recurrent_bytes == 0;
            if observer.progress(progress).is_break() && may_stop {
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
        let all_logits = sequence.work == Work::PromptWithLogits;
        let first = if all_logits { 0 } else { rows - 1 };
        if !last && !all_logits {
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
                if all_logits {
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
