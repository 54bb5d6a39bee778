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

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    config.only("hidden_act", "silu")?;
    for half in ["full_attn", "linear_attn", "mlp"] {
        let key = format!("{half}_beta_factor");
        if config.float_or(&key, 1.0)? != 1.0 {
            return Err(ModelError::Config(format!("{key} is not 1, as in every released model of this family")));
        }
    }
    let alpha = |half: &str| config.positive_or(&format!("{half}_alpha_factor"), 1.0).map(|alpha| alpha as f32);
    let (full_alpha, linear_alpha, mlp_alpha) = (alpha("full_attn")?, alpha("linear_attn")?, alpha("mlp")?);
    let is_full = config.layer_types("linear_attention", |layer| layer % 2 == 0)?;
    let sizes = attention::Sizes::read(config)?;
    let moe::Sizes { experts, top_k, width } = moe::Sizes::read(config, &["num_local_experts"], "intermediate_size")?;
    let router = Router { renormalise: true, ..Router::new(top_k, RouterScore::Softmax) };
    let kind = Kind::plain(rope::first(config, sizes.head_dim, 1.0, 1_000_000.0)?);
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-5)? as f32, plus_one: false };
    Decoder::load("minimax", config, weights, kv, norms, |layer, prefix, weights| {
        let name = format!("{prefix}.self_attn");
        let (mixer, alpha): (Box<dyn Mixer>, f32) = match is_full[layer] {
            true => (Box::new(Attention::load(weights, &name, sizes, &kind, norms)?), full_alpha),
            false => (Box::new(Lightning::load(weights, &name, sizes, layer, is_full.len())?), linear_alpha),
        };
        let (prefix, hidden) = (format!("{prefix}.block_sparse_moe"), sizes.hidden);
        let gate = weights.matrix(&format!("{prefix}.gate.weight"), experts, hidden)?;
        let of = ExpertsOf { layer, prefix, experts, hidden, width, activation: Activation::SwiGlu };
        let feed_forward = FeedForward::Sparse(Moe::load(weights, &of, gate, router.clone(), None)?);
        Ok(Halves { mixer, feed_forward, alphas: Some([alpha, mlp_alpha]) })
    })
}
