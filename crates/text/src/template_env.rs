//! The Jinja environment of chat templates: what transformers adds to Jinja, and what MiniJinja does otherwise.

use crate::python::{self, INDENT_MAX, JsonStyle};
use crate::strftime::strftime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Tuple, Value, ValueKind, from_args};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior};
use minijinja_contrib::pycompat;
use std::time::SystemTime;

/// The message of `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(pub String);

/// An environment without templates that stops after `fuel` units of work.
pub(crate) fn environment(fuel: u64) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_debug(false);
    env.set_fuel(Some(fuel));
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_formatter(|out, _, value| match value.as_str() {
        Some(text) => out.write_str(text).map_err(Error::from),
        None => out.write_str(&python::str(value)?).map_err(Error::from),
    });
    env.set_unknown_method_callback(method);
    env.add_filter("tojson", tojson);
    env.add_filter("string", |value: &Value| python::str(value));
    env.add_filter("join", join);
    env.add_filter("default", default);
    env.add_filter("d", default);
    env.add_filter("wordcount", |text: &str| text.split_whitespace().count());
    env.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined)
    });
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    env.add_function("raise_exception", raise_exception);
    Ok(env)
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = python::str(message)?;
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Refusal(message)))
}

/// The function `strftime_now` at `now_s` seconds since 1970, or at the system's time of the call. It goes into each
/// rendering's own variables.
pub(crate) fn strftime_now(now_s: Option<i64>) -> Value {
    Value::from_function(move |format: &str| {
        let system = || {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            since.map_or(0, |since| since.as_secs() as i64)
        };
        strftime(now_s.unwrap_or_else(system), format)
            .map_err(|c| Error::new(ErrorKind::InvalidOperation, format!("strftime_now does not know %{c}")))
    })
}

/// `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`, as transformers defines it.
fn tojson(value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let mut positional = positional.0.into_iter();
    let mut option = |key: &str| -> Result<Option<Value>, Error> {
        let value = match positional.next() {
            Some(value) => Some(value),
            None => named.get::<Option<Value>>(key)?,
        };
        Ok(value.filter(|value| !value.is_none()))
    };
    let ascii = option("ensure_ascii")?.is_some_and(|value| value.is_true());
    let indent = option("indent")?.map(indent_text).transpose()?;
    let separators = option("separators")?
        .map(|pair| -> Result<(Value, Value), Error> { Ok((pair.get_item_by_index(0)?, pair.get_item_by_index(1)?)) });
    let sort_keys = option("sort_keys")?.is_some_and(|value| value.is_true());
    named.assert_all_used()?;
    let (between_items, after_key) = match separators.transpose()? {
        Some((items, key)) => (python::str(&items)?, python::str(&key)?),
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    python::json(value, &JsonStyle { ascii, sort_keys, indent, between_items, after_key })
}

fn indent_text(indent: Value) -> Result<String, Error> {
    let text = match indent.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(indent.as_i64().and_then(|n| usize::try_from(n.clamp(0, 1 << 20)).ok()).unwrap_or(0)),
    };
    if text.len() > INDENT_MAX {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson indents by at most {INDENT_MAX}")));
    }
    Ok(text)
}

/// `default(default_value='', boolean=false)`, whose arguments may be named.
fn default(value: &Value, other: Option<Value>, boolean: Option<bool>, named: Kwargs) -> Result<Value, Error> {
    let other = other.map_or_else(|| named.get::<Option<Value>>("default_value"), |other| Ok(Some(other)))?;
    let boolean = boolean.map_or_else(|| named.get::<Option<bool>>("boolean"), |boolean| Ok(Some(boolean)))?;
    named.assert_all_used()?;
    let missing = value.is_undefined() || (boolean == Some(true) && !value.is_true());
    Ok(if missing { other.unwrap_or_else(|| Value::from("")) } else { value.clone() })
}

