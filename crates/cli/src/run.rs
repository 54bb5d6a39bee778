//! `run`: answers a prompt, streaming the text as it comes.

use std::io;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use outpour_engine::{Engine, EngineError, Inspection, Session, Snapshots};
use outpour_store::machine::Machine;
use outpour_text::{AnswerStream, ChatRequest, Dialect, Piece, StopStrings, Tokenizer};
use serde_json::json;

use crate::args::RunArgs;
use crate::generation::{End, Generation, Listener, drive_limit};
use crate::session::{Conversation, Rendered, marks_of};
use crate::shown::{Form, Shown};
use crate::term::{self, INTERRUPTED};
use crate::watch::{Routes, TimelineFile};
use crate::{model, summary};

/// Answers a prompt.
///
/// # Errors
/// One line about the model, the flags or the prompt; after a read that failed mid-way, the text so far is out.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    if let (Some(routes), Some(trace)) = (&args.trace_routes, &args.trace_out)
        && routes == trace
    {
        bail!("--trace-routes and --trace-out both write {}: give each a file of its own", routes.display());
    }
    let inspection = model::open(&args.model, &args.load)?;
    let sampling = model::sampling(&inspection, &args.sampling)?;
    let mut options = model::options(&args.load, inspection.checkpoint())?;
    options.beside += args.session.as_ref().map_or(0, |_| Snapshots::memory_bytes(inspection.model()));
    let plan = inspection.plan(&options)?;
    let tokenizer = model::tokenizer_of(inspection.checkpoint())?;
    let prompt = model::prompt(args.prompt.as_deref(), model::prompt_bytes_max(&tokenizer, plan.ctx))
        .with_context(|| format!("a prompt for the context of {} tokens (--ctx)", plan.ctx))?;
    let Asked { rendered, dialect, conversation } = asked(args, &inspection, &tokenizer, &prompt)?;
    let Rendered { tokens, thinking, mark } = rendered;
    if tokens.is_empty() {
        return Err(EngineError::NoTokens.into());
    }
    let room =
        EngineError::ContextFull { tokens: tokens.len(), ctx: plan.ctx, ctx_max: inspection.facts().context_max };
    if tokens.len() >= plan.ctx {
        return Err(room.into());
    }
    model::check_text(&tokens, &tokenizer, inspection.facts())?;
    let generation = Generation {
        tokens,
        mark,
        tokens_max: args.max_tokens.unwrap_or(usize::MAX),
        stop_tokens: if args.ignore_eos { Vec::new() } else { model::stop_tokens(&inspection, &tokenizer)? },
        stop_strings: StopStrings::new(args.stop.clone())?,
        shown: dialect.map_or(Vec::new(), |dialect| marks_of(dialect, &tokenizer)),
        sampling,
    };
    let routes = args.trace_routes.as_ref().map(|path| Routes::create(path, &inspection)).transpose()?;
    if inspection.skipped()[0] > 0 {
        term::note("This model's vision is not used: it is given text only.");
    }
    term::catch_interrupt()?;
    let trace = args.trace_out.as_ref().map(|path| TimelineFile::create(path, &inspection)).transpose()?;
    let timeline = trace.as_ref().map(|trace| &trace.timeline);
    let mut engine = model::load_recorded(inspection, &options, args.load.reader(), timeline)?;
    engine.govern(Machine::here());
    let stream = dialect.map(|dialect| AnswerStream::without_calls(dialect, thinking));
    let output = Output { conversation, routes, ..Output::new(stream) };
    let done = answer(generation, output, &mut engine, &tokenizer);
    trace.map_or(Ok(()), TimelineFile::finish)?;
    done
}

/// What is asked of the model.
struct Asked {
    rendered: Rendered,
    /// How it writes thoughts; `None` of one that goes on with the prompt as it stands.
    dialect: Option<Dialect>,
    /// What it is part of, if that is kept.
    conversation: Option<Conversation>,
}

