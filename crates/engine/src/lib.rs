//! A loaded model at work: the loop over layers, prompts in chunks, one token at a time, and the choice of the next one.
//! Callers hold a [`Session`] for each timeline.

#![forbid(unsafe_code)]

pub mod bound;
mod engine;
mod error;
pub mod forecast;
mod governor;
mod inspection;
mod lookahead;
mod observe;
pub mod profile;
pub mod rehearsal;
pub mod routing;
pub mod sample;
mod scheduler;
pub mod score;
mod scratch;
mod session;
mod snapshot;
mod timeline;

pub use engine::{Engine, Stats, Work};
pub use error::EngineError;
pub use governor::{GovernorStats, IDLE_INTERVAL};
pub use inspection::{Backend, Inspection, Numerics, Options, PROBE_EXPERTS};
pub use lookahead::{LookaheadMode, LookaheadStats};
pub use observe::{LayerCost, Observer, Progress, SequenceId};
pub use session::Session;
pub use snapshot::{Saving, Snapshots};
pub use timeline::Timeline;
