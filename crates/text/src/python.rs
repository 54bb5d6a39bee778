//! Values as Python prints them: `str`, `repr` and `json.dumps`.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};
use std::fmt::Write;

/// Deeper nesting is refused: the writers below call themselves.
const DEPTH_MAX: usize = 200;
/// `tojson(indent=…)` above this is refused.
pub(crate) const INDENT_MAX: usize = 64;

fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("a value is nested more than {DEPTH_MAX} deep"))
}

/// `str(value)`, appended to `out`; undefined gives nothing, as Jinja prints it.
pub(crate) fn str_into(out: &mut String, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::String => out.push_str(value.as_str().unwrap_or_default()),
        _ => repr_into(out, value, 0)?,
    }
    Ok(())
}

/// `str(value)`.
pub(crate) fn str(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    str_into(&mut out, value)?;
    Ok(out)
}

fn repr_into(out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(too_deep());
    }
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Number => number_into(out, value, ["nan", "inf", "-inf"]),
        ValueKind::String => repr_string(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let tuple = value.is_tuple();
            out.push(if tuple { '(' } else { '[' });
            let mut count = 0;
            for item in value.try_iter()? {
                out.push_str(if count == 0 { "" } else { ", " });
                repr_into(out, &item, depth + 1)?;
                count += 1;
            }
            out.push_str(if tuple && count == 1 {
                ",)"
            } else if tuple {
                ")"
            } else {
                "]"
            });
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                repr_into(out, &key, depth + 1)?;
                out.push_str(": ");
                repr_into(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push('}');
        }
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        _ => {
            let _ = write!(out, "{value}");
        }
    }
    Ok(())
}

/// An integer or float; `odd` are the names of not-a-number and the infinities.
fn number_into(out: &mut String, value: &Value, odd: [&str; 3]) {
    let _ = match f64::try_from(value.clone()) {
        Ok(number) if !value.is_integer() => match number {
            n if n.is_nan() => out.write_str(odd[0]),
            f64::INFINITY => out.write_str(odd[1]),
            f64::NEG_INFINITY => out.write_str(odd[2]),
            n => out.write_str(&float(n)),
        },
        _ => write!(out, "{value}"),
    };
}

/// `repr` of a finite float: Rust's shortest digits, with Python's way of writing exponents.
fn float(number: f64) -> String {
    let text = format!("{number:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
            format!("{digits}e{sign}{exponent:0>2}")
        }
    }
}

fn repr_string(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        let _ = match c {
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            '\\' => out.write_str("\\\\"),
            c if c == quote => write!(out, "\\{c}"),
            c if is_printable(c) => out.write_char(c),
            c if (c as u32) < 0x100 => write!(out, "\\x{:02x}", c as u32),
            c if (c as u32) < 0x1_0000 => write!(out, "\\u{:04x}", c as u32),
            c => write!(out, "\\U{:08x}", c as u32),
        };
    }
    out.push(quote);
}

/// Rust's own idea of what `{:?}` may print, which like Python's follows the general category. A letter goes first
/// because a combining character is escaped only at the beginning of a string.
fn is_printable(c: char) -> bool {
    let mut buffer = [b'a'; 5];
    let len = 1 + c.encode_utf8(&mut buffer[1..]).len();
    let escaped = std::str::from_utf8(&buffer[..len]).map(|text| text.escape_debug().skip(1).collect::<String>());
    !escaped.is_ok_and(|text| text.starts_with("\\u{") || text == "\\0")
}

/// How `json.dumps` lays out its text.
pub(crate) struct JsonStyle {
    pub ascii: bool,
    pub sort_keys: bool,
    /// What one level of nesting is indented with; `None` puts everything on one line.
    pub indent: Option<String>,
    pub between_items: String,
    pub after_key: String,
}

/// `json.dumps(value)` in the given style.
pub(crate) fn json(value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let mut out = String::new();
    json_into(&mut out, value, style, 0)?;
    Ok(out)
}

fn json_into(out: &mut String, value: &Value, style: &JsonStyle, depth: usize) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(too_deep());
    }
    if out.len() > crate::ChatTemplate::OUTPUT_BYTES_MAX {
        return Err(Error::new(ErrorKind::WriteFailure, "the JSON of a value is too long"));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => number_into(out, value, ["NaN", "Infinity", "-Infinity"]),
        ValueKind::String => json_string(out, value.as_str().unwrap_or_default(), style.ascii),
        ValueKind::Seq | ValueKind::Iterable => {
            let mut items = value.try_iter()?.peekable();
            if items.peek().is_none() {
                out.push_str("[]");
                return Ok(());
            }
            for (i, item) in items.enumerate() {
                out.push_str(if i == 0 { "[" } else { &style.between_items });
                new_line(out, style, depth + 1);
                json_into(out, &item, style, depth + 1)?;
            }
            new_line(out, style, depth);
            out.push(']');
        }
        ValueKind::Map => {
            let mut keys =
                value.try_iter()?.map(|key| Ok((json_key(&key)?, key))).collect::<Result<Vec<_>, Error>>()?;
            if keys.is_empty() {
                out.push_str("{}");
                return Ok(());
            }
            if style.sort_keys {
                keys.sort_by(|a, b| a.0.cmp(&b.0));
            }
            for (i, (name, key)) in keys.iter().enumerate() {
                out.push_str(if i == 0 { "{" } else { &style.between_items });
                new_line(out, style, depth + 1);
                json_string(out, name, style.ascii);
                out.push_str(&style.after_key);
                json_into(out, &value.get_item(key)?, style, depth + 1)?;
            }
            new_line(out, style, depth);
            out.push('}');
        }
        other => {
            let what = format!("a value of the kind {other} cannot be written as JSON");
            return Err(Error::new(ErrorKind::BadSerialization, what));
        }
    }
    Ok(())
}

fn new_line(out: &mut String, style: &JsonStyle, depth: usize) {
    if let Some(indent) = &style.indent {
        out.push('\n');
        out.extend(std::iter::repeat_n(indent.as_str(), depth));
    }
}

/// The text of a key: JSON has only strings there.
fn json_key(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number => {
            let mut out = String::new();
            number_into(&mut out, key, ["NaN", "Infinity", "-Infinity"]);
            Ok(out)
        }
        other => Err(Error::new(ErrorKind::BadSerialization, format!("a key of the kind {other} is not JSON"))),
    }
}

fn json_string(out: &mut String, text: &str, ascii: bool) {
    out.push('"');
    for c in text.chars() {
        let _ = match c {
            '"' => out.write_str("\\\""),
            '\\' => out.write_str("\\\\"),
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            '\u{8}' => out.write_str("\\b"),
            '\u{c}' => out.write_str("\\f"),
            c if c < ' ' => write!(out, "\\u{:04x}", c as u32),
            c if ascii && !c.is_ascii() => {
                c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))
            }
            c => out.write_char(c),
        };
    }
    out.push('"');
}
