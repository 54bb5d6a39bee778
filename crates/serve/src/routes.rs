//! The route table. The router is made of it, and so is `docs/http.md`: what it says is what is there.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::Response;
use axum::routing::{MethodRouter, get, post};
use serde_json::Value;

use crate::error::{Api, ApiError};
use crate::{App, anthropic, connection, live, ollama, openai, page, plain, worker};

/// A path, and who answers it.
struct Route {
    /// Whose API it is: a heading of the page.
    api: &'static str,
    method: &'static str,
    path: &'static str,
    /// What it does, for the page.
    does: &'static str,
    /// Of a GET a path to ask for, of a POST a body to send: for the page.
    example: &'static str,
    answer: MethodRouter<Arc<App>>,
}

impl Route {
    fn get(
        api: &'static str,
        path: &'static str,
        answer: MethodRouter<Arc<App>>,
        does: &'static str,
        example: &'static str,
    ) -> Route {
        Route { api, method: "GET", path, does, example, answer }
    }

    fn post(
        api: &'static str,
        path: &'static str,
        answer: MethodRouter<Arc<App>>,
        does: &'static str,
        example: &'static str,
    ) -> Route {
        Route { api, method: "POST", path, does, example, answer }
    }
}

fn table() -> Vec<Route> {
    vec![
        Route::post(
            "OpenAI",
            "/v1/chat/completions",
            answers(openai::chat::create),
            "The next message of a conversation: with `stream`, `tools` and `tool_choice`, `response_format`, `logprobs`, \
             `reasoning_effort` and `chat_template_kwargs`. `return_progress` tells in the stream how far a long prompt is.",
            r#"{"messages": [{"role": "user", "content": "Tell me a story about a fox."}], "stream": true}"#,
        ),
        Route::post(
            "OpenAI",
            "/v1/completions",
            answers(openai::completions::create),
            "A text continued as it stands, without a template. `prompt` is a text, several, or token ids; `echo` with `logprobs` \
             scores the prompt itself.",
            r#"{"prompt": "Once there was a fox", "max_tokens": 32}"#,
        ),
        Route::post(
            "OpenAI",
            "/v1/responses",
            answers(openai::responses::create),
            "The same as items. Nothing is stored, so the whole conversation is sent each time: `previous_response_id`, `conversation`, `prompt` and `background` are refused.",
            r#"{"input": "What is 17 + 25?", "max_output_tokens": 64}"#,
        ),
        Route::get(
            "OpenAI",
            "/v1/models",
            shows(openai::models),
            "The one model that is served, and its context.",
            "/v1/models",
        ),
        Route::get(
            "OpenAI",
            "/v1/models/{*id}",
            get(model),
            "The same by its name, which is the folder's unless `--name` says otherwise.",
            "/v1/models/demo",
        ),
        Route::post(
            "Anthropic",
            "/v1/messages",
            answers(anthropic::create),
            "The next message of a conversation, with `stream`, `tools` and `thinking`.",
            r#"{"max_tokens": 64, "messages": [{"role": "user", "content": "What is 17 + 25?"}]}"#,
        ),
        Route::post(
            "Anthropic",
            "/v1/messages/count_tokens",
            answers(anthropic::count_tokens),
            "How many tokens a conversation is, with its system message and tools.",
            r#"{"messages": [{"role": "user", "content": "What is 17 + 25?"}]}"#,
        ),
        Route::post(
            "Ollama",
            "/api/chat",
            answers(ollama::chat),
            "The next message of a conversation, streamed as lines of JSON unless `stream` is false.",
            r#"{"messages": [{"role": "user", "content": "What is 17 + 25?"}], "stream": false}"#,
        ),
        Route::post(
            "Ollama",
            "/api/generate",
            answers(ollama::generate),
            "The answer to a prompt; with `raw` the prompt continued as it stands.",
            r#"{"prompt": "What is 17 + 25?", "stream": false}"#,
        ),
        Route::get("Ollama", "/api/tags", shows(ollama::tags), "The one model that is served.", "/api/tags"),
        Route::get(
            "Ollama",
            "/api/ps",
            shows(ollama::ps),
            "The same while it is in memory, and how much it may take.",
            "/api/ps",
        ),
        Route::post(
            "Ollama",
            "/api/show",
            answers(ollama::show),
            "What it is, its template, and what it can do (`capabilities`).",
            r#"{"model": "demo"}"#,
        ),
        Route::get(
            "Ollama",
            "/api/version",
            shows(ollama::version),
            "The version of Ollama whose API this follows, as clients check it; `outpour` is the server's own.",
            "/api/version",
        ),
        Route::post(
            "Tokens and text",
            "/tokenize",
            answers(plain::tokenize),
            "The `tokens` of a text. Special tokens are read as such unless `parse_special` is false.",
            r#"{"content": "Once there was a fox"}"#,
        ),
        Route::post(
            "Tokens and text",
            "/detokenize",
            answers(plain::detokenize),
            "The text of tokens, as `content`.",
            r#"{"tokens": [1, 2, 3]}"#,
        ),
        Route::post(
            "Tokens and text",
            "/apply-template",
            answers(plain::apply_template),
            "The `prompt` that the model would see of a conversation.",
            r#"{"messages": [{"role": "user", "content": "What is 17 + 25?"}]}"#,
        ),
        Route::get(
            "The server",
            "/health",
            shows(plain::health),
            "200 where a request would be answered, 503 while the model is loaded or when it failed, with the reason as `status`. It \
             asks for no key.",
            "/health",
        ),
        Route::get(
            "The server",
            "/metrics",
            shows(plain::metrics),
            "Counters as Prometheus reads them: requests, tokens, experts found and read, bytes, times.",
            "/metrics",
        ),
        Route::get(
            "The page",
            "/",
            get(page::show),
            "A page to chat with the model in a browser, beside what the machine does.",
            "/",
        ),
        Route::get("The page", "/page/{file}", get(page::show), "Its files.", "/page/app.js"),
        Route::get(
            "The page",
            "/live",
            get(live),
            "What the machine does, as server-sent events: [the page](page.md) shows it.",
            "/live",
        ),
    ]
}

