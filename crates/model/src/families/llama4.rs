//! Llama 4 (Scout 109B-A17B, Maverick 400B-A17B): three layers of attention within chunks to one of full attention without
//! positions, whose queries grow along the context; experts, of which each token takes one, scaled by the router where they read
//! (`transformers` `modeling_llama4.py`). Images are not read.

use outpour_kernels::{Activation, DType, Rope, RopePairs, Router, RouterScore};

use crate::blocks::attention::{self, Attention, Kind, QkNorm};
use crate::blocks::decoder::{Decoder, Halves};
use crate::blocks::feed_forward::FeedForward;
use crate::blocks::growth::Growth;
use crate::blocks::moe::{self, Moe, SharedExpert};
use crate::blocks::{mlp, rope};
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, GateUp, Norms, Weights};

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    config.only("hidden_act", "silu")?;
    let sizes = attention::Sizes::read(config)?;
    let moe::Sizes { experts, top_k, width } = moe::Sizes::read(config, &["num_local_experts"], "intermediate_size")?;
    if top_k != 1 {
        return Err(ModelError::Config(format!("num_experts_per_tok is {top_k}, and 1 in every released model")));
    }
    let router = Router::new(top_k, RouterScore::Sigmoid);
    let dense_width = config.size_or("intermediate_size_mlp", 16_384)?;
    let (listed, every) = (config.layers("moe_layers")?, config.size_or("interleave_moe_layer_step", 1)?);
    let is_sparse = |layer: usize| match listed.is_empty() {
        true => (layer + 1).is_multiple_of(every),
        false => listed.contains(&layer),
    };
    let turns = turned_layers(config)?;
    let is_full = config.layer_types("chunked_attention", |layer| !turns[layer])?;
    let (turned, still) = kinds(config, sizes.head_dim)?;
    let chunk = config.size_or("attention_chunk_size", 8192)?;
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-5)? as f32, plus_one: false };
    Decoder::load("llama4", config, weights, kv, norms, |layer, prefix, weights| {
        let kind = if turns[layer] { turned.clone() } else { still.clone() };
        let kind = Kind { chunk: (!is_full[layer]).then_some(chunk), ..kind };
        let mixer = Box::new(Attention::load(weights, &format!("{prefix}.self_attn"), sizes, &kind, norms)?);
        let (prefix, hidden) = (format!("{prefix}.feed_forward"), sizes.hidden);
        if !is_sparse(layer) {
            let mlp = mlp::load(weights, &prefix, hidden, dense_width)?;
            return Ok(Halves { alphas: None, mixer, feed_forward: FeedForward::Dense(mlp) });
        }
        let gate = weights.matrix(&format!("{prefix}.router.weight"), experts, hidden)?;
        let shared = SharedExpert::ungated(mlp::load(weights, &format!("{prefix}.shared_expert"), hidden, width)?);
        let of = ExpertsOf {
            layer,
            prefix,
            experts,
            hidden,
            width,
            activation: Activation::SwiGlu,
            transposed: Some(GateUp::Behind),
        };
        let moe = Moe::load(weights, &of, gate, router.clone(), Some(shared))?.weighing_input();
        Ok(Halves { alphas: None, mixer, feed_forward: FeedForward::Sparse(moe) })
    })
}

/// Layers with RoPE: those that `no_rope_layers` has a 1 for.
fn turned_layers(config: &Config) -> Result<Vec<bool>, ModelError> {
    let (layers, listed) = (config.size("num_hidden_layers")?, config.layers("no_rope_layers")?);
    if listed.is_empty() {
        let every = config.size_or("no_rope_layer_interval", 4)?;
        return Ok((1..=layers).map(|layer| !layer.is_multiple_of(every)).collect());
    }
    if listed.len() != layers {
        let n = listed.len();
        return Err(ModelError::Config(format!("no_rope_layers names {n} layers of {layers}; download it again")));
    }
    Ok(listed.iter().map(|&turned| turned != 0).collect())
}

/// Attention with RoPE, and without.
fn kinds(config: &Config, head_dim: usize) -> Result<(Kind, Kind), ModelError> {
    let biased = config.flag_or("attention_bias", false)?;
    let rope = Rope { pairs: RopePairs::Interleaved, ..rope::plain(config, head_dim, 500_000.0)? };
    // They are normalised behind RoPE, which leaves lengths as they are.
    let qk_norm = if config.flag_or("use_qk_norm", true)? { QkNorm::Unweighted } else { QkNorm::None };
    let turned = Kind { qk_norm, qkv_bias: biased, o_bias: biased, ..Kind::plain(rope) };
    // Early configs have a number in place of true.
    let key = "attn_temperature_tuning";
    let grows = config.flag_or(key, true).or_else(|_| config.count_or(key, 1).map(|number| number > 0))?;
    let growth = Growth {
        beta: config.positive_or("attn_scale", 0.1)? as f32,
        every: config.size_or("floor_scale", 8192)?,
        ahead: 1,
    };
    let still = Kind { qk_norm: QkNorm::None, rope: None, growth: grows.then_some(growth), ..turned.clone() };
    Ok((turned, still))
}
