//! How models write thoughts and calls of tools, one dialect a file. A dialect says which texts begin a call, which texts
//! may complete it, and reads calls that are complete.

mod qwen;

use serde_json::Value;

use crate::tool_calls::ToolCall;

/// How a model writes thoughts and calls of tools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// JSON or tags between `<tool_call>` and `</tool_call>`: Qwen, Hermes, and many others.
    #[default]
    Qwen,
}

impl Dialect {
    /// The dialect that a chat template teaches, by its text.
    pub fn of_template(_source: &str) -> Dialect {
        Dialect::Qwen
    }

    /// Texts around thoughts.
    pub fn thinking(self) -> (&'static str, &'static str) {
        ("<think>", "</think>")
    }

    /// Texts that begin a call.
    pub(crate) fn opens(self) -> &'static [&'static str] {
        &[qwen::OPEN]
    }

    /// The text that ends a call.
    pub(crate) fn close(self) -> &'static str {
        qwen::CLOSE
    }

    /// The texts by which an answer is taken apart. Some tokenizers call their tokens special, and they are needed all the same.
    pub fn marks(self) -> impl Iterator<Item = &'static str> {
        let (open, close) = self.thinking();
        [open, close, self.close()].into_iter().chain(self.opens().iter().copied())
    }

    /// Reads the calls that `text`, which begins with one of [`Self::opens`], begins with, and gives what follows them.
    ///
    /// # Errors
    /// What is wrong with the call, or that it is not complete.
    pub(crate) fn read<'a>(self, text: &'a str, tools: &[Value]) -> Result<(Vec<ToolCall>, &'a str), String> {
        qwen::read(text, tools)
    }
}
