//! An answer being made: its prompt, then token after token, until something ends it.

use std::io;
use std::time::{Duration, Instant};

use outpour_engine::bound::{DriveLimit, Running};
use outpour_engine::sample::{Sampler, Sampling};
use outpour_engine::{Engine, EngineError, Session, Stats};
use outpour_model::experts::StreamStats;
use outpour_store::machine::Machine;
use outpour_text::{Detokenizer, Stop, StopStrings, Tokenizer};

use crate::floors::{Chosen, Floors};
use crate::term::{Interruptible, PromptProgress, stopped};
use crate::watch::{Routes, Watch};

/// How long the drive is measured, before the first token.
const PROBE_TIME: Duration = Duration::from_millis(150);

/// What the drive gives, measured before the first answer; `None` of a model without experts.
///
/// # Errors
/// When a read failed.
pub fn drive_limit(engine: &mut Engine) -> Result<Option<DriveLimit>, EngineError> {
    Ok(engine.probe_drive_first(PROBE_TIME)?.map(|speed| DriveLimit::measured(speed.bytes_per_second())))
}

/// One answer to be made.
pub struct Generation {
    /// The prompt.
    pub tokens: Vec<u32>,
    /// Where on the way through the prompt [`Listener::marked`] is told.
    pub mark: Option<usize>,
    /// Tokens of the answer at most.
    pub tokens_max: usize,
    /// Tokens that end it.
    pub stop_tokens: Vec<u32>,
    /// Texts that end it.
    pub stop_strings: StopStrings,
    /// Control tokens whose text belongs to the answer, as that of the others does not.
    pub shown: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// Who is told of an answer while it is made.
pub trait Listener {
    /// More text of the answer.
    ///
    /// # Errors
    /// When it can be shown to nobody: the answer ends then.
    fn text(&mut self, text: &str) -> io::Result<()>;

    /// The answer's text is complete.
    ///
    /// # Errors
    /// As [`Listener::text`].
    fn end(&mut self) -> io::Result<()>;

    /// The prompt is computed up to [`Generation::mark`].
    fn marked(&mut self, engine: &mut Engine, session: &mut Session);

    /// Where the experts chosen are written.
    fn routes(&mut self) -> Option<&mut Routes> {
        None
    }
}

/// Why an answer ended.
#[derive(Debug)]
pub enum End {
    /// The model ended it.
    Model,
    /// A stop string came.
    StopString,
    /// [`Generation::tokens_max`] are there.
    Length,
    /// No further token fits the context.
    ContextFull,
    /// The user stopped it.
    Interrupted,
    /// The listener takes nothing more: mostly because whoever read it went away.
    Unwritten(io::Error),
    /// A token cannot be computed.
    Failed(EngineError),
}

/// What was done for an answer.
pub struct Done {
    /// Tokens of the answer, with the one that ended it.
    pub generated: usize,
    /// Why it ended.
    pub end: End,
    /// Bytes that the drive gave for the prompt, and for the answer.
    pub read_bytes: [u64; 2],
    /// What the engine did.
    pub stats: Stats,
    /// What streaming did while decoding.
    pub stream: StreamStats,
    /// What the prompt, and the answer, could have taken. `None` of a model without experts.
    pub bounds: Option<[Running; 2]>,
    /// What other choices of what to keep would have read, where memory was empty before.
    pub floors: Option<Floors>,
}

impl Generation {
    /// Makes the answer. `drive_limit` is what [`drive_limit`] measured, raised by what the drive gave in answers before.
    pub fn run(
        &mut self,
        engine: &mut Engine,
        session: &mut Session,
        tokenizer: &Tokenizer,
        drive_limit: Option<DriveLimit>,
        listener: &mut dyn Listener,
    ) -> Done {
        let drive = || Machine::here().drive_read_bytes();
        let (before, stats_before) = (drive(), engine.stats());
        let layers = engine.facts().layers;
        let mut of_prompt = Running::new(drive_limit.unwrap_or(DriveLimit::measured(f64::INFINITY)), layers);
        let mut chosen = drive_limit.and_then(|_| Chosen::new(engine));
        let began = Instant::now();
        let prefilled = self.prefill(engine, session, (&mut of_prompt, chosen.as_mut()), listener);
        of_prompt.step(began.elapsed());
        let mut of_answer = Running::new(of_prompt.limit(), layers);
        let prefill = engine.stats().since(&stats_before).stream;
        let between = drive();
        chosen.iter_mut().for_each(|chosen| chosen.begin_answer(engine.expert_slots()));
        let mut generated = 0;
        let end = match prefilled {
            Ok(()) => {
                self.decode(engine, session, tokenizer, &mut generated, (&mut of_answer, chosen.as_mut()), listener)
            }
            Err(EngineError::Cancelled) => End::Interrupted,
            Err(error) => End::Failed(error),
        };
        let stats = engine.stats().since(&stats_before);
        let stream = stats.stream.since(&prefill);
        // Where the kernel does not count, the reader does.
        let counted = |from: Option<u64>, to: Option<u64>, ours: u64| from.zip(to).map_or(ours, |(from, to)| to - from);
        let read_bytes = [counted(before, between, prefill.read_bytes), counted(between, drive(), stream.read_bytes)];
        let floors = chosen.and_then(|chosen| chosen.floors());
        // How long a step took that failed is not known.
        let bounds = drive_limit.filter(|_| !matches!(end, End::Failed(_))).map(|_| [of_prompt, of_answer]);
        Done { generated, end, read_bytes, stats, stream, bounds, floors }
    }

