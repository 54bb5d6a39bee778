//! Mixtral (8x7B, 8x22B): Llama's attention, and 8 experts of which a softmax router picks 2 (arXiv 2401.04088; `transformers`
//! `modeling_mixtral.py`).

use outpour_kernels::{Activation, DType, Rope, Router, RouterScore};

use crate::blocks::attention::{self, Attention, Kind};
use crate::blocks::decoder::{Decoder, Halves};
use crate::blocks::feed_forward::FeedForward;
use crate::blocks::moe::{self, Moe};
use crate::blocks::rope;
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, Norms, Weights};

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    config.only("hidden_act", "silu")?;
    let sizes = attention::Sizes::read(config)?;
    let moe::Sizes { experts, top_k, width } = moe::Sizes::read(config, &["num_local_experts"], "intermediate_size")?;
    let router = Router { renormalise: true, ..Router::new(top_k, RouterScore::Softmax) };
    let rope = Rope { pairs: rope::pairs(config, false)?, ..rope::plain(config, sizes.head_dim, 1_000_000.0)? };
    let kind = Kind { window: config.size_or_none("sliding_window")?, ..Kind::plain(rope) };
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-5)? as f32, plus_one: false };
    Decoder::load("mixtral", config, weights, kv, norms, |layer, prefix, weights| {
        let mixer = Box::new(Attention::load(weights, &format!("{prefix}.self_attn"), sizes, &kind, norms)?);
        let (prefix, hidden) = (format!("{prefix}.block_sparse_moe"), sizes.hidden);
        let gate = weights.matrix(&format!("{prefix}.gate.weight"), experts, hidden)?;
        let of = ExpertsOf { layer, prefix, experts, hidden, width, activation: Activation::SwiGlu, transposed: None };
        let feed_forward = FeedForward::Sparse(Moe::load(weights, &of, gate, router.clone(), None)?);
        Ok(Halves { alphas: None, mixer, feed_forward })
    })
}
