//! What can go wrong, each one line that says what to do.

use std::io;
use std::path::PathBuf;

use outpour_store::StoreError;
use outpour_store::bytes::Bytes;

/// What [`crate::Cache::remove`] tries.
pub(crate) const REMOVE: &str = "remove";

/// Why a model could not be had.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// It is not in the cache, and nobody may be asked.
    #[error("{name}: is not whole in {cache}, and --offline (or HF_HUB_OFFLINE) forbids to download it: run `outpour pull {name}` online first", cache = .cache.display())]
    Offline {
        /// The model.
        name: String,
        /// The cache.
        cache: PathBuf,
    },
    /// HTTP status 401.
    #[error("{name}: {host} says 401, {}", if *.token {
        "so the token is not valid, or there is no such model: check HF_TOKEN, or log in again with `hf auth login`, and check the name"
    } else {
        "so there is no such model, or it is private or gated: check the name; else set HF_TOKEN to a token that may read it"
    })]
    Unauthorized {
        /// The model.
        name: String,
        /// Who said so.
        host: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// HTTP status 403.
    #[error("{name}: {host} says 403, {}", if *.gated {
        "for the model is gated: accept its conditions on its page there, then set HF_TOKEN to a token that may read it"
    } else {
        "so this token may not read it: set HF_TOKEN to one that may"
    })]
    Forbidden {
        /// The model.
        name: String,
        /// Who said so.
        host: String,
        /// Whether its publisher decides who may have it.
        gated: bool,
    },
    /// HTTP status 404.
    #[error("{name}: {host} says 404, it has no {what}: check the name, which is ORG/REPO or ORG/REPO:QUANT")]
    NotFound {
        /// The model.
        name: String,
        /// Who said so.
        host: String,
        /// The model, or a file of it.
        what: String,
    },
    /// HTTP status 429.
    #[error("{name}: {host} says 429, too many requests: try again {}{}{}", match .seconds {
        Some(seconds) => format!("in {seconds} s"),
        None => "in some minutes".to_owned(),
    }, if *.token { "" } else { ", or set HF_TOKEN, which raises the limit" }, kept(*.stays))]
    TooMany {
        /// The model.
        name: String,
        /// Who said so.
        host: String,
        /// The wait that the server asked for.
        seconds: Option<u64>,
        /// Whether a token was sent.
        token: bool,
        /// Whether what has come is kept.
        stays: bool,
    },
    /// Any other status.
    #[error("{name}: {host} says {status}: try again later{}", kept(*.stays))]
    Status {
        /// The model.
        name: String,
        /// Who said so.
        host: String,
        /// The status.
        status: u16,
        /// Whether what has come is kept.
        stays: bool,
    },
    /// No answer, or one that broke off again and again.
    #[error(
        "{name}: {host} does not answer ({why}): check the connection and HF_ENDPOINT, and run the same command again{}",
        kept(*.stays)
    )]
    Network {
        /// The model.
        name: String,
        /// Who was asked.
        host: String,
        /// What happened.
        why: String,
        /// Whether what has come is kept.
        stays: bool,
    },
    /// An answer that the hub would not give.
    #[error("{name}: {host} answers as no hub does ({why}): check HF_ENDPOINT and proxies")]
    Protocol {
        /// The model.
        name: String,
        /// Who answered.
        host: String,
        /// What is wrong.
        why: String,
    },
    /// The bytes are not those that the hub has.
    #[error(
        "{name}: {file} arrived with another hash than the hub has of it ({found}, not {expected}), and was removed: run the same command again; if it stays so, a proxy changes it"
    )]
    WrongHash {
        /// The model.
        name: String,
        /// The file.
        file: String,
        /// What the hub says.
        expected: String,
        /// What came.
        found: String,
    },
    /// There is not enough room.
    #[error("{name}: needs {} more in {dir}, and {} are free there: free some, or set HF_HUB_CACHE to a folder on another drive", Bytes(*.needed), Bytes(*.free), dir = .dir.display())]
    NoSpace {
        /// The model.
        name: String,
        /// Bytes that are still to come.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// Where.
        dir: PathBuf,
    },
    /// The drive became full meanwhile.
    #[error("{name}: the drive of {path} is full: free {} and run the same command again; what is downloaded stays", Bytes(*.missing), path = .path.display())]
    Full {
        /// The model.
        name: String,
        /// What was being written.
        path: PathBuf,
        /// Bytes of the file that are still to come.
        missing: u64,
    },
    /// The model has no files that the engine reads, or not the quant asked for, or several without one asked for.
    #[error("{name}: {problem}")]
    Choice {
        /// The model.
        name: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The environment makes no sense.
    #[error("{0}")]
    Settings(String),
    /// The system refused something in the cache.
    #[error("{path}: cannot {action}: {source}{}", advice(.action, .source), path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A file that arrived is not what its format demands.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The caller broke off.
    #[error("stopped{}{}", kept(*.stays), if *.stays { ", and the same command goes on from there" } else { "" })]
    Stopped {
        /// Whether what has come is kept.
        stays: bool,
    },
}

/// What to do where the system refused this.
fn advice(action: &str, source: &io::Error) -> &'static str {
    match (action, source.kind()) {
        (REMOVE, io::ErrorKind::PermissionDenied) => "; it belongs to another user, who may remove it",
        (REMOVE, _) => "",
        _ => "; set HF_HUB_CACHE to a folder that can be written",
    }
}

fn kept(stays: bool) -> &'static str {
    if stays { "; what is downloaded stays" } else { "" }
}

impl HubError {
    /// The same of headers, which nothing keeps.
    pub(crate) fn of_headers(mut self) -> HubError {
        if let HubError::TooMany { stays, .. }
        | HubError::Status { stays, .. }
        | HubError::Network { stays, .. }
        | HubError::Stopped { stays } = &mut self
        {
            *stays = false;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_place_is_advised_for_what_is_written_and_not_for_what_is_removed() {
        let said =
            |action, kind: io::ErrorKind| HubError::Io { path: "/c/x".into(), action, source: kind.into() }.to_string();
        assert!(said("write", io::ErrorKind::PermissionDenied).contains("HF_HUB_CACHE"));
        let removed = said(REMOVE, io::ErrorKind::PermissionDenied);
        assert!(removed.contains("belongs to another user") && !removed.contains("HF_HUB_CACHE"), "{removed}");
        let removed = said(REMOVE, io::ErrorKind::ReadOnlyFilesystem);
        assert!(!removed.contains("another user") && !removed.contains("HF_HUB_CACHE"), "{removed}");
    }
}
