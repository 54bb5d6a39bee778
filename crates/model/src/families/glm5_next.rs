//! GLM-5.3-Flash (text): three layers of Kimi Delta Attention, whose decays have a lower bound, to one of latent attention without
//! positions to what an indexer chooses, by keys that stand for several positions each; DeepSeek's experts; and several residual
//! streams mixed by hyper-connections (`transformers` `modeling_glm5_next.py`).

use outpour_kernels::{Activation, DType};
use serde_json::Value;

use super::deepseek;
use crate::blocks::decoder::{Decoder, Half, Inner, Join, Layer, Parts, Said};
use crate::blocks::deepseek_moe::{Choice, DeepSeekMoe, Defaults};
use crate::blocks::hyper::{HyperConnection, Mix, Streams};
use crate::blocks::indexer::{self, Indexer, Selector};
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
    let tied = config.flag_or("tie_word_embeddings", false)?;
    config.never("attention_bias")?;
    if !config.flag_or("index_kpool_always_select_tail", true)? {
        return Err(ModelError::Config("index_kpool_always_select_tail is false, as in no release".into()));
    }
    let (layers, hidden, vocab) =
        (config.size("num_hidden_layers")?, config.size("hidden_size")?, config.size("vocab_size")?);
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-5)? as f32, plus_one: false };
    let streams = Streams::read(config, norms.eps)?;
    let latent = mla::Sizes { low_rank_eps: norms.eps, ..mla::Sizes::read(config)? };
    if latent.rope_dim > 0 {
        return Err(ModelError::Config(format!(
            "qk_rope_head_dim is {}, and no release of this family has rotary positions",
            latent.rope_dim
        )));
    }
    let (delta, kind) = delta(config)?;
    let index = indexer::Sizes { every: config.size_or("index_kpool", 16)?, ..indexer::Sizes::read(config)? };
    if index.top_k < index.every {
        let indexer::Sizes { top_k, every, .. } = index;
        return Err(ModelError::Config(format!(
            "index_topk {top_k} is less than index_kpool {every}; download it again"
        )));
    }
    let is_latent = is_latent(config, layers)?;
    let shared = deepseek::shared_layers(config)?;
    let mut experts =
        DeepSeekMoe::read(config, Choice::SigmoidBiased, Defaults { dense_layers: 3, scale: 2.5, ..Defaults::GLM })?;
    experts.activation = Activation::SwiGluLimited { limit: config.positive_or("swiglu_limit", 10.0)? as f32 };
    experts.dense_activation = experts.activation;

    let embedding = weights.embedding("model.embed_tokens.weight", vocab, hidden, tied)?;
    let load_layer = |layer: usize| {
        let prefix = format!("model.layers.{layer}");
        let norm = |part: &str, weights: &mut Weights| norms.load(weights, &format!("{prefix}.{part}.weight"), hidden);
        let mut hyper = |half: &str| {
            let name = format!("{prefix}.hc_{half}");
            HyperConnection::load(weights, &name, &streams, streams.columns(), 3).map(Join::mixed)
        };
        let [of_attention, of_experts] = [hyper("attn")?, hyper("ffn")?];
        let before = norm("input_layernorm", weights)?;
        let name = format!("{prefix}.self_attn");
        let mixer: Box<dyn Mixer> = match is_latent[layer] {
            false => Box::new(Kda::load(weights, &name, delta, kind, norms)?),
            true => {
                let indexer = format!("{name}.indexer");
                let selector = match shared[layer] {
                    true => Selector::Shared(index),
                    false => Selector::Own(Indexer::load(weights, &indexer, index, None)?.pooled(weights, &indexer)?),
                };
                Box::new(Mla::load(weights, &name, latent, None, 1.0)?.sparse(selector))
            }
        };
        let attention = Half { norm: before.into(), inner: Inner::Mixer(mixer), join: of_attention };
        let before = norm("post_attention_layernorm", weights)?;
        let inner = Inner::FeedForward(experts.load(layer, &prefix, weights)?);
        Ok(Layer::from(vec![attention, Half { norm: before.into(), inner, join: of_experts }]))
    };
    let layers: Vec<Layer> = (0..layers).map(load_layer).collect::<Result<_, ModelError>>()?;
    let lm_head = if tied { embedding.clone() } else { weights.matrix("lm_head.weight", vocab, hidden)? };
    let said = Said {
        family: "glm5_next",
        context_max: config.size_or("max_position_embeddings", 1 << 20)?,
        pattern: layers.iter().map(Layer::letter).collect(),
        legend: "K Kimi Delta Attention, S latent attention to chosen positions (DSA), capitals: experts, small letters: a dense MLP".into(),
    };
    let norm = norms.load(weights, "model.norm.weight", hidden)?;
    let mix = Some(Mix::Mean(streams.count));
    Ok(Decoder::new(Parts { mix, ..Parts::plain(embedding, layers, norm, lm_head) }, said, kv))
}

/// Delta attention, by `linear_attn_config` or keys of its own.
fn delta(config: &Config) -> Result<(kda::Sizes, kda::Kind), ModelError> {
    let part = config.part("linear_attn_config")?;
    let size = |old: &str, new: &str, default: usize| -> Result<usize, ModelError> {
        Ok(part.size_or_none(old)?.unwrap_or(config.size_or(new, default)?))
    };
    let sizes = kda::Sizes {
        hidden: config.size("hidden_size")?,
        heads: size("num_heads", "linear_num_heads", 64)?,
        head_dim: size("head_dim", "linear_head_dim", 128)?,
        kernel: size("short_conv_kernel_size", "linear_conv_kernel_dim", 4)?,
    };
    sizes.check()?;
    // Null says that there is none, unlike a key that is missing.
    let bound_of = |config: &Config, key: &str, otherwise| match config.0.get(key) {
        None => Ok(otherwise),
        Some(Value::Null) => Ok(None),
        Some(_) => kda::Kind::bound(config, key),
    };
    let own = bound_of(config, "linear_lower_bound", Some(-5.0))?;
    let bound = match config.has("linear_attn_config") {
        true => {
            let safe = part.flag_or("safe_gate", true)?.then_some(-5.0);
            bound_of(&part, "gate_lower_bound", own)?.or(safe)
        }
        false => own,
    };
    Ok((sizes, kda::Kind { bound, a_log_4d: false, ..kda::Kind::KIMI }))
}

/// Which layers have latent attention: those that `layer_types` calls so, or every fourth.
fn is_latent(config: &Config, layers: usize) -> Result<Vec<bool>, ModelError> {
    let Some(types) = config.texts("layer_types")? else {
        return Ok((0..layers).map(|layer| layer % 4 == 3).collect());
    };
    let known = |kind: &&str| match *kind {
        "indexed_attention" | "full_attention" => Ok(true),
        "linear_attention" => Ok(false),
        kind => Err(ModelError::Config(format!(
            "layer_types has {kind:?}; supported are indexed_attention and linear_attention"
        ))),
    };
    match types.len() < layers {
        true => {
            Err(ModelError::Config(format!("layer_types names {} layers of {layers}; download it again", types.len())))
        }
        false => types.iter().map(known).collect(),
    }
}
