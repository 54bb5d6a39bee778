//! Ling 3 (Flash): five layers of Kimi Delta Attention, whose decays have a lower bound, to one of latent attention
//! gated by head, and DeepSeek's experts (`transformers` `modeling_bailing_hybrid.py`). Its `model_type` is also Ling 2.5's, which
//! is another model.

use outpour_kernels::{DType, Rope, RopePairs};

use crate::blocks::decoder::{Decoder, Ends, Halves};
use crate::blocks::deepseek_moe::{Choice, DeepSeekMoe, Defaults};
use crate::blocks::kda::{self, Kda};
use crate::blocks::mixer::Mixer;
use crate::blocks::mla::{self, Gates, Mla};
use crate::blocks::rope;
use crate::config::{Config, ModelError};
use crate::weights::{Norms, Weights};

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    ["attention_bias", "tie_word_embeddings"].into_iter().try_for_each(|key| config.never(key))?;
    let latent = mla::Sizes { names: mla::Names::LING, ..mla::Sizes::read(config)? };
    let delta = kda::Sizes {
        hidden: latent.hidden,
        heads: config.size_or("linear_num_heads", latent.heads)?,
        // transformers writes the width of RoPE as `head_dim`, and this one beside it.
        head_dim: config.size_or(config.spelling(&["linear_head_dim", "head_dim"]), 128)?,
        kernel: config.size_or(config.spelling(&["short_conv_kernel_size", "linear_conv_kernel_dim"]), 4)?,
    };
    delta.check()?;
    let safe = config.flag_or("kda_safe_gate", true)?;
    let bound = kda::Kind::bound(config, "kda_lower_bound")?.filter(|_| safe);
    let kind = kda::Kind { low_rank: false, a_log_4d: false, bound, o_proj: "dense" };
    let group = config.size_or("layer_group_size", 6)?;
    let is_latent = config.layer_types("linear_attention", |layer| (layer + 1).is_multiple_of(group))?;
    let rope = Rope { pairs: RopePairs::Interleaved, ..rope::plain(config, latent.rope_dim, 6_000_000.0)? };
    let scale = rope::yarn_attention_scale(config)?;
    let mut experts = DeepSeekMoe::read(config, Choice::SigmoidBiased, Defaults { dense_layers: 2, ..Defaults::V3 })?;
    experts.bias = "gate.expert_bias";
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-6)? as f32, plus_one: false };
    let ends = Ends { embedding: "model.word_embeddings.weight", ..Ends::read(config)? };
    Decoder::load_between("bailing_hybrid", ends, config, weights, kv, norms, |layer, prefix, weights| {
        let name = format!("{prefix}.attention");
        let mixer: Box<dyn Mixer> = match is_latent[layer] {
            true => {
                let gate = weights.matrix(&format!("{name}.g_proj.weight"), latent.heads, latent.hidden)?.exact();
                Box::new(Mla::load(weights, &name, latent, Some(&rope), scale)?.gated(Gates::Heads, gate))
            }
            false => Box::new(Kda::load(weights, &name, delta, kind, norms)?),
        };
        Ok(Halves { alphas: None, mixer, feed_forward: experts.load(layer, prefix, weights)? })
    })
}
