//! A model behind HTTP: what all routes share. `routes` is the route table.
//!
//! One thread owns the engine (`worker`); `async` is for connections only.

#![forbid(unsafe_code)]

mod anthropic;
mod batch;
mod chat;
mod collected;
mod connection;
mod error;
mod fields;
mod forms;
mod guard;
mod ids;
mod live;
mod metrics;
mod ollama;
mod openai;
mod page;
mod plain;
mod replay;
mod routes;
mod stream;
mod turn;
mod worker;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, Response, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};

pub use batch::{Question, Reply, batch};
pub use chat::Model;
pub use guard::Access;
pub use routes::http_page;
pub use worker::{Loader, States};

use connection::Bodies;
use error::{Api, ApiError};
use forms::Forms;
use replay::Replay;
use worker::Door;

/// Bytes that serving itself takes at most, beside the engine: bodies that are read, prompts and answers under way,
/// connections and threads; and for a vocabulary of so many tokens the logits and penalties of all that runs (9 bytes each a
/// token) and the tree of tokens that grammars search.
pub fn serve_bytes(vocab: usize) -> usize {
    (48 << 20) + vocab * (9 * worker::RUNNING_MAX + 128)
}

/// What all routes share.
struct App {
    model: Arc<Model>,
    door: Door,
    replay: Arc<Replay>,
    forms: Forms,
    bodies: Bodies,
    access: Access,
    began_s: u64,
}

/// Serves on `listener` until the process is told to end (SIGTERM, Ctrl-C): then no new connection is taken, and the answers
/// under way are finished. A second Ctrl-C ends them. `states` are kept on a drive.
///
/// # Errors
/// When the model cannot be loaded, or the system gives no thread or timer.
pub fn serve(
    listener: std::net::TcpListener,
    model: Model,
    access: Access,
    load: Loader,
    states: Option<States>,
    idle_release: Option<Duration>,
) -> Result<(), String> {
    Started::new(model, access, load, states, idle_release)?.run(async |router, door, failed| {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let signals = signals(door)?;
        let ended = async {
            tokio::select! {
                () = signals => {},
                () = failed => {},
            }
        };
        connection::serve(listener, router, ended).await;
        Ok(())
    })
}

/// The engine's thread, and threads for those who ask it.
struct Started {
    runtime: tokio::runtime::Runtime,
    engine: std::thread::JoinHandle<Result<(), String>>,
    /// Told when the engine's thread has ended.
    ended: tokio::sync::oneshot::Receiver<()>,
    door: Door,
    router: Router,
}

impl Started {
    fn new(
        model: Model,
        access: Access,
        load: Loader,
        states: Option<States>,
        idle_release: Option<Duration>,
    ) -> Result<Started, String> {
        let (worker, door) = worker::worker(load, model.tokenizer.clone(), states, idle_release);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(4).enable_all().build();
        let runtime = runtime.map_err(|error| format!("no threads for connections: {error}"))?;
        let (end, ended) = tokio::sync::oneshot::channel();
        let engine = std::thread::Builder::new().name("engine".into()).spawn(move || {
            let done = worker.run();
            // The other side waits for a failure only.
            let _ = end.send(());
            done
        });
        let engine = engine.map_err(|error| format!("no thread for the engine: {error}"))?;
        let app = App {
            model: Arc::new(model),
            door: door.clone(),
            replay: Arc::default(),
            forms: Forms::default(),
            bodies: Bodies::default(),
            access,
            began_s: ids::now_s(),
        };
        Ok(Started { runtime, engine, ended, door, router: router(Arc::new(app)) })
    }

    /// Runs `work`, which is given the routes, the way to the engine, and what resolves when the engine fails; then ends the
    /// engine.
    fn run(
        self,
        work: impl AsyncFnOnce(Router, Door, Pin<Box<dyn Future<Output = ()>>>) -> std::io::Result<()>,
    ) -> Result<(), String> {
        let Started { runtime, engine, ended, door, router } = self;
        let failed = Box::pin(async {
            // A thread that ends without a word has failed as well.
            let _ = ended.await;
        });
        let worked = runtime.block_on(work(router, door.clone(), failed));
        door.stop();
        drop(door);
        runtime.shutdown_timeout(Duration::from_secs(1));
        engine.join().map_err(|_| "the engine's thread ended".to_owned())??;
        worked.map_err(|error| format!("cannot serve: {error}"))
    }
}

