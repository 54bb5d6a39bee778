//! The APIs of OpenAI: chat completions, completions, responses, models.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod responses;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::App;
use crate::chat::{Chat, Model};
use crate::error::{ApiError, json_response};
use crate::fields::Fields;
use crate::forms::Form;
use crate::ids;
use crate::worker::{Done, Finish, Score};

/// `GET /v1/models`. One model is served, whatever name a request gives.
pub(crate) fn models(app: &App) -> Response<Body> {
    json_response(StatusCode::OK, &json!({"object": "list", "data": [describe(app)]}))
}

/// `GET /v1/models/{id}`.
pub(crate) fn model(app: &App, id: &str) -> Result<Response<Body>, ApiError> {
    if id != app.model.name {
        let problem = format!("there is no model {id:?}: {:?} is served", app.model.name);
        return Err(ApiError::new(StatusCode::NOT_FOUND, problem));
    }
    Ok(json_response(StatusCode::OK, &describe(app)))
}

fn describe(app: &App) -> Value {
    json!({
        "id": app.model.name, "object": "model", "created": app.began_s, "owned_by": "outpour",
        "type": "model", "display_name": app.model.name, "context_length": app.model.ctx,
        "max_model_len": app.model.ctx,
    })
}

/// A message's content as text: a string, or parts of text. Parts of another kind are refused by their place.
pub(crate) fn content_text(content: Option<&Value>, place: &str) -> Result<String, ApiError> {
    match content {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let part = |(i, part): (usize, &Value)| part_text(part, &format!("{place}[{i}]"));
            Ok(parts.iter().enumerate().map(part).collect::<Result<Vec<_>, _>>()?.join("\n"))
        }
        Some(_) => Err(ApiError::field(place, "must be a string or an array of parts")),
    }
}

fn part_text(part: &Value, place: &str) -> Result<String, ApiError> {
    if let Value::String(text) = part {
        return Ok(text.clone());
    }
    let fields = Fields::of(part, place)?;
    let kind = fields.text("type")?.unwrap_or("text");
    match kind {
        "text" | "input_text" | "output_text" | "summary_text" | "reasoning_text" => {
            Ok(fields.required("text", fields.text("text")?)?.to_owned())
        }
        "refusal" => Ok(fields.text("refusal")?.unwrap_or_default().to_owned()),
        _ => Err(ApiError::field(place, &format!("is a part of type {kind:?}, and this model reads text only"))),
    }
}

/// What a request says of thinking, into the template's variables and the limit.
pub(crate) fn read_thinking(fields: &Fields, chat: &mut Chat) -> Result<(), ApiError> {
    let effort = match fields.object("reasoning")? {
        Some(_) => Fields::of(fields.value("reasoning").unwrap_or(&Value::Null), "reasoning")?.text("effort")?,
        None => fields.text("reasoning_effort")?,
    };
    if let Some(effort) = effort {
        chat.kwargs.insert("enable_thinking".into(), (effort != "none").into());
        chat.kwargs.insert("reasoning_effort".into(), effort.into());
    }
    chat.kwargs.extend(fields.object("chat_template_kwargs")?.cloned().unwrap_or_default());
    chat.budget = fields.count("thinking_budget")?;
    Ok(())
}

/// The form of an answer: `{"type": "json_schema", …}`, whose schema stands in it or in its own `json_schema`.
pub(crate) fn read_format(format: &Value, place: &str) -> Result<Form, ApiError> {
    let fields = Fields::of(format, place)?;
    match fields.required("type", fields.text("type")?)? {
        "text" => Ok(Form::Free),
        "json_object" => Ok(Form::Json(json!({"type": "object"}))),
        "json_schema" => {
            let inner = fields.object("json_schema")?.and_then(|inner| inner.get("schema"));
            let schema = inner.or(fields.value("schema")).filter(|schema| schema.is_object() || schema.is_boolean());
            let schema = schema.ok_or_else(|| ApiError::field(place, "has no schema"))?;
            Ok(Form::Json(schema.clone()))
        }
        kind => Err(ApiError::field(
            &fields.name("type"),
            &format!("is {kind:?}, and not text, json_object or json_schema"),
        )),
    }
}

