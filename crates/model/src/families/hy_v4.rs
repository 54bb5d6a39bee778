//! Hunyuan 4 (Hy4-preview): latent attention to positions that an indexer, or the layer before, chooses, with sinks and a
//! gate for each value; DeepSeek's experts; and several residual streams that hyper-connections do not mix with each other
//! (`transformers` `modeling_hy_v4.py`).

use outpour_kernels::{Activation, DType, Rope};

use super::deepseek;
use crate::blocks::decoder::{Decoder, Half, Inner, Join, Layer, Parts, Said};
use crate::blocks::deepseek_moe::{Choice, DeepSeekMoe, Defaults};
use crate::blocks::hyper::{HyperConnection, Mix, Streams};
use crate::blocks::indexer::{self, Indexer, Selector};
use crate::blocks::mla::{self, Gates, Mla};
use crate::blocks::rope;
use crate::config::{Config, ModelError};
use crate::weights::{Norms, Weights};

/// What the weights of the last mixture are called where `transformers` has saved the model, which renames gates too.
const SAVED: &str = "model.hc_pre.hc_head.hc_head";

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    config.never("attention_bias")?;
    let (layers, hidden, vocab) =
        (config.size("num_hidden_layers")?, config.size("hidden_size")?, config.size("vocab_size")?);
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-5)? as f32, plus_one: false };
    let mut streams = Streams::read(config, norms.eps)?;
    streams.behind = [config.positive_or("hc_magnitude", 2.0)? as f32, config.positive_or("hc_eps", 1e-6)? as f32];
    let sizes = mla::Sizes::read(config)?;
    let rope = rope::plain(config, sizes.rope_dim, 10_000.0)?;
    let scale = rope::yarn_attention_scale(config)?;
    let index = indexer::Sizes { key_eps: norms.eps, ..indexer::Sizes::read(config)? };
    let index_rope = Rope { first: index.head_dim - sizes.rope_dim, ..rope.clone() };
    let shared = deepseek::shared_layers(config)?;
    let mut experts = DeepSeekMoe::read(config, Choice::SigmoidBiased, Defaults { scale: 2.827, ..Defaults::GLM })?;
    experts.activation = Activation::SwiGluLimited { limit: config.positive_or("swiglu_limit", 10.0)? as f32 };
    experts.shared_activation = Some(Activation::SwiGlu);
    let saved = weights.has_matrix(&format!("{SAVED}_fn"));
    if saved {
        experts.mlp_names[0] = "linear_gate";
    }

    let tied = config.flag_or("tie_word_embeddings", false)?;
    let embedding = weights.embedding("model.embed_tokens.weight", vocab, hidden, tied)?;
    let load_layer = |layer: usize| {
        let prefix = format!("model.layers.{layer}");
        let norm = |part: &str, weights: &mut Weights| norms.load(weights, &format!("{prefix}.{part}.weight"), hidden);
        let mut hyper = |half: &str| {
            let name = match saved {
                true => format!("{prefix}.hc_pre.hc_{half}_layer.hc"),
                false => format!("{prefix}.hc_{half}_layer.hc_pre.hc"),
            };
            HyperConnection::load(weights, &name, &streams, 2 * streams.count, 2).map(Join::mixed)
        };
        let [of_attention, of_experts] = [hyper("attn")?, hyper("mlp")?];
        let before = norm("input_layernorm", weights)?;
        let name = format!("{prefix}.self_attn");
        let selector = match shared[layer] {
            true => Selector::Shared(index),
            false => {
                Selector::Own(Indexer::load(weights, &format!("{name}.indexer"), index, Some(index_rope.clone()))?)
            }
        };
        let gate = weights.matrix(&format!("{name}.linear_gate.weight"), sizes.heads * sizes.v_dim, hidden)?;
        let sinks = weights.vector(&format!("{name}.learnable_sink_param"), sizes.heads)?;
        let mla = Mla::load(weights, &name, sizes, Some(&rope), scale)?;
        let mla = mla.sparse(selector).gated(Gates::Values, gate).with_sinks(sinks);
        let attention = Half { norm: before.into(), inner: Inner::Mixer(Box::new(mla)), join: of_attention };
        let before = norm("post_attention_layernorm", weights)?;
        let inner = Inner::FeedForward(experts.load(layer, &prefix, weights)?);
        Ok(Layer::from(vec![attention, Half { norm: before.into(), inner, join: of_experts }]))
    };
    let layers: Vec<Layer> = (0..layers).map(load_layer).collect::<Result<_, ModelError>>()?;
    let name = if saved { SAVED } else { "model.hc_head.hc_head" };
    let mix = HyperConnection::load(weights, name, &streams, streams.count, 1)?;
    let lm_head = if tied { embedding.clone() } else { weights.matrix("lm_head.weight", vocab, hidden)? };
    let said = Said {
        family: "hy_v4",
        context_max: config.size_or("max_position_embeddings", 262_144)?,
        pattern: layers.iter().map(Layer::letter).collect(),
        legend: "S latent attention to chosen positions (DSA), R to what the layer before chose, capitals: experts, small letters: a dense MLP".into(),
    };
    let norm = norms.load(weights, "model.norm.weight", hidden)?;
    Ok(Decoder::new(
        Parts { mix: Some(Mix::Weighted(Box::new(mix))), ..Parts::plain(embedding, layers, norm, lm_head) },
        said,
        kv,
    ))
}
