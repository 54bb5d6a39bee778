//! Many requests at once without a network: each goes the way of a client's.

use std::ops::ControlFlow;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use serde_json::Value;
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::worker::{Health, RUNNING_MAX};
use crate::{Access, Loader, Model, Started};

/// Requests under way at most: those that run together, and some that begin as soon as one of them ends.
const UNDER_WAY_MAX: usize = RUNNING_MAX + 8;
/// It is seen this soon that the work is to stop.
const STOPPED_EVERY: Duration = Duration::from_millis(100);
/// Bytes of a reply at most.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// A request of a batch.
pub struct Question {
    /// Its number in the batch.
    pub number: usize,
    /// The route that answers it, such as `/v1/chat/completions`.
    pub path: String,
    /// What the route takes.
    pub body: Value,
}

/// What became of a request.
pub struct Reply {
    /// The request's number.
    pub number: usize,
    /// As in HTTP.
    pub status: u16,
    /// The answer, or the error as the route tells it.
    pub body: Value,
}

/// Answers what `next` gives, as many together as memory holds, and gives each reply to `done` as it comes, until all are
/// answered, or `done` or `stopped` says that it is enough.
///
/// # Errors
/// When the model cannot be loaded, or the system gives no thread.
pub fn batch(
    model: Model,
    load: Loader,
    next: &mut dyn FnMut() -> Option<Question>,
    done: &mut dyn FnMut(Reply) -> ControlFlow<()>,
    stopped: fn() -> bool,
) -> Result<(), String> {
    // Nothing is loaded for nothing.
    let Some(first) = next() else { return Ok(()) };
    let started = Started::new(model, Access::default(), load, None, None)?;
    started.run(async |router, door, mut failed| {
        let mut under_way = JoinSet::new();
        let mut more = true;
        under_way.spawn(ask(router.clone(), first));
        while !stopped() {
            while more && under_way.len() < UNDER_WAY_MAX {
                match next() {
                    Some(question) => drop(under_way.spawn(ask(router.clone(), question))),
                    None => more = false,
                }
            }
            tokio::select! {
                biased;
                () = &mut failed => break,
                joined = under_way.join_next() => match joined {
                    None => break,
                    // Without a model no request is to blame.
                    Some(Ok(_)) if matches!(door.shared.health(), Health::Failed(_)) => break,
                    Some(Ok(reply)) => if done(reply).is_break() { break },
                    Some(Err(error)) => return Err(std::io::Error::other(error)),
                },
                () = tokio::time::sleep(STOPPED_EVERY) => {}
            }
        }
        Ok(())
    })
}

async fn ask(router: Router, question: Question) -> Reply {
    let Question { number, path, body } = question;
    let request = Request::post(&path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_string()));
    let request = match request {
        Ok(request) => request,
        Err(error) => return Reply { number, status: 400, body: error.to_string().into() },
    };
    // The router has no errors of its own.
    let Ok(response) = router.oneshot(request).await;
    let status = response.status().as_u16();
    let (status, body) = match to_bytes(response.into_body(), REPLY_BYTES_MAX).await {
        Ok(bytes) => {
            (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into()))
        }
        Err(error) => (500, error.to_string().into()),
    };
    Reply { number, status, body }
}
