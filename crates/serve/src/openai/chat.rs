//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{
    Head, chat_score, content_text, finish_reason, read_format, read_thinking, read_tool_choice, timings, usage,
};
use crate::App;
use crate::chat::{Chat, Model, TOP_LOGPROBS_MAX, Wishes, begin, normalise};
use crate::collected::{Called, Collected};
use crate::error::{Api, ApiError, json_response};
use crate::fields::Fields;
use crate::stream::{Broken, COMMENT, EVENTS, Gone, Out, streamed};
use crate::turn::{Said, Turn};

/// Answers a conversation.
pub(crate) async fn create(app: Arc<App>, body: Value) -> Result<Response<Body>, ApiError> {
    let fields = Fields::of(&body, "")?;
    let head = Head::new(&app, &fields, "chatcmpl-", "chat.completion")?;
    let chat = read(&fields, &app.model)?;
    let scores = chat.wishes.top_logprobs.is_some();
    let stream = fields.flag("stream")?.unwrap_or(false);
    let options =
        Fields::of(fields.value("stream_options").unwrap_or(&Value::Object(Default::default())), "stream_options")
            .and_then(|options| options.flag("include_usage"))?;
    let progress = fields.flag("return_progress")?.unwrap_or(false);
    let turn = begin(&app, chat).await?;
    if stream {
        let writer = Writer {
            head: Head { object: "chat.completion.chunk", ..head },
            model: app.model.clone(),
            usage: options.unwrap_or(false),
            progress,
            begun: 0,
            calls: 0,
        };
        return streamed(EVENTS, turn, |turn, out| writer.write(turn, out)).await;
    }
    let whole = Collected::new(turn).await?;
    let message = message(&whole);
    let shown = |score| chat_score(&app.model, score);
    let logprobs = scores.then(|| json!({"content": whole.scores.iter().map(shown).collect::<Vec<_>>()}));
    let finish = finish_reason(whole.done.finish, !whole.calls.is_empty());
    let choice = json!({"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish});
    let body = head.with(json!({"choices": [choice], "usage": usage(&whole.done), "timings": timings(&whole.done)}));
    Ok(json_response(StatusCode::OK, &body))
}

/// Reads a request.
pub(crate) fn read(fields: &Fields, model: &Model) -> Result<Chat, ApiError> {
    if fields.count("n")?.is_some_and(|n| n != 1) {
        return Err(ApiError::field("n", "must be 1: ask again for another answer"));
    }
    let given = fields.required("messages", fields.list("messages")?)?;
    let mut messages = Vec::with_capacity(given.len());
    for (i, message) in given.iter().enumerate() {
        messages.push(read_message(message, &format!("messages[{i}]"))?);
    }
    normalise(&mut messages);
    let mut chat = Chat { messages, wishes: wishes(fields, model)?, ..Chat::default() };
    chat.tools = tools(fields)?;
    if let Some(format) = fields.value("response_format") {
        chat.form = read_format(format, "response_format")?;
    }
    read_tool_choice(fields, &mut chat)?;
    read_thinking(fields, &mut chat)?;
    Ok(chat)
}

fn wishes(fields: &Fields, model: &Model) -> Result<Wishes, ApiError> {
    let tokens_max = fields.some_count("max_completion_tokens")?.or(fields.some_count("max_tokens")?);
    let top = fields.count("top_logprobs")?;
    if top.is_some_and(|top| top > TOP_LOGPROBS_MAX) {
        return Err(ApiError::field("top_logprobs", &format!("must be at most {TOP_LOGPROBS_MAX}")));
    }
    let scores = fields.flag("logprobs")?.unwrap_or(false);
    let top_logprobs = scores.then(|| top.unwrap_or(0));
    Ok(Wishes { tokens_max, stop: fields.texts("stop")?, top_logprobs, ..Wishes::read(fields, model)? })
}

/// The functions that may be called.
fn tools(fields: &Fields) -> Result<Vec<Value>, ApiError> {
    let mut tools = Vec::new();
    for (i, tool) in fields.list("tools")?.unwrap_or_default().iter().enumerate() {
        let place = format!("tools[{i}]");
        let tool_fields = Fields::of(tool, &place)?;
        let function = tool_fields.required("function", tool_fields.value("function"))?;
        let place = format!("{place}.function");
        let function_fields = Fields::of(function, &place)?;
        function_fields.required("name", function_fields.text("name")?)?;
        function_fields.object("parameters")?;
        tools.push(tool.clone());
    }
    Ok(tools)
}

/// A message as templates take it: content as text, arguments of calls as objects.
fn read_message(message: &Value, place: &str) -> Result<Value, ApiError> {
    let fields = Fields::of(message, place)?;
    let role = fields.required("role", fields.text("role")?)?;
    let mut out = message.clone();
    out["role"] = if role == "developer" { "system".into() } else { role.into() };
    out["content"] = content_text(fields.value("content"), &fields.name("content"))?.into();
    if let Some(calls) = fields.list("tool_calls")? {
        let read = |(i, call): (usize, &Value)| read_call(call, &format!("{place}.tool_calls[{i}]"));
        out["tool_calls"] = calls.iter().enumerate().map(read).collect::<Result<_, _>>()?;
    } else if let Some(map) = out.as_object_mut() {
        map.remove("tool_calls");
    }
    Ok(out)
}

fn read_call(call: &Value, place: &str) -> Result<Value, ApiError> {
    let fields = Fields::of(call, place)?;
    let function = fields.required("function", fields.value("function"))?;
    let place = fields.name("function");
    let function = Fields::of(function, &place)?;
    let name = function.required("name", function.text("name")?)?;
    let arguments = arguments(function.value("arguments"));
    Ok(json!({"type": "function", "id": fields.text("id")?, "function": {"name": name, "arguments": arguments}}))
}

/// The arguments of a call that comes back: an object, mostly written as a text. What is no JSON stays as it is.
pub(super) fn arguments(given: Option<&Value>) -> Value {
    match given {
        None => json!({}),
        Some(Value::String(text)) if text.trim().is_empty() => json!({}),
        Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_else(|_| text.clone().into()),
        Some(other) => other.clone(),
    }
}

fn message(whole: &Collected) -> Value {
    let content = Some(&whole.text).filter(|text| !text.is_empty() || whole.calls.is_empty());
    let mut message = json!({"role": "assistant", "content": content});
    if let Some(thought) = &whole.thought {
        message["reasoning_content"] = thought.clone().into();
    }
    if !whole.calls.is_empty() {
        message["tool_calls"] = whole.calls.iter().map(call_object).collect();
    }
    message
}

fn call_object(Called { id, call, arguments }: &Called) -> Value {
    json!({"id": id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
}

/// Writes an answer as chunks.
struct Writer {
    head: Head,
    model: Arc<Model>,
    usage: bool,
    progress: bool,
    /// Calls that began, and those that are complete.
    begun: usize,
    calls: usize,
}

impl Writer {
    async fn write(mut self, mut turn: Turn, out: Out) -> Result<(), Gone> {
        self.chunk(&out, json!({"role": "assistant", "content": ""}), Value::Null, Value::Null).await?;
        loop {
            match out.next(&mut turn, COMMENT).await {
                Ok(Some(Said::End(done))) => {
                    turn.remember(&done);
                    let finish = finish_reason(done.finish, self.calls > 0);
                    self.chunk(&out, json!({}), finish.into(), Value::Null).await?;
                    if self.usage {
                        let last = json!({"choices": [], "usage": usage(&done), "timings": timings(&done)});
                        out.data(&self.head.with(last)).await?;
                    }
                    return out.text("data: [DONE]\n\n").await;
                }
                Ok(Some(said)) => self.say(&out, said).await?,
                Ok(None) | Err(Broken::Gone) => return Ok(()),
                Err(Broken::Failed(error)) => return out.data(&error.body(Api::OpenAi)).await,
            }
        }
    }

    async fn say(&mut self, out: &Out, said: Said) -> Result<(), Gone> {
        match said {
            Said::Queued(position) => out.text(format!(": waiting, place {position}\n\n")).await,
            Said::Prompt { done, total, cached } if self.progress => {
                let progress = json!({"total": total, "cache": cached, "processed": done});
                out.data(&self.head.with(json!({"choices": [], "prompt_progress": progress}))).await
            }
            Said::Prompt { done, total, .. } => out.text(format!(": prompt {done} of {total} tokens\n\n")).await,
            Said::Text(text) => self.delta(out, json!({"content": text})).await,
            Said::Thought(text) => self.delta(out, json!({"reasoning_content": text})).await,
            Said::CallBegins { id, name } => {
                self.begun += 1;
                let function = json!({"name": name, "arguments": ""});
                let call = json!({"index": self.begun - 1, "id": id, "type": "function", "function": function});
                self.delta(out, json!({"tool_calls": [call]})).await
            }
            Said::Arguments(text) => {
                let call = json!({"index": self.begun.saturating_sub(1), "function": {"arguments": text}});
                self.delta(out, json!({"tool_calls": [call]})).await
            }
            Said::Call(_) => {
                self.calls += 1;
                Ok(())
            }
            Said::Score(score) => {
                let logprobs = json!({"content": [chat_score(&self.model, &score)]});
                self.chunk(out, json!({}), Value::Null, logprobs).await
            }
            Said::Malformed | Said::PromptScores(_) | Said::End(_) => Ok(()),
        }
    }

    async fn delta(&self, out: &Out, delta: Value) -> Result<(), Gone> {
        self.chunk(out, delta, Value::Null, Value::Null).await
    }

    async fn chunk(&self, out: &Out, delta: Value, finish: Value, logprobs: Value) -> Result<(), Gone> {
        let choice = json!({"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish});
        out.data(&self.head.with(json!({"choices": [choice]}))).await
    }
}
