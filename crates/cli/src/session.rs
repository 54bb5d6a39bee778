//! A conversation that is kept: a file holds its messages, as JSON that can be read and edited; beside it `FILE.state` holds
//! what was computed of them, and may be removed. `run --session` and `chat` share both.
//!
//! Content of `FILE.state`, a sealed file: for each state a byte 1 and what [`Session::save`] writes; a byte 0.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use outpour_engine::{Engine, EngineError, Session};
use outpour_store::read::whole::read_whole;
use outpour_store::sealed::{SealedReader, SealedWriter, remove_unfinished};
use outpour_text::{Answer, ChatRequest, ChatTemplate, Dialect, Stop, StopStrings, Tokenizer, ends_thinking};
use serde_json::{Value, json};

use crate::npy::WholeOrNothing;
use crate::term;

/// Largest file of messages.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A conversation as tokens, up to the beginning of an answer.
pub struct Rendered {
    /// All of them.
    pub tokens: Vec<u32>,
    /// The answer begins with thoughts.
    pub thinking: bool,
    /// Where the messages end, before the beginning of the answer: what the next prompt will begin with, too. `None` for a
    /// state that can go back there by itself.
    pub mark: Option<usize>,
}

impl Rendered {
    /// The tokens of `request`; `goes_back` says whether states can.
    ///
    /// # Errors
    /// When the template refuses it.
    pub fn new(
        request: &ChatRequest,
        (template, tokenizer): (&ChatTemplate, &Tokenizer),
        goes_back: bool,
    ) -> Result<Rendered> {
        let render =
            |add_generation_prompt: bool| template.render(&ChatRequest { add_generation_prompt, ..request.clone() });
        let text = render(true)?;
        let tokens = tokenizer.encode(&text, true)?;
        let thinking = ends_thinking(Dialect::of_template(template.source()), &text);
        if goes_back {
            return Ok(Rendered { tokens, thinking, mark: None });
        }
        // A template may refuse what it does not end itself; then there is no mark.
        let ended = render(false).and_then(|text| tokenizer.encode(&text, true)).unwrap_or_default();
        let shared = ended.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
        let mark = (shared > 0 && shared < tokens.len()).then_some(shared);
        Ok(Rendered { tokens, thinking, mark })
    }
}

/// Control tokens that an answer is taken apart by.
pub fn marks_of(dialect: Dialect, tokenizer: &Tokenizer) -> Vec<u32> {
    dialect.marks().filter_map(|mark| tokenizer.token_id(mark)).collect()
}

/// An answer as a message: without its calls, whose names are the caller's matter.
pub fn message_of(answer: &Answer) -> Value {
    let mut message = json!({"role": "assistant", "content": answer.content});
    if let Some(thoughts) = &answer.reasoning {
        message["reasoning_content"] = thoughts.as_str().into();
    }
    message
}

/// Reads the messages in a file.
///
/// # Errors
/// When it cannot be read, or holds no conversation.
pub fn read(path: &Path) -> Result<Vec<Value>> {
    let what = || format!("{}: holds no conversation; name another file", path.display());
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        bail!("{}: is a folder, device or pipe; name a file for the conversation", path.display());
    }
    let content: Value = serde_json::from_slice(&read_whole(path, FILE_BYTES_MAX)?).with_context(what)?;
    let messages =
        content["messages"].as_array().filter(|messages| messages.iter().all(|message| message["role"].is_string()));
    messages.cloned().with_context(what)
}

/// Writes messages to a file, whole or not at all; its owner alone can read them.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, messages: &[Value]) -> Result<()> {
    let mut out = WholeOrNothing::create(path, &[])?;
    out.make_private()?;
    out.write(format!("{:#}\n", json!({"messages": messages})).as_bytes())?;
    out.finish()
}

/// A conversation's file, which no other outpour writes as long as this is held: beside it `FILE.lock` is locked, and removed in
/// the end.
pub struct Held {
    path: PathBuf,
    /// `None` where no file can be made, and so none written, or the file system has no locks.
    lock: Option<(PathBuf, File)>,
}

impl Held {
    /// Takes hold of a file that may not be there yet.
    ///
    /// # Errors
    /// When another outpour holds it.
    pub fn take(path: &Path) -> Result<Held> {
        let mut beside = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).into_os_string();
        beside.push(".lock");
        let beside = PathBuf::from(beside);
        let held = |lock| Held { path: path.to_owned(), lock };
        loop {
            let Ok(file) = File::options().create(true).append(true).open(&beside) else { return Ok(held(None)) };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let path = path.display();
                    bail!("{path}: another outpour has this conversation open; end that one, or name another file")
                }
                Err(TryLockError::Error(_)) => return Ok(held(None)),
            }
            // Whoever held it may have removed it meanwhile: then the next one locks another file of this name.
            let inode = |metadata: io::Result<fs::Metadata>| metadata.ok().map(|metadata| metadata.ino());
            if inode(file.metadata()) == inode(fs::metadata(&beside)) {
                return Ok(held(Some((beside, file))));
            }
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((beside, _)) = &self.lock {
            // An empty file that stays locks nobody out.
            let _ = fs::remove_file(beside);
        }
    }
}

/// What was computed of a conversation, beside its file.
pub struct StateFile {
    path: PathBuf,
    /// The file under way.
    out: Option<SealedWriter>,
    /// It could not be written, which was said.
    failed: bool,
}

impl StateFile {
    /// That of the conversation in the file `path`.
    pub fn of(path: &Path) -> StateFile {
        let mut path = path.as_os_str().to_owned();
        path.push(".state");
        StateFile { path: path.into(), out: None, failed: false }
    }

