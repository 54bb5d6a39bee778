//! The calls of tools in an answer, in the two dialects that Qwen's models write. Both stand between `<tool_call>` and
//! `</tool_call>`; what stands there tells which one it is.
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

use crate::json_schema::{check_schema, is_of_type, types};

/// An answer, taken apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// What is said, without thoughts and calls, and without white space at its ends.
    pub content: String,
    /// What was thought before it, if anything.
    pub reasoning: Option<String>,
    /// Whether the answer ends within the thoughts.
    pub unfinished_reasoning: bool,
    /// The calls, in order.
    pub calls: Vec<ToolCall>,
    /// What is wrong with each call that cannot be read. Its text stays in the content.
    pub malformed: Vec<String>,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// The tool.
    pub name: String,
    /// Its arguments.
    pub arguments: Map<String, Value>,
}

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
const THINK: &str = "<think>";
const THINK_END: &str = "</think>";

/// Whether a prompt ends within an open `<think>`, so that the answer begins with thoughts.
pub fn ends_thinking(prompt: &str) -> bool {
    prompt.rfind(THINK).is_some_and(|open| prompt.rfind(THINK_END).is_none_or(|close| close < open))
}

impl Answer {
    /// Takes an answer apart. `thinking` says that it begins with thoughts, as [`ends_thinking`] tells of its prompt.
    /// `tools` are the functions that it could call, as they were given to the template: arguments written as plain text
    /// take the types that these schemas ask for, where the text can be read so, and stay texts where it cannot.
    pub fn parse(text: &str, thinking: bool, tools: &[Value]) -> Answer {
        let (reasoning, mut rest, unfinished_reasoning) = split_reasoning(text, thinking);
        let mut answer = Answer { reasoning, unfinished_reasoning, ..Answer::default() };
        let mut content = String::new();
        while let Some(at) = rest.find(OPEN) {
            content.push_str(&rest[..at]);
            let block = &rest[at + OPEN.len()..];
            rest = match read_call(block, tools) {
                Ok((call, after)) => {
                    answer.calls.push(call);
                    after
                }
                Err(problem) => {
                    answer.malformed.push(problem);
                    content.push_str(OPEN);
                    block
                }
            };
        }
        content.push_str(rest);
        answer.content = content.trim().to_owned();
        answer
    }
}

impl ToolCall {
    /// Checks that one of `tools` has this name, and that the arguments fit its schema.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, tools: &[Value]) -> Result<(), String> {
        let Some(function) = find(tools, &self.name) else { return Err(format!("there is no tool {:?}", self.name)) };
        let Some(schema) = function.get("parameters") else { return Ok(()) };
        check_schema(schema, &Value::Object(self.arguments.clone()))
    }
}

/// The function of this name, with or without the wrapper `{"type": "function", "function": …}`.
fn find<'a>(tools: &'a [Value], name: &str) -> Option<&'a Value> {
    let functions = tools.iter().map(|tool| tool.get("function").unwrap_or(tool));
    functions.into_iter().find(|function| function.get("name").and_then(Value::as_str) == Some(name))
}

/// Thoughts, what follows them, and whether they have no end.
fn split_reasoning(text: &str, thinking: bool) -> (Option<String>, &str, bool) {
    let begun = text.trim_start().strip_prefix(THINK);
    let said = |thought: &str| Some(thought.trim().to_owned()).filter(|thought| !thought.is_empty());
    match (begun.unwrap_or(text).split_once(THINK_END), begun) {
        (Some((thought, rest)), _) if thinking || begun.is_some() => (said(thought), rest, false),
        (None, Some(thought)) => (said(thought), "", true),
        (None, None) if thinking => (said(text), "", true),
        _ => (None, text, false),
    }
}

/// Reads what follows `<tool_call>`, and gives what follows `</tool_call>`.
fn read_call<'a>(block: &'a str, tools: &[Value]) -> Result<(ToolCall, &'a str), String> {
    let block = block.trim_start();
    let (call, rest) = match block.strip_prefix("<function=") {
        Some(function) => read_function(function, tools)?,
        None => read_json(block)?,
    };
    let after = rest.trim_start().strip_prefix(CLOSE);
    after.map(|after| (call, after)).ok_or_else(|| format!("a call is not followed by {CLOSE}"))
}

