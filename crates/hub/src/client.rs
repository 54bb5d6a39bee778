//! Requests to the hub: who is told the token, which redirects are followed, what is tried again.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::{Response, StatusCode, Uri};
use ureq::{Agent, Body};

use crate::{HubError, ModelName, Patience, Result, Settings};

/// What stays as it is in a part of a path.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// Redirects in a row.
const REDIRECTS_MAX: usize = 8;
/// Without a byte for so long, a connection counts as broken.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How often a wait looks whether it is still wanted.
const TICK: Duration = Duration::from_millis(50);
/// Largest answer that is read whole: a list of a hundred thousand files.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Why a request brought nothing.
#[derive(Debug)]
pub enum Failure {
    /// The server refused.
    Status { host: String, status: u16, code: String, retry_after: Option<u64> },
    /// There was no answer, or it broke off.
    Network { host: String, why: String },
    /// The answer makes no sense.
    Protocol { host: String, why: String },
    /// Something on this machine; final.
    Here(HubError),
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Failure::Here(error)
    }
}

/// What is asked of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Its hash and size: redirects to other hosts are not followed.
    Head,
    /// All of it.
    All,
    /// Its bytes from one on, up to another if given.
    Range(u64, Option<u64>),
}

/// Speaks with one hub.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    authorization: Option<String>,
    pub patience: Patience,
    pub tell: fn(&str),
}

/// Scheme, host and port: who is told the token.
type Origin = (String, String, u16);

fn origin(uri: &Uri) -> Option<Origin> {
    let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme))?;
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme.to_owned(), uri.host()?.to_ascii_lowercase(), port))
}

fn host(uri: &Uri) -> String {
    uri.authority().map_or_else(String::new, |authority| {
        let text = authority.as_str();
        // Whatever stands before an @ is a password.
        text.rsplit_once('@').map_or(text, |(_, host)| host).to_owned()
    })
}

impl Client {
    /// Asks nobody yet.
    pub fn new(settings: Settings, patience: Patience, tell: fn(&str)) -> Result<Client> {
        let Settings { endpoint, token, .. } = settings;
        let parsed = endpoint.parse::<Uri>().ok().filter(|uri| uri.query().is_none());
        let origin = parsed.as_ref().and_then(origin).ok_or_else(|| {
            HubError::Settings("HF_ENDPOINT is no address: give one such as https://huggingface.co, or unset it".into())
        })?;
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(HubError::Settings(
                "HF_TOKEN holds characters that no token has: set it again, or log in again with `hf auth login`"
                    .into(),
            ));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("outpour/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(SILENCE_MAX))
            .timeout_per_read(Some(SILENCE_MAX));
        let authorization = token.map(|token| format!("Bearer {token}"));
        Ok(Client { agent: config.build().into(), endpoint, origin, authorization, patience, tell })
    }

    /// Whom it speaks with.
    pub fn host(&self) -> String {
        self.endpoint.parse().as_ref().map_or_else(|_| String::new(), host)
    }

    /// The address of what the hub knows of the newest version of a model.
    pub fn api_url(&self, name: &ModelName) -> String {
        format!("{}/api/models/{}/revision/main?blobs=true", self.endpoint, name.repo_id())
    }

    /// The address of a file of one version.
    pub fn file_url(&self, name: &ModelName, commit: &str, path: &str) -> String {
        let parts: Vec<String> = path.split('/').map(|part| utf8_percent_encode(part, KEPT).to_string()).collect();
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, name.repo_id(), parts.join("/"))
    }

