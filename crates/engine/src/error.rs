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
    /// A number of experts that a router cannot choose.
    #[error("--top-k-experts {top_k}: {}", match own {
        0 => "this model has no experts; leave it out".to_owned(),
        _ => format!("this model's router chooses {own} experts; give 1 to {own}"),
    })]
    TopK {
        /// The number asked for.
        top_k: usize,
        /// The model's own.
        own: usize,
    },
    /// Keys or values of a width that q8 cannot hold.
    #[error("--kv q8: this model's keys or values are {width} wide, which is no multiple of 32; give another type")]
    Q8Width {
        /// The width.
        width: usize,
    },
    /// States on a drive belong to one process at a time.
    #[error("{}: another outpour keeps its states there: give this one another --state-dir, or end the other", dir.display())]
    StatesInUse {
        /// The folder.
        dir: std::path::PathBuf,
    },
    /// The system starts no thread.
    #[error("the system starts no further thread ({0}): end other programs, or raise the limit (ulimit -u)")]
    Thread(std::io::Error),
    /// Weights that are no numbers, or became none.
    #[error("{}: the model's logits are not numbers (NaN), so its weights are damaged: `outpour verify` compares them with what was published; download them again", dir.display())]
    NotNumbers {
        /// The model's folder or file.
        dir: std::path::PathBuf,
    },
    /// There is nothing to compute.
    #[error("the prompt is empty: give at least one token")]
    NoTokens,
    /// The observer asked to stop.
    #[error("stopped")]
    Cancelled,
}

impl EngineError {
    /// A saved state that cannot be read, or is not what was written.
    pub fn damaged_state(why: &std::io::Error) -> EngineError {
        EngineError::Model(ModelError::State(format!("is damaged ({why})")))
    }
}
