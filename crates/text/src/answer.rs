//! What a model says, taken apart while it comes: thoughts, content, calls of tools.

use serde_json::Value;

use crate::call_stream::CallStream;
use crate::dialects::Dialect;
use crate::stop::overlap;
use crate::tool_calls::ToolCall;

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Of the thoughts before the answer.
    Thought(String),
    /// Of what is said.
    Text(String),
    /// A call of this tool begins.
    CallBegins(String),
    /// More of the arguments of the call that began last: all of them together are a JSON object.
    Arguments(String),
    /// A call that began, when it is complete: the calls are in the order in which they began.
    Call(ToolCall),
    /// What is wrong with a call that cannot be read. Its text is content, and what began and is not complete is no call.
    Malformed(String),
}

/// Takes an answer apart that comes in pieces; how it is cut makes no difference. White space at the ends of thoughts and
/// content is left out.
pub struct AnswerStream {
    dialect: Dialect,
    tools: Vec<Value>,
    /// Whether calls are told from content.
    calls: bool,
    part: Part,
    /// The text so far that is not given out.
    held: String,
    /// How much of it was searched for the end of a call.
    searched: usize,
    /// How far its calls are told.
    told: CallStream,
    thought: Trimmed,
    text: Trimmed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Before anything but white space.
    Start {
        thinking: bool,
    },
    Thoughts,
    Content,
    Call,
}

impl AnswerStream {
    /// An answer at its beginning. `thinking` says that it begins with thoughts, as [`ends_thinking`] tells of its prompt.
    /// `tools` are the functions that it could call, as they were given to the template: arguments written as plain text
    /// take the types that these schemas ask for, where the text can be read so, and stay texts where it cannot.
    pub fn new(dialect: Dialect, thinking: bool, tools: &[Value]) -> AnswerStream {
        AnswerStream {
            dialect,
            tools: tools.to_vec(),
            calls: true,
            part: Part::Start { thinking },
            held: String::new(),
            searched: 0,
            told: CallStream::default(),
            thought: Trimmed::default(),
            text: Trimmed::default(),
        }
    }

    /// An answer to somebody who offered no tools: a call in it is content, as the model wrote it.
    pub fn without_calls(dialect: Dialect, thinking: bool) -> AnswerStream {
        AnswerStream { calls: false, ..AnswerStream::new(dialect, thinking, &[]) }
    }

    /// Takes the next piece of text, and adds to `out` what no later one can change.
    pub fn push(&mut self, piece: &str, out: &mut Vec<Piece>) {
        self.held.push_str(piece);
        while self.advance(false, out) {}
    }

    /// The answer ends.
    pub fn finish(&mut self, out: &mut Vec<Piece>) {
        while self.advance(true, out) {}
    }

    /// Whether the thoughts have no end yet.
    pub fn thinks(&self) -> bool {
        self.part == Part::Thoughts || self.part == Part::Start { thinking: true }
    }

    /// Goes on to the next part; `false` where more text is needed, or none is left.
    fn advance(&mut self, end: bool, out: &mut Vec<Piece>) -> bool {
        match self.part {
            Part::Start { thinking } => self.start(thinking, end),
            Part::Thoughts => self.thoughts(end, out),
            Part::Content => self.content(end, out),
            Part::Call => self.call(end, out),
        }
    }

    fn start(&mut self, thinking: bool, end: bool) -> bool {
        let (open, _) = self.dialect.thinking();
        let begun = self.held.trim_start();
        if let Some(rest) = begun.strip_prefix(open) {
            self.held = rest.to_owned();
            self.part = Part::Thoughts;
        } else if open.starts_with(begun) && !end {
            return false;
        } else {
            self.part = if thinking { Part::Thoughts } else { Part::Content };
        }
        true
    }

    fn thoughts(&mut self, end: bool, out: &mut Vec<Piece>) -> bool {
        let (_, close) = self.dialect.thinking();
        let found = self.held.find(close);
        let upto = found.unwrap_or_else(|| self.held.len() - if end { 0 } else { overlap(&self.held, close) });
        out.extend(self.thought.push(&self.held[..upto]).map(Piece::Thought));
        self.held.drain(..upto + found.map_or(0, |_| close.len()));
        if found.is_some() {
            self.part = Part::Content;
        }
        found.is_some()
    }

    fn content(&mut self, end: bool, out: &mut Vec<Piece>) -> bool {
        let Some((at, mark, next)) = self.next_mark(end) else {
            let kept = self.marks().map(|(mark, _)| overlap(&self.held, mark)).max().unwrap_or(0);
            let upto = self.held.len() - if end { 0 } else { kept };
            out.extend(self.text.push(&self.held[..upto]).map(Piece::Text));
            self.held.drain(..upto);
            return false;
        };
        out.extend(self.text.push(&self.held[..at]).map(Piece::Text));
        // A call is read with the text that begins it.
        self.held.drain(..at + if next == Part::Call { 0 } else { mark.len() });
        self.part = next;
        self.searched = 0;
        true
    }

