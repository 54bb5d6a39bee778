//! Anthropic's messages: `POST /v1/messages` and `POST /v1/messages/count_tokens`.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::App;
use crate::chat::{Chat, Wishes, begin, normalise, without_noise};
use crate::collected::{Called, Collected};
use crate::error::{Api, ApiError, json_response};
use crate::fields::Fields;
use crate::forms::Form;
use crate::ids;
use crate::openai::read_format;
use crate::stream::{Broken, EVENTS, Gone, Out, streamed};
use crate::turn::{Said, Turn};
use crate::worker::{Done, Finish};

/// Answers a conversation.
pub(crate) async fn create(app: Arc<App>, body: Value) -> Result<Response<Body>, ApiError> {
    let fields = Fields::of(&body, "")?;
    let name = fields.text("model")?.unwrap_or(&app.model.name).to_owned();
    let tokens_max = fields.required("max_tokens", fields.some_count("max_tokens")?)?;
    let mut chat = read(&fields)?;
    let stops = fields.list_of_texts("stop_sequences")?;
    chat.wishes = Wishes { tokens_max: Some(tokens_max), stop: stops.clone(), ..Wishes::read(&fields, &app.model)? };
    let stream = fields.flag("stream")?.unwrap_or(false);
    let turn = begin(&app, chat).await?.name_calls("toolu_");
    let writer = Writer { id: ids::name("msg_"), name, stops, blocks: 0, open: None, calls: false };
    if stream {
        return streamed(EVENTS, turn, |turn, out| writer.write(turn, out)).await;
    }
    let whole = Collected::new(turn).await?;
    let content = content(&whole);
    let mut message = writer.message(content, input_usage(whole.done.prompt, whole.done.cached));
    count_output(&mut message["usage"], &whole.done);
    let (reason, sequence) = stop_reason(&whole.done, !whole.calls.is_empty(), &writer.stops);
    (message["stop_reason"], message["stop_sequence"]) = (reason.into(), sequence);
    Ok(json_response(StatusCode::OK, &message))
}

/// Counts a conversation's tokens.
pub(crate) async fn count_tokens(app: Arc<App>, body: Value) -> Result<Response<Body>, ApiError> {
    let chat = read(&Fields::of(&body, "")?)?;
    let text = app.model.render(&chat, &chat.messages, true)?;
    let tokens = app.model.encode(&text, true)?;
    Ok(json_response(StatusCode::OK, &json!({"input_tokens": tokens.len()})))
}

/// Reads a conversation: blocks of text, thoughts, uses of tools and their results become messages as templates take them.
fn read(fields: &Fields) -> Result<Chat, ApiError> {
    let mut messages = Vec::new();
    if let Some(system) = system_text(fields)? {
        messages.push(json!({"role": "system", "content": system}));
    }
    for (i, message) in fields.required("messages", fields.list("messages")?)?.iter().enumerate() {
        read_message(message, &format!("messages[{i}]"), &mut messages)?;
    }
    normalise(&mut messages);
    say_later_systems(&mut messages);
    let mut chat = Chat { messages, tools: tools(fields)?, ..Chat::default() };
    if let Some(thinking) = fields.value("thinking") {
        let thinking = Fields::of(thinking, "thinking")?;
        let budget = thinking.some_count("budget_tokens")?;
        let on = match thinking.required("type", thinking.text("type")?)? {
            "disabled" => false,
            "adaptive" => true,
            "enabled" => thinking.required("budget_tokens", budget).map(|_| true)?,
            _ => return Err(ApiError::field("thinking.type", "must be enabled, adaptive or disabled")),
        };
        chat.kwargs.insert("enable_thinking".into(), on.into());
        chat.budget = budget.filter(|_| on);
    }
    read_form(fields, &mut chat)?;
    chat.kwargs.extend(fields.object("chat_template_kwargs")?.cloned().unwrap_or_default());
    Ok(chat)
}

