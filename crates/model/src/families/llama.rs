//! Dense models: Llama 2 to 3.3 and what is built like it, and Qwen3 (0.6B to 32B), which has norms of queries and keys
//! (arXiv 2307.09288, 2505.09388; `transformers` `modeling_llama.py`, `modeling_qwen3.py`). All of a dense model is trunk.

use outpour_kernels::{DType, Rope};

use crate::blocks::attention::{Attention, Kind, QkNorm, Sizes};
use crate::blocks::decoder::{Decoder, Halves};
use crate::blocks::feed_forward::FeedForward;
use crate::blocks::{mlp, rope};
use crate::config::{Config, ModelError};
use crate::weights::{Norms, Weights};

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(
    family: &'static str,
    qk_norm: QkNorm,
    config: &Config,
    weights: &mut Weights,
    kv: DType,
) -> Result<Decoder, ModelError> {
    config.only("hidden_act", "silu")?;
    ["mlp_bias", "use_sliding_window"].into_iter().try_for_each(|key| config.never(key))?;
    config.only_full_attention()?;
    let sizes = Sizes::read(config)?;
    let (hidden, width) = (sizes.hidden, config.size("intermediate_size")?);
    let biased = config.flag_or("attention_bias", false)?;
    let rope = Rope { pairs: rope::pairs(config, false)?, ..rope::plain(config, sizes.head_dim, 10_000.0)? };
    let kind = Kind { qk_norm, qkv_bias: biased, o_bias: biased, ..Kind::plain(rope) };
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-6)? as f32, plus_one: false };
    Decoder::load(family, config, weights, kv, norms, |_, prefix, weights| {
        Ok(Halves {
            alphas: None,
            mixer: Box::new(Attention::load(weights, &format!("{prefix}.self_attn"), sizes, &kind, norms)?),
            feed_forward: FeedForward::Dense(mlp::load(weights, &format!("{prefix}.mlp"), hidden, width)?),
        })
    })
}