    /// A session that holds as much of `tokens` as was kept; what cannot be used is said, and computed anew.
    pub fn resume(&self, engine: &mut Engine, tokens: &[u32]) -> Session {
        let mut best = None;
        if let Err(error) = self.restore(engine, tokens, &mut best) {
            term::note(&format!("{}: {error}. The conversation is computed anew.", self.path.display()));
            best.take().into_iter().for_each(|session: Session| session.close(engine));
        }
        best.unwrap_or_else(|| Session::open(engine))
    }

    fn restore(&self, engine: &mut Engine, tokens: &[u32], best: &mut Option<Session>) -> Result<(), EngineError> {
        let damaged = |error: io::Error| EngineError::damaged_state(&error);
        let mut reader = match SealedReader::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(damaged)?,
        };
        let mut another = [0];
        loop {
            reader.read_exact(&mut another).map_err(damaged)?;
            if another == [0] {
                return reader.finish().map_err(damaged);
            }
            let session = Session::restore(engine, &mut reader)?;
            let worse = if serves(engine, &session, tokens) { best.replace(session) } else { Some(session) };
            worse.into_iter().for_each(|session| session.close(engine));
        }
    }

    /// Keeps the session's state. Where it cannot be written this is said, and the next turn computes it anew.
    pub fn keep(&mut self, engine: &Engine, session: &Session) {
        if self.failed {
            return;
        }
        let kept = match self.out.take() {
            Some(out) => Ok(out),
            None => {
                remove_unfinished(&self.path);
                SealedWriter::create(&self.path)
            }
        };
        let kept = kept.and_then(|mut out| {
            out.write_all(&[1])?;
            session.save(engine, &mut out).map(|()| out)
        });
        match kept {
            Ok(out) => self.out = Some(out),
            Err(error) => self.cannot_keep(&error),
        }
    }

    /// Gives the file its name, if a state was kept.
    pub fn finish(&mut self) {
        if let Some(mut out) = self.out.take() {
            let sealed = out.write_all(&[0]).and_then(|()| out.finish());
            sealed.unwrap_or_else(|error| self.cannot_keep(&error));
        }
    }

    fn cannot_keep(&mut self, error: &io::Error) {
        self.failed = true;
        let path = self.path.display();
        term::note(&format!("{path}: cannot be written ({error}). The next turn is computed anew."));
    }
}

/// Whether a session can go on to be `tokens` without being computed anew.
pub fn serves(engine: &Engine, session: &Session, tokens: &[u32]) -> bool {
    let held = session.tokens();
    engine.goes_back() || tokens.len() > held.len() && tokens.starts_with(held)
}

/// A conversation in a file, with its next turn.
pub struct Conversation {
    file: Held,
    messages: Vec<Value>,
    dialect: Dialect,
    thinking: bool,
    stop: Vec<String>,
    /// What was computed.
    pub states: StateFile,
}

impl Conversation {
    /// Goes on with the conversation in the file `path`, or begins it, with the next message of the user, and answers that end
    /// before one of `stop`; `goes_back` says whether states can.
    ///
    /// # Errors
    /// When the file holds no conversation, or the template refuses it.
    pub fn ask(
        path: &Path,
        (system, prompt): (Option<&str>, &str),
        stop: &[String],
        (template, tokenizer): (&ChatTemplate, &Tokenizer),
        goes_back: bool,
    ) -> Result<(Conversation, Rendered)> {
        let (file, mut messages) = begin(path, system)?;
        messages.push(json!({"role": "user", "content": prompt}));
        let request = ChatRequest { messages: messages.clone(), ..ChatRequest::default() };
        let rendered = Rendered::new(&request, (template, tokenizer), goes_back)?;
        let conversation = Conversation {
            file,
            messages,
            dialect: Dialect::of_template(template.source()),
            thinking: rendered.thinking,
            stop: stop.to_vec(),
            states: StateFile::of(path),
        };
        Ok((conversation, rendered))
    }

    /// Adds the answer, whose tokens these are without the one that ended it, and writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self, answer: &[u32], tokenizer: &Tokenizer) -> Result<()> {
        self.states.finish();
        let marks = marks_of(self.dialect, tokenizer);
        let shown = |id: &u32| !tokenizer.is_special(*id) || marks.contains(id);
        let text = tokenizer.decode_with(&answer.iter().copied().filter(shown).collect::<Vec<u32>>(), false);
        let mut stops = StopStrings::new(self.stop.clone())?;
        let text = match stops.push(&text) {
            Stop::Hit { text_before, .. } => text_before,
            Stop::Emit(_) => &text,
        };
        self.messages.push(message_of(&Answer::parse(self.dialect, text, self.thinking, &[])));
        write(self.file.path(), &self.messages)
    }
}

/// The file `path`, and the messages in it, or those that a conversation begins with.
///
/// # Errors
/// When the file holds no conversation, is another outpour's at present, or has begun and `system` would change it; and where no file can be made there, before
/// anything is computed.
pub fn begin(path: &Path, system: Option<&str>) -> Result<(Held, Vec<Value>)> {
    ensure!(path != Path::new("-"), "--session -: is a file that is read and written, not a pipe; name one");
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let writable = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK);
    writable.with_context(|| format!("--session: {} cannot be written to; name another file", folder.display()))?;
    let held = Held::take(path).context("--session")?;
    let messages = if path.exists() { read(path).context("--session")? } else { Vec::new() };
    match system {
        Some(_) if !messages.is_empty() => {
            bail!("--system: {} has begun already; leave it out, or name another file", path.display())
        }
        Some(text) => Ok((held, vec![json!({"role": "system", "content": text})])),
        None => Ok((held, messages)),
    }
}
