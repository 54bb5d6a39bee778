//! MiMo-V2-Flash (309B-A15B): five layers within a window, with sinks and more heads of keys, to one of full attention; values
//! narrower than keys, and scaled; DeepSeek's experts without shared ones (`transformers` `modeling_mimo_v2_flash.py`). Its
//! layers for multi-token prediction are not read.

use outpour_kernels::{DType, Rope};

use crate::blocks::attention::{Attention, Kind, Sizes};
use crate::blocks::decoder::{Decoder, Halves};
use crate::blocks::deepseek_moe::{Choice, DeepSeekMoe, Defaults};
use crate::blocks::rope;
use crate::config::{Config, ModelError};
use crate::weights::{Norms, Weights};

/// Attention of a kind of layer.
struct Attends {
    sizes: Sizes,
    kind: Kind,
}

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    let is_full = full_layers(config)?;
    let sizes = Sizes::read(config)?;
    let full = Attends {
        sizes,
        kind: Kind {
            qkv_bias: config.flag_or("attention_bias", false)?,
            v_dim: Some(config.size_or("v_head_dim", 128)?),
            v_scale: Some(config.positive_or("attention_value_scale", 0.707)? as f32),
            sinks: sinks(config, "add_full_attention_sink_bias", false)?,
            ..Kind::plain(rope_of(config, "full_attention", sizes.head_dim, "rope_theta", 5_000_000.0)?)
        },
    };
    let windowed = windowed(config, &full)?;
    let experts = DeepSeekMoe::read(config, Choice::SigmoidBiased, Defaults { shared_experts: 0, ..Defaults::GLM })?;
    let eps = config.positive_or(config.spelling(&["layernorm_epsilon", "rms_norm_eps"]), 1e-5)? as f32;
    let norms = Norms { eps, plus_one: false };
    Decoder::load("mimo_v2_flash", config, weights, kv, norms, |layer, prefix, weights| {
        let Attends { sizes, kind } = if is_full[layer] { &full } else { &windowed };
        Ok(Halves {
            alphas: None,
            mixer: Box::new(Attention::load(weights, &format!("{prefix}.self_attn"), *sizes, kind, norms)?),
            feed_forward: experts.load(layer, prefix, weights)?,
        })
    })
}

/// Layers of full attention: those that `hybrid_layer_pattern` has a 0 for, or that `layer_types` names.
fn full_layers(config: &Config) -> Result<Vec<bool>, ModelError> {
    let (layers, pattern) = (config.size("num_hidden_layers")?, config.layers("hybrid_layer_pattern")?);
    if pattern.is_empty() {
        return config.layer_types("sliding_attention", |layer| layer == 0 || (layer + 1).is_multiple_of(6));
    }
    if pattern.len() != layers || pattern.iter().any(|&kind| kind > 1) {
        return Err(ModelError::Config(format!(
            "hybrid_layer_pattern is not a 0 or 1 for each of {layers} layers; download it again"
        )));
    }
    Ok(pattern.iter().map(|&kind| kind == 0).collect())
}

/// Attention within a window, from that of full layers.
fn windowed(config: &Config, full: &Attends) -> Result<Attends, ModelError> {
    let Sizes { hidden, heads, kv_heads, head_dim } = full.sizes;
    let sizes = Sizes {
        hidden,
        heads: config.size_or("swa_num_attention_heads", heads)?,
        kv_heads: config.size_or("swa_num_key_value_heads", 2 * kv_heads)?,
        head_dim: config.size_or("swa_head_dim", head_dim)?,
    };
    sizes.check()?;
    // The release counts the positions before the query's own.
    let window = match config.size_or_none("sliding_window_size")? {
        Some(before) => before + 1,
        None => config.size("sliding_window")?,
    };
    let rope = rope_of(config, "sliding_attention", sizes.head_dim, "swa_rope_theta", 10_000.0)?;
    let v_dim = full.kind.v_dim.map(|v_dim| config.size_or("swa_v_head_dim", v_dim)).transpose()?;
    let sinks = sinks(config, "add_swa_attention_sink_bias", true)?;
    let kind = Kind { v_dim, sinks, window: Some(window), rope: Some(rope.into()), ..full.kind.clone() };
    Ok(Attends { sizes, kind })
}

fn sinks(config: &Config, key: &str, default: bool) -> Result<Option<&'static str>, ModelError> {
    Ok(config.flag_or(key, default)?.then_some("attention_sink_bias"))
}

/// RoPE of a kind of layer: as `rope_parameters` has it by kind, or the release in keys of their own.
fn rope_of(config: &Config, layers: &str, head_dim: usize, theta_key: &str, theta: f64) -> Result<Rope, ModelError> {
    let settings = config.part("rope_parameters")?.part(layers)?;
    let factor = config.float_or("partial_rotary_factor", 0.334)?;
    let rotary_dim = rope::rotary_dim(head_dim, settings.float_or("partial_rotary_factor", factor)?)?;
    let theta = settings.positive_or("rope_theta", config.positive_or(theta_key, theta)?)?;
    rope::scaled(config, &settings, rotary_dim, theta)
}
