//! One request on its way: prompt, tokens, end.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use outpour_engine::sample::{Sampler, Sampling, Scratch};
use outpour_engine::score::log_sum_exp;
use outpour_engine::{Engine, EngineError, Progress, SequenceId, Work};
use outpour_text::{Detokenizer, Stop, StopStrings, TextError, Tokenizer};
use tokio::sync::mpsc;

use super::constraint::Constraint;
use super::kept::Kept;
use super::thoughts::Thoughts;
use crate::metrics::Metrics;

/// What is to be generated.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask {
    /// The prompt, at least one token, all below the vocabulary's size.
    pub(crate) tokens: Vec<u32>,
    /// Positions to which a later prompt may want to go back.
    pub(crate) marks: Vec<usize>,
    pub(crate) sampling: Sampling,
    /// Tokens of the answer at most.
    pub(crate) tokens_max: usize,
    /// Tokens that end it.
    pub(crate) stop_tokens: Vec<u32>,
    /// Texts that end it.
    pub(crate) stop: Vec<String>,
    /// Special tokens whose text is shown all the same.
    pub(crate) shown: Vec<u32>,
    /// Whether to tell each token's probability, and that of so many alternatives.
    pub(crate) top_logprobs: Option<usize>,
    /// Whether to tell the same of the prompt.
    pub(crate) prompt_logprobs: bool,
    /// What tells thoughts from the rest, where the model marks them.
    pub(crate) thoughts: Option<Thoughts>,
    /// A form that the answer is held to.
    pub(crate) constraint: Option<Constraint>,
}

/// What a client is told.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// It waits; so many are before it, and itself.
    Queued(usize),
    /// So many tokens of the prompt are computed, of so many; so many were found.
    Prompt {
        done: usize,
        total: usize,
        cached: usize,
    },
    /// The probability of every token of the prompt but the first.
    PromptScores(Vec<Score>),
    Token(Token),
    Done(Done),
    Failed(Failure),
}

/// A token of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    /// Text that can be shown now: not necessarily this token's own.
    pub(crate) text: String,
    pub(crate) score: Option<Score>,
}

/// How likely a token was, in nats, before any change to the logits.
#[derive(Clone, Debug)]
pub(crate) struct Score {
    pub(crate) token: u32,
    pub(crate) logprob: f64,
    /// The most likely ones.
    pub(crate) top: Vec<(u32, f64)>,
}

impl Score {
    fn of(logits: &[f32], token: u32, top: usize) -> Score {
        let sum = log_sum_exp(logits);
        let nats = |token: u32| logits[token as usize] as f64 - sum;
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let top = top.min(ids.len());
        if top > 0 {
            ids.select_nth_unstable_by(top - 1, by_logit);
        }
        ids.truncate(top);
        ids.sort_unstable_by(by_logit);
        Score { token, logprob: nats(token), top: ids.into_iter().map(|id| (id, nats(id))).collect() }
    }
}

/// Memory for the choice of one token, which all requests share.
#[derive(Default)]
pub(super) struct Choice {
    sampling: Scratch,
    /// Logits of what may come next.
    masked: Vec<f32>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The model ended it.
    Model,
    /// A stop string, by its number.
    StopString(usize),
    Length,
    ContextFull,
}

/// The end of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) finish: Finish,
    /// The last of its text.
    pub(crate) text: String,
    /// Its tokens, without the one that ended it.
    pub(crate) tokens: Vec<u32>,
    /// Tokens of the prompt, those of them that were not computed, tokens generated, and those of them that are thoughts.
    pub(crate) prompt: usize,
    pub(crate) cached: usize,
    pub(crate) generated: usize,
    pub(crate) thoughts: usize,
    pub(crate) prompt_time: Duration,
    pub(crate) answer_time: Duration,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The request makes no sense.
    Bad(String),
    /// It may be sent again.
    Unavailable(String),
}

impl Failure {
    pub(crate) fn of(error: &EngineError) -> Failure {
        match error {
            EngineError::ContextFull { .. } | EngineError::TokenOutOfRange { .. } | EngineError::NoTokens => {
                Failure::Bad(error.to_string())
            }
            _ => Failure::Unavailable(error.to_string()),
        }
    }
}

