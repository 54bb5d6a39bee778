//! Responses that are sent while they are made.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, header};
use serde_json::Value;
use tokio::sync::mpsc::{Sender, channel};
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;

use crate::error::ApiError;
use crate::turn::{Said, Turn};

/// Chunks that a client may be behind before its answer waits.
const CHUNKS_MAX: usize = 16;
/// Silence is broken this often, so that nobody between takes the connection for dead.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The client's end of a response.
pub(crate) struct Out(Sender<Result<Bytes, Infallible>>);

/// The client is gone.
#[derive(Debug)]
pub(crate) struct Gone;

/// Why an answer breaks off.
pub(crate) enum Broken {
    Gone,
    Failed(ApiError),
}

impl From<Gone> for Broken {
    fn from(_: Gone) -> Broken {
        Broken::Gone
    }
}

impl Out {
    pub(crate) async fn text(&self, text: impl Into<Bytes>) -> Result<(), Gone> {
        self.0.send(Ok(text.into())).await.map_err(|_| Gone)
    }

    /// An event without a name.
    pub(crate) async fn data(&self, data: &Value) -> Result<(), Gone> {
        self.text(format!("data: {data}\n\n")).await
    }

    /// An event with its name.
    pub(crate) async fn event(&self, name: &str, data: &Value) -> Result<(), Gone> {
        self.text(format!("event: {name}\ndata: {data}\n\n")).await
    }

    /// Resolves when the client is gone.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }

    /// What the answer says next. Meanwhile `ping` breaks the silence, where there is any.
    pub(crate) async fn next(&self, turn: &mut Turn, ping: Option<&'static str>) -> Result<Option<Said>, Broken> {
        loop {
            tokio::select! {
                said = turn.next() => return said.map_err(Broken::Failed),
                () = self.closed() => return Err(Broken::Gone),
                () = sleep(KEEP_ALIVE), if ping.is_some() => self.text(ping.unwrap_or_default()).await?,
            }
        }
    }
}

/// A comment of server-sent events.
pub(crate) const COMMENT: Option<&str> = Some(": still here\n\n");

/// A response that `write` makes. It has begun when the answer has: what fails before has a status of its own.
pub(crate) async fn streamed<F>(
    content_type: &'static str,
    mut turn: Turn,
    write: impl FnOnce(Turn, Out) -> F,
) -> Result<Response<Body>, ApiError>
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    turn.begin().await?;
    Ok(written_by(content_type, |out| write(turn, out)))
}

/// A response that `write` goes on making after it has begun.
pub(crate) fn written_by<F>(content_type: &'static str, write: impl FnOnce(Out) -> F) -> Response<Body>
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (sender, receiver) = channel(CHUNKS_MAX);
    let written = write(Out(sender));
    tokio::spawn(async move {
        // Nobody is left to be told that nobody is left.
        let _ = written.await;
    });
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(receiver)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// The content type of server-sent events.
pub(crate) const EVENTS: &str = "text/event-stream";

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::worker::{Event, Token};

    /// A client that hears nothing is told that the server is still there, and then what there is to say.
    #[test]
    fn silence_is_broken() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let (events, receiver) = mpsc::channel(1);
            let mut turn = Turn::new(receiver, None, None, 1);
            let (sender, mut chunks) = channel(CHUNKS_MAX);
            let out = Out(sender);
            let hears = async {
                let heard = chunks.recv().await.expect("it is not closed").expect("bytes");
                assert_eq!(heard, COMMENT.unwrap_or_default());
                let token = Token { text: "Once".into(), score: None };
                events.send(Event::Token(token)).await.expect("it listens");
            };
            let (said, ()) = tokio::join!(out.next(&mut turn, COMMENT), hears);
            assert!(matches!(said, Ok(Some(Said::Text(text))) if text == "Once"));
        });
    }
}