/// Every route of the table.
pub(crate) fn router() -> Router<Arc<App>> {
    table().into_iter().fold(Router::new(), |router, route| router.route(route.path, route.answer))
}

/// `docs/http.md`: every route, from the table above.
pub fn http_page() -> String {
    let [body_mib, header_kib] = [connection::BODY_BYTES_MAX >> 20, connection::HEADER_BYTES_MAX >> 10];
    let mut page = format!(
        "# HTTP

This page is made from `crates/serve/src/routes.rs` by `cargo run -p outpour-serve --example http_page > docs/http.md`;
`tests/docs.rs` sends each example to a server.

`outpour serve demo` serves the built-in model at `http://127.0.0.1:8420`. One process serves one model, under any name that a
request gives as `model`. What a route does not know of a request it ignores; what it knows and cannot do it refuses, by the
field's name.

- **Key.** With `--api-key`, requests bring it as `Authorization: Bearer KEY` or `x-api-key: KEY`.
- **Web pages.** Those of an origin given by `--cors` may call, and no others; and the server answers to `localhost`, to addresses
  in numbers and to its `--host` only.
- **Sampling.** `temperature`, `top_k`, `top_p`, `min_p`, the penalties, `logit_bias`, `seed` and `stop` (which ends what is said, not thoughts) are understood
  wherever text is generated. What is not given comes from the model's generation_config.json.
- **Schemas.** `response_format`, `format`, tools that are `strict` and calls that are asked for hold the answer to a JSON schema. To
  `not`, `if`, `then`, `else`, `uniqueItems`, `contains`, `propertyNames`, `dependentSchemas`, `dependentRequired` and the
  `unevaluated` keywords no answer can be held: such a schema is refused, by the keyword. So is a `$ref` that leads to nothing, in
  the schema of any tool.
- **Streams.** A stream that has nothing to say yet, because a long prompt is computed, says so every {keep_alive} seconds. A client
  that goes away ends its answer.
- **Limits.** {running} requests run at once as far as memory allows, {queue} more wait, further ones get 429. A body holds at most
  {body_mib} MiB, the headers {header_kib} KiB.
- **Errors** are objects as the route's API has them: 400 for what makes no sense, 401 for a missing key, 403 for a page or name that may
  not call, 404 and 405 for a path or method that is not below, 413 and 431 for what is too large, 429 where too many wait, 503 while
  the model is loaded or where its drive failed.
",
        keep_alive = crate::stream::KEEP_ALIVE.as_secs(),
        running = worker::RUNNING_MAX,
        queue = worker::QUEUE_MAX,
    );
    let mut api = "";
    for route in table() {
        if route.api != api {
            api = route.api;
            page += &format!("\n## {api}\n");
        }
        let Route { method, path, does, example, .. } = route;
        let call = match method {
            "GET" => format!("curl http://127.0.0.1:8420{example}"),
            _ => format!("curl http://127.0.0.1:8420{path} -d '{example}'"),
        };
        page += &format!("\n### `{method} {}`\n\n{does}\n\n```sh\n{call}\n```\n", path.replace("{*", "{"));
    }
    page
}

/// A route that reads JSON.
fn answers<F>(answer: fn(Arc<App>, Value) -> F) -> MethodRouter<Arc<App>>
where
    F: Future<Output = Result<Response<Body>, ApiError>> + Send + 'static,
{
    post(move |State(app): State<Arc<App>>, request: Request| async move {
        let api = Api::of_path(request.uri().path());
        let answered = match app.bodies.json(request).await {
            Ok(body) => answer(app, body).await,
            Err(error) => Err(error),
        };
        answered.unwrap_or_else(|error| error.response(api))
    })
}

/// A route that shows something.
fn shows(show: fn(&App) -> Response<Body>) -> MethodRouter<Arc<App>> {
    get(move |State(app): State<Arc<App>>| async move { show(&app) })
}

async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response<Body> {
    openai::model(&app, &id).unwrap_or_else(|error| error.response(Api::OpenAi))
}

async fn live(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Response<Body> {
    live::watch(app, query.as_deref()).unwrap_or_else(|error| error.response(Api::OpenAi))
}
