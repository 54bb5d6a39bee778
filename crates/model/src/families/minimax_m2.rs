//! MiniMax-M2 (M2 to M2.7): attention with norms over all heads together and RoPE on half of each, and 256 experts of which
//! 8 are chosen by sigmoid and a learnt bias (`transformers` `modeling_minimax_m2.py`).

use outpour_kernels::{Activation, DType, Router, RouterScore};

use crate::blocks::attention::{self, Attention, Kind, QkNorm};
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
    config.only("scoring_func", "sigmoid")?;
    config.only("qk_norm_type", "per_layer")?;
    config.always("use_routing_bias")?;
    ["shared_intermediate_size", "sliding_window"].into_iter().try_for_each(|key| config.none_of(key))?;
    let sizes = attention::Sizes::read(config)?;
    let moe::Sizes { experts, top_k, width } = moe::Sizes::read(config, &["num_local_experts"], "intermediate_size")?;
    let rope = rope::first(config, sizes.head_dim, 1.0, 5_000_000.0)?;
    let qk_norm = if config.flag_or("use_qk_norm", true)? { QkNorm::Whole } else { QkNorm::None };
    let kind = Kind { qk_norm, ..Kind::plain(rope) };
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-6)? as f32, plus_one: false };
    Decoder::load("minimax_m2", config, weights, kv, norms, |layer, prefix, weights| {
        let mixer = Box::new(Attention::load(weights, &format!("{prefix}.self_attn"), sizes, &kind, norms)?);
        let (prefix, hidden) = (format!("{prefix}.block_sparse_moe"), sizes.hidden);
        let gate = weights.matrix(&format!("{prefix}.gate.weight"), experts, hidden)?;
        let router = Router {
            bias: Some(weights.vector(&format!("{prefix}.e_score_correction_bias"), experts)?),
            renormalise: true,
            ..Router::new(top_k, RouterScore::Sigmoid)
        };
        let of = ExpertsOf { layer, prefix, experts, hidden, width, activation: Activation::SwiGlu, transposed: None };
        Ok(Halves {
            alphas: None,
            mixer,
            feed_forward: FeedForward::Sparse(Moe::load(weights, &of, gate, router, None)?),
        })
    })
}
