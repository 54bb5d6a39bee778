//! Grouped-query attention and DeepSeek's experts: GLM-4.5 to 4.7 (arXiv 2508.06471), whose attention has biases and RoPE on half
//! of each head; Solar Open; dots.llm1 (arXiv 2506.05767); and Hunyuan 3 (`transformers` `modeling_glm4_moe.py`,
//! `modeling_solar_open.py`, `modeling_dots1.py`, `modeling_hy_v3.py`).

use outpour_kernels::DType;

use crate::blocks::attention::{Attention, Kind, QkNorm, Sizes};
use crate::blocks::decoder::{Decoder, Halves};
use crate::blocks::deepseek_moe::{Choice, DeepSeekMoe, Defaults};
use crate::blocks::rope;
use crate::config::{Config, ModelError};
use crate::weights::{Norms, Weights};

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// GLM-4.5 to 4.7.
    Glm4,
    /// Solar Open: no norms, RoPE on all of a head.
    SolarOpen,
    /// dots.llm1: the same with norms of queries and keys.
    Dots,
    /// Hunyuan 3: the same under other names.
    Hunyuan3,
}

/// What each takes for keys of experts that its config lacks.
pub fn defaults(family: Family) -> Defaults {
    match family {
        Family::Glm4 => Defaults::GLM,
        Family::SolarOpen => Defaults { dense_layers: 0, ..Defaults::GLM },
        Family::Dots => Defaults { dense_layers: 0, shared_experts: 0, renormalise: false, ..Defaults::GLM },
        Family::Hunyuan3 => Defaults { scale: 2.826, ..Defaults::GLM },
    }
}

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(family: Family, config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    let sizes = Sizes::read(config)?;
    let mut experts = DeepSeekMoe::read(config, Choice::SigmoidBiased, defaults(family))?;
    // Its name, the part of a head that turns, the base frequency, and whether queries and keys are normalised.
    let (name, turned, theta, normed) = match family {
        Family::Glm4 => ("glm4_moe", 0.5, 10_000.0, config.flag_or("use_qk_norm", false)?),
        Family::SolarOpen => ("solar_open", 1.0, 1_000_000.0, false),
        Family::Dots => ("dots1", 1.0, 10_000.0, true),
        Family::Hunyuan3 => ("hy_v3", 1.0, 11_158_840.0, true),
    };
    if matches!(family, Family::Dots | Family::Hunyuan3) {
        ["attention_bias", "mlp_bias"].into_iter().try_for_each(|key| config.never(key))?;
        config.only_full_attention()?;
    }
    if family == Family::Hunyuan3 {
        ["route_norm", "moe_router_use_sigmoid"].into_iter().try_for_each(|key| config.always(key))?;
        (experts.gate, experts.bias, experts.shared) = ("router.gate", "expert_bias", "shared_mlp");
    }
    let rope = rope::partial(config, sizes.head_dim, turned, theta)?;
    let qk_norm = if normed { QkNorm::PerHead } else { QkNorm::None };
    let kind = Kind { qk_norm, qkv_bias: config.flag_or("attention_bias", false)?, ..Kind::plain(rope) };
    let eps = if family == Family::Dots { 1e-6 } else { 1e-5 };
    let norms = Norms { eps: config.positive_or("rms_norm_eps", eps)? as f32, plus_one: false };
    Decoder::load(name, config, weights, kv, norms, |layer, prefix, weights| {
        Ok(Halves {
            alphas: None,
            mixer: Box::new(Attention::load(weights, &format!("{prefix}.self_attn"), sizes, &kind, norms)?),
            feed_forward: experts.load(layer, prefix, weights)?,
        })
    })
}
