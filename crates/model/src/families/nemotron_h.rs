//! Nemotron-3 Nano (30B-A3B), Super (120B-A12B), whose experts are of a latent width, and the dense Nemotron-H: each layer is one
//! thing behind a norm, Mamba-2, attention without positions, an MLP or experts, the latter without gates (arXiv 2504.03624; `transformers` `modeling_nemotron_h.py`).

use outpour_kernels::{Activation, DType};

use crate::blocks::attention::{self, Attention, Kind};
use crate::blocks::decoder::{Decoder, Half, Inner, Join, Layer, Parts, Said};
use crate::blocks::deepseek_moe::{Choice, DeepSeekMoe, Defaults};
use crate::blocks::feed_forward::FeedForward;
use crate::blocks::mamba2::{self, Mamba2};
use crate::blocks::{mlp, rope};
use crate::config::{Config, ModelError};
use crate::weights::{Norms, Weights};

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    config.only("mlp_hidden_act", "relu2")?;
    ["attention_bias", "mlp_bias", "use_bias", "mamba_proj_bias"].into_iter().try_for_each(|key| config.never(key))?;
    config.always("use_conv_bias")?;
    let (hidden, vocab) = (config.size("hidden_size")?, config.size("vocab_size")?);
    let pattern = &pattern(config)?;
    if pattern.is_empty() || pattern.chars().any(|letter| !"ME*-".contains(letter)) {
        return Err(ModelError::Config(format!(
            "hybrid_override_pattern {pattern:?} does not name each layer by M, E, * or -; download it again"
        )));
    }
    let layers = config.size_or("num_hidden_layers", pattern.len())?;
    if layers != pattern.len() {
        return Err(ModelError::Config(format!(
            "num_hidden_layers is {layers}, and {} layers are named; download it again",
            pattern.len()
        )));
    }
    config.only("mamba_hidden_act", "silu")?;
    let mamba = mamba2::Sizes::read(config)?;
    let sizes = attention::Sizes::read(config)?;
    let kind = Kind { rope: None, ..Kind::plain(rope::unscaled(sizes.head_dim, 10_000.0)) };
    let experts = match pattern.contains('E') {
        true => Some(experts(config)?),
        false => None,
    };
    let width = config.size_or("intermediate_size", 1)?;
    let eps = config.positive_or(config.spelling(&["layer_norm_epsilon", "norm_eps"]), 1e-5)? as f32;
    let norms = Norms { eps, plus_one: false };

    let tied = config.flag_or("tie_word_embeddings", false)?;
    let embedding = weights.embedding("backbone.embeddings.weight", vocab, hidden, tied)?;
    let load_layer = |(layer, letter): (usize, char)| {
        let prefix = format!("backbone.layers.{layer}");
        let norm = norms.load(weights, &format!("{prefix}.norm.weight"), hidden)?;
        let name = format!("{prefix}.mixer");
        let inner = match (letter, &experts) {
            ('M', _) => Inner::Mixer(Box::new(Mamba2::load(weights, &name, mamba, eps)?)),
            ('*', _) => Inner::Mixer(Box::new(Attention::load(weights, &name, sizes, &kind, norms)?)),
            ('E', Some(experts)) => Inner::FeedForward(experts.load(layer, &prefix, weights)?),
            _ => {
                let mlp = mlp::load_with(weights, &name, hidden, width, Activation::Relu2)?;
                Inner::FeedForward(FeedForward::Dense(mlp))
            }
        };
        Ok(Layer::from(vec![Half { norm: norm.into(), inner, join: Join::Added }]))
    };
    let layers: Vec<Layer> = pattern.chars().enumerate().map(load_layer).collect::<Result<_, ModelError>>()?;
    let norm = norms.load(weights, "backbone.norm_f.weight", hidden)?;
    let lm_head = if tied { embedding.clone() } else { weights.matrix("lm_head.weight", vocab, hidden)? };
    let said = Said {
        family: "nemotron_h",
        context_max: config.size_or("max_position_embeddings", 262_144)?,
        pattern: pattern.to_owned(),
        legend: "M Mamba-2, * attention, E experts, - an MLP".into(),
    };
    Ok(Decoder::new(Parts::plain(embedding, layers, norm, lm_head), said, kv))
}

/// A letter for each layer: `hybrid_override_pattern`, or `layers_block_type` in the new spelling.
fn pattern(config: &Config) -> Result<String, ModelError> {
    let Some(types) = config.texts("layers_block_type")? else {
        return Ok(config.text_or("hybrid_override_pattern", "")?.to_owned());
    };
    let letter = |kind: &&str| match *kind {
        "mamba" | "linear_attention" => Ok('M'),
        "attention" | "full_attention" => Ok('*'),
        "moe" => Ok('E'),
        "mlp" => Ok('-'),
        kind => Err(ModelError::Config(format!(
            "layers_block_type has {kind:?}; supported are linear_attention, full_attention, moe and mlp"
        ))),
    };
    types.iter().map(letter).collect()
}

/// Experts without gates, and a shared one of a width of its own.
fn experts(config: &Config) -> Result<DeepSeekMoe, ModelError> {
    let mut experts = DeepSeekMoe::read(config, Choice::SigmoidBiased, Defaults { dense_layers: 0, ..Defaults::GLM })?;
    experts.module = "mixer";
    experts.activation = Activation::Relu2;
    experts.shared_width = config.size("moe_shared_expert_intermediate_size")?;
    experts.latent = config.size_or_none("moe_latent_size")?;
    Ok(experts)
}
