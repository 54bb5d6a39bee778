//! MiniMax-M3 (text): attention to blocks of positions that small queries choose, norms stored as their distance from 1, and 128
//! experts with a clamped activation, of which 4 are chosen by sigmoid and a learnt bias, beside a shared one (`transformers`
//! `modeling_minimax_m3_vl.py`, which writes the text model alone under names of its own).

use outpour_kernels::{Activation, DType, Mlp, Router, RouterScore};

use crate::blocks::attention::{self, Attention, Kind, QkNorm};
use crate::blocks::block_index::{self, BlockIndex};
use crate::blocks::decoder::{Decoder, Halves};
use crate::blocks::feed_forward::FeedForward;
use crate::blocks::moe::{self, Moe, SharedExpert};
use crate::blocks::{mlp, rope};
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, Norms, Weights};

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    let sizes = attention::Sizes::read(config)?;
    let index = block_index::Sizes::read(config, sizes.kv_heads)?;
    let rope = rope::first(config, sizes.head_dim, 0.5, 5_000_000.0)?;
    let kind = Kind { qk_norm: QkNorm::PerHead, ..Kind::plain(rope.clone()) };
    let is_chosen = marked(config, "layer_types", ["full_attention", "minimax_m3_sparse"], || {
        config.part("sparse_attention_config")?.layers("sparse_attention_freq")
    })?;
    let is_sparse = marked(config, "mlp_layer_types", ["dense", "sparse"], || config.layers("moe_layer_freq"))?;
    let moe::Sizes { experts, top_k, width } =
        moe::Sizes::read(config, &["num_local_experts", "num_experts"], "intermediate_size")?;
    let (dense_width, shared_width) =
        (config.size("dense_intermediate_size")?, config.size("shared_intermediate_size")?);
    let scale = config.positive_or("routed_scaling_factor", 2.0)? as f32;
    let activation = Activation::SwiGluClamped {
        alpha: config.positive_or("swiglu_alpha", 1.702)? as f32,
        limit: config.positive_or("swiglu_limit", 7.0)? as f32,
    };
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-6)? as f32, plus_one: !weights.are_gguf() };
    Decoder::load("minimax_m3", config, weights, kv, norms, |layer, prefix, weights| {
        let name = format!("{prefix}.self_attn");
        let attention = Attention::load(weights, &name, sizes, &kind, norms)?;
        let mixer = Box::new(match is_chosen[layer] {
            true => {
                let released = format!("{name}.index_");
                let own = format!("{name}.indexer.");
                let names = if weights.has_matrix(&format!("{own}q_proj.weight")) { own } else { released };
                attention.sparse(BlockIndex::load(weights, &names, index, rope.clone(), norms)?)
            }
            false => attention,
        });
        let hidden = sizes.hidden;
        if !is_sparse[layer] {
            let mlp = gated(weights, &format!("{prefix}.mlp"), [hidden, dense_width], activation)?;
            return Ok(Halves { alphas: None, mixer, feed_forward: FeedForward::Dense(mlp) });
        }
        let own = format!("{prefix}.mlp");
        let (prefix, bias) = match weights.has_matrix(&format!("{own}.gate.weight")) {
            true => (own, "gate.e_score_correction_bias"),
            false => (format!("{prefix}.block_sparse_moe"), "e_score_correction_bias"),
        };
        let gate = weights.matrix(&format!("{prefix}.gate.weight"), experts, hidden)?;
        let router = Router {
            bias: Some(weights.vector(&format!("{prefix}.{bias}"), experts)?),
            renormalise: true,
            scale,
            ..Router::new(top_k, RouterScore::Sigmoid)
        };
        let shared = gated(weights, &format!("{prefix}.shared_experts"), [hidden, shared_width], activation)?;
        let shared = SharedExpert::ungated(shared);
        let of = ExpertsOf { layer, prefix, experts, hidden, width, activation, transposed: None };
        let moe = Moe::load(weights, &of, gate, router, Some(shared))?;
        Ok(Halves { alphas: None, mixer, feed_forward: FeedForward::Sparse(moe) })
    })
}

/// An MLP with gate and up apart, as released, or joined, as transformers writes them.
fn gated(weights: &mut Weights, prefix: &str, sizes: [usize; 2], activation: Activation) -> Result<Mlp, ModelError> {
    match weights.has_matrix(&format!("{prefix}.gate_up_proj.weight")) {
        true => mlp::load_joined(weights, prefix, ["gate_up_proj", "down_proj"], sizes, activation),
        false => mlp::load_with(weights, prefix, sizes[0], sizes[1], activation),
    }
}

/// Which layers `key` calls the second of two kinds; or where there is no such key, the old spelling, a list of 0 and 1; or all.
fn marked(
    config: &Config,
    key: &str,
    [no, yes]: [&str; 2],
    old: impl Fn() -> Result<Vec<usize>, ModelError>,
) -> Result<Vec<bool>, ModelError> {
    let layers = config.size("num_hidden_layers")?;
    let wrong = |what: String| ModelError::Config(format!("{key} {what}; supported are {no} and {yes}, one a layer"));
    let marks: Vec<bool> = match config.texts(key)? {
        Some(kinds) => {
            let known = kinds
                .iter()
                .find(|kind| ![no, yes].contains(kind))
                .map_or(Ok(()), |kind| Err(wrong(format!("has {kind:?}"))));
            known.map(|()| kinds.iter().map(|kind| *kind == yes).collect())?
        }
        None => match old()? {
            marks if marks.is_empty() => vec![true; layers],
            marks => marks.iter().map(|mark| *mark != 0).collect(),
        },
    };
    match marks.len() < layers {
        true => Err(wrong(format!("names {} layers of {layers}", marks.len()))),
        false => Ok(marks),
    }
}