/// A request on its way.
pub(crate) struct Job {
    ask: Ask,
    pub(super) events: mpsc::Sender<Event>,
    /// Where it runs, if it does.
    pub(super) sequence: Option<SequenceId>,
    /// Prompt and answer.
    pub(super) tokens: Vec<u32>,
    /// How many of them the engine was given.
    enqueued: usize,
    /// How many of them were found computed when it first began.
    cached: Option<usize>,
    /// Made when it begins, as it may hold some bytes for each token of the vocabulary.
    sampler: Option<Sampler>,
    detokenizer: Detokenizer,
    stops: StopStrings,
    /// Tokens that come next, whatever the model says.
    forced: VecDeque<u32>,
    prompt_scores: Vec<Score>,
    position_told: usize,
    progress_told: Instant,
    submitted: Instant,
    began: Option<Instant>,
    first: Option<Instant>,
}

impl Job {
    pub(super) fn new(ask: Ask, events: mpsc::Sender<Event>, tokenizer: &Tokenizer) -> Result<Job, TextError> {
        Ok(Job {
            sampler: None,
            detokenizer: Detokenizer::new(tokenizer, false),
            stops: StopStrings::new(ask.stop.clone())?,
            events,
            sequence: None,
            tokens: ask.tokens.clone(),
            enqueued: 0,
            cached: None,
            forced: VecDeque::new(),
            prompt_scores: Vec::new(),
            position_told: 0,
            progress_told: Instant::now(),
            submitted: Instant::now(),
            began: None,
            first: None,
            ask,
        })
    }

    fn generated(&self) -> usize {
        self.tokens.len() - self.ask.tokens.len()
    }

    /// Tokens that may still come.
    pub(super) fn left(&self) -> usize {
        self.ask.tokens_max - self.generated().min(self.ask.tokens_max)
    }

    /// Tells the client something; `false` when it is gone, or too slow to be told.
    fn tell(&mut self, event: Event) -> bool {
        self.events.try_send(event).is_ok()
    }

    pub(super) fn tell_position(&mut self, position: usize) {
        if self.position_told != position {
            self.position_told = position;
            self.tell(Event::Queued(position));
        }
    }

    /// Tells how far the prompt is, not more often than `every`. Breaks when the client is gone.
    pub(super) fn tell_progress(&mut self, progress: &Progress, now: Instant, every: Duration) -> ControlFlow<()> {
        if self.events.is_closed() {
            return ControlFlow::Break(());
        }
        if self.first.is_none() && now - self.progress_told >= every {
            self.progress_told = now;
            let part = progress.batch_tokens * progress.layers_done / progress.layers;
            let cached = self.cached.unwrap_or(0);
            self.tell(Event::Prompt { done: progress.tokens_done + part, total: self.tokens.len(), cached });
        }
        ControlFlow::Continue(())
    }

    pub(super) fn see_prompt_logits(&mut self, position: usize, logits: &[f32]) {
        if let Some(&token) = self.ask.tokens.get(position + 1) {
            self.prompt_scores.push(Score::of(logits, token, self.ask.top_logprobs.unwrap_or(0)));
        }
    }

    /// Begins, or begins anew: what is kept of its tokens is not computed again.
    pub(super) fn start(&mut self, engine: &mut Engine, kept: &mut Kept) -> Result<(), EngineError> {
        let now = Instant::now();
        self.began.get_or_insert(now);
        self.prompt_scores.clear();
        self.sampler.get_or_insert_with(|| {
            let mut sampler = Sampler::lean(self.ask.sampling.clone(), engine.facts().vocab);
            sampler.see(&self.ask.tokens);
            sampler
        });
        let (sequence, found) = match self.ask.prompt_logprobs {
            true => (engine.open_sequence(), 0),
            false => kept.resume(engine, &self.tokens),
        };
        self.sequence = Some(sequence);
        self.enqueued = found;
        let cached = *self.cached.get_or_insert(found);
        if let Err(error) = self.enqueue(engine, sequence) {
            self.sequence = None;
            engine.close_sequence(sequence);
            return Err(error);
        }
        self.progress_told = now;
        self.tell(Event::Prompt { done: found, total: self.tokens.len(), cached });
        Ok(())
    }

