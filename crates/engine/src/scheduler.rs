//! Which tokens are computed next.
//!
//! Short work, such as the next token of every answer, is computed together: one read of an expert serves all. Prompts take turns
//! by the sweep over the layers. While experts are missing, a sweep is several chunks long, which go through each layer one behind
//! the other and find its experts there; prompts that end within one share it, and a longer one leaves them half of its own.
//! Between two chunks come the steps of all others, and take no more than half of the time. Which tokens share a batch never
//! shows in a result.

use std::ops::Range;
use std::time::{Duration, Instant};

use outpour_model::Batch;
use outpour_model::experts::{PartOf, StreamStats};

use crate::engine::{Engine, Sequence};
use crate::error::EngineError;
use crate::observe::{LayerCost, Observer, SequenceId};
use crate::scratch::STEP_ROWS;

/// Rows of a prompt that go through a layer at one time while steps wait.
const STEPPED_ROWS: usize = 512;

/// What is under way, and whose turn it is.
#[derive(Default)]
pub(crate) struct Scheduler {
    /// Short work of several sequences; empty between two calls of [`Engine::tick`].
    steps: Batch,
    /// A sweep of prompts; empty when none is under way.
    prefill: Prefill,
    /// The sequences that the last error struck.
    struck: Vec<usize>,
    /// Sequences whose turn it is, for a step and for a sweep.
    next_step: usize,
    next_prefill: usize,
    /// Time that prompts took beyond that of the steps before: the next steps' turn.
    owed: Duration,
}

/// Tokens of one prompt or several on their way through the layers.
#[derive(Default)]
struct Prefill {
    batch: Batch,
    /// Those that come next to the layer: a chunk of them.
    part: Batch,
    /// How many come before these.
    rows_done: usize,
    /// The layer, and what it cost so far.
    cost: LayerCost,
    /// Time that all took so far.
    time: Duration,
}

impl Prefill {
    fn clear(&mut self) {
        self.batch.clear();
        self.part.clear();
    }

    /// Takes the chunk that comes next.
    fn take_part(&mut self, chunk: usize) {
        let end = self.batch.len().min(self.rows_done + chunk);
        self.batch.part(self.rows_done..end, &mut self.part);
    }

    /// Takes the rows of a sequence out, and returns them.
    fn remove(&mut self, span: usize, chunk: usize) -> Range<usize> {
        let rows = self.batch.remove(span);
        self.rows_done -= rows.len().min(self.rows_done.saturating_sub(rows.start));
        self.take_part(chunk);
        rows
    }
}

impl Engine {
    /// Computes the next tokens of all sequences that have a few, and then a chunk or more of long prompts by a layer. Returns
    /// whether there was anything to do.
    ///
    /// # Errors
    /// When an expert cannot be read, a file changed, memory is short, or the observer stopped it. [`Engine::struck`] then
    /// names the sequences whose batch it was. Their tokens stay pending, and they are as they were before; those with
    /// recurrent states, which have moved on in some layers, are empty.
    pub fn tick(&mut self, observer: &mut dyn Observer) -> Result<bool, EngineError> {
        self.scheduler.struck.clear();
        self.ask_governor();
        let began = Instant::now();
        let stepped = self.steps(observer)?;
        let share = if stepped { began.elapsed() } else { Duration::ZERO };
        self.scheduler.owed = self.scheduler.owed.saturating_sub(share);
        if stepped && !self.scheduler.owed.is_zero() {
            return Ok(true);
        }
        let began = Instant::now();
        let prefilled = self.prefill(share, observer)?;
        self.scheduler.owed = if stepped { began.elapsed().saturating_sub(share) } else { Duration::ZERO };
        Ok(stepped || prefilled)
    }

