//! K-EXAONE (236B-A23B): three layers within a window, with RoPE, to one of full attention without positions; DeepSeek's experts
//! (`transformers` `modeling_exaone_moe.py`). Its layer for multi-token prediction is not read.

use outpour_kernels::DType;

use crate::blocks::attention::{Attention, Kind, QkNorm, Sizes};
use crate::blocks::decoder::{Decoder, Halves};
use crate::blocks::deepseek_moe::{Choice, DeepSeekMoe, Defaults};
use crate::blocks::rope;
use crate::config::{Config, ModelError};
use crate::weights::{Norms, Weights};

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    let sizes = Sizes::read(config)?;
    let is_full = config.layer_types("sliding_attention", |layer| (layer + 1).is_multiple_of(4))?;
    let rope = rope::plain(config, sizes.head_dim, 1_000_000.0)?;
    let windowed = Kind { qk_norm: QkNorm::PerHead, window: Some(config.size("sliding_window")?), ..Kind::plain(rope) };
    let full = Kind { window: None, rope: None, ..windowed.clone() };
    let mut experts = DeepSeekMoe::read(config, Choice::SigmoidBiased, Defaults { scale: 2.5, ..Defaults::GLM })?;
    experts.bias = "e_score_correction_bias";
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-5)? as f32, plus_one: false };
    Decoder::load("exaone_moe", config, weights, kv, norms, |layer, prefix, weights| {
        let kind = if is_full[layer] { &full } else { &windowed };
        Ok(Halves {
            alphas: None,
            mixer: Box::new(Attention::load(weights, &format!("{prefix}.self_attn"), sizes, kind, norms)?),
            feed_forward: experts.load(layer, prefix, weights)?,
        })
    })
}
