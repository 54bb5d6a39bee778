//! A conversation with a loaded model: its messages, and what was computed of them.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use outpour_engine::bound::DriveLimit;
use outpour_engine::sample::Sampling;
use outpour_engine::{Engine, EngineError, Session};
use outpour_text::{
    Answer, AnswerStream, ChatRequest, ChatTemplate, Dialect, Piece, StopStrings, TextError, Tokenizer, ToolCall,
};
use serde_json::{Map, Value, json};

use crate::generation::{Done, End, Generation, Listener, drive_limit};
use crate::session::{self, Held, Rendered, StateFile, marks_of, message_of};
use crate::shown::Shown;
use crate::{model, summary};

/// Of a model whose states cannot go back, so many are kept at ends of messages: for `/retry`, and one `/undo`.
const MARKS_MAX: usize = 2;

/// The text side of a model.
pub struct Words {
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// Conversations to text.
    pub template: ChatTemplate,
    /// Tokens that end an answer.
    pub stop_tokens: Vec<u32>,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Tokens of an answer at most.
    pub tokens_max: usize,
    /// How tokens are chosen; each answer has another seed.
    pub sampling: Sampling,
    /// Schemas of the tools that may be called.
    pub tools: Vec<Value>,
}

/// A conversation.
pub struct Talk {
    engine: Engine,
    words: Words,
    drive_limit: Option<DriveLimit>,
    /// Oldest first, as templates take them.
    messages: Vec<Value>,
    /// Variables of the template.
    kwargs: Map<String, Value>,
    /// Answers so far.
    answers: u64,
    /// The timeline of the last answer.
    live: Option<Session>,
    /// Those that end with messages, newest last; none where `live` can go back itself.
    marks: VecDeque<Session>,
    /// Where the conversation is written after each answer.
    file: Option<Held>,
    /// States of a file that was loaded, until they are needed.
    kept: Option<StateFile>,
    /// What the last answer cost.
    costs: Vec<String>,
}

/// What came of an answer.
pub struct Said {
    /// The calls of tools in it, with their names.
    pub calls: Vec<(String, ToolCall)>,
    /// What it cost, in a line.
    pub costs: String,
    /// Why it ended.
    pub end: End,
}

impl Talk {
    /// A conversation of these messages, which are in `file` if there is one.
    ///
    /// # Errors
    /// When the drive cannot be read.
    pub fn begin(mut engine: Engine, words: Words, messages: Vec<Value>, file: Option<Held>) -> Result<Talk> {
        let drive_limit = drive_limit(&mut engine)?;
        let kept = file.as_ref().map(|file| StateFile::of(file.path()));
        Ok(Talk {
            engine,
            words,
            drive_limit,
            messages,
            kwargs: Map::new(),
            answers: 0,
            live: None,
            marks: VecDeque::new(),
            file,
            kept,
            costs: Vec::new(),
        })
    }

    /// Does what is to be done while nothing is asked.
    pub fn idle(&mut self) {
        self.engine.idle();
    }

    /// Adds a message of the user.
    ///
    /// # Errors
    /// When it cannot fit the context.
    pub fn say(&mut self, text: &str) -> Result<()> {
        let (ctx, bytes_max) =
            (self.engine.plan().ctx, model::prompt_bytes_max(&self.words.tokenizer, self.engine.plan().ctx));
        ensure!(
            text.len() <= bytes_max,
            "the message has {} bytes and cannot fit the context of {ctx} tokens (--ctx)",
            text.len()
        );
        self.messages.push(json!({"role": "user", "content": text}));
        Ok(())
    }

    /// Adds what came of a call.
    pub fn result(&mut self, id: &str, name: &str, text: &str) {
        self.messages.push(json!({"role": "tool", "tool_call_id": id, "name": name, "content": text}));
    }