    /// Texts that end a stretch of content, and what follows them.
    fn marks(&self) -> impl Iterator<Item = (&'static str, Part)> + use<> {
        let (think, _) = self.dialect.thinking();
        let thoughts = self.dialect.thinks_again().then_some((think, Part::Thoughts));
        let skipped = self.dialect.skipped().iter().map(|mark| (*mark, Part::Content));
        let opens = if self.calls { self.dialect.opens() } else { &[] };
        opens.iter().map(|open| (*open, Part::Call)).chain(thoughts).chain(skipped)
    }

    /// The first mark in the text held back; of those that begin at the same place the longest. It is not certain before a
    /// longer one can no longer come.
    fn next_mark(&self, end: bool) -> Option<(usize, &'static str, Part)> {
        let found = self.marks().filter_map(|(mark, next)| Some((self.held.find(mark)?, mark, next)));
        let (at, mark, next) = found.min_by_key(|(at, mark, _)| (*at, usize::MAX - mark.len()))?;
        let rest = &self.held[at..];
        let undecided = self.marks().any(|(longer, _)| longer.len() > rest.len() && longer.starts_with(rest));
        (end || !undecided).then_some((at, mark, next))
    }

    /// A call is read when the text that could end it has come; what cannot be read then may go on, as its arguments may
    /// hold that text themselves.
    fn call(&mut self, end: bool, out: &mut Vec<Piece>) -> bool {
        self.told.follow(self.dialect, &self.held, &self.tools, out);
        let closes = self.dialect.closes();
        let longest = closes.iter().map(|close| close.len()).max().unwrap_or(0);
        let from = self.held.floor_char_boundary(self.searched.saturating_sub(longest));
        let comes = closes.iter().any(|close| self.held[from..].contains(close));
        self.searched = self.held.len();
        let over = self.told.rests() && self.dialect.ends_with_arguments();
        if !comes && !over && !end {
            return false;
        }
        match self.dialect.read(&self.held, &self.tools) {
            Ok((calls, rest)) => {
                // Those that are not known before they are whole.
                for call in calls.iter().skip(self.told.begun) {
                    out.push(Piece::CallBegins(call.name.clone()));
                    out.push(Piece::Arguments(Value::Object(call.arguments.clone()).to_string()));
                }
                out.extend(calls.into_iter().map(Piece::Call));
                self.held = rest.to_owned();
            }
            Err(_) if !end => return false,
            Err(problem) => {
                out.push(Piece::Malformed(problem));
                let open = self.dialect.opens().iter().find(|open| self.held.starts_with(**open));
                let open = open.map_or(0, |open| open.len());
                out.extend(self.text.push(&self.held[..open]).map(Piece::Text));
                self.held.drain(..open);
            }
        }
        self.part = Part::Content;
        self.told = CallStream::default();
        true
    }
}

/// Leaves out white space at the ends of a text that comes in pieces.
#[derive(Default)]
struct Trimmed {
    begun: bool,
    /// White space that is part of the text if more comes.
    space: String,
}

impl Trimmed {
    fn push(&mut self, piece: &str) -> Option<String> {
        let piece = if self.begun { piece } else { piece.trim_start() };
        let said = piece.trim_end();
        let space = &piece[said.len()..];
        if said.is_empty() {
            self.space.push_str(space);
            return None;
        }
        self.begun = true;
        let out = std::mem::replace(&mut self.space, space.to_owned()) + said;
        Some(out)
    }
}

/// An answer, taken apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// What is said, without thoughts and calls, and without white space at its ends.
    pub content: String,
    /// What was thought before it, if anything.
    pub reasoning: Option<String>,
    /// Whether the answer ends within the thoughts.
    pub unfinished_reasoning: bool,
    /// The calls, in order.
    pub calls: Vec<ToolCall>,
    /// What is wrong with each call that cannot be read. Its text stays in the content.
    pub malformed: Vec<String>,
}

impl Answer {
    /// Takes a whole answer apart; see [`AnswerStream::new`].
    pub fn parse(dialect: Dialect, text: &str, thinking: bool, tools: &[Value]) -> Answer {
        let mut stream = AnswerStream::new(dialect, thinking, tools);
        let mut pieces = Vec::new();
        stream.push(text, &mut pieces);
        stream.finish(&mut pieces);
        let mut answer = Answer { unfinished_reasoning: stream.thinks(), ..Answer::default() };
        pieces.into_iter().for_each(|piece| answer.add(piece));
        answer
    }

    /// Adds the next piece.
    pub fn add(&mut self, piece: Piece) {
        match piece {
            Piece::Thought(text) => self.reasoning.get_or_insert_default().push_str(&text),
            Piece::Text(text) => self.content.push_str(&text),
            Piece::CallBegins(_) | Piece::Arguments(_) => {}
            Piece::Call(call) => self.calls.push(call),
            Piece::Malformed(problem) => self.malformed.push(problem),
        }
    }
}

/// Whether a prompt ends within open thoughts, so that the answer begins with them.
pub fn ends_thinking(dialect: Dialect, prompt: &str) -> bool {
    let (open, close) = dialect.thinking();
    prompt.rfind(open).is_some_and(|open| prompt.rfind(close).is_none_or(|close| close < open))
}
