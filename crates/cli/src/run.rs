//! `run`: answers a prompt, streaming the text as it comes.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use outpour_engine::bound::Running;
use outpour_engine::sample::{Sampler, Sampling};
use outpour_engine::{Engine, EngineError, Inspection, Session, Snapshots};
use outpour_model::experts::StreamStats;
use outpour_store::bytes::Bytes;
use outpour_store::machine::Machine;
use outpour_text::{ChatRequest, Detokenizer, Stop, StopStrings, Tokenizer};
use serde_json::json;

use crate::args::RunArgs;
use crate::model;
use crate::session::Conversation;
use crate::term::{self, INTERRUPTED, Interruptible, PromptProgress, stopped};
use crate::watch::{Routes, TimelineFile, Watch};

/// Answers a prompt.
///
/// # Errors
/// One line about the model, the flags or the prompt; after a read that failed mid-way, the text so far is out.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    let inspection = model::open(&args.model, &args.load)?;
    let sampling = model::sampling(&inspection, &args.sampling)?;
    let mut options = model::options(&args.load, inspection.checkpoint())?;
    options.beside += args.session.as_ref().map_or(0, |_| Snapshots::memory_bytes(inspection.model()));
    let plan = inspection.plan(&options)?;
    let tokenizer = model::tokenizer_of(inspection.checkpoint())?;
    let prompt = model::prompt(args.prompt.as_deref(), prompt_bytes_max(&tokenizer, plan.ctx))
        .with_context(|| format!("a prompt for the context of {} tokens (--ctx)", plan.ctx))?;
    let (tokens, conversation) = prompt_tokens(args, &inspection, &tokenizer, &prompt)?;
    if tokens.is_empty() {
        return Err(EngineError::NoTokens.into());
    }
    let room =
        EngineError::ContextFull { tokens: tokens.len(), ctx: plan.ctx, ctx_max: inspection.facts().context_max };
    if tokens.len() >= plan.ctx {
        return Err(room.into());
    }
    model::check_tokens(&tokens, inspection.facts()).context("tokenizer.json is another model's")?;
    let generation = Generation {
        tokens,
        tokens_max: args.max_tokens.unwrap_or(usize::MAX),
        stop_tokens: if args.ignore_eos { Vec::new() } else { model::stop_tokens(&inspection, &tokenizer)? },
        stop_strings: StopStrings::new(args.stop.clone())?,
        sampling,
        routes: args.trace_routes.as_ref().map(|path| Routes::create(path, &inspection)).transpose()?,
        conversation,
    };
    if inspection.skipped()[0] > 0 {
        term::note("This model's vision is not used: it is given text only.");
    }
    term::catch_interrupt()?;
    let trace = args.trace_out.as_ref().map(|path| TimelineFile::create(path, &inspection)).transpose()?;
    let timeline = trace.as_ref().map(|trace| &trace.timeline);
    let mut engine = model::load_recorded(inspection, &options, args.load.reader(), timeline)?;
    engine.govern(Machine::here());
    let done = generation.run(&mut engine, &tokenizer);
    trace.map_or(Ok(()), TimelineFile::finish)?;
    done
}

/// The longest text that could be a prompt of so many tokens; normalisation may shorten a text, to a quarter at most.
fn prompt_bytes_max(tokenizer: &Tokenizer, ctx: usize) -> usize {
    4 * ctx.saturating_mul(tokenizer.token_bytes_max())
}