    /// Lets the model answer, and adds what it says.
    ///
    /// # Errors
    /// When the template refuses the conversation, it does not fit the context, or its file cannot be written.
    pub fn answer(&mut self, shown: Shown) -> Result<Said> {
        let rendered = self.rendered()?;
        let mut generation = self.generation(&rendered)?;
        let mut session = self.timeline(&generation.tokens);
        let mut reply = Reply {
            stream: AnswerStream::new(self.dialect(), rendered.thinking, &self.words.tools),
            shown,
            answer: Answer::default(),
            marks: &mut self.marks,
        };
        let done = generation.run(&mut self.engine, &mut session, &self.words.tokenizer, self.drive_limit, &mut reply);
        let answer = mem::take(&mut reply.answer);
        let costs = summary::short(&self.engine, &generation, &done, session.tokens().len());
        self.costs = summary::lines(&self.engine, &generation, &done);
        self.drive_limit = done.bounds.as_ref().map(|[_, answer]| answer.limit());
        self.live = Some(session);
        self.answers += 1;
        let calls = self.add(answer, &done)?;
        Ok(Said { calls, costs, end: done.end })
    }

    fn dialect(&self) -> Dialect {
        Dialect::of_template(self.words.template.source())
    }

    fn rendered(&self) -> Result<Rendered> {
        let tools = (!self.words.tools.is_empty()).then(|| self.words.tools.clone());
        let request = ChatRequest {
            messages: self.messages.clone(),
            tools,
            kwargs: self.kwargs.clone(),
            ..ChatRequest::default()
        };
        let rendered = Rendered::new(&request, (&self.words.template, &self.words.tokenizer), self.engine.goes_back())?;
        let (tokens, ctx) = (rendered.tokens.len(), self.engine.plan().ctx);
        ensure!(
            tokens < ctx,
            "the conversation has {tokens} tokens, and the context {ctx}: /undo shortens it, /clear begins anew, and a larger \
             --ctx holds more"
        );
        model::check_text(&rendered.tokens, &self.words.tokenizer, self.engine.facts())?;
        Ok(rendered)
    }

    fn generation(&self, rendered: &Rendered) -> Result<Generation, TextError> {
        let words = &self.words;
        let sampling = Sampling { seed: words.sampling.seed.wrapping_add(self.answers), ..words.sampling.clone() };
        Ok(Generation {
            tokens: rendered.tokens.clone(),
            mark: rendered.mark,
            tokens_max: words.tokens_max,
            stop_tokens: words.stop_tokens.clone(),
            stop_strings: StopStrings::new(words.stop.clone())?,
            shown: marks_of(self.dialect(), &words.tokenizer),
            sampling,
        })
    }

    /// The timeline that holds most of `tokens`.
    fn timeline(&mut self, tokens: &[u32]) -> Session {
        let engine = &mut self.engine;
        if let Some(kept) = self.kept.take() {
            self.live.take().into_iter().for_each(|live| live.close(engine));
            return kept.resume(engine, tokens);
        }
        let live = match self.live.take() {
            Some(live) if session::serves(engine, &live, tokens) => Some(live),
            Some(live) => {
                live.close(engine);
                None
            }
            None => None,
        };
        let held = |session: &Session| session.tokens().len();
        let mark =
            self.marks.iter_mut().filter(|mark| session::serves(engine, mark, tokens)).max_by_key(|mark| held(mark));
        match (live, mark) {
            (Some(live), mark) if mark.as_ref().is_none_or(|mark| held(mark) <= held(&live)) => live,
            (live, Some(mark)) => {
                live.into_iter().for_each(|live| live.close(engine));
                // Without memory for a copy, the tokens are computed anew.
                mark.fork(engine, &mut ()).unwrap_or_else(|_| Session::open(engine))
            }
            (live, None) => live.unwrap_or_else(|| Session::open(engine)),
        }
    }

