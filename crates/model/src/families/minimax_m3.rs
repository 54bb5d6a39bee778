//! MiniMax-M3 (text): attention to blocks of positions that small queries choose, norms stored as their distance from 1, and 128
//! experts with a clamped activation, of which 4 are chosen by sigmoid and a learnt bias, beside a shared one (`transformers`
//! `modeling_minimax_m3_vl.py`).

use outpour_kernels::{Activation, DType, Router, RouterScore};

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
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-6)? as f32, plus_one: true };
    Decoder::load("minimax_m3", config, weights, kv, norms, |layer, prefix, weights| {
        let name = format!("{prefix}.self_attn");
        let attention = Attention::load(weights, &name, sizes, &kind, norms)?;
        let mixer = Box::new(match is_chosen[layer] {
            true => attention.sparse(BlockIndex::load(weights, &name, index, rope.clone(), norms)?),
            false => attention,
        });
        let hidden = sizes.hidden;
        if !is_sparse[layer] {
            let mlp = mlp::load_with(weights, &format!("{prefix}.mlp"), hidden, dense_width, activation)?;
            return Ok(Halves { alphas: None, mixer, feed_forward: FeedForward::Dense(mlp) });
        }
        let prefix = format!("{prefix}.block_sparse_moe");
        let gate = weights.matrix(&format!("{prefix}.gate.weight"), experts, hidden)?;
        let router = Router {
            bias: Some(weights.vector(&format!("{prefix}.e_score_correction_bias"), experts)?),
            renormalise: true,
            scale,
            ..Router::new(top_k, RouterScore::Sigmoid)
        };
        let shared = SharedExpert::plain(weights, &prefix, hidden, shared_width, activation)?;
        let of = ExpertsOf { layer, prefix, experts, hidden, width, activation };
        let moe = Moe::load(weights, &of, gate, router, Some(shared))?;
        Ok(Halves { alphas: None, mixer, feed_forward: FeedForward::Sparse(moe) })
    })
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