/// `{"name": …, "arguments": …}`
fn read_json(block: &str) -> Result<(ToolCall, &str), String> {
    let mut values = serde_json::Deserializer::from_str(block).into_iter::<Value>();
    let call = values.next().ok_or("a call is empty")?.map_err(|error| format!("a call is no JSON: {error}"))?;
    let rest = &block[values.byte_offset()..];
    let name = call.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or("a call has no name")?.to_owned();
    let arguments = match call.get("arguments") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(arguments)) => arguments.clone(),
        // As in the API of OpenAI.
        Some(Value::String(text)) => {
            serde_json::from_str(text).map_err(|_| format!("the arguments of {name} are no JSON object"))?
        }
        Some(_) => return Err(format!("the arguments of {name} are no JSON object")),
    };
    Ok((ToolCall { name, arguments }, rest))
}

/// What follows `<function=`, up to and with `</function>`.
fn read_function<'a>(function: &'a str, tools: &[Value]) -> Result<(ToolCall, &'a str), String> {
    let (name, mut rest) = function.split_once('>').ok_or("a <function= has no end")?;
    let name = tag_name(name, "function")?;
    let schema = find(tools, name).and_then(|function| function.get("parameters"));
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
        let value = coerce(value, schema.and_then(|schema| schema.get("properties")?.get(key)));
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

/// A parameter's text, and what follows its `</parameter>`: the first one before another parameter or the end of the call,
/// as the text may hold such tags itself. The line breaks beside the tags are not part of the text.
fn parameter_value(text: &str) -> Option<(&str, &str)> {
    const END: &str = "</parameter>";
    let ends = text.match_indices(END).map(|(at, _)| (at, &text[at + END.len()..]));
    let (at, after) = ends.into_iter().find(|(_, after)| {
        let next = after.trim_start();
        next.starts_with("<parameter=") || next.starts_with("</function>")
    })?;
    let value = &text[..at];
    let value = value.strip_prefix('\n').unwrap_or(value);
    Some((value.strip_suffix('\n').unwrap_or(value), after))
}

/// A text as the first type that the schema allows and the text can be read as; without a schema it stays a text.
fn coerce(text: &str, schema: Option<&Value>) -> Value {
    let text_value = || Value::String(text.to_owned());
    let Some(Value::Object(schema)) = schema else { return text_value() };
    let allowed = types(schema);
    // A text could be read as text always, so what is more special goes first.
    let special = allowed.iter().filter(|&&name| name != "string");
    if let Some(value) = special.filter_map(|name| read_as(name, text)).next() {
        return value;
    }
    if !allowed.is_empty() {
        return text_value();
    }
    if let Some(choices) = schema.get("enum").and_then(Value::as_array) {
        let is_text = |choice: &Value| match choice {
            Value::String(choice) => choice == text,
            other => serde_json::from_str(text).is_ok_and(|value: Value| value == *other),
        };
        return choices.iter().find(|choice| is_text(choice)).cloned().unwrap_or_else(text_value);
    }
    let parts = ["anyOf", "oneOf"].iter().filter_map(|key| schema.get(*key).and_then(Value::as_array)).flatten();
    let mut candidates = parts.map(|part| (coerce(text, Some(part)), part));
    let fits = candidates.find(|(value, part)| !value.is_string() && check_schema(part, value).is_ok());
    fits.map_or_else(text_value, |(value, _)| value)
}

/// A text as a type that JSON Schema names. `True`, `False` and `None` are what templates in Python make of values.
fn read_as(name: &str, text: &str) -> Option<Value> {
    let trimmed = text.trim();
    let value = match (name, trimmed) {
        ("boolean", "True") => Value::Bool(true),
        ("boolean", "False") => Value::Bool(false),
        ("null", "None") => Value::Null,
        _ => serde_json::from_str(trimmed).ok()?,
    };
    is_of_type(name, &value).then_some(value)
}