    /// Adds an answer to the messages, and names its calls.
    fn add(&mut self, answer: Answer, done: &Done) -> Result<Vec<(String, ToolCall)>> {
        if done.generated == 0 {
            return Ok(Vec::new());
        }
        let mut message = message_of(&answer);
        let named = |(i, call)| (call_name(self.messages.len(), i), call);
        let calls: Vec<(String, ToolCall)> = answer.calls.into_iter().enumerate().map(named).collect();
        if !calls.is_empty() {
            let function = |call: &ToolCall| json!({"name": call.name, "arguments": call.arguments});
            let listed =
                calls.iter().map(|(id, call)| json!({"id": id, "type": "function", "function": function(call)}));
            message["tool_calls"] = listed.collect();
        }
        self.messages.push(message);
        self.write()?;
        Ok(calls)
    }

    /// Takes back the last message of the user and all after it; returns its text.
    pub fn take_back(&mut self) -> Option<String> {
        let last = self.last_message()?;
        let taken = self.messages.drain(last..).next()?;
        Some(text_of(&taken["content"]))
    }

    /// Takes back the answer to the last message of the user; whether there is such a message.
    pub fn take_back_answer(&mut self) -> bool {
        let last = self.last_message();
        self.messages.truncate(last.map_or(self.messages.len(), |last| last + 1));
        last.is_some()
    }

    fn last_message(&self) -> Option<usize> {
        self.messages.iter().rposition(|message| message["role"] == "user")
    }

    /// Whether the last message is the user's, without an answer.
    pub fn waits(&self) -> bool {
        self.messages.last().is_some_and(|message| message["role"] == "user")
    }

    /// The system message.
    pub fn system(&self) -> Option<String> {
        self.messages.first().filter(|message| message["role"] == "system").map(|message| text_of(&message["content"]))
    }

    /// Sets the system message, or removes it.
    pub fn set_system(&mut self, text: &str) {
        self.messages.drain(..usize::from(self.system().is_some()));
        if !text.is_empty() {
            self.messages.insert(0, json!({"role": "system", "content": text}));
        }
    }

    /// Sets variables of the template.
    pub fn set_kwargs(&mut self, kwargs: Map<String, Value>) {
        self.kwargs.extend(kwargs);
    }

    /// What `/think` was set to, in words.
    pub fn thinks(&self) -> String {
        let set = ["enable_thinking", "reasoning_effort"].iter().filter_map(|key| self.kwargs.get(*key));
        let word = |value: &Value| match value {
            Value::Bool(true) => "on".to_owned(),
            Value::Bool(false) => "off".to_owned(),
            other => other.as_str().unwrap_or_default().to_owned(),
        };
        let set: Vec<String> = set.map(word).collect();
        if set.is_empty() { "As the model does by itself.".into() } else { set.join(", ") }
    }

    /// The template's text.
    pub fn template(&self) -> &str {
        self.words.template.source()
    }

    /// What the last answer cost.
    pub fn costs(&self) -> &[String] {
        &self.costs
    }

    /// The messages, oldest first.
    pub fn messages(&self) -> &[Value] {
        &self.messages
    }

    /// Has other messages than before.
    pub fn set_messages(&mut self, messages: Vec<Value>) {
        self.messages = messages;
    }

    /// Whether the same messages always get the same answer.
    pub fn is_greedy(&self) -> bool {
        self.words.sampling.temperature == 0.0
    }

    /// Begins a new conversation, in no file; the system message stays.
    ///
    /// # Errors
    /// When the present one cannot be written to its file.
    pub fn clear(&mut self) -> Result<()> {
        self.leave()?;
        self.file = None;
        self.messages.truncate(usize::from(self.system().is_some()));
        Ok(())
    }

    /// Writes the conversation to a file, or to the one that it has, now and after each answer; returns which.
    ///
    /// # Errors
    /// When it cannot be written, there is no file, or a file that is there holds something else.
    pub fn save(&mut self, path: Option<PathBuf>) -> Result<&Path> {
        if let Some(path) = path {
            if path.exists() {
                session::read(&path)?;
            }
            let newly = self.newly_held(&path)?;
            session::write(&path, &self.messages)?;
            self.file = newly.or(self.file.take());
        }
        ensure!(self.file.is_some(), "the conversation has no file yet: /save FILE names one");
        self.leave()?;
        Ok(self.file.as_ref().map_or(Path::new(""), Held::path))
    }

