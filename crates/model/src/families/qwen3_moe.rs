//! Grouped-query attention and experts of a softmax router: Qwen3-MoE (arXiv 2505.09388), with norms of each head; Qwen2-MoE
//! (arXiv 2407.10671), with biases and a gated shared expert instead; OLMoE (arXiv 2409.02060), with norms over all heads together
//! (`transformers` `modeling_qwen3_moe.py`, `modeling_qwen2_moe.py`, `modeling_olmoe.py`).

use outpour_kernels::{Activation, DType, Router, RouterScore};

use crate::blocks::attention::{self, Attention, Kind, QkNorm};
use crate::blocks::decoder::{Decoder, Halves};
use crate::blocks::feed_forward::FeedForward;
use crate::blocks::moe::{self, Moe, SharedExpert};
use crate::blocks::{mlp, rope};
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, Norms, Weights};

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Qwen1.5-MoE and Qwen2-MoE.
    Qwen2,
    /// Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder.
    Qwen3,
    /// OLMoE-1B-7B.
    Olmoe,
}

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(family: Family, config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    config.only("hidden_act", "silu")?;
    ["attention_bias", "use_sliding_window"].into_iter().try_for_each(|key| config.never(key))?;
    config.only_full_attention()?;
    let sizes = attention::Sizes::read(config)?;
    let (name, width, qk_norm, eps) = match family {
        Family::Qwen2 => ("qwen2_moe", "moe_intermediate_size", QkNorm::None, 1e-6),
        Family::Qwen3 => ("qwen3_moe", "moe_intermediate_size", QkNorm::PerHead, 1e-6),
        Family::Olmoe => ("olmoe", "intermediate_size", QkNorm::Whole, 1e-5),
    };
    let moe::Sizes { experts, top_k, width } = moe::Sizes::read(config, &["num_experts", "num_local_experts"], width)?;
    let router =
        Router { renormalise: config.flag_or("norm_topk_prob", false)?, ..Router::new(top_k, RouterScore::Softmax) };
    let shared_width = match family {
        Family::Qwen2 => Some(config.size("shared_expert_intermediate_size")?),
        Family::Qwen3 | Family::Olmoe => None,
    };
    let dense_width = config.size_or("intermediate_size", 1)?;
    let is_sparse = moe::sparse_layers(config)?;
    let rope = rope::plain(config, sizes.head_dim, 10_000.0)?;
    let kind = Kind {
        qk_norm,
        qkv_bias: family == Family::Qwen2 && config.flag_or("qkv_bias", true)?,
        clip: config
            .has("clip_qkv")
            .then(|| config.positive_or("clip_qkv", 1.0))
            .transpose()?
            .map(|limit| limit as f32),
        ..Kind::plain(rope)
    };
    let norms = Norms { eps: config.positive_or("rms_norm_eps", eps)? as f32, plus_one: false };
    Decoder::load(name, config, weights, kv, norms, |layer, prefix, weights| {
        let mixer = Box::new(Attention::load(weights, &format!("{prefix}.self_attn"), sizes, &kind, norms)?);
        let (prefix, hidden) = (format!("{prefix}.mlp"), sizes.hidden);
        if !is_sparse(layer) {
            let mlp = mlp::load(weights, &prefix, hidden, dense_width)?;
            return Ok(Halves { alphas: None, mixer, feed_forward: FeedForward::Dense(mlp) });
        }
        let gate = weights.matrix(&format!("{prefix}.gate.weight"), experts, hidden)?;
        let shared = shared_width.map(|width| SharedExpert::gated(weights, &prefix, hidden, width)).transpose()?;
        let of = ExpertsOf { layer, prefix, experts, hidden, width, activation: Activation::SwiGlu, transposed: None };
        let moe = Moe::load(weights, &of, gate, router.clone(), shared)?;
        Ok(Halves { alphas: None, mixer, feed_forward: FeedForward::Sparse(moe) })
    })
}