    /// The sequences that the last error of [`Engine::tick`] is about.
    pub fn struck(&self) -> impl Iterator<Item = SequenceId> + '_ {
        self.scheduler.struck.iter().map(|&index| SequenceId(index))
    }

    /// Whether some of this sequence's prompt is between two layers.
    pub(crate) fn under_way(&self, index: usize) -> bool {
        self.scheduler.prefill.batch.spans.iter().any(|span| span.state == index)
    }

    /// Undoes what of a sequence's prompt is under way; prompts that share its sweep go on.
    pub(crate) fn break_off(&mut self, id: SequenceId) {
        let prefill = &mut self.scheduler.prefill;
        let Some(span) = prefill.batch.spans.iter().position(|span| span.state == id.0) else { return };
        let rows = prefill.remove(span, self.plan.chunk);
        let (stream, layout) = (&self.scratch.prompt, self.model.state_layout());
        stream.close_up(rows, prefill.batch.len(), &*self.ops);
        if prefill.batch.is_empty() {
            self.experts.abandon();
        }
        self.states[id.0].abandon(layout);
    }

    fn step_rows(&self) -> usize {
        STEP_ROWS.min(self.plan.chunk)
    }

    /// Rows of a prompt that go through a layer together. Where steps wait meanwhile they are few, if the experts stay for the rest.
    fn part_rows(&self, layer: usize, steps_wait: bool) -> usize {
        match steps_wait && layer < self.facts().layers && self.experts.holds(layer) {
            true => self.plan.chunk.min(STEPPED_ROWS),
            false => self.plan.chunk,
        }
    }

    /// Tokens that a sequence has to be computed, if it has any and none of them is under way.
    fn left(&self, index: usize) -> Option<usize> {
        let left = |sequence: &Sequence| sequence.pending.len() - sequence.done;
        let left = self.sequences[index].as_ref().map_or(0, left);
        (left > 0 && !self.under_way(index)).then_some(left)
    }

    /// Computes one batch of short work. Returns whether there was any.
    fn steps(&mut self, observer: &mut dyn Observer) -> Result<bool, EngineError> {
        let mut batch = std::mem::take(&mut self.scheduler.steps);
        let computed = self.fill_steps(&mut batch).and_then(|()| match batch.is_empty() {
            true => Ok(false),
            false => self.compute_steps(&batch, observer).map(|()| true),
        });
        if computed.is_err() {
            self.strike(&batch);
        }
        batch.clear();
        self.scheduler.steps = batch;
        computed
    }

    /// Takes short work from each sequence in turn. One that finds no memory is an error where it comes first, and the next
    /// time goes last; where others come before it, these are computed, and it goes first the next time.
    fn fill_steps(&mut self, batch: &mut Batch) -> Result<(), EngineError> {
        let (rows, sequences) = (self.step_rows(), self.sequences.len());
        for turn in 0..sequences {
            let index = (self.scheduler.next_step + turn) % sequences;
            let Some(left) = self.left(index).filter(|&left| left <= rows) else { continue };
            let full = batch.len() + left > rows;
            let reserved = if full { Ok(()) } else { self.reserve(index, left) };
            match reserved {
                Ok(()) if !full => self.push(batch, index, 0..left),
                Err(error) if batch.is_empty() => {
                    self.scheduler.next_step = index + 1;
                    self.scheduler.struck.push(index);
                    return Err(error);
                }
                _ => {
                    // It goes first the next time.
                    self.scheduler.next_step = index;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Adds some of the tokens that a sequence has to be computed.
    fn push(&self, batch: &mut Batch, index: usize, tokens: Range<usize>) {
        let sequence = self.sequences[index].as_ref().expect("invariant: the sequence has work");
        batch.push(index, self.states[index].tokens() + tokens.start, &sequence.pending[sequence.done..][tokens]);
    }

    fn compute_steps(&mut self, batch: &Batch, observer: &mut dyn Observer) -> Result<(), EngineError> {
        let began = Instant::now();
        let stream = self.scratch.steps.first(batch.len());
        let stream_before = self.experts.stats();
        // Short prompts are computed here too.
        self.lookahead.begin(batch.spans.iter().all(|span| span.rows.len() == 1));
        if !self.lookahead.is_on() {
            self.experts.read_none_early();
        }
        self.read_known(0, batch)?;
        self.embed(&batch.tokens, &stream.x)?;
        for layer in 0..self.facts().layers {
            let several = batch.spans.len() > 1;
            let mut cost = LayerCost {
                layer,
                batch_tokens: batch.len(),
                prompt: batch.len() > 1 && !several,
                ..LayerCost::default()
            };
            self.layer(batch, &stream, PartOf::WHOLE, &mut cost, observer)?;
            self.end_layer(&cost, (batch, &stream), observer)?;
            self.progress(batch, layer + 1, observer)?;
        }
        self.lookahead.end_step(&self.experts.stats().since(&stream_before));
        self.end_batch(batch, &stream, began.elapsed(), observer)
    }

    /// Computes a chunk of prompts by a layer, and more of them until `share` is over. Returns whether there was one.
    fn prefill(&mut self, share: Duration, observer: &mut dyn Observer) -> Result<bool, EngineError> {
        let mut prefill = std::mem::take(&mut self.scheduler.prefill);
        let computed =
            self.fill_prefill(&mut prefill, !share.is_zero()).and_then(|()| match prefill.batch.is_empty() {
                true => Ok(false),
                false => self.compute_prefill(&mut prefill, share, observer).map(|()| true),
            });
        if computed.is_err() {
            self.strike(&prefill.batch);
        }
        if computed.is_err() || prefill.cost.layer == self.facts().layers {
            prefill.clear();
        }
        self.scheduler.prefill = prefill;
        computed
    }

    /// Begins the next sweep where none is under way: of the prompt whose turn it is, and, where experts have to be read, of those
    /// that end within a sweep too. They come first the next time where there was no room for them.
    fn fill_prefill(&mut self, prefill: &mut Prefill, steps_wait: bool) -> Result<(), EngineError> {
        if !prefill.batch.is_empty() {
            return Ok(());
        }
        let (rows, sequences) = (self.step_rows(), self.sequences.len());
        let turns = (0..sequences).map(|turn| (self.scheduler.next_prefill + turn) % sequences);
        // Steps were computed just now: whoever has more than one token left waits with a prompt.
        let mut waiting: Vec<(usize, usize)> =
            turns.filter_map(|index| Some((index, self.left(index).filter(|&left| left > 1)?))).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        // Nothing is read twice where all is there.
        let resident = self.experts.all_resident();
        let stays = !resident && (0..self.facts().layers).all(|layer| self.experts.holds(layer));
        let sweep = if stays { self.sweep_tokens() } else { self.plan.chunk };
        let (first, left) = waiting.remove(0);
        waiting.retain(|&(_, left)| left <= sweep && !resident);
        let theirs: usize = waiting.iter().map(|(_, left)| left).sum();
        let tokens = if left > sweep { sweep - theirs.min(sweep / 2) } else { left };
        self.scheduler.next_prefill = first + 1;
        self.reserve(first, tokens).inspect_err(|_| self.scheduler.struck.push(first))?;
        self.push(&mut prefill.batch, first, 0..tokens);
        for (index, left) in waiting {
            let room = sweep - prefill.batch.len();
            // What a cut leaves is worth a place in the next sweep.
            let tokens = if left <= room { left } else { room.min(left.saturating_sub(rows + 1)) };
            if tokens == 0 || self.reserve(index, tokens).is_err() {
                self.scheduler.next_prefill = index;
                break;
            }
            self.push(&mut prefill.batch, index, 0..tokens);
            if tokens < left {
                self.scheduler.next_prefill = index;
                break;
            }
        }
        (prefill.rows_done, prefill.time) = (0, Duration::ZERO);
        prefill.cost = LayerCost { batch_tokens: prefill.batch.len(), prompt: true, ..LayerCost::default() };
        prefill.take_part(self.part_rows(0, steps_wait));
        let x = self.scratch.prompt.first(prefill.batch.len()).x;
        self.embed(&prefill.batch.tokens, &x)
    }

    fn compute_prefill(
        &mut self,
        prefill: &mut Prefill,
        share: Duration,
        observer: &mut dyn Observer,
    ) -> Result<(), EngineError> {
        let (began, layers) = (Instant::now(), self.facts().layers);
        let stream = self.scratch.prompt.first(prefill.batch.len());
        self.lookahead.begin(false);
        if prefill.cost.layer == 0 && prefill.rows_done == 0 {
            self.read_known(0, &prefill.part)?;
            self.experts.sweep_first(prefill.batch.len())?;
        }
        loop {
            let rows = prefill.rows_done..prefill.rows_done + prefill.part.len();
            let part = PartOf { first: rows.start == 0, last: rows.end == prefill.batch.len() };
            self.layer(&prefill.part, &stream.rows(rows.clone()), part, &mut prefill.cost, observer)?;
            prefill.rows_done = if part.last { 0 } else { rows.end };
            prefill.take_part(self.part_rows(prefill.cost.layer + usize::from(part.last), !share.is_zero()));
            if part.last {
                self.end_layer(&prefill.cost, (&prefill.part, &stream.first(prefill.part.len())), observer)?;
                prefill.cost = LayerCost {
                    layer: prefill.cost.layer + 1,
                    time: Duration::ZERO,
                    stream: StreamStats::default(),
                    ..prefill.cost
                };
            }
            self.progress(&prefill.batch, prefill.cost.layer, observer)?;
            if prefill.cost.layer == layers {
                return self.end_batch(&prefill.batch, &stream, prefill.time + began.elapsed(), observer);
            }
            if began.elapsed() >= share {
                prefill.time += began.elapsed();
                return Ok(());
            }
        }
    }

    /// Undoes a batch and notes whose it was.
    fn strike(&mut self, batch: &Batch) {
        self.abandon(batch);
        self.scheduler.struck.extend(batch.spans.iter().map(|span| span.state));
    }
}