fn join(items: &Value, separator: Option<&str>, named: Kwargs) -> Result<String, Error> {
    let attribute: Option<&str> = named.get("attribute")?;
    named.assert_all_used()?;
    let mut out = String::new();
    for (i, item) in items.try_iter()?.enumerate() {
        out.push_str(if i == 0 { "" } else { separator.unwrap_or_default() });
        match attribute {
            Some(key) => python::str_into(&mut out, &item.get_attr(key)?)?,
            None => python::str_into(&mut out, &item)?,
        }
    }
    Ok(out)
}

/// Python's methods: those below, else what MiniJinja's own collection has.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && let Some(result) = string_method(text, name, args)?
    {
        return Ok(result);
    }
    pycompat::unknown_method_callback(state, value, name, args)
}

/// Methods of `str` that the collection lacks, or counts in bytes where Python counts characters.
fn string_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let one = || from_args::<(&str,)>(args).map(|(text,)| text);
    let chars = |at: usize| text[..at].chars().count() as i64;
    let parts = |(a, b, c): (&str, &str, &str)| Value::from(Tuple::from([a, b, c].map(Value::from).to_vec()));
    Ok(Some(match name {
        "find" => Value::from(text.find(one()?).map_or(-1, chars)),
        "rfind" => Value::from(text.rfind(one()?).map_or(-1, chars)),
        "index" => match text.find(one()?) {
            Some(at) => Value::from(chars(at)),
            None => return Err(Error::new(ErrorKind::InvalidOperation, "substring not found")),
        },
        "removeprefix" => Value::from(text.strip_prefix(one()?).unwrap_or(text)),
        "removesuffix" => Value::from(text.strip_suffix(one()?).unwrap_or(text)),
        "partition" => {
            let by = one()?;
            parts(text.split_once(by).map_or((text, "", ""), |(a, b)| (a, by, b)))
        }
        "rpartition" => {
            let by = one()?;
            parts(text.rsplit_once(by).map_or(("", "", text), |(a, b)| (a, by, b)))
        }
        "rsplit" => {
            let (by, max): (Option<&str>, Option<i64>) = from_args(args)?;
            rsplit(text, by, max)?
        }
        "title" => Value::from(title(text)),
        "casefold" => Value::from(text.to_lowercase()),
        "swapcase" => Value::from(text.chars().map(swap_case).collect::<String>()),
        "ljust" | "rjust" | "zfill" => pad(text, name, args)?,
        _ => return Ok(None),
    }))
}

fn swap_case(c: char) -> String {
    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
}

/// A capital after everything that is not a letter, as `str.title` does; the filter of that name differs.
fn title(text: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if std::mem::replace(&mut inside, c.is_alphabetic()) {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
    }
    out
}

fn rsplit(text: &str, by: Option<&str>, max: Option<i64>) -> Result<Value, Error> {
    let limit = max.and_then(|max| usize::try_from(max).ok()).map_or(usize::MAX, |max| max.saturating_add(1));
    let mut parts: Vec<&str> = match by {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(by) => text.rsplitn(limit, by).collect(),
        None if limit == usize::MAX => text.split_whitespace().rev().collect(),
        None => return Err(Error::new(ErrorKind::InvalidOperation, "rsplit with a limit needs a separator")),
    };
    parts.reverse();
    Ok(Value::from_iter(parts))
}

/// `ljust`, `rjust` and `zfill` to at most 10,000 characters.
fn pad(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (usize, Option<&str>) = from_args(args)?;
    if width > 10_000 {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("{name} to more than 10,000 characters")));
    }
    let fill =
        if name == "zfill" { "0" } else { fill.unwrap_or(" ") }.repeat(width.saturating_sub(text.chars().count()));
    let signed = if name == "zfill" { text.len() - text.trim_start_matches(['+', '-']).len() } else { 0 }.min(1);
    Ok(Value::from(match name {
        "ljust" => format!("{text}{fill}"),
        _ => format!("{}{fill}{}", &text[..signed], &text[signed..]),
    }))
}