/// The prompt as tokens, and the conversation that it is part of, if it is kept.
fn prompt_tokens(
    args: &RunArgs,
    inspection: &Inspection,
    tokenizer: &Tokenizer,
    prompt: &str,
) -> Result<(Vec<u32>, Option<Conversation>)> {
    if args.raw {
        return Ok((tokenizer.encode_raw(prompt)?, None));
    }
    let checkpoint = inspection.checkpoint();
    let Some(template) = model::template(checkpoint, tokenizer)? else {
        let dir = checkpoint.dir().display();
        bail!("{dir}: has no chat template: give --raw to continue the prompt as it stands");
    };
    if let Some(path) = &args.session {
        let goes_back = inspection.model().state_layout().goes_back();
        let asked = (args.system.as_deref(), prompt);
        let (mut conversation, tokens) = Conversation::ask(path, asked, (&template, tokenizer), goes_back)?;
        conversation.stop_at(&args.stop);
        return Ok((tokens, Some(conversation)));
    }
    let system = args.system.iter().map(|text| json!({"role": "system", "content": text}));
    let messages = system.chain([json!({"role": "user", "content": prompt})]).collect();
    let request = ChatRequest { messages, add_generation_prompt: true, ..ChatRequest::default() };
    Ok((tokenizer.encode(&template.render(&request)?, true)?, None))
}

/// One answer to be made.
pub struct Generation {
    /// The prompt.
    pub tokens: Vec<u32>,
    /// Tokens of the answer at most.
    pub tokens_max: usize,
    /// Tokens that end it.
    pub stop_tokens: Vec<u32>,
    /// Texts that end it.
    pub stop_strings: StopStrings,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Where the experts chosen are written.
    pub routes: Option<Routes>,
    /// The conversation that it goes on with.
    pub conversation: Option<Conversation>,
}

/// How long the drive is measured, before the first token.
const PROBE_TIME: Duration = Duration::from_millis(150);

/// Why an answer ended.
#[derive(Debug)]
enum End {
    Model,
    StopString,
    Length,
    ContextFull,
    Interrupted,
    /// Standard output takes nothing more: mostly because whoever read it went away.
    Unwritten(io::Error),
    Failed(EngineError),
}

/// What was done for an answer.
struct Done {
    generated: usize,
    end: End,
    /// Bytes that the drive gave for the prompt, and for the answer.
    read_bytes: [u64; 2],
    /// What streaming did while decoding.
    stream: StreamStats,
    /// What the prompt, and the answer, could have taken. `None` of a model without experts.
    bounds: Option<[Running; 2]>,
}

impl Generation {
    /// Makes the answer on standard output, and the summary on standard error.
    ///
    /// # Errors
    /// When a token cannot be computed; the text so far is out.
    pub fn run(mut self, engine: &mut Engine, tokenizer: &Tokenizer) -> Result<ExitCode> {
        let limit = engine.probe_drive_first(PROBE_TIME)?.map(|speed| speed.bytes_per_second());
        let mut session = match &self.conversation {
            Some(conversation) => conversation.resume(engine, &self.tokens),
            None => Session::open(engine),
        };
        let done = self.answer(engine, &mut session, tokenizer, limit)?;
        if let Some(mut conversation) = self.conversation.take().filter(|_| done.generated > 0) {
            conversation.keep(engine, &session);
            let ended = usize::from(matches!(done.end, End::Model));
            let answer = &session.tokens()[self.tokens.len()..];
            conversation.finish(&answer[..answer.len() - ended], tokenizer)?;
        }
        session.close(engine);
        self.summary(engine, &done);
        if let Some(routes) = self.routes.take() {
            routes.finish()?;
        }
        match done.end {
            End::Failed(error) => Err(error.into()),
            End::Unwritten(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(anyhow::Error::from(error).context(term::UNWRITTEN))
            }
            End::Interrupted => Ok(ExitCode::from(INTERRUPTED)),
            _ => Ok(ExitCode::SUCCESS),
        }
    }

