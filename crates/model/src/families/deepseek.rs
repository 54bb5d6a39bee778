//! DeepSeek-V2, V2.5 and Lite (arXiv 2405.04434), DeepSeek-V3, R1 and V3.1 (arXiv 2412.19437), Kimi-K2 and Moonlight: latent
//! attention and many small experts (`transformers` `modeling_deepseek_v2.py`, `modeling_deepseek_v3.py`).

use outpour_kernels::{DType, Rope, RopePairs};

use crate::blocks::decoder::{Decoder, Halves};
use crate::blocks::deepseek_moe::{Choice, DeepSeekMoe};
use crate::blocks::mla::{Mla, Sizes};
use crate::blocks::rope;
use crate::config::{Config, ModelError};
use crate::weights::{Norms, Weights};

/// Builds the model from its config, asking `weights` for every tensor. `choice` is how experts are chosen where the config
/// does not say.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(
    family: &'static str,
    choice: Choice,
    config: &Config,
    weights: &mut Weights,
    kv: DType,
) -> Result<Decoder, ModelError> {
    let config = &config.text();
    config.never("attention_bias")?;
    let (sizes, experts) = (Sizes::read(config)?, DeepSeekMoe::read(config, choice)?);
    let half = !config.flag_or("rope_interleave", true)?;
    let pairs = if half { RopePairs::Half } else { RopePairs::Interleaved };
    let rope = Rope { pairs, ..rope::plain(config, sizes.rope_dim, 10_000.0)? };
    let scale = rope::yarn_attention_scale(config)?;
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-6)? as f32, plus_one: false };
    Decoder::load(family, config, weights, kv, norms, |layer, prefix, weights| {
        Ok(Halves {
            alphas: None,
            mixer: Box::new(Mla::load(weights, &format!("{prefix}.self_attn"), sizes, Some(&rope), scale)?),
            feed_forward: experts.load(layer, prefix, weights)?,
        })
    })
}
