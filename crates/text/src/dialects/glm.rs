//! GLM-4.5 and later: the name, then keys and values in tags. A value that is no text is JSON.
//!
//! ```text
//! <tool_call>weather
//! <arg_key>city</arg_key>
//! <arg_value>Oslo</arg_value>
//! <arg_key>days</arg_key>
//! <arg_value>3</arg_value>
//! </tool_call>
//! ```

use serde_json::{Map, Value};

use super::{Head, HeadArguments, Tags, between};
use crate::tool_calls::{ToolCall, coerce, parameter_schema};

pub(super) const OPEN: &str = "<tool_call>";
pub(super) const CLOSE: &str = "</tool_call>";
/// By which its templates are told from others with the same outer tags.
pub(super) const MARK: &str = "<arg_key>";

const TAGS: Tags = Tags {
    open: MARK,
    open_end: "</arg_key>",
    key: |key| Some((key.trim().to_owned(), None)),
    value: Some("<arg_value>"),
    value_end: "</arg_value>",
    close: CLOSE,
    lines: false,
};

/// The beginning of a call.
pub(super) fn head(text: &str) -> Option<Head> {
    let (name, at) = name(text.strip_prefix(OPEN)?).ok()?;
    Head::new(name, OPEN.len() + at, HeadArguments::Tags(&TAGS))
}

/// The name that a call begins with, and where it ends.
fn name(block: &str) -> Result<(&str, usize), String> {
    let end = block.find(MARK).into_iter().chain(block.find(CLOSE)).min().ok_or("a call has no end")?;
    let name = block[..end].trim();
    let plain = !name.is_empty() && !name.contains(['<', '\n']);
    plain.then_some((name, end)).ok_or_else(|| "a call has no name".into())
}

/// Reads a call that begins with `<tool_call>`, and gives what follows `</tool_call>`.
pub(super) fn read<'a>(text: &'a str, tools: &[Value]) -> Result<(Vec<ToolCall>, &'a str), String> {
    let block = text.strip_prefix(OPEN).unwrap_or(text);
    let (name, end) = name(block)?;
    let (mut rest, mut arguments) = (&block[end..], Map::new());
    while let Some(after) = rest.trim_start().strip_prefix(MARK) {
        let (key, after) = after.split_once("</arg_key>").ok_or("an <arg_key> has no end")?;
        let (value, after) = between(after.trim_start(), "<arg_value>", "</arg_value>", &[MARK, CLOSE])
            .ok_or_else(|| format!("the argument {key} of {name} has no value"))?;
        let schema = parameter_schema(tools, name, key.trim());
        arguments.insert(key.trim().to_owned(), coerce(value, schema));
        rest = after;
    }
    let after = rest.trim_start().strip_prefix(CLOSE);
    let call = ToolCall { name: name.to_owned(), arguments };
    after.map(|after| (vec![call], after)).ok_or_else(|| format!("a call is not followed by {CLOSE}"))
}
