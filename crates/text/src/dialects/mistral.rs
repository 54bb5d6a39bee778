//! Mistral: a token of its own before a list of calls in JSON, or, in newer models, before each name, with another token
//! between name and arguments. Nothing but the end of the answer ends them.
//!
//! ```text
//! [TOOL_CALLS][{"name": "weather", "arguments": {"city": "Oslo"}}]
//! [TOOL_CALLS]weather[ARGS]{"city": "Oslo"}[TOOL_CALLS]now[ARGS]{}
//! ```

use serde_json::Value;

use super::Head;
use crate::tool_calls::{ToolCall, json_arguments, json_call, read_json};

pub(super) const OPEN: &str = "[TOOL_CALLS]";
const ARGUMENTS: &str = "[ARGS]";
/// In some models a number of the call stands before its arguments.
const CALL_ID: &str = "[CALL_ID]";

/// The beginning of a call: of a list the next one.
pub(super) fn head(text: &str) -> Option<Head> {
    let Some(block) = text.strip_prefix(OPEN).map(str::trim_start) else {
        let next = text.trim_start().strip_prefix('}')?.trim_start().strip_prefix(',')?;
        return Head::in_json(text, next, &["arguments"]);
    };
    if let Some(list) = block.strip_prefix('[') {
        return Head::in_json(text, list, &["arguments"]);
    }
    let (name, arguments) = name(block).ok()?;
    Head::json(name, text, arguments)
}

/// The name that a call begins with, and what follows.
fn name(block: &str) -> Result<(&str, &str), String> {
    let (head, after) = match block.split_once(ARGUMENTS) {
        Some((head, after)) if !head.contains('{') => (head, after),
        _ => block.split_at(block.find('{').ok_or("a call has no arguments")?),
    };
    let name = head.split_once(CALL_ID).map_or(head, |(name, _)| name).trim();
    let plain = !name.is_empty() && !name.contains(char::is_whitespace);
    plain.then_some((name, after)).ok_or_else(|| "a call has no name".into())
}

/// Reads the calls behind one `[TOOL_CALLS]`, and gives what follows them.
pub(super) fn read(text: &str) -> Result<(Vec<ToolCall>, &str), String> {
    let block = text.strip_prefix(OPEN).unwrap_or(text).trim_start();
    if block.starts_with('[') {
        let (list, rest) = read_json(block)?;
        let calls = list.as_array().into_iter().flatten().map(|call| json_call(call, &["arguments"]));
        let calls = calls.collect::<Result<Vec<_>, _>>()?;
        return if calls.is_empty() { Err("a list of calls is empty".into()) } else { Ok((calls, rest)) };
    }
    let (name, after) = name(block)?;
    let (arguments, rest): (Value, &str) = read_json(after)?;
    Ok((vec![ToolCall { name: name.to_owned(), arguments: json_arguments(name, Some(arguments))? }], rest))
}