/// Makes system messages in the middle of a conversation part of what the user says: Claude Code sends such since version 2.1 (the beta
/// `mid-conversation-system`), and most templates refuse them. Marked as it marked them before.
fn say_later_systems(messages: &mut Vec<Value>) {
    let leading = messages.iter().take_while(|message| message["role"] == "system").count();
    let mut made = false;
    for mut message in messages.split_off(leading) {
        let system = message["role"] == "system";
        if system {
            let text = message["content"].as_str().unwrap_or_default();
            message = json!({"role": "user", "content": format!("<system-reminder>\n{text}\n</system-reminder>")});
        }
        let joins = (system || made) && message["role"] == "user";
        match messages.last_mut().filter(|last| joins && last["role"] == "user") {
            Some(last) => {
                let [said, more] =
                    [&last["content"], &message["content"]].map(|text| text.as_str().unwrap_or_default());
                last["content"] = format!("{said}\n{more}").into();
            }
            None => messages.push(message),
        }
        made = system;
    }
}

fn system_text(fields: &Fields) -> Result<Option<String>, ApiError> {
    let texts = match fields.value("system") {
        None => return Ok(None),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(blocks)) => {
            let text = |(i, block)| Ok(text_block(block, &format!("system[{i}]"))?.to_owned());
            blocks.iter().enumerate().map(text).collect::<Result<Vec<_>, ApiError>>()?
        }
        Some(_) => return Err(ApiError::field("system", "must be a string or an array of blocks")),
    };
    let said: Vec<&str> = texts.iter().map(|text| without_noise(text)).filter(|text| !text.is_empty()).collect();
    Ok(Some(said.join("\n\n")).filter(|text| !text.is_empty()))
}

fn text_block<'a>(block: &'a Value, place: &str) -> Result<&'a str, ApiError> {
    let fields = Fields::of(block, place)?;
    match fields.text("type")? {
        Some("text") => fields.required("text", fields.text("text")?),
        kind => Err(ApiError::field(
            place,
            &format!("is a block of type {:?}, and this model reads text only", kind.unwrap_or("none")),
        )),
    }
}

/// Adds a message; results of tools are messages of their own, before the text beside them.
fn read_message(message: &Value, place: &str, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    let fields = Fields::of(message, place)?;
    let role = fields.required("role", fields.text("role")?)?;
    let blocks = match fields.value("content") {
        Some(Value::String(text)) => {
            messages.push(json!({"role": role, "content": text}));
            return Ok(());
        }
        Some(Value::Array(blocks)) => blocks,
        _ => return Err(ApiError::field(&fields.name("content"), "must be a string or an array of blocks")),
    };
    let (mut texts, mut thoughts, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for (i, block) in blocks.iter().enumerate() {
        let place = format!("{place}.content[{i}]");
        let block_fields = Fields::of(block, &place)?;
        match block_fields.text("type")? {
            Some("thinking") => thoughts.extend(block_fields.text("thinking")?),
            Some("redacted_thinking") => {}
            Some("tool_use") => {
                let name = block_fields.required("name", block_fields.text("name")?)?;
                let input = block_fields.object("input")?.cloned().unwrap_or_default();
                let function = json!({"name": name, "arguments": input});
                calls.push(json!({"type": "function", "id": block_fields.text("id")?, "function": function}));
            }
            Some("tool_result") => messages.push(tool_result(&block_fields, &place)?),
            _ => texts.push(text_block(block, &place)?.to_owned()),
        }
    }
    let said = texts.join("\n");
    let only_results = said.is_empty() && calls.is_empty() && thoughts.is_empty() && !blocks.is_empty();
    if role != "assistant" && only_results {
        return Ok(());
    }
    let mut out = json!({"role": role, "content": said});
    if !thoughts.is_empty() {
        out["reasoning_content"] = thoughts.join("\n").into();
    }
    if !calls.is_empty() {
        out["tool_calls"] = calls.into();
    }
    messages.push(out);
    Ok(())
}

fn tool_result(fields: &Fields, place: &str) -> Result<Value, ApiError> {
    let content = match fields.value("content") {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(blocks)) => {
            let text = |(i, block)| Ok(text_block(block, &format!("{place}.content[{i}]"))?.to_owned());
            blocks.iter().enumerate().map(text).collect::<Result<Vec<_>, ApiError>>()?.join("\n")
        }
        Some(_) => return Err(ApiError::field(&fields.name("content"), "must be a string or an array of blocks")),
    };
    let failed = fields.flag("is_error")?.unwrap_or(false);
    let content = if failed { format!("Error: {content}") } else { content };
    Ok(json!({"role": "tool", "content": content, "tool_call_id": fields.text("tool_use_id")?}))
}

