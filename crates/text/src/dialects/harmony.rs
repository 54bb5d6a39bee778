//! gpt-oss: every part of an answer is a message on a channel. Thoughts are on `analysis`, what is said on `final`, and a
//! call is a message to a function.
//!
//! ```text
//! <|channel|>analysis<|message|>Oslo, then.<|end|><|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Oslo"}<|call|>
//! ```

use super::Head;
use crate::tool_calls::{ToolCall, json_arguments, read_json};

pub(super) const THOUGHTS: (&str, &str) = ("<|channel|>analysis<|message|>", "<|end|>");
pub(super) const OPENS: [&str; 3] = ["<|channel|>commentary to=", "<|start|>assistant to=", "<|channel|>analysis to="];
/// What every part begins with.
pub(super) const PART: &str = "<|channel|>";
pub(super) const CLOSE: &str = "<|call|>";
/// What stands between parts and belongs to none.
pub(super) const SKIPPED: [&str; 6] = [
    "<|start|>assistant<|channel|>final<|message|>",
    "<|channel|>final<|message|>",
    "<|channel|>commentary<|message|>",
    "<|start|>assistant",
    "<|end|>",
    "<|return|>",
];

/// The beginning of a call.
pub(super) fn head(text: &str) -> Option<Head> {
    let (head, arguments) = text.split_once("<|message|>")?;
    OPENS.iter().any(|open| text.starts_with(open)).then(|| Head::json(name(head)?, text, arguments))?
}

/// The name in `<|channel|>commentary to=functions.weather <|constrain|>json`.
fn name(head: &str) -> Option<&str> {
    let name = head.split_once("to=")?.1.split(|c: char| c.is_whitespace() || c == '<').next()?;
    Some(name.strip_prefix("functions.").unwrap_or(name)).filter(|name| !name.is_empty())
}

/// Reads a call, and gives what follows it. The token that ends it mostly ends the answer, and then is no part of it.
pub(super) fn read(text: &str) -> Result<(Vec<ToolCall>, &str), String> {
    let (head, body) = text.split_once("<|message|>").ok_or("a call has no message")?;
    let name = name(head).ok_or("a call has no name")?;
    let (arguments, rest) = read_json(body)?;
    let rest = rest.trim_start();
    let rest = rest.strip_prefix(CLOSE).or_else(|| rest.strip_prefix("<|end|>")).unwrap_or(rest);
    Ok((vec![ToolCall { name: name.to_owned(), arguments: json_arguments(name, Some(arguments))? }], rest))
}
