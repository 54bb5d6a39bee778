//! Calls as tags with attributes, several in a block: MiniMax M2, and DeepSeek from V3.2 on, whose tags begin with
//! `｜DSML｜` and tell whether a value is a text.
//!
//! ```text
//! <minimax:tool_call>
//! <invoke name="weather">
//! <parameter name="city">Oslo</parameter>
//! <parameter name="days">3</parameter>
//! </invoke>
//! </minimax:tool_call>
//! ```
//! ```text
//! <｜DSML｜function_calls>
//! <｜DSML｜invoke name="weather">
//! <｜DSML｜parameter name="city" string="true">Oslo</｜DSML｜parameter>
//! <｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>
//! </｜DSML｜invoke>
//! </｜DSML｜function_calls>
//! ```

use serde_json::{Map, Value};

use super::{Head, HeadArguments, Key, Tags, value_before};
use crate::call_stream::json_or_text;
use crate::tool_calls::{ToolCall, coerce, parameter_schema};

pub(super) const MINIMAX: &str = "<minimax:tool_call>";
pub(super) const DSML: &str = "｜DSML｜";
pub(super) const OPENS: [&str; 2] = ["<｜DSML｜function_calls>", "<｜DSML｜tool_calls>"];
pub(super) const CLOSES: [&str; 2] = ["</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"];

pub(super) const MINIMAX_TAGS: Tags = Tags {
    open: "<parameter ",
    open_end: ">",
    key: key_of,
    value: None,
    value_end: "</parameter>",
    close: "</invoke>",
    lines: false,
};
pub(super) const DSML_TAGS: Tags =
    Tags {
        open: "<｜DSML｜parameter ", value_end: "</｜DSML｜parameter>", close: "</｜DSML｜invoke>", ..MINIMAX_TAGS
    };

fn key_of(head: &str) -> Option<Key> {
    Some((attribute(head, "name")?.to_owned(), attribute(head, "string").map(|text| text == "true")))
}

/// The beginning of a call.
pub(super) fn head(text: &str, tags: &'static Tags) -> Option<Head> {
    let prefix = tags.open.strip_prefix('<')?.strip_suffix("parameter ")?;
    let (head, rest) = text.split_once(&format!("<{prefix}invoke "))?.1.split_once('>')?;
    Head::new(attribute(head, "name")?, text.len() - rest.len(), HeadArguments::Tags(tags))
}

/// Reads a block of calls, whose tags begin with `prefix`, and gives what follows it.
pub(super) fn read<'a>(text: &'a str, prefix: &str, tools: &[Value]) -> Result<(Vec<ToolCall>, &'a str), String> {
    let (open, mut rest) = text.split_once('>').ok_or("a block of calls has no beginning")?;
    let close = format!("</{}>", open.trim_start_matches('<'));
    let mut calls = Vec::new();
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix(close.as_str()) {
            return if calls.is_empty() { Err("a block of calls is empty".into()) } else { Ok((calls, after)) };
        }
        let call = rest.strip_prefix(&format!("<{prefix}invoke "));
        let (call, after) = read_call(call.ok_or("a block holds something that is no call")?, prefix, tools)?;
        calls.push(call);
        rest = after;
    }
}

fn read_call<'a>(text: &'a str, prefix: &str, tools: &[Value]) -> Result<(ToolCall, &'a str), String> {
    let (head, mut rest) = text.split_once('>').ok_or("a call has no name")?;
    let name = attribute(head, "name").ok_or("a call has no name")?.to_owned();
    let (begin, end) = (format!("<{prefix}parameter "), format!("</{prefix}parameter>"));
    let close = format!("</{prefix}invoke>");
    let mut arguments = Map::new();
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix(close.as_str()) {
            return Ok((ToolCall { name, arguments }, after));
        }
        let parameter = rest.strip_prefix(begin.as_str()).ok_or_else(|| format!("a call of {name} has no end"))?;
        let (head, value) = parameter.split_once('>').ok_or("a parameter has no name")?;
        let key = attribute(head, "name").ok_or("a parameter has no name")?;
        let (value, after) = value_before(value, &end, &[&begin, &close])
            .ok_or_else(|| format!("the parameter {key} of {name} has no end"))?;
        let value = match attribute(head, "string") {
            Some("true") => Value::String(value.to_owned()),
            Some(_) => json_or_text(value),
            None => coerce(value, parameter_schema(tools, &name, key)),
        };
        arguments.insert(key.to_owned(), value);
        rest = after;
    }
}

/// The value of an attribute: `name="weather"`.
fn attribute<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let value = head.split_once(&format!("{name}=\""))?.1;
    Some(value.split_once('"')?.0).filter(|value| !value.is_empty())
}
