//! A loaded model with its residency: what it computes for a batch. Which tokens a batch is made of is `scheduler`'s.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outpour_kernels::reference::Reference;
use outpour_kernels::{Matrix, Ops, Tensor};
use outpour_model::blocks::moe::Choices;
use outpour_model::experts::{EarlyLimits, PartOf, StreamStats};
use outpour_model::state::BlockPool;
use outpour_model::weights::{RowTable, Weights, allocate_region};
use outpour_model::{Batch, ExpertStream, Facts, Model, Run, State};
use outpour_store::checkpoint::Checkpoint;
use outpour_store::machine::Machine;
use outpour_store::plan::Plan;
use outpour_store::probe::{Flow, ReadSpeed};
use outpour_store::read::{Pumped, Reader, Region};
use outpour_store::residency::{Residency, ResidencyMap};
use outpour_store::slab::Slab;

use crate::error::EngineError;
use crate::governor::{Governor, GovernorStats};
use crate::inspection::{Inspection, Options, PROBE_EXPERTS};
use crate::lookahead::{Lookahead, LookaheadMode, LookaheadStats};
use crate::observe::{LayerCost, Observer, Progress, Routes, SequenceId};
use crate::scheduler::Scheduler;
use crate::scratch::{HEAD_ROWS, Scratch, Stream, sweep_rows};
use crate::timeline::Timeline;

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
pub(crate) struct Sequence {
    /// Tokens whose state is not computed yet.
    pub(crate) pending: Vec<u32>,
    /// How many of them are done.
    pub(crate) done: usize,
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
    /// Reads that failed, or brought other bytes than were packed, and were taken again.
    pub reads_repeated: u64,
    /// Time of prompts.
    pub prefill_time: Duration,
    /// Their tokens.
    pub prefill_tokens: usize,
    /// Time of generated tokens.
    pub decode_time: Duration,
    /// Their tokens.
    pub decode_tokens: usize,
    /// Experts read before they were asked for.
    pub lookahead: LookaheadStats,
    /// Memory given back to the machine.
    pub governor: GovernorStats,
}

impl Stats {
    /// What was done since `earlier`.
    pub fn since(&self, earlier: &Stats) -> Stats {
        Stats {
            stream: self.stream.since(&earlier.stream),
            reads_repeated: self.reads_repeated - earlier.reads_repeated,
            prefill_time: self.prefill_time - earlier.prefill_time,
            prefill_tokens: self.prefill_tokens - earlier.prefill_tokens,
            decode_time: self.decode_time - earlier.decode_time,
            decode_tokens: self.decode_tokens - earlier.decode_tokens,
            lookahead: LookaheadStats {
                guessed: self.lookahead.guessed - earlier.lookahead.guessed,
                right: self.lookahead.right - earlier.lookahead.right,
                gain: self.lookahead.gain,
            },
            governor: GovernorStats {
                given_back: self.governor.given_back - earlier.governor.given_back,
                taken_again: self.governor.taken_again - earlier.governor.taken_again,
            },
        }
    }
}

