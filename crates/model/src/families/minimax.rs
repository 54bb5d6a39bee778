//! MiniMax-Text-01: seven layers of Lightning Attention to one of grouped-query attention, 32 experts of which a softmax router
//! picks 2, and each half added to its own normed input (arXiv 2501.08313; `transformers` `modeling_minimax.py`, but for
//! RoPE: `rotary_dim` of the config is read here).

use outpour_kernels::{Activation, DType, Router, RouterScore};

use crate::blocks::attention::{self, Attention, Kind};
use crate::blocks::decoder::{Decoder, Halves};
use crate::blocks::feed_forward::FeedForward;
use crate::blocks::lightning::Lightning;
use crate::blocks::mixer::Mixer;
use crate::blocks::moe::{self, Moe};
use crate::blocks::rope;
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, Norms, Weights};

/// What the inputs of full attention, of Lightning Attention and of experts are multiplied with, as `transformers` and as its maker
/// spells it.
const ALPHAS: [[&str; 2]; 3] = [
    ["full_attn_alpha_factor", "layernorm_full_attention_alpha"],
    ["linear_attn_alpha_factor", "layernorm_linear_attention_alpha"],
    ["mlp_alpha_factor", "layernorm_mlp_alpha"],
];
/// And their outputs.
const BETAS: [[&str; 2]; 3] = [
    ["full_attn_beta_factor", "layernorm_full_attention_beta"],
    ["linear_attn_beta_factor", "layernorm_linear_attention_beta"],
    ["mlp_beta_factor", "layernorm_mlp_beta"],
];

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    config.only("hidden_act", "silu")?;
    // `transformers` adds to normed inputs always, its maker's own class where this says so.
    if !config.flag_or("postnorm", config.text_or("model_type", "minimax")? == "minimax")? {
        return Err(ModelError::Config("postnorm is false, which no released model of this family has".into()));
    }
    config.none_of("shared_intermediate_size")?;
    for beta in BETAS {
        let key = config.spelling(&beta);
        let beta = config.float_or(key, 1.0)?;
        if beta != 1.0 {
            return Err(ModelError::Config(format!("{key} is {beta}, and 1 in every released model of this family")));
        }
    }
    let alpha = |half: usize| config.positive_or(config.spelling(&ALPHAS[half]), 1.0).map(|alpha| alpha as f32);
    let (full_alpha, linear_alpha, mlp_alpha) = (alpha(0)?, alpha(1)?, alpha(2)?);
    let is_full = full_layers(config)?;
    let sizes = attention::Sizes::read(config)?;
    let moe::Sizes { experts, top_k, width } = moe::Sizes::read(config, &["num_local_experts"], "intermediate_size")?;
    let router = Router { renormalise: true, ..Router::new(top_k, RouterScore::Softmax) };
    let rope = rope::first(config, sizes.head_dim, 1.0, 1_000_000.0)?;
    let kind = Kind { window: config.size_or_none("sliding_window")?, ..Kind::plain(rope) };
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-5)? as f32, plus_one: false };
    Decoder::load("minimax", config, weights, kv, norms, |layer, prefix, weights| {
        let name = format!("{prefix}.self_attn");
        let (mixer, alpha): (Box<dyn Mixer>, f32) = match is_full[layer] {
            true => (Box::new(Attention::load(weights, &name, sizes, &kind, norms)?), full_alpha),
            false => (Box::new(Lightning::load(weights, &name, sizes, layer, is_full.len())?), linear_alpha),
        };
        let (prefix, hidden) = (format!("{prefix}.block_sparse_moe"), sizes.hidden);
        let gate = weights.matrix(&format!("{prefix}.gate.weight"), experts, hidden)?;
        let of = ExpertsOf { layer, prefix, experts, hidden, width, activation: Activation::SwiGlu, transposed: None };
        let feed_forward = FeedForward::Sparse(Moe::load(weights, &of, gate, router.clone(), None)?);
        Ok(Halves { mixer, feed_forward, alphas: Some([alpha, mlp_alpha]) })
    })
}

/// Which layers have full attention: those that `layer_types` says, or that its maker's `attn_type_list` has a 1 for.
fn full_layers(config: &Config) -> Result<Vec<bool>, ModelError> {
    if config.has("layer_types") || !config.has("attn_type_list") {
        return config.layer_types("linear_attention", |layer| layer % 2 == 0);
    }
    let (types, layers) = (config.layers("attn_type_list")?, config.size("num_hidden_layers")?);
    match types.len() == layers && types.iter().all(|kind| *kind <= 1) {
        true => Ok(types.iter().map(|kind| *kind == 1).collect()),
        false => Err(ModelError::Config(format!(
            "attn_type_list does not name each of {layers} layers by 0 or 1; download it again"
        ))),
    }
}
