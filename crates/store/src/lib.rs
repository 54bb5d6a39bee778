//! Where weights live and how they arrive: checkpoints on disk, the slab of memory that experts are read into, the
//! readers that fill it, the policy that decides what stays, the plan that makes `--ram` hold, and the measurement of a
//! drive. No math, no model
//! names.

pub mod bytes;
pub mod checkpoint;
pub mod checksums;
pub mod layout;
pub mod machine;
pub mod pack;
pub mod packer;
mod parallel;
pub mod plan;
pub mod probe;
pub mod read;
pub mod residency;
pub mod sealed;
pub mod slab;
pub mod temporary;
pub mod trace;
pub mod verify;
pub mod write;

use std::path::PathBuf;
use std::sync::OnceLock;

/// Is told what went wrong and does no harm, such as a drive that is left alone: the program sets it, and shows it to people.
pub static NOTICE: OnceLock<fn(&str)> = OnceLock::new();

/// What can be wrong with a user's files or machine. Each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused an operation on a file.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried, as a verb: `open`, `read the header`.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file's content is not what its format demands.
    #[error("{path}: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A read of weights failed for good.
    #[error("{path}: {what} at byte {offset} ({bytes} bytes) could not be read: {why}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The tensor or expert.
        what: String,
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        bytes: usize,
        /// The system's answer, after retries.
        why: String,
    },
    /// The file was replaced or truncated while it was open.
    #[error(
        "{path}: the file changed while it was in use ({change}); nothing computed from it was kept. Restart with the new file, or without it if it is a mirror's"
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// Size or time of modification.
        change: String,
    },
    /// `--ram` does not hold what must be held.
    #[error(
        "--ram {ram} is too small: this model needs at least {minimum} ({uses}). Raise --ram, or lower --ctx or --prefill-chunk"
    )]
    RamTooSmall {
        /// As given.
        ram: String,
        /// The least that works.
        minimum: String,
        /// The largest uses.
        uses: String,
    },
    /// No memory could be had.
    #[error("cannot allocate {bytes} bytes: {why}")]
    Allocation {
        /// What was asked for.
        bytes: usize,
        /// The system's own words.
        why: String,
    },
    /// Anything else, already one line.
    #[error("{0}")]
    Other(String),
}

/// Results of this crate.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;
