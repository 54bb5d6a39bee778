//! Qwen3.5-MoE (35B-A3B, 122B-A10B, 397B-A17B) and Qwen3-Next (80B-A3B, Coder-Next): three layers of Gated DeltaNet to one
//! of gated attention, many small experts and a shared one (`transformers` `modeling_qwen3_5_moe.py`,
//! `modeling_qwen3_next.py`). The two differ in how the DeltaNet's inputs are packed; both are text models here: images
//! are not read, and the heads for multi-token prediction (`mtp.*`) are left where they are.

use outpour_kernels::{Activation, DType, Router, RouterScore};

use crate::blocks::attention::{self, Attention, Kind, QkNorm};
use crate::blocks::decoder::{Decoder, Ends, Halves};
use crate::blocks::delta_net::{self, DeltaNet};
use crate::blocks::feed_forward::FeedForward;
use crate::blocks::mixer::Mixer;
use crate::blocks::moe::{self, Moe, SharedExpert};
use crate::blocks::{mlp, rope};
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, Norms, Weights};

/// How the inputs of the DeltaNet lie in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Two matrices, grouped by key head.
    Qwen3Next,
    /// Four matrices.
    Qwen35,
}

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(family: Family, config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    let tied = config.flag_or("tie_word_embeddings", false)?;
    config.only("hidden_act", "silu")?;
    config.never("attention_bias")?;
    if !config.flag_or("attn_output_gate", true)? {
        return Err(ModelError::Config("attn_output_gate is false, as in no released model of this family".into()));
    }
    let interval = config.size_or("full_attention_interval", 4)?;
    let is_full = config.layer_types("linear_attention", |layer| (layer + 1).is_multiple_of(interval))?;
    let is_sparse = moe::sparse_layers(config)?;
    let sizes = attention::Sizes::read(config)?;
    let delta = delta_net::Sizes::read(config, sizes.hidden)?;
    let experts = Experts::read(config)?;
    let dense_width = config.size_or("intermediate_size", 1)?;
    let rope = rope::partial(config, sizes.head_dim, 0.25, 10_000_000.0)?;
    let kind = Kind { qk_norm: QkNorm::PerHead, gated: true, ..Kind::plain(rope) };
    // MLX's exports and GGUF files have the 1 added to norm weights already; MLX's convolutions are [channels, kernel, 1].
    let linear = is_full.iter().position(|full| !full);
    let conv = linear.and_then(|l| weights.shape_of(&format!("model.layers.{l}.linear_attn.conv1d.weight")));
    let mlx = conv.is_some_and(|shape| shape.last() == Some(&1) && shape.get(1) != Some(&1));
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-6)? as f32, plus_one: !mlx && !weights.are_gguf() };
    let packed = family == Family::Qwen3Next;

    let name = if packed { "qwen3_next" } else { "qwen3_5_moe" };
    let ends = Ends::read(config)?;
    let ends = Ends { tied: tied || ends.tied, ..ends };
    Decoder::load_between(name, ends, config, weights, kv, norms, |layer, prefix, weights| {
        let mixer: Box<dyn Mixer> = match is_full[layer] {
            true => Box::new(Attention::load(weights, &format!("{prefix}.self_attn"), sizes, &kind, norms)?),
            false => Box::new(DeltaNet::load(weights, &format!("{prefix}.linear_attn"), delta, packed, norms.eps)?),
        };
        let (prefix, hidden) = (format!("{prefix}.mlp"), sizes.hidden);
        if !is_sparse(layer) {
            let mlp = mlp::load(weights, &prefix, hidden, dense_width)?;
            return Ok(Halves { alphas: None, mixer, feed_forward: FeedForward::Dense(mlp) });
        }
        Ok(Halves { alphas: None, mixer, feed_forward: experts.load(weights, layer, prefix)? })
    })
}

/// Experts of a softmax router beside a gated shared one.
pub(super) struct Experts {
    hidden: usize,
    sizes: moe::Sizes,
    shared_width: usize,
    router: Router,
}

impl Experts {
    /// Reads the sizes of experts and the router from the config.
    pub fn read(config: &Config) -> Result<Self, ModelError> {
        let sizes = moe::Sizes::read(config, &["num_experts", "num_local_experts"], "moe_intermediate_size")?;
        let renormalise = config.flag_or("norm_topk_prob", true)?;
        Ok(Experts {
            hidden: config.size("hidden_size")?,
            shared_width: config.size("shared_expert_intermediate_size")?,
            router: Router { renormalise, ..Router::new(sizes.top_k, RouterScore::Softmax) },
            sizes,
        })
    }

    /// Loads those of a layer, `{prefix}.*`.
    pub fn load(&self, weights: &mut Weights, layer: usize, prefix: String) -> Result<FeedForward, ModelError> {
        let Experts { hidden, sizes: moe::Sizes { experts, width, .. }, shared_width, ref router } = *self;
        let shared = SharedExpert::gated(weights, &prefix, hidden, shared_width)?;
        let gate = weights.matrix(&format!("{prefix}.gate.weight"), experts, hidden)?;
        let of = ExpertsOf { layer, prefix, experts, hidden, width, activation: Activation::SwiGlu, transposed: None };
        Moe::load(weights, &of, gate, router.clone(), Some(shared)).map(FeedForward::Sparse)
    }
}
