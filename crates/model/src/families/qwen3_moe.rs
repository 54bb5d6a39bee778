//! Qwen3-MoE (Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder): grouped-query attention with per-head norms, RoPE, and 128
//! experts of which a softmax router picks 8 (arXiv 2505.09388; `transformers` `modeling_qwen3_moe.py`).

use outpour_kernels::{Activation, DType, Router, RouterScore};

use crate::blocks::attention::{self, Attention, Kind, QkNorm};
use crate::blocks::decoder::{Decoder, Halves};
use crate::blocks::feed_forward::FeedForward;
use crate::blocks::moe::{self, Moe};
use crate::blocks::{mlp, rope};
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, Norms, Weights};

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    config.only("hidden_act", "silu")?;
    ["attention_bias", "use_sliding_window"].into_iter().try_for_each(|key| config.never(key))?;
    let sizes = attention::Sizes::read(config)?;
    let moe::Sizes { experts, top_k, width } =
        moe::Sizes::read(config, &["num_experts", "num_local_experts"], "moe_intermediate_size")?;
    let router =
        Router { renormalise: config.flag_or("norm_topk_prob", false)?, ..Router::new(top_k, RouterScore::Softmax) };
    let dense_width = config.size_or("intermediate_size", 1)?;
    let is_sparse = moe::sparse_layers(config)?;
    let rope = rope::plain(config, sizes.head_dim, 10_000.0)?;
    let kind = Kind { qk_norm: QkNorm::PerHead, ..Kind::plain(rope) };
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-6)? as f32, plus_one: false };
    Decoder::load("qwen3_moe", config, weights, kv, norms, |layer, prefix, weights| {
        let mixer = Box::new(Attention::load(weights, &format!("{prefix}.self_attn"), sizes, &kind, norms)?);
        let (prefix, hidden) = (format!("{prefix}.mlp"), sizes.hidden);
        if !is_sparse(layer) {
            let mlp = mlp::load(weights, &prefix, hidden, dense_width)?;
            return Ok(Halves { alphas: None, mixer, feed_forward: FeedForward::Dense(mlp) });
        }
        let gate = weights.matrix(&format!("{prefix}.gate.weight"), experts, hidden)?;
        let of = ExpertsOf { layer, prefix, experts, hidden, width, activation: Activation::SwiGlu };
        Ok(Halves {
            alphas: None,
            mixer,
            feed_forward: FeedForward::Sparse(Moe::load(weights, &of, gate, router.clone(), None)?),
        })
    })
}