    /// Gives the engine the tokens up to the next mark at which a state must be saved, or all.
    fn enqueue(&mut self, engine: &mut Engine, sequence: SequenceId) -> Result<(), EngineError> {
        let marks = self.ask.marks.iter().filter(|_| !engine.goes_back() && !self.ask.prompt_logprobs);
        let end = marks.copied().filter(|&mark| mark > self.enqueued && mark < self.tokens.len()).min();
        let end = end.unwrap_or(self.tokens.len());
        let work = if self.ask.prompt_logprobs { Work::PromptWithLogits } else { Work::Prompt };
        engine.enqueue(sequence, &self.tokens[self.enqueued..end], work)?;
        self.enqueued = end;
        Ok(())
    }

    /// Its sequence is closed; it waits again.
    pub(super) fn give_way(&mut self) {
        self.enqueued = 0;
        self.position_told = 0;
    }

    /// Goes on where the logits are there. Breaks when it has ended, whatever way.
    pub(super) fn advance(
        &mut self,
        engine: &mut Engine,
        kept: &mut Kept,
        tokenizer: &Tokenizer,
        metrics: &Metrics,
        choice: &mut Choice,
    ) -> ControlFlow<()> {
        if self.events.is_closed() {
            metrics.cancelled.fetch_add(1, Ordering::Relaxed);
            return ControlFlow::Break(());
        }
        let Some(sequence) = self.sequence.filter(|&id| engine.logits(id).is_some()) else {
            return ControlFlow::Continue(());
        };
        if self.enqueued < self.tokens.len() {
            kept.snapshot(engine, sequence, &self.tokens[..self.enqueued]);
            return self.or_fail(|job| job.enqueue(engine, sequence));
        }
        if self.first.is_none() {
            self.first = Some(Instant::now());
            metrics.prompt(self.ask.tokens.len(), self.cached.unwrap_or(0), self.submitted.elapsed());
            let scores = std::mem::take(&mut self.prompt_scores);
            if self.ask.prompt_logprobs && !self.tell(Event::PromptScores(scores)) {
                return ControlFlow::Break(());
            }
        }
        let full = self.tokens.len() >= engine.plan().ctx;
        if full || self.left() == 0 {
            self.end(if full { Finish::ContextFull } else { Finish::Length });
            return ControlFlow::Break(());
        }
        let Some(logits) = engine.logits(sequence) else { return ControlFlow::Continue(()) };
        self.step(logits, tokenizer, metrics, choice)?;
        self.or_fail(|job| {
            engine.enqueue(sequence, &job.tokens[job.enqueued..], Work::Step)?;
            job.enqueued = job.tokens.len();
            Ok(())
        })
    }

