//! Granite 4 (granitemoehybrid; H-Tiny 7B-A1B, H-Small 32B-A9B, and H-Micro and H-1B without experts): nine layers of Mamba-2 to one
//! of attention without positions, experts beside a shared MLP, and factors for embeddings, scores, outputs of halves and logits
//! (`transformers` `modeling_granitemoehybrid.py`).

use outpour_kernels::{Activation, DType, Rope, Router, RouterScore};

use crate::blocks::attention::{self, Attention, Kind};
use crate::blocks::decoder::{Decoder, Half, Inner, Join, Layer, Parts, Said};
use crate::blocks::feed_forward::FeedForward;
use crate::blocks::mamba2::{self, Mamba2};
use crate::blocks::mixer::Mixer;
use crate::blocks::moe::{self, Moe, SharedExpert};
use crate::blocks::{mlp, rope};
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, Norms, Weights};

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    config.only("hidden_act", "silu")?;
    ["attention_bias", "mamba_proj_bias"].into_iter().try_for_each(|key| config.never(key))?;
    config.always("mamba_conv_bias")?;
    let (hidden, vocab) = (config.size("hidden_size")?, config.size("vocab_size")?);
    let types = config.texts("layer_types")?.unwrap_or_default();
    let layers = config.size("num_hidden_layers")?;
    if types.len() != layers {
        let n = types.len();
        return Err(ModelError::Config(format!("layer_types names {n} layers of {layers}; download it again")));
    }
    let is_attention = |layer: usize| match types[layer] {
        "mamba" | "linear_attention" => Ok(false),
        "attention" | "full_attention" => Ok(true),
        kind => Err(ModelError::Config(format!("layer_types has {kind:?}; supported are mamba and attention"))),
    };
    let sizes = attention::Sizes::read(config)?;
    let rope = Rope { pairs: rope::pairs(config, false)?, ..rope::plain(config, sizes.head_dim, 10_000.0)? };
    let turns = config.text_or("position_embedding_type", "nope")? == "rope";
    let scale = Some(config.positive_or("attention_multiplier", 1.0)? as f32);
    let kind = Kind { scale, ..Kind::plain(rope) };
    let kind = if turns { kind } else { Kind { rope: None, ..kind } };
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-6)? as f32, plus_one: false };
    let factor = config.positive_or("residual_multiplier", 1.0)? as f32;
    let experts = match config.count_or("num_local_experts", 8)? {
        0 => None,
        _ => Some(moe::Sizes::read(config, &["num_local_experts"], "intermediate_size")?),
    };

    let tied = config.flag_or("tie_word_embeddings", false)?;
    let embedding = weights.embedding("model.embed_tokens.weight", vocab, hidden, tied)?;
    let load_layer = |layer: usize| {
        let prefix = format!("model.layers.{layer}");
        let norm = |part: &str, weights: &mut Weights| norms.load(weights, &format!("{prefix}.{part}.weight"), hidden);
        let before = norm("input_layernorm", weights)?;
        let mixer: Box<dyn Mixer> = match is_attention(layer)? {
            true => Box::new(Attention::load(weights, &format!("{prefix}.self_attn"), sizes, &kind, norms)?),
            false => {
                let sizes = mamba2::Sizes::read(config)?;
                Box::new(Mamba2::load(weights, &format!("{prefix}.mamba"), sizes, norms.eps)?)
            }
        };
        let mixer = Half { norm: before.into(), inner: Inner::Mixer(mixer), join: Join::Scaled(factor) };
        let before = norm("post_attention_layernorm", weights)?;
        let feed_forward = feed_forward(config, weights, layer, hidden, experts)?;
        let experts = Half { norm: before.into(), inner: Inner::FeedForward(feed_forward), join: Join::Scaled(factor) };
        Ok(Layer::from(vec![mixer, experts]))
    };
    let layers: Vec<Layer> = (0..layers).map(load_layer).collect::<Result<_, ModelError>>()?;
    let lm_head = if tied { embedding.clone() } else { weights.matrix("lm_head.weight", vocab, hidden)? };
    let said = Said {
        family: "granitemoehybrid",
        context_max: config.size_or("max_position_embeddings", 131_072)?,
        pattern: layers.iter().map(Layer::letter).collect(),
        legend: "M Mamba-2, A attention, capitals: experts, small letters: a dense MLP".into(),
    };
    let parts = Parts {
        embedding_scale: Some(config.positive_or("embedding_multiplier", 1.0)? as f32),
        logits_scale: Some((1.0 / config.positive_or("logits_scaling", 1.0)?) as f32),
        ..Parts::plain(embedding, layers, norms.load(weights, "model.norm.weight", hidden)?, lm_head)
    };
    Ok(Decoder::new(parts, said, kv))
}

/// Experts beside a shared MLP, or the MLP alone.
fn feed_forward(
    config: &Config,
    weights: &mut Weights,
    layer: usize,
    hidden: usize,
    experts: Option<moe::Sizes>,
) -> Result<FeedForward, ModelError> {
    let prefix = format!("model.layers.{layer}");
    let (name, width) = (format!("{prefix}.shared_mlp"), config.size("shared_intermediate_size")?);
    let parts = ["input_linear", "output_linear"];
    // GGUF files have gate and up apart, and the MLP of a dense layer under the name that others have for it.
    let mlp = match (weights.are_gguf(), experts) {
        (true, None) => mlp::load(weights, &format!("{prefix}.mlp"), hidden, width)?,
        (true, Some(_)) => mlp::load(weights, &format!("{prefix}.mlp.shared_mlp"), hidden, width)?,
        (false, _) => mlp::load_joined(weights, &name, parts, [hidden, width], Activation::SwiGlu)?,
    };
    let Some(moe::Sizes { experts, top_k, width }) = experts else { return Ok(FeedForward::Dense(mlp)) };
    let prefix = format!("{prefix}.block_sparse_moe");
    let gate = weights.matrix(&format!("{prefix}.router.layer.weight"), experts, hidden)?;
    let of = ExpertsOf { layer, prefix, experts, hidden, width, activation: Activation::SwiGlu, transposed: None };
    let router = Router::new(top_k, RouterScore::SoftmaxOfChosen);
    Ok(FeedForward::Sparse(Moe::load(weights, &of, gate, router, Some(SharedExpert::ungated(mlp)))?))
}
