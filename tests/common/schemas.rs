//! Schemas of values that cannot be long, for answers that are held to them.

use serde_json::{Value, json};

/// More than a hundred, from a few parts put together.
pub fn bounded() -> Vec<Value> {
    let parts = [
        json!({"type": "boolean"}),
        json!({"type": "null"}),
        json!({"type": "integer", "minimum": -5, "maximum": 120}),
        json!({"type": "string", "maxLength": 12}),
        json!({"type": "string", "pattern": "^[a-z]{2,6}-[0-9]{2}$"}),
        json!({"enum": ["red", "green", 7, null]}),
        json!({"const": {"kind": "fixed"}}),
        json!({"type": "string", "format": "date"}),
        json!({"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "string", "maxLength": 4}]}),
        json!({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4}),
        json!({"type": ["string", "null"], "minLength": 2, "maxLength": 6}),
    ];
    let mut schemas = parts.to_vec();
    for (i, a) in parts.iter().enumerate() {
        schemas.push(json!({"type": "array", "items": a, "minItems": 1, "maxItems": 3}));
        for (k, b) in parts.iter().enumerate().skip(i) {
            schemas.push(json!({
                "type": "object", "additionalProperties": false,
                "properties": {"a": a, "b": b, "c": {"$ref": "#/$defs/leaf"}},
                "required": if k % 2 == 0 { json!(["a", "b"]) } else { json!(["a"]) },
                "$defs": {"leaf": {"type": "object", "additionalProperties": false, "properties": {"n": a}, "required": ["n"]}},
            }));
            if (i + k) % 3 == 0 {
                schemas.push(json!({
                    "type": "object", "additionalProperties": false, "required": ["list"],
                    "properties": {"list": {"type": "array", "maxItems": 2, "items": {
                        "type": "object", "additionalProperties": false, "properties": {"x": a, "y": b}, "required": ["x", "y"],
                    }}},
                }));
            }
        }
    }
    schemas
}
