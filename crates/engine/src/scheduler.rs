//! Which tokens are computed next.
//!
//! Short work, such as the next token of every answer, is computed together: one read of an expert serves all. Prompts are
//! computed in chunks, layer by layer, in turn; those that end within a chunk share it while experts are missing, and a longer
//! one leaves them half of its own. What little is left of a prompt behind a chunk goes through each layer behind it, and finds
//! the layer's experts there. Between two layers come the steps of all others, and take no more than half of the time. Which
//! tokens share a batch never shows in a result.

use std::ops::Range;
use std::time::{Duration, Instant};

use outpour_model::Batch;

use crate::engine::{Engine, Sequence};
use crate::error::EngineError;
use crate::observe::{Observer, SequenceId};
use crate::scratch::{STEP_ROWS, Stream, rows_max};

/// What is under way, and whose turn it is.
#[derive(Default)]
pub(crate) struct Scheduler {
    /// Short work of several sequences; empty between two calls of [`Engine::tick`].
    steps: Batch,
    /// A chunk of prompts; empty when none is under way.
    prefill: Prefill,
    /// The sequences that the last error struck.
    struck: Vec<usize>,
    /// Sequences whose turn it is, for a step and for a chunk of a prompt.
    next_step: usize,
    next_prefill: usize,
}

/// A chunk of one prompt or several on its way through the layers.
#[derive(Default)]
struct Prefill {
    batch: Batch,
    /// What follows of the one prompt that it is of, to its end.
    tail: Batch,
    layers_done: usize,
    /// Time that it took so far.
    time: Duration,
}

impl Engine {
    /// Computes the next tokens of all sequences that have a few, and then a layer or more of a chunk of a long prompt. Returns
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
        let prefilled = self.prefill(share, observer)?;
        Ok(stepped || prefilled)
    }

    /// The sequences that the last error of [`Engine::tick`] is about.
    pub fn struck(&self) -> impl Iterator<Item = SequenceId> + '_ {
        self.scheduler.struck.iter().map(|&index| SequenceId(index))
    }

    /// Whether a chunk of this sequence's prompt is between two layers.
    pub(crate) fn under_way(&self, index: usize) -> bool {
        self.scheduler.prefill.batch.spans.iter().any(|span| span.state == index)
    }

    /// Undoes what of a sequence's prompt is under way; prompts that share its chunk go on.
    pub(crate) fn break_off(&mut self, id: SequenceId) {
        let batch = &mut self.scheduler.prefill.batch;
        let Some(span) = batch.spans.iter().position(|span| span.state == id.0) else { return };
        let rows = batch.remove(span);
        let (stream, layout) = (&self.scratch.prompt, self.model.state_layout());
        stream.close_up(rows, batch.len(), &*self.ops);
        if batch.is_empty() {
            self.scheduler.prefill.tail.clear();
            self.experts.abandon();
        }
        self.states[id.0].abandon(layout);
    }

    fn step_rows(&self) -> usize {
        STEP_ROWS.min(self.plan.chunk)
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
        self.lookahead.begin(true);
        self.read_known(0, batch)?;
        self.embed(&batch.tokens, &stream.x)?;
        for layer in 0..self.facts().layers {
            self.layer(layer, &[(batch, stream.first(batch.len()))], observer)?;
        }
        self.lookahead.end_step(&self.experts.stats().since(&stream_before));
        self.end_batch(batch, &stream, began.elapsed(), observer)
    }

    /// Computes a layer of a chunk of prompts, and more of them until `share` is over. Returns whether there was one.
    fn prefill(&mut self, share: Duration, observer: &mut dyn Observer) -> Result<bool, EngineError> {
        let mut prefill = std::mem::take(&mut self.scheduler.prefill);
        let computed = self.fill_prefill(&mut prefill).and_then(|()| match prefill.batch.is_empty() {
            true => Ok(false),
            false => self.compute_prefill(&mut prefill, share, observer).map(|()| true),
        });
        if computed.is_err() {
            self.strike(&prefill.batch);
        }
        if computed.is_err() || prefill.layers_done == self.facts().layers {
            prefill.batch.clear();
            prefill.tail.clear();
        }
        self.scheduler.prefill = prefill;
        computed
    }

    /// Begins the next chunk where none is under way: of the prompt whose turn it is, and, where experts have to be read, of those
    /// that end within a chunk too. They come first the next time where there was no room for them.
    fn fill_prefill(&mut self, prefill: &mut Prefill) -> Result<(), EngineError> {
        if !prefill.batch.is_empty() {
            return Ok(());
        }
        let (chunk, rows, sequences) = (self.plan.chunk, self.step_rows(), self.sequences.len());
        let turns = (0..sequences).map(|turn| (self.scheduler.next_prefill + turn) % sequences);
        // Steps were computed just now: whoever has more than one token left waits with a prompt.
        let mut waiting: Vec<(usize, usize)> =
            turns.filter_map(|index| Some((index, self.left(index).filter(|&left| left > 1)?))).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let (first, left) = waiting.remove(0);
        waiting.retain(|&(_, left)| left <= chunk && !self.experts.all_resident());
        let theirs: usize = waiting.iter().map(|(_, left)| left).sum();
        let tokens = if left > chunk { chunk - theirs.min(chunk / 2) } else { left };
        let tail = if waiting.is_empty() && left <= rows_max(chunk) { left - tokens } else { 0 };
        self.scheduler.next_prefill = first + 1;
        self.reserve(first, tokens + tail).inspect_err(|_| self.scheduler.struck.push(first))?;
        self.push(&mut prefill.batch, first, 0..tokens);
        if tail > 0 {
            self.push(&mut prefill.tail, first, tokens..left);
        }
        for (index, left) in waiting {
            let room = chunk - prefill.batch.len();
            // What a cut leaves is worth a place in the next chunk.
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
        (prefill.layers_done, prefill.time) = (0, Duration::ZERO);
        for (batch, stream) in self.parts(&prefill.batch, &prefill.tail) {
            self.embed(&batch.tokens, &stream.x)?;
        }
        Ok(())
    }

    /// A chunk, and its tail if it has one, each with its rows of the stream.
    fn parts<'b>(&self, batch: &'b Batch, tail: &'b Batch) -> Vec<(&'b Batch, Stream)> {
        let streams =
            [0..batch.len(), batch.len()..batch.len() + tail.len()].map(|rows| self.scratch.prompt.rows(rows));
        [batch, tail].into_iter().zip(streams).filter(|(batch, _)| !batch.is_empty()).collect()
    }

    fn compute_prefill(
        &mut self,
        prefill: &mut Prefill,
        share: Duration,
        observer: &mut dyn Observer,
    ) -> Result<(), EngineError> {
        let (began, layers) = (Instant::now(), self.facts().layers);
        let Prefill { batch, tail, layers_done, time } = prefill;
        let parts = self.parts(batch, tail);
        self.lookahead.begin(false);
        if *layers_done == 0 {
            self.read_known(0, batch)?;
            self.experts.sweep_first(batch.len())?;
        }
        loop {
            self.layer(*layers_done, &parts, observer)?;
            *layers_done += 1;
            if *layers_done == layers {
                let row = (*time + began.elapsed()).div_f64((batch.len() + tail.len()) as f64);
                let mut parts = parts.iter();
                return parts.try_for_each(|(batch, stream)| {
                    self.end_batch(batch, stream, row.mul_f64(batch.len() as f64), observer)
                });
            }
            if began.elapsed() >= share {
                *time += began.elapsed();
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
