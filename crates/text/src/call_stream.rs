//! Calls told while they come: the name when it is there, then the arguments as JSON, as far as no later text can change
//! it. JSON is passed on as the model writes it; an argument between tags as it comes where it is a text, and whole where
//! its type is another one.

use serde_json::Value;

use crate::answer::Piece;
use crate::dialects::{Dialect, Head, HeadArguments, Tags};
use crate::stop::overlap;
use crate::tool_calls::{coerce, is_text, parameter_schema};

/// A call that does not begin within so many bytes is told when it is whole.
const HEAD_BYTES_MAX: usize = 1024;

/// How far the calls that a text begins with are told.
#[derive(Default)]
pub(crate) struct CallStream {
    /// Up to where the text is told.
    at: usize,
    state: State,
    /// Calls that began.
    pub(crate) begun: usize,
}

#[derive(Default)]
enum State {
    /// Before a call.
    #[default]
    Between,
    Json(JsonEnd),
    Tagged(Tagged),
    Braced(Braced),
    /// What comes is told when it is whole, or never: it is no call that can be read.
    Silent,
}

/// What was done with a text.
enum Step {
    /// More of it is needed.
    Wait,
    /// The arguments are at their end.
    End,
    /// This cannot be arguments.
    Wrong,
}

impl CallStream {
    /// Whether at least one call's arguments are at their end, and no other call has begun.
    pub(crate) fn rests(&self) -> bool {
        self.begun > 0 && matches!(self.state, State::Between)
    }

    /// Goes on in `text`, which has grown at its end.
    pub(crate) fn follow(&mut self, dialect: Dialect, text: &str, tools: &[Value], out: &mut Vec<Piece>) {
        loop {
            let mut told = String::new();
            let step = match &mut self.state {
                State::Silent => return,
                // What another mark begins is another text of calls.
                State::Between if self.begun > 0 && dialect.begins_call(&text[self.at..]) => Step::Wait,
                State::Between => match dialect.call_head(&text[self.at..], tools) {
                    Some(head) => {
                        self.begin(head, tools, out);
                        continue;
                    }
                    None if text.len() - self.at > HEAD_BYTES_MAX => Step::Wrong,
                    None => Step::Wait,
                },
                State::Json(json) => json.follow(text, &mut self.at, &mut told),
                State::Tagged(tagged) => tagged.follow(text, &mut self.at, &mut told),
                State::Braced(braced) => braced.follow(text, &mut self.at, &mut told),
            };
            if !told.is_empty() {
                out.push(Piece::Arguments(told));
            }
            match step {
                Step::Wait => return,
                Step::End => self.state = State::Between,
                Step::Wrong => self.state = State::Silent,
            }
        }
    }

    fn begin(&mut self, head: Head, tools: &[Value], out: &mut Vec<Piece>) {
        self.at += head.at;
        self.begun += 1;
        self.state = match head.arguments {
            HeadArguments::Json => State::Json(JsonEnd::default()),
            HeadArguments::Tags(tags) => State::Tagged(Tagged::new(tags, &head.name, tools)),
            HeadArguments::Braces => State::Braced(Braced::default()),
        };
        out.push(Piece::CallBegins(head.name));
    }
}

/// Finds the end of a JSON object.
#[derive(Default)]
struct JsonEnd {
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl JsonEnd {
    fn follow(&mut self, text: &str, at: &mut usize, told: &mut String) -> Step {
        let begin = *at;
        for byte in text[begin..].bytes() {
            let wrong = !self.in_text && !byte.is_ascii_alphanumeric() && !b"{}[]:,\"+-. \t\r\n".contains(&byte);
            if wrong {
                told.push_str(&text[begin..*at]);
                return Step::Wrong;
            }
            *at += 1;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_text => self.escaped = true,
                b'"' => self.in_text = !self.in_text,
                _ if self.in_text => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            if self.depth == 0 {
                told.push_str(&text[begin..*at]);
                return Step::End;
            }
        }
        told.push_str(&text[begin..]);
        Step::Wait
    }
}

/// Arguments between tags.
struct Tagged {
    tags: &'static Tags,
    name: String,
    tools: Vec<Value>,
    /// Arguments that began.
    count: usize,
    value: Option<TaggedValue>,
}

struct TaggedValue {
    key: String,
    /// Whether it is a text, and so told as it comes.
    text: bool,
    /// Whether it is JSON whatever a schema says.
    json: bool,
    /// Up to where its end was looked for.
    searched: usize,
    /// Whether any of it was looked at.
    begun: bool,
}

impl Tagged {
    fn new(tags: &'static Tags, name: &str, tools: &[Value]) -> Tagged {
        Tagged { tags, name: name.to_owned(), tools: tools.to_vec(), count: 0, value: None }
    }

