//! Ollama's `/api/chat` and `/api/generate`, lines of JSON, and what its clients ask of a model before.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::App;
use crate::chat::{Chat, Model, Wishes, begin, normalise, submit};
use crate::error::{Api, ApiError, json_response};
use crate::fields::Fields;
use crate::forms::Form;
use crate::ids;
use crate::stream::{Broken, Gone, Out, streamed};
use crate::turn::{Said, Turn};
use crate::worker::{Done, Finish};

/// The version of Ollama whose API this follows: clients ask for one, and some refuse what is older than they know.
const VERSION: &str = "0.12.0";
/// When a model that stays in memory leaves it, after now: Ollama says centuries.
const FOREVER_S: u64 = 100 * 365 * 86_400;

/// `GET /api/tags`.
pub(crate) fn tags(app: &App) -> Response<Body> {
    json_response(StatusCode::OK, &json!({"models": [listed(app)]}))
}

/// `GET /api/ps`: the model, while it is in memory.
pub(crate) fn ps(app: &App) -> Response<Body> {
    let loaded = app.door.shared.live.ram().map(|ram| {
        let mut model = listed(app);
        (model["size"], model["size_vram"]) = (ram.into(), 0.into());
        model["context_length"] = app.model.ctx.into();
        model["expires_at"] = time(ids::now_s() + FOREVER_S).into();
        model
    });
    json_response(StatusCode::OK, &json!({"models": loaded.into_iter().collect::<Vec<Value>>()}))
}

/// `GET /api/version`.
pub(crate) fn version(_: &App) -> Response<Body> {
    json_response(StatusCode::OK, &json!({"version": VERSION, "outpour": env!("CARGO_PKG_VERSION")}))
}

/// `POST /api/show`.
pub(crate) async fn show(app: Arc<App>, body: Value) -> Result<Response<Body>, ApiError> {
    let fields = Fields::of(&body, "")?;
    // There is one model, whatever it is called.
    fields.text("model")?;
    fields.text("name")?;
    let model = &app.model;
    let template = model.template.as_ref().map_or("", |template| template.source());
    let mut can = vec!["completion"];
    if template.contains("tools") {
        can.push("tools");
    }
    if model.thinks() {
        can.push("thinking");
    }
    let family = model.family;
    let mut info = Map::new();
    info.insert("general.architecture".into(), family.into());
    info.insert("general.parameter_count".into(), model.parameters.into());
    info.insert(format!("{family}.context_length"), model.ctx.into());
    info.insert(format!("{family}.vocab_size"), model.vocab.into());
    let shown = json!({
        "modelfile": "", "parameters": "", "template": template, "details": details(model), "model_info": info,
        "capabilities": can, "modified_at": time(app.began_s),
    });
    Ok(json_response(StatusCode::OK, &shown))
}

/// The model in a list.
fn listed(app: &App) -> Value {
    let name = &app.model.name;
    json!({
        "name": name, "model": name, "modified_at": time(app.began_s), "size": app.model.bytes, "digest": "",
        "details": details(&app.model),
    })
}

fn details(model: &Model) -> Value {
    let count = model.parameters as f64;
    let size = if count < 1e9 { format!("{:.1}M", count / 1e6) } else { format!("{:.1}B", count / 1e9) };
    json!({
        "parent_model": "", "format": model.format, "family": model.family, "families": [model.family],
        "parameter_size": size, "quantization_level": "",
    })
}

/// `POST /api/chat`.
pub(crate) async fn chat(app: Arc<App>, body: Value) -> Result<Response<Body>, ApiError> {
    let fields = Fields::of(&body, "")?;
    let mut messages = Vec::new();
    for (i, message) in fields.required("messages", fields.list("messages")?)?.iter().enumerate() {
        let place = format!("messages[{i}]");
        let message_fields = Fields::of(message, &place)?;
        no_images(&message_fields)?;
        message_fields.required("role", message_fields.text("role")?)?;
        message_fields.text("content")?;
        messages.push(message.clone());
    }
    normalise(&mut messages);
    let mut chat = Chat { messages, wishes: wishes(&fields, &app.model)?, ..Chat::default() };
    chat.tools = fields.list("tools")?.unwrap_or_default().to_vec();
    read_think(&fields, &mut chat)?;
    chat.form = format(&fields)?;
    let turn = begin(&app, chat).await?;
    respond(&app, &fields, turn, true).await
}

/// `POST /api/generate`.
pub(crate) async fn generate(app: Arc<App>, body: Value) -> Result<Response<Body>, ApiError> {
    let fields = Fields::of(&body, "")?;
    no_images(&fields)?;
    let prompt = fields.text("prompt")?.unwrap_or_default();
    let wishes = wishes(&fields, &app.model)?;
    if fields.flag("raw")?.unwrap_or(false) || app.model.template.is_none() {
        let tokens = app.model.encode(prompt, true)?;
        app.model.check_length(tokens.len())?;
        let count = tokens.len();
        let turn = Turn::new(submit(&app.door, app.model.ask(tokens, &wishes))?, None, None, count);
        return respond(&app, &fields, turn, false).await;
    }
    let system = fields.text("system")?.map(|text| json!({"role": "system", "content": text}));
    let messages = system.into_iter().chain([json!({"role": "user", "content": prompt})]).collect();
    let mut chat = Chat { messages, wishes, ..Chat::default() };
    read_think(&fields, &mut chat)?;
    chat.form = format(&fields)?;
    let turn = begin(&app, chat).await?;
    respond(&app, &fields, turn, false).await
}