    /// The answer's tokens, without the one that ended it, of the session in which it was made.
    pub fn answer<'s>(&self, session: &'s Session, done: &Done) -> &'s [u32] {
        let answer = &session.tokens()[self.tokens.len()..];
        &answer[..answer.len() - usize::from(matches!(done.end, End::Model))]
    }

    fn prefill(
        &self,
        engine: &mut Engine,
        session: &mut Session,
        (bound, mut chosen): (&mut Running, Option<&mut Chosen>),
        listener: &mut dyn Listener,
    ) -> Result<(), EngineError> {
        let mut progress = PromptProgress::start();
        let mut sync = |engine: &mut Engine, session: &mut Session, upto: usize, listener: &mut dyn Listener| {
            let chosen = chosen.as_deref_mut();
            let mut watch = Watch { inner: &mut progress, bound: &mut *bound, routes: listener.routes(), chosen };
            session.sync(engine, &self.tokens[..upto], &mut watch)
        };
        let mark = self.mark.filter(|&mark| mark > session.tokens().len());
        let marked = mark.map_or(Ok(()), |mark| {
            sync(engine, session, mark, listener)?;
            listener.marked(engine, session);
            Ok(())
        });
        let synced = marked.and_then(|()| sync(engine, session, self.tokens.len(), listener));
        progress.finish();
        synced
    }

    fn decode(
        &mut self,
        engine: &mut Engine,
        session: &mut Session,
        tokenizer: &Tokenizer,
        generated: &mut usize,
        (bound, mut chosen): (&mut Running, Option<&mut Chosen>),
        listener: &mut dyn Listener,
    ) -> End {
        let mut sampler = Sampler::new(self.sampling.clone(), engine.facts().vocab);
        sampler.see(&self.tokens);
        let mut detokenizer = Detokenizer::new(tokenizer, false);
        let mut choose = |logits: &[f32], position: usize| sampler.choose(logits, position);
        let end = loop {
            if *generated >= self.tokens_max {
                break End::Length;
            }
            if stopped() {
                break End::Interrupted;
            }
            let began = Instant::now();
            let mut watch = Watch {
                inner: &mut Interruptible,
                bound: &mut *bound,
                routes: listener.routes(),
                chosen: chosen.as_deref_mut(),
            };
            let stepped = session.step(engine, &mut watch, &mut choose);
            if *generated > 0 {
                // The first token came with the prompt.
                bound.step(began.elapsed());
                chosen.iter_mut().for_each(|chosen| chosen.end_token(engine.expert_slots()));
            }
            let token = match stepped {
                Ok(token) => token,
                Err(EngineError::ContextFull { .. }) => break End::ContextFull,
                Err(EngineError::Cancelled) => break End::Interrupted,
                Err(error) => break End::Failed(error),
            };
            *generated += 1;
            if self.stop_tokens.contains(&token) {
                break End::Model;
            }
            if tokenizer.is_special(token) && !self.shown.contains(&token) {
                continue;
            }
            let (text, stop) = match self.stop_strings.push(detokenizer.push(tokenizer, token)) {
                Stop::Emit(text) => (text, false),
                Stop::Hit { text_before, .. } => (text_before, true),
            };
            if let Err(error) = listener.text(text) {
                break End::Unwritten(error);
            }
            if stop {
                break End::StopString;
            }
        };
        let rest = match end {
            End::Unwritten(_) => return end,
            End::StopString => Ok(()),
            _ => {
                // What was held back because it might have gone on otherwise.
                let (Stop::Emit(text) | Stop::Hit { text_before: text, .. }) =
                    self.stop_strings.push(detokenizer.finish());
                listener.text(text).and_then(|()| listener.text(self.stop_strings.finish()))
            }
        };
        match (end, rest.and_then(|()| listener.end())) {
            (End::Failed(error), _) => End::Failed(error),
            (_, Err(error)) => End::Unwritten(error),
            (end, Ok(())) => end,
        }
    }
}
