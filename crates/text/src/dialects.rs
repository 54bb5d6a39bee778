//! How models write thoughts and calls of tools, one dialect a file. A dialect says which texts begin a call, which texts
//! may complete it, and reads calls that are complete.

mod deepseek;
mod glm;
mod harmony;
mod invoke;
mod kimi;
mod llama;
mod mistral;
mod qwen;

use serde_json::Value;

use crate::tool_calls::ToolCall;

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
        }
    }

    /// The token that begins a call, or of gpt-oss any part of an answer.
    pub fn call_mark(self) -> &'static str {
        if self == Dialect::Harmony { harmony::PART } else { self.opens()[0] }
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
        }
    }

    /// Texts between the parts of an answer that belong to none of them.
    pub(crate) fn skipped(self) -> &'static [&'static str] {
        match self {
            Dialect::Harmony => &harmony::SKIPPED,
            _ => &[],
        }
    }

    /// Whether thoughts may come again after content.
    pub(crate) fn thinks_again(self) -> bool {
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
        }
    }
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