/// Tools as templates take them. Those that Anthropic's own servers run have no schema and are left out.
fn tools(fields: &Fields) -> Result<Vec<Value>, ApiError> {
    let mut tools = Vec::new();
    for (i, tool) in fields.list("tools")?.unwrap_or_default().iter().enumerate() {
        let place = format!("tools[{i}]");
        let tool = Fields::of(tool, &place)?;
        let name = tool.required("name", tool.text("name")?)?;
        let Some(schema) = tool.object("input_schema")? else { continue };
        let mut function = Map::new();
        function.insert("name".into(), name.into());
        if let Some(text) = tool.text("description")? {
            function.insert("description".into(), text.into());
        }
        function.insert("parameters".into(), Value::Object(schema.clone()));
        function.extend(tool.flag("strict")?.filter(|strict| *strict).map(|strict| ("strict".into(), strict.into())));
        tools.push(json!({"type": "function", "function": function}));
    }
    Ok(tools)
}

/// What the choice of tools and the format ask of the answer.
fn read_form(fields: &Fields, chat: &mut Chat) -> Result<(), ApiError> {
    let format = match fields.object("output_config")? {
        Some(config) => config.get("format"),
        None => fields.value("output_format"),
    };
    if let Some(format) = format {
        chat.form = read_format(format, "output_format")?;
    }
    let Some(choice) = fields.value("tool_choice") else { return Ok(()) };
    let choice = Fields::of(choice, "tool_choice")?;
    chat.one_call = choice.flag("disable_parallel_tool_use")?.unwrap_or(false);
    match choice.text("type")? {
        Some("none") => chat.tools.clear(),
        Some("auto") | None => {}
        Some("any") => chat.form = Form::Calls,
        Some("tool") => chat.form = Form::Call(choice.required("name", choice.text("name")?)?.to_owned()),
        Some(_) => return Err(ApiError::field("tool_choice.type", "must be auto, any, tool or none")),
    }
    Ok(())
}

/// Tokens of the prompt: those computed, and those found.
fn input_usage(prompt: usize, cached: usize) -> Value {
    json!({
        "input_tokens": prompt - cached.min(prompt), "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0, "output_tokens": 0,
    })
}

/// Adds the tokens of the answer.
fn count_output(usage: &mut Value, done: &Done) {
    usage["output_tokens"] = done.generated.into();
    usage["output_tokens_details"] = json!({"thinking_tokens": done.thoughts});
}

fn stop_reason(done: &Done, calls: bool, stops: &[String]) -> (&'static str, Value) {
    match done.finish {
        Finish::StopString(i) => ("stop_sequence", stops.get(i).cloned().into()),
        Finish::Length => ("max_tokens", Value::Null),
        Finish::ContextFull => ("model_context_window_exceeded", Value::Null),
        Finish::Model if calls => ("tool_use", Value::Null),
        Finish::Model => ("end_turn", Value::Null),
    }
}

fn content(whole: &Collected) -> Value {
    let mut blocks = Vec::new();
    if let Some(thought) = &whole.thought {
        blocks.push(json!({"type": "thinking", "thinking": thought, "signature": ""}));
    }
    if !whole.text.is_empty() {
        blocks.push(json!({"type": "text", "text": whole.text}));
    }
    let call = |Called { id, call, .. }: &Called| json!({"type": "tool_use", "id": id, "name": call.name, "input": call.arguments});
    blocks.extend(whole.calls.iter().map(call));
    blocks.into()
}

/// Writes an answer as events.
struct Writer {
    id: String,
    name: String,
    stops: Vec<String>,
    /// Blocks begun.
    blocks: usize,
    /// The type of the block that is open.
    open: Option<&'static str>,
    calls: bool,
}

const PING: Option<&str> = Some("event: ping\ndata: {\"type\": \"ping\"}\n\n");

