//! Chat templates: a conversation to the text its model was trained on, byte for byte as `apply_chat_template` of
//! transformers.

use crate::error::one_line;
use crate::template_env::{Refusal, environment, strftime_now};
use crate::{TextError, files, template_source, tool_responses};
use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error, ErrorKind};
use serde_json::{Map, Value as Json};
use std::io::{self, Write};
use std::path::Path;

/// A conversation to be rendered.
#[derive(Debug, Clone, Default)]
pub struct ChatRequest {
    /// Objects with `role`, `content` and whatever else the template reads, oldest first.
    pub messages: Vec<Json>,
    /// JSON schemas of the functions that can be called. `Some` of an empty list is not `None` to a template.
    pub tools: Option<Vec<Json>>,
    /// Ends with the beginning of an answer.
    pub add_generation_prompt: bool,
    /// Further variables of the template, such as `enable_thinking`.
    pub kwargs: Map<String, Json>,
    /// The time that `strftime_now` shows, in seconds since 1970; the system's clock, as UTC, where `None`. A caller
    /// that knows its time zone adds the offset, as transformers shows local time.
    pub now_s: Option<i64>,
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    file: String,
    source: String,
    environment: Environment<'static>,
    has_tool_use: bool,
    /// `bos_token`, `eos_token` and the like, as variables.
    special_tokens: Map<String, Json>,
}

const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";
/// Variables that a request sets by its own fields.
const RESERVED: [&str; 3] = ["messages", "tools", "add_generation_prompt"];
/// Keys of `tokenizer_config.json` that transformers passes on to templates.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Names under which clients send what the model thought, the usual one first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

impl ChatTemplate {
    /// A rendered conversation may have this many bytes.
    pub const OUTPUT_BYTES_MAX: usize = 64 << 20;
    /// Work that one rendering may do: template instructions, and 64-byte units of text made on the way.
    pub const FUEL_MAX: u64 = 10_000_000;

    /// The template of the model directory `dir`, `None` if it has none: `chat_template.jinja`, else
    /// `chat_template.json`, else `chat_template` in `tokenizer_config.json`.
    ///
    /// # Errors
    /// A broken file, or a template that does not compile.
    pub fn load(dir: &Path) -> Result<Option<ChatTemplate>, TextError> {
        let mut config = Map::new();
        for name in ["special_tokens_map.json", "tokenizer_config.json"] {
            if let Some(Json::Object(map)) = files::json_optional(&dir.join(name))? {
                config.extend(map);
            }
        }
        let Some(source) = template_source::find(dir, &config)? else { return Ok(None) };
        ChatTemplate::compile(source.file, source.default, source.tool_use, special_tokens(&config)).map(Some)
    }

    /// Templates that a file holds: that of every conversation, and one for those with tools where there is one. `config` is
    /// what a `tokenizer_config.json` would say of special tokens.
    ///
    /// # Errors
    /// [`TextError::TemplateSyntax`].
    pub fn of_file(
        file: &str,
        default: &str,
        tool_use: Option<&str>,
        config: &Map<String, Json>,
    ) -> Result<ChatTemplate, TextError> {
        let tool_use = tool_use.map(str::to_owned);
        ChatTemplate::compile(file.to_owned(), default.to_owned(), tool_use, special_tokens(config))
    }

    /// A template given as text. `config` is a `tokenizer_config.json`, read for its special tokens.
    ///
    /// # Errors
    /// [`TextError::TemplateSyntax`], naming the file `chat template`.
    pub fn from_source(source: &str, config: &Map<String, Json>) -> Result<ChatTemplate, TextError> {
        ChatTemplate::compile("chat template".to_owned(), source.to_owned(), None, special_tokens(config))
    }

    fn compile(
        file: String,
        source: String,
        tool_use: Option<String>,
        special_tokens: Map<String, Json>,
    ) -> Result<ChatTemplate, TextError> {
        let mut environment = environment(Self::FUEL_MAX).map_err(|error| syntax_error(&file, &error))?;
        let has_tool_use = tool_use.is_some();
        for (name, text) in [(DEFAULT, Some(&source)), (TOOL_USE, tool_use.as_ref())] {
            if let Some(text) = text {
                let text = template_source::prepare(text);
                environment.add_template_owned(name, text).map_err(|error| syntax_error(&file, &error))?;
            }
        }
        Ok(ChatTemplate { file, source, environment, has_tool_use, special_tokens })
    }