fn asked(args: &RunArgs, inspection: &Inspection, tokenizer: &Tokenizer, prompt: &str) -> Result<Asked> {
    if args.raw {
        let rendered = Rendered { tokens: tokenizer.encode_raw(prompt)?, thinking: false, mark: None };
        return Ok(Asked { rendered, dialect: None, conversation: None });
    }
    let checkpoint = inspection.checkpoint();
    let Some(template) = model::template(checkpoint, tokenizer)? else {
        let dir = checkpoint.dir().display();
        bail!("{dir}: has no chat template: give --raw to continue the prompt as it stands");
    };
    let dialect = Some(Dialect::of_template(template.source()));
    if let Some(path) = &args.session {
        let goes_back = inspection.model().state_layout().goes_back();
        let asked = (args.system.as_deref(), prompt);
        let (conversation, rendered) = Conversation::ask(path, asked, &args.stop, (&template, tokenizer), goes_back)?;
        return Ok(Asked { rendered, dialect, conversation: Some(conversation) });
    }
    let system = args.system.iter().map(|text| json!({"role": "system", "content": text}));
    let messages = system.chain([json!({"role": "user", "content": prompt})]).collect();
    let request = ChatRequest { messages, ..ChatRequest::default() };
    // Nothing is kept of it, so no mark is needed.
    let rendered = Rendered::new(&request, (&template, tokenizer), true)?;
    Ok(Asked { rendered, dialect, conversation: None })
}

/// Where an answer goes: its text to standard output, thoughts to standard error.
pub struct Output {
    /// Tells thoughts from text; without it all is text.
    stream: Option<AnswerStream>,
    shown: Shown,
    /// The conversation that it goes on with.
    conversation: Option<Conversation>,
    /// Where the experts chosen are written.
    routes: Option<Routes>,
}

impl Output {
    /// Nothing is kept of the answer. `stream` tells thoughts from text; without it all is text.
    pub fn new(stream: Option<AnswerStream>) -> Output {
        Output { stream, shown: Shown::new(Form::Apart), conversation: None, routes: None }
    }

    fn show(&mut self, pieces: &[Piece]) -> io::Result<()> {
        pieces.iter().try_for_each(|piece| self.shown.piece(piece))
    }
}

impl Listener for Output {
    fn text(&mut self, text: &str) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return self.show(&[Piece::Text(text.to_owned())]) };
        let mut pieces = Vec::new();
        stream.push(text, &mut pieces);
        self.show(&pieces)
    }

    fn end(&mut self) -> io::Result<()> {
        let mut pieces = Vec::new();
        self.stream.iter_mut().for_each(|stream| stream.finish(&mut pieces));
        self.show(&pieces)?;
        self.shown.end()
    }

    fn marked(&mut self, engine: &mut Engine, session: &mut Session) {
        if let Some(conversation) = &mut self.conversation {
            conversation.states.keep(engine, session);
        }
    }

    fn routes(&mut self) -> Option<&mut Routes> {
        self.routes.as_mut()
    }
}

/// Makes an answer on standard output, and its thoughts and summary on standard error.
///
/// # Errors
/// When a token cannot be computed; the text so far is out.
pub fn answer(
    mut generation: Generation,
    mut output: Output,
    engine: &mut Engine,
    tokenizer: &Tokenizer,
) -> Result<ExitCode> {
    let limit = drive_limit(engine)?;
    let mut session = match &output.conversation {
        Some(conversation) => conversation.states.resume(engine, &generation.tokens),
        None => Session::open(engine),
    };
    let done = generation.run(engine, &mut session, tokenizer, limit, &mut output);
    if let Some(mut conversation) = output.conversation.take().filter(|_| done.generated > 0) {
        conversation.states.keep(engine, &session);
        conversation.finish(generation.answer(&session, &done), tokenizer)?;
    }
    session.close(engine);
    if matches!(done.end, End::Length | End::ContextFull) && output.stream.is_some_and(|stream| stream.thinks()) {
        term::note("The model was still thinking, so there is no answer: let it say more (-n, --ctx).");
    }
    summary::lines(engine, &generation, &done).iter().for_each(|line| term::note(line));
    output.routes.map_or(Ok(()), Routes::finish)?;
    match done.end {
        End::Failed(error) => Err(error.into()),
        End::Unwritten(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::from(error).context(term::UNWRITTEN))
        }
        End::Interrupted => Ok(ExitCode::from(INTERRUPTED)),
        _ => Ok(ExitCode::SUCCESS),
    }
}
