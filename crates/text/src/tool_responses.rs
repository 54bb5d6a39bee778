//! Results of tools for templates that read them from the message with the calls, under `tool_responses`, as Gemma 4's first ones
//! do. Clients send each result as a message of its own, which such a template would take for a turn of somebody else.

use serde_json::{Value, json};

/// Whether a template reads results in this way only.
pub(crate) fn wanted(source: &str) -> bool {
    let reads = ["'tool_responses'", "\"tool_responses\"", ".tool_responses"];
    reads.iter().any(|read| source.contains(read)) && !source.contains("tool_call_id")
}

/// The messages, with results in those with their calls. What is said behind results belongs to the same message.
pub(crate) fn joined(messages: &[Value]) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::with_capacity(messages.len());
    for message in messages {
        let calls = out.last_mut().filter(|last| last["tool_calls"].is_array());
        match (message["role"].as_str(), calls) {
            (Some("tool"), Some(calls)) => {
                let result = json!({"name": name(message, calls), "response": message["content"]});
                match calls["tool_responses"].as_array_mut() {
                    Some(results) => results.push(result),
                    None => calls["tool_responses"] = json!([result]),
                }
            }
            (Some("assistant"), Some(calls))
                if calls["tool_responses"].is_array() && is_silent(calls) && message["tool_calls"].is_null() =>
            {
                calls["content"] = message["content"].clone();
            }
            _ => out.push(message.clone()),
        }
    }
    out
}

fn is_silent(message: &Value) -> bool {
    message["content"].as_str().is_none_or(str::is_empty)
}

/// The tool that a result is of: as it says itself, or as the call does that it names.
fn name(result: &Value, calls: &Value) -> Value {
    let called = |call: &&Value| call["id"].is_string() && call["id"] == result["tool_call_id"];
    let call = calls["tool_calls"].as_array().into_iter().flatten().find(called);
    let given = result.get("name").or(result.get("tool_name")).filter(|name| name.is_string());
    given.or(call.map(|call| &call["function"]["name"])).cloned().unwrap_or_else(|| "unknown".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hunyuan 3's template writes such a tag, and reads results from their own messages.
    #[test]
    fn a_tag_of_that_name_is_no_field() {
        assert!(!wanted("{%- set end = '</tool_responses{}>'.format(T) %}{{ message['content'] }}"));
        assert!(wanted("{%- if message['tool_responses'] %}") && wanted("{{ message.tool_responses }}"));
    }
}
