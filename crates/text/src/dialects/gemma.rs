//! Gemma 4: a name and arguments in braces, whose keys are bare and whose texts stand between tokens of their own.
//!
//! ```text
//! <|tool_call>call:weather{city:<|"|>Oslo<|"|>,days:3}<tool_call|>
//! ```

use super::{Head, HeadArguments};
use crate::call_stream::Braced;
use crate::tool_calls::{ToolCall, json_arguments, read_json};

pub(super) const THOUGHTS: (&str, &str) = ("<|channel>thought\n", "<channel|>");
pub(super) const OPEN: &str = "<|tool_call>";
pub(super) const CLOSE: &str = "<tool_call|>";

/// The beginning of a call.
pub(super) fn head(text: &str) -> Option<Head> {
    let call = text.strip_prefix(OPEN)?.trim_start().strip_prefix("call:")?;
    let (name, _) = call.split_once('{')?;
    let at = text.len() - call.len() + name.len();
    Head::new(name.trim(), at, HeadArguments::Braces)
}

/// Reads a call, and gives what follows it.
pub(super) fn read(text: &str) -> Result<(Vec<ToolCall>, &str), String> {
    let Head { name, at, .. } = head(text).ok_or("a call has no name and arguments")?;
    let wrong = || format!("the arguments of {name} are not at their end, or cannot be read");
    let (arguments, rest) = Braced::read(&text[at..]).ok_or_else(wrong)?;
    let arguments = json_arguments(&name, Some(read_json(&arguments)?.0))?;
    let after = rest.trim_start().strip_prefix(CLOSE);
    let after = after.ok_or_else(|| format!("a call of {name} is not followed by {CLOSE}"))?;
    Ok((vec![ToolCall { name, arguments }], after))
}
