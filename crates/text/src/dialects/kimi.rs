//! Kimi K2: calls between tokens of their own, several in a section; the name comes with a number.
//!
//! ```text
//! <|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{"city": "Oslo"}<|tool_call_end|><|tool_calls_section_end|>
//! ```

use super::Head;
use crate::tool_calls::{ToolCall, json_arguments, read_json};

pub(super) const OPEN: &str = "<|tool_calls_section_begin|>";
pub(super) const CLOSE: &str = "<|tool_calls_section_end|>";
const CALL: &str = "<|tool_call_begin|>";
const ARGUMENT: &str = "<|tool_call_argument_begin|>";
const CALL_END: &str = "<|tool_call_end|>";

/// The beginning of a call.
pub(super) fn head(text: &str) -> Option<Head> {
    let (id, arguments) = text.split_once(CALL)?.1.split_once(ARGUMENT)?;
    Head::json(name(id), text, arguments)
}

/// The name in `functions.weather:0`.
fn name(id: &str) -> &str {
    let name = id.trim().rsplit_once(':').map_or(id.trim(), |(name, _)| name);
    name.strip_prefix("functions.").unwrap_or(name)
}

/// Reads a section of calls, and gives what follows it.
pub(super) fn read(text: &str) -> Result<(Vec<ToolCall>, &str), String> {
    let mut rest = text.strip_prefix(OPEN).unwrap_or(text);
    let mut calls = Vec::new();
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix(CLOSE) {
            return if calls.is_empty() { Err("a section of calls is empty".into()) } else { Ok((calls, after)) };
        }
        let call = rest.strip_prefix(CALL).ok_or("a section holds something that is no call")?;
        let (id, after) = call.split_once(ARGUMENT).ok_or("a call has no arguments")?;
        let name = name(id);
        if name.is_empty() {
            return Err("a call has no name".into());
        }
        let (arguments, after) = read_json(after)?;
        let after = after.trim_start().strip_prefix(CALL_END);
        rest = after.ok_or_else(|| format!("a call of {name} is not followed by {CALL_END}"))?;
        calls.push(ToolCall { name: name.to_owned(), arguments: json_arguments(name, Some(arguments))? });
    }
}