/// What a choice of tools makes of the answer and of the tools: `"auto"`, `"none"`, `"required"`, or a function's name, which
/// stands in it or in its own `function`.
pub(crate) fn read_tool_choice(fields: &Fields, chat: &mut Chat) -> Result<(), ApiError> {
    let named = |choice: &Value| {
        let name = choice["function"].get("name").or(choice.get("name"))?;
        name.as_str().map(str::to_owned)
    };
    chat.one_call = !fields.flag("parallel_tool_calls")?.unwrap_or(true);
    match fields.value("tool_choice") {
        None => {}
        Some(Value::String(choice)) if choice == "auto" => {}
        Some(Value::String(choice)) if choice == "none" => chat.tools.clear(),
        Some(Value::String(choice)) if choice == "required" => {
            chat.form = Form::Calls;
        }
        Some(choice) => {
            let problem = "must be \"auto\", \"none\", \"required\" or the name of a function";
            chat.form = Form::Call(named(choice).ok_or_else(|| ApiError::field("tool_choice", problem))?);
        }
    }
    Ok(())
}

/// Tokens used.
pub(crate) fn usage(done: &Done) -> Value {
    json!({
        "prompt_tokens": done.prompt,
        "completion_tokens": done.generated,
        "total_tokens": done.prompt + done.generated,
        "prompt_tokens_details": {"cached_tokens": done.cached},
        "completion_tokens_details": {"reasoning_tokens": done.thoughts},
    })
}

/// How long it took.
fn timings(done: &Done) -> Value {
    let computed = done.prompt - done.cached.min(done.prompt);
    let (prompt_s, answer_s) = (done.prompt_time.as_secs_f64(), done.answer_time.as_secs_f64());
    let speed = |tokens: usize, seconds: f64| tokens as f64 / seconds.max(1e-9);
    json!({
        "cache_n": done.cached, "prompt_n": computed, "prompt_ms": prompt_s * 1e3,
        "prompt_per_second": speed(computed, prompt_s), "predicted_n": done.generated,
        "predicted_ms": answer_s * 1e3, "predicted_per_second": speed(done.generated, answer_s),
    })
}

fn finish_reason(finish: Finish, calls: bool) -> &'static str {
    match finish {
        Finish::Length | Finish::ContextFull => "length",
        Finish::Model | Finish::StopString(_) if calls => "tool_calls",
        Finish::Model | Finish::StopString(_) => "stop",
    }
}

/// A token with its probability, as chat completions show it.
fn chat_score(model: &Model, score: &Score) -> Value {
    let one = |token: u32, logprob: f64| {
        let bytes = model.tokenizer.token_bytes(token).unwrap_or_default();
        json!({"token": String::from_utf8_lossy(bytes), "logprob": logprob, "bytes": bytes})
    };
    let mut shown = one(score.token, score.logprob);
    shown["top_logprobs"] = score.top.iter().map(|&(token, logprob)| one(token, logprob)).collect();
    shown
}

/// The head of every object of an answer.
struct Head {
    id: String,
    created: u64,
    model: String,
    object: &'static str,
}

impl Head {
    fn new(app: &App, fields: &Fields, prefix: &str, object: &'static str) -> Result<Head, ApiError> {
        let model = fields.text("model")?.unwrap_or(&app.model.name).to_owned();
        Ok(Head { id: ids::name(prefix), created: ids::now_s(), model, object })
    }

    fn with(&self, rest: Value) -> Value {
        let mut map = Map::new();
        map.insert("id".into(), self.id.clone().into());
        map.insert("object".into(), self.object.into());
        map.insert("created".into(), self.created.into());
        map.insert("model".into(), self.model.clone().into());
        if let Value::Object(rest) = rest {
            map.extend(rest);
        }
        Value::Object(map)
    }
}
