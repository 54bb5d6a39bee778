//! The fields of a request. Unknown ones are ignored; one of a wrong type is refused by its name.

use serde_json::{Map, Value};

use crate::error::ApiError;

/// The fields of an object in a request.
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// Where it stands in the request: `""` or such as `messages[3]`.
    place: String,
}

impl<'a> Fields<'a> {
    /// The fields of `value`, which stands at `place` of the request.
    pub(crate) fn of(value: &'a Value, place: &str) -> Result<Fields<'a>, ApiError> {
        match value {
            Value::Object(map) => Ok(Fields { map, place: place.to_owned() }),
            _ if place.is_empty() => Err(ApiError::bad("the body is no JSON object")),
            _ => Err(ApiError::field(place, "must be an object")),
        }
    }

    /// The full name of a field.
    pub(crate) fn name(&self, key: &str) -> String {
        if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) }
    }

    /// A field of any type; null is as if it were not there.
    pub(crate) fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn of_type<T>(&self, key: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, ApiError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| ApiError::field(&self.name(key), &format!("must be {what}")))
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, ApiError> {
        self.of_type(key, "a string", Value::as_str)
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, ApiError> {
        self.of_type(key, "true or false", Value::as_bool)
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, ApiError> {
        self.of_type(key, "a number", Value::as_f64)
    }

    /// A whole number from 0 on.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>, ApiError> {
        self.of_type(key, "a whole number, at least 0", |value| usize::try_from(value.as_u64()?).ok())
    }

    /// A whole number from 1 on.
    pub(crate) fn some_count(&self, key: &str) -> Result<Option<usize>, ApiError> {
        self.of_type(key, "a whole number, at least 1", |value| {
            usize::try_from(value.as_u64()?).ok().filter(|&count| count > 0)
        })
    }

    pub(crate) fn integer(&self, key: &str) -> Result<Option<i64>, ApiError> {
        self.of_type(key, "a whole number", Value::as_i64)
    }

    pub(crate) fn list(&self, key: &str) -> Result<Option<&'a [Value]>, ApiError> {
        self.of_type(key, "an array", |value| value.as_array().map(Vec::as_slice))
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>, ApiError> {
        self.of_type(key, "an object", Value::as_object)
    }

    /// A text, or several in an array.
    pub(crate) fn texts(&self, key: &str) -> Result<Vec<String>, ApiError> {
        let texts = self.of_type(key, "a string or an array of strings", |value| match value {
            Value::String(text) => Some(vec![text.clone()]),
            _ => texts_of(value),
        })?;
        Ok(texts.unwrap_or_default())
    }

    /// Texts in an array.
    pub(crate) fn list_of_texts(&self, key: &str) -> Result<Vec<String>, ApiError> {
        Ok(self.of_type(key, "an array of strings", texts_of)?.unwrap_or_default())
    }

    /// A field that must be there.
    pub(crate) fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, ApiError> {
        value.ok_or_else(|| ApiError::field(&self.name(key), "is missing"))
    }
}

fn texts_of(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn wrong_types_are_refused_by_name_and_unknown_fields_ignored() {
        let body =
            json!({"temperature": "hot", "max_tokens": -1, "stop": ["a", 1], "what": {}, "seed": null, "top_p": 0.5});
        let fields = Fields::of(&body, "").expect("an object");
        let refused = |error: ApiError| (error.status.as_u16(), error.param.unwrap_or_default());
        assert_eq!(fields.number("temperature").map_err(refused), Err((400, "temperature".into())));
        assert_eq!(fields.count("max_tokens").map_err(refused), Err((400, "max_tokens".into())));
        assert_eq!(fields.texts("stop").map_err(refused), Err((400, "stop".into())));
        assert_eq!(fields.integer("seed"), Ok(None));
        assert_eq!(fields.number("top_p"), Ok(Some(0.5)));
        let inner = Fields::of(&body["what"], "messages[3]").expect("an object");
        assert_eq!(inner.name("content"), "messages[3].content");
        assert!(Fields::of(&body["stop"], "x").is_err());
    }
}
