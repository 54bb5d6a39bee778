//! DeepSeek V3, R1 and V3.1: calls between tokens of their own, several in a block.
//!
//! V3.1:
//! ```text
//! <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Oslo"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>
//! ```
//! V3 and R1 write `function` before the separator, then the name, then the arguments in a fence of JSON.

use serde_json::Value;

use super::Head;
use crate::tool_calls::{ToolCall, json_arguments, read_json};

pub(super) const OPEN: &str = "<｜tool▁calls▁begin｜>";
pub(super) const CLOSE: &str = "<｜tool▁calls▁end｜>";
const CALL: &str = "<｜tool▁call▁begin｜>";
const CALL_END: &str = "<｜tool▁call▁end｜>";
const SEPARATOR: &str = "<｜tool▁sep｜>";

/// The beginning of a call.
pub(super) fn head(text: &str) -> Option<Head> {
    let (before, after) = text.split_once(CALL)?.1.split_once(SEPARATOR)?;
    match before.trim() {
        // The name may still come, with a fence behind it.
        "function" => {
            let (name, arguments) = after.split_once("```json")?;
            Head::json(name.trim(), text, arguments)
        }
        name => Head::json(name, text, after),
    }
}

/// Reads a block of calls, and gives what follows it.
pub(super) fn read(text: &str) -> Result<(Vec<ToolCall>, &str), String> {
    let mut rest = text.strip_prefix(OPEN).unwrap_or(text);
    let mut calls = Vec::new();
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix(CLOSE) {
            return if calls.is_empty() { Err("a block of calls is empty".into()) } else { Ok((calls, after)) };
        }
        let call = rest.strip_prefix(CALL).ok_or("a block holds something that is no call")?;
        let (before, after) = call.split_once(SEPARATOR).ok_or("a call has no separator")?;
        let (call, after) = read_call(before.trim(), after)?;
        calls.push(call);
        rest = after;
    }
}

fn read_call<'a>(before: &str, after: &'a str) -> Result<(ToolCall, &'a str), String> {
    let fenced = after.split_once("```json").filter(|(name, _)| !name.contains(['{', '<']));
    let (name, arguments) = match fenced {
        Some((name, rest)) if before == "function" => (name.trim(), rest),
        _ => (before, after),
    };
    if name.is_empty() {
        return Err("a call has no name".into());
    }
    let (arguments, rest): (Value, &str) = read_json(arguments)?;
    let rest = rest.trim_start();
    let rest = rest.strip_prefix("```").unwrap_or(rest).trim_start();
    let rest = rest.strip_prefix(CALL_END).ok_or_else(|| format!("a call is not followed by {CALL_END}"))?;
    Ok((ToolCall { name: name.to_owned(), arguments: json_arguments(name, Some(arguments))? }, rest))
}
