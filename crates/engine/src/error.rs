//! What can go wrong with a loaded model, one line each.

use outpour_kernels::OpsError;
use outpour_model::ModelError;
use outpour_store::StoreError;

/// What can go wrong with a loaded model.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Files, memory or reads.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The model's config, tensors or state.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The backend.
    #[error(transparent)]
    Ops(#[from] OpsError),
    /// More tokens than the context holds.
    #[error(
        "{tokens} tokens do not fit the context of {ctx} with room for an answer: shorten the prompt, or raise --ctx (this model allows {ctx_max})"
    )]
    ContextFull {
        /// Tokens of prompt and answer.
        tokens: usize,
        /// The context given.
        ctx: usize,
        /// The model's own.
        ctx_max: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token id {token} is outside the model's vocabulary of {vocab}: ids go from 0 to {}", vocab - 1)]
    TokenOutOfRange {
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// There is nothing to compute.
    #[error("the prompt is empty: give at least one token")]
    NoTokens,
    /// The observer asked to stop.
    #[error("stopped")]
    Cancelled,
}