/// A loaded model.
pub struct Engine {
    pub(crate) ops: Box<dyn Ops>,
    pub(crate) model: Box<dyn Model>,
    checkpoint: Arc<Checkpoint>,
    pub(crate) plan: Plan,
    trunk_token_bytes: u64,
    pub(crate) experts: ExpertStream,
    pub(crate) blocks: BlockPool,
    pub(crate) scratch: Scratch,
    choices: Choices,
    pub(crate) lookahead: Lookahead,
    wanted: Vec<u32>,
    pub(crate) states: Vec<State>,
    pub(crate) sequences: Vec<Option<Sequence>>,
    pub(crate) scheduler: Scheduler,
    stats: Stats,
    identity: String,
    timeline: Option<Timeline>,
    governor: Option<Governor>,
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
        reader: Box<dyn Reader>,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Engine, EngineError> {
        let plan = inspection.plan(options)?;
        let mut reader = Box::new(Pumped::new(reader, options.patience).map_err(EngineError::Thread)?);
        let ops = options.open_backend()?;
        let identity = inspection.identity(options, &*ops)?;

        let [trunk_token_bytes, _] = inspection.token_bytes();
        let mut weights = Weights::load(&inspection.checkpoint, &inspection.trunk, &plan.trunk, &*ops)?;
        let model = inspection.build(&mut weights)?;
        let tables = weights.take_tables();
        let ControlFlow::Continue(trunk) = weights.read_trunk(&mut *reader, progress)? else {
            return Err(EngineError::Cancelled);
        };
        tables.iter().try_for_each(|table| table.check(&*ops))?;

        let Inspection { checkpoint, layout, shapes, .. } = inspection;
        let mut sizes = layout.classes().to_vec();
        sizes.extend(model.state_layout().slot_bytes());
        let slab = Slab::new(plan.pieces, plan.piece_bytes, &sizes, |bytes| allocate_region(&*ops, bytes))?;
        let residency = Residency::new(slab, layout.clone(), &plan.class_pieces, model.facts().top_k);
        let scratch = Scratch::new(&*model, plan.chunk, &*ops)?;
        let lookahead = Lookahead::new(options.lookahead, model.facts().top_k);
        let mut experts = ExpertStream::new(checkpoint.clone(), layout, shapes, residency, trunk, reader);
        if options.lookahead == LookaheadMode::Off {
            experts.never_sweep_on();
        }
        Ok(Engine {
            experts,
            ops,
            model,
            checkpoint,
            blocks: BlockPool::default(),
            scratch,
            choices: Choices::default(),
            lookahead,
            wanted: Vec::new(),
            states: Vec::new(),
            sequences: Vec::new(),
            scheduler: Scheduler::default(),
            stats: Stats::default(),
            plan,
            identity,
            trunk_token_bytes,
            timeline: None,
            governor: None,
        })
    }

    /// Records every layer and operation from now on; reads are [`Timeline::reader`]'s.
    pub fn record(&mut self, timeline: &Timeline) {
        let ops = std::mem::replace(&mut self.ops, Box::new(Reference));
        self.ops = timeline.ops(ops);
        self.timeline = Some(timeline.clone());
    }

    /// From now on gives memory back while others on this machine, or in this control group, need it, and takes it again
    /// afterwards: what was planned is a ceiling.
    pub fn govern(&mut self, machine: Machine) {
        self.governor = Some(Governor::new(machine, self.plan.ram as u64));
    }

    /// Does what is to be done while nobody wants anything: asks the governor, if there is one. To be called every
    /// [`crate::IDLE_INTERVAL`].
    pub fn idle(&mut self) {
        self.ask_governor();
    }

    pub(crate) fn ask_governor(&mut self) {
        if let Some(governor) = &mut self.governor {
            governor.govern(&mut self.experts, &*self.ops);
        }
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
        let governor = self.governor.as_ref().map_or(GovernorStats::default(), Governor::stats);
        let reads_repeated = self.experts.reader_counts().retries;
        Stats {
            stream: self.experts.stats(),
            reads_repeated,
            lookahead: self.lookahead.stats(),
            governor,
            ..self.stats
        }
    }

    /// Experts that memory has room for now, beside the contexts.
    pub fn expert_slots(&mut self) -> usize {
        self.experts.residency().expert_slots()
    }

    /// Where every expert is and how often it was used: for others to look at while this engine works.
    pub fn residency_map(&mut self) -> Arc<ResidencyMap> {
        self.experts.residency().map().clone()
    }

    /// Bytes of one expert, as stored: of the first layer that has any.
    pub fn expert_bytes(&self) -> u64 {
        (0..self.facts().layers).map(|layer| self.experts.expert_bytes(layer)).find(|&bytes| bytes > 0).unwrap_or(0)
    }

    /// Bytes of the plan's scratch that are no buffers of the backend's: see [`Plan::buffers`].
    pub fn scratch_beside_buffers(&self) -> usize {
        Scratch::beside_buffers(&*self.model, self.plan.chunk)
    }

