//! What belongs to no API: health, metrics, tokens and text.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::App;
use crate::chat::Chat;
use crate::error::{ApiError, json_response};
use crate::fields::Fields;
use crate::worker::Health;

/// `GET /health`: 200 where a request would be answered, 503 while the model is loaded.
pub(crate) fn health(app: &App) -> Response<Body> {
    let (status, text) = match app.door.shared.health() {
        Health::Ready => (StatusCode::OK, "ok".to_owned()),
        Health::Released => (StatusCode::OK, "released".to_owned()),
        Health::Loading => (StatusCode::SERVICE_UNAVAILABLE, "loading".to_owned()),
        Health::Failed(problem) => (StatusCode::SERVICE_UNAVAILABLE, problem),
    };
    json_response(status, &json!({"status": text}))
}

/// `GET /metrics`, as Prometheus reads it.
pub(crate) fn metrics(app: &App) -> Response<Body> {
    let mut response = Response::new(Body::from(app.door.shared.metrics.show(app.door.queued())));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// `POST /tokenize`: `content` to `tokens`. Special tokens are read as such unless `parse_special` is false.
pub(crate) async fn tokenize(app: Arc<App>, body: Value) -> Result<Response<Body>, ApiError> {
    let fields = Fields::of(&body, "")?;
    let text = fields.required("content", fields.text("content")?)?;
    let tokens = app.model.encode(text, fields.flag("parse_special")?.unwrap_or(true))?;
    Ok(json_response(StatusCode::OK, &json!({"tokens": tokens})))
}

/// `POST /detokenize`: `tokens` to `content`.
pub(crate) async fn detokenize(app: Arc<App>, body: Value) -> Result<Response<Body>, ApiError> {
    let fields = Fields::of(&body, "")?;
    let problem = || ApiError::field("tokens", "must be an array of token ids");
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(problem);
    let tokens = fields.required("tokens", fields.list("tokens")?)?;
    let tokens = tokens.iter().map(id).collect::<Result<Vec<u32>, _>>()?;
    Ok(json_response(StatusCode::OK, &json!({"content": app.model.tokenizer.decode(&tokens)})))
}

/// `POST /apply-template`: a conversation to the `prompt` that the model would see.
pub(crate) async fn apply_template(app: Arc<App>, body: Value) -> Result<Response<Body>, ApiError> {
    let fields = Fields::of(&body, "")?;
    let chat: Chat = crate::openai::chat::read(&fields, &app.model)?;
    let answer = fields.flag("add_generation_prompt")?.unwrap_or(true);
    let prompt = app.model.render(&chat, &chat.messages, answer)?;
    Ok(json_response(StatusCode::OK, &json!({"prompt": prompt})))
}