fn no_images(fields: &Fields) -> Result<(), ApiError> {
    match fields.list("images")? {
        Some(images) if !images.is_empty() => {
            Err(ApiError::field(&fields.name("images"), "holds images, and this model reads text only"))
        }
        _ => Ok(()),
    }
}

fn read_think(fields: &Fields, chat: &mut Chat) -> Result<(), ApiError> {
    match fields.value("think") {
        Some(Value::String(effort)) => chat.kwargs.insert("reasoning_effort".into(), effort.clone().into()),
        _ => fields.flag("think")?.and_then(|think| chat.kwargs.insert("enable_thinking".into(), think.into())),
    };
    Ok(())
}

/// `"json"`, or a schema.
fn format(fields: &Fields) -> Result<Form, ApiError> {
    match fields.value("format") {
        None => Ok(Form::Free),
        Some(Value::String(text)) if text.is_empty() => Ok(Form::Free),
        Some(Value::String(text)) if text == "json" => Ok(Form::Json(json!({"type": "object"}))),
        Some(schema @ Value::Object(_)) => Ok(Form::Json(schema.clone())),
        Some(_) => Err(ApiError::field("format", "must be \"json\" or a schema")),
    }
}

fn wishes(fields: &Fields, model: &Model) -> Result<Wishes, ApiError> {
    let nothing = Value::Object(Map::new());
    let options = Fields::of(fields.value("options").unwrap_or(&nothing), "options")?;
    let tokens_max = options.integer("num_predict")?.and_then(|tokens| usize::try_from(tokens).ok());
    Ok(Wishes { tokens_max, stop: options.texts("stop")?, ..Wishes::read(&options, model)? })
}

async fn respond(app: &App, fields: &Fields<'_>, mut turn: Turn, chat: bool) -> Result<Response<Body>, ApiError> {
    let writer = Writer { name: fields.text("model")?.unwrap_or(&app.model.name).to_owned(), chat };
    if fields.flag("stream")?.unwrap_or(true) {
        return streamed("application/x-ndjson", turn, |turn, out| writer.write(turn, out)).await;
    }
    let (mut text, mut thought, mut calls) = (String::new(), String::new(), Vec::new());
    while let Some(said) = turn.next().await? {
        match said {
            Said::Text(more) => text += &more,
            Said::Thought(more) => thought += &more,
            Said::Call(call) => {
                calls.push(json!({"function": {"name": call.name, "arguments": call.arguments}}));
            }
            Said::End(done) => {
                let mut line = writer.line(&text, &thought, calls);
                writer.finish(&mut line, &done);
                return Ok(json_response(StatusCode::OK, &line));
            }
            _ => {}
        }
    }
    Err(ApiError::unavailable("the answer was broken off"))
}

struct Writer {
    name: String,
    chat: bool,
}

impl Writer {
    fn line(&self, text: &str, thought: &str, calls: Vec<Value>) -> Value {
        let mut line = json!({"model": self.name, "created_at": time(ids::now_s())});
        let say = |at: &mut Value, key: &str| {
            at[key] = text.into();
            if !thought.is_empty() {
                at["thinking"] = thought.into();
            }
        };
        if self.chat {
            let mut message = json!({"role": "assistant"});
            say(&mut message, "content");
            if !calls.is_empty() {
                message["tool_calls"] = calls.into();
            }
            line["message"] = message;
        } else {
            say(&mut line, "response");
        }
        line["done"] = false.into();
        line
    }

    fn finish(&self, line: &mut Value, done: &Done) {
        let length = matches!(done.finish, Finish::Length | Finish::ContextFull);
        let (prompt, answer) = (done.prompt_time.as_nanos() as u64, done.answer_time.as_nanos() as u64);
        line["done"] = true.into();
        line["done_reason"] = if length { "length" } else { "stop" }.into();
        line["total_duration"] = (prompt + answer).into();
        line["load_duration"] = 0.into();
        line["prompt_eval_count"] = done.prompt.into();
        line["prompt_eval_duration"] = prompt.into();
        line["eval_count"] = done.generated.into();
        line["eval_duration"] = answer.into();
    }

    async fn write(self, mut turn: Turn, out: Out) -> Result<(), Gone> {
        loop {
            let line = match out.next(&mut turn, None).await {
                Ok(Some(Said::Text(text))) => self.line(&text, "", Vec::new()),
                Ok(Some(Said::Thought(thought))) => self.line("", &thought, Vec::new()),
                Ok(Some(Said::Call(call))) => {
                    self.line("", "", vec![json!({"function": {"name": call.name, "arguments": call.arguments}})])
                }
                Ok(Some(Said::End(done))) => {
                    let mut line = self.line("", "", Vec::new());
                    self.finish(&mut line, &done);
                    return out.text(format!("{line}\n")).await;
                }
                Ok(Some(_)) => continue,
                Ok(None) | Err(Broken::Gone) => return Ok(()),
                Err(Broken::Failed(error)) => error.body(Api::Ollama),
            };
            out.text(format!("{line}\n")).await?;
        }
    }
}

/// Seconds since 1970 as RFC 3339.
fn time(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a date of the Gregorian calendar, in eras of 400 years that begin in March.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_dates() {
        assert_eq!(super::time(0), "1970-01-01T00:00:00Z");
        assert_eq!(super::time(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(super::time(1_798_761_599), "2026-12-31T23:59:59Z");
    }
}
