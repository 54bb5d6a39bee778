//! A loaded model at work: the loop over layers, prompts in chunks, one token at a time, and the choice of the next one.
//! Callers hold a [`Session`] for each timeline.

#![forbid(unsafe_code)]

mod engine;
pub mod sample;
mod session;

pub use engine::{Backend, Engine, EngineError, Inspection, Observer, Options, Progress, SequenceId, Stats};
pub use session::Session;