    fn follow(&mut self, text: &str, at: &mut usize, told: &mut String) -> Step {
        loop {
            let step = match self.value {
                None => self.key(text, at, told),
                Some(_) => self.value(text, at, told),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    /// The next key, or the end of all; `None` where the value follows.
    fn key(&mut self, text: &str, at: &mut usize, told: &mut String) -> Option<Step> {
        let rest = text[*at..].trim_start();
        let tags = self.tags;
        if let Some(after) = rest.strip_prefix(tags.close) {
            told.push_str(if self.count == 0 { "{}" } else { "}" });
            *at = text.len() - after.len();
            return Some(Step::End);
        }
        let Some(argument) = rest.strip_prefix(tags.open) else {
            let comes = [tags.close, tags.open].iter().any(|tag| tag.starts_with(rest));
            return Some(if comes { Step::Wait } else { Step::Wrong });
        };
        let Some((head, value)) = argument.split_once(tags.open_end) else { return Some(Step::Wait) };
        let Some((key, typed)) = (tags.key)(head) else { return Some(Step::Wrong) };
        let value = match tags.value {
            None => value,
            Some(begin) => match value.trim_start().strip_prefix(begin) {
                Some(value) => value,
                None => return Some(Step::Wait),
            },
        };
        let is_text = typed.unwrap_or_else(|| is_text(parameter_schema(&self.tools, &self.name, &key)));
        told.push(if self.count == 0 { '{' } else { ',' });
        told.push_str(&Value::from(key.as_str()).to_string());
        told.push_str(if is_text { ":\"" } else { ":" });
        *at = text.len() - value.len();
        self.count += 1;
        self.value = Some(TaggedValue { key, text: is_text, json: typed == Some(false), searched: *at, begun: false });
        None
    }

    /// More of a value; `None` where it is at its end.
    fn value(&mut self, text: &str, at: &mut usize, told: &mut String) -> Option<Step> {
        let (tags, value) = (self.tags, self.value.as_mut()?);
        if tags.lines && !value.begun {
            // The line break behind the tag is no part of it.
            let rest = &text[*at..];
            if rest.is_empty() {
                return Some(Step::Wait);
            }
            *at += usize::from(rest.starts_with('\n'));
            (value.begun, value.searched) = (true, *at);
        }
        let found = loop {
            let Some(end) = text[value.searched..].find(tags.value_end).map(|end| value.searched + end) else {
                let end = text.len() - overlap(&text[value.searched..], tags.value_end);
                value.searched = end;
                break Err(end);
            };
            let after = text[end + tags.value_end.len()..].trim_start();
            let next = [tags.open, tags.close];
            if next.iter().any(|next| after.starts_with(next)) {
                break Ok(end);
            }
            if next.iter().any(|next| next.starts_with(after)) {
                value.searched = end;
                break Err(end);
            }
            value.searched = end + tags.value_end.len();
        };
        let (Ok(end) | Err(end)) = found;
        let said = &text[*at..end.max(*at)];
        let said = if tags.lines { said.strip_suffix('\n').unwrap_or(said) } else { said };
        if value.text {
            let quoted = Value::from(said).to_string();
            told.push_str(&quoted[1..quoted.len() - 1]);
            *at += said.len();
        }
        let Ok(end) = found else { return Some(Step::Wait) };
        match value {
            TaggedValue { text: true, .. } => told.push('"'),
            TaggedValue { json: true, .. } => told.push_str(&json_or_text(said).to_string()),
            TaggedValue { key, .. } => {
                told.push_str(&coerce(said, parameter_schema(&self.tools, &self.name, key)).to_string());
            }
        }
        *at = end + tags.value_end.len();
        self.value = None;
        None
    }
}

/// A value that should be JSON, and is a text where it is not.
pub(crate) fn json_or_text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// What stands around a text in Gemma's arguments.
pub(crate) const QUOTE: &str = "<|\"|>";

/// Arguments in braces with bare keys, `{city:<|"|>Oslo<|"|>,days:3}`, as JSON.
#[derive(Default)]
pub(crate) struct Braced {
    /// The objects (`true`) and lists that are open.
    open: Vec<bool>,
    /// Whether a key comes next.
    key: bool,
    in_text: bool,
}

impl Braced {
    /// Reads arguments that are whole, and gives what follows them.
    pub(crate) fn read(text: &str) -> Option<(String, &str)> {
        let (mut at, mut told) = (0, String::new());
        let step = Braced::default().follow(text, &mut at, &mut told);
        matches!(step, Step::End).then(|| (told, &text[at..]))
    }

    fn follow(&mut self, text: &str, at: &mut usize, told: &mut String) -> Step {
        while *at < text.len() {
            let rest = &text[*at..];
            let step = if self.in_text { self.text(rest, told) } else { self.part(rest, told) };
            match step {
                Ok(0) => return Step::Wait,
                Ok(read) => *at += read,
                Err(()) => return Step::Wrong,
            }
            if self.open.is_empty() {
                return Step::End;
            }
        }
        Step::Wait
    }

    /// More of a text; how many bytes were read.
    fn text(&mut self, rest: &str, told: &mut String) -> Result<usize, ()> {
        let end = rest.find(QUOTE);
        let said = &rest[..end.unwrap_or_else(|| rest.len() - overlap(rest, QUOTE))];
        let quoted = Value::from(said).to_string();
        told.push_str(&quoted[1..quoted.len() - 1]);
        if end.is_some() {
            told.push('"');
            self.in_text = false;
        }
        Ok(said.len() + end.map_or(0, |_| QUOTE.len()))
    }

    /// A sign, a key or a value that is no text; how many bytes were read, none where more are needed.
    fn part(&mut self, rest: &str, told: &mut String) -> Result<usize, ()> {
        if rest.starts_with(QUOTE) {
            told.push('"');
            self.in_text = true;
            return Ok(QUOTE.len());
        }
        if QUOTE.starts_with(rest) {
            return Ok(0);
        }
        let sign = rest.chars().next().ok_or(())?;
        match sign {
            '{' | '[' => self.open.push(sign == '{'),
            '}' | ']' if self.open.pop() == Some(sign == '}') => {}
            ',' | ':' => {}
            _ if sign.is_whitespace() => {}
            _ => return self.word(rest, told),
        }
        match sign {
            '{' => self.key = true,
            ',' => self.key = self.open.last() == Some(&true),
            _ if sign.is_whitespace() => {}
            _ => self.key = false,
        }
        told.push(sign);
        Ok(sign.len_utf8())
    }

    /// A bare key, a number, `true`, `false` or `null`.
    fn word(&mut self, rest: &str, told: &mut String) -> Result<usize, ()> {
        let Some(end) = rest.find([':', ',', '{', '}', '[', ']', '<', '"']) else { return Ok(0) };
        let word = rest[..end].trim_end();
        match (self.key, word) {
            _ if word.is_empty() => return Err(()),
            (true, _) if rest[end..].starts_with(':') => told.push_str(&Value::from(word).to_string()),
            (true, _) => return Err(()),
            (false, "None") => told.push_str("null"),
            (false, _) => match serde_json::from_str::<Value>(word) {
                Ok(_) => told.push_str(word),
                Err(_) => return Err(()),
            },
        }
        self.key = false;
        Ok(end)
    }
}
