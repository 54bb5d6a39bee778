//! Gemma 3 (dense, 1B to 27B) and Gemma 4 (26B-A4B, and the dense 31B): five layers within a window to one of full attention, a
//! norm before and behind each half, the embedding scaled by √hidden (arXiv 2503.19786; `transformers` `modeling_gemma3.py`,
//! `modeling_gemma4.py`). Gemma 4 has in each sparse layer an MLP and experts side by side; its full layers have wider heads,
//! values that are what their keys are, and a quarter of their pairs turned. Images and sounds are not read.

use outpour_kernels::{Activation, DType, Rope, Router, RouterScore};

use crate::blocks::attention::{Attention, Kind, QkNorm, Sizes};
use crate::blocks::decoder::{Decoder, Half, Inner, Join, Layer, Parts, Said};
use crate::blocks::feed_forward::{Beside, FeedForward};
use crate::blocks::moe::{self, Moe};
use crate::blocks::{mlp, rope};
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, Norms, Weights};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Norms stored as their distance from 1.
    Gemma3,
    /// Norms as they are, experts, two widths of heads.
    Gemma4,
}

/// Attention of a kind of layer.
struct Attends {
    sizes: Sizes,
    kind: Kind,
}

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(family: Family, config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    config.only("hidden_activation", "gelu_pytorch_tanh")?;
    config.never("attention_bias")?;
    let (per_layer, vocab) = if family == Family::Gemma3 { (0, 262_208) } else { (256, 262_144) };
    for (key, default) in [("hidden_size_per_layer_input", per_layer), ("num_kv_shared_layers", 0)] {
        if config.count_or(key, default)? > 0 {
            return Err(ModelError::Config(format!("{key} is not 0: the small Gemma 4 models are not supported")));
        }
    }
    let (hidden, layers) = (config.size("hidden_size")?, config.size("num_hidden_layers")?);
    let vocab = config.size_or("vocab_size", vocab)?;
    let every = config.size_or("sliding_window_pattern", 6)?;
    let is_full = config.layer_types("sliding_attention", |layer| (layer + 1).is_multiple_of(every))?;
    let (full, windowed) = attends(family, config)?;
    let eps = config.positive_or("rms_norm_eps", 1e-6)? as f32;
    let norms = Norms { eps, plus_one: family == Family::Gemma3 && !weights.are_gguf() };
    let width = config.size("intermediate_size")?;
    let sparse = match config.flag_or("enable_moe_block", false)? {
        true => Some(moe::Sizes::read(config, &["num_experts"], "moe_intermediate_size")?),
        false => None,
    };

    weights.check_layers(layers)?;
    let tied = config.flag_or("tie_word_embeddings", true)?;
    let embedding = weights.embedding("model.embed_tokens.weight", vocab, hidden, tied)?;
    let load_layer = |layer: usize| {
        let prefix = format!("model.layers.{layer}");
        let Attends { sizes, kind } = if is_full[layer] { &full } else { &windowed };
        let norm = |part: &str, weights: &mut Weights| norms.load(weights, &format!("{prefix}.{part}.weight"), hidden);
        let attention = Half {
            norm: norm("input_layernorm", weights)?.into(),
            inner: Inner::Mixer(Box::new(Attention::load(
                weights,
                &format!("{prefix}.self_attn"),
                *sizes,
                kind,
                norms,
            )?)),
            join: Join::Normed(norm("post_attention_layernorm", weights)?),
        };
        let before = norm("pre_feedforward_layernorm", weights)?;
        let mlp = mlp::load_with(weights, &format!("{prefix}.mlp"), hidden, width, Activation::GeGlu)?;
        let feed_forward = match sparse {
            None => FeedForward::Dense(mlp),
            Some(sizes) => FeedForward::Beside(mlp, beside(weights, layer, hidden, sizes, norms)?),
        };
        let feed_forward = Half {
            norm: before.into(),
            inner: Inner::FeedForward(feed_forward),
            join: Join::Normed(norm("post_feedforward_layernorm", weights)?),
        };
        let scalar = match family {
            Family::Gemma3 => None,
            Family::Gemma4 => Some(weights.vector(&format!("{prefix}.layer_scalar"), 1)?),
        };
        Ok(Layer { scalar, ..Layer::from(vec![attention, feed_forward]) })
    };
    let layers: Vec<Layer> = (0..layers).map(load_layer).collect::<Result<_, ModelError>>()?;
    let lm_head = if tied { embedding.clone() } else { weights.matrix("lm_head.weight", vocab, hidden)? };
    let softcap = config.float_or("final_logit_softcapping", 0.0)? as f32;
    let said = Said {
        family: if family == Family::Gemma3 { "gemma3" } else { "gemma4" },
        context_max: config.size_or("max_position_embeddings", 131_072)?,
        pattern: layers.iter().map(Layer::letter).collect(),
        legend: "A attention, W attention within a window, capitals: an MLP and experts, small letters: an MLP".into(),
    };
    let parts = Parts {
        embedding_scale: Some((hidden as f32).sqrt()),
        softcap: (softcap > 0.0).then_some(softcap),
        ..Parts::plain(embedding, layers, norms.load(weights, "model.norm.weight", hidden)?, lm_head)
    };
    Ok(Decoder::new(parts, said, kv))
}

