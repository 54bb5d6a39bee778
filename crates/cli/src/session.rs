//! `run --session FILE`: a conversation that goes on where it stopped. FILE holds its messages, as JSON that can be read and
//! edited; beside it `FILE.state` holds what was computed of them, and may be removed.
//!
//! Content of `FILE.state`, a sealed file: for each state a byte 1 and what [`Session::save`] writes; a byte 0.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use outpour_engine::{Engine, EngineError, Session};
use outpour_store::read::whole::read_whole;
use outpour_store::sealed::{SealedReader, SealedWriter};
use outpour_text::{Answer, ChatRequest, ChatTemplate, Dialect, Stop, StopStrings, Tokenizer, ends_thinking};
use serde_json::{Value, json};

use crate::npy::WholeOrNothing;
use crate::term;

/// Largest file of messages.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A conversation that is kept in a file.
pub struct Conversation {
    path: PathBuf,
    messages: Vec<Value>,
    dialect: Dialect,
    /// The answer begins with thoughts.
    thinking: bool,
    stop: Vec<String>,
    /// Where the messages end, before the beginning of the answer: what the next prompt will begin with, too. `None` for a
    /// state that can go back there by itself.
    mark: Option<usize>,
    /// The states, under way to their file.
    states: Option<SealedWriter>,
}

impl Conversation {
    /// Goes on with the conversation in the file `path`, or begins it, with the next message of the user; `goes_back` says
    /// whether states can. Returns its tokens too.
    ///
    /// # Errors
    /// When the file holds no conversation, or the template refuses it.
    pub fn ask(
        path: &Path,
        (system, prompt): (Option<&str>, &str),
        (template, tokenizer): (&ChatTemplate, &Tokenizer),
        goes_back: bool,
    ) -> Result<(Conversation, Vec<u32>)> {
        let mut messages = if path.exists() { read(path)? } else { Vec::new() };
        match system {
            Some(_) if !messages.is_empty() => {
                bail!("--system: {} has begun already; leave it out, or name another file", path.display())
            }
            Some(text) => messages.push(json!({"role": "system", "content": text})),
            None => {}
        }
        messages.push(json!({"role": "user", "content": prompt}));
        let render = |answer: bool| {
            template.render(&ChatRequest {
                messages: messages.clone(),
                add_generation_prompt: answer,
                ..ChatRequest::default()
            })
        };
        let text = render(true)?;
        let tokens = tokenizer.encode(&text, true)?;
        // A template may refuse what it does not end itself; then there is no mark.
        let ended = render(false).and_then(|text| tokenizer.encode(&text, true)).unwrap_or_default();
        let shared = ended.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
        let dialect = Dialect::of_template(template.source());
        let conversation = Conversation {
            path: path.to_owned(),
            thinking: ends_thinking(dialect, &text),
            messages,
            dialect,
            stop: Vec::new(),
            mark: (!goes_back && shared > 0 && shared < tokens.len()).then_some(shared),
            states: None,
        };
        Ok((conversation, tokens))
    }

    /// Texts that end the answer.
    pub fn stop_at(&mut self, stop: &[String]) {
        self.stop = stop.to_vec();
    }

    fn state_path(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".state");
        path.into()
    }

    /// A session that holds as much of `tokens` as was kept; what cannot be used is said, and computed anew.
    pub fn resume(&self, engine: &mut Engine, tokens: &[u32]) -> Session {
        let mut best = None;
        if let Err(error) = self.restore(engine, tokens, &mut best) {
            let path = self.state_path();
            term::note(&format!("{}: {error}. The conversation is computed anew.", path.display()));
            best.take().into_iter().for_each(|session: Session| session.close(engine));
        }
        best.unwrap_or_else(|| Session::open(engine))
    }

    fn restore(&self, engine: &mut Engine, tokens: &[u32], best: &mut Option<Session>) -> Result<(), EngineError> {
        let damaged = |error: io::Error| EngineError::damaged_state(&error);
        let mut reader = match SealedReader::open(&self.state_path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(damaged)?,
        };
        let goes_back = engine.goes_back();
        let mut another = [0];
        loop {
            reader.read_exact(&mut another).map_err(damaged)?;
            if another == [0] {
                return reader.finish().map_err(damaged);
            }
            let session = Session::restore(engine, &mut reader)?;
            let held = session.tokens();
            let serves = goes_back || tokens.len() > held.len() && tokens.starts_with(held);
            let worse = if serves { best.replace(session) } else { Some(session) };
            worse.into_iter().for_each(|session| session.close(engine));
        }
    }

    /// Where a state must be kept on the way through the prompt, of a session that holds so many tokens.
    pub fn mark(&self, tokens_held: usize) -> Option<usize> {
        self.mark.filter(|&mark| mark > tokens_held)
    }

    /// Keeps the session's state. Where it cannot be written this is said, and the next turn computes it anew.
    pub fn keep(&mut self, engine: &Engine, session: &Session) {
        let kept = match self.states.take() {
            Some(states) => Ok(states),
            None => SealedWriter::create(&self.state_path()),
        };
        let kept = kept.and_then(|mut states| {
            states.write_all(&[1])?;
            session.save(engine, &mut states).map(|()| states)
        });
        match kept {
            Ok(states) => self.states = Some(states),
            Err(error) => self.cannot_keep(&error),
        }
    }

    fn cannot_keep(&self, error: &io::Error) {
        let path = self.state_path();
        term::note(&format!("{}: cannot be written ({error}). The next turn is computed anew.", path.display()));
    }

    /// Adds the answer, whose tokens these are without the one that ended it, and writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self, answer: &[u32], tokenizer: &Tokenizer) -> Result<()> {
        if let Some(mut states) = self.states.take() {
            let sealed = states.write_all(&[0]).and_then(|()| states.finish());
            sealed.unwrap_or_else(|error| self.cannot_keep(&error));
        }
        let marks: Vec<u32> = self.dialect.marks().filter_map(|mark| tokenizer.token_id(mark)).collect();
        let shown = |id: &u32| !tokenizer.is_special(*id) || marks.contains(id);
        let text = tokenizer.decode_with(&answer.iter().copied().filter(shown).collect::<Vec<u32>>(), false);
        let mut stops = StopStrings::new(self.stop.clone())?;
        let text = match stops.push(&text) {
            Stop::Hit { text_before, .. } => text_before,
            Stop::Emit(_) => &text,
        };
        let answer = Answer::parse(self.dialect, text, self.thinking, &[]);
        let mut message = json!({"role": "assistant", "content": answer.content});
        if let Some(thoughts) = answer.reasoning {
            message["reasoning_content"] = thoughts.into();
        }
        self.messages.push(message);
        let mut out = WholeOrNothing::create(&self.path, &[])?;
        out.write(format!("{:#}\n", json!({"messages": self.messages})).as_bytes())?;
        out.finish()
    }
}

/// The messages in a file.
fn read(path: &Path) -> Result<Vec<Value>> {
    let what = || format!("--session {}: holds no conversation; name another file", path.display());
    let content: Value = serde_json::from_slice(&read_whole(path, FILE_BYTES_MAX)?).with_context(what)?;
    let messages =
        content["messages"].as_array().filter(|messages| messages.iter().all(|message| message["role"].is_string()));
    messages.cloned().with_context(what)
}
