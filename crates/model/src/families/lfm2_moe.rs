//! LFM2 with experts (8B-A1B): gated short convolutions, some layers of attention, and experts chosen by sigmoid and a learnt bias
//! behind the first, dense layers (`transformers` `modeling_lfm2_moe.py`).

use outpour_kernels::{Activation, DType, Router, RouterScore};

use crate::blocks::attention::{self, Attention, Kind, QkNorm};
use crate::blocks::decoder::{Decoder, Ends, Halves};
use crate::blocks::feed_forward::FeedForward;
use crate::blocks::mixer::Mixer;
use crate::blocks::moe::{self, Moe};
use crate::blocks::short_conv::{self, ShortConv};
use crate::blocks::{mlp, rope};
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, Norms, Weights};

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    config.never("conv_bias")?;
    let is_full = config.layer_types("conv", |_| false)?;
    let (sizes, conv) = (attention::Sizes::read(config)?, short_conv::Sizes::read(config)?);
    let rope = rope::plain(config, sizes.head_dim, 1_000_000.0)?;
    let names = ["q_layernorm", "k_layernorm", "out_proj"];
    let kind = Kind { qk_norm: QkNorm::PerHead, names, ..Kind::plain(rope) };
    let moe::Sizes { experts, top_k, width } = moe::Sizes::read(config, &["num_experts"], "moe_intermediate_size")?;
    let router = Router {
        renormalise: config.flag_or("norm_topk_prob", true)?,
        eps: 1e-6,
        scale: config.positive_or("routed_scaling_factor", 1.0)? as f32,
        ..Router::new(top_k, RouterScore::Sigmoid)
    };
    let biased = config.flag_or("use_expert_bias", true)?;
    let (dense_layers, dense_width) = (config.count_or("num_dense_layers", 2)?, config.size("intermediate_size")?);
    let norms = Norms { eps: config.positive_or("norm_eps", 1e-5)? as f32, plus_one: false };
    let ends = Ends {
        tied: config.flag_or(config.spelling(&["tie_embedding", "tie_word_embeddings"]), true)?,
        half_norms: ["operator_norm", "ffn_norm"],
        norm: "model.embedding_norm",
        ..Ends::read(config)?
    };
    Decoder::load_between("lfm2_moe", ends, config, weights, kv, norms, |layer, prefix, weights| {
        let mixer: Box<dyn Mixer> = match is_full[layer] {
            true => Box::new(Attention::load(weights, &format!("{prefix}.self_attn"), sizes, &kind, norms)?),
            false => Box::new(ShortConv::load(weights, &format!("{prefix}.conv"), conv)?),
        };
        let (prefix, hidden) = (format!("{prefix}.feed_forward"), sizes.hidden);
        if layer < dense_layers {
            // MLX's exports have the usual names.
            let mlp = match weights.has_matrix(&format!("{prefix}.gate_proj.weight")) {
                true => mlp::load(weights, &prefix, hidden, dense_width)?,
                false => mlp::load_numbered(weights, &prefix, hidden, dense_width, Activation::SwiGlu)?,
            };
            return Ok(Halves { alphas: None, mixer, feed_forward: FeedForward::Dense(mlp) });
        }
        let gate = weights.matrix(&format!("{prefix}.gate.weight"), experts, hidden)?;
        let bias = biased.then(|| weights.vector(&format!("{prefix}.expert_bias"), experts)).transpose()?;
        let of = ExpertsOf { layer, prefix, experts, hidden, width, activation: Activation::SwiGlu, transposed: None };
        let moe = Moe::load(weights, &of, gate, Router { bias, ..router.clone() }, None)?;
        Ok(Halves { alphas: None, mixer, feed_forward: FeedForward::Sparse(moe) })
    })
}
