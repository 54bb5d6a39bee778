//! One answer on its way to its client: what the worker tells, taken apart.

use std::collections::VecDeque;
use std::sync::Arc;

use outpour_text::{AnswerStream, Piece, ToolCall};
use tokio::sync::mpsc::Receiver;

use crate::error::ApiError;
use crate::ids;
use crate::replay::Replay;
use crate::worker::{Done, Event, Failure, Finish, Score};

/// What there is to say next.
#[derive(Debug)]
pub(crate) enum Said {
    /// The request waits; its place in the queue.
    Queued(usize),
    /// So many tokens of the prompt are computed.
    Prompt {
        done: usize,
        total: usize,
        cached: usize,
    },
    /// The probability of every token of the prompt but the first.
    PromptScores(Vec<Score>),
    Thought(String),
    Text(String),
    /// A call begins, under a name of its own.
    CallBegins {
        id: String,
        name: String,
    },
    /// More of the arguments of the call that began last, as JSON.
    Arguments(String),
    /// The call that began first of those that were not complete is complete.
    Call(ToolCall),
    /// Those that began and are not complete are no calls.
    Malformed,
    /// The probability of a token; its text comes before or after.
    Score(Score),
    End(Done),
}

/// An answer on its way.
pub(crate) struct Turn {
    events: Receiver<Event>,
    /// Takes the answer apart; a text without parts where there is none.
    stream: Option<AnswerStream>,
    out: VecDeque<Said>,
    /// Where the answer's own tokens are remembered.
    replay: Option<Arc<Replay>>,
    /// What names of calls begin with.
    prefix: &'static str,
    /// Names of calls that began and are not complete.
    begun: VecDeque<String>,
    calls: Vec<(String, ToolCall)>,
    ended: bool,
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: usize,
}

impl Turn {
    pub(crate) fn new(
        events: Receiver<Event>,
        stream: Option<AnswerStream>,
        replay: Option<Arc<Replay>>,
        prompt_tokens: usize,
    ) -> Turn {
        Turn {
            events,
            stream,
            out: VecDeque::new(),
            replay,
            prefix: "call_",
            begun: VecDeque::new(),
            calls: Vec::new(),
            ended: false,
            prompt_tokens,
        }
    }

    /// Waits for what comes next; `None` after the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Said>, ApiError> {
        loop {
            if let Some(said) = self.out.pop_front() {
                return Ok(Some(said));
            }
            if self.ended {
                return Ok(None);
            }
            let Some(event) = self.events.recv().await else {
                return Err(ApiError::unavailable(
                    "the answer was broken off: the client was too slow, or the server is ending",
                ));
            };
            self.take(event)?;
        }
    }

    /// Waits until the answer has a place: an error until then is the whole response.
    pub(crate) async fn begin(&mut self) -> Result<(), ApiError> {
        if let Some(first) = self.next().await? {
            self.out.push_front(first);
        }
        Ok(())
    }

    /// Has names of calls begin with this.
    pub(crate) fn name_calls(self, prefix: &'static str) -> Turn {
        Turn { prefix, ..self }
    }

    fn take(&mut self, event: Event) -> Result<(), ApiError> {
        match event {
            Event::Queued(position) => self.out.push_back(Said::Queued(position)),
            Event::Prompt { done, total, cached } => self.out.push_back(Said::Prompt { done, total, cached }),
            Event::PromptScores(scores) => self.out.push_back(Said::PromptScores(scores)),
            Event::Token(token) => {
                self.say(&token.text, false);
                self.out.extend(token.score.map(Said::Score));
            }
            Event::Done(done) => {
                self.say(&done.text, true);
                self.out.push_back(Said::End(done));
                self.ended = true;
            }
            Event::Failed(Failure::Bad(why)) => return Err(ApiError::bad(why)),
            Event::Failed(Failure::Unavailable(why)) => return Err(ApiError::unavailable(why)),
        }
        Ok(())
    }

    fn say(&mut self, text: &str, end: bool) {
        let mut pieces = Vec::new();
        match &mut self.stream {
            Some(stream) => {
                stream.push(text, &mut pieces);
                if end {
                    stream.finish(&mut pieces);
                }
            }
            None if text.is_empty() => {}
            None => pieces.push(Piece::Text(text.to_owned())),
        }
        for piece in pieces {
            let said = self.said(piece);
            self.out.push_back(said);
        }
    }

    /// A piece as it is told. Calls get names, under which the answer's own tokens are found again when they come back.
    fn said(&mut self, piece: Piece) -> Said {
        match piece {
            Piece::Thought(text) => Said::Thought(text),
            Piece::Text(text) => Said::Text(text),
            Piece::CallBegins(name) => {
                let id = ids::name(self.prefix);
                self.begun.push_back(id.clone());
                Said::CallBegins { id, name }
            }
            Piece::Arguments(text) => Said::Arguments(text),
            Piece::Call(call) => {
                let id = self.begun.pop_front().unwrap_or_else(|| ids::name(self.prefix));
                self.calls.push((id, call.clone()));
                Said::Call(call)
            }
            Piece::Malformed(_) => {
                self.begun.clear();
                Said::Malformed
            }
        }
    }

    /// Remembers the answer's own tokens, once it has ended, under the names of its calls.
    pub(crate) fn remember(&mut self, done: &Done) {
        // An answer that was cut is no answer that a template would end.
        if let Some(replay) = self.replay.as_ref().filter(|_| done.finish == Finish::Model) {
            replay.remember(std::mem::take(&mut self.calls), &done.tokens);
        }
    }
}
