//! Hunyuan-A13B: grouped-query attention whose queries and keys are normalised behind RoPE, and in every layer experts of a softmax
//! router beside a shared one (`transformers` `modeling_hunyuan_v1_moe.py`).

use outpour_kernels::{Activation, DType, Router, RouterScore};

use crate::blocks::attention::{self, Attention, Kind, QkNorm};
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
    ["attention_bias", "mlp_bias", "use_cla"].into_iter().try_for_each(|key| config.never(key))?;
    config.always("use_mixed_mlp_moe")?;
    if config.count_or("moe_layer_num_skipped", 0)? > 0 {
        return Err(ModelError::Config(
            "moe_layer_num_skipped is above 0, as in no released model of this family".into(),
        ));
    }
    let sizes = attention::Sizes::read(config)?;
    let width = config.spelling(&["moe_intermediate_size", "intermediate_size"]);
    let moe::Sizes { experts, top_k, width } = moe::Sizes::read(config, &["num_experts"], width)?;
    let shared_width = config.size("intermediate_size")? * config.size_or("num_shared_expert", 1)?;
    let router = Router { renormalise: true, ..Router::new(top_k, RouterScore::Softmax) };
    let kind = Kind {
        qk_norm: if config.flag_or("use_qk_norm", true)? { QkNorm::PerHead } else { QkNorm::None },
        norm_turned: true,
        names: ["query_layernorm", "key_layernorm", "o_proj"],
        ..Kind::plain(rope::plain(config, sizes.head_dim, 10_000.0)?)
    };
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-5)? as f32, plus_one: false };
    Decoder::load("hunyuan_v1_moe", config, weights, kv, norms, |layer, prefix, weights| {
        let mixer = Box::new(Attention::load(weights, &format!("{prefix}.self_attn"), sizes, &kind, norms)?);
        let (prefix, hidden) = (format!("{prefix}.mlp"), sizes.hidden);
        let gate = weights.matrix(&format!("{prefix}.gate.wg.weight"), experts, hidden)?;
        let shared = SharedExpert::ungated(mlp::load(weights, &format!("{prefix}.shared_mlp"), hidden, shared_width)?);
        let of = ExpertsOf { layer, prefix, experts, hidden, width, activation: Activation::SwiGlu, transposed: None };
        let moe = Moe::load(weights, &of, gate, router.clone(), Some(shared))?;
        Ok(Halves { alphas: None, mixer, feed_forward: FeedForward::Sparse(moe) })
    })
}
