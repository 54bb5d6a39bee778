//! Whether a JSON value fits a JSON Schema, as far as the schemas of tools go.
//!
//! Checked are `type`, `enum`, `const`, `properties`, `required`, `additionalProperties`, `items`, `minItems`,
//! `maxItems`, `minimum`, `maximum`, `minLength`, `maxLength`, `anyOf`, `oneOf`, `allOf` and `$ref` within the document
//! (JSON Schema 2020-12). Other keywords, such as `pattern` and `format`, allow everything.

use serde_json::{Map, Value};

/// References deeper than this allow everything: a schema may refer to itself.
const DEPTH_MAX: usize = 64;

/// Checks `value` against `schema`.
///
/// # Errors
/// The first thing that does not fit, with its place: `days: "three" is no integer`.
pub fn check_schema(schema: &Value, value: &Value) -> Result<(), String> {
    Checker { root: schema }.check(schema, value, "", 0)
}

/// The first `$ref` of a schema that leads to nothing in it: neither a place (`#/$defs/city`), nor an `$id` or an anchor that it
/// gives to a part of its own.
pub fn dangling_reference(schema: &Value) -> Option<&str> {
    let mut references = Vec::new();
    let mut names = Vec::new();
    collect(schema, &mut references, &mut names);
    let found = |to: &str| match to.strip_prefix('#') {
        // Such a pointer is read by the rules of addresses, which are not looked at here.
        Some(place) if place.is_empty() || place.starts_with('/') => {
            place.contains('%') || schema.pointer(place).is_some()
        }
        Some(anchor) => names.contains(&anchor),
        None => names.iter().any(|name| to.split('#').next().is_some_and(|id| name.ends_with(id))),
    };
    references.into_iter().find(|to| !found(to))
}

/// All references of a schema, and the names that its parts are given.
fn collect<'a>(schema: &'a Value, references: &mut Vec<&'a str>, names: &mut Vec<&'a str>) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), value) {
                    ("$ref", Value::String(to)) => references.push(to),
                    ("$id" | "$anchor" | "$dynamicAnchor", Value::String(name)) => names.push(name),
                    // These hold values, and no schemas.
                    ("const" | "enum" | "default" | "examples", _) => {}
                    _ => collect(value, references, names),
                }
            }
        }
        Value::Array(parts) => parts.iter().for_each(|part| collect(part, references, names)),
        _ => {}
    }
}

/// Whether two values are the same: numbers by value (2 is 2.0), objects whatever the order of their keys.
pub fn same_json(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same_json(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(key, x)| y.get(key).is_some_and(|y| same_json(x, y)))
        }
        _ => a == b,
    }
}

/// Whether a value is of a type as JSON Schema names it. 2.0 is an integer too.
pub(crate) fn is_of_type(name: &str, value: &Value) -> bool {
    match name {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        _ => true,
    }
}

/// The types that a schema allows; none where it names none.
pub(crate) fn types(schema: &Map<String, Value>) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

struct Checker<'a> {
    /// What references start from.
    root: &'a Value,
}

impl Checker<'_> {
    fn check(&self, schema: &Value, value: &Value, place: &str, depth: usize) -> Result<(), String> {
        let schema = match schema {
            Value::Bool(false) => return Err(problem(place, "is not allowed")),
            Value::Object(schema) if depth < DEPTH_MAX => schema,
            _ => return Ok(()),
        };
        if let Some(target) =
            schema.get("$ref").and_then(Value::as_str).and_then(|to| self.root.pointer(to.strip_prefix('#')?))
        {
            self.check(target, value, place, depth + 1)?;
        }
        check_plain(schema, value, place)?;
        self.check_combined(schema, value, place, depth)?;
        match value {
            Value::Object(object) => self.check_object(schema, object, place, depth),
            Value::Array(items) => self.check_array(schema, items, place, depth),
            _ => Ok(()),
        }
    }

    fn check_combined(
        &self,
        schema: &Map<String, Value>,
        value: &Value,
        place: &str,
        depth: usize,
    ) -> Result<(), String> {
        let of = |key: &str| schema.get(key).and_then(Value::as_array);
        for part in of("allOf").into_iter().flatten() {
            self.check(part, value, place, depth + 1)?;
        }
        let fitting =
            |parts: &Vec<Value>| parts.iter().filter(|part| self.check(part, value, place, depth + 1).is_ok()).count();
        if of("anyOf").is_some_and(|parts| fitting(parts) == 0) {
            return Err(problem(place, &format!("{value} fits none of anyOf")));
        }
        match of("oneOf").map(fitting) {
            None | Some(1) => Ok(()),
            Some(n) => Err(problem(place, &format!("{value} fits {n} of oneOf"))),
        }
    }

    fn check_object(
        &self,
        schema: &Map<String, Value>,
        object: &Map<String, Value>,
        place: &str,
        depth: usize,
    ) -> Result<(), String> {
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        for key in required {
            if !object.contains_key(key) {
                return Err(problem(&inside(place, key), "is missing"));
            }
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        for (key, value) in object {
            let place = inside(place, key);
            let known = properties.and_then(|properties| properties.get(key));
            if let Some(schema) = known.or(schema.get("additionalProperties")) {
                self.check(schema, value, &place, depth + 1)?;
            }
        }
        Ok(())
    }

    fn check_array(
        &self,
        schema: &Map<String, Value>,
        items: &[Value],
        place: &str,
        depth: usize,
    ) -> Result<(), String> {
        within(schema, ["minItems", "maxItems"], items.len() as f64, place, " items")?;
        let Some(schema) = schema.get("items") else { return Ok(()) };
        items.iter().enumerate().try_for_each(|(i, item)| self.check(schema, item, &format!("{place}[{i}]"), depth + 1))
    }
}

