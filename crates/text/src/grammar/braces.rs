//! The grammar of Gemma's arguments: braces, bare keys, texts between tokens of their own. Texts are held to their choices and
//! their length, lists to their number, everything else to its JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::literal;
use crate::call_stream::QUOTE;
use crate::tool_calls::resolve;

/// Schemas within schemas deeper than this may be anything: one may refer to itself.
const DEPTH_MAX: usize = 12;
/// Rules of one grammar at most.
const RULES_MAX: usize = 10_000;

/// Writes the rules of a schema's values.
pub(super) struct Braces<'a> {
    rules: &'a mut String,
    /// What references start from.
    root: &'a Value,
    /// What all names of rules begin with.
    name: String,
    count: usize,
}

impl<'a> Braces<'a> {
    pub(super) fn new(rules: &'a mut String, root: &'a Value, name: String) -> Braces<'a> {
        Braces { rules, root, name, count: 0 }
    }

    /// The rule of arguments of this schema.
    pub(super) fn arguments(&mut self) -> Result<String, String> {
        let root = resolve(self.root, self.root);
        let none = Map::new();
        let object = root.as_object().unwrap_or(&none);
        // A tool without a schema takes anything.
        if object.contains_key("properties") || object.get("additionalProperties") == Some(&Value::Bool(false)) {
            return self.object(object, 0);
        }
        self.any().map(|any| format!("{any}_object"))
    }

    fn rule(&mut self, body: &str) -> Result<String, String> {
        self.count += 1;
        if self.count > RULES_MAX {
            return Err("a schema of a tool has too many parts to be held to".into());
        }
        let name = format!("{}_{}", self.name, self.count);
        let _ = writeln!(self.rules, "{name}: {body}");
        Ok(name)
    }

    /// Any value at all.
    fn any(&mut self) -> Result<String, String> {
        let quote = literal(QUOTE);
        self.count += 1;
        let name = format!("{}_{}", self.name, self.count);
        let _ = writeln!(
            self.rules,
            "{name}: {name}_text | {name}_object | {name}_list | {name}_plain\n\
             {name}_text: {quote} {name}_said\n{name}_said[suffix={quote}]: /(?s:.*)/\n\
             {name}_plain: %json {}\n\
             {name}_key: /[A-Za-z_][A-Za-z0-9_]{{0,40}}/ \":\"\n\
             {name}_object: \"{{\" ({name}_key {name} (\",\" {name}_key {name})*)? \"}}\"\n\
             {name}_list: \"[\" ({name} (\",\" {name})*)? \"]\"",
            json!({"type": ["number", "boolean", "null"]}),
        );
        Ok(name)
    }

    fn value(&mut self, schema: &Value, depth: usize) -> Result<String, String> {
        let schema = resolve(schema, self.root);
        let Some(map) = schema.as_object().filter(|_| depth < DEPTH_MAX) else { return self.any() };
        let constant = map.get("const").map(std::slice::from_ref);
        let choices = constant.or(map.get("enum").and_then(Value::as_array).map(Vec::as_slice));
        if let Some(choices) = choices.filter(|choices| !choices.is_empty()) {
            let choices: Vec<String> = choices.iter().map(|choice| literal(&written(choice))).collect();
            return self.rule(&choices.join(" | "));
        }
        let parts = ["anyOf", "oneOf"].iter().filter_map(|key| map.get(*key).and_then(Value::as_array)).flatten();
        let parts = parts.map(|part| self.value(part, depth + 1)).collect::<Result<Vec<_>, _>>()?;
        if !parts.is_empty() {
            return self.rule(&parts.join(" | "));
        }
        let kinds: Vec<&str> = match map.get("type") {
            Some(Value::String(kind)) => vec![kind],
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
            _ if map.contains_key("properties") => vec!["object"],
            _ => return self.any(),
        };
        let rules = kinds.into_iter().map(|kind| self.kind(kind, map, depth)).collect::<Result<Vec<_>, _>>()?;
        if rules.is_empty() { self.any() } else { self.rule(&rules.join(" | ")) }
    }

    fn kind(&mut self, kind: &str, schema: &Map<String, Value>, depth: usize) -> Result<String, String> {
        match kind {
            "string" => self.text(schema),
            "object" if schema.contains_key("properties") => self.object(schema, depth),
            "object" => self.any().map(|any| format!("{any}_object")),
            "array" => self.list(schema, depth),
            _ => {
                let limits = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];
                let mut plain = Map::from_iter([("type".to_owned(), kind.into())]);
                let given = limits.iter().filter_map(|key| Some(((*key).to_owned(), schema.get(*key)?.clone())));
                plain.extend(given);
                self.rule(&format!("%json {}", Value::Object(plain)))
            }
        }
    }

    fn text(&mut self, schema: &Map<String, Value>) -> Result<String, String> {
        let quote = literal(QUOTE);
        let limit = |key: &str| schema.get(key).and_then(Value::as_u64);
        if let Some(most) = limit("maxLength") {
            // A text of bounded length holds no `<`, so that it is certain where it ends.
            let least = limit("minLength").unwrap_or(0).min(most);
            return self.rule(&format!("{quote} /[^<]{{{least},{most}}}/ {quote}"));
        }
        self.count += 1;
        let said = format!("{}_{}", self.name, self.count);
        let _ = writeln!(self.rules, "{said}[suffix={quote}]: /(?s:.*)/");
        self.rule(&format!("{quote} {said}"))
    }

    fn list(&mut self, schema: &Map<String, Value>, depth: usize) -> Result<String, String> {
        let item = self.value(schema.get("items").unwrap_or(&Value::Bool(true)), depth + 1)?;
        let limit = |key: &str| schema.get(key).and_then(Value::as_u64);
        let least = limit("minItems").unwrap_or(0);
        let further = match limit("maxItems") {
            Some(0) => return self.rule("\"[]\""),
            Some(most) => format!("{{{},{}}}", least.max(1) - 1, most - 1),
            None => format!("{{{},}}", least.max(1) - 1),
        };
        let optional = if least == 0 { "?" } else { "" };
        self.rule(&format!("\"[\" ({item} (\",\" {item}){further}){optional} \"]\""))
    }

    /// An object with its keys in the order in which Gemma's template writes them.
    fn object(&mut self, schema: &Map<String, Value>, depth: usize) -> Result<String, String> {
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        let required: Vec<&str> = required.filter_map(Value::as_str).collect();
        let sorted: BTreeMap<(String, &str), &Value> = schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(key, value)| ((key.to_lowercase(), key.as_str()), value))
            .collect();
        let mut entries = Vec::with_capacity(sorted.len());
        for ((_, key), property) in sorted {
            if key.is_empty() || key.contains(|c: char| c.is_whitespace() || ":,{}[]<>\"".contains(c)) {
                return Err(format!("an argument with the name {key:?} cannot be held to a form: rename it"));
            }
            let value = self.value(property, depth + 1)?;
            let entry = self.rule(&format!("{} {value}", literal(&format!("{key}:"))))?;
            entries.push((entry, required.contains(&key)));
        }
        // Which one comes first: any up to the first that must be there. Those behind it come with a comma.
        let first_required = entries.iter().position(|(_, required)| *required);
        let firsts = first_required.map_or(entries.len(), |first| first + 1);
        let mut ways = Vec::new();
        for first in 0..firsts {
            let mut way = entries[first].0.clone();
            for (entry, required) in &entries[first + 1..] {
                let _ = write!(way, " (\",\" {entry}){}", if *required { "" } else { "?" });
            }
            ways.push(way);
        }
        if ways.is_empty() {
            return self.rule("\"{}\"");
        }
        let optional = if first_required.is_none() { "?" } else { "" };
        self.rule(&format!("\"{{\" ({}){optional} \"}}\"", ways.join(" | ")))
    }
}

/// A value as Gemma writes it.
fn written(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{QUOTE}{text}{QUOTE}"),
        Value::Array(items) => format!("[{}]", items.iter().map(written).collect::<Vec<_>>().join(",")),
        Value::Object(map) => {
            let entries: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", written(value))).collect();
            format!("{{{}}}", entries.join(","))
        }
        other => other.to_string(),
    }
}
