//! The two dialects of Qwen's models, which other models write too. Both stand between `<tool_call>` and `</tool_call>`;
//! what stands there tells which one it is.
//!
//! Hermes and Qwen3: JSON.
//! ```text
//! <tool_call>
//! {"name": "weather", "arguments": {"city": "Oslo", "days": 3}}
//! </tool_call>
//! ```
//! Qwen3-Coder and Qwen3.5: tags around plain text, whose type the tool's schema tells.
//! ```text
//! <tool_call>
//! <function=weather>
//! <parameter=city>
//! Oslo
//! </parameter>
//! <parameter=days>
//! 3
//! </parameter>
//! </function>
//! </tool_call>
//! ```

use serde_json::{Map, Value};

use super::{Head, HeadArguments, Tags, value_before};
use crate::tool_calls::{ToolCall, coerce, json_call, parameter_schema, read_json};

pub(super) const OPEN: &str = "<tool_call>";
pub(super) const CLOSE: &str = "</tool_call>";

const TAGS: Tags = Tags {
    open: "<parameter=",
    open_end: ">",
    key: |key| Some((tag_name(key, "parameter").ok()?.to_owned(), None)),
    value: None,
    value_end: "</parameter>",
    close: "</function>",
    lines: true,
};

/// The beginning of a call.
pub(super) fn head(text: &str) -> Option<Head> {
    let block = text.strip_prefix(OPEN)?.trim_start();
    let Some(function) = block.strip_prefix("<function=") else { return Head::in_json(text, block, &["arguments"]) };
    let (name, rest) = function.split_once('>')?;
    Head::new(tag_name(name, "function").ok()?, text.len() - rest.len(), HeadArguments::Tags(&TAGS))
}

/// Reads a call that begins with `<tool_call>`, and gives what follows `</tool_call>`.
pub(super) fn read<'a>(text: &'a str, tools: &[Value]) -> Result<(Vec<ToolCall>, &'a str), String> {
    let block = text.strip_prefix(OPEN).unwrap_or(text).trim_start();
    let (call, rest) = match block.strip_prefix("<function=") {
        Some(function) => read_function(function, tools)?,
        None => {
            let (call, rest) = read_json(block)?;
            (json_call(&call, &["arguments"])?, rest)
        }
    };
    let after = rest.trim_start().strip_prefix(CLOSE);
    after.map(|after| (vec![call], after)).ok_or_else(|| format!("a call is not followed by {CLOSE}"))
}

/// What follows `<function=`, up to and with `</function>`.
fn read_function<'a>(function: &'a str, tools: &[Value]) -> Result<(ToolCall, &'a str), String> {
    let (name, mut rest) = function.split_once('>').ok_or("a <function= has no end")?;
    let name = tag_name(name, "function")?;
    let mut arguments = Map::new();
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix("</function>") {
            return Ok((ToolCall { name: name.to_owned(), arguments }, after));
        }
        let Some(parameter) = rest.strip_prefix("<parameter=") else {
            return Err(format!("a call of {name} holds neither a <parameter= nor </function> where it should"));
        };
        let (key, value) = parameter.split_once('>').ok_or("a <parameter= has no end")?;
        let key = tag_name(key, "parameter")?;
        let (value, after) = parameter_value(value)
            .ok_or_else(|| format!("the parameter {key} of {name} has no </parameter> at its end"))?;
        let value = coerce(value, parameter_schema(tools, name, key));
        if arguments.insert(key.to_owned(), value).is_some() {
            return Err(format!("a call of {name} gives the parameter {key} twice"));
        }
        rest = after;
    }
}

fn tag_name<'a>(name: &'a str, tag: &str) -> Result<&'a str, String> {
    let name = name.trim();
    let plain = !name.is_empty() && !name.contains(['<', '\n']);
    plain.then_some(name).ok_or_else(|| format!("a <{tag}= has no name"))
}

/// A parameter's text, and what follows its `</parameter>`. The line breaks beside the tags are not part of the text.
fn parameter_value(text: &str) -> Option<(&str, &str)> {
    let (value, after) = value_before(text, "</parameter>", &["<parameter=", "</function>"])?;
    let value = value.strip_prefix('\n').unwrap_or(value);
    Some((value.strip_suffix('\n').unwrap_or(value), after))
}