    /// One try, redirects followed. The token goes to the hub alone, and nothing goes from https to http.
    pub fn ask(&self, url: &str, ask: Ask) -> Result<Response<Body>, Failure> {
        let mut uri: Uri = url.parse().map_err(|_| protocol("?", "an address that is none"))?;
        for _ in 0..=REDIRECTS_MAX {
            let response = self.ask_one(&uri, ask)?;
            let status = response.status();
            if !status.is_redirection() {
                return if status.is_success() { Ok(response) } else { Err(refusal(&uri, &response)) };
            }
            let next = response.headers().get("location").and_then(|location| location.to_str().ok());
            let next = next.and_then(|location| target(&uri, location));
            let next = next.ok_or_else(|| protocol(&host(&uri), "a redirect to nowhere"))?;
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(protocol(&host(&uri), "a redirect from https to http"));
            }
            if ask == Ask::Head && origin(&next) != origin(&uri) {
                return Ok(response);
            }
            uri = next;
        }
        Err(protocol(&host(&uri), "more redirects than are followed"))
    }

    fn ask_one(&self, uri: &Uri, ask: Ask) -> Result<Response<Body>, Failure> {
        let mut request = match ask {
            Ask::Head => self.agent.head(uri.clone()),
            Ask::All | Ask::Range(..) => self.agent.get(uri.clone()),
        };
        if origin(uri).as_ref() == Some(&self.origin)
            && let Some(authorization) = &self.authorization
        {
            request = request.header("authorization", authorization);
        }
        request = match ask {
            Ask::Range(from, Some(end)) => request.header("range", format!("bytes={from}-{}", end.saturating_sub(1))),
            Ask::Range(from, None) => request.header("range", format!("bytes={from}-")),
            Ask::Head | Ask::All => request,
        };
        request
            .header("accept-encoding", "identity")
            .call()
            .map_err(|error| Failure::Network { host: host(uri), why: error.to_string() })
    }

    /// An answer read whole.
    pub fn read(&self, url: &str, ask: Ask) -> Result<Vec<u8>, Failure> {
        let host = url.parse().as_ref().map_or_else(|_| String::new(), host);
        let mut bytes = Vec::new();
        let body = self.ask(url, ask)?.into_body().into_reader().take(ANSWER_BYTES_MAX + 1).read_to_end(&mut bytes);
        body.map_err(|error| Failure::Network { host: host.clone(), why: error.to_string() })?;
        if bytes.len() as u64 > ANSWER_BYTES_MAX {
            return Err(protocol(&host, "an answer longer than any"));
        }
        Ok(bytes)
    }

    /// Tries until it succeeds, or nothing came of it too often in a row, or it makes no sense to go on. `work` says with its
    /// error whether it got on all the same.
    pub fn patiently<T>(
        &self,
        name: &ModelName,
        stop: &AtomicBool,
        mut work: impl FnMut() -> Result<T, (Failure, bool)>,
    ) -> Result<T> {
        let mut failed = 0u32;
        loop {
            let (failure, got_on) = match work() {
                Ok(done) => return Ok(done),
                Err(failed) => failed,
            };
            failed = if got_on { 0 } else { failed + 1 };
            let doubled = self.patience.wait.saturating_mul(1 << u32::min(failed.saturating_sub(1), 10));
            let wait = match &failure {
                Failure::Status { status: 429 | 503, retry_after: Some(seconds), .. } => {
                    Some(Duration::from_secs(*seconds)).filter(|wait| *wait <= self.patience.wait_max)
                }
                Failure::Status { status: 408 | 429 | 500..=599, .. } | Failure::Network { .. } if failed == 0 => {
                    Some(Duration::ZERO)
                }
                Failure::Status { status: 408 | 429 | 500..=599, .. } | Failure::Network { .. } => Some(doubled),
                Failure::Status { .. } | Failure::Protocol { .. } | Failure::Here(_) => None,
            };
            let Some(wait) = wait.filter(|_| failed < self.patience.tries) else {
                return Err(self.explain(name, failure));
            };
            if let Failure::Status { host, status: 429, .. } = &failure {
                (self.tell)(&format!("{host} says 429, too many requests: going on in {} s.", wait.as_secs()));
            }
            if let Failure::Network { host, why } = &failure
                && why.contains("timeout")
            {
                (self.tell)(&format!("{host} is silent ({why}): asking it again."));
            }
            pause(wait, stop)?;
        }
    }

    /// What to tell of it.
    pub fn explain(&self, name: &ModelName, failure: Failure) -> HubError {
        let (name, token) = (name.to_string(), self.authorization.is_some());
        match failure {
            Failure::Here(error) => error,
            Failure::Network { host, why } => HubError::Network { name, host, why, stays: true },
            Failure::Protocol { host, why } => HubError::Protocol { name, host, why },
            Failure::Status { host, status, code, retry_after } => match status {
                _ if code == "GatedRepo" => HubError::Forbidden { name, host, gated: true },
                401 => HubError::Unauthorized { name, host, token },
                403 => HubError::Forbidden { name, host, gated: false },
                404 => {
                    let what = if code == "EntryNotFound" { "such file" } else { "such model" };
                    HubError::NotFound { name, host, what: what.into() }
                }
                429 => HubError::TooMany { name, host, seconds: retry_after, token, stays: true },
                status => HubError::Status { name, host, status, stays: true },
            },
        }
    }
}

