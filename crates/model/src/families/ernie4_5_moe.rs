//! ERNIE 4.5 (21B-A3B, 300B-A47B; text): grouped-query attention whose RoPE turns neighbours, and experts that a softmax and a learnt
//! bias choose, behind dense layers (`transformers` `modeling_ernie4_5_moe.py`).

use outpour_kernels::{Activation, DType, Rope, RopePairs, Router, RouterScore};

use crate::blocks::attention::{self, Attention, Kind};
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
    config.only("hidden_act", "silu")?;
    config.only("moe_gate_act", "softmax")?;
    config.never("use_bias")?;
    let sizes = attention::Sizes::read(config)?;
    let moe::Sizes { experts, top_k, width } = moe::Sizes::read(config, &["moe_num_experts"], "moe_intermediate_size")?;
    let least = config.float_or("moe_norm_min", 1e-12)?;
    // The largest shares of the experts never sum to less.
    if least > top_k as f64 / experts as f64 {
        return Err(ModelError::Config(format!("moe_norm_min is {least}, which no released model of this family has")));
    }
    let shared_width = config.count_or("moe_num_shared_experts", 2)? * width;
    let dense_width = config.size("intermediate_size")?;
    let (first, every) = (config.count_or("moe_layer_start_index", 1)?, config.size_or("moe_layer_interval", 1)?);
    // -1 is the last layer.
    let last = config.float_or("moe_layer_end_index", -1.0)?;
    let is_sparse =
        |layer: usize| (layer + 1).is_multiple_of(every) && layer >= first && (last < 0.0 || layer as f64 <= last);
    let rope = Rope { pairs: RopePairs::Interleaved, ..rope::plain(config, sizes.head_dim, 500_000.0)? };
    let kind = Kind::plain(rope);
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-5)? as f32, plus_one: false };
    Decoder::load("ernie4_5_moe", config, weights, kv, norms, |layer, prefix, weights| {
        let mixer = Box::new(Attention::load(weights, &format!("{prefix}.self_attn"), sizes, &kind, norms)?);
        let (prefix, hidden) = (format!("{prefix}.mlp"), sizes.hidden);
        if !is_sparse(layer) {
            let mlp = mlp::load(weights, &prefix, hidden, dense_width)?;
            return Ok(Halves { alphas: None, mixer, feed_forward: FeedForward::Dense(mlp) });
        }
        let gate = weights.matrix(&format!("{prefix}.gate.weight"), experts, hidden)?;
        let name = format!("{prefix}.moe_statics.e_score_correction_bias");
        // MLX's exports leave it out, and are computed without it.
        let mlx = weights.has_matrix(&format!("{prefix}.switch_mlp.gate_proj.weight"));
        let bias = match mlx && weights.shape_of(&name).is_none() {
            true => None,
            false => Some(weights.tensor(&name, &[1, experts])?.reshape([experts])),
        };
        let router = Router { bias, renormalise: true, ..Router::new(top_k, RouterScore::Softmax) };
        let shared = match shared_width {
            0 => None,
            width => Some(SharedExpert::plain(weights, &prefix, hidden, width, Activation::SwiGlu)?),
        };
        let of = ExpertsOf { layer, prefix, experts, hidden, width, activation: Activation::SwiGlu, transposed: None };
        let moe = Moe::load(weights, &of, gate, router, shared)?;
        Ok(Halves { alphas: None, mixer, feed_forward: FeedForward::Sparse(moe) })
    })
}
