//! `POST /v1/responses`, without memory: a request brings the whole conversation.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::chat::arguments;
use super::{content_text, read_format, read_thinking, read_tool_choice};
use crate::App;
use crate::chat::{Chat, Model, Wishes, begin, normalise};
use crate::collected::{Called, Collected};
use crate::error::{Api, ApiError, json_response};
use crate::fields::Fields;
use crate::ids;
use crate::stream::{Broken, COMMENT, EVENTS, Gone, Out, streamed};
use crate::turn::{Said, Turn};
use crate::worker::{Done, Finish};

/// Answers a conversation.
pub(crate) async fn create(app: Arc<App>, body: Value) -> Result<Response<Body>, ApiError> {
    let fields = Fields::of(&body, "")?;
    for stored in ["previous_response_id", "conversation", "prompt"] {
        // A prompt that is a text is no field of this route.
        if fields.value(stored).is_some_and(|value| stored != "prompt" || value.is_object()) {
            return Err(ApiError::field(stored, "is not supported: nothing is stored; send the whole input"));
        }
    }
    if fields.flag("background")? == Some(true) {
        return Err(ApiError::field("background", "is not supported: stream the answer, or wait for it"));
    }
    let chat = read(&fields, &app.model)?;
    let mut writer = Writer {
        id: ids::name("resp_"),
        created: ids::now_s(),
        name: fields.text("model")?.unwrap_or(&app.model.name).to_owned(),
        tools: fields.value("tools").cloned().unwrap_or_else(|| json!([])),
        instructions: fields.value("instructions").cloned().unwrap_or_default(),
        several_calls: !chat.one_call,
        number: 0,
        output: Vec::new(),
        open: None,
    };
    let stream = fields.flag("stream")?.unwrap_or(false);
    let turn = begin(&app, chat).await?;
    if stream {
        return streamed(EVENTS, turn, |turn, out| writer.write(turn, out)).await;
    }
    let whole = Collected::new(turn).await?;
    if let Some(thought) = &whole.thought {
        writer.output.push(reasoning_item(&ids::name("rs_"), thought, "completed"));
    }
    if !whole.text.is_empty() {
        writer.output.push(message_item(&ids::name("msg_"), &whole.text, "completed"));
    }
    let call =
        |Called { id, call, arguments }: &Called| call_item(&ids::name("fc_"), id, &call.name, arguments, "completed");
    writer.output.extend(whole.calls.iter().map(call));
    Ok(json_response(StatusCode::OK, &writer.response(Some(&whole.done))))
}

fn read(fields: &Fields, model: &Model) -> Result<Chat, ApiError> {
    let mut messages = Vec::new();
    if let Some(text) = fields.text("instructions")? {
        messages.push(json!({"role": "system", "content": text}));
    }
    match fields.required("input", fields.value("input"))? {
        Value::String(text) => messages.push(json!({"role": "user", "content": text})),
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                read_item(item, &format!("input[{i}]"), &mut messages)?;
            }
        }
        _ => return Err(ApiError::field("input", "must be a string or an array of items")),
    }
    normalise(&mut messages);
    let tokens_max = fields.some_count("max_output_tokens")?;
    let wishes = Wishes { tokens_max, ..Wishes::read(fields, model)? };
    let mut chat = Chat { messages, wishes, tools: tools(fields)?, ..Chat::default() };
    if let Some(text) = fields.value("text") {
        let format = Fields::of(text, "text")?.value("format").map(|format| read_format(format, "text.format"));
        chat.form = format.transpose()?.unwrap_or_default();
    }
    read_tool_choice(fields, &mut chat)?;
    read_thinking(fields, &mut chat)?;
    Ok(chat)
}

/// Adds an item. Thoughts and calls belong to one message of the assistant.
fn read_item(item: &Value, place: &str, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    let fields = Fields::of(item, place)?;
    match fields.text("type")?.unwrap_or("message") {
        "message" => {
            let role = fields.required("role", fields.text("role")?)?;
            let text = content_text(fields.value("content"), &fields.name("content"))?;
            if role == "assistant" {
                let message = assistant(messages);
                let said = message["content"].as_str().unwrap_or_default().to_owned();
                message["content"] = if said.is_empty() { text } else { said + "\n" + &text }.into();
            } else {
                let role = if role == "developer" { "system" } else { role };
                messages.push(json!({"role": role, "content": text}));
            }
        }
        "reasoning" => {
            let text = content_text(fields.value("content"), &fields.name("content"))?;
            if !text.is_empty() {
                assistant(messages)["reasoning_content"] = text.into();
            }
        }
        "function_call" => {
            let name = fields.required("name", fields.text("name")?)?;
            let function = json!({"name": name, "arguments": arguments(fields.value("arguments"))});
            let call = json!({"type": "function", "id": fields.text("call_id")?, "function": function});
            match assistant(messages)["tool_calls"].as_array_mut() {
                Some(calls) => calls.push(call),
                None => assistant(messages)["tool_calls"] = json!([call]),
            }
        }
        "function_call_output" => {
            let text = content_text(fields.value("output"), &fields.name("output"))?;
            messages.push(json!({"role": "tool", "content": text, "tool_call_id": fields.text("call_id")?}));
        }
        kind => {
            return Err(ApiError::field(
                place,
                &format!("is an item of type {kind:?}, which this server does not know"),
            ));
        }
    }
    Ok(())
}

