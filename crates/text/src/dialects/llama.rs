//! Llama 3: an answer that is nothing but a call, as JSON with `parameters`, sometimes behind a token of its own; several
//! are separated by semicolons. What only looks so, because it names no tool, is content.
//!
//! ```text
//! <|python_tag|>{"name": "weather", "parameters": {"city": "Oslo"}}
//! ```

use serde_json::Value;

use super::Head;
use crate::tool_calls::{ToolCall, find, json_call, read_json};

pub(super) const TAG: &str = "<|python_tag|>";
pub(super) const OPENS: [&str; 2] = [TAG, "{\"name\""];

const ARGUMENTS: [&str; 2] = ["parameters", "arguments"];

/// The beginning of a call, the first or a further one, of a tool that there is.
pub(super) fn head(text: &str, tools: &[Value]) -> Option<Head> {
    let further = text.trim_start().strip_prefix('}').map(|rest| rest.trim_start().strip_prefix(';'));
    let call = further.unwrap_or_else(|| Some(text.strip_prefix(TAG).unwrap_or(text)))?;
    Head::in_json(text, call, &ARGUMENTS).filter(|head| find(tools, &head.name).is_some())
}

/// Reads calls, and gives what follows them.
pub(super) fn read<'a>(text: &'a str, tools: &[Value]) -> Result<(Vec<ToolCall>, &'a str), String> {
    let mut rest = text.strip_prefix(TAG).unwrap_or(text);
    let mut calls = Vec::new();
    loop {
        let (call, after) = read_json(rest.trim_start())?;
        let call = json_call(&call, &ARGUMENTS)?;
        if find(tools, &call.name).is_none() {
            return Err(format!("there is no tool {:?}", call.name));
        }
        calls.push(call);
        match after.trim_start().strip_prefix(';') {
            Some(more) => rest = more,
            None => return Ok((calls, after)),
        }
    }
}
