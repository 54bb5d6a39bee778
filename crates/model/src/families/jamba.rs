//! Jamba 1.5, 1.6, 1.7 (Mini 52B-A12B, Large 398B-A94B): seven layers of Mamba to one of attention without positions, and experts in
//! every other layer (arXiv 2403.19887; `transformers` `modeling_jamba.py`).

use outpour_kernels::{Activation, DType, Router, RouterScore};

use crate::blocks::attention::{self, Attention, Kind};
use crate::blocks::decoder::{Decoder, Ends, Halves};
use crate::blocks::feed_forward::FeedForward;
use crate::blocks::mamba::{self, Mamba};
use crate::blocks::mixer::Mixer;
use crate::blocks::moe::{self, Moe};
use crate::blocks::{mlp, rope};
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, Norms, Weights};

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    config.only("hidden_act", "silu")?;
    config.never("mamba_proj_bias")?;
    ["mamba_inner_layernorms", "mamba_conv_bias"].into_iter().try_for_each(|key| config.always(key))?;
    let every = |what: &str, period: usize, offset: usize| -> Result<_, ModelError> {
        let period = config.size_or(&format!("{what}_layer_period"), period)?;
        let offset = config.count_or(&format!("{what}_layer_offset"), offset)?;
        Ok(move |layer: usize| layer % period == offset)
    };
    let (is_full, is_sparse) = (every("attn", 8, 4)?, every("expert", 2, 1)?);
    let (sizes, mamba) = (attention::Sizes::read(config)?, mamba::Sizes::read(config)?);
    let kind = Kind { rope: None, ..Kind::plain(rope::unscaled(sizes.head_dim, 10_000.0)) };
    let moe::Sizes { experts, top_k, width } =
        moe::Sizes::read(config, &["num_experts", "num_local_experts"], "intermediate_size")?;
    let router = Router::new(top_k, RouterScore::Softmax);
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-6)? as f32, plus_one: false };
    let ends = Ends {
        half_norms: ["input_layernorm", "pre_ff_layernorm"],
        norm: "model.final_layernorm",
        ..Ends::read(config)?
    };
    Decoder::load_between("jamba", ends, config, weights, kv, norms, |layer, prefix, weights| {
        let mixer: Box<dyn Mixer> = match is_full(layer) {
            true => Box::new(Attention::load(weights, &format!("{prefix}.self_attn"), sizes, &kind, norms)?),
            false => Box::new(Mamba::load(weights, &format!("{prefix}.mamba"), mamba, norms)?),
        };
        let (prefix, hidden) = (format!("{prefix}.feed_forward"), sizes.hidden);
        // With one expert there is nothing to choose.
        if !is_sparse(layer) || experts == 1 {
            let mlp = mlp::load(weights, &prefix, hidden, width)?;
            return Ok(Halves { alphas: None, mixer, feed_forward: FeedForward::Dense(mlp) });
        }
        let gate = weights.matrix(&format!("{prefix}.router.weight"), experts, hidden)?;
        let of = ExpertsOf { layer, prefix, experts, hidden, width, activation: Activation::SwiGlu, transposed: None };
        let moe = Moe::load(weights, &of, gate, router.clone(), None)?;
        Ok(Halves { alphas: None, mixer, feed_forward: FeedForward::Sparse(moe) })
    })
}