/// The message of the assistant that the conversation ends with, or a new one.
fn assistant(messages: &mut Vec<Value>) -> &mut Value {
    if messages.last().is_none_or(|last| last["role"] != "assistant") {
        messages.push(json!({"role": "assistant", "content": ""}));
    }
    let last = messages.len() - 1;
    &mut messages[last]
}

/// Functions, as templates take them. Tools that OpenAI's own servers run are left out.
fn tools(fields: &Fields) -> Result<Vec<Value>, ApiError> {
    let mut tools = Vec::new();
    for (i, tool) in fields.list("tools")?.unwrap_or_default().iter().enumerate() {
        let place = format!("tools[{i}]");
        let tool = Fields::of(tool, &place)?;
        if tool.text("type")? != Some("function") {
            continue;
        }
        let mut function = Map::new();
        function.insert("name".into(), tool.required("name", tool.text("name")?)?.into());
        function.extend(tool.text("description")?.map(|text| ("description".into(), text.into())));
        let schema = tool.object("parameters")?.cloned().unwrap_or_default();
        function.insert("parameters".into(), Value::Object(schema));
        function.extend(tool.flag("strict")?.filter(|strict| *strict).map(|strict| ("strict".into(), strict.into())));
        tools.push(json!({"type": "function", "function": function}));
    }
    Ok(tools)
}

fn reasoning_item(id: &str, text: &str, status: &str) -> Value {
    let content = json!([{"type": "reasoning_text", "text": text}]);
    json!({"id": id, "type": "reasoning", "summary": [], "content": content, "status": status})
}

fn message_item(id: &str, text: &str, status: &str) -> Value {
    json!({"id": id, "type": "message", "role": "assistant", "status": status, "content": [text_part(text)]})
}

fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": []})
}

fn call_item(id: &str, call_id: &str, name: &str, arguments: &str, status: &str) -> Value {
    json!({
        "id": id, "type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, "status": status,
    })
}

/// An item that is not at its end.
struct Open {
    id: String,
    kind: Kind,
    text: String,
}

#[derive(Clone, PartialEq)]
enum Kind {
    Thought,
    Message,
    /// A call under a name of its own, of a tool.
    Call(String, String),
}

impl Open {
    fn item(&self, status: &str) -> Value {
        let Open { id, kind, text } = self;
        match kind {
            Kind::Thought => reasoning_item(id, text, status),
            Kind::Message => message_item(id, text, status),
            Kind::Call(call_id, name) => call_item(id, call_id, name, text, status),
        }
    }
}

/// Writes a response as events, and the object that stands in the first and the last of them.
struct Writer {
    id: String,
    created: u64,
    name: String,
    tools: Value,
    instructions: Value,
    several_calls: bool,
    /// Of the next event.
    number: usize,
    /// Items that are whole.
    output: Vec<Value>,
    open: Option<Open>,
}

impl Writer {
    fn response(&self, done: Option<&Done>) -> Value {
        let full = done.is_some_and(|done| matches!(done.finish, Finish::Length | Finish::ContextFull));
        let status = match done {
            None => "in_progress",
            Some(_) if full => "incomplete",
            Some(_) => "completed",
        };
        let usage = done.map(|done| {
            json!({
                "input_tokens": done.prompt, "output_tokens": done.generated,
                "total_tokens": done.prompt + done.generated,
                "input_tokens_details": {"cached_tokens": done.cached},
                "output_tokens_details": {"reasoning_tokens": done.thoughts},
            })
        });
        json!({
            "id": self.id, "object": "response", "created_at": self.created, "status": status, "error": null,
            "incomplete_details": full.then(|| json!({"reason": "max_output_tokens"})), "model": self.name,
            "instructions": self.instructions, "output": self.output, "parallel_tool_calls": self.several_calls,
            "tool_choice": "auto", "tools": self.tools, "usage": usage, "store": false,
            "previous_response_id": null, "metadata": {},
        })
    }

