//! Calls of tools: what a model says of them becomes a name and arguments, checked against the tool's schema. How a
//! call is written is a dialect's matter (`dialects`).

use serde_json::{Map, Value};

use crate::json_schema::{check_schema, is_of_type, types};

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// The tool.
    pub name: String,
    /// Its arguments.
    pub arguments: Map<String, Value>,
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
pub(crate) fn find<'a>(tools: &'a [Value], name: &str) -> Option<&'a Value> {
    let functions = tools.iter().map(|tool| tool.get("function").unwrap_or(tool));
    functions.into_iter().find(|function| function.get("name").and_then(Value::as_str) == Some(name))
}

/// The schema of a tool's parameter, where there is one.
pub(crate) fn parameter_schema<'a>(tools: &'a [Value], name: &str, parameter: &str) -> Option<&'a Value> {
    let schema = find(tools, name)?.get("parameters")?;
    Some(resolve(schema.get("properties")?.get(parameter)?, schema))
}

/// What a schema that only refers to another part of `root` stands for.
pub(crate) fn resolve<'a>(mut schema: &'a Value, root: &'a Value) -> &'a Value {
    for _ in 0..REFERENCES_MAX {
        let target = schema.get("$ref").and_then(Value::as_str).and_then(|to| root.pointer(to.strip_prefix('#')?));
        match target {
            Some(target) => schema = target,
            None => break,
        }
    }
    schema
}

/// A schema may refer to itself.
const REFERENCES_MAX: usize = 8;

/// Reads the JSON value that `text` begins with, and gives what follows it.
pub(crate) fn read_json(text: &str) -> Result<(Value, &str), String> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next().ok_or("a call is empty")?.map_err(|error| format!("a call is no JSON: {error}"))?;
    Ok((value, &text[values.byte_offset()..]))
}

/// Arguments written as JSON: an object, or as in the API of OpenAI a text of one; nothing is an empty one.
pub(crate) fn json_arguments(name: &str, arguments: Option<Value>) -> Result<Map<String, Value>, String> {
    match arguments {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(arguments)) => Ok(arguments),
        Some(Value::String(text)) => {
            serde_json::from_str(&text).map_err(|_| format!("the arguments of {name} are no JSON object"))
        }
        Some(_) => Err(format!("the arguments of {name} are no JSON object")),
    }
}

/// A call written as one JSON object with `name` and, under one of `keys`, its arguments.
pub(crate) fn json_call(call: &Value, keys: &[&str]) -> Result<ToolCall, String> {
    let name = call.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or("a call has no name")?.to_owned();
    let arguments = json_arguments(&name, keys.iter().find_map(|key| call.get(*key)).cloned())?;
    Ok(ToolCall { name, arguments })
}

/// A text as the first type that the schema allows and the text can be read as; without a schema it stays a text.
pub(crate) fn coerce(text: &str, schema: Option<&Value>) -> Value {
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

/// Whether [`coerce`] makes a text of every text.
pub(crate) fn is_text(schema: Option<&Value>) -> bool {
    let Some(Value::Object(schema)) = schema else { return true };
    let allowed = types(schema);
    !allowed.is_empty() && allowed.iter().all(|name| *name == "string")
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