    /// Bytes of the weights outside the experts that every token needs.
    pub fn trunk_token_bytes(&self) -> u64 {
        self.trunk_token_bytes
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

    /// Reads every expert that is not in memory yet, if there is room for all beside the contexts; says whether there is.
    ///
    /// # Errors
    /// When a read failed.
    pub fn read_experts(&mut self) -> Result<bool, EngineError> {
        Ok(self.experts.read_all()?)
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

    /// How fast the drive gives experts of this model, read into their own memory, which is empty afterwards: for the time
    /// before the first sequence is opened. `None` where the model has no experts, or a sequence is open.
    ///
    /// # Errors
    /// When a read failed.
    pub fn probe_drive_first(&mut self, budget: Duration) -> Result<Option<ReadSpeed>, EngineError> {
        if self.facts().top_k == 0 || self.sequences.iter().any(Option::is_some) {
            return Ok(None);
        }
        self.drop_experts();
        let regions: Vec<Arc<Region>> = self.experts.residency().regions().cloned().collect();
        let flow = Flow::Steady(PROBE_EXPERTS.min(self.facts().top_k));
        Ok(Some(self.experts.probe(&regions, flow, budget, 1)?))
    }

    /// A new, empty sequence.
    pub fn open_sequence(&mut self) -> SequenceId {
        let sequence = Sequence::default();
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
        self.break_off(id);
        self.states[id.0] = State::default();
        self.sequences[id.0] = None;
        self.blocks.reclaim(self.experts.residency());
    }

    fn sequence(&mut self, id: SequenceId) -> &mut Sequence {
        self.sequences[id.0].as_mut().expect("invariant: a SequenceId is used between open and close only")
    }

    /// Tokens of prompts that one sweep over the layers, and one read of each expert, serves.
    pub fn sweep_tokens(&self) -> usize {
        sweep_rows(&*self.model, self.plan.chunk)
    }

    /// Bytes of the slab that the state of so many tokens takes.
    pub fn state_bytes(&self, tokens: usize) -> usize {
        let rows = self.sweep_tokens();
        self.model.state_layout().slots(tokens, rows).into_iter().map(|(bytes, count)| bytes * count).sum()
    }

    /// Bytes of the memory that experts and states share.
    pub fn slab_bytes(&self) -> usize {
        self.plan.pieces * self.plan.piece_bytes
    }

    /// Whether a state can go back to any earlier position; otherwise only to its beginning.
    pub fn goes_back(&self) -> bool {
        self.model.state_layout().goes_back()
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
        self.break_off(id);
        let left = self.states[id.0].truncate(tokens, self.model.state_layout());
        self.blocks.reclaim(self.experts.residency());
        let sequence = self.sequence(id);
        sequence.pending.clear();
        sequence.done = 0;
        sequence.ready = false;
        sequence.logits = Vec::new();
        left
    }

    /// A second sequence with the same past, and the same logits if they are there. Pending work is not copied.
    ///
    /// # Errors
    /// When no memory is left for a copy of its recurrent states.
    ///
    /// # Panics
    /// While a prompt of the sequence is between two layers.
    pub fn fork(&mut self, id: SequenceId) -> Result<SequenceId, EngineError> {
        assert!(!self.under_way(id.0), "invariant: a sequence is forked between batches");
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

    /// Makes room in a sequence's state for the tokens of a batch.
    ///
    /// # Errors
    /// When no memory is left.
    pub(crate) fn reserve(&mut self, index: usize, tokens: usize) -> Result<(), EngineError> {
        let end = self.states[index].tokens() + tokens;
        loop {
            let residency = self.experts.residency();
            let reserved =
                self.states[index].reserve(end, self.model.state_layout(), &self.blocks, residency, &*self.ops);
            // What was planned for contexts is theirs, also where memory was given back meanwhile, or held by reads of a drive
            // that did not answer.
            let regained = reserved.is_err()
                && (self.experts.recover()?
                    || self.governor.as_mut().is_some_and(|governor| governor.regain(&mut self.experts, &*self.ops)));
            if !regained {
                return Ok(reserved?);
            }
        }
    }

    /// Token ids → residual stream.
    ///
    /// # Errors
    /// When a row of the embedding cannot be read.
    pub(crate) fn embed(&mut self, tokens: &[u32], x: &Tensor) -> Result<(), EngineError> {
        if !self.experts.reads_rows() {
            self.model.embed(&*self.ops, self.model.embedding(), tokens, x);
            return Ok(());
        }
        let (model, ops) = (&*self.model, &*self.ops);
        let mut embed = |i: usize, row: &Matrix| model.embed(ops, row, &[0], &x.rows(i..i + 1));
        Ok(self.experts.rows(RowTable::Embedding, tokens, &mut embed)?)
    }

    /// One layer of a batch, or of a part of one: experts that it leaves in memory are there for the parts that follow. Adds what it
    /// cost to `cost`.
    pub(crate) fn layer(
        &mut self,
        batch: &Batch,
        stream: &Stream,
        part: PartOf,
        cost: &mut LayerCost,
        observer: &mut dyn Observer,
    ) -> Result<(), EngineError> {
        let (began, stream_before, layer) = (Instant::now(), self.experts.stats(), cost.layer);
        self.experts.enter_layer(layer)?;
        self.experts.come(part);
        let mut run = Run {
            ops: &*self.ops,
            workspace: &mut self.scratch.workspace,
            experts: &mut self.experts,
            choices: &mut self.choices,
            carried: stream.carried.clone(),
            routes: &mut Routes(observer),
        };
        // All rows that were to come may have been taken out.
        if !batch.is_empty() {
            self.model.layer(layer, batch, &mut self.states, &stream.x, &mut run)?;
        }
        if part.last {
            self.experts.leave_layer(layer)?;
        }
        if let Some(timeline) = &self.timeline {
            timeline.layer(layer, batch.len(), began);
        }
        cost.stream += self.experts.stats().since(&stream_before);
        cost.time += began.elapsed();
        Ok(())
    }

    /// Ends a layer that all of a batch went through: learns from it, and begins to read for the next one, where `next` comes
    /// first.
    pub(crate) fn end_layer(
        &mut self,
        cost: &LayerCost,
        (next, stream): (&Batch, &Stream),
        observer: &mut dyn Observer,
    ) -> Result<(), EngineError> {
        let layer = cost.layer + 1;
        self.lookahead.learn(self.choices.chosen(), cost);
        if layer < self.facts().layers && !self.read_known(layer, next)? {
            let helps = self.lookahead.is_on() && !self.experts.is_resident(layer);
            if helps || observer.wants_guesses() {
                self.look_ahead(layer, next, &stream.x, observer)?;
            }
        }
        observer.layer(cost);
        Ok(())
    }

    /// Tells the observer how far a batch is; `Err(Cancelled)` when it stops it.
    pub(crate) fn progress(
        &self,
        batch: &Batch,
        layers_done: usize,
        observer: &mut dyn Observer,
    ) -> Result<(), EngineError> {
        // A recurrent state cannot go back, so a single token is finished first; and what several sequences share is not
        // broken off for one of them.
        let may_stop = batch.spans.len() == 1 && (batch.len() > 1 || self.model.state_layout().recurrent_bytes == 0);
        for span in &batch.spans {
            let tokens_done = self.states[span.state].tokens();
            let sequence = self.sequences[span.state].as_ref().expect("invariant: a sequence of a batch is open");
            let progress = Progress {
                sequence: SequenceId(span.state),
                tokens_done,
                tokens_total: tokens_done + sequence.pending.len() - sequence.done,
                batch_tokens: span.rows.len(),
                layers_done,
                layers: self.facts().layers,
            };
            if observer.progress(progress).is_break() && may_stop {
                return Err(EngineError::Cancelled);
            }
        }
        Ok(())
    }

    /// Ends a batch that all layers have computed: checks its files, moves its states on, and gives the logits that are wanted.
    ///
    /// # Errors
    /// When a file that was read has changed, or logits are not numbers.
    pub(crate) fn end_batch(
        &mut self,
        batch: &Batch,
        stream: &Stream,
        time: Duration,
        observer: &mut dyn Observer,
    ) -> Result<(), EngineError> {
        let began = Instant::now();
        self.checkpoint.check_unchanged()?;
        self.wanted.clear();
        for span in &batch.spans {
            self.states[span.state].advance(span.rows.len(), self.model.state_layout());
            let sequence = self.sequences[span.state].as_mut().expect("invariant: a sequence of a batch is open");
            sequence.done += span.rows.len();
            let rows = span.rows.start as u32..span.rows.end as u32;
            if sequence.work == Work::PromptWithLogits {
                self.wanted.extend(rows);
            } else if sequence.done == sequence.pending.len() {
                self.wanted.push(rows.end - 1);
            }
        }
        let numbers = self.head(batch, &stream.x, observer);
        let time = time + began.elapsed();
        for span in &batch.spans {
            let share = time.mul_f64(span.rows.len() as f64 / batch.len() as f64);
            if self.sequences[span.state].as_ref().is_some_and(|sequence| sequence.work == Work::Step) {
                self.stats.decode_tokens += span.rows.len();
                self.stats.decode_time += share;
            } else {
                self.stats.prefill_tokens += span.rows.len();
                self.stats.prefill_time += share;
            }
        }
        match numbers {
            true => Ok(()),
            false => Err(EngineError::NotNumbers { dir: self.checkpoint.dir().to_owned() }),
        }
    }

    /// Has the experts of a layer to come read that follow from the tokens' ids; `false` where a router chooses.
    ///
    /// # Errors
    /// When the reader refuses them.
    pub(crate) fn read_known(&mut self, layer: usize, batch: &Batch) -> Result<bool, EngineError> {
        let known = self.lookahead.known();
        self.model.known(layer, &*self.ops, &mut self.scratch.workspace, &batch.tokens, known);
        let named = known.len();
        if named > 0 && !self.lookahead.is_off() {
            let limits = match self.lookahead.is_step() {
                true => EarlyLimits { bytes: u64::MAX, slots: named },
                false => self.experts.sweep_limits(layer),
            };
            self.experts.read_early(layer, self.lookahead.of_known(self.experts.experts(layer)), limits)?;
        }
        Ok(named > 0)
    }

    /// Guesses the experts of a layer to come, from the residual streams x before it, and has them read.
    fn look_ahead(
        &mut self,
        layer: usize,
        batch: &Batch,
        x: &Tensor,
        observer: &mut dyn Observer,
    ) -> Result<(), EngineError> {
        self.experts.enter_layer(layer)?;
        let guess = self.lookahead.guess_for(layer);
        self.model.guess(layer, &*self.ops, &mut self.scratch.workspace, x, guess);
        if observer.wants_guesses() {
            observer.guess(layer, &batch.positions, guess);
        }
        let has_router = !guess.is_empty();
        if !self.lookahead.is_on() || !has_router {
            return Ok(());
        }
        if self.lookahead.is_step() {
            let (experts, limits) =
                self.lookahead.of_step(self.experts.expert_bytes(layer), self.experts.guess_slots(layer));
            self.experts.read_early(layer, experts, limits)?;
        } else {
            let limits = self.experts.sweep_limits(layer);
            self.experts.read_early(layer, self.lookahead.of_prompt(self.experts.experts(layer)), limits)?;
        }
        Ok(())
    }

    /// Undoes a batch that failed or was broken off.
    pub(crate) fn abandon(&mut self, batch: &Batch) {
        self.experts.abandon();
        self.scratch.workspace.clear();
        for span in &batch.spans {
            self.states[span.state].abandon(self.model.state_layout());
        }
    }

    /// Logits of the rows in `wanted`; `false` if any of them is not a number.
    fn head(&mut self, batch: &Batch, x: &Tensor, observer: &mut dyn Observer) -> bool {
        let (vocab, mut numbers) = (self.model.facts().vocab, true);
        for some in self.wanted.chunks(HEAD_ROWS.min(self.plan.chunk)) {
            let head_x = self.scratch.head_x.rows(0..some.len());
            let logits = self.scratch.logits.rows(0..some.len());
            self.ops.gather(x, some, &head_x);
            self.model.head(&*self.ops, &mut self.scratch.workspace, &head_x, &logits);
            for (i, &row) in some.iter().enumerate() {
                let (row, logits) = (row as usize, logits.rows(i..i + 1));
                let span = batch.spans.iter().find(|span| span.rows.contains(&row));
                let span = span.expect("invariant: every row of a batch is of a span");
                let sequence = self.sequences[span.state].as_mut().expect("invariant: a sequence of a batch is open");
                let fetch = |to: &mut [f32]| self.ops.fetch(&logits, bytemuck::cast_slice_mut(to)).wait();
                if sequence.work == Work::PromptWithLogits {
                    fetch(&mut self.scratch.logits_host);
                    numbers &= are_numbers(&self.scratch.logits_host);
                    let position = batch.positions[row] as usize;
                    observer.logits(SequenceId(span.state), position, &self.scratch.logits_host);
                }
                if row + 1 == span.rows.end && sequence.done == sequence.pending.len() {
                    sequence.logits.resize(vocab, 0.0);
                    fetch(&mut sequence.logits);
                    numbers &= are_numbers(&sequence.logits);
                    sequence.ready = true;
                }
            }
        }
        numbers
    }
}

/// Whether all are numbers. Looks at each, which takes less time than to stop at the first that is none.
fn are_numbers(logits: &[f32]) -> bool {
    logits.iter().fold(true, |all, logit| all & !logit.is_nan())
}