impl Writer {
    fn message(&self, content: Value, usage: Value) -> Value {
        json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.name, "content": content,
            "stop_reason": null, "stop_sequence": null, "usage": usage,
        })
    }

    async fn write(mut self, mut turn: Turn, out: Out) -> Result<(), Gone> {
        let mut begun = false;
        loop {
            let said = match out.next(&mut turn, PING).await {
                Ok(Some(said)) => said,
                Ok(None) | Err(Broken::Gone) => return Ok(()),
                Err(Broken::Failed(error)) => return out.event("error", &error.body(Api::Anthropic)).await,
            };
            match said {
                Said::Prompt { cached, .. } if !begun => {
                    begun = true;
                    let message = self.message(json!([]), input_usage(turn.prompt_tokens, cached));
                    out.event("message_start", &json!({"type": "message_start", "message": message})).await?;
                }
                Said::Queued(_) | Said::Prompt { .. } => out.text(PING.unwrap_or_default()).await?,
                Said::End(done) => {
                    turn.remember(&done);
                    return self.end(&out, &done).await;
                }
                said => self.say(&out, said).await?,
            }
        }
    }

    async fn say(&mut self, out: &Out, said: Said) -> Result<(), Gone> {
        match said {
            Said::Thought(text) => {
                self.begin(out, "thinking", json!({"type": "thinking", "thinking": "", "signature": ""})).await?;
                self.delta(out, json!({"type": "thinking_delta", "thinking": text})).await
            }
            Said::Text(text) => {
                self.begin(out, "text", json!({"type": "text", "text": ""})).await?;
                self.delta(out, json!({"type": "text_delta", "text": text})).await
            }
            Said::CallBegins { id, name } => {
                self.finish_block(out).await?;
                self.begin(out, "tool_use", json!({"type": "tool_use", "id": id, "name": name, "input": {}})).await
            }
            Said::Arguments(text) => self.delta(out, json!({"type": "input_json_delta", "partial_json": text})).await,
            Said::Call(_) => {
                self.calls = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Begins a block, unless one of this type is open.
    async fn begin(&mut self, out: &Out, kind: &'static str, block: Value) -> Result<(), Gone> {
        if self.open == Some(kind) {
            return Ok(());
        }
        self.finish_block(out).await?;
        self.open = Some(kind);
        self.blocks += 1;
        let event = json!({"type": "content_block_start", "index": self.blocks - 1, "content_block": block});
        out.event("content_block_start", &event).await
    }

    async fn delta(&self, out: &Out, delta: Value) -> Result<(), Gone> {
        let event = json!({"type": "content_block_delta", "index": self.blocks - 1, "delta": delta});
        out.event("content_block_delta", &event).await
    }

    async fn finish_block(&mut self, out: &Out) -> Result<(), Gone> {
        match self.open.take() {
            None => return Ok(()),
            // The signature by which Anthropic's servers know thoughts as their own: there is none here.
            Some("thinking") => self.delta(out, json!({"type": "signature_delta", "signature": ""})).await?,
            Some(_) => {}
        }
        let event = json!({"type": "content_block_stop", "index": self.blocks - 1});
        out.event("content_block_stop", &event).await
    }

    async fn end(mut self, out: &Out, done: &Done) -> Result<(), Gone> {
        self.finish_block(out).await?;
        let (reason, sequence) = stop_reason(done, self.calls, &self.stops);
        let mut usage = input_usage(done.prompt, done.cached);
        count_output(&mut usage, done);
        let delta = json!({"stop_reason": reason, "stop_sequence": sequence});
        out.event("message_delta", &json!({"type": "message_delta", "delta": delta, "usage": usage})).await?;
        out.event("message_stop", &json!({"type": "message_stop"})).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_messages_in_the_middle_are_said_by_the_user() {
        let text = |role: &str, content: &str| json!({"role": role, "content": content});
        let mut messages = vec![
            text("system", "a"),
            text("user", "b"),
            text("system", "c"),
            text("assistant", "d"),
            text("system", "e"),
            text("user", "f"),
            text("user", "g"),
        ];
        say_later_systems(&mut messages);
        let reminder = |text: &str| format!("<system-reminder>\n{text}\n</system-reminder>");
        let expected = [
            text("system", "a"),
            text("user", &format!("b\n{}", reminder("c"))),
            text("assistant", "d"),
            text("user", &format!("{}\nf", reminder("e"))),
            text("user", "g"),
        ];
        assert_eq!(messages, expected);
    }
}