/// Sleeps, unless it is not wanted any more.
pub fn pause(wait: Duration, stop: &AtomicBool) -> Result<()> {
    let until = std::time::Instant::now() + wait;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(HubError::Stopped { stays: true });
        }
        let left = until.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(TICK));
    }
}

pub fn protocol(host: &str, why: &str) -> Failure {
    Failure::Protocol { host: host.to_owned(), why: why.to_owned() }
}

/// A header as a text.
pub fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

fn refusal(uri: &Uri, response: &Response<Body>) -> Failure {
    Failure::Status {
        host: host(uri),
        status: response.status().as_u16(),
        code: header(response, "x-error-code").unwrap_or_default().to_owned(),
        // The other form, a date, is not used by the hub.
        retry_after: header(response, "retry-after").and_then(|seconds| seconds.trim().parse().ok()),
    }
}

/// Where a redirect goes.
fn target(from: &Uri, location: &str) -> Option<Uri> {
    let scheme = from.scheme_str()?;
    let absolute = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{}{location}", from.authority()?)
    } else {
        location.to_owned()
    };
    absolute.parse().ok().filter(|uri| origin(uri).is_some())
}

/// Whether an answer holds the bytes from `from` on of a file of `bytes`, or all of them.
pub fn begins_at(response: &Response<Body>, from: u64, bytes: u64) -> Result<u64, Failure> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(0);
    }
    let said = header(response, "content-range").unwrap_or_default();
    let parsed = said.strip_prefix("bytes ").and_then(|range| {
        let (range, total) = range.split_once('/')?;
        Some((range.split_once('-')?.0.parse::<u64>().ok()?, total.parse::<u64>().ok()?))
    });
    match parsed {
        Some(answer) if answer == (from, bytes) => Ok(from),
        _ => Err(protocol("it", &format!("the range {said:?} where bytes {from} to {bytes} were asked for"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().expect("an address")
    }

    #[test]
    fn redirects_go_where_they_say() {
        let from = uri("https://hub.example:8443/a/b?c");
        let to = |location| target(&from, location).map(|uri| uri.to_string());
        assert_eq!(to("/x?y").as_deref(), Some("https://hub.example:8443/x?y"));
        assert_eq!(to("//cdn.example/x").as_deref(), Some("https://cdn.example/x"));
        assert_eq!(to("https://cdn.example/x").as_deref(), Some("https://cdn.example/x"));
        assert_eq!(to("ftp://cdn.example/x"), None);
        assert_eq!(to("x/y"), None);
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a, b| origin(&uri(a)) == origin(&uri(b));
        assert!(same("https://hub.example/a", "https://HUB.example:443/b"));
        for other in ["http://hub.example", "https://hub.example:444", "https://cdn.hub.example"] {
            assert!(!same("https://hub.example", other), "{other}");
        }
        assert_eq!(host(&uri("http://name:secret@hub.example:1/a")), "hub.example:1");
    }
}