/// Attention of full layers, and of those within a window.
fn attends(family: Family, config: &Config) -> Result<(Attends, Attends), ModelError> {
    let sizes = Sizes::read_or(config, [8, 4, 256])?;
    let window = config.size_or("sliding_window", if family == Family::Gemma3 { 4096 } else { 512 })?;
    let kind = |rope: Rope| Kind { qk_norm: QkNorm::PerHead, ..Kind::plain(rope) };
    let parameters = config.part("rope_parameters")?;
    let rope_of = |layers: &str, head_dim: usize, theta: f64| {
        let settings = parameters.part(layers)?;
        rope::scaled(config, &settings, head_dim, settings.positive_or("rope_theta", theta)?)
    };
    if family == Family::Gemma3 {
        config.no("attn_logit_softcapping")?;
        config.never("use_bidirectional_attention")?;
        let scale = Some((config.positive_or("query_pre_attn_scalar", 256.0)? as f32).powf(-0.5));
        // The new spelling, and the old one.
        let (full, local) = if ["full_attention", "sliding_attention"].iter().any(|layers| parameters.has(layers)) {
            (rope_of("full_attention", sizes.head_dim, 1e6)?, rope_of("sliding_attention", sizes.head_dim, 1e4)?)
        } else {
            let local_theta = config.positive_or("rope_local_base_freq", 10_000.0)?;
            (rope::plain(config, sizes.head_dim, 1_000_000.0)?, rope::unscaled(sizes.head_dim, local_theta))
        };
        let full = Kind { scale, ..kind(full) };
        let windowed = Kind { scale, window: Some(window), ..kind(local) };
        return Ok((Attends { sizes, kind: full }, Attends { sizes, kind: windowed }));
    }
    config.only("use_bidirectional_attention", "vision")?;
    config.needs("rope_parameters")?;
    ["full_attention", "sliding_attention"].into_iter().try_for_each(|layers| parameters.needs(layers))?;
    let k_is_v = config.flag_or("attention_k_eq_v", false)?;
    let kv_heads = if k_is_v { config.size_or("num_global_key_value_heads", sizes.kv_heads)? } else { sizes.kv_heads };
    let full_sizes = Sizes { kv_heads, head_dim: config.size_or("global_head_dim", 512)?, ..sizes };
    full_sizes.check()?;
    let scale = Some(1.0);
    let full =
        Kind { scale, v_norm: true, v_from_k: k_is_v, ..kind(rope_of("full_attention", full_sizes.head_dim, 1e6)?) };
    let local = kind(rope_of("sliding_attention", sizes.head_dim, 1e4)?);
    let windowed = Kind { scale, v_norm: true, window: Some(window), ..local };
    Ok((Attends { sizes: full_sizes, kind: full }, Attends { sizes, kind: windowed }))
}

/// The experts of a layer beside its MLP.
fn beside(
    weights: &mut Weights,
    layer: usize,
    hidden: usize,
    sizes: moe::Sizes,
    norms: Norms,
) -> Result<Beside, ModelError> {
    let prefix = format!("model.layers.{layer}");
    let moe::Sizes { experts, top_k, width } = sizes;
    let gate = weights.matrix(&format!("{prefix}.router.proj.weight"), experts, hidden)?;
    let router = Router {
        renormalise: true,
        expert_scale: Some(weights.vector(&format!("{prefix}.router.per_expert_scale"), experts)?),
        ..Router::new(top_k, RouterScore::Softmax)
    };
    let of = ExpertsOf {
        layer,
        prefix: prefix.clone(),
        experts,
        hidden,
        width,
        activation: Activation::GeGlu,
        transposed: None,
    };
    let mut norm = |part: &str| norms.load(weights, &format!("{prefix}.{part}"), hidden);
    Ok(Beside {
        router_norm: norm("router.scale")?.into(),
        pre_norm: norm("pre_feedforward_layernorm_2.weight")?,
        post_norm: norm("post_feedforward_layernorm_2.weight")?,
        mlp_post_norm: norm("post_feedforward_layernorm_1.weight")?,
        moe: Moe::load(weights, &of, gate, router, None)?.scaled((hidden as f32).powf(-0.5)),
    })
}
