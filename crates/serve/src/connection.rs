//! Connections: each one is limited in headers, in body and in patience, and all of them in number.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Sleep, sleep, timeout};
use tokio_stream::StreamExt;

use crate::error::ApiError;

/// Connections at most; further ones are closed at once.
const CONNECTIONS_MAX: usize = 512;
/// Bytes of a request's first line and headers.
pub(crate) const HEADER_BYTES_MAX: usize = 32 << 10;
/// Its headers.
const HEADERS_MAX: usize = 100;
/// Bytes of a body.
pub(crate) const BODY_BYTES_MAX: usize = 8 << 20;
/// Bytes of all bodies that are being read.
const BODIES_BYTES_MAX: usize = 32 << 20;
/// Time for the headers to come, and for a body.
const HEADER_TIME_MAX: Duration = Duration::from_secs(15);
const BODY_TIME_MAX: Duration = Duration::from_secs(60);
/// Time that a client may take nothing of what it is sent.
const STALL_TIME_MAX: Duration = Duration::from_secs(30);

/// Serves until `ended`, then lets the answers under way come to their end.
pub(crate) async fn serve(listener: TcpListener, router: Router, ended: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::pin!(ended);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Such as too many open files: others may end meanwhile.
                Err(_) => {
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = &mut ended => break,
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        // A token is sent as soon as it is there.
        let _ = stream.set_nodelay(true);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME_MAX)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEADER_BYTES_MAX)
            .serve_connection(TokioIo::new(Patient::new(stream)), TowerToHyperService::new(router.clone()));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // What goes wrong with a connection is its client's to know.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// A stream that breaks off when its client takes nothing for [`STALL_TIME_MAX`].
struct Patient {
    stream: TcpStream,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream) -> Patient {
        Patient { stream, stalled: None }
    }

    fn progress<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stalled = None;
            return poll;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALL_TIME_MAX)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.progress(cx, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Reads a body that is not wanted, within bounds: a client that is still sending would not see the answer otherwise.
async fn discard(request: Request) {
    let mut body = request.into_body().into_data_stream();
    let read = async {
        let mut left = 4 * BODY_BYTES_MAX;
        while let Some(Ok(bytes)) = body.next().await {
            left = left.saturating_sub(bytes.len());
            if left == 0 {
                return;
            }
        }
    };
    let _ = timeout(HEADER_TIME_MAX, read).await;
}

/// Room for the bodies that are being read.
pub(crate) struct Bodies(Semaphore);

impl Default for Bodies {
    fn default() -> Self {
        Bodies(Semaphore::new(BODIES_BYTES_MAX >> 10))
    }
}

impl Bodies {
    /// The JSON of a request's body.
    pub(crate) async fn json(&self, request: Request) -> Result<Value, ApiError> {
        let length = request.headers().get(header::CONTENT_LENGTH);
        if length
            .and_then(|length| length.to_str().ok()?.parse().ok())
            .is_some_and(|bytes: usize| bytes > BODY_BYTES_MAX)
        {
            discard(request).await;
            return Err(too_large());
        }
        let late = |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
        let (body, _room) = timeout(BODY_TIME_MAX, self.read(request)).await.map_err(late)??;
        serde_json::from_slice(&body).map_err(|error| ApiError::bad(format!("the body is no JSON: {error}")))
    }

    /// A body, and the room that it takes: only for what has come, so that slow clients keep no others waiting.
    async fn read(&self, request: Request) -> Result<(Vec<u8>, SemaphorePermit<'_>), ApiError> {
        let unread = |problem: String| ApiError::bad(format!("the body cannot be read: {problem}"));
        let mut room = self.take(0).await?;
        let mut stream = request.into_body().into_data_stream();
        let mut body = Vec::new();
        while let Some(part) = stream.next().await {
            let part = part.map_err(|error| unread(error.to_string()))?;
            if body.len() + part.len() > BODY_BYTES_MAX {
                return Err(too_large());
            }
            body.extend_from_slice(&part);
            room.merge(self.take(body.len().div_ceil(1 << 10) - room.num_permits()).await?);
        }
        Ok((body, room))
    }

    /// Room of so many KiB.
    async fn take(&self, kib: usize) -> Result<SemaphorePermit<'_>, ApiError> {
        self.0.acquire_many(kib as u32).await.map_err(|_| ApiError::unavailable("the server is ending"))
    }
}

fn too_large() -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {BODY_BYTES_MAX} bytes"))
}
