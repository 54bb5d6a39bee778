//! Ling 2.5 and Ring 2.5 (1T-A63B): seven layers of Lightning Attention to one of latent attention, and DeepSeek's experts
//! (arXiv 2510.19338 on the attention; the release's `modeling_bailing_moe_v2_5.py`). Its `model_type` is also Ling 3.0's, which is
//! another model.

use outpour_kernels::{DType, Rope, RopePairs};

use crate::blocks::attention;
use crate::blocks::decoder::{Decoder, Ends, Halves};
use crate::blocks::deepseek_moe::{Choice, DeepSeekMoe, Defaults};
use crate::blocks::lightning::Lightning;
use crate::blocks::mixer::Mixer;
use crate::blocks::mla::{self, Mla};
use crate::blocks::rope;
use crate::config::{Config, ModelError};
use crate::weights::{Norms, Weights};

/// Base frequency of RoPE.
const THETA: f64 = 600_000.0;

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    ["use_bias", "use_qkv_bias", "linear_silu"].into_iter().try_for_each(|key| config.never(key))?;
    ["use_qk_norm", "rope_interleave", "moe_router_enable_expert_bias"]
        .into_iter()
        .try_for_each(|key| config.always(key))?;
    let latent = mla::Sizes { names: mla::Names::LING, ..mla::Sizes::read(config)? };
    let heads = attention::Sizes::read(config)?;
    let norm_parts = config.size_or("group_norm_size", 4)?;
    if !(heads.heads * heads.head_dim).is_multiple_of(norm_parts) {
        let width = heads.heads * heads.head_dim;
        return Err(ModelError::Config(format!(
            "group_norm_size {norm_parts} does not divide {width}; download it again"
        )));
    }
    let layers = config.size("num_hidden_layers")?;
    let group = config.size("layer_group_size")?;
    let is_latent = config.layer_types("linear_attention", |layer| is_latent(layer, layers, group))?;
    let partial = rope::partial(config, heads.head_dim, 0.5, THETA)?;
    let interleaved = Rope { pairs: RopePairs::Interleaved, ..rope::plain(config, latent.rope_dim, THETA)? };
    let scale = rope::yarn_attention_scale(config)?;
    let mut experts =
        DeepSeekMoe::read(config, Choice::SigmoidBiased, Defaults { dense_layers: 1, scale: 1.0, ..Defaults::V3 })?;
    experts.bias = "gate.expert_bias";
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-6)? as f32, plus_one: false };
    let ends = Ends { embedding: "model.word_embeddings.weight", ..Ends::read(config)? };
    Decoder::load_between("bailing_hybrid", ends, config, weights, kv, norms, |layer, prefix, weights| {
        let name = format!("{prefix}.attention");
        let mixer: Box<dyn Mixer> = match is_latent[layer] {
            true => Box::new(Mla::load(weights, &name, latent, Some(&interleaved), scale)?),
            false => {
                let of = (layer, layers);
                Box::new(Lightning::load_turned(weights, &name, heads, of, norm_parts, partial.clone(), norms)?)
            }
        };
        Ok(Halves { alphas: None, mixer, feed_forward: experts.load(layer, prefix, weights)? })
    })
}

/// Whether a layer of so many has latent attention, where no `layer_types` says so: the last one of each group, and those behind
/// the last whole group.
pub(crate) fn is_latent(layer: usize, layers: usize, group: usize) -> bool {
    (layer + 1).is_multiple_of(group) || layer >= layers / group * group
}
