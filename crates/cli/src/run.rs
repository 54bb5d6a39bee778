//! `run`: answers a prompt, streaming the text as it comes.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use outpour_engine::sample::{Sampler, Sampling};
use outpour_engine::{Engine, EngineError, Inspection, Session};
use outpour_store::bytes::Bytes;
use outpour_store::checkpoint::Checkpoint;
use outpour_store::machine::Machine;
use outpour_text::{ChatRequest, Detokenizer, Stop, StopStrings, Tokenizer};
use serde_json::json;

use crate::args::RunArgs;
use crate::model;
use crate::term::{self, INTERRUPTED, Interruptible, PromptProgress, stopped};

/// Answers a prompt.
///
/// # Errors
/// One line about the model, the flags or the prompt; after a read that failed mid-way, the text so far is out.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    let inspection = Inspection::open(&args.model, args.load.numerics())?;
    let sampling = model::sampling(&inspection, &args.sampling)?;
    let options = model::options(&args.load, inspection.checkpoint())?;
    let plan = inspection.plan(&options)?;
    let text = model::text(inspection.checkpoint())?;
    let prompt = model::prompt(args.prompt.as_deref(), prompt_bytes_max(&text.tokenizer, plan.ctx))
        .with_context(|| format!("a prompt for the context of {} tokens (--ctx)", plan.ctx))?;
    let tokens = prompt_tokens(args, inspection.checkpoint(), &text.tokenizer, &prompt)?;
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
        stop_tokens: if args.ignore_eos { Vec::new() } else { model::stop_tokens(&inspection, &text.tokenizer)? },
        stop_strings: StopStrings::new(args.stop.clone())?,
        sampling,
    };
    if inspection.skipped()[0] > 0 {
        term::note("This model's vision is not used: it is given text only.");
    }
    term::catch_interrupt()?;
    let mut engine = model::load(inspection, &options, args.load.reader())?;
    generation.run(&mut engine, &text.tokenizer)
}

/// The longest text that could be a prompt of so many tokens; normalisation may shorten a text, to a quarter at most.
fn prompt_bytes_max(tokenizer: &Tokenizer, ctx: usize) -> usize {
    4 * ctx.saturating_mul(tokenizer.token_bytes_max())
}

fn prompt_tokens(args: &RunArgs, checkpoint: &Checkpoint, tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>> {
    if args.raw {
        return Ok(tokenizer.encode_raw(prompt)?);
    }
    let system = args.system.iter().map(|text| json!({"role": "system", "content": text}));
    let messages = system.chain([json!({"role": "user", "content": prompt})]).collect();
    let request = ChatRequest { messages, add_generation_prompt: true, ..ChatRequest::default() };
    let Some(template) = model::template(checkpoint, tokenizer)? else {
        let dir = checkpoint.dir().display();
        bail!("{dir}: has no chat template: give --raw to continue the prompt as it stands");
    };
    Ok(tokenizer.encode(&template.render(&request)?, true)?)
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
}

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
    /// Experts found in memory and read while decoding.
    hits: u64,
    misses: u64,
    /// Time of decoding in which nothing could be computed because reads were awaited.
    blocked: Duration,
}

impl Generation {
    /// Makes the answer on standard output, and the summary on standard error.
    ///
    /// # Errors
    /// When a token cannot be computed; the text so far is out.
    pub fn run(mut self, engine: &mut Engine, tokenizer: &Tokenizer) -> Result<ExitCode> {
        let mut session = Session::open(engine);
        let done = self.answer(engine, &mut session, tokenizer)?;
        session.close(engine);
        self.summary(engine, &done);
        match done.end {
            End::Failed(error) => Err(error.into()),
            End::Unwritten(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(anyhow::Error::from(error).context(term::UNWRITTEN))
            }
            End::Interrupted => Ok(ExitCode::from(INTERRUPTED)),
            _ => Ok(ExitCode::SUCCESS),
        }
    }

    fn answer(&mut self, engine: &mut Engine, session: &mut Session, tokenizer: &Tokenizer) -> Result<Done> {
        let drive = || Machine::here().drive_read_bytes();
        let before = drive();
        let mut progress = PromptProgress::start();
        let prefilled = session.sync(engine, &self.tokens, &[], &mut progress);
        progress.finish();
        let prefill_stream = engine.stats().stream;
        let between = drive();
        let mut done =
            Done { generated: 0, end: End::Length, read_bytes: [0; 2], hits: 0, misses: 0, blocked: Duration::ZERO };
        done.end = match prefilled {
            Ok(()) => self.decode(engine, session, tokenizer, &mut done.generated)?,
            Err(EngineError::Cancelled) => End::Interrupted,
            Err(error) => End::Failed(error),
        };
        let stream = engine.stats().stream;
        // Where the kernel does not count, the reader does.
        let counted = |from: Option<u64>, to: Option<u64>, ours: u64| from.zip(to).map_or(ours, |(from, to)| to - from);
        done.read_bytes = [
            counted(before, between, prefill_stream.read_bytes),
            counted(between, drive(), stream.read_bytes - prefill_stream.read_bytes),
        ];
        (done.hits, done.misses) = (stream.hits - prefill_stream.hits, stream.misses - prefill_stream.misses);
        done.blocked = stream.blocked - prefill_stream.blocked;
        Ok(done)
    }

    fn decode(
        &mut self,
        engine: &mut Engine,
        session: &mut Session,
        tokenizer: &Tokenizer,
        generated: &mut usize,
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
            let token = match session.step(engine, &mut Interruptible, &mut choose) {
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
        let experts = done.hits + done.misses;
        let hits = match experts {
            0 => "no experts".to_owned(),
            _ => {
                let waited = 100.0 * done.blocked.as_secs_f64() / stats.decode_time.as_secs_f64().max(1e-9);
                let hits = 100.0 * done.hits as f64 / experts as f64;
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
        term::note(&format!(
            "{} prompt + {} generated tokens ({end}) · prefill {:.1} tok/s, decode {:.1} tok/s · RAM {} given, {used} used · {hits} · \
             read {} for the prompt, {} per generated token{seed}",
            self.tokens.len(),
            done.generated,
            speed(stats.prefill_tokens, stats.prefill_time),
            speed(stats.decode_tokens, stats.decode_time),
            Bytes(engine.plan().ram as u64),
            Bytes(done.read_bytes[0]),
            Bytes(done.read_bytes[1] / stats.decode_tokens.max(1) as u64),
        ));
    }
}