    fn answer(
        &mut self,
        engine: &mut Engine,
        session: &mut Session,
        tokenizer: &Tokenizer,
        drive_limit: Option<f64>,
    ) -> Result<Done> {
        let drive = || Machine::here().drive_read_bytes();
        let before = drive();
        let layers = engine.facts().layers;
        let mut bounds = [(); 2].map(|()| Running::new(drive_limit.unwrap_or(f64::INFINITY), layers));
        let began = Instant::now();
        let mut progress = PromptProgress::start();
        let mut watch = Watch { inner: &mut progress, bound: &mut bounds[0], routes: self.routes.as_mut() };
        let prefilled = prefill(engine, session, &self.tokens, self.conversation.as_mut(), &mut watch);
        progress.finish();
        bounds[0].step(began.elapsed());
        let prefill_stream = engine.stats().stream;
        let between = drive();
        let mut generated = 0;
        let end = match prefilled {
            Ok(()) => self.decode(engine, session, tokenizer, &mut generated, &mut bounds[1])?,
            Err(EngineError::Cancelled) => End::Interrupted,
            Err(error) => End::Failed(error),
        };
        let stream = engine.stats().stream.since(&prefill_stream);
        // Where the kernel does not count, the reader does.
        let counted = |from: Option<u64>, to: Option<u64>, ours: u64| from.zip(to).map_or(ours, |(from, to)| to - from);
        let read_bytes =
            [counted(before, between, prefill_stream.read_bytes), counted(between, drive(), stream.read_bytes)];
        Ok(Done { generated, end, read_bytes, stream, bounds: drive_limit.map(|_| bounds) })
    }

