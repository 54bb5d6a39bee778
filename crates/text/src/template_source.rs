//! Finding a model's chat template, and the one rewrite it needs before it compiles.

use crate::{TextError, files};
use serde_json::{Map, Value};
use std::path::Path;

/// A template's text and where it came from.
pub(crate) struct Source {
    /// For error messages.
    pub file: String,
    pub default: String,
    /// The template for conversations with tools, if it is another one.
    pub tool_use: Option<String>,
}

/// The chat template of the model directory, in the order in which transformers looks: `chat_template.jinja`,
/// `chat_template.json`, `chat_template` in `tokenizer_config.json` (given, as it is read for other keys too).
pub(crate) fn find(dir: &Path, config: &Map<String, Value>) -> Result<Option<Source>, TextError> {
    let path = dir.join("chat_template.jinja");
    if let Some(bytes) = files::read_optional(&path)? {
        let tool_use = dir.join("additional_chat_templates").join("tool_use.jinja");
        let tool_use = files::read_optional(&tool_use)?.map(|bytes| utf8(&tool_use, bytes)).transpose()?;
        return Ok(Some(Source { file: path.display().to_string(), default: utf8(&path, bytes)?, tool_use }));
    }
    let path = dir.join("chat_template.json");
    if let Some(json) = files::json_optional(&path)? {
        let file = path.display().to_string();
        return match json.get("chat_template") {
            Some(template) => from_json(file, template).map(Some),
            None => Err(TextError::invalid(&file, "has no key chat_template")),
        };
    }
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(template) => from_json(dir.join("tokenizer_config.json").display().to_string(), template).map(Some),
    }
}

fn utf8(path: &Path, bytes: Vec<u8>) -> Result<String, TextError> {
    String::from_utf8(bytes).map_err(|_| TextError::invalid(&path.display().to_string(), "is not UTF-8"))
}

/// A template in JSON: a string, or a list of objects with `name` and `template`.
fn from_json(file: String, template: &Value) -> Result<Source, TextError> {
    if let Some(text) = template.as_str() {
        return Ok(Source { file, default: text.to_owned(), tool_use: None });
    }
    let named = |name: &str| {
        let list = template.as_array()?.iter();
        list.filter(|one| one.get("name").and_then(Value::as_str) == Some(name))
            .find_map(|one| one.get("template")?.as_str().map(str::to_owned))
    };
    match named("default") {
        Some(default) => Ok(Source { file, default, tool_use: named("tool_use") }),
        None => {
            Err(TextError::invalid(&file, "chat_template is neither a text nor a list with a template named default"))
        }
    }
}

/// Makes `{% generation %}`, a tag of transformers that marks the model's own words, a plain scope, and line ends
/// `\n`, as Jinja does when it reads a template. Line numbers stay.
pub(crate) fn prepare(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(at) = rest.find('{') {
        let (text, tag) = rest.split_at(at);
        out.push_str(text);
        let len = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map_or(tag.len(), |end| end + 2),
            Some(b'{') => tag_len(tag, "}}"),
            Some(b'%') => tag_len(tag, "%}"),
            _ => 1,
        };
        let (tag, after) = tag.split_at(len);
        rest = after;
        match tag.strip_prefix("{%").and_then(|tag| tag.strip_suffix("%}")).map(name_of) {
            Some("generation") => out.push_str(&tag.replacen("generation", "with", 1)),
            Some("endgeneration") => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            Some("raw") => {
                let (raw, after) = rest.split_at(raw_len(rest));
                out.push_str(tag);
                out.push_str(raw);
                rest = after;
            }
            _ => out.push_str(tag),
        }
    }
    out.push_str(rest);
    out
}

/// What a tag says, without the marks of white-space control.
fn name_of(tag: &str) -> &str {
    tag.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim()
}

/// Length of the tag at the beginning of `text`, up to and with `end`; strings inside may contain `end`.
fn tag_len(text: &str, end: &str) -> usize {
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in text.char_indices().skip(2) {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, _) if text[at..].starts_with(end) => return at + end.len(),
            (None, _) => {}
        }
    }
    text.len()
}

/// Length of the text up to `{% endraw %}`.
fn raw_len(text: &str) -> usize {
    let mut from = 0;
    while let Some(at) = text[from..].find("{%") {
        let tag = &text[from + at + 2..];
        if tag.find("%}").is_some_and(|end| name_of(&tag[..end]) == "endraw") {
            return from + at;
        }
        from += at + 2;
    }
    text.len()
}
