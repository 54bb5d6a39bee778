//! How models write thoughts and calls of tools, one dialect a file. A dialect says which texts begin a call, which texts
//! may complete it, and reads calls that are complete.

mod deepseek;
mod gemma;
mod glm;
mod harmony;
mod invoke;
mod kimi;
mod llama;
mod mistral;
mod qwen;

use serde_json::Value;

use crate::call_stream::QUOTE;
use crate::tool_calls::{ToolCall, read_json};

/// Control tokens that end an answer in every model that has them, whatever its files say: those of gpt-oss, and what Gemma's
/// templates put behind a call, where the result of the call follows.
pub const ANSWER_ENDS: [&str; 3] = ["<|return|>", "<|call|>", "<|tool_response>"];

/// How a model writes thoughts and calls of tools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// JSON or tags between `<tool_call>` and `</tool_call>`: Qwen, Hermes, and many others.
    #[default]
    Qwen,
    /// GLM-4.5 and later.
    Glm,
    /// DeepSeek V3, R1, V3.1.
    DeepSeek,
    /// DeepSeek V3.2 and later.
    Dsml,
    /// Kimi K2.
    Kimi,
    /// MiniMax M2.
    MiniMax,
    /// Mistral.
    Mistral,
    /// Llama 3.
    Llama,
    /// gpt-oss.
    Harmony,
    /// Gemma 4.
    Gemma,
}

impl Dialect {
    /// The dialect that a chat template teaches, by the marks in its text.
    pub fn of_template(source: &str) -> Dialect {
        let marks = [
            (glm::MARK, Dialect::Glm),
            (invoke::MINIMAX, Dialect::MiniMax),
            (invoke::DSML, Dialect::Dsml),
            (deepseek::OPEN, Dialect::DeepSeek),
            (kimi::OPEN, Dialect::Kimi),
            ("<|channel|>", Dialect::Harmony),
            (gemma::OPEN, Dialect::Gemma),
            (mistral::OPEN, Dialect::Mistral),
            (qwen::OPEN, Dialect::Qwen),
            (llama::TAG, Dialect::Llama),
        ];
        let found = marks.into_iter().find(|(mark, _)| source.contains(mark));
        found.map_or(Dialect::Qwen, |(_, dialect)| dialect)
    }

    /// Texts around thoughts.
    pub fn thinking(self) -> (&'static str, &'static str) {
        match self {
            Dialect::Harmony => harmony::THOUGHTS,
            Dialect::Gemma => gemma::THOUGHTS,
            Dialect::Mistral => ("[THINK]", "[/THINK]"),
            _ => ("<think>", "</think>"),
        }
    }

    /// Texts that begin calls.
    pub(crate) fn opens(self) -> &'static [&'static str] {
        match self {
            Dialect::Qwen => &[qwen::OPEN],
            Dialect::Glm => &[glm::OPEN],
            Dialect::DeepSeek => &[deepseek::OPEN],
            Dialect::Dsml => &invoke::OPENS,
            Dialect::Kimi => &[kimi::OPEN],
            Dialect::MiniMax => &[invoke::MINIMAX],
            Dialect::Mistral => &[mistral::OPEN],
            Dialect::Llama => &llama::OPENS,
            Dialect::Harmony => &harmony::OPENS,
            Dialect::Gemma => &[gemma::OPEN],
        }
    }

    /// Whether a text of calls begins here.
    pub(crate) fn begins_call(self, text: &str) -> bool {
        self.opens().iter().any(|open| text.trim_start().starts_with(open))
    }

    /// The token that begins a call, or of gpt-oss any part of an answer.
    pub fn call_mark(self) -> &'static str {
        if self == Dialect::Harmony { harmony::PART } else { self.opens()[0] }
    }

    /// Whether the token that ends a call ends the answer, so that there is never a second one.
    pub fn ends_with_call(self) -> bool {
        self == Dialect::Harmony
    }

    /// Texts that may end calls; none where only the end of the answer does.
    pub(crate) fn closes(self) -> &'static [&'static str] {
        match self {
            Dialect::Qwen => &[qwen::CLOSE],
            Dialect::Glm => &[glm::CLOSE],
            Dialect::DeepSeek => &[deepseek::CLOSE],
            Dialect::Dsml => &invoke::CLOSES,
            Dialect::Kimi => &[kimi::CLOSE],
            Dialect::MiniMax => &["</minimax:tool_call>"],
            Dialect::Mistral | Dialect::Llama => &[],
            Dialect::Harmony => &[harmony::CLOSE],
            Dialect::Gemma => &[gemma::CLOSE],
        }
    }

    /// Texts between the parts of an answer that belong to none of them.
    pub(crate) fn skipped(self) -> &'static [&'static str] {
        match self {
            Dialect::Harmony => &harmony::SKIPPED,
            _ => &[],
        }
    }

    /// What ends thoughts where the model does not.
    pub fn thoughts_end(self) -> String {
        let (_, close) = self.thinking();
        match self {
            Dialect::Harmony | Dialect::Mistral => close.to_owned(),
            Dialect::Gemma => format!("\n{close}"),
            _ => format!("\n{close}\n\n"),
        }
    }

    /// Whether thoughts may come again after content.
    pub fn thinks_again(self) -> bool {
        self == Dialect::Harmony
    }

    /// The texts by which an answer is taken apart. Some tokenizers call their tokens special, and they are needed all the same.
    pub fn marks(self) -> impl Iterator<Item = &'static str> {
        let (open, close) = self.thinking();
        let inner: &[&str] = match self {
            Dialect::DeepSeek => &["<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"],
            Dialect::Dsml => &[invoke::DSML],
            Dialect::Kimi => &["<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"],
            Dialect::Mistral => &["[ARGS]", "[CALL_ID]"],
            Dialect::Harmony => {
                &["<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>", "<|return|>"]
            }
            Dialect::Gemma => &[QUOTE],
            Dialect::Qwen | Dialect::Glm | Dialect::MiniMax | Dialect::Llama => &[],
        };
        [open, close].into_iter().chain(self.closes().iter().chain(self.opens()).chain(inner).copied())
    }

    /// Reads the calls that `text`, which begins with one of [`Self::opens`], begins with, and gives what follows them.
    ///
    /// # Errors
    /// What is wrong with the call, or that it is not complete.
    pub(crate) fn read<'a>(self, text: &'a str, tools: &[Value]) -> Result<(Vec<ToolCall>, &'a str), String> {
        match self {
            Dialect::Qwen => qwen::read(text, tools),
            Dialect::Glm => glm::read(text, tools),
            Dialect::DeepSeek => deepseek::read(text),
            Dialect::Dsml => invoke::read(text, invoke::DSML, tools),
            Dialect::Kimi => kimi::read(text),
            Dialect::MiniMax => invoke::read(text, "", tools),
            Dialect::Mistral => mistral::read(text),
            Dialect::Llama => llama::read(text, tools),
            Dialect::Harmony => harmony::read(text),
            Dialect::Gemma => gemma::read(text),
        }
    }

    /// The beginning of the next call, in a text of calls from its own beginning or from the end of a call's arguments; `None`
    /// where it has not come as far as that, or is written in a way that is not known before it is whole.
    pub(crate) fn call_head(self, text: &str, tools: &[Value]) -> Option<Head> {
        match self {
            Dialect::Qwen => qwen::head(text),
            Dialect::Glm => glm::head(text),
            Dialect::DeepSeek => deepseek::head(text),
            Dialect::Dsml => invoke::head(text, &invoke::DSML_TAGS),
            Dialect::Kimi => kimi::head(text),
            Dialect::MiniMax => invoke::head(text, &invoke::MINIMAX_TAGS),
            Dialect::Mistral => mistral::head(text),
            Dialect::Llama => llama::head(text, tools),
            Dialect::Harmony => harmony::head(text),
            Dialect::Gemma => gemma::head(text),
        }
    }

    /// Whether a call is over where its arguments are, though no text says so.
    pub(crate) fn ends_with_arguments(self) -> bool {
        self == Dialect::Mistral
    }
}