    /// The template's text, by which a dialect of tool calls can be told.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt for `request`.
    ///
    /// # Errors
    /// [`TextError::TemplateRefused`] if the template says no, [`TextError::TemplateRender`] if it fails or goes past
    /// [`ChatTemplate::FUEL_MAX`] or [`ChatTemplate::OUTPUT_BYTES_MAX`].
    pub fn render(&self, request: &ChatRequest) -> Result<String, TextError> {
        if let Some(key) = RESERVED.iter().find(|key| request.kwargs.contains_key(**key)) {
            return Err(self.failure(0, format!("the extra variable {key:?} is taken by the conversation itself")));
        }
        if request.messages.is_empty() {
            return Err(self.failure(0, "the conversation has no messages"));
        }
        let name = if self.has_tool_use && request.tools.is_some() { TOOL_USE } else { DEFAULT };
        let template = self.environment.get_template(name).map_err(|error| self.render_error(&error))?;
        let mut out = Limited { bytes: Vec::new(), bytes_max: Self::OUTPUT_BYTES_MAX };
        template.render_captured_to(self.context(request), &mut out).map_err(|error| self.render_error(&error))?;
        String::from_utf8(out.bytes).map_err(|_| self.failure(0, "its output is not UTF-8"))
    }

    fn context(&self, request: &ChatRequest) -> Value {
        let mut context = self.special_tokens.clone();
        context.insert("documents".to_owned(), Json::Null);
        context.extend(request.kwargs.clone());
        let mut messages: Vec<Json> = request.messages.iter().map(with_reasoning).collect();
        if tool_responses::wanted(&self.source) {
            messages = tool_responses::joined(&messages);
        }
        context.insert("messages".to_owned(), messages.into());
        context.insert("tools".to_owned(), request.tools.clone().map_or(Json::Null, Json::Array));
        context.insert("add_generation_prompt".to_owned(), request.add_generation_prompt.into());
        let clock = [("strftime_now".to_owned(), strftime_now(request.now_s))];
        let context = clock.into_iter().chain(context.into_iter().map(|(key, value)| (key, Value::from(Serde(value)))));
        Value::from_pairs(context)
    }

    fn failure(&self, line: usize, what: impl Into<String>) -> TextError {
        TextError::TemplateRender { file: self.file.clone(), line, what: what.into() }
    }

    fn render_error(&self, error: &Error) -> TextError {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(one) = cause {
            if let Some(refusal) = one.downcast_ref::<Refusal>() {
                return TextError::TemplateRefused { file: self.file.clone(), message: one_line(&refusal.0) };
            }
            cause = one.source();
        }
        let line = error.line().unwrap_or(0);
        match error.kind() {
            ErrorKind::OutOfFuel => self.failure(line, "the template does not come to an end, or makes too much text"),
            ErrorKind::WriteFailure => {
                self.failure(line, format!("the prompt is longer than {} bytes", Self::OUTPUT_BYTES_MAX))
            }
            _ => self.failure(line, describe(error)),
        }
    }
}

fn syntax_error(file: &str, error: &Error) -> TextError {
    TextError::TemplateSyntax { file: file.to_owned(), line: error.line().unwrap_or(0), what: describe(error) }
}

fn describe(error: &Error) -> String {
    match error.detail() {
        Some(detail) => one_line(&format!("{}: {detail}", error.kind())),
        None => error.kind().to_string(),
    }
}

/// The tokens of `tokenizer_config.json` that are variables of a template, as texts.
fn special_tokens(config: &Map<String, Json>) -> Map<String, Json> {
    let extra = config.get("extra_special_tokens").and_then(Json::as_object).into_iter().flatten();
    let named = SPECIAL_TOKENS.iter().filter_map(|&key| config.get_key_value(key));
    named.chain(extra).filter_map(|(key, value)| Some((key.clone(), files::token_text(value)?.into()))).collect()
}

/// What the model thought, under the name that most templates read and under the one that gpt-oss reads.
fn with_reasoning(message: &Json) -> Json {
    let Json::Object(fields) = message else { return message.clone() };
    let given = REASONING.iter().filter_map(|key| fields.get(*key)).find(|thought| !thought.is_null());
    let Some(thought) = given.cloned() else { return message.clone() };
    let mut out = Map::new();
    out.insert("thinking".to_owned(), thought.clone());
    out.extend(fields.clone());
    out.insert("reasoning_content".to_owned(), thought);
    Json::Object(out)
}

/// Collects what is written and fails past a limit.
struct Limited {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.bytes_max {
            return Err(io::Error::other("output limit"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
