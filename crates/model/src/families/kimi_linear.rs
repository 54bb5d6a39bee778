//! Kimi-Linear (48B-A3B): three layers of Kimi Delta Attention to one of latent attention without positions, and DeepSeek's
//! experts (arXiv 2510.26692; `transformers` `modeling_kimi_linear.py`).

use outpour_kernels::DType;

use crate::blocks::decoder::{Decoder, Halves};
use crate::blocks::deepseek_moe::{Choice, DeepSeekMoe, Defaults};
use crate::blocks::kda::{self, Kda};
use crate::blocks::mixer::Mixer;
use crate::blocks::mla::{self, Mla};
use crate::config::{Config, ModelError};
use crate::weights::{Norms, Weights};

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    config.never("attention_bias")?;
    ["mla_use_nope", "use_grouped_topk"].into_iter().try_for_each(|key| config.always(key))?;
    let latent = mla::Sizes::read(config)?;
    config.needs("linear_attn_config")?;
    let linear = config.part("linear_attn_config")?;
    let delta = kda::Sizes {
        hidden: latent.hidden,
        heads: linear.size("num_heads")?,
        head_dim: linear.size("head_dim")?,
        kernel: linear.size_or("short_conv_kernel_size", 4)?,
    };
    delta.check()?;
    // Layers are counted from 1 there.
    linear.needs("full_attn_layers")?;
    let full = linear.layers("full_attn_layers")?;
    let mut experts = DeepSeekMoe::read(config, Choice::SigmoidBiased, Defaults { scale: 2.446, ..Defaults::GLM })?;
    experts.module = "block_sparse_moe";
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-5)? as f32, plus_one: false };
    Decoder::load("kimi_linear", config, weights, kv, norms, |layer, prefix, weights| {
        let name = format!("{prefix}.self_attn");
        let mixer: Box<dyn Mixer> = match full.contains(&(layer + 1)) {
            true => Box::new(Mla::load(weights, &name, latent, None, 1.0)?),
            false => Box::new(Kda::load(weights, &name, delta, kda::Kind::KIMI, norms)?),
        };
        Ok(Halves { alphas: None, mixer, feed_forward: experts.load(layer, prefix, weights)? })
    })
}