/// The beginning of a call.
pub(crate) struct Head {
    pub(crate) name: String,
    /// Where its arguments begin.
    pub(crate) at: usize,
    pub(crate) arguments: HeadArguments,
}

/// How arguments are written.
pub(crate) enum HeadArguments {
    /// As a JSON object.
    Json,
    /// One at a time between tags.
    Tags(&'static Tags),
    /// As Gemma does.
    Braces,
}

impl Head {
    fn new(name: &str, at: usize, arguments: HeadArguments) -> Option<Head> {
        (!name.is_empty()).then(|| Head { name: name.to_owned(), at, arguments })
    }

    /// A call whose arguments are what `text` ends with, `arguments`, if that is a JSON object.
    fn json(name: &str, text: &str, arguments: &str) -> Option<Head> {
        let object = arguments.trim_start();
        object.starts_with('{').then(|| Head::new(name, text.len() - object.len(), HeadArguments::Json))?
    }

    /// A call written as JSON, as far as its arguments under one of `keys`, if they stand behind its name: `{"name": "…",
    /// "arguments": `. `call` is what `text` ends with.
    fn in_json(text: &str, call: &str, keys: &[&str]) -> Option<Head> {
        let after = |text: &'_ str, mark: &str| text.trim_start().strip_prefix(mark).map(str::len);
        let skip = |at: usize, mark: &str| Some(text.len() - after(&text[at..], mark)?);
        let at = skip(skip(skip(text.len() - call.len(), "{")?, "\"name\"")?, ":")?;
        let (name, rest) = read_json(&text[at..]).ok()?;
        let at = skip(text.len() - rest.len(), ",")?;
        let at = keys.iter().find_map(|key| skip(at, &format!("\"{key}\"")))?;
        Head::json(name.as_str()?, text, &text[skip(at, ":")?..])
    }
}

/// An argument's key, and whether its value is a text, where that is said.
type Key = (String, Option<bool>);

/// Texts around arguments that are written one at a time.
pub(crate) struct Tags {
    /// Around a key.
    pub(crate) open: &'static str,
    pub(crate) open_end: &'static str,
    /// Reads what stands between those.
    pub(crate) key: fn(&str) -> Option<Key>,
    /// What stands between key and value.
    pub(crate) value: Option<&'static str>,
    pub(crate) value_end: &'static str,
    /// Behind the last argument.
    pub(crate) close: &'static str,
    /// Whether a line break beside the tags is no part of a value.
    pub(crate) lines: bool,
}

/// The text before `end`, and what follows it: the first `end` that one of `next` follows, as the text may hold such tags
/// itself.
fn value_before<'a>(text: &'a str, end: &str, next: &[&str]) -> Option<(&'a str, &'a str)> {
    let ends = text.match_indices(end).map(|(at, _)| (at, &text[at + end.len()..]));
    let goes_on = |after: &str| next.iter().any(|next| after.trim_start().starts_with(next));
    let (at, after) = ends.into_iter().find(|(_, after)| goes_on(after))?;
    Some((&text[..at], after))
}

/// The same for a text that begins with `begin`.
fn between<'a>(text: &'a str, begin: &str, end: &str, next: &[&str]) -> Option<(&'a str, &'a str)> {
    value_before(text.strip_prefix(begin)?, end, next)
}