/// Resolves at the first signal to end; the second one ends every answer.
fn signals(door: Door) -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    Ok(async move {
        let [terminate, interrupt] = &mut signals;
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} };
        door.drain();
        tokio::spawn(async move {
            let [terminate, interrupt] = &mut signals;
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} };
            door.stop();
        });
    })
}

/// The routes, and what holds for all of them.
fn router(app: Arc<App>) -> Router {
    routes::router()
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app.clone(), guarded))
        .with_state(app)
}

async fn no_such_path(request: Request) -> Response<Body> {
    let path = request.uri().path();
    let (status, problem) = match path {
        "/v1/embeddings" => {
            (StatusCode::NOT_IMPLEMENTED, "a language model for answers makes no embeddings".to_owned())
        }
        _ => (StatusCode::NOT_FOUND, format!("there is no {path:?} here")),
    };
    ApiError::new(status, problem).response(Api::of_path(path))
}

async fn wrong_method(request: Request) -> Response<Body> {
    let problem = format!("{:?} does not take {}", request.uri().path(), request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, problem).response(Api::of_path(request.uri().path()))
}

/// Lets pass who may ask, and answers a web page's question whether it may.
async fn guarded(State(app): State<Arc<App>>, request: Request, next: Next) -> Response<Body> {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let path = request.uri().path();
    let header_bytes: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if header_bytes > connection::HEADER_BYTES_MAX {
        let problem = format!("the headers are larger than {} bytes", connection::HEADER_BYTES_MAX);
        return ApiError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, problem).response(Api::of_path(path));
    }
    let mut response = match app.access.check(request.method(), path, request.headers()) {
        Err(error) => error.response(Api::of_path(path)),
        Ok(()) if *request.method() == Method::OPTIONS => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Ok(()) => next.run(request).await,
    };
    app.access.share(origin.as_ref(), asked, response.headers_mut());
    response
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use axum::body::to_bytes;
    use outpour_engine::sample::Sampling;
    use outpour_text::Tokenizer;
    use tower::ServiceExt;

    use super::*;

    fn model() -> Model {
        let json = include_bytes!("../../../tests/fixtures/text/tokenizer.json");
        let tokenizer = Arc::new(Tokenizer::from_json(json, None).expect("the fixture"));
        Model {
            name: "model".into(),
            bytes: 0,
            format: "safetensors",
            family: "qwen3_moe",
            parameters: 0,
            vocab: tokenizer.vocab_size(),
            tokenizer,
            template: None,
            stop_tokens: Vec::new(),
            sampling: Sampling::default(),
            ctx: 64,
            recurrent: false,
        }
    }

    async fn ask(router: &Router, request: axum::http::request::Builder, body: &str) -> (StatusCode, String) {
        let request = request.header(header::HOST, "localhost").body(Body::from(body.to_owned())).expect("a request");
        let Ok(response) = router.clone().oneshot(request).await;
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// While the model is loaded, and where it cannot be, there is no health, and requests are refused with the reason.
    #[test]
    fn a_server_is_not_healthy_before_its_model_is_there() {
        let (go, gone) = channel();
        let load: Loader = Box::new(move |_| {
            gone.recv().map_err(|_| "nobody says go".to_owned())?;
            Err("no such weights".into())
        });
        let started = Started::new(model(), Access::default(), load, None, None).expect("threads");
        let ended = started.run(async |router, _, failed| {
            let (status, body) = ask(&router, Request::get("/health"), "").await;
            assert_eq!((status, body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "{\"status\":\"loading\"}"));
            let prompt = "{\"prompt\": \"a\"}";
            let waiting = ask(&router, Request::post("/v1/completions"), prompt);
            let loads = async {
                go.send(()).expect("it waits");
                failed.await;
            };
            let ((status, body), ()) = tokio::join!(waiting, loads);
            assert!(status == StatusCode::SERVICE_UNAVAILABLE && body.contains("no such weights"), "{status} {body}");
            let (status, body) = ask(&router, Request::get("/health"), "").await;
            assert!(status == StatusCode::SERVICE_UNAVAILABLE && body.contains("no such weights"), "{status} {body}");
            let (status, _) = ask(&router, Request::post("/v1/completions"), prompt).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            Ok(())
        });
        assert_eq!(ended, Err("no such weights".into()));
    }
}