/// The keywords that look at a value as a whole.
fn check_plain(schema: &Map<String, Value>, value: &Value, place: &str) -> Result<(), String> {
    let allowed = types(schema);
    if !allowed.is_empty() && !allowed.iter().any(|name| is_of_type(name, value)) {
        let article = if allowed[0].starts_with(['i', 'a', 'o']) { "an" } else { "a" };
        return Err(problem(place, &format!("{value} is not {article} {}", allowed.join(" or "))));
    }
    if let Some(choices) = schema.get("enum").and_then(Value::as_array)
        && !choices.iter().any(|choice| same_json(choice, value))
    {
        return Err(problem(place, &format!("{value} is none of {}", Value::from(choices.clone()))));
    }
    if let Some(constant) = schema.get("const").filter(|constant| !same_json(constant, value)) {
        return Err(problem(place, &format!("{value} is not {constant}")));
    }
    match value {
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            within(schema, ["minimum", "maximum"], number, place, "")
        }
        Value::String(text) => {
            within(schema, ["minLength", "maxLength"], text.chars().count() as f64, place, " characters")
        }
        _ => Ok(()),
    }
}

fn within(
    schema: &Map<String, Value>,
    [low, high]: [&str; 2],
    number: f64,
    place: &str,
    what: &str,
) -> Result<(), String> {
    let limit = |key| schema.get(key).and_then(Value::as_f64);
    if let Some(low) = limit(low).filter(|&low| number < low) {
        return Err(problem(place, &format!("{number}{what} is below the least, {low}")));
    }
    match limit(high).filter(|&high| number > high) {
        Some(high) => Err(problem(place, &format!("{number}{what} is above the most, {high}"))),
        None => Ok(()),
    }
}

fn inside(place: &str, key: &str) -> String {
    if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") }
}

fn problem(place: &str, what: &str) -> String {
    if place.is_empty() { what.to_owned() } else { format!("{place}: {what}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_that_lead_nowhere_are_found() {
        let city = json!({"$defs": {"city": {"type": "string"}, "a/b": {}}, "properties": {
            "to": {"$ref": "#/$defs/city"}, "from": {"items": [{"$ref": "#/$defs/a~1b"}]}, "all": {"$ref": "#"},
        }});
        assert_eq!(dangling_reference(&city), None);
        for to in ["#/$defs/town", "#town", "https://example.com/town.json", "town.json#/a"] {
            let mut wrong = city.clone();
            wrong["properties"]["to"]["$ref"] = to.into();
            assert_eq!(dangling_reference(&wrong), Some(to));
            // What is said of values refers to nothing.
            assert_eq!(dangling_reference(&json!({"enum": [{"$ref": to}], "default": {"$ref": to}})), None);
        }
        let named = json!({"$defs": {"a": {"$id": "https://example.com/town.json", "$anchor": "town"}}, "anyOf": [
            {"$ref": "#town"}, {"$ref": "https://example.com/town.json#/x"}, {"$ref": "town.json"},
        ]});
        assert_eq!(dangling_reference(&named), None);
        // An argument may have that name.
        assert_eq!(dangling_reference(&json!({"properties": {"$ref": {"type": "string"}}})), None);
        assert_eq!(dangling_reference(&Value::Null), None);
    }
}