    async fn event(&mut self, out: &Out, kind: &str, rest: Value) -> Result<(), Gone> {
        let mut event = json!({"type": kind, "sequence_number": self.number});
        self.number += 1;
        if let (Some(event), Value::Object(rest)) = (event.as_object_mut(), rest) {
            event.extend(rest);
        }
        out.event(kind, &event).await
    }

    async fn write(mut self, mut turn: Turn, out: Out) -> Result<(), Gone> {
        for kind in ["response.created", "response.in_progress"] {
            let response = self.response(None);
            self.event(&out, kind, json!({"response": response})).await?;
        }
        loop {
            match out.next(&mut turn, COMMENT).await {
                Ok(Some(Said::Thought(text))) => self.text(&out, Kind::Thought, &text).await?,
                Ok(Some(Said::Text(text))) => self.text(&out, Kind::Message, &text).await?,
                Ok(Some(Said::CallBegins { id, name })) => self.begin(&out, Kind::Call(id, name)).await?,
                Ok(Some(Said::Arguments(text))) => self.more(&out, &text).await?,
                Ok(Some(Said::Queued(position))) => out.text(format!(": waiting, place {position}\n\n")).await?,
                Ok(Some(Said::Prompt { done, total, .. })) => {
                    out.text(format!(": prompt {done} of {total} tokens\n\n")).await?;
                }
                Ok(Some(Said::End(done))) => {
                    turn.remember(&done);
                    self.close(&out).await?;
                    let response = self.response(Some(&done));
                    let full = response["status"] == "incomplete";
                    let kind = if full { "response.incomplete" } else { "response.completed" };
                    return self.event(&out, kind, json!({"response": response})).await;
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(Broken::Gone) => return Ok(()),
                Err(Broken::Failed(error)) => {
                    let mut response = self.response(None);
                    response["status"] = "failed".into();
                    response["error"] =
                        json!({"code": "server_error", "message": error.body(Api::OpenAi)["error"]["message"]});
                    return self.event(&out, "response.failed", json!({"response": response})).await;
                }
            }
        }
    }

    /// More of a message or of thoughts.
    async fn text(&mut self, out: &Out, kind: Kind, text: &str) -> Result<(), Gone> {
        if self.open.as_ref().is_none_or(|open| open.kind != kind) {
            self.begin(out, kind).await?;
        }
        self.more(out, text).await
    }

    /// Begins an item.
    async fn begin(&mut self, out: &Out, kind: Kind) -> Result<(), Gone> {
        self.close(out).await?;
        let prefix = match kind {
            Kind::Thought => "rs_",
            Kind::Message => "msg_",
            Kind::Call(..) => "fc_",
        };
        let (open, at) = (Open { id: ids::name(prefix), kind, text: String::new() }, self.output.len());
        let mut item = open.item("in_progress");
        if !matches!(open.kind, Kind::Call(..)) {
            item["content"] = json!([]);
        }
        self.event(out, "response.output_item.added", json!({"output_index": at, "item": item})).await?;
        if open.kind == Kind::Message {
            let part = json!({"item_id": open.id, "output_index": at, "content_index": 0, "part": text_part("")});
            self.event(out, "response.content_part.added", part).await?;
        }
        self.open = Some(open);
        Ok(())
    }

    /// More of the item that is open.
    async fn more(&mut self, out: &Out, text: &str) -> Result<(), Gone> {
        let at = self.output.len();
        let Some(open) = &mut self.open else { return Ok(()) };
        open.text.push_str(text);
        let mut delta = json!({"item_id": open.id, "output_index": at, "content_index": 0, "delta": text});
        let kind = match open.kind {
            Kind::Thought => "response.reasoning_text.delta",
            Kind::Message => "response.output_text.delta",
            Kind::Call(..) => {
                delta = json!({"item_id": open.id, "output_index": at, "delta": text});
                "response.function_call_arguments.delta"
            }
        };
        self.event(out, kind, delta).await
    }

    /// Ends the item that is open.
    async fn close(&mut self, out: &Out) -> Result<(), Gone> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let (at, text, item) = (self.output.len(), &open.text, open.item("completed"));
        let done = json!({"item_id": open.id, "output_index": at, "content_index": 0, "text": text});
        match &open.kind {
            Kind::Thought => self.event(out, "response.reasoning_text.done", done).await?,
            Kind::Message => {
                self.event(out, "response.output_text.done", done).await?;
                let part = json!({"item_id": open.id, "output_index": at, "content_index": 0, "part": text_part(text)});
                self.event(out, "response.content_part.done", part).await?;
            }
            Kind::Call(_, name) => {
                let done = json!({"item_id": open.id, "output_index": at, "name": name, "arguments": text});
                self.event(out, "response.function_call_arguments.done", done).await?;
            }
        }
        self.output.push(item.clone());
        self.event(out, "response.output_item.done", json!({"output_index": at, "item": item})).await
    }
}