    /// Takes hold of a file; `None` where it is held already.
    fn newly_held(&self, path: &Path) -> Result<Option<Held>> {
        let held = self.file.as_ref().is_some_and(|file| file.path() == path);
        if held { Ok(None) } else { Held::take(path).map(Some) }
    }

    /// Goes on with the conversation in a file.
    ///
    /// # Errors
    /// When it holds none, or the present one cannot be written to its own.
    pub fn load(&mut self, path: PathBuf) -> Result<()> {
        ensure!(path.exists(), "{}: there is no such file; /save FILE writes one to load", path.display());
        let newly = self.newly_held(&path)?;
        let messages = session::read(&path)?;
        self.leave()?;
        self.messages = messages;
        self.marks.drain(..).for_each(|mark| mark.close(&mut self.engine));
        self.kept = Some(StateFile::of(&path));
        self.file = newly.or(self.file.take());
        Ok(())
    }

    fn write(&self) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| session::write(file.path(), &self.messages))
    }

    /// Writes the conversation to its file, and what was computed of it beside it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn leave(&mut self) -> Result<()> {
        self.write()?;
        let Some(file) = self.file.as_ref().filter(|_| self.live.is_some() && self.kept.is_none()) else {
            return Ok(());
        };
        let mut states = StateFile::of(file.path());
        self.marks.back().into_iter().chain(&self.live).for_each(|session| states.keep(&self.engine, session));
        states.finish();
        Ok(())
    }
}

/// The text of a message, whose content is a text, or a list of parts of which some are; or nothing, beside calls of tools.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| part.as_str().or_else(|| part["text"].as_str()));
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// A call's name: nine letters and digits, as templates of Mistral's want them.
fn call_name(message: usize, call: usize) -> String {
    format!("c{:05}{:03}", message % 100_000, call % 1000)
}

/// An answer on its way.
struct Reply<'t> {
    stream: AnswerStream,
    shown: Shown,
    answer: Answer,
    marks: &'t mut VecDeque<Session>,
}

impl Reply<'_> {
    fn take(&mut self, pieces: Vec<Piece>) -> io::Result<()> {
        let shown = pieces.iter().try_for_each(|piece| self.shown.piece(piece));
        pieces.into_iter().for_each(|piece| self.answer.add(piece));
        shown
    }
}

impl Listener for Reply<'_> {
    fn text(&mut self, text: &str) -> io::Result<()> {
        let mut pieces = Vec::new();
        self.stream.push(text, &mut pieces);
        self.take(pieces)
    }

    fn end(&mut self) -> io::Result<()> {
        let mut pieces = Vec::new();
        self.stream.finish(&mut pieces);
        self.take(pieces)?;
        self.shown.end()
    }

    fn marked(&mut self, engine: &mut Engine, session: &mut Session) {
        // Without memory for a copy, /retry computes the prompt anew.
        let Ok(mark) = session.fork(engine, &mut ()) else { return };
        self.marks.push_back(mark);
        while self.marks.len() > MARKS_MAX {
            self.marks.pop_front().into_iter().for_each(|mark| mark.close(engine));
        }
    }
}

/// What could not be done, in words that fit a conversation.
pub fn trouble(end: &End) -> Option<String> {
    match end {
        End::Failed(error @ EngineError::ContextFull { .. }) => {
            Some(format!("{error}; /undo shortens the conversation"))
        }
        End::Failed(error) => Some(error.to_string()),
        End::Unwritten(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Some(format!("standard output: cannot write: {error}"))
        }
        End::Unwritten(_) | End::Model | End::StopString | End::Length | End::ContextFull | End::Interrupted => None,
    }
}
