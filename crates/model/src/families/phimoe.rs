//! Phi-3.5-MoE (42B-A6.6B): layer norms and biases everywhere, and two experts of which each is weighted among those that come
//! near it (SparseMixer, arXiv 2409.12136; `transformers` `modeling_phimoe.py`). RoPE has other factors beyond the original
//! context, which the past would have to be computed anew with: contexts end there.

use outpour_kernels::{Activation, DType, Router, RouterScore};

use crate::blocks::attention::{self, Attention, Kind};
use crate::blocks::decoder::{Decoder, Ends, Halves};
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
    if top_k != 2 {
        return Err(ModelError::Config(format!("num_experts_per_tok is {top_k}, and SparseMixer chooses 2")));
    }
    let jitter = config.positive_or("router_jitter_noise", 0.01)? as f32;
    let router = Router::new(top_k, RouterScore::SparseMixer { jitter });
    let (rope, original) = rope::long(config, sizes.head_dim, 10_000.0)?;
    let ends = Ends::read(config)?;
    let context_max = original.unwrap_or(ends.context_max).min(ends.context_max);
    let ends = Ends { context_max, layer_norms: true, head_bias: config.flag_or("lm_head_bias", false)?, ..ends };
    let biased = config.flag_or("attention_bias", false)?;
    let window = config.size_or_none("sliding_window")?.filter(|&window| window < context_max);
    let kind = Kind { qkv_bias: biased, o_bias: biased, window, ..Kind::plain(rope) };
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-5)? as f32, plus_one: false };
    Decoder::load_between("phimoe", ends, config, weights, kv, norms, |layer, prefix, weights| {
        let mixer = Box::new(Attention::load(weights, &format!("{prefix}.self_attn"), sizes, &kind, norms)?);
        let (prefix, hidden) = (format!("{prefix}.block_sparse_moe"), sizes.hidden);
        let gate = weights.matrix(&format!("{prefix}.gate.weight"), experts, hidden)?;
        let of = ExpertsOf { layer, prefix, experts, hidden, width, activation: Activation::SwiGlu, transposed: None };
        let feed_forward = FeedForward::Sparse(Moe::load(weights, &of, gate, router.clone(), None)?);
        Ok(Halves { alphas: None, mixer, feed_forward })
    })
}
