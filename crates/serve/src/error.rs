//! What is said of a request that cannot be answered, in the words of each API.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use serde_json::{Value, json};

/// Whose error objects are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    OpenAi,
    Anthropic,
    Ollama,
}

impl Api {
    /// The API that a path belongs to.
    pub(crate) fn of_path(path: &str) -> Api {
        if path.starts_with("/v1/messages") {
            Api::Anthropic
        } else if path.starts_with("/api/") {
            Api::Ollama
        } else {
            Api::OpenAi
        }
    }
}

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    /// The field of the request that it is about.
    pub(crate) param: Option<String>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError { status, message: message.into(), param: None }
    }

    /// A request that makes no sense.
    pub(crate) fn bad(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, message)
    }

    /// A field that makes no sense; `problem` goes on after its name.
    pub(crate) fn field(name: &str, problem: &str) -> ApiError {
        ApiError { param: Some(name.to_owned()), ..ApiError::bad(format!("{name}: {problem}")) }
    }

    /// What went wrong while a request was served; it may be sent again.
    pub(crate) fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    fn kind(&self, api: Api) -> &'static str {
        match (self.status.as_u16(), api) {
            (400, _) => "invalid_request_error",
            (401, _) => "authentication_error",
            (403, _) => "permission_error",
            (404, _) => "not_found_error",
            (408, _) => "timeout_error",
            (413, Api::Anthropic) => "request_too_large",
            (405 | 413 | 431, _) => "invalid_request_error",
            (429, _) => "rate_limit_error",
            (501, _) => "not_implemented_error",
            (503, Api::Anthropic) => "overloaded_error",
            (503, _) => "unavailable_error",
            (_, Api::Anthropic) => "api_error",
            _ => "server_error",
        }
    }

    /// The error object.
    pub(crate) fn body(&self, api: Api) -> Value {
        let kind = self.kind(api);
        match api {
            Api::OpenAi => json!({"error": {
                "message": self.message, "type": kind, "param": self.param, "code": self.status.as_u16(),
            }}),
            Api::Anthropic => json!({"type": "error", "error": {"type": kind, "message": self.message}}),
            Api::Ollama => json!({"error": self.message}),
        }
    }

    pub(crate) fn response(&self, api: Api) -> Response<Body> {
        let mut response = json_response(self.status, &self.body(api));
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("5"));
        }
        response
    }
}

/// A response of JSON.
pub(crate) fn json_response(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
