//! gpt-oss (20B, 120B): attention with biases and sinks, every other layer within a window of 128; experts with biases and a
//! clamped activation, chosen by their logits (arXiv 2508.10925; `transformers` `modeling_gpt_oss.py`).

use outpour_kernels::{Activation, Bias, DType, Router, RouterScore};

use crate::blocks::attention::{self, Attention, Kind};
use crate::blocks::decoder::{Decoder, Halves};
use crate::blocks::feed_forward::FeedForward;
use crate::blocks::moe::{self, Moe};
use crate::blocks::rope;
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, GateUp, Norms, Weights};

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    // Which is but a name here: the activation is the clamped one below.
    if config.text_or("hidden_act", "silu")? != "silu" {
        let found = config.text_or("hidden_act", "silu")?;
        return Err(ModelError::Config(format!("hidden_act {found:?} is in no released gpt-oss; download it again")));
    }
    config.needs_rope_scaling()?;
    let sizes = attention::Sizes::read(config)?;
    let moe::Sizes { experts, top_k, width } =
        moe::Sizes::read(config, &["num_local_experts", "num_experts"], "intermediate_size")?;
    let biased = config.flag_or("attention_bias", true)?;
    let full = Kind {
        qkv_bias: biased,
        o_bias: biased,
        sinks: Some("sinks"),
        ..Kind::plain(rope::plain(config, sizes.head_dim, 150_000.0)?)
    };
    let windowed = Kind { window: Some(config.size_or("sliding_window", 128)?), ..full.clone() };
    // A layer within the window first, unless the config names each.
    let is_full = config.layer_types("sliding_attention", |layer| layer % 2 == 1)?;
    let activation = Activation::SwiGluClamped {
        alpha: config.positive_or("swiglu_alpha", 1.702)? as f32,
        limit: config.positive_or("swiglu_limit", 7.0)? as f32,
    };
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-5)? as f32, plus_one: false };
    Decoder::load("gpt_oss", config, weights, kv, norms, |layer, prefix, weights| {
        let kind = if is_full[layer] { &full } else { &windowed };
        let mixer = Box::new(Attention::load(weights, &format!("{prefix}.self_attn"), sizes, kind, norms)?);
        let (prefix, hidden) = (format!("{prefix}.mlp"), sizes.hidden);
        let gate = weights.matrix(&format!("{prefix}.router.weight"), experts, hidden)?;
        let gate_bias = Bias::plain(weights.vector(&format!("{prefix}.router.bias"), experts)?);
        let biases = expert_biases(weights, &prefix, experts, [width, hidden])?;
        let of = ExpertsOf { layer, prefix, experts, hidden, width, activation, transposed: Some(GateUp::Alternate) };
        let router = Router::new(top_k, RouterScore::SoftmaxOfChosen);
        let moe = Moe::load(weights, &of, gate, router, None)?.biased(gate_bias, biases);
        Ok(Halves { alphas: None, mixer, feed_forward: FeedForward::Sparse(moe) })
    })
}

/// Biases of gate, up and down of all experts: those of gate and up alternate in the release, and lie apart in MLX's exports.
fn expert_biases(
    weights: &mut Weights,
    prefix: &str,
    experts: usize,
    [width, hidden]: [usize; 2],
) -> Result<[Bias; 3], ModelError> {
    let joined = format!("{prefix}.experts.gate_up_proj_bias");
    if weights.shape_of(&joined).is_some() {
        let values = weights.tensor(&joined, &[experts, 2 * width])?;
        let down = weights.tensor(&format!("{prefix}.experts.down_proj_bias"), &[experts, hidden])?;
        let part = |first| Bias { values: values.clone(), first, step: 2 };
        return Ok([part(0), part(1), Bias::plain(down)]);
    }
    let mut part =
        |stem, columns| weights.tensor(&format!("{prefix}.experts.{stem}.bias"), &[experts, columns]).map(Bias::plain);
    Ok([part("gate_proj", width)?, part("up_proj", width)?, part("down_proj", hidden)?])
}