    fn decode(
        &mut self,
        engine: &mut Engine,
        session: &mut Session,
        tokenizer: &Tokenizer,
        generated: &mut usize,
        bound: &mut Running,
    ) -> Result<End> {
        let mut sampler = Sampler::new(self.sampling.clone(), engine.facts().vocab);
        sampler.see(&self.tokens);
        let mut detokenizer = Detokenizer::new(tokenizer, true);
        let mut out = io::stdout().lock();
        let mut write = |text: &str| out.write_all(text.as_bytes()).and_then(|()| out.flush());
        let mut choose = |logits: &[f32], position: usize| sampler.choose(logits, position);
        let end = loop {
            if *generated >= self.tokens_max {
                break End::Length;
            }
            if stopped() {
                break End::Interrupted;
            }
            let began = Instant::now();
            let mut watch = Watch { inner: &mut Interruptible, bound, routes: self.routes.as_mut() };
            let stepped = session.step(engine, &mut watch, &mut choose);
            if *generated > 0 {
                // The first token came with the prompt.
                bound.step(began.elapsed());
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
            let (text, stop) = match self.stop_strings.push(detokenizer.push(tokenizer, token)) {
                Stop::Emit(text) => (text, false),
                Stop::Hit { text_before, .. } => (text_before, true),
            };
            if let Err(error) = write(text) {
                break End::Unwritten(error);
            }
            if stop {
                break End::StopString;
            }
        };
        let rest = match end {
            End::Unwritten(_) => return Ok(end),
            End::StopString => Ok(()),
            _ => {
                // What was held back because it might have gone on otherwise.
                let (Stop::Emit(text) | Stop::Hit { text_before: text, .. }) =
                    self.stop_strings.push(detokenizer.finish());
                write(text).and_then(|()| write(self.stop_strings.finish()))
            }
        };
        let rest = rest.and_then(|()| write("\n"));
        Ok(match (end, rest) {
            (End::Failed(error), _) => End::Failed(error),
            (_, Err(error)) => End::Unwritten(error),
            (end, Ok(())) => end,
        })
    }

    /// One line: tokens, speed, memory, hits, bytes read.
    fn summary(&self, engine: &Engine, done: &Done) {
        let stats = engine.stats();
        let speed = |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64().max(1e-9);
        let used = Machine::here()
            .resident()
            .map_or("unknown".to_owned(), |resident| Bytes(resident.total_bytes()).to_string());
        let experts = done.stream.hits + done.stream.misses;
        let hits = match experts {
            0 => "no experts".to_owned(),
            _ => {
                let waited = 100.0 * done.stream.blocked.as_secs_f64() / stats.decode_time.as_secs_f64().max(1e-9);
                let hits = 100.0 * done.stream.hits as f64 / experts as f64;
                format!("{hits:.0} % of experts hit, {waited:.0} % of decoding waited for the drive")
            }
        };
        let end = match done.end {
            End::Model => "the model ended",
            End::StopString => "stop string",
            End::Length => "-n reached",
            End::ContextFull => "context full (raise --ctx)",
            End::Interrupted => "interrupted",
            End::Unwritten(_) => "output closed",
            End::Failed(_) => "failed",
        };
        let seed =
            if self.sampling.temperature > 0.0 { format!(" · seed {}", self.sampling.seed) } else { String::new() };
        let found = match self.tokens.len() - stats.prefill_tokens.min(self.tokens.len()) {
            0 => String::new(),
            found => format!(" ({found} of them kept)"),
        };
        term::note(&format!(
            "{} prompt{found} + {} generated tokens ({end}) · prefill {:.1} tok/s, decode {:.1} tok/s · RAM {} given, {used} used · {hits} · \
             read {} for the prompt, {} per generated token{seed}",
            self.tokens.len(),
            done.generated,
            speed(stats.prefill_tokens, stats.prefill_time),
            speed(stats.decode_tokens, stats.decode_time),
            Bytes(engine.plan().ram as u64),
            Bytes(done.read_bytes[0]),
            Bytes(done.read_bytes[1] / stats.decode_tokens.max(1) as u64),
        ));
        if stats.governor.given_back > 0 {
            let [given, taken] = [stats.governor.given_back, stats.governor.taken_again].map(Bytes);
            term::note(&format!(
                "Memory was short on this machine: {given} given back to it, {taken} of that taken again later."
            ));
        }
        if let Some(bounds) = &done.bounds {
            bound_summary(engine, &done.stream, bounds);
        }
    }
}

/// Computes a prompt, and keeps the state on the way where the next turn will need it.
fn prefill(
    engine: &mut Engine,
    session: &mut Session,
    tokens: &[u32],
    conversation: Option<&mut Conversation>,
    watch: &mut Watch,
) -> Result<(), EngineError> {
    if let Some(conversation) = conversation
        && let Some(mark) = conversation.mark(session.tokens().len())
    {
        session.sync(engine, &tokens[..mark], &[], watch)?;
        conversation.keep(engine, session);
    }
    session.sync(engine, tokens, &[], watch)
}

/// What of this was the machine, and what was not: a line for the prompt and the answer.
fn bound_summary(engine: &Engine, stream: &StreamStats, bounds: &[Running; 2]) {
    let parts: Vec<String> = ["prompt", "answer"]
        .iter()
        .zip(bounds)
        .filter_map(|(name, bound)| Some((name, bound, bound.share()?)))
        .map(|(name, bound, share)| format!("{name} {:.0} % (bound by {})", 100.0 * share, bound.bound_by().phrase()))
        .collect();
    if parts.is_empty() {
        return;
    }
    let given = match stream.reading.as_secs_f64() {
        reading if stream.read_bytes > 0 && reading > 0.0 => format!("{:.2}", stream.read_bytes as f64 / reading / 1e9),
        _ => "nothing".to_owned(),
    };
    let guesses = engine.stats().lookahead;
    let lookahead = match guesses.guessed {
        0 => String::new(),
        guessed => {
            let gain = guesses.gain.map_or(String::new(), |gain| format!(", {gain:.2} times less waiting in a trial"));
            format!(
                " · the next layer's experts guessed right {:.0} %, {} of {} read ahead of their use{gain}",
                100.0 * guesses.right as f64 / guessed as f64,
                stream.early_used,
                stream.misses,
            )
        }
    };
    term::note(&format!(
        "Of what this drive, this RAM and these routes allow: {} · the answer's reads came at {given} of the {:.2} GB/s that the \
         drive gave at the start{lookahead}",
        parts.join(", "),
        bounds[0].drive_bytes_per_second() / 1e9,
    ));
}
