//! GLM-4.5 to 4.7 (355B-A32B, Air 106B-A12B): grouped-query attention with biases and RoPE on half of each head, and DeepSeek's
//! experts (arXiv 2508.06471; `transformers` `modeling_glm4_moe.py`).

use outpour_kernels::DType;

use crate::blocks::attention::{Attention, Kind, QkNorm, Sizes};
use crate::blocks::decoder::{Decoder, Halves};
use crate::blocks::deepseek_moe::{Choice, DeepSeekMoe};
use crate::blocks::rope;
use crate::config::{Config, ModelError};
use crate::weights::{Norms, Weights};

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    let sizes = Sizes::read(config)?;
    let experts = DeepSeekMoe::read(config, Choice::SigmoidBiased)?;
    let rope = rope::partial(config, sizes.head_dim, 0.5, 1_000_000.0)?;
    let qk_norm = if config.flag_or("use_qk_norm", false)? { QkNorm::PerHead } else { QkNorm::None };
    let kind = Kind { qk_norm, qkv_bias: config.flag_or("attention_bias", false)?, ..Kind::plain(rope) };
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-5)? as f32, plus_one: false };
    Decoder::load("glm4_moe", config, weights, kv, norms, |layer, prefix, weights| {
        Ok(Halves {
            alphas: None,
            mixer: Box::new(Attention::load(weights, &format!("{prefix}.self_attn"), sizes, &kind, norms)?),
            feed_forward: experts.load(layer, prefix, weights)?,
        })
    })
}