    fn or_fail(&mut self, work: impl FnOnce(&mut Job) -> Result<(), EngineError>) -> ControlFlow<()> {
        match work(self) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.fail(Failure::of(&error));
                ControlFlow::Break(())
            }
        }
    }

    /// Chooses the next token and tells it. Breaks when it is the last one, or the client takes it not.
    fn step(
        &mut self,
        logits: &[f32],
        tokenizer: &Tokenizer,
        metrics: &Metrics,
        choice: &mut Choice,
    ) -> ControlFlow<()> {
        let token = match self.choose(logits, choice) {
            Ok(token) => token,
            Err(problem) => {
                self.fail(Failure::Bad(format!("the form that was asked for: {problem}")));
                return ControlFlow::Break(());
            }
        };
        let score = self.ask.top_logprobs.map(|top| Score::of(logits, token, top));
        self.tokens.push(token);
        metrics.generated.fetch_add(1, Ordering::Relaxed);
        if self.ask.stop_tokens.contains(&token) {
            if score.is_some() {
                self.tell(Event::Token(Token { text: String::new(), score }));
            }
            self.end(Finish::Model);
            return ControlFlow::Break(());
        }
        let thought = self.ask.thoughts.as_ref().is_some_and(Thoughts::inside);
        self.think(tokenizer);
        let shown = !tokenizer.is_special(token) || self.ask.shown.contains(&token);
        let text = if shown { self.detokenizer.push(tokenizer, token) } else { "" };
        let (text, hit) = if thought {
            // Stop strings end what is said, not what is thought.
            (self.stops.finish().to_owned() + text, None)
        } else {
            match self.stops.push(text) {
                Stop::Emit(text) => (text.to_owned(), None),
                Stop::Hit { text_before, stop } => (text_before.to_owned(), Some(stop)),
            }
        };
        if !self.tell(Event::Token(Token { text, score })) {
            metrics.cancelled.fetch_add(1, Ordering::Relaxed);
            return ControlFlow::Break(());
        }
        let end = hit.map(Finish::StopString).or((self.left() == 0).then_some(Finish::Length));
        match end {
            Some(finish) => {
                self.end(finish);
                ControlFlow::Break(())
            }
            None => ControlFlow::Continue(()),
        }
    }

    /// The next token: one that is to come anyway, or the model's choice within the form.
    fn choose(&mut self, logits: &[f32], choice: &mut Choice) -> Result<u32, String> {
        let Choice { sampling, masked } = choice;
        if self.generated() == 0 {
            self.end_thoughts();
        }
        let (position, forced) = (self.tokens.len(), self.forced.pop_front());
        let sampler = self.sampler.as_mut().ok_or("it has not begun")?;
        let Some(constraint) = &mut self.ask.constraint else {
            return Ok(forced.unwrap_or_else(|| sampler.choose_in(sampling, logits, position)));
        };
        let held = constraint.mask(logits, masked)?;
        let logits = if held { masked } else { logits };
        let token = forced.unwrap_or_else(|| sampler.choose_in(sampling, logits, position));
        constraint.note(token)?;
        Ok(token)
    }

    /// Counts the last token where it is of the thoughts, and ends them when they are too many.
    fn think(&mut self, tokenizer: &Tokenizer) {
        let answer = &self.tokens[self.ask.tokens.len()..];
        self.ask.thoughts.iter_mut().for_each(|thoughts| thoughts.note(answer, tokenizer));
        self.end_thoughts();
    }

    fn end_thoughts(&mut self) {
        let closing = self.ask.thoughts.as_ref().and_then(Thoughts::closing);
        if let Some(closing) = closing.filter(|_| self.forced.is_empty()) {
            self.forced.extend(closing);
        }
    }

    /// Tells the end.
    pub(super) fn end(&mut self, finish: Finish) {
        let mut text = String::new();
        if !matches!(finish, Finish::StopString(_)) {
            let (Stop::Emit(rest) | Stop::Hit { text_before: rest, .. }) = self.stops.push(self.detokenizer.finish());
            text.push_str(rest);
            text.push_str(self.stops.finish());
        }
        let (now, generated) = (Instant::now(), self.generated());
        let (began, first) = (self.began.unwrap_or(now), self.first.unwrap_or(now));
        let ended = usize::from(finish == Finish::Model);
        let done = Done {
            finish,
            text,
            tokens: self.tokens[self.ask.tokens.len()..self.tokens.len() - ended].to_vec(),
            prompt: self.ask.tokens.len(),
            cached: self.cached.unwrap_or(0),
            generated,
            thoughts: self.ask.thoughts.as_ref().map_or(0, Thoughts::count),
            prompt_time: first - began,
            answer_time: now - first,
        };
        self.tell(Event::Done(done));
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        self.tell(Event::Failed(failure));
    }

    /// Gives its state to those who come after it.
    pub(super) fn close(self, engine: &mut Engine, kept: &mut Kept) {
        let Some(sequence) = self.sequence else { return };
        let done = engine.truncate(sequence, engine.tokens_done(sequence));
        kept.keep(engine, sequence, &self.tokens[..done]);
    }
}
